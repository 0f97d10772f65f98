//! Ordered migrations.

use std::path::Path;

use rusqlite::{Transaction, TransactionBehavior};

use super::{Connection, Error};

/// One step of a schema. The n-th step of a list brings a file from version n-1 to version n; published steps are never
/// edited.
pub type Migration = fn(&Transaction<'_>) -> rusqlite::Result<()>;

/// Runs the steps a file lacks, all in one transaction. A file that is up to date is not written to.
pub(super) fn run(connection: &mut Connection, path: &Path, steps: &[Migration]) -> Result<(), Error> {
    if version(connection, path, steps)? == steps.len() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have migrated between the look and the lock.
    let current = version(&transaction, path, steps)?;
    for step in &steps[current..] {
        step(&transaction)?;
    }
    transaction.pragma_update(None, "user_version", steps.len() as i64)?;
    transaction.commit()?;
    Ok(())
}

fn version(connection: &rusqlite::Connection, path: &Path, steps: &[Migration]) -> Result<usize, Error> {
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    match usize::try_from(found) {
        Ok(version) if version <= steps.len() => Ok(version),
        _ => Err(Error::Newer { path: path.to_owned(), found, known: steps.len() as i64 }),
    }
}
