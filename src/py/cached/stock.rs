//! Whether a cache still has the methods it came with.
//!
//! Decorated functions answer from the engine without calling `get` and `set`. If a subclass overrides one of those, or
//! a test replaces it, the override must be honoured; this check costs the hot path three loads.
#![allow(unsafe_code)]

use std::ffi::c_ulong;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;

use crate::py::cache::ResultCache;

unsafe extern "C" {
    /// Where an object keeps its instance dict; exported by CPython, but not declared by `pyo3::ffi`.
    fn _PyObject_GetDictPtr(object: *mut ffi::PyObject) -> *mut *mut ffi::PyObject;
}

/// `Py_TPFLAGS_VALID_VERSION_TAG`: cleared when a class or one of its bases is modified.
const VALID_VERSION: c_ulong = 1 << 19;

/// Remembers for which version of its class a cache was found unmodified.
pub struct Stock {
    cache: *mut ffi::PyObject,
    /// The class that was found unmodified. Followed only while it is the cache's: `__class__` can be assigned, and the
    /// old class die.
    kind: AtomicPtr<ffi::PyTypeObject>,
    /// Where the instance keeps its dict; null if it has none.
    dict: *mut *mut ffi::PyObject,
    version: AtomicU32,
}

// SAFETY: the pointers are only followed while attached, and the owning `Call` keeps the cache alive, hence its class
// and its dict.
unsafe impl Send for Stock {}
// SAFETY: as above.
unsafe impl Sync for Stock {}

impl Stock {
    pub fn new(cache: &Bound<'_, ResultCache>) -> PyResult<Self> {
        // SAFETY: a live object; the answer is null or a pointer into it.
        let dict = unsafe { _PyObject_GetDictPtr(cache.as_ptr()) };
        let kind = AtomicPtr::new(cache.get_type().as_type_ptr());
        let stock = Self { cache: cache.as_ptr(), kind, dict, version: AtomicU32::new(0) };
        stock.holds_slowly(cache);
        Ok(stock)
    }

    /// True if nothing was overridden; false may also mean "not known without a closer look".
    #[inline(always)]
    pub fn holds(&self) -> bool {
        // SAFETY: see the struct.
        unsafe {
            self.class_holds()
                && (self.dict.is_null()
                    || (*self.dict).is_null()
                    || (*(*self.dict).cast::<ffi::PyDictObject>()).ma_used == 0
                    || !overrides(*self.dict))
        }
    }

    #[inline(always)]
    fn class_holds(&self) -> bool {
        let version = self.version.load(Ordering::Relaxed);
        // SAFETY: see the struct.
        unsafe {
            let kind = ffi::Py_TYPE(self.cache);
            version != 0
                && kind == self.kind.load(Ordering::Relaxed)
                && (*kind).tp_version_tag == version
                && (*kind).tp_flags & VALID_VERSION != 0
        }
    }

    /// Looks at the class anew where [`holds`](Self::holds) does not know.
    pub fn holds_slowly(&self, cache: &Bound<'_, ResultCache>) -> bool {
        if !self.class_holds() {
            let Some(originals) = ORIGINALS.get(cache.py()) else { return false };
            let kind = cache.get_type();
            let stock = originals
                .iter()
                .all(|(name, original)| kind.getattr(name.bind(cache.py())).is_ok_and(|current| current.is(original)));
            // The lookups above gave the class a version tag, if it could have one.
            // SAFETY: see the struct.
            let version = if stock { unsafe { (*kind.as_type_ptr()).tp_version_tag } } else { 0 };
            self.kind.store(kind.as_type_ptr(), Ordering::Relaxed);
            self.version.store(version, Ordering::Relaxed);
            if !stock {
                return false;
            }
        }
        // SAFETY: see the struct.
        unsafe { self.dict.is_null() || (*self.dict).is_null() || !overrides(*self.dict) }
    }
}

/// The methods whose override matters, as they were when the module was made.
static ORIGINALS: PyOnceLock<Vec<(Py<PyString>, Py<PyAny>)>> = PyOnceLock::new();

/// Takes note of the original methods; called once, when the native module is initialised.
pub fn remember_originals(py: Python<'_>) -> PyResult<()> {
    let kind = py.get_type::<ResultCache>();
    let mut originals = Vec::new();
    for name in ["get", "set", "generate_key"] {
        let name = PyString::intern(py, name);
        originals.push((name.clone().unbind(), kind.getattr(&name)?.unbind()));
    }
    // A second initialisation finds the same type, hence the same methods.
    let _ = ORIGINALS.set(py, originals);
    Ok(())
}

/// Whether an instance dict replaces one of the methods.
unsafe fn overrides(dict: *mut ffi::PyObject) -> bool {
    // SAFETY: called attached, with a live dict; str keys are compared natively.
    let py = unsafe { Python::assume_attached() };
    let Some(originals) = ORIGINALS.get(py) else { return true };
    // SAFETY: as above.
    originals.iter().any(|(name, _)| unsafe { ffi::PyDict_Contains(dict, name.as_ptr()) } != 0)
}
