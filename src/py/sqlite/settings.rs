//! What a PRAGMA changes that the module has to know of.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::time::Duration;

use pyo3::prelude::*;

use super::connection::Connection;
use super::gil;
use super::prepared::Prepared;
use crate::sqlite::{Entered, raw, text};

/// Whether a text (without leading blanks) begins with `PRAGMA busy_timeout`, roughly: it may be explained, or be about
/// one database.
pub fn names_busy_timeout(head: &[u8]) -> bool {
    if !text::begins_with(head, "pragma") && !text::begins_with(head, "explain") {
        return false;
    }
    let end = head.iter().position(|&byte| byte == b';').unwrap_or(head.len());
    head[..end].windows(12).any(|part| part.eq_ignore_ascii_case(b"busy_timeout"))
}

/// SQLite's own way of waiting, for as long as this lives: only so it knows the timeout. Then ours again.
pub struct Waiting<'a, 'db> {
    entered: &'a Entered<'db>,
    timeout: Duration,
}

impl<'a, 'db> Waiting<'a, 'db> {
    pub fn begin(entered: &'a Entered<'db>) -> Self {
        let timeout = entered.db().seat().timeout();
        // SAFETY: open and entered.
        unsafe {
            raw::sqlite3_busy_timeout(entered.raw(), c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX));
        }
        Self { entered, timeout }
    }
}

impl Drop for Waiting<'_, '_> {
    fn drop(&mut self) {
        gil::set_busy_timeout(self.entered, self.timeout);
    }
}

/// Steps `PRAGMA busy_timeout`. SQLite installs its own way of waiting, which sleeps with the interpreter lock held, when
/// it compiles the statement, and that is before each run; so it is let do so, and ours is put back with the new time.
pub fn step_busy_timeout(
    connection: &Bound<'_, Connection>,
    entered: &Entered<'_>,
    prepared: &mut Prepared,
) -> PyResult<c_int> {
    let py = connection.py();
    let mut waiting = Waiting::begin(entered);
    // SAFETY: open and entered; a statement of this connection, asked for its value only when it stands on a row.
    unsafe {
        let code = gil::step(py, entered, prepared.statement, false);
        if code == raw::SQLITE_ROW {
            let millis = raw::sqlite3_column_int64(prepared.statement, 0);
            waiting.timeout = Duration::from_millis(u64::try_from(millis).unwrap_or(0));
        }
        let timeout = waiting.timeout;
        connection.get().state.with(py, |state| state.busy_timeout = timeout);
        Ok(code)
    }
}
