//! The Python binding: the only folder that names PyO3.

mod codec;
mod keys;
mod raw;

use pyo3::prelude::*;

#[pymodule(gil_used = true)]
mod _native {
    use super::*;

    #[pymodule_init]
    fn init(m: &Bound<'_, PyModule>) -> PyResult<()> {
        keys::register(m)?;
        codec::register(m)
    }
}
