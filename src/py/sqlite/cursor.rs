//! `Cursor`: its attributes and the rows it hands out. Running statements is in [`super::execute`].
#![allow(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeWarning;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use super::arguments::Int;
use super::connection::{Connection, Given, look};
use super::convert::{Rows, Text};
use super::gil::{self, Stepping};
use super::prepared::Prepared;
use super::row::{Row, RowFactory};
use super::{errors, execute, hooks};
use crate::py::hang;
use crate::py::lookup::thread_ident;
use crate::sqlite::{Entered, raw};
use crate::support::sync::AttachedCell;

/// Runs statements of one connection and hands out their rows: by iterating, or by the fetch methods.
///
/// A cursor has one result at a time. Threads may share it if they may share the connection; they wait for each other.
#[pyclass(subclass, dict, weakref, frozen, module = "upshift.sqlite")]
pub struct Cursor {
    pub state: AttachedCell<State>,
}

/// What the interpreter lock guards.
pub struct State {
    /// `None` until `__init__` has run.
    pub connection: Option<Py<Connection>>,
    /// A statement that stands on a row.
    pub prepared: Option<Box<Prepared>>,
    /// Text of the statement that has ended: its columns may still be asked for.
    pub ended: Option<Py<PyString>>,
    pub description: Option<Py<PyTuple>>,
    pub lastrowid: Option<i64>,
    pub rowcount: i64,
    pub arraysize: i32,
    pub row_factory: RowFactory,
    /// For each column of the statement; empty if no column has one.
    pub converters: Vec<Option<Py<PyAny>>>,
    pub closed: bool,
    /// The connection's, when the cursor was made.
    pub loan: u64,
    /// The thread that uses the cursor, further up on its stack; 0 if none does.
    pub user: u64,
    /// That thread is out of the connection, in Python code of the program's, for as long as this may take.
    pub away: bool,
    /// Of the connection, when the statement began.
    #[cfg(not(Py_3_11))]
    pub rollbacks: u64,
}

impl State {
    fn new(connection: Option<Py<Connection>>, row_factory: RowFactory) -> Self {
        Self {
            connection,
            prepared: None,
            ended: None,
            description: None,
            lastrowid: None,
            rowcount: -1,
            arraysize: 1,
            row_factory,
            converters: Vec::new(),
            closed: false,
            loan: 0,
            user: 0,
            away: false,
            #[cfg(not(Py_3_11))]
            rollbacks: 0,
        }
    }
}

/// How long a thread that wants a cursor steps back, so that the one that uses it gets on.
const TURN: Duration = Duration::from_micros(50);

/// Unlocks the cursor when it goes.
pub struct Locked<'a, 'py> {
    py: Python<'py>,
    cursor: &'a Cursor,
}

impl Locked<'_, '_> {
    /// Runs `body` outside the connection. Other threads that want the cursor meanwhile are refused: the body may be
    /// waiting for them.
    pub fn away<R>(&self, body: impl FnOnce() -> R) -> R {
        self.cursor.state.with(self.py, |state| state.away = true);
        let result = body();
        self.cursor.state.with(self.py, |state| state.away = false);
        result
    }
}

impl Drop for Locked<'_, '_> {
    fn drop(&mut self) {
        self.cursor.state.with(self.py, |state| state.user = 0);
    }
}

impl Cursor {
    /// A cursor of the standard class.
    pub fn of(connection: &Bound<'_, Connection>) -> Self {
        let py = connection.py();
        let (row_factory, loan) =
            connection.get().state.with(py, |state| (state.row_factory.clone_ref(py), state.loan));
        let state = State::new(Some(connection.clone().unbind()), row_factory);
        Self { state: AttachedCell::new(State { loan, ..state }) }
    }

    pub fn set_row_factory(&self, py: Python<'_>, factory: RowFactory) {
        let old = self.state.with(py, |state| std::mem::replace(&mut state.row_factory, factory));
        drop(old);
    }

    /// What every operation checks first: the connection. Waits for a thread that uses the cursor.
    pub fn check<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, Connection>> {
        loop {
            let (connection, closed, user, loan) = self.state.with(py, |state| {
                let connection = state.connection.as_ref().map(|connection| connection.bind(py).clone());
                (connection, state.closed, state.user, state.loan)
            });
            let Some(connection) = connection else {
                return Err(errors::programming(py, "Base Cursor.__init__ not called."));
            };
            if closed {
                return Err(errors::programming(py, "Cannot operate on a closed cursor."));
            }
            if user != 0 {
                self.wait_for_user(py, &connection)?;
                continue;
            }
            if connection.get().state.with(py, |state| state.loan) != loan {
                return Err(outdated(py));
            }
            return Ok(connection);
        }
    }

