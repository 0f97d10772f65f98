//! An open connection: one thread at a time, one process, closed once.
//!
//! Connections are opened without SQLite's own mutex; [`Db`] has one lock instead, taken once for many calls. A thread
//! may enter again while it is inside, as user functions do.
#![allow(unsafe_code)]

use std::any::Any;
use std::collections::HashSet;
use std::ffi::{CStr, c_int};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, ReentrantMutex, ReentrantMutexGuard};
use r2d2::ManageConnection;
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{OpenFlags, ffi};

use super::memory::Home;
use super::pace::Pace;
use super::seat::Seat;
use super::standing::{HOLD, Standing};
use crate::store;
use crate::support::runtime::{self, pid};

/// What SQLite said when it refused.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Extended result code.
    pub code: c_int,
    pub message: String,
}

impl Failure {
    /// The words SQLite has for a code of its own.
    pub fn of_code(code: c_int) -> Self {
        // SAFETY: the texts are static.
        let text = unsafe { CStr::from_ptr(ffi::sqlite3_errstr(code)) };
        Self { code, message: text.to_string_lossy().into_owned() }
    }

    /// The result code without its extension.
    pub fn primary(&self) -> c_int {
        self.code & 0xff
    }
}

/// How a database is opened.
#[derive(Clone, Debug, Default)]
pub struct Open {
    /// The name is a URI.
    pub uri: bool,
    /// The file must exist.
    pub existing: bool,
}

/// An SQLite connection. Its operations are those of [`Entered`].
pub struct Db {
    /// Unique in this process and its children; tells connections apart in claims and logs.
    id: u64,
    pid: u32,
    /// As SQLite understood it; empty for databases without a file.
    file: PathBuf,
    /// The file behind that name when it was opened.
    file_id: Option<store::FileId>,
    /// See [`Db::memory`].
    memory: Option<Box<str>>,
    /// Null once closed.
    raw: AtomicPtr<ffi::sqlite3>,
    lock: ReentrantMutex<()>,
    seat: Seat,
    pace: Pace,
    standing: Standing,
    this: Weak<Self>,
    /// Statements being stepped, all by the thread inside.
    running: AtomicU32,
    /// Set while `deferred` is not empty.
    has_deferred: AtomicBool,
    /// Given up while another thread was inside.
    deferred: Mutex<Vec<Discarded>>,
    /// Open BLOBs; they end before the connection does.
    blobs: Mutex<Vec<BlobPtr>>,
    /// Counts the times that all of them were closed by others than their owners.
    blob_era: AtomicU32,
    /// Statements that end with the connection at the latest. Virtual tables have others, which are theirs to end.
    statements: Mutex<HashSet<StatementPtr>>,
    /// Backups in progress, between whose steps other threads may come in: the connection stays open meanwhile.
    pins: AtomicU32,
    /// A backup is writing into this database: its pages change without the connection knowing.
    is_target: AtomicBool,
    /// Set when a callback failed where SQLite leaves it no way to say so.
    callback_failed: AtomicBool,
    /// What callbacks of the connection point to.
    kept: Mutex<Vec<Arc<dyn Any + Send + Sync>>>,
    /// Owns the connection. Held for moments only, by `interrupt` too: so it never meets a closed connection.
    owner: Mutex<Option<rusqlite::Connection>>,
}

enum Discarded {
    Statement(*mut ffi::sqlite3_stmt),
    Blob(*mut ffi::sqlite3_blob, u32),
}
// SAFETY: the pointers are only used by a thread that has entered the connection.
unsafe impl Send for Discarded {}

#[derive(PartialEq, Eq, Hash)]
struct StatementPtr(*mut ffi::sqlite3_stmt);
// SAFETY: as above.
unsafe impl Send for StatementPtr {}

struct BlobPtr(*mut ffi::sqlite3_blob);
// SAFETY: as above.
unsafe impl Send for BlobPtr {}

/// The right to use a connection, for one thread.
pub struct Entered<'a> {
    db: &'a Db,
    _guard: ReentrantMutexGuard<'a, ()>,
}

