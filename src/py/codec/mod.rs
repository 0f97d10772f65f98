//! Values on disk.
//!
//! A blob is a header of four bytes and a body. The first byte occurs at the start of no pickle and no msgpack
//! value, so blobs are told apart from what other programs stored.
//!
//! | bytes | meaning |
//! |---|---|
//! | `C1 'U'` | marker |
//! | format | what the body is, see [`PLAIN`] and [`PICKLED`] |
//! | flags | none defined: 0 |
//!
//! - **plain** (`encode.rs`, `decode.rs`): typed msgpack. Decoding it makes values of a fixed set of types and never
//!   resolves a name found in the data.
//! - **pickled** (`pickle.rs`): an authentication code and a pickle, for everything else. It is loaded only if the
//!   code verifies with the key beside the store (`key_file.rs`).

mod decode;
mod encode;
mod key_file;
mod known;
mod pickle;
mod size;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

pub use size::estimate_size;

const MARKER: [u8; 2] = [0xC1, b'U'];
const HEADER: usize = 4;
/// Formats. Numbers are on users' disks: never reuse one.
const PLAIN: u8 = 0x11;
const PICKLED: u8 = 0x12;

/// Extension types of the plain format. Numbers are on users' disks: never reuse one.
mod ext {
    pub const TUPLE: i8 = 1;
    pub const SET: i8 = 2;
    pub const FROZENSET: i8 = 3;
    pub const BIG_INT: i8 = 4;
    pub const BYTEARRAY: i8 = 5;
    pub const COMPLEX: i8 = 6;
    /// UTF-8 that also encodes lone surrogates.
    pub const SURROGATES: i8 = 7;
    pub const DATE: i8 = 8;
    pub const TIME: i8 = 9;
    pub const DATETIME: i8 = 10;
    pub const TIMEDELTA: i8 = 11;
    pub const DECIMAL: i8 = 12;
    pub const UUID: i8 = 13;
    pub const ARRAY: i8 = 14;
    pub const SCALAR: i8 = 15;
}

/// Containers within one another that the plain format holds; deeper values are pickled.
const MAX_DEPTH: u32 = 64;

/// Time zones of the plain format, as the byte that follows the fields of a time or datetime.
mod zone {
    pub const NAIVE: u8 = 0;
    pub const UTC: u8 = 1;
    /// Offset only.
    pub const OFFSET: u8 = 2;
    /// Offset and name.
    pub const NAMED_OFFSET: u8 = 3;
    /// Name of an IANA zone.
    pub const IANA: u8 = 4;
}

/// Secret that authenticates pickles.
type Key = [u8; 32];

/// Encodes and decodes the values of one store. Holds no Python object and no lock; share it freely. Not `Debug`:
/// a log must not show the key.
pub struct Codec {
    /// File with the key; `None` if there is none to be had.
    path: Option<PathBuf>,
    /// The key, once it was needed.
    key: OnceLock<Key>,
    /// Whether pickles are written and read at all.
    allow_pickle: bool,
    /// Whether pickles without marker and authentication are loaded: those of the system that upshift replaces.
    trust_legacy: bool,
}

/// Outcome of reading a blob.
#[derive(Debug)]
pub enum Decoded {
    Value(Py<PyAny>),
    Rejected(Rejection),
}

/// Why a blob has no value. `Display` says it for a log line, without any of the data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Truncated, corrupt, or of a format that this version does not know.
    #[error("malformed value: {0}")]
    Malformed(String),
    /// The authentication code does not verify: written with another key, or tampered with.
    #[error("pickled value is not authentic")]
    NotAuthentic,
    /// The key cannot be had, so nothing can be verified.
    #[error("pickled value cannot be verified: {0}")]
    NoKey(String),
    /// A pickle, and `allow_pickle` is off.
    #[error("pickled value, and allow_pickle is off")]
    PickleOff,
    /// A raw pickle, and `trust_legacy` is off.
    #[error("pickle of an unmarked row, and trust_legacy is off")]
    Legacy,
    /// Authentic, but loading it raised: a class is gone or changed.
    #[error("pickled value cannot be loaded: {0}")]
    Unloadable(String),
}

impl Rejection {
    /// Whether the row is sound and only this configuration does not serve it. Any other is of no use to anyone.
    pub fn keeps_row(&self) -> bool {
        matches!(self, Rejection::NoKey(_) | Rejection::PickleOff | Rejection::Legacy)
    }
}

impl Codec {
    /// For the store at `database`; the key lives beside it in `<database>.key`. Touches no file yet.
    pub fn new(database: &Path, allow_pickle: bool, trust_legacy: bool) -> Self {
        Codec { path: Some(key_file::beside(database)), key: OnceLock::new(), allow_pickle, trust_legacy }
    }

    /// With a key from elsewhere; without one, pickles are neither written nor loaded.
    pub fn with_key(key: Option<Key>, allow_pickle: bool, trust_legacy: bool) -> Self {
        let cell = OnceLock::new();
        if let Some(key) = key {
            cell.get_or_init(|| key);
        }
        Codec { path: None, key: cell, allow_pickle, trust_legacy }
    }

