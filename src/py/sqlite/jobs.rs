//! Calls that run on the engine's background threads, for coroutines.

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::py::hang;
use crate::support::runtime;

/// Calls `job()` on a background thread. It reports by itself; what it raises goes to `sys.unraisablehook`.
#[pyfunction]
pub fn sqlite_spawn(job: Py<PyAny>) -> PyResult<()> {
    runtime::spawn_blocking(move || {
        // If the interpreter is gone, so is whoever waits.
        Python::try_attach(|py| {
            let job = job.into_bound(py);
            if let Err(error) = hang::call(&job, &PyTuple::empty(py), None) {
                error.write_unraisable(py, Some(&job));
            }
        });
    })?;
    Ok(())
}
