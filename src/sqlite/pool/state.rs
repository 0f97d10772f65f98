//! The members of a pool, its counters, and who waits: plain data, changed under one lock.
//!
//! Nothing here is opened, closed, called or dropped that could run foreign code: what has to be done comes back as a
//! value, for the caller to do when the lock is free.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::stats::{Histogram, Holder, Member, Stats};
use super::waiter::{Delivery, Grant, Queue};
use super::{Kept, Lease, Manage, Settings, keep};
use crate::support::clock;

pub type DeliveryOf<M> = Delivery<<M as Manage>::Connection>;

/// An open connection.
pub struct Entry<M: Manage> {
    pub kept: Arc<Kept<M::Connection>>,
    pub created: u64,
    /// The same by the wall clock.
    created_at: i64,
    /// When it was last lent or returned.
    pub touched: u64,
    pub uses: u64,
    /// Found bad while it was lent: closed when it is returned.
    pub doomed: bool,
    pub status: Status<M::Origin>,
}

pub enum Status<O> {
    Idle,
    Lent { since: u64, origin: Option<Arc<O>>, reported: bool },
}

impl<M: Manage> Entry<M> {
    pub fn is_idle(&self) -> bool {
        matches!(self.status, Status::Idle)
    }
}

#[derive(Default)]
pub struct Counters {
    pub created: u64,
    pub closed: u64,
    pub acquisitions: u64,
    pub releases: u64,
    pub timeouts: u64,
    pub errors: u64,
    pub overdue: u64,
}

pub struct State<M: Manage> {
    pub settings: Settings,
    pub closed: bool,
    entries: Vec<Option<Entry<M>>>,
    free: Vec<u32>,
    /// Slots of idle connections; the one returned last is at the end.
    pub idle: Vec<u32>,
    size: usize,
    /// Connections being opened; they have a place within `max_size`, but do not count as open.
    pub opening: usize,
    /// Of these, those that the pool opens for callbacks.
    pub growing: usize,
    /// Failures of these in a row, and whether the next try is scheduled.
    pub grow_failures: u32,
    pub grow_scheduled: bool,
    /// Connections taken out of the pool, but not closed yet.
    pub closing: usize,
    /// A round of maintenance is under way.
    pub maintaining: bool,
    /// Number of the round that was scheduled last.
    pub turn: u64,
    pub waiters: Queue<M::Connection, M::Origin>,
    pub counters: Counters,
    pub last_error: Option<Arc<M::Error>>,
    /// No connection was opened since the last error.
    pub failing: bool,
    pub wait_times: Histogram,
    pub hold_times: Histogram,
    borrows: u64,
}

impl<M: Manage> State<M> {
    pub fn new(settings: Settings, closed: bool) -> Self {
        Self {
            settings,
            closed,
            entries: Vec::new(),
            free: Vec::new(),
            idle: Vec::new(),
            size: 0,
            opening: 0,
            growing: 0,
            grow_failures: 0,
            grow_scheduled: false,
            closing: 0,
            maintaining: false,
            turn: 0,
            waiters: Queue::new(),
            counters: Counters::default(),
            last_error: None,
            failing: false,
            wait_times: Histogram::new(),
            hold_times: Histogram::new(),
            borrows: 0,
        }
    }

