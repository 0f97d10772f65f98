//! `upshift.sqlite`: PEP 249 on SQLite, with the surface of the standard library's module.
//!
//! - [`connection`], [`transaction`]: connections and their transactions
//! - [`cursor`], [`execute`]: cursors, running statements
//! - [`prepared`], [`adapt`], [`convert`]: statements, values in, values out
//! - [`columns`], [`numpy`], [`arrow`]: results as columns; [`insert`], [`owned`]: columns and values as parameters
//! - [`scan`]: several connections read one query
//! - [`row`]: rows with names
//! - [`blob`], [`backup`], [`serialize`], [`limits`]: the rest of what connections do
//! - [`hooks`], [`values`], [`arguments`]: callables that SQLite calls, with what, and how they are given
//! - [`functions`], [`aggregates`], [`collations`], [`authorizer`], [`progress`], [`trace`]: the kinds of them
//! - [`extensions`]: extensions in shared libraries
//! - [`jobs`]: calls on background threads, for coroutines
//! - [`pool`], [`pooled`], [`keeper`]: the connection pool, what it lends, how it opens and cleans it
//! - [`settings`]: what a PRAGMA changes that the module has to know
//! - [`lane`], [`actors`]: statements that write take turns, for whom
//! - [`write`]: single writes that share commits
//! - [`gil`]: when a statement lets go of the interpreter
//! - [`errors`], [`module`]: exceptions, what else is exported

pub mod actors;
pub mod adapt;
pub mod aggregates;
pub mod arguments;
pub mod arrow;
pub mod authorizer;
pub mod backup;
pub mod blob;
pub mod collations;
pub mod columns;
pub mod connection;
pub mod convert;
pub mod cursor;
pub mod errors;
pub mod execute;
pub mod extensions;
pub mod functions;
pub mod gil;
pub mod hooks;
pub mod insert;
pub mod jobs;
pub mod keeper;
pub mod lane;
pub mod limits;
pub mod module;
pub mod numpy;
pub mod owned;
pub mod pool;
pub mod pooled;
pub mod prepared;
pub mod progress;
pub mod row;
pub mod scan;
pub mod serialize;
pub mod settings;
pub mod trace;
pub mod transaction;
mod turns;
pub mod values;
pub mod write;
