//! Reads: the row of a key, preload, the keys a command applies to.

use std::collections::HashSet;
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
use crate::store::{self, Line, Snapshot};
use crate::support::{clock, runtime};

/// Expired rows removed in one transaction; others write in between.
pub(super) const EXPIRED_AT_ONCE: usize = 5_000;
/// Rows loaded before other readers get a turn.
const PRELOAD_AT_ONCE: i64 = 256;
/// How long the reader may keep the log from being reset.
const HOLD: Duration = Duration::from_millis(20);

const ROW: &str = "SELECT cache_value, ttl_seconds, created_at, expires_at FROM result_cache WHERE cache_key = ?1";
const TAGS: &str = "SELECT tag FROM cache_tags WHERE cache_key = ?1";
const FUNCTION: &str = "SELECT function FROM upshift_functions WHERE cache_key = ?1";

/// Whether any row has tags, or a function. Many stores have none, and a look for them costs as much as the row.
const LABELLED: &str = "SELECT EXISTS (SELECT 1 FROM cache_tags) + 2 * EXISTS (SELECT 1 FROM upshift_functions)";
const TAGGED: u32 = 1;
const OWNED: u32 = 2;

const LIVE: &str = "SELECT 1 FROM result_cache WHERE cache_key = ?1 AND (expires_at IS NULL OR expires_at > ?2)";

const COUNT: &str = "SELECT count(*) FROM result_cache";

/// The last of the live rows that are wanted, by time of access.
const OLDEST_WANTED: &str = "
SELECT CASE typeof(last_accessed) WHEN 'text' THEN last_accessed ELSE '' END, rowid
FROM result_cache WHERE expires_at IS NULL OR expires_at > ?1 ORDER BY 1 DESC, 2 DESC LIMIT 1 OFFSET ?2";

/// Live rows in the order of the file, from a place on. Begins like [`ROW`].
const SCAN: &str = "
SELECT cache_value, ttl_seconds, created_at, expires_at, rowid, cache_key,
    CASE typeof(last_accessed) WHEN 'text' THEN last_accessed ELSE '' END AS accessed
