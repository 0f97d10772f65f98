//! `pool.write()`: single writes that share commits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyMapping, PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use super::arguments::Sql;
use super::connection::Connection;
use super::keeper::{Held, Keeper, Unopened};
use super::pool::{self, ConnectionPool, Level, Timeout, look_at_file};

use super::row::Row;
use super::{actors, adapt, errors, gil, lane, owned};
use crate::py::hang;
use crate::sqlite::Db;
use crate::sqlite::columns::input;
use crate::sqlite::group::{Caller, Group, Outcome, Params, Pending, Request, Value, WriteError, Written};
use crate::sqlite::lane::{Actor, Key, LaneError, of};
use crate::sqlite::opener::BUSY_TIMEOUT;
use crate::support::runtime::PerProcess;

/// The writing side of a pool: a connection of its own, opened for the first write. Forked children open their own.
#[derive(Default)]
pub struct Writes {
    kept: PerProcess<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    writer: Option<Writer>,
    is_closed: bool,
}

/// A connection that writes.
struct Writer {
    group: Arc<Group>,
    /// That of the file it writes to.
    epoch: u32,
    /// Keeps what `on_connect` registered. It gives no access to the database.
    connection: Py<Connection>,
}

impl Writer {
    fn new(held: Held) -> Self {
        // The group waits for other processes itself, as long as each caller likes.
        gil::set_busy_timeout(&held.db.enter(), Duration::ZERO);
        let authorizer = Python::try_attach(|py| super::authorizer::of(held.object.bind(py), &held.db)).flatten();
        let group = Group::new(Arc::clone(&held.db), lane_of(&held.db), authorizer);
        // `on_connect` may have kept it. Without the interpreter there is nobody to use it.
        Python::try_attach(|py| drop(held.object.get().state.with(py, |state| state.db.take())));
        Self { group, epoch: held.epoch, connection: held.object }
    }
}

impl Writes {
    /// The group, if it has been opened.
    fn ready(&self, epoch: u32) -> Option<Arc<Group>> {
        let kept = self.kept().lock();
        kept.writer.as_ref().filter(|writer| writer.epoch == epoch).map(|writer| Arc::clone(&writer.group))
    }

    fn kept(&self) -> &Mutex<Kept> {
        self.kept.get(|_| Mutex::default())
    }

    /// The group that writes to the file which has the path now; `None` if the pool is closed.
    fn group(&self, keeper: &Keeper, until: Option<Instant>) -> Result<Option<Arc<Group>>, Unopened> {
        if self.kept().lock().is_closed {
            return Ok(None);
        }
        // No lock: this may call `on_connect`. Two threads may get here; one of their connections is closed again.
        let opened = Writer::new(keeper.open(until)?);
        let mut kept = self.kept().lock();
        let (group, spare) = match &kept.writer {
            _ if kept.is_closed => (None, Some(opened)),
            Some(writer) if writer.epoch == keeper.epoch() => (Some(Arc::clone(&writer.group)), Some(opened)),
            // What that is writing goes to a file that has lost its name.
            _ => (Some(Arc::clone(&opened.group)), kept.writer.replace(opened)),
        };
        drop(kept);
        if let Some(spare) = spare {
            spare.group.close(Duration::ZERO);
        }
        Ok(group)
    }

    /// Refuses further writes, writes what is queued, and closes the connection. What is not written in time is refused.
    pub fn close(&self, timeout: Duration) {
        let mut kept = self.kept().lock();
        kept.is_closed = true;
        let writer = kept.writer.take();
        drop(kept);
        if let Some(writer) = writer {
            writer.group.close(timeout);
        }
    }

    /// For the garbage collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(kept) = self.kept.peek().and_then(|kept| kept.try_lock()) else { return Ok(()) };
        kept.writer.as_ref().map_or(Ok(()), |writer| visit.call(&writer.connection))
    }
}

fn lane_of(db: &Db) -> Arc<crate::sqlite::lane::Lane> {
    let lane = db.enter().lane().cloned();
    // Every file has one, and so has a database in memory that others can open.
    lane.unwrap_or_else(|| of(Key::Memory(format!("alone {}", db.id()))))
}

/// What `pool.write()` or `pool.awrite()` did, once it is committed.
#[pyclass(frozen, module = "upshift.sqlite")]
pub struct WriteResult {
    /// Rows changed; -1 for a statement that is no INSERT, UPDATE, DELETE or REPLACE.
    #[pyo3(get)]
    rowcount: i64,
    /// Rowid of the row an INSERT added, else None.
    #[pyo3(get)]
    lastrowid: Option<i64>,
    /// What RETURNING, or a query, returned: a list of `Row`.
    #[pyo3(get)]
    rows: Py<PyList>,
}

