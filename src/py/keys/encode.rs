//! The canonical encoding of exact builtin types.

use std::cell::Cell;
use std::ops::Range;

use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyComplex, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyString, PyTuple,
};

use super::{pickler, tokens};
use crate::py::raw;

/// Containers and pickles within one another. Bounds the C stack; what is deeper goes through a memoising pickle.
const MAX_DEPTH: u32 = 64;

/// Containers visited for one key. A value of this many is one that shares its parts many times over (each path
/// to a part is a visit); a memoising pickle takes each part once.
pub const MAX_VISITS: u32 = 1 << 20;

/// Visits that an object inside of a pickle counts for, which costs a pickler of its own.
const NESTED_PICKLE: u32 = 32;

/// Capacity up to which the thread keeps its buffer for the next key.
const KEEP_BUFFER: usize = 1 << 16;

/// Why an encoding could not be completed.
#[derive(Debug)]
pub enum Stop {
    /// Too deep, too much sharing, or contains itself.
    Limit,
    /// Something in it cannot be pickled, and may not or cannot take part by identity.
    Unpicklable,
    /// No `Exception`: has to reach the caller.
    Raised(PyErr),
}

/// Type tags. They are part of every stored key: never reuse a number.
mod tag {
    pub const NONE: u8 = 1;
    pub const FALSE: u8 = 2;
    pub const TRUE: u8 = 3;
    pub const INT: u8 = 4;
    pub const BIG_INT: u8 = 5;
    pub const FLOAT: u8 = 6;
    pub const COMPLEX: u8 = 7;
    pub const STR: u8 = 8;
    pub const BYTES: u8 = 9;
    pub const BYTEARRAY: u8 = 10;
    pub const TUPLE: u8 = 11;
    pub const LIST: u8 = 12;
    pub const DICT: u8 = 13;
    pub const SET: u8 = 14;
    pub const FROZENSET: u8 = 15;
    pub const PICKLE: u8 = 16;
    pub const MEMO_PICKLE: u8 = 17;
    pub const TOKEN: u8 = 18;
}

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Lends the thread's buffer, empty. Re-entrant: Python code called meanwhile may need a key itself and gets its own.
pub fn with_buffer<R>(f: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    let mut buffer = BUFFER.take();
    buffer.clear();
    let result = f(&mut buffer);
    if buffer.capacity() <= KEEP_BUFFER {
        BUFFER.set(buffer);
    }
    result
}

/// Appends encodings to a buffer.
pub struct Encoder<'a, 'py> {
    py: Python<'py>,
    out: &'a mut Vec<u8>,
    depth: u32,
    visits: u32,
    /// Whether an unpicklable object may take part by identity. Not inside of a pickle: the object that is pickled
    /// is then the one that cannot be.
    identity: bool,
    memory_only: bool,
}

impl<'a, 'py> Encoder<'a, 'py> {
    pub fn new(py: Python<'py>, out: &'a mut Vec<u8>) -> Self {
        Encoder { py, out, depth: 0, visits: 0, identity: true, memory_only: false }
    }

    /// For a container met inside of a pickle: goes on counting where the encoding around it stands.
    pub fn inside_pickle(py: Python<'py>, out: &'a mut Vec<u8>, depth: u32, visits: u32) -> Self {
        Encoder { py, out, depth, visits, identity: false, memory_only: false }
    }

    /// Whether an object took part by identity.
    pub fn memory_only(&self) -> bool {
        self.memory_only
    }

    pub fn visits(&self) -> u32 {
        self.visits
    }

    /// A whole call: positional arguments in order, keyword arguments by name.
    pub fn call(
        &mut self,
        positional: impl IntoIterator<Item = Bound<'py, PyAny>>,
        keywords: impl IntoIterator<Item = (Bound<'py, PyString>, Bound<'py, PyAny>)>,
    ) -> Result<(), Stop> {
        let count = self.reserve_count();
        let mut n = 0usize;
        for arg in positional {
            self.argument(&arg)?;
            n += 1;
        }
        self.set_count(count, n)?;

        let count = self.reserve_count();
        let mut pairs = Vec::new();
        for (name, arg) in keywords {
            let start = self.out.len();
            self.text(&name)?;
            self.argument(&arg)?;
            pairs.push(start..self.out.len());
        }
        self.set_count(count, pairs.len())?;
        self.sort(pairs);
        Ok(())
    }

