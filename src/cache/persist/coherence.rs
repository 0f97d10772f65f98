//! What other processes, and other caches of this one, have invalidated.
//!
//! Processes learn it from a table, which is read only when the state of the write-ahead log says that the file changed.
//! Handles of one process learn it from a list in memory, at once.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;
use rusqlite::{Connection, params};

use super::Change;
use super::pending::{Op, Write};
use super::shared::Shared;
use crate::store::LogState;

/// Changes kept in the table. A reader that was away for more gets [`Change::All`].
const KEPT: i64 = 16_384;
/// The table is trimmed once per this many changes.
const TRIM_EVERY: i64 = 1_024;
/// Changes kept for other handles of this process.
const KEPT_HERE: usize = 4_096;

/// A handle's position in both lists.
pub(super) struct Cursor {
    /// Last change read from the table. Atomic for a forked child, which reads it without the lock.
    stored: AtomicI64,
    /// Held while changes are collected, so that none is skipped or given out twice.
    rest: Mutex<Rest>,
}

struct Rest {
    state: Option<LogState>,
    here: u64,
}

impl Cursor {
    pub fn new(stored: i64, here: u64) -> Self {
        Self { stored: AtomicI64::new(stored), rest: Mutex::new(Rest { state: None, here }) }
    }

    pub fn stored(&self) -> i64 {
        self.stored.load(Ordering::Relaxed)
    }
}

/// The list in memory.
#[derive(Default)]
pub(super) struct News {
    next: u64,
    items: VecDeque<(u64, Change)>,
}

impl News {
    pub fn push(&mut self, handle: u64, change: Change) {
        if self.items.len() == KEPT_HERE {
            self.items.pop_front();
        }
        self.items.push_back((handle, change));
        self.next += 1;
    }

    pub fn next(&self) -> u64 {
        self.next
    }

    /// What others than `handle` have added since the position.
    fn since(&self, position: u64, handle: u64) -> Vec<Change> {
        let first = self.next - self.items.len() as u64;
        if position < first {
            return vec![Change::All];
        }
        let new = self.items.iter().skip((position - first) as usize);
        new.filter(|(author, _)| *author != handle).map(|(_, change)| change.clone()).collect()
    }
}

impl Shared {
    pub fn changes(&self, handle: u64, cursor: &Cursor) -> Vec<Change> {
        let mut rest = cursor.rest.lock();
        let mut changes = {
            let state = self.state.lock();
            let changes = if state.news.next() == rest.here { Vec::new() } else { state.news.since(rest.here, handle) };
            rest.here = state.news.next();
            changes
        };
        // Taken before the read, so that what it misses makes the next call read again.
        let state = match self.reader() {
            Ok(reader) => reader.state(),
            Err(_) => return changes,
        };
        if state.is_some() && state == rest.state {
            return changes;
        }
        let stored = cursor.stored();
        // On failure, which is counted, the position stays, and the next call reads them.
        match self.read_quietly(|reader| stored_since(reader, stored, self.origin)) {
            Ok(found) => {
                rest.state = state;
                cursor.stored.store(found.last, Ordering::Relaxed);
                changes.extend(found.changes);
            }
            Err(error) => self.note("read failed", &error),
        }
        drop(rest);
        self.complain();
        changes
    }
}

struct Found {
    last: i64,
    changes: Vec<Change>,
}

fn stored_since(connection: &Connection, position: i64, origin: i64) -> rusqlite::Result<Found> {
    let mut statement = connection
        .prepare_cached("SELECT seq, origin, kind, subject FROM upshift_changes WHERE seq > ?1 ORDER BY seq")?;
    let mut rows = statement.query([position])?;
    let mut found = Found { last: position, changes: Vec::new() };
    while let Some(row) = rows.next()? {
        let seq: i64 = row.get(0)?;
        if found.last == position && seq != position + 1 {
            // Those in between have been trimmed.
            found.changes.push(Change::All);
        }
        found.last = seq;
        if row.get::<_, i64>(1)? != origin {
            found.changes.push(decode(row.get(2)?, row.get(3)?));
        }
    }
    Ok(found)
}

/// The last change in the table.
pub(super) fn last(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT ifnull(max(seq), 0) FROM upshift_changes", [], |row| row.get(0))
}

/// Adds a change and returns its number.
pub(super) fn log(connection: &Connection, origin: i64, at: i64, change: &Change) -> rusqlite::Result<i64> {
    let (kind, subject) = encode(change);
    let sql = "INSERT INTO upshift_changes (origin, at, kind, subject) VALUES (?1, ?2, ?3, ?4)";
    let seq = connection.prepare_cached(sql)?.insert(params![origin, at, kind, subject])?;
    if seq % TRIM_EVERY == 0 {
        connection.prepare_cached("DELETE FROM upshift_changes WHERE seq <= ?1")?.execute([seq - KEPT])?;
    }
    Ok(seq)
}

fn encode(change: &Change) -> (i64, &str) {
    match change {
        Change::Key(key) => (0, key),
        Change::Tag(tag) => (1, tag),
        Change::Pattern(part) => (2, part),
        Change::Function(name) => (3, name),
        Change::All => (4, ""),
    }
}

fn decode(kind: i64, subject: String) -> Change {
    match kind {
        0 => Change::Key(subject),
        1 => Change::Tag(subject),
        2 => Change::Pattern(subject),
        3 => Change::Function(subject),
        _ => Change::All,
    }
}

/// What other processes have changed, with the time of each, so that a pending write can be seen to be older.
#[derive(Default)]
pub(super) struct Foreign {
    pub last: i64,
    keys: HashMap<String, i64>,
    wider: Vec<(Change, i64)>,
}

pub(super) fn foreign_since(connection: &Connection, position: i64, origin: i64) -> rusqlite::Result<Foreign> {
    let mut statement = connection
        .prepare_cached("SELECT seq, origin, at, kind, subject FROM upshift_changes WHERE seq > ?1 ORDER BY seq")?;
    let mut rows = statement.query([position])?;
    let mut foreign = Foreign { last: position, ..Foreign::default() };
    while let Some(row) = rows.next()? {
        foreign.last = row.get(0)?;
        if row.get::<_, i64>(1)? == origin {
            continue;
        }
        let at = row.get(2)?;
        match decode(row.get(3)?, row.get(4)?) {
            Change::Key(key) => drop(foreign.keys.insert(key, at)),
            wider => foreign.wider.push((wider, at)),
        }
    }
    Ok(foreign)
}

impl Foreign {
    /// Whether another process changed the key after the write was accepted here.
    pub fn overtook(&self, write: &Write) -> bool {
        if self.keys.get(&*write.key).is_some_and(|at| *at > write.at) {
            return true;
        }
        self.wider.iter().any(|(change, at)| *at > write.at && touches(change, write))
    }
}

fn touches(change: &Change, write: &Write) -> bool {
    let Op::Put(row) = &write.op else {
        return false;
    };
    match change {
        Change::Key(key) => **key == *write.key,
        Change::Tag(tag) => row.tags.contains(tag),
        Change::Pattern(part) => write.key.contains(part.as_str()),
        Change::Function(name) => row.belongs_to(&write.key, name),
        Change::All => true,
    }
}
