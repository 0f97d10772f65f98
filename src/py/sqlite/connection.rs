//! `Connection`: what it is, how it begins and ends, and its plain attributes.
//!
//! What it does is in its neighbours, one `#[pymethods]` block each: [`super::execute`], [`super::transaction`] and others.
#![allow(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyInt, PyString, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit};

use super::arguments::{Truth, class_of};
use super::convert::Text;
use super::cursor::Cursor;
use super::errors;
use super::gil;
use super::prepared::Prepared;
use super::row::RowFactory;
use super::transaction::{Autocommit, Isolation};
use crate::py::hang;
use crate::py::lookup::thread_ident;
use crate::sqlite::statements::Statements;
use crate::sqlite::{Db, Entered, Failure, Open, raw};
use crate::support::sync::AttachedCell;

/// A connection to an SQLite database. Made by `connect()`, which explains the arguments.
///
/// A `with` block commits, or rolls back after an exception, but does not close. With `check_same_thread=False` threads may
/// share it; they wait for each other.
#[pyclass(subclass, dict, weakref, frozen, module = "upshift.sqlite")]
pub struct Connection {
    pub state: AttachedCell<State>,
}

/// What the interpreter lock guards.
pub struct State {
    /// `None` until `__init__` has run.
    pub db: Option<Arc<Db>>,
    pub initialised: bool,
    pub detect_types: i32,
    pub isolation: Isolation,
    pub autocommit: Autocommit,
    /// The thread that may use it, if only one may.
    pub thread: Option<u64>,
    pub row_factory: RowFactory,
    pub text: Text,
    pub statements: Statements<Box<Prepared>>,
    pub busy_timeout: Duration,
    /// Transactions rolled back by `rollback()`.
    #[cfg(not(Py_3_11))]
    pub rollbacks: u64,
    /// It belongs to a pool.
    pub is_pooled: bool,
    /// How often a pool took it back. Cursors of earlier borrowers are refused.
    pub loan: u64,
    /// Python objects that SQLite holds pointers to, by what they are for.
    pub hooks: super::hooks::Hooks,
}

impl State {
    pub fn new() -> Self {
        Self {
            db: None,
            initialised: false,
            detect_types: 0,
            isolation: Isolation::Deferred,
            autocommit: Autocommit::Legacy,
            thread: None,
            row_factory: RowFactory::None,
            text: Text::Str,
            statements: Statements::new(0),
            busy_timeout: Duration::ZERO,
            #[cfg(not(Py_3_11))]
            rollbacks: 0,
            is_pooled: false,
            loan: 0,
            hooks: Default::default(),
        }
    }
}

/// The default of `timeout`, in seconds.
const TIMEOUT: f64 = 5.0;
/// The default of `autocommit`: transactions are controlled by `isolation_level`.
pub const LEGACY_TRANSACTION_CONTROL: i32 = -1;
pub const PARSE_DECLTYPES: i32 = 1;
pub const PARSE_COLNAMES: i32 = 2;

impl Connection {
    /// The open database, for this thread: checks what every operation has to check first.
    #[inline]
    pub fn db(&self, py: Python<'_>) -> PyResult<Arc<Db>> {
        let state = self.state.enter(py);
        if !state.initialised {
            drop(state);
            return Err(errors::programming(py, "Base Connection.__init__ not called."));
        }
        let thread = state.thread;
        let db = state.db.clone();
        drop(state);
        check_thread(py, thread)?;
        match db {
            Some(db) if db.is_open() => check_process(py, &db).map(|()| db),
            _ => Err(closed(py)),
        }
    }

    /// The open database, for what other threads may do too.
    pub fn db_of_any_thread(&self, py: Python<'_>) -> PyResult<Arc<Db>> {
        let (initialised, db) = self.state.with(py, |state| (state.initialised, state.db.clone()));
        match db {
            Some(db) => check_open(py, &db).map(|()| db),
            None if initialised => Err(closed(py)),
            None => Err(errors::programming(py, "Base Connection.__init__ not called.")),
        }
    }

    /// Checks the thread only.
    pub fn check_thread(&self, py: Python<'_>) -> PyResult<()> {
        let thread = self.state.with(py, |state| state.thread);
        check_thread(py, thread)
    }
}

