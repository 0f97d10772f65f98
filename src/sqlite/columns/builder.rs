//! Steps a statement and collects its rows, column by column.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::mem;
use std::slice;
use std::sync::Arc;

use rusqlite::ffi::{self, sqlite3_stmt, sqlite3_value};

use super::super::values::{Layout, Value, Values};
use super::data::{Cell, Data, Mixed, exact_float, exact_integer, push};
use super::kind::{Declared, Kind};
use super::text::Refused;
use super::validity::Validity;
use super::{Batch, Column, Fault, Mismatch};

/// Where a batch ends.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub rows: usize,
    /// Of all values together, about; one row is read even if it alone has more.
    pub bytes: usize,
}

/// Columns that grow while a statement is stepped.
#[derive(Default)]
pub struct Builder {
    columns: Vec<Growing>,
    /// The columns are known: a statement may be prepared anew, and so get others, until its first step.
    ready: bool,
    ended: bool,
    /// Rows read since the first.
    rows: u64,
    /// What the caller wants columns to be, in their order.
    wanted: Vec<Kind>,
}

struct Growing {
    name: Arc<str>,
    declared: Declared,
    settled: Settled,
    data: Data,
    validity: Validity,
    /// Rows of the result before the first one in `data`.
    taken: u64,
    /// The first value that did not fit, if the column has become mixed.
    misfit: Option<Box<Mismatch>>,
}

/// Whether the type of a column can still change.
#[derive(Clone, Copy, PartialEq)]
enum Settled {
    No,
    /// By the first batch, before others of the result have been seen.
    ByValues,
    /// By the caller: what can be converted is.
    ByWish,
}

impl Builder {
    /// Columns of these types, in this order, not what the values make of them.
    pub fn wanting(kinds: Vec<Kind>) -> Self {
        Self { wanted: kinds, ..Self::default() }
    }

    /// Reads rows until the batch is full or the result ends; returns whether it ended. A batch that is full without
    /// having reached its limits has text or blobs that must be taken first.
    ///
    /// `at_row` says that the statement stands on a row that has not been read, before the call and after it. After a
    /// fault the rows before it are there and complete.
    ///
    /// # Safety
    /// The statement is alive and nobody else uses its connection.
    pub unsafe fn fill(
        &mut self,
        statement: *mut sqlite3_stmt,
        at_row: &mut bool,
        limits: Limits,
    ) -> Result<bool, Fault> {
        let mut rows = limits.rows;
        let mut bytes = limits.bytes;
        let layout = Layout::get();
        while rows > 0 && bytes > 0 {
            if !*at_row {
                // SAFETY: the caller's promise.
                match unsafe { ffi::sqlite3_step(statement) } {
                    ffi::SQLITE_ROW => *at_row = true,
                    ffi::SQLITE_DONE => {
                        // SAFETY: the same.
                        unsafe { self.prepare(statement) };
                        self.ended = true;
                        return Ok(true);
                    }
                    code => return Err(Fault::Sqlite(code)),
                }
            }
            // SAFETY: the same.
            unsafe { self.prepare(statement) };
            // SAFETY: the statement stands on a row, and nobody else uses its connection.
            let values = unsafe { Values::of(statement, layout) };
            let mut size = 8 * self.columns.len();
            let mut stopped = None;
            for (place, column) in self.columns.iter_mut().enumerate() {
                // SAFETY: the row has this column.
                let pushed = unsafe { column.push(values.get(place), values.raw(place), &mut size) };
                if let Err(stop) = pushed {
                    stopped = Some((place, stop));
                    break;
                }
            }
            if let Some((place, stop)) = stopped {
                self.columns[..place].iter_mut().for_each(Growing::pop);
                return match stop {
                    // The row waits for the next batch.
                    Stop::Full => Ok(false),
                    Stop::Fault(fault) => Err(fault),
                };
            }
            *at_row = false;
            self.rows += 1;
            rows -= 1;
            bytes = bytes.saturating_sub(size);
        }
        Ok(false)
    }

