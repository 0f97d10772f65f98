//! The SQL of one group of writes.

use std::sync::Arc;

use rusqlite::{ErrorCode, Transaction, TransactionBehavior, params};

use super::pending::{Batch, Command, Op, Seq, Step, Write};
use super::shared::Shared;
use super::{Change, Row, coherence, lease, read, time};
use crate::store::Connection;
use crate::support::clock;

/// What a committed group leaves behind.
#[derive(Default)]
pub(super) struct Applied {
    pub replies: Vec<(Seq, Vec<String>)>,
    /// How far the change log was read.
    pub seen: i64,
    /// Rows that SQLite would never accept.
    pub refused: usize,
}

impl Shared {
    /// Writes one group in one transaction. On error nothing of it was written.
    pub fn apply(&self, writer: &mut Connection, batch: &Batch, seen: i64) -> rusqlite::Result<Applied> {
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut group = Group {
            transaction: &transaction,
            origin: self.origin,
            now: clock::epoch_micros(),
            applied: Applied::default(),
        };
        let foreign = coherence::foreign_since(&transaction, seen, self.origin)?;
        group.applied.seen = foreign.last;
        if batch.wipe {
            group.run(&Command::Clear)?;
        }
        for step in &batch.steps {
            match step {
                Step::Writes(writes) => {
                    // A write that another process has overtaken must not bring the old value back.
                    for write in writes.iter().filter(|write| !foreign.overtook(write)) {
                        group.write(write)?;
                    }
                }
                Step::Command(seq, command) => {
                    let removed = group.run(command)?;
                    if *command != Command::Nothing {
                        group.applied.replies.push((*seq, removed));
                    }
                }
            }
        }
        group.touch(batch)?;
        let applied = group.applied;
        transaction.commit()?;
        Ok(applied)
    }
}

struct Group<'t> {
    transaction: &'t Transaction<'t>,
    origin: i64,
    now: i64,
    applied: Applied,
}

impl Group<'_> {
    fn write(&mut self, write: &Write) -> rusqlite::Result<()> {
        let Op::Put(row) = &write.op else {
            return self.remove(&write.key);
        };
        match self.put(&write.key, row, write.at) {
            // A rule the user added to the table, or a limit of this SQLite. One such row must not hold up the others.
            Err(error) if is_refusal(&error) => {
                self.applied.refused += 1;
                self.remove(&write.key)
            }
            other => other,
        }
    }

    fn put(&mut self, key: &str, row: &Row, at: i64) -> rusqlite::Result<()> {
        let values = params![
            key,
            row.blob,
            row.ttl_seconds,
            time::to_text(row.created, false),
            row.expires.map(|expires| time::to_text(expires, true)),
            time::to_text(at, false),
            row.blob.len() as i64
        ];
        // Most writes are new rows; this way they cost one statement, and an overwritten row is known as such.
        let mut statement = self.transaction.prepare_cached(
            "INSERT OR IGNORE INTO result_cache (cache_key, cache_value, ttl_seconds, created_at, expires_at,
                 access_count, last_accessed, size_bytes) VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7)",
        )?;
        if statement.execute(values)? == 0 {
            let mut statement = self.transaction.prepare_cached(
                "UPDATE result_cache SET cache_value = ?2, ttl_seconds = ?3, created_at = ?4, expires_at = ?5,
                     access_count = 0, last_accessed = ?6, size_bytes = ?7 WHERE cache_key = ?1",
            )?;
            statement.execute(values)?;
            self.transaction.prepare_cached("DELETE FROM cache_tags WHERE cache_key = ?1")?.execute([key])?;
            self.transaction.prepare_cached("DELETE FROM upshift_functions WHERE cache_key = ?1")?.execute([key])?;
            self.log(&Change::Key(key.to_owned()))?;
        }
        for tag in &row.tags {
            let sql = "INSERT OR IGNORE INTO cache_tags (cache_key, tag) VALUES (?1, ?2)";
            self.transaction.prepare_cached(sql)?.execute([key, tag])?;
        }
        if let Some(function) = &row.function {
            let sql = "INSERT OR REPLACE INTO upshift_functions (cache_key, function) VALUES (?1, ?2)";
            self.transaction.prepare_cached(sql)?.execute([key, function])?;
        }
        Ok(())
    }

    fn remove(&mut self, key: &str) -> rusqlite::Result<()> {
        if self.delete(key)? {
            self.log(&Change::Key(key.to_owned()))?;
        }
        Ok(())
    }

    /// Runs a command; returns the keys to report.
    fn run(&mut self, command: &Command) -> rusqlite::Result<Vec<String>> {
        if let Command::ReleaseLease { key, token } = command {
            lease::release(self.transaction, key, *token)?;
        }
        let found = read::matching(self.transaction, command, self.now)?;
        if *command == Command::Clear {
            // References first: then no row has any to look for.
            for table in ["cache_tags", "upshift_functions", "result_cache"] {
                self.transaction.prepare_cached(&format!("DELETE FROM {table}"))?.execute([])?;
            }
        } else {
            for (key, _) in &found {
                self.delete(key)?;
            }
        }
        // Also if no row was there: others may hold the value in memory only.
        if let Some(change) = command.change() {
            self.log(&change)?;
        }
        Ok(found.into_iter().filter_map(|(key, listed)| listed.then_some(key)).collect())
    }

    fn delete(&self, key: &str) -> rusqlite::Result<bool> {
        Ok(self.transaction.prepare_cached("DELETE FROM result_cache WHERE cache_key = ?1")?.execute([key])? > 0)
    }

    fn touch(&self, batch: &Batch) -> rusqlite::Result<()> {
        let mut keys: Vec<&Arc<str>> = batch.touches.keys().collect();
        keys.sort_unstable();
        for key in keys {
            let touch = &batch.touches[key];
            let sql =
                "UPDATE result_cache SET access_count = access_count + ?2, last_accessed = ?3 WHERE cache_key = ?1";
            self.transaction.prepare_cached(sql)?.execute(params![key, touch.count, time::to_text(touch.at, false)])?;
        }
        Ok(())
    }

    fn log(&mut self, change: &Change) -> rusqlite::Result<()> {
        // Nobody else writes during the transaction, so there is nothing of others before it.
        self.applied.seen = coherence::log(self.transaction, self.origin, self.now, change)?;
        Ok(())
    }
}

fn is_refusal(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch)
    )
}
