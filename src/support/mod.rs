//! Building blocks that depend on nothing else in the crate.
//!
//! - [`backoff`]: pauses between tries
//! - [`clock`]: monotonic time in nanoseconds, exact and coarse, with an offset for tests
//! - [`slab`]: chunked storage addressed by `u32`
//! - [`list`]: doubly linked lists threaded through one array of links
//! - [`sync`]: the cell that relies on the interpreter lock
//! - [`random`]: spreads deadlines
//! - [`heap`]: a priority queue whose members can be moved and removed

pub mod backoff;
pub mod clock;
pub mod heap;
pub mod list;
pub mod random;
pub mod runtime;
pub mod slab;
pub mod sync;
