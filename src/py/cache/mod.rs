//! `ResultCache`: the engine behind one native class.
//!
//! - this file: the class and its methods
//! - [`core`]: lookups, stores and removals shared by the methods and by decorated functions
//! - [`state`]: what the interpreter lock guards
//! - [`disk`]: the disk tier as the class uses it
//! - [`fast`]: `get` and `set` in their plain form, at C level
//! - [`inspect`]: counters, entries and tags, for looking at
//! - [`options`], [`listeners`]: argument checks, callbacks
//!
//! Every operation follows one order: Python code first (hashing, encoding, sizing), then the critical section, then
//! the disk tier, then listeners and the destruction of whatever left.

pub mod core;
pub mod disk;
pub mod fast;
mod inspect;
mod listeners;
pub mod options;
pub mod state;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use self::core::Put;
use self::disk::Disk;
use self::state::{Counters, Engine, State};
use super::keys;
use super::lock::CacheLock;
use super::lookup::hash_key;
use crate::cache::{Limits, PolicyKind};
use crate::support::clock::NEVER;
use crate::support::sync::AttachedCell;

/// Gives up what left the engine, outside the critical section: `__del__` methods run here.
fn destroy(py: Python<'_>, gone: state::Gone) {
    for removed in gone {
        let alias = removed.alias.map(|alias| alias.arguments);
        let left = [removed.key, Some(removed.value), alias].into_iter().flatten();
        left.for_each(|object| super::hang::give_up(py, object));
    }
}

/// Set until `__init__` has run.
const UNINITIALISED: u32 = 1;
/// A listener wants to hear of hits or misses.
pub const LISTENED: u32 = 2;
/// Changes of other processes are looked for on each hit (`coherence=0`).
pub const CHECK_EACH: u32 = 4;

/// An argument that may be left out, but not be None.
struct Given<'py>(Option<Bound<'py, PyAny>>);

impl<'py> FromPyObject<'_, 'py> for Given<'py> {
    type Error = std::convert::Infallible;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> Result<Self, Self::Error> {
        Ok(Self(Some(value.to_owned())))
    }
}

/// A store has more to do than to put the value into the engine: a disk tier, weights, jitter, `on_evict`.
pub const ELABORATE: u32 = 8;

/// Settings that are read outside the critical section.
pub struct Settings {
    pub default_ttl: Py<PyAny>,
    pub default_seconds: f64,
    pub enable_persistent: bool,
    pub max_size: usize,
    pub max_bytes: Option<u64>,
    pub jitter: f64,
    pub sizeof: Option<Py<PyAny>>,
    pub on_evict: Option<Py<PyAny>>,
    pub on_hit: Option<Py<PyAny>>,
    pub on_miss: Option<Py<PyAny>>,
    pub disk_errors: u64,
}

