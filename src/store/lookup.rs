//! A query that is repeated often.
//!
//! rusqlite's statement cache hashes the SQL and allocates for every use, which costs a good part of what SQLite takes
//! to find a row.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};
use std::ptr::{NonNull, null_mut};

use rusqlite::ffi;
use rusqlite::types::ValueRef;

use crate::support::runtime::pid;

/// Belongs to the connection it was prepared on, whose owner keeps it and drops it first.
pub(super) struct Lookup {
    pid: u32,
    pub sql: &'static str,
    statement: NonNull<ffi::sqlite3_stmt>,
}

// SAFETY: SQLite lets any thread use a statement as long as only one uses its connection at a time, and that is up to the
// owner of both.
unsafe impl Send for Lookup {}

impl Lookup {
    pub fn prepare(connection: &rusqlite::Connection, sql: &'static str) -> rusqlite::Result<Self> {
        let length = c_int::try_from(sql.len()).unwrap_or(c_int::MAX);
        let mut statement = null_mut();
        // SAFETY: the connection is open, the text is there for the call and as long as said.
        let (code, statement) = unsafe {
            let code = ffi::sqlite3_prepare_v3(
                connection.handle(),
                sql.as_ptr().cast(),
                length,
                ffi::SQLITE_PREPARE_PERSISTENT,
                &mut statement,
                null_mut(),
            );
            (code, NonNull::new(statement))
        };
        match statement {
            Some(statement) if code == ffi::SQLITE_OK => Ok(Self { pid: pid(), sql, statement }),
            // SAFETY: the connection is open.
            _ => Err(unsafe { failure(connection.handle(), code) }),
        }
    }

    /// Hands the lines of the result to `each`, which ends the query with `false`.
    ///
    /// # Safety
    /// The connection is still open and no other thread uses it.
    pub unsafe fn run(
        &mut self,
        parameters: &[ValueRef<'_>],
        mut each: impl FnMut(&Line) -> bool,
    ) -> rusqlite::Result<()> {
        let statement = self.statement.as_ptr();
        let reset = Reset(statement);
        let mut code = ffi::SQLITE_OK;
        for (parameter, place) in parameters.iter().zip(1..) {
            // SAFETY: the statement is alive; texts and blobs are there until `reset` unbinds them.
            code = code.max(unsafe { bind(statement, place, *parameter) });
        }
        if code == ffi::SQLITE_OK {
            loop {
                // SAFETY: the statement is alive.
                code = unsafe { ffi::sqlite3_step(statement) };
                if code != ffi::SQLITE_ROW || !each(&Line(statement)) {
                    break;
                }
            }
        }
        let result = match code {
            ffi::SQLITE_ROW | ffi::SQLITE_DONE => Ok(()),
            // SAFETY: the statement is alive, and so its connection.
            code => Err(unsafe { failure(ffi::sqlite3_db_handle(statement), code) }),
        };
        drop(reset);
        result
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        // A forked child leaves what it inherited alone.
        if self.pid == pid() {
            // SAFETY: the owner drops it before the connection.
            unsafe { ffi::sqlite3_finalize(self.statement.as_ptr()) };
        }
    }
}

/// Ends a query, also when a closure unwinds.
struct Reset(*mut ffi::sqlite3_stmt);

impl Drop for Reset {
    fn drop(&mut self) {
        // SAFETY: made and dropped within `run`. A failed step was reported already.
        unsafe {
            ffi::sqlite3_reset(self.0);
            ffi::sqlite3_clear_bindings(self.0);
        }
    }
}

/// The present line of a result.
pub struct Line(*mut ffi::sqlite3_stmt);

impl Line {
    /// The value of a column; NULL if there is no such column.
    pub fn get(&self, column: c_int) -> ValueRef<'_> {
        let line = self.0;
        // SAFETY: the statement stands on a line for as long as `self` is lent to the closure. What the pointers point to
        // is valid until the statement moves on or the column is converted; each column is only ever read as what it is.
        // Empty values have no pointer.
        unsafe {
            let bytes = |start: *const u8| match start.is_null() {
                true => &[],
                false => {
                    let length = ffi::sqlite3_column_bytes(line, column);
                    std::slice::from_raw_parts(start, usize::try_from(length).unwrap_or_default())
                }
            };
            match ffi::sqlite3_column_type(line, column) {
                ffi::SQLITE_INTEGER => ValueRef::Integer(ffi::sqlite3_column_int64(line, column)),
                ffi::SQLITE_FLOAT => ValueRef::Real(ffi::sqlite3_column_double(line, column)),
                ffi::SQLITE_TEXT => ValueRef::Text(bytes(ffi::sqlite3_column_text(line, column))),
                ffi::SQLITE_BLOB => ValueRef::Blob(bytes(ffi::sqlite3_column_blob(line, column).cast())),
                _ => ValueRef::Null,
            }
        }
    }
}

/// # Safety
/// The statement is alive, and the value lives as long as it is bound.
unsafe fn bind(statement: *mut ffi::sqlite3_stmt, place: c_int, value: ValueRef<'_>) -> c_int {
    // SAFETY: the caller's promise; lengths are those of the slices.
    unsafe {
        match value {
            ValueRef::Null => ffi::sqlite3_bind_null(statement, place),
            ValueRef::Integer(value) => ffi::sqlite3_bind_int64(statement, place, value),
            ValueRef::Real(value) => ffi::sqlite3_bind_double(statement, place, value),
            ValueRef::Text(text) => ffi::sqlite3_bind_text64(
                statement,
                place,
                text.as_ptr().cast(),
                text.len() as u64,
                ffi::SQLITE_STATIC(),
                ffi::SQLITE_UTF8 as u8,
            ),
            ValueRef::Blob(bytes) => ffi::sqlite3_bind_blob64(
                statement,
                place,
                bytes.as_ptr().cast(),
                bytes.len() as u64,
                ffi::SQLITE_STATIC(),
            ),
        }
    }
}

/// # Safety
/// The connection is open.
unsafe fn failure(connection: *mut ffi::sqlite3, code: c_int) -> rusqlite::Error {
    // SAFETY: the text is valid until the next call on the connection.
    let text = unsafe { CStr::from_ptr(ffi::sqlite3_errmsg(connection)) };
    let text = text.to_string_lossy().into_owned();
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(text))
}
