//! Single writes, many to a commit.
//!
//! There is no writer thread. The first caller to come becomes the leader: it takes the write lane, begins a transaction,
//! runs what is queued, each request in a savepoint of its own, and commits. Others queue their requests meanwhile and
//! wait; one of them leads next. If only callbacks wait, a background job leads. Nobody is told that a write succeeded
//! before the commit that carries it has returned.
//!
//! - [`guard`]: what has no place in a shared transaction
//! - [`request`]: what is asked for and what is answered
//! - [`statement`]: prepared statements and their results
//! - [`writer`]: transactions of the writing connection

pub(crate) mod guard;
mod request;
pub(crate) mod statement;
mod writer;

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

pub use guard::Authorizer;
pub use request::{Durability, Outcome, Params, Request, Value, WriteError, Written};
use request::{Reply, Slot};
use writer::{Ran, Writer};

use super::lane::{Access, Actor, Claim, Enqueued, Lane, LaneError, Ticket};
use super::{Db, Failure, opener};
use crate::support::{clock, runtime};

/// Limits of one transaction: larger ones gain nothing and keep other writers out longer.
const GROUP_REQUESTS: usize = 512;
const GROUP_BYTES: usize = 4 << 20;
const GROUP_TIME: u64 = 20_000_000;
/// Up to so many requests one transaction takes about as long as a single one.
const FEW: usize = 8;
/// How long a leader goes on for others, in nanoseconds.
const OVERTIME: u64 = 1_000_000;
/// How often a blocked caller looks whether it is to stop.
const CHECK: Duration = Duration::from_millis(50);
const STATEMENT: &str = "a group of single writes";

/// What was written so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct GroupStats {
    /// Requests that a commit carried.
    pub writes: u64,
    pub commits: u64,
    /// Requests in the largest commit.
    pub largest: u64,
}

/// A queue of single writes to one database, and the connection that writes them.
pub struct Group {
    this: Weak<Group>,
    db: Arc<Db>,
    lane: Arc<Lane>,
    /// As whom the group holds the lane: nobody else waits for it in this name.
    actor: Actor,
    state: Mutex<State>,
    /// Nothing is queued and nobody leads.
    ended: Condvar,
    /// Locked by the leader.
    writer: Mutex<Writer>,
    writes: AtomicU64,
    commits: AtomicU64,
    largest: AtomicU64,
}

struct State {
    queue: VecDeque<Queued>,
    requests: u64,
    /// Somebody leads, or has been told to.
    has_leader: bool,
    /// The place in the lane of a leader in the background.
    place: Option<Ticket>,
    closed: bool,
}

struct Queued {
    number: u64,
    request: Request,
    reply: Reply,
    deadline: Option<u64>,
}

/// A thread that waits for its write.
pub trait Caller {
    /// Asked now and then while it waits, with no lock held: whether it gives up.
    fn stops(&mut self) -> bool;

    /// Called, maybe several times and with locks held, before anything that may take long.
    fn lets_go(&mut self) {}
}

impl<F: FnMut() -> bool> Caller for F {
    fn stops(&mut self) -> bool {
        self()
    }
}

/// A request that may be taken back.
pub struct Pending {
    group: Arc<Group>,
    number: u64,
}

impl Pending {
    /// Takes the request back. Returns false if it is being written, or was: then the callback is called.
    pub fn cancel(&self) -> bool {
        let Some(queued) = self.group.state.lock().remove(self.number) else { return false };
        queued.reply.forget();
        true
    }
}

/// Answers that are sent when no lock is held and the next leader is at work.
type Answers = Vec<(u64, Reply, Outcome)>;

thread_local! {
    /// The group that this thread is writing.
    static WRITING: Cell<*const Group> = const { Cell::new(std::ptr::null()) };
}

