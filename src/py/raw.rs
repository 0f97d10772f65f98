//! The few C-API calls for which PyO3 has no safe form that neither panics nor allocates.
#![allow(unsafe_code)]

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyInt, PyString};

/// The value of an int that fits into 64 bits, `None` for a larger one. Runs no Python code and raises nothing.
pub fn small_int(int: &Bound<'_, PyInt>) -> Option<i64> {
    let mut overflow = 0;
    // SAFETY: the argument is an int (so `__index__` is not called and no error can be set) and we are attached.
    let value = unsafe { ffi::PyLong_AsLongLongAndOverflow(int.as_ptr(), &mut overflow) };
    (overflow == 0).then_some(value)
}

/// Calls `visit` for each pair of the dict, in its order. Returns `Ok(false)` if the dict changed size meanwhile
/// (the visitor may run Python code), where PyO3's iterator would panic.
pub fn for_each_pair<'py, E>(
    dict: &Bound<'py, PyDict>,
    mut visit: impl FnMut(Bound<'py, PyAny>, Bound<'py, PyAny>) -> Result<(), E>,
) -> Result<bool, E> {
    let py = dict.py();
    let len = dict.len();
    let (mut position, mut seen) = (0, 0);
    let (mut key, mut value) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: `dict` is a dict and we are attached; PyDict_Next checks the position against the current table on
    // each call, so a change of the dict in between yields other entries or ends the loop, never a dangling one.
    while unsafe { ffi::PyDict_Next(dict.as_ptr(), &mut position, &mut key, &mut value) } != 0 {
        // SAFETY: both are valid borrowed references until Python code runs; they become strong before that.
        let (key, value) = unsafe { (Bound::from_borrowed_ptr(py, key), Bound::from_borrowed_ptr(py, value)) };
        seen += 1;
        visit(key, value)?;
        if dict.len() != len || seen > len {
            return Ok(false);
        }
    }
    Ok(seen == len)
}

/// What `sys.getsizeof` reports for a str in the compact form (any that Python code can make), without building
/// its UTF-8 copy.
pub fn str_size(text: &Bound<'_, PyString>) -> usize {
    let ptr = text.as_ptr();
    // SAFETY: `ptr` is a str; every interpreter this crate supports hands out ready (canonical) strings.
    let (ascii, kind, len) = unsafe {
        (ffi::PyUnicode_IS_COMPACT_ASCII(ptr) != 0, ffi::PyUnicode_KIND(ptr) as usize, ffi::PyUnicode_GetLength(ptr))
    };
    let len = usize::try_from(len).unwrap_or(0);
    if ascii {
        size_of::<ffi::PyASCIIObject>() + len + 1
    } else {
        size_of::<ffi::PyCompactUnicodeObject>() + (len + 1) * kind
    }
}

/// Bytes of the fixed part and of each item of instances of the object's type, and whether the garbage collector's
/// header precedes them.
pub fn type_sizes(obj: &Bound<'_, PyAny>) -> (usize, usize, bool) {
    let ty = obj.get_type_ptr();
    // SAFETY: the type of a live object is a live, ready type object.
    let (basic, item, collected) =
        unsafe { ((*ty).tp_basicsize, (*ty).tp_itemsize, ffi::PyObject_IS_GC(obj.as_ptr()) != 0) };
    (usize::try_from(basic).unwrap_or(0), usize::try_from(item).unwrap_or(0), collected)
}

/// An int of any size as little-endian two's complement of the least whole number of bytes that holds it.
pub fn big_int_bytes<'py>(int: &Bound<'py, PyInt>) -> PyResult<Bound<'py, PyBytes>> {
    let py = int.py();
    let bits: usize = int.call_method0(intern!(py, "bit_length"))?.extract()?;
    let signed = PyDict::new(py);
    signed.set_item(intern!(py, "signed"), true)?;
    let bytes = int.call_method(intern!(py, "to_bytes"), (bits / 8 + 1, intern!(py, "little")), Some(&signed))?;
    Ok(bytes.cast_into::<PyBytes>()?)
}

/// Whether the object's type exports buffers.
pub fn has_buffer(obj: &Bound<'_, PyAny>) -> bool {
    // SAFETY: only looks into the type of a live object.
    unsafe { ffi::PyObject_CheckBuffer(obj.as_ptr()) != 0 }
}

/// A new reference to the object: `Py_NewRef`, which Python 3.9 does not have.
///
/// # Safety
/// A live object; the thread is attached.
#[inline(always)]
pub unsafe fn new_ref(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the caller's promise.
    unsafe { ffi::Py_INCREF(object) };
    object
}
