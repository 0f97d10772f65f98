//! Group commit: every request its own result, whatever the others in its transaction do, and nothing acknowledged is
//! lost.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rusqlite::Connection;
use upshift::sqlite::group::{Durability, Group, Outcome, Params, Pending, Request, Value, WriteError, Written};
use upshift::sqlite::lane::{self, Access, Actor, Claim, Key, Lane, LaneError};
use upshift::sqlite::{Db, Open, raw};
use upshift::support::clock;

mod common;

const SCHEMA: &str = "
    CREATE TABLE t (k INTEGER PRIMARY KEY, u INTEGER UNIQUE, c INTEGER CHECK (c < 100));
    CREATE TABLE child (k INTEGER PRIMARY KEY, parent INTEGER REFERENCES t DEFERRABLE INITIALLY DEFERRED);
    CREATE TRIGGER aborts BEFORE INSERT ON t WHEN new.c = 91 BEGIN SELECT raise(ABORT, 'no'); END;
    CREATE TRIGGER fails BEFORE INSERT ON t WHEN new.c = 92 BEGIN SELECT raise(FAIL, 'no'); END;
    CREATE TRIGGER rolls_back BEFORE INSERT ON t WHEN new.c = 93 BEGIN SELECT raise(ROLLBACK, 'no'); END;
    CREATE TRIGGER ignores BEFORE INSERT ON t WHEN new.c = 94 BEGIN SELECT raise(IGNORE); END;
";

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        place.open().execute_batch(SCHEMA).unwrap();
        place
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("group.db")
    }

    /// A connection as another program has it.
    fn open(&self) -> Connection {
        open(&self.path())
    }

    fn group(&self) -> Arc<Group> {
        group(&self.path())
    }

    fn count(&self) -> i64 {
        self.open().query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
    }
}

fn open(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA foreign_keys = ON").unwrap();
    connection
}

fn db(path: &Path) -> Arc<Db> {
    let db = Db::open(path, &Open::default()).unwrap();
    execute(&db, c"PRAGMA journal_mode = WAL; PRAGMA foreign_keys = ON");
    db
}

#[allow(unsafe_code)]
fn execute(db: &Db, sql: &std::ffi::CStr) {
    // SAFETY: the connection is open and entered, the text is terminated.
    let code =
        unsafe { raw::sqlite3_exec(db.enter().raw(), sql.as_ptr(), None, std::ptr::null_mut(), std::ptr::null_mut()) };
    assert_eq!(code, 0);
}

fn group(path: &Path) -> Arc<Group> {
    let db = db(path);
    let lane = lane::of(Key::File(db.file_id().unwrap().clone()));
    Group::new(db, lane, None)
}

fn request(sql: &str, values: &[i64]) -> Request {
    Request {
        sql: sql.into(),
        params: Params::Positional(values.iter().copied().map(Value::Integer).collect()),
        durability: Durability::Process,
        actor: Actor::thread(1),
    }
}

fn insert(k: i64) -> Request {
    request("INSERT INTO t VALUES (?, ?, 0)", &[k, k])
}

fn write(group: &Group, request: Request) -> Outcome {
    group.write(request, None, || false)
}

fn within(millis: u64) -> Option<u64> {
    Some(clock::now() + millis * 1_000_000)
}

/// Keeps everybody else out of the lane.
struct Hold(Arc<Lane>);

const HOLDER: u64 = u64::MAX / 2;

impl Hold {
    fn take(lane: &Arc<Lane>) -> Self {
        let statement = "UPDATE t SET c = 1";
        let claim = Claim { connection: HOLDER, actor: Actor::thread(HOLDER), access: Access::Write, statement };
        lane.take(&claim, None, || false).unwrap();
        Self(Arc::clone(lane))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.give_back(HOLDER);
    }
}

/// Has all requests written by one group, as far as that is possible.
fn together(group: &Group, requests: impl IntoIterator<Item = Request>) -> Vec<Outcome> {
    let hold = Hold::take(group.lane());
    let answers: Vec<_> = requests
        .into_iter()
        .map(|request| {
            let (send, receive) = mpsc::channel();
            let pending = group.submit(request, None, move |outcome| send.send(outcome).unwrap()).unwrap();
            (pending, receive)
        })
        .collect();
    drop(hold);
    answers.into_iter().map(|(_pending, receive)| receive.recv().unwrap()).collect()
}

