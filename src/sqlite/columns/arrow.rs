//! Results as an Arrow stream.
//!
//! The buffers of a column become those of an Arrow array as they are. A stream has one schema, which has to be known
//! before its first batch is handed out: the first batch decides it, unless the consumer asked for one. What comes later
//! and does not fit ends the stream with an error.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::types::{
    ArrowPrimitiveType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Float64Array, Int64Array, LargeBinaryArray, LargeStringArray,
    NullArray, PrimitiveArray, RecordBatch, RecordBatchIterator, RecordBatchOptions, RecordBatchReader, StringArray,
};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};

use super::{Batch, Bytes, Column, Data, Fault, Kind, Validity};

/// Hands out the batches of a result, one after the other; all have the columns of the schema they go with.
pub trait Source: Send {
    /// The next rows, or `None` after the last ones.
    fn next(&mut self) -> Result<Option<Batch>, Failure>;
}

/// Why a stream ends early.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The data is not what the schema says.
    #[error("{0}")]
    Data(String),
    /// The database could not be read.
    #[error("{0}")]
    Database(String),
}

/// The schema of batches that are alike. Arrow has no columns of several types; the fault says which value made it so.
pub fn schema_of(batches: &[Batch]) -> Result<SchemaRef, Fault> {
    for batch in batches {
        if let Some(misfit) = batch.columns.iter().find_map(|column| column.misfit.clone()) {
            return Err(misfit.into());
        }
    }
    let fields = batches.first().into_iter().flat_map(|batch| &batch.columns).map(|column| {
        let data_type = match column.data.kind() {
            Kind::Null => DataType::Null,
            Kind::Int64 => DataType::Int64,
            Kind::Float64 => DataType::Float64,
            Kind::Text => DataType::Utf8,
            Kind::Blob | Kind::Mixed => DataType::Binary,
        };
        Field::new(column.name.as_ref(), data_type, true)
    });
    Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
}

/// What a column must be collected as so that it can be given as this type; `None` if it cannot.
pub fn kind_for(wanted: &DataType) -> Option<Kind> {
    match wanted {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64 => Some(Kind::Int64),
        DataType::Float32 | DataType::Float64 => Some(Kind::Float64),
        DataType::Utf8 | DataType::LargeUtf8 => Some(Kind::Text),
        DataType::Binary | DataType::LargeBinary => Some(Kind::Blob),
        _ => None,
    }
}

/// The stream of a result.
pub fn export(schema: SchemaRef, source: Box<dyn Source>) -> FFI_ArrowArrayStream {
    FFI_ArrowArrayStream::new(Box::new(Batches { schema, source: Some(source), rows: 0 }))
}

/// The batch as an Arrow record batch; its first row is the one with this number.
pub fn record_batch(schema: &SchemaRef, batch: Batch, first: u64) -> Result<RecordBatch, Failure> {
    let rows = batch.rows;
    let fields = schema.fields().iter();
    let arrays = batch.columns.into_iter().zip(fields).map(|(column, field)| array(column, field.data_type(), first));
    let arrays = arrays.collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema.clone(), arrays, &options)
        .map_err(|error| Failure::Data(error.to_string()))
}

/// Whether all texts can be Arrow's.
pub fn check_texts(batches: &[Batch]) -> Result<(), Failure> {
    let mut first = 0;
    for batch in batches {
        for column in &batch.columns {
            if let Data::Text(text) = &column.data {
                check_text(text).map_err(|row| at_row(&column.name, first + row as u64, NOT_UTF8))?;
            }
        }
        first += batch.rows as u64;
    }
    Ok(())
}

/// All batches of a result that is there as a whole, as Arrow's; their memory moves.
pub fn record_batches(schema: &SchemaRef, batches: Vec<Batch>) -> Result<Vec<RecordBatch>, Failure> {
    let mut first = 0;
    let converted = batches.into_iter().map(|batch| {
        let rows = batch.rows as u64;
        let converted = record_batch(schema, batch, first);
        first += rows;
        converted
    });
    converted.collect()
}

