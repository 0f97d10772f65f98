//! Durable tasks in an SQLite file: queued, claimed under a lease, run, recorded.
//!
//! - [`state`]: what may become of a task
//! - [`schema`], [`store`]: tables and statements, and how they are used
//! - [`identity`]: which process a manager belongs to, and whether it lives
//! - [`crew`]: workers waiting for tasks
//! - [`watch`]: what is looked after in the background
//!
//! A task belongs to the manager that queued it. When that is gone, others take over: what it was running counts as a
//! crash. A claim carries a token; a record with the token of an earlier claim changes nothing.

pub mod crew;
pub mod identity;
pub mod schema;
pub mod state;
pub mod store;
mod watch;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

pub use crate::sqlite::group::{Caller, Durability, WriteError};
pub use crate::sqlite::lane::Actor;
use crate::support::{clock, random};
use crew::{Crew, Turn};
pub use store::{Done, End, New, Options, Store, Task};
use watch::Watch;

/// How long a worker waits after a statement failed, at first and at most.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Tries to record a result once the workers have been told to stop.
const LAST_TRIES: u32 = 3;
const BIG: i32 = crate::sqlite::raw::SQLITE_TOOBIG;

/// How a handler ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    Returned { result: String },
    Raised { error: String, retries: u32, backoff: f64 },
}

/// A manager's tasks and workers.
pub struct Core {
    store: Store,
    crew: Crew,
    watch: Mutex<Watch>,
    /// Runs that were recorded; those who wait for one sleep on the condition.
    recorded: (Mutex<u64>, Condvar),
    /// Upkeep has begun.
    is_watched: AtomicBool,
    closed: AtomicBool,
}

