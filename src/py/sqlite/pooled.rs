//! `PooledConnection`: what a borrower holds, and `pool.connection()`, which borrows for a `with` block.

use std::ffi::CStr;

use pyo3::exceptions::{PyResourceWarning, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;
use pyo3::{PyTraverseError, PyVisit};

use super::connection::{Connection, Given, look};
use super::cursor::Cursor;
use super::keeper::{Held, Lease};
use super::pool::{ConnectionPool, Timeout, timed_out};
use super::{errors, execute, transaction};
use crate::py::hang;
use crate::support::sync::AttachedCell;

/// A borrowed connection of a `ConnectionPool`: what `acquire()` and `connection()` give. Not to be made directly.
///
/// Every attribute that is not listed here is the raw connection's, for reading and for writing. Give it back with
/// `close()`, by leaving a `with` block, or with `pool.release()`; afterwards only `conn`, `pool` and `close()` may be used.
/// One that is dropped instead gives itself back, with a `ResourceWarning`. Threads may share it as they may a connection
/// opened with `check_same_thread=False`. Where a library wants the exact type, pass `conn`.
#[pyclass(frozen, subclass, weakref, module = "upshift.sqlite")]
pub struct PooledConnection {
    conn: Py<Connection>,
    pool: Py<ConnectionPool>,
    lease: Lease,
}

impl PooledConnection {
    #[inline]
    pub fn make<'py>(pool: &Bound<'py, ConnectionPool>, lease: Lease) -> PyResult<Bound<'py, Self>> {
        let py = pool.py();
        let conn = lease.connection().object.clone_ref(py);
        Bound::new(py, Self { conn, pool: pool.clone().unbind(), lease })
    }

    pub fn belongs_to(&self, pool: &Bound<'_, ConnectionPool>) -> bool {
        self.pool.as_ptr() == pool.as_ptr()
    }

    /// Returns the connection to the pool; false if it was returned before.
    pub fn give_back(&self) -> bool {
        self.pool.get().engine().is_some_and(|core| core.release(&self.lease))
    }

    /// The raw connection, as long as it is this borrower's.
    #[inline(always)]
    pub fn raw<'a, 'py>(&'a self, py: Python<'py>) -> PyResult<&'a Bound<'py, Connection>> {
        if self.lease.is_live() && self.lease.connection().db.is_ours() {
            return Ok(self.conn.bind(py));
        }
        Err(returned(py))
    }

    fn held(&self) -> &Held {
        self.lease.connection()
    }

    /// Ends an open transaction with `sql`.
    fn finish(&self, py: Python<'_>, sql: &CStr) -> PyResult<()> {
        self.raw(py)?;
        let db = &self.held().db;
        let Ok(entered) = look(py, db) else {
            // Closed by its borrower: there is nothing to end.
            return Ok(());
        };
        if entered.in_transaction() { transaction::run(py, db, sql, true) } else { Ok(()) }
    }

    /// The end of a `with` block: commits or rolls back, and gives the connection back whatever happens.
    fn leave(&self, py: Python<'_>, failed: bool) -> PyResult<()> {
        if !self.lease.is_live() {
            return Ok(());
        }
        // What rolls back after an exception must not hide it; giving back rolls back as well.
        let ended = if failed { Ok(()) } else { self.finish(py, c"COMMIT") };
        self.give_back();
        ended
    }
}

#[cold]
fn returned(py: Python<'_>) -> PyErr {
    errors::programming(py, "Cannot operate on a connection that was given back to its pool.")
}

#[pymethods]
impl PooledConnection {
    /// Wraps a raw connection that `pool` has lent.
    #[new]
    fn new(conn: &Bound<'_, Connection>, pool: &Bound<'_, ConnectionPool>) -> PyResult<Self> {
        let py = conn.py();
        let core = pool.get().core(py)?;
        let Some(lease) = core.lease_of(|held| held.object.as_ptr() == conn.as_ptr()) else {
            return Err(errors::programming(py, "the connection is not lent by this pool"));
        };
        Ok(Self { conn: conn.clone().unbind(), pool: pool.clone().unbind(), lease })
    }

    /// The raw connection, always the same object for the same physical connection. Readable after `close()`.
    #[getter]
    fn conn(&self, py: Python<'_>) -> Py<Connection> {
        self.conn.clone_ref(py)
    }