    /// Takes note of the columns, once.
    ///
    /// # Safety
    /// The statement is alive, has been stepped, and nobody else uses its connection.
    #[inline]
    pub unsafe fn prepare(&mut self, statement: *mut sqlite3_stmt) {
        if !self.ready {
            // SAFETY: the caller's promise.
            let columns = unsafe { columns_of(statement) };
            self.begin(columns);
        }
    }

    /// The same where only the names of the columns are known.
    pub fn prepare_named(&mut self, names: Vec<String>) {
        self.begin(unique(names).into_iter().map(|name| Growing::new(name, Declared::UNKNOWN)).collect());
    }

    fn begin(&mut self, columns: Vec<Growing>) {
        self.columns = columns;
        for (column, &kind) in self.columns.iter_mut().zip(&self.wanted) {
            column.data = Data::nulls(kind, 0);
            column.settled = Settled::ByWish;
        }
        self.ready = true;
    }

    /// Rows read so far, those taken included.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Moves the rows read since the last call out. What has become known about the types of the columns stays.
    pub fn take(&mut self) -> Batch {
        let more = !self.ended;
        let columns: Vec<_> = self.columns.iter_mut().map(|column| column.take(more)).collect();
        Batch { rows: columns.first().map_or(0, |column| column.data.len()), columns }
    }

    /// Moves the rows of one column out: its part of a longer column that is put together elsewhere.
    pub fn take_column(&mut self, place: usize) -> Column {
        self.columns[place].take(!self.ended)
    }

    /// Types of the columns as far as they are known.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.columns.iter().map(|column| column.data.kind())
    }

    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.columns.iter().map(|column| &column.name)
    }

    /// From now on the columns keep the types they have; a value of another type is a fault. So it is now if a column has
    /// values of several types. Without any value the declared type counts; without that, and with rows still to come
    /// (not `complete`), a column is taken for numbers.
    pub fn settle(&mut self, complete: bool) -> Result<(), Fault> {
        for column in &mut self.columns {
            if let Some(misfit) = column.misfit.take() {
                return Err(misfit.into());
            }
            if let Data::Null(rows) = column.data {
                let kind = match column.declared.kind {
                    Kind::Null if !complete => Kind::Float64,
                    kind => kind,
                };
                column.data = Data::nulls(kind, rows);
            }
            if column.settled == Settled::No {
                column.settled = Settled::ByValues;
            }
        }
        Ok(())
    }
}

