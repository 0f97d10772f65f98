//! Columns as parameters: a statement runs once for each of their rows.
//!
//! Values are bound where they lie; only what SQLite has no type for is converted: moments to the ISO text that the
//! standard library's adapters make of them, decimals to text.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type,
    DecimalType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, BinaryViewArray, FixedSizeBinaryArray, PrimitiveArray};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, TimeUnit};
use rusqlite::ffi::{self, sqlite3_stmt};
pub use rusqlite::types::Value;

use super::dates;

/// Why rows could not be bound or run.
#[derive(Debug, thiserror::Error)]
pub enum InputFault {
    /// A result code of SQLite; the message is with the connection.
    #[error("SQLite failed with code {0}")]
    Sqlite(c_int),
    /// A column of a type that SQLite cannot store.
    #[error("column {column:?}: values of type {found} cannot be stored in SQLite; cast the column first")]
    Unsupported { column: String, found: String },
    /// A value that SQLite cannot store: an integer too large, or (not `overflow`) something else.
    #[error("column {column:?}, row {row} (from 0): {reason}")]
    Value { column: String, row: u64, reason: String, overflow: bool },
    /// The columns do not match the parameters of the statement.
    #[error("{0}")]
    Parameters(String),
    /// The producer of a stream failed, or gave what it should not.
    #[error("{0}")]
    Stream(String),
}

/// Rows to bind, column by column.
pub struct Rows {
    columns: Vec<Input>,
    rows: usize,
    /// Number of the first one, for errors.
    first: u64,
}

/// A column of parameters.
pub struct Input {
    name: String,
    values: Values,
    nulls: Option<NullBuffer>,
}

/// The values of a column of parameters.
pub enum Values {
    Null,
    /// A bit each.
    Bits(BooleanBuffer),
    /// A byte each, true unless zero.
    Bools(ScalarBuffer<u8>),
    Int8(ScalarBuffer<i8>),
    Int16(ScalarBuffer<i16>),
    Int32(ScalarBuffer<i32>),
    Int64(ScalarBuffer<i64>),
    UInt8(ScalarBuffer<u8>),
    UInt16(ScalarBuffer<u16>),
    UInt32(ScalarBuffer<u32>),
    UInt64(ScalarBuffer<u64>),
    Float32(ScalarBuffer<f32>),
    Float64(ScalarBuffer<f64>),
    /// Of text or not.
    Short(OffsetBuffer<i32>, Buffer, bool),
    Long(OffsetBuffer<i64>, Buffer, bool),
    View(BinaryViewArray, bool),
    Fixed(FixedSizeBinaryArray),
    /// Days since 1970.
    Days(ScalarBuffer<i32>),
    /// Milliseconds since 1970, of which only the day counts.
    DayMillis(ScalarBuffer<i64>),
    /// How many units since 1970, units in a second, whether in a time zone.
    Moments(ScalarBuffer<i64>, i64, bool),
    /// Converted when bound; `None` for one that has more digits than its type allows, which would be cut off.
    Decimal(Box<dyn Fn(usize) -> Option<String> + Send>),
    /// Position among the values of another column.
    Dictionary(Vec<usize>, Box<Input>),
    /// Whatever an application made of them.
    Any(Vec<Value>),
    /// One part after the other, each with its first row.
    Parts(Vec<(usize, Input)>),
}

impl Values {
    /// How many there are, if they can tell.
    pub fn rows(&self) -> Option<usize> {
        Some(match self {
            Self::Null | Self::Decimal(_) => return None,
            Self::Bits(values) => values.len(),
            Self::Bools(values) => values.len(),
            Self::Int8(values) => values.len(),
            Self::Int16(values) => values.len(),
            Self::Int32(values) | Self::Days(values) => values.len(),
            Self::Int64(values) | Self::DayMillis(values) | Self::Moments(values, ..) => values.len(),
            Self::UInt8(values) => values.len(),
            Self::UInt16(values) => values.len(),
            Self::UInt32(values) => values.len(),
            Self::UInt64(values) => values.len(),
            Self::Float32(values) => values.len(),
            Self::Float64(values) => values.len(),
            Self::Short(offsets, ..) => offsets.len() - 1,
            Self::Long(offsets, ..) => offsets.len() - 1,
            Self::View(values, _) => values.len(),
            Self::Fixed(values) => values.len(),
            Self::Dictionary(keys, _) => keys.len(),
            Self::Any(values) => values.len(),
            Self::Parts(_) => return None,
        })
    }
}

impl Input {
    /// `nulls` has set bits where there are values.
    pub fn new(name: String, values: Values, nulls: Option<NullBuffer>) -> Self {
        Self { name, values, nulls }
    }