    /// What `isinstance` sees: the standard library's class.
    #[getter(__class__)]
    fn class<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        super::module::passes_for(slf.as_any(), &slf.py().get_type::<Self>(), "Connection")
    }

    /// The pool it belongs to.
    #[getter]
    fn pool(&self, py: Python<'_>) -> Py<ConnectionPool> {
        self.pool.clone_ref(py)
    }

    /// Whether the connection is still this borrower's.
    #[getter]
    fn _is_live(&self) -> bool {
        self.lease.is_live()
    }

    /// A new cursor on the raw connection, as of `Connection.cursor`.
    #[pyo3(signature = (factory = Given::Default), text_signature = "($self, factory=...)")]
    fn cursor<'py>(&self, py: Python<'py>, factory: Given<'py>) -> PyResult<Bound<'py, PyAny>> {
        Connection::cursor(self.raw(py)?, factory)
    }

    /// Run one statement on a new cursor, which is returned. As `Connection.execute`; it is a transaction of its own
    /// unless one was begun.
    ///
    /// Args:
    ///     sql: One statement.
    ///     parameters: A sequence for `?`, or a mapping for `:name`.
    ///
    /// Raises:
    ///     ProgrammingError: The connection was given back, or `Connection.execute` raises it.
    ///     WriteLaneTimeout: The turn to write did not come within the busy timeout of 30 s.
    #[pyo3(signature = (sql, parameters = Given::Default, /), text_signature = "($self, sql, parameters=(), /)")]
    fn execute<'py>(&self, sql: &Bound<'py, PyAny>, parameters: Given<'py>) -> PyResult<Bound<'py, Cursor>> {
        let raw = self.raw(sql.py())?;
        let cursor = Bound::new(sql.py(), Cursor::of(raw))?;
        execute::execute(&cursor, sql, parameters.value())?;
        Ok(cursor)
    }

    /// Run one statement for each set of parameters, on a new cursor, which is returned.
    ///
    /// Args:
    ///     sql: An INSERT, UPDATE, DELETE or REPLACE; rows of RETURNING are dropped.
    ///     parameters: An iterable of sequences or mappings, or columns: a mapping of arrays, a structured array, a
    ///         table of pyarrow, polars or pandas. `:name` takes the column of that name, `?` columns by position.
    ///
    /// `rowcount` is the sum. Without `BEGIN` each row is a transaction of its own: rows before an error stay.
    #[pyo3(signature = (sql, parameters, /))]
    fn executemany<'py>(
        &self,
        sql: &Bound<'py, PyAny>,
        parameters: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, Cursor>> {
        let raw = self.raw(sql.py())?;
        let cursor = Bound::new(sql.py(), Cursor::of(raw))?;
        execute::executemany(&cursor, sql, parameters)?;
        Ok(cursor)
    }

    /// Commit the open transaction, if there is one. The connection stays borrowed.
    fn commit(&self, py: Python<'_>) -> PyResult<()> {
        transaction::commit(self.raw(py)?)
    }

    /// Roll the open transaction back, if there is one. The connection stays borrowed.
    fn rollback(&self, py: Python<'_>) -> PyResult<()> {
        transaction::rollback(self.raw(py)?)
    }

    /// Give the connection back to the pool; an open transaction is rolled back. Idempotent, from any thread.
    fn close(&self) {
        self.give_back();
    }

    /// The wrapper itself; leaving the block commits or rolls back, and gives it back.
    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        slf.get().raw(slf.py())?;
        Ok(slf.clone())
    }

    /// Commits, or rolls back after an exception, and gives the connection back.
    fn __exit__(
        &self,
        exc_type: &Bound<'_, PyAny>,
        _exc_value: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        self.leave(exc_type.py(), !exc_type.is_none()).map(|()| false)
    }

    fn __getattr__<'py>(slf: &Bound<'py, Self>, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        slf.get().raw(slf.py())?.as_any().getattr(name)
    }

    fn __setattr__(slf: &Bound<'_, Self>, name: &Bound<'_, PyString>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        match is_own(slf, name)? {
            true => set_own(slf, name, value.as_ptr()),
            false => slf.get().raw(slf.py())?.as_any().setattr(name, value),
        }
    }

    fn __delattr__(slf: &Bound<'_, Self>, name: &Bound<'_, PyString>) -> PyResult<()> {
        match is_own(slf, name)? {
            true => set_own(slf, name, std::ptr::null_mut()),
            false => slf.get().raw(slf.py())?.as_any().delattr(name),
        }
    }

    fn __dir__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let own = py.get_type::<PyAny>().call_method1("__dir__", (slf,))?;
        let names = pyo3::types::PySet::new(py, own.try_iter()?.collect::<PyResult<Vec<_>>>()?)?;
        names.as_any().call_method1("update", (slf.get().conn.bind(py).as_any().dir()?,))?;
        Ok(names.into_any())
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let this = slf.get();
        let state = if this.lease.is_live() { "" } else { ", given back" };
        let pool = this.pool.bind(slf.py()).repr()?;
        Ok(format!("<{} {} of {pool}{state}>", slf.get_type().name()?, this.held().db.id()))
    }

    fn __reduce__(slf: &Bound<'_, Self>) -> PyResult<()> {
        let class = slf.get_type().name()?.to_string();
        Err(PyTypeError::new_err(format!("cannot pickle {class:?} object: it holds an open connection")))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.conn)?;
        visit.call(&self.pool)
    }
}

