//! Authenticated pickles: `HMAC-SHA256(key, header and pickle)`, then the pickle.

use hmac::{Hmac, Mac};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyBytes;
use sha2::Sha256;

use super::{Decoded, HEADER, Key, MARKER, PICKLED, Rejection, class_of};
use crate::py::hang;

/// The newest that every supported interpreter reads.
const PROTOCOL: u8 = 5;
const CODE: usize = 32;

/// A blob, or `None` if the object cannot be pickled.
pub fn seal(obj: &Bound<'_, PyAny>, key: &Key) -> PyResult<Option<Vec<u8>>> {
    static DUMPS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = obj.py();
    let dumped = DUMPS
        .import(py, "pickle", "dumps")
        .and_then(|dumps| hang::call(dumps, &(obj, PROTOCOL).into_pyobject(py)?, None));
    let pickle = match dumped {
        Ok(pickle) => pickle.cast_into::<PyBytes>()?,
        Err(err) => return class_of(py, err).map(|_| None),
    };
    let pickle = pickle.as_bytes();
    let mut blob = Vec::with_capacity(HEADER + CODE + pickle.len());
    blob.extend_from_slice(&MARKER);
    blob.extend_from_slice(&[PICKLED, 0]);
    blob.extend_from_slice(&code(key, pickle).finalize().into_bytes());
    blob.extend_from_slice(pickle);
    Ok(Some(blob))
}

/// The value of a body, if its code verifies.
pub fn open(py: Python<'_>, body: &[u8], key: &Key) -> PyResult<Decoded> {
    let Some((expected, pickle)) = body.split_at_checked(CODE) else {
        return Ok(Decoded::malformed("truncated"));
    };
    // In constant time: the comparison must not tell how much of a forged code is right.
    if code(key, pickle).verify_slice(expected).is_err() {
        return Ok(Decoded::Rejected(Rejection::NotAuthentic));
    }
    load(py, pickle)
}

/// Unpickles, which runs whatever the pickle says.
pub fn load(py: Python<'_>, pickle: &[u8]) -> PyResult<Decoded> {
    let pickle = PyBytes::new(py, pickle);
    match hang::method(py.import(intern!(py, "pickle"))?.as_any(), "loads", (pickle,), None) {
        Ok(value) => Ok(Decoded::Value(value.unbind())),
        Err(err) => Ok(Decoded::Rejected(Rejection::Unloadable(class_of(py, err)?))),
    }
}

fn code(key: &Key, pickle: &[u8]) -> Hmac<Sha256> {
    // SHA-256 blocks are 64 bytes: a key of 32 is padded, which is what `new_from_slice` does for any length.
    let mut padded = [0; 64];
    padded[..key.len()].copy_from_slice(key);
    let mut mac = Hmac::<Sha256>::new(&padded.into());
    mac.update(&MARKER);
    mac.update(&[PICKLED, 0]);
    mac.update(pickle);
    mac
}