#[cfg(Py_3_13)]
impl Connection {
    fn warn_unclosed(&self) {
        Python::try_attach(|py| {
            let db = self.state.with(py, |state| state.db.clone());
            if db.is_some_and(|db| db.is_open() && db.is_ours()) {
                let text =
                    std::ffi::CString::new(format!("unclosed database in <sqlite3.Connection object at {self:p}>"));
                let class = py.get_type::<pyo3::exceptions::PyResourceWarning>();
                if let Err(error) = PyErr::warn(py, &class, &text.unwrap_or_default(), 1) {
                    error.write_unraisable(py, None);
                }
            }
        });
    }
}

#[inline]
pub fn check_thread(py: Python<'_>, thread: Option<u64>) -> PyResult<()> {
    match thread {
        Some(owner) if owner != thread_ident() => Err(wrong_thread(py, owner)),
        _ => Ok(()),
    }
}

#[cold]
fn wrong_thread(py: Python<'_>, owner: u64) -> PyErr {
    let this = thread_ident();
    errors::programming(
        py,
        format!(
            "SQLite objects created in a thread can only be used in that same thread. The object was created in \
             thread id {owner} and this is thread id {this}."
        ),
    )
}

#[inline]
fn check_process(py: Python<'_>, db: &Db) -> PyResult<()> {
    if db.is_ours() {
        return Ok(());
    }
    let message = "this connection was opened before the process was forked; open another one in the child";
    Err(errors::programming(py, message))
}

#[cold]
pub fn closed(py: Python<'_>) -> PyErr {
    errors::programming(py, "Cannot operate on a closed database.")
}

/// Enters the connection; detached if another thread is inside, until it leaves.
///
/// Fails if that thread closed the connection.
#[inline]
pub fn enter<'a>(py: Python<'_>, db: &'a Db) -> PyResult<Entered<'a>> {
    look(py, db).inspect(Entered::no_read)
}

/// The same for reads, and for looking at the connection's state (see [`Db::look`]).
#[inline]
pub fn look<'a>(py: Python<'_>, db: &'a Db) -> PyResult<Entered<'a>> {
    let entered = match db.try_look() {
        Some(entered) => entered,
        None => wait(py, db),
    };
    if !db.is_open() {
        return Err(closed(py));
    }
    if db.is_target() {
        return Err(taken(py));
    }
    Ok(entered)
}

#[cold]
fn taken(py: Python<'_>) -> PyErr {
    let message = "a backup is writing into this database; its connection can be used again when that has ended";
    errors::of_failure(py, &Failure { code: raw::SQLITE_BUSY, message: message.to_owned() })
}

#[cold]
fn wait<'a>(py: Python<'_>, db: &'a Db) -> Entered<'a> {
    detached(py, || db.look())
}

/// Fails if the connection has been closed, or belongs to the parent process.
pub fn check_open(py: Python<'_>, db: &Db) -> PyResult<()> {
    if db.is_open() { check_process(py, db) } else { Err(closed(py)) }
}

/// Runs `body`, which touches no Python object, without the interpreter lock; for guards, which stay on their thread.
pub fn detached<R>(py: Python<'_>, body: impl FnOnce() -> R) -> R {
    struct Carried<T>(T);
    // SAFETY: `detach` runs the closure on the calling thread.
    unsafe impl<T> Send for Carried<T> {}

    impl<T> Carried<T> {
        // Taken by a method, the whole of it moves into the closure.
        fn get(self) -> T {
            self.0
        }
    }

    let body = Carried(body);
    py.detach(move || Carried(body.get()())).get()
}

#[cfg(Py_3_13)]
fn warn_of_positions(py: Python<'_>, name: &str) -> PyResult<()> {
    let text = format!(
        "Passing more than 1 positional argument to {name}() is deprecated. Parameters 'timeout', 'detect_types', \
         'isolation_level', 'check_same_thread', 'factory', 'cached_statements' and 'uri' will become keyword-only \
         parameters in Python 3.15."
    );
    PyErr::warn(py, &py.get_type::<pyo3::exceptions::PyDeprecationWarning>(), &std::ffi::CString::new(text)?, 1)
}

