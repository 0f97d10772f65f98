//! Results as typed columns.
