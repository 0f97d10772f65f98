//! Encoder of the plain format.

use std::collections::HashSet;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyComplex, PyDate, PyDateAccess, PyDateTime, PyDelta, PyDeltaAccess, PyDict, PyFloat,
    PyFrozenSet, PyInt, PyList, PySet, PyString, PyTime, PyTimeAccess, PyTuple, PyTzInfo, PyTzInfoAccess,
};
use rmp::encode as mp;
use rmp::encode::buffer::ByteBuf;

use super::{HEADER, MARKER, MAX_DEPTH, PLAIN, class_of, ext, known, zone};
use crate::py::raw;

/// Values visited. Bounds the blow-up of a value that shares an immutable part many times over.
const MAX_VISITS: u32 = 1 << 24;

/// The longest blob. Lengths of the format have 32 bits; larger values gain nothing from it.
const MAX_LEN: usize = 1 << 30;

enum Stop {
    /// The value needs a pickle.
    Inexpressible,
    Raised(PyErr),
}

impl From<PyErr> for Stop {
    fn from(err: PyErr) -> Self {
        Stop::Raised(err)
    }
}

type Done = Result<(), Stop>;

/// The blob of a value, `None` if the plain format cannot express it exactly. Runs no code of user classes.
pub fn plain(obj: &Bound<'_, PyAny>) -> PyResult<Option<Vec<u8>>> {
    let mut start = Vec::with_capacity(128);
    start.extend_from_slice(&MARKER);
    start.extend_from_slice(&[PLAIN, 0]);
    debug_assert_eq!(start.len(), HEADER);
    let mut encoder =
        Encoder { py: obj.py(), out: ByteBuf::from_vec(start), depth: 0, visits: 0, seen: HashSet::default() };
    match encoder.value(obj) {
        Ok(()) => Ok(Some(encoder.out.into_vec())),
        Err(Stop::Inexpressible) => Ok(None),
        // A library that failed on one of its own objects: let the pickle try.
        Err(Stop::Raised(err)) => class_of(obj.py(), err).map(|_| None),
    }
}

struct Encoder<'py> {
    py: Python<'py>,
    out: ByteBuf,
    depth: u32,
    visits: u32,
    /// Addresses of the mutable objects met so far. One that occurs twice must be one object after decoding, too,
    /// which the format cannot say.
    seen: HashSet<usize, Addresses>,
}

impl<'py> Encoder<'py> {
    fn value(&mut self, obj: &Bound<'py, PyAny>) -> Done {
        if let Ok(text) = obj.cast_exact::<PyString>() {
            self.text(text)
        } else if let Ok(int) = obj.cast_exact::<PyInt>() {
            self.int(int)
        } else if obj.is_none() {
            let Ok(()) = mp::write_nil(&mut self.out);
            Ok(())
        } else if let Ok(flag) = obj.cast_exact::<PyBool>() {
            let Ok(()) = mp::write_bool(&mut self.out, flag.is_true());
            Ok(())
        } else if let Ok(float) = obj.cast_exact::<PyFloat>() {
            let Ok(()) = mp::write_f64(&mut self.out, float.value());
            Ok(())
        } else if let Ok(bytes) = obj.cast_exact::<PyBytes>() {
            let bytes = bytes.as_bytes();
            length(bytes.len())?;
            let Ok(()) = mp::write_bin(&mut self.out, bytes);
            Ok(())
        } else if let Ok(complex) = obj.cast_exact::<PyComplex>() {
            let (real, imag) = (complex.real().to_le_bytes(), complex.imag().to_le_bytes());
            self.extension(ext::COMPLEX, &[&real, &imag])
        } else {
            self.visits += 1;
            self.depth += 1;
            if self.depth > MAX_DEPTH || self.visits > MAX_VISITS || self.out.as_slice().len() > MAX_LEN {
                return Err(Stop::Inexpressible);
            }
            self.compound(obj)?;
            self.depth -= 1;
            Ok(())
        }
    }

