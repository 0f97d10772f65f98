//! What the module exports besides its classes.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::connection::{self, Connection};
use super::{adapt, blob, cursor, errors, hooks, jobs, lane, pool, pooled, row, write};

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

/// Connections, cursors and rows cannot be pickled.
pub fn refuse_pickling(object: &Bound<'_, PyAny>) -> PyResult<()> {
    let class = object.get_type();
    let (module, name) = (class.getattr("__module__")?, class.name()?);
    Err(PyTypeError::new_err(format!("cannot pickle '{module}.{name}' object")))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // Now, not by the first thread that needs them: a child forked at that moment would wait for it for ever.
    errors::classes(module.py());
    adapt::registry(module.py())?;
    row::stdlib_row(module.py())?;
    module.add_function(wrap_pyfunction!(jobs::sqlite_spawn, module)?)?;
    module.add_function(wrap_pyfunction!(lane::sqlite_lane_turn, module)?)?;
    module.add("sqlite_version", crate::sqlite::version())?;
    module.add("LaneBusy", module.py().get_type::<lane::LaneBusy>())?;
    module.add_class::<lane::LaneTurn>()?;
    hooks::register_functions(module)?;
    module.add_class::<Connection>()?;
    module.add_class::<cursor::Cursor>()?;
    module.add_class::<row::Row>()?;
    module.add_class::<super::columns::NumpyBatches>()?;
    module.add_class::<super::scan::ScanResult>()?;
    module.add_function(wrap_pyfunction!(super::scan::sqlite_scan, module)?)?;
    module.add_class::<blob::Blob>()?;
    module.add_class::<pool::ConnectionPool>()?;
    module.add_class::<pooled::PooledConnection>()?;
    module.add_class::<write::WriteResult>()?;
    module.add_class::<write::WriteOutbox>()?;
    module.add_class::<write::PendingWrite>()?;
    module.add_function(wrap_pyfunction!(connection::connect, module)?)
}
