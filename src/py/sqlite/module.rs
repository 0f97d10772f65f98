//! What the module exports besides its classes.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};

use super::connection::{self, Connection};
use super::{cursor, errors, jobs, lane, row};

/// The class that `isinstance` is to see: that of the standard library for an instance of exactly our class, so that
/// checks of existing programs hold; a subclass of the user's for its own instances.
pub fn passes_for<'py>(
    object: &Bound<'py, PyAny>,
    ours: &Bound<'py, PyType>,
    name: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let class = object.get_type();
    if class.is(ours) { object.py().import("_sqlite3")?.getattr(name) } else { Ok(class.into_any()) }
}

/// Names in `upshift._native` begin with `sqlite_`; the façade gives them their own.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let codes = PyDict::new(py);
    for (name, code) in errors::NAMES {
        codes.set_item(name, code)?;
    }
    module.add("sqlite_codes", codes)?;
    module.add("sqlite_legacy_transaction_control", connection::LEGACY_TRANSACTION_CONTROL)?;
    module.add_function(wrap_pyfunction!(jobs::sqlite_spawn, module)?)?;
    module.add_function(wrap_pyfunction!(lane::sqlite_lane_turn, module)?)?;
    module.add("LaneBusy", py.get_type::<lane::LaneBusy>())?;
    module.add_class::<lane::LaneTurn>()?;
    module.add_class::<Connection>()?;
    module.add_class::<cursor::Cursor>()?;
    module.add_class::<row::Row>()?;
    Ok(())
}