    fn compound(&mut self, obj: &Bound<'py, PyAny>) -> Done {
        if let Ok(list) = obj.cast_exact::<PyList>() {
            self.once(obj)?;
            let len = list.len();
            let Ok(_) = mp::write_array_len(&mut self.out, length(len)?);
            for index in 0..len {
                // Fails if a garbage collection ran code that made the list shorter.
                self.value(&list.get_item(index)?)?;
            }
            if list.len() == len { Ok(()) } else { Err(Stop::Inexpressible) }
        } else if let Ok(dict) = obj.cast_exact::<PyDict>() {
            self.once(obj)?;
            let Ok(_) = mp::write_map_len(&mut self.out, length(dict.len())?);
            let unchanged = raw::for_each_pair(dict, |key, value| {
                self.value(&key)?;
                self.value(&value)
            })?;
            if unchanged { Ok(()) } else { Err(Stop::Inexpressible) }
        } else if let Ok(tuple) = obj.cast_exact::<PyTuple>() {
            self.nested(ext::TUPLE, |this| tuple.iter().try_for_each(|item| this.value(&item)))
        } else if obj.is_exact_instance_of::<PySet>() {
            self.once(obj)?;
            self.nested(ext::SET, |this| this.items(obj))
        } else if obj.is_exact_instance_of::<PyFrozenSet>() {
            self.nested(ext::FROZENSET, |this| this.items(obj))
        } else if let Ok(bytes) = obj.cast_exact::<PyByteArray>() {
            self.once(obj)?;
            self.extension(ext::BYTEARRAY, &[&bytes.to_vec()])
        } else if let Ok(moment) = obj.cast_exact::<PyDateTime>() {
            let mut body = date_fields(moment).to_vec();
            body.extend_from_slice(&time_fields(moment));
            self.zone(moment.get_tzinfo(), &mut body)?;
            self.extension(ext::DATETIME, &[&body])
        } else if let Ok(date) = obj.cast_exact::<PyDate>() {
            self.extension(ext::DATE, &[&date_fields(date)])
        } else if let Ok(time) = obj.cast_exact::<PyTime>() {
            let mut body = time_fields(time).to_vec();
            self.zone(time.get_tzinfo(), &mut body)?;
            self.extension(ext::TIME, &[&body])
        } else if let Ok(delta) = obj.cast_exact::<PyDelta>() {
            self.extension(ext::TIMEDELTA, &[&delta_fields(delta)])
        } else if known::DECIMAL.is_class_of(obj)? {
            // The text of a Decimal says all of it, and reading it does not round.
            self.extension(ext::DECIMAL, &[obj.str()?.to_str()?.as_bytes()])
        } else if known::UUID.is_class_of(obj)? {
            self.uuid(obj)
        } else if known::ARRAY.is_class_of(obj)? {
            self.once(obj)?;
            self.array(obj)
        } else if known::SCALAR.is_base_of(obj)? {
            self.scalar(obj)
        } else {
            Err(Stop::Inexpressible)
        }
    }

    fn items(&mut self, set: &Bound<'py, PyAny>) -> Done {
        set.try_iter()?.try_for_each(|item| self.value(&item?))
    }

    fn text(&mut self, text: &Bound<'py, PyString>) -> Done {
        if let Ok(text) = text.to_str() {
            length(text.len())?;
            let Ok(()) = mp::write_str(&mut self.out, text);
            return Ok(());
        }
        let bytes = text.call_method1(intern!(self.py, "encode"), ("utf-8", "surrogatepass"))?;
        self.extension(ext::SURROGATES, &[bytes.cast::<PyBytes>().map_err(PyErr::from)?.as_bytes()])
    }

    fn int(&mut self, int: &Bound<'py, PyInt>) -> Done {
        if let Some(value) = raw::small_int(int) {
            let Ok(_) = mp::write_sint(&mut self.out, value);
            return Ok(());
        }
        self.extension(ext::BIG_INT, &[raw::big_int_bytes(int)?.as_bytes()])
    }

