//! Python values on their way into a statement: adapters, then SQLite's types.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyString};

use super::errors;
use crate::py::hang;
use crate::sqlite::raw;
use crate::support::sync::AttachedCell;

/// The standard library's registry of adapters: `{(type, protocol): callable}`.
pub struct Registry {
    adapters: Py<PyDict>,
    protocol: Py<PyAny>,
    adapt: Py<PyAny>,
    /// Entries when `basic` was found out, and whether one is for a type that SQLite knows itself.
    seen: AttachedCell<(isize, bool)>,
}

pub fn registry(py: Python<'_>) -> PyResult<&Registry> {
    static REGISTRY: PyOnceLock<Registry> = PyOnceLock::new();
    REGISTRY.get_or_try_init(py, || {
        let module = py.import("_sqlite3")?;
        Ok(Registry {
            adapters: module.getattr("adapters")?.cast_into::<PyDict>()?.unbind(),
            protocol: module.getattr("PrepareProtocol")?.unbind(),
            adapt: module.getattr("adapt")?.unbind(),
            seen: AttachedCell::new((-1, false)),
        })
    })
}

/// Whether values of SQLite's own types need a look into the registry too. Cheap: the registry only grows.
#[inline]
pub fn adapts_basic_types(py: Python<'_>) -> PyResult<bool> {
    let registry = registry(py)?;
    // SAFETY: a dict; the thread is attached.
    let count = unsafe { ffi::PyDict_Size(registry.adapters.as_ptr()) };
    let (seen, basic) = registry.seen.with(py, |seen| *seen);
    if seen == count { Ok(basic) } else { look(py, registry, count) }
}

#[cold]
fn look(py: Python<'_>, registry: &Registry, count: isize) -> PyResult<bool> {
    let basic = [
        py.get_type::<PyInt>(),
        py.get_type::<PyFloat>(),
        py.get_type::<PyString>(),
        py.get_type::<PyBytes>(),
        py.get_type::<PyByteArray>(),
        py.get_type::<PyBool>(),
        py.None().bind(py).get_type(),
    ];
    let mut found = false;
    for class in basic {
        found |= registry.adapters.bind(py).contains((class, registry.protocol.bind(py)))?;
    }
    registry.seen.with(py, |seen| *seen = (count, found));
    Ok(found)
}

/// The object an adapter makes of `value`, or `value` itself.
#[cold]
pub fn adapt<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = value.py();
    let registry = registry(py)?;
    let arguments = (value, registry.protocol.bind(py), value).into_pyobject(py)?;
    hang::call(registry.adapt.bind(py), &arguments, None)
}

/// What must outlive the bound values.
pub enum Lifetime<'a, 'py> {
    /// SQLite copies.
    Copied,
    /// The objects are kept alive here until the statement has been run.
    Held(&'a mut Vec<Bound<'py, PyAny>>),
}

/// Binds `value` to the parameter at `place` (from 1). Returns SQLite's result code.
///
/// # Safety
/// The statement's connection is open and entered; with `Held`, the statement ends its run while the list lives.
#[inline]
pub unsafe fn bind<'py>(
    statement: *mut raw::sqlite3_stmt,
    place: c_int,
    value: &Bound<'py, PyAny>,
    look_up: bool,
    lifetime: &mut Lifetime<'_, 'py>,
) -> PyResult<c_int> {
    let object = value.as_ptr();
    if !look_up {
        // SAFETY: the caller's promise; the type of the object is checked before each use.
        unsafe {
            let class = ffi::Py_TYPE(object);
            if class == &raw mut ffi::PyLong_Type {
                return bind_int(statement, place, value);
            }
            if class == &raw mut ffi::PyUnicode_Type {
                return bind_text(statement, place, value, lifetime);
            }
            if class == &raw mut ffi::PyFloat_Type {
                return Ok(raw::sqlite3_bind_double(statement, place, ffi::PyFloat_AS_DOUBLE(object)));
            }
            if object == ffi::Py_None() {
                return Ok(raw::sqlite3_bind_null(statement, place));
            }
            if class == &raw mut ffi::PyBytes_Type {
                return bind_bytes(statement, place, value, lifetime);
            }
            if class == &raw mut ffi::PyBool_Type {
                return Ok(raw::sqlite3_bind_int64(statement, place, i64::from(object == ffi::Py_True())));
            }
        }
    }
    // SAFETY: forwarded.
    unsafe { bind_other(statement, place, &adapt(value)?) }
}

/// Any object, also of a subclass of the types above.
#[cold]
unsafe fn bind_other(statement: *mut raw::sqlite3_stmt, place: c_int, value: &Bound<'_, PyAny>) -> PyResult<c_int> {
    let py = value.py();
    let mut copied = Lifetime::Copied;
    // SAFETY: the caller's promise; each cast is checked.
    unsafe {
        if value.is_none() {
            Ok(raw::sqlite3_bind_null(statement, place))
        } else if value.is_instance_of::<PyInt>() {
            bind_int(statement, place, value)
        } else if let Ok(float) = value.cast::<PyFloat>() {
            Ok(raw::sqlite3_bind_double(statement, place, float.value()))
        } else if value.is_instance_of::<PyString>() {
            bind_text(statement, place, value, &mut copied)
        } else if value.is_instance_of::<PyBytes>() {
            bind_bytes(statement, place, value, &mut copied)
        } else if ffi::PyObject_CheckBuffer(value.as_ptr()) != 0 {
            let view = match PyBuffer::<u8>::get(value) {
                Ok(view) if view.is_c_contiguous() => view.to_vec(py)?,
                // Other item types: their bytes.
                Ok(_) | Err(_) => bytes_of(value).map_err(not_convertible)?,
            };
            let len = view.len();
            check_length(len, "BLOB longer than INT_MAX bytes")?;
            Ok(raw::sqlite3_bind_blob64(statement, place, not_null(&view), len as u64, raw::SQLITE_TRANSIENT()))
        } else {
            Err(unsupported(value, place))
        }
    }
}

