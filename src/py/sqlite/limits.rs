//! Limits and switches of a connection.
#![allow(unsafe_code)]

use std::ffi::c_int;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::connection::{Connection, enter};
use super::errors;
use crate::sqlite::raw;

/// Switches that are an int: on or off.
const SWITCHES: [c_int; 16] = [
    raw::SQLITE_DBCONFIG_ENABLE_FKEY,
    raw::SQLITE_DBCONFIG_ENABLE_TRIGGER,
    raw::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER,
    raw::SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION,
    raw::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE,
    raw::SQLITE_DBCONFIG_ENABLE_QPSG,
    raw::SQLITE_DBCONFIG_TRIGGER_EQP,
    raw::SQLITE_DBCONFIG_RESET_DATABASE,
    raw::SQLITE_DBCONFIG_DEFENSIVE,
    raw::SQLITE_DBCONFIG_WRITABLE_SCHEMA,
    raw::SQLITE_DBCONFIG_LEGACY_ALTER_TABLE,
    raw::SQLITE_DBCONFIG_DQS_DML,
    raw::SQLITE_DBCONFIG_DQS_DDL,
    raw::SQLITE_DBCONFIG_ENABLE_VIEW,
    raw::SQLITE_DBCONFIG_LEGACY_FILE_FORMAT,
    raw::SQLITE_DBCONFIG_TRUSTED_SCHEMA,
];

fn check_switch(op: c_int) -> PyResult<()> {
    if SWITCHES.contains(&op) {
        return Ok(());
    }
    Err(PyValueError::new_err(format!("unknown config 'op': {op}")))
}

impl Connection {
    /// Sets a switch to 0 or 1, or leaves it for a negative value; returns how it stands then.
    fn switch(&self, py: Python<'_>, op: c_int, value: c_int) -> PyResult<bool> {
        let db = self.db(py)?;
        check_switch(op)?;
        let entered = enter(py, &db)?;
        let mut current: c_int = 0;
        // SAFETY: open and entered; these switches take an int and a pointer to one.
        let code = unsafe { raw::sqlite3_db_config(entered.raw(), op, value, &raw mut current) };
        if code == raw::SQLITE_OK { Ok(current != 0) } else { Err(errors::of_code(py, &entered, code)) }
    }
}

#[pymethods]
impl Connection {
    /// Set a limit of the connection; returns the former one.
    ///
    /// Args:
    ///     category: One of the `SQLITE_LIMIT_` codes; `ProgrammingError` for another.
    ///     limit: The new one, cut to what the library allows; a negative number changes nothing.
    #[pyo3(signature = (category, limit, /))]
    fn setlimit(&self, py: Python<'_>, category: c_int, limit: c_int) -> PyResult<c_int> {
        let db = self.db(py)?;
        let entered = enter(py, &db)?;
        // SAFETY: open and entered.
        let former = unsafe { raw::sqlite3_limit(entered.raw(), category, limit) };
        if former < 0 {
            return Err(errors::programming(py, "'category' is out of bounds"));
        }
        Ok(former)
    }

    /// A limit of the connection; `category` is one of the `SQLITE_LIMIT_` codes, `ProgrammingError` for another.
    #[pyo3(signature = (category, /))]
    fn getlimit(&self, py: Python<'_>, category: c_int) -> PyResult<c_int> {
        self.setlimit(py, category, -1)
    }

    /// Turn a switch of the connection on or off; `op` is one of the `SQLITE_DBCONFIG_` codes.
    #[pyo3(signature = (op, enable = None, /), text_signature = "($self, op, enable=True, /)")]
    fn setconfig(&self, py: Python<'_>, op: c_int, enable: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let enable = enable.map_or(Ok(true), |enable| enable.is_truthy())?;
        if self.switch(py, op, c_int::from(enable))? != enable {
            return Err(errors::operational(py, "Unable to set config"));
        }
        Ok(())
    }

    /// Whether a switch of the connection is on; `op` is one of the `SQLITE_DBCONFIG_` codes.
    #[pyo3(signature = (op, /))]
    fn getconfig(&self, py: Python<'_>, op: c_int) -> PyResult<bool> {
        self.switch(py, op, -1)
    }
}
