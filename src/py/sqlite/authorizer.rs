//! The authorizer: a Python callable that is asked about everything a statement is going to access.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Arc;

use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyString, PyTuple};

use super::arguments::Method;
use super::connection::{Connection, enter};
use super::hooks::{self, Slot};
use super::values::Arguments;
use crate::py::hang;
use crate::sqlite::group::Authorizer;
use crate::sqlite::{Db, raw};

const SET_AUTHORIZER: Method<1> =
    Method { name: "set_authorizer", parameters: ["authorizer_callback"], positional: 1, option: None };

#[pymethods]
impl Connection {
    /// Have a function decide what statements may do.
    ///
    /// Args:
    ///     authorizer_callback: Called while a statement is compiled, with an action code (`SQLITE_READ` and others), two
    ///         values that depend on it, the name of the database and that of the view or trigger. Returns `SQLITE_OK`,
    ///         `SQLITE_IGNORE` or `SQLITE_DENY`; that, and an exception, is `DatabaseError`. None removes it.
    #[pyo3(signature = (*args, **kwargs), text_signature = "($self, /, authorizer_callback)")]
    fn set_authorizer(
        slf: &Bound<'_, Self>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let ([callable], _) = SET_AUTHORIZER.bind(args, kwargs)?;
        let db = slf.get().db(py)?;
        let entered = enter(py, &db)?;
        let standing = hooks::standing(slf, &db);
        let given = !callable.is_none();
        if given {
            // It would be told of them.
            db.allow_standing_reads(false);
        }
        let before = standing.authorizer.set(py, given.then(|| callable.unbind()));
        // SAFETY: open and entered; the connection keeps the slot.
        let code = unsafe {
            let data = if given { std::ptr::from_ref(&standing.authorizer) } else { std::ptr::null() };
            let authorizer = given.then_some(on_authorize as _);
            raw::sqlite3_set_authorizer(entered.raw(), authorizer, data.cast_mut().cast())
        };
        drop(entered);
        drop(before);
        if code == raw::SQLITE_OK { Ok(()) } else { Err(hooks::refused(py, "Error setting authorizer callback")) }
    }
}

/// The authorizer of a connection, for who is going to be asked in its place. The connection keeps it.
pub fn of(connection: &Bound<'_, Connection>, db: &Arc<Db>) -> Option<Authorizer> {
    let standing = hooks::standing_if_any(connection, db)?;
    standing.authorizer.get(connection.py())?;
    let data = std::ptr::from_ref(&standing.authorizer).cast_mut().cast();
    Some(Authorizer { call: on_authorize, data })
}

unsafe extern "C" fn on_authorize(
    data: *mut c_void,
    action: c_int,
    one: *const c_char,
    two: *const c_char,
    database: *const c_char,
    source: *const c_char,
) -> c_int {
    // SAFETY: what SQLite calls back with; the data is a slot that the connection keeps.
    let answer = hooks::attached(|py| unsafe {
        let callable = Slot::at(data).get(py)?;
        let answer = ask(&callable, action, [one, two, database, source]);
        let answer = answer.map_err(|error| hooks::report(py, Some(&callable), error)).ok();
        hang::give_up(py, callable.unbind());
        answer
    });
    answer.flatten().unwrap_or(raw::SQLITE_DENY)
}

unsafe fn ask(callable: &Bound<'_, PyAny>, action: c_int, texts: [*const c_char; 4]) -> PyResult<c_int> {
    let py = callable.py();
    let mut arguments = Arguments::none();
    arguments.push(action.into_pyobject(py)?.into_any());
    for text in texts {
        arguments.push(if text.is_null() {
            py.None().into_bound(py)
        } else {
            // SAFETY: SQLite's texts are terminated and live as long as the callback.
            PyString::from_bytes(py, unsafe { CStr::from_ptr(text) }.to_bytes())?.into_any()
        });
    }
    let answer = arguments.call(callable)?;
    // Of another type: no.
    let code = match answer.cast::<PyInt>() {
        Ok(number) => {
            number.extract::<c_int>().map_err(|_| PyOverflowError::new_err("Python int too large to convert to C int"))
        }
        Err(_) => Ok(raw::SQLITE_DENY),
    };
    hang::give_up(py, answer.unbind());
    code
}
