//! What the pool's engine asks of the binding: opens, checks, cleans and closes connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use super::connection::{self, Connection, look};
use super::row::RowFactory;
use super::transaction::{self, Autocommit, Isolation};
use super::write::Writes;
use super::{convert::Text, errors as sqlite_errors, gil};
use crate::py::{errors, hang};
use crate::sqlite::opener::{self, BUSY_TIMEOUT, Opener};
use crate::sqlite::pool::{self, Health, Manage};
use crate::sqlite::{Db, Entered, Failure, raw};
use crate::store::{self, FileId};
use crate::support::clock::{self, NEVER};
use crate::support::sync::AttachedCell;

/// A connection of a pool.
pub struct Held {
    pub object: Py<Connection>,
    /// The database that was opened; the object may have been opened again by a user.
    pub db: Arc<Db>,
    /// Which file it was, of those that had the name one after the other.
    pub epoch: u32,
}

/// Why there is no connection.
pub enum Unopened {
    Refused(Failure),
    /// By `on_connect`.
    Raised(Py<PyBaseException>),
}

impl Unopened {
    pub fn error(&self, py: Python<'_>) -> PyErr {
        match self {
            Self::Refused(failure) => sqlite_errors::of_failure(py, failure),
            Self::Raised(raised) => PyErr::from_value(raised.bind(py).clone().into_any()),
        }
    }

    /// What it says, for another error's message.
    pub fn text(&self, py: Python<'_>) -> String {
        match self {
            Self::Refused(failure) => failure.to_string(),
            Self::Raised(_) => format!("on_connect raised {}", self.error(py)),
        }
    }

    /// No memory, or the interpreter is gone.
    fn no_memory() -> Self {
        Self::Refused(Failure::of_code(raw::SQLITE_NOMEM))
    }
}

impl From<Failure> for Unopened {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure)
    }
}

/// Who borrowed a connection, and where.
pub struct Origin {
    pub thread: String,
    /// A `traceback.StackSummary`.
    pub stack: Py<PyAny>,
}

/// Between looks at the file behind the path, in nanoseconds: so long a deleted or replaced one may go unnoticed.
const LOOK: u64 = 1_000_000_000;

pub struct Keeper {
    pub opener: Opener,
    /// What was found behind the path the last time.
    seen: Mutex<Option<FileId>>,
    /// How often that changed.
    epoch: AtomicU32,
    /// When to look again, on the coarse clock.
    next_look: AtomicU64,
    /// Borrowers tell where they are.
    watches_leaks: bool,
    /// Called with each new connection.
    pub on_connect: AttachedCell<Option<Py<PyAny>>>,
    /// What `write()` writes with.
    pub writes: Writes,
}

impl Keeper {
    pub fn new(opener: Opener, watches_leaks: bool, on_connect: Option<Py<PyAny>>) -> Self {
        // What is in memory cannot be replaced.
        let next_look = AtomicU64::new(if opener.file().is_some() { 0 } else { NEVER });
        let (seen, epoch) = (Mutex::new(None), AtomicU32::new(0));
        let on_connect = AttachedCell::new(on_connect);
        Self { opener, seen, epoch, next_look, watches_leaks, on_connect, writes: Writes::default() }
    }

    #[inline(always)]
    pub fn watches_leaks(&self) -> bool {
        self.watches_leaks
    }

    /// Opens a connection, and lets `on_connect` set it up. To be called without a lock.
    pub fn open(&self, until: Option<Instant>) -> Result<Held, Unopened> {
        let db = self.opener.open(until)?;
        let epoch = self.note(db.file_id().cloned());
        let opened = Python::try_attach(|py| {
            let object = Connection::pooled(py, &db, BUSY_TIMEOUT).map_err(|_| Unopened::no_memory())?;
            let held = Held { object, db: Arc::clone(&db), epoch };
            self.set_up(py, &held).map(|()| held).map_err(|error| Unopened::Raised(error.into_value(py)))
        });
        opened.unwrap_or_else(|| Err(Unopened::no_memory()))
    }

    fn set_up(&self, py: Python<'_>, held: &Held) -> PyResult<()> {
        let on_connect = self.on_connect.with(py, |found| found.as_ref().map(|found| found.clone_ref(py)));
        let Some(on_connect) = on_connect else { return Ok(()) };
        let arguments = (held.object.clone_ref(py),).into_pyobject(py)?;
        let outcome = hang::call(on_connect.bind(py), &arguments, None).and_then(|_| {
            if make_ready(py, held) {
                return Ok(());
            }
            Err(sqlite_errors::programming(py, "on_connect closed the connection, or left it in use"))
        });
        if outcome.is_err() {
            // Refused if a statement of it still runs; then it ends when that does.
            drop(connection::close(py, held.object.bind(py), &held.db));
        }
        outcome
    }