/// Whether the class itself, or one derived from it, has the attribute.
fn is_own(slf: &Bound<'_, PooledConnection>, name: &Bound<'_, PyString>) -> PyResult<bool> {
    slf.get_type().hasattr(name)
}

/// `object.__setattr__`, or `__delattr__` for null.
#[allow(unsafe_code)]
fn set_own(slf: &Bound<'_, PooledConnection>, name: &Bound<'_, PyString>, value: *mut ffi::PyObject) -> PyResult<()> {
    // SAFETY: live objects; null deletes.
    match unsafe { ffi::PyObject_GenericSetAttr(slf.as_ptr(), name.as_ptr(), value) } {
        0 => Ok(()),
        _ => Err(PyErr::fetch(slf.py())),
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        if !self.lease.is_live() || !self.held().db.is_ours() {
            return;
        }
        // Objects die attached, unless the interpreter is gone; then so is the pool.
        Python::try_attach(|py| {
            // Objects may die while an exception is on its way.
            let current = PyErr::take(py);
            if self.give_back() {
                let class = py.get_type::<PyResourceWarning>();
                let text = c"a pooled connection was dropped, not given back; use close() or a with block";
                if let Err(error) = PyErr::warn(py, &class, text, 1) {
                    error.write_unraisable(py, None);
                }
            }
            if let Some(error) = current {
                error.restore(py);
            }
        });
    }
}

/// `pool.connection()`: borrows when it is entered, once.
#[pyclass(frozen, module = "upshift.sqlite")]
pub struct Borrowing {
    pool: Py<ConnectionPool>,
    timeout: Timeout,
    state: AttachedCell<State>,
}

enum State {
    Fresh,
    Entered(Py<PooledConnection>),
    Left,
}

#[pymethods]
impl Borrowing {
    /// Borrows; waits as long as `timeout` allows.
    fn __enter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PooledConnection>> {
        let is_fresh = self.state.with(py, |state| matches!(std::mem::replace(state, State::Left), State::Fresh));
        if !is_fresh {
            return Err(errors::programming(py, "connection() may be entered once"));
        }
        let pool = self.pool.bind(py);
        let borrowed = if pool.is_exact_instance_of::<ConnectionPool>() {
            ConnectionPool::borrow(pool, &self.timeout)?
        } else {
            // A subclass may have its own `acquire`.
            let found = hang::method(pool.as_any(), "acquire", (self.timeout.seconds(),), None)?;
            if found.is_none() { Err(pool.get().core(py)?.cause()) } else { Ok(found.cast_into()?) }
        };
        match borrowed {
            Ok(wrapper) => {
                self.state.with(py, |state| *state = State::Entered(wrapper.clone().unbind()));
                Ok(wrapper)
            }
            Err(cause) => Err(timed_out(py, pool.get().core(py)?, &self.timeout, cause)),
        }
    }

    /// Commits, or rolls back after an exception, and gives the connection back.
    fn __exit__(
        &self,
        exc_type: &Bound<'_, PyAny>,
        _exc_value: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let py = exc_type.py();
        if let State::Entered(wrapper) = self.state.with(py, |state| std::mem::replace(state, State::Left)) {
            wrapper.get().leave(py, !exc_type.is_none())?;
        }
        Ok(false)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.pool)?;
        // SAFETY: the collector runs attached.
        #[allow(unsafe_code)]
        let visited = unsafe {
            self.state.try_with_unchecked(|state| match state {
                State::Entered(wrapper) => visit.call(&*wrapper),
                State::Fresh | State::Left => Ok(()),
            })
        };
        visited.unwrap_or(Ok(()))
    }
}

#[pymethods]
impl ConnectionPool {
    /// Borrow a connection for a `with` block.
    ///
    /// Leaving the block commits an open transaction, or rolls it back after an exception, and gives the connection back.
    ///
    /// Args:
    ///     timeout: Seconds to wait (int, float or timedelta); 0 or less = try once, None = without limit.
    ///
    /// Raises (when the block is entered):
    ///     TimeoutError: No connection became free in time; chained to what opening one failed with.
    ///     ProgrammingError: The pool is closed.
    #[pyo3(signature = (timeout = Timeout::default()), text_signature = "($self, timeout=10.0)")]
    fn connection(slf: &Bound<'_, Self>, timeout: Timeout) -> Borrowing {
        Borrowing { pool: slf.clone().unbind(), timeout, state: AttachedCell::new(State::Fresh) }
    }
}