/// Open a connection to an SQLite database.
///
/// Args:
///     database: Path (str, bytes, path-like), `":memory:"`, or a URI if `uri` is true.
///     timeout: Seconds to wait for locks of others, on a WAL file also for the turn to write, before
///         `OperationalError`; 0 or less = do not wait.
///     detect_types: `PARSE_DECLTYPES | PARSE_COLNAMES`: which columns converters are looked up for.
///     isolation_level: How transactions begin implicitly: `""`, `"DEFERRED"`, `"IMMEDIATE"`, `"EXCLUSIVE"`, None.
///     check_same_thread: Only the thread that opened the connection may use it; others get `ProgrammingError`.
///     factory: What to make: `Connection`, a subclass of it, or a function with these parameters.
///     cached_statements: Compiled statements kept for the next use of their text.
///     uri: `database` is a URI, `file:…?mode=ro`.
///     autocommit: True, False (PEP 249: a transaction is always open) or `LEGACY_TRANSACTION_CONTROL`, the default.
///
/// Returns:
///     What `factory` makes. `with connection:` commits, or rolls back after an exception, but does not close it.
///
/// Raises:
///     OperationalError: The database cannot be opened.
///     TypeError: An argument is of another kind.
///     ValueError: An unknown `isolation_level` or `autocommit`, a `timeout` that is no number, a path with a null byte.
#[pyfunction]
#[pyo3(
    signature = (*args, **kwargs),
    text_signature = "(database, timeout=5.0, detect_types=0, isolation_level='', check_same_thread=True, \
                      factory=None, cached_statements=128, uri=False, *, autocommit=-1)"
)]
pub fn connect<'py>(args: &Bound<'py, PyTuple>, kwargs: Option<&Bound<'py, PyDict>>) -> PyResult<Bound<'py, PyAny>> {
    const FACTORY: usize = 5;
    let py = args.py();
    let named = kwargs.map_or(Ok(None), |kwargs| kwargs.get_item("factory"))?;
    let given = match named {
        None if args.len() > FACTORY => Some(args.get_item(FACTORY)?),
        named => named,
    };
    let own = py.get_type::<Connection>();
    let factory = given.filter(|given| !given.is_none()).unwrap_or_else(|| own.clone().into_any());
    let is_fit = match factory.cast::<PyType>() {
        Ok(class) => class.is_subclass(&own)?,
        Err(_) => factory.is_callable(),
    };
    if !is_fit {
        let text = format!("factory must make an upshift.sqlite.Connection, not {}", factory.repr()?);
        return Err(PyTypeError::new_err(text));
    }
    #[cfg(Py_3_13)]
    if (2..=8).contains(&args.len()) {
        warn_of_positions(py, "sqlite3.connect")?;
    }
    hang::call(&factory, args, kwargs)
}

