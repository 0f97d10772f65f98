//! Results as columns and columns as parameters, against reading and binding value by value.
// One thread, and every statement is finalised before its connection goes: that makes all the blocks below sound.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

use std::ffi::c_int;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::Arc;

use arrow_array::builder::{StringDictionaryBuilder, StringViewBuilder};
use arrow_array::cast::AsArray;
use arrow_array::ffi_stream::{ArrowArrayStreamReader, FFI_ArrowArrayStream};
use arrow_array::types::{Float64Type, Int32Type, Int64Type};
use arrow_array::*;
use arrow_buffer::i256;
use arrow_schema::{DataType, Field, Schema};
use proptest::prelude::*;
use upshift::sqlite::columns::arrow::{self, Failure, Source, kind_for};
use upshift::sqlite::columns::input::{InputFault, Rows, places};
use upshift::sqlite::columns::stream::Incoming;
use upshift::sqlite::columns::{Batch, Builder, Cell, Column, Data, Fault, Kind, Limits, unify};
use upshift::sqlite::{Db, Open, raw};

const ALL: Limits = Limits { rows: usize::MAX, bytes: usize::MAX };

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Null,
    Int(i64),
    Float(f64),
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

/// A statement of a database in memory.
struct Statement<'a>(&'a Db, *mut raw::sqlite3_stmt);

fn memory() -> Arc<Db> {
    Db::open(Path::new(":memory:"), &Open::default()).unwrap()
}

impl<'a> Statement<'a> {
    fn new(db: &'a Db, sql: &str) -> Self {
        let mut statement = null_mut();
        let entered = db.enter();
        let code = unsafe {
            raw::sqlite3_prepare_v2(entered.raw(), sql.as_ptr().cast(), sql.len() as c_int, &mut statement, null_mut())
        };
        assert_eq!(code, raw::SQLITE_OK, "{sql}: {}", entered.failure(code));
        Self(db, statement)
    }

    fn run(db: &Db, sql: &str) {
        let statement = Statement::new(db, sql);
        while unsafe { raw::sqlite3_step(statement.1) } == raw::SQLITE_ROW {}
    }

    fn bind(&self, place: c_int, value: &Value) {
        let code = unsafe {
            let copied = raw::SQLITE_TRANSIENT();
            match value {
                Value::Null => raw::sqlite3_bind_null(self.1, place),
                Value::Int(value) => raw::sqlite3_bind_int64(self.1, place, *value),
                Value::Float(value) => raw::sqlite3_bind_double(self.1, place, *value),
                Value::Text(text) => {
                    raw::sqlite3_bind_text(self.1, place, text.as_ptr().cast(), text.len() as c_int, copied)
                }
                Value::Blob(blob) => {
                    raw::sqlite3_bind_blob(self.1, place, blob.as_ptr().cast(), blob.len() as c_int, copied)
                }
            }
        };
        assert_eq!(code, raw::SQLITE_OK);
    }

    /// Every row, value by value.
    fn rows(&self) -> Vec<Vec<Value>> {
        let mut rows = Vec::new();
        unsafe {
            while raw::sqlite3_step(self.1) == raw::SQLITE_ROW {
                rows.push((0..raw::sqlite3_column_count(self.1)).map(|column| self.value(column)).collect());
            }
            raw::sqlite3_reset(self.1);
        }
        rows
    }

    unsafe fn value(&self, column: c_int) -> Value {
        unsafe {
            let bytes = |start: *const u8| match start.is_null() {
                true => Vec::new(),
                false => std::slice::from_raw_parts(start, raw::sqlite3_column_bytes(self.1, column) as usize).to_vec(),
            };
            match raw::sqlite3_column_type(self.1, column) {
                raw::SQLITE_INTEGER => Value::Int(raw::sqlite3_column_int64(self.1, column)),
                raw::SQLITE_FLOAT => Value::Float(raw::sqlite3_column_double(self.1, column)),
                raw::SQLITE_TEXT => Value::Text(bytes(raw::sqlite3_column_text(self.1, column))),
                raw::SQLITE_BLOB => Value::Blob(bytes(raw::sqlite3_column_blob(self.1, column).cast())),
                _ => Value::Null,
            }
        }
    }

