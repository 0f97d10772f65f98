//! Calls into user code that survive the end of the interpreter.
//!
//! Before Python 3.14, a daemon thread that asks for the interpreter lock after finalisation has begun is ended with
//! `pthread_exit`, which unwinds its stack. The unwinding must not reach Rust frames: a caught foreign exception aborts
//! the process, and destructors would touch objects without the lock. So the frame next to the interpreter stops the
//! thread for good instead, which is what Python 3.14 does itself. The process ends without it.
#![allow(unsafe_code)]

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

mod unwinding {
    use pyo3::ffi;

    // Declared again, because `pyo3::ffi` declares them as functions that cannot unwind.
    unsafe extern "C-unwind" {
        pub fn PyObject_Vectorcall(
            callable: *mut ffi::PyObject,
            arguments: *const *mut ffi::PyObject,
            count: usize,
            names: *mut ffi::PyObject,
        ) -> *mut ffi::PyObject;
        pub fn PyObject_Call(
            callable: *mut ffi::PyObject,
            arguments: *mut ffi::PyObject,
            options: *mut ffi::PyObject,
        ) -> *mut ffi::PyObject;
    }
}

/// Dropped only by unwinding.
struct Hang;

impl Drop for Hang {
    fn drop(&mut self) {
        loop {
            std::thread::park();
        }
    }
}

/// `PyObject_Vectorcall`.
///
/// # Safety
/// Vectorcall convention; the thread is attached.
pub unsafe fn vectorcall<'py>(
    py: Python<'py>,
    callable: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: usize,
    names: *mut ffi::PyObject,
) -> PyResult<Bound<'py, PyAny>> {
    let hang = Hang;
    // SAFETY: the caller's promise.
    let result = unsafe { unwinding::PyObject_Vectorcall(callable, arguments, count, names) };
    std::mem::forget(hang);
    // SAFETY: null with an exception set, or a new reference.
    unsafe { Bound::from_owned_ptr_or_err(py, result) }
}

/// `callable(*arguments, **options)`.
pub fn call<'py>(
    callable: &Bound<'py, PyAny>,
    arguments: &Bound<'py, PyTuple>,
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let options = options.map_or(std::ptr::null_mut(), |options| options.as_ptr());
    let hang = Hang;
    // SAFETY: all are live objects of the right types and the thread is attached.
    let result = unsafe { unwinding::PyObject_Call(callable.as_ptr(), arguments.as_ptr(), options) };
    std::mem::forget(hang);
    // SAFETY: null with an exception set, or a new reference.
    unsafe { Bound::from_owned_ptr_or_err(callable.py(), result) }
}
