//! Rounds of maintenance in the background, for as long as the pool is there and open.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::maintain::{self, Idle};
use super::state::Status;
use super::{Health, Kept, Manage, Pool};
use crate::support::runtime::pid;

/// What a borrow that lasts too long is reported with.
type Late<M> = (Arc<Kept<<M as Manage>::Connection>>, Option<Arc<<M as Manage>::Origin>>, u64);

impl<M: Manage> Pool<M> {
    /// Opens connections up to `min_size`; stops at the first that cannot be opened.
    pub fn fill(self: &Arc<Self>) {
        loop {
            let mut state = self.process().state.lock();
            if state.closed || maintain::to_open(state.size(), state.opening, &state.settings) == 0 {
                return;
            }
            state.opening += 1;
            drop(state);
            match self.manage.connect(None) {
                Ok(connection) => self.admit(connection),
                Err(error) => {
                    let mut state = self.process().state.lock();
                    let old = state.note_failure(Arc::new(error));
                    let grants = state.grant_capacity();
                    self.notify_ended(&state);
                    drop(state);
                    drop(old);
                    self.deliver(grants);
                    return;
                }
            }
        }
    }

    /// One round: looks at idle connections, closes those that are bad, old or not needed, opens what is missing, reports
    /// borrows that last too long.
    pub fn maintain(self: &Arc<Self>) {
        {
            let mut state = self.process().state.lock();
            if state.closed || std::mem::replace(&mut state.maintaining, true) {
                return;
            }
        }
        let ending = Ending(self);
        self.manage.survey();
        self.check_idle();
        self.close_unneeded();
        self.fill();
        self.report_overdue();
        drop(ending);
    }

    /// Looks at idle connections, and closes those that are bad.
    pub fn check_idle(self: &Arc<Self>) {
        let idle: Vec<_> = {
            let state = self.process().state.lock();
            // Those to be lent last come first.
            state.idle.iter().map(|&slot| Arc::clone(&state.entry(slot).kept)).collect()
        };
        for kept in idle {
            let is_idle = || self.process().state.lock().entry_of(&kept).is_some_and(|entry| entry.is_idle());
            if self.manage.check(&kept.connection, &is_idle) != Health::Bad {
                continue;
            }
            let mut state = self.process().state.lock();
            let Some(entry) = state.entry_of(&kept) else { continue };
            if !entry.is_idle() {
                entry.doomed = true;
                continue;
            }
            let gone = state.remove_idle(kept.slot);
            drop(state);
            self.close_removed([&gone]);
        }
    }

    fn close_unneeded(self: &Arc<Self>) {
        let now = self.manage.now();
        let mut state = self.process().state.lock();
        let idle: Vec<_> = state
            .idle
            .iter()
            .map(|&slot| {
                let entry = state.entry(slot);
                Idle { slot, since: entry.touched, created: entry.created }
            })
            .collect();
        let gone: Vec<_> = maintain::to_close(&idle, state.size(), now, &state.settings)
            .into_iter()
            .map(|slot| state.remove_idle(slot))
            .collect();
        drop(state);
        self.close_removed(&gone);
    }

    fn report_overdue(&self) {
        let now = self.manage.now();
        let mut state = self.process().state.lock();
        let limit = state.settings.leak_after;
        let mut late: Vec<Late<M>> = Vec::new();
        for entry in state.entries_mut() {
            if let Status::Lent { since, origin, reported } = &mut entry.status {
                let held = now.saturating_sub(*since);
                if held >= limit && !std::mem::replace(reported, true) {
                    late.push((Arc::clone(&entry.kept), origin.clone(), held));
                }
            }
        }
        state.counters.overdue += late.len() as u64;
        drop(state);
        for (kept, origin, held) in late {
            self.manage.overdue(&kept.connection, origin, Duration::from_nanos(held));
        }
    }

    /// Begins with rounds of maintenance in the background; they end with the pool or when it is closed.
    pub fn start_upkeep(self: &Arc<Self>) {
        if !self.process().upkeep.swap(true, Ordering::Relaxed) {
            self.next_round();
        }
    }

    /// In a forked child upkeep starts with the first use.
    #[inline]
    pub(super) fn ensure_upkeep(self: &Arc<Self>) {
        if self.process().inherited {
            self.start_upkeep();
        }
    }

    /// Whether rounds take place.
    pub fn is_kept_up(&self) -> bool {
        let process = self.process();
        process.upkeep.load(Ordering::Relaxed) && !process.closed.load(Ordering::Relaxed)
    }

    /// Waits until maintenance has ended for good, which it does when the pool is closed; false if that takes longer.
    pub fn join_upkeep(&self, until: Option<Instant>) -> bool {
        let process = self.process();
        let mut state = process.state.lock();
        while process.upkeep.load(Ordering::Relaxed) && (state.maintaining || !state.closed) {
            match until {
                None => process.ended.wait(&mut state),
                Some(until) => {
                    if process.ended.wait_until(&mut state, until).timed_out() {
                        return state.closed && !state.maintaining;
                    }
                }
            }
        }
        true
    }

    /// The interval may have become shorter.
    pub(super) fn reschedule(self: &Arc<Self>) {
        if self.is_kept_up() {
            self.next_round();
        }
    }

    fn next_round(self: &Arc<Self>) {
        let (delay, turn) = {
            let mut state = self.process().state.lock();
            state.turn += 1;
            (maintain::until_next(&state.settings), state.turn)
        };
        let (pool, process) = (Arc::downgrade(self), pid());
        if let Err(error) = self.manage.later(delay, Box::new(move || round(&pool, process, turn))) {
            log::warn!(target: "upshift.sqlite", "no maintenance of a connection pool: {error}");
        }
    }
}

/// A round that was scheduled, unless another was scheduled after it.
fn round<M: Manage>(pool: &Weak<Pool<M>>, process: u32, turn: u64) {
    let Some(pool) = pool.upgrade() else { return };
    if process != pid() || pool.is_closed() || pool.process().state.lock().turn != turn {
        return;
    }
    pool.maintain();
    // Not if it was rescheduled meanwhile.
    let latest = pool.process().state.lock().turn;
    if latest == turn && !pool.is_closed() {
        pool.next_round();
    }
}

/// Ends a round, also one that panicked.
struct Ending<'a, M: Manage>(&'a Arc<Pool<M>>);

impl<M: Manage> Drop for Ending<'_, M> {
    fn drop(&mut self) {
        let mut state = self.0.process().state.lock();
        state.maintaining = false;
        self.0.notify_ended(&state);
    }
}
