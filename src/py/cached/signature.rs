//! Binds the arguments of a call to the parameters of the decorated function, natively.
//!
//! A bound call is a flat list of borrowed objects in a canonical order: every named parameter (defaults applied), then
//! the surplus positional arguments, then, after a mark, name and value of each surplus keyword sorted by name. Calls
//! that mean the same are the same list, so `f(5, 3)`, `f(5, y=3)` and `f(x=5, y=3)` share an entry.
#![allow(unsafe_code)]

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};
use smallvec::SmallVec;

/// Borrowed arguments in canonical order.
pub type Bound1 = SmallVec<[*mut ffi::PyObject; 8]>;

/// One named parameter.
struct Parameter {
    name: Py<PyString>,
    default: Option<Py<PyAny>>,
    /// Not part of the key (`ignore=`).
    ignored: bool,
    keyword: bool,
}

/// The parameters of a decorated function.
pub struct Signature {
    parameters: Vec<Parameter>,
    /// How many of `parameters` may be passed by position.
    positional: usize,
    variable_positional: bool,
    variable_keyword: bool,
    any_ignored: bool,
    /// `ignore=` names `*args`, `**kwargs`.
    surplus_ignored: bool,
    keywords_ignored: bool,
    /// Separates surplus keywords in a bound call; never equal to a user's object.
    mark: Py<PyAny>,
}

impl Signature {
    /// `parameters`: tuples (name, kind, has default, default, ignored) with the kinds of `inspect.Parameter`;
    /// keyword-only ones come after the positional ones.
    pub fn new(parameters: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = parameters.py();
        let mut this = Self {
            parameters: Vec::new(),
            positional: 0,
            variable_positional: false,
            variable_keyword: false,
            any_ignored: false,
            surplus_ignored: false,
            keywords_ignored: false,
            mark: py.import("builtins")?.getattr("object")?.call0()?.unbind(),
        };
        for parameter in parameters.try_iter()? {
            let (name, kind, has_default, default, ignored): (Bound<'_, PyString>, u8, bool, Bound<'_, PyAny>, bool) =
                parameter?.extract()?;
            match kind {
                2 => (this.variable_positional, this.surplus_ignored) = (true, ignored),
                4 => (this.variable_keyword, this.keywords_ignored) = (true, ignored),
                kind => {
                    this.any_ignored |= ignored;
                    this.positional += usize::from(kind < 2);
                    this.parameters.push(Parameter {
                        name: PyString::intern(py, name.to_str()?).unbind(),
                        default: has_default.then(|| default.unbind()),
                        ignored,
                        keyword: kind != 0,
                    });
                }
            }
        }
        Ok(this)
    }

    /// Whether a call with one positional argument needs no binding at all.
    pub fn is_unary(&self) -> bool {
        self.parameters.len() == 1
            && self.positional == 1
            && !self.variable_positional
            && !self.variable_keyword
            && !self.any_ignored
    }

    /// Whether a call with exactly `count` positional arguments is already in canonical order.
    #[inline(always)]
    pub fn is_exact(&self, count: usize) -> bool {
        self.parameters.len() == count && self.positional == count && !self.any_ignored
    }

