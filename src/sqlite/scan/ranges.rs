//! Ranges of rowids that together hold all rows of a table.

use super::ScanError;
use super::split::Split;
use super::statement::Statement;
use crate::sqlite::Entered;

/// Rows that are not worth a range of their own.
const LEAST: i64 = 1_000;

/// At most `count` ranges, ascending, with both ends included.
///
/// The widest range is halved again and again, and each half drawn in to the rows it has: so gaps between rowids, a
/// single huge one for instance, do not count.
pub(super) fn ranges(entered: &Entered<'_>, split: &Split, count: usize) -> Result<Vec<(i64, i64)>, ScanError> {
    let (table, rowid) = (&split.table, split.rowid);
    let from = Statement::prepare(
        entered,
        &format!("SELECT {rowid} FROM {table} NOT INDEXED WHERE {rowid} >= ?1 ORDER BY {rowid} LIMIT 1"),
    )?;
    let to = Statement::prepare(
        entered,
        &format!("SELECT {rowid} FROM {table} NOT INDEXED WHERE {rowid} <= ?1 ORDER BY {rowid} DESC LIMIT 1"),
    )?;
    let find = |statement: &Statement<'_, '_>, bound: i64| {
        statement.reset();
        statement.bind(1, &bound.into())?;
        let found = statement.step()?.then(|| statement.int(0));
        statement.reset();
        Ok::<_, ScanError>(found)
    };
    let (Some(first), Some(last)) = (find(&from, i64::MIN)?, find(&to, i64::MAX)?) else {
        return Ok(Vec::new());
    };
    let mut ranges = vec![(first, last)];
    while ranges.len() < count {
        let width = |&(first, last): &(i64, i64)| last.abs_diff(first);
        let Some(widest) = (0..ranges.len()).max_by_key(|&place| width(&ranges[place])) else { break };
        let (first, last) = ranges[widest];
        if width(&(first, last)) < 2 * LEAST as u64 {
            break;
        }
        let middle = first + (last.abs_diff(first) / 2) as i64;
        // There are rows at both ends.
        let (Some(left), Some(right)) = (find(&to, middle)?, find(&from, middle + 1)?) else { break };
        ranges[widest] = (first, left);
        ranges.insert(widest + 1, (right, last));
    }
    Ok(ranges)
}
