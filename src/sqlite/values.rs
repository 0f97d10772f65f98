//! The values of the row a statement stands on.
//!
//! `sqlite3_column_…` checks the statement at each call, two calls a value: together they take longer than the step. The
//! values of a row lie side by side, as objects that begin with the number they hold. [`Layout`] finds out how, once,
//! with the library that is loaded; where it meets anything else than it knows, every value is asked for by calls.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};
use std::marker::PhantomData;
use std::sync::OnceLock;

use rusqlite::ffi::{self, sqlite3_stmt, sqlite3_value};

/// A value of a row. Bytes live until the statement moves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'row> {
    Null,
    Integer(i64),
    Float(f64),
    /// UTF-8, as far as what was stored is.
    Text(&'row [u8]),
    Blob(&'row [u8]),
    /// Text or a blob there was no memory for.
    Lost,
}

/// How the library lays out the values of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layout {
    /// Bytes from one value to the next; zero if they are not side by side.
    stride: usize,
    /// Where in a value the word is that tells its type; zero if that is not known.
    flags: usize,
}

/// The part of that word which tells the type, and what it is for a value of one type only.
const TYPE: u16 = 0x3f;
const NULL: u16 = 0x01;
const TEXT: u16 = 0x02;
const INTEGER: u16 = 0x04;
const FLOAT: u16 = 0x08;
const BLOB: u16 = 0x10;

/// A result to learn from, and the types of its columns.
const LESSON: &CStr = c"SELECT 1234605616436508552, -1.5e-45, NULL, 'x', x'00', -1, 0.5, ''
    UNION ALL SELECT 1234605616436508552, -1.5e-45, NULL, 'y', x'01', -1, 0.5, 'long enough to be stored elsewhere'";
const TYPES: [u16; 8] = [INTEGER, FLOAT, NULL, TEXT, BLOB, INTEGER, FLOAT, TEXT];

impl Layout {
    /// Nothing is known: calls for everything.
    pub const UNKNOWN: Self = Self { stride: 0, flags: 0 };

    /// Of the library in this process.
    #[inline]
    pub fn get() -> Self {
        static FOUND: OnceLock<Layout> = OnceLock::new();
        *FOUND.get_or_init(|| Self::learn().unwrap_or(Self::UNKNOWN))
    }

    #[cold]
    fn learn() -> Option<Self> {
        let connection = rusqlite::Connection::open_in_memory().ok()?;
        let mut statement = std::ptr::null_mut();
        // SAFETY: the connection is open; the statement is finalised before it closes, and used by this thread only.
        unsafe {
            let raw = connection.handle();
            if ffi::sqlite3_prepare_v2(raw, LESSON.as_ptr(), -1, &mut statement, std::ptr::null_mut()) != ffi::SQLITE_OK
            {
                return None;
            }
            let row = || match ffi::sqlite3_step(statement) {
                ffi::SQLITE_ROW => Self::of_row(statement),
                _ => None,
            };
            let (first, second) = (row(), row());
            ffi::sqlite3_finalize(statement);
            if first == second { first } else { None }
        }
    }

    /// # Safety
    /// The statement stands on a row of [`LESSON`].
    unsafe fn of_row(statement: *mut sqlite3_stmt) -> Option<Self> {
        // SAFETY: the caller's promise.
        let value = |column| unsafe { ffi::sqlite3_column_value(statement, column as c_int) };
        let places: [usize; TYPES.len()] = std::array::from_fn(|column| value(column) as usize);
        let stride = places[1].checked_sub(places[0])?;
        let side_by_side = places.windows(2).all(|pair| pair[1].checked_sub(pair[0]) == Some(stride));
        if !side_by_side || !(24..=256).contains(&stride) || stride % align_of::<i64>() != 0 {
            return None;
        }
        // SAFETY: a value reaches to where the next one begins, so the word read is within; both are aligned.
        let (number, flags) = unsafe {
            let number = |column: usize| (places[column] as *const i64).read();
            let flags = |at: usize, column: usize| ((places[column] + at) as *const u16).read() & TYPE;
            // Of the library from 3.37 on with pointers of 64 and of 32 bits, and of those before.
            let fits = |at: &usize| (0..TYPES.len()).all(|column| flags(*at, column) == TYPES[column]);
            (number, [20, 16, 8].into_iter().find(fits))
        };
        let numbers = [(0, 1_234_605_616_436_508_552), (1, (-1.5e-45_f64).to_bits() as i64), (5, -1)];
        let known = numbers.into_iter().all(|(column, expected)| number(column) == expected);
        Some(Self { stride, flags: flags.filter(|_| known).unwrap_or(0) })
    }
}

/// The row a statement stands on.
#[derive(Clone, Copy)]
pub struct Values<'row> {
    statement: *mut sqlite3_stmt,
    first: *mut sqlite3_value,
    layout: Layout,
    row: PhantomData<&'row ()>,
}

impl<'row> Values<'row> {
    /// # Safety
    /// The statement stands on a row, has a column, and stays there for as long as this is used. Nobody else uses its
    /// connection: that makes its values safe to ask, "unprotected" as SQLite calls them.
    #[inline(always)]
    pub unsafe fn of(statement: *mut sqlite3_stmt, layout: Layout) -> Self {
        // SAFETY: the caller's promise.
        let first = unsafe { ffi::sqlite3_column_value(statement, 0) };
        Self { statement, first, layout, row: PhantomData }
    }

