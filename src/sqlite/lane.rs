//! One writer of a database file at a time, in order of arrival.
