//! A connection with the engine's settings.

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::time::Duration;

use rusqlite::OpenFlags;

use super::Error;
use super::log_head::{self, LogHead};
use crate::support::backoff;
use crate::support::runtime::pid;

/// How long a statement waits for another process before it fails with "database is locked".
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// Prepared statements kept per connection; more than the engine has.
const STATEMENTS: usize = 64;
/// How long a checkpoint waits for readers.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_millis(50);
/// A larger log is cut back when it is reset.
const JOURNAL_LIMIT: i64 = 64 << 20;
const PRESENT: &str = "the connection is there until it is dropped";

/// When commits are forced to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synchronous {
    /// At checkpoints: commits survive a killed process, the last ones may be lost with the power.
    Normal,
    /// At each commit: commits survive a power loss.
    Full,
}

/// How far a checkpoint goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoint {
    /// As far as present readers allow.
    Passive,
    /// Waits a little for readers, so that the log is written from its beginning again.
    Restart,
    /// The same, and leaves the log empty.
    Truncate,
}

/// An SQLite connection that belongs to the process which opened it.
///
/// Dropped in a forked child it is leaked: closing it there could checkpoint or unlink what the parent is using.
pub struct Connection {
    pid: u32,
    /// Only looked at while `inner` is there.
    head: Option<LogHead>,
    synchronous: Option<Synchronous>,
    /// Taken when dropped.
    inner: Option<rusqlite::Connection>,
}

impl Connection {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let flags =
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
        let inner = rusqlite::Connection::open_with_flags(path, flags)?;
        let connection = Self { pid: pid(), head: None, synchronous: None, inner: Some(inner) };
        connection.busy_handler(Some(wait_for_lock))?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        connection.execute_batch("PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY;")?;
        Ok(connection)
    }

    /// Switches the file to write-ahead logging.
    pub(super) fn start_wal(&mut self) -> Result<(), Error> {
        // Takes effect only while the file is empty. Rows of a kilobyte fill this size better than 4096, and durable
        // writes of single rows suffer less than with 16384.
        self.execute_batch("PRAGMA page_size = 8192;")?;
        let mut tries = 0;
        loop {
            match self.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())) {
                // Two processes that open a new file at once: SQLite refuses one of them without asking the handler.
                Err(error) if is_busy(&error) && wait_for_lock(tries) => tries += 1,
                other => break other?,
            }
        }
        self.execute_batch("PRAGMA cache_size = -16384;")?;
        // Connects to the log.
        self.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
        self.head = LogHead::of(self);
        // Checkpoints are the owner's business, see `checkpoint`, unless it cannot know when one is due.
        let pages = if self.head.is_some() { 0 } else { 2_000 };
        self.pragma_update(None, "wal_autocheckpoint", pages)?;
        self.pragma_update(None, "journal_size_limit", JOURNAL_LIMIT)?;
        Ok(())
    }

    pub(super) fn only_reads(&self) -> Result<(), Error> {
        self.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -65536; PRAGMA mmap_size = 268435456;")?;
        Ok(())
    }

    /// Chooses what the following commits survive. Not within a transaction.
    pub fn set_synchronous(&mut self, level: Synchronous) -> Result<(), Error> {
        if self.synchronous == Some(level) {
            return Ok(());
        }
        self.execute_batch(match level {
            Synchronous::Normal => "PRAGMA synchronous = NORMAL",
            Synchronous::Full => "PRAGMA synchronous = FULL",
        })?;
        self.synchronous = Some(level);
        Ok(())
    }

    /// Pages in the write-ahead log, if it can be told.
    pub fn log_pages(&self) -> Option<u32> {
        self.head.as_ref().map(|head| head.state().frames())
    }

    /// Leaves the log alone when closed. For a file that was replaced under its name: what bears the name of its log now
    /// is the log of the new one.
    pub fn keep_log(&self) {
        log_head::keep_log(self);
    }

    /// Moves pages of the write-ahead log into the file.
    pub fn checkpoint(&self, mode: Checkpoint) -> Result<(), Error> {
        let sql = match mode {
            Checkpoint::Passive => "PRAGMA wal_checkpoint(PASSIVE)",
            Checkpoint::Restart => "PRAGMA wal_checkpoint(RESTART)",
            Checkpoint::Truncate => "PRAGMA wal_checkpoint(TRUNCATE)",
        };
        self.busy_timeout(CHECKPOINT_TIMEOUT)?;
        let done = self.query_row(sql, [], |_| Ok(()));
        self.busy_handler(Some(wait_for_lock))?;
        Ok(done?)
    }
}

impl Deref for Connection {
    type Target = rusqlite::Connection;

    fn deref(&self) -> &rusqlite::Connection {
        self.inner.as_ref().expect(PRESENT)
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut rusqlite::Connection {
        self.inner.as_mut().expect(PRESENT)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let inner = self.inner.take();
        if self.pid != pid() {
            std::mem::forget(inner);
        }
    }
}

fn wait_for_lock(tries: i32) -> bool {
    let tries = tries.unsigned_abs();
    std::thread::sleep(backoff::pause(tries));
    backoff::waited(tries) < BUSY_TIMEOUT
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked))
}
