//! Python objects that SQLite calls: kept where the garbage collector sees them, called so that nothing unwinds into
//! SQLite and no error is lost.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use super::connection::{Connection, enter};
use super::progress::Progress;
use super::{errors, gil};
use crate::py::hang;
use crate::sqlite::{Db, Entered, raw};
use crate::support::sync::AttachedCell;

/// A callable that SQLite has a pointer to. Emptied when the collector breaks a cycle through it.
pub struct Slot {
    callable: AttachedCell<Option<Py<PyAny>>>,
    /// An exception for which SQLite has no result code to be returned; raised when the step has ended.
    raised: AttachedCell<Option<PyErr>>,
    db: Weak<Db>,
}

impl Slot {
    pub fn new(db: &Arc<Db>) -> Self {
        Self { callable: AttachedCell::new(None), raised: AttachedCell::new(None), db: Arc::downgrade(db) }
    }

    /// The slot that SQLite hands to a callback.
    ///
    /// # Safety
    /// `data` was registered as a pointer to a slot that is still kept.
    #[inline(always)]
    pub unsafe fn at<'a>(data: *mut c_void) -> &'a Self {
        // SAFETY: the caller's promise.
        unsafe { &*data.cast::<Self>() }
    }

    /// The same, owned: for callbacks that need it after Python code has run, which may have it removed.
    ///
    /// # Safety
    /// As [`at`](Self::at), and the pointer came from an `Arc`.
    pub unsafe fn owned(data: *mut c_void) -> Arc<Self> {
        // SAFETY: the caller's promise.
        unsafe {
            Arc::increment_strong_count(data.cast::<Self>());
            Arc::from_raw(data.cast::<Self>())
        }
    }

    /// The callable, unless it has been collected or removed.
    #[inline(always)]
    pub fn get<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.callable.with(py, |callable| callable.as_ref().map(|callable| callable.bind(py).clone()))
    }

    /// Puts another callable in place and returns the one before.
    #[must_use = "dropping it may run Python code"]
    pub fn set(&self, py: Python<'_>, callable: Option<Py<PyAny>>) -> Option<Py<PyAny>> {
        self.callable.with(py, |place| std::mem::replace(place, callable))
    }

    /// Keeps the first exception of a step until the step has ended.
    #[cold]
    pub fn raise_later(&self, py: Python<'_>, error: PyErr) {
        let Some(db) = self.db.upgrade() else { return };
        let spare = self.raised.with(py, |raised| if raised.is_none() { raised.replace(error) } else { Some(error) });
        drop(spare);
        if let Some(entered) = db.try_enter() {
            entered.set_callback_failed();
        }
    }

    /// Runs `body` while the connection cannot be closed: for what SQLite calls when a statement ends, not only steps.
    pub fn while_running<R>(&self, body: impl FnOnce() -> R) -> R {
        let db = self.db.upgrade();
        let entered = db.as_ref().and_then(|db| db.try_enter());
        if let Some(entered) = &entered {
            entered.set_running(true);
        }
        let result = body();
        if let Some(entered) = &entered {
            entered.set_running(false);
        }
        result
    }

    fn take(&self) -> Option<Py<PyAny>> {
        // SAFETY: the collector and destructors of Python objects run attached.
        unsafe { self.callable.try_with_unchecked(Option::take) }.flatten()
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: the collector runs attached.
        let visited = unsafe {
            self.callable.try_with_unchecked(|callable| match callable {
                Some(callable) => visit.call(&*callable),
                None => Ok(()),
            })
        };
        visited.unwrap_or(Ok(()))
    }
}

/// Callbacks of which a connection has one each. SQLite has no destructor for them, so the `Db` keeps them to its end.
pub struct Standing {
    pub authorizer: Slot,
    pub trace: Slot,
    pub progress: Progress,
}

/// Everything Python that a connection's database may call.
#[derive(Default)]
pub struct Hooks {
    /// Functions, aggregates and collations. SQLite owns another reference to each, until it is replaced or removed.
    functions: Vec<Arc<Slot>>,
    /// One for the database; those of older ones as well, if `__init__` was called again while statements ran.
    standing: Vec<Arc<Standing>>,
}

impl Hooks {
    fn slots(&self) -> impl Iterator<Item = &Slot> {
        let standing = self.standing.iter();
        let standing = standing.flat_map(|standing| [&standing.authorizer, &standing.trace, &standing.progress.slot]);
        self.functions.iter().map(|slot| &**slot).chain(standing)
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.slots().try_for_each(|slot| slot.traverse(visit))
    }

    /// What the collector may drop: the callables. SQLite keeps its pointers to the emptied slots.
    pub fn take_clearable(&mut self) -> Vec<Py<PyAny>> {
        self.slots().filter_map(Slot::take).collect()
    }

