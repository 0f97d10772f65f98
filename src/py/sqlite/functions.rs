//! Functions of SQL that are Python callables.
#![allow(unsafe_code)]

use std::ffi::c_int;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::arguments::{self, Method};
use super::connection::Connection;
use super::hooks::{self, Slot};
use super::values::{self, Arguments};
use crate::py::hang;
use crate::sqlite::raw;

const CREATE_FUNCTION: Method<3> = Method {
    name: "create_function",
    parameters: ["name", "narg", "func"],
    positional: 3,
    option: Some("deterministic"),
};

#[pymethods]
impl Connection {
    /// Make a Python function callable in the connection's SQL.
    ///
    /// Args:
    ///     name: Its name in SQL.
    ///     narg: Number of parameters; -1 = any.
    ///     func: Gets the values, returns None, int, float, str or bytes; called in the thread that runs the statement.
    ///         What it raises ends the statement with `OperationalError`. None removes the function.
    ///     deterministic: Equal arguments give equal results: usable in indexes.
    ///
    /// Raises:
    ///     OperationalError: SQLite refuses the name or the number.
    #[pyo3(
        signature = (*args, **kwargs),
        text_signature = "($self, /, name, narg, func, *, deterministic=False)"
    )]
    fn create_function(
        slf: &Bound<'_, Self>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let ([name, count, func], deterministic) = CREATE_FUNCTION.bind(args, kwargs)?;
        let name = arguments::text(&name, "create_function() argument 'name'")?;
        let count = arguments::int(&count)?;
        let deterministic = deterministic.map_or(Ok(false), |given| hang::is_true(&given))?;
        let flags = raw::SQLITE_UTF8 | if deterministic { raw::SQLITE_DETERMINISTIC } else { 0 };
        hooks::register(slf, &func, |entered, data| {
            // SAFETY: open and entered; the data belongs to the callback and the destructor.
            let code = unsafe {
                let function = (!data.is_null()).then_some(on_call as _);
                let destroy = (!data.is_null()).then_some(hooks::on_destroy as _);
                let (raw, name) = (entered.raw(), name.as_ptr());
                raw::sqlite3_create_function_v2(raw, name, count, flags, data, function, None, None, destroy)
            };
            if code == raw::SQLITE_OK { Ok(()) } else { Err(hooks::refused(slf.py(), "Error creating function")) }
        })
    }
}

unsafe extern "C" fn on_call(
    context: *mut raw::sqlite3_context,
    count: c_int,
    arguments: *mut *mut raw::sqlite3_value,
) {
    // SAFETY: what SQLite calls back with; the user data is a slot.
    let done = hooks::attached(|py| unsafe {
        let Some(callable) = Slot::at(raw::sqlite3_user_data(context)).get(py) else {
            return values::set_gone(context);
        };
        // The slot may be gone from here on: the function may remove itself.
        let outcome = Arguments::of(py, count, arguments).and_then(|arguments| arguments.call(&callable));
        let outcome = outcome.and_then(|result| {
            let set = values::set_result(context, &result);
            hang::give_up(py, result.unbind());
            set
        });
        if let Err(error) = outcome {
            values::set_error(context, &callable, error, "user-defined function raised exception");
        }
        hang::give_up(py, callable.unbind());
    });
    if done.is_none() {
        // SAFETY: the callback is still running.
        unsafe { values::set_gone(context) };
    }
}
