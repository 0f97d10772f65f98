//! Running statements: text to statement, values in, the first step, what follows from it.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::sync::Arc;

use pyo3::exceptions::{PyLookupError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator, PyList, PyMapping, PySequence, PyString, PyTuple};

use super::adapt::{self, Lifetime};
use super::connection::{Connection, Given, PARSE_COLNAMES, PARSE_DECLTYPES, enter, look};
use super::cursor::Cursor;
use super::prepared::{self, Kind, Prepared};
use super::transaction::{self, Autocommit, Isolation};
use super::{errors, gil, hooks, lane};
use crate::py::hang;
use crate::sqlite::{Db, Entered, raw};

/// `cursor.execute(sql, parameters)`.
pub fn execute<'py>(
    cursor: &Bound<'py, Cursor>,
    sql: &Bound<'py, PyAny>,
    parameters: Option<&Bound<'py, PyAny>>,
) -> PyResult<()> {
    let run = Run::begin(cursor, sql, "execute")?;
    let outcome = run.once(parameters);
    run.end(outcome)
}

/// `cursor.executemany(sql, seq_of_parameters)`.
pub fn executemany<'py>(
    cursor: &Bound<'py, Cursor>,
    sql: &Bound<'py, PyAny>,
    parameters: &Bound<'py, PyAny>,
) -> PyResult<()> {
    let columns = super::insert::Columns::of(parameters)?;
    let run = Run::begin(cursor, sql, "executemany")?;
    let outcome = match columns {
        None => run.many(parameters),
        Some(columns) => run.many_columns(columns),
    };
    run.end(outcome)
}

/// One call of `execute` or `executemany`.
pub struct Run<'a, 'py> {
    pub py: Python<'py>,
    pub cursor: &'a Cursor,
    pub connection: Bound<'py, Connection>,
    pub db: Arc<Db>,
    sql: &'a Bound<'py, PyString>,
    /// How transactions begin, unless they do not begin by themselves.
    isolation: Option<Isolation>,
    detect_types: i32,
    pub locked: super::cursor::Locked<'a, 'py>,
}

impl<'a, 'py> Run<'a, 'py> {
    #[inline]
    fn begin(cursor: &'a Bound<'py, Cursor>, sql: &'a Bound<'py, PyAny>, name: &str) -> PyResult<Self> {
        let py = cursor.py();
        let Ok(sql) = sql.cast::<PyString>() else {
            let class = sql.get_type().name()?.to_string();
            return Err(PyTypeError::new_err(format!("{name}() argument 1 must be str, not {class}")));
        };
        let cursor = cursor.get();
        let connection = cursor.check(py)?;
        let db = connection.get().db(py)?;
        let (isolation, detect_types) = connection.get().state.with(py, |state| {
            let begins = state.autocommit == Autocommit::Legacy && state.isolation != Isolation::Off;
            (begins.then_some(state.isolation), state.detect_types)
        });
        let locked = cursor.lock(py);
        let (description, previous) = cursor.state.with(py, |state| (state.description.take(), state.prepared.take()));
        drop(description);
        if let Some(previous) = previous {
            retire_anyhow(py, &connection, previous);
        }
        #[cfg(not(Py_3_11))]
        {
            let rollbacks = connection.get().state.with(py, |state| state.rollbacks);
            cursor.state.with(py, |state| state.rollbacks = rollbacks);
        }
        Ok(Self { py, cursor, connection, db, sql, isolation, detect_types, locked })
    }

    #[inline]
    fn end(self, outcome: PyResult<()>) -> PyResult<()> {
        if outcome.is_err() {
            self.cursor.state.with(self.py, |state| state.rowcount = -1);
        }
        drop(self.locked);
        outcome
    }

