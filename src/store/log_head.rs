//! What SQLite's own functions do not offer about the write-ahead log: whether it was changed, without a system call,
//! and that it is not deleted.
//!
//! The index of the write-ahead log lies in memory shared by all processes that use the file. It begins with a header
//! that every commit changes, described in SQLite's "WAL-mode File Format". SQLite compares this header whenever a read
//! begins; between two locks and an unlock that cost more than the lookup of a row.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU32, Ordering, fence};

use rusqlite::ffi;

/// Length of the header in words.
const WORDS: usize = 12;
/// Two copies of the header, and the first word of what checkpoints write.
const MAPPED: usize = 2 * WORDS + 1;
/// First word of every header so far.
const FORMAT: u32 = 3_007_000;
/// Size of the part of the index that holds the header, as SQLite maps it.
const REGION: c_int = 32_768;

/// One state of the log. Two states that differ mean a commit (or a recovery) in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogState([u32; WORDS]);

impl LogState {
    /// Pages in the log.
    pub fn frames(&self) -> u32 {
        self.0[4]
    }
}

/// The header in shared memory. Valid while the connection it was taken from is open and keeps to its log.
#[derive(Clone, Copy)]
pub struct LogHead(*const [AtomicU32; MAPPED]);

// SAFETY: the memory is shared between processes anyway and only read through atomics.
unsafe impl Send for LogHead {}

impl LogHead {
    /// `None` if the connection uses no log or an index of unknown format. The connection must have read already.
    pub(super) fn of(connection: &rusqlite::Connection) -> Option<Self> {
        // SAFETY: the connection is open and used by this thread, as it is borrowed.
        unsafe { Self::of_raw(connection.handle()) }
    }

    /// The same.
    ///
    /// # Safety
    /// The connection is open, in WAL mode, has read already, and no other thread uses it.
    pub unsafe fn of_raw(connection: *mut ffi::sqlite3) -> Option<Self> {
        let mut file: *mut ffi::sqlite3_file = std::ptr::null_mut();
        let mut region: *mut c_void = std::ptr::null_mut();
        // SAFETY: the connection is open. FILE_POINTER yields its file object, which lives as long as it does, or null.
        // Methods of version 2 have `xShmMap`; it returns the address at which the connection has mapped this part of the
        // index already, and maps nothing new, as it is told not to extend. SQLite keeps that mapping until the
        // connection is closed. The header is at its start, aligned as the mapping is.
        let head = unsafe {
            let place = std::ptr::from_mut(&mut file).cast::<c_void>();
            let found = ffi::sqlite3_file_control(connection, c"main".as_ptr(), ffi::SQLITE_FCNTL_FILE_POINTER, place);
            if found != ffi::SQLITE_OK || file.is_null() {
                return None;
            }
            let methods = (*file).pMethods.as_ref()?;
            if methods.iVersion < 2 {
                return None;
            }
            let map = methods.xShmMap?;
            if map(file, 0, REGION, 0, &mut region) != ffi::SQLITE_OK || region.is_null() {
                return None;
            }
            Self(region.cast_const().cast())
        };
        (head.state().0[0] == FORMAT).then_some(head)
    }

    /// The present state. It includes every commit that another process had finished before.
    #[inline]
    pub fn state(&self) -> LogState {
        // SAFETY: see `of`; the owner of `self` keeps the connection open.
        let words = unsafe { &*self.0 };
        fence(Ordering::Acquire);
        let state = std::array::from_fn(|n| words[n].load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        LogState(state)
    }

    /// Pages at the beginning of the log that the database file has too.
    pub fn checkpointed(&self) -> u32 {
        // SAFETY: as in `state`.
        let words = unsafe { &*self.0 };
        words[MAPPED - 1].load(Ordering::Acquire)
    }
}

/// Lets the connection, should it be the last, close without deleting the log and its index.
pub(super) fn keep_log(connection: &rusqlite::Connection) {
    let mut keep: c_int = 1;
    // SAFETY: the connection is open; PERSIST_WAL takes a pointer to an integer. A file without support for it says so,
    // and there is nothing to be done about that.
    unsafe {
        ffi::sqlite3_file_control(
            connection.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_PERSIST_WAL,
            std::ptr::from_mut(&mut keep).cast(),
        );
    }
}
