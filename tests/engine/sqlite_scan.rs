//! Parallel scans against reading the table with one connection.
#![allow(unsafe_code)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rusqlite::Connection;
use rusqlite::types::Value;
use upshift::sqlite::columns::{Batch, Data};
use upshift::sqlite::scan::{Parameters, Part, Scan, ScanError, begin, begin_locked, read};
use upshift::sqlite::{Db, Open};

fn connections(path: &Path, count: usize) -> Vec<Arc<Db>> {
    (0..count).map(|_| Db::open(path, &Open::default()).unwrap()).collect()
}

fn file(wal: bool) -> (tempfile::TempDir, Connection) {
    let folder = tempfile::tempdir().unwrap();
    let connection = Connection::open(folder.path().join("data.db")).unwrap();
    connection.execute_batch("PRAGMA synchronous = OFF").unwrap();
    if wal {
        connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
    }
    (folder, connection)
}

fn path(folder: &tempfile::TempDir) -> std::path::PathBuf {
    folder.path().join("data.db")
}

fn by_rowid(sql: &str) -> Scan {
    Scan { sql: sql.to_owned(), part: Part::Rowid(Parameters::default()) }
}

fn scan(connections: &[Arc<Db>], scan: &Scan) -> Result<Vec<Batch>, ScanError> {
    let connections: Vec<&Db> = connections.iter().map(|db| &**db).collect();
    let snapshot = begin(&connections, &mut |_| Ok(()))?;
    read(&snapshot, scan, || false)
}

/// The first column, which holds integers.
fn ints(batches: &[Batch]) -> Vec<i64> {
    let column = |batch: &Batch| match &batch.columns[0].data {
        Data::Int64(values) => values.clone(),
        other => panic!("{other:?}"),
    };
    batches.iter().flat_map(column).collect()
}

fn expected(connection: &Connection, sql: &str) -> Vec<i64> {
    let mut statement = connection.prepare(sql).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn same_rows_in_order_of_rowid(
        dense in 0_i64..20_000,
        sparse in prop::collection::vec(any::<i64>(), 0..50),
        filter in prop::sample::select(vec!["", "WHERE b % 3 = 1 OR b > 500", "where b = 7 -- few", "AS x WHERE x.rowid <> 3;"]),
        count in 1_usize..5,
    ) {
        let (folder, connection) = file(true);
        connection.execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY, b); CREATE INDEX i ON t (b)").unwrap();
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 WHERE ?1 > 0 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
             INSERT INTO t SELECT i, i % 1000 FROM n", [dense]).unwrap();
        for rowid in sparse {
            connection.execute("INSERT OR IGNORE INTO t VALUES (?1, abs(?1 % 1000))", [rowid]).unwrap();
        }
        let sql = format!("SELECT a FROM t {filter}");
        let wanted = expected(&connection, &format!("SELECT * FROM ({}\n) ORDER BY a", sql.trim_end_matches(';')));
        let connections = connections(&path(&folder), count);
        let found = scan(&connections, &by_rowid(&sql)).unwrap();
        prop_assert_eq!(ints(&found), wanted);
        // Nothing is left open.
        for db in &connections {
            prop_assert!(!db.enter().in_transaction());
        }
    }
}

#[test]
fn parameters_of_the_application() {
    let (folder, connection) = file(true);
    connection.execute_batch("CREATE TABLE t (a, rowid)").unwrap();
    for a in 0..5_000 {
        connection.execute("INSERT INTO t VALUES (?1, 'x')", [a]).unwrap();
    }
    let connections = connections(&path(&folder), 2);
    let with = |sql: &str, parameters| {
        let scanned = scan(&connections, &Scan { sql: sql.to_owned(), part: Part::Rowid(parameters) });
        scanned.map(|batches| ints(&batches)).map_err(|error| error.to_string())
    };
    let of = |values: &[i64]| Parameters::Positional(values.iter().map(|&value| value.into()).collect());
    let wanted: Vec<i64> = (10..=20).collect();
    assert_eq!(with("SELECT a FROM t WHERE a BETWEEN ? AND ?", of(&[10, 20])).unwrap(), wanted);
    assert_eq!(with("SELECT a FROM t WHERE a BETWEEN ?2 AND ?1", of(&[20, 10])).unwrap(), wanted);
    let named = Parameters::Named(vec![("to".to_owned(), 20.into()), ("from".to_owned(), Value::Real(9.5))]);
    assert_eq!(with("SELECT a FROM t WHERE a BETWEEN :from AND @to", named).unwrap(), wanted);
    let error = with("SELECT a FROM t WHERE a = ?", of(&[])).unwrap_err();
    assert!(error.contains("uses 1, and there are 0 supplied"), "{error}");
    let error = with("SELECT a FROM t WHERE a = :b", Parameters::Named(Vec::new())).unwrap_err();
    assert!(error.contains("binding parameter :b"), "{error}");
    let sets = Scan {
        sql: "SELECT a FROM t WHERE a % 5 = ? ORDER BY a DESC LIMIT 2".to_owned(),
        part: Part::Given((0..5).map(|rest| of(&[rest])).collect()),
    };
    assert_eq!(ints(&scan(&connections, &sets).unwrap()), [4995, 4990, 4996, 4991, 4997, 4992, 4998, 4993, 4999, 4994]);
}

