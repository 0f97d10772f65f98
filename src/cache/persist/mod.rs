//! The disk tier of the result cache: one SQLite file, shared by every cache and every process that names it.
//!
//! - [`pending`]: writes accepted but not committed; this process reads them at once
//! - [`shared`]: what all handles of one file share: pending writes, the two connections, who writes
//! - [`writer`]: commits pending writes in groups; retries when the disk refuses
//! - [`apply`]: the SQL of one group
//! - [`read`]: rows of one key, preload, keys of a label
//! - [`coherence`]: what other processes (and other caches of this one) invalidated
//! - [`lease`]: one process at a time computes a value
//! - [`registry`]: one shared instance per file and process; fork
//! - [`schema`], [`time`]: tables, migrations, times as text
//!
//! # Consistency
//!
//! Within a process a write is visible to every handle of the file when the call returns. Other processes see it once
//! it is committed, some 10 ms later with [`Durability::Memory`]. Removals are committed when the call returns. Of two
//! processes that write one key the later commit wins, but a write that was accepted before another process invalidated
//! it never comes back.
//!
//! # Trouble with the disk
//!
//! A commit that fails (full, locked, read-only) is counted in [`DiskTier::errors`], logged once, and tried again with
//! growing pauses. Meanwhile this process goes on reading its own writes, and never a stored row that it has replaced or
//! removed. What waits is bounded: past the limit values are dropped and only their keys kept, past twice the limit the
//! whole store counts as empty and is emptied with the next commit that succeeds.

mod apply;
mod coherence;
mod lease;
mod pending;
mod read;
mod registry;
mod schema;
mod shared;
mod time;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use lease::Lease;
use pending::{Command, Op, Seq};
use registry::Handle;
pub use registry::{after_fork_child, after_fork_parent, before_fork};
pub use shared::Queued;

use crate::store;

/// What an acknowledged write survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Written behind: a killed process loses the last moments.
    #[default]
    Memory,
    /// The call returns after the commit: survives a killed process.
    Process,
    /// The call returns after a commit forced to the disk: survives a power loss.
    Power,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub durability: Durability,
    /// How soon invalidations of other processes are to be seen. Kept for the caller, see [`DiskTier::changes`].
    pub coherence: Option<Duration>,
}

/// A row of `result_cache` with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The encoded value. Not necessarily ours: a row of the replaced system holds a raw pickle.
    pub blob: Vec<u8>,
    pub ttl_seconds: Option<i64>,
    /// Unix microseconds; the table keeps whole seconds.
    pub created: i64,
    /// Unix microseconds; `None` never expires.
    pub expires: Option<i64>,
    pub tags: Vec<String>,
    pub function: Option<String>,
}

impl Row {
    /// Whether the row under `key` is a result of the decorated function `name`: recorded as one, or by its key.
    fn belongs_to(&self, key: &str, name: &str) -> bool {
        let prefixed = || key.strip_prefix(name).is_some_and(|rest| rest.starts_with(':'));
        self.function.as_deref() == Some(name) || prefixed()
    }

    fn is_live(&self, now: i64) -> bool {
        self.expires.is_none_or(|expires| expires > now)
    }
}

/// What another process, or another cache of this one, has invalidated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Removed or replaced.
    Key(String),
    Tag(String),
    /// Every key that contains this text.
    Pattern(String),
    Function(String),
    /// Everything, or more than could be kept track of.
    All,
}

/// A removal that was accepted; goes to [`DiskTier::settle`].
#[derive(Debug)]
#[must_use]
pub struct Submitted(Seq);

#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    /// Another user owns the file or may write to it.
    #[error("{path}: {reason}")]
    Untrusted { path: PathBuf, reason: &'static str },
    /// The tier was closed, or could not be opened again after a fork.
    #[error("the disk tier is closed")]
    Closed,
    /// The file could not be opened or read.
    #[error(transparent)]
    Store(store::Error),
}

impl From<store::Error> for PersistError {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Untrusted { path, reason } => Self::Untrusted { path, reason },
            other => Self::Store(other),
        }
    }
}

impl From<rusqlite::Error> for PersistError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(store::Error::Sqlite(error))
    }
}

