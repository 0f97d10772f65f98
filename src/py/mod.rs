//! The Python binding: the only folder that names PyO3.

use pyo3::prelude::*;

#[pymodule(gil_used = true)]
mod _native {}
