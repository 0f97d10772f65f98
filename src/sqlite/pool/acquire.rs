//! Borrowing: at once, waiting in a thread, or with a callback; and opening connections for callbacks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::state::DeliveryOf;
use super::waiter::{Callback, Delivery, Grant, Kind, Parked, Ticket, Waiter};
use super::{Lease, Manage, Pool};

/// After a failure to open, the next try comes after this time, then after twice as long, …
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long a borrower waits.
pub struct Patience<'a> {
    /// `None` waits without limit. A time that has passed means one try.
    pub until: Option<Instant>,
    /// Asked again and again at such intervals while waiting; false ends it. For threads that have to serve signals.
    pub ask: Option<(Duration, &'a mut dyn FnMut() -> bool)>,
}

impl Patience<'_> {
    pub fn until(until: Option<Instant>) -> Self {
        Self { until, ask: None }
    }

    pub fn none() -> Self {
        Self::until(Some(Instant::now()))
    }

    pub(super) fn is_over(&self) -> bool {
        self.until.is_some_and(|until| until <= Instant::now())
    }

    /// When to look up from sleep.
    pub(super) fn next(&self) -> Option<Instant> {
        let slice = self.ask.as_ref().map(|(slice, _)| Instant::now() + *slice);
        [slice, self.until].into_iter().flatten().min()
    }

    pub(super) fn goes_on(&mut self) -> bool {
        self.ask.as_mut().is_none_or(|(_, ask)| ask())
    }
}

/// Why there is no connection.
pub enum Refusal<E> {
    Closed,
    /// With what opening failed, if it fails these days.
    TimedOut(Option<Arc<E>>),
    /// [`Patience::ask`] said no.
    Interrupted,
}

/// What became of a borrower that does not block.
pub enum Begun<C> {
    Leased(Lease<C>),
    Waits(Ticket),
    Closed,
}

/// What a thread does next.
enum Step<C> {
    Done(Lease<C>),
    Open,
    Wait(Arc<Parked<C>>, Option<Instant>),
}

type Outcome<M> = Result<Lease<<M as Manage>::Connection>, Refusal<<M as Manage>::Error>>;
type StepOf<M> = Result<Step<<M as Manage>::Connection>, Refusal<<M as Manage>::Error>>;

/// A thread that borrows.
struct Borrower<'a, M: Manage> {
    pool: &'a Arc<Pool<M>>,
    origin: Option<Arc<M::Origin>>,
    since: u64,
    ticket: Ticket,
    failures: u32,
}

impl<M: Manage> Pool<M> {
    /// The idle connection returned last, if there is one.
    #[inline(always)]
    pub fn try_acquire(&self, mut origin: Option<Arc<M::Origin>>) -> Option<Lease<M::Connection>> {
        let now = self.manage.now();
        self.process().state.lock().lend_idle(now, 0, &mut origin)
    }

    /// Borrows a connection: an idle one, else a new one while there is room, else the next one returned.
    pub fn acquire(self: &Arc<Self>, mut origin: Option<Arc<M::Origin>>, mut patience: Patience<'_>) -> Outcome<M> {
        self.ensure_upkeep();
        let since = self.manage.now();
        let ticket = {
            let mut state = self.process().state.lock();
            match state.lend_idle(since, 0, &mut origin) {
                Some(lease) => return Ok(lease),
                None => state.waiters.arrive(),
            }
        };
        let mut borrower = Borrower { pool: self, origin, since, ticket, failures: 0 };
        let mut step = borrower.begin(&patience)?;
        loop {
            step = match step {
                Step::Done(lease) => return Ok(lease),
                Step::Open => borrower.open(&patience)?,
                Step::Wait(parked, retry) => borrower.wait(&parked, retry, &mut patience)?,
            }
        }
    }

    /// Borrows a connection without blocking: `callback` is called, once and from any thread, if there is none now.
    pub fn acquire_later(
        self: &Arc<Self>,
        mut origin: Option<Arc<M::Origin>>,
        callback: Callback<M::Connection>,
    ) -> Begun<M::Connection> {
        self.ensure_upkeep();
        let now = self.manage.now();
        let mut state = self.process().state.lock();
        if state.closed {
            return Begun::Closed;
        }
        if let Some(lease) = state.lend_idle(now, 0, &mut origin) {
            return Begun::Leased(lease);
        }
        let ticket = state.waiters.arrive();
        let waiter = Waiter { kind: Kind::Callback(callback), origin, since: now, backs_off: false };
        state.waiters.insert(ticket, waiter);
        drop(state);
        self.grow();
        Begun::Waits(ticket)
    }

