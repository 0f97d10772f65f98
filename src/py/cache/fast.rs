//! `get` and `set` in their plain form, as C-level methods.
//!
//! PyO3's argument parsing costs more than a lookup. These functions take the calls everybody makes, positional, on a
//! cache without listeners or a disk tier, and hand every other one to the methods that PyO3 made.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::state::{Found, Gone, State};
use super::{ResultCache, options};
use crate::cache::New;
use crate::py::hang;
use crate::py::lookup::fold_hash;
use crate::support::clock::{self, NEVER};
use crate::support::sync::Entered;

type Fastcall = unsafe extern "C" fn(
    *mut ffi::PyObject,
    *const *mut ffi::PyObject,
    ffi::Py_ssize_t,
    *mut ffi::PyObject,
) -> *mut ffi::PyObject;

/// The methods as PyO3 made them: `get`, `set`.
static GENERAL: PyOnceLock<[Py<PyAny>; 2]> = PyOnceLock::new();
const GET: usize = 0;
const SET: usize = 1;

/// Puts the fast methods in the place of the general ones; called once, when the native module is initialised.
pub fn install(py: Python<'_>) -> PyResult<()> {
    let kind = py.get_type::<ResultCache>();
    let methods: [(&str, Fastcall); 2] = [("get", get), ("set", set)];
    let general = [kind.getattr("get")?.unbind(), kind.getattr("set")?.unbind()];
    if GENERAL.set(py, general).is_err() {
        return Ok(());
    }
    for (name, function) in methods {
        let general = kind.getattr(name)?;
        let signature: String = general.getattr("__text_signature__")?.extract()?;
        let text: String = general.getattr("__doc__")?.extract()?;
        let doc = format!("{name}{}\n--\n\n{text}", signature);
        // The descriptor keeps pointers into the definition for as long as the process lives.
        let definition = Box::leak(Box::new(ffi::PyMethodDef {
            ml_name: CString::new(name)?.into_raw(),
            ml_meth: ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: function },
            ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
            ml_doc: CString::new(doc)?.into_raw(),
        }));
        // SAFETY: the definition is complete and lives for ever; the result is a new reference.
        let method = unsafe {
            Bound::from_owned_ptr_or_err(
                py,
                ffi::PyDescr_NewMethod(kind.as_type_ptr(), std::ptr::from_mut(definition)),
            )?
        };
        kind.setattr(name, method)?;
    }
    Ok(())
}

/// The cache behind `this`.
///
/// # Safety
/// A method descriptor has checked that `this` is a `ResultCache`; the thread is attached.
#[inline(always)]
unsafe fn cache<'py>(py: Python<'py>, this: &'py *mut ffi::PyObject) -> Borrowed<'py, 'py, ResultCache> {
    // SAFETY: the caller's promise.
    unsafe { Borrowed::from_ptr(py, *this).cast_unchecked::<ResultCache>() }
}

unsafe extern "C" fn get(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython under the fastcall convention, for all uses below.
    guarded(|| unsafe {
        let py = Python::assume_attached();
        let cache = cache(py, &this);
        if names.is_null() && (count == 1 || count == 2) && cache.get().is_plain() {
            let key = *arguments;
            let hash = hang::hash(key);
            if hash == -1 {
                return Some(null_mut());
            }
            let mut state = cache.get().state.enter(py);
            match state.find(py, fold_hash(hash), key) {
                Found::At(slot) => {
                    if let Some(value) = state.hit(py, slot) {
                        return Some(value);
                    }
                }
                Found::Absent if !cache.get().has(super::ELABORATE) => {
                    state.counters.misses += 1;
                    let default = if count == 2 { *arguments.add(1) } else { ffi::Py_None() };
                    ffi::Py_INCREF(default);
                    return Some(default);
                }
                found => {
                    drop(state);
                    Python::attach(|_| drop(found));
                }
            }
        }
        general(GET, this, arguments, count, names)
    })
}

unsafe extern "C" fn set(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython under the fastcall convention, for all uses below.
    guarded(|| unsafe {
        let py = Python::assume_attached();
        let cache = cache(py, &this);
        if names.is_null() && (count == 2 || count == 3) && cache.get().stores_plainly() {
            let lifetime = if count == 3 { lifetime(*arguments.add(2)) } else { cache.get().default_lifetime() };
            if let Some(lifetime) = lifetime {
                let (key, value) = (*arguments, *arguments.add(1));
                let hash = hang::hash(key);
                if hash == -1 {
                    return Some(null_mut());
                }
                if !has_head(key) && put(py, &cache, key, fold_hash(hash), value, lifetime) {
                    ffi::Py_INCREF(ffi::Py_None());
                    return Some(ffi::Py_None());
                }
            }
        }
        general(SET, this, arguments, count, names)
    })
}

