//! Opens the connections of a pool: all on one database, all with the same settings.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::ffi;

use super::group::Durability;
use super::{Db, Entered, Failure, Open, memory};
use crate::store;
use crate::support::backoff;
use crate::support::runtime::{PerProcess, pid};

/// How long a connection waits for locks of others before it fails with "database is locked".
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long locks are waited for at least, whatever the caller's patience: connections of the same pool that open or close
/// hold them for moments.
const GRACE: Duration = Duration::from_millis(100);

const SETTINGS: &[&CStr] = &[
    c"PRAGMA cache_size = -64000",
    c"PRAGMA temp_store = MEMORY",
    c"PRAGMA mmap_size = 268435456",
    // Whether it is a database at all.
    c"SELECT count(*) FROM sqlite_master",
];

/// What to open, and how.
pub struct Opener {
    target: Target,
    durability: Durability,
}

enum Target {
    /// An absolute path, and the URI by which it is opened, if it is.
    File { path: PathBuf, uri: Option<PathBuf> },
    /// A database in memory, one for all connections; each process has its own. The number keeps pools apart.
    Memory { number: u64, anchor: PerProcess<Mutex<Option<Arc<Db>>>> },
}

static MEMORIES: AtomicU64 = AtomicU64::new(1);

impl Opener {
    /// For the file at `path`, or a database in memory if it is `:memory:` or empty.
    pub fn new(path: &Path, durability: Durability) -> std::io::Result<Self> {
        let in_memory = path.as_os_str().is_empty() || path == Path::new(":memory:");
        let target = if in_memory {
            Target::Memory { number: MEMORIES.fetch_add(1, Ordering::Relaxed), anchor: PerProcess::new() }
        } else {
            // The current folder may change.
            Target::File { path: std::path::absolute(path)?, uri: None }
        };
        Ok(Self { target, durability })
    }

    /// For the file that a URI names, as `file:…?mode=ro`; `None` if that is no file.
    pub fn with_uri(uri: &str, durability: Durability) -> std::io::Result<Option<Self>> {
        let Some(named) = memory::path_of_uri(uri) else { return Self::new(Path::new(uri), durability).map(Some) };
        let query = uri.split('#').next().and_then(|uri| uri.split_once('?')).map_or("", |(_, query)| query);
        let in_memory = query.split('&').any(|option| matches!(option, "mode=memory" | "vfs=memdb"));
        if in_memory || named.is_empty() || named == ":memory:" {
            return Ok(None);
        }
        let path = std::path::absolute(&named)?;
        let uri = match path.to_str() {
            // The current folder may change.
            Some(path) if Path::new(&named).is_relative() => {
                let path = path.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
                format!("file:{path}?{query}")
            }
            _ => uri.to_owned(),
        };
        Ok(Some(Self { target: Target::File { path, uri: Some(uri.into()) }, durability }))
    }

    /// The file, unless the database is in memory.
    pub fn file(&self) -> Option<&Path> {
        match &self.target {
            Target::File { path, .. } => Some(path),
            Target::Memory { .. } => None,
        }
    }

    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// Opens a connection. Locks of others are waited for until `until`, at least [`GRACE`] and at most [`BUSY_TIMEOUT`];
    /// afterwards the connection waits for none.
    pub fn open(&self, until: Option<Instant>) -> Result<Arc<Db>, Failure> {
        let now = Instant::now();
        let until = until.map_or(now + BUSY_TIMEOUT, |until| until.clamp(now + GRACE, now + BUSY_TIMEOUT));
        let db = match &self.target {
            Target::File { uri: Some(uri), .. } => Db::open(uri, &Open { uri: true, ..Open::default() })?,
            Target::File { path, uri: None } => Db::open(path, &Open::default())?,
            Target::Memory { number, anchor } => {
                let name = format!("file:/upshift-pool-{}-{number}?vfs=memdb", pid());
                let options = Open { uri: true, ..Open::default() };
                let mut anchor = anchor.get(|_| Mutex::new(None)).lock();
                if anchor.is_none() {
                    // What is in memory lives as long as a connection to it.
                    *anchor = Some(Db::open(Path::new(&name), &options)?);
                }
                Db::open(Path::new(&name), &options)?
            }
        };
        {
            let entered = db.enter();
            // SAFETY: the connection is open; the handler is taken off before `until` ends.
            unsafe { ffi::sqlite3_busy_handler(entered.raw(), Some(on_busy), (&raw const until).cast_mut().cast()) };
            let prepared = self.prepare(&entered, until);
            // SAFETY: as above.
            unsafe { ffi::sqlite3_busy_handler(entered.raw(), None, std::ptr::null_mut()) };
            prepared?;
        }
        db.allow_standing_reads(self.file().is_some());
        Ok(db)
    }

