//! Results as columns: a cursor's rows read in batches, detached, into native memory.
#![allow(unsafe_code)]

use std::sync::Arc;

use pyo3::exceptions::{PyMemoryError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3::{PyTraverseError, PyVisit};

use super::arguments::count;
use super::connection::{Connection, Given, enter};
use super::convert::Text;
use super::cursor::Cursor;
use super::gil::{self, Stepping};
use super::numpy::{Gather, Options, numpy};
use super::prepared::{self, Prepared};
use super::{errors, execute};
use crate::sqlite::columns::{Builder, Fault, Limits};
use crate::sqlite::{Db, Entered, raw};
use crate::support::sync::AttachedCell;

/// Rows that are read without letting go of the interpreter: that takes about as long as these rows.
const SHORT: usize = 128;
/// Rows of a batch, and the size of its texts and blobs; what a stream needs in memory at a time.
pub const BATCH: Limits = Limits { rows: 65_536, bytes: 16 << 20 };

/// The rest of a result, taken out of its cursor.
pub struct Reader {
    pub connection: Py<Connection>,
    db: Arc<Db>,
    /// `None` once the result has ended.
    prepared: Option<Box<Prepared>>,
    /// Whether the statement stands on a row that has not been read.
    at_row: bool,
    /// Rows that the statement has changed, once it has ended.
    changes: Option<i64>,
    pub builder: Builder,
}

impl Reader {
    /// Takes what is left of the cursor's result. The cursor has none then.
    pub fn take(cursor: &Bound<'_, Cursor>, builder: Builder) -> PyResult<Self> {
        let py = cursor.py();
        let this = cursor.get();
        let connection = this.check(py)?;
        let db = connection.get().db(py)?;
        let (prepared, sql, old, description) = this.state.with(py, |state| {
            let prepared = state.prepared.take();
            let taken = prepared.as_ref().map(|prepared| prepared.sql.clone_ref(py));
            let old = taken.and_then(|sql| state.ended.replace(sql));
            let sql = state.ended.as_ref().map(|sql| sql.clone_ref(py));
            (prepared, sql, old, state.description.as_ref().map(|description| description.clone_ref(py)))
        });
        drop(old);
        let Some(description) = description else {
            return Err(errors::programming(py, "the cursor has no result: its last statement returns no columns"));
        };
        let at_row = prepared.is_some();
        let mut reader = Self { connection: connection.unbind(), db, prepared, at_row, changes: None, builder };
        let entered = enter(py, &reader.db)?;
        match &reader.prepared {
            // The connection was opened again; the statement ended with the old database.
            Some(prepared) if !Arc::ptr_eq(&prepared.db, &reader.db) => return Err(super::connection::closed(py)),
            // SAFETY: a statement of the connection that was entered; it has been stepped.
            Some(prepared) => unsafe { reader.builder.prepare(prepared.statement) },
            None => {
                let again = sql.map(|sql| prepared::prepare(py, &entered, &reader.db, sql.bind(py), 0));
                match again {
                    // SAFETY: a statement of the connection that was entered.
                    Some(Ok(Some(prepared))) => unsafe { reader.builder.prepare(prepared.statement) },
                    // It cannot be compiled any more; at least the names are known.
                    _ => {
                        let names = description.bind(py).iter().map(|column| column.get_item(0)?.extract());
                        reader.builder.prepare_named(names.collect::<PyResult<_>>()?);
                    }
                }
            }
        }
        drop(entered);
        Ok(reader)
    }

    /// Whether the statement changes the database: then it has to be run to its end.
    pub fn writes(&self) -> bool {
        self.prepared.as_ref().is_some_and(|prepared| !prepared.is_readonly)
    }

    /// Reads up to `limits`; returns whether the result has ended. Fewer rows without that mean that texts have to be
    /// taken from the builder.
    pub fn fill(&mut self, py: Python<'_>, limits: Limits) -> PyResult<bool> {
        let Some(prepared) = self.prepared.take() else { return Ok(true) };
        let entered = enter(py, &self.db)?;
        if !is_under_way(&entered, &prepared) {
            execute::retire(self.connection.bind(py), &entered, prepared);
            return Err(errors::programming(py, ENDED));
        }
        let release = limits.rows > SHORT;
        let stepping = Stepping::begin(py, &entered, release);
        // SAFETY: a statement of the connection that was entered.
        let filled = unsafe { self.builder.fill(prepared.statement, &mut self.at_row, limits) };
        drop(stepping);
        match filled {
            Ok(false) => {
                self.prepared = Some(prepared);
                Ok(false)
            }
            Ok(true) => {
                self.changes = prepared.is_dml.then(|| execute::changes(&entered));
                execute::retire(self.connection.bind(py), &entered, prepared);
                Ok(true)
            }
            Err(Fault::Sqlite(code)) => Err(execute::failed(self.connection.bind(py), &entered, prepared, code)),
            Err(fault) => {
                execute::retire(self.connection.bind(py), &entered, prepared);
                Err(of_fault(fault))
            }
        }
    }

    /// The same on a thread that is not attached to the interpreter.
    pub fn fill_detached(&mut self, limits: Limits) -> Result<bool, Stopped> {
        let Some(prepared) = &self.prepared else { return Ok(true) };
        if !self.db.is_ours() {
            return Err(Stopped::Database("the process was forked after the connection was opened".to_owned()));
        }
        let entered = self.db.enter();
        if !self.db.is_open() {
            return Err(Stopped::Database("Cannot operate on a closed database.".to_owned()));
        }
        if !is_under_way(&entered, prepared) {
            return Err(Stopped::Database(ENDED.to_owned()));
        }
        entered.set_running(true);
        // SAFETY: a statement of the connection that was entered.
        let filled = unsafe { self.builder.fill(prepared.statement, &mut self.at_row, limits) };
        entered.set_running(false);
        let ended = filled.map_err(|fault| match fault {
            Fault::Sqlite(code) => Stopped::Database(entered.failure(code).message),
            fault => Stopped::Data(fault.to_string()),
        });
        if !matches!(ended, Ok(false)) {
            let prepared = self.prepared.take();
            // At the very end of the process the statement simply ends.
            Python::try_attach(|py| {
                if let Some(prepared) = prepared {
                    execute::retire(self.connection.bind(py), &entered, prepared);
                }
            });
        }
        ended
    }

    /// Tells the cursor how many rows its statement has changed.
    pub fn report(&self, cursor: &Bound<'_, Cursor>) {
        if let Some(changes) = self.changes {
            cursor.get().state.with(cursor.py(), |state| state.rowcount = changes);
        }
    }

    /// Gives what is left back to the cursor, which expects its statement to stand on a row.
    fn give_back(mut self, cursor: &Bound<'_, Cursor>) -> PyResult<()> {
        let py = cursor.py();
        self.report(cursor);
        let Some(prepared) = self.prepared.take() else { return Ok(()) };
        if self.at_row {
            cursor.get().state.with(py, |state| state.prepared = Some(prepared));
            return Ok(());
        }
        let entered = enter(py, &self.db)?;
        // SAFETY: a statement of the connection that was entered.
        let code = unsafe { gil::step(py, &entered, prepared.statement, false) };
        super::cursor::settle(cursor.get(), self.connection.bind(py), &entered, prepared, code)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let Some(prepared) = self.prepared.take() else { return };
        // Otherwise it is finalised when it is dropped.
        // SAFETY: only asks.
        if unsafe { pyo3::ffi::PyGILState_Check() } == 1 {
            Python::attach(|py| execute::retire_anyhow(py, self.connection.bind(py), prepared));
        }
    }
}

const ENDED: &str = "the rest of this result is gone: its connection was given back to its pool";

/// Whether the statement still stands where it was left. Reset by somebody, it would begin again.
fn is_under_way(_entered: &Entered<'_>, prepared: &Prepared) -> bool {
    // SAFETY: a statement of the connection that was entered, which is open.
    unsafe { raw::sqlite3_stmt_busy(prepared.statement) != 0 }
}

/// Why a detached read stopped.
pub enum Stopped {
    Data(String),
    Database(String),
}

pub fn of_fault(fault: Fault) -> PyErr {
    match fault {
        Fault::Memory => PyMemoryError::new_err(()),
        fault => PyValueError::new_err(fault.to_string()),
    }
}

/// Reads up to `size` rows and makes arrays of them.
fn gather<'py>(
    reader: &mut Reader,
    py: Python<'py>,
    size: usize,
    options: &Options,
) -> PyResult<(Bound<'py, PyDict>, bool)> {
    let mut gather = Gather::new(options);
    let (begun, mut ended) = (reader.builder.rows(), false);
    let mut rows = SHORT;
    loop {
        let left = size - (reader.builder.rows() - begun) as usize;
        if ended || left == 0 {
            break;
        }
        ended = reader.fill(py, Limits { rows: rows.min(left), ..BATCH })?;
        gather.drain(py, &mut reader.builder)?;
        py.check_signals()?;
        rows = BATCH.rows;
    }
    Ok((gather.finish(py, &mut reader.builder)?, ended))
}