    #[inline]
    fn once(&self, parameters: Option<&Bound<'py, PyAny>>) -> PyResult<()> {
        let py = self.py;
        let entered = look(py, &self.db)?;
        entered.refresh();
        let Some(mut prepared) = self.obtain(&entered)? else {
            self.cursor.state.with(py, |state| state.rowcount = -1);
            return Ok(());
        };
        if !prepared.is_query {
            entered.no_read();
        }
        self.start(&entered, &prepared)?;
        // Adapters and mappings are Python code, which must not end the statement.
        entered.set_running(true);
        let bound = bind_all(py, &entered, &mut prepared, parameters, &mut Lifetime::Copied);
        entered.set_running(false);
        if let Err(error) = bound {
            prepared.clear(&entered);
            return Err(error);
        }
        let code = match self.step(&entered, &mut prepared) {
            Ok(code) => code,
            Err(error) => {
                retire(&self.connection, &entered, prepared);
                return Err(error);
            }
        };
        if code != raw::SQLITE_ROW && code != raw::SQLITE_DONE {
            return Err(failed(&self.connection, &entered, prepared, code));
        }
        let has_columns = code == raw::SQLITE_ROW || prepared.columns(&entered) > 0;
        if has_columns {
            self.describe(&entered, &mut prepared)?;
        }
        let rowcount = match (prepared.is_dml, code) {
            (true, raw::SQLITE_DONE) => changes(&entered),
            (true, _) => 0,
            (false, _) => -1,
        };
        // SAFETY: open and entered.
        let lastrowid = unsafe { raw::sqlite3_last_insert_rowid(entered.raw()) };
        let ended = (has_columns && code == raw::SQLITE_DONE).then(|| prepared.sql.clone_ref(py));
        let mut prepared = Some(prepared);
        let old = self.cursor.state.with(py, |state| {
            state.rowcount = rowcount;
            state.lastrowid = Some(lastrowid);
            if code == raw::SQLITE_ROW {
                state.prepared = prepared.take();
            }
            ended.and_then(|ended| state.ended.replace(ended))
        });
        drop(old);
        if let Some(prepared) = prepared {
            retire(&self.connection, &entered, prepared);
        }
        Ok(())
    }

    fn many(&self, parameters: &Bound<'py, PyAny>) -> PyResult<()> {
        let py = self.py;
        // A list or tuple is walked without running Python code; anything else may do what it likes in between.
        let mut rows = Rows::of(parameters)?;
        let mut entered = enter(py, &self.db)?;
        let Some(mut prepared) = self.obtain_dml(&entered)? else { return Ok(()) };
        self.start(&entered, &prepared)?;
        let mut rowcount = if prepared.is_dml { 0 } else { -1 };
        let mut held = Vec::new();
        loop {
            let next = match &mut rows {
                Rows::Plain(plain) => plain.next(),
                Rows::Iterator(iterator) => {
                    // Other threads, and the iterator itself, may use the connection meanwhile.
                    drop(entered);
                    let next = self.locked.away(|| hang::next(iterator));
                    entered = enter(py, &self.db)?;
                    match next {
                        Ok(next) => next,
                        Err(error) => {
                            prepared.clear(&entered);
                            return Err(error);
                        }
                    }
                }
            };
            let Some(row) = next else { break };
            entered.set_running(true);
            let bound = bind_all(py, &entered, &mut prepared, Some(&row), &mut Lifetime::Held(&mut held));
            entered.set_running(false);
            if let Err(error) = bound {
                prepared.clear(&entered);
                return Err(super::insert::explain(error, &row));
            }
            let code = match self.step(&entered, &mut prepared) {
                Ok(code) => code,
                Err(error) => {
                    retire(&self.connection, &entered, prepared);
                    return Err(error);
                }
            };
            if code != raw::SQLITE_DONE && code != raw::SQLITE_ROW {
                return Err(failed(&self.connection, &entered, prepared, code));
            }
            if code == raw::SQLITE_DONE && prepared.is_dml {
                rowcount += changes(&entered);
            }
            prepared.reset(&entered);
            held.clear();
        }
        if prepared.columns(&entered) > 0 {
            self.describe(&entered, &mut prepared)?;
        }
        retire(&self.connection, &entered, prepared);
        self.cursor.state.with(py, |state| state.rowcount = rowcount);
        Ok(())
    }

    /// The statement of the text: a kept one, or compiled now. `None` if there is none in it.
    #[inline]
    fn obtain(&self, entered: &Entered<'_>) -> PyResult<Option<Box<Prepared>>> {
        let py = self.py;
        // SAFETY: a str; the thread is attached.
        let hash = unsafe { hang::hash(self.sql.as_ptr()) };
        if hash == -1 {
            return Err(PyErr::fetch(py));
        }
        let hash = crate::py::lookup::fold_hash(hash);
        let wanted = self.sql.as_ptr();
        let kept = self.connection.get().state.with(py, |state| {
            state.statements.take(hash, |kept| {
                let found = kept.sql.as_ptr();
                // SAFETY: both are str; comparing them runs no Python code.
                found == wanted || unsafe { ffi::PyUnicode_Compare(found, wanted) } == 0
            })
        });
        match kept {
            Some(kept) => Ok(Some(kept)),
            None => Ok(prepared::prepare(py, entered, &self.db, self.sql, hash)?.map(Box::new)),
        }
    }

