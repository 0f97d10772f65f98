//! `Row`: a tuple whose items have names, and what a connection makes of its rows.
#![allow(unsafe_code)]

use pyo3::basic::CompareOp;
use pyo3::exceptions::{PyIndexError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyInt, PyIterator, PyList, PySlice, PyString, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit};

use super::cursor::Cursor;
use crate::py::hang;

/// A row of a result: items by position, or by name without regard to case.
///
/// `tuple(row)`, `dict(row)`, `len(row)`, slices and comparison work as expected; `keys()` lists the names.
#[pyclass(subclass, frozen, sequence, module = "upshift.sqlite")]
pub struct Row {
    /// `cursor.description`.
    description: Py<PyAny>,
    data: Py<PyTuple>,
}

impl Row {
    pub fn make(py: Python<'_>, description: Option<Py<PyTuple>>, data: Bound<'_, PyTuple>) -> PyResult<Py<PyAny>> {
        let description = description.map_or_else(|| py.None(), Py::into_any);
        Ok(Py::new(py, Self { description, data: data.unbind() })?.into_any())
    }

    fn names<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let description = self.description.bind(py);
        if description.is_none() {
            return Ok(Vec::new());
        }
        description.cast::<PyTuple>()?.iter().map(|column| column.get_item(0)).collect()
    }
}

#[pymethods]
impl Row {
    #[new]
    #[pyo3(signature = (cursor, data, /))]
    fn new(cursor: &Bound<'_, Cursor>, data: &Bound<'_, PyTuple>) -> PyResult<Self> {
        let description = Cursor::description(cursor)?;
        let description = description.map_or_else(|| cursor.py().None(), Py::into_any);
        Ok(Self { description, data: data.clone().unbind() })
    }

    /// Names of the columns, in their order, as a list.
    fn keys<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.names(py)?)
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.data.bind(py).len()
    }

    fn __getitem__<'py>(&self, py: Python<'py>, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let data = self.data.bind(py);
        if key.is_instance_of::<PyInt>() {
            let too_large = |_| PyIndexError::new_err("cannot fit 'int' into an index-sized integer");
            let index: isize = key.extract().map_err(too_large)?;
            let len = data.len() as isize;
            let place = if index < 0 { index + len } else { index };
            return match usize::try_from(place) {
                Ok(place) if place < data.len() => data.get_item(place),
                // The tuple's own words.
                _ => Err(PyIndexError::new_err("tuple index out of range")),
            };
        }
        if let Ok(name) = key.cast::<PyString>() {
            return match self.find(py, name)? {
                Some(place) => data.get_item(place),
                None => Err(PyIndexError::new_err("No item with that key")),
            };
        }
        if key.is_instance_of::<PySlice>() {
            return data.as_any().get_item(key);
        }
        Err(PyIndexError::new_err("Index must be int or string"))
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        self.data.bind(py).try_iter()
    }

    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        // SAFETY: live objects; the thread is attached.
        let (description, data) = unsafe { (hang::hash(self.description.as_ptr()), hang::hash(self.data.as_ptr())) };
        if description == -1 || data == -1 {
            return Err(PyErr::fetch(py));
        }
        Ok(description ^ data)
    }

    fn __richcmp__<'py>(slf: &Bound<'py, Self>, other: &Bound<'py, PyAny>, op: CompareOp) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let (CompareOp::Eq | CompareOp::Ne, Ok(other)) = (op, other.cast::<Self>()) else {
            return Ok(py.NotImplemented());
        };
        let (one, other) = (slf.get(), other.get());
        let equal = hang::equal(one.description.bind(py), other.description.bind(py))?
            && hang::equal(one.data.bind(py).as_any(), other.data.bind(py).as_any())?;
        let answer = equal == matches!(op, CompareOp::Eq);
        Ok(pyo3::types::PyBool::new(py, answer).to_owned().into_any().unbind())
    }

    #[getter(__class__)]
    fn class<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        super::module::passes_for(slf.as_any(), &slf.py().get_type::<Self>(), "Row")
    }

    fn __reduce__(slf: &Bound<'_, Self>) -> PyResult<()> {
        super::module::refuse_pickling(slf.as_any())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.description)?;
        visit.call(&self.data)
    }
}

impl Row {
    /// Position of a column: the name as it is, otherwise in another case. Only ASCII letters have a case here.
    fn find(&self, py: Python<'_>, name: &Bound<'_, PyString>) -> PyResult<Option<usize>> {
        let description = self.description.bind(py);
        let Ok(columns) = description.cast::<PyTuple>() else { return Ok(None) };
        let wanted = name.to_str()?.as_bytes();
        for (place, column) in columns.iter_borrowed().enumerate() {
            // SAFETY: a description holds tuples that begin with a str.
            let found = unsafe { ffi::PyTuple_GET_ITEM(column.as_ptr(), 0) };
            if found == name.as_ptr() {
                return Ok(Some(place));
            }
            // SAFETY: as above; borrowed for the comparison.
            let found = unsafe { Borrowed::from_ptr(py, found) };
            if let Ok(found) = found.cast::<PyString>() {
                if found.to_str()?.as_bytes().eq_ignore_ascii_case(wanted) {
                    return Ok(Some(place));
                }
            }
        }
        Ok(None)
    }
}

/// `row_factory`.
pub enum RowFactory {
    /// Tuples.
    None,
    /// [`Row`]; the class that was assigned, which may be the standard library's.
    Row(Py<PyAny>),
    Other(Py<PyAny>),
}

impl RowFactory {
    pub fn of(factory: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = factory.py();
        if factory.is_none() {
            return Ok(Self::None);
        }
        let theirs = stdlib_row(py)?;
        if factory.is(py.get_type::<Row>()) || factory.is(theirs) {
            return Ok(Self::Row(factory.clone().unbind()));
        }
        if let Ok(class) = factory.cast::<PyType>() {
            if class.is_subclass(theirs)? {
                let name = class.name()?.to_string();
                return Err(PyTypeError::new_err(format!(
                    "row_factory: {name} is a subclass of sqlite3.Row, which works with sqlite3.Cursor only; \
                     derive it from upshift.sqlite.Row"
                )));
            }
        }
        Ok(Self::Other(factory.clone().unbind()))
    }

    pub fn object(&self, py: Python<'_>) -> Py<PyAny> {
        match self {
            Self::None => py.None(),
            Self::Row(factory) | Self::Other(factory) => factory.clone_ref(py),
        }
    }

    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::None => Self::None,
            Self::Row(factory) => Self::Row(factory.clone_ref(py)),
            Self::Other(factory) => Self::Other(factory.clone_ref(py)),
        }
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::None => Ok(()),
            Self::Row(factory) | Self::Other(factory) => visit.call(factory),
        }
    }
}

pub fn stdlib_row(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static ROW: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    ROW.import(py, "_sqlite3", "Row")
}