    /// Everything, once the database is closed.
    pub fn take_all(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Takes out the slots that SQLite has given up.
    #[must_use = "dropping it may run Python code"]
    fn sweep(&mut self) -> Vec<Arc<Slot>> {
        let (gone, kept) = self.functions.drain(..).partition(|slot| Arc::strong_count(slot) == 1);
        self.functions = kept;
        gone
    }

    fn take_raised(&mut self, py: Python<'_>) -> Vec<PyErr> {
        self.slots().filter_map(|slot| slot.raised.with(py, Option::take)).collect()
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        // The database may live on in statements for a while, where the collector does not see the callables.
        drop(self.take_clearable());
    }
}

/// Registers a function or the like: `register` gets the connection and the user data, null to remove, and returns
/// SQLite's result code. The user data belongs to SQLite, which gives it back to [`on_destroy`].
pub fn register(
    connection: &Bound<'_, Connection>,
    callable: &Bound<'_, PyAny>,
    register: impl FnOnce(&Entered<'_>, *mut c_void) -> PyResult<()>,
) -> PyResult<()> {
    let py = connection.py();
    let this = connection.get();
    let db = this.db(py)?;
    let entered = enter(py, &db)?;
    let data = if callable.is_none() {
        std::ptr::null_mut()
    } else {
        let slot = Slot::new(&db);
        drop(slot.set(py, Some(callable.clone().unbind())));
        let slot = Arc::new(slot);
        this.state.with(py, |state| state.hooks.functions.push(Arc::clone(&slot)));
        Arc::into_raw(slot).cast_mut().cast()
    };
    let registered = register(&entered, data);
    drop(entered);
    let gone = this.state.with(py, |state| state.hooks.sweep());
    drop(gone);
    registered
}

/// Gives up SQLite's reference to a slot. Called wherever the function ends, so no Python object may be touched here;
/// there is none left in the slot, or the connection has another reference to it.
pub unsafe extern "C" fn on_destroy(data: *mut c_void) {
    // SAFETY: the pointer came from `Arc::into_raw` in `register`, and SQLite calls this once.
    drop(unsafe { Arc::from_raw(data.cast_const().cast::<Slot>()) });
}

/// The callbacks of which there is one each, made when the first is set.
pub fn standing(connection: &Bound<'_, Connection>, db: &Arc<Db>) -> Arc<Standing> {
    let py = connection.py();
    standing_if_any(connection, db).unwrap_or_else(|| {
        let standing = Arc::new(Standing {
            authorizer: Slot::new(db),
            trace: Slot::new(db),
            progress: Progress::new(Slot::new(db)),
        });
        db.keep(standing.clone());
        // They would hear of what keeps a read standing.
        db.allow_standing_reads(false);
        connection.get().state.with(py, |state| state.hooks.standing.push(Arc::clone(&standing)));
        standing
    })
}

pub fn standing_if_any(connection: &Bound<'_, Connection>, db: &Arc<Db>) -> Option<Arc<Standing>> {
    connection.get().state.with(connection.py(), |state| {
        let is_ours = |standing: &&Arc<Standing>| std::ptr::eq(standing.trace.db.as_ptr(), Arc::as_ptr(db));
        state.hooks.standing.iter().find(is_ours).cloned()
    })
}

/// Runs a callback attached to the interpreter. `None` if there is none any more, or after a panic, which SQLite's frames
/// must not see.
#[inline(always)]
pub fn attached<R>(body: impl FnOnce(Python<'_>) -> R) -> Option<R> {
    gil::with_python(|py| catch_unwind(AssertUnwindSafe(|| body(py))).ok()).flatten()
}

/// After a step that returned `code`: the exception of a callback that SQLite knows nothing of.
#[inline(always)]
pub fn check(connection: &Bound<'_, Connection>, entered: &Entered<'_>, code: c_int) -> PyResult<()> {
    if entered.has_failed_callback() { raised(connection, entered, code) } else { Ok(()) }
}

#[cold]
fn raised(connection: &Bound<'_, Connection>, entered: &Entered<'_>, code: c_int) -> PyResult<()> {
    let py = connection.py();
    entered.clear_failed_callback();
    let raised = connection.get().state.with(py, |state| state.hooks.take_raised(py));
    for error in raised {
        if matches!(code, raw::SQLITE_ROW | raw::SQLITE_DONE) {
            return Err(error);
        }
        // The error of the statement is told instead.
        report(py, None, error);
    }
    Ok(())
}

static TRACEBACKS: AtomicBool = AtomicBool::new(false);

/// What becomes of an exception that SQLite's error takes the place of.
#[cold]
pub fn report(py: Python<'_>, callable: Option<&Bound<'_, PyAny>>, error: PyErr) {
    if !TRACEBACKS.load(Ordering::Relaxed) {
        hang::give_up(py, error.into_value(py).into_any());
    } else if cfg!(Py_3_11) {
        error.write_unraisable(py, callable);
    } else {
        error.print_and_set_sys_last_vars(py);
    }
}

/// Enable or disable callback functions throwing errors to stderr.
#[pyfunction]
#[pyo3(signature = (enable, /))]
fn enable_callback_tracebacks(enable: &Bound<'_, PyAny>) -> PyResult<()> {
    TRACEBACKS.store(super::arguments::int(enable)? != 0, Ordering::Relaxed);
    Ok(())
}

/// Adds the module's function.
pub fn register_functions(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(enable_callback_tracebacks, module)?)
}

/// The error for a hook that SQLite does not take.
#[cold]
pub fn refused(py: Python<'_>, message: &str) -> PyErr {
    errors::operational(py, message)
}
