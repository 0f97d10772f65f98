//! Decorated functions.
//!
//! - [`callable`]: the native callable type with the vectorcall protocol
//! - [`call`]: what a call does, hit and miss
//! - [`signature`]: argument binding
//! - [`flight`]: single flight
//! - [`stock`]: detects overridden cache methods

pub mod call;
pub mod callable;
pub mod flight;
mod signature;
pub mod stock;
