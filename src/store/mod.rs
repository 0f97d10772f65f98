//! Opens the SQLite files the engine itself persists to.