    fn prepare(&self, entered: &Entered<'_>, until: Instant) -> Result<(), Failure> {
        // Two processes that open a new file at once: SQLite refuses one of them without asking the handler.
        let mut tries = 0;
        while let Err(failure) = execute(entered, c"PRAGMA journal_mode = WAL") {
            // A URI may ask for reading only; then it stays in the mode that it has.
            let by_uri = matches!(self.target, Target::File { uri: Some(_), .. });
            if failure.primary() == ffi::SQLITE_READONLY && by_uri && is_readonly(entered) {
                break;
            }
            if failure.primary() != ffi::SQLITE_BUSY || Instant::now() >= until {
                return Err(failure);
            }
            backoff::sleep(&mut tries);
        }
        execute(
            entered,
            match self.durability {
                Durability::Process => c"PRAGMA synchronous = NORMAL",
                Durability::Power => c"PRAGMA synchronous = FULL",
            },
        )?;
        SETTINGS.iter().try_for_each(|sql| execute(entered, sql))
    }

    /// Lets go of a database in memory; it ends with the last connection.
    pub fn close(&self) {
        if let Target::Memory { anchor, .. } = &self.target {
            let anchor = anchor.peek().and_then(|anchor| anchor.lock().take());
            drop(anchor);
        }
    }
}

fn is_readonly(entered: &Entered<'_>) -> bool {
    // SAFETY: the connection is open.
    unsafe { ffi::sqlite3_db_readonly(entered.raw(), c"main".as_ptr()) == 1 }
}

/// Runs one statement and forgets its rows.
pub fn execute(entered: &Entered<'_>, sql: &CStr) -> Result<(), Failure> {
    // SAFETY: the connection is open and entered, the text is terminated.
    let code =
        unsafe { ffi::sqlite3_exec(entered.raw(), sql.as_ptr(), None, std::ptr::null_mut(), std::ptr::null_mut()) };
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(entered.failure(code)) }
}

/// Ends every statement that has not been read to its end.
pub fn reset_statements(entered: &Entered<'_>) {
    let raw = entered.raw();
    // SAFETY: the connection is open and entered, and the statements are its own.
    unsafe {
        let mut statement = ffi::sqlite3_next_stmt(raw, std::ptr::null_mut());
        while !statement.is_null() {
            if ffi::sqlite3_stmt_busy(statement) != 0 {
                ffi::sqlite3_reset(statement);
            }
            statement = ffi::sqlite3_next_stmt(raw, statement);
        }
    }
}

/// To be called before a connection is closed: if its file has lost its name, the log is neither moved into a database
/// nor deleted, as it may be that of another file by now.
pub fn spare_log_if_moved(entered: &Entered<'_>) {
    let db = entered.db();
    if !db.is_open() || !db.has_file() || store::id_of(db.file()).as_ref() == db.file_id() {
        return;
    }
    let mut keep: c_int = 1;
    // SAFETY: the connection is open; PERSIST_WAL takes a pointer to an integer, NO_CKPT_ON_CLOSE an integer and a place
    // for the answer, or null. A file that cannot do it says so, and there is nothing to be done about that.
    unsafe {
        let place = std::ptr::from_mut(&mut keep).cast();
        ffi::sqlite3_file_control(entered.raw(), c"main".as_ptr(), ffi::SQLITE_FCNTL_PERSIST_WAL, place);
        let answer = std::ptr::null_mut::<c_int>();
        ffi::sqlite3_db_config(entered.raw(), ffi::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1 as c_int, answer);
    }
}

