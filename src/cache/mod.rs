//! The result cache engine.
//!
//! [`Cache`] is one table of entries with everything that can end an entry: limits by count and by bytes under a choice
//! of eviction policies, exact expiry, labels. It knows no lock, no clock and no I/O: time comes in as nanoseconds on
//! the scale of [`support::clock`](crate::support::clock), key equality as a closure, and whatever leaves goes out
//! through a collection that the caller drops where it likes.
//!
//! - [`map`](Cache): the table; ties the parts together
//! - `entry`: what is stored, handed in, and leaves
//! - `expiry`: a timer wheel of deadlines
//! - `labels`: tags, key prefixes and groups for removal in bulk
//! - `policy`: who is evicted

mod entry;
mod expiry;
mod labels;
mod map;
pub mod persist;
mod policy;

pub use entry::{Entry, New, Reason, Removals, Removed, Slot};
pub use labels::{Label, LabelId};
pub use map::{Cache, Limits};
pub use policy::{PolicyKind, UnknownPolicy};
