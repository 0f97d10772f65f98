//! `ConnectionPool`: the pool of the engine, over connections of this module.
//!
//! Borrowing and returning are here; what is for looking at, and what runs rarely, is Python (`upshift.sqlite._pool`).

use std::path::Path;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyTimeoutError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use super::arguments::{self, Truth, count};
use super::connection::{Connection, Given, fspath, path_of};
use super::errors;
use super::keeper::{self, Core, Keeper, Lease, Origin, Unopened};
use super::pooled::PooledConnection;
use crate::py::cache::options;
use crate::py::lock::{CacheLock, SIGNAL_CHECK};
use crate::py::{hang, thread_ident};
use crate::sqlite::group::Durability;
use crate::sqlite::opener::Opener;
use crate::sqlite::pool::{Begun, Patience, Pool, Refusal, Settings, Stats, Ticket};
use crate::support::clock::{self, NEVER};
use crate::support::sync::AttachedCell;

/// Pool of connections to one SQLite database, shared by threads and coroutines.
///
/// Connections are lent last in, first out; who has to wait is served in order of arrival. Each one is an
/// `upshift.sqlite.Connection` for any thread, in autocommit mode (`isolation_level=None`), with `Row` as row factory, a
/// busy timeout of 30 s, `journal_mode=WAL`, `synchronous=NORMAL`, a page cache of 64 MB, temporary tables in memory and
/// 256 MB mapped. What a borrower sets besides `row_factory`, `text_factory`, `isolation_level` and `autocommit`, such as
/// functions and PRAGMAs, stays with the connection.
///
/// A file that cannot be opened is no error here: the pool starts empty, see `last_error`. May be subclassed, weakly
/// referenced and used as a context manager (leaving it calls `close_all()`). Cannot be pickled. In a forked child it is
/// empty and opens connections of its own.
///
/// Args:
///     db_path: Path of the database, str, bytes or path-like; `":memory:"` is one database for all connections of the
///         pool, and lives as long as it.
///     min_size: Connections that are kept open.
///     max_size: Connections that may be open at a time.
///     max_idle_time: Seconds after which idle connections beyond `min_size` are closed; None = never.
///     check_interval: Seconds between rounds of maintenance, 0 or more; rounds are at least 5 ms apart.
///     max_lifetime: Seconds after which a connection is replaced; None = never.
///     leak_after: Seconds after which a connection that was not returned is logged, with the stack that took it, under
///         `upshift.sqlite`; None = never. Taking the stack costs some microseconds for each borrow.
///     durability: What a commit survives: "process" a killed process (`synchronous=NORMAL`), "power" also a power loss
///         (`synchronous=FULL`).
///     on_connect: Called with each new connection before it is first used, the one that `write()` writes with included:
///         for functions, collations and PRAGMAs such as `foreign_keys`. By whichever thread opens the connection. What
///         it raises counts as a failure to open.
///     uri: `db_path` is a URI of a file, such as `file:…?mode=ro`. A database opened for reading only keeps its journal mode.
///
/// Raises:
///     ValueError: A number is out of range, or `min_size` exceeds `max_size`.
///     TypeError: An argument is of another kind.
#[pyclass(frozen, subclass, dict, weakref, module = "upshift.sqlite")]
pub struct ConnectionPool {
    /// Python 3.11 may collect between the allocation (zeroed memory) and the value; a zeroed `OnceLock` looks filled.
    constructed: bool,
    /// Empty until `__init__` has run.
    core: OnceLock<Arc<Core>>,
    lock: Py<CacheLock>,
    /// As it was given, for looking at.
    named: AttachedCell<Option<Named>>,
}

struct Named {
    path: Py<PyAny>,
    max_idle_time: Py<PyAny>,
    check_interval: Py<PyAny>,
}

/// Pools of this process, for its end.
static POOLS: AttachedCell<Vec<(Weak<Core>, Py<CacheLock>)>> = AttachedCell::new(Vec::new());