    fn uuid(&mut self, obj: &Bound<'py, PyAny>) -> Done {
        let bytes = obj.getattr(intern!(self.py, "bytes"))?.cast_into::<PyBytes>().map_err(PyErr::from)?;
        // -1, 0 or None: whether the host could make it free of duplicates.
        let safety = obj.getattr(intern!(self.py, "is_safe"))?.getattr(intern!(self.py, "value"))?;
        let safety: i8 = safety.extract::<Option<i8>>()?.unwrap_or(i8::MIN);
        self.extension(ext::UUID, &[bytes.as_bytes(), &safety.to_le_bytes()])
    }

    fn zone(&self, tzinfo: Option<Bound<'py, PyTzInfo>>, body: &mut Vec<u8>) -> Done {
        let Some(tzinfo) = tzinfo else {
            body.push(zone::NAIVE);
            return Ok(());
        };
        if tzinfo.is(PyTzInfo::utc(self.py)?) {
            body.push(zone::UTC);
        } else if known::TIMEZONE.is_class_of(&tzinfo)? {
            let args = tzinfo.call_method0(intern!(self.py, "__getinitargs__"))?;
            let args = args.cast::<PyTuple>().map_err(PyErr::from)?;
            body.push(if args.len() == 1 { zone::OFFSET } else { zone::NAMED_OFFSET });
            let offset = args.get_item(0)?.cast_into::<PyDelta>().map_err(PyErr::from)?;
            body.extend_from_slice(&delta_fields(&offset));
            if args.len() == 2 {
                let name = args.get_item(1)?.cast_into_exact::<PyString>().map_err(|_| Stop::Inexpressible)?;
                body.extend_from_slice(name.to_str().map_err(|_| Stop::Inexpressible)?.as_bytes());
            }
        } else if known::ZONE_INFO.is_class_of(&tzinfo)? {
            let key = tzinfo.getattr(intern!(self.py, "key"))?;
            let key = key.cast_exact::<PyString>().map_err(|_| Stop::Inexpressible)?;
            // Not so if it was read from a file or made with no_cache.
            if !known::ZONE_INFO.import(self.py)?.call1((key,))?.is(&tzinfo) {
                return Err(Stop::Inexpressible);
            }
            body.push(zone::IANA);
            body.extend_from_slice(key.to_str()?.as_bytes());
        } else {
            return Err(Stop::Inexpressible);
        }
        Ok(())
    }

    /// dtype (length, text), memory order, number of dimensions, dimensions, data.
    fn array(&mut self, array: &Bound<'py, PyAny>) -> Done {
        let py = self.py;
        let dtype = array.getattr(intern!(py, "dtype"))?;
        let mut head = self.dtype(&dtype)?;
        let flags = array.getattr(intern!(py, "flags"))?;
        let flag = |name| flags.getattr(name)?.extract::<bool>();
        let fortran = flag(intern!(py, "f_contiguous"))? && !flag(intern!(py, "c_contiguous"))?;
        let order = if fortran { "F" } else { "C" };
        let shape: Vec<u64> = array.getattr(intern!(py, "shape"))?.extract()?;
        let size: u64 = array.getattr(intern!(py, "nbytes"))?.extract()?;
        if size > MAX_LEN as u64 {
            return Err(Stop::Inexpressible);
        }
        head.extend_from_slice(order.as_bytes());
        head.push(u8::try_from(shape.len()).map_err(|_| Stop::Inexpressible)?);
        head.extend(shape.iter().flat_map(|dimension| dimension.to_le_bytes()));
        let data = array.call_method1(intern!(py, "tobytes"), (order,))?;
        self.extension(ext::ARRAY, &[&head, data.cast::<PyBytes>().map_err(PyErr::from)?.as_bytes()])
    }

