//! The result cache engine.
