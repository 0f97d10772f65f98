//! A SELECT of one table as the same SELECT of a part of it.
//!
//! Only a statement that handles each row by itself gives the same rows part by part: a filter and a projection of one
//! table that has rowids. So it is read by its words: after the table's name there may only be an alias and a WHERE. Then
//! a range of rowids is added to the condition, and what SQLite compiles the result to is searched for aggregates, which
//! the words do not show.

use std::fmt::Write as _;

use super::ScanError;
use super::statement::Statement;
use super::tokens::{Kind, Token, tokens};
use crate::sqlite::Entered;

/// The statement for a part of the table.
#[derive(Clone, Debug)]
pub struct Split {
    /// With the parameters [`FIRST`] and [`LAST`] after the application's.
    pub sql: String,
    /// The table's name, quoted, with its schema.
    pub table: String,
    /// A name that means its rowid, not a column.
    pub rowid: &'static str,
}

/// The parameters that bound a part.
pub(super) const FIRST: &std::ffi::CStr = c":upshift_first_rowid";
pub(super) const LAST: &std::ffi::CStr = c":upshift_last_rowid";

/// Why a statement cannot be split.
#[derive(Debug, thiserror::Error)]
#[error(
    "this statement cannot be split by rowid: {0}. Write the split yourself: partitions may be a list of parameters, one \
     entry for each part, with which the statement is run as it is"
)]
pub struct Refused(String);

fn refused<T>(reason: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(reason.into()))
}

/// Where the pieces of the statement are.
#[derive(Debug)]
struct Pieces {
    table: String,
    /// Name by which its columns are qualified, as written.
    alias: String,
    /// End of everything before WHERE.
    head: usize,
    condition: Option<std::ops::Range<usize>>,
}