/// Arguments of `connect()` that `Connection.__init__` takes.
#[pymethods]
impl Connection {
    #[new]
    #[pyo3(
        signature = (*_args, **_kwargs),
        text_signature = "(database, timeout=5.0, detect_types=0, isolation_level='', check_same_thread=True, \
                          factory=None, cached_statements=128, uri=False, *, autocommit=-1)"
    )]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self { state: AttachedCell::new(State::new()) }
    }

    #[pyo3(signature = (*args, **kwargs))]
    fn __init__(slf: &Bound<'_, Self>, args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        #[cfg(Py_3_13)]
        if (2..=8).contains(&args.len()) {
            warn_of_positions(slf.py(), "_sqlite3.Connection")?;
        }
        // That of the class itself, whatever a subclass calls so.
        let connect = slf.py().get_type::<Self>().getattr("_connect")?;
        let args = PyTuple::new(slf.py(), std::iter::once(slf.as_any().clone()).chain(args).collect::<Vec<_>>())?;
        connect.call(args, kwargs).map(drop)
    }

    /// `PRAGMA`s of the pool and the like aside, a connection is as SQLite opens it.
    #[allow(clippy::too_many_arguments)]
    #[pyo3(signature = (
        database, timeout = Given::Default, detect_types = 0, isolation_level = Given::Default, check_same_thread = Truth(true),
        factory = None, cached_statements = 128, uri = Truth(false), *, autocommit = Given::Default
    ))]
    fn _connect<'py>(
        slf: &Bound<'py, Self>,
        database: &Bound<'py, PyAny>,
        timeout: Given<'py>,
        detect_types: i32,
        isolation_level: Given<'py>,
        check_same_thread: Truth,
        factory: Option<&Bound<'py, PyAny>>,
        cached_statements: i32,
        uri: Truth,
        autocommit: Given<'py>,
    ) -> PyResult<()> {
        let py = slf.py();
        let _ = factory;
        let isolation = match &isolation_level {
            Given::Default => Isolation::Deferred,
            Given::Value(level) => Isolation::of(level)?,
        };
        let autocommit = match &autocommit {
            Given::Default => Autocommit::Legacy,
            Given::Value(value) => Autocommit::of(value)?,
        };
        let timeout = match &timeout {
            Given::Default => TIMEOUT,
            Given::Value(value) => value.extract::<f64>().map_err(|error| {
                let class = class_of(value).unwrap_or_default();
                match error.is_instance_of::<PyTypeError>(py) {
                    true => PyTypeError::new_err(format!("timeout must be a number of seconds, not {class}")),
                    false => error,
                }
            })?,
        };
        let busy_timeout = Duration::try_from_secs_f64(if timeout < 0.0 { 0.0 } else { timeout })
            .map_err(|_| PyValueError::new_err(format!("timeout must be seconds as a number, not {timeout}")))?;
        let path = path_of(database, "database")?;
        hang::method(py.import("sys")?.as_any(), "audit", ("sqlite3.connect", database), None)?;
        let this = slf.get();
        forget(slf);
        let db = py.detach(|| Db::open(&path, &Open { uri: uri.0, ..Open::default() }));
        let db = db.map_err(|failure| errors::of_failure(py, &failure))?;
        gil::install(&db.enter(), busy_timeout);
        this.state.with(py, |state| {
            state.db = Some(Arc::clone(&db));
            state.detect_types = detect_types;
            state.isolation = isolation;
            state.autocommit = autocommit;
            state.thread = check_same_thread.0.then(thread_ident);
            state.statements = Statements::new(usize::try_from(cached_statements).unwrap_or(0));
            state.busy_timeout = busy_timeout;
            state.initialised = true;
        });
        hang::method(py.import("sys")?.as_any(), "audit", ("sqlite3.connect/handle", slf), None)?;
        if autocommit == Autocommit::Off {
            super::transaction::begin_next(py, &db)?;
        }
        Ok(())
    }

    /// Close the connection. An open transaction is rolled back. Further use raises `ProgrammingError`, another `close()`
    /// does nothing.
    ///
    /// Raises:
    ///     ProgrammingError: A backup of it is running, or a statement, by a function of which this is called.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let (initialised, thread, autocommit) =
            this.state.with(py, |state| (state.initialised, state.thread, state.autocommit));
        check_thread(py, thread)?;
        if !initialised {
            return Err(errors::programming(py, "Base Connection.__init__ not called."));
        }
        let Some(db) = this.state.with(py, |state| state.db.clone()).filter(|db| db.is_open()) else {
            return Ok(());
        };
        check_process(py, &db)?;
        if autocommit == Autocommit::Off {
            super::transaction::rollback_quietly(py, &db);
        }
        close(py, slf, &db)
    }

    /// A new cursor. `factory` is called with the connection and returns a `Cursor` or an object of a subclass; without
    /// it, a `Cursor` is made.
    #[pyo3(signature = (factory = Given::Default), text_signature = "($self, factory=...)")]
    pub fn cursor<'py>(slf: &Bound<'py, Self>, factory: Given<'py>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        slf.get().db(py)?;
        let Given::Value(factory) = factory else {
            return Ok(Bound::new(py, Cursor::of(slf))?.into_any());
        };
        let made = factory.call1((slf,))?;
        let Ok(cursor) = made.cast::<Cursor>() else {
            let class = made.get_type().name()?.to_string();
            return Err(PyTypeError::new_err(format!("factory must return a cursor, not {class}")));
        };
        let row_factory = slf.get().state.with(py, |state| state.row_factory.clone_ref(py));
        if !matches!(row_factory, RowFactory::None) {
            cursor.get().set_row_factory(py, row_factory);
        }
        Ok(made)
    }

    /// Calls compile a statement; kept for programs that used it.
    #[pyo3(signature = (*args))]
    fn __call__<'py>(slf: &Bound<'py, Self>, args: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let db = slf.get().db(py)?;
        let [sql] = args.as_slice() else {
            return Err(PyTypeError::new_err(format!("Connection() takes exactly 1 argument ({} given)", args.len())));
        };
        let sql = sql.cast::<PyString>()?;
        let entered = enter(py, &db)?;
        let prepared = super::prepared::prepare(py, &entered, &db, sql, 0)?;
        Ok(Bound::new(py, Statement { _prepared: AttachedCell::new(prepared) })?.into_any())
    }

    /// End the running statement with `OperationalError`, in whichever thread it runs. For any thread. Without effect if
    /// none is running.
    fn interrupt(&self, py: Python<'_>) -> PyResult<()> {
        let db = self.db_of_any_thread(py)?;
        db.interrupt();
        Ok(())
    }

    /// How TEXT becomes an object: `str`, `bytes`, `bytearray`, or a callable that takes bytes.
    #[getter]
    fn text_factory(&self, py: Python<'_>) -> Py<PyAny> {
        let text = self.state.with(py, |state| state.text.clone_ref(py));
        match text {
            Text::Str => py.get_type::<PyString>().into_any().unbind(),
            Text::Bytes => py.get_type::<PyBytes>().into_any().unbind(),
            Text::ByteArray => py.get_type::<pyo3::types::PyByteArray>().into_any().unbind(),
            Text::Callable(factory) => factory,
        }
    }

    #[setter]
    fn set_text_factory(&self, factory: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = factory.py();
        let text = if factory.is(py.get_type::<PyString>()) {
            Text::Str
        } else if factory.is(py.get_type::<PyBytes>()) {
            Text::Bytes
        } else if factory.is(py.get_type::<pyo3::types::PyByteArray>()) {
            Text::ByteArray
        } else {
            Text::Callable(factory.clone().unbind())
        };
        let old = self.state.with(py, |state| std::mem::replace(&mut state.text, text));
        drop(old);
        Ok(())
    }

    /// What a row becomes: `None` for tuples, `Row`, or a callable of cursor and tuple.
    #[getter]
    fn row_factory(&self, py: Python<'_>) -> Py<PyAny> {
        let factory = self.state.with(py, |state| state.row_factory.clone_ref(py));
        factory.object(py)
    }

    #[setter]
    fn set_row_factory(&self, factory: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = factory.py();
        let factory = RowFactory::of(factory)?;
        let old = self.state.with(py, |state| std::mem::replace(&mut state.row_factory, factory));
        drop(old);
        Ok(())
    }

    /// Number of rows changed since the connection was opened.
    #[getter]
    fn total_changes(&self, py: Python<'_>) -> PyResult<i64> {
        let db = self.db_of_any_thread(py)?;
        let entered = enter(py, &db)?;
        // SAFETY: open and entered.
        Ok(i64::from(unsafe { raw::sqlite3_total_changes(entered.raw()) }))
    }

    /// Whether a transaction is open.
    #[getter]
    fn in_transaction(&self, py: Python<'_>) -> PyResult<bool> {
        let db = self.db_of_any_thread(py)?;
        Ok(look(py, &db)?.in_transaction())
    }

    /// What `isinstance` sees: the standard library's class.
    #[getter(__class__)]
    fn class<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        super::module::passes_for(slf.as_any(), &slf.py().get_type::<Self>(), "Connection")
    }

    /// The signature of a call.
    #[getter]
    fn __text_signature__(&self) -> &'static str {
        "(sql, /)"
    }

    fn __reduce__(slf: &Bound<'_, Self>) -> PyResult<()> {
        super::module::refuse_pickling(slf.as_any())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: the collector runs attached.
        let visited = unsafe {
            self.state.try_with_unchecked(|state| {
                state.row_factory.traverse(&visit)?;
                if let Text::Callable(factory) = &state.text {
                    visit.call(factory)?;
                }
                state.hooks.traverse(&visit)
            })
        };
        visited.unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        // SAFETY: the collector runs attached.
        let gone = unsafe {
            self.state.try_with_unchecked(|state| {
                let text = std::mem::replace(&mut state.text, Text::Str);
                let row_factory = std::mem::replace(&mut state.row_factory, RowFactory::None);
                (text, row_factory, state.hooks.take_clearable())
            })
        };
        drop(gone);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        #[cfg(Py_3_13)]
        self.warn_unclosed();
        // Objects die attached, unless the interpreter is gone.
        Python::try_attach(|py| {
            let (statements, db) = self.state.with(py, |state| (state.statements.take_all(), state.db.take()));
            drop(statements);
            if let Some(db) = db.filter(|db| db.has_file()) {
                // Closing may write and sync.
                py.detach(|| drop(db));
            }
        });
    }
}

