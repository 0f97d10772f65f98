//! A prepared statement with what the module knows about it.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int};
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use super::{errors, lane, settings};
use crate::sqlite::lane::Access;
use crate::sqlite::{Db, Entered, raw, text};

/// Owned by one cursor at a time, or by its connection's cache.
pub struct Prepared {
    pub db: Arc<Db>,
    /// Never null: a text without a statement makes no `Prepared`. Ends with the connection if that is closed first.
    pub statement: *mut raw::sqlite3_stmt,
    pub sql: Py<PyString>,
    pub hash: u64,
    pub parameters: c_int,
    /// INSERT, UPDATE, DELETE or REPLACE by its first word.
    pub is_dml: bool,
    /// As SQLite reports it: changes no database file directly.
    pub is_readonly: bool,
    /// The access to the lane of the database that it needs, if any.
    pub access: Option<Access>,
    /// A SELECT, WITH or VALUES that changes nothing.
    pub is_query: bool,
    pub kind: Kind,
    /// Made when first asked for, with the count of recompilations at that time.
    description: Option<(c_int, Py<PyTuple>)>,
    /// Names of the parameters without their first character, made when first asked for; `None` for `?`.
    names: Option<Vec<Option<Py<PyString>>>>,
}

/// Statements that something has to be done about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Plain,
    /// BEGIN, SAVEPOINT: "read-only", but begins a transaction.
    Begin,
    /// COMMIT, END, ROLLBACK, RELEASE: may write to the file though "read-only".
    End,
    /// `PRAGMA busy_timeout`, which would replace the module's own way of waiting.
    BusyTimeout,
    /// Any other PRAGMA, VACUUM, ATTACH, DETACH: may change how the file is used.
    Settings,
}

// SAFETY: the statement is used by a thread that has entered the connection only, the rest by attached threads.
unsafe impl Send for Prepared {}

impl Drop for Prepared {
    fn drop(&mut self) {
        // SAFETY: a statement of this connection; its owner is going.
        unsafe { self.db.discard(self.statement) };
    }
}

/// Compiles a text with one statement. `Ok(None)` if it holds none.
pub fn prepare(
    py: Python<'_>,
    entered: &Entered<'_>,
    db: &Arc<Db>,
    sql: &Bound<'_, PyString>,
    hash: u64,
) -> PyResult<Option<Prepared>> {
    let text = sql.to_str()?;
    if text.len() > limit(entered, raw::SQLITE_LIMIT_SQL_LENGTH) as usize {
        return Err(errors::data(py, "query string is too large"));
    }
    if text.contains('\0') {
        return Err(null_character(py));
    }
    let (prepared, used) = first_statement(py, entered, db, text)?;
    if !text::skip_blank(&text.as_bytes()[used..]).is_empty() {
        let message = "You can only execute one statement at a time.";
        return Err(if cfg!(Py_3_11) { errors::programming(py, message) } else { errors::warning(py, message) });
    }
    Ok(prepared.map(|mut prepared| {
        prepared.sql = sql.clone().unbind();
        prepared.hash = hash;
        prepared
    }))
}

/// Compiles the first statement of a text, and tells where it ends. The text is the end of a Python string.
pub fn first_statement(
    py: Python<'_>,
    entered: &Entered<'_>,
    db: &Arc<Db>,
    sql: &str,
) -> PyResult<(Option<Prepared>, usize)> {
    let text = sql.as_bytes();
    let head = text::skip_blank(text);
    let mut statement = std::ptr::null_mut();
    let mut tail: *const c_char = std::ptr::null();
    let _waiting = settings::names_busy_timeout(head).then(|| settings::Waiting::begin(entered));
    let stepping = super::gil::Stepping::begin(py, entered, false);
    let held = entered.db().seat().is_held();
    // A database in memory is closed to readers while somebody writes, and compiling may have to read its schema.
    if entered.db().memory().is_some() && Kind::of(head) == Kind::Plain {
        if let Err(error) = lane::take(entered, Access::Read, || sql) {
            drop(stepping);
            return Err(error);
        }
    }
    // SAFETY: the connection is open and this thread is inside; the text is followed by a zero, which is counted, so that
    // SQLite need not copy it.
    let code = unsafe {
        let length = c_int::try_from(text.len() + 1).unwrap_or(c_int::MAX);
        raw::sqlite3_prepare_v2(entered.raw(), text.as_ptr().cast(), length, &mut statement, &mut tail)
    };
    if !held {
        // Two that wait to write must not keep each other out by reading.
        entered.settle_lane();
    }
    drop(stepping);
    if code != raw::SQLITE_OK {
        return Err(errors::of_code(py, entered, code));
    }
    // SAFETY: SQLite points the tail into the text or at its end.
    let used = unsafe { tail.cast::<u8>().offset_from(text.as_ptr()) } as usize;
    let used = used.min(text.len());
    if statement.is_null() {
        return Ok((None, used));
    }
    entered.remember(statement);
    // SAFETY: a statement of this connection.
    let (parameters, is_readonly, explains) = unsafe {
        let is_readonly = raw::sqlite3_stmt_readonly(statement) != 0;
        (raw::sqlite3_bind_parameter_count(statement), is_readonly, raw::sqlite3_stmt_isexplain(statement) != 0)
    };
    let kind = Kind::of(&head[..head.len().min(used)]);
    let prepared = Prepared {
        db: Arc::clone(db),
        statement,
        sql: PyString::intern(py, "").unbind(),
        hash: 0,
        parameters,
        is_dml: text::is_dml(head),
        is_readonly,
        access: if explains { None } else { kind.access(is_readonly, head) },
        kind,
        is_query: is_readonly && text::is_query(head),
        description: None,
        names: None,
    };
    Ok((Some(prepared), used))
}

