//! A connection for many small reads.

use super::log_head::{LogHead, LogState};
use super::{Connection, Error};

/// Reads through one transaction that is kept open from read to read while the file does not change.
///
/// Beginning and ending a read takes locks, system calls that cost more than the read of a row. Every read still sees
/// all commits that had finished before it. An open transaction keeps the log from being reset, so the owner calls
/// [`Reader::rest`] after a short while.
pub struct Reader {
    // Declared before the connection, so dropped before it.
    head: Option<LogHead>,
    connection: Connection,
    /// The log when the open transaction began, or just before.
    snapshot: Option<LogState>,
}

impl Reader {
    pub(super) fn new(connection: Connection) -> Result<Self, Error> {
        connection.only_reads()?;
        // Connects to the log.
        connection.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
        Ok(Self { head: LogHead::of(&connection), connection, snapshot: None })
    }

    /// The state of the file, if it can be told without a read.
    pub fn state(&self) -> Option<LogState> {
        self.head.as_ref().map(LogHead::state)
    }

    /// Runs a read of the latest state.
    pub fn read<T>(&mut self, job: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let Some(now) = self.state() else {
            return job(&self.connection);
        };
        if self.snapshot != Some(now) {
            self.rest();
            self.connection.prepare_cached("BEGIN")?.execute([])?;
            self.snapshot = Some(now);
        }
        let result = job(&self.connection);
        if result.is_err() {
            self.rest();
        }
        result
    }

    /// Whether a transaction is open.
    pub fn is_reading(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Ends the open transaction.
    pub fn rest(&mut self) {
        if self.snapshot.take().is_some() {
            // A failed read may have ended it already.
            let _ = self.connection.prepare_cached("COMMIT").and_then(|mut end| end.execute([]));
        }
    }
}