/// Why a database could not be opened, in SQLite's words.
fn in_its_words(error: rusqlite::Error) -> Failure {
    let code = error.sqlite_error().map_or(ffi::SQLITE_CANTOPEN, |error| error.extended_code) & 0xff;
    match error {
        // To this message the library adds the path.
        rusqlite::Error::SqliteFailure(_, Some(message)) if code != ffi::SQLITE_CANTOPEN => Failure { code, message },
        _ => Failure::of_code(code),
    }
}

/// Between two interrupts of a thread that is to leave.
const FORCE_STEP: Duration = Duration::from_millis(1);

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Db {
    /// Opens the database at `path`, which may be `:memory:`, empty for a temporary file, or a URI if so asked.
    pub fn open(path: &Path, options: &Open) -> Result<Arc<Self>, Failure> {
        store::get_ready();
        let mut flags =
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
        flags.set(OpenFlags::SQLITE_OPEN_URI, options.uri);
        flags.set(OpenFlags::SQLITE_OPEN_CREATE, !options.existing);
        let connection = SqliteConnectionManager::file(path).with_flags(flags).connect();
        let connection = connection.map_err(|error| refused().unwrap_or_else(|| in_its_words(error)))?;
        // SAFETY: the handle is only used while `owner` holds the connection.
        let raw = unsafe { connection.handle() };
        #[cfg(feature = "bundled-sqlite")]
        // SAFETY: just opened.
        unsafe {
            store::private::set_defaults(raw);
        }
        let mut file = name_of(raw);
        let mut memory = None;
        // SAFETY: just opened.
        if let Home::Memory(name) = unsafe { Home::of(raw, path, &file) } {
            (file, memory) = (PathBuf::new(), name);
        }
        let file_id = (!file.as_os_str().is_empty()).then(|| store::id_of(&file)).flatten();
        Ok(Arc::new_cyclic(|this| Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            pid: pid(),
            file,
            file_id,
            memory,
            raw: AtomicPtr::new(raw),
            lock: ReentrantMutex::new(()),
            seat: Seat::default(),
            pace: Pace::default(),
            standing: Standing::new(),
            this: this.clone(),
            running: AtomicU32::new(0),
            has_deferred: AtomicBool::new(false),
            deferred: Mutex::new(Vec::new()),
            blobs: Mutex::new(Vec::new()),
            blob_era: AtomicU32::new(0),
            statements: Mutex::default(),
            pins: AtomicU32::new(0),
            is_target: AtomicBool::new(false),
            callback_failed: AtomicBool::new(false),
            kept: Mutex::new(Vec::new()),
            owner: Mutex::new(Some(connection)),
        }))
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    /// Absolute path of the database file, empty if there is none.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// How long its commits take.
    #[inline(always)]
    pub fn pace(&self) -> &Pace {
        &self.pace
    }

    /// Whether what it writes goes to a file.
    #[inline(always)]
    pub fn has_file(&self) -> bool {
        !self.file.as_os_str().is_empty()
    }

    /// The file that was behind the path when the database was opened.
    pub fn file_id(&self) -> Option<&store::FileId> {
        self.file_id.as_ref()
    }

    /// The name under which other connections of the process can open this database in memory.
    pub fn memory(&self) -> Option<&str> {
        self.memory.as_deref()
    }

    #[inline(always)]
    pub fn is_open(&self) -> bool {
        !self.raw.load(Ordering::Relaxed).is_null()
    }

    /// Whether this process opened it. In a forked child nothing may be done with it.
    #[inline(always)]
    pub fn is_ours(&self) -> bool {
        self.pid == pid()
    }

    /// Its part in the lane of the database.
    #[inline(always)]
    pub fn seat(&self) -> &Seat {
        &self.seat
    }

    /// Enters unless another thread is inside.
    #[inline(always)]
    pub fn try_enter(&self) -> Option<Entered<'_>> {
        self.try_look().inspect(Entered::no_read)
    }

    /// Enters, waiting for a thread that is inside.
    pub fn enter(&self) -> Entered<'_> {
        let entered = self.look();
        entered.no_read();
        entered
    }

    /// Enters unless another thread is inside, for what neither writes nor changes settings. A read that goes on from
    /// statement to statement (see [`allow_standing_reads`](Self::allow_standing_reads)) is left alone.
    #[inline(always)]
    pub fn try_look(&self) -> Option<Entered<'_>> {
        self.lock.try_lock().map(|guard| Entered { db: self, _guard: guard })
    }

    /// The same, waiting for a thread that is inside.
    pub fn look(&self) -> Entered<'_> {
        Entered { db: self, _guard: self.lock.lock() }
    }

    /// Enters to close the connection: interrupts a thread that is inside until it leaves. `None` if it does not within
    /// `limit`, because it runs a function of its own for example.
    pub fn enter_by_force(&self, limit: Duration) -> Option<Entered<'_>> {
        let begun = Instant::now();
        loop {
            if let Some(entered) = self.try_enter() {
                return Some(entered);
            }
            if begun.elapsed() >= limit {
                return None;
            }
            // Again and again: what was interrupted may be followed by something else.
            self.interrupt();
            std::thread::sleep(FORCE_STEP);
        }
    }

    /// Whether reads that follow each other may share a transaction, which lasts some milliseconds longer than they do.
    /// They still see what is committed in between. Not with functions that hear of every statement.
    pub fn allow_standing_reads(&self, allowed: bool) {
        let entered = self.enter();
        self.standing.allow(allowed);
        drop(entered);
    }

    /// Ends a standing read, after [`HOLD`].
    fn rest(&self) {
        self.standing.rested();
        if self.is_ours() && self.try_enter().is_none() && self.standing.begins_rest() {
            self.rest_later();
        }
    }

    #[cold]
    fn rest_later(&self) {
        let due = Due(self.this.clone());
        // Without a thread to be had, or when the runtime is stopped, `due` is dropped as well.
        let _ = runtime::after(HOLD, move || drop(due));
    }

    /// Makes the statements that run now fail with `SQLITE_INTERRUPT`, and ends the wait for a turn. Never waits for them.
    pub fn interrupt(&self) {
        self.seat.interrupt();
        self.standing.interrupt();
        let owner = self.owner.lock();
        if owner.is_some() && self.is_ours() {
            // SAFETY: the connection is open while `owner` holds it; interrupting is allowed from any thread.
            unsafe { ffi::sqlite3_interrupt(self.raw.load(Ordering::Relaxed)) };
        }
    }

    /// Keeps `object` until the connection has ended, for callbacks that SQLite has no destructor for.
    pub fn keep(&self, object: Arc<dyn Any + Send + Sync>) {
        self.kept.lock().push(object);
    }

    /// Finalises a statement, now or when the thread inside leaves.
    ///
    /// # Safety
    /// The statement is one of this connection and is not used any more. It may have ended with the connection.
    pub unsafe fn discard(&self, statement: *mut ffi::sqlite3_stmt) {
        self.give_up(Discarded::Statement(statement));
    }

    /// Closes a BLOB, now or when the thread inside leaves.
    ///
    /// # Safety
    /// As [`discard`](Self::discard).
    pub(super) unsafe fn discard_blob(&self, blob: *mut ffi::sqlite3_blob, era: u32) {
        self.give_up(Discarded::Blob(blob, era));
    }

    fn give_up(&self, discarded: Discarded) {
        if !self.is_ours() {
            return;
        }
        if let Some(entered) = self.try_look() {
            entered.end(&discarded);
            return;
        }
        self.deferred.lock().push(discarded);
        self.has_deferred.store(true, Ordering::Release);
        // The other thread may have left before it could see that.
        drop(self.try_look());
    }

    /// Whether a backup is writing into this database. SQLite wants nobody to use the connection meanwhile.
    #[inline(always)]
    pub fn is_target(&self) -> bool {
        self.is_target.load(Ordering::Relaxed)
    }

    /// Keeps [`Entered::is_busy`] true while the result lives.
    pub fn pin(self: &Arc<Self>) -> Pin {
        self.pins.fetch_add(1, Ordering::Relaxed);
        Pin(Arc::clone(self))
    }
}