/// A limit of the connection.
pub fn limit(entered: &Entered<'_>, which: c_int) -> c_int {
    // SAFETY: the connection is open and this thread is inside; -1 only asks.
    unsafe { raw::sqlite3_limit(entered.raw(), which, -1) }
}

pub fn null_character(py: Python<'_>) -> PyErr {
    let message = "the query contains a null character";
    if cfg!(Py_3_11) { errors::programming(py, message) } else { pyo3::exceptions::PyValueError::new_err(message) }
}

impl Kind {
    fn of(head: &[u8]) -> Self {
        let begins = |words: &[&str]| words.iter().any(|word| text::begins_with(head, word));
        if begins(&["begin", "savepoint"]) {
            Self::Begin
        } else if begins(&["commit", "end", "rollback", "release"]) {
            Self::End
        } else if begins(&["pragma"]) {
            if settings::names_busy_timeout(head) { Self::BusyTimeout } else { Self::Settings }
        } else if begins(&["vacuum", "attach", "detach"]) {
            Self::Settings
        } else {
            Self::Plain
        }
    }

    /// The access to the lane that a statement of this kind needs.
    fn access(self, is_readonly: bool, head: &[u8]) -> Option<Access> {
        match self {
            Self::Plain => Some(if is_readonly { Access::Read } else { Access::Write }),
            Self::Begin if !is_readonly => Some(Access::Write),
            Self::Settings if text::begins_with(head, "vacuum") => Some(Access::Write),
            // Few settings are written to the file, and a connection must not wait for writers to be set up.
            Self::Begin | Self::End | Self::Settings | Self::BusyTimeout => None,
        }
    }
}

impl Prepared {
    /// Whether running it writes to a file or syncs it: such steps let go of the interpreter lock from the beginning.
    #[inline(always)]
    pub fn is_slow(&self, entered: &Entered<'_>) -> bool {
        match self.kind {
            Kind::Plain | Kind::Begin => !self.is_readonly && !entered.in_transaction() && self.has_file(),
            Kind::End | Kind::Settings | Kind::BusyTimeout => self.has_file(),
        }
    }

    fn has_file(&self) -> bool {
        !self.db.file().as_os_str().is_empty()
    }

    /// Ends the run, so that the statement can run again and holds no lock.
    #[inline(always)]
    pub fn reset(&self, entered: &Entered<'_>) -> c_int {
        debug_assert!(!entered.raw().is_null());
        // SAFETY: the connection is open and this thread is inside.
        unsafe { raw::sqlite3_reset(self.statement) }
    }

    /// The same, and forgets what was bound.
    pub fn clear(&self, entered: &Entered<'_>) {
        self.reset(entered);
        if self.parameters > 0 {
            // SAFETY: as in `reset`.
            unsafe { raw::sqlite3_clear_bindings(self.statement) };
        }
    }

    #[inline(always)]
    pub fn columns(&self, _entered: &Entered<'_>) -> c_int {
        // SAFETY: as in `reset`.
        unsafe { raw::sqlite3_column_count(self.statement) }
    }

