//! Statements step attached to the interpreter; here is when they let go of it.
//!
//! Letting go and taking the interpreter lock again costs more than most steps take, far more when other threads want
//! it. So a step begins attached. It lets go when it turns out to be long (the progress handler looks at the clock),
//! when it has to wait for a lock of the database (the busy handler), or from its beginning if it is going to write a
//! file. What SQLite calls back into Python takes the lock again for as long as it runs.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::time::Duration;

use pyo3::ffi;
use pyo3::prelude::*;

use super::{lane, turns};
use crate::py::hang::{Hang, may_unwind};
use crate::sqlite::{Entered, raw};
use crate::support::{backoff, clock};

/// A step that has run for so long lets go, in nanoseconds.
const DETACH_FROM: u64 = 1_000_000;
/// The same, on top, for a step that let go and has taken the interpreter lock again: a little more than what Python
/// grants a thread that others wait for (`sys.getswitchinterval()`). Letting go wakes one that waits, but hands over only
/// to one that has waited for so long; let go of more often, the lock would be taken back each time before that thread has
/// woken up. A step that calls Python code would itself have to wait each time.
const PATIENCE: u64 = 5_000_000;
/// Virtual machine instructions between looks at the clock: some tens of microseconds.
pub const TICK: c_int = 2_000;

#[derive(Clone, Copy)]
enum State {
    /// No step is running on this thread, or one is that called back into Python.
    Outside,
    /// Stepping with the interpreter lock, since that time; 0 if no clock was asked yet, which most steps never do.
    Attached { since: u64 },
    /// Stepping without it. `long`: only because the step takes long.
    Released { thread: *mut ffi::PyThreadState, long: bool },
}

thread_local! {
    static STATE: Cell<State> = const { Cell::new(State::Outside) };
}

mod unwinding {
    use pyo3::ffi;

    // Declared again: before Python 3.14 it ends a daemon thread by unwinding once the interpreter shuts down.
    unsafe extern "C-unwind" {
        pub fn PyEval_RestoreThread(thread: *mut ffi::PyThreadState);
    }
}

/// Calls of SQLite that may run statements. Between [`begin`](Self::begin) and its end no Python object may be touched,
/// except through [`with_python`].
pub struct Stepping<'a, 'db> {
    _running: Running,
    _inside: Inside<'a, 'db>,
}

/// Dropped after the thread is attached again.
struct Inside<'a, 'db>(&'a Entered<'db>);

impl<'a, 'db> Stepping<'a, 'db> {
    /// `release`: let go from the beginning.
    #[inline(always)]
    pub fn begin(_py: Python<'_>, entered: &'a Entered<'db>, release: bool) -> Self {
        entered.set_running(true);
        let running = Running::begin();
        if release {
            self::release();
        }
        Self { _running: running, _inside: Inside(entered) }
    }

    /// Attached again, if it was not; a good moment to touch Python objects. Stepping goes on afterwards.
    #[inline(always)]
    pub fn attach(&self) {
        if let State::Released { thread, .. } = STATE.get() {
            restore(thread);
            STATE.set(State::Attached { since: clock::coarse() + PATIENCE });
        }
    }
}

impl Drop for Inside<'_, '_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.0.set_running(false);
    }
}

/// One `sqlite3_step`.
///
/// # Safety
/// A statement of the connection that was entered.
#[inline(always)]
pub unsafe fn step(py: Python<'_>, entered: &Entered<'_>, statement: *mut raw::sqlite3_stmt, release: bool) -> c_int {
    let _stepping = Stepping::begin(py, entered, release);
    // SAFETY: the caller's promise.
    unsafe { raw::sqlite3_step(statement) }
}

/// Lets go of the interpreter lock if this thread is stepping with it.
pub fn release() {
    let_go(false);
}

fn let_go(long: bool) {
    if let State::Attached { .. } = STATE.get() {
        // SAFETY: the thread is attached, and whoever goes on to use Python restores the state first.
        let thread = unsafe { ffi::PyEval_SaveThread() };
        STATE.set(State::Released { thread, long });
    }
}

#[cold]
fn restore(thread: *mut ffi::PyThreadState) {
    let waiting = turns::wait();
    attach(thread);
    waiting.end();
}

/// Runs `body`, which touches no Python object but through [`with_python`], and lets go once it calls [`release`].
pub fn attached<R>(_py: Python<'_>, body: impl FnOnce() -> R) -> R {
    let _running = Running::begin();
    body()
}