impl Group {
    /// A group that writes through `db`, a connection of its own, in turn with the others in `lane`. Of an authorizer that
    /// the connection has, SQLite does not tell.
    pub fn new(db: Arc<Db>, lane: Arc<Lane>, authorizer: Option<Authorizer>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            actor: Actor::thread(u64::MAX - db.id()),
            db,
            lane,
            state: Mutex::new(State {
                queue: VecDeque::new(),
                requests: 0,
                has_leader: false,
                place: None,
                closed: false,
            }),
            ended: Condvar::new(),
            writer: Mutex::new(Writer::new(authorizer)),
            writes: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            largest: AtomicU64::new(0),
        })
    }

    /// Writes, and returns once a commit has carried the request, or it was refused.
    ///
    /// `deadline` (on the scale of [`clock::now`]) limits the wait for a turn. A request that is being written already is
    /// waited for even if the caller gives up.
    pub fn write(&self, request: Request, deadline: Option<u64>, mut caller: impl Caller) -> Outcome {
        self.check(&request, true)?;
        let slot = Slot::new();
        let (number, leads) = self.enqueue(request, Reply::to_thread(Arc::clone(&slot)), deadline)?;
        if leads {
            return self.lead(number, &slot, deadline, &mut caller);
        }
        caller.lets_go();
        loop {
            let left = deadline.map(|deadline| deadline.saturating_sub(clock::now()));
            if let Some(outcome) = slot.take() {
                return outcome;
            }
            if slot.leads() {
                return self.lead(number, &slot, deadline, &mut caller);
            }
            if left == Some(0) {
                return self.withdraw(number, &slot, WriteError::timeout(self.lane.holder()));
            }
            std::thread::park_timeout(left.map_or(CHECK, |left| CHECK.min(Duration::from_nanos(left))));
            if !slot.leads() && !slot.is_answered() && caller.stops() {
                return self.withdraw(number, &slot, LaneError::Interrupted.into());
            }
        }
    }

    /// Queues a request; `answer` is called with the outcome, by some thread that holds no lock. It must be quick.
    pub fn submit(
        &self,
        request: Request,
        deadline: Option<u64>,
        answer: impl FnOnce(Outcome) + Send + 'static,
    ) -> Result<Pending, WriteError> {
        self.check(&request, false)?;
        let (number, leads) = self.enqueue(request, Reply::call(answer), deadline)?;
        let group = self.arc();
        if leads {
            group.lead_in_background();
        }
        Ok(Pending { group, number })
    }

    /// Accepts nothing more, and closes the connection once what is queued is written. Waits for that up to `timeout`;
    /// then what is being written is interrupted, and what waits for its turn refused. Returns whether the connection is closed.
    pub fn close(&self, timeout: Duration) -> bool {
        let until = Instant::now().checked_add(timeout);
        let mut state = self.state.lock();
        state.closed = true;
        while state.has_leader {
            match until {
                Some(until) if self.ended.wait_until(&mut state, until).timed_out() => break,
                Some(_) => {}
                None => self.ended.wait(&mut state),
            }
        }
        let left = std::mem::take(&mut state.queue);
        let is_closed = !state.has_leader;
        if is_closed {
            self.end(state);
        } else {
            drop(state);
            self.db.interrupt();
        }
        // Unanswered, they are told that the group is closed.
        drop(left);
        is_closed
    }

    pub fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    pub fn db(&self) -> &Arc<Db> {
        &self.db
    }

    pub fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    pub fn stats(&self) -> GroupStats {
        GroupStats {
            writes: self.writes.load(Ordering::Relaxed),
            commits: self.commits.load(Ordering::Relaxed),
            largest: self.largest.load(Ordering::Relaxed),
        }
    }

    fn arc(&self) -> Arc<Self> {
        self.this.upgrade().expect("a group lives in an Arc")
    }

    fn claim(&self) -> Claim<'static> {
        Claim { connection: self.db.id(), actor: self.actor, access: Access::Write, statement: STATEMENT }
    }

    fn check(&self, request: &Request, blocking: bool) -> Result<(), WriteError> {
        if !self.db.is_ours() {
            let text = "this connection was opened before the process was forked; open another one in the child";
            return Err(WriteError::Misused(text.to_owned()));
        }
        if std::ptr::eq(WRITING.get(), self) {
            let text = "write() was called by a function that a statement of the same group runs";
            return Err(WriteError::Misused(text.to_owned()));
        }
        Ok(self.lane.check(&Claim { actor: request.actor, ..self.claim() }, blocking)?)
    }

    /// Returns the request's number, and whether the caller is to lead.
    fn enqueue(&self, request: Request, reply: Reply, deadline: Option<u64>) -> Result<(u64, bool), WriteError> {
        let mut state = self.state.lock();
        if state.closed {
            reply.forget();
            return Err(WriteError::Closed);
        }
        state.requests += 1;
        let number = state.requests;
        state.queue.push_back(Queued { number, request, reply, deadline });
        Ok((number, !std::mem::replace(&mut state.has_leader, true)))
    }

    /// Takes back a request of this thread, unless it is being written.
    fn withdraw(&self, number: u64, slot: &Arc<Slot>, error: WriteError) -> Outcome {
        let mut state = self.state.lock();
        if let Some(queued) = state.remove(number) {
            queued.reply.forget();
            if slot.leads() {
                self.hand_over(state);
            }
            return Err(error);
        }
        drop(state);
        loop {
            if let Some(outcome) = slot.take() {
                return outcome;
            }
            // Its group was rolled back because of another request.
            if slot.leads() {
                return self.lead(number, slot, None, &mut || false);
            }
            std::thread::park();
        }
    }

    /// Commits groups until one of them carried the request.
    fn lead(&self, number: u64, slot: &Slot, deadline: Option<u64>, caller: &mut dyn Caller) -> Outcome {
        loop {
            if self.lane.try_take(&self.claim()).is_err() {
                caller.lets_go();
                // It may be answered while it waits: the group was closed.
                if let Err(error) = self.lane.take(&self.claim(), deadline, || slot.is_answered() || caller.stops()) {
                    return self.resign(number, slot, error.into());
                }
            }
            if !self.is_short() {
                caller.lets_go();
            }
            let mut asked = Instant::now();
            let mut answers = Answers::new();
            let begun = self.transact(&mut answers, &mut |failure| {
                caller.lets_go();
                if deadline.is_some_and(|deadline| clock::now() >= deadline) {
                    return Some(failure.into());
                }
                if asked.elapsed() < CHECK {
                    return None;
                }
                asked = Instant::now();
                caller.stops().then(|| LaneError::Interrupted.into())
            });
            self.lane.give_back(self.db.id());
            let own = answers.iter().position(|&(answered, ..)| answered == number);
            let own = own.map(|place| answers.swap_remove(place));
            match (own, begun) {
                (Some((_, reply, outcome)), _) => {
                    reply.forget();
                    send(answers);
                    self.tidy(caller);
                    self.go_on();
                    return outcome;
                }
                (None, Err(error)) => {
                    send(answers);
                    return self.resign(number, slot, error);
                }
                (None, Ok(())) => send(answers),
            }
            // The group was closed.
            if let Some(outcome) = slot.take() {
                self.hand_over(self.state.lock());
                return outcome;
            }
        }
    }

    /// Whether the next transaction is expected to take little time.
    fn is_short(&self) -> bool {
        let state = self.state.lock();
        self.db.pace().is_quick() && state.queue.len() <= FEW && state.level() != Some(Durability::Power)
    }

    /// Writes for those who came meanwhile, for a moment: any of them would have to wake up first.
    fn go_on(&self) {
        let until = clock::now() + OVERTIME;
        loop {
            let state = self.state.lock();
            // Whoever waits for the lane, or another process, is waited for by one whose own turn it is.
            if state.queue.is_empty() || clock::now() >= until || self.lane.try_take(&self.claim()).is_err() {
                return self.hand_over(state);
            }
            drop(state);
            let mut answers = Answers::new();
            let begun = self.transact(&mut answers, &mut |failure| Some(failure.into()));
            self.lane.give_back(self.db.id());
            send(answers);
            self.tidy(&mut || false);
            if begun.is_err() {
                return self.hand_over(self.state.lock());
            }
        }
    }

    /// A checkpoint, if it is time for one.
    fn tidy(&self, caller: &mut dyn Caller) {
        let mut writer = self.writer.lock();
        if writer.is_log_full() {
            caller.lets_go();
            writer.checkpoint(&self.db.enter());
        }
    }

    /// Leaves the lead, and the queue.
    fn resign(&self, number: u64, slot: &Slot, error: WriteError) -> Outcome {
        let mut state = self.state.lock();
        if let Some(queued) = state.remove(number) {
            queued.reply.forget();
        }
        self.hand_over(state);
        slot.take().unwrap_or(Err(error))
    }

    /// Chooses the next leader.
    fn hand_over(&self, mut state: MutexGuard<'_, State>) {
        if let Some(slot) = state.queue.iter().find_map(|queued| queued.reply.slot()) {
            slot.lead();
        } else if !state.queue.is_empty() {
            drop(state);
            self.arc().lead_in_background();
        } else {
            state.has_leader = false;
            if state.closed {
                self.end(state);
            }
        }
    }

    /// Nothing is queued, nobody leads, nobody will.
    fn end(&self, state: MutexGuard<'_, State>) {
        drop(state);
        let entered = self.db.enter();
        opener::spare_log_if_moved(&entered);
        entered.close();
        drop(entered);
        self.ended.notify_all();
    }

    fn lead_in_background(self: &Arc<Self>) {
        let group = Arc::clone(self);
        match self.lane.enqueue(&self.claim(), move || Job(Some(group)).spawn()) {
            Ok(Enqueued::Granted) => Job(Some(Arc::clone(self))).spawn(),
            Ok(Enqueued::Waiting(ticket)) => self.state.lock().place = Some(ticket),
            // Nobody else takes the lane in the group's name, so it cannot wait for itself.
            Err(error) => Job(Some(Arc::clone(self))).fail(&error.into()),
        }
    }

    /// One transaction with what is queued. Fails if it could not begin; all else is in the answers.
    fn transact(
        &self,
        answers: &mut Answers,
        give_up: &mut dyn FnMut(Failure) -> Option<WriteError>,
    ) -> Result<(), WriteError> {
        let Some(level) = self.state.lock().level() else { return Ok(()) };
        let _writing = Writing::begin(self);
        let (db, mut writer) = (&self.db, self.writer.lock());
        let entered = db.enter();
        let since = clock::now();
        writer.begin(db, &entered, level, give_up)?;
        let (begun, mut bytes) = (clock::coarse(), 0);
        let mut done: Vec<(Queued, Written)> = Vec::new();
        let mut is_committed = false;
        let lost = loop {
            let is_full = done.len() >= GROUP_REQUESTS || bytes >= GROUP_BYTES || clock::coarse() - begun > GROUP_TIME;
            if is_full {
                break None;
            }
            let Some(queued) = self.state.lock().next(level) else { break None };
            bytes += queued.request.bytes();
            match writer.run(db, &entered, &queued.request, done.is_empty()) {
                Ran::Done(written) => done.push((queued, written)),
                Ran::Refused(error) => answers.push((queued.number, queued.reply, Err(error))),
                Ran::Ended(error) => {
                    answers.push((queued.number, queued.reply, Err(error)));
                    self.state.lock().put_back(done);
                    return Ok(());
                }
                Ran::Lost(failure) => {
                    answers.push((queued.number, queued.reply, Err(failure.clone().into())));
                    break Some(failure.into());
                }
                Ran::Committed(outcome) => {
                    answers.push((queued.number, queued.reply, outcome));
                    is_committed = true;
                    break None;
                }
            }
        };
        let outcome = match lost {
            Some(error) => Err(error),
            None if is_committed => Ok(()),
            None if done.is_empty() => {
                writer.rollback(db, &entered);
                Ok(())
            }
            None => {
                let patience = done.iter().map(|(queued, _)| queued.deadline.unwrap_or(clock::NEVER)).max();
                let mut give_up = |failure: Failure| (patience.is_some_and(clock::is_past)).then(|| failure.into());
                writer.commit(db, &entered, &mut give_up)
            }
        };
        if level == Durability::Process && done.len() <= FEW {
            self.db.pace().note(clock::now().saturating_sub(since));
        }
        if outcome.is_ok() && !done.is_empty() {
            self.writes.fetch_add(done.len() as u64, Ordering::Relaxed);
            self.commits.fetch_add(1, Ordering::Relaxed);
            self.largest.fetch_max(done.len() as u64, Ordering::Relaxed);
        }
        answers.extend(done.into_iter().map(|(queued, written)| {
            let outcome = outcome.clone().map(|()| written);
            (queued.number, queued.reply, outcome)
        }));
        Ok(())
    }
}

