//! Taking connections back, and shutting a pool down.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;

use super::state::{Entry, State, Status};
use super::waiter::{Delivery, Grant};
use super::{Kept, Lease, Manage, Patience, Pool};
use crate::support::runtime::pid;

impl<M: Manage> Pool<M> {
    /// Takes a connection back: made ready, it goes to who waits longest, else to the idle ones. False, and nothing
    /// happens, if it is not lent to this borrower any more.
    pub fn release(self: &Arc<Self>, lease: &Lease<M::Connection>) -> bool {
        let kept = &lease.kept;
        let claim = |kept: &Kept<_>| kept.borrow.compare_exchange(lease.number, 0, Ordering::AcqRel, Ordering::Relaxed);
        if kept.pid != pid() || claim(kept).is_err() {
            return false;
        }
        // Still counted as lent, but nobody else can return it: it may be worked on without the lock.
        // That may wait for another thread; a pool that is closed has no use for the connection anyway.
        let healthy = !self.is_closed() && self.manage.reset(&kept.connection);
        let now = self.manage.now();
        let mut state = self.process().state.lock();
        let origin = state.settle(kept.slot, now);
        if healthy && !state.is_surplus(kept.slot, now) {
            if state.waiters.is_empty() {
                state.idle.push(kept.slot);
                drop(state);
                drop(origin);
                return true;
            }
            let delivery = state.place(kept.slot, now, true);
            drop(state);
            drop(origin);
            self.deliver(delivery);
            return true;
        }
        let entry = state.remove(kept.slot);
        drop(state);
        drop(origin);
        self.close_removed([&entry.kept]);
        true
    }

    /// Closes connections that were taken out of the pool, and lets others be opened in their place.
    pub(super) fn close_removed<'a>(self: &Arc<Self>, gone: impl IntoIterator<Item = &'a Arc<Kept<M::Connection>>>)
    where
        M::Connection: 'a,
    {
        let mut count = 0;
        for kept in gone {
            self.manage.close(&kept.connection);
            count += 1;
        }
        if count == 0 {
            return;
        }
        let mut state = self.process().state.lock();
        state.closing -= count;
        let grants = state.grant_capacity();
        self.notify_ended(&state);
        drop(state);
        self.deliver(grants);
        self.grow();
    }

    /// Refuses borrowers from now on, turns those away who wait, closes what is idle, and waits for what is lent. What is
    /// still lent then, or being returned, is interrupted, and closed when it is returned. Returns whether everything came back.
    pub fn close(self: &Arc<Self>, mut patience: Patience<'_>) -> bool {
        let process = self.process();
        let mut state = process.state.lock();
        state.closed = true;
        process.closed.store(true, Ordering::Relaxed);
        let mut waiters = Vec::new();
        while let Some(waiter) = state.waiters.pop() {
            waiters.push(waiter);
        }
        let idle = state.take_idle();
        drop(state);
        self.deliver(waiters.into_iter().map(|waiter| Delivery { to: waiter.kind, grant: Grant::Closed }));
        self.close_removed(&idle);
        let mut state = process.state.lock();
        // Who waits for the end of maintenance has to look again.
        process.ended.notify_all();
        while !state.is_quiet() && !patience.is_over() {
            match patience.next() {
                None => process.ended.wait(&mut state),
                Some(next) => drop(process.ended.wait_until(&mut state, next)),
            }
            let goes_on = MutexGuard::unlocked(&mut state, || patience.goes_on());
            if !goes_on {
                break;
            }
        }
        let lent: Vec<_> = state.entries().map(|entry: &Entry<M>| Arc::clone(&entry.kept)).collect();
        let quiet = state.is_quiet();
        drop(state);
        for kept in &lent {
            self.manage.interrupt(&kept.connection);
        }
        quiet
    }

    /// Wakes threads that close the pool; call it when something that they wait for has ended.
    pub(super) fn notify_ended(&self, state: &State<M>) {
        if state.closed {
            self.process().ended.notify_all();
        }
    }
}

impl<M: Manage> State<M> {
    /// Nothing is lent, opened, closed or maintained.
    fn is_quiet(&self) -> bool {
        self.size() == 0 && self.opening == 0 && self.closing == 0 && !self.maintaining
    }

    /// Whether a returned connection is not needed any more.
    #[inline(always)]
    fn is_surplus(&self, slot: u32, now: u64) -> bool {
        let entry = self.entry(slot);
        let old = now.saturating_sub(entry.created) >= self.settings.max_lifetime;
        self.closed || entry.doomed || old || self.size() > self.settings.max_size
    }

    /// Ends a borrow. Returns its origin, to be dropped without the lock.
    #[inline(always)]
    fn settle(&mut self, slot: u32, now: u64) -> Option<Arc<M::Origin>> {
        self.counters.releases += 1;
        let entry = self.entry_mut(slot);
        entry.touched = now;
        let Status::Lent { since, origin, .. } = std::mem::replace(&mut entry.status, Status::Idle) else {
            return None;
        };
        self.hold_times.record(now.saturating_sub(since));
        origin
    }
}
