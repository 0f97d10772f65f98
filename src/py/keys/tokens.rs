//! Identity of objects that cannot be pickled: the same living object always has the same token, and no token is
//! ever given to a second object.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::sync::OnceLock;

use parking_lot::Mutex;
use pyo3::exceptions::{PyOSError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyWeakrefReference;

/// Nonce of the process image, process id, number.
const LEN: usize = 16 + 4 + 8;
pub type Token = [u8; LEN];

/// Tokens by the address of the object's basic weak reference.
///
/// CPython gives an object one such reference and hands it out again as long as it lives. The registry keeps it
/// alive, so an address names one object for as long as it is in the map, even after that object died and its own
/// address was used again.
#[derive(Default)]
struct Registry {
    tokens: HashMap<usize, (Py<PyWeakrefReference>, u64)>,
    next: u64,
    /// Size at which entries of dead objects are looked for.
    sweep_at: usize,
}

/// Guards pure Rust sections only; what leaves the map is dropped after the guard.
static REGISTRY: LazyLock<Mutex<Registry>> =
    LazyLock::new(|| Mutex::new(Registry { sweep_at: 256, ..Registry::default() }));

/// The token of an object; `None` if it cannot be referenced weakly.
pub fn token(obj: &Bound<'_, PyAny>) -> PyResult<Option<Token>> {
    let reference = match PyWeakrefReference::new(obj) {
        Ok(reference) => reference,
        Err(err) if err.is_instance_of::<PyTypeError>(obj.py()) => return Ok(None),
        Err(err) => return Err(err),
    };
    let address = reference.as_ptr() as usize;
    let (number, crowded) = {
        let mut registry = REGISTRY.lock();
        let number = match registry.tokens.get(&address) {
            Some((_, number)) => *number,
            None => {
                let number = registry.next;
                registry.next += 1;
                registry.tokens.insert(address, (reference.clone().unbind(), number));
                number
            }
        };
        (number, registry.tokens.len() >= registry.sweep_at)
    };
    if crowded {
        sweep(obj.py());
    }
    let mut token = [0; LEN];
    token[..16].copy_from_slice(nonce()?);
    // A fork shares the nonce and the next number with its parent.
    token[16..20].copy_from_slice(&std::process::id().to_le_bytes());
    token[20..].copy_from_slice(&number.to_le_bytes());
    Ok(Some(token))
}

/// Random bytes of this process: a key string with a token in it that a user writes to disk must not be met again
/// by another process's object of the same number.
fn nonce() -> PyResult<&'static [u8; 16]> {
    static NONCE: OnceLock<[u8; 16]> = OnceLock::new();
    if let Some(nonce) = NONCE.get() {
        return Ok(nonce);
    }
    let mut fresh = [0; 16];
    getrandom::fill(&mut fresh).map_err(|err| PyOSError::new_err(err.to_string()))?;
    Ok(NONCE.get_or_init(|| fresh))
}

/// Forgets dead objects. Amortised O(1) per new token: the next one is due when the map has doubled.
fn sweep(py: Python<'_>) {
    let known: Vec<_> = {
        let registry = REGISTRY.lock();
        registry.tokens.iter().map(|(address, (reference, _))| (*address, reference.clone_ref(py))).collect()
    };
    let dead: Vec<_> = known
        .iter()
        .filter(|(_, reference)| reference.bind(py).upgrade().is_none())
        .map(|(address, _)| *address)
        .collect();
    let removed: Vec<_> = {
        let mut registry = REGISTRY.lock();
        let removed = dead.iter().filter_map(|address| registry.tokens.remove(address)).collect();
        registry.sweep_at = (2 * registry.tokens.len()).max(256);
        removed
    };
    drop(removed);
}
