//! One write of a group: what is asked for, and what became of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;

use parking_lot::Mutex;

use crate::sqlite::Failure;
use crate::sqlite::lane::{Actor, Holder, LaneError};

/// What a finished write survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The end of the process, also by `kill -9`.
    Process,
    /// Also a power loss.
    Power,
}

/// An SQL value that nobody else owns.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Integer(i64),
    Real(f64),
    /// UTF-8 when bound; what is read back may be anything.
    Text(Box<[u8]>),
    Blob(Box<[u8]>),
    /// Cannot be bound; the reason is the error of the statement that tries.
    Unusable(Box<str>),
}

/// What is bound to a statement.
#[derive(Clone, Debug)]
pub enum Params {
    Positional(Vec<Value>),
    /// By name, without the character it begins with in the statement. There may be more than the statement uses.
    Named(Vec<(Box<str>, Value)>),
}

/// A write.
#[derive(Clone, Debug)]
pub struct Request {
    pub sql: Arc<str>,
    pub params: Params,
    pub durability: Durability,
    /// Who asks, to notice who would wait for itself.
    pub actor: Actor,
}

impl Request {
    pub(super) fn bytes(&self) -> usize {
        let value = |value: &Value| match value {
            Value::Text(bytes) | Value::Blob(bytes) => bytes.len() + size_of::<Value>(),
            _ => size_of::<Value>(),
        };
        let values: usize = match &self.params {
            Params::Positional(values) => values.iter().map(value).sum(),
            Params::Named(values) => values.iter().map(|(_, named)| value(named)).sum(),
        };
        values + size_of::<Self>()
    }
}

/// A write that is on the disk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Written {
    /// Rows changed; -1 for a statement that is no INSERT, UPDATE, DELETE or REPLACE.
    pub rowcount: i64,
    /// Of the row that an INSERT added.
    pub last_rowid: Option<i64>,
    /// Names of the columns of `rows`.
    pub columns: Vec<Box<str>>,
    /// What RETURNING, or a query, returned.
    pub rows: Vec<Vec<Value>>,
}

/// A write that is not on the disk.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    /// SQLite refused the statement, or the transaction that carried it.
    #[error(transparent)]
    Sqlite(#[from] Failure),
    /// The statement has no place in a group, or its parameters do not fit.
    #[error("{0}")]
    Misused(String),
    /// Its turn did not come.
    #[error(transparent)]
    Lane(#[from] LaneError),
    #[error("Cannot operate on a closed database.")]
    Closed,
}

impl WriteError {
    pub(super) fn timeout(holder: Option<Holder>) -> Self {
        Self::Lane(LaneError::Timeout(holder.map(Box::new)))
    }
}

pub type Outcome = Result<Written, WriteError>;

/// Who waits for a request. Dropped unanswered, it says that the write was given up.
pub(super) struct Reply(Option<To>);

enum To {
    Thread(Arc<Slot>),
    Call(Box<dyn FnOnce(Outcome) + Send>),
}

impl Reply {
    pub fn to_thread(slot: Arc<Slot>) -> Self {
        Self(Some(To::Thread(slot)))
    }

    pub fn call(callback: impl FnOnce(Outcome) + Send + 'static) -> Self {
        Self(Some(To::Call(Box::new(callback))))
    }

    pub fn send(mut self, outcome: Outcome) {
        self.deliver(outcome);
    }

    /// Nobody waits any more.
    pub fn forget(mut self) {
        drop(self.0.take());
    }

    /// The thread that waits, if it is one.
    pub fn slot(&self) -> Option<&Arc<Slot>> {
        match &self.0 {
            Some(To::Thread(slot)) => Some(slot),
            _ => None,
        }
    }

    fn deliver(&mut self, outcome: Outcome) {
        match self.0.take() {
            Some(To::Thread(slot)) => slot.answer(outcome),
            Some(To::Call(callback)) => callback(outcome),
            None => {}
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.deliver(Err(WriteError::Closed));
    }
}

/// Where a blocked thread finds its answer.
pub(super) struct Slot {
    thread: Thread,
    outcome: Mutex<Option<Outcome>>,
    /// It is to commit the next group.
    leads: AtomicBool,
}

impl Slot {
    pub fn new() -> Arc<Self> {
        let thread = std::thread::current();
        Arc::new(Self { thread, outcome: Mutex::new(None), leads: AtomicBool::new(false) })
    }

    fn answer(&self, outcome: Outcome) {
        *self.outcome.lock() = Some(outcome);
        self.thread.unpark();
    }

    pub fn take(&self) -> Option<Outcome> {
        self.outcome.lock().take()
    }

    pub fn is_answered(&self) -> bool {
        self.outcome.lock().is_some()
    }

    /// Makes the thread the next leader.
    pub fn lead(&self) {
        self.leads.store(true, Ordering::Release);
        self.thread.unpark();
    }

    pub fn leads(&self) -> bool {
        self.leads.load(Ordering::Acquire)
    }
}
