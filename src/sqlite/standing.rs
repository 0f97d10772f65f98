//! Reads that go on from one statement to the next.
//!
//! A statement that reads a WAL file by itself takes a lock of the file and gives it back: system calls that cost more
//! than the lookup of a row. On a connection where one read follows the other, a statement of its own keeps the
//! transaction open in between. Before each read the log's header tells whether anything has been committed; then the
//! standing read ends first. So every statement sees all commits that had finished before it, as ever.
//!
//! What an open transaction would get in the way of ends it: anything but a read on this connection (every entry that is
//! not [`Db::look`](super::Db::look)), an interrupt, [`HOLD`], and a log that is about to be checkpointed or was. A
//! checkpoint that empties the log waits for all who read it; once its pages are copied, reads by themselves do not use
//! the log any more, and let it pass.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::{CStr, c_int};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::ffi::{self, sqlite3, sqlite3_stmt};

use crate::store::{LogHead, LogState};
use crate::support::clock;

/// A standing read ends after this time, so that the log can be reset and schema locks are not in anybody's way. Others
/// may try that for a few milliseconds only.
pub(super) const HOLD: Duration = Duration::from_millis(2);
/// Reads further apart than this, in nanoseconds, do not follow each other. The coarse clock ticks every 4 to 10 ms.
const SOON: u64 = 12_000_000;
/// So many reads, with nothing committed or written in between, make it worthwhile: beginning costs what two gain.
const STREAK: u32 = 8;
/// With so many pages in the log, and not all of them in the database file, reads stand in the way of the checkpoint,
/// which SQLite makes from 1000 on.
const FULL: u32 = 900;
/// None begins for so many nanoseconds after a checkpoint was seen, which may have more to do, …
const AWAY: u64 = 50_000_000;
/// … and after a commit, which a checkpoint may follow at once.
const QUIET: u64 = 500_000;

/// Statements to look at for one that is busy.
const MANY: u32 = 48;

/// `SQLITE_PREPARE_PERSISTENT`.
const PERSISTENT: u32 = 1;

const STAND: &CStr = c"SELECT EXISTS (SELECT 1 FROM main.sqlite_master)";

/// The standing read of one connection. Everything but `interrupted` and `resting` is used by the thread inside only.
pub(super) struct Standing {
    allowed: Cell<bool>,
    active: Cell<bool>,
    statement: Cell<*mut sqlite3_stmt>,
    head: Cell<Option<LogHead>>,
    /// The log at the read before, and how many of its pages were copied into the file.
    seen: Cell<Option<(LogState, u32)>>,
    /// None begins before this time.
    away: Cell<u64>,
    /// When that was.
    last: Cell<u64>,
    streak: Cell<u32>,
    /// Something of the above is to be forgotten when anything but a read comes.
    touched: Cell<bool>,
    interrupted: AtomicBool,
    /// Somebody is going to end it.
    resting: AtomicBool,
}

// SAFETY: the connection's lock, which whoever calls this has entered, makes it one thread at a time.
unsafe impl Send for Standing {}
// SAFETY: the same.
unsafe impl Sync for Standing {}

impl Standing {
    pub fn new() -> Self {
        Self {
            allowed: Cell::new(false),
            active: Cell::new(false),
            statement: Cell::new(ptr::null_mut()),
            head: Cell::new(None),
            seen: Cell::new(None),
            away: Cell::new(0),
            last: Cell::new(0),
            streak: Cell::new(0),
            touched: Cell::new(false),
            interrupted: AtomicBool::new(false),
            resting: AtomicBool::new(false),
        }
    }

    pub fn allow(&self, allowed: bool) {
        self.allowed.set(allowed);
    }

    #[inline(always)]
    pub fn is_active(&self) -> bool {
        self.active.get()
    }

    /// Something else than a read is about to happen.
    #[inline(always)]
    pub fn end(&self) {
        if self.touched.replace(false) {
            self.streak.set(0);
            // It may be about to give up its log.
            self.head.set(None);
            if self.active.get() {
                self.stop();
            }
        }
    }

    /// A read is about to begin: ends the one that stands if it is not of the latest state.
    #[inline(always)]
    pub fn refresh(&self) {
        if self.active.get() {
            let now = self.head.get().map(|head| (head.state(), head.checkpointed()));
            if now != self.seen.get() || self.interrupted.load(Ordering::Relaxed) {
                self.stop();
                if let Some(now) = now {
                    self.note(now);
                }
            }
        }
    }

    /// A read is about to take its first step, outside of a transaction. Returns whether [`HOLD`] begins now.
    ///
    /// # Safety
    /// The connection is open, and this thread is inside.
    #[inline(always)]
    pub unsafe fn read(&self, connection: *mut sqlite3) -> bool {
        if self.active.get() || !self.allowed.get() {
            return false;
        }
        // SAFETY: the caller's promise.
        unsafe { self.consider(connection) }
    }

    /// # Safety
    /// As [`read`](Self::read).
    unsafe fn consider(&self, connection: *mut sqlite3) -> bool {
        let now = clock::coarse();
        let soon = now.saturating_sub(self.last.replace(now)) <= SOON;
        let streak = if soon { self.streak.get() + 1 } else { 1 };
        self.streak.set(streak);
        self.touched.set(true);
        if streak < STREAK / 2 {
            return false;
        }
        if self.head.get().is_none() {
            // SAFETY: the caller's promise.
            self.head.set(unsafe { find(connection) });
        }
        let Some(head) = self.head.get() else {
            self.allowed.set(false);
            return false;
        };
        let (state, copied) = (head.state(), head.checkpointed());
        if self.note((state, copied)) {
            self.streak.set(STREAK / 2);
            return false;
        }
        let in_the_way = state.frames() >= FULL && copied < state.frames();
        if streak < STREAK || in_the_way || clock::now() < self.away.get() {
            return false;
        }
        // SAFETY: the caller's promise.
        if !unsafe { self.begin(connection) } {
            return false;
        }
        // Committed meanwhile: the transaction may be of before or of after.
        if (head.state(), head.checkpointed()) != (state, copied) {
            self.stop();
            return false;
        }
        self.begins_rest()
    }

