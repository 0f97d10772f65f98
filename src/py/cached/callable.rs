//! `CachedFunction`: the object that `cached` puts in a function's place.
//!
//! A plain C-level type, because PyO3 classes cannot implement the vectorcall protocol, and a call through `tp_call`
//! costs more than the whole lookup. It holds the [`Call`] with all behaviour, an instance dict with the wrapped
//! function's metadata, and binds as a method.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_ulong, c_void};
use std::mem::offset_of;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::panic::PanicException;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyType};

use super::call::Call;
use crate::py::hang;

#[repr(C)]
struct CachedFunction {
    head: ffi::PyObject,
    vectorcall: Option<ffi::vectorcallfunc>,
    /// Owned `Call`; null only while the object is being built or torn down.
    call: *mut ffi::PyObject,
    dict: *mut ffi::PyObject,
    weak_references: *mut ffi::PyObject,
}

/// `Py_TPFLAGS_HAVE_VECTORCALL`, public since 3.12 under this value, private before.
const HAVE_VECTORCALL: c_ulong = 1 << 11;

/// `CachedFunction.__doc__`; an instance shows that of the function it wraps.
const DOC: &std::ffi::CStr = c"A function whose results are kept in a cache; made by `ResultCache.cached()`.

It is called, bound as a method, inspected and awaited like the function itself. A hit in memory takes O(1), O(log n)
under the policy \"cost\". A miss runs the function in the calling thread, or awaits it in the calling task, with no lock
held, or waits for the caller that already does. Safe from any thread. Not to be made directly.";

static TYPE: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// What a cached function read from an instance becomes.
static BOUND: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// Registers the class of bound methods; the first registration stands.
#[pyfunction]
pub fn _set_bound_type(py: Python<'_>, class: Py<PyAny>) {
    BOUND.get_or_init(py, || class);
}

/// The type object, made on first use.
pub fn cached_function_type(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    TYPE.get_or_try_init(py, || {
        let member = |name: &'static std::ffi::CStr, type_code: c_int, offset: usize| ffi::PyMemberDef {
            name: name.as_ptr(),
            type_code,
            offset: offset as ffi::Py_ssize_t,
            flags: ffi::Py_READONLY,
            doc: std::ptr::null(),
        };
        // The type keeps pointers to both tables for as long as the process lives.
        let members = Box::leak(Box::new([
            member(c"__vectorcalloffset__", ffi::Py_T_PYSSIZET, offset_of!(CachedFunction, vectorcall)),
            member(c"__dictoffset__", ffi::Py_T_PYSSIZET, offset_of!(CachedFunction, dict)),
            member(c"__weaklistoffset__", ffi::Py_T_PYSSIZET, offset_of!(CachedFunction, weak_references)),
            member(c"_call", ffi::Py_T_OBJECT_EX, offset_of!(CachedFunction, call)),
            // SAFETY: the all-zero member ends the table.
            unsafe { std::mem::zeroed() },
        ]));
        let getters = Box::leak(Box::new([
            ffi::PyGetSetDef {
                name: c"__dict__".as_ptr(),
                get: Some(ffi::PyObject_GenericGetDict),
                set: Some(ffi::PyObject_GenericSetDict),
                doc: std::ptr::null(),
                closure: null_mut(),
            },
            // SAFETY: the all-zero entry ends the table.
            unsafe { std::mem::zeroed() },
        ]));
        let slot = |slot: c_int, pfunc: *mut c_void| ffi::PyType_Slot { slot, pfunc };
        let mut slots = [
            slot(ffi::Py_tp_doc, DOC.as_ptr() as *mut c_void),
            slot(ffi::Py_tp_new, refuse as *mut c_void),
            slot(ffi::Py_tp_call, ffi::PyVectorcall_Call as *mut c_void),
            slot(ffi::Py_tp_descr_get, bind_method as *mut c_void),
            slot(ffi::Py_tp_traverse, traverse as *mut c_void),
            slot(ffi::Py_tp_clear, clear as *mut c_void),
            slot(ffi::Py_tp_dealloc, deallocate as *mut c_void),
            slot(ffi::Py_tp_members, members.as_mut_ptr().cast()),
            slot(ffi::Py_tp_getset, getters.as_mut_ptr().cast()),
            slot(0, null_mut()),
        ];
        let flags =
            ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_HAVE_GC | ffi::Py_TPFLAGS_METHOD_DESCRIPTOR | HAVE_VECTORCALL;
        let mut spec = ffi::PyType_Spec {
            name: c"upshift._native.CachedFunction".as_ptr(),
            basicsize: size_of::<CachedFunction>() as c_int,
            itemsize: 0,
            flags: flags as _,
            slots: slots.as_mut_ptr(),
        };
        // SAFETY: the spec and its tables are complete and terminated; the result is a new reference to a type.
        let made = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&raw mut spec))? };
        Ok(made.cast_into::<PyType>()?.unbind())
    })
    .map(|made| made.bind(py))
}

/// Makes the callable for `call`, with `attributes` as its instance dict.
#[pyfunction]
pub fn make_cached<'py>(call: &Bound<'py, Call>, attributes: Bound<'py, PyDict>) -> PyResult<Bound<'py, PyAny>> {
    let py = call.py();
    let kind = cached_function_type(py)?;
    // SAFETY: the type was made above with this layout; generic allocation zeroes the fields, and the object is
    // complete before anyone else sees it.
    unsafe {
        let made = Bound::from_owned_ptr_or_err(py, ffi::PyType_GenericAlloc(kind.as_type_ptr(), 0))?;
        let this = made.as_ptr().cast::<CachedFunction>();
        (*this).vectorcall = Some(vectorcall);
        (*this).call = call.clone().into_ptr();
        (*this).dict = attributes.into_ptr();
        Ok(made)
    }
}

