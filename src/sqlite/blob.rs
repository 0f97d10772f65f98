//! A BLOB of one row, read and written in place.
//!
//! An open one is a running statement in all but name, so the connection knows of it and ends it when it is closed.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use rusqlite::ffi;

use super::handle::{Db, Entered, Failure};

/// Where a BLOB is.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// `main`, `temp` or the name of an attached database.
    pub database: &'a CStr,
    pub table: &'a CStr,
    pub column: &'a CStr,
    pub row: i64,
}

/// An open BLOB. Ends with its connection if that is closed first.
pub struct Blob {
    db: Arc<Db>,
    /// Null once closed. Used by a thread inside the connection only.
    raw: AtomicPtr<ffi::sqlite3_blob>,
    /// A read or write failed and said so.
    has_failed: AtomicBool,
    era: u32,
}

impl Blob {
    /// Opens the BLOB. With `write` the transaction it is in writes, until the BLOB is closed at least.
    pub fn open(db: &Arc<Db>, entered: &Entered<'_>, place: Place<'_>, write: bool) -> Result<Self, Failure> {
        let mut raw = std::ptr::null_mut();
        let Place { database, table, column, row } = place;
        check(entered, db)?;
        // SAFETY: the connection is open and entered, the names are terminated.
        let code = unsafe {
            let (database, table, column) = (database.as_ptr(), table.as_ptr(), column.as_ptr());
            ffi::sqlite3_blob_open(entered.raw(), database, table, column, row, c_int::from(write), &mut raw)
        };
        if code != ffi::SQLITE_OK {
            return Err(entered.failure(code));
        }
        entered.remember_blob(raw);
        let era = entered.blob_era();
        Ok(Self { db: Arc::clone(db), raw: AtomicPtr::new(raw), has_failed: AtomicBool::new(false), era })
    }

    pub fn db(&self) -> &Arc<Db> {
        &self.db
    }

    /// Size in bytes; `None` once it is closed.
    pub fn len(&self, entered: &Entered<'_>) -> Option<usize> {
        let raw = self.raw(entered)?;
        // SAFETY: open, and its connection is entered.
        Some(unsafe { ffi::sqlite3_blob_bytes(raw) } as usize)
    }

    /// Fills `into` with the bytes from `offset` on.
    pub fn read(&self, entered: &Entered<'_>, offset: usize, into: &mut [u8]) -> Result<(), Failure> {
        let (Some(raw), Some((length, offset))) = (self.raw(entered), range(into.len(), offset)) else {
            return Err(Failure::of_code(ffi::SQLITE_MISUSE));
        };
        // SAFETY: open, and its connection is entered; SQLite checks the range.
        let code = unsafe { ffi::sqlite3_blob_read(raw, into.as_mut_ptr().cast(), length, offset) };
        self.outcome(entered, code)
    }

    /// Writes `bytes` from `offset` on. The size stays.
    pub fn write(&self, entered: &Entered<'_>, offset: usize, bytes: &[u8]) -> Result<(), Failure> {
        let (Some(raw), Some((length, offset))) = (self.raw(entered), range(bytes.len(), offset)) else {
            return Err(Failure::of_code(ffi::SQLITE_MISUSE));
        };
        // SAFETY: open, and its connection is entered; SQLite checks the range.
        let code = unsafe { ffi::sqlite3_blob_write(raw, bytes.as_ptr().cast(), length, offset) };
        self.outcome(entered, code)
    }

    fn outcome(&self, entered: &Entered<'_>, code: c_int) -> Result<(), Failure> {
        if code == ffi::SQLITE_OK {
            return Ok(());
        }
        self.has_failed.store(true, Ordering::Relaxed);
        Err(entered.failure(code))
    }

