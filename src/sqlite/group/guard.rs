//! What keeps the statements of a group within their transaction: SQLite is asked what they are, not their text.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rusqlite::ffi;

use crate::sqlite::{Db, Entered};

/// The authorizer that somebody set on the connection before it became that of a group.
pub struct Authorizer {
    pub call: Call,
    /// The connection keeps what this points to.
    pub data: *mut c_void,
}

type Call =
    unsafe extern "C" fn(*mut c_void, c_int, *const c_char, *const c_char, *const c_char, *const c_char) -> c_int;

// SAFETY: used by the thread inside the connection only, which SQLite itself demands of it.
unsafe impl Send for Authorizer {}
// SAFETY: as above.
unsafe impl Sync for Authorizer {}

/// Told by SQLite what is compiled, and how transactions end.
#[derive(Default)]
pub(crate) struct Guard {
    /// Asked about what is not refused.
    next: Option<Authorizer>,
    /// The statement of a request is being compiled: the group's own are let through.
    is_asked: AtomicBool,
    /// What the statement was refused for.
    refused: Mutex<Option<&'static str>>,
    /// A transaction was committed, and none rolled back after it.
    committed: AtomicBool,
}

impl Guard {
    /// Watches the connection of a group.
    pub fn install(db: &Db, entered: &Entered<'_>, next: Option<Authorizer>) -> Arc<Self> {
        let guard = Arc::new(Self { next, ..Self::default() });
        db.keep(Arc::clone(&guard) as _);
        let data = Arc::as_ptr(&guard).cast_mut().cast();
        // SAFETY: the connection is open and entered, and keeps the guard for as long as it is.
        unsafe {
            ffi::sqlite3_set_authorizer(entered.raw(), Some(on_authorize), data);
            ffi::sqlite3_commit_hook(entered.raw(), Some(on_commit), data);
            ffi::sqlite3_rollback_hook(entered.raw(), Some(on_rollback), data);
        }
        guard
    }

    /// Compiles the statement of a request. Returns the result code, and what it was refused for.
    pub fn compile(&self, compile: impl FnOnce() -> c_int) -> (c_int, Option<&'static str>) {
        self.is_asked.store(true, Ordering::Relaxed);
        let code = compile();
        self.is_asked.store(false, Ordering::Relaxed);
        // What a virtual table compiles for itself meanwhile may be refused without consequence.
        let refused = self.refused.lock().take();
        (code, refused.filter(|_| code & 0xff == ffi::SQLITE_AUTH))
    }

    pub fn begin(&self) {
        self.committed.store(false, Ordering::Relaxed);
    }

    /// Whether the transaction that has ended since [`begin`](Self::begin) was committed.
    pub fn has_committed(&self) -> bool {
        self.committed.load(Ordering::Relaxed)
    }
}

/// What concerns the whole group, by its keyword.
fn concern(action: c_int, operation: &CStr) -> Option<&'static str> {
    match (action, operation.to_bytes()) {
        (ffi::SQLITE_TRANSACTION, b"BEGIN") => Some("BEGIN"),
        (ffi::SQLITE_TRANSACTION, b"ROLLBACK") | (ffi::SQLITE_SAVEPOINT, b"ROLLBACK") => Some("ROLLBACK"),
        (ffi::SQLITE_TRANSACTION, _) => Some("COMMIT"),
        (ffi::SQLITE_SAVEPOINT, b"RELEASE") => Some("RELEASE"),
        (ffi::SQLITE_SAVEPOINT, _) => Some("SAVEPOINT"),
        (ffi::SQLITE_PRAGMA, _) => Some("PRAGMA"),
        (ffi::SQLITE_ATTACH, _) => Some("ATTACH"),
        (ffi::SQLITE_DETACH, _) => Some("DETACH"),
        _ => None,
    }
}

unsafe extern "C" fn on_authorize(
    guard: *mut c_void,
    action: c_int,
    one: *const c_char,
    two: *const c_char,
    database: *const c_char,
    source: *const c_char,
) -> c_int {
    // SAFETY: the guard that was registered, which the connection keeps.
    let guard = unsafe { &*guard.cast::<Guard>() };
    if guard.is_asked.load(Ordering::Relaxed) {
        // SAFETY: null or a terminated text.
        let operation = unsafe { if one.is_null() { c"" } else { CStr::from_ptr(one) } };
        if let Some(word) = concern(action, operation) {
            *guard.refused.lock() = Some(word);
            return ffi::SQLITE_DENY;
        }
    }
    match &guard.next {
        // SAFETY: called as SQLite would call it.
        Some(next) => unsafe { (next.call)(next.data, action, one, two, database, source) },
        None => ffi::SQLITE_OK,
    }
}

unsafe extern "C" fn on_commit(guard: *mut c_void) -> c_int {
    // SAFETY: as above.
    unsafe { &*guard.cast::<Guard>() }.committed.store(true, Ordering::Relaxed);
    // Not to be turned into a rollback.
    0
}

unsafe extern "C" fn on_rollback(guard: *mut c_void) {
    // SAFETY: as above.
    unsafe { &*guard.cast::<Guard>() }.committed.store(false, Ordering::Relaxed);
}
