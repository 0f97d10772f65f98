//! Single flight: of several concurrent calls that miss on one key, one computes and the others wait for it.
//!
//! Flights of a cache live in a Python dict by key (keys may have their own `__eq__`). A flight knows its leader, so
//! that a thread which would wait for itself, directly or through other threads, computes instead.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use crate::py::hang;
use crate::py::lock::SIGNAL_CHECK;
use crate::py::thread_ident;
use crate::support::sync::AttachedCell;

/// Which flight each waiting thread waits for.
static WAITING: AttachedCell<Vec<(u64, Py<Flight>)>> = AttachedCell::new(Vec::new());

/// What a flight came to.
enum Outcome {
    Pending,
    Value(Py<PyAny>),
    Failed,
}

struct Inner {
    outcome: Outcome,
    callbacks: Vec<Py<PyAny>>,
}

/// One computation under way, and who waits for it. Made by `Call.join`.
///
/// Safe from any thread. It ends once, with a value or a failure.
#[pyclass(frozen, weakref, module = "upshift._native")]
pub struct Flight {
    /// Thread that computes, or on whose event loop a coroutine does: while it waits, the flight cannot end.
    leader: u64,
    /// The entry was invalidated meanwhile: the result is handed to those who wait, but not stored.
    doomed: AtomicBool,
    /// Token and fixed tags of the function, for invalidations.
    pub function: u64,
    pub tags: Vec<String>,
    inner: Mutex<Inner>,
    ended: Condvar,
}

/// How waiting for a flight ended.
pub enum Landed {
    Value(Py<PyAny>),
    /// The leader raised: the waiter tries again.
    Failed,
    Timeout,
    /// Waiting could never end, because the leader waits for this thread.
    WouldDeadlock,
}

impl Flight {
    pub fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::Relaxed)
    }

    fn pending(&self) -> bool {
        matches!(self.inner.lock().outcome, Outcome::Pending)
    }

    /// Waits, detached, until the flight ends or `deadline` passes.
    pub fn wait(slf: &Bound<'_, Self>, deadline: Option<Instant>) -> PyResult<Landed> {
        let (py, this) = (slf.py(), slf.get());
        let me = thread_ident();
        if this.pending() {
            if leads_back_to(slf, me) {
                return Ok(Landed::WouldDeadlock);
            }
            WAITING.with(py, |waiting| waiting.push((me, slf.clone().unbind())));
            let waited = this.wait_detached(py, deadline);
            let entry = WAITING.with(py, |waiting| {
                let at = waiting.iter().rposition(|(thread, flight)| *thread == me && flight.is(slf));
                at.map(|at| waiting.swap_remove(at))
            });
            drop(entry);
            waited?;
        }
        let inner = this.inner.lock();
        Ok(match &inner.outcome {
            Outcome::Pending => Landed::Timeout,
            Outcome::Value(value) => Landed::Value(value.clone_ref(py)),
            Outcome::Failed => Landed::Failed,
        })
    }

    fn wait_detached(&self, py: Python<'_>, deadline: Option<Instant>) -> PyResult<()> {
        while self.pending() {
            let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break;
            }
            py.detach(|| {
                let mut inner = self.inner.lock();
                if matches!(inner.outcome, Outcome::Pending) {
                    // Bounded, so that Ctrl+C is served.
                    self.ended.wait_for(&mut inner, left.min(SIGNAL_CHECK));
                }
            });
            py.check_signals()?;
        }
        Ok(())
    }
}

/// Whether the chain "leader waits for flight, its leader waits for …" ends at thread `me`.
fn leads_back_to(flight: &Bound<'_, Flight>, me: u64) -> bool {
    let mut leader = flight.get().leader;
    WAITING.with(flight.py(), |waiting| {
        for _ in 0..=waiting.len() {
            if leader == me {
                return true;
            }
            match waiting.iter().find(|(thread, _)| *thread == leader) {
                Some((_, next)) => leader = next.get().leader,
                None => return false,
            }
        }
        false
    })
}

/// In a forked child nobody waits: the threads that did do not exist here.
pub fn after_fork_child(py: Python<'_>) {
    let waiting = WAITING.with(py, std::mem::take);
    drop(waiting);
}