/// The stream of a result that is there as a whole.
pub fn export_all(schema: SchemaRef, batches: Vec<RecordBatch>) -> FFI_ArrowArrayStream {
    FFI_ArrowArrayStream::new(Box::new(RecordBatchIterator::new(batches.into_iter().map(Ok), schema)))
}

/// A copy of what [`record_batch`] has made Arrow's.
pub fn batch_of(batch: &RecordBatch) -> Batch {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns()).map(|(field, array)| {
        let bytes = |offsets: &[i32], data: &[u8]| Bytes::from_parts(offsets.to_vec(), data.to_vec());
        let data = match array.data_type() {
            DataType::Int64 => Data::Int64(array.as_primitive::<Int64Type>().values().to_vec()),
            DataType::Float64 => Data::Float64(array.as_primitive::<Float64Type>().values().to_vec()),
            DataType::Utf8 => {
                let array = array.as_string::<i32>();
                Data::Text(bytes(array.value_offsets(), array.value_data()))
            }
            DataType::Binary => {
                let array = array.as_binary::<i32>();
                Data::Blob(bytes(array.value_offsets(), array.value_data()))
            }
            _ => Data::Null(array.len()),
        };
        let validity = match (array.nulls(), array.data_type()) {
            (Some(nulls), _) => Validity::of(nulls.iter()),
            (None, DataType::Null) => Validity::of((0..array.len()).map(|_| false)),
            (None, _) => Validity::default(),
        };
        Column { name: field.name().as_str().into(), data, validity, misfit: None }
    });
    Batch { rows: batch.num_rows(), columns: columns.collect() }
}

/// A result as the consumer of a stream pulls it.
struct Batches {
    schema: SchemaRef,
    /// Dropped as soon as nothing more is going to come.
    source: Option<Box<dyn Source>>,
    rows: u64,
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        // The caller is C code.
        let pulled = catch_unwind(AssertUnwindSafe(|| self.pull()));
        let item =
            pulled.unwrap_or_else(|_| Err(Failure::Data("a bug in upshift: reading the result panicked".into())));
        if !matches!(item, Ok(Some(_))) {
            self.source = None;
        }
        item.map_err(to_arrow).transpose()
    }
}

impl Batches {
    fn pull(&mut self) -> Result<Option<RecordBatch>, Failure> {
        let Some(source) = &mut self.source else {
            return Ok(None);
        };
        let Some(batch) = source.next()? else {
            return Ok(None);
        };
        let (first, rows) = (self.rows, batch.rows);
        self.rows += rows as u64;
        record_batch(&self.schema, batch, first).map(Some)
    }
}

