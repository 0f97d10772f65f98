//! One shared instance per file and process, the handles on it, and what happens at a fork.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::coherence::{self, Cursor};
use super::shared::{Seat, Shared};
use super::{Durability, Options, PersistError, Result, lease, schema};
use crate::store::{self, Connection, FileId, Reader};
use crate::support::runtime::{PerProcess, pid};

type Files = HashMap<FileId, Entry>;

/// The files this process has open, so that it never has two instances of one.
#[derive(Default)]
struct Registry {
    /// Held while a file is opened.
    files: Mutex<Files>,
    /// A file was closed.
    closed: Condvar,
}

struct Entry {
    path: PathBuf,
    shared: Weak<Shared>,
    /// Its last handle is writing what is left. Whoever opens the file waits, to find everything written.
    closing: bool,
}

static REGISTRY: PerProcess<Registry> = PerProcess::new();

static HANDLES: AtomicU64 = AtomicU64::new(0);

/// How long a fork waits for a commit under way.
const FORK_PATIENCE: Duration = Duration::from_secs(1);

/// What one `open` returned: the file and this opener's options, in whichever process it is used.
pub(super) struct Handle {
    path: PathBuf,
    options: Options,
    closed: AtomicBool,
    tier: PerProcess<Attached>,
}

/// A handle's tie to the shared instance of its process.
pub(super) struct Tier {
    pub shared: Arc<Shared>,
    /// Names the handle among those of the process.
    pub id: u64,
    pub cursor: Cursor,
}

/// Leaked in a forked child: the parent's threads may have been at work on it when the child was made.
struct Attached {
    pid: u32,
    tier: Option<Tier>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        if self.pid != pid() {
            std::mem::forget(self.tier.take());
        }
    }
}

impl Handle {
    pub fn open(path: &Path, options: Options) -> Result<Self> {
        Ok(Self::with(attach(path, options, None)?, path, options))
    }

    /// A handle on an instance of its own, as in another process.
    pub fn open_apart(path: &Path, options: Options) -> Result<Self> {
        let (resolved, id) = store::prepare(path)?;
        let tier = tie(open_shared(&resolved, id)?, options, None)?;
        Ok(Self::with(tier, path, options))
    }

    fn with(tier: Tier, path: &Path, options: Options) -> Self {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let handle = Self { path, options, closed: AtomicBool::new(false), tier: PerProcess::new() };
        handle.tier.get(|_| Attached { pid: pid(), tier: Some(tier) });
        handle
    }

    pub fn options(&self) -> Options {
        self.options
    }

    /// The tie of this process, made anew in a forked child.
    pub fn tier(&self) -> Result<&Tier> {
        if self.closed.load(Ordering::Acquire) {
            return Err(PersistError::Closed);
        }
        let mut failed = None;
        let attached = self.tier.get(|parent| {
            // What others changed since the fork is still to be read.
            let position = parent.and_then(|parent| parent.tier.as_ref()).map(|tier| tier.cursor.stored());
            let tier = attach(&self.path, self.options, position);
            Attached { pid: pid(), tier: tier.map_err(|error| failed = Some(error)).ok() }
        });
        if let Some(error) = failed {
            log::warn!(target: "upshift.cache", "disk tier not available after fork: {error}");
        }
        attached.tier.as_ref().ok_or(PersistError::Closed)
    }

