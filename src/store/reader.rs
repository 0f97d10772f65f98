//! A connection for many small reads.

use std::ops::Deref;

use rusqlite::types::ValueRef;

use super::log_head::{LogHead, LogState};
use super::lookup::{Line, Lookup};
use super::{Connection, Error};

/// Reads through one transaction that is kept open from read to read while the file does not change.
///
/// Beginning and ending a read takes locks, system calls that cost more than the read of a row. Every read still sees
/// all commits that had finished before it. An open transaction keeps the log from being reset, so the owner calls
/// [`Reader::rest`] after a short while.
pub struct Reader {
    // Declared before the connection, so dropped before it.
    head: Option<LogHead>,
    lookups: Vec<Lookup>,
    connection: Connection,
    /// A transaction is open.
    reading: bool,
    /// The log when it began, or just before.
    seen: Option<LogState>,
    /// See [`Snapshot::notes`]. Of this transaction only.
    notes: Option<u32>,
}

impl Reader {
    pub(super) fn new(connection: Connection) -> Result<Self, Error> {
        connection.only_reads()?;
        // Connects to the log.
        connection.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
        Ok(Self {
            head: LogHead::of(&connection),
            lookups: Vec::new(),
            connection,
            reading: false,
            seen: None,
            notes: None,
        })
    }

    /// The state of the file, if it can be told without a read.
    pub fn state(&self) -> Option<LogState> {
        self.head.as_ref().map(LogHead::state)
    }

    /// Runs a read of the latest state. Everything that one job reads is of one moment.
    pub fn read<T>(&mut self, job: impl FnOnce(&mut Snapshot<'_>) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let now = self.state();
        if self.seen != now || now.is_none() {
            self.rest();
        }
        if !self.reading {
            self.connection.prepare_cached("BEGIN")?.execute([])?;
            self.reading = true;
            self.seen = now;
            self.notes = None;
        }
        let result = job(&mut Snapshot { reader: self });
        if result.is_err() || now.is_none() {
            self.rest();
        }
        result
    }

    /// Whether a transaction is open.
    pub fn is_reading(&self) -> bool {
        self.reading
    }

    /// Ends the open transaction.
    pub fn rest(&mut self) {
        if std::mem::take(&mut self.reading) {
            // A failed read may have ended it already.
            let _ = self.connection.prepare_cached("COMMIT").and_then(|mut end| end.execute([]));
        }
    }
}

/// The file as one read sees it.
pub struct Snapshot<'r> {
    reader: &'r mut Reader,
}

impl Snapshot<'_> {
    /// Runs a query and hands its lines to `each`, which ends it with `false`.
    ///
    /// The statement stays prepared: meant for a few queries that are repeated often.
    #[allow(unsafe_code)]
    pub fn find(
        &mut self,
        sql: &'static str,
        parameters: &[ValueRef<'_>],
        each: impl FnMut(&Line) -> bool,
    ) -> rusqlite::Result<()> {
        let Reader { lookups, connection, .. } = &mut *self.reader;
        let known = lookups.iter().position(|lookup| lookup.sql == sql);
        let place = match known {
            Some(place) => place,
            None => {
                lookups.push(Lookup::prepare(connection, sql)?);
                lookups.len() - 1
            }
        };
        // SAFETY: it was prepared on this connection, which is borrowed exclusively.
        unsafe { lookups[place].run(parameters, each) }
    }

    /// What `find` notes about the file; asked only once in a transaction.
    pub fn notes(
        &mut self,
        find: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<u32>,
    ) -> rusqlite::Result<u32> {
        if let Some(notes) = self.reader.notes {
            return Ok(notes);
        }
        let notes = find(&self.reader.connection)?;
        self.reader.notes = Some(notes);
        Ok(notes)
    }
}

impl Deref for Snapshot<'_> {
    type Target = rusqlite::Connection;

    fn deref(&self) -> &rusqlite::Connection {
        &self.reader.connection
    }
}