FROM result_cache
WHERE rowid > ?1 AND (expires_at IS NULL OR expires_at > ?2) AND (accessed, rowid) >= (?3, ?4)
ORDER BY rowid LIMIT ?5";

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
        let state = self.state.lock();
        let mut latest: Vec<_> = state.pending.iter().collect();
        latest.sort_unstable_by_key(|(_, seq, _)| std::cmp::Reverse(*seq));
        // What is stored under these keys is out of date.
        let hidden: HashSet<Arc<str>> = latest.iter().map(|(key, ..)| Arc::clone(key)).collect();
        let pending = latest.into_iter().filter_map(|(key, _, op)| match op {
            Op::Put(row) if row.is_live(now) => Some((key.to_string(), Row::clone(row))),
            _ => None,
        });
        let mut rows: Vec<(String, Row)> = pending.take(limit).collect();
        let wiped = state.pending.is_wiped();
        drop(state);
        if rows.len() == limit || wiped {
            return Ok(rows);
        }
        let mut stored = self.recent(limit.saturating_add(hidden.len()), now)?;
        stored.retain(|found| !hidden.contains(found.key.as_str()));
        stored.sort_unstable_by_key(|found| std::cmp::Reverse((found.accessed, found.rowid)));
        stored.truncate(limit - rows.len());
        rows.extend(stored.into_iter().map(|found| (found.key, found.row)));
        Ok(rows)
    }

    /// The stored live rows that were accessed last, in the order of the file.
    fn recent(&self, wanted: usize, now: i64) -> Result<Vec<Stored>> {
        let live = time::to_text(now, true);
        let wanted = i64::try_from(wanted).unwrap_or(i64::MAX);
        let (accessed, rowid) = self.read(|reader| {
            let all: i64 = reader.query_row(COUNT, [], |row| row.get(0))?;
            let mut oldest = (String::new(), i64::MIN);
            if all > wanted {
                let parameters = [text(&live), ValueRef::Integer(wanted - 1)];
                reader.find(OLDEST_WANTED, &parameters, |line| {
                    if let (Ok(accessed), Ok(rowid)) = (line.get(0).as_str(), line.get(1).as_i64()) {
                        oldest = (accessed.to_owned(), rowid);
                    }
                    true
                })?;
            }
            Ok(oldest)
        })?;
        let mut rows = Vec::new();
        let mut place = i64::MIN;
        loop {
            let more = self.read(|reader| {
                let mut lines = 0;
                let first = rows.len();
                let parameters = [
                    ValueRef::Integer(place),
                    text(&live),
                    text(&accessed),
                    ValueRef::Integer(rowid),
                    ValueRef::Integer(PRELOAD_AT_ONCE),
                ];
                reader.find(SCAN, &parameters, |line| {
                    lines += 1;
                    place = line.get(4).as_i64().unwrap_or(i64::MAX);
                    rows.extend(Stored::of(line, place));
                    true
                })?;
                for stored in &mut rows[first..] {
                    label(reader, &stored.key, &mut stored.row)?;
                }
                Ok(lines == PRELOAD_AT_ONCE)
            })?;
            if !more {
                return Ok(rows);
            }
        }
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
        // What was accepted before this call has set it. What was committed before can be read by whoever sees it clear.
        if !self.unsettled.load(Ordering::Acquire) {
            return Ok(Known::Nothing);
        }
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
    pub fn read<T>(&self, job: impl FnOnce(&mut Snapshot<'_>) -> rusqlite::Result<T>) -> Result<T> {
        let result = self.read_quietly(job);
        if let Err(error) = &result {
            self.note("read failed", error);
            self.complain();
        }
        result
    }

    /// Runs a read; the caller reports a failure.
    pub fn read_quietly<T>(&self, job: impl FnOnce(&mut Snapshot<'_>) -> rusqlite::Result<T>) -> Result<T> {
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

fn load(reader: &mut Snapshot<'_>, key: &str) -> rusqlite::Result<Option<Row>> {
    let mut found = None;
    reader.find(ROW, &[text(key)], |line| {
        found = row_of(line);
        false
    })?;
    if let Some(row) = &mut found {
        label(reader, key, row)?;
    }
    Ok(found)
}

/// The row of a line that begins with the columns of [`ROW`], without its labels.
fn row_of(line: &Line) -> Option<Row> {
    let expires = match line.get(3) {
        ValueRef::Null => None,
        // Not a time that anything of ours wrote: as good as expired.
        other => Some(other.as_str().ok().and_then(time::from_text)?),
    };
    let blob = match line.get(0) {
        ValueRef::Blob(bytes) | ValueRef::Text(bytes) => bytes.to_vec(),
        // No value of ours; empty is none either.
        _ => Vec::new(),
    };
    let created = line.get(2).as_str().ok().and_then(time::from_text);
    Some(Row {
        blob,
        ttl_seconds: line.get(1).as_i64().ok(),
        created: created.unwrap_or_default(),
        expires,
        tags: Vec::new(),
        function: None,
    })
}

/// Adds what other tables say about a row, which was read in the same transaction.
fn label(reader: &mut Snapshot<'_>, key: &str, row: &mut Row) -> rusqlite::Result<()> {
    let labelled = reader.notes(|reader| reader.prepare_cached(LABELLED)?.query_row([], |row| row.get(0)))?;
    if labelled & TAGGED != 0 {
        reader.find(TAGS, &[text(key)], |line| {
            row.tags.extend(line.get(0).as_str().map(str::to_owned));
            true
        })?;
    }
    if labelled & OWNED != 0 {
        reader.find(FUNCTION, &[text(key)], |line| {
            row.function = line.get(0).as_str().map(str::to_owned).ok();
            false
        })?;
    }
    Ok(())
}

/// A row with what its place among the others depends on.
struct Stored {
    key: String,
    row: Row,
    accessed: i64,
    rowid: i64,
}

impl Stored {
    /// Of a line of [`SCAN`]; `None` if nothing of ours wrote it.
    fn of(line: &Line, rowid: i64) -> Option<Self> {
        let accessed = line.get(6).as_str().ok().and_then(time::from_text);
        Some(Self {
            key: line.get(5).as_str().ok()?.to_owned(),
            row: row_of(line)?,
            accessed: accessed.unwrap_or(i64::MIN),
            rowid,
        })
    }
}

fn text(text: &str) -> ValueRef<'_> {
    ValueRef::Text(text.as_bytes())
}
