//! The disk tier as `ResultCache` uses it: encoding, promotion, degradation to memory.
//!
//! No failure of the disk surfaces here: it is counted in `disk_errors`, logged, and the cache goes on from memory.
//! Waiting for the disk happens detached; queueing a write happens attached, right after the memory tier changed, so that
//! both tiers see concurrent writes of one key in the same order.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::ResultCache;
use super::core::{self, Attach, Put, Selector, text_of, weigh};
use super::state::{Alias, Gone};
use crate::cache::persist::{self, Change, DiskTier, Durability, Row};
use crate::cache::{Label, Reason, Removed};
use crate::py::codec::{Codec, Decoded};
use crate::py::lease::Lease;
use crate::py::lookup::hash_key;
use crate::support::clock;

/// Constructor arguments about the disk tier, checked.
pub struct Options {
    durability: Durability,
    coherence: Option<Duration>,
    allow_pickle: bool,
    trust_legacy: bool,
}

impl Options {
    pub fn new(
        durability: &str,
        coherence: Option<f64>,
        allow_pickle: bool,
        trust_legacy: Option<bool>,
    ) -> PyResult<Self> {
        let durability = match durability {
            "memory" => Durability::Memory,
            "process" => Durability::Process,
            "power" => Durability::Power,
            other => {
                let message = format!("durability must be one of memory, process, power; not {other:?}");
                return Err(PyValueError::new_err(message));
            }
        };
        let coherence = match coherence {
            None => None,
            Some(seconds) => Some(Duration::try_from_secs_f64(seconds).map_err(|_| {
                PyValueError::new_err(format!("coherence must be 0 or more seconds, or None; not {seconds}"))
            })?),
        };
        let trust_legacy =
            trust_legacy.unwrap_or_else(|| std::env::var_os("UPSHIFT_TRUST_LEGACY").is_some_and(|value| value == "1"));
        Ok(Self { durability, coherence, allow_pickle, trust_legacy })
    }

    pub fn checks_each_hit(&self) -> bool {
        self.coherence == Some(Duration::ZERO)
    }
}

/// An open store.
pub struct Open {
    pub tier: DiskTier,
    codec: Codec,
    path: PathBuf,
}

/// The disk tier of a cache, if it has one that is open.
#[derive(Default)]
pub struct Disk {
    open: Mutex<Option<Arc<Open>>>,
}

impl Disk {
    pub fn get(&self) -> Option<Arc<Open>> {
        self.open.lock().clone()
    }

    pub fn path(&self) -> Option<PathBuf> {
        self.get().map(|open| open.path.clone())
    }

    /// How often to look for changes of other processes in the background; `None` = not at all.
    pub fn check_interval(&self) -> Option<Duration> {
        let coherence = self.get()?.tier.options().coherence?;
        (!coherence.is_zero()).then(|| (coherence / 2).max(Duration::from_millis(5)))
    }

    /// Whether writes are waited for.
    pub fn waits(&self) -> bool {
        self.get().is_some_and(|open| open.tier.options().durability != Durability::Memory)
    }

    /// Failures that the tier counted itself.
    pub fn errors(&self) -> u64 {
        self.get().map_or(0, |open| open.tier.errors())
    }
}

/// Opens the store; what cannot be opened leaves a memory-only cache, one warning and one counted error.
pub fn open(slf: &Bound<'_, ResultCache>, path: &Bound<'_, PyAny>, options: &Options) -> PyResult<()> {
    let (py, this) = (slf.py(), slf.get());
    let path: PathBuf = path.extract()?;
    if path.as_os_str() == ":memory:" {
        // SQLite's name for no file: there is nothing to keep beyond memory.
        return Ok(());
    }
    let path = std::path::absolute(&path).unwrap_or(path);
    let tier_options = persist::Options { durability: options.durability, coherence: options.coherence };
    match py.detach(|| DiskTier::open(&path, tier_options)) {
        Ok(tier) => {
            let codec = Codec::new(&path, options.allow_pickle, options.trust_legacy);
            let opened = Arc::new(Open { tier, codec, path });
            let old = this.disk.open.lock().replace(opened);
            py.detach(|| drop(old));
        }
        Err(error) => {
            core::count_disk_error(this, py);
            let text = format!("{}: no disk tier, results are kept in memory only: {error}", path.display());
            crate::py::errors::log_warning(py, "upshift.cache", &text);
        }
    }
    Ok(())
}

/// Runs `work` on the open store, detached; a failure is counted, and logged by the tier.
fn with_tier<R: Send>(
    slf: &Bound<'_, ResultCache>,
    work: impl FnOnce(&DiskTier) -> persist::Result<R> + Send,
) -> Option<R> {
    let (py, this) = (slf.py(), slf.get());
    let open = this.disk.get()?;
    let done = py.detach(|| work(&open.tier));
    release(py, open);
    // The tier has counted and logged the failure; a closed one is simply no tier any more.
    done.ok()
}

