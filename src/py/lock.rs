//! `ResultCache.lock`: a re-entrant lock that user code may hold to make other threads' operations wait.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::py::thread_ident;

#[derive(Default)]
struct Held {
    owner: u64,
    depth: u32,
}

/// Re-entrant lock over one cache.
///
/// While a thread holds it, operations of other threads on the cache wait with the GIL released; the holder's own go
/// on. It makes several operations one for other threads. The cache itself never takes it. Also a context manager.
#[pyclass(frozen, module = "upshift._native")]
#[derive(Default)]
pub struct CacheLock {
    held: Mutex<Held>,
    freed: Condvar,
    /// Copy of `held.owner` for the cache's fast check; 0 = free.
    owner: AtomicU64,
}

impl CacheLock {
    /// Whether a thread other than the calling one holds the lock.
    #[inline(always)]
    pub fn is_held_by_other(&self) -> bool {
        let owner = self.owner.load(Ordering::Relaxed);
        owner != 0 && owner != thread_ident()
    }

    /// In a forked child: a lock held by another thread is free, because that thread does not exist here.
    pub fn forget_other_threads(&self) {
        if let Some(mut held) = self.held.try_lock() {
            if held.owner != thread_ident() {
                *held = Held::default();
                self.owner.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Waits, detached, until no other thread holds the lock.
    #[cold]
    pub fn wait_until_free(&self, py: Python<'_>) -> PyResult<()> {
        while self.is_held_by_other() {
            py.detach(|| {
                let mut held = self.held.lock();
                if held.owner != 0 {
                    // Bounded, so that Ctrl+C is served.
                    self.freed.wait_for(&mut held, SIGNAL_CHECK);
                }
            });
            py.check_signals()?;
        }
        Ok(())
    }
}

/// How often a blocked main thread looks for signals.
pub const SIGNAL_CHECK: std::time::Duration = std::time::Duration::from_millis(50);

#[pymethods]
impl CacheLock {
    /// Take the lock, once more if this thread already holds it.
    ///
    /// Args:
    ///     blocking: Whether to wait while another thread holds it.
    ///     timeout: Seconds to wait at most; negative = no limit.
    ///
    /// Returns:
    ///     Whether the lock was taken.
    ///
    /// Waits with the GIL released and lets Ctrl+C through.
    #[pyo3(signature = (blocking = true, timeout = -1.0))]
    fn acquire(&self, py: Python<'_>, blocking: bool, timeout: f64) -> PyResult<bool> {
        let me = thread_ident();
        let started = std::time::Instant::now();
        loop {
            let taken = {
                let mut held = self.held.lock();
                let free = held.owner == 0 || held.owner == me;
                if free {
                    held.owner = me;
                    held.depth += 1;
                    self.owner.store(me, Ordering::Relaxed);
                }
                free
            };
            if taken || !blocking {
                return Ok(taken);
            }
            if timeout >= 0.0 && started.elapsed().as_secs_f64() >= timeout {
                return Ok(false);
            }
            py.detach(|| {
                let mut held = self.held.lock();
                if held.owner != 0 {
                    let left = if timeout >= 0.0 { timeout - started.elapsed().as_secs_f64() } else { f64::INFINITY };
                    let slice = SIGNAL_CHECK.as_secs_f64().min(left.max(0.0));
                    self.freed.wait_for(&mut held, std::time::Duration::from_secs_f64(slice));
                }
            });
            py.check_signals()?;
        }
    }

    /// Give the lock back once; it is free when it was given back as often as taken. Never blocks.
    ///
    /// Raises:
    ///     RuntimeError: The calling thread does not hold it.
    fn release(&self) -> PyResult<()> {
        let mut held = self.held.lock();
        if held.owner != thread_ident() {
            return Err(PyRuntimeError::new_err("cannot release a cache lock that this thread does not hold"));
        }
        held.depth -= 1;
        if held.depth == 0 {
            held.owner = 0;
            self.owner.store(0, Ordering::Relaxed);
            self.freed.notify_all();
        }
        Ok(())
    }

    fn __enter__(slf: PyRef<'_, Self>, py: Python<'_>) -> PyResult<Py<Self>> {
        let this: Py<Self> = slf.into();
        this.get().acquire(py, true, -1.0)?;
        Ok(this)
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, pyo3::types::PyTuple>) -> PyResult<()> {
        self.release()
    }

    fn __repr__(&self) -> String {
        match self.owner.load(Ordering::Relaxed) {
            0 => "<CacheLock free>".to_owned(),
            owner => format!("<CacheLock held by thread {owner}>"),
        }
    }
}
