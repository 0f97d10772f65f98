//! What all handles of one file share.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex};

use super::coherence::News;
use super::pending::{Op, Pending, Seq};
use super::writer::{Backoff, TOUCHES_AT_ONCE};
use super::{Change, Command, PersistError, Result};
use crate::store::{Connection, FileId, Opened, Reader};
use crate::support::clock;

/// Pending bytes from which writers wait for the disk.
pub(super) const LIMIT_BYTES: usize = 64 << 20;
/// A value past this size is not stored; SQLite itself refuses one of 1 GB.
const MAX_BLOB: usize = 512 << 20;

/// What the caller of [`Shared::queue`] still has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Queued {
    Accepted,
    /// Its commit.
    Commit(Seq),
    /// Room: too much is pending.
    Room,
}

/// Locks: `state` is taken for bookkeeping only, never while the disk is used and never together with `reader`.
pub(super) struct Shared {
    pub id: FileId,
    pub path: PathBuf,
    pub log: Option<FileId>,
    /// Names this opening in the change log.
    pub origin: i64,
    pub host: String,
    /// For the background job, which must not keep the tier alive.
    pub this: Weak<Shared>,
    pub state: Mutex<State>,
    /// Something was committed, failed, or was given back.
    pub moved: Condvar,
    pub reader: Mutex<Seat>,
    /// The reader was put back.
    pub seated: Condvar,
    /// A background job is due that lets the reader rest.
    pub resting: AtomicBool,
    errors: AtomicU64,
    warned: AtomicBool,
    /// See [`Pending::unsettled`].
    pub unsettled: Arc<AtomicBool>,
    /// Some handle asked for commits that survive a power loss; the writer obeys from then on.
    pub power: AtomicBool,
}

pub(super) struct State {
    pub pending: Pending,
    /// Every operation up to this one is on the disk.
    pub committed: Seq,
    /// Failed commits.
    pub failures: u64,
    /// Not logged yet.
    complaint: Option<String>,
    /// Set while the disk refuses commits.
    pub failing: Option<Backoff>,
    /// Answers to commands, until the caller picks them up.
    pub replies: HashMap<Seq, Vec<String>>,
    /// Present while nobody writes. Whoever takes it is the one who writes, and puts it back.
    pub writer: Option<Connection>,
    /// A background job is due.
    pub armed: bool,
    /// It was asked to come at once.
    pub urgent: bool,
    /// Another one is due that records reads.
    pub recording: bool,
    pub closed: bool,
    pub handles: usize,
    pub news: News,
    /// Size of the write-ahead log at the last checkpoint.
    pub log_pages: u32,
    /// How far the change log has been compared with pending writes.
    pub seen: i64,
}

/// The reading connection.
pub(super) enum Seat {
    Here(Box<Reader>),
    /// Put aside for the moment of a fork.
    Away,
    Closed,
}

impl Shared {
    pub fn new(opened: Opened, origin: i64, host: String, seen: i64, this: Weak<Self>) -> Self {
        let pending = Pending::default();
        let unsettled = pending.unsettled();
        let state = State {
            pending,
            committed: 0,
            failures: 0,
            complaint: None,
            failing: None,
            replies: HashMap::new(),
            writer: Some(opened.writer),
            armed: false,
            urgent: false,
            recording: false,
            closed: false,
            handles: 0,
            news: News::default(),
            log_pages: 0,
            seen,
        };
        Self {
            id: opened.id,
            path: opened.path,
            log: opened.log,
            origin,
            host,
            this,
            state: Mutex::new(state),
            moved: Condvar::new(),
            reader: Mutex::new(Seat::Here(Box::new(opened.reader))),
            seated: Condvar::new(),
            resting: AtomicBool::new(false),
            unsettled,
            errors: AtomicU64::new(0),
            warned: AtomicBool::new(false),
            power: AtomicBool::new(false),
        }
    }

    /// Accepts one key's operation and sees it through: waits for room in the queue, and for the commit if `wait` is set.
    pub fn push(&self, key: &str, op: Op, wait: bool, handle: u64) -> Result<()> {
        self.make_room()?;
        let queued = self.queue(key, op, wait, handle)?;
        self.wait(queued);
        Ok(())
    }