fn code(outcome: &Outcome) -> i32 {
    match outcome {
        Ok(_) => 0,
        Err(WriteError::Sqlite(failure)) => failure.code,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_write_tells_what_it_did() {
    let place = Place::new();
    let group = place.group();
    let written = write(&group, insert(7)).unwrap();
    assert_eq!((written.rowcount, written.last_rowid, written.rows.len()), (1, Some(7), 0));
    let written = write(&group, request("INSERT OR IGNORE INTO t VALUES (7, 7, 0)", &[])).unwrap();
    assert_eq!((written.rowcount, written.last_rowid), (0, None));
    let named = [("u", 8), ("k", 9), ("unused", 1)];
    let params = named.map(|(name, value)| (name.into(), Value::Integer(value))).into();
    let sql = "INSERT INTO t VALUES (:k, @u, NULL), ($k + 1, NULL, 5) RETURNING k, c, 'é' AS e, x'00', 1.5";
    let written = write(&group, Request { params: Params::Named(params), ..request(sql, &[]) }).unwrap();
    assert_eq!(written.rowcount, 2);
    assert_eq!(written.columns[..3], ["k".into(), "c".into(), "e".into()] as [Box<str>; 3]);
    let (text, blob) = (Value::Text("é".as_bytes().into()), Value::Blob([0].into()));
    assert_eq!(written.rows[0], [Value::Integer(9), Value::Null, text, blob, Value::Real(1.5)]);
    assert_eq!(written.rows.len(), 2);
    let written = write(&group, request("SELECT count(*) FROM t", &[])).unwrap();
    assert_eq!((written.rowcount, &written.rows[..]), (-1, &[vec![Value::Integer(3)]][..]));
    for harmless in ["", " -- nothing", "CREATE TABLE other (x)", "EXPLAIN SELECT 1"] {
        assert_eq!(write(&group, request(harmless, &[])).unwrap().rowcount, -1);
    }
    let text = Value::Text(Box::default());
    let params = Params::Positional(vec![text, Value::Blob(Box::default()), Value::Null]);
    let written = write(&group, Request { params: params.clone(), ..request("SELECT ?, ?, ?", &[]) }).unwrap();
    assert_eq!(Params::Positional(written.rows[0].clone()).values(), params.values());
}

trait Values {
    fn values(&self) -> Vec<Value>;
}

impl Values for Params {
    fn values(&self) -> Vec<Value> {
        match self {
            Params::Positional(values) => values.clone(),
            Params::Named(_) => Vec::new(),
        }
    }
}

#[test]
fn statements_that_concern_the_whole_group_are_refused() {
    let place = Place::new();
    let group = place.group();
    for sql in [
        "BEGIN",
        "-- a\n commit",
        "END",
        "Rollback",
        "SAVEPOINT a",
        "RELEASE a",
        "PRAGMA synchronous=OFF",
        "VACUUM",
        "ATTACH 'x' AS y",
        "DETACH y",
    ] {
        let Err(WriteError::Misused(text)) = write(&group, request(sql, &[])) else { panic!("{sql}") };
        assert!(text.contains("has no place there"), "{text}");
    }
    for (sql, params) in [("SELECT 1; SELECT 2", 0), ("SELECT ?", 0), ("SELECT ?", 2), ("SELECT '\0'", 0)] {
        let refused = write(&group, request(sql, &vec![0; params]));
        assert!(matches!(refused, Err(WriteError::Misused(_))), "{sql}: {refused:?}");
    }
    let named = |sql, values: &[&str]| {
        let values = values.iter().map(|name| ((*name).into(), Value::Unusable("type 'x' is not supported".into())));
        write(&group, Request { params: Params::Named(values.collect()), ..request(sql, &[]) })
    };
    for (outcome, text) in [
        (named("SELECT :a", &["b"]), "You did not supply a value for binding parameter :a."),
        (named("SELECT :a", &["a"]), "Error binding parameter ':a': type 'x' is not supported"),
        (named("SELECT ?", &["a"]), "Binding 1 has no name"),
    ] {
        assert!(outcome.unwrap_err().to_string().starts_with(text));
    }
    assert_eq!(code(&write(&group, request("INSERT INTO nowhere VALUES (1)", &[]))), raw::SQLITE_ERROR);
    assert_eq!(write(&group, insert(1)).unwrap().rowcount, 1);
}

#[test]
fn an_error_in_the_middle_is_its_own() {
    let place = Place::new();
    let group = place.group();
    write(&group, insert(5)).unwrap();
    let outcomes = together(&group, (0..10).map(insert));
    for (k, outcome) in outcomes.iter().enumerate() {
        assert_eq!(code(outcome), if k == 5 { raw::SQLITE_CONSTRAINT_PRIMARYKEY } else { 0 });
    }
    assert_eq!(place.count(), 10);
    let stats = group.stats();
    assert_eq!((stats.writes, stats.commits, stats.largest), (10, 2, 9));
}

#[test]
fn who_rolls_the_transaction_back_loses_only_its_own() {
    let place = Place::new();
    let group = place.group();
    let rolls_back = "INSERT OR ROLLBACK INTO t VALUES (?, 100, 0)";
    let mut requests: Vec<_> = (0..5).map(insert).collect();
    requests.push(request("INSERT INTO t VALUES (100, 100, 0)", &[]));
    requests.push(request(rolls_back, &[101]));
    requests.extend((5..8).map(insert));
    requests.push(request("INSERT INTO t VALUES (102, 102, 0), (103, 103, 93)", &[]));
    let codes: Vec<_> = together(&group, requests).iter().map(code).collect();
    let mut expected = vec![0; 11];
    expected[6] = raw::SQLITE_CONSTRAINT_UNIQUE;
    expected[10] = raw::SQLITE_CONSTRAINT_TRIGGER;
    assert_eq!(codes, expected);
    assert_eq!(place.count(), 9);
}

#[test]
fn a_full_database_refuses_what_does_not_fit() {
    for limit in [1, 3, 6, 20] {
        let place = Place::new();
        let db = db(&place.path());
        let pages = format!("PRAGMA max_page_count = {}\0", 8 + limit);
        execute(&db, std::ffi::CStr::from_bytes_with_nul(pages.as_bytes()).unwrap());
        execute(&db, c"PRAGMA cache_size = 2");
        let group = Group::new(Arc::clone(&db), lane::of(Key::File(db.file_id().unwrap().clone())), None);
        let sql = "INSERT INTO t (k, u) VALUES (?, randomblob(3000))";
        let outcomes = together(&group, (0..30).map(|k| request(sql, &[k])));
        let written = outcomes.iter().filter(|outcome| outcome.is_ok()).count() as i64;
        assert!(outcomes.iter().all(|outcome| matches!(code(outcome), 0 | raw::SQLITE_FULL)));
        assert!(written < 30);
        assert_eq!(place.count(), written);
        execute(&db, c"PRAGMA max_page_count = 100000");
        write(&group, insert(1_000)).unwrap();
        assert_eq!(place.count(), written + 1);
    }
}

#[test]
fn threads_and_callbacks_share_commits() {
    const THREADS: i64 = 8;
    const EACH: i64 = 150;
    let place = Place::new();
    let group = place.group();
    thread::scope(|scope| {
        for me in 0..THREADS {
            let group = &group;
            scope.spawn(move || {
                for n in 0..EACH {
                    let durability = if n % 50 == 0 { Durability::Power } else { Durability::Process };
                    let request = Request { durability, actor: Actor::thread(me as u64 + 1), ..insert(me * EACH + n) };
                    if me % 2 == 0 {
                        assert_eq!(write(group, request).unwrap().last_rowid.unwrap_or(0), me * EACH + n);
                    } else {
                        let (send, receive) = mpsc::channel();
                        let _pending = group.submit(request, None, move |outcome| send.send(outcome).unwrap());
                        receive.recv().unwrap().unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(place.count(), THREADS * EACH);
    let stats = group.stats();
    assert!(stats.commits < stats.writes && stats.largest > 1, "{stats:?}");
}

#[test]
fn who_holds_the_lane_itself_is_told_so() {
    let place = Place::new();
    let group = place.group();
    let hold = Hold::take(group.lane());
    let own = Request { actor: Actor::thread(HOLDER), ..insert(1) };
    let Err(WriteError::Lane(LaneError::SelfWait(holder))) = write(&group, own.clone()) else { panic!() };
    assert_eq!(holder.connection, HOLDER);
    drop(hold);
    write(&group, own).unwrap();
}

#[test]
fn a_deadline_ends_the_wait_and_nothing_is_written() {
    let place = Place::new();
    let group = place.group();
    let hold = Hold::take(group.lane());
    thread::scope(|scope| {
        for k in 0..3 {
            let group = &group;
            scope.spawn(move || {
                let begun = Instant::now();
                let outcome = group.write(insert(k), within(80 + 20 * k as u64), || false);
                let Err(WriteError::Lane(LaneError::Timeout(Some(holder)))) = outcome else { panic!("{outcome:?}") };
                assert_eq!((holder.connection, holder.statement()), (HOLDER, "UPDATE t SET c = 1"));
                assert!(begun.elapsed() < Duration::from_secs(5));
            });
        }
        let stopped = group.write(insert(10), None, || true);
        assert!(matches!(stopped, Err(WriteError::Lane(LaneError::Interrupted))));
    });
    let (send, receive) = mpsc::channel();
    let submit = |k| {
        let send = send.clone();
        group.submit(insert(k), None, move |outcome: Outcome| send.send(outcome.map(|_| k)).unwrap()).unwrap()
    };
    let pending: Vec<Pending> = (20..24).map(submit).collect();
    assert!(pending[0].cancel() && pending[2].cancel() && !pending[2].cancel());
    drop(hold);
    assert_eq!((receive.recv().unwrap().unwrap(), receive.recv().unwrap().unwrap()), (21, 23));
    assert!(!pending[1].cancel());
    assert_eq!(place.count(), 2);
}

#[test]
fn waits_for_others_who_do_not_use_the_lane() {
    let place = Place::new();
    let group = place.group();
    let other = place.open();
    other.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (1000, 1000, 0)").unwrap();
    let refused = group.write(insert(1), within(50), || false);
    assert_eq!(code(&refused), raw::SQLITE_BUSY);
    let (send, receive) = mpsc::channel();
    let _pending = group.submit(insert(1), within(50), move |outcome| send.send(outcome).unwrap()).unwrap();
    assert_eq!(code(&receive.recv().unwrap()), raw::SQLITE_BUSY);
    let stopped = group.write(insert(1), None, || true);
    assert!(matches!(stopped, Err(WriteError::Lane(LaneError::Interrupted))));
    thread::scope(|scope| {
        let writers = [1, 2].map(|k| {
            let group = &group;
            scope.spawn(move || write(group, insert(k)).unwrap())
        });
        thread::sleep(Duration::from_millis(30));
        other.execute_batch("COMMIT").unwrap();
        for writer in writers {
            writer.join().unwrap();
        }
    });
    assert_eq!(place.count(), 3);
}

#[test]
fn closing_writes_what_is_queued() {
    let place = Place::new();
    let group = place.group();
    let hold = Hold::take(group.lane());
    let (send, receive) = mpsc::channel();
    let submit = |k| {
        let send = send.clone();
        group.submit(insert(k), None, move |outcome: Outcome| send.send(outcome.is_ok()).unwrap()).unwrap()
    };
    let _pending = [submit(1), submit(2)];
    thread::scope(|scope| {
        let closing = scope.spawn(|| group.close(Duration::from_secs(10)));
        while !group.is_closed() {
            thread::yield_now();
        }
        assert!(matches!(write(&group, insert(3)), Err(WriteError::Closed)));
        drop(hold);
        assert!(closing.join().unwrap());
    });
    assert!(receive.recv().unwrap() && receive.recv().unwrap());
    assert!(group.close(Duration::ZERO));
    assert_eq!(place.count(), 2);
    assert_eq!(std::fs::read_dir(place.folder.path()).unwrap().count(), 1);
}

#[test]
fn closing_gives_up_in_time() {
    let place = Place::new();
    let group = place.group();
    let hold = Hold::take(group.lane());
    thread::scope(|scope| {
        let waiting = [1, 2].map(|k| {
            let group = &group;
            scope.spawn(move || write(group, insert(k)))
        });
        while group.lane().waiting() == 0 {
            thread::yield_now();
        }
        assert!(!group.close(Duration::from_millis(20)));
        for waiting in waiting {
            assert!(matches!(waiting.join().unwrap(), Err(WriteError::Closed)));
        }
    });
    drop(hold);
    assert!(group.close(Duration::from_secs(5)));
    assert_eq!(place.count(), 0);
    // A statement that runs and runs.
    let group = place.group();
    let endless = "WITH RECURSIVE n (x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n";
    thread::scope(|scope| {
        let running = scope.spawn(|| write(&group, request(endless, &[])));
        while group.lane().holder().is_none() {
            thread::yield_now();
        }
        group.close(Duration::from_millis(20));
        assert_eq!(code(&running.join().unwrap()), raw::SQLITE_INTERRUPT);
    });
    assert!(group.close(Duration::from_secs(5)));
}

#[derive(Clone, Debug)]
struct Statement {
    sql: String,
}

fn statements() -> impl Strategy<Value = Vec<Statement>> {
    let clause = prop_oneof![
        Just(""),
        Just("OR ABORT"),
        Just("OR FAIL"),
        Just("OR ROLLBACK"),
        Just("OR IGNORE"),
        Just("OR REPLACE")
    ];
    let value = || prop_oneof![4 => 0..90i64, 1 => 90..105i64];
    let row = (0..12i64, 0..12i64, value()).prop_map(|(k, u, c)| format!("({k}, {u}, {c})"));
    let rows = proptest::collection::vec(row, 1..4).prop_map(|rows| rows.join(", "));
    let statement = prop_oneof![
        6 => (clause.clone(), rows).prop_map(|(clause, rows)| format!("INSERT {clause} INTO t VALUES {rows}")),
        2 => (clause, 0..12i64, 0..12i64, value())
            .prop_map(|(clause, k, u, c)| format!("UPDATE {clause} t SET u = {u}, c = {c} WHERE k >= {k}")),
        1 => (0..12i64).prop_map(|k| format!("DELETE FROM t WHERE k = {k}")),
        2 => (0..12i64, 0..12i64).prop_map(|(k, parent)| format!("INSERT INTO child VALUES ({k}, {parent})")),
        1 => (0..12i64).prop_map(|k| format!("DELETE FROM child WHERE k < {k} RETURNING k")),
        1 => Just("INSERT INTO nowhere VALUES (1)".to_owned()),
    ];
    proptest::collection::vec(statement.prop_map(|sql| Statement { sql }), 1..25)
}

/// Every statement a transaction of its own.
fn one_by_one(connection: &Connection, sql: &str) -> (i32, Option<i64>) {
    let run = |connection: &Connection| {
        let mut statement = connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        Ok(())
    };
    match run(connection) {
        Ok(()) => (0, Some(connection.changes() as i64)),
        Err(rusqlite::Error::SqliteFailure(error, _)) => {
            let _ = connection.execute_batch("ROLLBACK");
            (error.extended_code, None)
        }

        Err(other) => panic!("{other}"),
    }
}

fn content(connection: &Connection) -> Vec<(i64, Option<i64>, Option<i64>)> {
    let sql = "SELECT k, u, c FROM t UNION ALL SELECT k, parent, NULL FROM child ORDER BY 1, 2, 3";
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

proptest! {
    #[test]
    fn a_group_does_what_single_transactions_do(statements in statements()) {
        // Alone, FAIL keeps what came before it in the statement; in a group nothing of a refused request is kept.
        let model = Connection::open_in_memory().unwrap();
        model.execute_batch(SCHEMA).unwrap();
        model.execute_batch("PRAGMA foreign_keys = ON").unwrap();
        let expected: Vec<_> = statements
            .iter()
            .map(|statement| {
                model.execute_batch("SAVEPOINT whole").unwrap();
                let (mut code, changes) = one_by_one(&model, &statement.sql);
                if code == 0 {
                    if model.execute_batch("RELEASE whole").is_err() {
                        code = raw::SQLITE_CONSTRAINT_FOREIGNKEY;
                        model.execute_batch("ROLLBACK").unwrap();
                    }
                } else if !model.is_autocommit() {
                    model.execute_batch("ROLLBACK").unwrap();
                }
                (code, changes.filter(|_| code == 0))
            })
            .collect();
        let place = Place::new();
        let group = place.group();
        let requests = statements.iter().map(|statement| request(&statement.sql, &[]));
        let outcomes: Vec<_> = together(&group, requests)
            .iter()
            .map(|outcome| (code(outcome), outcome.as_ref().ok().map(|written: &Written| written.rowcount)))
            .collect();
        prop_assert_eq!(outcomes, expected);
        prop_assert_eq!(content(&place.open()), content(&model));
    }
}

#[test]
fn child() {
    let Some((role, path)) = common::role() else { return };
    match role.as_str() {
        "write-until-killed" => write_until_killed(&path),
        "full-disk" => fill_the_disk(&path),
        other => panic!("{other}?"),
    }
}

#[test]
fn a_commit_that_finds_no_room_is_reported_to_all_it_carried() {
    let place = Place::new();
    common::run("full-disk", &place.path());
}

/// With a limit on file sizes: the log cannot grow when the group is committed.
#[allow(unsafe_code)]
fn fill_the_disk(path: &Path) {
    let group = group(path);
    let limit = |bytes| {
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: sets the limit of this process only.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) }, 0);
    };
    // SAFETY: writes beyond the limit are to fail, not to end the process.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    limit(300_000);
    let row = |k| request("INSERT INTO t (k, u) VALUES (?, randomblob(2000))", &[k]);
    let mut written = Vec::new();
    let mut lost = 0;
    for round in 0..20 {
        for (n, outcome) in together(&group, (0..20).map(|n| row(round * 20 + n))).iter().enumerate() {
            match code(outcome) {
                0 => written.push(round * 20 + n as i64),
                code => {
                    assert!(matches!(code & 0xff, raw::SQLITE_FULL | raw::SQLITE_IOERR), "{code}");
                    lost += 1;
                }
            }
        }
        if lost > 40 {
            break;
        }
    }
    assert!(lost > 40 && !written.is_empty());
    limit(libc::RLIM_INFINITY);
    written.push(1_000_000);
    write(&group, row(1_000_000)).unwrap();
    let connection = open(path);
    let mut rows = connection.prepare("SELECT k FROM t ORDER BY k").unwrap();
    let rows: Vec<i64> = rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert_eq!(rows, written);
}

#[allow(clippy::print_stdout)]
fn write_until_killed(path: &Path) {
    let group = group(path);
    let me = i64::from(std::process::id()) << 32;
    thread::scope(|scope| {
        for thread in 0..4i64 {
            let group = &group;
            scope.spawn(move || {
                for n in 0.. {
                    let k = me + (thread << 24) + n;
                    let durability = if thread == 3 { Durability::Power } else { Durability::Process };
                    write(group, Request { durability, ..insert(k) }).unwrap();
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "wrote {k}").unwrap();
                    out.flush().unwrap();
                }
            });
        }
    });
}

#[test]
fn acknowledged_rows_survive_kill_9() {
    const FILES: usize = 4;
    let kills: usize = std::env::var("UPSHIFT_TEST_KILLS").map_or(200, |kills| kills.parse().unwrap());
    thread::scope(|scope| {
        for file in 0..FILES {
            scope.spawn(move || kill_writers(kills / FILES, file));
        }
    });
}

fn kill_writers(kills: usize, seed: usize) {
    let place = Place::new();
    let mut rows = Vec::new();
    for round in 0..kills {
        let mut child = common::spawn("write-until-killed", &place.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let number = |line: &str| line.strip_prefix("wrote ").and_then(|k| k.parse::<i64>().ok());
        let enough = rows.len() + 1 + (round * 7 + seed) % 40;
        while rows.len() < enough {
            rows.extend(number(&lines.next().unwrap().unwrap()));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        rows.extend(lines.map_while(Result::ok).filter_map(|line| number(&line)));
        // Not each time, so that the log also outlives several deaths.
        if round % 10 == 9 || round + 1 == kills {
            let connection = place.open();
            let mut exists = connection.prepare("SELECT 1 FROM t WHERE k = ?").unwrap();
            for k in &rows {
                assert!(exists.exists([k]).unwrap(), "{k} was acknowledged and is gone");
            }
            let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(sound, "ok");
        }
    }
}

/// `cargo test --release --no-default-features --test sqlite_group -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
fn rate() {
    for threads in [1, 8] {
        for durability in [Durability::Process, Durability::Power] {
            let place = Place::new();
            let group = place.group();
            let each = 8_000 / threads;
            let begun = Instant::now();
            thread::scope(|scope| {
                for me in 0..threads {
                    let group = &group;
                    scope.spawn(move || {
                        for n in 0..each {
                            write(group, Request { durability, ..insert(me * each + n) }).unwrap();
                        }
                    });
                }
            });
            let rate = (threads * each) as f64 / begun.elapsed().as_secs_f64();
            println!("{threads} threads, {durability:?}: {rate:.0}/s, {:?}", group.stats());
        }
    }
}
