//! Steps a statement and collects its rows, column by column.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};
use std::mem;
use std::slice;
use std::sync::Arc;

use rusqlite::ffi::{self, sqlite3_stmt, sqlite3_value};

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
            let mut size = 8 * self.columns.len();
            let mut stopped = None;
            for (place, column) in self.columns.iter_mut().enumerate() {
                // SAFETY: the statement stands on a row, and has this column.
                let pushed = unsafe { column.push(ffi::sqlite3_column_value(statement, place as c_int), &mut size) };
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
            self.columns = unsafe { columns_of(statement) };
            for (column, &kind) in self.columns.iter_mut().zip(&self.wanted) {
                column.data = Data::nulls(kind, 0);
                column.settled = Settled::ByWish;
            }
            self.ready = true;
        }
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
    /// # Safety
    /// The value is alive and nobody else uses its connection. That it is "unprotected" does not matter then.
    #[inline(always)]
    unsafe fn push(&mut self, value: *mut sqlite3_value, size: &mut usize) -> Result<(), Stop> {
        // SAFETY: the caller's promise; numbers are only read as what they are.
        unsafe {
            let found = ffi::sqlite3_value_type(value);
            match (&mut self.data, found) {
                (Data::Int64(values), ffi::SQLITE_INTEGER) => push(values, ffi::sqlite3_value_int64(value))?,
                (Data::Float64(values), ffi::SQLITE_FLOAT) => push(values, ffi::sqlite3_value_double(value))?,
                (Data::Text(values), ffi::SQLITE_TEXT) => {
                    let text = text_of(value)?;
                    *size += text.len();
                    values.push(text)?;
                }
                _ => self.push_other(value, found, size)?,
            }
        }
        Ok(())
    }

    /// Everything but the expected.
    ///
    /// # Safety
    /// As `push`.
    #[inline(never)]
    unsafe fn push_other(&mut self, value: *mut sqlite3_value, found: c_int, size: &mut usize) -> Result<(), Stop> {
        if found == ffi::SQLITE_NULL {
            let row = self.data.len();
            self.data.push_null()?;
            if self.validity.push_null(row).is_none() {
                self.data.truncate(row);
                return Err(Fault::Memory.into());
            }
            return Ok(());
        }
        // SAFETY: the caller's promise; `found` is the type of the value.
        unsafe {
            match (&mut self.data, found) {
                (Data::Blob(values), ffi::SQLITE_BLOB) => {
                    let blob = blob_of(value)?;
                    *size += blob.len();
                    values.push(blob)?;
                }
                (Data::Float64(values), ffi::SQLITE_INTEGER) => {
                    match exact_float(ffi::sqlite3_value_int64(value)) {
                        Some(float) => push(values, float)?,
                        None => return self.misfit(value, found, size),
                    };
                }
                (Data::Mixed(mixed), _) => push_mixed(mixed, value, found, size)?,
                (&mut Data::Null(rows), _) if self.settled == Settled::No => {
                    self.data = Data::nulls(self.first_kind(value, found), rows);
                    return self.push(value, size);
                }
                _ => return self.misfit(value, found, size),
            }
        }
        Ok(())
    }

    /// What the first value makes of the column.
    ///
    /// # Safety
    /// As `push`.
    unsafe fn first_kind(&self, value: *mut sqlite3_value, found: c_int) -> Kind {
        match found {
            // SAFETY: the caller's promise.
            ffi::SQLITE_INTEGER => match self.declared.fraction && unsafe { exact_float(int_of(value)) }.is_some() {
                true => Kind::Float64,
                false => Kind::Int64,
            },
            ffi::SQLITE_FLOAT => Kind::Float64,
            ffi::SQLITE_TEXT => Kind::Text,
            _ => Kind::Blob,
        }
    }

    /// A value of another type than those before it: the column, or the value, has to change.
    ///
    /// # Safety
    /// As `push`.
    #[cold]
    unsafe fn misfit(&mut self, value: *mut sqlite3_value, found: c_int, size: &mut usize) -> Result<(), Stop> {
        // SAFETY: the caller's promise.
        unsafe {
            match (self.settled, &mut self.data, found) {
                (Settled::No, ..) => {}
                (Settled::ByWish, Data::Text(values), ffi::SQLITE_INTEGER | ffi::SQLITE_FLOAT | ffi::SQLITE_TEXT) => {
                    // As SQLite itself writes numbers.
                    let text = text_of(value)?;
                    *size += text.len();
                    return Ok(values.push(text)?);
                }
                (Settled::ByWish, Data::Blob(values), ffi::SQLITE_TEXT) => {
                    let text = text_of(value)?;
                    *size += text.len();
                    return Ok(values.push(text)?);
                }
                (Settled::ByWish, Data::Int64(values), ffi::SQLITE_FLOAT) => {
                    if let Some(integer) = exact_integer(ffi::sqlite3_value_double(value)) {
                        return Ok(push(values, integer)?);
                    }
                    return Err(Fault::from(self.mismatch(value, found)).into());
                }
                _ => return Err(Fault::from(self.mismatch(value, found)).into()),
            }
            let changed = match found {
                ffi::SQLITE_FLOAT => self.data.as_floats(&self.validity)?.map(Data::Float64),
                // Whole so far, and floats only because they were declared to be.
                ffi::SQLITE_INTEGER if self.declared.fraction => {
                    self.data.as_integers(&self.validity)?.map(Data::Int64)
                }
                _ => None,
            };
            if let Some(changed) = changed {
                self.data = changed;
            } else {
                if self.misfit.is_none() {
                    self.misfit = Some(self.mismatch(value, found));
                }
                let data = mem::replace(&mut self.data, Data::Null(0));
                self.data = Data::Mixed(data.into_mixed(&self.validity)?);
            }
            self.push(value, size)
        }
    }

    /// # Safety
    /// As `push`.
    unsafe fn mismatch(&self, value: *mut sqlite3_value, found: c_int) -> Box<Mismatch> {
        let found = match found {
            // SAFETY: the caller's promise.
            ffi::SQLITE_INTEGER => match unsafe { int_of(value) } {
                value if exact_float(value).is_none() => format!("the INTEGER {value}, which is no float"),
                _ => "an INTEGER".to_owned(),
            },
            ffi::SQLITE_FLOAT => "a REAL".to_owned(),
            ffi::SQLITE_TEXT => "TEXT".to_owned(),
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

/// # Safety
/// As `Growing::push`; `found` is the type of the value.
unsafe fn push_mixed(mixed: &mut Mixed, value: *mut sqlite3_value, found: c_int, size: &mut usize) -> Result<(), Stop> {
    // SAFETY: the caller's promise.
    let cell = unsafe {
        match found {
            ffi::SQLITE_INTEGER => Cell::Int(int_of(value)),
            ffi::SQLITE_FLOAT => Cell::Float(ffi::sqlite3_value_double(value)),
            ffi::SQLITE_TEXT => {
                let text = text_of(value)?;
                *size += text.len();
                Cell::Text(mixed.keep(text)?)
            }
            _ => {
                let blob = blob_of(value)?;
                *size += blob.len();
                Cell::Blob(mixed.keep(blob)?)
            }
        }
    };
    Ok(mixed.push(cell)?)
}

/// # Safety
/// As `Growing::push`.
unsafe fn int_of(value: *mut sqlite3_value) -> i64 {
    // SAFETY: the caller's promise.
    unsafe { ffi::sqlite3_value_int64(value) }
}

/// The text, in UTF-8 whatever the encoding of the database, as long as the statement stays on its row.
///
/// # Safety
/// As `Growing::push`.
#[inline(always)]
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

/// The same for a blob.
///
/// # Safety
/// As `Growing::push`.
unsafe fn blob_of<'row>(value: *mut sqlite3_value) -> Result<&'row [u8], Stop> {
    // SAFETY: the caller's promise. An empty blob has no address; else a missing one means that there was no memory.
    unsafe {
        let start = ffi::sqlite3_value_blob(value);
        let length = ffi::sqlite3_value_bytes(value) as usize;
        match (start.is_null(), length) {
            (true, 0) => Ok(&[]),
            (true, _) => Err(Fault::Memory.into()),
            (false, _) => Ok(slice::from_raw_parts(start.cast(), length)),
        }
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
    columns
        .map(|(name, declared)| Growing {
            name: name.into(),
            declared: Declared::parse(declared),
            settled: Settled::No,
            data: Data::Null(0),
            validity: Validity::default(),
            taken: 0,
            misfit: None,
        })
        .collect()
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
