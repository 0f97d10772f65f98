//! Commits pending writes in groups.
//!
//! There is no writer thread. Whoever needs a commit takes the writing connection out of the shared state and commits
//! for everybody until its own operation is done; the others wait for their number. What nobody waits for is written by
//! a background job, a moment after the first write of a group.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use super::pending::{Batch, Command, Op, Seq};
use super::shared::{LIMIT_BYTES, Seat, Shared, State};
use super::{PersistError, Result};
use crate::store::{self, Checkpoint, Connection, Synchronous};
use crate::support::{clock, runtime};

/// How long the first write of a group waits for company. Others see it this much later.
const LINGER: Duration = Duration::from_millis(8);
/// A group of this size does not wait.
const URGENT_ROWS: usize = 1_024;
const URGENT_BYTES: usize = 1 << 20;
/// Reads are recorded when there were none for so long.
const IDLE: Duration = Duration::from_secs(2);
/// Keys whose reads one transaction records.
pub(super) const TOUCHES_AT_ONCE: usize = 4_096;
/// Limits of one transaction. Larger ones gain nothing and keep other processes out longer.
const BATCH_ROWS: usize = 4_096;
const BATCH_BYTES: usize = 8 << 20;
/// The log is emptied each time it has grown by this much. A page that was changed many times is then written once.
const CHECKPOINT_PAGES: u32 = 2_000;
/// A log of this size is emptied even if readers have to be waited for.
const LOG_PAGES: u32 = 8_000;
/// Pauses between attempts while the disk refuses.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// State of the attempts while the disk refuses commits.
#[derive(Clone, Copy)]
pub(super) struct Backoff {
    pause: Duration,
}

impl Backoff {
    fn after(previous: Option<Self>) -> Self {
        Self { pause: previous.map_or(FIRST_PAUSE, |previous| (previous.pause * 2).min(LONGEST_PAUSE)) }
    }
}

/// A background job that has not run yet. Dropped, because the runtime was stopped, it leaves word, so that the next
/// write asks for another; flush and close write by themselves.
struct Due(Weak<Shared>);

impl Drop for Due {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            let mut state = shared.state.lock();
            state.armed = false;
            state.urgent = false;
        }
    }
}

/// The same for a job that records reads.
struct Idle(Weak<Shared>);

impl Drop for Idle {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.state.lock().recording = false;
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    Committed(Seq),
    /// The queue is short enough to accept more.
    Room,
}

impl Until {
    fn is_met(self, state: &State) -> bool {
        match self {
            Self::Committed(seq) => state.committed >= seq,
            Self::Room => state.pending.bytes() <= LIMIT_BYTES,
        }
    }
}

impl Shared {
    /// Commits, or waits for others to commit, until `seq` is on the disk. Returns false if a commit failed, the tier was
    /// closed or the deadline passed before.
    pub fn drive(&self, seq: Seq, deadline: Option<Instant>) -> bool {
        self.drive_until(Until::Committed(seq), deadline)
    }

    /// Waits while too much is pending, unless the disk refuses.
    pub fn make_room(&self) -> Result<()> {
        let state = self.state.lock();
        if state.closed {
            return Err(PersistError::Closed);
        }
        if Until::Room.is_met(&state) || state.failing.is_some() {
            return Ok(());
        }
        drop(state);
        self.drive_until(Until::Room, None);
        Ok(())
    }

    fn drive_until(&self, until: Until, deadline: Option<Instant>) -> bool {
        let done = self.write_or_wait(until, deadline);
        self.complain();
        done
    }

    fn write_or_wait(&self, until: Until, deadline: Option<Instant>) -> bool {
        let mut state = self.state.lock();
        let failures = state.failures;
        loop {
            if until.is_met(&state) {
                return true;
            }
            if state.failures != failures || state.closed {
                return false;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return false;
            }
            if let Some(writer) = state.writer.take() {
                drop(state);
                let writer = self.write_until(writer, until, deadline);
                state = self.give_back(writer);
            } else if let Some(deadline) = deadline {
                self.moved.wait_until(&mut state, deadline);
            } else {
                self.moved.wait(&mut state);
            }
        }
    }

    pub fn flush(&self, deadline: Option<Instant>) -> bool {
        // Reads that are counted meanwhile are not waited for.
        let rounds = self.state.lock().pending.touches.len() / TOUCHES_AT_ONCE;
        for _ in 0..=rounds {
            let mut state = self.state.lock();
            if state.closed {
                return true;
            }
            state.pending.record(TOUCHES_AT_ONCE);
            if state.pending.is_empty() && state.writer.is_some() {
                return true;
            }
            let seq = state.pending.command(Command::Nothing);
            drop(state);
            if !self.drive(seq, deadline) {
                return false;
            }
        }
        true
    }

