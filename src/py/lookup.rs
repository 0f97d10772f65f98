//! Hashing and comparing Python keys without running Python code.
//!
//! Two notions of sameness live here. *Dict semantics* (`1 == 1.0 == True`) serve keys passed to `get`/`set`. *Call
//! semantics* serve the arguments of a decorated function, where values of different type must never share a result.
//! A comparison that would need a user-defined `__eq__` is never made here: it is reported as [`Same::Ask`], and the
//! caller makes it after leaving the cache's critical section.
#![allow(unsafe_code)]

use pyo3::ffi;
use pyo3::prelude::*;

use super::hang;
use crate::support::sync::Exclusion;

// SAFETY: under the GIL one thread is attached at a time, and `Python` cannot be sent to another thread.
unsafe impl Exclusion for Python<'_> {}

/// Multiplier of the folded multiply (2^64 / golden ratio, odd).
const FOLD: u64 = 0x9E37_79B9_7F4A_7C15;

/// Mixes `value` into `hash`; full-width diffusion, because int hashes are the ints themselves.
#[inline(always)]
pub fn fold(hash: u64, value: u64) -> u64 {
    let product = u128::from(hash ^ value).wrapping_mul(u128::from(FOLD) << 1 | 1);
    (product as u64) ^ ((product >> 64) as u64)
}

/// Table hash of a `get`/`set` key. Runs the key's `__hash__`.
#[inline(always)]
pub fn hash_key(key: &Bound<'_, PyAny>) -> PyResult<u64> {
    // SAFETY: `key` is a live object and the thread is attached.
    let hash = unsafe { hang::hash(key.as_ptr()) };
    if hash == -1 {
        return Err(PyErr::fetch(key.py()));
    }
    Ok(fold_hash(hash))
}

/// Table hash of a key whose Python hash is known.
#[inline(always)]
pub fn fold_hash(hash: ffi::Py_hash_t) -> u64 {
    fold(FOLD, hash as u64)
}

/// Outcome of a comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Same {
    Yes,
    No,
    /// Only user code can tell.
    Ask,
}

impl From<bool> for Same {
    fn from(same: bool) -> Self {
        if same { Self::Yes } else { Self::No }
    }
}

/// Compares two keys whose hashes are equal, by dict semantics.
#[inline(always)]
pub fn same_key(stored: &Py<PyAny>, wanted: *mut ffi::PyObject) -> Same {
    let stored = stored.as_ptr();
    if stored == wanted {
        return Same::Yes;
    }
    // SAFETY: both are live objects held by their owners, the thread is attached.
    unsafe { same_key_slow(stored, wanted) }
}

