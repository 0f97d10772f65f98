//! Digests of pickles for objects that are not of an exact builtin type.
//!
//! The canonical pickle is independent of the process: fixed protocol, no memo (`fast`), and the pickler's
//! `persistent_id` hook replaces every exact dict and set inside the object's graph by its canonical encoding. A
//! graph with cycles or heavy sharing needs the memo; its pickle keeps dicts in their own order.

use std::cell::Cell;
use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::exceptions::{PyException, PyRecursionError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyFloat, PyFrozenSet, PyInt, PySet, PyString, PyTuple, PyType};
use sha2::{Digest, Sha256};

use super::encode::{Encoder, MAX_VISITS, Stop, with_buffer};
use crate::py::hang;

/// Fixed, so that keys do not change with the interpreter's default.
const PROTOCOL: u8 = 4;

pub type PickleDigest = [u8; 32];

thread_local! {
    /// Depth and visits of the canonical encoding around the pickle that is being made on this thread.
    static AROUND: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
}

struct Picklers {
    canonical: Py<PyAny>,
    memo: Py<PyAny>,
    bytes_io: Py<PyAny>,
}

fn picklers(py: Python<'_>) -> PyResult<&'static Picklers> {
    static PICKLERS: PyOnceLock<Picklers> = PyOnceLock::new();
    PICKLERS.get_or_try_init(py, || {
        let base = py.import("pickle")?.getattr("Pickler")?;
        let subclass = |name: &str, hook: Bound<'_, PyAny>| {
            let body = PyDict::new(py);
            // A builtin function does not bind: the pickler calls it with the object alone.
            body.set_item("persistent_id", hook)?;
            body.set_item("__module__", "upshift._native")?;
            let bases = PyTuple::new(py, [&base])?;
            Ok::<_, PyErr>(py.get_type::<PyType>().call1((name, bases, body))?.unbind())
        };
        Ok(Picklers {
            canonical: subclass("_KeyPickler", wrap_pyfunction!(canonical_id, py)?.into_any())?,
            memo: subclass("_MemoKeyPickler", wrap_pyfunction!(memo_id, py)?.into_any())?,
            bytes_io: py.import("io")?.getattr("BytesIO")?.unbind(),
        })
    })
}

/// Digest of the canonical pickle. `depth` and `visits` are those of the encoding that asks.
pub fn canonical_digest(obj: &Bound<'_, PyAny>, depth: u32, visits: &mut u32) -> Result<PickleDigest, Stop> {
    let outer = AROUND.replace((depth, *visits));
    let result = digest(obj, true);
    *visits = AROUND.replace(outer).1;
    result.map_err(|err| stop(obj.py(), err))
}

/// Digest of a pickle with memo. The same digest means equal objects; equal objects whose parts are shared
/// differently, or whose dicts were filled in another order, may have different ones.
pub fn memo_digest(obj: &Bound<'_, PyAny>) -> Result<PickleDigest, Stop> {
    digest(obj, false).map_err(|err| match stop(obj.py(), err) {
        Stop::Limit => Stop::Unpicklable,
        stop => stop,
    })
}

fn digest(obj: &Bound<'_, PyAny>, canonical: bool) -> PyResult<PickleDigest> {
    let py = obj.py();
    let picklers = picklers(py)?;
    let file = picklers.bytes_io.bind(py).call0()?;
    let class = if canonical { &picklers.canonical } else { &picklers.memo };
    let pickler = class.bind(py).call1((&file, PROTOCOL))?;
    if canonical {
        pickler.setattr(intern!(py, "fast"), true)?;
    }
    hang::method(&pickler, "dump", (obj,), None)?;
    let pickle = file.call_method0(intern!(py, "getvalue"))?.cast_into::<PyBytes>()?;
    let pickle = pickle.as_bytes();
    let mut hash = Sha256::new();
    hash.update(pickle);
    if pickle.windows(MAIN.len()).any(|window| window == MAIN) {
        hash.update(main_script(py)?.as_bytes());
    }
    Ok(hash.finalize().into())
}