impl State {
    fn remove(&mut self, number: u64) -> Option<Queued> {
        let place = self.queue.iter().position(|queued| queued.number == number)?;
        self.queue.remove(place)
    }

    /// What the next commit has to survive; `None` if nothing is queued.
    fn level(&self) -> Option<Durability> {
        let power = self.queue.iter().any(|queued| queued.request.durability == Durability::Power);
        (!self.queue.is_empty()).then_some(if power { Durability::Power } else { Durability::Process })
    }

    /// The next request, if a commit of this level is good enough for it.
    fn next(&mut self, level: Durability) -> Option<Queued> {
        let fits = self.queue.front()?.request.durability == Durability::Process || level == Durability::Power;
        if fits { self.queue.pop_front() } else { None }
    }

    fn put_back(&mut self, done: Vec<(Queued, Written)>) {
        for (queued, _) in done.into_iter().rev() {
            self.queue.push_front(queued);
        }
    }

    /// Takes out what should have been written by now.
    fn take_late(&mut self) -> Vec<Queued> {
        let now = clock::now();
        let (late, left) = std::mem::take(&mut self.queue)
            .into_iter()
            .partition::<VecDeque<_>, _>(|queued| queued.deadline.is_some_and(|deadline| now >= deadline));
        self.queue = left;
        late.into()
    }
}

