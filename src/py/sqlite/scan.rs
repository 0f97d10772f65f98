//! Parallel scans: one query read by several connections, as of one moment.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::connection::{Connection, Given};
use super::convert::Text;
use super::numpy::{Options, arrays_of};
use super::{actors, arrow, columns, errors, owned};
use crate::sqlite::columns::Batch;
use crate::sqlite::columns::arrow::{Failure as Unfit, batch_of, check_texts, export_all, record_batches, schema_of};
use crate::sqlite::lane::{Access, Actor, LaneError};
use crate::sqlite::scan::{self, Part, Scan, ScanError};
use crate::sqlite::{Db, Entered, Failure, Open, raw};
use crate::support::clock;
use crate::support::sync::AttachedCell;

/// How long a scan waits for a write lock, where it needs one to begin.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
const STATEMENT: &str = "the beginning of a parallel scan";

/// The rows of a parallel scan, in columns.
#[pyclass(module = "upshift.sqlite", frozen, name = "ScanResult")]
pub struct ScanResult {
    rows: usize,
    names: Vec<String>,
    batches: AttachedCell<Batches>,
}

enum Batches {
    Native(Arc<Vec<Batch>>),
    /// The same memory, once somebody wanted it as Arrow.
    Arrow(SchemaRef, Vec<RecordBatch>),
}

#[pymethods]
impl ScanResult {
    /// Number of rows.
    fn __len__(&self) -> usize {
        self.rows
    }

    fn __repr__(&self) -> String {
        format!("<ScanResult of {} rows: {}>", self.rows, self.names.join(", "))
    }

    /// Names of the columns.
    #[getter]
    fn columns(&self) -> Vec<String> {
        self.names.clone()
    }

    /// The rows as a dict of one NumPy array for each column, as of `Cursor.fetchnumpy`.
    ///
    /// Args:
    ///     text: `"object"` for str objects, or `"fixed"` for fixed-width arrays (dtype `U`) of text columns.
    ///     nulls: What NULL is among numbers: `"masked"` makes a masked array of a column that has some, `"nan"` makes it
    ///         float64 with NaN. Among objects it is None.
    #[pyo3(signature = (*, text = Given::Default, nulls = Given::Default),
        text_signature = "($self, *, text='object', nulls='masked')")]
    fn numpy<'py>(&self, py: Python<'py>, text: Given<'py>, nulls: Given<'py>) -> PyResult<Bound<'py, PyDict>> {
        let options = Options::new(&text, &nulls, Text::Str)?;
        let batches = self.batches.with(py, |batches| match batches {
            Batches::Native(batches) => Arc::clone(batches),
            Batches::Arrow(_, batches) => Arc::new(batches.iter().map(batch_of).collect()),
        });
        arrays_of(py, &batches, &options)
    }

    /// The rows as an Arrow stream, as often as wanted.
    #[pyo3(signature = (requested_schema = None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        // A producer may give what it has; the consumer casts.
        let _ = requested_schema;
        let (schema, batches) = self.batches.with(py, |batches| {
            if let Batches::Native(native) = batches {
                let schema = schema_of(native).map_err(columns::of_fault)?;
                check_texts(native).map_err(invalid)?;
                let native = std::mem::take(native);
                // Shared only while somebody makes arrays of it.
                let native = Arc::try_unwrap(native).unwrap_or_else(|shared| (*shared).clone());
                let converted = record_batches(&schema, native).map_err(invalid)?;
                *batches = Batches::Arrow(schema, converted);
            }
            match batches {
                Batches::Arrow(schema, batches) => PyResult::Ok((schema.clone(), batches.clone())),
                Batches::Native(_) => Err(PyRuntimeError::new_err("the result is in use")),
            }
        })?;
        arrow::export(py, export_all(schema, batches))
    }
}

