//! `Blob`: a file-like view of one BLOB.

use std::borrow::Cow;
use std::ffi::{CString, c_int};
use std::sync::Arc;

use pyo3::exceptions::{PyIndexError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::slice::PySliceIndices;
use pyo3::types::{PyBytes, PyDict, PyInt, PySlice, PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use super::arguments::{Int, surplus, text};
use super::connection::{Connection, closed, enter};
use super::{errors, gil, lane};
use crate::py::hang;
use crate::sqlite::Entered;
use crate::sqlite::blob::{self, Place};
use crate::sqlite::lane::Access;
use crate::support::sync::AttachedCell;

/// From so many bytes on, copying lets go of the interpreter lock.
const DETACH_FROM: usize = 1 << 16;

/// A BLOB of one row, read and written in place, also by index and slice. Its size cannot change. Made by
/// `Connection.blobopen()`.
#[pyclass(frozen, mapping, weakref, module = "upshift.sqlite")]
pub struct Blob {
    state: AttachedCell<State>,
}

struct State {
    connection: Option<Py<Connection>>,
    blob: Arc<blob::Blob>,
    offset: usize,
}

impl Blob {
    /// Runs `body` inside the connection, with the BLOB's size.
    ///
    /// `body` touches no Python object. `release`: it takes long.
    fn inside<R>(
        &self,
        py: Python<'_>,
        release: bool,
        body: impl FnOnce(&blob::Blob, &Entered<'_>, usize) -> PyResult<R>,
    ) -> PyResult<R> {
        let (connection, blob) = self.state.with(py, |state| {
            (state.connection.as_ref().map(|connection| connection.clone_ref(py)), Arc::clone(&state.blob))
        });
        let connection = connection.ok_or_else(|| closed(py))?;
        connection.get().db(py)?;
        // Not always the same: a connection may have been opened anew.
        let db = Arc::clone(blob.db());
        let entered = enter(py, &db)?;
        let length = blob.len(&entered).ok_or_else(|| errors::programming(py, "Cannot operate on a closed blob."))?;
        let stepping = gil::Stepping::begin(py, &entered, release && db.has_file());
        let result = body(&blob, &entered, length);
        drop(stepping);
        result
    }

    fn length(&self, py: Python<'_>) -> PyResult<usize> {
        self.inside(py, false, |_, _, length| Ok(length))
    }

    fn offset(&self, py: Python<'_>) -> usize {
        self.state.with(py, |state| state.offset)
    }

    fn read_at<'py>(&self, py: Python<'py>, offset: usize, length: usize) -> PyResult<Bound<'py, PyBytes>> {
        PyBytes::new_with(py, length, |into| {
            let done =
                self.inside(py, length >= DETACH_FROM, |blob, entered, _| Ok(blob.read(entered, offset, into)))?;
            done.map_err(|failure| errors::of_failure(py, &failure))
        })
    }

    fn write_at(&self, py: Python<'_>, offset: usize, bytes: &[u8]) -> PyResult<()> {
        let done = self.inside(py, bytes.len() >= DETACH_FROM, |blob, entered, length| {
            if length.checked_sub(offset).is_none_or(|room| bytes.len() > room) {
                return Err(PyValueError::new_err("data longer than blob length"));
            }
            Ok(blob.write(entered, offset, bytes))
        })?;
        done.map_err(|failure| errors::of_failure(py, &failure))
    }

    fn place(&self, index: &Bound<'_, PyAny>) -> PyResult<usize> {
        let length = self.length(index.py())? as isize;
        let index = index_of(index)?;
        let place = if index < 0 { index + length } else { index };
        if (0..length).contains(&place) {
            Ok(place as usize)
        } else {
            Err(PyIndexError::new_err("Blob index out of range"))
        }
    }

    fn slice(&self, slice: &Bound<'_, PySlice>) -> PyResult<PySliceIndices> {
        slice.indices(self.length(slice.py())? as isize)
    }
}

/// The bytes a slice with a step touches: where they begin and how many there are.
fn span(slice: &PySliceIndices) -> (usize, usize) {
    let last = slice.start + (slice.slicelength as isize - 1) * slice.step;
    let (low, high) = (slice.start.min(last), slice.start.max(last));
    (low as usize, (high - low) as usize + 1)
}

/// The places of the slice's items in its span.
fn places(slice: &PySliceIndices, low: usize) -> impl Iterator<Item = usize> {
    let (start, step) = (slice.start, slice.step);
    (0..slice.slicelength as isize).map(move |item| (start + item * step) as usize - low)
}

fn index_of(index: &Bound<'_, PyAny>) -> PyResult<isize> {
    let py = index.py();
    let index = hang::method(py.import("operator")?.as_any(), "index", (index,), None)?;
    index.extract().map_err(|_| PyIndexError::new_err("cannot fit 'int' into an index-sized integer"))
}

fn wrong_index() -> PyErr {
    PyTypeError::new_err("Blob indices must be integers")
}

/// What an object with the buffer protocol holds; a copy if others may change it while it is being written.
pub fn bytes_of<'a>(value: &'a Bound<'_, PyAny>) -> PyResult<Cow<'a, [u8]>> {
    match value.cast::<PyBytes>() {
        Ok(bytes) => Ok(Cow::Borrowed(bytes.as_bytes())),
        Err(_) => super::adapt::bytes_of(value).map(Cow::Owned),
    }
}

#[pymethods]
impl Blob {
    /// Read data at the current offset; all that is left if `length` is negative.
    #[pyo3(signature = (length = Int(-1), /), text_signature = "($self, length=-1, /)")]
    fn read<'py>(&self, py: Python<'py>, length: Int) -> PyResult<Bound<'py, PyBytes>> {
        let offset = self.offset(py);
        let left = self.length(py)?.saturating_sub(offset);
        let length = usize::try_from(length.0).unwrap_or(left).min(left);
        if length == 0 {
            return Ok(PyBytes::new(py, b""));
        }
        let bytes = self.read_at(py, offset, length)?;
        self.state.with(py, |state| state.offset = offset + length);
        Ok(bytes)
    }

    /// Write data at the current offset. The blob does not grow.
    #[pyo3(signature = (data, /))]
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = data.py();
        let bytes = bytes_of(data)?;
        let offset = self.offset(py);
        self.write_at(py, offset, &bytes)?;
        self.state.with(py, |state| state.offset = offset + bytes.len());
        Ok(())
    }

    /// Set the current access position; `origin` as of `io.IOBase.seek`.
    #[pyo3(signature = (offset, origin = Int(0), /), text_signature = "($self, offset, origin=0, /)")]
    fn seek(&self, py: Python<'_>, offset: Int, origin: Int) -> PyResult<()> {
        let length = self.length(py)?;
        let base = match origin.0 {
            0 => 0,
            1 => self.offset(py),
            2 => length,
            _ => {
                return Err(PyValueError::new_err("'origin' should be os.SEEK_SET, os.SEEK_CUR, or os.SEEK_END"));
            }
        };
        let wanted = i64::from(offset.0) + base as i64;
        if wanted > i64::from(c_int::MAX) {
            return Err(PyOverflowError::new_err("seek offset results in overflow"));
        }
        match usize::try_from(wanted) {
            Ok(wanted) if wanted <= length => {
                self.state.with(py, |state| state.offset = wanted);
                Ok(())
            }
            _ => Err(PyValueError::new_err("offset out of blob range")),
        }
    }

    /// Return the current access position.
    fn tell(&self, py: Python<'_>) -> PyResult<usize> {
        self.length(py)?;
        Ok(self.offset(py))
    }

    /// Close the blob. What was written is committed then, unless a transaction is open.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let (connection, blob) = self.state.with(py, |state| {
            (state.connection.as_ref().map(|connection| connection.clone_ref(py)), Arc::clone(&state.blob))
        });
        let connection = connection.ok_or_else(|| closed(py))?;
        connection.get().db(py)?;
        let db = Arc::clone(blob.db());
        let Ok(entered) = enter(py, &db) else { return Ok(()) };
        let stepping = gil::Stepping::begin(py, &entered, db.has_file());
        let done = blob.close(&entered);
        entered.settle_lane();
        drop(stepping);
        done.map_err(|failure| errors::of_failure(py, &failure))
    }

    /// The BLOB itself; leaving the block closes it.
    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        slf.get().length(slf.py())?;
        Ok(slf.clone())
    }

    #[pyo3(signature = (r#type, val, tb, /))]
    /// Closes the BLOB, after an exception as well.
    fn __exit__(&self, r#type: &Bound<'_, PyAny>, val: &Bound<'_, PyAny>, tb: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = r#type.py();
        let _ = (val, tb);
        self.length(py)?;
        self.close(py)?;
        Ok(false)
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.length(py)
    }

    fn __getitem__<'py>(&self, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = key.py();
        self.length(py)?;
        if let Ok(slice) = key.cast::<PySlice>() {
            let slice = self.slice(slice)?;
            if slice.slicelength == 0 {
                return Ok(PyBytes::new(py, b"").into_any());
            }
            let (low, length) = span(&slice);
            let bytes = self.read_at(py, low, length)?;
            if slice.step == 1 {
                return Ok(bytes.into_any());
            }
            let bytes = bytes.as_bytes();
            let chosen: Vec<u8> = places(&slice, low).map(|place| bytes[place]).collect();
            return Ok(PyBytes::new(py, &chosen).into_any());
        }
        if !is_index(key) {
            return Err(wrong_index());
        }
        let place = self.place(key)?;
        let byte = self.read_at(py, place, 1)?;
        Ok(byte.as_bytes()[0].into_pyobject(py)?.into_any())
    }

    fn __setitem__(&self, key: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = key.py();
        self.length(py)?;
        if let Ok(slice) = key.cast::<PySlice>() {
            let slice = self.slice(slice)?;
            if slice.slicelength == 0 {
                return Ok(());
            }
            let bytes = bytes_of(value)?;
            if bytes.len() != slice.slicelength {
                return Err(PyIndexError::new_err("Blob slice assignment is wrong size"));
            }
            let (low, length) = span(&slice);
            if slice.step == 1 {
                return self.write_at(py, low, &bytes);
            }
            let mut between = self.read_at(py, low, length)?.as_bytes().to_vec();
            places(&slice, low).zip(&*bytes).for_each(|(place, byte)| between[place] = *byte);
            return self.write_at(py, low, &between);
        }
        if !is_index(key) {
            return Err(wrong_index());
        }
        if !value.is_instance_of::<PyInt>() {
            let class = value.get_type().name()?;
            return Err(PyTypeError::new_err(format!("'{class}' object cannot be interpreted as an integer")));
        }
        let place = self.place(key)?;
        let byte: u8 = value.extract().map_err(|_| PyValueError::new_err("byte must be in range(0, 256)"))?;
        self.write_at(py, place, &[byte])
    }

    fn __delitem__(&self, key: &Bound<'_, PyAny>) -> PyResult<()> {
        self.length(key.py())?;
        let what = if key.is_instance_of::<PySlice>() { "slice" } else { "item" };
        Err(PyTypeError::new_err(format!("Blob doesn't support {what} deletion")))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: the collector runs attached.
        #[allow(unsafe_code)]
        let visited = unsafe {
            self.state.try_with_unchecked(|state| match &state.connection {
                Some(connection) => visit.call(connection),
                None => Ok(()),
            })
        };
        visited.unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        // SAFETY: the collector runs attached.
        #[allow(unsafe_code)]
        let gone = unsafe { self.state.try_with_unchecked(|state| state.connection.take()) };
        drop(gone);
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        // Objects die attached, unless the interpreter is gone.
        Python::try_attach(|py| {
            let blob = self.state.with(py, |state| Arc::clone(&state.blob));
            let db = Arc::clone(blob.db());
            if !db.is_ours() {
                return;
            }
            // Closing may commit. What goes wrong with that nobody is left to hear; if another thread is inside, it closes.
            if let Some(entered) = db.try_enter() {
                let stepping = gil::Stepping::begin(py, &entered, db.has_file());
                drop(blob.close(&entered));
                entered.settle_lane();
                drop(stepping);
            }
        });
    }
}