    /// Notes what is behind the path now.
    pub fn note(&self, found: Option<FileId>) -> u32 {
        let mut seen = self.seen.lock();
        if *seen != found {
            *seen = found;
            self.epoch.fetch_add(1, Ordering::Relaxed);
        }
        self.epoch.load(Ordering::Relaxed)
    }

    /// Which file has the path, of those that had it one after the other.
    #[inline(always)]
    pub fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// Looks what is behind the path if the last look was a while ago; true if that has changed.
    #[inline(always)]
    pub fn glance(&self) -> bool {
        let now = clock::coarse();
        now >= self.next_look.load(Ordering::Relaxed) && self.look(now)
    }

    #[cold]
    fn look(&self, now: u64) -> bool {
        self.next_look.store(now.saturating_add(LOOK), Ordering::Relaxed);
        let before = self.epoch();
        self.survey();
        self.epoch() != before
    }

    /// For the garbage collector, which runs attached.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: as the caller says.
        #[allow(unsafe_code)]
        let visited = unsafe {
            self.on_connect.try_with_unchecked(|found| match found {
                Some(on_connect) => visit.call(&*on_connect),
                None => Ok(()),
            })
        };
        visited.unwrap_or(Ok(()))?;
        self.writes.traverse(visit)
    }

    /// The same.
    pub fn clear(&self) {
        // SAFETY: as the caller says.
        #[allow(unsafe_code)]
        let gone = unsafe { self.on_connect.try_with_unchecked(Option::take) };
        drop(gone);
    }

    /// The file of the connection was deleted, or replaced by another.
    fn is_outdated(&self, held: &Held) -> bool {
        held.epoch != self.epoch()
    }
}

impl Manage for Keeper {
    type Connection = Held;
    type Error = Unopened;
    type Origin = Origin;

    fn connect(&self, until: Option<Instant>) -> Result<Held, Unopened> {
        self.open(until)
    }

    fn survey(&self) {
        if let Some(path) = self.opener.file() {
            self.note(store::id_of(path));
        }
    }

    fn reset(&self, held: &Held) -> bool {
        !self.is_outdated(held) && Python::try_attach(|py| make_ready(py, held)).unwrap_or(false)
    }

    fn check(&self, held: &Held, is_idle: &dyn Fn() -> bool) -> Health {
        if self.is_outdated(held) {
            return Health::Bad;
        }
        // Somebody who kept the raw connection is using it.
        let Some(entered) = held.db.try_enter() else { return Health::Busy };
        if !is_idle() {
            return Health::Good;
        }
        if !held.db.is_open() {
            return Health::Bad;
        }
        // Nobody is waited for while others wait for this connection.
        gil::set_busy_timeout(&entered, Duration::ZERO);
        let code = opener::read_schema(&entered);
        gil::set_busy_timeout(&entered, BUSY_TIMEOUT);
        match code {
            raw::SQLITE_OK => Health::Good,
            raw::SQLITE_BUSY | raw::SQLITE_LOCKED | raw::SQLITE_INTERRUPT | raw::SQLITE_NOMEM | raw::SQLITE_AUTH => {
                Health::Busy
            }
            _ => Health::Bad,
        }
    }

    fn close(&self, held: &Held) {
        if !held.db.is_ours() {
            return;
        }
        let closed = Python::try_attach(|py| {
            // Whoever kept the raw connection may be inside.
            let entered = held.db.try_enter();
            let entered = entered.or_else(|| connection::detached(py, || held.db.enter_by_force(USER_PATIENCE)));
            // It ends when nobody refers to it any more.
            let Some(entered) = entered else { return };
            opener::spare_log_if_moved(&entered);
            // Refused if one of its statements is running further up on this thread. Then it is closed when that has ended
            // and nobody refers to it any more.
            drop(connection::close(py, held.object.bind(py), &held.db));
        });
        if closed.is_none() {
            if let Some(entered) = held.db.enter_by_force(USER_PATIENCE) {
                opener::spare_log_if_moved(&entered);
                entered.close();
            }
        }
    }

    fn interrupt(&self, held: &Held) {
        held.db.interrupt();
    }

