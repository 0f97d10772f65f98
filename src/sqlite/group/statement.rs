//! Statements of the writing connection, and one run of them.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use rusqlite::ffi;

use super::guard::Guard;
use super::request::{Params, Value, WriteError, Written};
use crate::sqlite::statements::Statements;
use crate::sqlite::{Db, Entered, Failure, text};

/// Statements kept prepared.
const KEPT: usize = 128;

/// A prepared statement, finalised when dropped.
pub(super) struct Statement {
    db: Arc<Db>,
    raw: *mut ffi::sqlite3_stmt,
    sql: Arc<str>,
    parameters: c_int,
    counts_rows: bool,
}

// SAFETY: it is used by the thread that has entered the connection only.
unsafe impl Send for Statement {}

impl Drop for Statement {
    fn drop(&mut self) {
        // SAFETY: a statement of this connection that is not used any more.
        unsafe { self.db.discard(self.raw) };
    }
}

/// The statements of one connection.
pub(crate) struct Cache {
    kept: Statements<Statement>,
    hasher: RandomState,
}

impl Cache {
    pub fn new() -> Self {
        Self { kept: Statements::new(KEPT), hasher: RandomState::new() }
    }

    /// Runs a statement to its end. What it changed by then, if it fails, is for the caller to undo.
    pub fn run(
        &mut self,
        db: &Arc<Db>,
        entered: &Entered<'_>,
        guard: &Guard,
        sql: &Arc<str>,
        params: &Params,
    ) -> Result<Written, WriteError> {
        let hash = self.hasher.hash_one(&**sql);
        let found = self.kept.take(hash, |statement| *statement.sql == **sql);
        let found = found.map_or_else(|| Statement::prepare(db, entered, guard, sql), |found| Ok(Some(found)))?;
        let Some(statement) = found else {
            return Ok(Written { rowcount: -1, ..Written::default() });
        };
        let outcome = statement.bind(entered, params).and_then(|()| statement.step(entered));
        // SAFETY: a statement of this connection, which is entered. What reset returns was returned by step already.
        unsafe {
            ffi::sqlite3_reset(statement.raw);
            if statement.parameters > 0 {
                ffi::sqlite3_clear_bindings(statement.raw);
            }
        }
        drop(self.kept.put(hash, statement));
        outcome
    }
}

impl Statement {
    fn prepare(db: &Arc<Db>, entered: &Entered<'_>, guard: &Guard, sql: &Arc<str>) -> Result<Option<Self>, WriteError> {
        if sql.contains('\0') {
            return Err(WriteError::Misused("the query contains a null character".to_owned()));
        }
        let head = text::skip_blank(sql.as_bytes());
        // Of this the guard is not told; SQLite itself refuses it in a transaction, in other words.
        if is_word(head, "vacuum") {
            return Err(out_of_place("VACUUM"));
        }
        let Ok(length) = c_int::try_from(sql.len()) else {
            return Err(Failure::of_code(ffi::SQLITE_TOOBIG).into());
        };
        let mut raw = std::ptr::null_mut();
        let mut tail: *const c_char = std::ptr::null();
        // SAFETY: the connection is open and entered; the text has that length.
        let (code, refused) = guard.compile(|| unsafe {
            ffi::sqlite3_prepare_v2(entered.raw(), sql.as_ptr().cast(), length, &mut raw, &mut tail)
        });
        if let Some(word) = refused {
            return Err(out_of_place(word));
        }
        if code != ffi::SQLITE_OK {
            return Err(entered.failure(code).into());
        }
        if raw.is_null() {
            return Ok(None);
        }
        entered.remember(raw);
        // SAFETY: a statement just made; SQLite points the tail into the text or at its end.
        let (parameters, is_readonly, used) = unsafe {
            let used = tail.cast::<u8>().offset_from(sql.as_ptr());
            (ffi::sqlite3_bind_parameter_count(raw), ffi::sqlite3_stmt_readonly(raw) != 0, used as usize)
        };
        let counts_rows = text::is_dml(head) || (is_word(head, "with") && !is_readonly);
        let statement = Self { db: Arc::clone(db), raw, sql: Arc::clone(sql), parameters, counts_rows };
        if !text::skip_blank(&sql.as_bytes()[used.min(sql.len())..]).is_empty() {
            return Err(WriteError::Misused("You can only execute one statement at a time.".to_owned()));
        }
        Ok(Some(statement))
    }

