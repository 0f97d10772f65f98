//! Deep size of values, for limits in bytes.

use std::collections::HashSet;

use pyo3::buffer::PyUntypedBuffer;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{
    PyBool, PyBytes, PyCFunction, PyComplex, PyDict, PyFloat, PyFrozenSet, PyFunction, PyInt, PyList, PyModule, PySet,
    PyString, PyTuple, PyType,
};

use crate::py::raw;

/// Objects looked at for one estimate. Of larger containers the first elements stand for the rest.
const MAX_VISITS: usize = 4096;

/// Objects of at least this size are counted once however often they occur. Smaller ones are counted each time,
/// which is cheaper than remembering them.
const REMEMBERED: u64 = 128;

/// Bytes that a value keeps alive, estimated. Exact for text, bytes and numbers; for containers the sum over their
/// elements, for other objects what `sys.getsizeof` says plus what they refer to. Looks at no more than
/// [`MAX_VISITS`] objects. May run Python code (`__sizeof__`); never raises.
pub fn estimate_size(obj: &Bound<'_, PyAny>) -> u64 {
    let mut estimate = Estimate { py: obj.py(), left: MAX_VISITS, seen: HashSet::new() };
    estimate.value(obj, 0)
}

/// References followed in a row.
const MAX_DEPTH: u32 = 32;

struct Estimate<'py> {
    py: Python<'py>,
    left: usize,
    seen: HashSet<usize>,
}

impl<'py> Estimate<'py> {
    fn value(&mut self, obj: &Bound<'py, PyAny>, depth: u32) -> u64 {
        self.left = self.left.saturating_sub(1);
        if let Some(size) = self.atom(obj) {
            return if size < REMEMBERED || self.first(obj) { size } else { 0 };
        }
        if depth >= MAX_DEPTH || self.left == 0 || !self.first(obj) {
            return 0;
        }
        let own = self.own_size(obj);
        let parts = if let Ok(list) = obj.cast_exact::<PyList>() {
            self.parts(list.len(), depth, (0..).map_while(|index| list.get_item(index).ok()))
        } else if let Ok(tuple) = obj.cast_exact::<PyTuple>() {
            self.parts(tuple.len(), depth, tuple.iter())
        } else if let Ok(dict) = obj.cast_exact::<PyDict>() {
            self.pairs(dict, depth)
        } else if obj.is_exact_instance_of::<PySet>() || obj.is_exact_instance_of::<PyFrozenSet>() {
            let len = obj.len().unwrap_or(0);
            obj.try_iter().map_or(0, |items| self.parts(len, depth, items.map_while(Result::ok)))
        } else {
            return own.max(self.buffer(obj)).saturating_add(self.referents(obj, depth));
        };
        own.saturating_add(parts)
    }

    /// Size of a value without parts.
    fn atom(&self, obj: &Bound<'py, PyAny>) -> Option<u64> {
        let size = if let Ok(text) = obj.cast_exact::<PyString>() {
            raw::str_size(text)
        } else if let Ok(bytes) = obj.cast_exact::<PyBytes>() {
            let (basic, item, _) = raw::type_sizes(obj);
            basic + item * bytes.as_bytes().len()
        } else if let Some(value) = obj.cast_exact::<PyInt>().ok().and_then(raw::small_int) {
            let (basic, item, _) = raw::type_sizes(obj);
            let bits = 64 - value.unsigned_abs().leading_zeros() as usize;
            basic + item * bits.div_ceil(30).max(1)
        } else if obj.is_none()
            || obj.is_exact_instance_of::<PyBool>()
            || obj.is_exact_instance_of::<PyFloat>()
            || obj.is_exact_instance_of::<PyComplex>()
        {
            raw::type_sizes(obj).0
        } else {
            return None;
        };
        Some(size as u64)
    }

    /// Size of the elements, of which there are `len`.
    fn parts(&mut self, len: usize, depth: u32, items: impl Iterator<Item = Bound<'py, PyAny>>) -> u64 {
        let (mut size, mut visited) = (0u64, 0);
        for item in items {
            if self.left == 0 {
                break;
            }
            size = size.saturating_add(self.value(&item, depth + 1));
            visited += 1;
        }
        extrapolate(size, visited, len)
    }

    fn pairs(&mut self, dict: &Bound<'py, PyDict>, depth: u32) -> u64 {
        let (mut size, mut visited) = (0u64, 0);
        // Ends early when the budget is used up, or when a `__sizeof__` changed the dict.
        let _ended: Result<bool, ()> = raw::for_each_pair(dict, |key, value| {
            if self.left == 0 {
                return Err(());
            }
            size = size.saturating_add(self.value(&key, depth + 1)).saturating_add(self.value(&value, depth + 1));
            visited += 1;
            Ok(())
        });
        extrapolate(size, visited, dict.len())
    }

    /// What the object itself takes, without what it refers to.
    fn own_size(&self, obj: &Bound<'py, PyAny>) -> u64 {
        static GETSIZEOF: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let size = GETSIZEOF
            .import(self.py, "sys", "getsizeof")
            .and_then(|getsizeof| getsizeof.call1((obj,)))
            .and_then(|size| size.extract::<u64>());
        // A broken `__sizeof__`.
        size.unwrap_or_else(|_| raw::type_sizes(obj).0 as u64)
    }

    /// Memory that is reached through the buffer protocol: an array's data even when another object owns it.
    fn buffer(&self, obj: &Bound<'py, PyAny>) -> u64 {
        if !raw::has_buffer(obj) {
            return 0;
        }
        PyUntypedBuffer::get(obj).map_or(0, |buffer| buffer.len_bytes() as u64)
    }

    /// What an object of any other type refers to, as the garbage collector sees it: attributes, slots, elements.
    fn referents(&mut self, obj: &Bound<'py, PyAny>, depth: u32) -> u64 {
        static GET_REFERENTS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        if !raw::type_sizes(obj).2 || is_shared(obj) {
            return 0;
        }
        let referents = GET_REFERENTS.import(self.py, "gc", "get_referents").and_then(|get| get.call1((obj,)));
        let Ok(Ok(referents)) = referents.map(|referents| referents.cast_into::<PyList>()) else {
            return 0;
        };
        let mut size = 0u64;
        for referent in referents {
            if self.left == 0 {
                break;
            }
            if !is_shared(&referent) {
                size = size.saturating_add(self.value(&referent, depth + 1));
            }
        }
        size
    }

    fn first(&mut self, obj: &Bound<'py, PyAny>) -> bool {
        self.seen.insert(obj.as_ptr() as usize)
    }
}

/// Program rather than data: referred to by values, but not kept alive by them.
fn is_shared(obj: &Bound<'_, PyAny>) -> bool {
    obj.is_instance_of::<PyType>()
        || obj.is_instance_of::<PyModule>()
        || obj.is_instance_of::<PyFunction>()
        || obj.is_instance_of::<PyCFunction>()
}

/// The size of all when `visited` of `len` parts were looked at.
fn extrapolate(size: u64, visited: usize, len: usize) -> u64 {
    if visited == 0 || visited >= len {
        return size;
    }
    (size as f64 / visited as f64 * len as f64) as u64
}
