//! Connections kept open, lent and taken back.
//!
//! [`Pool`] knows nothing of SQLite: what it keeps, and how that is opened, checked and closed, is its [`Manage`]'s
//! business. Idle connections are lent in reverse order of their return, so that a quiet pool keeps a small warm set;
//! whoever has to wait is served in order of arrival, handed the connection by the very thread that returns it.
//!
//! One lock guards plain data ([`state`]); a connection is idle or lent, never neither. Every call of [`Manage`], every
//! callback and every drop of what it made happens with the lock free.
//!
//! - [`manage`]: the trait
//! - [`state`]: the members of the pool, its counters, and who waits
//! - [`waiter`]: the queue of those who wait
//! - [`acquire`]: borrowing, blocking and not; opening in the background
//! - [`close`]: taking back, shutting down
//! - [`upkeep`]: rounds of maintenance; [`maintain`] decides what they do
//! - [`stats`]: snapshots and percentiles

mod acquire;
mod close;
mod maintain;
mod manage;
mod state;
mod stats;
#[cfg(test)]
mod tests;
mod upkeep;
mod waiter;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

pub use self::acquire::{Begun, Patience, Refusal};
pub use self::manage::{Health, Job, Manage};
use self::state::State;
pub use self::stats::{Holder, Member, Percentiles, Stats};
pub use self::waiter::Ticket;
use crate::support::clock::NEVER;
use crate::support::runtime::{PerProcess, pid};

/// Limits and times of a pool; times in nanoseconds, [`NEVER`] for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Connections that are kept open.
    pub min_size: usize,
    /// Connections that may be open at a time; at least 1.
    pub max_size: usize,
    /// Connections beyond `min_size` that were idle for longer are closed.
    pub max_idle: u64,
    /// Connections older than this are closed when they are idle, and opened anew as needed.
    pub max_lifetime: u64,
    /// Borrows that last longer are reported once.
    pub leak_after: u64,
    /// Between rounds of maintenance.
    pub interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            min_size: 2,
            max_size: 10,
            max_idle: 300_000_000_000,
            max_lifetime: NEVER,
            leak_after: NEVER,
            interval: Duration::from_secs(60),
        }
    }
}

/// A connection that the pool opened, for as long as anybody refers to it.
pub struct Kept<C> {
    /// The process that opened it. In a forked child it is nobody's.
    pid: u32,
    slot: u32,
    /// Number of the borrow that may return it; 0 while it is idle or being returned.
    borrow: AtomicU64,
    connection: C,
}

impl<C> Kept<C> {
    pub fn connection(&self) -> &C {
        &self.connection
    }
}

/// A borrowed connection. Dropping it gives nothing back, see [`Pool::release`].
pub struct Lease<C> {
    kept: Arc<Kept<C>>,
    number: u64,
}

impl<C> Lease<C> {
    pub fn connection(&self) -> &C {
        &self.kept.connection
    }

    /// Whether the connection is still lent to this borrower.
    #[inline(always)]
    pub fn is_live(&self) -> bool {
        self.kept.borrow.load(Ordering::Relaxed) == self.number
    }
}

/// What one process has of a pool.
struct Process<M: Manage> {
    state: Mutex<State<M>>,
    /// Something that a closing thread waits for came to an end.
    ended: Condvar,
    /// Copy of the state's, for forked children: the lock may have been held when they were made.
    closed: AtomicBool,
    /// Maintenance takes place.
    upkeep: AtomicBool,
    /// This is a forked child; it starts maintenance when it first needs a connection.
    inherited: bool,
}

/// Connections of one kind, shared by threads and coroutines.
///
/// A forked child finds its copy of the pool empty and opens connections of its own; those of the parent are neither
/// used nor closed there.
pub struct Pool<M: Manage> {
    manage: M,
    process: PerProcess<Process<M>>,
    /// What a forked child begins with.
    settings: Mutex<Settings>,
}

impl<M: Manage> Pool<M> {
    /// An empty pool; [`fill`](Self::fill) opens the first connections, [`start_upkeep`](Self::start_upkeep) keeps them.
    pub fn new(manage: M, settings: Settings) -> Arc<Self> {
        let pool = Self { manage, process: PerProcess::new(), settings: Mutex::new(settings) };
        pool.process();
        Arc::new(pool)
    }

    pub fn manage(&self) -> &M {
        &self.manage
    }

    #[inline(always)]
    fn process(&self) -> &Process<M> {
        self.process.get(|parent| self.begin(parent))
    }