    fn fill(&self, builder: &mut Builder, at_row: &mut bool, limits: Limits) -> Result<bool, Fault> {
        let _entered = self.0.enter();
        unsafe { builder.fill(self.1, at_row, limits) }
    }

    fn batch(&self) -> Batch {
        let mut builder = Builder::default();
        assert!(self.fill(&mut builder, &mut false, ALL).unwrap());
        unsafe { raw::sqlite3_reset(self.1) };
        builder.take()
    }
}

impl Drop for Statement<'_> {
    fn drop(&mut self) {
        unsafe { raw::sqlite3_finalize(self.1) };
    }
}

/// A table without declared types that holds these rows.
fn table(db: &Db, rows: &[Vec<Value>]) {
    let width = rows.first().map_or(3, Vec::len);
    let names: Vec<_> = (0..width).map(|column| format!("c{column}")).collect();
    Statement::run(db, "DROP TABLE IF EXISTS t");
    Statement::run(db, &format!("CREATE TABLE t ({})", names.join(", ")));
    let insert = Statement::new(db, &format!("INSERT INTO t VALUES ({})", vec!["?"; width].join(", ")));
    for row in rows {
        for (value, place) in row.iter().zip(1..) {
            insert.bind(place, value);
        }
        unsafe {
            assert_eq!(raw::sqlite3_step(insert.1), raw::SQLITE_DONE);
            raw::sqlite3_reset(insert.1);
        }
    }
}

fn cell(column: &Column, row: usize) -> Value {
    if column.validity.is_null(row) {
        return Value::Null;
    }
    match &column.data {
        Data::Null(_) => Value::Null,
        Data::Int64(values) => Value::Int(values[row]),
        Data::Float64(values) => Value::Float(values[row]),
        Data::Text(values) => Value::Text(values.get(row).to_vec()),
        Data::Blob(values) => Value::Blob(values.get(row).to_vec()),
        Data::Mixed(mixed) => match mixed.cells[row] {
            Cell::Null => Value::Null,
            Cell::Int(value) => Value::Int(value),
            Cell::Float(value) => Value::Float(value),
            Cell::Text(span) => Value::Text(mixed.get(span).to_vec()),
            Cell::Blob(span) => Value::Blob(mixed.get(span).to_vec()),
        },
    }
}

fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Float(one), Value::Float(other)) => one.to_bits() == other.to_bits() || one == other,
        // Promoted without loss.
        (Value::Int(int), Value::Float(float)) => *float as i128 == i128::from(*int),
        (one, other) => one == other,
    }
}

fn check(batch: &Batch, rows: &[Vec<Value>]) {
    assert_eq!(batch.rows, rows.len());
    for (place, column) in batch.columns.iter().enumerate() {
        assert_eq!(column.data.len(), rows.len());
        let nulls = rows.iter().filter(|row| row[place] == Value::Null).count();
        assert_eq!(column.validity.nulls(), nulls);
        for (row, values) in rows.iter().enumerate() {
            let found = cell(column, row);
            assert!(same(&values[place], &found), "column {place}, row {row}: {:?} != {found:?}", values[place]);
        }
    }
}

fn is_exact(value: &Value) -> bool {
    match *value {
        Value::Int(value) => (value as f64) as i128 == i128::from(value),
        _ => true,
    }
}