/// Stores without tags or disk; false if user code must be asked about the key.
#[inline(always)]
unsafe fn put(
    py: Python<'_>,
    cache: &Borrowed<'_, '_, ResultCache>,
    key: *mut ffi::PyObject,
    hash: u64,
    value: *mut ffi::PyObject,
    lifetime: u64,
) -> bool {
    // SAFETY: key and value are live objects that the caller holds.
    let own = |object| unsafe { Bound::from_borrowed_ptr(py, object).unbind() };
    let now = clock::start_of(lifetime);
    let expires = now.saturating_add(lifetime);
    let mut state = cache.get().state.enter(py);
    let state_ref = &mut *state;
    match state_ref.find(py, hash, key) {
        Found::At(slot) => match state_ref.engine.swap(slot, own(value), now, expires) {
            Ok(old) => {
                state_ref.counters.sets += 1;
                drop(state);
                hang::give_up(py, old);
            }
            Err(value) => {
                let mut gone = Gone::default();
                state_ref.engine.replace(slot, value, New { expires, ..New::at(now) }, &mut gone);
                stored(py, state, gone);
            }
        },
        Found::Absent => match state_ref.engine.displace(hash, own(key), own(value), now, expires) {
            Ok((key, value)) => {
                state_ref.counters.sets += 1;
                state_ref.counters.evictions += 1;
                drop(state);
                hang::give_up(py, key);
                hang::give_up(py, value);
            }
            Err((key, value)) => {
                let mut gone = Gone::default();
                state_ref.engine.insert(hash, key, value, New { expires, ..New::at(now) }, &mut gone);
                stored(py, state, gone);
            }
        },
        found @ Found::Ask(_) => {
            drop(state);
            Python::attach(|_| drop(found));
            return false;
        }
    }
    true
}

/// Counts a store and gives up what it removed.
fn stored(py: Python<'_>, mut state: Entered<'_, State>, gone: Gone) {
    state.counters.sets += 1;
    state.count(&gone);
    drop(state);
    super::destroy(py, gone);
}

/// Nanoseconds of a plain ttl; `None` for what the general method has to look at.
#[inline(always)]
unsafe fn lifetime(ttl: *mut ffi::PyObject) -> Option<u64> {
    // SAFETY: a live object; exact ints and floats are read without user code.
    let seconds = unsafe {
        if ffi::PyLong_CheckExact(ttl) != 0 {
            let mut overflow = 0;
            let whole = ffi::PyLong_AsLongLongAndOverflow(ttl, &raw mut overflow);
            if overflow != 0 {
                return None;
            }
            whole as f64
        } else if ffi::PyFloat_CheckExact(ttl) != 0 {
            ffi::PyFloat_AS_DOUBLE(ttl)
        } else {
            return None;
        }
    };
    (seconds >= 0.0).then(|| if seconds == 0.0 { NEVER } else { options::nanoseconds(seconds) })
}

/// Whether the key is a text with a ':', by which its prefix is indexed, or one that takes a closer look.
#[inline(always)]
unsafe fn has_head(key: *mut ffi::PyObject) -> bool {
    // SAFETY: a live object; the data of a compact ASCII str is read within its length.
    unsafe {
        if ffi::PyUnicode_Check(key) == 0 {
            return false;
        }
        if ffi::PyUnicode_CheckExact(key) == 0 || ffi::PyUnicode_KIND(key) != ffi::PyUnicode_1BYTE_KIND {
            return true;
        }
        let length = ffi::PyUnicode_GET_LENGTH(key) as usize;
        std::slice::from_raw_parts(ffi::PyUnicode_DATA(key).cast::<u8>(), length).contains(&b':')
    }
}

/// Calls the method that PyO3 made.
#[cold]
unsafe fn general(
    which: usize,
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> Option<*mut ffi::PyObject> {
    Python::attach(|py| {
        let method = &GENERAL.get(py)?[which];
        // SAFETY: fastcall convention: `count` positional objects, then one for each name.
        unsafe {
            let named = if names.is_null() { 0 } else { ffi::PyTuple_GET_SIZE(names) };
            let mut all = smallvec::SmallVec::<[*mut ffi::PyObject; 8]>::new();
            all.push(this);
            all.extend((0..(count + named) as usize).map(|i| *arguments.add(i)));
            Some(match hang::vectorcall(py, method.as_ptr(), all.as_ptr(), count as usize + 1, names) {
                Ok(result) => result.into_ptr(),
                Err(error) => {
                    error.restore(py);
                    null_mut()
                }
            })
        }
    })
}

/// A panic must not cross into C: it becomes an exception.
#[inline(always)]
fn guarded(body: impl FnOnce() -> Option<*mut ffi::PyObject>) -> *mut ffi::PyObject {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Some(result)) => result,
        Ok(None) | Err(_) => Python::attach(|py| {
            PyRuntimeError::new_err("internal error in upshift.ResultCache").restore(py);
            null_mut()
        }),
    }
}
