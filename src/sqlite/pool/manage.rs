//! What a pool asks of those who know its connections.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{clock, runtime};

/// What a look at a connection found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Good,
    /// Someone else has the database locked. That says nothing against the connection.
    Busy,
    Bad,
}

pub type Job = Box<dyn FnOnce() + Send>;

/// Opens, checks and closes the connections of a pool. No method is called with a lock of the pool held, so each may
/// block and may use the pool.
pub trait Manage: Send + Sync + 'static {
    type Connection: Send + Sync + 'static;
    type Error: Send + Sync + 'static;
    /// Where a connection was borrowed, to be told when it is not returned. Opaque to the pool.
    type Origin: Send + Sync + 'static;

    /// Opens a connection; whoever waits for it gives up at `until`.
    fn connect(&self, until: Option<Instant>) -> Result<Self::Connection, Self::Error>;

    /// A round of maintenance begins.
    fn survey(&self) {}

    /// Makes a returned connection as it was when it was opened; false if it is not fit to be lent again.
    fn reset(&self, connection: &Self::Connection) -> bool;

    /// Looks whether an idle connection still works. It may be lent while this runs, so the look has to keep others out
    /// of the connection by its own means, and then do nothing unless `is_idle()`.
    fn check(&self, connection: &Self::Connection, is_idle: &dyn Fn() -> bool) -> Health;

    /// Closes a connection that nobody has borrowed. Somebody may use it all the same; it must not wait for them for long.
    fn close(&self, connection: &Self::Connection);

    /// Ends what another thread executes on a connection that was lent, as soon as it can. It may be on its way back, or
    /// closed by now.
    fn interrupt(&self, connection: &Self::Connection);

    /// A connection was borrowed longer ago than the settings allow; called once for each borrow.
    fn overdue(&self, connection: &Self::Connection, origin: Option<Arc<Self::Origin>>, held: Duration);

    /// Monotonic nanoseconds.
    fn now(&self) -> u64 {
        clock::now()
    }

    /// Runs `job` after `delay`, in the background.
    fn later(&self, delay: Duration, job: Job) -> io::Result<()> {
        if delay.is_zero() { runtime::spawn_blocking(job) } else { runtime::after(delay, job) }
    }
}
