//! Statements in the lane of their database: they take it before they write and give it back when they are done.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::c_int;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::actors;
use super::connection::{Connection, enter};
use super::errors;
use super::gil::{self, Stepping};
use super::prepared::{Kind, Prepared};
use crate::py::hang;
use crate::sqlite::lane::{Access, Actor, Claim, Enqueued, Holder, Lane, LaneError, Refused, Ticket};
use crate::sqlite::{Db, Entered, Failure, raw, text};
use crate::support::{backoff, clock};

thread_local! {
    /// The task for which this background thread works. It is not to be blocked: the task awaits its turn.
    static TASK: Cell<Option<Actor>> = const { Cell::new(None) };
    /// See [`Crossing`].
    static CROSSING: Cell<*const Db> = const { Cell::new(std::ptr::null()) };
}

pyo3::create_exception!(
    upshift._native,
    LaneBusy,
    PyBaseException,
    "A statement of a coroutine has to await its turn."
);

/// Marks this thread as working for a task while it lives.
pub struct ForTask(Option<Actor>);

impl ForTask {
    pub fn begin(task: Actor) -> Self {
        Self(TASK.replace(Some(task)))
    }
}

impl Drop for ForTask {
    fn drop(&mut self) {
        TASK.set(self.0);
    }
}

/// One `sqlite3_step` of a statement at its beginning or standing on a row, with the lane if it needs that.
///
/// # Safety
/// A statement of the connection that was entered.
#[inline]
pub unsafe fn step(py: Python<'_>, entered: &Entered<'_>, prepared: &Prepared, release: bool) -> PyResult<c_int> {
    if prepared.kind == Kind::Settings {
        entered.db().seat().forget_mode();
    }
    let reads = prepared.is_query && !entered.in_transaction();
    // SAFETY: the caller's promise.
    let code = unsafe { step_raw(py, entered, prepared.statement, prepared.access, reads, release) };
    if prepared.kind == Kind::Settings && matches!(code, Ok(raw::SQLITE_DONE)) {
        let sql = text_of(prepared.statement);
        let head = text::skip_blank(sql.as_bytes());
        if text::begins_with(head, "attach") || text::begins_with(head, "detach") {
            entered.note_attached(sql);
        }
    }
    code
}

/// The same for any statement; `access` is what it needs, `reads` says that it is a query outside of a transaction.
///
/// # Safety
/// As [`step`].
#[inline]
pub unsafe fn step_raw(
    py: Python<'_>,
    entered: &Entered<'_>,
    statement: *mut raw::sqlite3_stmt,
    access: Option<Access>,
    reads: bool,
    release: bool,
) -> PyResult<c_int> {
    // What is going to commit is measured, and lets go of the interpreter lock unless that took little time so far.
    let pace = release.then(|| entered.db().pace());
    let stepping = Stepping::begin(py, entered, pace.is_some_and(|pace| !pace.is_quick()));
    if let Some(access) = access {
        if let Err(error) = take(entered, access, || text_of(statement)) {
            drop(stepping);
            return Err(error);
        }
    } else {
        entered.note_actor(actor);
    }
    if reads {
        entered.read();
    }
    let since = pace.map(|pace| (pace, clock::now()));
    let crosses = access == Some(Access::Write) && entered.db().seat().attached().is_any();
    let _crossing = crosses.then(|| Crossing::begin(entered));
    // SAFETY: the caller's promise.
    let mut code = unsafe { raw::sqlite3_step(statement) };
    if let Some((pace, since)) = since {
        pace.note(clock::now().saturating_sub(since));
    }
    if code & 0xff == raw::SQLITE_BUSY && access == Some(Access::Write) {
        // SAFETY: the caller's promise.
        code = unsafe { insist(entered, statement, code) };
    }
    let obstacle = if crosses && code == raw::SQLITE_BUSY { obstacle(entered, text_of(statement)) } else { None };
    if obstacle.is_some() {
        // SAFETY: the caller's promise.
        unsafe { raw::sqlite3_reset(statement) };
    }
    if code != raw::SQLITE_ROW {
        entered.settle_lane();
    }
    drop(stepping);
    obstacle.map_or(Ok(code), |error| Err(error_of(py, &error)))
}