/// Result cache in memory, with an optional SQLite file behind it.
///
/// Bounded by entries and bytes under a choice of eviction policies; entries have a lifetime and tags. Keys are any
/// hashable objects; only `str` keys reach the file. May be subclassed, weakly referenced and used as a context
/// manager (leaving it calls `close()`). Cannot be pickled.
///
/// Every method may be called from any thread and from listeners; no lock is held while user code runs. While another
/// thread holds `lock`, methods wait for it with the GIL released. Trouble with the file never raises: it is logged
/// under `upshift.cache` and counted in `get_stats()["disk_errors"]`.
///
/// Args:
///     max_size: Entries kept in memory; 0 = none.
///     default_ttl: Lifetime in seconds (int, float or timedelta) of entries stored without one; 0 = for ever.
///     enable_persistent: Keep values in the file `db_path` as well; without a path the cache is memory only.
///     db_path: Path of the SQLite file, str or path-like; made with mode 0600 if it is missing, its folder is not.
///     max_bytes: Bytes that the values in memory may take together; None = no limit. Keys are not counted.
///     policy: Who is evicted first: "lru" least recently used, "lfu" least often used, "fifo" stored first, "ttl"
///         soonest to expire, "adaptive" by recency and frequency, "cost" cheapest to compute again for size and use.
///     sizeof: Called with a value, returns its bytes as an int of 0 or more; None = a native estimate of its deep
///         size.
///     ttl_jitter: Fraction in `[0, 1)` up to which each lifetime is shortened at random.
///     durability: What a finished `set` survives: "memory" a normal exit and `close()` (it is committed some 10 ms
///         later), "process" also a killed process, "power" also a power loss (it returns after its commit).
///     coherence: Seconds within which entries that another process removed or replaced leave this memory; 0 = looked
///         for on each hit, None = never.
///     allow_pickle: Whether values that the plain format cannot hold are pickled, authenticated with the key in
///         `<db_path>.key`; False = they stay in memory, and stored pickles are not read.
///     trust_legacy: Whether rows with bare pickles, as the replaced system wrote them, are served. Loading a pickle
///         runs code. None = if the environment has `UPSHIFT_TRUST_LEGACY=1`.
///     on_evict: Called as `on_evict(key, value, reason)` after an entry left memory; reason is "capacity", "bytes",
///         "expired", "replaced", "deleted", "invalidated" or "cleared". What a listener raises is logged.
///     on_hit: Called as `on_hit(key)` after a lookup that found a value.
///     on_miss: Called as `on_miss(key)` after one that did not.
///
/// Raises:
///     ValueError: A number or name is out of range.
///     TypeError: An argument is of another kind.
#[pyclass(frozen, subclass, dict, weakref, module = "upshift")]
pub struct ResultCache {
    flags: AtomicU32,
    /// Default lifetime in nanoseconds; 0 if it is negative, so that entries expire at once.
    lifetime: AtomicU64,
    lock: Py<CacheLock>,
    pub(super) state: AttachedCell<State>,
    pub(super) settings: AttachedCell<Settings>,
    pub(super) disk: Disk,
    /// Computations under way, key -> `Flight`.
    pub(super) flights: Py<PyDict>,
    /// What `upshift.cache` keeps of this cache: names of decorated functions, the connection of `db_conn`.
    pub(super) registry: Py<PyDict>,
    /// True. The collector may strike while the object is being allocated, before its fields are written; then it
    /// finds zeros.
    constructed: bool,
}