impl Entered<'_> {
    /// Gives the database to a backup as its target, while the result lives; not if another backup reads or writes it.
    pub(super) fn become_target(&self, this: &Arc<Db>) -> Option<Target> {
        if self.db.pins.load(Ordering::Relaxed) > 0 {
            return None;
        }
        self.db.is_target.store(true, Ordering::Relaxed);
        Some(Target(this.pin()))
    }
}

/// See [`Entered::become_target`].
pub struct Target(Pin);

impl Drop for Target {
    fn drop(&mut self) {
        self.0.0.is_target.store(false, Ordering::Relaxed);
    }
}

/// Lets a connection rest when dropped.
struct Due(Weak<Db>);

impl Drop for Due {
    fn drop(&mut self) {
        if let Some(db) = self.0.upgrade() {
            db.rest();
        }
    }
}

/// Keeps a connection from being closed by those who ask before.
pub struct Pin(Arc<Db>);

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.pins.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        if self.is_ours() {
            self.enter().close();
        } else {
            // Closing it here would act on files that the parent is using.
            std::mem::forget(self.owner.get_mut().take());
        }
    }
}

impl Entered<'_> {
    /// The connection's handle; null once it is closed.
    #[inline(always)]
    pub fn raw(&self) -> *mut ffi::sqlite3 {
        self.db.raw.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub fn db(&self) -> &Db {
        self.db
    }

    /// To be called first when a statement may turn out to be a read: it must not see less than has been committed.
    #[inline(always)]
    pub fn refresh(&self) {
        self.db.standing.refresh();
    }

    /// To be called before the first step of a read by itself, outside of a transaction.
    #[inline(always)]
    pub fn read(&self) {
        // SAFETY: the connection is open, and this thread is inside.
        if unsafe { self.db.standing.read(self.raw()) } {
            self.db.rest_later();
        }
    }

    /// Whether a transaction is open, or a statement that reads a table has not been read to its end.
    #[inline(always)]
    pub fn is_in_use(&self) -> bool {
        // SAFETY: the connection is open, and this thread is inside.
        unsafe {
            let others = self.db.standing.others_are_busy(self.raw());
            others.unwrap_or_else(|| ffi::sqlite3_txn_state(self.raw(), std::ptr::null()) != ffi::SQLITE_TXN_NONE)
        }
    }

    /// To be called before anything else, by who entered with [`Db::look`].
    #[inline(always)]
    pub fn no_read(&self) {
        self.db.standing.end();
    }

    /// Whether a read goes on from statement to statement.
    #[inline(always)]
    pub fn is_standing(&self) -> bool {
        self.db.standing.is_active()
    }

    /// Whether a statement or a backup is under way that closing the connection would pull the rug from under.
    pub fn is_busy(&self) -> bool {
        self.is_running() || self.db.pins.load(Ordering::Relaxed) > 0
    }

    /// Statements being stepped further up on this thread's stack.
    pub fn is_running(&self) -> bool {
        self.db.running.load(Ordering::Relaxed) > 0
    }

    /// To be called around `sqlite3_step`, so that nobody closes the connection from within.
    #[inline(always)]
    pub fn set_running(&self, running: bool) {
        let count = self.db.running.load(Ordering::Relaxed);
        self.db.running.store(if running { count + 1 } else { count - 1 }, Ordering::Relaxed);
    }

    /// Remembers that a callback failed where SQLite takes no error: the step goes on with a made-up answer.
    #[cold]
    pub fn set_callback_failed(&self) {
        self.db.callback_failed.store(true, Ordering::Relaxed);
    }

    /// To be asked after each step.
    #[inline(always)]
    pub fn has_failed_callback(&self) -> bool {
        self.db.callback_failed.load(Ordering::Relaxed)
    }

    /// Forgets it.
    pub fn clear_failed_callback(&self) {
        self.db.callback_failed.store(false, Ordering::Relaxed);
    }

    /// The error of the last call, which returned `code`.
    #[cold]
    pub fn failure(&self, code: c_int) -> Failure {
        // SAFETY: the connection is open; the text is valid until the next call on it.
        let (found, text) = unsafe {
            let raw = self.raw();
            (ffi::sqlite3_extended_errcode(raw), CStr::from_ptr(ffi::sqlite3_errmsg(raw)))
        };
        if found & 0xff != code & 0xff {
            return Failure::of_code(code);
        }
        // ATTACH opens files as well.
        if let Some(refused) = (code & 0xff == ffi::SQLITE_CANTOPEN).then(refused).flatten() {
            return refused;
        }
        Failure { code: found, message: text.to_string_lossy().into_owned() }
    }

    /// The error of the last call.
    #[cold]
    pub fn last_failure(&self) -> Failure {
        // SAFETY: the connection is open.
        self.failure(unsafe { ffi::sqlite3_extended_errcode(self.raw()) })
    }

    /// Whether a transaction is open that was begun by a statement of its own.
    #[inline(always)]
    pub fn in_transaction(&self) -> bool {
        // SAFETY: the connection is open.
        unsafe { ffi::sqlite3_get_autocommit(self.raw()) == 0 }
    }

    /// Whether a write lock on any of its databases is held.
    #[inline(always)]
    pub fn is_writing(&self) -> bool {
        // SAFETY: the connection is open.
        unsafe { ffi::sqlite3_txn_state(self.raw(), std::ptr::null()) == ffi::SQLITE_TXN_WRITE }
    }

    /// Notes a statement that is given up by [`Db::discard`], so that closing the connection ends it first.
    pub fn remember(&self, statement: *mut ffi::sqlite3_stmt) {
        self.db.statements.lock().insert(StatementPtr(statement));
    }

    pub(super) fn remember_blob(&self, blob: *mut ffi::sqlite3_blob) {
        self.db.blobs.lock().push(BlobPtr(blob));
    }

    pub(super) fn blob_era(&self) -> u32 {
        self.db.blob_era.load(Ordering::Relaxed)
    }

    /// Closes every BLOB; their owners find them closed.
    pub fn close_blobs(&self) {
        let blobs = std::mem::take(&mut *self.db.blobs.lock());
        if blobs.is_empty() {
            return;
        }
        self.db.blob_era.fetch_add(1, Ordering::Relaxed);
        for blob in blobs {
            // SAFETY: open, of this connection, which this thread is inside.
            unsafe { ffi::sqlite3_blob_close(blob.0) };
        }
    }

    pub(super) fn forget_blob(&self, blob: *mut ffi::sqlite3_blob) {
        self.db.blobs.lock().retain(|open| open.0 != blob);
    }

    /// Ends what its owner gave up, unless it has ended with the connection.
    fn end(&self, discarded: &Discarded) {
        if !self.db.is_open() {
            return;
        }
        // SAFETY: given up by its owner, and this thread is inside an open connection.
        unsafe {
            match *discarded {
                Discarded::Statement(statement) => {
                    self.db.statements.lock().remove(&StatementPtr(statement));
                    ffi::sqlite3_finalize(statement)
                }
                Discarded::Blob(blob, era) => {
                    if era != self.blob_era() {
                        return;
                    }
                    self.forget_blob(blob);
                    ffi::sqlite3_blob_close(blob)
                }
            };
        }
        // It may have been what kept a transaction open.
        self.settle_lane();
    }

    #[cold]
    fn drain(&self) {
        self.db.has_deferred.store(false, Ordering::Relaxed);
        let deferred = std::mem::take(&mut *self.db.deferred.lock());
        deferred.iter().for_each(|discarded| self.end(discarded));
    }

    /// Finalises every remembered statement, closes every BLOB, then the connection. Without effect on one that is closed.
    pub fn close(&self) {
        let raw = self.raw();
        if raw.is_null() {
            return;
        }
        self.db.deferred.lock().clear();
        self.db.standing.forget();
        let blobs = std::mem::take(&mut *self.db.blobs.lock());
        let statements = std::mem::take(&mut *self.db.statements.lock());
        // SAFETY: this thread is inside, and whoever keeps a statement or BLOB looks whether the connection is open before
        // use. A BLOB has a statement of its own, so it goes first.
        unsafe {
            for blob in blobs {
                ffi::sqlite3_blob_close(blob.0);
            }
            for statement in statements {
                ffi::sqlite3_finalize(statement.0);
            }
        }
        let mut owner = self.db.owner.lock();
        self.db.raw.store(std::ptr::null_mut(), Ordering::Relaxed);
        let connection = owner.take();
        drop(owner);
        drop(connection);
        self.db.seat.leave(self.db.id);
    }
}

