//! The Python binding: the only folder that names PyO3. File names mirror the engine's.
//!
//! - [`cache`]: the `ResultCache` class
//! - [`cached`]: decorated functions
//! - [`lookup`]: hashing and comparing keys without running Python code
//! - [`keys`], [`codec`]: text keys of calls, values on disk
//! - [`sqlite`]: connections, cursors and the pool of `upshift.sqlite`
//! - [`tasks`]: the store and the workers of `BackgroundTaskManager`
//! - [`lock`], [`lease`]: what users may hold
//! - [`runtime`], [`logging`], [`errors`], [`hang`]: background work, log lines, exceptions, the end of the interpreter

mod cache;
mod cached;
mod codec;
mod errors;
mod hang;
mod keys;
mod lease;
mod lock;
mod logging;
mod lookup;
mod raw;
mod runtime;
mod sqlite;
mod tasks;

use errors::log_error;
use lookup::thread_ident;
use pyo3::exceptions::PyRuntimeWarning;
use pyo3::prelude::*;

#[pymodule(gil_used = true)]
mod _native {
    use super::*;

    #[pymodule_export]
    use super::cache::ResultCache;
    #[pymodule_export]
    use super::cached::call::{Call, Request};
    #[pymodule_export]
    use super::cached::callable::{_set_bound_type, make_cached};
    #[pymodule_export]
    use super::cached::flight::Flight;
    #[pymodule_export]
    use super::lease::Lease;
    #[pymodule_export]
    use super::lock::CacheLock;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        logging::install();
        if cfg!(debug_assertions) {
            let text = c"this is a debug build of upshift: it is slow, measure nothing with it";
            PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), text, 1)?;
        }
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("debug_build", cfg!(debug_assertions))?;
        module.add("CachedFunction", cached::callable::cached_function_type(py)?)?;
        keys::register(module)?;
        codec::register(module)?;
        runtime::register(module)?;
        sqlite::module::register(module)?;
        tasks::register(module)?;
        cache::fast::install(py)?;
        cached::stock::remember_originals(py)
    }
}
