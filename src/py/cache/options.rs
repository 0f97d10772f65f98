//! Reads and checks the arguments of `ResultCache`.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyString};

use crate::cache::PolicyKind;

/// Seconds as a float; `what` names the argument in errors. Accepts int, float and `datetime.timedelta`.
pub fn seconds(value: &Bound<'_, PyAny>, what: &str) -> PyResult<f64> {
    let number = match value.extract::<f64>() {
        Ok(number) if !value.is_instance_of::<PyString>() => number,
        _ => match value.call_method0("total_seconds") {
            Ok(total) => total.extract::<f64>()?,
            Err(_) => {
                return Err(PyTypeError::new_err(format!(
                    "{what} must be a number of seconds or a timedelta, not {}",
                    value.get_type().name()?
                )));
            }
        },
    };
    if number.is_nan() {
        return Err(PyValueError::new_err(format!("{what} must be a number of seconds, not NaN")));
    }
    Ok(number)
}

/// Nanoseconds from now for a positive number of seconds; saturates.
pub fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

/// Like [`seconds`], but refuses negative values.
pub fn non_negative_seconds(value: &Bound<'_, PyAny>, what: &str) -> PyResult<f64> {
    let number = seconds(value, what)?;
    if number < 0.0 {
        return Err(PyValueError::new_err(format!("{what} must be 0 or more seconds, not {number}")));
    }
    Ok(number)
}

/// A count of 0 or more.
pub fn count(value: &Bound<'_, PyAny>, what: &str) -> PyResult<usize> {
    let refuse = || PyValueError::new_err(format!("{what} must be an int of 0 or more, not {value:?}"));
    if value.is_instance_of::<PyBool>() {
        return Err(refuse());
    }
    match value.extract::<i64>() {
        Ok(number) => usize::try_from(number).map_err(|_| refuse()),
        Err(error) if error.is_instance_of::<pyo3::exceptions::PyOverflowError>(value.py()) => {
            // More entries than any machine can hold: no limit at all, unless it was negative.
            if value.lt(0)? { Err(refuse()) } else { Ok(usize::MAX) }
        }
        Err(_) => Err(PyTypeError::new_err(format!("{what} must be an int, not {}", value.get_type().name()?))),
    }
}

/// A policy by name.
pub fn policy(name: &str) -> PyResult<PolicyKind> {
    name.parse().map_err(|_| {
        PyValueError::new_err(format!("policy must be one of lru, lfu, fifo, ttl, adaptive, cost; not {name:?}"))
    })
}

/// The fraction by which lifetimes are shortened at random, in [0, 1).
pub fn jitter(value: f64) -> PyResult<f64> {
    if (0.0..1.0).contains(&value) {
        Ok(value)
    } else {
        Err(PyValueError::new_err(format!("ttl_jitter must be at least 0 and below 1, not {value}")))
    }
}

/// A callable, or None.
pub fn callable(value: Option<Bound<'_, PyAny>>, what: &str) -> PyResult<Option<Py<PyAny>>> {
    match value {
        None => Ok(None),
        Some(value) if value.is_none() => Ok(None),
        Some(value) if value.is_callable() => Ok(Some(value.unbind())),
        Some(value) => {
            Err(PyTypeError::new_err(format!("{what} must be callable or None, not {}", value.get_type().name()?)))
        }
    }
}

/// The tags of an entry: an iterable of str, a bare str being one tag; duplicates are dropped.
pub fn tags(value: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<String>> {
    let Some(value) = value.filter(|value| !value.is_none()) else {
        return Ok(Vec::new());
    };
    if let Ok(tag) = value.cast::<PyString>() {
        return Ok(vec![tag_text(tag)?]);
    }
    let refuse = |value: &Bound<'_, PyAny>| -> PyResult<PyErr> {
        let kind = value.get_type();
        Ok(PyTypeError::new_err(format!("tags must be a str or an iterable of str, not {}", kind.name()?)))
    };
    let mut tags: Vec<String> = Vec::new();
    for tag in value.try_iter().map_err(|_| refuse(value).unwrap_or_else(|error| error))? {
        let tag = tag?;
        let Ok(text) = tag.cast::<PyString>() else {
            return Err(PyTypeError::new_err(format!(
                "tags must be a str or an iterable of str; it contains {}",
                tag.get_type().name()?
            )));
        };
        let text = tag_text(text)?;
        if !tags.contains(&text) {
            tags.push(text);
        }
    }
    Ok(tags)
}

fn tag_text(tag: &Bound<'_, PyString>) -> PyResult<String> {
    tag.to_str().map(str::to_owned).map_err(|_| PyValueError::new_err("tags must be encodable as UTF-8"))
}