impl Drop for Entered<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.db.has_deferred.load(Ordering::Acquire) && !self.is_running() {
            self.drain();
        }
        // Whatever ended the transaction.
        self.settle_lane();
    }
}

/// That another SQLite library has the file open, if that is why it could not be opened.
fn refused() -> Option<Failure> {
    store::refusal().map(|error| Failure { code: ffi::SQLITE_CANTOPEN, message: error.to_string() })
}

fn name_of(raw: *mut ffi::sqlite3) -> PathBuf {
    // SAFETY: the connection is open; the name lives as long, and is copied.
    let name = unsafe {
        let name = ffi::sqlite3_db_filename(raw, c"main".as_ptr());
        if name.is_null() {
            return PathBuf::new();
        }
        CStr::from_ptr(name)
    };
    #[cfg(unix)]
    {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        PathBuf::from(OsStr::from_bytes(name.to_bytes()))
    }
    #[cfg(not(unix))]
    PathBuf::from(name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Arc<Db> {
        Db::open(Path::new(":memory:"), &Open::default()).unwrap()
    }

    fn prepare(db: &Db, sql: &CStr) -> *mut ffi::sqlite3_stmt {
        let entered = db.enter();
        let mut statement = std::ptr::null_mut();
        // SAFETY: an open connection, a terminated text.
        let code =
            unsafe { ffi::sqlite3_prepare_v2(entered.raw(), sql.as_ptr(), -1, &mut statement, std::ptr::null_mut()) };
        assert_eq!(code, ffi::SQLITE_OK);
        entered.remember(statement);
        statement
    }

    #[test]
    fn statements_of_virtual_tables_end_with_these() {
        let db = memory();
        for sql in [c"CREATE VIRTUAL TABLE t USING fts5(a)", c"INSERT INTO t VALUES ('x')", c"SELECT * FROM t('x')"] {
            let statement = prepare(&db, sql);
            // SAFETY: a statement of this connection, used by this thread only.
            unsafe { ffi::sqlite3_step(statement) };
        }
        db.enter().close();
        assert!(!db.is_open());
    }

    #[test]
    fn closes_with_statements_left_and_closes_once() {
        let db = memory();
        let statement = prepare(&db, c"SELECT 1");
        db.enter().close();
        assert!(!db.is_open());
        db.enter().close();
        db.interrupt();
        // SAFETY: a statement of this connection; it ended with it.
        unsafe { db.discard(statement) };
    }

    #[test]
    fn a_statement_given_up_while_another_thread_is_inside_is_finalised_later() {
        let db = memory();
        let statement = prepare(&db, c"SELECT 1");
        let entered = db.enter();
        std::thread::scope(|scope| {
            let (db, statement) = (&db, Discarded::Statement(statement));
            scope.spawn(move || db.give_up(statement));
        });
        // SAFETY: the connection is open.
        assert!(!unsafe { ffi::sqlite3_next_stmt(entered.raw(), std::ptr::null_mut()) }.is_null());
        drop(entered);
        // SAFETY: the connection is open.
        assert!(unsafe { ffi::sqlite3_next_stmt(db.enter().raw(), std::ptr::null_mut()) }.is_null());
    }

    #[test]
    fn foreign_keys_are_not_enforced_unless_asked_for() {
        let db = memory();
        let mut enforced: c_int = -1;
        // SAFETY: the connection is open; the option takes an int, negative to change nothing, and a place for the answer.
        unsafe {
            ffi::sqlite3_db_config(db.enter().raw(), ffi::SQLITE_DBCONFIG_ENABLE_FKEY, -1 as c_int, &mut enforced)
        };
        assert_eq!(enforced, 0);
    }

    #[test]
    fn a_name_that_cannot_be_opened_is_refused_with_sqlites_words() {
        let error = Db::open(Path::new("/nowhere/at/all.db"), &Open::default()).err().unwrap();
        assert_eq!((error.code, error.to_string().as_str()), (ffi::SQLITE_CANTOPEN, "unable to open database file"));
    }
}