/// Gives up a handle; if it is the last one, closing the file may block.
fn release(py: Python<'_>, open: Arc<Open>) {
    if let Some(last) = Arc::into_inner(open) {
        py.detach(|| drop(last));
    }
}

/// What `set` hands to the disk tier.
pub enum Prepared {
    None,
    Write(String, Row),
    /// The value cannot be stored: an older row of the key must not outlive it.
    Discard(String),
}

/// Encodes a value for the disk. Runs Python code.
pub fn prepare(
    slf: &Bound<'_, ResultCache>,
    key: &str,
    value: &Bound<'_, PyAny>,
    ttl: f64,
    put: &Put<'_>,
) -> PyResult<Prepared> {
    let Some(open) = slf.get().disk.get() else { return Ok(Prepared::None) };
    let encoded = open.codec.encode(value);
    release(slf.py(), open);
    let Some(blob) = encoded? else { return Ok(Prepared::Discard(key.to_owned())) };
    let now = clock::epoch_micros();
    let row = Row {
        blob,
        ttl_seconds: (ttl != 0.0).then_some(ttl.ceil() as i64),
        created: now,
        expires: (ttl != 0.0).then(|| now.saturating_add((ttl * 1e6) as i64)),
        tags: put.tags.to_vec(),
        function: put.function.map(str::to_owned),
    };
    Ok(Prepared::Write(key.to_owned(), row))
}

/// A write that was queued and has to be waited for.
pub struct Waiting(Option<(Arc<Open>, persist::Queued)>);

/// Queues a write without waiting.
pub fn enqueue(slf: &Bound<'_, ResultCache>, prepared: Prepared) -> Waiting {
    let Some(open) = (!matches!(prepared, Prepared::None)).then(|| slf.get().disk.get()).flatten() else {
        return Waiting(None);
    };
    let queued = match prepared {
        Prepared::None => return Waiting(None),
        Prepared::Write(key, row) => open.tier.queue(&key, row),
        Prepared::Discard(key) => open.tier.queue_discard(&key),
    };
    // Only a tier closed meanwhile refuses, and then there is nothing to wait for.
    match queued {
        Ok(persist::Queued::Accepted) | Err(_) => {
            release(slf.py(), open);
            Waiting(None)
        }
        Ok(queued) => Waiting(Some((open, queued))),
    }
}

impl Waiting {
    /// Waits, detached, as long as the durability and the bound of the queue ask for.
    pub fn wait(self, slf: &Bound<'_, ResultCache>) {
        if let Some((open, queued)) = self.0 {
            slf.py().detach(|| open.tier.wait(queued));
            release(slf.py(), open);
        }
    }
}

/// The live value of a key on disk, promoted to memory.
pub fn fetch<'py>(
    slf: &Bound<'py, ResultCache>,
    key: &Bound<'py, PyAny>,
    hash: u64,
    attach: Option<Attach>,
) -> PyResult<Option<Py<PyAny>>> {
    let (py, this) = (slf.py(), slf.get());
    let Some(open) = this.disk.get() else { return Ok(None) };
    let Some(text) = text_of(key) else { return Ok(None) };
    let before = this.state.with(py, |state| state.invalidations);
    let row = py.detach(|| open.tier.get(&text));
    let value = match row {
        Ok(Some(row)) => promote(this, &open, key, hash, &text, row, before, attach)?,
        _ => None,
    };
    if value.is_some() {
        // Recorded with the next commit; only a tier closed meanwhile refuses.
        let _ = open.tier.touched(&text, 1);
    }
    release(py, open);
    Ok(value)
}

/// Decodes a row and puts it into memory, unless the key was set or something was invalidated meanwhile.
#[allow(clippy::too_many_arguments)]
fn promote(
    this: &ResultCache,
    open: &Open,
    key: &Bound<'_, PyAny>,
    hash: u64,
    text: &str,
    row: Row,
    before: u64,
    attach: Option<Attach>,
) -> PyResult<Option<Py<PyAny>>> {
    let py = key.py();
    let value = match open.codec.decode(py, &row.blob)? {
        Decoded::Value(value) => value.into_bound(py),
        Decoded::Rejected(reason) => {
            if !reason.keeps_row() {
                core::count_disk_error(this, py);
                crate::py::errors::log_warning(py, "upshift.cache", &format!("row {text:?} dropped: {reason}"));
                // Only a tier closed meanwhile refuses.
                let _ = open.tier.discard(text);
            }
            return Ok(None);
        }
    };
    let ttl = match row.expires {
        None => 0.0,
        Some(expires) => match expires - clock::epoch_micros() {
            left if left > 0 => left as f64 / 1e6,
            _ => return Ok(None),
        },
    };
    let weight = weigh(this, &value)?;
    if let Some(slot) = this.locate(key, hash)? {
        // Set while the disk was read: that value is newer.
        return Ok(Some(this.state.with(py, |state| state.engine.entry(slot).value.clone_ref(py))));
    }
    if this.state.with(py, |state| state.invalidations) == before {
        let group = attach.as_ref().map(|attach| attach.group).or(row.function.as_deref().map(core::group_of));
        let put =
            Put { tags: &row.tags, cost: 1.0, alias: attach.and_then(|attach| attach.alias), group, ..Put::default() };
        let gone = core::insert(this, key, hash, &value, Some(text), ttl, weight, put)?;
        this.dismiss(py, gone);
    }
    Ok(Some(value.unbind()))
}