    /// dtype (length, text), data.
    fn scalar(&mut self, scalar: &Bound<'py, PyAny>) -> Done {
        let py = self.py;
        let dtype = scalar.getattr(intern!(py, "dtype"))?;
        let head = self.dtype(&dtype)?;
        // Texts lose trailing zeros on their way through an array; a user's subclass is not what the dtype says.
        let class = dtype.getattr(intern!(py, "type"))?;
        if matches!(head.get(2), Some(b'S' | b'U')) || !scalar.get_type().is(&class) {
            return Err(Stop::Inexpressible);
        }
        let data = scalar.call_method0(intern!(py, "tobytes"))?;
        self.extension(ext::SCALAR, &[&head, data.cast::<PyBytes>().map_err(PyErr::from)?.as_bytes()])
    }

    fn dtype(&self, dtype: &Bound<'py, PyAny>) -> Result<Vec<u8>, Stop> {
        let py = self.py;
        let name: String = dtype.getattr(intern!(py, "str"))?.extract()?;
        let restored = known::plain_dtype(py, &name)?.ok_or(Stop::Inexpressible)?;
        // Two C types of one size and kind are one dtype, as they are in a pickle.
        if !dtype.getattr(intern!(py, "metadata"))?.is_none() || !restored.eq(dtype)? {
            return Err(Stop::Inexpressible);
        }
        let mut head = vec![u8::try_from(name.len()).map_err(|_| Stop::Inexpressible)?];
        head.extend_from_slice(name.as_bytes());
        Ok(head)
    }

    /// An extension value made of the given pieces.
    fn extension(&mut self, ty: i8, pieces: &[&[u8]]) -> Done {
        let len = length(pieces.iter().map(|piece| piece.len()).sum())?;
        let Ok(_) = mp::write_ext_meta(&mut self.out, len, ty);
        for piece in pieces {
            self.out.as_mut_vec().extend_from_slice(piece);
        }
        Ok(())
    }

    /// An extension value whose body is a sequence of values. Its length is known only afterwards, so it gets a
    /// header with 32 bits for it.
    fn nested(&mut self, ty: i8, write: impl FnOnce(&mut Self) -> Done) -> Done {
        let out = self.out.as_mut_vec();
        out.extend_from_slice(&[rmp::Marker::Ext32.to_u8(), 0, 0, 0, 0, ty as u8]);
        let start = out.len();
        write(self)?;
        let len = length(self.out.as_slice().len() - start)?;
        self.out.as_mut_vec()[start - 5..start - 1].copy_from_slice(&len.to_be_bytes());
        Ok(())
    }

    /// Notes that a mutable object occurs; a second time is too often.
    fn once(&mut self, obj: &Bound<'py, PyAny>) -> Done {
        if self.seen.insert(obj.as_ptr() as usize) { Ok(()) } else { Err(Stop::Inexpressible) }
    }
}

fn length(len: usize) -> Result<u32, Stop> {
    if len > MAX_LEN { Err(Stop::Inexpressible) } else { Ok(len as u32) }
}

fn date_fields(date: &impl PyDateAccess) -> [u8; 4] {
    let [low, high] = (date.get_year() as u16).to_le_bytes();
    [low, high, date.get_month(), date.get_day()]
}

fn time_fields(time: &impl PyTimeAccess) -> [u8; 8] {
    let [a, b, c, d] = time.get_microsecond().to_le_bytes();
    [time.get_hour(), time.get_minute(), time.get_second(), a, b, c, d, time.get_fold().into()]
}

fn delta_fields(delta: &Bound<'_, PyDelta>) -> [u8; 12] {
    let mut fields = [0; 12];
    fields[..4].copy_from_slice(&delta.get_days().to_le_bytes());
    fields[4..8].copy_from_slice(&delta.get_seconds().to_le_bytes());
    fields[8..].copy_from_slice(&delta.get_microseconds().to_le_bytes());
    fields
}

/// Hashes addresses, which an attacker does not choose, at the price of a multiplication.
#[derive(Default, Clone, Copy)]
struct Addresses;

impl std::hash::BuildHasher for Addresses {
    type Hasher = AddressHasher;

    fn build_hasher(&self) -> AddressHasher {
        AddressHasher(0)
    }
}

struct AddressHasher(u64);

impl std::hash::Hasher for AddressHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
    }

    fn write_usize(&mut self, address: usize) {
        let product = (address as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = product ^ (product >> 32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
