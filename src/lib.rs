//! upshift: the engine behind the Python package of the same name.
//!
//! The crate is plain Rust except for [`py`], the only module that knows Python; everything else builds and tests
//! with `--no-default-features`. Dependency arrows point one way: `py` → engine modules → `store` → `support`.
//!
//! - [`support`]: clock, chunked slab, linked lists, heap, synchronisation, the background runtime
//! - [`store`]: opens every SQLite file the engine itself persists to
//! - [`cache`]: the result cache: map, eviction policies, expiry, labels, disk tier
//! - [`sqlite`]: connections, statements, columns, the write lane, the connection pool
//! - [`workers`]: how many worker threads there should be
//! - [`tasks`]: durable tasks in an SQLite file
//! - [`system`]: load of the machine

pub mod cache;
pub mod sqlite;
pub mod store;
pub mod support;
pub mod system;
pub mod tasks;
pub mod workers;

#[cfg(feature = "python")]
mod py;