    /// The same for `executemany`, which runs some statements only.
    pub fn obtain_dml(&self, entered: &Entered<'_>) -> PyResult<Option<Box<Prepared>>> {
        let Some(prepared) = self.obtain(entered)? else {
            return if cfg!(Py_3_11) { Err(self.not_dml()) } else { Ok(None) };
        };
        let refused = if cfg!(Py_3_11) { prepared.is_readonly } else { !prepared.is_dml };
        if refused {
            retire(&self.connection, entered, prepared);
            return Err(self.not_dml());
        }
        Ok(Some(prepared))
    }

    #[cold]
    fn not_dml(&self) -> PyErr {
        errors::programming(self.py, "executemany() can only execute DML statements.")
    }

    /// Begins a transaction if the statement needs one.
    #[inline]
    pub fn start(&self, entered: &Entered<'_>, prepared: &Prepared) -> PyResult<()> {
        match self.isolation {
            Some(isolation) if prepared.is_dml && !entered.in_transaction() => {
                transaction::begin(self.py, &self.db, isolation)
            }
            _ => Ok(()),
        }
    }

    #[inline]
    fn step(&self, entered: &Entered<'_>, prepared: &mut Prepared) -> PyResult<c_int> {
        if prepared.kind == Kind::BusyTimeout {
            return super::settings::step_busy_timeout(&self.connection, entered, prepared);
        }
        let release = prepared.is_slow(entered);
        // SAFETY: a statement of the connection that was entered.
        let code = unsafe { lane::step(self.py, entered, prepared, release)? };
        hooks::check(&self.connection, entered, code)?;
        Ok(code)
    }

    #[inline]
    pub fn describe(&self, entered: &Entered<'_>, prepared: &mut Prepared) -> PyResult<()> {
        let py = self.py;
        let description = prepared.description(py, entered, self.detect_types & PARSE_COLNAMES != 0)?;
        let converters = if self.detect_types == 0 { Vec::new() } else { self.converters(entered, prepared)? };
        let old = self.cursor.state.with(py, |state| {
            (
                std::mem::replace(&mut state.description, description),
                std::mem::replace(&mut state.converters, converters),
            )
        });
        drop(old);
        Ok(())
    }

    /// The converter of each column, by its name or declared type.
    #[cold]
    fn converters(&self, entered: &Entered<'_>, prepared: &Prepared) -> PyResult<Vec<Option<Py<PyAny>>>> {
        let py = self.py;
        let registry = py.import("_sqlite3")?.getattr("converters")?.cast_into::<PyDict>()?;
        let mut found = Vec::new();
        for column in 0..prepared.columns(entered) {
            let mut converter = None;
            if self.detect_types & PARSE_COLNAMES != 0 {
                let name = prepared.column_name(py, entered, column)?.to_string_lossy().into_owned();
                if let Some((_, rest)) = name.split_once('[') {
                    if let Some((key, _)) = rest.split_once(']') {
                        converter = registry.get_item(key.to_uppercase())?;
                    }
                }
            }
            if converter.is_none() && self.detect_types & PARSE_DECLTYPES != 0 {
                if let Some(declared) = prepared.declared_type(entered, column) {
                    let declared = declared.to_string_lossy();
                    let key = declared.split([' ', '(']).next().unwrap_or_default().to_uppercase();
                    converter = registry.get_item(key)?;
                }
            }
            found.push(converter.map(Bound::unbind));
        }
        if found.iter().all(Option::is_none) {
            found.clear();
        }
        Ok(found)
    }
}

/// The sets of parameters of `executemany`.
enum Rows<'py> {
    Plain(Plain<'py>),
    Iterator(Bound<'py, PyIterator>),
}

/// A list or tuple and a position in it; a list may change while it is walked.
struct Plain<'py> {
    rows: Bound<'py, PyAny>,
    is_list: bool,
    next: usize,
}

