//! Columns as NumPy arrays that own the native memory.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::ffi::c_int;
use std::mem;

use pyo3::exceptions::{PyImportError, PyMemoryError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyModule};

use super::arguments::choice;
use super::columns::of_fault;
use super::connection::Given;
use super::convert::{self, Text};
use super::cursor::Cursor;
use super::errors;
use crate::py::hang;
use crate::sqlite::columns::{Batch, Builder, Bytes, Cell, Column, Data, Kind, Validity, join};

/// How columns become arrays.
pub struct Options {
    /// Text becomes fixed-width arrays.
    fixed: bool,
    /// NULL among numbers is NaN.
    nan: bool,
    /// What a text is as an object.
    text: Text,
}

impl Options {
    /// For a cursor: texts become objects by its connection's `text_factory`.
    pub fn of(cursor: &Bound<'_, Cursor>, text: &Given<'_>, nulls: &Given<'_>) -> PyResult<Self> {
        let py = cursor.py();
        let connection = cursor.get().check(py)?;
        let factory = connection.get().state.with(py, |state| state.text.clone_ref(py));
        Self::new(text, nulls, factory)
    }

    pub fn text(&self) -> &Text {
        &self.text
    }

    pub fn new(text: &Given<'_>, nulls: &Given<'_>, factory: Text) -> PyResult<Self> {
        let fixed = choice(text, "text", ["object", "fixed"])?;
        let nan = choice(nulls, "nulls", ["masked", "nan"])?;
        Ok(Self { fixed, nan, text: factory })
    }
}

/// Native memory that arrays refer to.
#[pyclass(module = "upshift.sqlite", frozen, name = "ColumnMemory")]
pub struct ColumnMemory {
    /// Only the arrays read and write it.
    memory: UnsafeCell<Memory>,
}

// SAFETY: the memory belongs to the arrays that were made of it, which NumPy guards by the interpreter lock.
unsafe impl Sync for ColumnMemory {}

enum Memory {
    Ints(Vec<i64>),
    Floats(Vec<f64>),
    Bools(Vec<u8>),
    Characters(Vec<u32>),
}

#[pymethods]
impl ColumnMemory {
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        fn piece<T>(values: &mut [T]) -> (*mut std::ffi::c_void, usize) {
            (values.as_mut_ptr().cast(), size_of_val(values))
        }
        // SAFETY: the vectors never change their size or place; the view keeps `slf` alive.
        let filled = unsafe {
            let (start, length) = match &mut *slf.get().memory.get() {
                Memory::Ints(values) => piece(values),
                Memory::Floats(values) => piece(values),
                Memory::Bools(values) => piece(values),
                Memory::Characters(values) => piece(values),
            };
            ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, length as isize, 0, flags)
        };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}

pub fn numpy(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    py.import(intern!(py, "numpy")).map_err(|error| {
        if !error.is_instance_of::<PyImportError>(py) {
            return error;
        }
        let missing = PyImportError::new_err("results as arrays need NumPy, which is not installed: pip install numpy");
        missing.set_cause(py, Some(error));
        missing
    })
}

/// The array of this memory.
fn array<'py>(py: Python<'py>, memory: Memory, dtype: &str) -> PyResult<Bound<'py, PyAny>> {
    let numpy = numpy(py)?;
    let empty = match &memory {
        Memory::Ints(values) => values.is_empty(),
        Memory::Floats(values) => values.is_empty(),
        Memory::Bools(values) => values.is_empty(),
        Memory::Characters(values) => values.is_empty(),
    };
    if empty {
        return numpy.call_method1(intern!(py, "empty"), (0, dtype));
    }
    let owner = Bound::new(py, ColumnMemory { memory: UnsafeCell::new(memory) })?;
    numpy.call_method1(intern!(py, "frombuffer"), (owner, dtype))
}

/// Gives memory back that growing has reserved, if it is much.
fn tight<T>(mut values: Vec<T>) -> Vec<T> {
    if values.capacity() - values.len() > values.len() / 8 {
        values.shrink_to_fit();
    }
    values
}

