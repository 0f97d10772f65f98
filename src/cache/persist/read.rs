//! Reads: the row of a key, preload, the keys a command applies to.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::MappedMutexGuard;
use parking_lot::MutexGuard;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, params};

use super::pending::{Command, Op};
use super::shared::{Seat, Shared};
use super::{PersistError, Result, Row, time};
use crate::store;
use crate::support::{clock, runtime};

/// Expired rows removed in one transaction; others write in between.
pub(super) const EXPIRED_AT_ONCE: usize = 5_000;
/// Rows loaded before other readers get a turn.
const PRELOAD_AT_ONCE: usize = 256;
/// How long the reader may keep the log from being reset.
const HOLD: Duration = Duration::from_millis(20);

/// One statement, so that row and tags are of one moment. It yields a line per tag, or one without.
const ROW: &str = "
SELECT r.cache_value, r.ttl_seconds, r.created_at, r.expires_at,
    (SELECT function FROM upshift_functions f WHERE f.cache_key = ?1), t.tag
FROM result_cache r LEFT JOIN cache_tags t ON t.cache_key = r.cache_key WHERE r.cache_key = ?1";

const LIVE: &str = "SELECT 1 FROM result_cache WHERE cache_key = ?1 AND (expires_at IS NULL OR expires_at > ?2)";

const RECENT: &str = "
SELECT cache_key FROM result_cache WHERE expires_at IS NULL OR expires_at > ?1
ORDER BY last_accessed DESC, rowid DESC LIMIT ?2";

/// What this process has pending for a key.
enum Known {
    Row(Arc<Row>),
    Gone,
    Nothing,
}

/// Lets the reader rest when dropped.
struct Due(Weak<Shared>);

impl Drop for Due {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.rest();
        }
    }
}

impl Shared {
    pub fn get(&self, key: &str) -> Result<Option<Row>> {
        let now = clock::epoch_micros();
        match self.known(key)? {
            Known::Row(row) => Ok(row.is_live(now).then(|| Row::clone(&row))),
            Known::Gone => Ok(None),
            // A commit in between moves the row from the pending ones to the disk, so it is found there.
            Known::Nothing => self.read(|reader| load(reader, key)).map(|row| row.filter(|row| row.is_live(now))),
        }
    }

    pub fn contains(&self, key: &str) -> Result<bool> {
        let now = clock::epoch_micros();
        match self.known(key)? {
            Known::Row(row) => Ok(row.is_live(now)),
            Known::Gone => Ok(false),
            Known::Nothing => {
                self.read(|reader| reader.prepare_cached(LIVE)?.exists(params![key, time::to_text(now, true)]))
            }
        }
    }

    pub fn preload(&self, limit: usize) -> Result<Vec<(String, Row)>> {
        let now = clock::epoch_micros();
        let (mut rows, pending): (Vec<(String, Row)>, usize) = {
            let state = self.state.lock();
            let mut latest: Vec<_> = state.pending.iter().collect();
            let pending = latest.len();
            latest.sort_unstable_by_key(|(_, seq, _)| std::cmp::Reverse(*seq));
            let rows = latest
                .into_iter()
                .filter_map(|(key, _, op)| match op {
                    Op::Put(row) if row.is_live(now) => Some((key.to_string(), Row::clone(row))),
                    _ => None,
                })
                .take(limit)
                .collect();
            (rows, pending)
        };
        // Pending operations, removals as well, hide stored rows, so that many more may be needed.
        let wanted = i64::try_from(limit.saturating_add(pending)).unwrap_or(i64::MAX);
        let stored: Vec<String> = self.read(|reader| {
            let mut statement = reader.prepare_cached(RECENT)?;
            let keys = statement.query_map(params![time::to_text(now, true), wanted], |row| row.get(0))?;
            keys.collect()
        })?;
        let early: std::collections::HashSet<String> = rows.iter().map(|(key, _)| key.clone()).collect();
        for keys in stored.chunks(PRELOAD_AT_ONCE) {
            if rows.len() >= limit {
                break;
            }
            let hidden: Vec<bool> = {
                let state = self.state.lock();
                keys.iter().map(|key| state.pending.is_wiped() || state.pending.get(key).is_some()).collect()
            };
            self.read(|reader| {
                for (key, hidden) in keys.iter().zip(hidden) {
                    if !hidden && !early.contains(key) && rows.len() < limit {
                        if let Some(row) = load(reader, key)?.filter(|row| row.is_live(now)) {
                            rows.push((key.clone(), row));
                        }
                    }
                }
                Ok(())
            })?;
        }
        Ok(rows)
    }

    /// The stored keys a command applies to, see [`matching`].
    pub fn matching(&self, command: &Command) -> Result<Vec<(String, bool)>> {
        if self.state.lock().pending.is_wiped() {
            return Ok(Vec::new());
        }
        let now = clock::epoch_micros();
        self.read_quietly(|reader| matching(reader, command, now))
    }

