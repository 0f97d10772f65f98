//! One writer of a database file at a time, in order of arrival.
//!
//! SQLite lets one connection write; the others are told "busy" and may try again, in no order. A lane is what they
//! stand in instead: it passes from one to the next directly, so nobody is overtaken and nobody polls. There is one per
//! database file of the process, shared by whoever writes to it. It belongs to a connection from its first write to the
//! end of its transaction.
//!
//! A database in memory has no snapshots, so there readers take the lane too, all together ([`Access::Read`]).
//!
//! - [`claim`]: who asks, who holds, what an error says
//! - [`queue`]: who comes next

mod claim;
mod queue;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::Thread;
use std::time::Duration;

use parking_lot::Mutex;
use smallvec::SmallVec;

pub use claim::{Access, Actor, Claim, Holder, LaneError, Refused};
use queue::{Queue, Verdict};

use crate::store::FileId;
use crate::support::clock;
use crate::support::runtime::PerProcess;

/// How often a blocked caller looks whether it is to stop.
const CHECK: Duration = Duration::from_millis(50);

/// Which database a lane belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    File(FileId),
    /// A named database in memory.
    Memory(String),
}

type Registry = Mutex<HashMap<Key, Weak<Lane>>>;

static LANES: PerProcess<Registry> = PerProcess::new();

/// The lane of the database; a new one if nobody in this process has it. A forked child starts without any.
pub fn of(key: Key) -> Arc<Lane> {
    let mut lanes = LANES.get(|_| Mutex::default()).lock();
    if let Some(lane) = lanes.get(&key).and_then(Weak::upgrade) {
        return lane;
    }
    let lane = Arc::new(Lane::new(key.clone()));
    lanes.insert(key, Arc::downgrade(&lane));
    lane
}

/// The queue in front of one database.
pub struct Lane {
    key: Key,
    queue: Mutex<Queue<Wake>>,
}

/// What is done for a waiter when its turn has come, without any lock held.
enum Wake {
    Thread(Arc<Parked>),
    Call(Box<dyn FnOnce() + Send>),
}

struct Parked {
    granted: AtomicBool,
    thread: Thread,
}

impl Wake {
    fn up(self) {
        match self {
            Self::Thread(parked) => {
                parked.granted.store(true, Ordering::Release);
                parked.thread.unpark();
            }
            Self::Call(callback) => callback(),
        }
    }
}

/// How [`Lane::enqueue`] ended.
pub enum Enqueued {
    /// The connection has the lane; the callback was dropped.
    Granted,
    /// The callback will be called when it has.
    Waiting(Ticket),
}

/// A place in the queue, given up when dropped.
pub struct Ticket {
    lane: Arc<Lane>,
    number: u64,
}

impl Ticket {
    /// Gives the place up. Returns false if the turn has come already: then the connection has the lane.
    pub fn cancel(&self) -> bool {
        self.lane.withdraw(self.number)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.lane.withdraw(self.number);
    }
}

impl Lane {
    fn new(key: Key) -> Self {
        Self { key, queue: Mutex::default() }
    }

    /// Takes the lane if nobody has it and nobody waits. A connection that has it already succeeds, too. A task is
    /// taken for one that would await its turn, a thread for one that would block.
    #[inline]
    pub fn try_take(&self, claim: &Claim<'_>) -> Result<(), Refused> {
        let mut queue = self.queue.lock();
        match queue.judge(claim, claim.actor.task == 0) {
            Verdict::Free => {
                let next = queue.admit(claim);
                drop(queue);
                wake(next);
                Ok(())
            }
            Verdict::Had => Ok(()),
            Verdict::Wait => Err(Refused::Busy),
            Verdict::Never(refused) => Err(refused),
        }
    }

    /// Whether a claim would wait for itself, for one who lets another take the lane. `blocking`: it stops its thread.
    pub fn check(&self, claim: &Claim<'_>, blocking: bool) -> Result<(), LaneError> {
        self.queue.lock().check(claim, blocking).map_err(never)
    }