unsafe extern "C" fn refuse(
    _kind: *mut ffi::PyTypeObject,
    _arguments: *mut ffi::PyObject,
    _options: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    Python::attach(|py| {
        PyTypeError::new_err("CachedFunction objects are made by ResultCache.cached()").restore(py);
        null_mut()
    })
}

/// The hot path of the package.
unsafe extern "C" fn vectorcall(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: usize,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let count = count & !ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
    // SAFETY: `this` is a complete CachedFunction whose `call` is a Call until it is cleared, and a cleared object is
    // unreachable; the arguments follow the vectorcall convention; CPython calls slots attached.
    let hit = catch_unwind(AssertUnwindSafe(|| unsafe {
        let py = Python::assume_attached();
        let call = (*this.cast::<CachedFunction>()).call;
        if call.is_null() {
            return null_mut();
        }
        let call = Borrowed::from_ptr(py, call).cast_unchecked::<Call>();
        call.get().hit(py, arguments, count, names).unwrap_or(null_mut())
    }));
    match hit {
        Ok(value) if !value.is_null() => value,
        // SAFETY: as above.
        Ok(_) => unsafe { miss(this, arguments, count, names) },
        Err(payload) => panicked(payload),
    }
}

/// Everything but a plain hit; kept out of the hot function.
#[cold]
#[inline(never)]
unsafe fn miss(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: usize,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as in `vectorcall`.
    let outcome = catch_unwind(AssertUnwindSafe(|| unsafe {
        Python::attach(|py| {
            let call = (*this.cast::<CachedFunction>()).call;
            if call.is_null() {
                let text = "this cached function has been torn down by the garbage collector";
                PyTypeError::new_err(text).restore(py);
                return null_mut();
            }
            let call = Borrowed::from_ptr(py, call).cast_unchecked::<Call>();
            match Call::miss(&call, arguments, count, names) {
                Ok(value) => value.into_ptr(),
                Err(error) => {
                    error.restore(py);
                    null_mut()
                }
            }
        })
    }));
    outcome.unwrap_or_else(panicked)
}

/// A panic is a bug, and must not cross into C: it becomes an exception.
#[cold]
fn panicked(payload: Box<dyn std::any::Any + Send>) -> *mut ffi::PyObject {
    Python::attach(|py| {
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        PanicException::new_err(text.unwrap_or_else(|| "panic in upshift".to_owned())).restore(py);
        null_mut()
    })
}

unsafe extern "C" fn bind_method(
    this: *mut ffi::PyObject,
    instance: *mut ffi::PyObject,
    _owner: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a descriptor slot gets live objects; `instance` is null when read from the class.
    unsafe {
        if instance.is_null() || instance == ffi::Py_None() {
            ffi::Py_INCREF(this);
            return this;
        }
        // `object.method(…)` never comes here: METHOD_DESCRIPTOR lets the interpreter pass the instance along.
        Python::attach(|py| {
            let bound = BOUND.get(py).ok_or_else(|| PyTypeError::new_err("upshift.cache is not imported"));
            let (this, instance) = (Borrowed::from_ptr(py, this), Borrowed::from_ptr(py, instance));
            let both = (this, instance).into_pyobject(py);
            match bound.and_then(|bound| hang::call(bound.bind(py), &both?, None)) {
                Ok(method) => method.into_ptr(),
                Err(error) => {
                    error.restore(py);
                    null_mut()
                }
            }
        })
    }
}

unsafe extern "C" fn traverse(this: *mut ffi::PyObject, visit: ffi::visitproc, argument: *mut c_void) -> c_int {
    // SAFETY: `this` is a CachedFunction; the collector may see it half built, with null fields.
    unsafe {
        let fields = this.cast::<CachedFunction>();
        for object in [(*fields).call, (*fields).dict, ffi::Py_TYPE(this).cast()] {
            if !object.is_null() {
                let stop = visit(object, argument);
                if stop != 0 {
                    return stop;
                }
            }
        }
    }
    0
}

unsafe extern "C" fn clear(this: *mut ffi::PyObject) -> c_int {
    // SAFETY: each field is taken out before its reference is given up, so re-entry finds null.
    unsafe {
        let fields = this.cast::<CachedFunction>();
        let call = std::mem::replace(&mut (*fields).call, null_mut());
        let dict = std::mem::replace(&mut (*fields).dict, null_mut());
        ffi::Py_XDECREF(call);
        ffi::Py_XDECREF(dict);
    }
    0
}

unsafe extern "C" fn deallocate(this: *mut ffi::PyObject) {
    // SAFETY: last reference; the heap type is kept alive by the object and given up last.
    unsafe {
        ffi::PyObject_GC_UnTrack(this.cast());
        let kind = ffi::Py_TYPE(this);
        if !(*this.cast::<CachedFunction>()).weak_references.is_null() {
            ffi::PyObject_ClearWeakRefs(this);
        }
        clear(this);
        if let Some(free) = (*kind).tp_free {
            free(this.cast());
        }
        ffi::Py_DECREF(kind.cast());
    }
}