impl<'py> Rows<'py> {
    fn of(parameters: &Bound<'py, PyAny>) -> PyResult<Self> {
        let is_list = parameters.is_exact_instance_of::<PyList>();
        if is_list || parameters.is_exact_instance_of::<PyTuple>() {
            return Ok(Self::Plain(Plain { rows: parameters.clone(), is_list, next: 0 }));
        }
        Ok(Self::Iterator(parameters.try_iter()?))
    }
}

impl<'py> Plain<'py> {
    #[inline]
    fn next(&mut self) -> Option<Bound<'py, PyAny>> {
        let place = self.next;
        self.next += 1;
        // SAFETY: the type was checked, the place is checked against the present length.
        unsafe {
            if self.is_list {
                self.rows.cast_unchecked::<PyList>().get_item(place).ok()
            } else {
                self.rows.cast_unchecked::<PyTuple>().get_item(place).ok()
            }
        }
    }
}

/// Binds all parameters.
#[inline]
fn bind_all<'py>(
    py: Python<'py>,
    entered: &Entered<'_>,
    prepared: &mut Prepared,
    parameters: Option<&Bound<'py, PyAny>>,
    lifetime: &mut Lifetime<'_, 'py>,
) -> PyResult<()> {
    let wanted = prepared.parameters;
    let Some(parameters) = parameters else {
        return if wanted == 0 { Ok(()) } else { Err(wrong_count(py, wanted, 0)) };
    };
    let look_up = adapt::adapts_basic_types(py)?;
    if let Ok(tuple) = parameters.cast_exact::<PyTuple>() {
        let given = tuple.len();
        check_count(py, entered, prepared, given)?;
        for place in 0..given {
            // SAFETY: within the tuple's length, and tuples do not change.
            let value = unsafe { tuple.get_borrowed_item_unchecked(place) };
            bind_one(py, entered, prepared, place as c_int + 1, &value, look_up, lifetime)?;
        }
        return Ok(());
    }
    if parameters.is_exact_instance_of::<PyList>()
        || (!parameters.is_instance_of::<PyDict>() && is_sequence(parameters))
    {
        // SAFETY: by the protocol's own test.
        let sequence = unsafe { parameters.cast_unchecked::<PySequence>() };
        check_count(py, entered, prepared, sequence.len()?)?;
        for place in 0..wanted {
            let value = sequence.get_item(place as usize)?;
            bind_one(py, entered, prepared, place + 1, &value, look_up, lifetime)?;
        }
        return Ok(());
    }
    if !is_mapping(parameters) {
        let message = "parameters are of unsupported type";
        return Err(if cfg!(Py_3_11) { errors::programming(py, message) } else { PyValueError::new_err(message) });
    }
    bind_named(py, entered, prepared, parameters, look_up, lifetime)
}

#[cold]
fn bind_named<'py>(
    py: Python<'py>,
    entered: &Entered<'_>,
    prepared: &mut Prepared,
    parameters: &Bound<'py, PyAny>,
    look_up: bool,
    lifetime: &mut Lifetime<'_, 'py>,
) -> PyResult<()> {
    for place in 1..=prepared.parameters {
        let Some(name) = prepared.parameter_name(py, entered, place)? else {
            return Err(errors::programming(
                py,
                format!("Binding {place} has no name, but you supplied a dictionary (which has only names)."),
            ));
        };
        let value = match parameters.cast_exact::<PyDict>() {
            Ok(dict) => dict.get_item(&name)?,
            // SAFETY: by the protocol's own test.
            Err(_) => match unsafe { parameters.cast_unchecked::<PyMapping>() }.get_item(&name) {
                Ok(value) => Some(value),
                Err(error) if error.is_instance_of::<PyLookupError>(py) => None,
                Err(error) => return Err(error),
            },
        };
        let Some(value) = value else {
            let name = name.to_str()?;
            return Err(errors::programming(py, format!("You did not supply a value for binding parameter :{name}.")));
        };
        bind_one(py, entered, prepared, place, &value, look_up, lifetime)?;
    }
    Ok(())
}

#[inline(always)]
fn bind_one<'py>(
    py: Python<'py>,
    entered: &Entered<'_>,
    prepared: &Prepared,
    place: c_int,
    value: &Bound<'py, PyAny>,
    look_up: bool,
    lifetime: &mut Lifetime<'_, 'py>,
) -> PyResult<()> {
    // SAFETY: a statement of the connection that was entered.
    let code = unsafe { adapt::bind(prepared.statement, place, value, look_up, lifetime)? };
    if code == raw::SQLITE_OK { Ok(()) } else { Err(errors::of_code(py, entered, code)) }
}

