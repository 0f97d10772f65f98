//! Orders of text that are Python callables.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyInt;

use super::connection::Connection;
use super::hooks::{self, Slot};
use super::values::Arguments;
use super::{arguments, convert, errors};
use crate::py::hang;
use crate::sqlite::raw;

#[pymethods]
impl Connection {
    /// Make a Python function an order of texts: `COLLATE name`.
    ///
    /// Args:
    ///     name: Its name in SQL.
    ///     callback: Gets two str, returns a negative number, 0 or a positive one; None removes it.
    #[pyo3(signature = (name, callback, /))]
    fn create_collation(slf: &Bound<'_, Self>, name: &Bound<'_, PyAny>, callback: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        #[cfg(not(Py_3_11))]
        check_name(name)?;
        let name = arguments::text(name, "create_collation() argument 1")?;
        if !callback.is_none() && !callback.is_callable() {
            slf.get().db(py)?;
            return Err(PyTypeError::new_err("parameter must be callable"));
        }
        hooks::register(slf, callback, |entered, data| {
            let given = !data.is_null();
            // SAFETY: open and entered; the data belongs to the callback and the destructor.
            let code = unsafe {
                raw::sqlite3_create_collation_v2(
                    entered.raw(),
                    name.as_ptr(),
                    raw::SQLITE_UTF8,
                    data,
                    given.then_some(on_compare as _),
                    given.then_some(hooks::on_destroy as _),
                )
            };
            if code == raw::SQLITE_OK {
                return Ok(());
            }
            if given {
                // SAFETY: here SQLite does not call the destructor of what it has not taken.
                unsafe { hooks::on_destroy(data) };
            }
            Err(errors::of_code(py, entered, code))
        })
    }
}

/// Before Python 3.11 names are of ASCII letters, digits and underscores.
#[cfg(not(Py_3_11))]
fn check_name(name: &Bound<'_, PyAny>) -> PyResult<()> {
    let Ok(text) = name.cast::<pyo3::types::PyString>() else { return Ok(()) };
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if text.to_str().is_ok_and(plain) {
        return Ok(());
    }
    Err(errors::programming(name.py(), "invalid character in collation name"))
}

unsafe extern "C" fn on_compare(
    data: *mut c_void,
    one_length: c_int,
    one: *const c_void,
    other_length: c_int,
    other: *const c_void,
) -> c_int {
    // SAFETY: the texts that SQLite calls back with; the data is a slot, which is held meanwhile.
    let order = hooks::attached(|py| unsafe {
        let slot = Slot::owned(data);
        let Some(callable) = slot.get(py) else { return 0 };
        let order = compare(&callable, text(one, one_length), text(other, other_length));
        order.unwrap_or_else(|error| {
            // There is no way to make a comparison fail.
            slot.raise_later(py, error);
            0
        })
    });
    order.unwrap_or(0)
}

unsafe fn text<'a>(start: *const c_void, length: c_int) -> &'a [u8] {
    if start.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(start.cast(), length as usize) }
}

fn compare(callable: &Bound<'_, PyAny>, one: &[u8], other: &[u8]) -> PyResult<c_int> {
    let py = callable.py();
    let mut arguments = Arguments::none();
    for text in [one, other] {
        // SAFETY: attached; a new reference, or null with an exception set.
        arguments.push(unsafe { Bound::from_owned_ptr_or_err(py, convert::str_of(text))? });
    }
    let result = arguments.call(callable)?;
    let order = sign(&result);
    hang::give_up(py, result.unbind());
    Ok(order)
}

/// Of what is no number: 0.
fn sign(result: &Bound<'_, PyAny>) -> c_int {
    if result.is_instance_of::<PyInt>() {
        let mut overflow = 0;
        // SAFETY: an int, so `__index__` is not called.
        let number = unsafe { ffi::PyLong_AsLongLongAndOverflow(result.as_ptr(), &mut overflow) };
        return if overflow != 0 { overflow } else { number.signum() as c_int };
    }
    #[cfg(not(Py_3_10))]
    if let Ok(float) = result.cast::<pyo3::types::PyFloat>() {
        return (float.value() as i64).signum() as c_int;
    }
    let index = hang::method(result, "__index__", (), None);
    index.ok().filter(|index| index.is_instance_of::<PyInt>()).map_or(0, |index| sign(&index))
}
