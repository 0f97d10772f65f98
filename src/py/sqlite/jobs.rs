//! Calls that run on the engine's background threads, for coroutines.

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::actors;
use super::lane::ForTask;
use crate::py::hang;
use crate::sqlite::lane::Actor;
use crate::support::runtime;

/// Calls `job()` on a background thread. It reports by itself; what it raises goes to `sys.unraisablehook`. A connection
/// has one such call at a time, so that there are no more of these threads than connections that coroutines use.
///
/// It works for a task of this thread's event loop: where a statement would have to wait for its turn to write, it raises
/// `LaneBusy` instead, and the task is to await its turn.
#[pyfunction]
pub fn sqlite_spawn(job: Py<PyAny>, task: u64) -> PyResult<()> {
    let task = Actor::task(actors::this_thread(), task);
    runtime::spawn_long(move || {
        // If the interpreter is gone, so is whoever waits.
        Python::try_attach(|py| {
            let _task = ForTask::begin(task);
            let job = job.into_bound(py);
            if let Err(error) = hang::call(&job, &PyTuple::empty(py), None) {
                error.write_unraisable(py, Some(&job));
            }
        });
    })?;
    Ok(())
}
