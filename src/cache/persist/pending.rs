//! Writes that have been accepted and not yet committed. Plain bookkeeping: no lock, no clock, no I/O.
//!
//! `slots` holds the latest operation of each key, which is what this process reads; `log` holds the order. A key written
//! again before its turn came keeps its place in the log, unless a command (an invalidation) was queued in between.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::{Change, Row};

/// Bookkeeping of one entry in bytes, so that many tiny rows are bounded as well.
const ENTRY_BYTES: usize = 200;

/// Number of an accepted operation. Operations are committed in this order.
pub(super) type Seq = u64;

/// What becomes of a key.
#[derive(Clone)]
pub(super) enum Op {
    Put(Arc<Row>),
    /// Also keeps a stale row from being read while it cannot be deleted.
    Remove,
}

/// A set of rows to remove, or another step that has its place in the order of writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Delete(String),
    Tag(String),
    Pattern(String),
    Function(String),
    Clear,
    Expired,
    ReleaseLease {
        key: String,
        token: i64,
    },
    /// Marks a place in the order.
    Nothing,
}

impl Command {
    /// What other processes have to be told.
    pub fn change(&self) -> Option<Change> {
        match self {
            Self::Delete(key) => Some(Change::Key(key.clone())),
            Self::Tag(tag) => Some(Change::Tag(tag.clone())),
            Self::Pattern(part) => Some(Change::Pattern(part.clone())),
            Self::Function(name) => Some(Change::Function(name.clone())),
            Self::Clear => Some(Change::All),
            Self::Expired | Self::ReleaseLease { .. } | Self::Nothing => None,
        }
    }

    /// Whether it removes this row.
    pub fn matches(&self, key: &str, row: &Row, now: i64) -> bool {
        match self {
            Self::Delete(deleted) => key == deleted,
            Self::Tag(tag) => row.tags.contains(tag),
            Self::Pattern(part) => key.contains(part.as_str()),
            Self::Function(name) => row.belongs_to(key, name),
            Self::Clear => true,
            Self::Expired => !row.is_live(now),
            Self::ReleaseLease { .. } | Self::Nothing => false,
        }
    }
}

struct Slot {
    seq: Seq,
    /// Unix microseconds.
    at: i64,
    /// Has an entry in the log, as opposed to being written right now.
    queued: bool,
    op: Op,
}

enum Entry {
    Key(Arc<str>),
    Command(Command),
}

/// One key's operation on its way to the disk.
pub(super) struct Write {
    pub seq: Seq,
    pub at: i64,
    pub key: Arc<str>,
    pub op: Op,
}

pub(super) enum Step {
    /// In order of keys, as neighbours share pages.
    Writes(Vec<Write>),
    Command(Seq, Command),
}

/// Reads of a key since they were last recorded.
pub(super) struct Touch {
    pub count: i64,
    /// Unix microseconds of the last one.
    pub at: i64,
}

/// What one transaction carries.
#[derive(Default)]
pub(super) struct Batch {
    pub steps: Vec<Step>,
    pub touches: HashMap<Arc<str>, Touch>,
    /// Everything up to here is committed with this batch.
    pub last: Seq,
    /// Begin with an empty store.
    pub wipe: bool,
}

#[derive(Default)]
pub(super) struct Pending {
    slots: HashMap<Arc<str>, Slot>,
    log: VecDeque<(Seq, Entry)>,
    last: Seq,
    /// The latest command in the log.
    barrier: Seq,
    bytes: usize,
    touches: HashMap<Arc<str>, Touch>,
    /// The stored rows are void; they are deleted with the next commit and not read until then.
    wipe: bool,
}

impl Pending {
    /// Accepts an operation and returns its number.
    pub fn push(&mut self, key: &str, op: Op, at: i64) -> Seq {
        self.bytes += weight(key, &op);
        if let Some((name, slot)) = self.slots.get_key_value(key) {
            self.bytes -= weight(key, &slot.op);
            let name = Arc::clone(name);
            let (seq, fresh) = match slot.queued && slot.seq > self.barrier {
                true => (slot.seq, false),
                false => (self.next(), true),
            };
            self.slots.insert(Arc::clone(&name), Slot { seq, at, queued: true, op });
            if fresh {
                self.log.push_back((seq, Entry::Key(name)));
            }
            return seq;
        }
        let seq = self.next();
        let name: Arc<str> = key.into();
        self.log.push_back((seq, Entry::Key(Arc::clone(&name))));
        self.slots.insert(name, Slot { seq, at, queued: true, op });
        seq
    }

    pub fn command(&mut self, command: Command) -> Seq {
        let seq = self.next();
        self.barrier = seq;
        self.bytes += ENTRY_BYTES;
        self.log.push_back((seq, Entry::Command(command)));
        seq
    }

    pub fn touch(&mut self, key: &str, reads: i64, at: i64) {
        match self.touches.get_mut(key) {
            Some(touch) => *touch = Touch { count: touch.count + reads, at },
            None => drop(self.touches.insert(key.into(), Touch { count: reads, at })),
        }
    }

    /// The latest operation of a key.
    pub fn get(&self, key: &str) -> Option<&Op> {
        self.slots.get(key).map(|slot| &slot.op)
    }