fn send(answers: Answers) {
    for (_, reply, outcome) in answers {
        reply.send(outcome);
    }
}

/// Marks the thread while it writes a group.
struct Writing(*const Group);

impl Writing {
    fn begin(group: &Group) -> Self {
        Self(WRITING.replace(group))
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        WRITING.set(self.0);
    }
}

/// A leader in the background, which has the lane or will have it. Dropped without having run, because the runtime was
/// stopped, it leaves nobody waiting.
struct Job(Option<Arc<Group>>);

impl Job {
    fn spawn(self) {
        // Refused for lack of a thread, it is dropped.
        drop(runtime::spawn_blocking(move || self.run()));
    }

    fn run(mut self) {
        let Some(group) = self.0.take() else { return };
        let mut answers = Answers::new();
        let mut late: Vec<(Queued, WriteError)> = Vec::new();
        let begun = group.transact(&mut answers, &mut |failure| {
            let mut state = group.state.lock();
            late.extend(state.take_late().into_iter().map(|queued| (queued, failure.clone().into())));
            state.queue.is_empty().then(|| failure.into())
        });
        group.lane.give_back(group.db.id());
        group.tidy(&mut || false);
        let mut state = group.state.lock();
        state.place = None;
        if let Err(error) = begun {
            // Whatever keeps one transaction from beginning does so for all.
            late.extend(std::mem::take(&mut state.queue).into_iter().map(|queued| (queued, error.clone())));
        }
        group.hand_over(state);
        send(answers);
        for (queued, error) in late {
            queued.reply.send(Err(error));
        }
    }

    fn fail(mut self, error: &WriteError) {
        let Some(group) = self.0.take() else { return };
        group.lane.give_back(group.db.id());
        let mut state = group.state.lock();
        let queue = std::mem::take(&mut state.queue);
        group.hand_over(state);
        for queued in queue {
            queued.reply.send(Err(error.clone()));
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.0.is_some() {
            Job(self.0.take()).fail(&WriteError::Closed);
        }
    }
}