/// Why a value was not pushed.
enum Stop {
    Full,
    Fault(Fault),
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => Self::Full,
            Refused::Memory => Self::Fault(Fault::Memory),
        }
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Growing {
    fn new(name: String, declared: Declared) -> Self {
        Self {
            name: name.into(),
            declared,
            settled: Settled::No,
            data: Data::Null(0),
            validity: Validity::default(),
            taken: 0,
            misfit: None,
        }
    }

    /// # Safety
    /// `value` is the one that was found; it is alive and nobody else uses its connection.
    #[inline(always)]
    unsafe fn push(&mut self, found: Value<'_>, value: *mut sqlite3_value, size: &mut usize) -> Result<(), Stop> {
        match (&mut self.data, found) {
            (Data::Int64(values), Value::Integer(number)) => push(values, number)?,
            (Data::Float64(values), Value::Float(number)) => push(values, number)?,
            (Data::Text(values), Value::Text(text)) => {
                *size += text.len();
                values.push(text)?;
            }
            // SAFETY: the caller's promise.
            _ => unsafe { self.push_other(found, value, size)? },
        }
        Ok(())
    }

    /// Everything but the expected.
    ///
    /// # Safety
    /// As `push`.
    #[inline(never)]
    unsafe fn push_other(&mut self, found: Value<'_>, value: *mut sqlite3_value, size: &mut usize) -> Result<(), Stop> {
        if found == Value::Null {
            let row = self.data.len();
            self.data.push_null()?;
            if self.validity.push_null(row).is_none() {
                self.data.truncate(row);
                return Err(Fault::Memory.into());
            }
            return Ok(());
        }
        match (&mut self.data, found) {
            (_, Value::Lost) => return Err(Fault::Memory.into()),
            (Data::Blob(values), Value::Blob(blob)) => {
                *size += blob.len();
                values.push(blob)?;
            }
            (Data::Float64(values), Value::Integer(number)) => match exact_float(number) {
                Some(float) => push(values, float)?,
                // SAFETY: the caller's promise.
                None => return unsafe { self.misfit(found, value, size) },
            },
            (Data::Mixed(mixed), _) => push_mixed(mixed, found, size)?,
            (&mut Data::Null(rows), _) if self.settled == Settled::No => {
                self.data = Data::nulls(self.first_kind(found), rows);
                // SAFETY: the caller's promise.
                return unsafe { self.push(found, value, size) };
            }
            // SAFETY: the caller's promise.
            _ => return unsafe { self.misfit(found, value, size) },
        }
        Ok(())
    }

    /// What the first value makes of the column.
    fn first_kind(&self, found: Value<'_>) -> Kind {
        match found {
            Value::Integer(number) if self.declared.fraction && exact_float(number).is_some() => Kind::Float64,
            Value::Integer(_) => Kind::Int64,
            Value::Float(_) => Kind::Float64,
            Value::Text(_) => Kind::Text,
            _ => Kind::Blob,
        }
    }

    /// A value of another type than those before it: the column, or the value, has to change.
    ///
    /// # Safety
    /// As `push`.
    #[cold]
    unsafe fn misfit(&mut self, found: Value<'_>, value: *mut sqlite3_value, size: &mut usize) -> Result<(), Stop> {
        match (self.settled, &mut self.data, found) {
            (Settled::No, ..) => {}
            (Settled::ByWish, Data::Text(values), Value::Integer(_) | Value::Float(_)) => {
                // As SQLite itself writes numbers.
                // SAFETY: the caller's promise.
                let text = unsafe { text_of(value) }?;
                *size += text.len();
                return Ok(values.push(text)?);
            }
            (Settled::ByWish, Data::Text(values) | Data::Blob(values), Value::Text(text)) => {
                *size += text.len();
                return Ok(values.push(text)?);
            }
            (Settled::ByWish, Data::Int64(values), Value::Float(number)) => {
                if let Some(integer) = exact_integer(number) {
                    return Ok(push(values, integer)?);
                }
                return Err(Fault::from(self.mismatch(found)).into());
            }
            _ => return Err(Fault::from(self.mismatch(found)).into()),
        }
        let changed = match found {
            Value::Float(_) => self.data.as_floats(&self.validity)?.map(Data::Float64),
            // Whole so far, and floats only because they were declared to be.
            Value::Integer(_) if self.declared.fraction => self.data.as_integers(&self.validity)?.map(Data::Int64),
            _ => None,
        };
        if let Some(changed) = changed {
            self.data = changed;
        } else {
            if self.misfit.is_none() {
                self.misfit = Some(self.mismatch(found));
            }
            let data = mem::replace(&mut self.data, Data::Null(0));
            self.data = Data::Mixed(data.into_mixed(&self.validity)?);
        }
        // SAFETY: the caller's promise.
        unsafe { self.push(found, value, size) }
    }

    fn mismatch(&self, found: Value<'_>) -> Box<Mismatch> {
        let found = match found {
            Value::Integer(number) if exact_float(number).is_none() => {
                format!("the INTEGER {number}, which is no float")
            }
            Value::Integer(_) => "an INTEGER".to_owned(),
            Value::Float(_) => "a REAL".to_owned(),
            Value::Text(_) => "TEXT".to_owned(),
            _ => "a BLOB".to_owned(),
        };
        Box::new(Mismatch {
            column: self.name.clone(),
            row: self.taken + self.data.len() as u64,
            expected: self.data.kind().describe(),
            found,
            advice: if self.settled == Settled::ByWish { "" } else { " or ask for a type" },
        })
    }

    /// Forgets the last row.
    fn pop(&mut self) {
        let rows = self.data.len() - 1;
        self.data.truncate(rows);
        self.validity.truncate(rows);
    }

    /// Moves the rows out; with room for as many `more`.
    fn take(&mut self, more: bool) -> Column {
        let rows = self.data.len();
        let fresh = if more { self.data.fresh() } else { Data::nulls(self.data.kind(), 0) };
        let mut data = mem::replace(&mut self.data, fresh);
        if matches!(data, Data::Null(_)) {
            data = Data::nulls(self.declared.kind, rows);
        }
        self.taken += rows as u64;
        Column { name: self.name.clone(), data, validity: mem::take(&mut self.validity), misfit: self.misfit.take() }
    }
}