/// Reads the query with all these connections, which nobody else uses meanwhile.
///
/// With `sets`, the statement is run as it is with each of these parameters; else it is split by rowid.
#[pyfunction]
#[pyo3(signature = (connections, sql, parameters = None, sets = None))]
pub fn sqlite_scan(
    connections: Vec<Bound<'_, Connection>>,
    sql: String,
    parameters: Option<&Bound<'_, PyAny>>,
    sets: Option<Vec<Bound<'_, PyAny>>>,
) -> PyResult<ScanResult> {
    let Some(first) = connections.first() else {
        return Err(PyValueError::new_err("a scan needs a connection"));
    };
    let py = first.py();
    let part = match sets {
        None => Part::Rowid(owned::parameters(parameters)?),
        Some(_) if parameters.is_some() => {
            return Err(PyValueError::new_err("partitions as a list are the parameters; there can be no others"));
        }
        Some(sets) if sets.is_empty() => return Err(PyValueError::new_err("partitions is an empty list")),
        Some(sets) => Part::Given(sets.iter().map(|set| owned::parameters(Some(set))).collect::<PyResult<_>>()?),
    };
    let dbs = connections.iter().map(|connection| connection.get().db(py)).collect::<PyResult<Vec<Arc<Db>>>>()?;
    let scan = Scan { sql, part };
    let thread = actors::this_thread();
    let mut interrupted = None;
    let stop = || {
        interrupted = Python::attach(|py| py.check_signals().err());
        interrupted.is_some()
    };
    let outcome = py.detach(|| read(&dbs, &scan, thread, stop));
    if let Some(error) = interrupted {
        return Err(error);
    }
    let batches = outcome.map_err(|error| of_error(py, error))?;
    let names = batches.first().into_iter().flat_map(|batch| &batch.columns).map(|it| it.name.to_string()).collect();
    let rows = batches.iter().map(|batch| batch.rows).sum();
    Ok(ScanResult { rows, names, batches: AttachedCell::new(Batches::Native(Arc::new(batches))) })
}

fn read(dbs: &[Arc<Db>], scan: &Scan, thread: u64, mut stop: impl FnMut() -> bool) -> Result<Vec<Batch>, ScanError> {
    let mut connections: Vec<&Db> = dbs.iter().map(|db| &**db).collect();
    if connections[0].file_id().is_none() {
        // In memory there are no snapshots: one reader, and writers wait for it.
        connections.truncate(1);
    }
    let begun = scan::begin(&connections, &mut |entered| take_turn(entered, Access::Read, thread, &mut stop));
    let snapshot = match begun {
        Err(ScanError::Contended) => begin_locked(&connections, thread, &mut stop)?,
        begun => begun?,
    };
    scan::read(&snapshot, scan, stop)
}

/// Takes the lane, where this access needs one.
fn take_turn(
    entered: &Entered<'_>,
    access: Access,
    thread: u64,
    stop: &mut dyn FnMut() -> bool,
) -> Result<(), ScanError> {
    let Some((lane, actor)) = entered.lane_for(access, || Actor::thread(thread)) else { return Ok(()) };
    let deadline = clock::now() + LOCK_TIMEOUT.as_nanos() as u64;
    lane.take(&entered.db().claim(actor, access, STATEMENT), Some(deadline), stop).map_err(|error| match error {
        LaneError::Interrupted => ScanError::Cancelled,
        error => {
            let reason = error.message(|actor| actor.to_string());
            Failure { code: raw::SQLITE_BUSY, message: format!("database is locked: {reason}") }.into()
        }
    })?;
    entered.db().seat().granted(access, actor);
    Ok(())
}

/// Keeps all writers out while the connections begin, with one more connection.
fn begin_locked<'a>(
    connections: &[&'a Db],
    thread: u64,
    stop: &mut dyn FnMut() -> bool,
) -> Result<scan::Snapshot<'a>, ScanError> {
    let writer = Db::open(connections[0].file(), &Open { existing: true, ..Open::default() })?;
    let entered = writer.enter();
    // SAFETY: the connection is open and this thread is inside.
    unsafe { raw::sqlite3_busy_timeout(entered.raw(), LOCK_TIMEOUT.as_millis() as i32) };
    take_turn(&entered, Access::Write, thread, stop)?;
    scan::begin_locked(connections, &entered)
}

fn invalid(unfit: Unfit) -> PyErr {
    PyValueError::new_err(unfit.to_string())
}

fn of_error(py: Python<'_>, error: ScanError) -> PyErr {
    match error {
        ScanError::Sqlite(failure) => errors::of_failure(py, &failure),
        ScanError::Fault(fault) => columns::of_fault(fault),
        ScanError::Refused(refused) => PyValueError::new_err(refused.to_string()),
        ScanError::Parameters(text) => errors::programming(py, text),
        ScanError::Closed => super::connection::closed(py),
        ScanError::Thread(error) => error.into(),
        other @ (ScanError::Cancelled | ScanError::Contended) => errors::operational(py, other.to_string()),
    }
}
