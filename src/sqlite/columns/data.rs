//! The values of a column.

use super::Fault;
use super::kind::Kind;
use super::text::{Bytes, Refused};
use super::validity::Validity;

/// The values of a column, one per row.
#[derive(Clone, Debug)]
pub enum Data {
    /// This many NULLs.
    Null(usize),
    Int64(Vec<i64>),
    Float64(Vec<f64>),
    Text(Bytes),
    Blob(Bytes),
    Mixed(Mixed),
}

/// Values of several types.
#[derive(Clone, Debug, Default)]
pub struct Mixed {
    pub cells: Vec<Cell>,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell {
    Null,
    Int(i64),
    Float(f64),
    Text(Span),
    Blob(Span),
}

/// Where the bytes of a cell are, see [`Mixed::get`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: u32,
    len: u32,
}

impl Data {
    /// No rows of this kind, with room for as many as here.
    pub(super) fn fresh(&self) -> Self {
        match self {
            Self::Null(_) => Self::Null(0),
            Self::Int64(values) => Self::Int64(Vec::with_capacity(values.len())),
            Self::Float64(values) => Self::Float64(Vec::with_capacity(values.len())),
            Self::Text(values) => Self::Text(values.fresh()),
            Self::Blob(values) => Self::Blob(values.fresh()),
            Self::Mixed(mixed) => {
                Self::Mixed(Mixed { cells: Vec::with_capacity(mixed.cells.len()), bytes: Vec::new() })
            }
        }
    }

    /// This many NULLs.
    pub(super) fn nulls(kind: Kind, rows: usize) -> Self {
        match kind {
            Kind::Null => Self::Null(rows),
            Kind::Int64 => Self::Int64(vec![0; rows]),
            Kind::Float64 => Self::Float64(vec![f64::NAN; rows]),
            Kind::Text => Self::Text(Bytes::empty(rows)),
            Kind::Blob => Self::Blob(Bytes::empty(rows)),
            Kind::Mixed => Self::Mixed(Mixed { cells: vec![Cell::Null; rows], bytes: Vec::new() }),
        }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Self::Null(_) => Kind::Null,
            Self::Int64(_) => Kind::Int64,
            Self::Float64(_) => Kind::Float64,
            Self::Text(_) => Kind::Text,
            Self::Blob(_) => Kind::Blob,
            Self::Mixed(_) => Kind::Mixed,
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Null(rows) => *rows,
            Self::Int64(values) => values.len(),
            Self::Float64(values) => values.len(),
            Self::Text(values) | Self::Blob(values) => values.len(),
            Self::Mixed(mixed) => mixed.cells.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn truncate(&mut self, rows: usize) {
        match self {
            Self::Null(present) => *present = rows.min(*present),
            Self::Int64(values) => values.truncate(rows),
            Self::Float64(values) => values.truncate(rows),
            Self::Text(values) | Self::Blob(values) => values.truncate(rows),
            Self::Mixed(mixed) => mixed.cells.truncate(rows),
        }
    }

    pub(super) fn push_null(&mut self) -> Result<(), Refused> {
        match self {
            Self::Null(rows) => *rows += 1,
            Self::Int64(values) => push(values, 0)?,
            Self::Float64(values) => push(values, f64::NAN)?,
            Self::Text(values) | Self::Blob(values) => values.push(&[])?,
            Self::Mixed(mixed) => push(&mut mixed.cells, Cell::Null)?,
        }
        Ok(())
    }

    /// The same integers as floats, NaN for NULL; `None` if one of them would not be the same.
    pub fn to_floats(&self, validity: &Validity) -> Result<Option<Vec<f64>>, Fault> {
        self.as_floats(validity).map_err(|_| Fault::Memory)
    }

    /// The same numbers as floats, unless one of them would not be the same.
    pub(super) fn as_floats(&self, validity: &Validity) -> Result<Option<Vec<f64>>, Refused> {
        let Self::Int64(values) = self else {
            return Ok(None);
        };
        let mut floats = Vec::new();
        floats.try_reserve(values.capacity().max(values.len())).map_err(|_| Refused::Memory)?;
        for (row, &value) in values.iter().enumerate() {
            match exact_float(value) {
                _ if validity.nulls() > 0 && validity.is_null(row) => floats.push(f64::NAN),
                Some(float) => floats.push(float),
                None => return Ok(None),
            }
        }
        Ok(Some(floats))
    }

    /// The same numbers as integers, unless one of them would not be the same.
    pub(super) fn as_integers(&self, validity: &Validity) -> Result<Option<Vec<i64>>, Refused> {
        let Self::Float64(values) = self else {
            return Ok(None);
        };
        let mut integers = Vec::new();
        integers.try_reserve(values.capacity()).map_err(|_| Refused::Memory)?;
        for (row, &value) in values.iter().enumerate() {
            match exact_integer(value) {
                _ if validity.nulls() > 0 && validity.is_null(row) => integers.push(0),
                Some(integer) => integers.push(integer),
                None => return Ok(None),
            }
        }
        Ok(Some(integers))
    }

    /// The same values, each with its own type.
    pub(super) fn into_mixed(self, validity: &Validity) -> Result<Mixed, Refused> {
        let rows = self.len();
        let mut cells = Vec::new();
        cells.try_reserve(rows + 1).map_err(|_| Refused::Memory)?;
        let mut fill = |cell: &dyn Fn(usize) -> Cell| {
            cells.extend((0..rows).map(|row| if validity.is_null(row) { Cell::Null } else { cell(row) }));
        };
        let mut bytes = Vec::new();
        let spans = |offsets: &[i32], row: usize| Span {
            start: offsets[row] as u32,
            len: (offsets[row + 1] - offsets[row]) as u32,
        };
        match self {
            Self::Null(_) => fill(&|_| Cell::Null),
            Self::Int64(values) => fill(&|row| Cell::Int(values[row])),
            Self::Float64(values) => fill(&|row| Cell::Float(values[row])),
            Self::Text(values) => {
                fill(&|row| Cell::Text(spans(values.offsets(), row)));
                bytes = values.into_parts().1;
            }
            Self::Blob(values) => {
                fill(&|row| Cell::Blob(spans(values.offsets(), row)));
                bytes = values.into_parts().1;
            }
            Self::Mixed(mixed) => return Ok(mixed),
        }
        Ok(Mixed { cells, bytes })
    }
}

impl Mixed {
    pub fn get(&self, span: Span) -> &[u8] {
        &self.bytes[span.start as usize..][..span.len as usize]
    }