    /// Open connections.
    pub fn size(&self) -> usize {
        self.size
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry<M>> {
        self.entries.iter().flatten()
    }

    pub fn entries_mut(&mut self) -> impl Iterator<Item = &mut Entry<M>> {
        self.entries.iter_mut().flatten()
    }

    pub fn entry(&self, slot: u32) -> &Entry<M> {
        self.entries[slot as usize].as_ref().expect(OCCUPIED)
    }

    pub fn entry_mut(&mut self, slot: u32) -> &mut Entry<M> {
        self.entries[slot as usize].as_mut().expect(OCCUPIED)
    }

    /// The entry of this very connection, unless it left.
    pub fn entry_of(&mut self, kept: &Arc<Kept<M::Connection>>) -> Option<&mut Entry<M>> {
        let entry = self.entries.get_mut(kept.slot as usize)?.as_mut()?;
        Arc::ptr_eq(&entry.kept, kept).then_some(entry)
    }

    /// Whether one more connection may be opened.
    pub fn has_room(&self) -> bool {
        self.size + self.opening < self.settings.max_size
    }

    /// Lends the idle connection that was returned last; takes `origin` only then, because it must not be dropped here.
    #[inline(always)]
    pub fn lend_idle(
        &mut self,
        now: u64,
        waited: u64,
        origin: &mut Option<Arc<M::Origin>>,
    ) -> Option<Lease<M::Connection>> {
        let slot = self.idle.pop()?;
        Some(self.lend(slot, now, waited, origin.take()))
    }

    /// Lends a connection that is in no list.
    #[inline(always)]
    pub fn lend(&mut self, slot: u32, now: u64, waited: u64, origin: Option<Arc<M::Origin>>) -> Lease<M::Connection> {
        self.borrows += 1;
        let number = self.borrows;
        self.counters.acquisitions += 1;
        self.wait_times.record(waited);
        let entry = self.entry_mut(slot);
        entry.uses += 1;
        entry.touched = now;
        entry.status = Status::Lent { since: now, origin, reported: false };
        entry.kept.borrow.store(number, Ordering::Relaxed);
        Lease { kept: Arc::clone(&entry.kept), number }
    }

    /// Adds a connection that was opened just now; it is in no list yet. Its place was counted in `opening`.
    pub fn register(&mut self, connection: M::Connection, now: u64) -> u32 {
        self.opening -= 1;
        self.size += 1;
        self.counters.created += 1;
        self.failing = false;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() as u32 - 1
        });
        let kept = keep(connection, slot);
        let entry = Entry {
            kept,
            created: now,
            created_at: clock::epoch_micros(),
            touched: now,
            uses: 0,
            doomed: false,
            status: Status::Idle,
        };
        self.entries[slot as usize] = Some(entry);
        slot
    }

    /// Notes that opening failed. Returns the error before, to be dropped without the lock.
    pub fn note_failure(&mut self, error: Arc<M::Error>) -> Option<Arc<M::Error>> {
        self.opening -= 1;
        self.counters.errors += 1;
        self.failing = true;
        self.last_error.replace(error)
    }

    /// Why opening fails, if it does.
    pub fn cause(&self) -> Option<Arc<M::Error>> {
        if self.failing { self.last_error.clone() } else { None }
    }

    /// Takes a connection that is in no list out of the pool. It has to be closed by [`Pool`](super::Pool), which then
    /// counts `closing` down.
    pub fn remove(&mut self, slot: u32) -> Entry<M> {
        let entry = self.entries[slot as usize].take().expect(OCCUPIED);
        self.free.push(slot);
        self.size -= 1;
        self.counters.closed += 1;
        self.closing += 1;
        entry
    }

    /// Takes an idle connection out of the pool.
    pub fn remove_idle(&mut self, slot: u32) -> Arc<Kept<M::Connection>> {
        self.idle.retain(|&idle| idle != slot);
        self.remove(slot).kept
    }

    /// Takes all idle connections out of the pool.
    pub fn take_idle(&mut self) -> Vec<Arc<Kept<M::Connection>>> {
        std::mem::take(&mut self.idle).into_iter().map(|slot| self.remove(slot).kept).collect()
    }

    /// Finds work for a connection in no list: it goes to who waits longest, else to the idle ones, as the next to be
    /// lent if it was used just now, as the last one if it is new.
    pub fn place(&mut self, slot: u32, now: u64, used: bool) -> Option<DeliveryOf<M>> {
        if let Some(waiter) = self.waiters.pop() {
            let lease = self.lend(slot, now, now.saturating_sub(waiter.since), waiter.origin);
            return Some(Delivery { to: waiter.kind, grant: Grant::Lease(lease) });
        }
        if used {
            self.idle.push(slot);
        } else {
            self.idle.insert(0, slot);
        }
        None
    }

    /// Lets waiting threads open connections where there is room for more.
    pub fn grant_capacity(&mut self) -> Vec<DeliveryOf<M>> {
        let mut grants = Vec::new();
        while !self.closed && !self.waiters.is_empty() && self.has_room() {
            let Some(waiter) = self.waiters.pop_opener() else { break };
            self.opening += 1;
            grants.push(Delivery { to: waiter.kind, grant: Grant::Open });
        }
        grants
    }

    /// How many connections the pool should begin to open for callbacks; counts them as being opened.
    pub fn grow(&mut self) -> usize {
        if self.closed || self.grow_scheduled {
            return 0;
        }
        let wanted = self.waiters.callbacks().saturating_sub(self.growing);
        let room = self.settings.max_size.saturating_sub(self.size + self.opening);
        let more = wanted.min(room);
        self.opening += more;
        self.growing += more;
        more
    }

    pub fn stats(&self) -> Stats {
        let counters = &self.counters;
        Stats {
            created: counters.created,
            closed: counters.closed,
            size: self.size,
            available: self.idle.len(),
            in_use: self.size - self.idle.len(),
            acquisitions: counters.acquisitions,
            releases: counters.releases,
            timeouts: counters.timeouts,
            errors: counters.errors,
            overdue: counters.overdue,
            waiting: self.waiters.len(),
            min_size: self.settings.min_size,
            max_size: self.settings.max_size,
            uses: self.entries().map(|entry| entry.uses).sum(),
            wait: self.wait_times.percentiles(),
            hold: self.hold_times.percentiles(),
        }
    }

    pub fn members(&self) -> Vec<Member<M::Connection>> {
        self.entries()
            .map(|entry| Member {
                kept: Arc::clone(&entry.kept),
                created_at: entry.created_at,
                last_used: entry.created_at + ((entry.touched - entry.created) / 1_000) as i64,
                uses: entry.uses,
                lent: !entry.is_idle(),
            })
            .collect()
    }

    pub fn holders(&self, now: u64) -> Vec<Holder<M::Origin>> {
        let mut holders: Vec<_> = self
            .entries()
            .filter_map(|entry| match &entry.status {
                Status::Lent { since, origin, .. } => {
                    Some(Holder { origin: origin.clone(), held: now.saturating_sub(*since) })
                }
                Status::Idle => None,
            })
            .collect();
        holders.sort_by_key(|holder| std::cmp::Reverse(holder.held));
        holders
    }

    #[cfg(test)]
    pub fn validate(&self) {
        let open = self.entries().count();
        assert_eq!(open, self.size);
        assert_eq!(self.free.len() + open, self.entries.len());
        assert_eq!(self.counters.created - self.counters.closed, self.size as u64);
        let mut idle = self.idle.clone();
        idle.sort_unstable();
        idle.dedup();
        assert_eq!(idle.len(), self.idle.len(), "idle twice");
        for (slot, entry) in self.entries.iter().enumerate() {
            let Some(entry) = entry else {
                assert!(self.free.contains(&(slot as u32)) && !idle.contains(&(slot as u32)));
                continue;
            };
            assert_eq!(entry.kept.slot as usize, slot);
            assert_eq!(entry.is_idle(), idle.contains(&(slot as u32)), "idle or lent, never neither");
            if entry.is_idle() {
                assert_eq!(entry.kept.borrow.load(Ordering::Relaxed), 0);
                assert!(!entry.doomed);
            }
        }
        assert!(self.idle.is_empty() || self.waiters.is_empty(), "idle while somebody waits");
        assert!(!self.closed || (self.idle.is_empty() && self.waiters.is_empty()));
        assert!(self.growing <= self.opening);
    }
}

const OCCUPIED: &str = "a slot in use has its entry";
