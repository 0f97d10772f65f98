//! `executemany` with columns: NumPy arrays by name, and what speaks Arrow.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;

use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyMapping, PyTuple};

use super::arrow::{array_of, stream_of};
use super::connection::enter;
use super::cursor::Cursor;
use super::execute::Run;
use super::gil::Stepping;
use super::lane::{self, Patience};
use super::prepared::Prepared;
use super::{adapt, errors, execute, owned};
use crate::py::hang;
use crate::sqlite::Entered;
use crate::sqlite::columns::input::{Input, InputFault, Rows, Value, Values, places};
use crate::sqlite::columns::stream::{Incoming, column, record_batch};

/// Rows that are run without letting anybody interrupt.
const CHUNK: usize = 16_384;
/// The same if each of them is a transaction.
const SINGLE: usize = 64;

/// Parameters of `executemany` as columns.
pub struct Columns {
    names: Vec<String>,
    source: Source,
}

enum Source {
    Rows(Option<Rows>),
    Stream(Box<Incoming>),
}

impl Columns {
    /// The columns that `parameters` are; `None` if they are something else.
    pub fn of(parameters: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        let py = parameters.py();
        // What programs pass as a rule, and cursors, whose rows may have values of any type.
        if parameters.is_exact_instance_of::<PyList>()
            || parameters.is_exact_instance_of::<PyTuple>()
            // SAFETY: a live object; the thread is attached.
            || unsafe { ffi::PyGen_CheckExact(parameters.as_ptr()) } != 0
            || parameters.is_instance_of::<Cursor>()
        {
            return Ok(None);
        }
        if let Some(export) = parameters.getattr_opt(intern!(py, "__arrow_c_stream__"))? {
            let stream = stream_of(&hang::call(&export, &PyTuple::empty(py), None)?)?;
            // SAFETY: from a capsule that holds one.
            let incoming = py.detach(|| unsafe { Incoming::new(stream) }).map_err(|fault| of_fault(py, fault))?;
            return Ok(Some(Self { names: incoming.names(), source: Source::Stream(Box::new(incoming)) }));
        }
        if let Some(export) = parameters.getattr_opt(intern!(py, "__arrow_c_array__"))? {
            let (schema, array): (Bound<'_, PyAny>, Bound<'_, PyAny>) =
                hang::call(&export, &PyTuple::empty(py), None)?.extract()?;
            let (array, schema) = array_of(&schema, &array)?;
            // SAFETY: from capsules that hold these.
            let rows = unsafe { record_batch(array, schema) }.map_err(|fault| of_fault(py, fault))?;
            return Ok(Some(Self::of_rows(rows)));
        }
        let is_mapping = parameters.is_instance_of::<PyDict>() || parameters.cast::<PyMapping>().is_ok();
        if !is_mapping && parameters.getattr_opt(intern!(py, "dtype"))?.is_none() {
            return Ok(None);
        }
        let prepare = py.import(intern!(py, "upshift.sqlite._columns"))?.getattr(intern!(py, "prepare"))?;
        let prepared = hang::call(&prepare, &(parameters,).into_pyobject(py)?, None)?;
        if prepared.is_none() {
            return Ok(None);
        }
        let mut inputs = Vec::new();
        let mut rows = 0;
        for item in prepared.try_iter()? {
            let (name, kind, values, width, mask) = item?.extract()?;
            let (input, length) = input(name, kind, &values, width, &mask)?;
            if !inputs.is_empty() && length != rows {
                return Err(PyValueError::new_err("columns differ in length"));
            }
            inputs.push(input);
            rows = length;
        }
        Ok(Some(Self::of_rows(Rows::new(inputs, rows, 0))))
    }

    fn of_rows(rows: Rows) -> Self {
        let names = rows.names().map(str::to_owned).collect();
        Self { names, source: Source::Rows(Some(rows)) }
    }

    /// The next rows. A producer runs detached, for as long as it likes.
    fn next(&mut self, py: Python<'_>) -> PyResult<Option<Rows>> {
        match &mut self.source {
            Source::Rows(rows) => Ok(rows.take()),
            Source::Stream(stream) => py.detach(|| stream.next_rows()).map_err(|fault| of_fault(py, fault)),
        }
    }
}