#[test]
fn parts_become_alike() {
    let (folder, connection) = file(true);
    connection.execute_batch("CREATE TABLE t (a); CREATE TABLE e (a TEXT)").unwrap();
    for a in 0..6_000 {
        let value: Value = if a == 5_990 { Value::Real(0.5) } else { Value::Integer(a) };
        connection.execute("INSERT INTO t VALUES (?1)", [value]).unwrap();
    }
    let connections = connections(&path(&folder), 2);
    let batches = scan(&connections, &by_rowid("SELECT a FROM t")).unwrap();
    assert!(batches.len() > 1 && batches.iter().all(|batch| matches!(batch.columns[0].data, Data::Float64(_))));
    connection.execute("UPDATE t SET a = 'x' WHERE a = 0.5", []).unwrap();
    let batches = scan(&connections, &by_rowid("SELECT a AS n FROM t")).unwrap();
    let misfit = batches.iter().find_map(|batch| batch.columns[0].misfit.as_ref()).unwrap().to_string();
    assert!(misfit.contains("column \"n\", row 5990 (from 0)"), "{misfit}");
    let empty = scan(&connections, &by_rowid("SELECT a, 1 AS b FROM e")).unwrap();
    assert!(matches!(&empty[..], [Batch { rows: 0, columns }] if columns.len() == 2));
}

#[test]
fn refuses_what_cannot_be_split() {
    let (folder, connection) = file(true);
    connection
        .execute_batch(
            "CREATE TABLE t (a, b); CREATE TABLE w (a PRIMARY KEY) WITHOUT ROWID; CREATE VIEW v AS SELECT * FROM t;
             CREATE TABLE names (rowid, oid, _rowid_); CREATE VIRTUAL TABLE f USING fts5(a)",
        )
        .unwrap();
    let connections = connections(&path(&folder), 2);
    let table = [
        ("SELECT count(*) FROM t", "aggregate"),
        ("SELECT max(a) FROM t WHERE b", "aggregate"),
        ("SELECT a, row_number() OVER (ORDER BY b) FROM t", "aggregate or window"),
        ("SELECT * FROM w", "WITHOUT ROWID"),
        ("SELECT * FROM v", "view"),
        ("SELECT * FROM names", "all names"),
        ("SELECT * FROM f", "virtual"),
        ("SELECT * FROM sqlite_master", "no table of the main database"),
        ("SELECT * FROM t ORDER BY a", "ORDER BY"),
        ("SELECT * FROM t, t AS u", "more than one table"),
        ("DELETE FROM t", "no SELECT"),
        ("SELECT * FROM t; SELECT 1", "not understood"),
    ];
    for (sql, reason) in table {
        let error = scan(&connections, &by_rowid(sql)).unwrap_err();
        assert!(matches!(error, ScanError::Refused(_)), "{sql}: {error}");
        assert!(error.to_string().contains(reason), "{sql}: {error}");
    }
    for sql in ["SELECT x FROM t", "SELECT FROM", ""] {
        let error = scan(&connections, &by_rowid(sql)).unwrap_err();
        assert!(matches!(error, ScanError::Sqlite(_) | ScanError::Parameters(_)), "{sql}: {error}");
    }
    // What each row can answer by itself is no obstacle.
    connection.execute_batch("INSERT INTO t VALUES (1, 1), (2, 2)").unwrap();
    let sql = "SELECT a FROM t WHERE a IN (1, 5) AND EXISTS (SELECT 1 FROM t AS u WHERE u.b = t.b + 1 LIMIT 1)";
    assert_eq!(ints(&scan(&connections, &by_rowid(sql)).unwrap()), [1]);
}