    /// Stops waiting for a callback. False if it has been called or is about to be.
    pub fn cancel(&self, ticket: Ticket, timed_out: bool) -> bool {
        let mut state = self.process().state.lock();
        let waiter = state.waiters.remove(ticket);
        if waiter.is_some() {
            state.counters.timeouts += u64::from(timed_out);
        }
        drop(state);
        waiter.is_some()
    }

    /// Opens connections in the background for callbacks that wait.
    pub(super) fn grow(self: &Arc<Self>) {
        let more = self.process().state.lock().grow();
        for _ in 0..more {
            self.grow_later(Duration::ZERO);
        }
    }

    fn grow_later(self: &Arc<Self>, delay: Duration) {
        let pool = Arc::clone(self);
        if self.manage.later(delay, Box::new(move || pool.grow_by_one())).is_err() {
            // No thread to be had: then this one does it.
            self.grow_by_one();
        }
    }

    /// Opens the connection that was counted by `State::grow`.
    fn grow_by_one(self: &Arc<Self>) {
        if self.is_closed() {
            let mut state = self.process().state.lock();
            state.growing -= 1;
            state.opening -= 1;
            self.notify_ended(&state);
            return;
        }
        match self.manage.connect(None) {
            Ok(connection) => {
                self.process().state.lock().growing -= 1;
                self.admit(connection);
            }
            Err(error) => {
                let mut state = self.process().state.lock();
                state.growing -= 1;
                let old = state.note_failure(Arc::new(error));
                let grants = state.grant_capacity();
                let retry = !state.closed && state.waiters.callbacks() > 0 && !state.grow_scheduled;
                let pause = pause(state.grow_failures);
                if retry {
                    state.grow_failures += 1;
                    state.grow_scheduled = true;
                }
                self.notify_ended(&state);
                drop(state);
                drop(old);
                self.deliver(grants);
                if retry {
                    self.retry_later(pause);
                }
            }
        }
    }

    fn retry_later(self: &Arc<Self>, pause: Duration) {
        let pool = Arc::clone(self);
        let retry = move || {
            pool.process().state.lock().grow_scheduled = false;
            pool.grow();
        };
        if self.manage.later(pause, Box::new(retry)).is_err() {
            self.process().state.lock().grow_scheduled = false;
        }
    }

    /// Takes a new connection, opened by nobody who wants it for himself, into the pool.
    pub(super) fn admit(self: &Arc<Self>, connection: M::Connection) {
        let now = self.manage.now();
        let mut state = self.process().state.lock();
        if state.closed {
            drop(state);
            self.discard_unregistered(&connection);
            return;
        }
        let slot = state.register(connection, now);
        let mut grants: Vec<_> = state.place(slot, now, false).into_iter().collect();
        self.opening_works(&mut state, &mut grants);
        drop(state);
        self.deliver(grants);
        self.grow();
    }

    /// A connection was opened: whoever held back because of failures may try again.
    fn opening_works(&self, state: &mut super::State<M>, grants: &mut Vec<DeliveryOf<M>>) {
        state.grow_failures = 0;
        if !state.waiters.is_empty() {
            state.waiters.end_back_off();
            grants.extend(state.grant_capacity());
        }
    }

    /// A connection was opened for a pool that was closed meanwhile.
    fn discard_unregistered(&self, connection: &M::Connection) {
        self.manage.close(connection);
        let mut state = self.process().state.lock();
        state.opening -= 1;
        self.notify_ended(&state);
    }

    /// Gives waiters what was granted to them; call it without the lock.
    pub(super) fn deliver(self: &Arc<Self>, grants: impl IntoIterator<Item = DeliveryOf<M>>) {
        for Delivery { to, grant } in grants {
            match (to, grant) {
                (Kind::Thread(parked), grant) => parked.give(grant),
                (Kind::Callback(callback), Grant::Lease(lease)) => callback(Some(lease)),
                (Kind::Callback(callback), Grant::Closed) => callback(None),
                (Kind::Callback(_), Grant::Open) => unreachable!("callbacks open nothing themselves"),
            }
        }
    }
}