impl Run<'_, '_> {
    /// Runs the statement for every row of the columns.
    pub fn many_columns(&self, mut columns: Columns) -> PyResult<()> {
        let py = self.py;
        let entered = enter(py, &self.db)?;
        let Some(mut prepared) = self.obtain_dml(&entered)? else { return Ok(()) };
        // SAFETY: a statement of the connection that was entered.
        let places = unsafe { places(prepared.statement, Some(&columns.names), columns.names.len()) };
        let places = match places {
            Ok(places) => places,
            Err(fault) => {
                execute::retire(&self.connection, &entered, prepared);
                return Err(of_fault(py, fault));
            }
        };
        self.start(&entered, &prepared)?;
        drop(entered);
        let loan = || self.connection.get().state.with(py, |state| state.loan);
        let lent = loan();
        let mut rowcount = 0;
        // Other threads, and the producer itself, may use the connection between the batches.
        while let Some(rows) = self.locked.away(|| columns.next(py))? {
            let mut from = 0;
            while from < rows.len() {
                let entered = enter(py, &self.db)?;
                if loan() != lent {
                    execute::retire(&self.connection, &entered, prepared);
                    return Err(errors::programming(py, "the connection was given back to its pool meanwhile"));
                }
                // Rows that are transactions of their own let others have their turn soon.
                let chunk = if entered.in_transaction() { CHUNK } else { SINGLE };
                let to = rows.len().min(from + chunk);
                match self.run_rows(&entered, &prepared, &rows, &places, from..to) {
                    Ok(changed) => rowcount += changed,
                    Err(Refused::Error(error)) => {
                        execute::retire(&self.connection, &entered, prepared);
                        return Err(error);
                    }
                    Err(Refused::Fault(InputFault::Sqlite(code))) => {
                        return Err(execute::failed(&self.connection, &entered, prepared, code));
                    }
                    Err(Refused::Fault(fault)) => {
                        execute::retire(&self.connection, &entered, prepared);
                        return Err(of_fault(py, fault));
                    }
                }
                drop(entered);
                py.check_signals()?;
                from = to;
            }
        }
        let entered = enter(py, &self.db)?;
        if prepared.columns(&entered) > 0 {
            self.describe(&entered, &mut prepared)?;
        }
        let rowcount = if prepared.is_dml { i64::try_from(rowcount).unwrap_or(i64::MAX) } else { -1 };
        execute::retire(&self.connection, &entered, prepared);
        self.cursor.state.with(py, |state| state.rowcount = rowcount);
        Ok(())
    }

    fn run_rows(
        &self,
        entered: &Entered<'_>,
        prepared: &Prepared,
        rows: &Rows,
        places: &[std::ffi::c_int],
        range: std::ops::Range<usize>,
    ) -> Result<u64, Refused> {
        let _stepping = Stepping::begin(self.py, entered, true);
        if let Some(access) = prepared.access {
            lane::take(entered, access, || lane::text_of(prepared.statement)).map_err(Refused::Error)?;
        }
        let mut patience = Patience::begin(entered);
        loop {
            // SAFETY: a statement of the connection that was entered.
            match unsafe { rows.run(prepared.statement, places, range.clone()) } {
                // As long as its transaction only reads, no row of it has been written.
                Err(InputFault::Sqlite(code)) if patience.waits(entered, code) => {}
                outcome => return outcome.map_err(Refused::Fault),
            }
        }
    }
}

/// Why rows were not run.
enum Refused {
    Fault(InputFault),
    Error(PyErr),
}

/// The error of a row that could not be bound; if it is an array, with a word about what was meant perhaps.
///
/// A list of arrays is a list of rows, as it is to the standard library: what it means must not depend on its length.
#[cold]
pub fn explain(error: PyErr, row: &Bound<'_, PyAny>) -> PyErr {
    let py = row.py();
    let is_array = row.getattr_opt(intern!(py, "dtype")).is_ok_and(|found| found.is_some());
    if !is_array || !error.get_type(py).is(errors::classes(py).programming.bind(py)) {
        return error;
    }
    errors::programming(py, format!("{} To pass columns, give them as a dict: {{name: array}}.", error.value(py)))
}