    /// Sees to it that a background job writes what is pending. Releases the lock.
    pub fn arm(&self, mut state: MutexGuard<'_, State>) {
        let urgent = state.pending.queued() >= URGENT_ROWS || state.pending.bytes() >= URGENT_BYTES;
        let (urgent, delay) = match state.failing {
            Some(backoff) => (false, backoff.pause),
            None if urgent => (true, Duration::ZERO),
            None => (false, LINGER),
        };
        if state.closed || (state.armed && (state.urgent || !urgent)) {
            return;
        }
        state.armed = true;
        state.urgent = urgent;
        drop(state);
        self.schedule(delay);
    }

    fn schedule(&self, delay: Duration) {
        let mut due = Due(self.this.clone());
        let job = move || {
            if let Some(shared) = std::mem::take(&mut due.0).upgrade() {
                shared.write_behind();
            }
        };
        // Without a thread to be had, `due` is dropped.
        let _ = match delay.is_zero() {
            true => runtime::spawn_blocking(job),
            false => runtime::after(delay, job),
        };
    }

    /// Records reads once there are no new ones. `added` is what [`Touches::added`] says now.
    ///
    /// [`Touches::added`]: super::touches::Touches::added
    pub fn record_later(&self, added: u64) {
        let mut idle = Idle(self.this.clone());
        // Without a thread to be had, or when the runtime is stopped, `idle` is dropped; the next read asks again.
        let _ = runtime::after(IDLE, move || {
            if let Some(shared) = std::mem::take(&mut idle.0).upgrade() {
                shared.record_when_idle(added);
            }
        });
    }

    fn record_when_idle(&self, added: u64) {
        loop {
            let mut state = self.state.lock();
            let now = state.pending.touches.added();
            if state.closed || state.pending.touches.len() == 0 {
                state.recording = false;
                return;
            }
            if now != added || state.failing.is_some() || state.writer.is_none() {
                drop(state);
                return self.record_later(now);
            }
            state.pending.record(TOUCHES_AT_ONCE);
            if let Some(writer) = state.writer.take() {
                drop(state);
                let writer = self.write_until(writer, Until::Committed(Seq::MAX), None);
                drop(self.give_back(writer));
            }
        }
    }

    /// The background job.
    fn write_behind(&self) {
        let mut state = self.state.lock();
        state.armed = false;
        state.urgent = false;
        if state.closed || state.pending.is_empty() {
            return;
        }
        // Another thread is writing; it arms a job for what it leaves.
        let Some(writer) = state.writer.take() else {
            return;
        };
        drop(state);
        let writer = self.write_until(writer, Until::Committed(Seq::MAX), None);
        drop(self.give_back(writer));
        self.complain();
    }