/// Leaves the old database before `__init__` opens another one. Cursors that stand on a row keep it, as ever.
fn forget(slf: &Bound<'_, Connection>) {
    let py = slf.py();
    let gone = slf.get().state.with(py, |state| {
        (state.initialised, state.is_pooled) = (false, false);
        let text = std::mem::replace(&mut state.text, Text::Str);
        let row_factory = std::mem::replace(&mut state.row_factory, RowFactory::None);
        (state.statements.take_all(), text, row_factory)
    });
    drop(gone);
    let Some(db) = slf.get().state.with(py, |state| state.db.take()) else { return };
    let is_last = Arc::strong_count(&db) == 1;
    py.detach(|| drop(db));
    if is_last {
        let hooks = slf.get().state.with(py, |state| state.hooks.take_all());
        drop(hooks);
    }
}

/// Closes the database and forgets its statements; waits for another thread that is inside.
pub fn close(py: Python<'_>, slf: &Bound<'_, Connection>, db: &Arc<Db>) -> PyResult<()> {
    let entered = match enter(py, db) {
        Ok(entered) => entered,
        Err(error) if db.is_open() => return Err(error),
        // Another thread was faster.
        Err(_) => return Ok(()),
    };
    if entered.is_busy() {
        let what = if entered.is_running() { "one of its statements" } else { "a backup of it" };
        return Err(errors::programming(py, format!("cannot close the connection while {what} is running")));
    }
    let stepping = gil::Stepping::begin(py, &entered, db.has_file());
    entered.close();
    drop(stepping);
    drop(entered);
    let gone = slf.get().state.with(py, |state| (state.statements.take_all(), state.hooks.take_all()));
    drop(gone);
    Ok(())
}