/// Moves between two rows, so that their sum never changes; the rows are far apart, in parts of different connections.
fn transfers(wal: bool) {
    let (folder, connection) = file(wal);
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection.execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY, b INTEGER)").unwrap();
    let insert = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
                  INSERT INTO t SELECT i, 0 FROM n";
    connection.execute(insert, []).unwrap();
    let path = path(&folder);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let done = &done;
        scope.spawn(move || {
            let mut amount = 0;
            while !done.load(Ordering::Relaxed) {
                amount += 1;
                let sql = "UPDATE t SET b = CASE a WHEN 1 THEN ?1 ELSE -?1 END WHERE a IN (1, 20000)";
                connection.execute(sql, [amount]).unwrap();
            }
        });
        let connections = connections(&path, 3);
        for db in &connections {
            // SAFETY: the connection is open and this thread is inside.
            unsafe { upshift::sqlite::raw::sqlite3_busy_timeout(db.enter().raw(), 10_000) };
        }
        let (readers, writer) = connections.split_at(2);
        let readers: Vec<&Db> = readers.iter().map(|db| &**db).collect();
        let until = Instant::now() + Duration::from_millis(700);
        let (mut optimistic, mut moving) = (0, 0);
        let mut last = 0;
        while Instant::now() < until {
            let snapshot = match begin(&readers, &mut |_| Ok(())) {
                Ok(snapshot) => {
                    optimistic += 1;
                    snapshot
                }
                Err(ScanError::Contended) => begin_locked(&readers, &writer[0].enter()).unwrap(),
                Err(error) => panic!("{error}"),
            };
            let batches = read(&snapshot, &by_rowid("SELECT b FROM t"), || false).unwrap();
            let values = ints(&batches);
            assert_eq!(values.len(), 20_000);
            assert_eq!(values.iter().sum::<i64>(), 0, "{} {}", values[0], values[19_999]);
            moving += i32::from(values[0] != last);
            last = values[0];
        }
        done.store(true, Ordering::Relaxed);
        assert!(moving > 0, "the writer did nothing");
        assert!(wal || optimistic == 0);
    });
}

#[test]
fn one_moment_of_a_database_in_motion() {
    transfers(true);
}

#[test]
fn one_moment_without_a_write_ahead_log() {
    transfers(false);
}

#[test]
fn a_long_write_transaction_is_not_waited_for() {
    let (folder, connection) = file(true);
    connection.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1); BEGIN IMMEDIATE; DELETE FROM t").unwrap();
    let connections = connections(&path(&folder), 2);
    assert_eq!(ints(&scan(&connections, &by_rowid("SELECT a FROM t")).unwrap()), [1]);
    connection.execute_batch("COMMIT").unwrap();
    assert_eq!(scan(&connections, &by_rowid("SELECT a FROM t")).unwrap()[0].rows, 0);
}

#[test]
fn a_scan_can_be_stopped_and_fails_as_a_whole() {
    let (folder, connection) = file(true);
    connection.execute_batch("CREATE TABLE t (a)").unwrap();
    let insert =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) INSERT INTO t SELECT i FROM n";
    connection.execute(insert, []).unwrap();
    let connections = connections(&path(&folder), 2);
    let readers: Vec<&Db> = connections.iter().map(|db| &**db).collect();
    let endless = "SELECT a FROM t WHERE a IN (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i + t.a FROM n)";
    let started = Instant::now();
    let snapshot = begin(&readers, &mut |_| Ok(())).unwrap();
    let outcome = read(&snapshot, &by_rowid(endless), || true);
    assert!(matches!(outcome, Err(ScanError::Cancelled)));
    assert!(started.elapsed() < Duration::from_secs(10));
    drop(snapshot);
    // One part fails: so does the scan, and the connections can be used again.
    let overflow = by_rowid("SELECT abs(iif(a = 2900, -9223372036854775808, a)) FROM t");
    let outcome = scan(&connections, &overflow);
    assert!(matches!(&outcome, Err(ScanError::Sqlite(failure)) if failure.to_string().contains("overflow")));
    assert_eq!(ints(&scan(&connections, &by_rowid("SELECT a FROM t")).unwrap()).len(), 3000);
    connections[1].enter().close();
    assert!(matches!(scan(&connections, &by_rowid("SELECT a FROM t")), Err(ScanError::Closed)));
    drop(connection);
}