pub fn of_fault(py: Python<'_>, fault: InputFault) -> PyErr {
    let text = fault.to_string();
    match fault {
        InputFault::Sqlite(_) => errors::operational(py, text),
        InputFault::Unsupported { .. } => PyTypeError::new_err(text),
        InputFault::Value { overflow: true, .. } => PyOverflowError::new_err(text),
        InputFault::Value { .. } => PyValueError::new_err(text),
        InputFault::Parameters(_) => errors::programming(py, text),
        InputFault::Stream(_) => PyValueError::new_err(text),
    }
}

/// A column as `_columns.prepare` describes it, and its length.
fn input(
    name: String,
    kind: String,
    values: &Bound<'_, PyAny>,
    width: usize,
    mask: &Bound<'_, PyAny>,
) -> PyResult<(Input, usize)> {
    let py = values.py();
    if kind == "arrow_array" {
        let (schema, array): (Bound<'_, PyAny>, Bound<'_, PyAny>) = values.extract()?;
        let (array, schema) = array_of(&schema, &array)?;
        // SAFETY: from capsules that hold these.
        return unsafe { column(name, array, schema) }.map_err(|fault| of_fault(py, fault));
    }
    if kind == "arrow_stream" {
        let stream = stream_of(values)?;
        // SAFETY: from a capsule that holds one.
        return py.detach(|| unsafe { Incoming::column(name, stream) }).map_err(|fault| of_fault(py, fault));
    }
    let mut nulls = nulls_of(mask)?;
    if kind == "O" {
        let look_up = adapt::adapts_basic_types(py)?;
        let mut owned = Vec::new();
        for (row, value) in values.try_iter()?.enumerate() {
            let value = value?;
            let hidden = nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
            owned.push(if hidden { Value::Null } else { in_column(owned::value(&value, look_up), py, &name, row)? });
        }
        let rows = owned.len();
        return Ok((Input::new(name, Values::Any(owned), nulls), rows));
    }
    let memory = View::take(values)?;
    let days = |values: &ScalarBuffer<i64>| -> ScalarBuffer<i32> {
        // What is out of range is no date either.
        values.iter().map(|&day| day.clamp(i32::MIN.into(), i32::MAX.into()) as i32).collect()
    };
    let values = match &*kind {
        "b1" => Values::Bools(memory.into()),
        "i1" => Values::Int8(memory.into()),
        "i2" => Values::Int16(memory.into()),
        "i4" => Values::Int32(memory.into()),
        "i8" => Values::Int64(memory.into()),
        "u1" => Values::UInt8(memory.into()),
        "u2" => Values::UInt16(memory.into()),
        "u4" => Values::UInt32(memory.into()),
        "u8" => Values::UInt64(memory.into()),
        "f4" => Values::Float32(memory.into()),
        "f8" => Values::Float64(memory.into()),
        "U" => {
            let (offsets, text) = texts(&ScalarBuffer::from(memory), width).map_err(|row| {
                PyValueError::new_err(format!("column {name:?}, row {row} (from 0): no Unicode text"))
            })?;
            Values::Long(offsets, text, true)
        }
        "S" => {
            let (offsets, bytes) = bytes(&memory, width);
            Values::Long(offsets, bytes, false)
        }
        unit @ ("D" | "s" | "ms" | "us" | "ns") => {
            let values = ScalarBuffer::<i64>::from(memory);
            // Not a time.
            let known = NullBuffer::new(BooleanBuffer::from_iter(values.iter().map(|&value| value != i64::MIN)));
            nulls = NullBuffer::union(nulls.as_ref(), Some(&known));
            match unit {
                "D" => Values::Days(days(&values)),
                "s" => Values::Moments(values, 1, false),
                "ms" => Values::Moments(values, 1_000, false),
                "us" => Values::Moments(values, 1_000_000, false),
                _ => Values::Moments(values, 1_000_000_000, false),
            }
        }
        other => return Err(PyTypeError::new_err(format!("column {name:?}: unknown kind {other:?}"))),
    };
    let rows = values.rows().unwrap_or(0);
    Ok((Input::new(name, values, nulls), rows))
}