/// Joins the flight for `key`, or starts one; true if the caller leads.
pub fn join<'py>(
    flights: &Bound<'py, PyDict>,
    key: &Bound<'py, PyAny>,
    function: u64,
    tags: &[String],
) -> PyResult<(bool, Bound<'py, Flight>)> {
    if let Some(flight) = flights.get_item(key)? {
        let flight = flight.cast_into::<Flight>()?;
        // One that ended is still listed if the key's `__eq__` raised when it was to be taken out.
        if flight.get().pending() {
            return Ok((false, flight));
        }
    }
    let flight = Flight {
        leader: thread_ident(),
        doomed: AtomicBool::new(false),
        function,
        tags: tags.to_vec(),
        inner: Mutex::new(Inner { outcome: Outcome::Pending, callbacks: Vec::new() }),
        ended: Condvar::new(),
    };
    let flight = Bound::new(key.py(), flight)?;
    flights.set_item(key, &flight)?;
    Ok((true, flight))
}

/// Ends a flight: removes it from the table, hands `value` (None = the leader failed) to everyone who waits.
pub fn end(
    flights: &Bound<'_, PyDict>,
    key: &Bound<'_, PyAny>,
    flight: &Bound<'_, Flight>,
    value: Option<Py<PyAny>>,
) -> PyResult<()> {
    let listed = forget(flights, key, flight);
    let this = flight.get();
    let callbacks = {
        let mut inner = this.inner.lock();
        inner.outcome = value.map_or(Outcome::Failed, Outcome::Value);
        std::mem::take(&mut inner.callbacks)
    };
    this.ended.notify_all();
    for callback in callbacks {
        hang::call(callback.bind(flight.py()), &PyTuple::empty(flight.py()), None)?;
    }
    listed
}

/// Takes the flight out of the table, if it is (still) the one listed for `key`.
fn forget(flights: &Bound<'_, PyDict>, key: &Bound<'_, PyAny>, flight: &Bound<'_, Flight>) -> PyResult<()> {
    if flights.get_item(key)?.is_some_and(|listed| listed.is(flight)) {
        flights.del_item(key)?;
    }
    Ok(())
}

/// Dooms the flights that `concerned` picks: their results will not be stored, and later callers start afresh.
pub fn doom(
    flights: &Bound<'_, PyDict>,
    mut concerned: impl FnMut(&Bound<'_, PyAny>, &Flight) -> bool,
) -> PyResult<()> {
    if flights.is_empty() {
        return Ok(());
    }
    for (key, flight) in flights.copy()?.iter() {
        let flight = flight.cast_into::<Flight>()?;
        if concerned(&key, flight.get()) {
            flight.get().doomed.store(true, Ordering::Relaxed);
            forget(flights, &key, &flight)?;
        }
    }
    Ok(())
}

/// [`doom`] for the flight of one key.
pub fn doom_key(flights: &Bound<'_, PyDict>, key: &Bound<'_, PyAny>) -> PyResult<()> {
    if flights.is_empty() {
        return Ok(());
    }
    if let Some(flight) = flights.get_item(key)? {
        let flight = flight.cast_into::<Flight>()?;
        flight.get().doomed.store(true, Ordering::Relaxed);
        forget(flights, key, &flight)?;
    }
    Ok(())
}

#[pymethods]
impl Flight {
    /// `(ended, succeeded, value)` as of now; value is None unless it succeeded. Never blocks.
    fn outcome(&self, py: Python<'_>) -> (bool, bool, Option<Py<PyAny>>) {
        match &self.inner.lock().outcome {
            Outcome::Pending => (false, false, None),
            Outcome::Value(value) => (true, true, Some(value.clone_ref(py))),
            Outcome::Failed => (true, false, None),
        }
    }

    /// Call `callback()` once, in the thread that ends the flight; at once, in this one, if it has ended.
    ///
    /// Never blocks. What a callback raises reaches whoever ends the flight.
    fn add_done_callback(&self, callback: Bound<'_, PyAny>) -> PyResult<()> {
        {
            let mut inner = self.inner.lock();
            if matches!(inner.outcome, Outcome::Pending) {
                inner.callbacks.push(callback.unbind());
                return Ok(());
            }
        }
        hang::call(&callback, &PyTuple::empty(callback.py()), None).map(drop)
    }

    /// Whether the key, a fixed tag or the function was invalidated meanwhile: then the result is not to be stored.
    #[getter(doomed)]
    fn get_doomed(&self) -> bool {
        self.is_doomed()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(inner) = self.inner.try_lock() {
            if let Outcome::Value(value) = &inner.outcome {
                visit.call(value)?;
            }
            for callback in &inner.callbacks {
                visit.call(callback)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        let taken = self.inner.try_lock().map(|mut inner| {
            let outcome = std::mem::replace(&mut inner.outcome, Outcome::Failed);
            (outcome, std::mem::take(&mut inner.callbacks))
        });
        drop(taken);
    }
}
