//! Decoder of the plain format. Assumes nothing about the data: every length is checked against what is left, and
//! the only classes it makes values of are the ones written here.

use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyComplex, PyDate, PyDateTime, PyDelta, PyDict, PyFloat, PyFrozenSet, PyInt, PyList,
    PySet, PyString, PyTime, PyTuple, PyTzInfo,
};
use pyo3::{IntoPyObjectExt, intern};
use rmp::Marker;

use super::{Decoded, MAX_DEPTH, class_of, ext, known, zone};

enum Stop {
    /// Not something the encoder writes.
    Malformed(&'static str),
    Raised(PyErr),
}

impl From<PyErr> for Stop {
    fn from(err: PyErr) -> Self {
        Stop::Raised(err)
    }
}

const TRUNCATED: Stop = Stop::Malformed("truncated");

type Value<'py> = Result<Bound<'py, PyAny>, Stop>;

/// The value of a body.
pub fn plain(py: Python<'_>, body: &[u8]) -> PyResult<Decoded> {
    let mut reader = Reader { py, rest: body, depth: 0 };
    let value = reader.value().and_then(|value| reader.end().map(|()| value));
    match value {
        Ok(value) => Ok(Decoded::Value(value.unbind())),
        Err(Stop::Malformed(reason)) => Ok(Decoded::malformed(reason)),
        Err(Stop::Raised(err)) => Ok(Decoded::malformed(class_of(py, err)?)),
    }
}

struct Reader<'a, 'py> {
    py: Python<'py>,
    rest: &'a [u8],
    depth: u32,
}

impl<'a, 'py> Reader<'a, 'py> {
    fn value(&mut self) -> Value<'py> {
        let py = self.py;
        let [marker] = self.array()?;
        let value = match Marker::from_u8(marker) {
            Marker::Null => py.None().into_bound(py),
            Marker::False => PyBool::new(py, false).to_owned().into_any(),
            Marker::True => PyBool::new(py, true).to_owned().into_any(),
            Marker::FixPos(n) => n.into_bound_py_any(py)?,
            Marker::FixNeg(n) => n.into_bound_py_any(py)?,
            Marker::U8 => u8::from_be_bytes(self.array()?).into_bound_py_any(py)?,
            Marker::U16 => u16::from_be_bytes(self.array()?).into_bound_py_any(py)?,
            Marker::U32 => u32::from_be_bytes(self.array()?).into_bound_py_any(py)?,
            Marker::U64 => u64::from_be_bytes(self.array()?).into_bound_py_any(py)?,
            Marker::I8 => i8::from_be_bytes(self.array()?).into_bound_py_any(py)?,
            Marker::I16 => i16::from_be_bytes(self.array()?).into_bound_py_any(py)?,
            Marker::I32 => i32::from_be_bytes(self.array()?).into_bound_py_any(py)?,
            Marker::I64 => i64::from_be_bytes(self.array()?).into_bound_py_any(py)?,
            Marker::F64 => PyFloat::new(py, f64::from_be_bytes(self.array()?)).into_any(),
            Marker::FixStr(n) => self.text(n.into())?,
            Marker::Str8 => self.len8().and_then(|len| self.text(len))?,
            Marker::Str16 => self.len16().and_then(|len| self.text(len))?,
            Marker::Str32 => self.len32().and_then(|len| self.text(len))?,
            Marker::Bin8 => self.len8().and_then(|len| self.bytes(len))?,
            Marker::Bin16 => self.len16().and_then(|len| self.bytes(len))?,
            Marker::Bin32 => self.len32().and_then(|len| self.bytes(len))?,
            Marker::FixArray(n) => self.list(n.into())?,
            Marker::Array16 => self.len16().and_then(|len| self.list(len))?,
            Marker::Array32 => self.len32().and_then(|len| self.list(len))?,
            Marker::FixMap(n) => self.dict(n.into())?,
            Marker::Map16 => self.len16().and_then(|len| self.dict(len))?,
            Marker::Map32 => self.len32().and_then(|len| self.dict(len))?,
            Marker::FixExt1 => self.extension(1)?,
            Marker::FixExt2 => self.extension(2)?,
            Marker::FixExt4 => self.extension(4)?,
            Marker::FixExt8 => self.extension(8)?,
            Marker::FixExt16 => self.extension(16)?,
            Marker::Ext8 => self.len8().and_then(|len| self.extension(len))?,
            Marker::Ext16 => self.len16().and_then(|len| self.extension(len))?,
            Marker::Ext32 => self.len32().and_then(|len| self.extension(len))?,
            Marker::F32 | Marker::Reserved => return Err(Stop::Malformed("unknown marker")),
        };
        Ok(value)
    }

