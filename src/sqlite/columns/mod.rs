//! Results as typed columns, and columns as the rows of a bulk insert.
//!
//! - [`builder`]: steps a statement and collects its rows, column by column
//! - [`data`], [`validity`], [`text`]: what a column is made of
//! - [`kind`]: what a column holds, by its values and by its declared type
//! - [`unify`]: parts of a result made alike
//! - [`arrow`]: results as an Arrow stream
//! - [`input`], [`dates`]: columns as parameters; [`stream`]: an Arrow stream of someone else as parameters
//!
//! SQLite types values, not columns. A column takes the type of the values it is given: NULLs aside, only integers make
//! `Int64`, only floats, or both as long as no integer loses a digit, make `Float64`, text makes `Text`, blobs make
//! `Blob`, anything else is `Mixed` and keeps every value as it is. Where no value tells, the declared type does.

pub mod arrow;
mod builder;
mod data;
mod dates;
pub mod input;
mod kind;
pub mod stream;
mod text;
mod unify;
mod validity;

pub use builder::{Builder, Limits};
pub use data::{Cell, Data, Mixed, Span};
pub use kind::Kind;
pub use text::Bytes;
pub use unify::{join, unify};
pub use validity::Validity;

use std::ffi::c_int;
use std::sync::Arc;

/// Rows of a result, column by column.
#[derive(Clone, Debug)]
pub struct Batch {
    pub rows: usize,
    pub columns: Vec<Column>,
}

/// One column of a batch.
#[derive(Clone, Debug)]
pub struct Column {
    pub name: Arc<str>,
    pub data: Data,
    /// Which rows are no NULL; `data` holds zero, NaN or nothing in the others.
    pub validity: Validity,
    /// The value that made it mixed, if it was read with this part.
    pub misfit: Option<Box<Mismatch>>,
}

/// Why rows could not be read into columns.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A result code of SQLite; the message is with the connection.
    #[error("SQLite failed with code {0}")]
    Sqlite(c_int),
    #[error("out of memory")]
    Memory,
    #[error(transparent)]
    Mismatch(#[from] Box<Mismatch>),
}

/// A value that does not fit into its column, whose type is settled.
#[derive(Clone, Debug, thiserror::Error)]
#[error("column {column:?}, row {row} (from 0): {found} in a column of {expected}; CAST it in the SQL{advice}")]
pub struct Mismatch {
    pub column: Arc<str>,
    /// Counted from the first row of the result.
    pub row: u64,
    pub expected: &'static str,
    pub found: String,
    pub advice: &'static str,
}