/// The type that a column of these values must have.
fn kind(values: &[Value]) -> Kind {
    let values: Vec<_> = values.iter().filter(|value| **value != Value::Null).collect();
    let all = |is: fn(&Value) -> bool| values.iter().all(|value| is(value));
    if values.is_empty() {
        Kind::Null
    } else if all(|value| matches!(value, Value::Int(_))) {
        Kind::Int64
    } else if all(|value| matches!(value, Value::Int(_) | Value::Float(_)) && is_exact(value)) {
        Kind::Float64
    } else if all(|value| matches!(value, Value::Text(_))) {
        Kind::Text
    } else if all(|value| matches!(value, Value::Blob(_))) {
        Kind::Blob
    } else {
        Kind::Mixed
    }
}

fn int() -> BoxedStrategy<Value> {
    prop_oneof![
        4 => (-1000_i64..1000).prop_map(Value::Int),
        1 => any::<i64>().prop_map(Value::Int),
        1 => prop::sample::select(vec![i64::MIN, i64::MAX, 1 << 53, (1 << 53) + 1]).prop_map(Value::Int),
    ]
    .boxed()
}

fn float() -> BoxedStrategy<Value> {
    prop_oneof![
        any::<f64>().prop_map(Value::Float),
        prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1e300]).prop_map(Value::Float),
    ]
    .boxed()
}

fn text() -> BoxedStrategy<Value> {
    let text = |text: &str| Value::Text(text.as_bytes().to_vec());
    prop_oneof![
        ".{0,12}".prop_map(move |value| text(&value)),
        Just(text("")),
        Just(text("a\0b")),
        prop::collection::vec(any::<u8>(), 0..9).prop_map(Value::Text), // rarely UTF-8
    ]
    .boxed()
}

fn blob() -> BoxedStrategy<Value> {
    prop::collection::vec(any::<u8>(), 0..9).prop_map(Value::Blob).boxed()
}

/// Columns of one type, of several, and of NULLs among either.
fn column(rows: usize) -> BoxedStrategy<Vec<Value>> {
    let kinds: Vec<BoxedStrategy<Value>> = vec![
        Just(Value::Null).boxed(),
        int(),
        float(),
        text(),
        blob(),
        prop_oneof![int(), float()].boxed(),
        prop_oneof![4 => int(), 1 => float(), 1 => text(), 1 => blob()].boxed(),
    ];
    let value = (prop::sample::select(kinds), any::<bool>());
    value
        .prop_flat_map(move |(value, nulls)| {
            let value = match nulls {
                true => prop_oneof![2 => value, 1 => Just(Value::Null)].boxed(),
                false => value,
            };
            prop::collection::vec(value, rows)
        })
        .boxed()
}