    /// An Arrow array.
    pub fn from_array(name: String, array: &ArrayRef) -> Result<Self, InputFault> {
        let nulls = array.nulls().cloned();
        let values = match values_of(&name, array)? {
            Some(values) => values,
            None => return Err(InputFault::Unsupported { column: name, found: array.data_type().to_string() }),
        };
        Ok(Self { name, values, nulls })
    }

    /// NULL wherever this says so, too.
    pub(super) fn hide(&mut self, nulls: &NullBuffer) {
        self.nulls = NullBuffer::union(self.nulls.as_ref(), Some(nulls));
    }

    /// # Safety
    /// The statement is alive, and `self` lives until the parameter is bound anew or cleared.
    #[inline]
    unsafe fn bind(&self, statement: *mut sqlite3_stmt, place: c_int, row: usize) -> Result<(), Unbound> {
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            // SAFETY: the caller's promise.
            return done(unsafe { ffi::sqlite3_bind_null(statement, place) });
        }
        // SAFETY: the caller's promise; what is bound without a copy belongs to `self`.
        let code = unsafe {
            let int = |value: i64| ffi::sqlite3_bind_int64(statement, place, value);
            let float = |value: f64| ffi::sqlite3_bind_double(statement, place, value);
            let fixed = |value: &[u8], text: bool| bind_bytes(statement, place, value, text, ffi::SQLITE_STATIC());
            let moving = |value: &str| bind_bytes(statement, place, value.as_bytes(), true, ffi::SQLITE_TRANSIENT());
            match &self.values {
                Values::Null => ffi::sqlite3_bind_null(statement, place),
                Values::Bits(values) => int(i64::from(values.value(row))),
                Values::Bools(values) => int(i64::from(values[row] != 0)),
                Values::Int8(values) => int(i64::from(values[row])),
                Values::Int16(values) => int(i64::from(values[row])),
                Values::Int32(values) => int(i64::from(values[row])),
                Values::Int64(values) => int(values[row]),
                Values::UInt8(values) => int(i64::from(values[row])),
                Values::UInt16(values) => int(i64::from(values[row])),
                Values::UInt32(values) => int(i64::from(values[row])),
                Values::UInt64(values) => match i64::try_from(values[row]) {
                    Ok(value) => int(value),
                    Err(_) => return Err(Unbound::TooLarge(values[row])),
                },
                Values::Float32(values) => float(f64::from(values[row])),
                Values::Float64(values) => float(values[row]),
                Values::Short(offsets, data, text) => {
                    fixed(&data[offsets[row] as usize..offsets[row + 1] as usize], *text)
                }
                Values::Long(offsets, data, text) => {
                    fixed(&data[offsets[row] as usize..offsets[row + 1] as usize], *text)
                }
                Values::View(values, text) => fixed(values.value(row), *text),
                Values::Fixed(values) => fixed(values.value(row), false),
                Values::Days(values) => match dates::date(i64::from(values[row])) {
                    Some(text) => moving(&text),
                    None => return Err(Unbound::no_date()),
                },
                Values::DayMillis(values) => match dates::date(values[row].div_euclid(86_400_000)) {
                    Some(text) => moving(&text),
                    None => return Err(Unbound::no_date()),
                },
                Values::Moments(values, units, zoned) => {
                    let (seconds, rest) = (values[row].div_euclid(*units), values[row].rem_euclid(*units));
                    match dates::timestamp(seconds, rest * (1_000_000_000 / units), *zoned) {
                        Some(text) => moving(&text),
                        None => return Err(Unbound::no_date()),
                    }
                }
                Values::Decimal(text) => match text(row) {
                    Some(text) => moving(&text),
                    None => return Err(Unbound::Value("a decimal with more digits than its type has".to_owned())),
                },
                Values::Dictionary(keys, values) => return values.bind(statement, place, keys[row]),
                Values::Parts(parts) => {
                    let part = parts.partition_point(|&(first, _)| first <= row) - 1;
                    let (first, values) = &parts[part];
                    return values.bind(statement, place, row - first);
                }
                Values::Any(values) => match &values[row] {
                    Value::Null => ffi::sqlite3_bind_null(statement, place),
                    Value::Integer(value) => int(*value),
                    Value::Real(value) => float(*value),
                    Value::Text(value) => fixed(value.as_bytes(), true),
                    Value::Blob(value) => fixed(value, false),
                },
            }
        };
        done(code)
    }
}

/// Why a value was not bound.
enum Unbound {
    Sqlite(c_int),
    TooLarge(u64),
    Value(String),
}

