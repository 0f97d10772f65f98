//! Keys of calls: `"<function>:<digest of the arguments>"`.
//!
//! The digest is SHA-256, cut to 160 bits, of a canonical encoding of the arguments. Two calls share a key exactly
//! if their encodings are equal, so the encoding is injective: each value carries a type tag and either has a fixed
//! size or is preceded by its length or count. It depends neither on the process nor on the hash seed: dicts and
//! sets are encoded in the order of their encoded elements.
//!
//! - exact builtin types are encoded here (`encode.rs`);
//! - everything else is represented by a digest of its pickle (`pickler.rs`), never by its text or hash;
//! - what cannot be pickled takes part by identity (`tokens.rs`): such a key is worth nothing in another process.

mod encode;
mod pickler;
mod tokens;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};
use sha2::{Digest, Sha256};

use encode::{Encoder, Stop};

/// Bytes of the digest that are kept in a key.
const DIGEST: usize = 20;

/// What one call is stored under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallKey {
    /// Means the same call in every process.
    Durable(String),
    /// Names an object of this process by identity: must not reach the disk.
    MemoryOnly(String),
    /// An argument can neither be pickled nor referenced weakly: call through.
    Uncacheable,
}

/// The key of a call. Keywords may come in any order.
///
/// Runs Python code (pickling) for arguments that are not made of exact builtin types, so no native lock may be
/// held. Takes time linear in the size of the arguments; about 0.3 µs for small builtin ones. Raises only what is
/// no `Exception` (`KeyboardInterrupt` …) out of an object's pickling code.
pub fn call_key<'py>(
    py: Python<'py>,
    func_name: &str,
    positional: impl IntoIterator<Item = Bound<'py, PyAny>>,
    keywords: impl IntoIterator<Item = (Bound<'py, PyString>, Bound<'py, PyAny>)>,
) -> PyResult<CallKey> {
    encode::with_buffer(|buffer| {
        let mut encoder = Encoder::new(py, buffer);
        match encoder.call(positional, keywords) {
            Ok(()) => {}
            Err(Stop::Raised(err)) => return Err(err),
            Err(Stop::Limit | Stop::Unpicklable) => return Ok(CallKey::Uncacheable),
        }
        let memory_only = encoder.memory_only();
        let key = render(func_name, &Sha256::digest(buffer)[..DIGEST]);
        Ok(if memory_only { CallKey::MemoryOnly(key) } else { CallKey::Durable(key) })
    })
}

/// `ResultCache.generate_key`: `args` is any iterable, `kwargs` a dict or None.
///
/// Raises `TypeError` if there is no key for these arguments.
pub fn generate_key(
    py: Python<'_>,
    func_name: &str,
    args: &Bound<'_, PyAny>,
    kwargs: Option<&Bound<'_, PyDict>>,
) -> PyResult<String> {
    match key_of(py, func_name, args, kwargs)? {
        CallKey::Durable(key) | CallKey::MemoryOnly(key) => Ok(key),
        CallKey::Uncacheable => Err(PyTypeError::new_err(format!(
            "no cache key for this call of {func_name}: an argument can neither be pickled nor referenced weakly"
        ))),
    }
}

fn key_of(
    py: Python<'_>,
    func_name: &str,
    args: &Bound<'_, PyAny>,
    kwargs: Option<&Bound<'_, PyDict>>,
) -> PyResult<CallKey> {
    // Both are copied first: encoding may run Python code that changes what the caller still holds.
    let args = match args.cast_exact::<PyTuple>() {
        Ok(args) => args.clone(),
        Err(_) => PyTuple::new(py, args.try_iter()?.collect::<PyResult<Vec<_>>>()?)?,
    };
    let mut keywords = Vec::new();
    if let Some(kwargs) = kwargs {
        for pair in kwargs.items() {
            keywords.push(pair.extract::<(Bound<'_, PyString>, Bound<'_, PyAny>)>()?);
        }
    }
    call_key(py, func_name, args, keywords)
}

fn render(func_name: &str, digest: &[u8]) -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut key = String::with_capacity(func_name.len() + 1 + 2 * digest.len());
    key.push_str(func_name);
    key.push(':');
    for byte in digest {
        key.push(HEX[usize::from(byte >> 4)].into());
        key.push(HEX[usize::from(byte & 15)].into());
    }
    key
}

/// `(kind, key)` of a call: kind is "durable", "memory" or "uncacheable" (then the key is None).
#[pyfunction]
#[pyo3(name = "call_key", signature = (func_name, args, kwargs = None))]
fn py_call_key(
    py: Python<'_>,
    func_name: &str,
    args: &Bound<'_, PyAny>,
    kwargs: Option<&Bound<'_, PyDict>>,
) -> PyResult<(&'static str, Option<String>)> {
    Ok(match key_of(py, func_name, args, kwargs)? {
        CallKey::Durable(key) => ("durable", Some(key)),
        CallKey::MemoryOnly(key) => ("memory", Some(key)),
        CallKey::Uncacheable => ("uncacheable", None),
    })
}

/// Adds this file's functions to the native module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(py_call_key, m)?)
}