fn rows() -> impl Strategy<Value = Vec<Vec<Value>>> {
    (0_usize..60, 1_usize..5).prop_flat_map(|(rows, columns)| {
        prop::collection::vec(column(rows), columns)
            .prop_map(move |columns| (0..rows).map(|row| columns.iter().map(|of| of[row].clone()).collect()).collect())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whole_results(rows in rows()) {
        let db = memory();
        table(&db, &rows);
        let statement = Statement::new(&db, "SELECT * FROM t");
        let expected = statement.rows();
        let batch = statement.batch();
        check(&batch, &expected);
        for (place, column) in batch.columns.iter().enumerate() {
            let values: Vec<_> = expected.iter().map(|row| row[place].clone()).collect();
            prop_assert_eq!(column.data.kind(), kind(&values));
            prop_assert_eq!(column.misfit.is_some(), column.data.kind() == Kind::Mixed);
        }
    }

    #[test]
    fn batch_by_batch_and_made_alike(rows in rows(), limit in 1_usize..20, bytes in 1_usize..200) {
        let db = memory();
        table(&db, &rows);
        let statement = Statement::new(&db, "SELECT * FROM t");
        let expected = statement.rows();
        let mut builder = Builder::default();
        let (mut batches, mut at_row, mut seen) = (Vec::new(), false, 0);
        loop {
            let ended = statement.fill(&mut builder, &mut at_row, Limits { rows: limit, bytes }).unwrap();
            let batch = builder.take();
            prop_assert!(batch.rows <= limit);
            check(&batch, &expected[seen..seen + batch.rows]);
            seen += batch.rows;
            prop_assert_eq!(builder.rows(), seen as u64);
            batches.push(batch);
            if ended {
                break;
            }
            prop_assert!(batches.last().unwrap().rows > 0);
        }
        prop_assert_eq!(seen, expected.len());
        unify(&mut batches).unwrap();
        seen = 0;
        for batch in &batches {
            check(batch, &expected[seen..seen + batch.rows]);
            seen += batch.rows;
        }
        for place in 0..batches[0].columns.len() {
            let kinds: Vec<_> = batches.iter().map(|batch| batch.columns[place].data.kind()).collect();
            prop_assert!(kinds.windows(2).all(|pair| pair[0] == pair[1]), "{:?}", kinds);
        }
    }

    /// Out through the Arrow stream and in again: the same table.
    #[test]
    fn arrow_there_and_back(rows in rows(), limit in 1_usize..20) {
        let db = memory();
        table(&db, &rows);
        let statement = Statement::new(&db, "SELECT * FROM t");
        let expected = statement.rows();
        let columns = expected.first().map_or(0, Vec::len);
        let is_text = |value: &Value| matches!(value, Value::Text(text) if std::str::from_utf8(text).is_err());
        let plain = (0..columns).all(|place| {
            let values: Vec<_> = expected.iter().map(|row| row[place].clone()).collect();
            kind(&values) != Kind::Mixed && !values.iter().any(is_text)
        });
        let mut stream = match export(&statement, limit, None) {
            Ok(stream) => stream,
            Err(fault) => {
                prop_assert!(matches!(fault, Fault::Mismatch(_)));
                prop_assert!(!plain);
                return Ok(());
            }
        };
        Statement::run(&db, "DROP TABLE IF EXISTS u");
        let names: Vec<_> = (0..columns.max(1)).map(|column| format!("c{column}")).collect();
        Statement::run(&db, &format!("CREATE TABLE u ({})", names.join(", ")));
        if expected.is_empty() {
            return Ok(());
        }
        let insert = Statement::new(&db, &format!("INSERT INTO u VALUES ({})", vec!["?"; columns].join(", ")));
        match pour(&insert, std::mem::replace(&mut stream, FFI_ArrowArrayStream::empty())) {
            Ok(changed) => {
                prop_assert_eq!(changed, expected.len() as u64);
                let found = Statement::new(&db, "SELECT * FROM u").rows();
                for (row, values) in found.iter().zip(&expected) {
                    prop_assert!(row.iter().zip(values).all(|(found, value)| same(value, found)), "{row:?} {values:?}");
                }
                prop_assert_eq!(found.len(), expected.len());
            }
            // Text that is none, or values of another type than the first batch had.
            Err(InputFault::Stream(text)) => {
                prop_assert!(text.contains("column \"c") && text.contains("row "), "{}", text);
                prop_assert!(limit < expected.len() || !plain);
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}

/// Batches of a statement, pulled as needed.
struct Pulled {
    db: *const Db,
    statement: *mut raw::sqlite3_stmt,
    builder: Builder,
    first: Option<Batch>,
    at_row: bool,
    ended: bool,
    limit: usize,
}

// SAFETY: the tests use one thread.
unsafe impl Send for Pulled {}

impl Source for Pulled {
    fn next(&mut self) -> Result<Option<Batch>, Failure> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        if self.ended {
            return Ok(None);
        }
        let _entered = unsafe { (*self.db).enter() };
        let limits = Limits { rows: self.limit, bytes: usize::MAX };
        match unsafe { self.builder.fill(self.statement, &mut self.at_row, limits) } {
            Ok(ended) => self.ended = ended,
            Err(fault) => return Err(Failure::Data(fault.to_string())),
        }
        Ok(Some(self.builder.take()))
    }
}

fn export(statement: &Statement<'_>, limit: usize, wanted: Option<Schema>) -> Result<FFI_ArrowArrayStream, Fault> {
    let mut builder = match &wanted {
        Some(schema) => {
            Builder::wanting(schema.fields().iter().map(|field| kind_for(field.data_type()).unwrap()).collect())
        }
        None => Builder::default(),
    };
    let mut at_row = false;
    let ended = statement.fill(&mut builder, &mut at_row, Limits { rows: limit, bytes: usize::MAX })?;
    builder.settle(ended)?;
    let first = builder.take();
    let schema = match wanted {
        Some(schema) => Arc::new(schema),
        None => arrow::schema_of(std::slice::from_ref(&first))?,
    };
    let source = Pulled { db: statement.0, statement: statement.1, builder, first: Some(first), at_row, ended, limit };
    Ok(arrow::export(schema, Box::new(source)))
}

fn batches(stream: FFI_ArrowArrayStream) -> Result<Vec<RecordBatch>, String> {
    ArrowArrayStreamReader::try_new(stream).unwrap().map(|batch| batch.map_err(|error| error.to_string())).collect()
}

/// Runs a statement with every row of a stream.
fn pour(insert: &Statement<'_>, stream: FFI_ArrowArrayStream) -> Result<u64, InputFault> {
    let mut incoming = unsafe { Incoming::new(stream)? };
    let names = incoming.names();
    let places = unsafe { places(insert.1, Some(&names), names.len())? };
    let mut changed = 0;
    while let Some(rows) = incoming.next_rows()? {
        changed += run(insert, &rows, &places)?;
    }
    Ok(changed)
}

fn run(insert: &Statement<'_>, rows: &Rows, places: &[c_int]) -> Result<u64, InputFault> {
    let _entered = insert.0.enter();
    unsafe { rows.run(insert.1, places, 0..rows.len()) }
}

fn ints(values: &[i64]) -> Vec<Vec<Value>> {
    values.iter().map(|&value| vec![Value::Int(value)]).collect()
}

#[test]
fn declared_types_decide_where_values_do_not() {
    let db = memory();
    Statement::run(&db, "CREATE TABLE d (a INTEGER, b REAL, c TEXT, d BLOB, e DECIMAL(10, 2), f DATETIME, g)");
    let kinds =
        |sql: &str| Statement::new(&db, sql).batch().columns.iter().map(|it| it.data.kind()).collect::<Vec<_>>();
    let declared = [Kind::Int64, Kind::Float64, Kind::Text, Kind::Blob, Kind::Float64, Kind::Text, Kind::Null];
    assert_eq!(kinds("SELECT * FROM d"), declared);
    Statement::run(&db, "INSERT INTO d DEFAULT VALUES");
    assert_eq!(kinds("SELECT * FROM d"), declared);
    // A decimal stays a float where its values are whole, but never loses a digit.
    Statement::run(&db, "UPDATE d SET a = 'x', b = 2, e = 20, f = 1");
    assert_eq!(kinds("SELECT a, b, e, f FROM d"), [Kind::Text, Kind::Float64, Kind::Float64, Kind::Int64]);
    Statement::run(&db, "INSERT INTO d (e) VALUES (9007199254740993)");
    assert_eq!(kinds("SELECT e FROM d"), [Kind::Int64]);
    let batch = Statement::new(&db, "SELECT e FROM d").batch();
    assert!(matches!(&batch.columns[0].data, Data::Int64(values) if values[..] == [20, 9_007_199_254_740_993]));
    Statement::run(&db, "INSERT INTO d (e) VALUES (0.5)");
    assert_eq!(kinds("SELECT e FROM d"), [Kind::Mixed]);
}

#[test]
fn names_are_unique() {
    let db = memory();
    let batch = Statement::new(&db, "SELECT 1 AS a, 2 AS a, 3 AS \"a:1\"").batch();
    let names: Vec<_> = batch.columns.iter().map(|column| column.name.to_string()).collect();
    assert_eq!(names, ["a", "a:2", "a:1"]);
}

#[test]
fn text_of_another_encoding() {
    let db = memory();
    Statement::run(&db, "PRAGMA encoding = 'UTF-16'");
    Statement::run(&db, "CREATE TABLE t (a)");
    Statement::run(&db, "INSERT INTO t VALUES ('größer 🙂'), (''), (x'00ff')");
    let statement = Statement::new(&db, "SELECT a FROM t");
    let expected = statement.rows();
    check(&statement.batch(), &expected);
    assert_eq!(expected[0][0], Value::Text("größer 🙂".as_bytes().to_vec()));
}

#[test]
fn a_failing_step_keeps_what_was_read() {
    let db = memory();
    let sql =
        "SELECT value, abs(value) FROM (SELECT 1 AS value UNION ALL SELECT 2 UNION ALL SELECT -9223372036854775808)";
    let statement = Statement::new(&db, sql);
    let mut builder = Builder::default();
    let fault = statement.fill(&mut builder, &mut false, ALL).unwrap_err();
    assert!(matches!(fault, Fault::Sqlite(code) if code & 0xff == raw::SQLITE_ERROR), "{fault}");
    assert_eq!(builder.take().rows, 2);
}

#[test]
fn a_stream_keeps_the_types_of_its_first_batch() {
    let db = memory();
    table(&db, &ints(&[1, 2, 3]));
    Statement::run(&db, "INSERT INTO t VALUES (NULL), (4.5)");
    let statement = Statement::new(&db, "SELECT c0 AS n FROM t");
    // All in one batch: floats.
    let all = batches(export(&statement, 100, None).unwrap()).unwrap();
    assert_eq!(all[0].column(0).as_primitive::<Float64Type>().values()[..3], [1.0, 2.0, 3.0]);
    unsafe { raw::sqlite3_reset(statement.1) };
    let error = batches(export(&statement, 2, None).unwrap()).unwrap_err();
    assert!(error.contains("column \"n\", row 4 (from 0): a REAL in a column of 64-bit integers"), "{error}");
    unsafe { raw::sqlite3_reset(statement.1) };
    // What the consumer asks for counts.
    let wanted = |data_type| Some(Schema::new(vec![Field::new("n", data_type, true)]));
    let all = batches(export(&statement, 2, wanted(DataType::Utf8)).unwrap()).unwrap();
    let texts: Vec<_> = all.iter().flat_map(|batch| batch.column(0).as_string::<i32>()).collect();
    assert_eq!(texts, [Some("1"), Some("2"), Some("3"), None, Some("4.5")]);
    unsafe { raw::sqlite3_reset(statement.1) };
    let all = batches(export(&statement, 4, wanted(DataType::Float64)).unwrap()).unwrap();
    assert_eq!(all[1].column(0).as_primitive::<Float64Type>().value(0), 4.5);
    unsafe { raw::sqlite3_reset(statement.1) };
    let error = batches(export(&statement, 4, wanted(DataType::Int32)).unwrap()).unwrap_err();
    assert!(error.contains("row 4 (from 0)"), "{error}");
}

#[test]
fn narrow_types_on_request() {
    let db = memory();
    table(&db, &ints(&[0, 1, 200]));
    let statement = Statement::new(&db, "SELECT c0, c0 < 100, c0 * 0.5, CAST(c0 AS TEXT), CAST('x' AS BLOB) FROM t");
    let field = |name: &str, data_type| Field::new(name, data_type, true);
    let types = |first| {
        let rest = [DataType::Boolean, DataType::Float32, DataType::LargeUtf8, DataType::LargeBinary];
        let all = [first].into_iter().chain(rest).enumerate();
        Schema::new(all.map(|(place, it)| field(&place.to_string(), it)).collect::<Vec<_>>())
    };
    let all = batches(export(&statement, 9, Some(types(DataType::UInt8))).unwrap()).unwrap();
    let shown = format!("{:?}", all[0].columns());
    for part in ["UInt8", "200", "BooleanArray", "Float32", "100.0", "LargeString", "\"200\"", "LargeBinary"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    unsafe { raw::sqlite3_reset(statement.1) };
    let error = batches(export(&statement, 9, Some(types(DataType::Int8))).unwrap()).unwrap_err();
    assert!(error.contains("200 is out of range for Int8"), "{error}");
    assert_eq!(kind_for(&DataType::Date32), None);
}

#[test]
fn a_mixed_column_is_no_arrow_column() {
    let db = memory();
    table(&db, &ints(&[1, 2]));
    Statement::run(&db, "INSERT INTO t VALUES ('x')");
    let fault = export(&Statement::new(&db, "SELECT c0 FROM t"), 9, None).err().unwrap();
    let text = fault.to_string();
    assert!(text.starts_with("column \"c0\", row 2 (from 0): TEXT in a column of 64-bit integers"), "{text}");
}

/// A column of this array, inserted, as SQLite shows it.
fn stored(array: ArrayRef) -> Result<Vec<Vec<Value>>, InputFault> {
    let db = memory();
    Statement::run(&db, "CREATE TABLE t (a)");
    let schema = Arc::new(Schema::new(vec![Field::new("a", array.data_type().clone(), true)]));
    let batch = RecordBatch::try_new(schema.clone(), vec![array]).unwrap();
    let reader = RecordBatchIterator::new([Ok(batch)], schema);
    pour(&Statement::new(&db, "INSERT INTO t VALUES (:a)"), FFI_ArrowArrayStream::new(Box::new(reader)))?;
    Ok(Statement::new(&db, "SELECT a FROM t").rows())
}

fn stored_as(array: impl Array + 'static, expected: &[&str]) {
    let shown = stored(Arc::new(array)).unwrap().into_iter().map(|mut row| match row.remove(0) {
        Value::Null => "NULL".to_owned(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => format!("{value:?}"),
        Value::Text(text) => format!("'{}'", String::from_utf8(text).unwrap()),
        Value::Blob(blob) => format!("x{blob:?}"),
    });
    assert_eq!(shown.collect::<Vec<_>>(), expected);
}

#[test]
fn arrow_types_as_parameters() {
    stored_as(BooleanArray::from(vec![Some(true), None, Some(false)]), &["1", "NULL", "0"]);
    stored_as(Int8Array::from(vec![Some(-128), None]), &["-128", "NULL"]);
    stored_as(UInt64Array::from(vec![u64::from(u32::MAX), i64::MAX as u64]), &["4294967295", "9223372036854775807"]);
    stored_as(Float32Array::from(vec![0.5, f32::INFINITY, f32::NAN]), &["0.5", "inf", "NULL"]);
    stored_as(Float64Array::from(vec![f64::NAN, 1.0]), &["NULL", "1.0"]);
    stored_as(NullArray::new(2), &["NULL", "NULL"]);
    stored_as(StringArray::from(vec![Some("a"), Some(""), None]).slice(1, 2), &["''", "NULL"]);
    stored_as(LargeStringArray::from(vec!["ä\0b"]), &["'ä\0b'"]);
    let mut views = StringViewBuilder::new();
    views.append_value("short");
    views.append_value("long enough not to be stored inline");
    stored_as(views.finish(), &["'short'", "'long enough not to be stored inline'"]);
    stored_as(BinaryArray::from_vec(vec![b"", b"ab"]), &["x[]", "x[97, 98]"]);
    stored_as(FixedSizeBinaryArray::try_from_iter([vec![1, 2], vec![3, 4]].iter()).unwrap(), &["x[1, 2]", "x[3, 4]"]);
    stored_as(Date32Array::from(vec![19_782, -1]), &["'2024-02-29'", "'1969-12-31'"]);
    stored_as(Date64Array::from(vec![86_400_000, -1]), &["'1970-01-02'", "'1969-12-31'"]);
    stored_as(TimestampSecondArray::from(vec![0]), &["'1970-01-01 00:00:00'"]);
    stored_as(TimestampMillisecondArray::from(vec![-1]), &["'1969-12-31 23:59:59.999000'"]);
    stored_as(TimestampMicrosecondArray::from(vec![1]).with_timezone("UTC"), &["'1970-01-01 00:00:00.000001+00:00'"]);
    stored_as(TimestampNanosecondArray::from(vec![i64::MAX]), &["'2262-04-11 23:47:16.854775807'"]);
    let decimal = Decimal128Array::from(vec![Some(-12345), None, Some(5)]).with_precision_and_scale(10, 2).unwrap();
    stored_as(decimal, &["'-123.45'", "NULL", "'0.05'"]);
    let large = i256::from_string(&"9".repeat(76)).unwrap();
    let large = Decimal256Array::from(vec![large]).with_precision_and_scale(76, 0).unwrap();
    stored_as(large, &[&format!("'{}'", "9".repeat(76))]);
    let mut dictionary = StringDictionaryBuilder::<Int32Type>::new();
    dictionary.append_value("x");
    dictionary.append_null();
    dictionary.append_value("x");
    stored_as(dictionary.finish(), &["'x'", "NULL", "'x'"]);
    let empty = DictionaryArray::<Int32Type>::new(Int32Array::new_null(1), Arc::new(StringArray::new_null(0)));
    stored_as(empty, &["NULL"]);
}

#[test]
fn what_cannot_be_stored_says_where() {
    let error = |array: ArrayRef| stored(array).unwrap_err().to_string();
    let large = error(Arc::new(UInt64Array::from(vec![1, u64::MAX])));
    assert_eq!(large, "column \"a\", row 1 (from 0): 18446744073709551615 is too large for SQLite");
    let late = error(Arc::new(TimestampSecondArray::from(vec![0, 0, i64::MAX])));
    assert_eq!(late, "column \"a\", row 2 (from 0): a date outside the years 1 to 9999");
    let long = Decimal256Array::from(vec![i256::MAX]).with_precision_and_scale(76, 0).unwrap();
    assert!(error(Arc::new(long)).contains("more digits"));
    let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some([Some(1)])]);
    let list = error(Arc::new(list));
    assert!(list.starts_with("column \"a\": values of type List(") && list.contains("cannot be stored"), "{list}");
    let time = error(Arc::new(Time64MicrosecondArray::from(vec![1])));
    assert!(time.contains("Time64"), "{time}");
}

#[test]
fn parameters_by_name_or_by_position() {
    let db = memory();
    Statement::run(&db, "CREATE TABLE t (a, b)");
    let names = ["b".to_owned(), "x".to_owned(), "a".to_owned()];
    let of = |sql: &str, names: Option<&[String]>, count| {
        let statement = Statement::new(&db, sql);
        unsafe { places(statement.1, names, count) }.map_err(|error| error.to_string())
    };
    assert_eq!(of("INSERT INTO t VALUES (:a, @b)", Some(&names), 3), Ok(vec![2, 0, 1]));
    assert_eq!(of("INSERT INTO t VALUES (?, ?)", Some(&names[..2]), 2), Ok(vec![1, 2]));
    assert_eq!(of("INSERT INTO t VALUES (?2, ?1)", None, 2), Ok(vec![1, 2]));
    assert_eq!(of("INSERT INTO t VALUES (:a, :b)", None, 2), Ok(vec![1, 2]));
    let error = of("INSERT INTO t VALUES (?, ?)", None, 3).unwrap_err();
    assert!(error.contains("uses 2, and there are 3 supplied"), "{error}");
    let error = of("INSERT INTO t VALUES (:a, :c)", Some(&names), 3).unwrap_err();
    assert_eq!(error, "You did not supply a value for binding parameter :c.");
    let error = of("INSERT INTO t VALUES (:a, ?)", Some(&names), 3).unwrap_err();
    assert!(error.contains("Binding 2 has no name"), "{error}");
}
