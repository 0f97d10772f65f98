//! One query read by several connections at once, as of one moment, into columns.
//!
//! - [`snapshot`]: transactions of several connections that see the same state
//! - [`split`]: a plain SELECT of one table as the same SELECT of parts of it
//! - [`tokens`]: the words of a statement
//! - [`ranges`]: the parts, by rowid
//! - [`run`]: connections work through the parts
//!
//! The parts are more than the connections, which take them one after the other, so that parts of different sizes even
//! out. The result has the rows in the order of the parts, which is that of the rowids.

mod ranges;
mod run;
mod snapshot;
mod split;
mod statement;
mod tokens;

use rusqlite::types::Value;

pub use run::{Part, Scan, read};
pub use snapshot::{Ready, Snapshot, begin, begin_locked};
pub use split::Refused;

use super::Failure;
use super::columns::Fault;

/// Parameters of a query, as the application gave them.
#[derive(Clone, Debug)]
pub enum Parameters {
    Positional(Vec<Value>),
    Named(Vec<(String, Value)>),
}

impl Default for Parameters {
    fn default() -> Self {
        Self::Positional(Vec::new())
    }
}

/// Why a scan gave no result.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("{0}")]
    Parameters(String),
    #[error(transparent)]
    Sqlite(#[from] Failure),
    #[error(transparent)]
    Fault(Fault),
    #[error("a connection of the scan was closed")]
    Closed,
    #[error("interrupted")]
    Cancelled,
    /// Writers commit faster than all connections can begin, or there is no write-ahead log.
    #[error("a common snapshot takes a write lock")]
    Contended,
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}
