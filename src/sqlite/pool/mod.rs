//! Connections kept open, lent and taken back.
