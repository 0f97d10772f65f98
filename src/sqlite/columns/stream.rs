//! Arrow streams and arrays of others as rows to bind.

#![allow(unsafe_code)]

use std::ffi::CStr;

use arrow_array::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi_and_data_type};
use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{Array, StructArray, make_array};
use arrow_schema::{DataType, Field, Fields};

use super::input::{Input, InputFault, Rows, Values, storable};

/// A stream that someone else produces.
pub struct Incoming {
    stream: FFI_ArrowArrayStream,
    fields: Fields,
    rows: u64,
}

impl Incoming {
    /// Takes the stream over and asks it for its columns.
    ///
    /// # Safety
    /// It is what the C stream interface says.
    pub unsafe fn new(mut stream: FFI_ArrowArrayStream) -> Result<Self, InputFault> {
        // SAFETY: the caller's promise.
        let schema = unsafe { schema_of(&mut stream)? };
        let fields = fields_of(&schema)?;
        Ok(Self { stream, fields, rows: 0 })
    }

    /// A stream of one column's values, all of them.
    ///
    /// # Safety
    /// As `new`.
    pub unsafe fn column(name: String, mut stream: FFI_ArrowArrayStream) -> Result<(Input, usize), InputFault> {
        // SAFETY: the caller's promise.
        let schema = unsafe { schema_of(&mut stream)? };
        let field = field_of(name, &schema)?;
        let fields = Fields::from(vec![field.clone()]);
        let mut this = Self { stream, fields, rows: 0 };
        let (mut parts, mut rows) = (Vec::new(), 0);
        while let Some(array) = this.pull()? {
            // SAFETY: the caller's promise; the array is of the stream's type.
            let (input, length) = unsafe { input_of(&field, array)? };
            if length > 0 {
                parts.push((rows, input));
                rows += length;
            }
        }
        let values = if parts.is_empty() { Values::Null } else { Values::Parts(parts) };
        Ok((Input::new(field.name().clone(), values, None), rows))
    }

    pub fn names(&self) -> Vec<String> {
        self.fields.iter().map(|field| field.name().clone()).collect()
    }

    /// The next rows, or `None` after the last ones. May run code of the producer for as long as it likes.
    pub fn next_rows(&mut self) -> Result<Option<Rows>, InputFault> {
        let Some(array) = self.pull()? else { return Ok(None) };
        // SAFETY: the promise of `new`; the array is of the stream's type.
        let rows = unsafe { rows_of(array, &self.fields, self.rows)? };
        self.rows += rows.len() as u64;
        Ok(Some(rows))
    }

    fn pull(&mut self) -> Result<Option<FFI_ArrowArray>, InputFault> {
        let get_next = self.stream.get_next.ok_or_else(|| InputFault::Stream(RELEASED.to_owned()))?;
        let mut array = FFI_ArrowArray::empty();
        // SAFETY: the promise of `new`.
        let code = unsafe { get_next(&mut self.stream, &mut array) };
        if code != 0 {
            return Err(InputFault::Stream(last_error(&mut self.stream, code)));
        }
        Ok((!array.is_released()).then_some(array))
    }
}

/// The rows of a single array with columns, a record batch.
///
/// # Safety
/// Both are what the C data interface says.
pub unsafe fn record_batch(array: FFI_ArrowArray, schema: &FFI_ArrowSchema) -> Result<Rows, InputFault> {
    if array.is_released() {
        return Err(InputFault::Stream(RELEASED.to_owned()));
    }
    let fields = fields_of(schema)?;
    // SAFETY: the caller's promise.
    unsafe { rows_of(array, &fields, 0) }
}

/// The values of a single array, and how many there are.
///
/// # Safety
/// Both are what the C data interface says.
pub unsafe fn column(
    name: String,
    array: FFI_ArrowArray,
    schema: &FFI_ArrowSchema,
) -> Result<(Input, usize), InputFault> {
    if array.is_released() {
        return Err(InputFault::Stream(RELEASED.to_owned()));
    }
    let field = field_of(name, schema)?;
    // SAFETY: the caller's promise.
    unsafe { input_of(&field, array) }
}