/// Also the end of `__mp_main__`, which the script is called in a spawned process.
const MAIN: &[u8] = b"_main__";

/// Path of the script that runs as `__main__`: classes of that module are not the same in another script.
fn main_script(py: Python<'_>) -> PyResult<Arc<str>> {
    /// `__file__` and the path it resolves to. Locked only to copy and to replace.
    static SCRIPT: Mutex<Option<(String, Arc<str>)>> = Mutex::new(None);

    let modules = py.import("sys")?.getattr("modules")?;
    let file = modules.get_item("__main__")?.getattr_opt("__file__")?;
    let Some(file) = file.and_then(|file| file.extract::<String>().ok()) else {
        return Ok("".into());
    };
    if let Some((known, path)) = SCRIPT.lock().as_ref() {
        if *known == file {
            return Ok(path.clone());
        }
    }
    let path: String = py.import("os.path")?.call_method1("realpath", (&file,))?.extract()?;
    let path: Arc<str> = path.into();
    *SCRIPT.lock() = Some((file, path.clone()));
    Ok(path)
}

/// What a failed pickle means. Whatever `Exception` an object's own code raises says that it cannot be pickled.
fn stop(py: Python<'_>, err: PyErr) -> Stop {
    // A ValueError is how `fast` mode reports a cycle.
    if err.is_instance_of::<PyRecursionError>(py) || err.is_instance_of::<PyValueError>(py) {
        Stop::Limit
    } else if err.is_instance_of::<PyException>(py) {
        Stop::Unpicklable
    } else {
        Stop::Raised(err)
    }
}

fn raise(stop: Stop) -> PyErr {
    match stop {
        Stop::Limit => PyRecursionError::new_err("too deep or too large for a canonical pickle"),
        Stop::Unpicklable => PyTypeError::new_err("contains what cannot be pickled"),
        Stop::Raised(err) => err,
    }
}

/// `persistent_id` of the canonical pickle: encodes exact dicts and sets, leaves the rest to the pickler.
#[pyfunction]
fn canonical_id<'py>(obj: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyBytes>>> {
    if is_small(obj) {
        return Ok(None);
    }
    let (depth, visits) = AROUND.get();
    if !(obj.is_exact_instance_of::<PyDict>()
        || obj.is_exact_instance_of::<PySet>()
        || obj.is_exact_instance_of::<PyFrozenSet>())
    {
        AROUND.set((depth, visits + 1));
        return if visits < MAX_VISITS { Ok(None) } else { Err(raise(Stop::Limit)) };
    }
    let py = obj.py();
    with_buffer(|buffer| {
        let mut encoder = Encoder::inside_pickle(py, buffer, depth, visits);
        let result = encoder.value(obj);
        AROUND.set((depth, encoder.visits()));
        result.map_err(raise)?;
        Ok(Some(PyBytes::new(py, buffer)))
    })
}

/// Most of what a pickler meets; cheap however often it is met.
fn is_small(obj: &Bound<'_, PyAny>) -> bool {
    obj.is_exact_instance_of::<PyString>()
        || obj.is_exact_instance_of::<PyInt>()
        || obj.is_exact_instance_of::<PyFloat>()
        || obj.is_none()
}

/// `persistent_id` of the memoising pickle: values without parts are encoded, so that it makes no difference whether
/// two equal ones are one object; sets of such values are, so that their order makes none.
#[pyfunction]
fn memo_id<'py>(obj: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let py = obj.py();
    with_buffer(|buffer| {
        let mut encoder = Encoder::inside_pickle(py, buffer, 0, 0);
        if obj.is_exact_instance_of::<PySet>() || obj.is_exact_instance_of::<PyFrozenSet>() {
            let mut scratch = Vec::new();
            for item in obj.try_iter()? {
                if !Encoder::inside_pickle(py, &mut scratch, 0, 0).atom(&item?).map_err(raise)? {
                    return Ok(None);
                }
                scratch.clear();
            }
            encoder.value(obj).map_err(raise)?;
        } else if !encoder.atom(obj).map_err(raise)? {
            return Ok(None);
        }
        Ok(Some(PyBytes::new(py, buffer)))
    })
}