    pub(super) fn push(&mut self, cell: Cell) -> Result<(), Refused> {
        push(&mut self.cells, cell)
    }

    /// Adds the bytes of a cell that is going to be pushed.
    pub(super) fn keep(&mut self, value: &[u8]) -> Result<Span, Refused> {
        if i32::try_from(self.bytes.len() + value.len()).is_err() {
            return Err(Refused::Full);
        }
        self.bytes.try_reserve(value.len()).map_err(|_| Refused::Memory)?;
        let span = Span { start: self.bytes.len() as u32, len: value.len() as u32 };
        self.bytes.extend_from_slice(value);
        Ok(span)
    }
}

#[inline(always)]
pub(super) fn push<T>(values: &mut Vec<T>, value: T) -> Result<(), Refused> {
    if values.len() == values.capacity() {
        values.try_reserve(1).map_err(|_| Refused::Memory)?;
    }
    values.push(value);
    Ok(())
}

/// The float of the same value, if there is one.
pub(super) fn exact_float(value: i64) -> Option<f64> {
    let float = value as f64;
    // The cast back saturates: for i64::MAX, which rounds up to 2^63, it must not be asked.
    (float < i64::MAX as f64 && float as i64 == value).then_some(float)
}

/// The integer of the same value, if there is one. Minus zero is none.
pub(super) fn exact_integer(value: f64) -> Option<i64> {
    let integer = value as i64;
    (exact_float(integer).map(f64::to_bits) == Some(value.to_bits())).then_some(integer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_that_lose_nothing() {
        for value in [0, 1, -1, 1 << 53, -(1 << 53), (1 << 53) + 2, i64::MIN] {
            assert_eq!(exact_float(value).map(exact_integer), Some(Some(value)), "{value}");
        }
        for value in [(1 << 53) + 1, i64::MAX, i64::MAX - 1, i64::MIN + 1] {
            assert_eq!(exact_float(value), None, "{value}");
        }
        for value in [0.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300, -0.0, 9_223_372_036_854_775_808.0] {
            assert_eq!(exact_integer(value), None, "{value}");
        }
    }
}