    /// One argument. What is too deep or contains itself is expressed by one memoising pickle of the whole.
    fn argument(&mut self, arg: &Bound<'py, PyAny>) -> Result<(), Stop> {
        let start = self.out.len();
        let memory_only = self.memory_only;
        match self.value(arg) {
            Err(Stop::Limit) => {
                self.out.truncate(start);
                self.memory_only = memory_only;
                self.depth = 0;
                self.tagged(tag::MEMO_PICKLE, &pickler::memo_digest(arg)?);
                Ok(())
            }
            done => done,
        }
    }

    /// Any value.
    pub fn value(&mut self, obj: &Bound<'py, PyAny>) -> Result<(), Stop> {
        if self.atom(obj)? {
            return Ok(());
        }
        self.visits = self.visits.saturating_add(1);
        self.depth += 1;
        if self.depth > MAX_DEPTH || self.visits > MAX_VISITS {
            return Err(Stop::Limit);
        }
        if let Ok(tuple) = obj.cast_exact::<PyTuple>() {
            self.out.push(tag::TUPLE);
            let count = self.reserve_count();
            for item in tuple {
                self.value(&item)?;
            }
            self.set_count(count, tuple.len())?;
        } else if let Ok(list) = obj.cast_exact::<PyList>() {
            self.list(list)?;
        } else if let Ok(dict) = obj.cast_exact::<PyDict>() {
            self.dict(dict)?;
        } else if obj.is_exact_instance_of::<PySet>() {
            self.set(tag::SET, obj)?;
        } else if obj.is_exact_instance_of::<PyFrozenSet>() {
            self.set(tag::FROZENSET, obj)?;
        } else {
            self.object(obj)?;
        }
        self.depth -= 1;
        Ok(())
    }

