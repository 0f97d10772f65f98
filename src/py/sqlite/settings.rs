//! What a PRAGMA changes that the module has to know of.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::time::Duration;

use pyo3::prelude::*;

use super::connection::Connection;
use super::gil;
use super::prepared::Prepared;
use crate::sqlite::{Entered, raw};

/// Steps `PRAGMA busy_timeout`. SQLite would install its own way of waiting, which sleeps with the interpreter lock held;
/// so it is let do so, asked for the time, and ours is put back with that.
pub fn step_busy_timeout(
    connection: &Bound<'_, Connection>,
    entered: &Entered<'_>,
    prepared: &mut Prepared,
) -> PyResult<c_int> {
    let py = connection.py();
    let millis = connection.get().state.with(py, |state| state.busy_timeout.as_millis());
    // SAFETY: open and entered; a statement of this connection.
    unsafe {
        raw::sqlite3_busy_timeout(entered.raw(), c_int::try_from(millis).unwrap_or(c_int::MAX));
        let code = gil::step(py, entered, prepared.statement, false);
        let timeout = match code {
            raw::SQLITE_ROW => raw::sqlite3_column_int64(prepared.statement, 0),
            // The second step of a script.
            _ => millis as i64,
        };
        let timeout = Duration::from_millis(u64::try_from(timeout).unwrap_or(0));
        gil::set_busy_timeout(entered, timeout);
        connection.get().state.with(py, |state| state.busy_timeout = timeout);
        Ok(code)
    }
}