const DEFAULT_TIMEOUT: f64 = 10.0;
/// What is less cannot be meant.
const SHORTEST_INTERVAL: f64 = 0.001;
/// How long queued writes may hold up the end of the interpreter.
const LAST_WRITES: Duration = Duration::from_secs(2);

/// How long a borrower waits: seconds, or None without limit.
pub struct Timeout(Option<f64>);

impl Default for Timeout {
    fn default() -> Self {
        Self(Some(DEFAULT_TIMEOUT))
    }
}

impl<'py> FromPyObject<'_, 'py> for Timeout {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if value.is_none() {
            return Ok(Self(None));
        }
        options::seconds(&value, "timeout").map(|seconds| Self(Some(seconds)))
    }
}

impl Timeout {
    pub fn seconds(&self) -> Option<f64> {
        self.0
    }

    pub fn of(timeout: Duration) -> Self {
        Self(Some(timeout.as_secs_f64()))
    }

    /// The end of the wait on the engine's clock; `None` for no limit.
    pub fn deadline(&self) -> Option<u64> {
        self.0.map(|seconds| clock::now().saturating_add((seconds.max(0.0) * 1e9) as u64))
    }

    /// The end of the wait; `None` if it is too far off to be told.
    pub fn end(&self) -> Option<Instant> {
        let seconds = self.0?.max(0.0);
        Instant::now().checked_add(Duration::try_from_secs_f64(seconds).ok()?)
    }
}

impl ConnectionPool {
    /// The engine's pool. Waits while another thread holds `lock`.
    #[inline(always)]
    pub fn core(&self, py: Python<'_>) -> PyResult<&Arc<Core>> {
        let Some(core) = self.core.get() else {
            return Err(crate::py::errors::not_initialised(py, "ConnectionPool"));
        };
        if self.lock.get().is_held_by_other() {
            self.lock.get().wait_until_free(py)?;
        }
        Ok(core)
    }

    /// The engine's pool, without waiting for `lock`.
    pub fn engine(&self) -> Option<&Arc<Core>> {
        self.core.get()
    }

    /// Borrows, by the class's own means.
    #[inline]
    pub fn borrow<'py>(
        slf: &Bound<'py, Self>,
        timeout: &Timeout,
    ) -> PyResult<Result<Bound<'py, PooledConnection>, Option<Arc<Unopened>>>> {
        let py = slf.py();
        let core = slf.get().core(py)?;
        let origin = origin(py, core)?;
        look_at_file(py, core);
        loop {
            let lease = match core.try_acquire(origin.clone()) {
                Some(lease) => lease,
                None => match wait(py, core, origin.clone(), timeout)? {
                    Ok(lease) => lease,
                    Err(cause) => return Ok(Err(cause)),
                },
            };
            if keeper::is_fit(py, lease.connection()) {
                return PooledConnection::make(slf, lease).map(Ok);
            }
            core.release(&lease);
        }
    }
}

/// Closes what is idle if the file was deleted or replaced; about once a second somebody looks.
#[inline(always)]
pub fn look_at_file(py: Python<'_>, core: &Arc<Core>) {
    if core.manage().glance() {
        py.detach(|| core.check_idle());
    }
}

/// Borrows when nothing is idle: opens a connection or waits.
#[cold]
fn wait(
    py: Python<'_>,
    core: &Arc<Core>,
    origin: Option<Arc<Origin>>,
    timeout: &Timeout,
) -> PyResult<Result<Lease, Option<Arc<Unopened>>>> {
    let until = timeout.end();
    let is_main = is_main_thread(py)?;
    let (outcome, raised) = py.detach(|| {
        let mut raised = None;
        let mut ask = || serve_signals(&mut raised);
        let ask: &mut dyn FnMut() -> bool = &mut ask;
        let outcome = core.acquire(origin, Patience { until, ask: is_main.then_some((SIGNAL_CHECK, ask)) });
        (outcome, raised)
    });
    match (outcome, raised) {
        (Ok(lease), Some(error)) => {
            core.release(&lease);
            Err(error)
        }
        (Err(_), Some(error)) => Err(error),
        (Ok(lease), None) => Ok(Ok(lease)),
        (Err(Refusal::TimedOut(cause)), None) => Ok(Err(cause)),
        (Err(Refusal::Closed | Refusal::Interrupted), None) => Err(closed(py)),
    }
}