/// The columns of a result while its batches come in. Numbers grow in the builder, the rest is taken out and converted.
pub struct Gather<'a> {
    options: &'a Options,
    columns: Vec<Taken>,
}

#[derive(Default)]
struct Taken {
    objects: Vec<Py<PyAny>>,
    /// Texts that may become a fixed-width array.
    texts: Vec<(Bytes, Validity)>,
}

impl<'a> Gather<'a> {
    pub fn new(options: &'a Options) -> Self {
        Self { options, columns: Vec::new() }
    }

    pub fn drain(&mut self, py: Python<'_>, builder: &mut Builder) -> PyResult<()> {
        let kinds: Vec<Kind> = builder.kinds().collect();
        self.columns.resize_with(kinds.len(), Taken::default);
        for (place, kind) in kinds.into_iter().enumerate() {
            if matches!(kind, Kind::Text | Kind::Blob | Kind::Mixed) {
                let column = builder.take_column(place);
                self.columns[place].add(py, column, self.options)?;
            }
        }
        Ok(())
    }

    pub fn finish<'py>(mut self, py: Python<'py>, builder: &mut Builder) -> PyResult<Bound<'py, PyDict>> {
        self.drain(py, builder)?;
        let arrays = PyDict::new(py);
        for (place, taken) in mem::take(&mut self.columns).into_iter().enumerate() {
            let column = builder.take_column(place);
            let name = column.name.clone();
            arrays.set_item(&*name, taken.finish(py, column, self.options)?)?;
        }
        Ok(arrays)
    }
}

impl Taken {
    fn add(&mut self, py: Python<'_>, column: Column, options: &Options) -> PyResult<()> {
        let Column { name, data, validity, .. } = column;
        match data {
            Data::Text(texts) if options.fixed => {
                self.texts.push((texts, validity));
                Ok(())
            }
            data => {
                // Texts so far, of a column that turns out to have other values too.
                for (texts, validity) in mem::take(&mut self.texts) {
                    append(py, &mut self.objects, &name, &Data::Text(texts), &validity, &options.text)?;
                }
                append(py, &mut self.objects, &name, &data, &validity, &options.text)
            }
        }
    }

    /// With what has not been added yet: nothing, the last rows, or all rows of a column of numbers.
    fn finish<'py>(mut self, py: Python<'py>, rest: Column, options: &Options) -> PyResult<Bound<'py, PyAny>> {
        let kind = rest.data.kind();
        if matches!(kind, Kind::Text | Kind::Blob | Kind::Mixed) {
            let name = rest.name.clone();
            self.add(py, rest, options)?;
            let fixed_width = options.fixed && kind == Kind::Text;
            return if fixed_width { fixed(py, &name, &self.texts) } else { objects(py, self.objects) };
        }
        let Column { name, data, validity, .. } = rest;
        match data {
            Data::Null(rows) => {
                masked(py, array(py, Memory::Floats(vec![f64::NAN; rows]), "f8")?, &validity, rows, options)
            }
            Data::Float64(values) => {
                let rows = values.len();
                masked(py, array(py, Memory::Floats(tight(values)), "f8")?, &validity, rows, options)
            }
            data @ Data::Int64(_) if options.nan && validity.nulls() > 0 => {
                match data.to_floats(&validity).map_err(of_fault)? {
                    Some(values) => array(py, Memory::Floats(values), "f8"),
                    // NaN is no integer, and a float none of these.
                    None => {
                        append(py, &mut self.objects, &name, &data, &validity, &options.text)?;
                        objects(py, self.objects)
                    }
                }
            }
            Data::Int64(values) => {
                let rows = values.len();
                masked(py, array(py, Memory::Ints(tight(values)), "i8")?, &validity, rows, options)
            }
            // Dealt with above.
            Data::Text(_) | Data::Blob(_) | Data::Mixed(_) => objects(py, self.objects),
        }
    }
}

/// The array, masked where there is NULL.
fn masked<'py>(
    py: Python<'py>,
    array: Bound<'py, PyAny>,
    validity: &Validity,
    rows: usize,
    options: &Options,
) -> PyResult<Bound<'py, PyAny>> {
    if validity.nulls() == 0 || options.nan {
        return Ok(array);
    }
    mask(py, array, (0..rows).map(|row| u8::from(validity.is_null(row))).collect())
}