/// A run that begins attached, and ends so.
struct Running(State);

impl Running {
    #[inline(always)]
    fn begin() -> Self {
        Self(STATE.replace(State::Attached { since: 0 }))
    }
}

impl Drop for Running {
    #[inline(always)]
    fn drop(&mut self) {
        match STATE.get() {
            State::Released { thread, .. } => restore(thread),
            _ if turns::is_wanted() => give_way(),
            _ => {}
        }
        STATE.set(self.0);
    }
}

/// Lets in those that let go and want to come back. A thread that steps short statements one after the other would keep
/// them out for as long as the interpreter lets it, five milliseconds at a time: writers beside readers would hardly write.
#[cold]
fn give_way() {
    let Some(turn) = turns::over() else { return };
    // SAFETY: the thread is attached, and touches no Python object before it is again.
    let thread = unsafe { ffi::PyEval_SaveThread() };
    turn.give_away();
    attach(thread);
}

fn attach(thread: *mut ffi::PyThreadState) {
    let restore = may_unwind!(unwinding::PyEval_RestoreThread, _);
    let hang = Hang;
    // SAFETY: what `PyEval_SaveThread` returned on this thread, not restored yet.
    unsafe { restore(thread) };
    std::mem::forget(hang);
}

/// Runs `body`, which must not unwind, attached to the interpreter; for what SQLite calls back. `None` if the
/// interpreter is gone.
#[inline(always)]
pub fn with_python<R>(body: impl FnOnce(Python<'_>) -> R) -> Option<R> {
    // One look-up of the thread's state: it takes as long as a small call.
    STATE.with(|state| match state.get() {
        before @ State::Attached { .. } => {
            state.set(State::Outside);
            // SAFETY: attached since the step began.
            let result = body(unsafe { Python::assume_attached() });
            state.set(before);
            Some(result)
        }
        State::Released { thread, long } => {
            restore(thread);
            state.set(State::Outside);
            // SAFETY: just attached.
            let result = body(unsafe { Python::assume_attached() });
            state.set(State::Attached { since: clock::coarse() + PATIENCE });
            if !long {
                release();
            }
            Some(result)
        }
        // A thread of the engine, or one that detached by PyO3's means.
        State::Outside => Python::try_attach(body),
    })
}

/// Installs the handlers that let go, on a connection just opened.
pub fn install(entered: &Entered<'_>, busy_timeout: Duration) {
    watch(entered);
    set_busy_timeout(entered, busy_timeout);
}

/// Long statements of a connection just opened let go.
pub fn watch(entered: &Entered<'_>) {
    // SAFETY: open and entered.
    unsafe { install_tick(entered.raw()) };
}

/// The progress handler of connections on which the user has none.
///
/// # Safety
/// The connection is open and this thread is inside.
pub unsafe fn install_tick(connection: *mut raw::sqlite3) {
    // SAFETY: the caller's promise; the handler uses no data.
    unsafe { raw::sqlite3_progress_handler(connection, TICK, Some(on_tick), std::ptr::null_mut()) };
}

/// How long statements wait for their turn to write, and for locks of other connections and processes.
pub fn set_busy_timeout(entered: &Entered<'_>, timeout: Duration) {
    entered.db().seat().set_timeout(timeout);
    let millis = usize::try_from(timeout.as_millis()).unwrap_or(usize::MAX);
    let handler = (millis > 0).then_some(on_busy as unsafe extern "C" fn(*mut c_void, c_int) -> c_int);
    // SAFETY: open and entered; the data is a number.
    unsafe { raw::sqlite3_busy_handler(entered.raw(), handler, millis as *mut c_void) };
}

/// To be called from the user's progress handler too.
#[inline]
pub fn tick() {
    match STATE.get() {
        State::Attached { since: 0 } => STATE.set(State::Attached { since: clock::coarse() }),
        State::Attached { since } if clock::coarse().saturating_sub(since) >= DETACH_FROM => let_go(true),
        _ => {}
    }
}

unsafe extern "C" fn on_tick(_: *mut c_void) -> c_int {
    tick();
    0
}

unsafe extern "C" fn on_busy(millis: *mut c_void, tries: c_int) -> c_int {
    release();
    let tries = tries.unsigned_abs();
    if lane::waits_for_itself() {
        return 0;
    }
    if backoff::waited(tries).as_millis() >= millis as u128 {
        return 0;
    }
    std::thread::sleep(backoff::pause(tries));
    1
}