    fn bind(&self, entered: &Entered<'_>, params: &Params) -> Result<(), WriteError> {
        match params {
            Params::Positional(values) => {
                if values.len() != self.parameters as usize {
                    return Err(WriteError::Misused(format!(
                        "Incorrect number of bindings supplied. The current statement uses {}, and there are {} supplied.",
                        self.parameters,
                        values.len()
                    )));
                }
                (1..).zip(values).try_for_each(|(place, value)| self.bind_one(entered, place, None, value))
            }
            Params::Named(values) => (1..=self.parameters).try_for_each(|place| {
                let name = self.parameter_name(place).ok_or_else(|| {
                    let text =
                        format!("Binding {place} has no name, but you supplied a dictionary (which has only names).");
                    WriteError::Misused(text)
                })?;
                match values.iter().find(|(known, _)| **known == *name) {
                    Some((_, value)) => self.bind_one(entered, place, Some(&name), value),
                    None => {
                        Err(WriteError::Misused(format!("You did not supply a value for binding parameter :{name}.")))
                    }
                }
            }),
        }
    }

    /// Without the character it begins with.
    fn parameter_name(&self, place: c_int) -> Option<String> {
        // SAFETY: the statement is alive; the name is copied.
        unsafe {
            let name = ffi::sqlite3_bind_parameter_name(self.raw, place);
            (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().chars().skip(1).collect())
        }
    }

    fn bind_one(
        &self,
        entered: &Entered<'_>,
        place: c_int,
        name: Option<&str>,
        value: &Value,
    ) -> Result<(), WriteError> {
        // SAFETY: the statement is alive and not running. Texts and blobs outlive the run: the caller clears the bindings
        // while it still has the request.
        let code = unsafe {
            match value {
                Value::Null => ffi::sqlite3_bind_null(self.raw, place),
                Value::Integer(integer) => ffi::sqlite3_bind_int64(self.raw, place, *integer),
                Value::Real(real) => ffi::sqlite3_bind_double(self.raw, place, *real),
                Value::Text(bytes) => {
                    let (bytes, length) = (bytes.as_ptr().cast(), bytes.len() as u64);
                    let utf8 = ffi::SQLITE_UTF8 as u8;
                    ffi::sqlite3_bind_text64(self.raw, place, bytes, length, ffi::SQLITE_STATIC(), utf8)
                }
                Value::Blob(bytes) if bytes.is_empty() => ffi::sqlite3_bind_zeroblob(self.raw, place, 0),
                Value::Blob(bytes) => {
                    let (bytes, length) = (bytes.as_ptr().cast(), bytes.len() as u64);
                    ffi::sqlite3_bind_blob64(self.raw, place, bytes, length, ffi::SQLITE_STATIC())
                }
                Value::Unusable(reason) => {
                    let place = name.map_or_else(|| place.to_string(), |name| format!("':{name}'"));
                    return Err(WriteError::Misused(format!("Error binding parameter {place}: {reason}")));
                }
            }
        };
        if code == ffi::SQLITE_OK { Ok(()) } else { Err(entered.failure(code).into()) }
    }

