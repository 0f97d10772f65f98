//! Those who wait for a connection, in order of arrival.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::Lease;

/// Arrival number of one who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Called once, from whichever thread has a connection to give; `None` if the pool was closed.
pub type Callback<C> = Box<dyn FnOnce(Option<Lease<C>>) + Send>;

/// What a waiter is given.
pub enum Grant<C> {
    Lease(Lease<C>),
    /// The right to open one more connection; it is counted as being opened already.
    Open,
    Closed,
}

pub enum Kind<C> {
    Thread(Arc<Parked<C>>),
    Callback(Callback<C>),
}

pub struct Waiter<C, O> {
    pub kind: Kind<C>,
    pub origin: Option<Arc<O>>,
    /// When it began to wait.
    pub since: u64,
    /// It failed to open a connection and will try again by itself; until then only a returned one serves it.
    pub backs_off: bool,
}

/// A grant on its way to its waiter: made under the lock, delivered without.
pub struct Delivery<C> {
    pub to: Kind<C>,
    pub grant: Grant<C>,
}

/// A thread that sleeps until it is given something.
pub struct Parked<C> {
    grant: Mutex<Option<Grant<C>>>,
    given: Condvar,
}

impl<C> Parked<C> {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { grant: Mutex::new(None), given: Condvar::new() })
    }

    pub fn give(&self, grant: Grant<C>) {
        *self.grant.lock() = Some(grant);
        self.given.notify_one();
    }

    /// Sleeps until something is given, or until the time has come.
    pub fn wait(&self, until: Option<Instant>) -> Option<Grant<C>> {
        let mut grant = self.grant.lock();
        loop {
            if let Some(grant) = grant.take() {
                return Some(grant);
            }
            match until {
                None => self.given.wait(&mut grant),
                Some(until) => {
                    if self.given.wait_until(&mut grant, until).timed_out() {
                        return grant.take();
                    }
                }
            }
        }
    }
}

/// Waiters by arrival.
pub struct Queue<C, O> {
    waiters: BTreeMap<u64, Waiter<C, O>>,
    next: u64,
    callbacks: usize,
}

impl<C, O> Queue<C, O> {
    pub fn new() -> Self {
        Self { waiters: BTreeMap::new(), next: 0, callbacks: 0 }
    }

    pub fn len(&self) -> usize {
        self.waiters.len()
    }

    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// How many of them are callbacks, for which the pool itself has to open connections.
    pub fn callbacks(&self) -> usize {
        self.callbacks
    }

    pub fn arrive(&mut self) -> Ticket {
        self.next += 1;
        Ticket(self.next)
    }

    pub fn insert(&mut self, ticket: Ticket, waiter: Waiter<C, O>) {
        self.callbacks += usize::from(matches!(waiter.kind, Kind::Callback(_)));
        self.waiters.insert(ticket.0, waiter);
    }

    pub fn remove(&mut self, ticket: Ticket) -> Option<Waiter<C, O>> {
        let waiter = self.waiters.remove(&ticket.0)?;
        self.callbacks -= usize::from(matches!(waiter.kind, Kind::Callback(_)));
        Some(waiter)
    }

    /// Who came first.
    pub fn pop(&mut self) -> Option<Waiter<C, O>> {
        let (&ticket, _) = self.waiters.first_key_value()?;
        self.remove(Ticket(ticket))
    }

    /// Who came first of the threads that may open a connection now.
    pub fn pop_opener(&mut self) -> Option<Waiter<C, O>> {
        let ready = |waiter: &Waiter<C, O>| matches!(waiter.kind, Kind::Thread(_)) && !waiter.backs_off;
        let (&ticket, _) = self.waiters.iter().find(|(_, waiter)| ready(waiter))?;
        self.remove(Ticket(ticket))
    }

    /// Opening works again: nobody has to hold back.
    pub fn end_back_off(&mut self) {
        self.waiters.values_mut().for_each(|waiter| waiter.backs_off = false);
    }
}