    /// Binds a vectorcall into the empty `bound`; false if the call does not fit the signature (the function itself then
    /// says why).
    ///
    /// # Safety
    /// `arguments` must hold `count` positional objects followed by one for each name in `names` (null or a tuple of
    /// str), all alive while the result is used.
    pub unsafe fn bind(
        &self,
        arguments: *const *mut ffi::PyObject,
        count: usize,
        names: *mut ffi::PyObject,
        bound: &mut Bound1,
    ) -> bool {
        let (mut surplus, mut keywords) = (SmallVec::<[_; 4]>::new(), SmallVec::<[_; 4]>::new());
        bound.resize(self.parameters.len(), std::ptr::null_mut());
        // SAFETY: the caller's promise about `arguments` and `names`.
        unsafe {
            for i in 0..count {
                let argument = *arguments.add(i);
                if i < self.positional {
                    bound[i] = argument;
                } else if self.variable_positional {
                    if !self.surplus_ignored {
                        surplus.push(argument);
                    }
                } else {
                    return false;
                }
            }
            if !names.is_null() {
                for i in 0..ffi::PyTuple_GET_SIZE(names) {
                    let (name, value) = (ffi::PyTuple_GET_ITEM(names, i), *arguments.add(count + i as usize));
                    match self.position(name) {
                        Some(at) if bound[at].is_null() => bound[at] = value,
                        Some(_) => return false,
                        None if self.keywords_ignored => {}
                        None if self.variable_keyword => keywords.push((name, value)),
                        None => return false,
                    }
                }
            }
        }
        for (slot, parameter) in bound.iter_mut().zip(&self.parameters) {
            if slot.is_null() {
                match &parameter.default {
                    Some(default) => *slot = default.as_ptr(),
                    None => return false,
                }
            }
        }
        if self.any_ignored {
            let mut keep = self.parameters.iter().map(|parameter| !parameter.ignored);
            bound.retain(|_| keep.next().unwrap_or(true));
        }
        bound.extend(surplus);
        if !keywords.is_empty() {
            // SAFETY: keyword names are exact str objects, comparing them runs no user code.
            keywords.sort_by(|(a, _), (b, _)| unsafe { ffi::PyUnicode_Compare(*a, *b) }.cmp(&0));
            bound.push(self.mark.as_ptr());
            bound.extend(keywords.into_iter().flat_map(|(name, value)| [name, value]));
        }
        true
    }

    /// Index of the parameter that may be passed under `name`.
    #[inline]
    fn position(&self, name: *mut ffi::PyObject) -> Option<usize> {
        // Names at call sites are interned, like the ones stored: identity nearly always decides.
        let named = |parameter: &Parameter| parameter.keyword;
        self.parameters.iter().position(|parameter| named(parameter) && parameter.name.as_ptr() == name).or_else(|| {
            // SAFETY: both are str objects.
            let same = |parameter: &Parameter| unsafe { ffi::PyUnicode_Compare(parameter.name.as_ptr(), name) } == 0;
            self.parameters.iter().position(|parameter| named(parameter) && same(parameter))
        })
    }

    /// Splits a bound call into what `generate_key` takes: positional values, and keyword-only and surplus keyword
    /// arguments by name.
    pub fn split<'py>(
        &self,
        py: Python<'py>,
        bound: &Bound1,
    ) -> PyResult<(Vec<Bound<'py, PyAny>>, Bound<'py, PyDict>)> {
        let keywords = PyDict::new(py);
        let mut positional = Vec::with_capacity(bound.len());
        let mut items = bound.iter().map(|item| {
            // SAFETY: bound calls hold live objects.
            unsafe { Bound::from_borrowed_ptr(py, *item) }
        });
        for (at, parameter) in self.parameters.iter().enumerate().filter(|(_, parameter)| !parameter.ignored) {
            let Some(value) = items.next() else { break };
            if at < self.positional {
                positional.push(value);
            } else {
                keywords.set_item(&parameter.name, value)?;
            }
        }
        while let Some(item) = items.next() {
            if item.is(&self.mark) {
                while let (Some(name), Some(value)) = (items.next(), items.next()) {
                    keywords.set_item(name, value)?;
                }
            } else {
                positional.push(item);
            }
        }
        Ok((positional, keywords))
    }

    /// The owned form of a bound call: the object itself for a unary function, else a tuple.
    pub fn own(&self, py: Python<'_>, bound: &Bound1) -> PyResult<Py<PyAny>> {
        // SAFETY: bound calls hold live objects.
        let mut items = bound.iter().map(|item| unsafe { Bound::from_borrowed_ptr(py, *item) });
        if self.is_unary() {
            if let Some(item) = items.next() {
                return Ok(item.unbind());
            }
        }
        Ok(PyTuple::new(py, items.collect::<Vec<_>>())?.into_any().unbind())
    }

    /// Whether `item` is the mark before surplus keywords.
    #[inline(always)]
    pub fn is_mark(&self, item: *mut ffi::PyObject) -> bool {
        self.mark.as_ptr() == item
    }

    pub fn traverse(&self, visit: &pyo3::PyVisit<'_>) -> Result<(), pyo3::PyTraverseError> {
        for parameter in &self.parameters {
            visit.call(&parameter.default)?;
        }
        Ok(())
    }
}