    /// Closes it; outside of a transaction that commits. Without effect on one that is closed.
    pub fn close(&self, entered: &Entered<'_>) -> Result<(), Failure> {
        let Some(raw) = self.raw(entered) else { return Ok(()) };
        self.raw.store(std::ptr::null_mut(), Ordering::Relaxed);
        entered.forget_blob(raw);
        // SAFETY: open until now, and its connection is entered.
        let code = unsafe { ffi::sqlite3_blob_close(raw) };
        // SQLite tells the failure of a read or write once more.
        if code == ffi::SQLITE_OK || self.has_failed.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err(entered.failure(code))
        }
    }

    fn raw(&self, entered: &Entered<'_>) -> Option<*mut ffi::sqlite3_blob> {
        check(entered, &self.db).ok()?;
        let raw = self.raw.load(Ordering::Relaxed);
        (!raw.is_null() && entered.blob_era() == self.era).then_some(raw)
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        let raw = *self.raw.get_mut();
        if !raw.is_null() {
            // SAFETY: nobody else has it.
            unsafe { self.db.discard_blob(raw, self.era) };
        }
    }
}

/// The guard is one of this connection, which is open.
fn check(entered: &Entered<'_>, db: &Db) -> Result<(), Failure> {
    if std::ptr::eq(entered.db(), db) && db.is_open() { Ok(()) } else { Err(Failure::of_code(ffi::SQLITE_MISUSE)) }
}

fn range(length: usize, offset: usize) -> Option<(c_int, c_int)> {
    Some((c_int::try_from(length).ok()?, c_int::try_from(offset).ok()?))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::sqlite::Open;

    const PLACE: Place<'_> = Place { database: c"main", table: c"t", column: c"b", row: 1 };

    fn filled() -> Arc<Db> {
        let db = Db::open(Path::new(":memory:"), &Open::default()).unwrap();
        run(&db, c"CREATE TABLE t (b); INSERT INTO t VALUES (x'010203')");
        db
    }

    fn run(db: &Db, sql: &CStr) {
        let entered = db.enter();
        // SAFETY: an open connection, a terminated text.
        let code = unsafe {
            let nothing = std::ptr::null_mut();
            ffi::sqlite3_exec(entered.raw(), sql.as_ptr(), None, nothing, std::ptr::null_mut())
        };
        assert_eq!(code, ffi::SQLITE_OK);
    }

    #[test]
    fn reads_and_writes_in_place() {
        let db = filled();
        let entered = db.enter();
        let blob = Blob::open(&db, &entered, PLACE, true).unwrap();
        assert_eq!(blob.len(&entered), Some(3));
        blob.write(&entered, 1, &[9]).unwrap();
        let mut found = [0; 2];
        blob.read(&entered, 0, &mut found).unwrap();
        assert_eq!(found, [1, 9]);
        assert_eq!(blob.read(&entered, 2, &mut found).unwrap_err().primary(), ffi::SQLITE_ERROR);
        blob.close(&entered).unwrap();
        blob.close(&entered).unwrap();
        assert_eq!(blob.len(&entered), None);
        assert_eq!(blob.write(&entered, 0, &[1]).unwrap_err().code, ffi::SQLITE_MISUSE);
    }

    #[test]
    fn the_connection_closes_with_blobs_left() {
        let db = filled();
        let entered = db.enter();
        let blob = Blob::open(&db, &entered, PLACE, true).unwrap();
        let other = Blob::open(&db, &entered, PLACE, false).unwrap();
        drop(other);
        entered.close();
        assert!(!db.is_open());
        assert_eq!(blob.len(&entered), None);
    }

    #[test]
    fn one_given_up_while_another_thread_is_inside_is_closed_later() {
        let db = filled();
        let entered = db.enter();
        let blob = Blob::open(&db, &entered, PLACE, true).unwrap();
        assert!(entered.is_writing());
        std::thread::scope(|scope| {
            scope.spawn(move || drop(blob));
        });
        assert!(entered.is_writing());
        drop(entered);
        assert!(!db.enter().is_writing());
    }

    #[test]
    fn a_change_of_the_row_ends_it() {
        let db = filled();
        let entered = db.enter();
        let blob = Blob::open(&db, &entered, PLACE, false).unwrap();
        run(&db, c"UPDATE t SET b = x'00'");
        assert_eq!(blob.read(&entered, 0, &mut [0]).unwrap_err().code, ffi::SQLITE_ABORT);
    }

    #[test]
    fn a_guard_of_another_connection_is_refused() {
        let (db, other) = (filled(), filled());
        let blob = Blob::open(&db, &db.enter(), PLACE, false).unwrap();
        assert_eq!(blob.len(&other.enter()), None);
        assert!(Blob::open(&db, &other.enter(), PLACE, false).is_err());
    }
}