    fn overdue(&self, held: &Held, origin: Option<Arc<Origin>>, held_for: Duration) {
        Python::try_attach(|py| {
            let told = (|| {
                let origin = origin.as_ref().map(|origin| (origin.thread.as_str(), origin.stack.clone_ref(py)));
                let path = self.opener.file().map(|path| path.to_string_lossy().into_owned());
                let module = py.import("upshift.sqlite._pool")?;
                let arguments = (path, held.db.id(), held_for.as_secs_f64(), origin);
                hang::method(module.as_any(), "_report_overdue", arguments, None)
            })();
            if let Err(error) = told {
                errors::log_error(py, "upshift.sqlite", "reporting an overdue connection failed", &error);
            }
        });
    }
}

/// Whether an idle connection can be lent. Somebody who kept the raw one may have closed it; a transaction that he left
/// open is rolled back.
#[inline]
pub fn is_fit(py: Python<'_>, held: &Held) -> bool {
    if !held.db.is_open() {
        return false;
    }
    let is_left_open = held.db.try_look().is_some_and(|entered| held.db.is_open() && entered.in_transaction());
    !is_left_open || make_ready(py, held)
}

/// Ends what the borrower left open and undoes what it set; false if the connection is not fit to be lent again.
#[inline]
fn make_ready(py: Python<'_>, held: &Held) -> bool {
    let object = held.object.bind(py);
    let Ok(entered) = look(py, &held.db) else { return false };
    if entered.is_busy() {
        // Returned by a function that one of its statements calls, or in the middle of a backup.
        return false;
    }
    // A transaction that was begun and has done nothing yet does not show in the use of the database.
    if entered.is_in_use() || entered.in_transaction() {
        entered.no_read();
        let stepping = gil::Stepping::begin(py, &entered, true);
        entered.close_blobs();
        opener::reset_statements(&entered);
        drop(stepping);
        entered.settle_lane();
        if entered.in_transaction() {
            transaction::rollback_quietly(py, &held.db);
        }
        if entered.is_in_use() || entered.in_transaction() {
            return false;
        }
    }
    let this = object.get();
    let is_standard = this.state.with(py, |state| {
        // Cursors of this borrower are of no use to anybody from now on.
        state.loan += 1;
        state.isolation == Isolation::Off
            && state.autocommit == Autocommit::Legacy
            && matches!(state.row_factory, RowFactory::Row(_))
            && matches!(state.text, Text::Str)
            && state.busy_timeout == BUSY_TIMEOUT
            && state.db.as_ref().is_some_and(|db| Arc::ptr_eq(db, &held.db))
    });
    is_standard || restore(py, this, held, &entered)
}

#[cold]
fn restore(py: Python<'_>, this: &Connection, held: &Held, entered: &Entered<'_>) -> bool {
    let row_factory = standard_row_factory(py);
    let gone = this.state.with(py, |state| {
        state.isolation = Isolation::Off;
        state.autocommit = Autocommit::Legacy;
        state.busy_timeout = BUSY_TIMEOUT;
        let row_factory = std::mem::replace(&mut state.row_factory, row_factory);
        let text = std::mem::replace(&mut state.text, Text::Str);
        (row_factory, text, state.db.as_ref().is_some_and(|db| Arc::ptr_eq(db, &held.db)))
    });
    entered.no_read();
    gil::set_busy_timeout(entered, BUSY_TIMEOUT);
    // What was set may have a `__del__`.
    let (row_factory, text, is_same) = gone;
    drop((row_factory, text));
    is_same
}

fn standard_row_factory(py: Python<'_>) -> RowFactory {
    RowFactory::Row(py.get_type::<super::row::Row>().into_any().unbind())
}

impl Connection {
    /// A connection of a pool: for any thread, each statement commits by itself, rows have names.
    fn pooled(py: Python<'_>, db: &Arc<Db>, busy_timeout: Duration) -> PyResult<Py<Self>> {
        let mut state = connection::State::new();
        state.db = Some(Arc::clone(db));
        state.isolation = Isolation::Off;
        state.row_factory = standard_row_factory(py);
        state.statements = crate::sqlite::statements::Statements::new(STATEMENTS);
        state.busy_timeout = busy_timeout;
        state.initialised = true;
        state.is_pooled = true;
        gil::install(&db.enter(), busy_timeout);
        Py::new(py, Self { state: AttachedCell::new(state) })
    }
}

/// How long a connection of the pool's own is not closed because somebody uses it who has given it back.
const USER_PATIENCE: Duration = Duration::from_secs(1);
/// Compiled statements kept per connection.
const STATEMENTS: usize = 128;

pub type Core = pool::Pool<Keeper>;
pub type Lease = pool::Lease<Held>;