#[pymethods]
impl ResultCache {
    /// Accepts anything: subclasses may have their own signature, configuration happens in `__init__`.
    #[new]
    #[pyo3(signature = (*_arguments, **_options), text_signature = "(max_size=1000, default_ttl=3600, \
        enable_persistent=False, db_path=None, *, max_bytes=None, policy='lru', sizeof=None, ttl_jitter=0.0, \
        durability='memory', coherence=1.0, allow_pickle=True, trust_legacy=None, on_evict=None, on_hit=None, \
        on_miss=None)")]
    fn new(py: Python<'_>, _arguments: &Bound<'_, PyTuple>, _options: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let limits = Limits { entries: 0, bytes: None };
        Ok(Self {
            flags: AtomicU32::new(UNINITIALISED),
            lifetime: AtomicU64::new(0),
            lock: Py::new(py, CacheLock::default())?,
            state: AttachedCell::new(State {
                engine: Engine::new(limits, PolicyKind::Lru),
                counters: Counters::default(),
                invalidations: 0,
            }),
            settings: AttachedCell::new(Settings {
                default_ttl: py.None(),
                default_seconds: 0.0,
                enable_persistent: false,
                max_size: 0,
                max_bytes: None,
                jitter: 0.0,
                sizeof: None,
                on_evict: None,
                on_hit: None,
                on_miss: None,
                disk_errors: 0,
            }),
            disk: Disk::default(),
            flights: PyDict::new(py).unbind(),
            registry: PyDict::new(py).unbind(),
            constructed: true,
        })
    }

    #[pyo3(signature = (max_size = Given(None), default_ttl = Given(None), enable_persistent = None, db_path = None, *,
        max_bytes = None, policy = "lru", sizeof = None, ttl_jitter = 0.0, durability = "memory", coherence = Some(1.0),
        allow_pickle = true, trust_legacy = None, on_evict = None, on_hit = None, on_miss = None))]
    #[allow(clippy::too_many_arguments)]
    fn __init__<'py>(
        slf: &Bound<'py, Self>,
        max_size: Given<'py>,
        default_ttl: Given<'py>,
        enable_persistent: Option<Bound<'py, PyAny>>,
        db_path: Option<Bound<'py, PyAny>>,
        max_bytes: Option<Bound<'py, PyAny>>,
        policy: &str,
        sizeof: Option<Bound<'py, PyAny>>,
        ttl_jitter: f64,
        durability: &str,
        coherence: Option<f64>,
        allow_pickle: bool,
        trust_legacy: Option<bool>,
        on_evict: Option<Bound<'py, PyAny>>,
        on_hit: Option<Bound<'py, PyAny>>,
        on_miss: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let enable_persistent = enable_persistent.map_or(Ok(false), |value| value.is_truthy())?;
        let entries = max_size.0.map_or(Ok(1000), |value| options::count(&value, "max_size"))?;
        let bytes = max_bytes.map(|value| options::count(&value, "max_bytes")).transpose()?.map(|bytes| bytes as u64);
        let default_ttl = match default_ttl.0 {
            Some(value) => value,
            None => 3600_i64.into_pyobject(py)?.into_any(),
        };
        let default_seconds = options::seconds(&default_ttl, "default_ttl")?;
        let policy = options::policy(policy)?;
        let fresh = Settings {
            default_ttl: default_ttl.unbind(),
            default_seconds,
            enable_persistent,
            max_size: entries,
            max_bytes: bytes,
            jitter: options::jitter(ttl_jitter)?,
            sizeof: options::callable(sizeof, "sizeof")?,
            on_evict: options::callable(on_evict, "on_evict")?,
            on_hit: options::callable(on_hit, "on_hit")?,
            on_miss: options::callable(on_miss, "on_miss")?,
            disk_errors: 0,
        };
        let mut flags = if fresh.on_hit.is_some() || fresh.on_miss.is_some() { LISTENED } else { 0 };
        let disk_options = disk::Options::new(durability, coherence, allow_pickle, trust_legacy)?;
        let old = this.settings.with(py, |settings| std::mem::replace(settings, fresh));
        drop(old);
        let old = this
            .state
            .with(py, |state| std::mem::replace(&mut state.engine, Engine::new(Limits { entries, bytes }, policy)));
        drop(old);
        if let Some(path) = db_path.filter(|path| enable_persistent && !path.is_none()) {
            disk::open(slf, &path, &disk_options)?;
            if disk_options.checks_each_hit() {
                flags |= CHECK_EACH;
            }
        }
        this.flags.store(flags, Ordering::Relaxed);
        this.settle_flags(py);
        super::runtime::watch(slf)
    }

    /// The value stored under `key`, or `default`.
    ///
    /// Looks in memory, then on disk; a value found on disk moves to memory with its remaining lifetime and tags.
    /// Memory returns the very object that was stored. Counts a hit or a miss, and an access of the entry. A stored
    /// None is a hit.
    ///
    /// Args:
    ///     key: Any hashable object.
    ///     default: Returned if there is no live entry.
    ///
    /// Raises:
    ///     TypeError: The key is not hashable.
    ///
    /// A memory hit is O(1), O(log n) under "cost", and does not touch the disk, except that `coherence=0` looks for
    /// changes of other processes first. A lookup on disk is one indexed read with the GIL released.
    #[pyo3(signature = (key, default = None))]
    fn get<'py>(
        slf: &Bound<'py, Self>,
        key: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        slf.get().enter(py)?;
        match core::get(slf, key, hash_key(key)?)? {
            Some(value) => Ok(value.into_bound(py)),
            None => Ok(default.unwrap_or_else(|| py.None().into_bound(py))),
        }
    }

    /// Store `value` under `key` in both tiers; replaces value, lifetime and tags of an entry that is there.
    ///
    /// Args:
    ///     key: Any hashable object; only a str reaches the disk.
    ///     value: Any object. One that the disk tier cannot hold stays in memory, and an older row of the key is
    ///         removed.
    ///     ttl: Lifetime in seconds (int, float or timedelta); None = `default_ttl`, 0 = for ever, negative = already
    ///         expired: nothing is kept, and what was there goes.
    ///     tags: A str or an iterable of str for `invalidate_by_tag`.
    ///     cost: What the value costs to compute again, in any one unit, for the policy "cost"; None = 1.
    ///
    /// Raises:
    ///     TypeError: The key is not hashable, or `ttl` or `tags` is of another kind.
    ///     ValueError: `ttl` is NaN.
    ///
    /// What `sizeof` raises is passed on, and nothing is stored. O(1) and the number of tags, O(log n) under "ttl"
    /// and "cost"; evicts what is over the limits. Encoding for the disk is linear in the size of the value. Blocks
    /// for the commit, with the GIL released, if `durability` is "process" or "power", otherwise only while too many
    /// writes are queued.
    #[pyo3(signature = (key, value, ttl = None, tags = None, *, cost = None))]
    fn set<'py>(
        slf: &Bound<'py, Self>,
        key: &Bound<'py, PyAny>,
        value: &Bound<'py, PyAny>,
        ttl: Option<&Bound<'py, PyAny>>,
        tags: Option<&Bound<'py, PyAny>>,
        cost: Option<f32>,
    ) -> PyResult<()> {
        let this = slf.get();
        this.enter(slf.py())?;
        let hash = hash_key(key)?;
        let tags = if tags.is_some() { options::tags(tags)? } else { Vec::new() };
        let ttl = ttl.map(|ttl| options::seconds(ttl, "ttl")).transpose()?;
        core::put(slf, key, hash, value, Put { ttl, tags: &tags, cost: cost.unwrap_or(1.0), ..Put::default() })
    }

    /// Remove `key` from both tiers.
    ///
    /// Returns:
    ///     True if there was a live entry in either.
    ///
    /// O(1) and the number of tags in memory. With a disk tier it blocks for the commit, GIL released.
    fn delete<'py>(slf: &Bound<'py, Self>, key: &Bound<'py, PyAny>) -> PyResult<bool> {
        slf.get().enter(slf.py())?;
        core::delete(slf, key, hash_key(key)?)
    }

    /// Empty both tiers; the counters go on.
    ///
    /// Returns:
    ///     The number of different live keys removed.
    ///
    /// Linear in the number of entries. With a disk tier it blocks for the commit, GIL released.
    fn clear(slf: &Bound<'_, Self>) -> PyResult<usize> {
        slf.get().enter(slf.py())?;
        core::clear(slf)
    }

    /// Remove every entry that carries `tag`, in memory or only on disk.
    ///
    /// Returns:
    ///     The number of different live keys removed; 0 for an unknown tag.
    ///
    /// Results still being computed under a fixed `tags=` with this tag are returned to their callers but not stored.
    /// Takes time proportional to what is removed. With a disk tier it blocks for the commit, GIL released.
    fn invalidate_by_tag(slf: &Bound<'_, Self>, tag: &str) -> PyResult<usize> {
        slf.get().enter(slf.py())?;
        core::invalidate(slf, core::Selector::Tag(tag))
    }

    /// Remove every entry whose key is a str that contains `pattern`: plain, case-sensitive text, no wildcards.
    ///
    /// Returns:
    ///     The number of different live keys removed.
    ///
    /// In memory a pattern that ends in its only ':' takes time proportional to what is removed and to the keys with
    /// several ':', any other one native scan of all keys. With a disk tier it scans the keys there and blocks for
    /// the commit, GIL released.
    fn invalidate_pattern<'py>(slf: &Bound<'py, Self>, pattern: &Bound<'py, PyString>) -> PyResult<usize> {
        slf.get().enter(slf.py())?;
        core::invalidate(slf, core::Selector::Pattern(pattern))
    }

    /// Remove everything that has expired, from both tiers. Also runs by itself every 30 seconds.
    ///
    /// Returns:
    ///     The number of different keys removed.
    ///
    /// Takes time proportional to what is removed. With a disk tier it blocks for the commit, GIL released.
    fn cleanup_expired(slf: &Bound<'_, Self>) -> PyResult<usize> {
        slf.get().enter(slf.py())?;
        core::cleanup_expired(slf)
    }

    /// Load live rows from disk into memory, most recently accessed first, at most `max_size`.
    ///
    /// Args:
    ///     limit: At most so many rows; None = as many as fit.
    ///
    /// Returns:
    ///     How many were loaded; keys already in memory are not. 0 without a disk tier.
    ///
    /// Raises:
    ///     ValueError, TypeError: `limit` is not an int of 0 or more.
    ///
    /// Blocks for the reads, GIL released.
    #[pyo3(signature = (limit = None))]
    fn preload(slf: &Bound<'_, Self>, limit: Option<Bound<'_, PyAny>>) -> PyResult<usize> {
        slf.get().enter(slf.py())?;
        let limit = limit.map(|limit| options::count(&limit, "limit")).transpose()?;
        disk::preload(slf, limit.unwrap_or(usize::MAX))
    }

    /// Wait until every write accepted so far is committed.
    ///
    /// Args:
    ///     timeout: Seconds to wait at most; None = no limit.
    ///
    /// Returns:
    ///     True if everything is committed, or there is no disk tier; False if `timeout` passed or a commit failed.
    ///
    /// Raises:
    ///     ValueError: `timeout` is negative.
    ///
    /// Blocks with the GIL released.
    #[pyo3(signature = (timeout = None))]
    fn flush(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<bool> {
        slf.get().enter(slf.py())?;
        disk::flush(slf, timeout)
    }

    /// Flushes and closes the disk tier; what `close()` does after its own connection is closed.
    #[pyo3(name = "_close_store")]
    fn close_store(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().enter(slf.py())?;
        disk::close(slf)
    }

    /// Entries in memory, expired ones included until they are swept out.
    fn __len__(slf: &Bound<'_, Self>) -> PyResult<usize> {
        let (py, this) = (slf.py(), slf.get());
        this.enter(py)?;
        Ok(this.state.with(py, |state| state.engine.len()))
    }

    /// Whether there is a live entry in either tier. Counts nothing; blocks for a read if the key is not in memory.
    fn __contains__<'py>(slf: &Bound<'py, Self>, key: &Bound<'py, PyAny>) -> PyResult<bool> {
        slf.get().enter(slf.py())?;
        core::contains(slf, key, hash_key(key)?)
    }

    /// An empty cache is still a cache: `cache or other` must not pass over it.
    fn __bool__(&self) -> bool {
        true
    }

    /// Entries kept in memory. Assignable: what is over the new limit is evicted at once, O(removed).
    #[getter]
    fn max_size(&self, py: Python<'_>) -> usize {
        self.settings.with(py, |settings| settings.max_size)
    }

    #[setter]
    fn set_max_size(slf: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        slf.get().enter(slf.py())?;
        let entries = options::count(value, "max_size")?;
        slf.get().settings.with(slf.py(), |settings| settings.max_size = entries);
        core::apply_limits(slf)
    }

    /// Bytes that the values in memory may take together, or None. Assignable: what is over the new limit is evicted
    /// at once; the first limit sizes every value anew, O(n).
    #[getter]
    fn max_bytes(&self, py: Python<'_>) -> Option<u64> {
        self.settings.with(py, |settings| settings.max_bytes)
    }

    #[setter]
    fn set_max_bytes(slf: &Bound<'_, Self>, value: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        slf.get().enter(slf.py())?;
        let bytes = value.map(|value| options::count(value, "max_bytes")).transpose()?.map(|bytes| bytes as u64);
        let before = slf.get().settings.with(slf.py(), |settings| std::mem::replace(&mut settings.max_bytes, bytes));
        if before.is_none() && bytes.is_some() {
            core::reweigh(slf)?;
        }
        slf.get().settle_flags(slf.py());
        core::apply_limits(slf)
    }

    /// Name of the eviction policy. Assignable: the new one takes over the entries in the order of the old one, O(n),
    /// and holds from the next eviction on.
    #[getter]
    fn policy(&self, py: Python<'_>) -> &'static str {
        self.state.with(py, |state| state.engine.policy().as_str())
    }

    #[setter]
    fn set_policy(slf: &Bound<'_, Self>, name: &str) -> PyResult<()> {
        slf.get().enter(slf.py())?;
        let policy = options::policy(name)?;
        slf.get().state.with(slf.py(), |state| state.engine.set_policy(policy));
        Ok(())
    }

    /// Lifetime in seconds of entries stored without one; 0 = for ever. Assignable, for later `set`s.
    #[getter]
    fn default_ttl(&self, py: Python<'_>) -> Py<PyAny> {
        self.settings.with(py, |settings| settings.default_ttl.clone_ref(py))
    }

    #[setter]
    fn set_default_ttl(&self, value: Bound<'_, PyAny>) -> PyResult<()> {
        let py = value.py();
        let seconds = options::seconds(&value, "default_ttl")?;
        let value = value.unbind();
        let old = self.settings.with(py, |settings| {
            settings.default_seconds = seconds;
            std::mem::replace(&mut settings.default_ttl, value)
        });
        drop(old);
        self.settle_flags(py);
        Ok(())
    }

    /// The constructor's argument. Whether the disk tier is open is another matter, see `db_conn`.
    #[getter]
    fn enable_persistent(&self, py: Python<'_>) -> bool {
        self.settings.with(py, |settings| settings.enable_persistent)
    }

    /// Re-entrant lock. While a thread holds it, other threads' operations on this cache wait.
    #[getter]
    fn lock(&self, py: Python<'_>) -> Py<CacheLock> {
        self.lock.clone_ref(py)
    }

    /// The numbers behind `get_stats()` and `stats`.
    fn _counts<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyDict>> {
        slf.get().enter(slf.py())?;
        inspect::counts(slf)
    }

    /// Overwrites one of the six counters (`stats[name] = value`).
    fn _set_count(&self, py: Python<'_>, name: &str, value: u64) -> PyResult<()> {
        self.enter(py)?;
        inspect::set_count(self, py, name, value)
    }

    /// `(value, expires epoch or None, created epoch, access count)` of a stored key, without counting an access.
    fn _peek<'py>(slf: &Bound<'py, Self>, key: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        slf.get().enter(slf.py())?;
        inspect::peek(slf, key, hash_key(key)?)
    }

    /// The stored keys, the next to be evicted first.
    fn _keys(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        self.enter(py)?;
        Ok(self.state.with(py, |state| {
            state.engine.order().into_iter().map(|slot| state.engine.entry(slot).key.clone_ref(py)).collect()
        }))
    }

    /// All entries as `(key, (value, expires, created, accesses))`, the next to be evicted first.
    fn _entries<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyTuple>>> {
        self.enter(py)?;
        inspect::entries(self, py)
    }

    /// The tags that at least one stored entry carries, with the keys of those entries.
    fn _tags(&self, py: Python<'_>) -> PyResult<Vec<(String, Vec<Py<PyAny>>)>> {
        self.enter(py)?;
        Ok(inspect::tags(self, py))
    }

    /// The keys of the stored entries that carry `tag`, or None if there is none.
    fn _tagged(&self, py: Python<'_>, tag: &str) -> PyResult<Option<Vec<Py<PyAny>>>> {
        self.enter(py)?;
        Ok(inspect::tagged(self, py, tag))
    }

    /// Path of the open disk tier, or None.
    fn _db_path(&self) -> Option<std::path::PathBuf> {
        self.disk.path()
    }

    /// The text key of a call: `"<func_name>:<40 hex digits>"`, the same in every process, on every platform.
    ///
    /// The digits are 160 bits of SHA-256 over the arguments, encoded with their types. Objects that are not of a
    /// builtin type are represented by their pickle, those that cannot be pickled by their identity in this process.
    ///
    /// Args:
    ///     func_name: Text in front of the ':'.
    ///     args: Positional arguments, any iterable.
    ///     kwargs: Keyword arguments as a dict in any order, or None.
    ///
    /// Raises:
    ///     TypeError: An argument can be neither pickled nor weakly referenced.
    ///
    /// Linear in the size of the arguments. May run their pickling code.
    #[pyo3(signature = (func_name, args, kwargs))]
    fn generate_key<'py>(
        &self,
        func_name: &Bound<'py, PyString>,
        args: &Bound<'py, PyAny>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<String> {
        keys::generate_key(func_name.py(), func_name.to_str()?, args, kwargs)
    }

    /// The lease on a key for single flight across processes: None if there is no disk tier to hold it, False while
    /// another process has it.
    fn _lease<'py>(slf: &Bound<'py, Self>, key: &Bound<'py, PyAny>, seconds: f64) -> PyResult<Bound<'py, PyAny>> {
        disk::lease(slf, key, seconds)
    }

    /// Whether `set` blocks for the disk (`durability` other than "memory").
    fn _waits_for_disk(&self) -> bool {
        self.disk.waits()
    }

    /// What `upshift.cache` keeps of this cache.
    #[getter(_registry)]
    fn get_registry(&self, py: Python<'_>) -> Py<PyDict> {
        self.registry.clone_ref(py)
    }

    /// One round of background upkeep: expiry in both tiers.
    fn _sweep(slf: &Bound<'_, Self>) -> PyResult<()> {
        core::sweep(slf)
    }

    /// Applies what other processes invalidated; the number of changes seen.
    fn _apply_changes(slf: &Bound<'_, Self>) -> PyResult<usize> {
        disk::apply_changes(slf)
    }

    fn __reduce__(slf: &Bound<'_, Self>) -> PyResult<()> {
        let name = slf.get_type().name()?;
        Err(PyTypeError::new_err(format!(
            "cannot pickle {name}: it holds live values; share one through db_path instead"
        )))
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let (py, this) = (slf.py(), slf.get());
        let name = slf.get_type().name()?;
        if this.flags.load(Ordering::Relaxed) & UNINITIALISED != 0 {
            return Ok(format!("<{name} (not initialised)>"));
        }
        let (len, policy) = this.state.with(py, |state| (state.engine.len(), state.engine.policy().as_str()));
        let max_size = this.settings.with(py, |settings| settings.max_size);
        Ok(format!("<{name} policy={policy:?} size={len} max_size={max_size}>"))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if self.constructed { core::traverse(self, &visit) } else { Ok(()) }
    }

    fn __clear__(&self) {
        if self.constructed {
            core::release_all(self);
        }
    }
}