    /// Whether the log has changed since the read before.
    fn note(&self, log: (LogState, u32)) -> bool {
        let before = self.seen.replace(Some(log));
        if before == Some(log) {
            return false;
        }
        if let Some((state, copied)) = before {
            let is_checkpoint = log.1 != copied || log.0.frames() < state.frames();
            let pause = if is_checkpoint { AWAY } else { QUIET };
            self.away.set(self.away.get().max(clock::now() + pause));
        }
        true
    }

    /// Whether nobody was going to end it; now the caller is.
    pub fn begins_rest(&self) -> bool {
        !self.resting.swap(true, Ordering::Relaxed)
    }

    /// # Safety
    /// As [`read`](Self::read).
    #[cold]
    unsafe fn begin(&self, connection: *mut sqlite3) -> bool {
        // SAFETY: the caller's promise; the statement is this connection's.
        unsafe {
            let mut statement = self.statement.get();
            if statement.is_null() {
                let code = ffi::sqlite3_prepare_v3(
                    connection,
                    STAND.as_ptr(),
                    -1,
                    PERSISTENT,
                    &mut statement,
                    ptr::null_mut(),
                );
                if code != ffi::SQLITE_OK {
                    return false;
                }
                self.statement.set(statement);
            }
            self.active.set(true);
            if ffi::sqlite3_step(statement) != ffi::SQLITE_ROW {
                self.stop();
                return false;
            }
        }
        true
    }

    #[cold]
    fn stop(&self) {
        self.active.set(false);
        self.streak.set(0);
        self.interrupted.store(false, Ordering::Relaxed);
        // SAFETY: a statement of the connection, which is open: `forget` is called before it is closed.
        unsafe { ffi::sqlite3_reset(self.statement.get()) };
    }

    /// Whether a statement of somebody else has not been read to its end; `None` if there is no standing read. Ends it
    /// where so many statements are kept that looking at them takes longer than beginning it anew.
    ///
    /// # Safety
    /// As [`read`](Self::read).
    pub unsafe fn others_are_busy(&self, connection: *mut sqlite3) -> Option<bool> {
        if !self.active.get() {
            return None;
        }
        // SAFETY: the caller's promise; the statements are the connection's own.
        unsafe {
            let mut statement = ptr::null_mut();
            for _ in 0..MANY {
                statement = ffi::sqlite3_next_stmt(connection, statement);
                if statement.is_null() {
                    return Some(false);
                }
                if statement != self.statement.get() && ffi::sqlite3_stmt_busy(statement) != 0 {
                    return Some(true);
                }
            }
        }
        self.stop();
        None
    }

    /// The connection is about to be closed, and its statements finalised.
    pub fn forget(&self) {
        self.end();
        self.allowed.set(false);
        // SAFETY: called while the connection is still open; null does nothing.
        unsafe { ffi::sqlite3_finalize(self.statement.replace(ptr::null_mut())) };
    }

    /// While a read stands, SQLite takes an interrupt to be for it, and for all statements that begin before it ends.
    pub fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Relaxed);
    }

    /// [`HOLD`] is over.
    pub fn rested(&self) {
        self.resting.store(false, Ordering::Relaxed);
    }
}

/// The header of the connection's log; `None` if it has none of its own, or more than one database.
///
/// # Safety
/// As [`Standing::read`].
#[cold]
unsafe fn find(connection: *mut sqlite3) -> Option<LogHead> {
    // SAFETY: the caller's promise. `journal_mode` makes the connection look at the file, and so open its log. With
    // exclusive locking the index would not be shared.
    unsafe {
        let usual = answers(connection, c"PRAGMA main.journal_mode", 0, &[c"wal"])
            && answers(connection, c"PRAGMA main.locking_mode", 0, &[c"normal"])
            && answers(connection, c"PRAGMA database_list", 1, &[c"main", c"temp"]);
        if usual { LogHead::of_raw(connection) } else { None }
    }
}

/// Whether all rows have one of these texts in that column.
///
/// # Safety
/// As [`Standing::read`].
unsafe fn answers(connection: *mut sqlite3, sql: &CStr, column: c_int, expected: &[&CStr]) -> bool {
    let mut statement = ptr::null_mut();
    // SAFETY: the caller's promise; each text is done with before the next step.
    unsafe {
        if ffi::sqlite3_prepare_v2(connection, sql.as_ptr(), -1, &mut statement, ptr::null_mut()) != ffi::SQLITE_OK {
            return false;
        }
        let code = loop {
            let code = ffi::sqlite3_step(statement);
            if code != ffi::SQLITE_ROW {
                break code;
            }
            let text = ffi::sqlite3_column_text(statement, column);
            if text.is_null() || !expected.contains(&CStr::from_ptr(text.cast())) {
                break ffi::SQLITE_MISMATCH;
            }
        };
        ffi::sqlite3_finalize(statement);
        code == ffi::SQLITE_DONE
    }
}