/// Only the main thread runs signal handlers.
fn is_main_thread(py: Python<'_>) -> PyResult<bool> {
    let main = hang::method(py.import("threading")?.as_any(), "main_thread", (), None)?;
    Ok(main.getattr("ident")?.extract::<Option<u64>>()? == Some(thread_ident()))
}

/// Lets signal handlers run; false if one raised.
fn serve_signals(raised: &mut Option<PyErr>) -> bool {
    match Python::try_attach(|py| py.check_signals()) {
        Some(Ok(())) => true,
        Some(Err(error)) => {
            *raised = Some(error);
            false
        }
        None => false,
    }
}

/// Who is about to borrow, if that is to be known.
#[inline(always)]
fn origin(py: Python<'_>, core: &Core) -> PyResult<Option<Arc<Origin>>> {
    if core.manage().watches_leaks() { here(py).map(Some) } else { Ok(None) }
}

#[cold]
fn here(py: Python<'_>) -> PyResult<Arc<Origin>> {
    let here = hang::method(py.import("upshift.sqlite._pool")?.as_any(), "_here", PyTuple::empty(py), None)?;
    let (thread, stack) = here.extract()?;
    Ok(Arc::new(Origin { thread, stack }))
}

#[cold]
pub fn closed(py: Python<'_>) -> PyErr {
    errors::programming(py, "Cannot operate on a closed pool.")
}

/// `TimeoutError`, chained to what opening failed with.
#[cold]
pub fn timed_out(py: Python<'_>, core: &Core, timeout: &Timeout, cause: Option<Arc<Unopened>>) -> PyErr {
    let stats = core.stats();
    let within = timeout.0.map(|seconds| format!(" within {seconds} s")).unwrap_or_default();
    let text = match &cause {
        Some(unopened) => format!("no connection could be opened{within}: {}", unopened.text(py)),
        None => {
            let longest = core.holders().first().map(|holder| holder.held as f64 / 1e9).unwrap_or_default();
            format!(
                "no connection became free{within}: {} of at most {} are lent, one since {longest:.1} s",
                stats.in_use, stats.max_size
            )
        }
    };
    let error = PyTimeoutError::new_err(text);
    if let Some(unopened) = cause {
        error.set_cause(py, Some(unopened.error(py)));
    }
    error
}

/// Nanoseconds of a time that may be None for never.
fn nanoseconds(value: Option<&Bound<'_, PyAny>>, name: &str) -> PyResult<u64> {
    match value {
        None => Ok(NEVER),
        Some(value) => options::non_negative_seconds(value, name).map(options::nanoseconds),
    }
}

fn interval(value: &Bound<'_, PyAny>) -> PyResult<Duration> {
    let seconds = options::seconds(value, "check_interval")?;
    if seconds < SHORTEST_INTERVAL {
        let text = format!("check_interval must be {SHORTEST_INTERVAL} or more seconds, not {seconds}");
        return Err(PyValueError::new_err(text));
    }
    Ok(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

fn check_sizes(min_size: usize, max_size: usize) -> PyResult<()> {
    if min_size > max_size {
        let text = format!("min_size must not exceed max_size, and {min_size} is more than {max_size}");
        return Err(PyValueError::new_err(text));
    }
    Ok(())
}

fn opener(path: &Path, uri: bool, durability: Durability) -> PyResult<Opener> {
    if path.as_os_str().is_empty() {
        let text = "db_path must be a path or ':memory:'; the empty one is a temporary database for each connection";
        return Err(PyValueError::new_err(text));
    }
    if !uri {
        return Ok(Opener::new(path, durability)?);
    }
    let Some(uri) = path.to_str() else { return Err(PyValueError::new_err("db_path must be UTF-8 if it is a URI")) };
    Opener::with_uri(uri, durability)?.ok_or_else(|| {
        let text = format!("db_path must be the URI of a file, not {uri:?}; for a database in memory use ':memory:'");
        PyValueError::new_err(text)
    })
}

/// What a commit survives; `None` is as the pool was told.
#[derive(Default)]
pub struct Level(pub Option<Durability>);

impl<'py> FromPyObject<'_, 'py> for Level {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if value.is_none() { Ok(Self(None)) } else { durability(&Given::Value(value.to_owned())).map(Some).map(Self) }
    }
}