    fn known(&self, key: &str) -> Result<Known> {
        let state = self.state.lock();
        if state.closed {
            return Err(PersistError::Closed);
        }
        Ok(match state.pending.get(key) {
            Some(Op::Put(row)) => Known::Row(Arc::clone(row)),
            Some(Op::Remove) => Known::Gone,
            None if state.pending.is_wiped() => Known::Gone,
            None => Known::Nothing,
        })
    }

    /// Runs a read; a failure is counted and logged.
    pub fn read<T>(&self, job: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let result = self.read_quietly(job);
        if let Err(error) = &result {
            self.note("read failed", error);
            self.complain();
        }
        result
    }

    /// Runs a read; the caller notes a failure.
    pub fn read_quietly<T>(&self, job: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let mut reader = self.reader()?;
        let result = reader.read(job);
        if reader.is_reading() && !self.resting.swap(true, Ordering::Relaxed) {
            drop(reader);
            self.rest_later();
        }
        Ok(result?)
    }

    fn rest_later(&self) {
        let due = Due(self.this.clone());
        // Without a thread to be had, or when the runtime is stopped, `due` is dropped as well.
        let _ = runtime::after(HOLD, move || drop(due));
    }

    /// Lets go of the log.
    pub fn rest(&self) {
        self.resting.store(false, Ordering::Relaxed);
        if let Seat::Here(reader) = &mut *self.reader.lock() {
            reader.rest();
        }
    }

    pub fn reader(&self) -> Result<MappedMutexGuard<'_, store::Reader>> {
        let mut seat = self.reader.lock();
        while matches!(*seat, Seat::Away) {
            self.seated.wait(&mut seat);
        }
        MutexGuard::try_map(seat, |seat| match seat {
            Seat::Here(reader) => Some(&mut **reader),
            Seat::Away | Seat::Closed => None,
        })
        .map_err(|_| PersistError::Closed)
    }
}

/// The stored rows a command removes, and whether each is to be reported: live ones, or any if the command is about
/// expired ones.
pub(super) fn matching(connection: &Connection, command: &Command, now: i64) -> rusqlite::Result<Vec<(String, bool)>> {
    let (sql, subject) = match command {
        Command::Delete(key) => ("r.cache_key = ?1", key.as_str()),
        Command::Tag(tag) => ("r.cache_key IN (SELECT cache_key FROM cache_tags WHERE tag = ?1)", tag.as_str()),
        // The inner query is answered from the index of the keys alone.
        Command::Pattern(part) => {
            ("r.rowid IN (SELECT rowid FROM result_cache WHERE instr(cache_key, ?1) > 0)", part.as_str())
        }
        // Keys of its own making are recorded; the others begin with the name and ':', and ';' is the next character.
        Command::Function(name) => (
            "r.cache_key IN (SELECT cache_key FROM upshift_functions WHERE function = ?1)
             OR (r.cache_key >= ?1 || ':' AND r.cache_key < ?1 || ';')",
            name.as_str(),
        ),
        Command::Clear => ("?1 IS NOT NULL", ""),
        Command::Expired => {
            let sql = "SELECT cache_key FROM result_cache WHERE expires_at <= ?1 LIMIT ?2";
            let mut statement = connection.prepare_cached(sql)?;
            let limit = params![time::to_text(now, true), EXPIRED_AT_ONCE as i64];
            return statement.query_map(limit, |row| Ok((row.get(0)?, true)))?.collect();
        }
        Command::ReleaseLease { .. } | Command::Nothing => return Ok(Vec::new()),
    };
    let sql = format!(
        "SELECT r.cache_key, r.expires_at IS NULL OR r.expires_at > ?2 FROM result_cache r WHERE {sql} ORDER BY r.cache_key"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    statement.query_map(params![subject, time::to_text(now, true)], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

fn load(reader: &Connection, key: &str) -> rusqlite::Result<Option<Row>> {
    let mut statement = reader.prepare_cached(ROW)?;
    let mut lines = statement.query([key])?;
    let Some(line) = lines.next()? else {
        return Ok(None);
    };
    let expires = match line.get_ref(3)? {
        ValueRef::Null => None,
        other => match other.as_str().ok().and_then(time::from_text) {
            Some(expires) => Some(expires),
            // Not a time that anything of ours wrote: as good as expired.
            None => return Ok(None),
        },
    };
    let blob = match line.get_ref(0)? {
        ValueRef::Blob(bytes) | ValueRef::Text(bytes) => bytes.to_vec(),
        // No value of ours; empty is none either.
        _ => Vec::new(),
    };
    let created = line.get_ref(2)?.as_str().ok().and_then(time::from_text).unwrap_or_default();
    let ttl_seconds = line.get_ref(1)?.as_i64().ok();
    let function = line.get(4)?;
    let mut tags = Vec::new();
    tags.extend(line.get::<_, Option<String>>(5)?);
    while let Some(line) = lines.next()? {
        tags.extend(line.get::<_, Option<String>>(5)?);
    }
    Ok(Some(Row { blob, ttl_seconds, created, expires, tags, function }))
}
