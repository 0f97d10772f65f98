//! Aggregates and window functions of SQL that are Python classes.
#![allow(unsafe_code)]

use std::ffi::c_int;

use pyo3::exceptions::PyAttributeError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use super::arguments::{self, Method};
use super::connection::Connection;
use super::errors;
use super::hooks::{self, Slot};
use super::values::{self, Arguments};
use crate::py::hang;
use crate::sqlite::raw;

const CREATE_AGGREGATE: Method<3> =
    Method { name: "create_aggregate", parameters: ["name", "n_arg", "aggregate_class"], positional: 3, option: None };

#[pymethods]
impl Connection {
    /// Make a Python class an aggregate function of the connection's SQL.
    ///
    /// Args:
    ///     name: Its name in SQL.
    ///     n_arg: Number of parameters; -1 = any.
    ///     aggregate_class: Called for each group; `step(*values)` for each row, `finalize()` returns the result. None
    ///         removes the function.
    #[pyo3(signature = (*args, **kwargs), text_signature = "($self, /, name, n_arg, aggregate_class)")]
    fn create_aggregate(
        slf: &Bound<'_, Self>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let ([name, count, class], _) = CREATE_AGGREGATE.bind(args, kwargs)?;
        let name = arguments::text(&name, "create_aggregate() argument 'name'")?;
        let count = arguments::int(&count)?;
        hooks::register(slf, &class, |entered, data| {
            let given = !data.is_null();
            // SAFETY: open and entered; the data belongs to the callbacks and the destructor.
            let code = unsafe {
                raw::sqlite3_create_function_v2(
                    entered.raw(),
                    name.as_ptr(),
                    count,
                    raw::SQLITE_UTF8,
                    data,
                    None,
                    given.then_some(on_step as _),
                    given.then_some(on_final as _),
                    given.then_some(hooks::on_destroy as _),
                )
            };
            if code == raw::SQLITE_OK { Ok(()) } else { Err(hooks::refused(slf.py(), "Error creating aggregate")) }
        })
    }

    /// Make a Python class a window function of the connection's SQL.
    ///
    /// Args:
    ///     name: Its name in SQL.
    ///     num_params: Number of parameters; -1 = any.
    ///     aggregate_class: Called for each partition; `step(*values)` adds a row, `inverse(*values)` takes one out,
    ///         `value()` returns the current result, `finalize()` the last. None removes the function.
    #[pyo3(signature = (name, num_params, aggregate_class, /))]
    fn create_window_function(
        slf: &Bound<'_, Self>,
        name: &Bound<'_, PyAny>,
        num_params: &Bound<'_, PyAny>,
        aggregate_class: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let name = arguments::text(name, "create_window_function() argument 1")?;
        let count = arguments::int(num_params)?;
        hooks::register(slf, aggregate_class, |entered, data| {
            let given = !data.is_null();
            // SAFETY: open and entered; the data belongs to the callbacks and the destructor.
            let code = unsafe {
                raw::sqlite3_create_window_function(
                    entered.raw(),
                    name.as_ptr(),
                    count,
                    raw::SQLITE_UTF8,
                    data,
                    given.then_some(on_step as _),
                    given.then_some(on_final as _),
                    given.then_some(on_value as _),
                    given.then_some(on_inverse as _),
                    given.then_some(hooks::on_destroy as _),
                )
            };
            if code == raw::SQLITE_OK {
                return Ok(());
            }
            Err(errors::programming(slf.py(), entered.failure(code).message))
        })
    }
}

/// Where SQLite keeps the instance for a group of rows: null before the first row. `None` without memory, or, if it is
/// not to be made, before the first row.
unsafe fn place<'a>(context: *mut raw::sqlite3_context, make: bool) -> Option<&'a mut *mut ffi::PyObject> {
    let size = if make { size_of::<*mut ffi::PyObject>() as c_int } else { 0 };
    // SAFETY: the caller is a callback of an aggregate; new memory is zeroed, and ours until the aggregate's end.
    unsafe { raw::sqlite3_aggregate_context(context, size).cast::<*mut ffi::PyObject>().as_mut() }
}

unsafe extern "C" fn on_step(
    context: *mut raw::sqlite3_context,
    count: c_int,
    arguments: *mut *mut raw::sqlite3_value,
) {
    // SAFETY: what SQLite calls back with; the user data is a slot, and the slot and the instance are held meanwhile.
    let done = hooks::attached(|py| unsafe {
        let Some(place) = place(context, true) else { return raw::sqlite3_result_error_nomem(context) };
        let slot = Slot::owned(raw::sqlite3_user_data(context));
        let Some(class) = slot.get(py) else { return values::set_gone(context) };
        if place.is_null() {
            match Arguments::none().call(&class) {
                Ok(instance) => *place = instance.into_ptr(),
                Err(error) => {
                    let message = "user-defined aggregate's '__init__' method raised error";
                    return values::set_error(context, &class, error, message);
                }
            }
        }
        let instance = Bound::from_borrowed_ptr(py, *place);
        let arguments = match Arguments::of(py, count, arguments) {
            Ok(arguments) => arguments,
            Err(error) => return slot.raise_later(py, error),
        };
        let name = intern!(py, "step");
        match arguments.call_method(&instance, name) {
            Ok(result) => hang::give_up(py, result.unbind()),
            Err(error) if is_missing(&instance, name, &error) => {
                if cfg!(Py_3_11) {
                    let message = "user-defined aggregate's 'step' method not defined";
                    values::set_error(context, &class, error, message);
                } else {
                    slot.raise_later(py, error);
                }
            }
            Err(error) => {
                values::set_error(context, &class, error, "user-defined aggregate's 'step' method raised error");
            }
        }
    });
    if done.is_none() {
        // SAFETY: the callback is still running.
        unsafe { values::set_gone(context) };
    }
}