impl<M: Manage> Borrower<'_, M> {
    /// Looks what there is, and else begins to wait.
    fn begin(&mut self, patience: &Patience<'_>) -> StepOf<M> {
        let now = self.pool.manage.now();
        let mut state = self.pool.process().state.lock();
        if state.closed {
            return Err(Refusal::Closed);
        }
        if let Some(lease) = state.lend_idle(now, now - self.since, &mut self.origin) {
            return Ok(Step::Done(lease));
        }
        if state.has_room() {
            state.opening += 1;
            return Ok(Step::Open);
        }
        if patience.is_over() {
            state.counters.timeouts += 1;
            return Err(Refusal::TimedOut(state.cause()));
        }
        Ok(Step::Wait(self.enqueue(&mut state, false), None))
    }

    fn enqueue(&self, state: &mut super::State<M>, backs_off: bool) -> Arc<Parked<M::Connection>> {
        let parked = Parked::new();
        let kind = Kind::Thread(Arc::clone(&parked));
        state.waiters.insert(self.ticket, Waiter { kind, origin: self.origin.clone(), since: self.since, backs_off });
        parked
    }

    /// Opens a connection for which there is room; on failure begins to wait for another try.
    fn open(&mut self, patience: &Patience<'_>) -> StepOf<M> {
        let pool = self.pool;
        // After a close the file must not come back, so `connect` is not even tried; closing waits for those under way.
        if pool.is_closed() {
            self.turn_down(Grant::Open);
            return Err(Refusal::Closed);
        }
        match pool.manage.connect(patience.until) {
            Ok(connection) => {
                let now = pool.manage.now();
                let mut state = pool.process().state.lock();
                if state.closed {
                    drop(state);
                    pool.discard_unregistered(&connection);
                    return Err(Refusal::Closed);
                }
                let slot = state.register(connection, now);
                let lease = state.lend(slot, now, now - self.since, self.origin.take());
                let mut grants = Vec::new();
                pool.opening_works(&mut state, &mut grants);
                drop(state);
                pool.deliver(grants);
                Ok(Step::Done(lease))
            }
            Err(error) => {
                let mut state = pool.process().state.lock();
                let old = state.note_failure(Arc::new(error));
                let step = self.after_failure(&mut state, patience);
                let grants = state.grant_capacity();
                pool.notify_ended(&state);
                drop(state);
                drop(old);
                pool.deliver(grants);
                step
            }
        }
    }

    fn after_failure(&mut self, state: &mut super::State<M>, patience: &Patience<'_>) -> StepOf<M> {
        if state.closed {
            return Err(Refusal::Closed);
        }
        // Another thread may have returned one meanwhile.
        let now = self.pool.manage.now();
        if let Some(lease) = state.lend_idle(now, now - self.since, &mut self.origin) {
            return Ok(Step::Done(lease));
        }
        if patience.is_over() {
            state.counters.timeouts += 1;
            return Err(Refusal::TimedOut(state.cause()));
        }
        let retry = Instant::now() + pause(self.failures);
        self.failures += 1;
        Ok(Step::Wait(self.enqueue(state, true), Some(retry)))
    }

    /// Sleeps until something is granted, it is time for another try, or patience ends.
    fn wait(
        &mut self,
        parked: &Parked<M::Connection>,
        retry: Option<Instant>,
        patience: &mut Patience<'_>,
    ) -> StepOf<M> {
        loop {
            if let Some(grant) = parked.wait([retry, patience.next()].into_iter().flatten().min()) {
                return take(grant);
            }
            let goes_on = patience.goes_on();
            let over = patience.is_over();
            let tries_again = retry.is_some_and(|retry| retry <= Instant::now());
            if goes_on && !over && !tries_again {
                continue;
            }
            let mut state = self.pool.process().state.lock();
            let Some(left) = state.waiters.remove(self.ticket) else {
                // A grant is on its way.
                drop(state);
                let Some(grant) = parked.wait(None) else { continue };
                if goes_on {
                    return take(grant);
                }
                self.turn_down(grant);
                return Err(Refusal::Interrupted);
            };
            state.counters.timeouts += u64::from(goes_on && over);
            let cause = state.cause();
            drop(state);
            drop(left);
            if !goes_on {
                return Err(Refusal::Interrupted);
            }
            if over {
                return Err(Refusal::TimedOut(cause));
            }
            return self.begin(patience);
        }
    }

    /// Passes on what came too late.
    fn turn_down(&self, grant: Grant<M::Connection>) {
        match grant {
            Grant::Lease(lease) => {
                self.pool.release(&lease);
            }
            Grant::Open => {
                let mut state = self.pool.process().state.lock();
                state.opening -= 1;
                let grants = state.grant_capacity();
                self.pool.notify_ended(&state);
                drop(state);
                self.pool.deliver(grants);
                self.pool.grow();
            }
            Grant::Closed => {}
        }
    }
}

fn take<C, E>(grant: Grant<C>) -> Result<Step<C>, Refusal<E>> {
    match grant {
        Grant::Lease(lease) => Ok(Step::Done(lease)),
        Grant::Open => Ok(Step::Open),
        Grant::Closed => Err(Refusal::Closed),
    }
}

/// The pause after so many failures before.
fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.min(10)).min(LONGEST_PAUSE)
}