    pub fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let Some(Attached { tier: Some(tier), .. }) = self.tier.peek() else {
            return;
        };
        let files = registry().files.lock();
        let mut state = tier.shared.state.lock();
        state.handles -= 1;
        let last = state.handles == 0;
        drop(state);
        if last {
            drop(shut_down(files, &tier.shared));
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

fn attach(path: &Path, options: Options, position: Option<i64>) -> Result<Tier> {
    let registry = registry();
    let mut files = registry.files.lock();
    let (path, id) = loop {
        let (path, id) = store::prepare(path)?;
        if files.get(&id).is_some_and(|entry| entry.closing) {
            registry.closed.wait(&mut files);
            continue;
        }
        // Someone deleted the file that other handles have open under this name. Its logs still bear the name, so it has
        // to be closed before the new file is opened; those handles stay closed.
        let replaced = files.iter().find(|(other, entry)| **other != id && entry.path == path);
        match replaced.map(|(_, entry)| entry.shared.upgrade()) {
            Some(Some(shared)) => files = shut_down(files, &shared),
            _ => break (path, id),
        }
    };
    if let Some(shared) = files.get(&id).and_then(|entry| entry.shared.upgrade()) {
        return tie(shared, options, position);
    }
    let shared = open_shared(&path, id.clone())?;
    let entry = Entry { path, shared: Arc::downgrade(&shared), closing: false };
    files.insert(id, entry);
    tie(shared, options, position)
}

/// Closes an instance. Whoever opens the file meanwhile waits.
fn shut_down(mut files: MutexGuard<'static, Files>, shared: &Arc<Shared>) -> MutexGuard<'static, Files> {
    let is_this = |entry: &Entry| entry.shared.as_ptr() == Arc::as_ptr(shared);
    let entry = files.get_mut(&shared.id).filter(|entry| is_this(entry));
    let registered = entry.map(|entry| entry.closing = true).is_some();
    drop(files);
    shared.shut_down();
    let registry = registry();
    let mut files = registry.files.lock();
    if registered {
        files.remove(&shared.id);
        registry.closed.notify_all();
    }
    files
}

fn open_shared(path: &Path, id: FileId) -> Result<Arc<Shared>> {
    let mut opened = store::open(path, id, schema::MIGRATIONS)?;
    let seen = opened.reader.read(|reader| coherence::last(reader))?;
    Ok(Arc::new_cyclic(|this| {
        let (origin, host) = (random(), lease::host());
        Shared::new(opened, origin, host, seen, this.clone())
    }))
}

/// Adds a handle, which has read the change log up to `position`, or all of it.
fn tie(shared: Arc<Shared>, options: Options, position: Option<i64>) -> Result<Tier> {
    if options.durability == Durability::Power {
        shared.power.store(true, Ordering::Relaxed);
    }
    let stored = match position {
        Some(position) => position,
        None => shared.read_quietly(|reader| coherence::last(reader))?,
    };
    let mut state = shared.state.lock();
    state.handles += 1;
    let cursor = Cursor::new(stored, state.news.next());
    drop(state);
    Ok(Tier { shared, id: HANDLES.fetch_add(1, Ordering::Relaxed), cursor })
}

fn registry() -> &'static Registry {
    REGISTRY.get(|_| Registry::default())
}

/// What is held from before a fork until after it.
struct Held {
    files: MutexGuard<'static, Files>,
    parked: Vec<Parked>,
}

struct Parked {
    shared: Arc<Shared>,
    writer: Option<Connection>,
    reader: Option<Box<Reader>>,
}

thread_local! {
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
}

/// To be called in the thread that forks, just before: no thread of ours is inside SQLite when the child is made, where
/// it could leave locks taken. Waits up to a second for a commit under way.
pub fn before_fork() {
    let registry = registry();
    let deadline = Instant::now() + FORK_PATIENCE;
    let mut files = registry.files.lock();
    while files.values().any(|entry| entry.closing) {
        if registry.closed.wait_until(&mut files, deadline).timed_out() {
            break;
        }
    }
    let shared: Vec<_> = files.values().filter_map(|entry| entry.shared.upgrade()).collect();
    let parked = shared.into_iter().map(|shared| park(shared, deadline)).collect();
    HELD.with(|held| *held.borrow_mut() = Some(Held { files, parked }));
}

/// To be called in the parent after [`before_fork`] and the fork.
pub fn after_fork_parent() {
    let Some(Held { files, parked }) = HELD.with(RefCell::take) else {
        return;
    };
    for Parked { shared, writer, reader } in parked {
        if let Some(reader) = reader {
            let mut seat = shared.reader.lock();
            if matches!(*seat, Seat::Away) {
                *seat = Seat::Here(reader);
            }
            drop(seat);
            shared.seated.notify_all();
        }
        if let Some(writer) = writer {
            drop(shared.give_back(writer));
        }
    }
    drop(files);
}

/// To be called in the child. Everything inherited is left alone; handles open the file anew when next used, without the
/// pending writes, which are the parent's to write.
pub fn after_fork_child() {
    std::mem::forget(HELD.with(RefCell::take));
    store::fork::after_fork_child();
}

fn park(shared: Arc<Shared>, deadline: Instant) -> Parked {
    let mut state = shared.state.lock();
    while state.writer.is_none() && !state.closed {
        if shared.moved.wait_until(&mut state, deadline).timed_out() {
            break;
        }
    }
    let writer = state.writer.take();
    drop(state);
    let reader = match shared.reader.try_lock_until(deadline) {
        Some(mut seat) => match std::mem::replace(&mut *seat, Seat::Away) {
            Seat::Here(mut reader) => {
                reader.rest();
                Some(reader)
            }
            other => {
                *seat = other;
                None
            }
        },
        None => None,
    };
    Parked { shared, writer, reader }
}

/// An unpredictable number, different in a forked child.
pub(super) fn random() -> i64 {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let call = (pid(), CALLS.fetch_add(1, Ordering::Relaxed));
    (RandomState::new().hash_one(call) >> 1) as i64
}
