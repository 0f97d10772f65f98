//! Values of callbacks: SQLite's as arguments of a Python call, its result as SQLite's.
#![allow(unsafe_code)]

use std::ffi::c_int;

use pyo3::exceptions::{PyMemoryError, PyOverflowError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt, PyString};
use smallvec::SmallVec;

use super::{convert, errors};
use crate::py::hang;
use crate::py::raw::new_ref;
use crate::sqlite::raw;

/// Objects in the form of a vectorcall, on the stack if they are few.
pub struct Arguments {
    /// The first place is the callee's own, as the convention has it, or that of the object whose method is called.
    objects: SmallVec<[*mut ffi::PyObject; 8]>,
}

impl Arguments {
    /// # Safety
    /// What SQLite handed to a callback that is still running; the thread is attached.
    #[inline(always)]
    pub unsafe fn of(py: Python<'_>, count: c_int, values: *mut *mut raw::sqlite3_value) -> PyResult<Self> {
        let mut arguments = Self { objects: SmallVec::new() };
        arguments.objects.push(std::ptr::null_mut());
        for place in 0..count as usize {
            // SAFETY: the caller's promise.
            arguments.objects.push(unsafe { object(py, *values.add(place))? });
        }
        Ok(arguments)
    }

    pub fn push(&mut self, object: Bound<'_, PyAny>) {
        self.objects.push(object.into_ptr());
    }

    pub fn none() -> Self {
        let mut objects = SmallVec::new();
        objects.push(std::ptr::null_mut());
        Self { objects }
    }

    /// `callable(*arguments)`
    #[inline(always)]
    pub fn call<'py>(self, callable: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let count = (self.objects.len() - 1) | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
        // SAFETY: the convention; the thread is attached.
        unsafe {
            let first = self.objects.as_ptr().add(1);
            hang::vectorcall(callable.py(), callable.as_ptr(), first, count, std::ptr::null_mut())
        }
    }

    /// `object.name(*arguments)`
    #[inline(always)]
    pub fn call_method<'py>(
        mut self,
        object: &Bound<'py, PyAny>,
        name: &Bound<'py, PyString>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.objects[0] = object.as_ptr();
        // SAFETY: the convention; the thread is attached.
        unsafe { hang::vectorcall_method(object.py(), name.as_ptr(), self.objects.as_ptr(), self.objects.len()) }
    }
}

impl Drop for Arguments {
    #[inline(always)]
    fn drop(&mut self) {
        for &object in &self.objects[1..] {
            // SAFETY: owned references to int, float, str, bytes or None; the thread is attached.
            unsafe { ffi::Py_DECREF(object) };
        }
    }
}

/// One value; a new reference.
#[inline(always)]
unsafe fn object(py: Python<'_>, value: *mut raw::sqlite3_value) -> PyResult<*mut ffi::PyObject> {
    // SAFETY: the caller's promise (see `Arguments::of`); lengths are asked for after the pointers.
    let object = unsafe {
        match raw::sqlite3_value_type(value) {
            raw::SQLITE_INTEGER => ffi::PyLong_FromLongLong(raw::sqlite3_value_int64(value)),
            raw::SQLITE_FLOAT => ffi::PyFloat_FromDouble(raw::sqlite3_value_double(value)),
            raw::SQLITE_TEXT => {
                let start = raw::sqlite3_value_text(value);
                if start.is_null() {
                    return Err(PyMemoryError::new_err(()));
                }
                let length = raw::sqlite3_value_bytes(value) as usize;
                convert::str_of(std::slice::from_raw_parts(start, length))
            }
            raw::SQLITE_BLOB => {
                let start = raw::sqlite3_value_blob(value);
                let length = raw::sqlite3_value_bytes(value);
                if start.is_null() && length > 0 {
                    return Err(PyMemoryError::new_err(()));
                }
                ffi::PyBytes_FromStringAndSize(start.cast(), length as isize)
            }
            _ => new_ref(ffi::Py_None()),
        }
    };
    if object.is_null() { Err(PyErr::fetch(py)) } else { Ok(object) }
}

/// Makes `value` the result of a function. SQLite copies it.
///
/// # Safety
/// The context of a callback that is still running.
#[inline(always)]
pub unsafe fn set_result(context: *mut raw::sqlite3_context, value: &Bound<'_, PyAny>) -> PyResult<()> {
    let object = value.as_ptr();
    // SAFETY: the caller's promise; the type of the object is checked before each use.
    unsafe {
        let class = ffi::Py_TYPE(object);
        if class == &raw mut ffi::PyLong_Type {
            return set_int(context, value);
        }
        if object == ffi::Py_None() {
            raw::sqlite3_result_null(context);
            return Ok(());
        }
        if class == &raw mut ffi::PyUnicode_Type {
            return set_text(context, value);
        }
        if class == &raw mut ffi::PyFloat_Type {
            raw::sqlite3_result_double(context, ffi::PyFloat_AS_DOUBLE(object));
            return Ok(());
        }
        set_other(context, value)
    }
}

