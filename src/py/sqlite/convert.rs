//! Values of SQLite as Python objects, straight from the statement's row.
#![allow(unsafe_code)]

use std::ffi::c_int;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

use super::errors;
use super::prepared::Prepared;
use crate::py::hang;
use crate::sqlite::{Entered, raw};

/// What TEXT becomes.
pub enum Text {
    Str,
    Bytes,
    ByteArray,
    /// Called with the bytes.
    Callable(Py<PyAny>),
}

impl Text {
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Str => Self::Str,
            Self::Bytes => Self::Bytes,
            Self::ByteArray => Self::ByteArray,
            Self::Callable(factory) => Self::Callable(factory.clone_ref(py)),
        }
    }
}

/// The row the statement stands on, as a tuple.
///
/// `converters`: a callable for each column that has one, empty if none has.
pub fn row<'py>(
    py: Python<'py>,
    entered: &Entered<'_>,
    prepared: &Prepared,
    text: &Text,
    converters: &[Option<Py<PyAny>>],
) -> PyResult<Bound<'py, PyAny>> {
    let statement = prepared.statement;
    // SAFETY: the connection is open and entered, the statement stands on a row; a new tuple is filled completely
    // before anybody else sees it, or given up with its remaining places empty.
    unsafe {
        let count = raw::sqlite3_data_count(statement);
        let tuple = ffi::PyTuple_New(count as isize);
        let row = Bound::from_owned_ptr_or_err(py, tuple)?;
        for column in 0..count {
            let value = match converters.get(column as usize) {
                Some(Some(converter)) => convert(py, statement, column, converter.bind(py))?,
                _ => value(py, entered, prepared, column, text)?,
            };
            ffi::PyTuple_SET_ITEM(tuple, column as isize, value);
        }
        Ok(row)
    }
}

/// The value of one column; a new reference.
///
/// # Safety
/// The statement stands on a row, its connection is open and entered.
#[inline(always)]
unsafe fn value(
    py: Python<'_>,
    entered: &Entered<'_>,
    prepared: &Prepared,
    column: c_int,
    text: &Text,
) -> PyResult<*mut ffi::PyObject> {
    let statement = prepared.statement;
    // SAFETY: the caller's promise; lengths are asked for after the pointers.
    let object = unsafe {
        match raw::sqlite3_column_type(statement, column) {
            raw::SQLITE_INTEGER => ffi::PyLong_FromLongLong(raw::sqlite3_column_int64(statement, column)),
            raw::SQLITE_FLOAT => ffi::PyFloat_FromDouble(raw::sqlite3_column_double(statement, column)),
            raw::SQLITE_TEXT => {
                let bytes = bytes_of(statement, column, true);
                match text {
                    Text::Str => {
                        let made = str_of(bytes);
                        if made.is_null() {
                            return Err(undecodable(py, entered, prepared, column, bytes));
                        }
                        made
                    }
                    other => other_text(py, other, bytes)?,
                }
            }
            raw::SQLITE_BLOB => {
                let bytes = bytes_of(statement, column, false);
                ffi::PyBytes_FromStringAndSize(bytes.as_ptr().cast(), bytes.len() as isize)
            }
            _ => ffi::Py_NewRef(ffi::Py_None()),
        }
    };
    if object.is_null() { Err(PyErr::fetch(py)) } else { Ok(object) }
}

/// The bytes of a TEXT or BLOB column, valid until the statement moves.
#[inline(always)]
unsafe fn bytes_of<'a>(statement: *mut raw::sqlite3_stmt, column: c_int, text: bool) -> &'a [u8] {
    // SAFETY: the caller's promise (see `value`); SQLite reports the length of what the pointer leads to.
    unsafe {
        let start: *const u8 = if text {
            raw::sqlite3_column_text(statement, column)
        } else {
            raw::sqlite3_column_blob(statement, column).cast()
        };
        if start.is_null() {
            return &[];
        }
        std::slice::from_raw_parts(start, raw::sqlite3_column_bytes(statement, column) as usize)
    }
}

/// A str; null with an exception set if the bytes are not UTF-8.
#[inline(always)]
pub unsafe fn str_of(bytes: &[u8]) -> *mut ffi::PyObject {
    // SAFETY: attached. A new compact ASCII string has room for its length behind the header.
    unsafe {
        if bytes.len() > 1 && bytes.is_ascii() {
            let made = ffi::PyUnicode_New(bytes.len() as isize, 127);
            if !made.is_null() {
                let place = made.cast::<ffi::PyASCIIObject>().add(1).cast::<u8>();
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len());
            }
            return made;
        }
        ffi::PyUnicode_FromStringAndSize(bytes.as_ptr().cast(), bytes.len() as isize)
    }
}

#[cold]
fn other_text(py: Python<'_>, text: &Text, bytes: &[u8]) -> PyResult<*mut ffi::PyObject> {
    Ok(match text {
        Text::ByteArray => PyByteArray::new(py, bytes).into_ptr(),
        Text::Callable(factory) => {
            let arguments = (PyBytes::new(py, bytes),).into_pyobject(py)?;
            hang::call(factory.bind(py), &arguments, None)?.into_ptr()
        }
        _ => PyBytes::new(py, bytes).into_ptr(),
    })
}

#[cold]
unsafe fn convert(
    py: Python<'_>,
    statement: *mut raw::sqlite3_stmt,
    column: c_int,
    converter: &Bound<'_, PyAny>,
) -> PyResult<*mut ffi::PyObject> {
    // SAFETY: the caller's promise (see `value`).
    let bytes = unsafe {
        if raw::sqlite3_column_type(statement, column) == raw::SQLITE_NULL {
            return Ok(py.None().into_ptr());
        }
        PyBytes::new(py, bytes_of(statement, column, false))
    };
    Ok(hang::call(converter, &(bytes,).into_pyobject(py)?, None)?.into_ptr())
}

#[cold]
fn undecodable(py: Python<'_>, entered: &Entered<'_>, prepared: &Prepared, column: c_int, bytes: &[u8]) -> PyErr {
    let error = PyErr::fetch(py);
    if !error.is_instance_of::<pyo3::exceptions::PyUnicodeDecodeError>(py) {
        return error;
    }
    let name = match prepared.column_name(py, entered, column) {
        Ok(name) => name.to_string_lossy().into_owned(),
        Err(error) => return error,
    };
    let text = String::from_utf8_lossy(bytes);
    errors::operational(py, format!("Could not decode to UTF-8 column '{name}' with text '{text}'"))
}