#[pymethods]
impl WriteResult {
    fn __repr__(&self, py: Python<'_>) -> String {
        let lastrowid = self.lastrowid.map_or_else(|| "None".to_owned(), |rowid| rowid.to_string());
        format!("<WriteResult rowcount={} lastrowid={lastrowid} rows={}>", self.rowcount, self.rows.bind(py).len())
    }
}

impl WriteResult {
    fn of(py: Python<'_>, written: Written) -> PyResult<Py<Self>> {
        let rows = PyList::empty(py);
        if !written.rows.is_empty() {
            let none = || py.None();
            let columns: Vec<_> = written
                .columns
                .iter()
                .map(|name| (&**name, none(), none(), none(), none(), none(), none()).into_pyobject(py))
                .collect::<PyResult<_>>()?;
            let description = PyTuple::new(py, columns)?.unbind();
            for row in written.rows {
                let values = row.into_iter().map(|value| object_of(py, value)).collect::<PyResult<Vec<_>>>()?;
                rows.append(Row::make(py, Some(description.clone_ref(py)), PyTuple::new(py, values)?)?)?;
            }
        }
        let Written { rowcount, last_rowid, .. } = written;
        Py::new(py, Self { rowcount, lastrowid: last_rowid, rows: rows.unbind() })
    }
}

fn object_of<'py>(py: Python<'py>, value: Value) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Value::Null | Value::Unusable(_) => py.None().into_bound(py),
        Value::Integer(number) => number.into_pyobject(py)?.into_any(),
        Value::Real(number) => number.into_pyobject(py)?.into_any(),
        Value::Text(bytes) => match std::str::from_utf8(&bytes) {
            Ok(text) => PyString::new(py, text).into_any(),
            Err(_) => {
                let text = String::from_utf8_lossy(&bytes);
                return Err(errors::operational(py, format!("Could not decode to UTF-8 the text '{text}'")));
            }
        },
        Value::Blob(bytes) => PyBytes::new(py, &bytes).into_any(),
    })
}

/// A value that does not need the interpreter any more. What cannot be bound may still be of no use to the statement.
fn value_of(value: &Bound<'_, PyAny>, look_up: bool) -> PyResult<Value> {
    let py = value.py();
    match owned::value(value, look_up) {
        Ok(input::Value::Null) => Ok(Value::Null),
        Ok(input::Value::Integer(number)) => Ok(Value::Integer(number)),
        Ok(input::Value::Real(number)) => Ok(Value::Real(number)),
        Ok(input::Value::Text(text)) => Ok(Value::Text(text.into_bytes().into())),
        Ok(input::Value::Blob(bytes)) => Ok(Value::Blob(bytes.into())),
        Err(error) if error.is_instance(py, errors::classes(py).programming.bind(py)) => {
            Ok(Value::Unusable(error.value(py).to_string().into()))
        }
        Err(error) => Err(error),
    }
}

