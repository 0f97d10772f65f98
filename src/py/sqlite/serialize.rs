//! A database as bytes, and back.
#![allow(unsafe_code)]

use std::ffi::c_uint;

use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::blob::{bytes_of, terminated};
use super::connection::{Connection, enter};
use super::{errors, gil};
use crate::sqlite::raw;

/// What SQLite allocated.
struct Allocated(*mut u8);

impl Drop for Allocated {
    fn drop(&mut self) {
        // SAFETY: from SQLite's allocator, freed once; null does no harm.
        unsafe { raw::sqlite3_free(self.0.cast()) };
    }
}

#[pymethods]
impl Connection {
    /// Serialize a database into a byte string.
    ///
    /// For an ordinary database file, the serialization is just a copy of the disk file; for an in-memory or temporary
    /// one, it is the bytes that would be written to disk if the database was backed up to it.
    #[pyo3(signature = (*, name = "main"))]
    fn serialize<'py>(slf: &Bound<'py, Self>, name: &str) -> PyResult<Bound<'py, PyBytes>> {
        let py = slf.py();
        let db = slf.get().db(py)?;
        let text = terminated(name)?;
        let entered = enter(py, &db)?;
        let mut size = 0;
        let mut find = |flags: c_uint, release| {
            let _stepping = gil::Stepping::begin(py, &entered, release);
            // SAFETY: open and entered, a terminated name.
            unsafe { raw::sqlite3_serialize(entered.raw(), text.as_ptr(), &mut size, flags) }
        };
        // In memory it may be in one piece already.
        let inside = find(raw::SQLITE_SERIALIZE_NOCOPY as c_uint, false);
        let (start, copy) = if inside.is_null() {
            let copy = Allocated(find(0, true));
            (copy.0.cast_const(), Some(copy))
        } else {
            (inside.cast_const(), None)
        };
        if start.is_null() {
            return Err(errors::operational(py, format!("unable to serialize '{name}'")));
        }
        let size = usize::try_from(size).map_err(|_| PyMemoryError::new_err(()))?;
        // SAFETY: so many bytes, which stay as they are while this thread is inside.
        let bytes = PyBytes::new(py, unsafe { std::slice::from_raw_parts(start, size) });
        drop(copy);
        Ok(bytes)
    }

    /// Load a serialized database, in place of the one that is connected under that name.
    ///
    /// The database is in memory from then on. That of a pooled connection cannot be replaced: the others would still have
    /// the old one.
    #[pyo3(signature = (data, /, *, name = "main"))]
    fn deserialize(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>, name: &str) -> PyResult<()> {
        let py = slf.py();
        let db = slf.get().db(py)?;
        let bytes = bytes_of(data)?;
        if name.eq_ignore_ascii_case("main") && slf.get().state.with(py, |state| state.is_pooled) {
            let message = "deserialize() would replace the database of this connection, which is one of a pool, and leave \
                           the others with the old one; use backup() or a connection of your own";
            return Err(errors::programming(py, message));
        }
        let name = terminated(name)?;
        let size = bytes.len() as i64;
        let entered = enter(py, &db)?;
        let flags = (raw::SQLITE_DESERIALIZE_FREEONCLOSE | raw::SQLITE_DESERIALIZE_RESIZEABLE) as c_uint;
        // SAFETY: the copy has the size asked for; SQLite owns it from then on, also if it fails.
        let code = unsafe {
            let copy = raw::sqlite3_malloc64(bytes.len() as u64).cast::<u8>();
            if copy.is_null() && !bytes.is_empty() {
                return Err(PyMemoryError::new_err(()));
            }
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), copy, bytes.len());
            let _stepping = gil::Stepping::begin(py, &entered, false);
            raw::sqlite3_deserialize(entered.raw(), name.as_ptr(), copy, size, size, flags)
        };
        if code != raw::SQLITE_OK {
            return Err(errors::of_code(py, &entered, code));
        }
        // They know the tables of the old database.
        let statements = slf.get().state.with(py, |state| state.statements.take_all());
        drop(statements);
        Ok(())
    }
}
