//! Parts of one result, read apart, made alike.

use std::mem;

use super::data::Data;
use super::text::Refused;
use super::validity::Validity;
use super::{Batch, Column, Fault, Kind, Mismatch};

/// Gives the columns of all batches one type, by the rules of a single one. Rows of the batches count on.
pub fn unify(batches: &mut [Batch]) -> Result<(), Fault> {
    let width = batches.first().map_or(0, |batch| batch.columns.len());
    for place in 0..width {
        let kind = common(batches, place);
        let kind = match kind {
            Kind::Float64 if !are_floats(batches, place)? => Kind::Mixed,
            kind => kind,
        };
        if kind == Kind::Mixed {
            explain(batches, place);
        }
        for batch in &mut *batches {
            convert(&mut batch.columns[place], kind)?;
        }
    }
    Ok(())
}

/// One column of numbers, or of nothing, out of its parts, which are all of one type.
pub fn join(parts: &[&Column]) -> Result<Option<Column>, Fault> {
    let rows = parts.iter().map(|part| part.data.len()).sum();
    let Some(first) = parts.first() else {
        return Ok(None);
    };
    let mut whole = Column {
        name: first.name.clone(),
        data: Data::nulls(first.data.kind(), 0),
        validity: Validity::default(),
        misfit: None,
    };
    for part in parts {
        let present = whole.data.len();
        whole.validity.append(present, &part.validity).ok_or(Fault::Memory)?;
        match (&mut whole.data, &part.data) {
            (Data::Null(rows), Data::Null(more)) => *rows += more,
            (Data::Int64(values), Data::Int64(more)) => append(values, more, rows)?,
            (Data::Float64(values), Data::Float64(more)) => append(values, more, rows)?,
            _ => return Ok(None),
        }
    }
    Ok(Some(whole))
}

fn append<T: Copy>(values: &mut Vec<T>, more: &[T], rows: usize) -> Result<(), Fault> {
    values.try_reserve_exact(rows - values.len()).map_err(|_| Fault::Memory)?;
    values.extend_from_slice(more);
    Ok(())
}

/// The type that the values have together; NULLs do not count.
fn common(batches: &[Batch], place: usize) -> Kind {
    let mut common = None;
    let columns = batches.iter().map(|batch| &batch.columns[place]);
    for column in columns.clone().filter(|column| has_values(column)) {
        let kind = column.data.kind();
        common = Some(match (common, kind) {
            (None, kind) => kind,
            (Some(known), kind) if known == kind => kind,
            (Some(Kind::Int64 | Kind::Float64), Kind::Int64 | Kind::Float64) => Kind::Float64,
            _ => Kind::Mixed,
        });
    }
    let mut kinds = columns.map(|column| column.data.kind());
    common.or_else(|| kinds.next()).unwrap_or(Kind::Null)
}

fn has_values(column: &Column) -> bool {
    column.validity.nulls() < column.data.len()
}

fn are_floats(batches: &[Batch], place: usize) -> Result<bool, Fault> {
    for batch in batches {
        let column = &batch.columns[place];
        if column.data.kind() == Kind::Int64 && column.data.as_floats(&column.validity).map_err(memory)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Notes where the column becomes mixed, with the number of the row in the whole.
fn explain(batches: &mut [Batch], place: usize) {
    let (mut first, mut before) = (0, None);
    for batch in batches {
        let rows = batch.rows as u64;
        let column = &mut batch.columns[place];
        if let Some(misfit) = &mut column.misfit {
            misfit.row += first;
            return;
        }
        let kind = column.data.kind();
        match before {
            _ if !has_values(column) => {}
            None => before = Some(kind),
            Some(before) if before != kind => {
                let row = (0..batch.rows).find(|&row| !column.validity.is_null(row)).unwrap_or(0);
                column.misfit = Some(Box::new(Mismatch {
                    column: column.name.clone(),
                    row: first + row as u64,
                    expected: before.describe(),
                    found: format!("one of {}", kind.describe()),
                    advice: "",
                }));
                return;
            }
            Some(_) => {}
        }
        first += rows;
    }
}

fn convert(column: &mut Column, kind: Kind) -> Result<(), Fault> {
    if column.data.kind() == kind {
        return Ok(());
    }
    let rows = column.data.len();
    column.data = match (mem::replace(&mut column.data, Data::Null(0)), kind) {
        (data, Kind::Mixed) => Data::Mixed(data.into_mixed(&column.validity).map_err(memory)?),
        (data @ Data::Int64(_), Kind::Float64) if has_numbers(&data, column) => {
            data.as_floats(&column.validity).map_err(memory)?.map_or(data, Data::Float64)
        }
        // It has no values.
        (_, kind) => Data::nulls(kind, rows),
    };
    Ok(())
}

fn has_numbers(data: &Data, column: &Column) -> bool {
    column.validity.nulls() < data.len()
}

fn memory(_: Refused) -> Fault {
    Fault::Memory
}