    /// Waits a while for another thread that uses the cursor. Fails if it is this one.
    #[cold]
    fn wait_for_user(&self, py: Python<'_>, connection: &Bound<'_, Connection>) -> PyResult<()> {
        let (user, away) = self.state.with(py, |state| (state.user, state.away));
        if user == thread_ident() || away {
            return Err(errors::programming(py, "Recursive use of cursors not allowed."));
        }
        let db = connection.get().db(py)?;
        py.detach(|| {
            drop(db.look());
            // It may be waiting for the connection itself.
            std::thread::sleep(TURN);
        });
        py.check_signals()
    }

    /// Locks the cursor against its own callbacks and other threads. Follows [`check`](Self::check) without letting go of
    /// the interpreter in between.
    pub fn lock<'a, 'py>(&'a self, py: Python<'py>) -> Locked<'a, 'py> {
        self.state.with(py, |state| state.user = thread_ident());
        Locked { py, cursor: self }
    }

    /// `description`, for a row.
    pub fn description(cursor: &Bound<'_, Self>) -> PyResult<Option<Py<PyTuple>>> {
        let py = cursor.py();
        Ok(cursor.get().state.with(py, |state| state.description.as_ref().map(|found| found.clone_ref(py))))
    }
}

#[cold]
fn outdated(py: Python<'_>) -> PyErr {
    errors::programming(py, "Cannot operate on a cursor whose connection was given back to its pool.")
}

/// The next row, made by the row factory.
fn next_row<'py>(cursor: &Bound<'py, Cursor>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = cursor.py();
    let this = cursor.get();
    let connection = this.check(py)?;
    let db = connection.get().db(py)?;
    #[cfg(not(Py_3_11))]
    check_rollbacks(this, &connection)?;
    let Some(prepared) = this.state.with(py, |state| state.prepared.take()) else { return Ok(None) };
    let locked = this.lock(py);
    // The old one, if the connection was opened again meanwhile.
    let db = if Arc::ptr_eq(&prepared.db, &db) { db } else { Arc::clone(&prepared.db) };
    let row = {
        let entered = look(py, &db)?;
        advance(this, &connection, &entered, prepared)?
    };
    drop(locked);
    made_by_factory(cursor, row).map(Some)
}

/// Up to Python 3.10 a rollback ends what cursors are reading.
#[cfg(not(Py_3_11))]
fn check_rollbacks(cursor: &Cursor, connection: &Bound<'_, Connection>) -> PyResult<()> {
    let py = connection.py();
    let rollbacks = connection.get().state.with(py, |state| state.rollbacks);
    let outdated =
        cursor.state.with(py, |state| if state.rollbacks == rollbacks { None } else { state.prepared.take() });
    let Some(prepared) = outdated else { return Ok(()) };
    execute::retire_anyhow(py, connection, prepared);
    let message = "Cursor needed to be reset because of commit/rollback and can no longer be fetched from.";
    Err(errors::interface(py, message))
}

/// Makes the row the statement stands on and steps to the next.
fn advance<'py>(
    cursor: &Cursor,
    connection: &Bound<'py, Connection>,
    entered: &Entered<'_>,
    prepared: Box<Prepared>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = connection.py();
    let text = connection.get().state.with(py, |state| state.text.clone_ref(py));
    let converters = cursor.state.with(py, |state| std::mem::take(&mut state.converters));
    // Converters are Python code, which must not end the statement.
    entered.set_running(true);
    let row = Rows::of(&prepared, &text, false).row(py, entered, &converters);
    entered.set_running(false);
    cursor.state.with(py, |state| state.converters = converters);
    let row = match row {
        Ok(row) => row,
        Err(error) => {
            // The row stays; the next call meets it again.
            cursor.state.with(py, |state| state.prepared = Some(prepared));
            return Err(error);
        }
    };
    // SAFETY: a statement of the connection that was entered.
    let code = unsafe { gil::step(py, entered, prepared.statement, false) };
    settle(cursor, connection, entered, prepared, code)?;
    Ok(row)
}