/// What a look at a connection says: the result code of reading the schema, without waiting for anybody.
pub fn read_schema(entered: &Entered<'_>) -> c_int {
    match execute(entered, c"SELECT count(*) FROM sqlite_master") {
        Ok(()) => ffi::SQLITE_OK,
        Err(failure) => failure.primary(),
    }
}

unsafe extern "C" fn on_busy(until: *mut c_void, tries: c_int) -> c_int {
    // SAFETY: points to the time that `open` keeps until the handler is taken off.
    let until = unsafe { *until.cast::<Instant>() };
    if Instant::now() >= until {
        return 0;
    }
    std::thread::sleep(backoff::pause(tries.unsigned_abs()));
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opener(path: &str) -> Opener {
        Opener::new(Path::new(path), Durability::Process).unwrap()
    }

    fn ok(db: &Db, sql: &CStr) -> bool {
        execute(&db.enter(), sql).is_ok()
    }

    #[test]
    fn memory_is_shared_by_an_opener_and_outlives_its_connections() {
        let (one, other) = (opener(":memory:"), opener(""));
        assert!(ok(&one.open(None).unwrap(), c"CREATE TABLE t (x)"));
        assert!(ok(&one.open(None).unwrap(), c"SELECT * FROM t"));
        assert!(!ok(&other.open(None).unwrap(), c"SELECT * FROM t"));
        one.close();
        assert!(!ok(&one.open(None).unwrap(), c"SELECT * FROM t"));
    }

    #[test]
    fn gives_up_on_a_locked_file_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("locked.db");
        let holder = Db::open(&path, &Open::default()).unwrap();
        assert!(ok(&holder, c"CREATE TABLE t (x)") && ok(&holder, c"BEGIN EXCLUSIVE"));
        let opener = opener(path.to_str().unwrap());
        let begun = Instant::now();
        let refused = opener.open(Some(begun + Duration::from_millis(150))).err().unwrap();
        assert_eq!(refused.primary(), ffi::SQLITE_BUSY);
        assert!(begun.elapsed() >= Duration::from_millis(150) && begun.elapsed() < Duration::from_secs(5));
        assert!(ok(&holder, c"COMMIT"));
        assert!(opener.open(None).is_ok());
    }

    #[test]
    fn waits_for_a_lock_of_a_moment_without_patience() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("busy.db");
        let holder = Db::open(&path, &Open::default()).unwrap();
        assert!(ok(&holder, c"CREATE TABLE t (x)") && ok(&holder, c"BEGIN EXCLUSIVE"));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(10));
                assert!(ok(&holder, c"COMMIT"));
            });
            assert!(opener(path.to_str().unwrap()).open(Some(Instant::now())).is_ok());
        });
    }

    #[test]
    fn a_file_that_is_no_database_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.db");
        std::fs::write(&path, "no database ".repeat(1000)).unwrap();
        let refused = opener(path.to_str().unwrap()).open(None).err().unwrap();
        assert_eq!(refused.primary(), ffi::SQLITE_NOTADB);
        assert_eq!(std::fs::read(&path).unwrap().len(), 12_000);
    }

    #[test]
    fn unread_results_are_ended() {
        let db = opener(":memory:").open(None).unwrap();
        let entered = db.enter();
        assert!(execute(&entered, c"CREATE TABLE t (x); INSERT INTO t VALUES (1), (2)").is_ok());
        let mut statement = std::ptr::null_mut();
        // SAFETY: an open connection, a terminated text; the statement is finalised below.
        unsafe {
            let sql = c"SELECT * FROM t".as_ptr();
            ffi::sqlite3_prepare_v2(entered.raw(), sql, -1, &mut statement, std::ptr::null_mut());
            assert_eq!(ffi::sqlite3_step(statement), ffi::SQLITE_ROW);
        }
        assert!(entered.is_in_use());
        reset_statements(&entered);
        assert!(!entered.is_in_use());
        // SAFETY: prepared above.
        unsafe { ffi::sqlite3_finalize(statement) };
    }
}
