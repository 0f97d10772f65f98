//! Read transactions of several connections that see the same state of the database.
//!
//! They begin one after the other, so a commit may come in between. `PRAGMA data_version` of the connection that begins
//! last tells whether one did; then all begin again. That takes no lock, so a long write transaction of somebody else is
//! not waited for. Only where commits come faster than the connections can begin, a write lock has to keep them out for
//! a moment ([`begin_locked`]). So it has to without a write-ahead log: there a writer that waits for the first reader to
//! end keeps the second from beginning.

use super::ScanError;
use super::statement::{Statement, execute};
use crate::sqlite::{Db, Entered};

/// How often the connections begin again without a lock.
const TRIES: usize = 40;

/// The read transactions, ended when this goes. Nobody else uses the connections meanwhile.
pub struct Snapshot<'a> {
    connections: Vec<&'a Db>,
}

impl<'a> Snapshot<'a> {
    fn of(connections: &[&'a Db]) -> Result<Self, ScanError> {
        for db in connections {
            let entered = db.enter();
            if entered.raw().is_null() || !db.is_ours() {
                return Err(ScanError::Closed);
            }
            if entered.in_transaction() {
                return Err(ScanError::Parameters("a connection of the scan has a transaction open".to_owned()));
            }
        }
        Ok(Self { connections: connections.to_vec() })
    }

    pub(super) fn connections(&self) -> &[&'a Db] {
        &self.connections
    }

    fn end(&self) {
        for db in &self.connections {
            let entered = db.enter();
            if !entered.raw().is_null() && db.is_ours() && entered.in_transaction() {
                // A read transaction ends in any case.
                drop(execute(&entered, "ROLLBACK"));
            }
        }
    }

    /// Begins on all connections; says whether they see the same.
    fn try_begin(&self, ready: &mut Ready<'_>) -> Result<bool, ScanError> {
        let Some((last, others)) = self.connections.split_last() else {
            return Ok(true);
        };
        let last = last.enter();
        let before = if others.is_empty() { None } else { Some(version(&last)?) };
        for db in others {
            let entered = db.enter();
            ready(&entered)?;
            read(&entered)?;
        }
        ready(&last)?;
        read(&last)?;
        // Within the transaction it is the version that the transaction sees.
        Ok(before.is_none() || Some(version(&last)?) == before)
    }
}

/// Called with a connection that is about to begin.
pub type Ready<'a> = dyn FnMut(&Entered<'_>) -> Result<(), ScanError> + 'a;

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// Begins a read transaction on each connection, all of one state.
///
/// Fails with [`ScanError::Contended`] if that takes a lock.
pub fn begin<'a>(connections: &[&'a Db], ready: &mut Ready<'_>) -> Result<Snapshot<'a>, ScanError> {
    let snapshot = Snapshot::of(connections)?;
    if connections.len() > 1 && !never_blocks(connections[0])? {
        return Err(ScanError::Contended);
    }
    for _ in 0..TRIES {
        if snapshot.try_begin(ready)? {
            return Ok(snapshot);
        }
        snapshot.end();
    }
    Err(ScanError::Contended)
}

/// The same, while one more connection keeps all writers out. It waits for the write lock as long as its busy handler
/// does.
pub fn begin_locked<'a>(connections: &[&'a Db], writer: &Entered<'_>) -> Result<Snapshot<'a>, ScanError> {
    let snapshot = Snapshot::of(connections)?;
    execute(writer, "BEGIN IMMEDIATE")?;
    let begun = snapshot.connections.iter().try_for_each(|db| read(&db.enter()));
    let ended = execute(writer, "ROLLBACK");
    begun.and(ended)?;
    Ok(snapshot)
}

/// Whether readers can begin while a writer waits: with a write-ahead log, and in memory.
fn never_blocks(db: &Db) -> Result<bool, ScanError> {
    let entered = db.enter();
    let statement = Statement::prepare(&entered, "PRAGMA main.journal_mode")?;
    Ok(statement.step()? && ["wal", "memory", "off"].contains(&statement.text(0).as_str()))
}

/// Begins a transaction that has read something: only that fixes its state.
fn read(entered: &Entered<'_>) -> Result<(), ScanError> {
    execute(entered, "BEGIN")?;
    execute(entered, "SELECT 1 FROM sqlite_schema LIMIT 1")
}

fn version(entered: &Entered<'_>) -> Result<i64, ScanError> {
    let statement = Statement::prepare(entered, "PRAGMA main.data_version")?;
    statement.step()?;
    Ok(statement.int(0))
}