/// Rows in a batch, unless somebody says otherwise.
const BATCH_SIZE: usize = 65_536;

/// Arrays of the next rows of a result, chunk by chunk.
#[pyclass(module = "upshift.sqlite", frozen, name = "NumpyBatches")]
pub struct NumpyBatches {
    state: AttachedCell<Option<Box<Reader>>>,
    size: usize,
    options: Options,
}

#[pymethods]
impl NumpyBatches {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        // Away while it is in use: another thread sees the end.
        let Some(mut reader) = self.state.with(py, Option::take) else { return Ok(None) };
        let before = reader.builder.rows();
        let (arrays, ended) = gather(&mut reader, py, self.size, &self.options)?;
        if reader.builder.rows() == before {
            return Ok(None);
        }
        if !ended {
            self.state.with(py, |state| *state = Some(reader));
        }
        Ok(Some(arrays))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Text::Callable(factory) = self.options.text() {
            visit.call(factory)?;
        }
        // SAFETY: the collector runs attached.
        let visited = unsafe {
            self.state.try_with_unchecked(|state| match state {
                Some(reader) => visit.call(&reader.connection),
                None => Ok(()),
            })
        };
        visited.unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        // SAFETY: the collector runs attached.
        let reader = unsafe { self.state.try_with_unchecked(Option::take) };
        drop(reader);
    }
}

