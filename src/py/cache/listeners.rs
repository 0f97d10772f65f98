//! Calls `on_hit`, `on_miss` and `on_evict`, always outside the cache's critical section.

use pyo3::prelude::*;

use super::state::Gone;
use crate::cache::Reason;

/// The name under which `on_evict` learns why an entry left.
pub fn reason_name(reason: Reason) -> &'static str {
    match reason {
        Reason::Capacity => "capacity",
        Reason::Bytes => "bytes",
        Reason::Expired => "expired",
        Reason::Replaced => "replaced",
        Reason::Deleted => "deleted",
        Reason::Invalidated => "invalidated",
        Reason::Cleared => "cleared",
    }
}

/// Tells `listener` of every removed entry.
pub fn evicted(py: Python<'_>, listener: &Py<PyAny>, gone: &Gone) {
    for removed in gone {
        let called = listener.call1(py, (&removed.key, &removed.value, reason_name(removed.reason)));
        report(py, called, "on_evict");
    }
}

/// Tells `listener` of a hit or a miss.
pub fn looked_up(py: Python<'_>, listener: &Py<PyAny>, key: &Bound<'_, PyAny>, what: &str) {
    report(py, listener.call1(py, (key,)), what);
}

/// A listener's exception is logged: it must not turn a finished cache operation into a failed one.
fn report(py: Python<'_>, called: PyResult<Py<PyAny>>, what: &str) {
    if let Err(error) = called {
        crate::py::log_error(py, "upshift.cache", &format!("{what} listener raised"), &error);
    }
}
