//! A statement of a scan, for as long as its connection is entered.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};

use rusqlite::ffi::{self, sqlite3_stmt};
use rusqlite::types::Value;

use super::{Parameters, ScanError};
use crate::sqlite::Entered;

pub(super) struct Statement<'a, 'db> {
    entered: &'a Entered<'db>,
    raw: *mut sqlite3_stmt,
}

impl<'a, 'db> Statement<'a, 'db> {
    /// The connection is open.
    pub fn prepare(entered: &'a Entered<'db>, sql: &str) -> Result<Self, ScanError> {
        let mut raw = std::ptr::null_mut();
        let length = c_int::try_from(sql.len()).unwrap_or(c_int::MAX);
        if entered.raw().is_null() {
            return Err(ScanError::Closed);
        }
        // SAFETY: the connection is open and this thread is inside; the text is as long as said.
        let code = unsafe {
            ffi::sqlite3_prepare_v2(entered.raw(), sql.as_ptr().cast(), length, &mut raw, std::ptr::null_mut())
        };
        match code {
            ffi::SQLITE_OK if !raw.is_null() => Ok(Self { entered, raw }),
            ffi::SQLITE_OK => Err(ScanError::Parameters("there is no statement in the text".to_owned())),
            code => Err(entered.failure(code).into()),
        }
    }

    pub fn raw(&self) -> *mut sqlite3_stmt {
        self.raw
    }

    pub fn columns(&self) -> c_int {
        // SAFETY: the statement is alive and its connection entered; so everywhere below.
        unsafe { ffi::sqlite3_column_count(self.raw) }
    }

    pub fn is_readonly(&self) -> bool {
        // SAFETY: see `columns`.
        unsafe { ffi::sqlite3_stmt_readonly(self.raw) != 0 }
    }

    pub fn reset(&self) {
        // SAFETY: see `columns`. The error of the last step was reported then.
        unsafe { ffi::sqlite3_reset(self.raw) };
    }

    /// Whether there is a row.
    pub fn step(&self) -> Result<bool, ScanError> {
        self.entered.set_running(true);
        // SAFETY: see `columns`.
        let code = unsafe { ffi::sqlite3_step(self.raw) };
        self.entered.set_running(false);
        match code {
            ffi::SQLITE_ROW => Ok(true),
            ffi::SQLITE_DONE => Ok(false),
            code => Err(self.entered.failure(code).into()),
        }
    }

    pub fn int(&self, column: c_int) -> i64 {
        // SAFETY: see `columns`; without a row it is 0.
        unsafe { ffi::sqlite3_column_int64(self.raw, column) }
    }

    pub fn text(&self, column: c_int) -> String {
        // SAFETY: see `columns`; the text is copied before the next call.
        unsafe {
            let text = ffi::sqlite3_column_text(self.raw, column);
            if text.is_null() {
                return String::new();
            }
            CStr::from_ptr(text.cast()).to_string_lossy().into_owned()
        }
    }

    pub fn bind(&self, place: c_int, value: &Value) -> Result<(), ScanError> {
        // SAFETY: see `columns`; SQLite copies the value. An empty slice has an address.
        let code = unsafe {
            let copied = ffi::SQLITE_TRANSIENT();
            match value {
                Value::Null => ffi::sqlite3_bind_null(self.raw, place),
                Value::Integer(value) => ffi::sqlite3_bind_int64(self.raw, place, *value),
                Value::Real(value) => ffi::sqlite3_bind_double(self.raw, place, *value),
                Value::Text(value) => {
                    let (start, length) = (value.as_ptr().cast(), value.len() as u64);
                    ffi::sqlite3_bind_text64(self.raw, place, start, length, copied, ffi::SQLITE_UTF8 as u8)
                }
                Value::Blob(value) => {
                    ffi::sqlite3_bind_blob64(self.raw, place, value.as_ptr().cast(), value.len() as u64, copied)
                }
            }
        };
        if code == ffi::SQLITE_OK { Ok(()) } else { Err(self.entered.failure(code).into()) }
    }

    /// Number of the parameter of this name, its first character included.
    pub fn place(&self, name: &CStr) -> Option<c_int> {
        // SAFETY: see `columns`.
        let place = unsafe { ffi::sqlite3_bind_parameter_index(self.raw, name.as_ptr()) };
        (place > 0).then_some(place)
    }

    /// Binds what the application gave. The parameters in `own` are not the application's.
    pub fn bind_all(&self, parameters: &Parameters, own: &[c_int]) -> Result<(), ScanError> {
        // SAFETY: see `columns`.
        let count = unsafe { ffi::sqlite3_bind_parameter_count(self.raw) };
        let theirs: Vec<c_int> = (1..=count).filter(|place| !own.contains(place)).collect();
        match parameters {
            Parameters::Positional(values) => {
                if values.len() != theirs.len() {
                    return Err(ScanError::Parameters(format!(
                        "Incorrect number of bindings supplied. The current statement uses {}, and there are {} supplied.",
                        theirs.len(),
                        values.len()
                    )));
                }
                for (&place, value) in theirs.iter().zip(values) {
                    self.bind(place, value)?;
                }
            }
            Parameters::Named(values) => {
                for &place in &theirs {
                    let Some(name) = self.parameter_name(place) else {
                        return Err(ScanError::Parameters(format!(
                            "Binding {place} has no name, but you supplied a dictionary (which has only names)."
                        )));
                    };
                    match values.iter().find(|(known, _)| *known == name[1..]) {
                        Some((_, value)) => self.bind(place, value)?,
                        None => {
                            let text = format!("You did not supply a value for binding parameter {name}.");
                            return Err(ScanError::Parameters(text));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn parameter_name(&self, place: c_int) -> Option<String> {
        // SAFETY: see `columns`; the name is copied.
        unsafe {
            let name = ffi::sqlite3_bind_parameter_name(self.raw, place);
            (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
        }
    }
}

impl Drop for Statement<'_, '_> {
    fn drop(&mut self) {
        if !self.entered.raw().is_null() {
            // SAFETY: see `columns`; it did not end with its connection.
            unsafe { ffi::sqlite3_finalize(self.raw) };
        }
    }
}

/// Runs a statement without parameters and results.
pub(super) fn execute(entered: &Entered<'_>, sql: &str) -> Result<(), ScanError> {
    let statement = Statement::prepare(entered, sql)?;
    while statement.step()? {}
    Ok(())
}