    /// The value of a column, as SQLite's functions take it.
    ///
    /// # Safety
    /// The row has that column.
    #[inline(always)]
    pub unsafe fn raw(&self, column: usize) -> *mut sqlite3_value {
        // SAFETY: the caller's promise, and that of `of`.
        unsafe {
            match self.layout.stride {
                0 => ffi::sqlite3_column_value(self.statement, column as c_int),
                stride => self.first.byte_add(column * stride),
            }
        }
    }

    /// The value of a column.
    ///
    /// # Safety
    /// The row has that column.
    #[inline(always)]
    pub unsafe fn get(&self, column: usize) -> Value<'row> {
        // SAFETY: the caller's promise; a number or NULL is read as `Layout` has learnt to.
        unsafe {
            let value = self.raw(column);
            let kind = match self.layout.flags {
                0 => 0,
                flags => value.byte_add(flags).cast::<u16>().read() & TYPE,
            };
            match kind {
                INTEGER => Value::Integer(value.cast::<i64>().read()),
                FLOAT => Value::Float(value.cast::<f64>().read()),
                NULL => Value::Null,
                TEXT => text_of(value),
                _ => asked(value),
            }
        }
    }
}

/// The value, by calls.
///
/// # Safety
/// See [`Values::of`].
#[inline(never)]
unsafe fn asked<'row>(value: *mut sqlite3_value) -> Value<'row> {
    // SAFETY: the caller's promise.
    unsafe {
        match ffi::sqlite3_value_type(value) {
            ffi::SQLITE_INTEGER => Value::Integer(ffi::sqlite3_value_int64(value)),
            ffi::SQLITE_FLOAT => Value::Float(ffi::sqlite3_value_double(value)),
            ffi::SQLITE_TEXT => text_of(value),
            ffi::SQLITE_BLOB => {
                let start = ffi::sqlite3_value_blob(value).cast::<u8>();
                match (start.is_null(), ffi::sqlite3_value_bytes(value) as usize) {
                    // An empty blob has no address.
                    (true, 0) => Value::Blob(&[]),
                    (true, _) => Value::Lost,
                    (false, length) => Value::Blob(std::slice::from_raw_parts(start, length)),
                }
            }
            _ => Value::Null,
        }
    }
}

/// # Safety
/// See [`Values::of`]; the value is text.
#[inline(always)]
unsafe fn text_of<'row>(value: *mut sqlite3_value) -> Value<'row> {
    // SAFETY: the caller's promise. The length is asked for after the conversion that the first call may do.
    unsafe {
        let start = ffi::sqlite3_value_text(value);
        if start.is_null() {
            return Value::Lost;
        }
        Value::Text(std::slice::from_raw_parts(start, ffi::sqlite3_value_bytes(value) as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every value of every row, as found with a layout.
    fn read(connection: &rusqlite::Connection, sql: &str, layout: Layout) -> Vec<Vec<String>> {
        let sql = std::ffi::CString::new(sql).unwrap();
        let mut statement = std::ptr::null_mut();
        let mut rows = Vec::new();
        // SAFETY: an open connection; each row is done with before the next step.
        unsafe {
            let raw = connection.handle();
            let code = ffi::sqlite3_prepare_v2(raw, sql.as_ptr(), -1, &mut statement, std::ptr::null_mut());
            assert_eq!(code, ffi::SQLITE_OK);
            while ffi::sqlite3_step(statement) == ffi::SQLITE_ROW {
                let values = Values::of(statement, layout);
                let columns = 0..ffi::sqlite3_column_count(statement) as usize;
                rows.push(columns.map(|column| format!("{:?}", values.get(column))).collect());
            }
            ffi::sqlite3_finalize(statement);
        }
        rows
    }

    const QUERIES: [&str; 6] = [
        "SELECT * FROM every",
        "SELECT * FROM every ORDER BY real DESC, integer",
        "SELECT integer + 1, real / 3, text || 'x', zeroblob(3), NULL, -9223372036854775808, 1e999, x'' FROM every",
        "SELECT real, count(*), sum(real), max(text), total(integer), group_concat(text) FROM every GROUP BY integer % 3",
        "SELECT a.real, b.integer, b.blob FROM every AS a LEFT JOIN every AS b ON b.integer = a.integer + 60",
        "SELECT 1 UNION SELECT real FROM every UNION SELECT text FROM every",
    ];

    #[test]
    fn reads_what_the_calls_tell() {
        for encoding in ["UTF-8", "UTF-16"] {
            let connection = rusqlite::Connection::open_in_memory().unwrap();
            connection
                .execute_batch(&format!(
                    "PRAGMA encoding = '{encoding}';
                     CREATE TABLE every (integer INTEGER, real REAL, text TEXT, blob BLOB, any);
                     WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99)
                     INSERT INTO every SELECT i * i * 7 - 50, i, 'text ü ' || i, zeroblob(i % 5),
                         CASE i % 5 WHEN 0 THEN i WHEN 1 THEN i / 7.0 WHEN 2 THEN 'x' WHEN 3 THEN x'00ff' END FROM n;
                     INSERT INTO every VALUES (NULL, NULL, NULL, NULL, NULL), ('x', 'y', x'00', 1.5, 1e300);"
                ))
                .unwrap();
            for sql in QUERIES {
                let found = read(&connection, sql, Layout::get());
                assert!(!found.is_empty());
                assert_eq!(found, read(&connection, sql, Layout::UNKNOWN), "{encoding}: {sql}");
            }
        }
    }

    #[test]
    fn knows_the_library_it_is_tested_with() {
        let layout = Layout::get();
        assert!(layout.stride > 0 && layout.flags > 0, "{layout:?}");
    }
}