/// After a step: keeps the statement if it stands on a row.
pub fn settle(
    cursor: &Cursor,
    connection: &Bound<'_, Connection>,
    entered: &Entered<'_>,
    prepared: Box<Prepared>,
    code: std::ffi::c_int,
) -> PyResult<()> {
    let py = connection.py();
    hooks::check(connection, entered, code)?;
    match code {
        raw::SQLITE_ROW => {
            cursor.state.with(py, |state| state.prepared = Some(prepared));
            Ok(())
        }
        raw::SQLITE_DONE => {
            if prepared.is_dml {
                let changes = execute::changes(entered);
                cursor.state.with(py, |state| state.rowcount = changes);
            }
            let ended = prepared.sql.clone_ref(py);
            let old = cursor.state.with(py, |state| state.ended.replace(ended));
            drop(old);
            execute::retire(connection, entered, prepared);
            Ok(())
        }
        code => Err(execute::failed(connection, entered, prepared, code)),
    }
}

fn made_by_factory<'py>(cursor: &Bound<'py, Cursor>, row: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = cursor.py();
    let state = cursor.get().state.enter(py);
    match &state.row_factory {
        RowFactory::None => Ok(row),
        RowFactory::Row(_) => {
            let description = state.description.as_ref().map(|description| description.clone_ref(py));
            drop(state);
            Ok(Row::make(py, description, row.cast_into::<PyTuple>()?)?.into_bound(py))
        }
        RowFactory::Other(factory) => {
            let factory = factory.bind(py).clone();
            drop(state);
            hang::call(&factory, &(cursor, row).into_pyobject(py)?, None)
        }
    }
}

/// Up to `limit` rows.
fn fetch<'py>(cursor: &Bound<'py, Cursor>, limit: usize) -> PyResult<Bound<'py, PyList>> {
    let py = cursor.py();
    let list = PyList::empty(py);
    let connection = cursor.get().check(py)?;
    let db = connection.get().db(py)?;
    let (plain, named) = cursor.get().state.with(py, |state| {
        let plain = state.converters.is_empty() && !matches!(state.row_factory, RowFactory::Other(_));
        (plain, matches!(state.row_factory, RowFactory::Row(_)))
    });
    let text_is_plain = connection.get().state.with(py, |state| !matches!(state.text, Text::Callable(_)));
    if !(plain && text_is_plain) {
        // Each row runs Python code, which may use this cursor and its connection.
        while list.len() < limit {
            match next_row(cursor)? {
                Some(row) => list.append(row)?,
                None => break,
            }
        }
        return Ok(list);
    }
    let this = cursor.get();
    #[cfg(not(Py_3_11))]
    check_rollbacks(this, &connection)?;
    let (prepared, description) = this.state.with(py, |state| {
        (state.prepared.take(), state.description.as_ref().map(|description| description.clone_ref(py)))
    });
    let Some(prepared) = prepared else { return Ok(list) };
    let _locked = this.lock(py);
    let db = if Arc::ptr_eq(&prepared.db, &db) { db } else { Arc::clone(&prepared.db) };
    let entered = look(py, &db)?;
    let text = connection.get().state.with(py, |state| state.text.clone_ref(py));
    let mut code = raw::SQLITE_ROW;
    let mut failure = None;
    {
        let stepping = Stepping::begin(py, &entered, false);
        let mut rows = Rows::of(&prepared, &text, true);
        while code == raw::SQLITE_ROW && list.len() < limit {
            let row = match rows.row(py, &entered, &[]) {
                Ok(row) => row,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            };
            // SAFETY: a new tuple of objects that cannot be part of a cycle; the collector need not look at it.
            unsafe { ffi::PyObject_GC_UnTrack(row.as_ptr().cast()) };
            let row = if named {
                let description = description.as_ref().map(|description| description.clone_ref(py));
                // SAFETY: a tuple was just made.
                let row = unsafe { row.cast_into_unchecked::<PyTuple>() };
                Row::make(py, description, row)?.into_bound(py)
            } else {
                row
            };
            list.append(row)?;
            // SAFETY: a statement of the connection that was entered.
            code = unsafe { raw::sqlite3_step(prepared.statement) };
            stepping.attach();
            if entered.has_failed_callback() {
                break;
            }
        }
    }
    settle(this, &connection, &entered, prepared, code)?;
    failure.map_or(Ok(list), Err)
}

