//! Calls `on_hit`, `on_miss` and `on_evict`, always outside the cache's critical section.

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::state::Gone;
use crate::py::hang;

/// Tells `listener` of every removed entry; `stored` is the key of an entry whose value was replaced.
pub fn evicted(py: Python<'_>, listener: &Py<PyAny>, gone: &Gone, stored: Option<&Bound<'_, PyAny>>) {
    for removed in gone {
        let key = removed.key.as_ref().map(|key| key.bind(py)).or(stored);
        report(py, told(py, listener, (key, &removed.value, removed.reason.as_str())), "on_evict");
    }
}

/// Tells `listener` of a hit or a miss.
pub fn looked_up(py: Python<'_>, listener: &Py<PyAny>, key: &Bound<'_, PyAny>, what: &str) {
    report(py, told(py, listener, (key,)), what);
}

fn told<'py>(
    py: Python<'py>,
    listener: &Py<PyAny>,
    arguments: impl IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>, Error = PyErr>,
) -> PyResult<Py<PyAny>> {
    hang::call(listener.bind(py), &arguments.into_pyobject(py)?, None).map(Bound::unbind)
}

/// A listener's exception is logged: it must not turn a finished cache operation into a failed one.
fn report(py: Python<'_>, called: PyResult<Py<PyAny>>, what: &str) {
    if let Err(error) = called {
        crate::py::log_error(py, "upshift.cache", &format!("{what} listener raised"), &error);
    }
}