impl ResultCache {
    /// Every public operation begins here: refuses an object that was never initialised, and waits while another
    /// thread holds `lock`.
    #[inline(always)]
    pub(super) fn enter(&self, py: Python<'_>) -> PyResult<()> {
        if self.flags.load(Ordering::Relaxed) & UNINITIALISED != 0 || self.lock.get().is_held_by_other() {
            return self.enter_slowly(py);
        }
        Ok(())
    }

    #[cold]
    fn enter_slowly(&self, py: Python<'_>) -> PyResult<()> {
        if self.flags.load(Ordering::Relaxed) & UNINITIALISED != 0 {
            return Err(super::errors::not_initialised(py, "ResultCache"));
        }
        self.lock.get().wait_until_free(py)
    }

    /// True when a hit needs nothing but the engine: no listener, no check of other processes, no held lock.
    #[inline(always)]
    pub(super) fn is_plain(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & !ELABORATE == 0 && !self.lock.get().is_held_by_other()
    }

    /// True when a store needs nothing but the engine.
    #[inline(always)]
    pub(super) fn stores_plainly(&self) -> bool {
        self.flags.load(Ordering::Relaxed) == 0 && !self.lock.get().is_held_by_other()
    }

    /// Nanoseconds that entries live by default; [`NEVER`] if they do not expire.
    #[inline(always)]
    pub(super) fn default_lifetime(&self) -> Option<u64> {
        match self.lifetime.load(Ordering::Relaxed) {
            0 => None,
            lifetime => Some(lifetime),
        }
    }