/// The error of a value, with its place.
fn in_column(value: PyResult<Value>, py: Python<'_>, name: &str, row: usize) -> PyResult<Value> {
    value.map_err(|error| {
        let text = format!("column {name:?}, row {row} (from 0): {}", error.value(py));
        PyErr::from_type(error.get_type(py), text)
    })
}

/// Set bits where a mask of bools has False.
fn nulls_of(mask: &Bound<'_, PyAny>) -> PyResult<Option<NullBuffer>> {
    if mask.is_none() {
        return Ok(None);
    }
    let mask = View::take(mask)?;
    Ok(Some(NullBuffer::new(BooleanBuffer::from_iter(mask.iter().map(|&masked| masked == 0)))))
}

/// The memory of an array of fixed-width text as UTF-8; padding is cut off.
fn texts(characters: &ScalarBuffer<u32>, width: usize) -> Result<(OffsetBuffer<i64>, Buffer), usize> {
    let (mut offsets, mut text) = (vec![0_i64], String::new());
    for (row, value) in chunks(characters, width).enumerate() {
        let end = value.iter().rposition(|&character| character != 0).map_or(0, |last| last + 1);
        for &character in &value[..end] {
            text.push(char::from_u32(character).ok_or(row)?);
        }
        offsets.push(text.len() as i64);
    }
    Ok((OffsetBuffer::new(offsets.into()), Buffer::from_vec(text.into_bytes())))
}

fn bytes(memory: &[u8], width: usize) -> (OffsetBuffer<i64>, Buffer) {
    let (mut offsets, mut bytes) = (vec![0_i64], Vec::new());
    for value in chunks(memory, width) {
        let end = value.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        bytes.extend_from_slice(&value[..end]);
        offsets.push(bytes.len() as i64);
    }
    (OffsetBuffer::new(offsets.into()), Buffer::from_vec(bytes))
}

/// Pieces of this width; arrays of width zero have none, their length is not told by their memory.
fn chunks<T>(values: &[T], width: usize) -> impl Iterator<Item = &[T]> {
    values.chunks_exact(width.max(1))
}

/// Memory of a Python object, held as long as it is used.
struct View(ffi::Py_buffer);

// SAFETY: the view is only given back, and that attached; its memory may be read anywhere.
unsafe impl Send for View {}
// SAFETY: the same.
unsafe impl Sync for View {}
impl std::panic::RefUnwindSafe for View {}

impl View {
    /// An array that is one aligned piece.
    fn take(object: &Bound<'_, PyAny>) -> PyResult<Buffer> {
        // SAFETY: a structure of numbers and pointers, filled in by the next call.
        let mut view = Box::new(Self(unsafe { std::mem::zeroed() }));
        // SAFETY: attached; on success the view holds the object's memory until it is given back.
        if unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &mut view.0, ffi::PyBUF_SIMPLE) } != 0 {
            view.0.obj = std::ptr::null_mut();
            return Err(PyErr::fetch(object.py()));
        }
        let length = usize::try_from(view.0.len).unwrap_or(0);
        let Some(start) = NonNull::new(view.0.buf.cast::<u8>()).filter(|_| length > 0) else {
            return Ok(Buffer::from_vec(Vec::<u64>::new()));
        };
        // SAFETY: the memory is there as long as the view, which stays in its box.
        Ok(unsafe { Buffer::from_custom_allocation(start, length, Arc::new(view)) })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if !self.0.obj.is_null() {
            // At the end of the interpreter it stays.
            Python::try_attach(|_| {
                // SAFETY: attached, and given back once.
                unsafe { ffi::PyBuffer_Release(&mut self.0) };
            });
        }
    }
}
