//! Background upkeep of caches, and the end of it: fork and interpreter exit.
//!
//! Caches are only known through weak references here, so that upkeep keeps none of them alive.

use std::ops::ControlFlow;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyWeakrefMethods, PyWeakrefReference};

use super::cache::{ResultCache, core, disk};
use crate::cache::persist;
use crate::store::SharedMark;
use crate::support::runtime;
use crate::support::sync::AttachedCell;

/// How often expired entries are swept out of both tiers.
const SWEEP: Duration = Duration::from_secs(30);
/// How long background work may hold up the end of the process.
const SHUTDOWN_SECONDS: f64 = 10.0;
/// From this many known caches on, dead ones are looked for before the list grows further.
const CROWD: usize = 64;

struct Watched {
    caches: Vec<Py<PyWeakrefReference>>,
    sweeping: bool,
    crowd: usize,
}

static WATCHED: AttachedCell<Watched> =
    AttachedCell::new(Watched { caches: Vec::new(), sweeping: false, crowd: CROWD });

/// Looks after a cache from now on.
pub fn watch(cache: &Bound<'_, ResultCache>) -> PyResult<()> {
    let py = cache.py();
    let reference = PyWeakrefReference::new(cache)?.unbind();
    let coherence = reference.clone_ref(py);
    let crowded = WATCHED.with(py, |watched| {
        watched.caches.push(reference);
        watched.caches.len() > watched.crowd
    });
    if crowded {
        forget_dead(py);
    }
    if !WATCHED.with(py, |watched| std::mem::replace(&mut watched.sweeping, true)) {
        runtime::every(SWEEP, sweep_all)?;
    }
    if let Some(interval) = cache.get().disk.check_interval() {
        runtime::every(interval, move || check(&coherence))?;
    }
    Ok(())
}

/// Every cache that is still alive.
fn live<'py>(py: Python<'py>) -> Vec<Bound<'py, ResultCache>> {
    let references: Vec<_> =
        WATCHED.with(py, |watched| watched.caches.iter().map(|reference| reference.clone_ref(py)).collect());
    references.iter().filter_map(|reference| upgrade(py, reference)).collect()
}

fn upgrade<'py>(py: Python<'py>, reference: &Py<PyWeakrefReference>) -> Option<Bound<'py, ResultCache>> {
    reference.bind(py).upgrade()?.cast_into::<ResultCache>().ok()
}

fn forget_dead(py: Python<'_>) {
    let dead: Vec<_> = WATCHED.with(py, |watched| {
        let all = std::mem::take(&mut watched.caches);
        let (live, dead) = all.into_iter().partition(|reference| reference.bind(py).upgrade().is_some());
        watched.caches = live;
        watched.crowd = (watched.caches.len() * 2).max(CROWD);
        dead
    });
    drop(dead);
}

/// One round of sweeping; ends the job once there is no cache left.
fn sweep_all() -> ControlFlow<()> {
    let swept = Python::try_attach(|py| {
        for cache in live(py) {
            if let Err(error) = core::sweep(&cache) {
                super::errors::log_error(py, "upshift.cache", "background sweep failed", &error);
            }
        }
        forget_dead(py);
        WATCHED.with(py, |watched| {
            watched.sweeping = !watched.caches.is_empty();
            watched.sweeping
        })
    });
    // The interpreter is gone: so is the work.
    if swept.unwrap_or(false) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

/// One look at what other processes invalidated; ends the job with the cache or its store.
fn check(reference: &Py<PyWeakrefReference>) -> ControlFlow<()> {
    let goes_on = Python::try_attach(|py| {
        let Some(cache) = upgrade(py, reference) else { return false };
        if let Err(error) = disk::apply_changes(&cache) {
            super::errors::log_error(py, "upshift.cache", "applying changes of other processes failed", &error);
        }
        cache.get().disk.get().is_some()
    });
    if goes_on.unwrap_or(false) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

/// Flushes and closes every store and stops background work; registered with `atexit`.
#[pyfunction]
#[pyo3(signature = (timeout = SHUTDOWN_SECONDS))]
fn shutdown(py: Python<'_>, timeout: f64) -> PyResult<bool> {
    for cache in live(py) {
        disk::flush(&cache, Some(timeout))?;
        disk::close(&cache)?;
    }
    super::sqlite::pool::shutdown(py);
    Ok(py.detach(|| runtime::stop(Duration::from_secs_f64(timeout))))
}

/// Brings every store into a state that survives the fork; registered with `os.register_at_fork`.
#[pyfunction]
fn before_fork(py: Python<'_>) {
    py.detach(persist::before_fork);
}

#[pyfunction]
fn after_fork_parent() {
    persist::after_fork_parent();
}

/// The child has none of the parent's threads: background work starts afresh there.
#[pyfunction]
fn after_fork_child(py: Python<'_>) -> PyResult<()> {
    persist::after_fork_child();
    runtime::after_fork_child();
    let caches = live(py);
    let old = WATCHED.with(py, |watched| {
        watched.sweeping = false;
        std::mem::take(&mut watched.caches)
    });
    drop(old);
    super::cached::flight::after_fork_child(py);
    super::sqlite::pool::after_fork_child(py);
    caches.iter().try_for_each(|cache| {
        cache.get().forget_other_threads(py);
        watch(cache)
    })
}

/// Moves every engine clock forward by `seconds`.
#[pyfunction]
fn travel(seconds: f64) {
    crate::support::clock::travel((seconds * 1e9) as u64);
}

/// Whether the engine and the interpreter's `sqlite3` use the very same SQLite library. Two copies in one process would
/// defeat each other's file locks.
#[pyfunction]
fn shares_interpreter_library(py: Python<'_>) -> PyResult<bool> {
    let mark = SharedMark::new().map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
    let options = PyDict::new(py);
    options.set_item("uri", true)?;
    let sqlite3 = py.import("sqlite3")?;
    let connection = sqlite3.call_method("connect", (mark.uri(),), Some(&options))?;
    let seen = connection.call_method1("execute", ("SELECT count(*) FROM mark",));
    connection.call_method0("close")?;
    match seen {
        Ok(_) => Ok(true),
        Err(error) if error.is_instance(py, &sqlite3.getattr("OperationalError")?) => Ok(false),
        Err(error) => Err(error),
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(shares_interpreter_library, module)?)?;
    module.add_function(wrap_pyfunction!(shutdown, module)?)?;
    module.add_function(wrap_pyfunction!(before_fork, module)?)?;
    module.add_function(wrap_pyfunction!(after_fork_parent, module)?)?;
    module.add_function(wrap_pyfunction!(after_fork_child, module)?)?;
    module.add_function(wrap_pyfunction!(travel, module)?)
}