fn push_mixed(mixed: &mut Mixed, found: Value<'_>, size: &mut usize) -> Result<(), Stop> {
    let cell = match found {
        Value::Integer(number) => Cell::Int(number),
        Value::Float(number) => Cell::Float(number),
        Value::Text(text) => {
            *size += text.len();
            Cell::Text(mixed.keep(text)?)
        }
        Value::Blob(blob) => {
            *size += blob.len();
            Cell::Blob(mixed.keep(blob)?)
        }
        Value::Null | Value::Lost => Cell::Null,
    };
    Ok(mixed.push(cell)?)
}

/// A number as SQLite writes it, as long as the statement stays on its row.
///
/// # Safety
/// As `Growing::push`.
unsafe fn text_of<'row>(value: *mut sqlite3_value) -> Result<&'row [u8], Stop> {
    // SAFETY: the caller's promise. The length is asked for after the conversion that the first call may do.
    unsafe {
        let start = ffi::sqlite3_value_text(value);
        if start.is_null() {
            return Err(Fault::Memory.into());
        }
        Ok(slice::from_raw_parts(start, ffi::sqlite3_value_bytes(value) as usize))
    }
}

/// # Safety
/// The statement is alive and nobody else uses its connection.
unsafe fn columns_of(statement: *mut sqlite3_stmt) -> Vec<Growing> {
    // SAFETY: the caller's promise; the texts are copied before the next call.
    let (names, declared): (Vec<_>, Vec<_>) = unsafe {
        let text = |start: *const std::ffi::c_char| match start.is_null() {
            true => String::new(),
            false => CStr::from_ptr(start).to_string_lossy().into_owned(),
        };
        (0..ffi::sqlite3_column_count(statement))
            .map(|place| {
                let name = text(ffi::sqlite3_column_name(statement, place));
                (name, text(ffi::sqlite3_column_decltype(statement, place)))
            })
            .unzip()
    };
    let columns = unique(names).into_iter().zip(&declared);
    columns.map(|(name, declared)| Growing::new(name, Declared::parse(declared))).collect()
}

/// Names that occur again get `:1`, `:2`, … appended, as SQLite does it in subqueries.
fn unique(names: Vec<String>) -> Vec<String> {
    let mut taken: Vec<String> = Vec::with_capacity(names.len());
    let mut known: std::collections::HashSet<String> = names.iter().cloned().collect();
    let mut seen = std::collections::HashSet::new();
    for name in names {
        let mut chosen = name.clone();
        if !seen.insert(name.clone()) {
            let mut number = 1_u32;
            chosen = format!("{name}:{number}");
            while !known.insert(chosen.clone()) {
                number += 1;
                chosen = format!("{name}:{number}");
            }
        }
        taken.push(chosen);
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_unique() {
        let table: [(&[&str], &[&str]); 3] = [
            (&["a", "b"], &["a", "b"]),
            (&["a", "a", "a"], &["a", "a:1", "a:2"]),
            (&["a", "a", "a:1", "a:1"], &["a", "a:2", "a:1", "a:1:1"]),
        ];
        for (names, expected) in table {
            assert_eq!(unique(names.iter().map(|&name| name.to_owned()).collect()), expected);
        }
    }
}