fn params_of(py: Python<'_>, parameters: Option<&Bound<'_, PyAny>>) -> PyResult<Params> {
    let Some(parameters) = parameters else { return Ok(Params::Positional(Vec::new())) };
    let look_up = adapt::adapts_basic_types(py)?;
    if let Ok(tuple) = parameters.cast_exact::<PyTuple>() {
        return Ok(Params::Positional(tuple.iter().map(|value| value_of(&value, look_up)).collect::<PyResult<_>>()?));
    }
    // SAFETY: live objects; the thread is attached.
    #[allow(unsafe_code)]
    let (is_sequence, is_mapping) = unsafe {
        let object = parameters.as_ptr();
        (ffi::PySequence_Check(object) != 0, ffi::PyMapping_Check(object) != 0)
    };
    if !parameters.is_instance_of::<PyDict>() && is_sequence {
        let values = parameters.try_iter()?.map(|value| value_of(&value?, look_up)).collect::<PyResult<_>>()?;
        return Ok(Params::Positional(values));
    }
    if !is_mapping {
        return Err(errors::programming(py, "parameters are of unsupported type"));
    }
    let pairs = match parameters.cast::<PyMapping>() {
        Ok(mapping) => mapping.items()?.into_any(),
        Err(_) => hang::method(parameters, "items", PyTuple::empty(py), None)?,
    };
    let named = pairs.try_iter()?.map(|pair| {
        let (name, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = pair?.extract()?;
        // What has no name cannot be meant.
        let name = name.cast::<PyString>().map_or_else(|_| Ok(String::new()), |name| name.extract::<String>())?;
        Ok((name.into_boxed_str(), value_of(&value, look_up)?))
    });
    Ok(Params::Named(named.collect::<PyResult<_>>()?))
}

pub fn error_of(py: Python<'_>, error: &WriteError) -> PyErr {
    match error {
        WriteError::Sqlite(failure) => errors::of_failure(py, failure),
        WriteError::Misused(message) => errors::programming(py, message),
        WriteError::Lane(error) => lane::error_of(py, error),
        WriteError::Closed => pool::closed(py),
    }
}

/// Answers on their way to an event loop: one call of it serves all that have come by then.
#[pyclass(frozen, module = "upshift._native")]
pub struct WriteOutbox {
    call_soon_threadsafe: Py<PyAny>,
    answers: Mutex<Vec<(Py<PyAny>, Outcome)>>,
}

#[pymethods]
impl WriteOutbox {
    #[new]
    fn new(call_soon_threadsafe: Py<PyAny>) -> Self {
        Self { call_soon_threadsafe, answers: Mutex::new(Vec::new()) }
    }

    /// Resolves the futures. In the thread of the event loop.
    fn deliver(&self, py: Python<'_>) -> PyResult<()> {
        let answers = std::mem::take(&mut *self.answers.lock());
        for (future, outcome) in answers {
            let future = future.bind(py);
            // Cancelled meanwhile.
            if hang::method(future, "done", (), None)?.is_truthy()? {
                continue;
            }
            let result = outcome.map_err(|error| error_of(py, &error)).and_then(|written| WriteResult::of(py, written));
            match result {
                Ok(result) => hang::method(future, "set_result", (result,), None)?,
                Err(error) => hang::method(future, "set_exception", (error.into_value(py),), None)?,
            };
        }
        Ok(())
    }
}

impl WriteOutbox {
    /// From any thread.
    fn put(slf: Py<Self>, future: Py<PyAny>, outcome: Outcome) {
        let mut answers = slf.get().answers.lock();
        answers.push((future, outcome));
        let is_first = answers.len() == 1;
        drop(answers);
        if !is_first {
            return;
        }
        gil::with_python(|py| {
            let outbox = slf.bind(py);
            let told = outbox.getattr("deliver").and_then(|deliver| {
                hang::call(outbox.get().call_soon_threadsafe.bind(py), &(deliver,).into_pyobject(py)?, None)
            });
            if told.is_err() {
                // The loop is closed: nobody waits any more.
                drop(std::mem::take(&mut *outbox.get().answers.lock()));
            }
        });
    }
}

/// A write of a coroutine that may be taken back.
#[pyclass(frozen, module = "upshift._native")]
pub struct PendingWrite {
    pending: Pending,
}

#[pymethods]
impl PendingWrite {
    /// False if it is being written, or was.
    fn cancel(&self) -> bool {
        self.pending.cancel()
    }
}

/// A thread that writes, attached to the interpreter for as long as that is a matter of microseconds.
pub struct Writing<'a> {
    pub raised: &'a mut Option<PyErr>,
}

impl Caller for Writing<'_> {
    fn stops(&mut self) -> bool {
        // Ctrl+C, if this is the main thread.
        *self.raised = gil::with_python(|py| py.check_signals().err()).flatten();
        self.raised.is_some()
    }

    fn lets_go(&mut self) {
        gil::release();
    }
}

impl ConnectionPool {
    /// The group, and the request.
    fn prepare_write(
        &self,
        py: Python<'_>,
        sql: Sql<'_>,
        parameters: Option<&Bound<'_, PyAny>>,
        durability: Level,
        until: Option<Instant>,
        actor: Actor,
    ) -> PyResult<(Arc<Group>, Request)> {
        let core = self.core(py)?;
        if core.is_closed() {
            return Err(pool::closed(py));
        }
        look_at_file(py, core);
        let keeper = core.manage();
        let durability = durability.0.unwrap_or_else(|| keeper.opener.durability());
        let params = params_of(py, parameters)?;
        let request = Request { sql: sql.0.to_str()?.into(), params, durability, actor };
        let group = match keeper.writes.ready(keeper.epoch()) {
            Some(group) => group,
            None => {
                let found = py.detach(|| keeper.writes.group(keeper, until));
                found.map_err(|unopened| unopened.error(py))?.ok_or_else(|| pool::closed(py))?
            }
        };
        Ok((group, request))
    }
}

