//! Extensions of SQLite that are loaded from shared libraries.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};

use pyo3::prelude::*;

use super::connection::{Connection, enter};
use super::gil::Stepping;
use super::{arguments, errors, hooks};
use crate::py::hang;
use crate::sqlite::raw;

#[pymethods]
impl Connection {
    /// Let `load_extension()` and the SQL function of that name load libraries, or forbid both.
    ///
    /// At first the function is forbidden; the method is as the SQLite library was compiled.
    #[pyo3(signature = (enable, /))]
    fn enable_load_extension(slf: &Bound<'_, Self>, enable: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let enable = if cfg!(Py_3_12) { hang::is_true(enable)? } else { arguments::int(enable)? != 0 };
        hang::method(py.import("sys")?.as_any(), "audit", ("sqlite3.enable_load_extension", slf, enable), None)?;
        let db = slf.get().db(py)?;
        let entered = enter(py, &db)?;
        // SAFETY: open and entered.
        let code = unsafe { raw::sqlite3_enable_load_extension(entered.raw(), c_int::from(enable)) };
        if code == raw::SQLITE_OK { Ok(()) } else { Err(hooks::refused(py, "Error enabling load extension")) }
    }

    /// Load a library with an extension of SQLite. `enable_load_extension(True)` allows it.
    ///
    /// Args:
    ///     name: Path of the library.
    ///     entrypoint: Name of its function to call; by default SQLite derives it from the path.
    ///
    /// Raises:
    ///     OperationalError: It cannot be loaded, or loading is not allowed.
    #[pyo3(signature = (name, /, *, entrypoint = None))]
    fn load_extension(
        slf: &Bound<'_, Self>,
        name: &Bound<'_, PyAny>,
        entrypoint: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let path = arguments::text(name, "load_extension() argument 1")?;
        let entrypoint = entrypoint.map(|given| arguments::text(given, "load_extension() argument 'entrypoint'"));
        let entrypoint = entrypoint.transpose()?;
        let db = slf.get().db(py)?;
        hang::method(py.import("sys")?.as_any(), "audit", ("sqlite3.load_extension", slf, name), None)?;
        let entered = enter(py, &db)?;
        let mut message = std::ptr::null_mut();
        let stepping = Stepping::begin(py, &entered, true);
        // SAFETY: open and entered; the texts are terminated.
        let code = unsafe {
            let entrypoint = entrypoint.as_ref().map_or(std::ptr::null(), |entrypoint| entrypoint.as_ptr());
            raw::sqlite3_load_extension(entered.raw(), path.as_ptr(), entrypoint, &mut message)
        };
        drop(stepping);
        if code == raw::SQLITE_OK {
            return Ok(());
        }
        if message.is_null() {
            return Err(errors::of_code(py, &entered, code));
        }
        // SAFETY: a terminated text that is ours.
        let text = unsafe {
            let text = CStr::from_ptr(message).to_string_lossy().into_owned();
            raw::sqlite3_free(message.cast());
            text
        };
        Err(errors::operational(py, text))
    }
}