    /// Puts the writing connection back and returns with the state locked.
    pub fn give_back(&self, writer: Connection) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        state.writer = Some(writer);
        self.moved.notify_all();
        if !state.pending.is_empty() {
            self.arm(state);
            state = self.state.lock();
        }
        state
    }

    /// Commits batch after batch until the condition is met, nothing is left, the deadline has passed, or a commit fails.
    fn write_until(&self, mut writer: Connection, until: Until, deadline: Option<Instant>) -> Connection {
        loop {
            let mut state = self.state.lock();
            let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if late || until.is_met(&state) || state.pending.is_empty() {
                return writer;
            }
            let batch = state.pending.take(BATCH_ROWS, BATCH_BYTES);
            let seen = state.seen;
            drop(state);
            let level = match self.power.load(Ordering::Relaxed) {
                true => Synchronous::Full,
                false => Synchronous::Normal,
            };
            let written = writer
                .set_synchronous(level)
                .map_err(PersistError::from)
                .and_then(|()| self.apply(&mut writer, &batch, seen).map_err(PersistError::from));
            match written {
                Ok(applied) => {
                    let mut state = self.state.lock();
                    state.pending.committed(&batch);
                    state.committed = state.committed.max(batch.last);
                    state.replies.extend(applied.replies);
                    state.seen = applied.seen;
                    state.failing = None;
                    self.moved.notify_all();
                    drop(state);
                    for _ in 0..applied.refused {
                        self.count_error();
                    }
                    self.checkpoint(&writer);
                }
                Err(error) => {
                    self.note("commit failed", &error);
                    self.put_off(batch);
                    return writer;
                }
            }
        }
    }

    /// Empties the log into the file when it has grown. Nobody waits for this.
    fn checkpoint(&self, writer: &Connection) {
        let Some(pages) = writer.log_pages() else {
            return;
        };
        let mut state = self.state.lock();
        if pages < state.log_pages {
            // It was reset.
            state.log_pages = 0;
        }
        if pages - state.log_pages < CHECKPOINT_PAGES {
            return;
        }
        state.log_pages = pages;
        drop(state);
        // An open read of ours would keep it from completing.
        self.rest();
        let mode = match pages < LOG_PAGES {
            true => Checkpoint::Passive,
            false => Checkpoint::Restart,
        };
        // Busy with readers, or a full disk, which the next commit will report.
        drop(writer.checkpoint(mode));
    }

    /// A commit failed: queue its operations again, answer its commands, try again later.
    fn put_off(&self, batch: Batch) {
        let mut state = self.state.lock();
        let commands = state.pending.failed(batch);
        let backoff = Backoff::after(state.failing);
        state.failing = Some(backoff);
        let retry = !state.closed;
        state.armed = retry;
        drop(state);
        self.resolve(commands);
        self.resolve_commands();
        // Only now, so that those who wait find their answers.
        self.state.lock().failures += 1;
        self.moved.notify_all();
        if retry {
            self.schedule(backoff.pause);
        }
    }

    /// Answers commands that wait in the log while the disk refuses.
    pub fn resolve_commands(&self) {
        let commands = self.state.lock().pending.take_commands();
        self.resolve(commands);
    }

    /// Carries commands out in memory: what they remove is marked as removed, so that this process does not read it, and
    /// is deleted when the disk accepts writes again.
    fn resolve(&self, commands: Vec<(Seq, Command)>) {
        for (seq, command) in commands {
            if command == Command::Nothing {
                continue;
            }
            let removed = match self.matching(&command) {
                Ok(stored) => self.mark(seq, &command, stored),
                Err(error) => {
                    self.note("read failed", &error);
                    // Which rows it would have removed is unknown, so none may be read any more.
                    let mut state = self.state.lock();
                    let removed = mark_pending(&mut state, seq, &command);
                    self.give_up(&mut state);
                    removed
                }
            };
            self.state.lock().replies.insert(seq, removed);
        }
    }

    fn mark(&self, seq: Seq, command: &Command, stored: Vec<(String, bool)>) -> Vec<String> {
        let now = clock::epoch_micros();
        let mut state = self.state.lock();
        let mut removed = mark_pending(&mut state, seq, command);
        for (key, listed) in stored {
            // A pending operation hides the stored row: either it was listed above or it came after the command.
            if state.pending.get(&key).is_none() && !state.pending.is_wiped() {
                state.pending.push(&key, Op::Remove, now);
                if listed {
                    removed.push(key);
                }
            }
        }
        if *command == Command::Clear {
            state.pending.wipe();
        }
        removed
    }

    /// Writes what is left and closes both connections. Idempotent.
    pub fn shut_down(&self) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        // Nothing is accepted from here on.
        state.closed = true;
        let writer = loop {
            match state.writer.take() {
                Some(writer) => break writer,
                None => self.moved.wait(&mut state),
            }
        };
        drop(state);
        let mut writer = self.write_until(writer, Until::Committed(Seq::MAX), None);
        loop {
            let mut state = self.state.lock();
            if state.failing.is_some() || !state.pending.record(TOUCHES_AT_ONCE) {
                break;
            }
            drop(state);
            writer = self.write_until(writer, Until::Committed(Seq::MAX), None);
        }
        let lost = self.state.lock().pending.queued();
        self.moved.notify_all();
        let reader = std::mem::replace(&mut *self.reader.lock(), Seat::Closed);
        self.seated.notify_all();
        drop(reader);
        if store::is_log_replaced(&self.path, self.log.as_ref()) {
            writer.keep_log();
        } else {
            // Busy means that another process still uses the log, and will clean up.
            drop(writer.checkpoint(Checkpoint::Truncate));
        }
        drop(writer);
        self.complain();
        if lost > 0 {
            log::warn!(target: "upshift.cache", "disk tier: closed with {lost} operations that could not be written");
        }
    }
}

/// Turns the matching pending puts accepted before the command into removals. Returns their keys.
fn mark_pending(state: &mut State, seq: Seq, command: &Command) -> Vec<String> {
    let now = clock::epoch_micros();
    let mut removed = Vec::new();
    let mut hit = Vec::new();
    for (key, accepted, op) in state.pending.iter() {
        if let Op::Put(row) = op {
            if accepted < seq && command.matches(key, row, now) {
                hit.push(Arc::clone(key));
                if row.is_live(now) != (*command == Command::Expired) {
                    removed.push(key.to_string());
                }
            }
        }
    }
    for key in hit {
        state.pending.push(&key, Op::Remove, now);
    }
    removed
}