fn mask<'py>(py: Python<'py>, data: Bound<'py, PyAny>, mask: Vec<u8>) -> PyResult<Bound<'py, PyAny>> {
    let options = PyDict::new(py);
    options.set_item(intern!(py, "mask"), array(py, Memory::Bools(mask), "?")?)?;
    options.set_item(intern!(py, "copy"), false)?;
    py.import(intern!(py, "numpy.ma"))?.call_method(intern!(py, "array"), (data,), Some(&options))
}

/// An array of objects.
fn objects<'py>(py: Python<'py>, objects: Vec<Py<PyAny>>) -> PyResult<Bound<'py, PyAny>> {
    let array = numpy(py)?.call_method1(intern!(py, "empty"), (objects.len(), intern!(py, "O")))?;
    // SAFETY: the array is new, one piece of `len` object pointers, each null or a reference that it owns.
    unsafe {
        let mut view: ffi::Py_buffer = mem::zeroed();
        if ffi::PyObject_GetBuffer(array.as_ptr(), &mut view, ffi::PyBUF_WRITABLE | ffi::PyBUF_FORMAT) != 0 {
            return Err(PyErr::fetch(py));
        }
        debug_assert_eq!(view.len as usize, objects.len() * size_of::<*mut ffi::PyObject>());
        let places = view.buf.cast::<*mut ffi::PyObject>();
        for (place, object) in objects.into_iter().enumerate() {
            let old = mem::replace(&mut *places.add(place), object.into_ptr());
            ffi::Py_XDECREF(old);
        }
        ffi::PyBuffer_Release(&mut view);
    }
    Ok(array)
}

/// Appends the values as objects.
fn append(
    py: Python<'_>,
    objects: &mut Vec<Py<PyAny>>,
    name: &str,
    data: &Data,
    validity: &Validity,
    text: &Text,
) -> PyResult<()> {
    objects.try_reserve(data.len()).map_err(|_| PyMemoryError::new_err(()))?;
    let mut push = |row: usize, make: &dyn Fn() -> PyResult<Py<PyAny>>| {
        let null = validity.nulls() > 0 && validity.is_null(row);
        objects.push(if null { py.None() } else { make()? });
        PyResult::Ok(())
    };
    match data {
        Data::Null(rows) => (0..*rows).try_for_each(|row| push(row, &|| Ok(py.None()))),
        Data::Int64(values) => values.iter().enumerate().try_for_each(|(row, value)| push(row, &|| int(py, *value))),
        Data::Float64(values) => {
            values.iter().enumerate().try_for_each(|(row, value)| push(row, &|| float(py, *value)))
        }
        Data::Text(values) => {
            values.iter().enumerate().try_for_each(|(row, value)| push(row, &|| str_of(py, name, value, text)))
        }
        Data::Blob(values) => values.iter().enumerate().try_for_each(|(row, value)| push(row, &|| bytes(py, value))),
        Data::Mixed(mixed) => mixed.cells.iter().enumerate().try_for_each(|(row, cell)| {
            push(row, &|| match *cell {
                Cell::Null => Ok(py.None()),
                Cell::Int(value) => int(py, value),
                Cell::Float(value) => float(py, value),
                Cell::Text(span) => str_of(py, name, mixed.get(span), text),
                Cell::Blob(span) => bytes(py, mixed.get(span)),
            })
        }),
    }
}

fn int(py: Python<'_>, value: i64) -> PyResult<Py<PyAny>> {
    Ok(value.into_pyobject(py)?.into_any().unbind())
}

fn float(py: Python<'_>, value: f64) -> PyResult<Py<PyAny>> {
    Ok(value.into_pyobject(py)?.into_any().unbind())
}

fn bytes(py: Python<'_>, value: &[u8]) -> PyResult<Py<PyAny>> {
    Ok(pyo3::types::PyBytes::new(py, value).into_any().unbind())
}

