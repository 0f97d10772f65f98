//! The trace callback: a Python callable that sees every statement.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use super::arguments::Method;
use super::connection::{Connection, enter};
use super::errors;
use super::hooks::{self, Slot};
use super::values::Arguments;
use crate::py::hang;
use crate::sqlite::raw;

const SET_TRACE_CALLBACK: Method<1> =
    Method { name: "set_trace_callback", parameters: ["trace_callback"], positional: 1, option: None };

#[pymethods]
impl Connection {
    /// Have a function told of each statement that runs.
    ///
    /// Args:
    ///     trace_callback: Gets its text, parameters filled in; what it raises is dropped. None removes it.
    #[pyo3(signature = (*args, **kwargs), text_signature = "($self, /, trace_callback)")]
    fn set_trace_callback(
        slf: &Bound<'_, Self>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let ([callable], _) = SET_TRACE_CALLBACK.bind(args, kwargs)?;
        let db = slf.get().db(py)?;
        let entered = enter(py, &db)?;
        let standing = hooks::standing(slf, &db);
        let given = !callable.is_none();
        if given {
            // It would be told of them.
            db.allow_standing_reads(false);
        }
        let before = standing.trace.set(py, given.then(|| callable.unbind()));
        // SAFETY: open and entered; the connection keeps the slot.
        unsafe {
            let data = if given { std::ptr::from_ref(&standing.trace) } else { std::ptr::null() };
            let trace = given.then_some(on_trace as _);
            raw::sqlite3_trace_v2(entered.raw(), raw::SQLITE_TRACE_STMT as c_uint, trace, data.cast_mut().cast());
        }
        drop(entered);
        drop(before);
        Ok(())
    }
}

unsafe extern "C" fn on_trace(event: c_uint, data: *mut c_void, statement: *mut c_void, sql: *mut c_void) -> c_int {
    if event != raw::SQLITE_TRACE_STMT as c_uint {
        return 0;
    }
    // SAFETY: what SQLite calls back with; the data is a slot that the connection keeps.
    hooks::attached(|py| unsafe {
        let Some(callable) = Slot::at(data).get(py) else { return };
        let called = text(&callable, statement.cast(), sql.cast()).and_then(|text| {
            let mut arguments = Arguments::none();
            arguments.push(text.into_any());
            arguments.call(&callable)
        });
        match called {
            Ok(result) => hang::give_up(py, result.unbind()),
            Err(error) => hooks::report(py, Some(&callable), error),
        }
        hang::give_up(py, callable.unbind());
    });
    0
}

/// The statement with its parameters filled in, or without if that would be too long.
unsafe fn text<'py>(
    callable: &Bound<'py, PyAny>,
    statement: *mut raw::sqlite3_stmt,
    sql: *const c_char,
) -> PyResult<Bound<'py, PyString>> {
    let py = callable.py();
    // SAFETY: the caller's promise; both texts are terminated, the expanded one is ours.
    unsafe {
        let sql = CStr::from_ptr(sql).to_bytes();
        // Python 3.9 shows what triggers do as the comments that SQLite makes of it.
        if cfg!(not(Py_3_10)) && sql.starts_with(b"--") {
            return PyString::from_bytes(py, sql);
        }
        let expanded = raw::sqlite3_expanded_sql(statement);
        if !expanded.is_null() {
            let text = PyString::from_bytes(py, CStr::from_ptr(expanded).to_bytes());
            raw::sqlite3_free(expanded.cast());
            return text;
        }
        if raw::sqlite3_errcode(raw::sqlite3_db_handle(statement)) == raw::SQLITE_NOMEM {
            return Err(PyMemoryError::new_err(()));
        }
        let error = errors::data(py, "Expanded SQL string exceeds the maximum string length");
        hooks::report(py, Some(callable), error);
        PyString::from_bytes(py, sql)
    }
}