    fn step(&self, entered: &Entered<'_>) -> Result<Written, WriteError> {
        let mut written = Written { rowcount: -1, ..Written::default() };
        // SAFETY: the connection is open and entered, the statement is one of it; columns are read while it stands on a row.
        unsafe {
            let columns = ffi::sqlite3_column_count(self.raw);
            ffi::sqlite3_set_last_insert_rowid(entered.raw(), 0);
            loop {
                entered.set_running(true);
                let code = ffi::sqlite3_step(self.raw);
                entered.set_running(false);
                match code {
                    ffi::SQLITE_ROW => written.rows.push((0..columns).map(|column| self.value(column)).collect()),
                    ffi::SQLITE_DONE => break,
                    code => return Err(entered.failure(code).into()),
                }
            }
            written.columns = (0..columns).map(|column| self.column_name(column)).collect();
            if self.counts_rows {
                written.rowcount = i64::from(ffi::sqlite3_changes(entered.raw()));
                let rowid = ffi::sqlite3_last_insert_rowid(entered.raw());
                written.last_rowid = (rowid != 0).then_some(rowid);
            }
        }
        Ok(written)
    }

    fn column_name(&self, column: c_int) -> Box<str> {
        // SAFETY: the statement is alive; the name is copied.
        unsafe {
            let name = ffi::sqlite3_column_name(self.raw, column);
            if name.is_null() { "".into() } else { CStr::from_ptr(name).to_string_lossy().into() }
        }
    }

    /// # Safety
    /// The statement stands on a row and the connection is entered.
    unsafe fn value(&self, column: c_int) -> Value {
        // SAFETY: the caller's promise. What the pointers show is copied before the next call; the length is asked for
        // after the pointer, as SQLite wants it.
        unsafe {
            match ffi::sqlite3_column_type(self.raw, column) {
                ffi::SQLITE_INTEGER => Value::Integer(ffi::sqlite3_column_int64(self.raw, column)),
                ffi::SQLITE_FLOAT => Value::Real(ffi::sqlite3_column_double(self.raw, column)),
                ffi::SQLITE_TEXT => {
                    let bytes = ffi::sqlite3_column_text(self.raw, column);
                    Value::Text(copy(bytes, ffi::sqlite3_column_bytes(self.raw, column)))
                }
                ffi::SQLITE_BLOB => {
                    let bytes = ffi::sqlite3_column_blob(self.raw, column);
                    Value::Blob(copy(bytes.cast(), ffi::sqlite3_column_bytes(self.raw, column)))
                }
                _ => Value::Null,
            }
        }
    }
}

/// # Safety
/// `bytes` is null or shows as many bytes.
unsafe fn copy(bytes: *const u8, length: c_int) -> Box<[u8]> {
    if bytes.is_null() {
        return Box::default();
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(bytes, length as usize) }.into()
}

fn out_of_place(word: &str) -> WriteError {
    WriteError::Misused(format!(
        "write() runs one statement in a transaction that it shares with others, so {word} has no place there; \
         use a connection of your own"
    ))
}

/// Whether the text begins with this word, and not just with its letters.
fn is_word(sql: &[u8], word: &str) -> bool {
    let goes_on = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    text::begins_with(sql, word) && !sql.get(word.len()).is_some_and(goes_on)
}

/// Runs a statement without parameters and results.
pub(super) fn execute(entered: &Entered<'_>, sql: &CStr) -> Result<(), Failure> {
    // SAFETY: the connection is open and entered, the text is terminated.
    let code =
        unsafe { ffi::sqlite3_exec(entered.raw(), sql.as_ptr(), None, std::ptr::null_mut(), std::ptr::null_mut()) };
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(entered.failure(code)) }
}

/// Whether a deferred foreign key is violated now, so that a commit would fail.
pub(super) fn has_open_references(entered: &Entered<'_>) -> bool {
    let (mut now, mut highest) = (0, 0);
    // SAFETY: the connection is open and entered.
    let code =
        unsafe { ffi::sqlite3_db_status(entered.raw(), ffi::SQLITE_DBSTATUS_DEFERRED_FKS, &mut now, &mut highest, 0) };
    code == ffi::SQLITE_OK && now > 0
}