fn is_index(key: &Bound<'_, PyAny>) -> bool {
    key.is_instance_of::<PyInt>() || key.hasattr("__index__").unwrap_or(false)
}

#[pymethods]
impl Connection {
    /// Open and return a BLOB object.
    ///
    /// Args:
    ///     table: Name of the table.
    ///     column: Name of the column.
    ///     row: The rowid.
    ///     readonly: Do not allow writing.
    ///     name: Database: `"main"`, `"temp"` or the name of an attached one.
    #[pyo3(
        signature = (*args, **kwargs),
        text_signature = "($self, table, column, row, /, *, readonly=False, name='main')"
    )]
    fn blobopen(
        slf: &Bound<'_, Self>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Blob> {
        let py = slf.py();
        let [table, column, row] = args.as_slice() else {
            let given = args.len();
            let message = format!("blobopen() takes exactly 3 positional arguments ({given} given)");
            return Err(PyTypeError::new_err(message));
        };
        let (table, column) = (text(table, "blobopen() argument 1")?, text(column, "blobopen() argument 2")?);
        let row = row.cast::<PyInt>().map_err(|_| PyTypeError::new_err("expected 'int'"))?;
        let row: i64 = row.extract().map_err(|_| super::adapt::too_large())?;
        let (mut readonly, mut database) = (false, c"main".to_owned());
        for (key, value) in kwargs.into_iter().flat_map(|kwargs| kwargs.iter()) {
            match key.cast::<PyString>()?.to_str()? {
                "readonly" => readonly = hang::is_true(&value)?,
                "name" => database = text(&value, "blobopen() argument 'name'")?,
                other => return Err(surplus("blobopen", other)),
            }
        }
        let db = slf.get().db(py)?;
        let place = Place { database: &database, table: &table, column: &column, row };
        let entered = enter(py, &db)?;
        let stepping = gil::Stepping::begin(py, &entered, !readonly && db.has_file());
        let access = if readonly { Access::Read } else { Access::Write };
        let taken = lane::take(&entered, access, || "a blob opened for writing");
        let opened = taken.map(|()| blob::Blob::open(&db, &entered, place, !readonly));
        entered.settle_lane();
        drop(stepping);
        let blob = opened?.map_err(|failure| errors::of_failure(py, &failure))?;
        let state = State { connection: Some(slf.clone().unbind()), blob: Arc::new(blob), offset: 0 };
        Ok(Blob { state: AttachedCell::new(state) })
    }
}

/// A text that SQLite takes as a name.
pub fn terminated(text: &str) -> PyResult<CString> {
    CString::new(text).map_err(|_| PyValueError::new_err("embedded null character"))
}