impl RecordBatchReader for Batches {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

/// Errors cross the C interface as a number and a text without NUL.
fn to_arrow(failure: Failure) -> ArrowError {
    let text = failure.to_string().replace('\0', "\u{FFFD}");
    match failure {
        Failure::Data(_) => ArrowError::InvalidArgumentError(text),
        Failure::Database(_) => ArrowError::IoError(text.clone(), std::io::Error::other(text)),
    }
}

fn array(column: Column, wanted: &DataType, first: u64) -> Result<ArrayRef, Failure> {
    let rows = column.data.len();
    let Column { name, data, validity, .. } = column;
    let at =
        |row: usize, what: &str| Failure::Data(format!("column {name:?}, row {} (from 0): {what}", first + row as u64));
    Ok(match (data, wanted) {
        (Data::Null(rows), DataType::Null) => Arc::new(NullArray::new(rows)),
        (Data::Int64(values), DataType::Int64) => Arc::new(Int64Array::new(values.into(), nulls(validity, rows))),
        (Data::Float64(values), DataType::Float64) => Arc::new(Float64Array::new(values.into(), nulls(validity, rows))),
        (Data::Text(text), DataType::Utf8) => {
            check_text(&text).map_err(|row| at(row, NOT_UTF8))?;
            let (offsets, data) = text.into_parts();
            let values = StringArray::try_new(offsets_of(offsets), Buffer::from_vec(data), nulls(validity, rows));
            Arc::new(values.map_err(|error| Failure::Data(error.to_string()))?)
        }
        (Data::Text(text), DataType::LargeUtf8) => {
            check_text(&text).map_err(|row| at(row, NOT_UTF8))?;
            let (offsets, data) = text.into_parts();
            let values = LargeStringArray::try_new(long(&offsets), Buffer::from_vec(data), nulls(validity, rows));
            Arc::new(values.map_err(|error| Failure::Data(error.to_string()))?)
        }
        (Data::Blob(blobs), DataType::Binary) => {
            let (offsets, data) = blobs.into_parts();
            Arc::new(BinaryArray::new(offsets_of(offsets), Buffer::from_vec(data), nulls(validity, rows)))
        }
        (Data::Blob(blobs), DataType::LargeBinary) => {
            let (offsets, data) = blobs.into_parts();
            Arc::new(LargeBinaryArray::new(long(&offsets), Buffer::from_vec(data), nulls(validity, rows)))
        }
        (Data::Int64(values), DataType::Boolean) => {
            if let Some(row) = values.iter().position(|&value| value != 0 && value != 1) {
                return Err(at(row, &format!("{} is neither 0 nor 1", values[row])));
            }
            let bits = BooleanBuffer::from_iter(values.iter().map(|&value| value == 1));
            Arc::new(BooleanArray::new(bits, nulls(validity, rows)))
        }
        (Data::Float64(values), DataType::Float32) => {
            let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
            Arc::new(PrimitiveArray::<Float32Type>::new(values.into(), nulls(validity, rows)))
        }
        (Data::Int64(values), wanted) => {
            let nulls = nulls(validity, rows);
            let narrowed = match wanted {
                DataType::Int8 => narrow::<Int8Type>(&values, nulls),
                DataType::Int16 => narrow::<Int16Type>(&values, nulls),
                DataType::Int32 => narrow::<Int32Type>(&values, nulls),
                DataType::UInt8 => narrow::<UInt8Type>(&values, nulls),
                DataType::UInt16 => narrow::<UInt16Type>(&values, nulls),
                DataType::UInt32 => narrow::<UInt32Type>(&values, nulls),
                DataType::UInt64 => narrow::<UInt64Type>(&values, nulls),
                other => return Err(Failure::Data(format!("column {name:?}: integers cannot be given as {other}"))),
            };
            narrowed.map_err(|row| at(row, &format!("{} is out of range for {wanted}", values[row])))?
        }
        (data, wanted) => {
            let found = data.kind().describe();
            return Err(Failure::Data(format!("column {name:?}: {found} cannot be given as {wanted}")));
        }
    })
}

fn at_row(column: &str, row: u64, what: &str) -> Failure {
    Failure::Data(format!("column {column:?}, row {row} (from 0): {what}"))
}

const NOT_UTF8: &str = "TEXT that is no UTF-8; CAST it to BLOB in the SQL";

/// The row of the first text that is not valid.
fn check_text(text: &Bytes) -> Result<(), usize> {
    // All at once is many times faster, but two halves of a character may meet there.
    let sound = std::str::from_utf8(text.bytes())
        .is_ok_and(|all| text.offsets().iter().all(|&offset| all.is_char_boundary(offset as usize)));
    match sound {
        true => Ok(()),
        false => text.iter().position(|value| std::str::from_utf8(value).is_err()).map_or(Ok(()), Err),
    }
}

fn narrow<T>(values: &[i64], nulls: Option<NullBuffer>) -> Result<ArrayRef, usize>
where
    T: ArrowPrimitiveType,
    T::Native: TryFrom<i64>,
{
    let mut narrowed = Vec::with_capacity(values.len());
    for (row, &value) in values.iter().enumerate() {
        narrowed.push(T::Native::try_from(value).map_err(|_| row)?);
    }
    Ok(Arc::new(PrimitiveArray::<T>::new(narrowed.into(), nulls)))
}

fn nulls(validity: Validity, rows: usize) -> Option<NullBuffer> {
    let bits = validity.into_bits(rows)?;
    Some(NullBuffer::new(BooleanBuffer::new(Buffer::from_vec(bits), 0, rows)))
}

fn offsets_of(offsets: Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(offsets))
}

fn long(offsets: &[i32]) -> OffsetBuffer<i64> {
    OffsetBuffer::new(offsets.iter().map(|&offset| i64::from(offset)).collect())
}