    /// Takes the lane, waiting for it if need be until `deadline` (on the scale of [`clock::now`]).
    ///
    /// `stop` is asked now and then while waiting, with no lock held; the place in the queue is kept meanwhile.
    pub fn take(
        &self,
        claim: &Claim<'_>,
        deadline: Option<u64>,
        mut stop: impl FnMut() -> bool,
    ) -> Result<(), LaneError> {
        let mut parked = None;
        let joined = self.join(claim, true, || {
            let new = Arc::new(Parked { granted: AtomicBool::new(false), thread: std::thread::current() });
            Wake::Thread(Arc::clone(parked.insert(new)))
        });
        let (Joined::Waiting { number, reads }, Some(parked)) = (joined.map_err(never)?, parked) else {
            return Ok(());
        };
        // Left also if `stop` unwinds.
        let place = Place { lane: self, number };
        loop {
            let left = deadline.map(|deadline| deadline.saturating_sub(clock::now()));
            if parked.granted.load(Ordering::Acquire) {
                return Ok(());
            }
            if left == Some(0) {
                let holder = self.queue.lock().holder_before(claim).cloned().map(Box::new);
                // The turn may have come at the last moment.
                return if place.leave() { Err(LaneError::Timeout(holder)) } else { Ok(()) };
            }
            std::thread::park_timeout(left.map_or(CHECK, |left| CHECK.min(Duration::from_nanos(left))));
            if !parked.granted.load(Ordering::Acquire) && stop() {
                if !place.leave() {
                    // It was granted after all; back to what the connection had.
                    match reads {
                        true => self.downgrade(claim.connection),
                        false => self.give_back(claim.connection),
                    }
                }
                return Err(LaneError::Interrupted);
            }
        }
    }

    /// Takes the lane, or a place in the queue: `callback` is called once the connection has the lane, by the thread that
    /// gave it back, with no lock of the lane held. It must be quick.
    pub fn enqueue(
        self: &Arc<Self>,
        claim: &Claim<'_>,
        callback: impl FnOnce() + Send + 'static,
    ) -> Result<Enqueued, LaneError> {
        Ok(match self.join(claim, false, || Wake::Call(Box::new(callback))).map_err(never)? {
            Joined::Granted => Enqueued::Granted,
            Joined::Waiting { number, .. } => Enqueued::Waiting(Ticket { lane: Arc::clone(self), number }),
        })
    }

    /// The connection's transaction is over: the next one's turn. Does nothing if the connection does not have the lane.
    #[inline]
    pub fn give_back(&self, connection: u64) {
        let next = self.queue.lock().give_back(connection);
        wake(next);
    }

    /// The connection is used on behalf of somebody else from now on. Does nothing if it does not have the lane.
    pub fn pass_to(&self, connection: u64, actor: Actor) {
        self.queue.lock().pass_to(connection, actor);
    }

    /// The connection only reads from now on. For databases in memory.
    pub fn downgrade(&self, connection: u64) {
        let next = self.queue.lock().downgrade(connection);
        wake(next);
    }

    /// Who has the lane; of several readers the first.
    pub fn holder(&self) -> Option<Holder> {
        self.queue.lock().holder().cloned()
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.queue.lock().waiting()
    }

    fn join(&self, claim: &Claim<'_>, blocking: bool, make: impl FnOnce() -> Wake) -> Result<Joined, Refused> {
        let mut queue = self.queue.lock();
        match queue.judge(claim, blocking) {
            Verdict::Free => {
                let next = queue.admit(claim);
                drop(queue);
                wake(next);
                Ok(Joined::Granted)
            }
            Verdict::Had => Ok(Joined::Granted),
            Verdict::Wait => {
                let reads = queue.reads(claim.connection);
                Ok(Joined::Waiting { number: queue.push(claim, make()), reads })
            }
            Verdict::Never(refused) => Err(refused),
        }
    }

    /// Takes a waiter out of the queue; false if it is not there any more.
    fn withdraw(&self, number: u64) -> bool {
        let mut queue = self.queue.lock();
        let left = queue.withdraw(number);
        // Those behind it may have waited for it only.
        let next = if left.is_some() { queue.advance() } else { SmallVec::new() };
        drop(queue);
        wake(next);
        left.is_some()
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(lanes) = LANES.peek() {
            let mut lanes = lanes.lock();
            if lanes.get(&self.key).is_some_and(|lane| lane.strong_count() == 0) {
                lanes.remove(&self.key);
            }
        }
    }
}

enum Joined {
    Granted,
    /// With the number of its place, and whether the connection reads meanwhile.
    Waiting {
        number: u64,
        reads: bool,
    },
}

/// The place of a blocked thread in the queue.
struct Place<'a> {
    lane: &'a Lane,
    number: u64,
}

impl Place<'_> {
    fn leave(&self) -> bool {
        self.lane.withdraw(self.number)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

#[inline]
fn wake(next: SmallVec<[Wake; 1]>) {
    if next.is_empty() {
        return;
    }
    for wake in next {
        wake.up();
    }
}

fn never(refused: Refused) -> LaneError {
    match refused {
        Refused::Busy => LaneError::Timeout(None),
        Refused::SelfWait(holder) => LaneError::SelfWait(holder),
        Refused::Stalemate(holder) => LaneError::Stalemate(holder),
    }
}