fn durability(value: &Given<'_>) -> PyResult<Durability> {
    let is_power = arguments::choice(value, "durability", ["process", "power"])?;
    Ok(if is_power { Durability::Power } else { Durability::Process })
}

#[pymethods]
impl ConnectionPool {
    /// Accepts anything: subclasses may have their own signature, configuration happens in `__init__`.
    #[new]
    #[pyo3(signature = (*_arguments, **_options), text_signature = "(db_path, min_size=2, max_size=10, \
        max_idle_time=300, check_interval=60, *, max_lifetime=None, leak_after=None, durability='process', on_connect=None, uri=False)")]
    fn new(py: Python<'_>, _arguments: &Bound<'_, PyTuple>, _options: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let lock = Py::new(py, CacheLock::default())?;
        Ok(Self { constructed: true, core: OnceLock::new(), lock, named: AttachedCell::new(None) })
    }

    #[pyo3(signature = (db_path, min_size = Given::Default, max_size = Given::Default,
        max_idle_time = Given::Default,
        check_interval = Given::Default, *, max_lifetime = None, leak_after = None, durability = Given::Default,
        on_connect = None, uri = Truth(false)))]
    #[allow(clippy::too_many_arguments)]
    fn __init__<'py>(
        slf: &Bound<'py, Self>,
        db_path: &Bound<'py, PyAny>,
        min_size: Given<'py>,
        max_size: Given<'py>,
        max_idle_time: Given<'py>,
        check_interval: Given<'py>,
        max_lifetime: Option<Bound<'py, PyAny>>,
        leak_after: Option<Bound<'py, PyAny>>,
        durability: Given<'py>,
        on_connect: Option<Bound<'py, PyAny>>,
        uri: Truth,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let min_size = count(&or(min_size, py, 2)?, "min_size", 0)?;
        let max_size = count(&or(max_size, py, 10)?, "max_size", 1)?;
        check_sizes(min_size, max_size)?;
        let max_idle_time = or(max_idle_time, py, 300)?;
        let check_interval = or(check_interval, py, 60)?;
        let settings = Settings {
            min_size,
            max_size,
            max_idle: nanoseconds(Some(&max_idle_time).filter(|time| !time.is_none()), "max_idle_time")?,
            max_lifetime: nanoseconds(max_lifetime.as_ref(), "max_lifetime")?,
            leak_after: nanoseconds(leak_after.as_ref(), "leak_after")?,
            interval: interval(&check_interval)?,
        };
        let path = fspath(db_path, "db_path")?;
        let durability = self::durability(&durability)?;
        let opener = opener(&path_of(&path, "db_path")?, uri.0, durability)?;
        hang::method(py.import("sys")?.as_any(), "audit", ("sqlite3.connect", &path), None)?;
        let on_connect = options::callable(on_connect, "on_connect")?;
        let core = Pool::new(Keeper::new(opener, leak_after.is_some(), on_connect), settings);
        if this.core.set(Arc::clone(&core)).is_err() {
            return Err(errors::programming(py, "the pool is initialised already"));
        }
        let named = Named {
            path: path.unbind(),
            max_idle_time: max_idle_time.unbind(),
            check_interval: check_interval.unbind(),
        };
        drop(this.named.with(py, |slot| slot.replace(named)));
        let forgotten: Vec<_> = POOLS.with(py, |pools| {
            let known = std::mem::take(pools);
            let (mut live, dead): (Vec<_>, _) = known.into_iter().partition(|(pool, _)| pool.strong_count() > 0);
            live.push((Arc::downgrade(&core), this.lock.clone_ref(py)));
            *pools = live;
            dead
        });
        drop(forgotten);
        py.detach(|| {
            core.fill();
            core.start_upkeep();
        });
        Ok(())
    }

    /// Borrow a connection: the one returned last if any is idle, else a new one while fewer than `max_size` are open,
    /// else the next one returned.
    ///
    /// Args:
    ///     timeout: Seconds to wait (int, float or timedelta); 0 or less = try once, None = without limit.
    ///
    /// Returns:
    ///     A `PooledConnection`, or None if the time is over; then `last_error` says why if opening fails.
    ///
    /// Raises:
    ///     ProgrammingError: The pool is closed.
    ///
    /// Waits with the GIL released, in order of arrival, and lets Ctrl+C through.
    #[pyo3(signature = (timeout = Timeout::default()), text_signature = "($self, timeout=10.0)")]
    fn acquire<'py>(slf: &Bound<'py, Self>, timeout: Timeout) -> PyResult<Option<Bound<'py, PooledConnection>>> {
        Ok(Self::borrow(slf, &timeout)?.ok())
    }

    /// Give a connection back, from any thread. An open transaction is rolled back, what the borrower set is undone.
    /// Does not wait.
    ///
    /// Args:
    ///     conn: What `acquire()` returned, or its raw connection. Without effect if it is not lent by this pool.
    fn release(slf: &Bound<'_, Self>, conn: &Bound<'_, PyAny>) -> PyResult<()> {
        let core = slf.get().core(slf.py())?;
        if let Ok(wrapper) = conn.cast::<PooledConnection>() {
            if wrapper.get().belongs_to(slf) {
                wrapper.get().give_back();
            }
        } else if let Ok(raw) = conn.cast::<Connection>() {
            if let Some(lease) = core.lease_of(|held| held.object.as_ptr() == raw.as_ptr()) {
                core.release(&lease);
            }
        }
        Ok(())
    }

    /// Close the pool: who asks for a connection, or waits for one, gets `ProgrammingError` from now on. Idle connections are
    /// closed. Who has one may use it until it is returned or `timeout` is over. Idempotent.
    ///
    /// Args:
    ///     timeout: Seconds to wait for connections that are lent; None = without limit. Those still lent then are
    ///         interrupted, and closed when they are returned.
    ///
    /// Waits with the GIL released and lets Ctrl+C through.
    #[pyo3(signature = (timeout = Timeout(Some(5.0))), text_signature = "($self, timeout=5.0)")]
    fn close_all(&self, py: Python<'_>, timeout: Timeout) -> PyResult<()> {
        let core = self.core(py)?;
        let until = timeout.end();
        let is_main = is_main_thread(py)?;
        let raised = py.detach(|| {
            let mut raised = None;
            let mut ask = || serve_signals(&mut raised);
            let ask: &mut dyn FnMut() -> bool = &mut ask;
            core.close(Patience { until, ask: is_main.then_some((SIGNAL_CHECK, ask)) });
            let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
            core.manage().writes.close(left);
            core.manage().opener.close();
            raised
        });
        raised.map_or(Ok(()), Err)
    }

    /// Counters and sizes as one consistent snapshot.
    ///
    /// Returns:
    ///     `total_created`, `total_closed`, `current_size`, `acquisitions`, `releases`, `timeouts`, `errors`, `available`,
    ///     `in_use`, `min_size`, `max_size`, `avg_use_count`; further `waiting` (borrowers in the queue), `overdue`
    ///     (borrows longer than `leak_after`), and in seconds `wait_p50`, `wait_p95`, `wait_p99` (from asking for a
    ///     connection to having it), `hold_p50`, `hold_p95`, `hold_p99` (from borrowing to returning).
    fn get_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        stats_dict(py, &self.core(py)?.stats())
    }

    /// Idle connections, and lent ones.
    fn _sizes(&self, py: Python<'_>) -> PyResult<(usize, usize)> {
        Ok(self.core(py)?.sizes())
    }

    /// Raw connection, creation epoch, epoch of the last use, count of uses and whether it is lent, for each.
    #[allow(clippy::type_complexity)]
    fn _members(&self, py: Python<'_>) -> PyResult<Vec<(Py<Connection>, f64, f64, u64, bool)>> {
        let members = self.core(py)?.members();
        let describe = |member: &crate::sqlite::pool::Member<super::keeper::Held>| {
            let object = member.connection().object.clone_ref(py);
            (object, member.created_at as f64 / 1e6, member.last_used as f64 / 1e6, member.uses, member.lent)
        };
        Ok(members.iter().map(describe).collect())
    }

    /// Seconds, thread and stack of each borrow, the longest first; the last two are None without `leak_after`.
    #[allow(clippy::type_complexity)]
    fn _holders(&self, py: Python<'_>) -> PyResult<Vec<(f64, Option<String>, Option<Py<PyAny>>)>> {
        let holders = self.core(py)?.holders();
        let describe = |holder: &crate::sqlite::pool::Holder<Origin>| {
            let origin = holder.origin.as_ref();
            let thread = origin.map(|origin| origin.thread.clone());
            (holder.held as f64 / 1e9, thread, origin.map(|origin| origin.stack.clone_ref(py)))
        };
        Ok(holders.iter().map(describe).collect())
    }

    /// Borrows without blocking: a connection, or the number under which `callback` waits. It will be called with a
    /// connection, from any thread, or with None if the pool is closed.
    fn _acquire_later<'py>(slf: &Bound<'py, Self>, callback: Py<PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let core = slf.get().core(py)?;
        let origin = origin(py, core)?;
        look_at_file(py, core);
        let pool = slf.clone().unbind();
        let deliver = move |lease: Option<Lease>| {
            Python::try_attach(|py| {
                let wrapper = lease.map(|lease| PooledConnection::make(pool.bind(py), lease)).transpose();
                let told =
                    wrapper.and_then(|wrapper| hang::call(callback.bind(py), &(wrapper,).into_pyobject(py)?, None));
                if let Err(error) = told {
                    error.write_unraisable(py, None);
                }
                // Both may be the last references.
                drop((callback, pool));
            });
        };
        while let Some(lease) = core.try_acquire(origin.clone()) {
            if keeper::is_fit(py, lease.connection()) {
                return Ok(PooledConnection::make(slf, lease)?.into_any());
            }
            core.release(&lease);
        }
        match core.acquire_later(origin, Box::new(deliver)) {
            Begun::Leased(lease) => Ok(PooledConnection::make(slf, lease)?.into_any()),
            Begun::Waits(ticket) => Ok(ticket.0.into_pyobject(py)?.into_any()),
            Begun::Closed => Err(closed(py)),
        }
    }

    /// Stops waiting; False if the callback has been or will be called.
    fn _cancel(&self, py: Python<'_>, ticket: u64, timed_out: bool) -> PyResult<bool> {
        Ok(self.core(py)?.cancel(Ticket(ticket), timed_out))
    }

    /// A timeout in seconds, checked.
    #[staticmethod]
    fn _seconds(timeout: Timeout) -> Option<f64> {
        timeout.seconds()
    }

    /// The error of a timeout.
    #[pyo3(signature = (timeout))]
    fn _timed_out(&self, py: Python<'_>, timeout: Timeout) -> PyResult<Py<PyAny>> {
        let core = self.core(py)?;
        Ok(timed_out(py, core, &timeout, core.cause()).into_value(py).into_any())
    }

    /// Waits until maintenance has ended for good.
    fn _join_upkeep(&self, py: Python<'_>, timeout: Timeout) -> PyResult<bool> {
        let core = self.core(py)?;
        let until = timeout.end();
        Ok(py.detach(|| core.join_upkeep(until)))
    }

    /// Whether maintenance takes place.
    #[getter]
    fn _is_kept_up(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.core(py)?.is_kept_up())
    }

    /// One round of maintenance, now.
    fn _maintain(&self, py: Python<'_>) -> PyResult<()> {
        let core = self.core(py)?;
        py.detach(|| core.maintain());
        Ok(())
    }

    /// False once `close_all()` was called.
    #[getter]
    fn running(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(!self.core(py)?.is_closed())
    }

    /// What opening a connection failed with the last time, or None.
    #[getter]
    fn last_error(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let failure = self.core(py)?.last_error();
        Ok(failure.map(|unopened| unopened.error(py).into_value(py).into_any()))
    }

    /// Path of the database as it was given.
    #[getter]
    fn db_path(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.named(py, |named| &named.path)
    }

    /// Connections that are kept open. May be assigned.
    #[getter]
    fn min_size(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.core(py)?.settings().min_size)
    }

    #[setter]
    fn set_min_size(&self, py: Python<'_>, min_size: &Bound<'_, PyAny>) -> PyResult<()> {
        let (core, min_size) = (self.core(py)?, count(min_size, "min_size", 0)?);
        check_sizes(min_size, core.settings().max_size)?;
        core.configure(|settings| settings.min_size = min_size);
        Ok(())
    }

    /// Connections that may be open at a time. May be assigned; what is too much then goes as it is returned.
    #[getter]
    fn max_size(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.core(py)?.settings().max_size)
    }

    #[setter]
    fn set_max_size(&self, py: Python<'_>, max_size: &Bound<'_, PyAny>) -> PyResult<()> {
        let (core, max_size) = (self.core(py)?, count(max_size, "max_size", 1)?);
        check_sizes(core.settings().min_size, max_size)?;
        core.configure(|settings| settings.max_size = max_size);
        Ok(())
    }

    /// Seconds after which idle connections beyond `min_size` are closed; None = never. May be assigned.
    #[getter]
    fn max_idle_time(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.named(py, |named| &named.max_idle_time)
    }

    #[setter]
    fn set_max_idle_time(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = value.py();
        let core = self.core(py)?;
        let max_idle = nanoseconds(Some(value).filter(|value| !value.is_none()), "max_idle_time")?;
        core.configure(|settings| settings.max_idle = max_idle);
        self.rename(py, value, |named| &mut named.max_idle_time);
        Ok(())
    }

    /// Seconds between rounds of maintenance, 0 or more (int, float or timedelta). May be assigned.
    #[getter]
    fn check_interval(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.named(py, |named| &named.check_interval)
    }

    #[setter]
    fn set_check_interval(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = value.py();
        let core = self.core(py)?;
        let interval = interval(value)?;
        core.configure(|settings| settings.interval = interval);
        self.rename(py, value, |named| &mut named.check_interval);
        Ok(())
    }

    /// Re-entrant lock. While a thread holds it, operations of other threads on the pool wait.
    #[getter]
    fn lock(&self, py: Python<'_>) -> Py<CacheLock> {
        self.lock.clone_ref(py)
    }

    /// The same lock: snapshots are consistent without it.
    #[getter]
    fn stats_lock(&self, py: Python<'_>) -> Py<CacheLock> {
        self.lock.clone_ref(py)
    }

    fn __reduce__(slf: &Bound<'_, Self>) -> PyResult<()> {
        let class = slf.get_type().name()?.to_string();
        Err(PyTypeError::new_err(format!("cannot pickle {class:?} object: it holds open connections")))
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let py = slf.py();
        let class = slf.get_type().name()?.to_string();
        let Some(core) = slf.get().core.get() else { return Ok(format!("<{class}, not initialised>")) };
        let path = slf.get().named(py, |named| &named.path)?;
        let stats = core.stats();
        let state = if core.is_closed() { "closed" } else { "open" };
        Ok(format!("<{class} of {}: {state}, {} idle, {} lent>", path.bind(py).repr()?, stats.available, stats.in_use))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if !self.constructed {
            return Ok(());
        }
        match self.core.get() {
            Some(core) => {
                core.try_visit(|held| visit.call(&held.object))?;
                core.try_visit_error(|unopened| match unopened {
                    Unopened::Raised(raised) => visit.call(raised),
                    Unopened::Refused(_) => Ok(()),
                })?;
                core.manage().traverse(&visit)
            }
            None => Ok(()),
        }
    }

    /// Nobody can use the pool any more: connections are closed, and with them what their callbacks refer to.
    fn __clear__(&self) {
        if !self.constructed {
            return;
        }
        if let Some(core) = self.core.get() {
            core.close(Patience::none());
            core.manage().clear();
        }
    }
}