    /// The value as a blob, or `None` if it cannot be stored: nothing but a pickle can hold it and it cannot be
    /// pickled, or pickles are off, or there is no key (see [`Codec::key_error`]).
    ///
    /// May run Python code. Raises only what is no `Exception`. Linear in the size of the value.
    pub fn encode(&self, obj: &Bound<'_, PyAny>) -> PyResult<Option<Vec<u8>>> {
        let py = obj.py();
        if let Some(blob) = encode::plain(obj)? {
            return Ok(Some(blob));
        }
        if !self.allow_pickle {
            return Ok(None);
        }
        match self.key(py, true) {
            Ok(key) => pickle::seal(obj, key),
            Err(_) => Ok(None),
        }
    }

    /// The value of a blob. May run Python code (loading an authentic pickle). Raises only what is no `Exception`.
    pub fn decode(&self, py: Python<'_>, blob: &[u8]) -> PyResult<Decoded> {
        let rejected = |rejection| Ok(Decoded::Rejected(rejection));
        let Some(body) = blob.strip_prefix(&MARKER) else {
            return match blob {
                [] => rejected(Rejection::Malformed("empty".into())),
                // Pickles since protocol 2 begin with this byte, and the replaced system wrote no others.
                [first, ..] if *first != 0x80 => rejected(Rejection::Malformed("neither ours nor a pickle".into())),
                _ if !self.allow_pickle => rejected(Rejection::PickleOff),
                _ if !self.trust_legacy => rejected(Rejection::Legacy),
                _ => pickle::load(py, blob),
            };
        };
        match body {
            [PLAIN, 0, body @ ..] => decode::plain(py, body),
            [PICKLED, 0, ..] if !self.allow_pickle => rejected(Rejection::PickleOff),
            [PICKLED, 0, body @ ..] => match self.key(py, false) {
                Ok(key) => pickle::open(py, body, key),
                Err(reason) => rejected(Rejection::NoKey(reason)),
            },
            _ => rejected(Rejection::Malformed("unknown format".into())),
        }
    }

    /// Why pickles can neither be written nor read at the moment; `None` if they can. Reads the key file, and
    /// creates it if it does not exist, unless that was done before.
    pub fn key_error(&self, py: Python<'_>) -> Option<String> {
        self.key(py, true).err()
    }

    /// The key, read at the first need. Failures are not remembered: modes and owners can be put right.
    fn key(&self, py: Python<'_>, create: bool) -> Result<&Key, String> {
        if let Some(key) = self.key.get() {
            return Ok(key);
        }
        let path = self.path.as_deref().ok_or("no key")?;
        let key = py.detach(|| if create { key_file::read_or_create(path) } else { key_file::read(path) })?;
        Ok(self.key.get_or_init(|| key))
    }
}

impl Decoded {
    fn malformed(reason: impl fmt::Display) -> Self {
        Decoded::Rejected(Rejection::Malformed(reason.to_string()))
    }
}

/// Passes on what is no `Exception`; for the rest, the name of its class: messages may show the data.
fn class_of(py: Python<'_>, err: PyErr) -> PyResult<String> {
    if !err.is_instance_of::<PyException>(py) {
        return Err(err);
    }
    Ok(err.get_type(py).name().map_or_else(|_| "Exception".into(), |name| name.to_string()))
}

fn with_key(key: Option<&[u8]>, allow_pickle: bool, trust_legacy: bool) -> PyResult<Codec> {
    let key = key.map(Key::try_from).transpose().map_err(|_| PyValueError::new_err("key must be 32 bytes"))?;
    Ok(Codec::with_key(key, allow_pickle, trust_legacy))
}

/// The blob for a value, None if it cannot be stored. `key` is 32 bytes or None.
#[pyfunction]
#[pyo3(signature = (obj, key, allow_pickle = true))]
fn _codec_dumps<'py>(
    obj: &Bound<'py, PyAny>,
    key: Option<&[u8]>,
    allow_pickle: bool,
) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let blob = with_key(key, allow_pickle, false)?.encode(obj)?;
    Ok(blob.map(|blob| PyBytes::new(obj.py(), &blob)))
}

/// The value of a blob; raises ValueError with the reason if it has none.
#[pyfunction]
#[pyo3(signature = (blob, key, allow_pickle = true, trust_legacy = false))]
fn _codec_loads(
    py: Python<'_>,
    blob: &[u8],
    key: Option<&[u8]>,
    allow_pickle: bool,
    trust_legacy: bool,
) -> PyResult<Py<PyAny>> {
    match with_key(key, allow_pickle, trust_legacy)?.decode(py, blob)? {
        Decoded::Value(value) => Ok(value),
        Decoded::Rejected(reason) => Err(PyValueError::new_err(reason.to_string())),
    }
}

/// Why the store at `database` can hold no pickles, None if it can. Makes its key file if there is none.
#[pyfunction]
fn _codec_key_error(py: Python<'_>, database: PathBuf) -> Option<String> {
    Codec::new(&database, true, false).key_error(py)
}

/// Deep size of a value in bytes, estimated.
#[pyfunction]
fn _estimate_size(obj: &Bound<'_, PyAny>) -> u64 {
    estimate_size(obj)
}

/// Adds this folder's functions to the native module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(_codec_dumps, m)?)?;
    m.add_function(wrap_pyfunction!(_codec_loads, m)?)?;
    m.add_function(wrap_pyfunction!(_codec_key_error, m)?)?;
    m.add_function(wrap_pyfunction!(_estimate_size, m)?)
}
