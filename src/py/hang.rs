//! Calls into user code that survive the end of the interpreter.
//!
//! Before Python 3.14, a daemon thread that asks for the interpreter lock after finalisation has begun is ended with
//! `pthread_exit`, which unwinds its stack. The unwinding must not reach Rust frames: a caught foreign exception aborts
//! the process, and destructors would touch objects without the lock. So the frame next to the interpreter stops the
//! thread for good instead, which is what Python 3.14 does itself. The process ends without it.
//!
//! Everything that may run Python code goes through here: calls, `__hash__`, `__eq__`, and `__del__` of what leaves.
#![allow(unsafe_code)]

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator, PyTuple};

mod unwinding {
    use pyo3::ffi;

    // Declared again, because `pyo3::ffi` declares them as functions that cannot unwind. Call them by `may_unwind!`.
    unsafe extern "C-unwind" {
        #[cfg(Py_3_11)]
        pub fn PyObject_Vectorcall(
            callable: *mut ffi::PyObject,
            arguments: *const *mut ffi::PyObject,
            count: usize,
            names: *mut ffi::PyObject,
        ) -> *mut ffi::PyObject;
        #[cfg(not(Py_3_11))]
        pub fn PyObject_VectorcallDict(
            callable: *mut ffi::PyObject,
            arguments: *const *mut ffi::PyObject,
            count: usize,
            options: *mut ffi::PyObject,
        ) -> *mut ffi::PyObject;
        pub fn PyObject_VectorcallMethod(
            name: *mut ffi::PyObject,
            arguments: *const *mut ffi::PyObject,
            count: usize,
            names: *mut ffi::PyObject,
        ) -> *mut ffi::PyObject;
        pub fn PyObject_IsTrue(object: *mut ffi::PyObject) -> std::ffi::c_int;
        pub fn PyObject_Hash(object: *mut ffi::PyObject) -> ffi::Py_hash_t;
        pub fn PyObject_RichCompareBool(
            one: *mut ffi::PyObject,
            other: *mut ffi::PyObject,
            operation: std::ffi::c_int,
        ) -> std::ffi::c_int;
        pub fn Py_DecRef(object: *mut ffi::PyObject);
        pub fn PyIter_Next(iterator: *mut ffi::PyObject) -> *mut ffi::PyObject;
        pub fn PyObject_Call(
            callable: *mut ffi::PyObject,
            arguments: *mut ffi::PyObject,
            options: *mut ffi::PyObject,
        ) -> *mut ffi::PyObject;
    }
}

/// Stops the thread when it is dropped, which only unwinding does: forget it after the call.
pub struct Hang;

/// A function that may unwind, as a pointer that the compiler knows nothing about: PyO3 calls the same functions from code
/// that is compiled together with this, and of two declarations the one that cannot unwind prevails.
macro_rules! may_unwind {
    ($function:path, $($argument:tt),+) => {
        std::hint::black_box($function as unsafe extern "C-unwind" fn($($argument),+) -> _)
    };
}
pub(crate) use may_unwind;

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
#[cfg(Py_3_11)]
pub unsafe fn vectorcall<'py>(
    py: Python<'py>,
    callable: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: usize,
    names: *mut ffi::PyObject,
) -> PyResult<Bound<'py, PyAny>> {
    let call = may_unwind!(unwinding::PyObject_Vectorcall, _, _, _, _);
    let hang = Hang;
    // SAFETY: the caller's promise.
    let result = unsafe { call(callable, arguments, count, names) };
    std::mem::forget(hang);
    // SAFETY: null with an exception set, or a new reference.
    unsafe { Bound::from_owned_ptr_or_err(py, result) }
}

/// `PyObject_Vectorcall`, which is not exported before Python 3.11: the names and their values go as a dict.
///
/// # Safety
/// Vectorcall convention; the thread is attached.
#[cfg(not(Py_3_11))]
pub unsafe fn vectorcall<'py>(
    py: Python<'py>,
    callable: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: usize,
    names: *mut ffi::PyObject,
) -> PyResult<Bound<'py, PyAny>> {
    let mut options = None;
    if !names.is_null() {
        let dict = PyDict::new(py);
        // SAFETY: the caller's promise.
        unsafe {
            for i in 0..ffi::PyTuple_GET_SIZE(names) {
                let name = Bound::from_borrowed_ptr(py, ffi::PyTuple_GET_ITEM(names, i));
                dict.set_item(name, Bound::from_borrowed_ptr(py, *arguments.add(count + i as usize)))?;
            }
        }
        options = Some(dict);
    }
    let options = options.as_ref().map_or(std::ptr::null_mut(), |options| options.as_ptr());
    let call = may_unwind!(unwinding::PyObject_VectorcallDict, _, _, _, _);
    let hang = Hang;
    // SAFETY: the caller's promise.
    let result = unsafe { call(callable, arguments, count, options) };
    std::mem::forget(hang);
    // SAFETY: null with an exception set, or a new reference.
    unsafe { Bound::from_owned_ptr_or_err(py, result) }
}