    /// Notes whether stores are elaborate, after a setting changed.
    pub(super) fn settle_flags(&self, py: Python<'_>) {
        let elaborate = self.disk.get().is_some()
            || self.settings.with(py, |settings| {
                settings.sizeof.is_some()
                    || settings.max_bytes.is_some()
                    || settings.jitter != 0.0
                    || settings.on_evict.is_some()
            });
        let default = self.settings.with(py, |settings| settings.default_seconds);
        let lifetime = match default {
            0.0 => NEVER,
            seconds if seconds > 0.0 => options::nanoseconds(seconds),
            _ => 0,
        };
        self.lifetime.store(lifetime, Ordering::Relaxed);
        let flags = self.flags.load(Ordering::Relaxed);
        let flags = if elaborate { flags | ELABORATE } else { flags & !ELABORATE };
        self.flags.store(flags, Ordering::Relaxed);
    }

    /// In a forked child: what threads of the parent held is nobody's.
    pub(super) fn forget_other_threads(&self, py: Python<'_>) {
        self.lock.get().forget_other_threads();
        self.flights.bind(py).clear();
    }

    #[inline(always)]
    pub(super) fn has(&self, flag: u32) -> bool {
        self.flags.load(Ordering::Relaxed) & flag != 0
    }

    fn on_evict(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.settings.with(py, |settings| settings.on_evict.as_ref().map(|listener| listener.clone_ref(py)))
    }

    /// Reports `gone` to `on_evict` and destroys it; call it last, user code runs here.
    pub(super) fn dismiss(&self, py: Python<'_>, gone: state::Gone) {
        if !gone.is_empty() {
            if let Some(listener) = self.on_evict(py) {
                listeners::evicted(py, &listener, &gone, None);
            }
        }
        destroy(py, gone);
    }

    /// [`dismiss`](Self::dismiss) after a store under `key`, which stays in the cache if its value was replaced.
    pub(super) fn dismiss_replaced(&self, key: &Bound<'_, PyAny>, gone: state::Gone) {
        if !gone.is_empty() {
            if let Some(listener) = self.on_evict(key.py()) {
                listeners::evicted(key.py(), &listener, &gone, Some(key));
            }
        }
        destroy(key.py(), gone);
    }
}
