//! When transactions begin and end: by `isolation_level`, the way of old, or by `autocommit`.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::sync::Arc;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyString};

use super::connection::{Connection, LEGACY_TRANSACTION_CONTROL, enter, look, plain_int};
use super::gil::Stepping;
use super::{errors, lane};
use crate::sqlite::lane::Access;
use crate::sqlite::{Db, raw};

/// `isolation_level`: how a transaction begins before a statement that changes rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// None: not at all.
    Off,
    /// `""`, the default.
    Deferred,
    DeferredByName,
    Immediate,
    Exclusive,
}

/// `autocommit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Autocommit {
    /// `LEGACY_TRANSACTION_CONTROL`: by `isolation_level`.
    Legacy,
    On,
    /// A transaction is always open.
    Off,
}

impl Isolation {
    pub fn of(level: &Bound<'_, PyAny>) -> PyResult<Self> {
        if level.is_none() {
            return Ok(Self::Off);
        }
        let Ok(level) = level.cast::<PyString>() else {
            return Err(PyTypeError::new_err("isolation_level must be str or None"));
        };
        let text = level.to_str()?;
        if text.contains('\0') {
            return Err(PyValueError::new_err("embedded null character"));
        }
        Ok(match text.to_ascii_uppercase().as_str() {
            "" => Self::Deferred,
            "DEFERRED" => Self::DeferredByName,
            "IMMEDIATE" => Self::Immediate,
            "EXCLUSIVE" => Self::Exclusive,
            _ => {
                return Err(PyValueError::new_err(
                    "isolation_level string must be '', 'DEFERRED', 'IMMEDIATE', or 'EXCLUSIVE'",
                ));
            }
        })
    }

    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Off => None,
            Self::Deferred => Some(""),
            Self::DeferredByName => Some("DEFERRED"),
            Self::Immediate => Some("IMMEDIATE"),
            Self::Exclusive => Some("EXCLUSIVE"),
        }
    }

    fn statement(self) -> &'static CStr {
        match self {
            Self::Off | Self::Deferred => c"BEGIN ",
            Self::DeferredByName => c"BEGIN DEFERRED",
            Self::Immediate => c"BEGIN IMMEDIATE",
            Self::Exclusive => c"BEGIN EXCLUSIVE",
        }
    }
}

impl Autocommit {
    pub fn of(value: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(on) = value.cast::<PyBool>() {
            return Ok(if on.is_true() { Self::On } else { Self::Off });
        }
        if plain_int(value) == Some(i64::from(LEGACY_TRANSACTION_CONTROL)) {
            return Ok(Self::Legacy);
        }
        Err(PyValueError::new_err("autocommit must be True, False, or sqlite3.LEGACY_TRANSACTION_CONTROL"))
    }
}

/// Runs one statement without parameters and results.
pub fn run(py: Python<'_>, db: &Arc<Db>, sql: &CStr, release: bool) -> PyResult<()> {
    let entered = enter(py, db)?;
    let mut statement = std::ptr::null_mut();
    let stepping = Stepping::begin(py, &entered, false);
    // SAFETY: the connection is open and entered, the text is terminated.
    let mut code =
        unsafe { raw::sqlite3_prepare_v2(entered.raw(), sql.as_ptr(), -1, &mut statement, std::ptr::null_mut()) };
    drop(stepping);
    if code == raw::SQLITE_OK {
        // SAFETY: a statement of this connection, which ends here.
        unsafe {
            let access = (raw::sqlite3_stmt_readonly(statement) == 0).then_some(Access::Write);
            let stepped =
                lane::step_raw(py, &entered, statement, access, false, release && !db.file().as_os_str().is_empty());
            code = raw::sqlite3_finalize(statement);
            stepped?;
        }
    }
    if code != raw::SQLITE_OK { Err(errors::of_code(py, &entered, code)) } else { Ok(()) }
}

/// Begins a transaction.
pub fn begin(py: Python<'_>, db: &Arc<Db>, isolation: Isolation) -> PyResult<()> {
    run(py, db, isolation.statement(), false)
}

/// Begins the transaction that is always open with `autocommit=False`.
pub fn begin_next(py: Python<'_>, db: &Arc<Db>) -> PyResult<()> {
    run(py, db, c"BEGIN", false)
}

/// Rolls back what is open, for a connection that is going; what SQLite says to that is of no use to anybody.
pub fn rollback_quietly(py: Python<'_>, db: &Arc<Db>) {
    let open = enter(py, db).is_ok_and(|entered| entered.in_transaction());
    if open {
        drop(run(py, db, c"ROLLBACK", true));
    }
}

