//! What a cache shows of its inside: counters, entries and tags, none of which is an access.

use std::sync::OnceLock;

use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::ResultCache;
use super::state::Counters;
use crate::cache::{Entry, Label};
use crate::support::clock::{self, NEVER};

pub fn counts<'py>(slf: &Bound<'py, ResultCache>) -> PyResult<Bound<'py, PyDict>> {
    let (py, this) = (slf.py(), slf.get());
    let (counters, size, tags, bytes, policy, limits) = this.state.with(py, |state| {
        let engine = &state.engine;
        (state.counters, engine.len(), engine.tag_count(), engine.bytes(), engine.policy().as_str(), engine.limits())
    });
    let (max_size, disk_errors) = this.settings.with(py, |settings| (settings.max_size, settings.disk_errors));
    let total = counters.hits + counters.misses;
    let rate = if total == 0 { 0.0 } else { counters.hits as f64 / total as f64 };
    let counts = PyDict::new(py);
    counts.set_item("size", size)?;
    counts.set_item("max_size", max_size)?;
    counts.set_item("hits", counters.hits)?;
    counts.set_item("misses", counters.misses)?;
    counts.set_item("hit_rate", (rate * 1000.0).round() / 1000.0)?;
    counts.set_item("evictions", counters.evictions)?;
    counts.set_item("expirations", counters.expirations)?;
    counts.set_item("sets", counters.sets)?;
    counts.set_item("deletes", counters.deletes)?;
    counts.set_item("tags_count", tags)?;
    counts.set_item("total_requests", total)?;
    counts.set_item("policy", policy)?;
    counts.set_item("bytes", bytes)?;
    counts.set_item("max_bytes", limits.bytes)?;
    counts.set_item("disk_errors", disk_errors + slf.get().disk.errors())?;
    Ok(counts)
}

pub fn set_count(this: &ResultCache, py: Python<'_>, name: &str, value: u64) -> PyResult<()> {
    let known = this.state.with(py, |state| match counter(&mut state.counters, name) {
        Some(counter) => {
            *counter = value;
            true
        }
        None => false,
    });
    if known { Ok(()) } else { Err(PyKeyError::new_err(name.to_owned())) }
}

fn counter<'a>(counters: &'a mut Counters, name: &str) -> Option<&'a mut u64> {
    Some(match name {
        "hits" => &mut counters.hits,
        "misses" => &mut counters.misses,
        "evictions" => &mut counters.evictions,
        "expirations" => &mut counters.expirations,
        "sets" => &mut counters.sets,
        "deletes" => &mut counters.deletes,
        _ => return None,
    })
}

pub fn peek<'py>(
    slf: &Bound<'py, ResultCache>,
    key: &Bound<'py, PyAny>,
    hash: u64,
) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let (py, this) = (slf.py(), slf.get());
    let Some(slot) = this.locate(key, hash)? else { return Ok(None) };
    let (value, expires, created, accesses) = this.state.with(py, |state| {
        let entry = state.engine.entry(slot);
        (entry.value.clone_ref(py), entry.expires, entry.created, entry.accesses)
    });
    seen(value, expires, created, accesses).into_pyobject(py).map(Some)
}

/// Unix seconds of an engine instant. The two clocks are compared once, so that an instant keeps its epoch.
fn epoch_of(instant: u64) -> f64 {
    static OFFSET: OnceLock<i64> = OnceLock::new();
    let offset = OFFSET.get_or_init(|| clock::epoch_micros() - (clock::now() / 1000) as i64);
    (offset + (instant / 1000) as i64) as f64 / 1e6
}

/// The tags and the keys that carry them.
pub fn tags(this: &ResultCache, py: Python<'_>) -> Vec<(String, Vec<Py<PyAny>>)> {
    this.state.with(py, |state| {
        let keys = |label| {
            let members = state.engine.members(label).iter();
            members.map(|slot| state.engine.entry(*slot).key.clone_ref(py)).collect()
        };
        state.engine.tags().map(|(name, label)| (name.to_owned(), keys(label))).collect()
    })
}

pub fn tagged(this: &ResultCache, py: Python<'_>, tag: &str) -> Option<Vec<Py<PyAny>>> {
    this.state.with(py, |state| {
        let label = state.engine.find_label(&Label::Tag(tag.into()))?;
        let members = state.engine.members(label).iter();
        Some(members.map(|slot| state.engine.entry(*slot).key.clone_ref(py)).collect())
    })
}

/// Every entry as `(key, (value, expires, created, accesses))`, the next to be evicted first.
pub fn entries<'py>(this: &ResultCache, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyTuple>>> {
    let entries: Vec<_> = this.state.with(py, |state| {
        let order = state.engine.order().into_iter().map(|slot| state.engine.entry(slot));
        let copy = |entry: &Entry<Py<PyAny>, Py<PyAny>>| {
            let (key, value) = (entry.key.clone_ref(py), entry.value.clone_ref(py));
            (key, value, entry.expires, entry.created, entry.accesses)
        };
        order.map(copy).collect()
    });
    let shown = entries.into_iter().map(|(key, value, expires, created, accesses)| {
        (key, seen(value, expires, created, accesses)).into_pyobject(py)
    });
    shown.collect()
}

type Seen = (Py<PyAny>, Option<f64>, f64, u32);

/// An entry as users see it.
fn seen(value: Py<PyAny>, expires: u64, created: u64, accesses: u32) -> Seen {
    (value, (expires != NEVER).then(|| epoch_of(expires)), epoch_of(created), accesses)
}