impl Unbound {
    fn into_fault(self, column: &str, row: u64) -> InputFault {
        let (reason, overflow) = match self {
            Self::Sqlite(code) => return InputFault::Sqlite(code),
            Self::TooLarge(value) => (format!("{value} is too large for SQLite"), true),
            Self::Value(reason) => (reason, false),
        };
        InputFault::Value { column: column.to_owned(), row, reason, overflow }
    }

    fn no_date() -> Self {
        Self::Value("a date outside the years 1 to 9999".to_owned())
    }
}

fn done(code: c_int) -> Result<(), Unbound> {
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(Unbound::Sqlite(code)) }
}

/// # Safety
/// The statement is alive; the bytes live as long as `owner` says.
unsafe fn bind_bytes(
    statement: *mut sqlite3_stmt,
    place: c_int,
    value: &[u8],
    text: bool,
    owner: ffi::sqlite3_destructor_type,
) -> c_int {
    // SAFETY: the caller's promise. The address of an empty slice is not null, which would mean NULL.
    unsafe {
        match text {
            true => ffi::sqlite3_bind_text64(
                statement,
                place,
                value.as_ptr().cast(),
                value.len() as u64,
                owner,
                ffi::SQLITE_UTF8 as u8,
            ),
            false => ffi::sqlite3_bind_blob64(statement, place, value.as_ptr().cast(), value.len() as u64, owner),
        }
    }
}

impl Rows {
    /// Columns of one length. `first` is the number of their first row.
    pub fn new(columns: Vec<Input>, rows: usize, first: u64) -> Self {
        Self { columns, rows, first }
    }

    pub fn len(&self) -> usize {
        self.rows
    }

    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }

    /// Runs the statement for each of these rows; `places` has the parameter of each column, or 0. Returns how many
    /// rows the statement changed. It is left reset and without parameters.
    ///
    /// # Safety
    /// The statement is alive and nobody else uses its connection.
    pub unsafe fn run(
        &self,
        statement: *mut sqlite3_stmt,
        places: &[c_int],
        rows: std::ops::Range<usize>,
    ) -> Result<u64, InputFault> {
        let _reset = Reset(statement);
        let mut changed = 0;
        // SAFETY: the caller's promise; what is bound is unbound before `self` can go.
        unsafe {
            let connection = ffi::sqlite3_db_handle(statement);
            let reads = ffi::sqlite3_stmt_readonly(statement) != 0;
            for row in rows {
                ffi::sqlite3_reset(statement);
                for (column, &place) in self.columns.iter().zip(places).filter(|(_, place)| **place > 0) {
                    column
                        .bind(statement, place, row)
                        .map_err(|unbound| unbound.into_fault(&column.name, self.first + row as u64))?;
                }
                let code = loop {
                    match ffi::sqlite3_step(statement) {
                        ffi::SQLITE_ROW => {}
                        code => break code,
                    }
                };
                if code != ffi::SQLITE_DONE {
                    return Err(InputFault::Sqlite(code));
                }
                if !reads {
                    changed += u64::try_from(ffi::sqlite3_changes(connection)).unwrap_or(0);
                }
            }
        }
        Ok(changed)
    }
}

struct Reset(*mut sqlite3_stmt);

impl Drop for Reset {
    fn drop(&mut self) {
        // SAFETY: made and dropped within `run`. A failed step was reported already.
        unsafe {
            ffi::sqlite3_reset(self.0);
            ffi::sqlite3_clear_bindings(self.0);
        }
    }
}

/// The parameter of each column, 0 for none: by name where the parameters and the columns have names, else by position.
///
/// # Safety
/// The statement is alive and nobody else uses its connection.
pub unsafe fn places(
    statement: *mut sqlite3_stmt,
    names: Option<&[String]>,
    columns: usize,
) -> Result<Vec<c_int>, InputFault> {
    // SAFETY: the caller's promise; a name is copied before the next call.
    let parameters: Vec<Option<String>> = unsafe {
        (1..=ffi::sqlite3_bind_parameter_count(statement))
            .map(|place| {
                let name = ffi::sqlite3_bind_parameter_name(statement, place);
                let name = (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned());
                name.filter(|name| !name.starts_with('?'))
            })
            .collect()
    };
    let Some(names) = names.filter(|_| parameters.iter().any(Option::is_some)) else {
        if parameters.len() != columns {
            return Err(InputFault::Parameters(format!(
                "Incorrect number of bindings supplied. The current statement uses {}, and there are {columns} supplied.",
                parameters.len()
            )));
        }
        return Ok((1..=columns as c_int).collect());
    };
    let mut places = vec![0; columns];
    for (place, parameter) in (1..).zip(&parameters) {
        let Some(parameter) = parameter else {
            return Err(InputFault::Parameters(format!(
                "Binding {place} has no name, but the columns have names only"
            )));
        };
        // The first character is one of `:@$`.
        match names.iter().position(|name| name == &parameter[1..]) {
            Some(column) => places[column] = place,
            None => {
                let text = format!("You did not supply a value for binding parameter {parameter}.");
                return Err(InputFault::Parameters(text));
            }
        }
    }
    Ok(places)
}