    /// Name of a column, as SQLite reports it.
    pub fn column_name(&self, py: Python<'_>, _entered: &Entered<'_>, column: c_int) -> PyResult<&CStr> {
        // SAFETY: as in `reset`; the name lives until the statement is compiled anew, the caller copies it before.
        let name = unsafe { raw::sqlite3_column_name(self.statement, column) };
        if name.is_null() {
            return Err(pyo3::exceptions::PyMemoryError::new_err(()));
        }
        let _ = py;
        // SAFETY: a terminated text.
        Ok(unsafe { CStr::from_ptr(name) })
    }

    /// Declared type of a column, if it comes from a table.
    pub fn declared_type(&self, _entered: &Entered<'_>, column: c_int) -> Option<&CStr> {
        // SAFETY: as in `column_name`.
        unsafe {
            let declared = raw::sqlite3_column_decltype(self.statement, column);
            (!declared.is_null()).then(|| CStr::from_ptr(declared))
        }
    }

    /// Name of a parameter (from 1), without the character it begins with.
    pub fn parameter_name<'py>(
        &mut self,
        py: Python<'py>,
        entered: &Entered<'_>,
        place: c_int,
    ) -> PyResult<Option<Bound<'py, PyString>>> {
        let names = match self.names.take() {
            Some(names) => names,
            None => self.find_names(py, entered),
        };
        let name = names[place as usize - 1].as_ref().map(|name| name.bind(py).clone());
        self.names = Some(names);
        Ok(name)
    }

    fn find_names(&self, py: Python<'_>, _entered: &Entered<'_>) -> Vec<Option<Py<PyString>>> {
        let name = |place| {
            // SAFETY: as in `reset`; the name is copied.
            let name = unsafe {
                let name = raw::sqlite3_bind_parameter_name(self.statement, place);
                if name.is_null() {
                    return None;
                }
                CStr::from_ptr(name)
            };
            let name = name.to_string_lossy();
            let mut characters = name.chars();
            characters.next();
            Some(PyString::intern(py, characters.as_str()).unbind())
        };
        (1..=self.parameters).map(name).collect()
    }

    /// A sequence for named parameters works, but not from Python 3.14 on.
    #[cfg(Py_3_12)]
    pub fn warn_of_names(&mut self, py: Python<'_>, entered: &Entered<'_>) -> PyResult<()> {
        if self.names.is_none() {
            self.names = Some(self.find_names(py, entered));
        }
        for (index, name) in self.names.iter().flatten().enumerate() {
            let Some(name) = name else { continue };
            // SAFETY: as in `reset`; the name is copied.
            let full = unsafe { CStr::from_ptr(raw::sqlite3_bind_parameter_name(self.statement, index as c_int + 1)) };
            let full = full.to_string_lossy();
            // `?1` has a name too, but is meant by position.
            if full.starts_with('?') {
                continue;
            }
            let _ = name;
            let text = format!(
                "Binding {} ('{full}') is a named parameter, but you supplied a sequence which requires nameless (qmark) \
                 placeholders. Starting with Python 3.14 an sqlite3.ProgrammingError will be raised.",
                index + 1
            );
            let text = std::ffi::CString::new(text)?;
            PyErr::warn(py, &py.get_type::<pyo3::exceptions::PyDeprecationWarning>(), &text, 1)?;
        }
        Ok(())
    }

    /// `cursor.description`: one 7-tuple for each column, `None` without columns.
    ///
    /// `cut`: names end before ` [`, where a converter's name begins.
    pub fn description(&mut self, py: Python<'_>, entered: &Entered<'_>, cut: bool) -> PyResult<Option<Py<PyTuple>>> {
        let count = self.columns(entered);
        if count == 0 {
            return Ok(None);
        }
        // SAFETY: as in `reset`.
        let compiled = unsafe { raw::sqlite3_stmt_status(self.statement, raw::SQLITE_STMTSTATUS_REPREPARE, 0) };
        if let Some((made_at, description)) = &self.description {
            if *made_at == compiled {
                return Ok(Some(description.clone_ref(py)));
            }
        }
        let mut columns = Vec::with_capacity(count as usize);
        for column in 0..count {
            let name = self.column_name(py, entered, column)?.to_bytes();
            let end = if cut { cut_of(name) } else { None };
            // As the standard library decodes it: strictly.
            let name = PyString::from_bytes(py, &name[..end.unwrap_or(name.len())])?;
            let none = || py.None();
            columns.push((name, none(), none(), none(), none(), none(), none()).into_pyobject(py)?);
        }
        let description = PyTuple::new(py, columns)?.unbind();
        self.description = Some((compiled, description.clone_ref(py)));
        Ok(Some(description))
    }
}

/// Where ` [` begins.
fn cut_of(name: &[u8]) -> Option<usize> {
    name.windows(2).position(|pair| pair == b" [")
}