/// Splits the statement, or says why that cannot be done.
pub fn split(entered: &Entered<'_>, sql: &str) -> Result<Split, ScanError> {
    // Errors in the statement itself are SQLite's to explain, and so is more than one statement.
    let whole = Statement::prepare(entered, sql)?;
    if !whole.is_readonly() || whole.columns() == 0 {
        return Err(Refused("it is no SELECT".to_owned()).into());
    }
    drop(whole);
    let pieces = parse(sql)?;
    let rowid = check_table(entered, &pieces.table)?;
    let mut text = sql[..pieces.head].to_owned();
    text += " WHERE ";
    if let Some(condition) = pieces.condition {
        let _ = write!(text, "({}) AND ", &sql[condition]);
    }
    let alias = &pieces.alias;
    let (first, last) = (FIRST.to_string_lossy(), LAST.to_string_lossy());
    // Where an index is of more use than the range, the few rows it finds are sorted.
    let _ = write!(text, "{alias}.{rowid} BETWEEN {first} AND {last} ORDER BY {alias}.{rowid}");
    check_program(entered, &text)?;
    Ok(Split { sql: text, table: format!("main.{}", quote(&pieces.table)), rowid })
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn parse(sql: &str) -> Result<Pieces, Refused> {
    let Some(mut tokens) = tokens(sql) else {
        return refused("its text cannot be read");
    };
    while tokens.last().is_some_and(|token| token.is_sign(sql, ";")) {
        tokens.pop();
    }
    let outer: Vec<&Token> = tokens.iter().filter(|token| token.depth == 0).collect();
    let is = |place: usize, word: &str| outer.get(place).is_some_and(|token| token.is(sql, word));
    if is(0, "WITH") {
        return refused("it begins with WITH");
    }
    if !is(0, "SELECT") {
        return refused("it is no SELECT");
    }
    if is(1, "DISTINCT") {
        return refused("DISTINCT concerns all rows together");
    }
    // Not that of IS DISTINCT FROM.
    let Some(from) = (1..outer.len()).find(|&place| is(place, "FROM") && !is(place - 1, "DISTINCT")) else {
        return refused("it reads no table");
    };
    let mut at = from + 1;
    let Some(mut table) = outer.get(at).and_then(|token| token.name(sql)) else {
        return refused("it does not read a table, but a subquery or an expression");
    };
    let mut named = outer[at];
    if outer.get(at + 1).is_some_and(|token| token.is_sign(sql, ".")) {
        if !table.eq_ignore_ascii_case("main") {
            return refused(format!("its table is in the database {table}; only those of main have a common snapshot"));
        }
        let Some(name) = outer.get(at + 2).and_then(|token| token.name(sql)) else {
            return refused("the name of its table cannot be read");
        };
        table = name;
        named = outer[at + 2];
        at += 2;
    }
    at += 1;
    let mut alias = sql[named.at.clone()].to_owned();
    if is(at, "AS") {
        at += 1;
    }
    if let Some(token) = outer.get(at) {
        let keyword = token.kind == Kind::Word && AFTER.iter().any(|(word, _)| token.is(sql, word));
        if !keyword && token.kind != Kind::Other {
            if token.kind == Kind::Text {
                return refused("its table has a text for an alias");
            }
            sql[token.at.clone()].clone_into(&mut alias);
            at += 1;
        }
    }
    if is(at, "INDEXED") && is(at + 1, "BY") {
        at += 3;
    } else if is(at, "NOT") && is(at + 1, "INDEXED") {
        at += 2;
    }
    let head = outer[at.min(outer.len()) - 1].at.end;
    let condition = match outer.get(at) {
        None => None,
        Some(token) if token.is(sql, "WHERE") => {
            for token in &outer[at + 1..] {
                if let Some((_, reason)) = AFTER.iter().find(|(word, reason)| !reason.is_empty() && token.is(sql, word))
                {
                    return refused(*reason);
                }
            }
            let end = tokens.last().map_or(head, |token| token.at.end);
            Some(token.at.end..end)
        }
        Some(token) => {
            let found = &sql[token.at.clone()];
            return match AFTER.iter().find(|(word, reason)| !reason.is_empty() && token.is(sql, word)) {
                Some((_, reason)) => refused(*reason),
                None if found == "," => refused("it reads more than one table"),
                None if found == "(" => refused("it reads a table-valued function"),
                None => refused(format!("{found:?} after its table is not understood")),
            };
        }
    };
    Ok(Pieces { table, alias, head, condition })
}

/// Words that may follow the table, and why they are in the way.
const AFTER: &[(&str, &str)] = &[
    ("WHERE", ""),
    ("INDEXED", ""),
    ("NOT", ""),
    ("ORDER", "ORDER BY concerns all rows together; the result is in the order of rowids anyway"),
    ("GROUP", "GROUP BY concerns all rows together"),
    ("HAVING", "HAVING concerns all rows together"),
    ("LIMIT", "LIMIT concerns all rows together"),
    ("WINDOW", "a window concerns all rows together"),
    ("UNION", "it is more than one SELECT"),
    ("INTERSECT", "it is more than one SELECT"),
    ("EXCEPT", "it is more than one SELECT"),
    ("JOIN", "it reads more than one table"),
    ("NATURAL", "it reads more than one table"),
    ("LEFT", "it reads more than one table"),
    ("RIGHT", "it reads more than one table"),
    ("FULL", "it reads more than one table"),
    ("INNER", "it reads more than one table"),
    ("OUTER", "it reads more than one table"),
    ("CROSS", "it reads more than one table"),
    ("ON", "it reads more than one table"),
    ("USING", "it reads more than one table"),
];

/// A table of the main database with rowids, by a name that no column has taken.
fn check_table(entered: &Entered<'_>, table: &str) -> Result<&'static str, ScanError> {
    let find = |schema: &str| {
        let sql = format!("SELECT type, rootpage FROM {schema}.sqlite_schema WHERE name = ?1 COLLATE NOCASE");
        let statement = Statement::prepare(entered, &sql)?;
        statement.bind(1, &table.to_owned().into())?;
        let found = statement.step()?;
        Ok::<_, ScanError>(found.then(|| (statement.text(0), statement.int(1))))
    };
    if find("temp")?.is_some() {
        return Err(Refused(format!("{table} is temporary: it exists in one connection only")).into());
    }
    match find("main")? {
        Some((kind, root)) if kind == "table" && root > 0 => {}
        Some((kind, _)) if kind == "table" => return Err(Refused(format!("{table} is a virtual table")).into()),
        Some((kind, _)) => return Err(Refused(format!("{table} is a {kind}, no table")).into()),
        None => return Err(Refused(format!("{table} is no table of the main database")).into()),
    }
    let mut names = Vec::new();
    let describe = Statement::prepare(entered, "SELECT name FROM pragma_table_xinfo(?1, 'main')")?;
    describe.bind(1, &table.to_owned().into())?;
    while describe.step()? {
        names.push(describe.text(0).to_ascii_lowercase());
    }
    let Some(rowid) = ["rowid", "_rowid_", "oid"].into_iter().find(|name| !names.iter().any(|known| known == name))
    else {
        return Err(Refused(format!("columns of {table} have taken all names of the rowid")).into());
    };
    match Statement::prepare(entered, &format!("SELECT {rowid} FROM main.{}", quote(table))) {
        Ok(_) => Ok(rowid),
        Err(_) => Err(Refused(format!("{table} has no rowids (WITHOUT ROWID)")).into()),
    }
}

/// Refuses programs that put rows together.
fn check_program(entered: &Entered<'_>, sql: &str) -> Result<(), ScanError> {
    const TOGETHER: [&str; 7] = ["AggStep", "AggStep1", "AggInverse", "AggValue", "AggFinal", "Count", "OpenDup"];
    let program = Statement::prepare(entered, &format!("EXPLAIN {sql}"))?;
    while program.step()? {
        let operation = program.text(1);
        if TOGETHER.contains(&operation.as_str()) {
            return Err(Refused("it has an aggregate or window function".to_owned()).into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_pieces() {
        let table = [
            ("select * from t", "t", "t", "select * from t", None),
            ("SELECT a FROM t ;", "t", "t", "SELECT a FROM t", None),
            (
                "SELECT a FROM main.\"t x\" AS q WHERE a > 1 -- end",
                "t x",
                "q",
                "SELECT a FROM main.\"t x\" AS q",
                Some(" a > 1"),
            ),
            (
                "SELECT (SELECT max(x) FROM u), a IS DISTINCT FROM b FROM [t] q NOT INDEXED where (a or b) or c;",
                "t",
                "q",
                "SELECT (SELECT max(x) FROM u), a IS DISTINCT FROM b FROM [t] q NOT INDEXED",
                Some(" (a or b) or c"),
            ),
            (
                "SELECT 1 FROM t INDEXED BY i WHERE a IN (SELECT 1 UNION SELECT 2 LIMIT 3)",
                "t",
                "t",
                "SELECT 1 FROM t INDEXED BY i",
                Some(" a IN (SELECT 1 UNION SELECT 2 LIMIT 3)"),
            ),
        ];
        for (sql, table, alias, head, condition) in table {
            let pieces = parse(sql).unwrap();
            assert_eq!((pieces.table.as_str(), pieces.alias.as_str()), (table, alias), "{sql}");
            assert_eq!(&sql[..pieces.head], head);
            assert_eq!(pieces.condition.map(|range| &sql[range]), condition, "{sql}");
        }
    }

    #[test]
    fn refuses_what_concerns_several_rows() {
        let table = [
            ("WITH x AS (SELECT 1) SELECT * FROM x", "WITH"),
            ("SELECT DISTINCT a FROM t", "DISTINCT"),
            ("SELECT 1", "no table"),
            ("SELECT * FROM t, u", "more than one table"),
            ("SELECT * FROM t a JOIN u", "more than one table"),
            ("SELECT * FROM t LEFT JOIN u", "more than one table"),
            ("SELECT * FROM (SELECT 1)", "subquery"),
            ("SELECT * FROM f(1)", "function"),
            ("SELECT * FROM t ORDER BY a", "ORDER BY"),
            ("SELECT * FROM t WHERE a GROUP BY a", "GROUP BY"),
            ("SELECT * FROM t AS a LIMIT 3", "LIMIT"),
            ("SELECT * FROM t WHERE a UNION ALL SELECT * FROM u", "more than one SELECT"),
            ("SELECT * FROM other.t", "database other"),
            ("VALUES (1)", "no SELECT"),
        ];
        for (sql, reason) in table {
            let refused = parse(sql).unwrap_err().to_string();
            assert!(refused.contains(reason), "{sql}: {refused}");
        }
    }
}