#[inline(always)]
fn check_count(py: Python<'_>, entered: &Entered<'_>, prepared: &mut Prepared, given: usize) -> PyResult<()> {
    if given != prepared.parameters as usize {
        return Err(wrong_count(py, prepared.parameters, given));
    }
    #[cfg(Py_3_12)]
    prepared.warn_of_names(py, entered)?;
    let _ = entered;
    Ok(())
}

#[cold]
fn wrong_count(py: Python<'_>, wanted: c_int, given: usize) -> PyErr {
    errors::programming(
        py,
        format!(
            "Incorrect number of bindings supplied. The current statement uses {wanted}, and there are {given} supplied."
        ),
    )
}

fn is_sequence(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: a live object; the thread is attached.
    unsafe { ffi::PySequence_Check(object.as_ptr()) != 0 }
}

fn is_mapping(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: a live object; the thread is attached.
    unsafe { ffi::PyMapping_Check(object.as_ptr()) != 0 }
}

/// Rows changed by the statement that has just ended.
#[inline(always)]
pub fn changes(entered: &Entered<'_>) -> i64 {
    // SAFETY: open and entered.
    i64::from(unsafe { raw::sqlite3_changes(entered.raw()) })
}

/// Ends a statement's run and keeps it for the next one.
#[inline]
pub fn retire(connection: &Bound<'_, Connection>, entered: &Entered<'_>, prepared: Box<Prepared>) {
    let py = connection.py();
    prepared.clear(entered);
    let hash = prepared.hash;
    let gone = connection.get().state.with(py, |state| match &state.db {
        Some(db) if Arc::ptr_eq(db, &prepared.db) => state.statements.put(hash, prepared),
        // The connection was opened again meanwhile.
        _ => Some(prepared),
    });
    drop(gone);
}

/// The same from anywhere: also while another thread is inside, and after the end of the connection.
pub fn retire_anyhow(py: Python<'_>, connection: &Bound<'_, Connection>, prepared: Box<Prepared>) {
    let db = Arc::clone(&prepared.db);
    if !db.is_ours() {
        return;
    }
    if let Some(entered) = db.try_look() {
        if db.is_open() {
            // Resetting a statement that writes commits it.
            let stepping = gil::Stepping::begin(py, &entered, false);
            prepared.reset(&entered);
            drop(stepping);
            retire(connection, &entered, prepared);
        }
    }
}

/// The error of a step that returned `code`; the statement ends.
#[cold]
pub fn failed(
    connection: &Bound<'_, Connection>,
    entered: &Entered<'_>,
    prepared: Box<Prepared>,
    code: c_int,
) -> PyErr {
    let py = connection.py();
    let error = errors::of_code(py, entered, code);
    retire(connection, entered, prepared);
    error
}

/// `cursor.executescript(script)`: all statements of the text, after committing what is open.
pub fn executescript(cursor: &Bound<'_, Cursor>, script: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = cursor.py();
    let Ok(script) = script.cast::<PyString>() else {
        if cfg!(not(Py_3_11)) {
            return Err(PyValueError::new_err("script argument must be unicode."));
        }
        let class = script.get_type().name()?.to_string();
        return Err(PyTypeError::new_err(format!("executescript() argument must be str, not {class}")));
    };
    let this = cursor.get();
    let script = script.to_str()?;
    let connection = this.check(py)?;
    let db = connection.get().db(py)?;
    if script.contains('\0') {
        return Err(PyValueError::new_err("embedded null character"));
    }
    let _locked = this.lock(py);
    let legacy = connection.get().state.with(py, |state| state.autocommit == Autocommit::Legacy);
    let entered = enter(py, &db)?;
    if script.len() > prepared::limit(&entered, raw::SQLITE_LIMIT_SQL_LENGTH) as usize {
        return Err(errors::data(py, "query string is too large"));
    }
    if legacy && entered.in_transaction() {
        transaction::run(py, &db, c"COMMIT", true)?;
    }
    let mut rest = script;
    while !rest.is_empty() {
        let (text, used) = prepared::first_statement(py, &entered, &db, rest)?;
        rest = &rest[used..];
        let Some(mut prepared) = text else { continue };
        let code = loop {
            let code = if prepared.kind == Kind::BusyTimeout {
                super::settings::step_busy_timeout(&connection, &entered, &mut prepared)?
            } else {
                let release = prepared.is_slow(&entered);
                // SAFETY: a statement of the connection that was entered.
                unsafe { lane::step(py, &entered, &prepared, release)? }
            };
            hooks::check(&connection, &entered, code)?;
            if code != raw::SQLITE_ROW {
                break code;
            }
        };
        if code != raw::SQLITE_DONE {
            return Err(errors::of_code(py, &entered, code));
        }
    }
    Ok(())
}