    /// A value without parts. `false`, and nothing written, if it is none.
    pub fn atom(&mut self, obj: &Bound<'py, PyAny>) -> Result<bool, Stop> {
        if let Ok(text) = obj.cast_exact::<PyString>() {
            self.text(text)?;
        } else if let Ok(int) = obj.cast_exact::<PyInt>() {
            self.int(int)?;
        } else if obj.is_none() {
            self.out.push(tag::NONE);
        } else if let Ok(flag) = obj.cast_exact::<PyBool>() {
            self.out.push(if flag.is_true() { tag::TRUE } else { tag::FALSE });
        } else if let Ok(float) = obj.cast_exact::<PyFloat>() {
            self.tagged(tag::FLOAT, &float.value().to_bits().to_le_bytes());
        } else if let Ok(bytes) = obj.cast_exact::<PyBytes>() {
            self.prefixed(tag::BYTES, bytes.as_bytes());
        } else if let Ok(bytes) = obj.cast_exact::<PyByteArray>() {
            self.prefixed(tag::BYTEARRAY, &bytes.to_vec());
        } else if let Ok(complex) = obj.cast_exact::<PyComplex>() {
            self.tagged(tag::COMPLEX, &complex.real().to_bits().to_le_bytes());
            self.out.extend_from_slice(&complex.imag().to_bits().to_le_bytes());
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn text(&mut self, text: &Bound<'py, PyString>) -> Result<(), Stop> {
        if let Ok(utf8) = text.to_str() {
            self.prefixed(tag::STR, utf8.as_bytes());
            return Ok(());
        }
        // Lone surrogates: their own three-byte form occurs in no valid UTF-8, so the tag can be the same.
        let bytes = text
            .call_method1(pyo3::intern!(self.py, "encode"), ("utf-8", "surrogatepass"))
            .and_then(|bytes| bytes.extract::<Vec<u8>>());
        self.prefixed(tag::STR, &bytes.map_err(Stop::Raised)?);
        Ok(())
    }

    fn int(&mut self, int: &Bound<'py, PyInt>) -> Result<(), Stop> {
        if let Some(value) = raw::small_int(int) {
            self.tagged(tag::INT, &value.to_le_bytes());
            return Ok(());
        }
        let bytes = raw::big_int_bytes(int).map_err(Stop::Raised)?;
        self.prefixed(tag::BIG_INT, bytes.as_bytes());
        Ok(())
    }

    fn list(&mut self, list: &Bound<'py, PyList>) -> Result<(), Stop> {
        self.out.push(tag::LIST);
        let count = self.reserve_count();
        let mut n = 0;
        // By index: pickling an element may run code that changes the list.
        while let Ok(item) = list.get_item(n) {
            self.value(&item)?;
            n += 1;
            if n >= list.len() {
                break;
            }
        }
        self.set_count(count, n)
    }

    fn dict(&mut self, dict: &Bound<'py, PyDict>) -> Result<(), Stop> {
        self.out.push(tag::DICT);
        let count = self.reserve_count();
        let mut pairs = Vec::with_capacity(dict.len());
        let unchanged = raw::for_each_pair(dict, |key, value| {
            let start = self.out.len();
            self.value(&key)?;
            self.value(&value)?;
            pairs.push(start..self.out.len());
            Ok(())
        })?;
        if !unchanged {
            return Err(Stop::Unpicklable);
        }
        self.set_count(count, pairs.len())?;
        self.sort(pairs);
        Ok(())
    }

    fn set(&mut self, tag: u8, set: &Bound<'py, PyAny>) -> Result<(), Stop> {
        self.out.push(tag);
        let count = self.reserve_count();
        let mut items = Vec::new();
        for item in set.try_iter().map_err(Stop::Raised)? {
            // Fails if pickling an element changed the set.
            let item = item.map_err(|_| Stop::Unpicklable)?;
            let start = self.out.len();
            self.value(&item)?;
            items.push(start..self.out.len());
        }
        self.set_count(count, items.len())?;
        self.sort(items);
        Ok(())
    }

    /// An object of any other type.
    fn object(&mut self, obj: &Bound<'py, PyAny>) -> Result<(), Stop> {
        if !self.identity {
            self.visits = self.visits.saturating_add(NESTED_PICKLE);
        }
        let stop = match pickler::canonical_digest(obj, self.depth, &mut self.visits) {
            Ok(digest) => {
                self.tagged(tag::PICKLE, &digest);
                return Ok(());
            }
            Err(stop) => stop,
        };
        if !self.identity {
            return Err(stop);
        }
        let stop = match stop {
            Stop::Limit => match pickler::memo_digest(obj) {
                Ok(digest) => {
                    self.tagged(tag::MEMO_PICKLE, &digest);
                    return Ok(());
                }
                Err(stop) => stop,
            },
            stop => stop,
        };
        if let Stop::Raised(_) = stop {
            return Err(stop);
        }
        let token = tokens::token(obj).map_err(Stop::Raised)?.ok_or(Stop::Unpicklable)?;
        self.memory_only = true;
        self.tagged(tag::TOKEN, &token);
        Ok(())
    }

    fn tagged(&mut self, tag: u8, fixed: &[u8]) {
        self.out.push(tag);
        self.out.extend_from_slice(fixed);
    }

    fn prefixed(&mut self, tag: u8, bytes: &[u8]) {
        self.out.push(tag);
        let mut len = bytes.len();
        while len >= 0x80 {
            self.out.push(len as u8 | 0x80);
            len >>= 7;
        }
        self.out.push(len as u8);
        self.out.extend_from_slice(bytes);
    }

    fn reserve_count(&mut self) -> usize {
        self.out.extend_from_slice(&[0; 4]);
        self.out.len() - 4
    }

    fn set_count(&mut self, at: usize, count: usize) -> Result<(), Stop> {
        let count = u32::try_from(count).map_err(|_| Stop::Limit)?;
        self.out[at..at + 4].copy_from_slice(&count.to_le_bytes());
        Ok(())
    }

    /// Orders the encoded elements at the end of the buffer by their bytes.
    fn sort(&mut self, mut parts: Vec<Range<usize>>) {
        let Some(start) = parts.first().map(|part| part.start) else {
            return;
        };
        if parts.is_sorted_by(|a, b| self.out[a.clone()] <= self.out[b.clone()]) {
            return;
        }
        let unsorted = self.out.split_off(start);
        let shifted = |part: &Range<usize>| part.start - start..part.end - start;
        parts.sort_unstable_by(|a, b| unsorted[shifted(a)].cmp(&unsorted[shifted(b)]));
        for part in &parts {
            self.out.extend_from_slice(&unsorted[shifted(part)]);
        }
    }
}