/// Who of this process has an attached file, for a statement to which SQLite says that it is locked.
#[cold]
fn obstacle(entered: &Entered<'_>, statement: &str) -> Option<LaneError> {
    let db = entered.db();
    db.seat().attached().obstacle(&db.claim(actor(), Access::Write, statement))
}

/// A statement that may write to attached files while this lives, on the connection that was entered.
struct Crossing(*const Db);

impl Crossing {
    fn begin(entered: &Entered<'_>) -> Self {
        Self(CROSSING.replace(entered.db()))
    }
}

impl Drop for Crossing {
    fn drop(&mut self) {
        CROSSING.set(self.0);
    }
}

/// For the busy handler: whether the statement waits for an attached file that its own caller has locked through another
/// connection.
pub fn waits_for_itself() -> bool {
    let db = CROSSING.get();
    if db.is_null() {
        return false;
    }
    // SAFETY: whoever set it keeps the connection entered meanwhile.
    let db = unsafe { &*db };
    let claim = db.claim(actor(), Access::Write, "");
    matches!(db.seat().attached().obstacle(&claim), Some(LaneError::SelfWait(_)))
}

/// Takes the lane for a statement that is about to begin, or for what does the work of one. To be called while stepping;
/// [`Entered::settle_lane`] gives it back.
#[inline]
pub fn take<'a>(entered: &Entered<'_>, access: Access, statement: impl FnOnce() -> &'a str) -> PyResult<()> {
    let Some((lane, actor)) = entered.lane_for(access, actor) else { return Ok(()) };
    let claim = entered.db().claim(actor, access, statement());
    match entered.try_take_lane(lane, &claim) {
        Ok(()) => Ok(()),
        Err(refused) => wait(entered, lane, &claim, refused),
    }
}

/// On whose behalf this thread works.
fn actor() -> Actor {
    TASK.get().unwrap_or_else(|| Actor::thread(actors::this_thread()))
}

/// The text of the statement, as far as it is UTF-8.
pub fn text_of<'a>(statement: *mut raw::sqlite3_stmt) -> &'a str {
    // SAFETY: a live statement, which keeps its text; the result is used before the statement ends.
    unsafe {
        let text = raw::sqlite3_sql(statement);
        if text.is_null() { "" } else { std::ffi::CStr::from_ptr(text).to_str().unwrap_or_default() }
    }
}

/// Waits for the lane without the interpreter lock.
#[cold]
fn wait(entered: &Entered<'_>, lane: &Lane, claim: &Claim<'_>, refused: Refused) -> PyResult<()> {
    let seat = entered.db().seat();
    let timeout = seat.timeout();
    let mut failed = None;
    let outcome = match refused {
        Refused::SelfWait(holder) => Err(LaneError::SelfWait(holder)),
        Refused::Stalemate(holder) => Err(LaneError::Stalemate(holder)),
        Refused::Busy if claim.actor.task != 0 => return Err(LaneBusy::new_err(claim.access == Access::Write)),
        Refused::Busy => {
            gil::release();
            let (deadline, before) = (clock::now().saturating_add(timeout.as_nanos() as u64), seat.interrupts());
            lane.take(claim, Some(deadline), || {
                if seat.interrupts() != before {
                    return true;
                }
                // Ctrl+C, if this is the main thread.
                failed = gil::with_python(|py| py.check_signals().err()).flatten();
                failed.is_some()
            })
        }
    };
    match outcome {
        Ok(()) => {
            seat.granted(claim.access, claim.actor);
            Ok(())
        }
        Err(error) => Err(failed.or_else(|| gil::with_python(|py| error_of(py, &error))).unwrap_or_else(gone)),
    }
}