#[pymethods]
impl Connection {
    /// Run one statement on a new cursor, which is returned.
    ///
    /// Args:
    ///     sql: One statement.
    ///     parameters: A sequence for `?`, or a mapping for `:name`.
    ///
    /// Begins a transaction first if the statement is an INSERT, UPDATE, DELETE or REPLACE and none is open, unless
    /// `isolation_level` is None or `autocommit` is set. Other threads run while it waits or takes long.
    ///
    /// Raises:
    ///     ProgrammingError: Parameters do not fit, more than one statement, closed, or another thread's.
    ///     OperationalError, IntegrityError …: As SQLite reports it; a turn to write that does not come within the
    ///         connection's timeout is a `WriteLaneTimeout`.
    #[pyo3(signature = (sql, parameters = Given::Default, /), text_signature = "($self, sql, parameters=(), /)")]
    fn execute<'py>(
        slf: &Bound<'py, Self>,
        sql: &Bound<'py, PyAny>,
        parameters: Given<'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Some(cursor) = plain_cursor(slf)? {
            execute(&cursor, sql, parameters.value())?;
            return Ok(cursor.into_any());
        }
        match parameters.value() {
            Some(parameters) => on_own_cursor(slf, "execute", (sql, parameters)),
            None => on_own_cursor(slf, "execute", (sql,)),
        }
    }

    /// Run one statement for each set of parameters, on a new cursor, which is returned.
    ///
    /// Args:
    ///     sql: An INSERT, UPDATE, DELETE or REPLACE; rows of RETURNING are dropped.
    ///     parameters: An iterable of sequences or mappings, or columns: a mapping of arrays, a structured array, a
    ///         table of pyarrow, polars or pandas. `:name` takes the column of that name, `?` columns by position.
    ///
    /// `rowcount` is the sum. After an error an open transaction stays open, with the rows before it.
    ///
    /// Raises:
    ///     ProgrammingError, TypeError, OverflowError: A value cannot be stored, or another kind of statement.
    ///     IntegrityError, OperationalError …: As `execute`.
    #[pyo3(signature = (sql, parameters, /))]
    fn executemany<'py>(
        slf: &Bound<'py, Self>,
        sql: &Bound<'py, PyAny>,
        parameters: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Some(cursor) = plain_cursor(slf)? {
            executemany(&cursor, sql, parameters)?;
            return Ok(cursor.into_any());
        }
        on_own_cursor(slf, "executemany", (sql, parameters))
    }

    /// Run all statements of a text on a new cursor, which is returned. Rows are dropped. An open transaction is
    /// committed first, unless `autocommit` is set.
    #[pyo3(signature = (sql_script, /))]
    fn executescript<'py>(slf: &Bound<'py, Self>, sql_script: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(cursor) = plain_cursor(slf)? {
            executescript(&cursor, sql_script)?;
            return Ok(cursor.into_any());
        }
        on_own_cursor(slf, "executescript", (sql_script,))
    }
}

/// A cursor made without a call. Before Python 3.11 only if the connection is of the class itself: the `cursor()` of a
/// subclass was called.
#[inline]
fn plain_cursor<'py>(connection: &Bound<'py, Connection>) -> PyResult<Option<Bound<'py, Cursor>>> {
    if cfg!(not(Py_3_11)) && !connection.is_exact_instance_of::<Connection>() {
        return Ok(None);
    }
    Ok(Some(Bound::new(connection.py(), Cursor::of(connection))?))
}

fn on_own_cursor<'py>(
    connection: &Bound<'py, Connection>,
    name: &str,
    arguments: impl IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>, Error = PyErr>,
) -> PyResult<Bound<'py, PyAny>> {
    let cursor = hang::method(connection.as_any(), "cursor", PyTuple::empty(connection.py()), None)?;
    hang::method(&cursor, name, arguments, None)?;
    Ok(cursor)
}
