//! Arguments of methods as the standard library takes them: with its words when they are wrong, and with its warnings
//! where a name may not be used for much longer.

use std::ffi::{CString, c_int};

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use super::connection::Given;
use crate::py::hang;

/// A method whose parameters may be given by name.
pub struct Method<const N: usize> {
    pub name: &'static str,
    pub parameters: [&'static str; N],
    /// So many of them will be positional only; Python 3.13 began to warn.
    pub positional: usize,
    /// A parameter that is only taken by name, and may be left out.
    pub option: Option<&'static str>,
}

/// The parameters, and the option if it is given.
type Bind<'py, const N: usize> = ([Bound<'py, PyAny>; N], Option<Bound<'py, PyAny>>);

impl<const N: usize> Method<N> {
    pub fn bind<'py>(
        &self,
        arguments: &Bound<'py, PyTuple>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bind<'py, N>> {
        let py = arguments.py();
        let given = arguments.len();
        let named = options.map_or(0, |options| options.len());
        if given > N || given + named > N + usize::from(self.option.is_some()) {
            return Err(self.too_many(given, named));
        }
        let mut option = None;
        let mut surplus = None;
        let mut values: [Option<Bound<'py, PyAny>>; N] = std::array::from_fn(|place| arguments.get_item(place).ok());
        for (key, value) in options.into_iter().flat_map(|options| options.iter()) {
            let key = key.cast_into::<PyString>()?;
            let name = key.to_str()?;
            if self.option == Some(name) {
                option = Some(value);
                continue;
            }
            match self.parameters.iter().position(|&parameter| parameter == name) {
                Some(place) if place >= given => values[place] = Some(value),
                place => surplus = surplus.or_else(|| Some((name.to_owned(), place))),
            }
        }
        if let Some(place) = values.iter().position(Option::is_none) {
            let (name, parameter) = (self.name, self.parameters[place]);
            let message = format!("{name}() missing required argument '{parameter}' (pos {})", place + 1);
            return Err(PyTypeError::new_err(message));
        }
        if let Some((name, place)) = surplus {
            return Err(self.surplus(&name, place));
        }
        if cfg!(Py_3_13) && given < self.positional {
            self.warn(py)?;
        }
        Ok((values.map(|value| value.expect("just looked")), option))
    }

    #[cold]
    fn too_many(&self, given: usize, named: usize) -> PyErr {
        let name = self.name;
        if self.option.is_some() && given > N {
            return PyTypeError::new_err(format!("{name}() takes exactly {N} positional arguments ({given} given)"));
        }
        let most = N + usize::from(self.option.is_some());
        let plural = if most == 1 { "" } else { "s" };
        PyTypeError::new_err(format!("{name}() takes at most {most} argument{plural} ({} given)", given + named))
    }

    #[cold]
    fn surplus(&self, name: &str, place: Option<usize>) -> PyErr {
        let method = self.name;
        PyTypeError::new_err(match place {
            Some(place) => format!("argument for {method}() given by name ('{name}') and position ({})", place + 1),
            None => return surplus(method, name),
        })
    }

    #[cold]
    fn warn(&self, py: Python<'_>) -> PyResult<()> {
        let quoted: Vec<_> = self.parameters[..self.positional].iter().map(|name| format!("'{name}'")).collect();
        let (names, plural) = match quoted.split_last() {
            Some((last, [])) => (last.clone(), ""),
            Some((last, first)) => (format!("{} and {last}", first.join(", ")), "s"),
            None => return Ok(()),
        };
        let text = CString::new(format!(
            "Passing keyword argument{plural} {names} to _sqlite3.Connection.{}() is deprecated. Parameter{plural} \
             {names} will become positional-only in Python 3.15.",
            self.name
        ))?;
        PyErr::warn(py, &py.get_type::<pyo3::exceptions::PyDeprecationWarning>(), &text, 1)
    }
}

/// The error for an argument by a name that the method does not have.
#[cold]
pub fn surplus(method: &str, name: &str) -> PyErr {
    PyTypeError::new_err(if cfg!(Py_3_13) {
        format!("{method}() got an unexpected keyword argument '{name}'")
    } else {
        format!("'{name}' is an invalid keyword argument for {method}()")
    })
}

/// A str without null characters; `which` says whose argument it is.
pub fn text(value: &Bound<'_, PyAny>, which: &str) -> PyResult<CString> {
    let Ok(text) = value.cast::<PyString>() else {
        let class = if value.is_none() { "None".to_owned() } else { value.get_type().name()?.to_string() };
        return Err(PyTypeError::new_err(format!("{which} must be str, not {class}")));
    };
    CString::new(text.to_str()?).map_err(|_| PyValueError::new_err("embedded null character"))
}

/// See [`int`].
pub struct Int(pub c_int);

impl<'py> FromPyObject<'_, 'py> for Int {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        int(&value).map(Self)
    }
}

/// A flag: the truth value of any object.
pub struct Truth(pub bool);

impl<'py> FromPyObject<'_, 'py> for Truth {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        hang::is_true(&value).map(Self)
    }
}

/// The name of an object's class, for messages.
pub fn class_of(value: &Bound<'_, PyAny>) -> PyResult<String> {
    Ok(value.get_type().name()?.to_string())
}

/// An SQL text.
pub struct Sql<'py>(pub Bound<'py, PyString>);

impl<'py> FromPyObject<'_, 'py> for Sql<'py> {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match value.cast::<PyString>() {
            Ok(text) => Ok(Self(text.to_owned())),
            Err(_) => Err(PyTypeError::new_err(format!("sql must be str, not {}", class_of(&value)?))),
        }
    }
}

/// An int of `least` or more; one that no machine could count to is as good as the largest.
pub fn count(value: &Bound<'_, PyAny>, name: &str, least: i64) -> PyResult<usize> {
    let number = match value.extract::<i64>() {
        Ok(number) => number,
        Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => {
            if value.lt(0)? {
                i64::MIN
            } else {
                i64::MAX
            }
        }
        Err(_) => return Err(PyTypeError::new_err(format!("{name} must be an int, not {}", class_of(value)?))),
    };
    if number < least {
        return Err(PyValueError::new_err(format!("{name} must be {least} or more, not {value}")));
    }
    Ok(usize::try_from(number).unwrap_or(usize::MAX))
}

/// One of two words: whether it is the second. The first if it is not given.
pub fn choice(value: &Given<'_>, name: &str, words: [&str; 2]) -> PyResult<bool> {
    let Given::Value(value) = value else { return Ok(false) };
    let [first, second] = words;
    match value.cast::<PyString>() {
        Ok(word) if word == first => Ok(false),
        Ok(word) if word == second => Ok(true),
        Ok(word) => Err(PyValueError::new_err(format!("{name} must be '{first}' or '{second}', not {}", word.repr()?))),
        Err(_) => {
            let class = class_of(value)?;
            Err(PyTypeError::new_err(format!("{name} must be '{first}' or '{second}', not {class}")))
        }
    }
}

/// An int of C.
pub fn int(value: &Bound<'_, PyAny>) -> PyResult<c_int> {
    let too_large = || PyOverflowError::new_err("Python int too large to convert to C int");
    match value.extract::<i64>() {
        Ok(number) => c_int::try_from(number).map_err(|_| too_large()),
        Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => Err(too_large()),
        Err(error) => Err(error),
    }
}