fn gone() -> PyErr {
    pyo3::exceptions::PyRuntimeError::new_err("the interpreter is shutting down")
}

/// A transaction that has read and now writes: SQLite tells it at once that another process writes, without waiting,
/// though it may go on once that has rolled back. If that has committed, the error says that it cannot.
#[cold]
unsafe fn insist(entered: &Entered<'_>, statement: *mut raw::sqlite3_stmt, code: c_int) -> c_int {
    let mut patience = Patience::begin(entered);
    let mut code = code;
    while patience.waits(entered, code) {
        // SAFETY: the caller's promise; the bindings stay.
        code = unsafe {
            raw::sqlite3_reset(statement);
            raw::sqlite3_step(statement)
        };
    }
    code
}

/// How long such a transaction is patient.
pub struct Patience {
    deadline: u64,
    interrupts: u32,
    tries: u32,
}

impl Patience {
    pub fn begin(entered: &Entered<'_>) -> Self {
        let seat = entered.db().seat();
        let deadline = clock::now().saturating_add(seat.timeout().as_nanos() as u64);
        Self { deadline, interrupts: seat.interrupts(), tries: 0 }
    }

    /// Waits a little; false if that is of no use, or not any more.
    pub fn waits(&mut self, entered: &Entered<'_>, code: c_int) -> bool {
        let goes_on = clock::now() < self.deadline && entered.db().seat().interrupts() == self.interrupts;
        if code != raw::SQLITE_BUSY || !entered.reads_only() || !goes_on {
            return false;
        }
        gil::release();
        backoff::sleep(&mut self.tries);
        true
    }
}

/// The exception for a turn that did not come.
#[cold]
pub fn error_of(py: Python<'_>, error: &LaneError) -> PyErr {
    let class = match error {
        LaneError::Interrupted => {
            return errors::of_failure(py, &Failure::of_code(raw::SQLITE_INTERRUPT));
        }
        LaneError::Timeout(_) => "WriteLaneTimeout",
        LaneError::SelfWait(_) | LaneError::Stalemate(_) => "WriteLaneDeadlock",
    };
    let message = error.message(|actor| name_of(py, actor));
    let made = py
        .import("upshift.exceptions")
        .and_then(|module| hang::method(&module, class, (message,), None))
        .and_then(|value| {
            let holder = error.holder().map(|holder| describe(py, holder)).transpose()?;
            value.setattr("holder", holder)?;
            Ok(PyErr::from_value(value))
        });
    match made {
        Ok(error) => errors::with_code(py, error, raw::SQLITE_BUSY),
        Err(failure) => failure,
    }
}

/// What the thread is called, if Python knows it.
fn name_of(py: Python<'_>, actor: &Actor) -> String {
    let find = || -> PyResult<Option<String>> {
        let Some(ident) = actors::ident_of(actor.thread) else { return Ok(None) };
        let threads = hang::method(py.import("threading")?.as_any(), "enumerate", (), None)?;
        for thread in threads.try_iter()? {
            let thread = thread?;
            if thread.getattr("ident")?.extract::<Option<u64>>()? == Some(ident) {
                return Ok(Some(thread.getattr("name")?.extract()?));
            }
        }
        Ok(None)
    };
    let thread = match find() {
        Ok(Some(name)) => format!("thread {name:?}"),
        // The name is an extra; an interpreter that is going has no threads to show.
        Ok(None) | Err(_) if actors::has_ended(actor.thread) => "a thread that has ended".to_owned(),
        Ok(None) | Err(_) => "a background thread".to_owned(),
    };
    if actor.task == 0 { thread } else { format!("a task of {thread}") }
}

/// The holder as a dict.
fn describe<'py>(py: Python<'py>, holder: &Holder) -> PyResult<Bound<'py, PyDict>> {
    let described = PyDict::new(py);
    described.set_item("connection", holder.connection)?;
    described.set_item("thread", actors::ident_of(holder.actor.thread))?;
    described.set_item("statement", holder.statement())?;
    let age = clock::now().saturating_sub(holder.since);
    described.set_item("since", clock::epoch_micros() as f64 / 1e6 - age as f64 / 1e9)?;
    Ok(described)
}