/// A text as the connection's `text_factory` wants it.
fn str_of(py: Python<'_>, name: &str, value: &[u8], text: &Text) -> PyResult<Py<PyAny>> {
    match text {
        Text::Str => {
            // SAFETY: attached; null with an exception set, or a new reference.
            let made = unsafe { Bound::from_owned_ptr_or_err(py, convert::str_of(value)) };
            made.map(Bound::unbind).map_err(|error| undecodable(py, error, name, value))
        }
        Text::Bytes => bytes(py, value),
        Text::ByteArray => Ok(pyo3::types::PyByteArray::new(py, value).into_any().unbind()),
        Text::Callable(factory) => {
            let arguments = (pyo3::types::PyBytes::new(py, value),).into_pyobject(py)?;
            Ok(hang::call(factory.bind(py), &arguments, None)?.unbind())
        }
    }
}

#[cold]
fn undecodable(py: Python<'_>, error: PyErr, name: &str, value: &[u8]) -> PyErr {
    if !error.is_instance_of::<pyo3::exceptions::PyUnicodeDecodeError>(py) {
        return error;
    }
    let text = String::from_utf8_lossy(value);
    errors::operational(py, format!("Could not decode to UTF-8 column '{name}' with text '{text}'"))
}

/// A fixed-width array of text.
fn fixed<'py>(py: Python<'py>, name: &str, parts: &[(Bytes, Validity)]) -> PyResult<Bound<'py, PyAny>> {
    let (mut rows, mut width, mut nulls) = (0, 1, 0);
    for (texts, validity) in parts {
        rows += texts.len();
        nulls += validity.nulls();
        for value in texts.iter() {
            let text = std::str::from_utf8(value).map_err(|_| {
                let text = String::from_utf8_lossy(value);
                errors::operational(py, format!("Could not decode to UTF-8 column '{name}' with text '{text}'"))
            })?;
            width = width.max(text.chars().count());
        }
    }
    let size = rows.checked_mul(width).ok_or_else(|| PyMemoryError::new_err(()))?;
    let mut characters = Vec::new();
    characters.try_reserve_exact(size).map_err(|_| PyMemoryError::new_err(()))?;
    characters.resize(size, 0_u32);
    let mut places = characters.chunks_exact_mut(width);
    for text in parts.iter().flat_map(|(texts, _)| texts.iter()) {
        // Checked above.
        let text = std::str::from_utf8(text).unwrap_or_default();
        if let Some(place) = places.next() {
            place.iter_mut().zip(text.chars()).for_each(|(place, character)| *place = character.into());
        }
    }
    let array = array(py, Memory::Characters(characters), &format!("U{width}"))?;
    if nulls == 0 {
        return Ok(array);
    }
    let of = |(texts, validity): &(Bytes, Validity)| -> Vec<u8> {
        (0..texts.len()).map(|row| u8::from(validity.is_null(row))).collect()
    };
    mask(py, array, parts.iter().flat_map(of).collect())
}

/// Arrays of batches that are alike.
pub fn arrays_of<'py>(py: Python<'py>, batches: &[Batch], options: &Options) -> PyResult<Bound<'py, PyDict>> {
    let arrays = PyDict::new(py);
    let first = batches.first().map_or(&[][..], |batch| &batch.columns);
    for (place, Column { name, data, .. }) in first.iter().enumerate() {
        let parts: Vec<&Column> = batches.iter().map(|batch| &batch.columns[place]).collect();
        let array = match join(&parts).map_err(of_fault)? {
            Some(numbers) => Taken::default().finish(py, numbers, options)?,
            None if options.fixed && data.kind() == Kind::Text => {
                let texts = |part: &&'_ Column| match &part.data {
                    Data::Text(texts) => Some((texts.clone(), part.validity.clone())),
                    _ => None,
                };
                fixed(py, name, &parts.iter().filter_map(texts).collect::<Vec<_>>())?
            }
            None => {
                let mut made = Vec::new();
                for part in parts {
                    append(py, &mut made, name, &part.data, &part.validity, &options.text)?;
                }
                objects(py, made)?
            }
        };
        arrays.set_item(&**name, array)?;
    }
    Ok(arrays)
}