pub type Result<T> = std::result::Result<T, PersistError>;

/// A handle on the disk tier of one file. Clones share everything; so do separately opened handles of one file in one
/// process, except for their durability and their position in [`DiskTier::changes`].
///
/// Every method may be called from any thread and none runs callbacks. Those that reach the disk block for it, up to
/// the busy timeout of 2 s while another process holds the file locked.
#[derive(Clone)]
pub struct DiskTier {
    handle: Arc<Handle>,
}

impl DiskTier {
    /// Opens the file, creating it with mode 0600 if it is missing.
    ///
    /// Fails without touching the file if another user owns it or anyone may write to it, if it is read-only, of a later
    /// version, or not a database.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self> {
        Ok(Self { handle: Arc::new(Handle::open(path.as_ref(), options)?) })
    }

    /// Opens the file as another process would, without sharing anything with other handles of this one.
    #[doc(hidden)]
    pub fn open_apart(path: impl AsRef<Path>, options: Options) -> Result<Self> {
        Ok(Self { handle: Arc::new(Handle::open_apart(path.as_ref(), options)?) })
    }

    pub fn options(&self) -> Options {
        self.handle.options()
    }

    /// Stores a row. Its visibility to others, and what it survives, is up to the durability of this handle.
    ///
    /// Blocks for the commit with [`Durability::Process`] and [`Durability::Power`], otherwise only while the queue is
    /// full. A commit that fails is no error here. Fails only if the tier is closed.
    pub fn put(&self, key: &str, row: Row) -> Result<()> {
        let tier = self.handle.tier()?;
        let wait = self.handle.options().durability != Durability::Memory;
        tier.shared.push(key, Op::Put(Arc::new(row)), wait, tier.id)
    }

    /// [`put`](Self::put) in two steps: accepts the row without blocking; [`wait`](Self::wait) then does the rest.
    pub fn queue(&self, key: &str, row: Row) -> Result<Queued> {
        let tier = self.handle.tier()?;
        let wait = self.handle.options().durability != Durability::Memory;
        tier.shared.queue(key, Op::Put(Arc::new(row)), wait, tier.id)
    }

    /// [`discard`](Self::discard) that never blocks.
    pub fn queue_discard(&self, key: &str) -> Result<Queued> {
        let tier = self.handle.tier()?;
        tier.shared.queue(key, Op::Remove, false, tier.id)
    }

    /// Waits for the commit, or for room in the queue, whichever `queued` asks for.
    pub fn wait(&self, queued: Queued) {
        // A tier closed meanwhile has committed what it had.
        if let Ok(tier) = self.handle.tier() {
            tier.shared.wait(queued);
        }
    }

    /// The live row of a key.
    ///
    /// Blocks for a read unless the row is still pending. Fails if the file cannot be read; that is counted already.
    pub fn get(&self, key: &str) -> Result<Option<Row>> {
        self.handle.tier()?.shared.get(key)
    }

    /// Whether [`Self::get`] would find a row, without loading it.
    pub fn contains(&self, key: &str) -> Result<bool> {
        self.handle.tier()?.shared.contains(key)
    }

    /// Removes a row some time soon; until then it is not read. Does not block for the disk.
    pub fn discard(&self, key: &str) -> Result<()> {
        let tier = self.handle.tier()?;
        tier.shared.push(key, Op::Remove, false, tier.id)
    }

    /// Counts reads of the row; recorded with the next commit.
    pub fn touched(&self, key: &str, reads: u32) -> Result<()> {
        self.handle.tier()?.shared.touch(key, i64::from(reads));
        Ok(())
    }

    /// Accepts a removal without blocking: it has its place in the order of writes when this returns.
    /// [`settle`](Self::settle) carries it out.
    pub fn submit(&self, removal: Change) -> Result<Submitted> {
        let command = match removal {
            Change::Key(key) => Command::Delete(key),
            Change::Tag(tag) => Command::Tag(tag),
            Change::Pattern(part) => Command::Pattern(part),
            Change::Function(name) => Command::Function(name),
            Change::All => Command::Clear,
        };
        let tier = self.handle.tier()?;
        Ok(Submitted(tier.shared.submit(command, tier.id)?))
    }

    /// Carries out a submitted removal. Returns the keys of the live rows that it removed. Blocks for the commit.
    pub fn settle(&self, submitted: Submitted) -> Result<Vec<String>> {
        Ok(self.handle.tier()?.shared.settle(submitted.0))
    }

    /// Removes a row. Returns whether there was a live one.
    pub fn delete(&self, key: &str) -> Result<bool> {
        Ok(!self.remove(Command::Delete(key.to_owned()))?.is_empty())
    }

    /// Removes all rows with the tag. Returns the keys of the live ones.
    pub fn invalidate_tag(&self, tag: &str) -> Result<Vec<String>> {
        self.remove(Command::Tag(tag.to_owned()))
    }

    /// Removes all rows whose key contains `part`, case-sensitive. Returns the keys of the live ones. One scan of all keys.
    pub fn invalidate_pattern(&self, part: &str) -> Result<Vec<String>> {
        self.remove(Command::Pattern(part.to_owned()))
    }

    /// Removes all rows of the function: those stored with its name, and those whose key begins with it and a ':'.
    /// Returns the keys of the live ones.
    pub fn invalidate_function(&self, name: &str) -> Result<Vec<String>> {
        self.remove(Command::Function(name.to_owned()))
    }

    /// Removes all rows. Returns the keys of the live ones.
    pub fn clear(&self) -> Result<Vec<String>> {
        self.remove(Command::Clear)
    }

    /// Removes all expired rows and returns their keys. Not told to other processes, which know the time themselves.
    pub fn cleanup_expired(&self) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        loop {
            let some = self.remove(Command::Expired)?;
            let last = some.len() < read::EXPIRED_AT_ONCE;
            keys.extend(some);
            if last {
                return Ok(keys);
            }
        }
    }

    /// Up to `limit` live rows, most recently accessed first.
    pub fn preload(&self, limit: usize) -> Result<Vec<(String, Row)>> {
        self.handle.tier()?.shared.preload(limit)
    }

    /// Commits everything accepted so far. Returns false if a commit failed or `timeout` passed before.
    pub fn flush(&self, timeout: Option<Duration>) -> Result<bool> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        Ok(self.handle.tier()?.shared.flush(deadline))
    }

    /// Closes this handle and its clones. The last handle of the file writes what is pending and leaves the file without
    /// `-wal` and `-shm`, unless other processes use it. Idempotent.
    pub fn close(&self) {
        self.handle.close();
    }

    /// Failed reads and commits since the file was opened.
    pub fn errors(&self) -> u64 {
        self.handle.tier().map_or(0, |tier| tier.shared.errors())
    }

    /// What others have invalidated since the last call: other processes, and other handles of this one.
    ///
    /// About 2 µs while the file is unchanged. After a failed read, which is counted, the result may be incomplete and
    /// the next call catches up.
    pub fn changes(&self) -> Vec<Change> {
        self.handle.tier().map_or_else(|_| Vec::new(), |tier| tier.shared.changes(tier.id, &tier.cursor))
    }

    /// Takes the lease on a key for `ttl`. `None` while someone else holds it.
    ///
    /// A lease ends when it is released, when its time is over, or when its process on this machine dies.
    pub fn lease_acquire(&self, key: &str, ttl: Duration) -> Result<Option<Lease>> {
        self.handle.tier()?.shared.lease_acquire(key, ttl)
    }

    /// Extends a lease to `ttl` from now. Returns false if it was lost meanwhile.
    pub fn lease_renew(&self, lease: &Lease, ttl: Duration) -> Result<bool> {
        self.handle.tier()?.shared.lease_renew(lease, ttl)
    }

    /// Gives a lease back, after the writes accepted before: whoever takes it next finds their rows. Blocks for the commit.
    pub fn lease_release(&self, lease: Lease) -> Result<()> {
        self.remove(Command::ReleaseLease { key: lease.key, token: lease.token })?;
        Ok(())
    }

    fn remove(&self, command: Command) -> Result<Vec<String>> {
        let tier = self.handle.tier()?;
        tier.shared.run(command, tier.id)
    }
}
