//! Results through the Arrow PyCapsule interface.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::sync::Arc;

use arrow_array::ffi::FFI_ArrowSchema;
use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_schema::{DataType, Field, Schema};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;

use super::columns::{BATCH, Reader, Stopped, of_fault};
use super::cursor::Cursor;
use crate::sqlite::columns::arrow::{self, Failure, Source};
use crate::sqlite::columns::{Batch, Builder, Kind};

const STREAM: &CStr = c"arrow_array_stream";
const SCHEMA: &CStr = c"arrow_schema";
const ARRAY: &CStr = c"arrow_array";

#[pymethods]
impl Cursor {
    /// What is left of the result as an Arrow stream: `pyarrow.table(cursor)`, `polars.DataFrame(cursor)` and others
    /// call this. They read it batch by batch; the cursor is free for another statement meanwhile.
    ///
    /// Integers are int64, floats float64, text utf8, blobs binary. A stream has one schema: the first 65,536 rows
    /// decide it, or `requested_schema`. A later value of another type ends the stream with an error that names column
    /// and row.
    #[pyo3(signature = (requested_schema = None))]
    fn __arrow_c_stream__<'py>(
        slf: &Bound<'py, Self>,
        requested_schema: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let wanted = requested_schema.map(schema_of).transpose()?;
        let builder = match &wanted {
            Some(wanted) => Builder::wanting(kinds_for(wanted)?),
            None => Builder::default(),
        };
        let mut reader = Reader::take(slf, builder)?;
        if let Some(wanted) = &wanted {
            check_names(wanted, &reader.builder)?;
        }
        let mut batches = Vec::new();
        // A statement that writes is run to its end before anybody sees a row of it.
        let whole = reader.writes();
        loop {
            let ended = reader.fill(py, BATCH)?;
            reader.builder.settle(ended).map_err(of_fault)?;
            batches.push(reader.builder.take());
            if ended || !whole {
                break;
            }
        }
        reader.report(slf);
        let schema = match wanted {
            Some(wanted) => Arc::new(wanted),
            None => arrow::schema_of(&batches).map_err(of_fault)?,
        };
        batches.reverse();
        export(py, arrow::export(schema, Box::new(Pulled { ready: batches, reader })))
    }
}

/// The consumer pulls, on whatever thread it likes, attached or not.
struct Pulled {
    /// Batches read already, the next one last.
    ready: Vec<Batch>,
    reader: Reader,
}

impl Source for Pulled {
    fn next(&mut self) -> Result<Option<Batch>, Failure> {
        if let Some(batch) = self.ready.pop() {
            if batch.rows > 0 {
                return Ok(Some(batch));
            }
        }
        // SAFETY: only asks.
        let attached = unsafe { ffi::PyGILState_Check() } == 1;
        if attached {
            let filled = Python::attach(|py| self.reader.fill(py, BATCH).map_err(|error| message(py, &error)));
            filled.map_err(Failure::Database)?;
        } else {
            self.reader.fill_detached(BATCH).map_err(|stopped| match stopped {
                Stopped::Data(text) => Failure::Data(text),
                Stopped::Database(text) => Failure::Database(text),
            })?;
        }
        let batch = self.reader.builder.take();
        Ok((batch.rows > 0).then_some(batch))
    }
}

fn message(py: Python<'_>, error: &PyErr) -> String {
    error.value(py).to_string()
}

/// A capsule that owns the stream, until a consumer moves it out.
pub fn export(py: Python<'_>, stream: FFI_ArrowArrayStream) -> PyResult<Bound<'_, PyAny>> {
    unsafe extern "C" fn release(capsule: *mut ffi::PyObject) {
        // SAFETY: the capsule was made below. A stream that was moved out has nothing to release.
        unsafe {
            let stream = ffi::PyCapsule_GetPointer(capsule, STREAM.as_ptr());
            drop(Box::from_raw(stream.cast::<FFI_ArrowArrayStream>()));
        }
    }
    let stream = Box::into_raw(Box::new(stream));
    // SAFETY: attached; the pointer is not null.
    unsafe {
        let capsule = ffi::PyCapsule_New(stream.cast(), STREAM.as_ptr(), Some(release));
        Bound::from_owned_ptr_or_err(py, capsule).inspect_err(|_| drop(Box::from_raw(stream)))
    }
}

/// What a capsule of this name points to.
fn pointer<T>(capsule: &Bound<'_, PyAny>, name: &CStr) -> PyResult<*mut T> {
    // SAFETY: attached; fails with an exception for what is no capsule of that name.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule.as_ptr(), name.as_ptr()) == 0 {
            let class = capsule.get_type().name()?.to_string();
            let name = name.to_string_lossy();
            return Err(PyTypeError::new_err(format!("expected a PyCapsule named {name:?}, not {class}")));
        }
        Ok(ffi::PyCapsule_GetPointer(capsule.as_ptr(), name.as_ptr()).cast())
    }
}

/// Takes the stream out of a capsule.
pub fn stream_of(capsule: &Bound<'_, PyAny>) -> PyResult<FFI_ArrowArrayStream> {
    let stream = pointer(capsule, STREAM)?;
    // SAFETY: by its name the capsule holds a stream.
    Ok(unsafe { FFI_ArrowArrayStream::from_raw(stream) })
}

/// Takes the array out of a capsule, and shows its type.
pub fn array_of<'a>(
    schema: &'a Bound<'_, PyAny>,
    array: &Bound<'_, PyAny>,
) -> PyResult<(arrow_array::ffi::FFI_ArrowArray, &'a FFI_ArrowSchema)> {
    let schema = pointer::<FFI_ArrowSchema>(schema, SCHEMA)?;
    let array = pointer(array, ARRAY)?;
    // SAFETY: by their names the capsules hold these; the schema lives as long as its capsule.
    unsafe { Ok((arrow_array::ffi::FFI_ArrowArray::from_raw(array), &*schema)) }
}

fn schema_of(capsule: &Bound<'_, PyAny>) -> PyResult<Schema> {
    let schema = pointer::<FFI_ArrowSchema>(capsule, SCHEMA)?;
    // SAFETY: by its name the capsule holds a schema, which it keeps.
    let schema = unsafe { &*schema };
    Schema::try_from(schema).map_err(|error| PyValueError::new_err(error.to_string()))
}

fn kinds_for(wanted: &Schema) -> PyResult<Vec<Kind>> {
    let kind = |field: &Arc<Field>| match (field.data_type(), arrow::kind_for(field.data_type())) {
        (_, Some(kind)) => Ok(kind),
        (DataType::Null, None) => Ok(Kind::Null),
        (other, None) => Err(PyValueError::new_err(format!(
            "column {:?} cannot be given as {other}: integers, floats, booleans, text and binary can be asked for",
            field.name()
        ))),
    };
    wanted.fields().iter().map(kind).collect()
}

/// Whether the requested schema has the columns of the result.
fn check_names(wanted: &Schema, builder: &Builder) -> PyResult<()> {
    let names: Vec<&str> = builder.names().map(|name| &**name).collect();
    let asked: Vec<&str> = wanted.fields().iter().map(|field| field.name().as_str()).collect();
    if names == asked {
        return Ok(());
    }
    Err(PyValueError::new_err(format!("the requested schema has the columns {asked:?}, the result has {names:?}")))
}