impl ConnectionPool {
    fn named(&self, py: Python<'_>, which: impl FnOnce(&Named) -> &Py<PyAny>) -> PyResult<Py<PyAny>> {
        self.core(py)?;
        let found = self.named.with(py, |named| named.as_ref().map(|named| which(named).clone_ref(py)));
        found.ok_or_else(|| crate::py::errors::not_initialised(py, "ConnectionPool"))
    }

    fn rename(&self, py: Python<'_>, value: &Bound<'_, PyAny>, which: impl FnOnce(&mut Named) -> &mut Py<PyAny>) {
        let value = value.clone().unbind();
        let old = self.named.with(py, |named| named.as_mut().map(|named| std::mem::replace(which(named), value)));
        drop(old);
    }
}

fn stats_dict<'py>(py: Python<'py>, stats: &Stats) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let seconds = |ns: u64| ns as f64 / 1e9;
    for (name, value) in [
        ("total_created", stats.created),
        ("total_closed", stats.closed),
        ("current_size", stats.size as u64),
        ("acquisitions", stats.acquisitions),
        ("releases", stats.releases),
        ("timeouts", stats.timeouts),
        ("errors", stats.errors),
        ("available", stats.available as u64),
        ("in_use", stats.in_use as u64),
        ("min_size", stats.min_size as u64),
        ("max_size", stats.max_size as u64),
        ("waiting", stats.waiting as u64),
        ("overdue", stats.overdue),
    ] {
        dict.set_item(name, value)?;
    }
    let uses = if stats.size == 0 { 0.0 } else { stats.uses as f64 / stats.size as f64 };
    dict.set_item("avg_use_count", uses)?;
    for (name, times) in [("wait", stats.wait), ("hold", stats.hold)] {
        dict.set_item(format!("{name}_p50"), seconds(times.p50))?;
        dict.set_item(format!("{name}_p95"), seconds(times.p95))?;
        dict.set_item(format!("{name}_p99"), seconds(times.p99))?;
    }
    Ok(dict)
}

fn or<'py>(value: Given<'py>, py: Python<'py>, default: i64) -> PyResult<Bound<'py, PyAny>> {
    match value {
        Given::Default => Ok(default.into_pyobject(py)?.into_any()),
        Given::Value(value) => Ok(value),
    }
}

/// Closes what is idle in every pool of the process and refuses new borrowers: for the end of the interpreter.
pub fn shutdown(py: Python<'_>) {
    let pools = POOLS.with(py, std::mem::take);
    let live: Vec<_> = pools.iter().filter_map(|(pool, _)| pool.upgrade()).collect();
    py.detach(|| {
        for pool in live {
            pool.close(Patience::none());
            pool.manage().writes.close(LAST_WRITES);
            pool.manage().opener.close();
        }
    });
}

/// In a forked child: what threads of the parent held is nobody's.
pub fn after_fork_child(py: Python<'_>) {
    let locks: Vec<_> = POOLS.with(py, |pools| pools.iter().map(|(_, lock)| lock.clone_ref(py)).collect());
    locks.iter().for_each(|lock| lock.get().forget_other_threads());
}
