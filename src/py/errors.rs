//! The one place where the binding makes upshift's own exceptions; they are Python classes.

use pyo3::prelude::*;
use pyo3::types::PyString;

use super::hang;

/// An instance of `upshift.exceptions.<name>`; if that cannot be made, the error that says why.
fn make(py: Python<'_>, name: &str, message: String) -> PyErr {
    let made = py.import("upshift.exceptions").and_then(|module| hang::method(&module, name, (message,), None));
    made.map_or_else(|error| error, PyErr::from_value)
}

/// A method was called on an object whose `__init__` never ran.
pub fn not_initialised(py: Python<'_>, class: &str) -> PyErr {
    make(py, "NotInitialisedError", format!("{class}.__init__() was never called on this object"))
}

/// A waiter's deadline passed while another caller was still computing.
pub fn single_flight_timeout(py: Python<'_>, name: &str, timeout: Option<f64>) -> PyErr {
    let seconds = timeout.unwrap_or_default();
    make(py, "SingleFlightTimeout", format!("another caller is still computing {name} after {seconds} s"))
}

/// Logs `error` with its traceback under `logger`. A logging system that itself fails must not turn a finished
/// operation into a failed one, so that failure goes to `sys.unraisablehook`.
pub fn log_error(py: Python<'_>, logger: &str, message: &str, error: &PyErr) {
    let logged = (|| -> PyResult<()> {
        let logger = hang::method(py.import("logging")?.as_any(), "getLogger", (logger,), None)?;
        let options = pyo3::types::PyDict::new(py);
        options.set_item("exc_info", error.value(py))?;
        hang::method(&logger, "error", ("%s", PyString::new(py, message)), Some(&options))?;
        Ok(())
    })();
    if let Err(failure) = logged {
        failure.write_unraisable(py, None);
    }
}

/// Logs a warning under `logger`.
pub fn log_warning(py: Python<'_>, logger: &str, message: &str) {
    let logged = py
        .import("logging")
        .and_then(|logging| hang::method(&logging, "getLogger", (logger,), None))
        .and_then(|logger| hang::method(&logger, "warning", ("%s", message), None));
    if let Err(failure) = logged {
        failure.write_unraisable(py, None);
    }
}
