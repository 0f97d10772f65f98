//! Python values as native ones that belong to nobody else.

use crate::sqlite::columns::input::Value;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyFloat, PyInt, PyMapping, PySequence, PyString};

use super::{adapt, errors};
use crate::py::raw;
use crate::sqlite::scan::Parameters;

/// The value as SQLite would get it, adapters applied.
pub fn value(object: &Bound<'_, PyAny>, look_up: bool) -> PyResult<Value> {
    // Subclasses may have adapters.
    if !look_up && is_plain(object) {
        if let Some(value) = basic(object)? {
            return Ok(value);
        }
    }
    let adapted = adapt::adapt(object)?;
    if let Some(value) = basic(&adapted)? {
        return Ok(value);
    }
    if raw::has_buffer(&adapted) {
        return Ok(Value::Blob(adapt::bytes_of(&adapted)?));
    }
    let class = adapt::type_name(&adapted);
    Err(errors::programming(object.py(), format!("type '{class}' is not supported")))
}

fn is_plain(object: &Bound<'_, PyAny>) -> bool {
    object.is_none()
        || object.is_exact_instance_of::<PyInt>()
        || object.is_exact_instance_of::<PyString>()
        || object.is_exact_instance_of::<PyFloat>()
        || object.is_exact_instance_of::<PyBytes>()
        || object.is_exact_instance_of::<PyBool>()
}

fn basic(object: &Bound<'_, PyAny>) -> PyResult<Option<Value>> {
    Ok(Some(if object.is_none() {
        Value::Null
    } else if let Ok(int) = object.cast::<PyInt>() {
        Value::Integer(raw::small_int(int).ok_or_else(adapt::too_large)?)
    } else if let Ok(float) = object.cast::<PyFloat>() {
        Value::Real(float.value())
    } else if let Ok(text) = object.cast::<PyString>() {
        Value::Text(text.to_str()?.to_owned())
    } else if let Ok(bytes) = object.cast::<PyBytes>() {
        Value::Blob(bytes.as_bytes().to_vec())
    } else {
        return Ok(None);
    }))
}

/// Parameters of a statement: a sequence, or a mapping of names.
pub fn parameters(object: Option<&Bound<'_, PyAny>>) -> PyResult<Parameters> {
    let Some(object) = object else { return Ok(Parameters::default()) };
    let look_up = adapt::adapts_basic_types(object.py())?;
    let place = |error: PyErr, place: String| {
        let text = format!("Error binding parameter {place}: {}", error.value(object.py()));
        PyErr::from_type(error.get_type(object.py()), text)
    };
    if let Ok(mapping) = object.cast::<PyMapping>() {
        let mut named = Vec::new();
        for pair in mapping.items()? {
            let (name, of) = pair.extract::<(String, Bound<'_, PyAny>)>()?;
            let value = value(&of, look_up).map_err(|error| place(error, format!("':{name}'")))?;
            named.push((name, value));
        }
        return Ok(Parameters::Named(named));
    }
    let Ok(sequence) = object.cast::<PySequence>() else {
        return Err(errors::programming(object.py(), "parameters are of unsupported type"));
    };
    let mut values = Vec::new();
    for at in 0..sequence.len()? {
        values.push(value(&sequence.get_item(at)?, look_up).map_err(|error| place(error, (at + 1).to_string()))?);
    }
    Ok(Parameters::Positional(values))
}