/// `None` for a type that cannot be stored.
fn values_of(name: &str, array: &ArrayRef) -> Result<Option<Values>, InputFault> {
    fn primitive<T: ArrowPrimitiveType>(array: &ArrayRef) -> ScalarBuffer<T::Native> {
        array.as_primitive::<T>().values().clone()
    }
    fn decimal<T: DecimalType>(array: &ArrayRef) -> Values {
        let array: PrimitiveArray<T> = array.as_primitive::<T>().clone();
        let precision = array.precision();
        Values::Decimal(Box::new(move |row| {
            T::is_valid_decimal_precision(array.value(row), precision).then(|| array.value_as_string(row))
        }))
    }
    Ok(Some(match array.data_type() {
        DataType::Null => Values::Null,
        DataType::Boolean => Values::Bits(array.as_boolean().values().clone()),
        DataType::Int8 => Values::Int8(primitive::<Int8Type>(array)),
        DataType::Int16 => Values::Int16(primitive::<Int16Type>(array)),
        DataType::Int32 => Values::Int32(primitive::<Int32Type>(array)),
        DataType::Int64 => Values::Int64(primitive::<Int64Type>(array)),
        DataType::UInt8 => Values::UInt8(primitive::<UInt8Type>(array)),
        DataType::UInt16 => Values::UInt16(primitive::<UInt16Type>(array)),
        DataType::UInt32 => Values::UInt32(primitive::<UInt32Type>(array)),
        DataType::UInt64 => Values::UInt64(primitive::<UInt64Type>(array)),
        DataType::Float16 => {
            let values = primitive::<Float16Type>(array);
            Values::Float32(values.iter().map(|value| value.to_f32()).collect())
        }
        DataType::Float32 => Values::Float32(primitive::<Float32Type>(array)),
        DataType::Float64 => Values::Float64(primitive::<Float64Type>(array)),
        DataType::Utf8 => {
            let (offsets, data, _) = array.as_string::<i32>().clone().into_parts();
            Values::Short(offsets, data, true)
        }
        DataType::LargeUtf8 => {
            let (offsets, data, _) = array.as_string::<i64>().clone().into_parts();
            Values::Long(offsets, data, true)
        }
        DataType::Utf8View => Values::View(array.as_string_view().clone().to_binary_view(), true),
        DataType::Binary => {
            let (offsets, data, _) = array.as_binary::<i32>().clone().into_parts();
            Values::Short(offsets, data, false)
        }
        DataType::LargeBinary => {
            let (offsets, data, _) = array.as_binary::<i64>().clone().into_parts();
            Values::Long(offsets, data, false)
        }
        DataType::BinaryView => Values::View(array.as_binary_view().clone(), false),
        DataType::FixedSizeBinary(_) => Values::Fixed(array.as_fixed_size_binary().clone()),
        DataType::Date32 => Values::Days(primitive::<Date32Type>(array)),
        DataType::Date64 => Values::DayMillis(primitive::<Date64Type>(array)),
        DataType::Timestamp(unit, zone) => {
            let (values, units) = match unit {
                TimeUnit::Second => (primitive::<TimestampSecondType>(array), 1),
                TimeUnit::Millisecond => (primitive::<TimestampMillisecondType>(array), 1_000),
                TimeUnit::Microsecond => (primitive::<TimestampMicrosecondType>(array), 1_000_000),
                TimeUnit::Nanosecond => (primitive::<TimestampNanosecondType>(array), 1_000_000_000),
            };
            Values::Moments(values, units, zone.is_some())
        }
        DataType::Decimal32(..) => decimal::<Decimal32Type>(array),
        DataType::Decimal64(..) => decimal::<Decimal64Type>(array),
        DataType::Decimal128(..) => decimal::<Decimal128Type>(array),
        DataType::Decimal256(..) => decimal::<Decimal256Type>(array),
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            if dictionary.values().is_empty() {
                return Ok(Some(Values::Null));
            }
            let values = Input::from_array(name.to_owned(), dictionary.values())?;
            Values::Dictionary(dictionary.normalized_keys(), Box::new(values))
        }
        _ => return Ok(None),
    }))
}

/// What may come out of a stream: known before the first row is bound.
pub(super) fn storable(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => storable(values),
        other => values_of("", &arrow_array::new_empty_array(other)).is_ok_and(|values| values.is_some()),
    }
}