/// A task's turn in the lane, awaited or come. Given up when it dies without having been accepted.
#[pyclass(frozen, module = "upshift._native")]
pub struct LaneTurn {
    lane: Arc<Lane>,
    connection: u64,
    access: Access,
    actor: Actor,
    /// `None` if it came at once.
    ticket: Option<Ticket>,
    is_settled: AtomicBool,
}

#[pymethods]
impl LaneTurn {
    /// Whether it came at once; the callback is not called then.
    #[getter]
    fn granted(&self) -> bool {
        self.ticket.is_none()
    }

    /// Give it up. False if it has come: then it has to be accepted.
    fn cancel(&self) -> bool {
        let cancelled = self.ticket.as_ref().is_some_and(Ticket::cancel);
        self.is_settled.fetch_or(cancelled, Ordering::Relaxed);
        cancelled
    }

    /// The connection has the lane from now on, until it is used without beginning a transaction.
    fn accept(&self, connection: &Bound<'_, Connection>) -> PyResult<()> {
        let py = connection.py();
        let db = connection.get().db(py)?;
        self.is_settled.store(true, Ordering::Relaxed);
        db.seat().granted(self.access, self.actor);
        Ok(())
    }
}

impl Drop for LaneTurn {
    fn drop(&mut self) {
        if !*self.is_settled.get_mut() && !self.cancel() {
            self.lane.give_back(self.connection);
        }
    }
}

/// Queues a connection for the lane of its database on behalf of a task of this thread. `callback()` is called, by any thread, when its
/// turn has come, unless it came at once. None if the connection needs no lane.
#[pyfunction]
pub fn sqlite_lane_turn(
    connection: &Bound<'_, Connection>,
    write: bool,
    task: u64,
    callback: Py<PyAny>,
) -> PyResult<Option<LaneTurn>> {
    let py = connection.py();
    let db = connection.get().db(py)?;
    let entered = enter(py, &db)?;
    let access = if write { Access::Write } else { Access::Read };
    let Some((lane, actor)) = entered.lane_for(access, || Actor::task(actors::this_thread(), task)) else {
        return Ok(None);
    };
    let enqueued = lane.enqueue(&db.claim(actor, access, "a statement of a coroutine"), move || {
        // If the interpreter is gone, so is the task. Not `try_attach`: this may be called in the middle of a step.
        gil::with_python(|py| {
            if let Err(error) = hang::call(callback.bind(py), &PyTuple::empty(py), None) {
                error.write_unraisable(py, Some(callback.bind(py)));
            }
            drop(callback);
        });
    });
    let ticket = match enqueued {
        Ok(Enqueued::Granted) => None,
        Ok(Enqueued::Waiting(ticket)) => Some(ticket),
        Err(error) => return Err(error_of(py, &error)),
    };
    let (lane, connection) = (Arc::clone(lane), db.id());
    Ok(Some(LaneTurn { lane, connection, access, actor, ticket, is_settled: AtomicBool::new(false) }))
}

#[pymethods]
impl Connection {
    /// Gives the lane back if no transaction needs it.
    fn _settle_lane(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let db = slf.get().db(py)?;
        // Whoever leaves the connection settles it.
        drop(enter(py, &db)?);
        Ok(())
    }

    /// The error for a task whose turn did not come in time.
    fn _lane_timeout(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let db = slf.get().db(py)?;
        let holder = enter(py, &db)?.lane().and_then(|lane| lane.holder());
        Err(error_of(py, &LaneError::Timeout(holder.map(Box::new))))
    }

    /// Seconds that statements wait for a lock or a turn.
    #[getter]
    fn _timeout(&self, py: Python<'_>) -> f64 {
        self.state.with(py, |state| state.busy_timeout.as_secs_f64())
    }
}