/// `PyObject_VectorcallMethod`: calls the method of that name of the first argument.
///
/// # Safety
/// Vectorcall convention; `name` is a str; the thread is attached.
#[inline]
pub unsafe fn vectorcall_method<'py>(
    py: Python<'py>,
    name: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let call = may_unwind!(unwinding::PyObject_VectorcallMethod, _, _, _, _);
    let hang = Hang;
    // SAFETY: the caller's promise.
    let result = unsafe { call(name, arguments, count, std::ptr::null_mut()) };
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
    let call = may_unwind!(unwinding::PyObject_Call, _, _, _);
    let hang = Hang;
    // SAFETY: all are live objects of the right types and the thread is attached.
    let result = unsafe { call(callable.as_ptr(), arguments.as_ptr(), options) };
    std::mem::forget(hang);
    // SAFETY: null with an exception set, or a new reference.
    unsafe { Bound::from_owned_ptr_or_err(callable.py(), result) }
}

/// `object.name(*arguments, **options)`, for attributes that are found without Python code.
pub fn method<'py>(
    object: &Bound<'py, PyAny>,
    name: &str,
    arguments: impl IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>, Error: Into<PyErr>>,
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    call(&object.getattr(name)?, &arguments.into_pyobject(object.py()).map_err(Into::into)?, options)
}

/// The next item of an iterator, `None` at its end.
pub fn next<'py>(iterator: &Bound<'py, PyIterator>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let call = may_unwind!(unwinding::PyIter_Next, _);
    let hang = Hang;
    // SAFETY: an iterator; the thread is attached.
    let item = unsafe { call(iterator.as_ptr()) };
    std::mem::forget(hang);
    // SAFETY: null at the end, or with an exception set, or a new reference.
    match unsafe { Bound::from_owned_ptr_or_opt(iterator.py(), item) } {
        None => PyErr::take(iterator.py()).map_or(Ok(None), Err),
        item => Ok(item),
    }
}

/// `PyObject_Hash`: -1 with an exception set if it fails.
///
/// # Safety
/// A live object; the thread is attached.
#[inline(always)]
pub unsafe fn hash(object: *mut ffi::PyObject) -> ffi::Py_hash_t {
    let call = may_unwind!(unwinding::PyObject_Hash, _);
    let hang = Hang;
    // SAFETY: the caller's promise.
    let hash = unsafe { call(object) };
    std::mem::forget(hang);
    hash
}

/// `one == other`, and whether that is true.
pub fn equal(one: &Bound<'_, PyAny>, other: &Bound<'_, PyAny>) -> PyResult<bool> {
    let call = may_unwind!(unwinding::PyObject_RichCompareBool, _, _, _);
    let hang = Hang;
    // SAFETY: live objects; the thread is attached.
    let equal = unsafe { call(one.as_ptr(), other.as_ptr(), ffi::Py_EQ) };
    std::mem::forget(hang);
    if equal < 0 { Err(PyErr::fetch(one.py())) } else { Ok(equal == 1) }
}

/// `bool(object)`.
pub fn is_true(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    let call = may_unwind!(unwinding::PyObject_IsTrue, _);
    let hang = Hang;
    // SAFETY: a live object; the thread is attached.
    let truth = unsafe { call(object.as_ptr()) };
    std::mem::forget(hang);
    if truth < 0 { Err(PyErr::fetch(object.py())) } else { Ok(truth == 1) }
}

/// Gives up a reference; the object's `__del__` may run. By hand: without PyO3's own bookkeeping of attachment, dropping
/// a `Py` would put it off.
#[inline(always)]
pub fn give_up(_py: Python<'_>, object: Py<PyAny>) {
    let object = object.into_ptr();
    // SAFETY: the reference is owned and the thread is attached.
    unsafe {
        if ffi::Py_REFCNT(object) > 1 {
            ffi::Py_DECREF(object);
        } else {
            let call = may_unwind!(unwinding::Py_DecRef, _);
            let hang = Hang;
            call(object);
            std::mem::forget(hang);
        }
    }
}