#[pymethods]
impl Cursor {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs), text_signature = "(connection, /)")]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self { state: AttachedCell::new(State::new(None, RowFactory::None)) }
    }

    #[pyo3(signature = (connection, /))]
    fn __init__(slf: &Bound<'_, Self>, connection: &Bound<'_, Connection>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if this.state.with(py, |state| state.user) != 0 {
            return Err(errors::programming(py, "Recursive use of cursors not allowed."));
        }
        let loan = connection.get().state.with(py, |state| state.loan);
        let fresh = State { loan, ..State::new(Some(connection.clone().unbind()), RowFactory::None) };
        let mut old = this.state.with(py, |state| std::mem::replace(state, fresh));
        give_back(py, &mut old);
        drop(old);
        connection.get().check_thread(py)
    }

    /// Give the statement up. Further use raises `ProgrammingError`.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let connection = loop {
            let (connection, user) = this.state.with(py, |state| {
                (state.connection.as_ref().map(|connection| connection.bind(py).clone()), state.user)
            });
            let Some(connection) = connection else {
                return Err(errors::programming(py, "Base Cursor.__init__ not called."));
            };
            if user == 0 {
                break connection;
            }
            this.wait_for_user(py, &connection)?;
        };
        connection.get().db(py)?;
        let prepared = this.state.with(py, |state| {
            state.closed = true;
            state.prepared.take()
        });
        if let Some(prepared) = prepared {
            execute::retire_anyhow(py, &connection, prepared);
        }
        Ok(())
    }

    /// Run one statement; returns the cursor itself. Rows of the statement before are lost.
    ///
    /// Args:
    ///     sql: One statement.
    ///     parameters: A sequence for `?`, or a mapping for `:name`.
    ///
    /// Begins a transaction first if the statement is an INSERT, UPDATE, DELETE or REPLACE and none is open, unless
    /// `isolation_level` is None or `autocommit` is set. Other threads run while it waits or takes long.
    ///
    /// Raises:
    ///     ProgrammingError: Parameters do not fit, more than one statement, closed, or another thread's.
    ///     OperationalError, IntegrityError …: As SQLite reports it; a turn to write that does not come within the
    ///         connection's timeout is a `WriteLaneTimeout`.
    #[pyo3(signature = (sql, parameters = Given::Default, /), text_signature = "($self, sql, parameters=(), /)")]
    fn execute<'py>(
        slf: Bound<'py, Self>,
        sql: &Bound<'py, PyAny>,
        parameters: Given<'py>,
    ) -> PyResult<Bound<'py, Self>> {
        execute::execute(&slf, sql, parameters.value())?;
        Ok(slf)
    }

    /// Run one statement for each set of parameters; returns the cursor itself.
    ///
    /// Args:
    ///     sql: An INSERT, UPDATE, DELETE or REPLACE; rows of RETURNING are dropped.
    ///     seq_of_parameters: An iterable of sequences or mappings, or columns: a mapping of arrays, a structured array, a
    ///         table of pyarrow, polars or pandas. `:name` takes the column of that name, `?` columns by position.
    ///
    /// `rowcount` is the sum. After an error an open transaction stays open, with the rows before it.
    ///
    /// Raises:
    ///     ProgrammingError, TypeError, OverflowError: A value cannot be stored, or another kind of statement.
    ///     IntegrityError, OperationalError …: As `execute`.
    #[pyo3(signature = (sql, seq_of_parameters, /))]
    fn executemany<'py>(
        slf: Bound<'py, Self>,
        sql: &Bound<'py, PyAny>,
        seq_of_parameters: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, Self>> {
        execute::executemany(&slf, sql, seq_of_parameters)?;
        Ok(slf)
    }

    /// Run all statements of a text; returns the cursor itself. Rows are dropped. An open transaction is committed
    /// first, unless `autocommit` is set.
    #[pyo3(signature = (sql_script, /))]
    fn executescript<'py>(slf: Bound<'py, Self>, sql_script: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        execute::executescript(&slf, sql_script)?;
        Ok(slf)
    }

    /// The next row, or None.
    fn fetchone<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        next_row(slf)
    }

    /// A list of the next `size` rows, by default `arraysize`; of all that are left if `size` is 0 or less.
    #[pyo3(signature = (size = None))]
    fn fetchmany<'py>(slf: &Bound<'py, Self>, size: Option<Int>) -> PyResult<Bound<'py, PyList>> {
        let py = slf.py();
        let size = match size {
            Some(Int(size)) => size,
            None => slf.get().state.with(py, |state| state.arraysize),
        };
        // As ever: a negative number, and zero, mean all.
        let limit = usize::try_from(size).ok().filter(|&size| size > 0).unwrap_or(usize::MAX);
        fetch(slf, limit)
    }

    /// A list of all rows that are left.
    fn fetchall<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyList>> {
        fetch(slf, usize::MAX)
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        next_row(slf)
    }

    /// Required by DB-API. Does nothing.
    #[pyo3(signature = (sizes, /))]
    fn setinputsizes(&self, sizes: &Bound<'_, PyAny>) {
        let _ = sizes;
    }

    /// Required by DB-API. Does nothing.
    #[pyo3(signature = (size, column = None, /))]
    fn setoutputsize(&self, size: &Bound<'_, PyAny>, column: Option<&Bound<'_, PyAny>>) {
        let _ = (size, column);
    }

    /// The connection it belongs to.
    #[getter]
    fn connection(&self, py: Python<'_>) -> Option<Py<Connection>> {
        self.state.with(py, |state| state.connection.as_ref().map(|connection| connection.clone_ref(py)))
    }

    /// Of each column its name and six times None; None after a statement that returns no columns.
    #[getter(description)]
    fn py_description(slf: &Bound<'_, Self>) -> PyResult<Option<Py<PyTuple>>> {
        Self::description(slf)
    }

    /// Rowid of the row that the connection had inserted last when `execute()` ended; None before. `executemany()` leaves
    /// it.
    #[getter]
    fn lastrowid(&self, py: Python<'_>) -> Option<i64> {
        self.state.with(py, |state| state.lastrowid)
    }

    /// Rows that the last INSERT, UPDATE, DELETE or REPLACE changed, once it has ended; -1 for other statements.
    #[getter]
    fn rowcount(&self, py: Python<'_>) -> i64 {
        self.state.with(py, |state| state.rowcount)
    }

    /// How many rows `fetchmany()` returns by default; 1 at first.
    #[getter]
    fn arraysize(&self, py: Python<'_>) -> i32 {
        self.state.with(py, |state| state.arraysize)
    }

    /// What does not fit into a C int is cut, with a warning, as the standard library does it.
    #[setter]
    fn set_arraysize(&self, py: Python<'_>, size: i64) -> PyResult<()> {
        let cut = size as i32;
        if i64::from(cut) != size {
            PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), c"Truncation of value to int", 1)?;
        }
        self.state.with(py, |state| state.arraysize = cut);
        Ok(())
    }

    /// What a row becomes: None for tuples, `Row`, or a callable of cursor and tuple; at first the connection's.
    #[getter]
    fn row_factory(&self, py: Python<'_>) -> Py<PyAny> {
        let factory = self.state.with(py, |state| state.row_factory.clone_ref(py));
        factory.object(py)
    }

    #[setter(row_factory)]
    fn py_set_row_factory(&self, factory: &Bound<'_, PyAny>) -> PyResult<()> {
        self.set_row_factory(factory.py(), RowFactory::of(factory)?);
        Ok(())
    }

    #[getter(__class__)]
    fn class<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        super::module::passes_for(slf.as_any(), &slf.py().get_type::<Self>(), "Cursor")
    }

    fn __reduce__(slf: &Bound<'_, Self>) -> PyResult<()> {
        super::module::refuse_pickling(slf.as_any())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: the collector runs attached.
        let visited = unsafe {
            self.state.try_with_unchecked(|state| {
                if let Some(connection) = &state.connection {
                    visit.call(connection)?;
                }
                for converter in state.converters.iter().flatten() {
                    visit.call(converter)?;
                }
                state.row_factory.traverse(&visit)
            })
        };
        visited.unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        // SAFETY: the collector runs attached.
        let gone = unsafe {
            self.state.try_with_unchecked(|state| {
                // The statement first: it needs the connection to be alive only for its place in the cache.
                let prepared = state.prepared.take();
                let row_factory = std::mem::replace(&mut state.row_factory, RowFactory::None);
                (prepared, state.connection.take(), row_factory, std::mem::take(&mut state.converters))
            })
        };
        drop(gone);
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        // Objects die attached, unless the interpreter is gone.
        Python::try_attach(|py| {
            if let Some(mut state) = self.state.with(py, |state| {
                let prepared = state.prepared.take();
                prepared.map(|prepared| {
                    let connection = state.connection.take();
                    State { prepared: Some(prepared), ..State::new(connection, RowFactory::None) }
                })
            }) {
                give_back(py, &mut state);
            }
        });
    }
}

/// Gives a running statement back to its connection's cache.
fn give_back(py: Python<'_>, state: &mut State) {
    if let (Some(prepared), Some(connection)) = (state.prepared.take(), &state.connection) {
        execute::retire_anyhow(py, connection.bind(py), prepared);
    }
}