/// Whether the disk holds a live row of the key.
pub fn contains(slf: &Bound<'_, ResultCache>, key: &Bound<'_, PyAny>) -> PyResult<bool> {
    let Some(text) = text_of(key) else { return Ok(false) };
    Ok(with_tier(slf, |tier| tier.contains(&text)).unwrap_or(false))
}

/// A removal that has its place in the order of writes, and the store that will carry it out.
pub struct Removal(Option<(Arc<Open>, persist::Submitted)>);

/// Submits a removal without blocking: right after memory changed, so that concurrent removals of one key take turns on
/// both tiers alike.
pub fn submit(slf: &Bound<'_, ResultCache>, removal: impl FnOnce() -> Option<Change>) -> Removal {
    let Some(open) = slf.get().disk.get() else { return Removal(None) };
    // Only a tier closed meanwhile refuses.
    match removal().and_then(|removal| open.tier.submit(removal).ok()) {
        Some(submitted) => Removal(Some((open, submitted))),
        None => {
            release(slf.py(), open);
            Removal(None)
        }
    }
}

impl Removal {
    /// Waits, detached; the keys of the live rows that were removed.
    pub fn settle(self, slf: &Bound<'_, ResultCache>) -> Vec<String> {
        let Some((open, submitted)) = self.0 else { return Vec::new() };
        let removed = slf.py().detach(|| open.tier.settle(submitted)).unwrap_or_default();
        release(slf.py(), open);
        removed
    }
}

/// The removal of one key's row.
pub fn removal_of(key: &Bound<'_, PyAny>) -> Option<Change> {
    text_of(key).map(|text| Change::Key(text.into_owned()))
}

/// The removal of what a selector means on disk.
pub fn removal_by(selector: &Selector<'_, '_>) -> Option<Change> {
    match selector {
        Selector::Tag(tag) => Some(Change::Tag((*tag).to_owned())),
        // No key on disk contains a lone surrogate.
        Selector::Pattern(pattern) => pattern.to_str().ok().map(|text| Change::Pattern(text.to_owned())),
        Selector::Function { name, durable: true } => Some(Change::Function((*name).to_owned())),
        Selector::Function { .. } => None,
    }
}

/// Removes the row of a key that expired in memory, if it has expired on disk too (another process may have renewed it).
pub fn discard_expired(slf: &Bound<'_, ResultCache>, key: &Bound<'_, PyAny>) {
    let Some(text) = text_of(key) else { return };
    with_tier(slf, |tier| if tier.contains(&text)? { Ok(()) } else { tier.discard(&text) });
}

pub fn cleanup_expired(slf: &Bound<'_, ResultCache>) -> Vec<String> {
    with_tier(slf, DiskTier::cleanup_expired).unwrap_or_default()
}

pub fn flush(slf: &Bound<'_, ResultCache>, timeout: Option<f64>) -> PyResult<bool> {
    let timeout = match timeout {
        None => None,
        Some(seconds) => Some(Duration::try_from_secs_f64(seconds).map_err(|_| {
            PyValueError::new_err(format!("timeout must be 0 or more seconds, or None; not {seconds}"))
        })?),
    };
    if slf.get().disk.get().is_none() {
        return Ok(true);
    }
    Ok(with_tier(slf, |tier| tier.flush(timeout)).unwrap_or(true))
}

/// Hands the access counts of the entries in memory to the disk tier; when it is closed, so that none is handed over twice.
fn record_accesses(slf: &Bound<'_, ResultCache>) {
    let (py, this) = (slf.py(), slf.get());
    let Some(open) = this.disk.get() else { return };
    let read: Vec<(Py<PyAny>, u32)> = this.state.with(py, |state| {
        let order = state.engine.order().into_iter().map(|slot| state.engine.entry(slot));
        order.filter(|entry| entry.accesses > 0).map(|entry| (entry.key.clone_ref(py), entry.accesses)).collect()
    });
    for (key, reads) in &read {
        if let Some(text) = text_of(key.bind(py)) {
            // Only a tier closed meanwhile refuses.
            let _ = open.tier.touched(&text, *reads);
        }
    }
    release(py, open);
}