    #[cold]
    fn begin(&self, parent: Option<&Process<M>>) -> Process<M> {
        let closed = parent.is_some_and(|parent| parent.closed.load(Ordering::Relaxed));
        // Held only to copy from or to it. A fork in that moment leaves it locked for ever; then the defaults must do.
        let settings = self.settings.try_lock().map_or_else(Settings::default, |settings| *settings);
        Process {
            state: Mutex::new(State::new(settings, closed)),
            ended: Condvar::new(),
            closed: AtomicBool::new(closed),
            upkeep: AtomicBool::new(false),
            inherited: parent.is_some(),
        }
    }

    pub fn settings(&self) -> Settings {
        self.process().state.lock().settings
    }

    /// Changes settings from now on. What is too much by then goes as it is returned or found idle.
    pub fn configure(self: &Arc<Self>, change: impl FnOnce(&mut Settings)) {
        let mut state = self.process().state.lock();
        change(&mut state.settings);
        let settings = state.settings;
        let grants = state.grant_capacity();
        drop(state);
        *self.settings.lock() = settings;
        self.deliver(grants);
        self.grow();
        self.reschedule();
    }

    pub fn is_closed(&self) -> bool {
        self.process().closed.load(Ordering::Relaxed)
    }

    /// What opening failed with the last time.
    pub fn last_error(&self) -> Option<Arc<M::Error>> {
        self.process().state.lock().last_error.clone()
    }

    /// Why opening fails these days, if it does.
    pub fn cause(&self) -> Option<Arc<M::Error>> {
        self.process().state.lock().cause()
    }

    /// Counters and sizes at one moment.
    pub fn stats(&self) -> Stats {
        self.process().state.lock().stats()
    }

    /// The sizes that cost nothing to tell: idle, lent.
    pub fn sizes(&self) -> (usize, usize) {
        let state = self.process().state.lock();
        (state.idle.len(), state.size() - state.idle.len())
    }

    /// Every open connection with what is known about it.
    pub fn members(&self) -> Vec<Member<M::Connection>> {
        self.process().state.lock().members()
    }

    /// Who has connections now, the longest first.
    pub fn holders(&self) -> Vec<Holder<M::Origin>> {
        let now = self.manage.now();
        self.process().state.lock().holders(now)
    }

    /// The borrow under which a connection is lent, found by what the caller knows of it. `is_it` must be quick and must
    /// not come back to the pool.
    pub fn lease_of(&self, is_it: impl Fn(&M::Connection) -> bool) -> Option<Lease<M::Connection>> {
        let state = self.process().state.lock();
        let kept = state.entries().map(|entry| &entry.kept).find(|kept| is_it(&kept.connection))?;
        let number = kept.borrow.load(Ordering::Relaxed);
        (number != 0).then(|| Lease { kept: Arc::clone(kept), number })
    }

    /// Visits every connection of this process unless the pool is in use; for a garbage collector, which may strike at any
    /// moment.
    pub fn try_visit<E>(&self, mut visit: impl FnMut(&M::Connection) -> Result<(), E>) -> Result<(), E> {
        let Some(process) = self.process.peek() else { return Ok(()) };
        let Some(state) = process.state.try_lock() else { return Ok(()) };
        state.entries().try_for_each(|entry| visit(&entry.kept.connection))
    }

    /// The same for the last error.
    pub fn try_visit_error<E>(&self, visit: impl FnOnce(&M::Error) -> Result<(), E>) -> Result<(), E> {
        let Some(process) = self.process.peek() else { return Ok(()) };
        let Some(state) = process.state.try_lock() else { return Ok(()) };
        // Somebody else may have it as well; then it is not for the collector to judge.
        match &state.last_error {
            Some(error) if Arc::strong_count(error) == 1 => visit(error),
            _ => Ok(()),
        }
    }

    /// Panics if the bookkeeping contradicts itself.
    #[cfg(test)]
    fn validate(&self) {
        self.process().state.lock().validate();
    }
}

impl<M: Manage> Drop for Pool<M> {
    /// Nobody can borrow any more: what is idle is closed. Those who still have connections hold the pool.
    fn drop(&mut self) {
        let Some(process) = self.process.peek() else { return };
        let gone = process.state.lock().take_idle();
        for kept in gone {
            self.manage.close(&kept.connection);
        }
    }
}

/// A connection just opened, not counted yet.
fn keep<C>(connection: C, slot: u32) -> Arc<Kept<C>> {
    Arc::new(Kept { pid: pid(), slot, borrow: AtomicU64::new(0), connection })
}
