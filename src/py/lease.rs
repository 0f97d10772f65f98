//! `Lease`: the right of this process to compute a key, renewed natively while it is held.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pyo3::prelude::*;

use super::cache::disk::Open;
use crate::cache::persist;
use crate::support::runtime;

/// A lease held in the store of a cache. It is renewed in the background, also while the interpreter lock is held by a
/// long C call, until it is released or the process dies.
#[pyclass(frozen, module = "upshift._native")]
pub struct Lease {
    open: Arc<Open>,
    held: Arc<Mutex<Option<persist::Lease>>>,
}

impl Lease {
    /// Takes the lease on `key` for `ttl`; `None` while another process holds it. Blocks for the store.
    pub fn acquire(open: Arc<Open>, key: &str, ttl: Duration) -> persist::Result<Option<Self>> {
        let Some(lease) = open.tier.lease_acquire(key, ttl)? else { return Ok(None) };
        let held = Arc::new(Mutex::new(Some(lease)));
        let (renewed, tier) = (Arc::downgrade(&held), open.tier.clone());
        let renewal = runtime::every(ttl / 3, move || {
            let Some(held) = renewed.upgrade() else { return ControlFlow::Break(()) };
            let held = held.lock();
            match &*held {
                // A renewal that fails is tried again; the lease still has two thirds of its time.
                Some(lease) => match tier.lease_renew(lease, ttl) {
                    Ok(false) => ControlFlow::Break(()),
                    _ => ControlFlow::Continue(()),
                },
                None => ControlFlow::Break(()),
            }
        });
        if let Err(error) = renewal {
            log::warn!(target: "upshift.cache", "lease on {key:?} cannot be renewed: {error}");
        }
        Ok(Some(Self { open, held }))
    }
}

#[pymethods]
impl Lease {
    /// Gives the lease back, after the writes accepted before. Idempotent; blocks for the store.
    fn release(&self, py: Python<'_>) {
        py.detach(|| {
            if let Some(lease) = self.held.lock().take() {
                // A store closed meanwhile has nothing to release; the lease ends with its time.
                let _ = self.open.tier.lease_release(lease);
            }
        });
    }
}
