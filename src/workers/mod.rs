//! Worker threads: how many there should be.
//!
//! - [`scaler`]: the decision, from a snapshot of the load

pub mod scaler;
