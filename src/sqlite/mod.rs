//! SQLite for applications: what a DB-API module and a connection pool need, without Python.
//!
//! - [`lane`]: one writer of a database file at a time, in order of arrival
//! - [`pool`]: connections kept open, lent and taken back
//! - [`columns`]: results as typed columns

pub mod columns;
pub mod lane;
pub mod pool;
