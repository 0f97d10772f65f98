//! SQLite for applications: what a DB-API module and a connection pool need, without Python.
//!
//! - [`handle`]: an open connection, who may use it, and its end
//! - [`standing`]: reads that go on from one statement to the next
//! - [`statements`]: prepared statements kept for the next use
//! - [`blob`]: BLOBs read and written in place
//! - [`backup`]: one database copied into another
//! - [`text`]: what the text of a statement tells about it
//! - [`values`]: the row a statement stands on
//! - [`memory`]: databases in memory that connections share
//! - [`lane`]: one writer of a database file at a time, in order of arrival
//! - [`seat`], [`attached`]: a connection's part in that, and its part in those of other files
//! - [`group`]: single writes, many to a commit
//! - [`pool`]: connections kept open, lent and taken back
//! - [`opener`]: opens them
//! - [`columns`]: results as typed columns
//! - [`scan`]: one query read by several connections at once

pub mod attached;
pub mod backup;
pub mod blob;
pub mod columns;
pub mod group;
pub mod handle;
pub mod lane;
mod memory;
pub mod opener;
pub mod pace;
pub mod pool;
pub mod scan;
pub mod seat;
mod standing;
pub mod statements;
pub mod text;
pub mod values;

pub use handle::{Db, Entered, Failure, Open};
/// SQLite's own interface, for what has no safe form here.
pub use rusqlite::ffi as raw;
/// Of the library in use, as in "3.40.1".
pub use rusqlite::version;
