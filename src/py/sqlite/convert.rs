//! Values of SQLite as Python objects, straight from the statement's row.
#![allow(unsafe_code)]

use std::ffi::c_int;

use pyo3::exceptions::PyMemoryError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

use super::errors;
use super::prepared::Prepared;
use crate::py::hang;
use crate::py::raw::new_ref;
use crate::sqlite::values::{Layout, Value, Values};
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

/// Makes rows of a statement, until it is reset.
pub struct Rows<'a> {
    prepared: &'a Prepared,
    text: &'a Text,
    layout: Layout,
    columns: usize,
    /// For each column the text made last, to be had again if the next is the same. Empty: of no use for one row.
    last: Vec<Last>,
}

/// Text that columns repeat (a state, a kind, a country) is made once for the rows that follow each other.
struct Last {
    /// ASCII.
    made: *mut ffi::PyObject,
    /// Rows in turn that had another text; after [`GIVE_UP`] the column is taken for one that does not repeat.
    others: u8,
}

const GIVE_UP: u8 = 16;

impl<'a> Rows<'a> {
    /// The statement stands on a row. `many`: more are to come.
    pub fn of(prepared: &'a Prepared, text: &'a Text, many: bool) -> Self {
        // SAFETY: the statement is alive, as its owner is borrowed.
        let columns = unsafe { raw::sqlite3_data_count(prepared.statement) } as usize;
        let repeats = if many && matches!(text, Text::Str) { columns } else { 0 };
        let last = (0..repeats).map(|_| Last { made: std::ptr::null_mut(), others: 0 }).collect();
        Self { prepared, text, layout: Layout::get(), columns, last }
    }

    /// The row the statement stands on, as a tuple.
    ///
    /// `converters`: a callable for each column that has one, empty if none has.
    #[inline]
    pub fn row<'py>(
        &mut self,
        py: Python<'py>,
        entered: &Entered<'_>,
        converters: &[Option<Py<PyAny>>],
    ) -> PyResult<Bound<'py, PyAny>> {
        // SAFETY: the connection is open and entered, the statement stands on a row and stays there; a new tuple is
        // filled completely before anybody else sees it, or given up with its remaining places empty.
        unsafe {
            let tuple = ffi::PyTuple_New(self.columns as isize);
            let row = Bound::from_owned_ptr_or_err(py, tuple)?;
            let values = Values::of(self.prepared.statement, self.layout);
            for column in 0..self.columns {
                let value = match converters.get(column) {
                    Some(Some(converter)) => convert(py, values.raw(column), converter.bind(py))?,
                    _ => self.value(py, entered, values, column)?,
                };
                ffi::PyTuple_SET_ITEM(tuple, column as isize, value);
            }
            Ok(row)
        }
    }

    /// The value of one column; a new reference.
    ///
    /// # Safety
    /// The row has the column, its connection is open and entered.
    #[inline(always)]
    unsafe fn value(
        &mut self,
        py: Python<'_>,
        entered: &Entered<'_>,
        values: Values<'_>,
        column: usize,
    ) -> PyResult<*mut ffi::PyObject> {
        // SAFETY: the caller's promise.
        let object = unsafe {
            match values.get(column) {
                Value::Integer(number) => ffi::PyLong_FromLongLong(number),
                Value::Float(number) => ffi::PyFloat_FromDouble(number),
                Value::Text(bytes) => match self.text {
                    Text::Str => {
                        let made = match self.last.get_mut(column) {
                            Some(last) => last.str_of(bytes),
                            None => str_of(bytes),
                        };
                        if made.is_null() {
                            return Err(undecodable(py, entered, self.prepared, column as c_int, bytes));
                        }
                        made
                    }
                    other => other_text(py, other, bytes)?,
                },
                Value::Blob(bytes) => ffi::PyBytes_FromStringAndSize(bytes.as_ptr().cast(), bytes.len() as isize),
                Value::Null => new_ref(ffi::Py_None()),
                Value::Lost => return Err(PyMemoryError::new_err(())),
            }
        };
        if object.is_null() { Err(PyErr::fetch(py)) } else { Ok(object) }
    }
}

impl Last {
    /// [`str_of`], or the same object again.
    #[inline(always)]
    unsafe fn str_of(&mut self, bytes: &[u8]) -> *mut ffi::PyObject {
        // SAFETY: attached; what is kept is a compact ASCII string, whose text follows its header.
        unsafe {
            if self.others < GIVE_UP && !self.made.is_null() {
                let length = (*self.made.cast::<ffi::PyASCIIObject>()).length as usize;
                let text = self.made.cast::<ffi::PyASCIIObject>().add(1).cast::<u8>();
                if bytes == std::slice::from_raw_parts(text, length) {
                    self.others = 0;
                    return new_ref(self.made);
                }
            }
            let made = str_of(bytes);
            if self.others < GIVE_UP && !made.is_null() && is_short_ascii(bytes) {
                self.others += 1;
                ffi::Py_XDECREF(std::mem::replace(&mut self.made, new_ref(made)));
            }
            made
        }
    }
}

impl Drop for Last {
    fn drop(&mut self) {
        // SAFETY: rows are made, and so end, attached; freeing a str runs no Python code.
        unsafe { ffi::Py_XDECREF(self.made) };
    }
}

/// Worth comparing, and made by [`str_of`] as a compact ASCII string.
#[inline(always)]
fn is_short_ascii(bytes: &[u8]) -> bool {
    (2..=64).contains(&bytes.len()) && bytes.is_ascii()
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
    value: *mut raw::sqlite3_value,
    converter: &Bound<'_, PyAny>,
) -> PyResult<*mut ffi::PyObject> {
    // SAFETY: a value of the row the statement stands on (see `Rows::value`); the length is asked for after the pointer.
    let bytes = unsafe {
        let start = raw::sqlite3_value_blob(value).cast::<u8>();
        // NULL, and an empty blob, which the standard library takes for NULL here.
        if start.is_null() {
            return Ok(py.None().into_ptr());
        }
        PyBytes::new(py, std::slice::from_raw_parts(start, raw::sqlite3_value_bytes(value) as usize))
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
    let mut message = format!("Could not decode to UTF-8 column '{name}' with text '").into_bytes();
    message.extend_from_slice(bytes);
    message.push(b'\'');
    // As the standard library has it: cut, and a sign for each byte that is not ASCII.
    message.truncate(198);
    let message =
        message.iter().map(|&byte| if byte.is_ascii() { char::from(byte) } else { char::REPLACEMENT_CHARACTER });
    errors::operational(py, message.collect::<String>())
}