#[pymethods]
impl Cursor {
    /// The next `size` rows, or all, as a dict of one NumPy array for each column.
    ///
    /// Integers become int64, floats float64, a column with both float64 as long as that loses no digit. Texts become
    /// `str` objects, blobs `bytes`; so does everything else: columns of several types are arrays of objects. A column
    /// without values has the type that it was declared with. Columns of one name get `:1`, `:2` … appended.
    ///
    /// Args:
    ///     size: Rows to read, 0 for empty arrays; all that are left by default.
    ///     text: `"object"`, or `"fixed"` for fixed-width arrays (dtype `U`) of text columns.
    ///     nulls: What NULL is among numbers: `"masked"` makes a masked array of a column that has some, `"nan"` makes
    ///         it float64 with NaN. Among objects it is None. Fixed-width text with NULLs is a masked array.
    ///
    /// `text_factory` makes the objects of texts if `text` is `"object"`. Converters (`detect_types`) and
    /// `row_factory` have no say. Reads with the GIL released, but for the first rows and the making of objects.
    ///
    /// Raises:
    ///     ProgrammingError: The last statement returns no columns, or cursor or connection cannot be used.
    ///     ImportError: NumPy is not installed.
    ///     ValueError: `size` is negative, `text` or `nulls` another word.
    #[pyo3(signature = (size = None, *, text = Given::Default, nulls = Given::Default),
        text_signature = "($self, size=None, *, text='object', nulls='masked')")]
    fn fetchnumpy<'py>(
        slf: &Bound<'py, Self>,
        size: Option<Bound<'py, PyAny>>,
        text: Given<'py>,
        nulls: Given<'py>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let py = slf.py();
        let options = Options::of(slf, &text, &nulls)?;
        let size = size.map_or(Ok(usize::MAX), |size| count(&size, "size", 0))?;
        // Before any row is taken for nothing.
        numpy(py)?;
        let mut reader = Reader::take(slf, Builder::default())?;
        let locked = slf.get().lock(py);
        let gathered = gather(&mut reader, py, size, &options);
        let left = reader.give_back(slf);
        drop(locked);
        let (arrays, _) = gathered?;
        left.map(|()| arrays)
    }

    /// Iterates over what is left of the result: a dict as from `fetchnumpy()` for each `size` rows, at least 1.
    ///
    /// The rows belong to the iterator then, the cursor is free for another statement. The type of a column does not
    /// change from one batch to the next, but if values demand it.
    ///
    /// Args:
    ///     size: Rows of a batch, at least 1.
    ///     text, nulls: As of `fetchnumpy()`, which tells the errors as well; `ValueError` also if `size` is less than 1.
    #[pyo3(signature = (size = Given::Default, *, text = Given::Default, nulls = Given::Default),
        text_signature = "($self, size=65536, *, text='object', nulls='masked')")]
    fn fetchnumpy_batches<'py>(
        slf: &Bound<'py, Self>,
        size: Given<'py>,
        text: Given<'py>,
        nulls: Given<'py>,
    ) -> PyResult<NumpyBatches> {
        let options = Options::of(slf, &text, &nulls)?;
        let size = match &size {
            Given::Default => BATCH_SIZE,
            Given::Value(size) => count(size, "size", 1)?,
        };
        numpy(slf.py())?;
        let reader = Reader::take(slf, Builder::default())?;
        Ok(NumpyBatches { state: AttachedCell::new(Some(Box::new(reader))), size, options })
    }
}