/// The end of a group, also of one that nobody asks for the result of any more: wherever its statement ends.
unsafe extern "C" fn on_final(context: *mut raw::sqlite3_context) {
    // SAFETY: what SQLite calls back with; the user data is a slot, which is held meanwhile.
    unsafe {
        // Without rows, or without an instance, the result is NULL.
        let Some(place) = place(context, false).filter(|place| !place.is_null()) else { return };
        let slot = Slot::owned(raw::sqlite3_user_data(context));
        hooks::attached(|py| {
            // A statement may end because an exception is on its way, and its cursor with it.
            let passing = PyErr::take(py);
            let instance = Bound::from_owned_ptr(py, std::mem::replace(place, std::ptr::null_mut()));
            let callable = slot.get(py);
            slot.while_running(|| {
                let outcome = Arguments::none().call_method(&instance, intern!(py, "finalize"));
                let outcome = outcome.and_then(|result| {
                    let set = values::set_result(context, &result);
                    hang::give_up(py, result.unbind());
                    set
                });
                if let Err(error) = outcome {
                    let missing = cfg!(Py_3_11) && error.is_instance_of::<PyAttributeError>(py);
                    let message = if missing {
                        "user-defined aggregate's 'finalize' method not defined"
                    } else {
                        "user-defined aggregate's 'finalize' method raised error"
                    };
                    values::set_error(context, callable.as_ref().unwrap_or(&instance), error, message);
                }
                hang::give_up(py, instance.unbind());
            });
            if let Some(passing) = passing {
                passing.restore(py);
            }
        });
    }
}

unsafe extern "C" fn on_value(context: *mut raw::sqlite3_context) {
    // SAFETY: what SQLite calls back with; the user data is a slot, and the instance is held meanwhile.
    let done = hooks::attached(|py| unsafe {
        let Some(place) = place(context, false).filter(|place| !place.is_null()) else { return };
        let instance = Bound::from_borrowed_ptr(py, *place);
        let callable = Slot::at(raw::sqlite3_user_data(context)).get(py).unwrap_or_else(|| instance.clone());
        match Arguments::none().call_method(&instance, intern!(py, "value")) {
            Ok(result) => {
                let set = values::set_result(context, &result);
                hang::give_up(py, result.unbind());
                if let Err(error) = set {
                    let message = "unable to set result from user-defined aggregate's 'value' method";
                    values::set_error(context, &callable, error, message);
                }
            }
            Err(error) => {
                let message = if error.is_instance_of::<PyAttributeError>(py) {
                    "user-defined aggregate's 'value' method not defined"
                } else {
                    "user-defined aggregate's 'value' method raised error"
                };
                values::set_error(context, &callable, error, message);
            }
        }
    });
    if done.is_none() {
        // SAFETY: the callback is still running.
        unsafe { values::set_gone(context) };
    }
}

unsafe extern "C" fn on_inverse(
    context: *mut raw::sqlite3_context,
    count: c_int,
    arguments: *mut *mut raw::sqlite3_value,
) {
    // SAFETY: what SQLite calls back with; the user data is a slot, and the instance is held meanwhile.
    let done = hooks::attached(|py| unsafe {
        let Some(place) = place(context, false).filter(|place| !place.is_null()) else { return };
        let instance = Bound::from_borrowed_ptr(py, *place);
        let callable = Slot::at(raw::sqlite3_user_data(context)).get(py).unwrap_or_else(|| instance.clone());
        let name = intern!(py, "inverse");
        let message = match Arguments::of(py, count, arguments) {
            Ok(arguments) => match arguments.call_method(&instance, name) {
                Ok(result) => return hang::give_up(py, result.unbind()),
                Err(error) if is_missing(&instance, name, &error) => {
                    (error, "user-defined aggregate's 'inverse' method not defined")
                }
                Err(error) => (error, "user-defined aggregate's 'inverse' method raised error"),
            },
            Err(error) => (error, "unable to build arguments for user-defined aggregate's 'inverse' method"),
        };
        values::set_error(context, &callable, message.0, message.1);
    });
    if done.is_none() {
        // SAFETY: the callback is still running.
        unsafe { values::set_gone(context) };
    }
}

/// Whether calling the method failed because there is none, and not because of what it did.
#[cold]
fn is_missing(instance: &Bound<'_, PyAny>, name: &Bound<'_, PyString>, error: &PyErr) -> bool {
    error.is_instance_of::<PyAttributeError>(instance.py()) && instance.getattr(name).is_err()
}