unsafe fn same_key_slow(a: *mut ffi::PyObject, b: *mut ffi::PyObject) -> Same {
    // SAFETY: forwarded from `same_key`; tuple items are alive as long as their tuple.
    unsafe {
        let (ta, tb) = (ffi::Py_TYPE(a), ffi::Py_TYPE(b));
        if ta == tb && ta == &raw mut ffi::PyUnicode_Type {
            return same_str(a, b).into();
        }
        if ta == tb && ta == &raw mut ffi::PyLong_Type {
            return same_int(a, b).into();
        }
        if ffi::PyTuple_CheckExact(a) != 0 && ffi::PyTuple_CheckExact(b) != 0 {
            let len = ffi::PyTuple_GET_SIZE(a);
            if len != ffi::PyTuple_GET_SIZE(b) {
                return Same::No;
            }
            let mut result = Same::Yes;
            for i in 0..len {
                let (x, y) = (ffi::PyTuple_GET_ITEM(a, i), ffi::PyTuple_GET_ITEM(b, i));
                match if x == y { Same::Yes } else { same_key_slow(x, y) } {
                    Same::Yes => {}
                    Same::No => return Same::No,
                    Same::Ask => result = Same::Ask,
                }
            }
            return result;
        }
        match (plain(a), plain(b)) {
            (Some(Plain::Number), Some(Plain::Number)) | (Some(Plain::Bytes), Some(Plain::Bytes)) => {
                // Exact builtin types: no user code, and the comparison cannot fail.
                (ffi::PyObject_RichCompareBool(a, b, ffi::Py_EQ) == 1).into()
            }
            (Some(_), Some(_)) => Same::No,
            _ => Same::Ask,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Plain {
    Number,
    Text,
    Bytes,
    None,
}

/// Which family of exact builtin types the object belongs to, `None` if it may bring its own `__eq__`.
unsafe fn plain(object: *mut ffi::PyObject) -> Option<Plain> {
    // SAFETY: forwarded from the caller.
    unsafe {
        if ffi::PyLong_CheckExact(object) != 0
            || ffi::PyFloat_CheckExact(object) != 0
            || ffi::PyBool_Check(object) != 0
            || ffi::PyComplex_CheckExact(object) != 0
        {
            Some(Plain::Number)
        } else if ffi::PyUnicode_CheckExact(object) != 0 {
            Some(Plain::Text)
        } else if ffi::PyBytes_CheckExact(object) != 0 {
            Some(Plain::Bytes)
        } else if object == ffi::Py_None() {
            Some(Plain::None)
        } else {
            None
        }
    }
}

/// Whether two exact `str` objects hold the same text.
#[inline(always)]
unsafe fn same_str(a: *mut ffi::PyObject, b: *mut ffi::PyObject) -> bool {
    // SAFETY: both are exact str, so comparing runs no user code; both are ready (3.12+ knows no other).
    unsafe {
        if ffi::PyUnicode_GET_LENGTH(a) != ffi::PyUnicode_GET_LENGTH(b) {
            return false;
        }
        let kind = ffi::PyUnicode_KIND(a);
        if kind != ffi::PyUnicode_KIND(b) {
            return false;
        }
        let bytes = ffi::PyUnicode_GET_LENGTH(a) as usize * kind as usize;
        same_bytes(ffi::PyUnicode_DATA(a).cast::<u8>(), ffi::PyUnicode_DATA(b).cast::<u8>(), bytes)
    }
}

/// Whether `count` bytes are the same; short ones, as most keys are, without a call.
#[inline(always)]
unsafe fn same_bytes(a: *const u8, b: *const u8, count: usize) -> bool {
    // SAFETY: the caller promises `count` readable bytes at both places; two words that may overlap cover them.
    unsafe {
        match count {
            8..=16 => {
                let word = |at: *const u8| at.cast::<u64>().read_unaligned();
                word(a) == word(b) && word(a.add(count - 8)) == word(b.add(count - 8))
            }
            4..=7 => {
                let word = |at: *const u8| at.cast::<u32>().read_unaligned();
                word(a) == word(b) && word(a.add(count - 4)) == word(b.add(count - 4))
            }
            0..=3 => (0..count).all(|at| *a.add(at) == *b.add(at)),
            _ => std::slice::from_raw_parts(a, count) == std::slice::from_raw_parts(b, count),
        }
    }
}

/// An int of up to one digit: what CPython 3.9 to 3.14 have in common. The word is a size up to 3.11 (its sign is that of
/// the int) and a tag from 3.12 on (sign in the two lowest bits, number of digits above three).
#[repr(C)]
struct SmallInt {
    head: ffi::PyObject,
    word: isize,
    digit: u32,
}

/// Whether two exact `int` objects are equal. Ints of one digit, below 2^30, are compared in place.
#[inline(always)]
unsafe fn same_int(a: *mut ffi::PyObject, b: *mut ffi::PyObject) -> bool {
    #[cfg(Py_3_12)]
    const ONE_DIGIT: std::ops::RangeInclusive<isize> = 8..=15;
    #[cfg(not(Py_3_12))]
    const ONE_DIGIT: std::ops::RangeInclusive<isize> = -1..=1;
    // SAFETY: both are exact ints, whose first digit lies behind the word on every supported version; a size of 0 has none
    // that counts, but only the one object 0 has it.
    unsafe {
        let (x, y) = (a.cast::<SmallInt>(), b.cast::<SmallInt>());
        if ONE_DIGIT.contains(&(*x).word) && ONE_DIGIT.contains(&(*y).word) && (*x).word != 0 {
            return (*x).word == (*y).word && (*x).digit == (*y).digit;
        }
        ffi::PyObject_RichCompareBool(a, b, ffi::Py_EQ) == 1
    }
}

/// Hash of a call argument under call semantics, mixed into `hash`; `None` if it is not of a type whose identity is
/// its value (exact str, int, float, bool, None, bytes, and tuples of those).
#[inline(always)]
pub fn fold_argument(hash: u64, argument: *mut ffi::PyObject) -> Option<u64> {
    // SAFETY: the caller passes a live object and is attached. The types named are exact builtins: hashing them runs
    // no user code and does not fail.
    unsafe {
        let kind = ffi::Py_TYPE(argument);
        if kind == &raw mut ffi::PyUnicode_Type || kind == &raw mut ffi::PyLong_Type {
            let value = match (*kind).tp_hash {
                Some(tp_hash) => tp_hash(argument),
                None => return None,
            };
            return Some(fold(hash, value as u64));
        }
        fold_rarer(hash, argument)
    }
}

unsafe fn fold_rarer(hash: u64, argument: *mut ffi::PyObject) -> Option<u64> {
    // SAFETY: forwarded from `fold_argument`.
    unsafe {
        if ffi::PyFloat_CheckExact(argument) != 0 {
            // By bits: -0.0 and 0.0 give different results in user code, every NaN is like itself.
            return Some(fold(hash ^ 3, ffi::PyFloat_AS_DOUBLE(argument).to_bits()));
        }
        if argument == ffi::Py_None() || ffi::PyBool_Check(argument) != 0 {
            return Some(fold(hash ^ 5, argument as u64));
        }
        if ffi::PyBytes_CheckExact(argument) != 0 {
            return Some(fold(hash ^ 7, ffi::PyObject_Hash(argument) as u64));
        }
        if ffi::PyTuple_CheckExact(argument) != 0 {
            let mut hash = fold(hash ^ 9, ffi::PyTuple_GET_SIZE(argument) as u64);
            for i in 0..ffi::PyTuple_GET_SIZE(argument) {
                hash = fold_argument(hash, ffi::PyTuple_GET_ITEM(argument, i))?;
            }
            return Some(hash);
        }
        None
    }
}

/// Whether two arguments accepted by [`fold_argument`] are the same value of the same type.
#[inline(always)]
pub fn same_argument(stored: *mut ffi::PyObject, wanted: *mut ffi::PyObject) -> bool {
    if stored == wanted {
        return true;
    }
    // SAFETY: both are live objects, the thread is attached, no branch runs user code.
    unsafe {
        let kind = ffi::Py_TYPE(stored);
        if kind != ffi::Py_TYPE(wanted) {
            return false;
        }
        if kind == &raw mut ffi::PyUnicode_Type {
            return same_str(stored, wanted);
        }
        if kind == &raw mut ffi::PyFloat_Type {
            return ffi::PyFloat_AS_DOUBLE(stored).to_bits() == ffi::PyFloat_AS_DOUBLE(wanted).to_bits();
        }
        if kind == &raw mut ffi::PyTuple_Type {
            let len = ffi::PyTuple_GET_SIZE(stored);
            return len == ffi::PyTuple_GET_SIZE(wanted)
                && (0..len).all(|i| same_argument(ffi::PyTuple_GET_ITEM(stored, i), ffi::PyTuple_GET_ITEM(wanted, i)));
        }
        if kind == &raw mut ffi::PyLong_Type {
            return same_int(stored, wanted);
        }
        if kind == &raw mut ffi::PyBytes_Type {
            return ffi::PyObject_RichCompareBool(stored, wanted, ffi::Py_EQ) == 1;
        }
        false
    }
}

/// Number of the calling thread, as `threading.get_ident()` tells it.
#[inline(always)]
pub fn thread_ident() -> u64 {
    // SAFETY: has no preconditions.
    unsafe { ffi::PyThread_get_thread_ident() as u64 }
}