    /// Accepts one key's operation without waiting for anything but the bookkeeping of others.
    pub fn queue(&self, key: &str, mut op: Op, wait: bool, handle: u64) -> Result<Queued> {
        if matches!(&op, Op::Put(row) if row.blob.len() > MAX_BLOB) {
            self.count_error();
            op = Op::Remove;
        }
        let mut state = self.state.lock();
        if state.closed {
            return Err(PersistError::Closed);
        }
        if state.failing.is_some() && state.pending.bytes() > LIMIT_BYTES {
            // The disk is refusing and memory is bounded: give up the value, but not the knowledge that it is stale.
            op = Op::Remove;
            if state.pending.bytes() > 2 * LIMIT_BYTES {
                self.give_up(&mut state);
            }
        }
        let seq = state.pending.push(key, op, clock::epoch_micros());
        state.tell(handle, || Change::Key(key.to_owned()));
        if state.failing.is_some() {
            self.arm(state);
            return Ok(Queued::Accepted);
        }
        if wait {
            return Ok(Queued::Commit(seq));
        }
        let full = state.pending.bytes() > LIMIT_BYTES;
        self.arm(state);
        Ok(if full { Queued::Room } else { Queued::Accepted })
    }

    /// Waits for what [`queue`](Self::queue) left to wait for. A commit that fails ends the wait.
    pub fn wait(&self, queued: Queued) {
        match queued {
            Queued::Accepted => {}
            Queued::Commit(seq) => drop(self.drive(seq, None)),
            // Closed meanwhile: nothing is pending any more.
            Queued::Room => drop(self.make_room()),
        }
    }

    /// Runs a command in its place in the order of writes and returns the keys it removed.
    pub fn run(&self, command: Command, handle: u64) -> Result<Vec<String>> {
        let seq = self.submit(command, handle)?;
        Ok(self.settle(seq))
    }

    /// Gives a command its place in the order of writes; [`settle`](Self::settle) must follow.
    pub fn submit(&self, command: Command, handle: u64) -> Result<Seq> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(PersistError::Closed);
        }
        if let Some(change) = command.change() {
            state.tell(handle, || change);
        }
        Ok(state.pending.command(command))
    }

    /// Sees a submitted command through and returns the keys it removed.
    pub fn settle(&self, seq: Seq) -> Vec<String> {
        if self.state.lock().failing.is_some() {
            self.resolve_commands();
        } else {
            self.drive(seq, None);
        }
        self.state.lock().replies.remove(&seq).unwrap_or_default()
    }

    pub fn touch(&self, key: &str, reads: i64) {
        let at = clock::epoch_micros();
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        if state.pending.touches.add(key, reads, at) {
            if !state.pending.is_recording() {
                state.pending.record(TOUCHES_AT_ONCE);
                self.arm(state);
            }
        } else if !state.recording {
            state.recording = true;
            let added = state.pending.touches.added();
            drop(state);
            self.record_later(added);
        }
    }

    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    pub fn count_error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a failure. The first one is kept for [`Self::complain`].
    pub fn note(&self, what: &str, error: &PersistError) {
        if matches!(error, PersistError::Closed) {
            return;
        }
        self.count_error();
        if !self.warned.swap(true, Ordering::Relaxed) {
            self.state.lock().complaint = Some(format!("{what}: {error}"));
        }
    }

    /// Logs the first failure. Not to be called with a lock or a connection held: a logger may run anything, also code
    /// that uses this tier.
    pub fn complain(&self) {
        let complaint = self.state.lock().complaint.take();
        if let Some(complaint) = complaint {
            log::warn!(target: "upshift.cache", "disk tier: {complaint}; further errors are only counted");
        }
    }

    /// Bounded memory while the disk refuses: the stored rows count as gone, and go with the next commit.
    pub fn give_up(&self, state: &mut State) {
        state.pending.wipe();
    }
}

impl State {
    /// Tells the other handles of this process.
    fn tell(&mut self, handle: u64, change: impl FnOnce() -> Change) {
        if self.handles > 1 {
            self.news.push(handle, change());
        }
    }
}