/// Ends the transaction with `sql`, if one is open, and begins the next one with `autocommit=False`.
fn end(slf: &Bound<'_, Connection>, sql: &CStr) -> PyResult<()> {
    let py = slf.py();
    let db = slf.get().db(py)?;
    match slf.get().state.with(py, |state| state.autocommit) {
        Autocommit::On => Ok(()),
        Autocommit::Legacy => {
            let open = look(py, &db)?.in_transaction();
            if open { run(py, &db, sql, true) } else { Ok(()) }
        }
        Autocommit::Off => {
            run(py, &db, sql, true)?;
            begin_next(py, &db)
        }
    }
}

pub fn commit(slf: &Bound<'_, Connection>) -> PyResult<()> {
    end(slf, c"COMMIT")
}

pub fn rollback(slf: &Bound<'_, Connection>) -> PyResult<()> {
    #[cfg(not(Py_3_11))]
    {
        let py = slf.py();
        let db = slf.get().db(py)?;
        let open = u64::from(enter(py, &db)?.in_transaction());
        slf.get().state.with(py, |state| state.rollbacks += open);
    }
    end(slf, c"ROLLBACK")
}

#[pymethods]
impl Connection {
    /// Commit the open transaction, if there is one. With `autocommit=False` the next one begins.
    ///
    /// Raises:
    ///     OperationalError: SQLite cannot commit now; the transaction stays open.
    #[pyo3(name = "commit")]
    fn py_commit(slf: &Bound<'_, Self>) -> PyResult<()> {
        commit(slf)
    }

    /// Roll the open transaction back, if there is one. With `autocommit=False` the next one begins.
    #[pyo3(name = "rollback")]
    fn py_rollback(slf: &Bound<'_, Self>) -> PyResult<()> {
        rollback(slf)
    }

    /// How transactions begin implicitly: `""`, `"DEFERRED"`, `"IMMEDIATE"`, `"EXCLUSIVE"`, or None for not at all.
    #[getter]
    fn isolation_level(slf: &Bound<'_, Self>) -> PyResult<Option<&'static str>> {
        let py = slf.py();
        slf.get().db_of_any_thread(py)?;
        Ok(slf.get().state.with(py, |state| state.isolation).name())
    }

    #[setter]
    fn set_isolation_level(slf: &Bound<'_, Self>, level: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let isolation = Isolation::of(level)?;
        if isolation == Isolation::Off {
            // As ever: leaving implicit transactions commits the one that is open.
            let db = slf.get().db(py)?;
            let open = enter(py, &db)?.in_transaction();
            if open {
                run(py, &db, c"COMMIT", true)?;
            }
        }
        slf.get().state.with(py, |state| state.isolation = isolation);
        Ok(())
    }

    /// True, False (a transaction is always open), or `LEGACY_TRANSACTION_CONTROL`.
    #[getter]
    fn autocommit<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        slf.get().db(py)?;
        match slf.get().state.with(py, |state| state.autocommit) {
            Autocommit::Legacy => Ok(LEGACY_TRANSACTION_CONTROL.into_pyobject(py)?.into_any()),
            Autocommit::On => Ok(PyBool::new(py, true).to_owned().into_any()),
            Autocommit::Off => Ok(PyBool::new(py, false).to_owned().into_any()),
        }
    }

    #[setter]
    fn set_autocommit(slf: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let db = slf.get().db(py)?;
        let autocommit = Autocommit::of(value)?;
        let open = enter(py, &db)?.in_transaction();
        match autocommit {
            Autocommit::On if open => run(py, &db, c"COMMIT", true)?,
            Autocommit::Off if !open => begin_next(py, &db)?,
            _ => {}
        }
        slf.get().state.with(py, |state| state.autocommit = autocommit);
        Ok(())
    }

    /// The connection itself. Begins no transaction; leaving the block ends one.
    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        slf.get().db_of_any_thread(slf.py())?;
        Ok(slf.clone())
    }

    /// Commits, or rolls back after an exception. Does not close the connection.
    fn __exit__(
        slf: &Bound<'_, Self>,
        exc_type: &Bound<'_, PyAny>,
        exc_value: &Bound<'_, PyAny>,
        traceback: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let py = slf.py();
        let failed = !(exc_type.is_none() && exc_value.is_none() && traceback.is_none());
        // As ever, not through methods that a subclass may have in their place.
        if failed {
            rollback(slf)?;
        } else if let Err(error) = commit(slf) {
            // A commit that fails must not leave the transaction open.
            if let Err(second) = rollback(slf) {
                second.value(py).setattr("__context__", error.value(py))?;
                return Err(second);
            }
            return Err(error);
        }
        Ok(false)
    }
}