/// What names a file; `name` is the argument's.
pub fn fspath<'py>(value: &Bound<'py, PyAny>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    if value.is_instance_of::<PyString>() || value.is_instance_of::<PyBytes>() {
        return Ok(value.clone());
    }
    let os = value.py().import("os")?;
    // What `os.PathLike` asks, without its Python code.
    if !value.get_type().hasattr("__fspath__")? {
        let class = class_of(value)?;
        return Err(PyTypeError::new_err(format!("{name} must be str, bytes or a path-like object, not {class}")));
    }
    hang::method(os.as_any(), "fspath", (value,), None)
}

/// A name as the operating system takes it: str, bytes or an object with `__fspath__`.
pub fn path_of(database: &Bound<'_, PyAny>, name: &str) -> PyResult<PathBuf> {
    let path = fspath(database, name)?;
    let os = database.py().import("os")?;
    let bytes = hang::method(os.as_any(), "fsencode", (path,), None)?.cast_into::<PyBytes>()?;
    if bytes.as_bytes().contains(&0) {
        return Err(PyValueError::new_err("embedded null byte"));
    }
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        Ok(PathBuf::from(std::ffi::OsStr::from_bytes(bytes.as_bytes())))
    }
    #[cfg(not(unix))]
    Ok(PathBuf::from(String::from_utf8_lossy(bytes.as_bytes()).into_owned()))
}

/// An argument that may be left out, and may be None otherwise.
pub enum Given<'py> {
    Default,
    Value(Bound<'py, PyAny>),
}

impl<'py> Given<'py> {
    pub fn value(&self) -> Option<&Bound<'py, PyAny>> {
        match self {
            Self::Default => None,
            Self::Value(value) => Some(value),
        }
    }
}

impl<'py> FromPyObject<'_, 'py> for Given<'py> {
    type Error = std::convert::Infallible;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> Result<Self, Self::Error> {
        Ok(Self::Value(object.to_owned()))
    }
}

/// What calling a connection returns.
#[pyclass(frozen, module = "upshift.sqlite")]
struct Statement {
    _prepared: AttachedCell<Option<Prepared>>,
}

/// The value of an int that is no bool.
pub fn plain_int(value: &Bound<'_, PyAny>) -> Option<i64> {
    value.cast::<PyInt>().ok()?.extract().ok()
}