    /// All latest operations with their numbers, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, Seq, &Op)> {
        self.slots.iter().map(|(key, slot)| (key, slot.seq, &slot.op))
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn queued(&self) -> usize {
        self.log.len()
    }

    pub fn touched(&self) -> usize {
        self.touches.len()
    }

    pub fn is_wiped(&self) -> bool {
        self.wipe
    }

    /// Nothing is left to commit.
    pub fn is_empty(&self) -> bool {
        self.log.is_empty() && self.touches.is_empty() && !self.wipe
    }

    /// Forgets all operations and declares the stored rows void. Commands must have been resolved before.
    pub fn wipe(&mut self) {
        self.slots.clear();
        self.log.clear();
        self.touches.clear();
        self.bytes = 0;
        self.wipe = true;
    }

    /// Takes the oldest operations, up to about these limits. Whatever was taken goes to either [`Self::committed`] or
    /// [`Self::failed`] before the next call.
    pub fn take(&mut self, max_rows: usize, max_bytes: usize) -> Batch {
        let mut batch = Batch { touches: std::mem::take(&mut self.touches), wipe: self.wipe, ..Batch::default() };
        let (mut rows, mut bytes) = (0, 0);
        let mut writes = Vec::new();
        while rows < max_rows && bytes < max_bytes {
            let Some((seq, entry)) = self.log.pop_front() else {
                break;
            };
            batch.last = seq;
            rows += 1;
            match entry {
                Entry::Command(command) => {
                    seal(&mut writes, &mut batch.steps);
                    batch.steps.push(Step::Command(seq, command));
                }
                Entry::Key(key) => {
                    // An operation that was overtaken by a later one of its key is skipped.
                    if let Some(slot) = self.slots.get_mut(&key).filter(|slot| slot.seq == seq) {
                        slot.queued = false;
                        bytes += weight(&key, &slot.op);
                        writes.push(Write { seq, at: slot.at, key, op: slot.op.clone() });
                    }
                }
            }
        }
        seal(&mut writes, &mut batch.steps);
        if self.log.is_empty() {
            batch.last = self.last;
        }
        if batch.last >= self.barrier {
            self.barrier = 0;
        }
        batch
    }

    /// The batch is on the disk: its rows are read from there from now on.
    pub fn committed(&mut self, batch: &Batch) {
        if batch.wipe {
            self.wipe = false;
        }
        for step in &batch.steps {
            match step {
                Step::Command(..) => self.bytes = self.bytes.saturating_sub(ENTRY_BYTES),
                Step::Writes(writes) => {
                    for write in writes {
                        if self.slots.get(&write.key).is_some_and(|slot| slot.seq == write.seq) {
                            self.slots.remove(&write.key);
                            self.bytes = self.bytes.saturating_sub(weight(&write.key, &write.op));
                        }
                    }
                }
            }
        }
    }

    /// The batch could not be written: its operations are queued again, in front. Its commands are returned, they have
    /// to be resolved by other means.
    pub fn failed(&mut self, batch: Batch) -> Vec<(Seq, Command)> {
        let mut commands = Vec::new();
        let mut back = Vec::new();
        for step in batch.steps {
            match step {
                Step::Command(seq, command) => {
                    self.bytes = self.bytes.saturating_sub(ENTRY_BYTES);
                    commands.push((seq, command));
                }
                Step::Writes(writes) => back.extend(writes),
            }
        }
        back.sort_unstable_by_key(|write| write.seq);
        for write in back.into_iter().rev() {
            if let Some(slot) = self.slots.get_mut(&write.key).filter(|slot| slot.seq == write.seq) {
                slot.queued = true;
                self.log.push_front((write.seq, Entry::Key(write.key)));
            }
        }
        for (key, touch) in batch.touches {
            let sum = self.touches.entry(key).or_insert(Touch { count: 0, at: touch.at });
            sum.count += touch.count;
            sum.at = sum.at.max(touch.at);
        }
        commands
    }

    /// Takes the commands out of the log; the rest stays in order.
    pub fn take_commands(&mut self) -> Vec<(Seq, Command)> {
        let mut commands = Vec::new();
        self.log = std::mem::take(&mut self.log)
            .into_iter()
            .filter_map(|(seq, entry)| match entry {
                Entry::Command(command) => {
                    commands.push((seq, command));
                    None
                }
                key => Some((seq, key)),
            })
            .collect();
        self.bytes = self.bytes.saturating_sub(commands.len() * ENTRY_BYTES);
        self.barrier = 0;
        commands
    }

    fn next(&mut self) -> Seq {
        self.last += 1;
        self.last
    }
}

fn seal(writes: &mut Vec<Write>, steps: &mut Vec<Step>) {
    if !writes.is_empty() {
        let mut writes = std::mem::take(writes);
        writes.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        steps.push(Step::Writes(writes));
    }
}

fn weight(key: &str, op: &Op) -> usize {
    let row = match op {
        Op::Put(row) => row.blob.len() + row.tags.iter().map(|tag| tag.len() + 24).sum::<usize>(),
        Op::Remove => 0,
    };
    ENTRY_BYTES + key.len() + row
}