/// Any object, also of a subclass of the types above.
unsafe fn set_other(context: *mut raw::sqlite3_context, value: &Bound<'_, PyAny>) -> PyResult<()> {
    // SAFETY: the caller's promise; each cast is checked, the view is released after SQLite has copied.
    unsafe {
        if value.is_instance_of::<PyInt>() {
            set_int(context, value)
        } else if let Ok(float) = value.cast::<PyFloat>() {
            raw::sqlite3_result_double(context, float.value());
            Ok(())
        } else if value.is_instance_of::<PyString>() {
            set_text(context, value)
        } else if ffi::PyObject_CheckBuffer(value.as_ptr()) != 0 {
            let mut view: ffi::Py_buffer = std::mem::zeroed();
            if ffi::PyObject_GetBuffer(value.as_ptr(), &mut view, ffi::PyBUF_SIMPLE) != 0 {
                return Err(PyErr::fetch(value.py()));
            }
            let fits = c_int::try_from(view.len);
            if let Ok(length) = fits {
                // A null pointer would mean NULL instead of an empty blob.
                let start = if view.buf.is_null() { std::ptr::NonNull::dangling().as_ptr() } else { view.buf };
                raw::sqlite3_result_blob(context, start, length, raw::SQLITE_TRANSIENT());
            }
            ffi::PyBuffer_Release(&mut view);
            fits.map(|_| ()).map_err(|_| PyOverflowError::new_err("BLOB longer than INT_MAX bytes"))
        } else {
            let class = value.get_type().name()?.to_string();
            let message = format!("User-defined functions cannot return '{class}' values to SQLite");
            Err(errors::programming(value.py(), message))
        }
    }
}

#[inline(always)]
unsafe fn set_int(context: *mut raw::sqlite3_context, value: &Bound<'_, PyAny>) -> PyResult<()> {
    let mut overflow = 0;
    // SAFETY: an int, so `__index__` is not called.
    let number = unsafe { ffi::PyLong_AsLongLongAndOverflow(value.as_ptr(), &mut overflow) };
    if overflow != 0 {
        return Err(super::adapt::too_large());
    }
    // SAFETY: the caller's promise.
    unsafe { raw::sqlite3_result_int64(context, number) };
    Ok(())
}

#[inline(always)]
unsafe fn set_text(context: *mut raw::sqlite3_context, value: &Bound<'_, PyAny>) -> PyResult<()> {
    let mut length = 0;
    // SAFETY: a str.
    let text = unsafe { ffi::PyUnicode_AsUTF8AndSize(value.as_ptr(), &mut length) };
    if text.is_null() {
        return Err(PyErr::fetch(value.py()));
    }
    let Ok(length) = c_int::try_from(length) else {
        return Err(PyOverflowError::new_err("string is longer than INT_MAX bytes"));
    };
    // SAFETY: the caller's promise.
    unsafe { raw::sqlite3_result_text(context, text, length, raw::SQLITE_TRANSIENT()) };
    Ok(())
}

/// Makes an error the result of a function, and tells of the exception behind it.
///
/// # Safety
/// As [`set_result`].
#[cold]
pub unsafe fn set_error(context: *mut raw::sqlite3_context, callable: &Bound<'_, PyAny>, error: PyErr, message: &str) {
    let py = callable.py();
    // SAFETY: the caller's promise; SQLite copies the text.
    unsafe {
        if cfg!(Py_3_11) && error.is_instance_of::<PyMemoryError>(py) {
            raw::sqlite3_result_error_nomem(context);
        } else if cfg!(Py_3_11) && error.is_instance_of::<PyOverflowError>(py) {
            raw::sqlite3_result_error_toobig(context);
        } else {
            raw::sqlite3_result_error(context, message.as_ptr().cast(), message.len() as c_int);
        }
    }
    super::hooks::report(py, Some(callable), error);
}

/// The result of a callback whose callable is not there any more, or that was broken off by a bug.
///
/// # Safety
/// As [`set_result`].
#[cold]
pub unsafe fn set_gone(context: *mut raw::sqlite3_context) {
    const MESSAGE: &str = "user-defined function is gone";
    // SAFETY: the caller's promise; SQLite copies the text.
    unsafe { raw::sqlite3_result_error(context, MESSAGE.as_ptr().cast(), MESSAGE.len() as c_int) };
}
