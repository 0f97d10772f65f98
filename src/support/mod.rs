//! Building blocks that depend on nothing else in the crate.
