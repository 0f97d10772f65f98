//! Reads that follow each other share a transaction, and nobody notices.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use upshift::sqlite::{Db, Entered, Open, raw};

fn open(path: &Path) -> Arc<Db> {
    let db = Db::open(path, &Open::default()).unwrap();
    db.allow_standing_reads(true);
    db
}

/// A WAL file with a table of one row.
fn file() -> (TempDir, Arc<Db>, Arc<Db>) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("file.db");
    let (reader, writer) = (open(&path), open(&path));
    write(&writer, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; CREATE TABLE t (x); INSERT INTO t VALUES (0)");
    (folder, reader, writer)
}

/// Runs statements that are no reads.
fn write(db: &Db, sql: &str) {
    let entered = db.enter();
    let sql = CString::new(sql).unwrap();
    // SAFETY: the connection is open.
    let code = unsafe {
        raw::sqlite3_busy_timeout(entered.raw(), 10_000);
        raw::sqlite3_exec(entered.raw(), sql.as_ptr(), None, std::ptr::null_mut(), std::ptr::null_mut())
    };
    assert_eq!(code, raw::SQLITE_OK, "{}", entered.failure(code));
}

/// The first value of a query, or the code of its failure.
fn try_read(db: &Db, sql: &str) -> Result<i64, i32> {
    let entered = db.look();
    entered.refresh();
    let sql = CString::new(sql).unwrap();
    let mut statement = std::ptr::null_mut();
    // SAFETY: the connection is open; the statement ends here.
    unsafe {
        let code = raw::sqlite3_prepare_v2(entered.raw(), sql.as_ptr(), -1, &mut statement, std::ptr::null_mut());
        assert_eq!(code, raw::SQLITE_OK);
        entered.read();
        let code = raw::sqlite3_step(statement);
        let value = raw::sqlite3_column_int64(statement, 0);
        raw::sqlite3_finalize(statement);
        if code == raw::SQLITE_ROW { Ok(value) } else { Err(code) }
    }
}

fn read(db: &Db) -> i64 {
    try_read(db, "SELECT x FROM t").unwrap()
}

fn stands(entered: &Entered<'_>) -> bool {
    // SAFETY: the connection is open.
    unsafe { raw::sqlite3_txn_state(entered.raw(), c"main".as_ptr()) == raw::SQLITE_TXN_READ }
}

/// Reads until a read stands.
fn stand(db: &Db) {
    let begun = Instant::now();
    while !stands(&db.look()) {
        assert!(begun.elapsed() < Duration::from_secs(20), "no read stands");
        read(db);
    }
}

fn waits_for(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn begins_when_reads_follow_each_other_and_ends_by_itself() {
    let (_folder, reader, _writer) = file();
    read(&reader);
    assert!(!stands(&reader.look()));
    stand(&reader);
    waits_for("the read still stands", || !stands(&reader.look()));
}

#[test]
fn every_read_sees_what_was_committed_before_it() {
    let (_folder, reader, writer) = file();
    for value in 1..200 {
        stand(&reader);
        write(&writer, &format!("UPDATE t SET x = {value}"));
        assert_eq!(read(&reader), value);
    }
}

#[test]
fn every_read_sees_what_another_thread_committed_before_it() {
    let (_folder, reader, writer) = file();
    let (committed, done) = (AtomicI64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for value in 1..3000 {
                write(&writer, &format!("UPDATE t SET x = {value}"));
                committed.store(value, Ordering::Release);
                for _ in 0..value % 50 {
                    std::thread::yield_now();
                }
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            let least = committed.load(Ordering::Acquire);
            assert!(read(&reader) >= least);
        }
    });
    assert_eq!(read(&reader), 2999);
}

#[test]
fn anything_but_a_read_ends_it() {
    let (_folder, reader, writer) = file();
    stand(&reader);
    assert!(!stands(&reader.enter()));
    stand(&reader);
    // With the old snapshot this would be refused.
    write(&writer, "UPDATE t SET x = x + 1");
    write(&reader, "UPDATE t SET x = x + 1");
    assert_eq!(read(&reader), 2);
}