/// # Safety
/// The stream is what the C stream interface says.
unsafe fn schema_of(stream: &mut FFI_ArrowArrayStream) -> Result<FFI_ArrowSchema, InputFault> {
    // What has been consumed may have any callbacks, but none to release it.
    let get_schema = stream.release.and(stream.get_schema).ok_or_else(|| InputFault::Stream(RELEASED.to_owned()))?;
    let mut schema = FFI_ArrowSchema::empty();
    // SAFETY: the caller's promise.
    let code = unsafe { get_schema(stream, &mut schema) };
    if code == 0 { Ok(schema) } else { Err(InputFault::Stream(last_error(stream, code))) }
}

const RELEASED: &str = "the Arrow stream has been consumed already";

/// Columns of the stream, all of them such that SQLite can store them.
fn fields_of(schema: &FFI_ArrowSchema) -> Result<Fields, InputFault> {
    if schema.format() != "+s" {
        let found = DataType::try_from(schema).map_or_else(|_| schema.format().to_owned(), |found| found.to_string());
        return Err(InputFault::Stream(format!(
            "an Arrow array of {found} has no columns; pass a table or a record batch"
        )));
    }
    schema.children().map(|child| field_of(child.name().unwrap_or_default().to_owned(), child)).collect()
}

/// A column that SQLite can store.
fn field_of(column: String, schema: &FFI_ArrowSchema) -> Result<Field, InputFault> {
    match DataType::try_from(schema) {
        Ok(found) if storable(&found) => Ok(Field::new(column, found, true)),
        Ok(found) => Err(InputFault::Unsupported { column, found: found.to_string() }),
        Err(_) => Err(InputFault::Unsupported { column, found: format!("{:?}", schema.format()) }),
    }
}

/// # Safety
/// The array is of the field's type.
unsafe fn input_of(field: &Field, array: FFI_ArrowArray) -> Result<(Input, usize), InputFault> {
    let failed = |error: arrow_schema::ArrowError| InputFault::Stream(error.to_string());
    // SAFETY: the caller's promise.
    let mut data = unsafe { from_ffi_and_data_type(array, field.data_type().clone()) }.map_err(failed)?;
    data.align_buffers();
    data.validate().map_err(failed)?;
    let length = data.len();
    Ok((Input::from_array(field.name().clone(), &make_array(data))?, length))
}

/// # Safety
/// The array is a struct array with these fields.
unsafe fn rows_of(array: FFI_ArrowArray, fields: &Fields, first: u64) -> Result<Rows, InputFault> {
    let failed = |error: arrow_schema::ArrowError| InputFault::Stream(error.to_string());
    if array.num_children() != fields.len() {
        return Err(InputFault::Stream("the Arrow array has other columns than its schema".to_owned()));
    }
    // SAFETY: the caller's promise.
    let mut data = unsafe { from_ffi_and_data_type(array, DataType::Struct(fields.clone())) }.map_err(failed)?;
    data.align_buffers();
    data.validate().map_err(failed)?;
    let data = StructArray::from(data);
    let columns = fields.iter().zip(data.columns()).map(|(field, column)| {
        // A missing struct is a row of NULLs.
        let mut input = Input::from_array(field.name().clone(), column)?;
        if let Some(missing) = data.nulls() {
            input.hide(missing);
        }
        Ok(input)
    });
    let rows = data.len();
    Ok(Rows::new(columns.collect::<Result<_, InputFault>>()?, rows, first))
}

fn last_error(stream: &mut FFI_ArrowArrayStream, code: i32) -> String {
    // SAFETY: the promise of `new`; the text is valid until the next call.
    let text = stream.get_last_error.and_then(|get| unsafe {
        let text = get(stream);
        (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
    });
    text.unwrap_or_else(|| format!("the Arrow stream failed with code {code}"))
}