/// The error of the time for a buffer that is not in one piece.
fn not_convertible(error: PyErr) -> PyErr {
    if cfg!(Py_3_11) { error } else { PyValueError::new_err("could not convert BLOB to buffer") }
}

/// A copy of what an object with the buffer protocol holds.
pub fn bytes_of(value: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    // SAFETY: a view is taken and released around the copy; `PyBuffer_ToContiguous` copies `len` bytes.
    unsafe {
        let mut view: ffi::Py_buffer = std::mem::zeroed();
        if ffi::PyObject_GetBuffer(value.as_ptr(), &mut view, ffi::PyBUF_SIMPLE) != 0 {
            return Err(PyErr::fetch(value.py()));
        }
        let bytes = std::slice::from_raw_parts(not_null_raw(view.buf.cast()), view.len as usize).to_vec();
        ffi::PyBuffer_Release(&mut view);
        Ok(bytes)
    }
}

fn not_null_raw(pointer: *const u8) -> *const u8 {
    if pointer.is_null() { std::ptr::NonNull::dangling().as_ptr() } else { pointer }
}

/// A null pointer would bind NULL instead of an empty blob.
fn not_null(bytes: &[u8]) -> *const std::ffi::c_void {
    // A slice's pointer never is null.
    bytes.as_ptr().cast()
}

fn check_length(length: usize, message: &'static str) -> PyResult<()> {
    if length > c_int::MAX as usize { Err(PyOverflowError::new_err(message)) } else { Ok(()) }
}

#[cold]
fn unsupported(value: &Bound<'_, PyAny>, place: c_int) -> PyErr {
    let (py, name) = (value.py(), type_name(value));
    if cfg!(Py_3_11) {
        errors::programming(py, format!("Error binding parameter {place}: type '{name}' is not supported"))
    } else {
        errors::interface(py, format!("Error binding parameter {} - probably unsupported type.", place - 1))
    }
}

/// The name of its type as C code knows it: with the module for most types that are not written in Python.
pub fn type_name(value: &Bound<'_, PyAny>) -> String {
    // SAFETY: a live object; the name of its type is terminated, and copied.
    unsafe { CStr::from_ptr((*ffi::Py_TYPE(value.as_ptr())).tp_name) }.to_string_lossy().into_owned()
}

/// A 64-bit integer, or the error for one that does not fit.
#[inline(always)]
pub unsafe fn bind_int(statement: *mut raw::sqlite3_stmt, place: c_int, value: &Bound<'_, PyAny>) -> PyResult<c_int> {
    let mut overflow = 0;
    // SAFETY: an int, so `__index__` is not called.
    let number = unsafe { ffi::PyLong_AsLongLongAndOverflow(value.as_ptr(), &mut overflow) };
    if overflow != 0 {
        return Err(too_large());
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { raw::sqlite3_bind_int64(statement, place, number) })
}

#[cold]
pub fn too_large() -> PyErr {
    PyOverflowError::new_err("Python int too large to convert to SQLite INTEGER")
}

#[inline(always)]
unsafe fn bind_text<'py>(
    statement: *mut raw::sqlite3_stmt,
    place: c_int,
    value: &Bound<'py, PyAny>,
    lifetime: &mut Lifetime<'_, 'py>,
) -> PyResult<c_int> {
    let mut length = 0;
    // SAFETY: a str; the text lives as long as the object.
    let text = unsafe { ffi::PyUnicode_AsUTF8AndSize(value.as_ptr(), &mut length) };
    if text.is_null() {
        return Err(PyErr::fetch(value.py()));
    }
    check_length(length as usize, "string longer than INT_MAX bytes")?;
    let destructor = match lifetime {
        Lifetime::Copied => raw::SQLITE_TRANSIENT(),
        Lifetime::Held(held) => {
            held.push(value.clone());
            raw::SQLITE_STATIC()
        }
    };
    // SAFETY: the caller's promise.
    Ok(unsafe { raw::sqlite3_bind_text(statement, place, text, length as c_int, destructor) })
}

#[inline(always)]
unsafe fn bind_bytes<'py>(
    statement: *mut raw::sqlite3_stmt,
    place: c_int,
    value: &Bound<'py, PyAny>,
    lifetime: &mut Lifetime<'_, 'py>,
) -> PyResult<c_int> {
    // SAFETY: a bytes object; its content lives as long as the object.
    let (bytes, length) =
        unsafe { (ffi::PyBytes_AS_STRING(value.as_ptr()), ffi::PyBytes_Size(value.as_ptr()) as usize) };
    check_length(length, "BLOB longer than INT_MAX bytes")?;
    let destructor = match lifetime {
        Lifetime::Copied => raw::SQLITE_TRANSIENT(),
        Lifetime::Held(held) => {
            held.push(value.clone());
            raw::SQLITE_STATIC()
        }
    };
    // SAFETY: the caller's promise.
    Ok(unsafe { raw::sqlite3_bind_blob(statement, place, bytes.cast(), length as c_int, destructor) })
}