impl Core {
    pub fn open(path: &Path, options: &Options) -> Result<Arc<Self>, WriteError> {
        Ok(Arc::new(Self {
            store: Store::open(path, options)?,
            crew: Crew::new(),
            watch: Mutex::default(),
            recorded: (Mutex::new(0), Condvar::new()),
            is_watched: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }))
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn crew(&self) -> &Crew {
        &self.crew
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Queues a task; `None` if its key was used before. [`keep_watch`](Self::keep_watch) comes before the first one, and
    /// [`promote`](Self::promote) follows one that is delayed: these may wait for others, while the caller of this may be
    /// told when it has to let go of what others wait for.
    pub fn enqueue(
        &self,
        new: New,
        actor: Actor,
        deadline: Option<u64>,
        caller: impl Caller,
    ) -> Result<Option<i64>, WriteError> {
        let id = self.store.enqueue(new, actor, deadline, caller)?;
        self.crew.tell();
        Ok(id)
    }

    /// The same for many, all or none. See [`Store::enqueue_many`].
    pub fn enqueue_many(
        &self,
        tasks: String,
        actor: Actor,
        deadline: Option<u64>,
        caller: impl Caller,
    ) -> Result<Vec<i64>, WriteError> {
        let ids = self.store.enqueue_many(tasks, actor, deadline, caller)?;
        self.crew.tell();
        Ok(ids)
    }

    /// Lets workers run; returns after a first look for what others left behind.
    pub fn start(self: &Arc<Self>) -> Result<(), WriteError> {
        self.keep_watch();
        self.recover(false, false)?;
        self.crew.start();
        Ok(())
    }

    /// For a worker: records how its last task ended and waits for the next one. `None`: it is to leave.
    pub fn next(self: &Arc<Self>, worker: u64, ended: Option<(&Task, Ended)>) -> Option<Task> {
        let mut done = ended.map(|(task, ended)| Done {
            task: task.id,
            token: task.token,
            rank: task.rank,
            end: end_of(task, ended),
        });
        let (mut pause, mut tries) = (PAUSE, 0);
        loop {
            let news = match &done {
                Some(_) => self.crew.goes_on(worker),
                None => match self.crew.wait(worker) {
                    Turn::Search(news) => Some(news),
                    Turn::Leave => return None,
                },
            };
            match self.store.step(worker, done.as_ref(), news.is_some()) {
                Ok(step) => {
                    if let Some(done) = done.take() {
                        self.recorded(worker, &done, step.recorded);
                    }
                    if let Some(news) = news {
                        self.crew.found(worker, news, step.task.is_some());
                    }
                    if step.task.is_some() {
                        return step.task;
                    }
                    (pause, tries) = (PAUSE, 0);
                }
                Err(error) => {
                    if is_too_big(&error) {
                        if let Some(done) = &mut done {
                            done.end = End::Failed { error: error.to_string() };
                        }
                    }
                    tries += 1;
                    if self.is_closed() || (!self.crew.is_running() && tries >= LAST_TRIES) {
                        if let Some(done) = &done {
                            log::error!(
                                target: "upshift.tasks",
                                "how task {} ended could not be recorded, it will be run again: {error}", done.task
                            );
                        }
                        return None;
                    }
                    if tries == 1 {
                        log::warn!(target: "upshift.tasks", "the task store is tried again: {error}");
                    }
                    self.crew.pause(worker, pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    fn recorded(self: &Arc<Self>, worker: u64, done: &Done, recorded: bool) {
        self.crew.ended(worker);
        *self.recorded.0.lock() += 1;
        self.recorded.1.notify_all();
        if !recorded {
            log::warn!(
                target: "upshift.tasks",
                "task {} was taken away from its worker, or changed, while it ran; how it ended is not recorded", done.task
            );
        } else if let End::Again { .. } = done.end {
            self.promote();
        }
    }

    /// Runs that were recorded by now.
    pub fn runs(&self) -> u64 {
        *self.recorded.0.lock()
    }

    /// Waits up to `timeout` for another run to be recorded, after the first `seen`.
    pub fn wait_for_run(&self, seen: u64, timeout: Duration) {
        let mut runs = self.recorded.0.lock();
        if *runs == seen {
            self.recorded.1.wait_for(&mut runs, timeout);
        }
    }

    /// A worker cannot run its task after all; it belongs to nobody here any more.
    pub fn give_away(&self, worker: u64, task: &Task) -> Result<bool, WriteError> {
        let given = self.store.give_back(task.id, task.token, true);
        self.crew.ended(worker);
        given
    }

    /// Takes over what dead managers left, and rows of foreign SQL. `all`: also types without a handler here. `legacy`:
    /// also what was in the file before upshift first opened it. Returns how many tasks were taken over.
    pub fn recover(&self, all: bool, legacy: bool) -> Result<usize, WriteError> {
        self.store.reconcile(legacy)?;
        self.bury_the_dead(true)?;
        let adopted = self.store.adopt(all || legacy)?;
        if adopted > 0 {
            self.crew.tell();
        }
        Ok(adopted)
    }

    /// Ends the use of the file; what is queued is for others. Idempotent.
    pub fn close(&self, timeout: Duration, gives_back: bool) -> bool {
        if self.closed.swap(true, Ordering::Relaxed) || !self.store.is_ours() {
            return true;
        }
        self.crew.stop(Duration::ZERO);
        if let Err(error) = self.store.leave(gives_back) {
            // Others will find out by themselves.
            log::warn!(target: "upshift.tasks", "leaving the task store failed: {error}");
        }
        self.store.close(timeout)
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.close(Duration::from_secs(2), true);
    }
}

fn end_of(task: &Task, ended: Ended) -> End {
    match ended {
        Ended::Returned { result } => End::Completed(result),
        Ended::Raised { error, retries, backoff } => {
            let past = state::Past { failures: task.failures, crashes: 0 };
            let caps = state::Caps { retries, ..state::Caps::default() };
            match state::after(state::Status::Running, state::Event::Raised, past, caps) {
                Some(state::Status::Queued) => {
                    let wait = state::backoff(backoff, task.failures, random::unit());
                    End::Again { error, due: clock::epoch_micros() + (wait * 1e6) as i64 }
                }
                _ => End::Failed { error },
            }
        }
    }
}

fn is_too_big(error: &WriteError) -> bool {
    matches!(error, WriteError::Sqlite(failure) if failure.primary() == BIG)
}