/// The same for entries that leave memory while their row stays.
pub fn record_evicted(slf: &Bound<'_, ResultCache>, gone: &Gone) {
    let py = slf.py();
    let read = |removed: &&Removed<Py<PyAny>, Py<PyAny>, Alias>| {
        removed.accesses > 0 && matches!(removed.reason, Reason::Capacity | Reason::Bytes)
    };
    if !gone.iter().any(|removed| read(&removed)) {
        return;
    }
    let Some(open) = slf.get().disk.get() else { return };
    for removed in gone.iter().filter(read) {
        if let Some(text) = removed.key.as_ref().and_then(|key| text_of(key.bind(py))) {
            // Only a tier closed meanwhile refuses.
            let _ = open.tier.touched(&text, removed.accesses);
        }
    }
    release(py, open);
}

pub fn close(slf: &Bound<'_, ResultCache>) -> PyResult<()> {
    record_accesses(slf);
    let open = slf.get().disk.open.lock().take();
    slf.get().settle_flags(slf.py());
    if let Some(open) = open {
        core::keep_errors(slf.get(), slf.py(), open.tier.errors());
        slf.py().detach(|| {
            open.tier.close();
            drop(open);
        });
    }
    Ok(())
}

pub fn preload(slf: &Bound<'_, ResultCache>, limit: usize) -> PyResult<usize> {
    let (py, this) = (slf.py(), slf.get());
    let limit = limit.min(this.settings.with(py, |settings| settings.max_size));
    let Some(open) = this.disk.get() else { return Ok(0) };
    let before = this.state.with(py, |state| state.invalidations);
    let rows = py.detach(|| open.tier.preload(limit)).unwrap_or_default();
    let mut loaded = 0;
    // Least recently accessed first, so that the most recent end up most recent in memory too.
    for (text, row) in rows.into_iter().rev() {
        let key = PyString::new(py, &text).into_any();
        let hash = hash_key(&key)?;
        if this.locate(&key, hash)?.is_none() {
            loaded += usize::from(promote(this, &open, &key, hash, &text, row, before, None)?.is_some());
        }
    }
    release(py, open);
    Ok(loaded)
}

/// Drops from memory what other processes invalidated.
pub fn apply_changes(slf: &Bound<'_, ResultCache>) -> PyResult<usize> {
    let (py, this) = (slf.py(), slf.get());
    let Some(open) = this.disk.get() else { return Ok(0) };
    let changes = py.detach(|| open.tier.changes());
    release(py, open);
    for change in &changes {
        let mut gone = Gone::default();
        match change {
            Change::Key(text) => {
                let key = PyString::new(py, text).into_any();
                let hash = hash_key(&key)?;
                if let Some(slot) = this.locate(&key, hash)? {
                    this.state.with(py, |state| gone.push(state.engine.remove(slot, Reason::Invalidated)));
                }
            }
            Change::Tag(tag) => this.state.with(py, |state| {
                core::remove_labelled(state, &Label::Tag(tag.as_str().into()), &mut gone);
            }),
            Change::Function(name) => this.state.with(py, |state| core::remove_function(state, name, &mut gone)),
            Change::Pattern(pattern) => {
                let pattern = PyString::new(py, pattern);
                this.state.with(py, |state| core::remove_matching(state, &pattern, &mut gone));
            }
            Change::All => this.state.with(py, |state| state.engine.clear(&mut gone)),
        }
        this.state.with(py, |state| state.invalidations += 1);
        this.dismiss(py, gone);
    }
    Ok(changes.len())
}

/// See `ResultCache._lease`.
pub fn lease<'py>(slf: &Bound<'py, ResultCache>, key: &Bound<'py, PyAny>, seconds: f64) -> PyResult<Bound<'py, PyAny>> {
    let (py, none) = (slf.py(), slf.py().None().into_bound(slf.py()));
    let (Some(open), Some(text)) = (slf.get().disk.get(), text_of(key)) else { return Ok(none) };
    let ttl = Duration::try_from_secs_f64(seconds).map_err(|error| PyValueError::new_err(error.to_string()))?;
    match py.detach(|| Lease::acquire(open, &text, ttl)) {
        Ok(Some(lease)) => Ok(Bound::new(py, lease)?.into_any()),
        Ok(None) => Ok(pyo3::types::PyBool::new(py, false).to_owned().into_any()),
        // The tier counted and logged it; computing twice is better than not at all.
        Err(_) => Ok(none),
    }
}
