//! What the interpreter lock guards: the engine, the counters and the settings of one `ResultCache`.

use pyo3::ffi;
use pyo3::prelude::*;

use crate::cache::{Cache, Reason, Removals, Slot};
use crate::py::lookup::{Same, same_key};
use crate::support::clock;

/// The arguments of a decorated call: second key of an entry that `cached` stored.
pub struct Alias {
    /// Token of the decorated function.
    pub function: u64,
    /// The only argument of a one-parameter function, otherwise the tuple of bound arguments.
    pub arguments: Py<PyAny>,
}

pub type Engine = Cache<Py<PyAny>, Py<PyAny>, Alias>;
pub type Gone = Removals<Py<PyAny>, Py<PyAny>, Alias>;

/// The six counters of contract `openclaw` §2.4.
#[derive(Default, Clone, Copy)]
pub struct Counters {
    pub hits: u64,
    pub misses: u64,
    pub evictions: u64,
    pub expirations: u64,
    pub sets: u64,
    pub deletes: u64,
}

pub struct State {
    pub engine: Engine,
    pub counters: Counters,
    /// Raised by every removal that must not be undone by a disk read or a computation already under way.
    pub invalidations: u64,
}

/// Where a key stands, as far as it can be told without user code.
pub enum Found {
    At(Slot),
    Absent,
    /// These stored keys have the same hash and their `__eq__` must be asked outside the critical section.
    Ask(Vec<Py<PyAny>>),
}

/// Whether something that expires then may be served now.
#[inline(always)]
fn is_fresh(expires: u64) -> bool {
    !clock::is_past(expires)
}

impl State {
    /// Finds a `get`/`set` key.
    #[inline(always)]
    pub fn find(&self, py: Python<'_>, hash: u64, key: *mut ffi::PyObject) -> Found {
        let mut ask = false;
        let slot = self.engine.find(hash, |stored| match same_key(stored, key) {
            Same::Yes => true,
            Same::No => false,
            Same::Ask => {
                ask = true;
                false
            }
        });
        match slot {
            Some(slot) => Found::At(slot),
            None if ask => self.candidates(py, hash, key),
            None => Found::Absent,
        }
    }

    #[cold]
    fn candidates(&self, py: Python<'_>, hash: u64, key: *mut ffi::PyObject) -> Found {
        let slots = self.engine.candidates(hash);
        let stored = slots.iter().map(|slot| &self.engine.entry(*slot).key);
        Found::Ask(
            stored.filter(|stored| same_key(stored, key) == Same::Ask).map(|stored| stored.clone_ref(py)).collect(),
        )
    }

    /// Finds the very key object.
    pub fn find_identical(&self, hash: u64, key: &Py<PyAny>) -> Option<Slot> {
        self.engine.find(hash, |stored| stored.is(key))
    }

    /// Counts what left the engine.
    pub fn count(&mut self, gone: &Gone) {
        for removed in gone {
            match removed.reason {
                Reason::Capacity | Reason::Bytes => self.counters.evictions += 1,
                Reason::Expired => self.counters.expirations += 1,
                Reason::Replaced | Reason::Deleted | Reason::Invalidated | Reason::Cleared => {}
            }
        }
    }

    /// Serves an entry as a hit: counts the use and returns a new reference to the value; `None` if it has expired.
    #[inline(always)]
    pub fn hit(&mut self, py: Python<'_>, slot: Slot) -> Option<*mut ffi::PyObject> {
        let value = self.engine.serve(slot, is_fresh)?;
        let value = value.clone_ref(py).into_ptr();
        self.counters.hits += 1;
        Some(value)
    }

    /// Whether the entry may be served at this moment.
    #[inline(always)]
    pub fn is_live(&self, slot: Slot) -> bool {
        !clock::is_past(self.engine.entry(slot).expires)
    }
}
