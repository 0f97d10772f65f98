//! Classes of the standard library and NumPy that the plain format knows.
//!
//! Encoding never imports their modules: an object of such a class exists only if its module is loaded.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyType};

/// A class by the module it is found in.
pub struct Known {
    module: &'static str,
    name: &'static str,
    class: PyOnceLock<Py<PyType>>,
}

pub static DECIMAL: Known = Known::new("decimal", "Decimal");
pub static UUID: Known = Known::new("uuid", "UUID");
pub static TIMEZONE: Known = Known::new("datetime", "timezone");
pub static ZONE_INFO: Known = Known::new("zoneinfo", "ZoneInfo");
pub static ARRAY: Known = Known::new("numpy", "ndarray");
pub static SCALAR: Known = Known::new("numpy", "generic");
pub static DTYPE: Known = Known::new("numpy", "dtype");

impl Known {
    const fn new(module: &'static str, name: &'static str) -> Self {
        Known { module, name, class: PyOnceLock::new() }
    }

    /// Whether the object is of exactly this class.
    pub fn is_class_of(&self, obj: &Bound<'_, PyAny>) -> PyResult<bool> {
        Ok(self.loaded(obj.py())?.is_some_and(|class| obj.get_type().is(class)))
    }

    /// Whether the object is of this class or one derived from it.
    pub fn is_base_of(&self, obj: &Bound<'_, PyAny>) -> PyResult<bool> {
        match self.loaded(obj.py())? {
            Some(class) => obj.get_type().is_subclass(class),
            None => Ok(false),
        }
    }

    /// The class, importing its module if that has not happened yet.
    pub fn import<'py>(&self, py: Python<'py>) -> PyResult<&Bound<'py, PyType>> {
        self.class.import(py, self.module, self.name)
    }

    fn loaded<'a, 'py>(&'a self, py: Python<'py>) -> PyResult<Option<&'a Bound<'py, PyType>>> {
        if let Some(class) = self.class.get(py) {
            return Ok(Some(class.bind(py)));
        }
        static MODULES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
        let modules = MODULES.import(py, "sys", "modules")?;
        let Some(module) = modules.get_item(self.module)? else {
            return Ok(None);
        };
        let Ok(class) = module.getattr(self.name)?.cast_into::<PyType>() else {
            return Ok(None);
        };
        Ok(Some(self.class.get_or_init(py, || class.unbind()).bind(py)))
    }
}

/// The dtype that a type string names, if that is all there is to it: no fields, no Python objects, no metadata.
pub fn plain_dtype<'py>(py: Python<'py>, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
    let Some(kind) = name.as_bytes().get(1) else {
        return Ok(None);
    };
    if !b"biufcSUmM".contains(kind) {
        return Ok(None);
    }
    let dtype = DTYPE.import(py)?.call1((name,))?;
    let size: usize = dtype.getattr(intern!(py, "itemsize"))?.extract()?;
    let object: bool = dtype.getattr(intern!(py, "hasobject"))?.extract()?;
    Ok((size > 0 && !object).then_some(dtype))
}