#[test]
fn an_interrupt_while_nothing_runs_has_no_effect() {
    let (_folder, reader, _writer) = file();
    stand(&reader);
    reader.interrupt();
    for _ in 0..50 {
        assert_eq!(try_read(&reader, "SELECT x FROM t"), Ok(0));
    }
}

#[test]
fn checkpoints_and_changes_of_the_journal_get_their_turn() {
    let (folder, reader, writer) = file();
    stand(&reader);
    write(&writer, "UPDATE t SET x = 1");
    let entered = writer.enter();
    let (mut pages, mut done) = (0, 0);
    // SAFETY: the connection is open. It waits, as its busy timeout says, until the read of the other one ends.
    let code = unsafe {
        raw::sqlite3_wal_checkpoint_v2(
            entered.raw(),
            std::ptr::null(),
            raw::SQLITE_CHECKPOINT_TRUNCATE,
            &mut pages,
            &mut done,
        )
    };
    assert_eq!(code, raw::SQLITE_OK);
    drop(entered);
    assert_eq!(folder.path().join("file.db-wal").metadata().unwrap().len(), 0);

    stand(&writer);
    reader.enter().close();
    write(&writer, "PRAGMA journal_mode=DELETE");
    assert!(!folder.path().join("file.db-wal").exists());
    for _ in 0..100 {
        assert_eq!(read(&writer), 1);
        assert!(!stands(&writer.look()));
    }
    assert!(!folder.path().join("file.db-shm").exists());
}

#[test]
fn stays_away_after_a_checkpoint() {
    let (_folder, reader, writer) = file();
    stand(&reader);
    // Nothing is committed, and it waits for nobody.
    write(&writer, "PRAGMA wal_checkpoint(PASSIVE)");
    let begun = Instant::now();
    for _ in 0..50 {
        read(&reader);
        assert!(!stands(&reader.look()) || begun.elapsed() > Duration::from_millis(40));
    }
    stand(&reader);
}

#[test]
fn the_log_does_not_grow_while_others_write() {
    let (folder, reader, writer) = file();
    write(&writer, "CREATE TABLE much (y)");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Some 20 pages each: 60 MB of log, were it never reset.
            for _ in 0..750 {
                write(&writer, "INSERT INTO much VALUES (zeroblob(80000)); DELETE FROM much");
                std::thread::sleep(Duration::from_micros(300));
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            read(&reader);
        }
    });
    let size = folder.path().join("file.db-wal").metadata().unwrap().len();
    assert!(size < 16 << 20, "the log has {size} bytes");
    // Full, but checkpointed: reads stand again.
    write(&writer, "PRAGMA wal_checkpoint(PASSIVE)");
    stand(&reader);
}

#[test]
fn not_with_several_databases_on_the_connection() {
    let (folder, reader, writer) = file();
    let other = folder.path().join("other.db");
    let second = open(&other);
    write(&second, "PRAGMA journal_mode=WAL; CREATE TABLE o (x); INSERT INTO o VALUES (0)");
    write(&reader, &format!("ATTACH '{}' AS o", other.display()));
    for value in 1..100 {
        write(&second, &format!("UPDATE o SET x = {value}"));
        assert_eq!(try_read(&reader, "SELECT x FROM o.o"), Ok(value));
        assert_eq!(read(&reader), 0);
        assert!(!stands(&reader.look()));
    }
    drop(writer);
}

#[test]
fn not_without_a_log() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("plain.db");
    let db = open(&path);
    write(&db, "CREATE TABLE t (x); INSERT INTO t VALUES (7)");
    for _ in 0..50 {
        assert_eq!(read(&db), 7);
        assert!(!stands(&db.look()));
    }
    assert!(!folder.path().join("plain.db-shm").exists());
    let memory = open(Path::new(":memory:"));
    write(&memory, "CREATE TABLE t (x); INSERT INTO t VALUES (7)");
    for _ in 0..50 {
        assert_eq!(read(&memory), 7);
    }
}

#[test]
fn closes_while_a_read_stands() {
    let (folder, reader, writer) = file();
    stand(&reader);
    stand(&writer);
    reader.enter().close();
    reader.interrupt();
    drop((reader, writer));
    assert!(!folder.path().join("file.db-wal").exists());
    std::thread::sleep(Duration::from_millis(50));
}