#[pymethods]
impl ConnectionPool {
    /// Write with one statement, and return when a commit has carried it.
    ///
    /// Writes that come together share a transaction and its commit, each in a savepoint of its own: an error of one is its
    /// own, and nothing of it is left. They are written by a connection of the pool's own, in the lane that all writers of
    /// the file take: functions and PRAGMAs of borrowed connections do not apply there, those of `on_connect` do.
    ///
    /// Args:
    ///     sql: An INSERT, UPDATE, DELETE or any other single statement, but none that manages transactions or the
    ///         connection (BEGIN, COMMIT, SAVEPOINT, PRAGMA, VACUUM, ATTACH …).
    ///     parameters: Values in order, or a mapping of names.
    ///     durability: What the write survives once this returns: "process" a killed process, "power" also a power loss; None
    ///         = as the pool was told.
    ///     timeout: Seconds to wait for a turn to write (int, float or timedelta); None = without limit.
    ///
    /// Returns:
    ///     A `WriteResult` with `rowcount`, `lastrowid` and `rows` (of RETURNING).
    ///
    /// Raises:
    ///     IntegrityError, OperationalError …: As `execute` would; the others in the group are not affected.
    ///     WriteLaneTimeout: The turn did not come; the message names who has the lane.
    ///     WriteLaneDeadlock: The caller itself has a transaction open through another connection.
    ///     ProgrammingError: The pool is closed, or the statement or its parameters have no place here.
    ///
    /// Waits with the GIL released and lets Ctrl+C through while its turn has not come.
    #[pyo3(signature = (sql, parameters = None, *, durability = Level::default(), timeout = Timeout::of(BUSY_TIMEOUT)),
        text_signature = "($self, sql, parameters=(), *, durability=None, timeout=30.0)")]
    fn write(
        slf: &Bound<'_, Self>,
        sql: Sql<'_>,
        parameters: Option<&Bound<'_, PyAny>>,
        durability: Level,
        timeout: Timeout,
    ) -> PyResult<Py<WriteResult>> {
        let py = slf.py();
        let actor = Actor::thread(actors::this_thread());
        let deadline = timeout.deadline();
        let (group, request) = slf.get().prepare_write(py, sql, parameters, durability, timeout.end(), actor)?;
        let mut raised = None;
        let outcome = gil::attached(py, || group.write(request, deadline, Writing { raised: &mut raised }));
        match (outcome, raised) {
            (Ok(written), None) => WriteResult::of(py, written),
            (_, Some(error)) => Err(error),
            (Err(error), None) => Err(error_of(py, &error)),
        }
    }

    /// Queues a write for a task; its future is resolved through `outbox`.
    #[allow(clippy::too_many_arguments)]
    fn _write_later(
        &self,
        py: Python<'_>,
        sql: Sql<'_>,
        parameters: Option<&Bound<'_, PyAny>>,
        durability: Level,
        timeout: Timeout,
        task: u64,
        outbox: Py<WriteOutbox>,
        future: Py<PyAny>,
    ) -> PyResult<PendingWrite> {
        let actor = Actor::task(actors::this_thread(), task);
        let deadline = timeout.deadline();
        let (group, request) = self.prepare_write(py, sql, parameters, durability, timeout.end(), actor)?;
        let pending = group.submit(request, deadline, move |outcome| WriteOutbox::put(outbox, future, outcome));
        Ok(PendingWrite { pending: pending.map_err(|error| error_of(py, &error))? })
    }

    /// The error for a task whose turn did not come in time.
    fn _write_timed_out(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let keeper = self.core(py)?.manage();
        let holder = keeper.writes.ready(keeper.epoch()).and_then(|group| group.lane().holder());
        Ok(lane::error_of(py, &LaneError::Timeout(holder.map(Box::new))).into_value(py).into_any())
    }

    /// Writes, commits that carried them, and the most that one carried.
    fn _write_stats(&self, py: Python<'_>) -> PyResult<(u64, u64, u64)> {
        let keeper = self.core(py)?.manage();
        let stats = keeper.writes.ready(keeper.epoch()).map(|group| group.stats()).unwrap_or_default();
        Ok((stats.writes, stats.commits, stats.largest))
    }
}