    fn text(&mut self, len: usize) -> Value<'py> {
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| Stop::Malformed("invalid UTF-8"))?;
        Ok(PyString::new(self.py, text).into_any())
    }

    fn bytes(&mut self, len: usize) -> Value<'py> {
        Ok(PyBytes::new(self.py, self.take(len)?).into_any())
    }

    fn list(&mut self, len: usize) -> Value<'py> {
        let items = self.inside(|this| this.sequence(len))?;
        Ok(PyList::new(self.py, items)?.into_any())
    }

    fn dict(&mut self, len: usize) -> Value<'py> {
        self.inside(|this| {
            let dict = PyDict::new(this.py);
            for _ in 0..len {
                let key = this.value()?;
                dict.set_item(key, this.value()?)?;
            }
            Ok(dict.into_any())
        })
    }

    fn extension(&mut self, len: usize) -> Value<'py> {
        let py = self.py;
        let [ty] = self.array()?;
        let body = self.take(len)?;
        let value = match ty as i8 {
            ext::TUPLE => PyTuple::new(py, self.values(body)?)?.into_any(),
            ext::SET => PySet::new(py, self.values(body)?)?.into_any(),
            ext::FROZENSET => PyFrozenSet::new(py, self.values(body)?)?.into_any(),
            ext::BYTEARRAY => PyByteArray::new(py, body).into_any(),
            ext::BIG_INT => {
                let signed = PyDict::new(py);
                signed.set_item(intern!(py, "signed"), true)?;
                let args = (PyBytes::new(py, body), intern!(py, "little"));
                py.get_type::<PyInt>().call_method(intern!(py, "from_bytes"), args, Some(&signed))?
            }
            ext::SURROGATES => PyBytes::new(py, body)
                .call_method1(intern!(py, "decode"), (intern!(py, "utf-8"), intern!(py, "surrogatepass")))?,
            ext::DECIMAL => {
                let text = std::str::from_utf8(body).map_err(|_| Stop::Malformed("invalid UTF-8"))?;
                known::DECIMAL.import(py)?.call1((text,))?
            }
            ty => Reader { py, rest: body, depth: self.depth }.fixed(ty)?,
        };
        Ok(value)
    }

    /// An extension value whose body, all that is left, starts with fields of fixed size.
    fn fixed(mut self, ty: i8) -> Value<'py> {
        let py = self.py;
        let value = match ty {
            ext::COMPLEX => {
                let (real, imag) = (f64::from_le_bytes(self.array()?), f64::from_le_bytes(self.array()?));
                PyComplex::from_doubles(py, real, imag).into_any()
            }
            ext::DATE => {
                let (year, month, day) = self.date()?;
                PyDate::new(py, year, month, day)?.into_any()
            }
            ext::TIME => {
                let (hour, minute, second, micro, fold) = self.time()?;
                let zone = self.zone()?;
                PyTime::new_with_fold(py, hour, minute, second, micro, zone.as_ref(), fold)?.into_any()
            }
            ext::DATETIME => {
                let (year, month, day) = self.date()?;
                let (hour, minute, second, micro, fold) = self.time()?;
                let zone = self.zone()?;
                PyDateTime::new_with_fold(py, year, month, day, hour, minute, second, micro, zone.as_ref(), fold)?
                    .into_any()
            }
            ext::TIMEDELTA => self.delta()?.into_any(),
            ext::UUID => self.uuid()?,
            ext::ARRAY => return self.numpy_array(),
            ext::SCALAR => return self.numpy_scalar(),
            _ => return Err(Stop::Malformed("unknown extension type")),
        };
        self.end()?;
        Ok(value)
    }

    fn date(&mut self) -> Result<(i32, u8, u8), Stop> {
        let year = u16::from_le_bytes(self.array()?);
        let [month, day] = self.array()?;
        Ok((year.into(), month, day))
    }

    fn time(&mut self) -> Result<(u8, u8, u8, u32, bool), Stop> {
        let [hour, minute, second] = self.array()?;
        let micro = u32::from_le_bytes(self.array()?);
        let [fold] = self.array()?;
        Ok((hour, minute, second, micro, fold != 0))
    }

    fn delta(&mut self) -> Result<Bound<'py, PyDelta>, Stop> {
        let mut field = || self.array().map(i32::from_le_bytes);
        let (days, seconds, micros) = (field()?, field()?, field()?);
        Ok(PyDelta::new(self.py, days, seconds, micros, true)?)
    }

    fn zone(&mut self) -> Result<Option<Bound<'py, PyTzInfo>>, Stop> {
        let py = self.py;
        let [kind] = self.array()?;
        let zone = match kind {
            zone::NAIVE => return Ok(None),
            zone::UTC => return Ok(Some(PyTzInfo::utc(py)?.to_owned())),
            zone::OFFSET => known::TIMEZONE.import(py)?.call1((self.delta()?,))?,
            zone::NAMED_OFFSET => {
                let delta = self.delta()?;
                known::TIMEZONE.import(py)?.call1((delta, self.remaining_text()?))?
            }
            zone::IANA => {
                let key = self.remaining_text()?;
                // A zone is looked up as a file, or as a resource inside of the package tzdata.
                let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-/".contains(&byte);
                if !key.bytes().all(allowed) || key.starts_with('/') {
                    return Err(Stop::Malformed("invalid time zone"));
                }
                known::ZONE_INFO.import(py)?.call1((key,))?
            }
            _ => return Err(Stop::Malformed("unknown kind of time zone")),
        };
        Ok(Some(zone.cast_into::<PyTzInfo>().map_err(PyErr::from)?))
    }

    fn uuid(&mut self) -> Value<'py> {
        let py = self.py;
        let bytes: [u8; 16] = self.array()?;
        let [safety] = self.array()?;
        let class = known::UUID.import(py)?;
        let args = PyDict::new(py);
        args.set_item("bytes", PyBytes::new(py, &bytes))?;
        if safety as i8 != i8::MIN {
            args.set_item("is_safe", py.import("uuid")?.getattr("SafeUUID")?.call1((safety as i8,))?)?;
        }
        Ok(class.call((), Some(&args))?)
    }

    fn numpy_array(mut self) -> Value<'py> {
        let py = self.py;
        let (dtype, item) = self.dtype()?;
        let order = match self.array()? {
            [b'C'] => "C",
            [b'F'] => "F",
            _ => return Err(Stop::Malformed("unknown memory order")),
        };
        let [dimensions] = self.array()?;
        let mut shape = Vec::with_capacity(dimensions.into());
        for _ in 0..dimensions {
            shape.push(u64::from_le_bytes(self.array()?));
        }
        let size = shape.iter().try_fold(item as u64, |size, dimension| size.checked_mul(*dimension));
        if size != Some(self.rest.len() as u64) {
            return Err(Stop::Malformed("array size"));
        }
        let data = PyBytes::new(py, self.rest);
        let args = PyDict::new(py);
        args.set_item("buffer", data)?;
        args.set_item("order", order)?;
        let view = known::ARRAY.import(py)?.call((PyTuple::new(py, shape)?, dtype), Some(&args))?;
        // The copy owns its memory and can be written to.
        Ok(view.call_method1(intern!(py, "copy"), ("K",))?)
    }

    fn numpy_scalar(mut self) -> Value<'py> {
        let py = self.py;
        let (dtype, item) = self.dtype()?;
        if self.rest.len() != item {
            return Err(Stop::Malformed("scalar size"));
        }
        let args = PyDict::new(py);
        args.set_item("buffer", PyBytes::new(py, self.rest))?;
        let array = known::ARRAY.import(py)?.call((PyTuple::new(py, [1u8])?, dtype), Some(&args))?;
        Ok(array.get_item(0)?)
    }

    fn dtype(&mut self) -> Result<(Bound<'py, PyAny>, usize), Stop> {
        let [len] = self.array()?;
        let name = std::str::from_utf8(self.take(len.into())?).map_err(|_| Stop::Malformed("dtype"))?;
        let dtype = known::plain_dtype(self.py, name)?.ok_or(Stop::Malformed("dtype"))?;
        let item = dtype.getattr(intern!(self.py, "itemsize"))?.extract()?;
        Ok((dtype, item))
    }

    fn remaining_text(&mut self) -> Result<&'a str, Stop> {
        let rest = std::mem::take(&mut self.rest);
        std::str::from_utf8(rest).map_err(|_| Stop::Malformed("invalid UTF-8"))
    }

    /// The values that fill a body.
    fn values(&mut self, body: &'a [u8]) -> Result<Vec<Bound<'py, PyAny>>, Stop> {
        self.inside(|this| {
            let mut reader = Reader { py: this.py, rest: body, depth: this.depth };
            let mut values = Vec::new();
            while !reader.rest.is_empty() {
                values.push(reader.value()?);
            }
            Ok(values)
        })
    }

    fn sequence(&mut self, len: usize) -> Result<Vec<Bound<'py, PyAny>>, Stop> {
        // Each value takes a byte at least. A damaged count must not ask for memory that the data cannot fill.
        if len > self.rest.len() {
            return Err(TRUNCATED);
        }
        let mut values = Vec::with_capacity(len.min(4096));
        for _ in 0..len {
            values.push(self.value()?);
        }
        Ok(values)
    }

    /// One level deeper.
    fn inside<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Stop>) -> Result<T, Stop> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Stop::Malformed("nested too deeply"));
        }
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Stop> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn len8(&mut self) -> Result<usize, Stop> {
        self.array().map(|bytes| u8::from_be_bytes(bytes).into())
    }

    fn len16(&mut self) -> Result<usize, Stop> {
        self.array().map(|bytes| u16::from_be_bytes(bytes).into())
    }

    fn len32(&mut self) -> Result<usize, Stop> {
        self.array().map(|bytes| u32::from_be_bytes(bytes) as usize)
    }

    fn end(&self) -> Result<(), Stop> {
        if self.rest.is_empty() { Ok(()) } else { Err(Stop::Malformed("trailing bytes")) }
    }
}
