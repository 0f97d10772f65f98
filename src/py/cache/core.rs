//! Lookups, stores and removals: what the methods of `ResultCache` and decorated functions share.
#![allow(unsafe_code)]

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use super::disk;
use super::state::{Alias, Found, Gone, State};
use super::{CHECK_EACH, LISTENED, ResultCache, listeners, options};
use crate::cache::persist::Change;
use crate::cache::{Label, LabelId, Limits, New, Reason, Slot};
use crate::py::cached::flight::{self, Flight};
use crate::py::codec::estimate_size;
use crate::py::hang;
use crate::support::clock::{self, NEVER};

/// Group label of the string keys that contain more than one ':', or lone surrogates, see [`invalidate`].
const SEVERAL_COLONS: u64 = 0;

/// How to store an entry; the default is what `set(key, value)` does.
#[derive(Default)]
pub struct Put<'a> {
    /// Seconds; `None` = the cache's default, 0 = for ever, negative = already expired.
    pub ttl: Option<f64>,
    pub tags: &'a [String],
    /// Cost of recomputation, for the cost policy.
    pub cost: f32,
    /// Nanoseconds for which the entry is kept after expiry to be served stale.
    pub grace: u64,
    /// Call arguments under which the entry is found as well, with their hash.
    pub alias: Option<(u64, Alias)>,
    /// [`group_of`] the decorated function that owns the entry.
    pub group: Option<u64>,
    /// Name of that function as the disk tier tracks it, if its keys do not begin with it.
    pub function: Option<&'a str>,
    /// Keep it out of the disk tier.
    pub memory_only: bool,
    /// Fraction of the lifetime to take off at random instead of the cache's own.
    pub jitter: Option<f64>,
    /// The computation whose result it is; if that was invalidated, nothing is stored.
    pub flight: Option<&'a Flight>,
}

/// The entries an invalidation is about.
pub enum Selector<'a, 'py> {
    Tag(&'a str),
    Pattern(&'a Bound<'py, PyString>),
    /// Entries of one decorated function; `durable` if some may be on disk.
    Function {
        name: &'a str,
        durable: bool,
    },
}

impl ResultCache {
    /// The slot of `key`, asking user-defined `__eq__` methods outside the critical section where they must be asked.
    ///
    /// The slot stays valid until the thread runs Python code or detaches.
    #[inline(always)]
    pub fn locate(&self, key: &Bound<'_, PyAny>, hash: u64) -> PyResult<Option<Slot>> {
        let py = key.py();
        match self.state.with(py, |state| state.find(py, hash, key.as_ptr())) {
            Found::At(slot) => Ok(Some(slot)),
            Found::Absent => Ok(None),
            Found::Ask(stored) => self.locate_by_asking(key, hash, stored),
        }
    }

    #[cold]
    fn locate_by_asking(&self, key: &Bound<'_, PyAny>, hash: u64, stored: Vec<Py<PyAny>>) -> PyResult<Option<Slot>> {
        let py = key.py();
        let mut refused: Vec<Py<PyAny>> = Vec::new();
        let mut pending = stored;
        loop {
            let mut equal = None;
            for candidate in pending {
                if equal.is_none() && hang::equal(candidate.bind(py), key)? {
                    equal = Some(candidate);
                } else {
                    refused.push(candidate);
                }
            }
            if let Some(equal) = equal {
                // Dropping the others may run `__del__`; only then is a slot worth having.
                drop(std::mem::take(&mut refused));
                if let Some(slot) = self.state.with(py, |state| state.find_identical(hash, &equal)) {
                    return Ok(Some(slot));
                }
            }
            // The table may have changed under the comparison: look again, ask only those not asked yet.
            match self.state.with(py, |state| state.find(py, hash, key.as_ptr())) {
                Found::At(slot) => return Ok(Some(slot)),
                Found::Absent => return Ok(None),
                Found::Ask(stored) => {
                    pending = stored.into_iter().filter(|new| !refused.iter().any(|old| old.is(new))).collect();
                    if pending.is_empty() {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Removes an entry found past its time, unless it is kept for stale serving; true if it is gone.
    fn drop_expired(&self, py: Python<'_>, slot: Slot, gone: &mut Gone) -> bool {
        self.state.with(py, |state| {
            if !clock::is_past(state.engine.deadline(slot)) {
                return false;
            }
            let removed = state.engine.remove(slot, Reason::Expired);
            state.counters.expirations += 1;
            gone.push(removed);
            true
        })
    }

    /// Counts a miss and tells `on_miss`.
    pub fn missed(&self, key: &Bound<'_, PyAny>) {
        let py = key.py();
        self.state.with(py, |state| state.counters.misses += 1);
        self.tell(key, false);
    }

    /// Tells `on_hit` or `on_miss`.
    pub fn tell(&self, key: &Bound<'_, PyAny>, hit: bool) {
        if !self.has(LISTENED) {
            return;
        }
        let py = key.py();
        let listener = self.settings.with(py, |settings| {
            let listener = if hit { &settings.on_hit } else { &settings.on_miss };
            listener.as_ref().map(|listener| listener.clone_ref(py))
        });
        if let Some(listener) = listener {
            listeners::looked_up(py, &listener, key, if hit { "on_hit" } else { "on_miss" });
        }
    }
}

/// `get`: the live value in memory or on disk; counts a hit or a miss.
#[inline(always)]
pub fn get<'py>(slf: &Bound<'py, ResultCache>, key: &Bound<'py, PyAny>, hash: u64) -> PyResult<Option<Py<PyAny>>> {
    let (py, this) = (slf.py(), slf.get());
    if this.has(CHECK_EACH) {
        disk::apply_changes(slf)?;
    }
    let slot = this.locate(key, hash)?;
    if let Some(slot) = slot {
        let hit = this.state.with(py, |state| {
            state.is_live(slot).then(|| {
                state.engine.touch(slot);
                state.counters.hits += 1;
                state.engine.entry(slot).value.clone_ref(py)
            })
        });
        if let Some(value) = hit {
            this.tell(key, true);
            return Ok(Some(value));
        }
    }
    absent_in_memory(slf, key, hash, slot)
}

/// What a decorated call wants attached to an entry it finds under its text key.
pub struct Attach {
    /// Call arguments by which to find it next time, with their hash.
    pub alias: Option<(u64, Alias)>,
    /// [`group_of`] the function.
    pub group: u64,
    /// The key is not for the disk tier.
    pub memory_only: bool,
}

/// Where a lookup ended.
pub enum Look {
    Fresh(Py<PyAny>),
    /// Expired `age` nanoseconds ago, but kept for stale serving.
    Stale {
        value: Py<PyAny>,
        age: u64,
    },
    Absent,
}

#[cold]
fn absent_in_memory<'py>(
    slf: &Bound<'py, ResultCache>,
    key: &Bound<'py, PyAny>,
    hash: u64,
    expired: Option<Slot>,
) -> PyResult<Option<Py<PyAny>>> {
    match absent(slf, key, hash, expired, None, true)? {
        Look::Fresh(value) => Ok(Some(value)),
        Look::Stale { .. } => {
            slf.get().missed(key);
            Ok(None)
        }
        Look::Absent => Ok(None),
    }
}

/// [`get`] for decorated calls: attaches the call to the entry, tells stale entries from absent ones. A hit or an
/// absence is counted if `count` is set, a stale value never.
pub fn look<'py>(
    slf: &Bound<'py, ResultCache>,
    key: &Bound<'py, PyAny>,
    hash: u64,
    mut attach: Option<Attach>,
    count: bool,
) -> PyResult<Look> {
    let (py, this) = (slf.py(), slf.get());
    if this.has(CHECK_EACH) {
        disk::apply_changes(slf)?;
    }
    let slot = this.locate(key, hash)?;
    let Some(found) = slot else {
        return absent(slf, key, hash, None, attach, count);
    };
    let mut replaced = None;
    let hit = this.state.with(py, |state| {
        state.is_live(found).then(|| {
            state.engine.touch(found);
            state.counters.hits += u64::from(count);
            if let Some(Attach { alias: Some((hash, alias)), .. }) = attach.take() {
                replaced = state.engine.attach(found, hash, alias);
            }
            state.engine.entry(found).value.clone_ref(py)
        })
    });
    drop(replaced);
    match hit {
        Some(value) => {
            if count {
                this.tell(key, true);
            }
            Ok(Look::Fresh(value))
        }
        None => absent(slf, key, hash, slot, None, count),
    }
}

/// The rest of a lookup that found nothing live in memory.
fn absent<'py>(
    slf: &Bound<'py, ResultCache>,
    key: &Bound<'py, PyAny>,
    hash: u64,
    expired: Option<Slot>,
    attach: Option<Attach>,
    count: bool,
) -> PyResult<Look> {
    let (py, this) = (slf.py(), slf.get());
    let mut gone = Gone::default();
    if let Some(slot) = expired {
        if !this.drop_expired(py, slot, &mut gone) {
            return Ok(this.state.with(py, |state| {
                let entry = state.engine.entry(slot);
                Look::Stale { value: entry.value.clone_ref(py), age: clock::now().saturating_sub(entry.expires) }
            }));
        }
        disk::discard_expired(slf, key);
    } else if !attach.as_ref().is_some_and(|attach| attach.memory_only) {
        if let Some(value) = disk::fetch(slf, key, hash, attach)? {
            this.state.with(py, |state| state.counters.hits += u64::from(count));
            if count {
                this.tell(key, true);
            }
            return Ok(Look::Fresh(value));
        }
    }
    if count {
        this.missed(key);
    }
    this.dismiss(py, gone);
    Ok(Look::Absent)
}

/// `set`: replaces or adds the entry in both tiers.
pub fn put<'py>(
    slf: &Bound<'py, ResultCache>,
    key: &Bound<'py, PyAny>,
    hash: u64,
    value: &Bound<'py, PyAny>,
    put: Put<'_>,
) -> PyResult<()> {
    let (py, this) = (slf.py(), slf.get());
    let ttl = lifetime(this, py, &put);
    if put.flight.is_some_and(Flight::is_doomed) {
        return Ok(());
    }
    if ttl < 0.0 {
        this.state.with(py, |state| state.counters.sets += 1);
        return remove_silently(slf, key, hash);
    }
    let text = text_of(key);
    let row = match &text {
        Some(text) if !put.memory_only => disk::prepare(slf, text, value, ttl, &put)?,
        _ => disk::Prepared::None,
    };
    let weight = weigh(this, value)?;
    // Encoding and sizing run user code, and may have let other threads in.
    if put.flight.is_some_and(Flight::is_doomed) {
        return Ok(());
    }
    let gone = insert(this, key, hash, value, text.as_deref(), ttl, weight, put)?;
    this.state.with(py, |state| state.counters.sets += 1);
    let written = disk::enqueue(slf, row);
    disk::record_evicted(slf, &gone);
    this.dismiss_replaced(key, gone);
    written.wait(slf);
    Ok(())
}

/// Adds or replaces the entry in the memory tier; returns what left.
#[allow(clippy::too_many_arguments)]
pub fn insert(
    this: &ResultCache,
    key: &Bound<'_, PyAny>,
    hash: u64,
    value: &Bound<'_, PyAny>,
    text: Option<&str>,
    ttl: f64,
    weight: u64,
    put: Put<'_>,
) -> PyResult<Gone> {
    let py = key.py();
    let slot = this.locate(key, hash)?;
    let lifetime = if ttl == 0.0 { NEVER } else { options::nanoseconds(ttl) };
    let now = clock::start_of(lifetime);
    let expires = now.saturating_add(lifetime);
    let mut gone = Gone::default();
    this.state.with(py, |state| {
        let odd = text.is_none() && key.is_instance_of::<PyString>();
        let labels = labels(state, text, odd, &put);
        let new = New { now, expires, grace: put.grace, weight, cost: put.cost, labels: &labels, alias: put.alias };
        match slot {
            Some(slot) => state.engine.replace(slot, value.clone().unbind(), new, &mut gone),
            None => {
                let (key, value) = (key.clone().unbind(), value.clone().unbind());
                state.engine.insert(hash, key, value, new, &mut gone)
            }
        };
        state.count(&gone);
    });
    Ok(gone)
}

/// `odd`: the key is a str that is no text (lone surrogates), so that it has no head to be found by.
fn labels(state: &mut State, text: Option<&str>, odd: bool, put: &Put<'_>) -> smallvec::SmallVec<[LabelId; 4]> {
    let mut labels = smallvec::SmallVec::new();
    for tag in put.tags {
        labels.push(state.engine.label(Label::Tag(tag.as_str().into())));
    }
    if let Some(group) = put.group {
        labels.push(state.engine.label(Label::Group(group)));
    }
    if odd {
        labels.push(state.engine.label(Label::Group(SEVERAL_COLONS)));
    }
    if let Some((text, colon)) = text.and_then(|text| text.find(':').map(|colon| (text, colon))) {
        labels.push(state.engine.label(Label::Head(text[..=colon].into())));
        if text[colon + 1..].contains(':') {
            labels.push(state.engine.label(Label::Group(SEVERAL_COLONS)));
        }
    }
    labels
}

/// The lifetime in seconds, default and jitter applied.
fn lifetime(this: &ResultCache, py: Python<'_>, put: &Put<'_>) -> f64 {
    let (default, jitter) = this.settings.with(py, |settings| (settings.default_seconds, settings.jitter));
    let ttl = put.ttl.unwrap_or(default);
    match put.jitter.unwrap_or(jitter) {
        0.0 => ttl,
        jitter => ttl * (1.0 - jitter * crate::support::random::unit()),
    }
}

/// Bytes an entry is charged with: 0 while nobody asks, `sizeof(value)` if given, else the native estimate.
pub fn weigh(this: &ResultCache, value: &Bound<'_, PyAny>) -> PyResult<u64> {
    let py = value.py();
    let (limited, sizeof) = this.settings.with(py, |settings| {
        (settings.max_bytes.is_some(), settings.sizeof.as_ref().map(|sizeof| sizeof.clone_ref(py)))
    });
    match sizeof {
        Some(sizeof) => hang::call(sizeof.bind(py), &PyTuple::new(py, [value])?, None)?.extract(),
        None if limited => Ok(estimate_size(value)),
        None => Ok(0),
    }
}

/// Weighs every entry anew, after `max_bytes` came into force.
pub fn reweigh(slf: &Bound<'_, ResultCache>) -> PyResult<()> {
    let (py, this) = (slf.py(), slf.get());
    let entries: Vec<(Slot, Py<PyAny>)> = this.state.with(py, |state| {
        let slots = state.engine.order().into_iter();
        slots.map(|slot| (slot, state.engine.entry(slot).value.clone_ref(py))).collect()
    });
    for (slot, value) in &entries {
        let weight = weigh(this, value.bind(py))?;
        this.state.with(py, |state| {
            // `sizeof` may have run user code that changed the cache.
            if state.engine.get(*slot).is_some_and(|entry| entry.value.is(value)) {
                state.engine.set_weight(*slot, weight);
            }
        });
    }
    Ok(())
}

pub fn apply_limits(slf: &Bound<'_, ResultCache>) -> PyResult<()> {
    let (py, this) = (slf.py(), slf.get());
    let limits = this.settings.with(py, |settings| Limits { entries: settings.max_size, bytes: settings.max_bytes });
    let mut gone = Gone::default();
    this.state.with(py, |state| {
        state.engine.set_limits(limits, &mut gone);
        state.count(&gone);
    });
    this.dismiss(py, gone);
    Ok(())
}

/// The key as text, if it is one that the disk tier can hold.
pub fn text_of<'a>(key: &'a Bound<'_, PyAny>) -> Option<std::borrow::Cow<'a, str>> {
    let text = key.cast::<PyString>().ok()?;
    text.to_str().ok().map(std::borrow::Cow::Borrowed)
}

/// Removes the entry from memory; whether it was live.
fn remove_from_memory(this: &ResultCache, key: &Bound<'_, PyAny>, hash: u64, reason: Reason) -> PyResult<(bool, Gone)> {
    let slot = this.locate(key, hash)?;
    let mut gone = Gone::default();
    let live = this.state.with(key.py(), |state| {
        state.invalidations += 1;
        let Some(slot) = slot else { return false };
        let live = state.is_live(slot);
        gone.push(state.engine.remove(slot, if live { reason } else { Reason::Expired }));
        state.count(&gone);
        live
    });
    Ok((live, gone))
}

/// Results still being computed are not to be stored once their key, tag or function was invalidated.
fn doom(this: &ResultCache, py: Python<'_>, concerned: impl FnMut(&Bound<'_, PyAny>, &Flight) -> bool) -> PyResult<()> {
    flight::doom(this.flights.bind(py), concerned)
}

/// A `set` with negative lifetime: the entry goes, nothing is counted but the `set`.
fn remove_silently(slf: &Bound<'_, ResultCache>, key: &Bound<'_, PyAny>, hash: u64) -> PyResult<()> {
    let this = slf.get();
    let (_, gone) = remove_from_memory(this, key, hash, Reason::Replaced)?;
    disk::submit(slf, || disk::removal_of(key)).settle(slf);
    this.dismiss(slf.py(), gone);
    Ok(())
}

pub fn delete(slf: &Bound<'_, ResultCache>, key: &Bound<'_, PyAny>, hash: u64) -> PyResult<bool> {
    let (py, this) = (slf.py(), slf.get());
    flight::doom_key(this.flights.bind(py), key)?;
    let (in_memory, gone) = remove_from_memory(this, key, hash, Reason::Deleted)?;
    let on_disk = disk::submit(slf, || disk::removal_of(key)).settle(slf);
    let existed = in_memory || !on_disk.is_empty();
    this.state.with(py, |state| {
        state.invalidations += 1;
        state.counters.deletes += u64::from(existed);
    });
    this.dismiss(py, gone);
    Ok(existed)
}

pub fn contains(slf: &Bound<'_, ResultCache>, key: &Bound<'_, PyAny>, hash: u64) -> PyResult<bool> {
    let (py, this) = (slf.py(), slf.get());
    match this.locate(key, hash)? {
        Some(slot) => Ok(this.state.with(py, |state| state.is_live(slot))),
        None => disk::contains(slf, key),
    }
}

pub fn clear(slf: &Bound<'_, ResultCache>) -> PyResult<usize> {
    let (py, this) = (slf.py(), slf.get());
    doom(this, py, |_, _| true)?;
    let mut gone = Gone::default();
    let now = clock::now();
    this.state.with(py, |state| {
        state.invalidations += 1;
        state.engine.clear(&mut gone);
    });
    let on_disk = disk::submit(slf, || Some(Change::All)).settle(slf);
    this.state.with(py, |state| state.invalidations += 1);
    let live = gone.iter().filter(|removed| removed.expires > now);
    let removed = distinct(py, live.filter_map(|removed| removed.key.as_ref()), on_disk);
    this.dismiss(py, gone);
    Ok(removed)
}

/// `invalidate_by_tag`, `invalidate_pattern`, `cache_clear`: number of distinct live entries removed.
///
/// A pattern that ends in its only ':' is what `cached` keys begin with. It is found through the heads of the keys
/// (text up to the first ':'), in time proportional to what it removes; only keys with several ':' could contain it
/// elsewhere, and those are scanned on their own.
pub fn invalidate(slf: &Bound<'_, ResultCache>, selector: Selector<'_, '_>) -> PyResult<usize> {
    let (py, this) = (slf.py(), slf.get());
    let now = clock::now();
    doom(this, py, |key, flight| match &selector {
        Selector::Tag(tag) => flight.tags.iter().any(|carried| carried == tag),
        Selector::Function { name, .. } => flight.function == group_of(name),
        Selector::Pattern(pattern) => contains_text(key.as_ptr(), pattern.as_ptr()),
    })?;
    let mut gone = Gone::default();
    this.state.with(py, |state| {
        state.invalidations += 1;
        match &selector {
            Selector::Tag(tag) => remove_labelled(state, &Label::Tag((*tag).into()), &mut gone),
            Selector::Function { name, .. } => remove_function(state, name, &mut gone),
            Selector::Pattern(pattern) => remove_matching(state, pattern, &mut gone),
        }
    });
    let on_disk = disk::submit(slf, || disk::removal_by(&selector)).settle(slf);
    let live = gone.iter().filter(|removed| removed.expires > now);
    let removed = distinct(py, live.filter_map(|removed| removed.key.as_ref()), on_disk);
    this.state.with(py, |state| {
        state.invalidations += 1;
        state.counters.deletes += removed as u64;
    });
    this.dismiss(py, gone);
    Ok(removed)
}

/// Group label of a decorated function's entries.
pub fn group_of(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish() | 1
}

/// Removes the entries of a decorated function: those it stored, and those that came from disk under its prefix.
pub fn remove_function(state: &mut State, name: &str, gone: &mut Gone) {
    remove_labelled(state, &Label::Group(group_of(name)), gone);
    remove_labelled(state, &Label::Head(format!("{name}:").into()), gone);
}

pub fn remove_labelled(state: &mut State, label: &Label, gone: &mut Gone) {
    if let Some(id) = state.engine.find_label(label) {
        state.engine.remove_labelled(id, Reason::Invalidated, gone);
    }
}

pub fn remove_matching(state: &mut State, pattern: &Bound<'_, PyString>, gone: &mut Gone) {
    let contains = |key: &Py<PyAny>| contains_text(key.as_ptr(), pattern.as_ptr());
    match pattern.to_str() {
        Ok(text) if text.find(':') == text.len().checked_sub(1) && !text.is_empty() => {
            for head in state.engine.heads_ending_with(text) {
                state.engine.remove_labelled(head, Reason::Invalidated, gone);
            }
            if let Some(several) = state.engine.find_label(&Label::Group(SEVERAL_COLONS)) {
                let slots: Vec<Slot> = state.engine.members(several).to_vec();
                for slot in slots {
                    if contains(&state.engine.entry(slot).key) {
                        gone.push(state.engine.remove(slot, Reason::Invalidated));
                    }
                }
            }
        }
        _ => state.engine.scan(gone, Reason::Invalidated, contains),
    }
}

/// Whether a key is a str that contains `pattern`.
fn contains_text(key: *mut ffi::PyObject, pattern: *mut ffi::PyObject) -> bool {
    // SAFETY: live objects; text is compared natively, also that of str subclasses: no user code runs.
    unsafe { ffi::PyUnicode_Check(key) != 0 && ffi::PyUnicode_Contains(key, pattern) == 1 }
}

/// Number of different keys among those removed in memory and those removed on disk.
fn distinct<'a>(py: Python<'_>, in_memory: impl Iterator<Item = &'a Py<PyAny>>, on_disk: Vec<String>) -> usize {
    if on_disk.is_empty() {
        return in_memory.count();
    }
    let on_disk: HashSet<String> = on_disk.into_iter().collect();
    let only_memory =
        in_memory.filter(|key| text_of(key.bind(py)).is_none_or(|text| !on_disk.contains(text.as_ref()))).count();
    on_disk.len() + only_memory
}

pub fn cleanup_expired(slf: &Bound<'_, ResultCache>) -> PyResult<usize> {
    let (py, this) = (slf.py(), slf.get());
    let mut gone = Gone::default();
    // Counted with their removal: whoever sees that they are gone sees them counted.
    this.state.with(py, |state| {
        state.engine.expire(clock::now(), &mut gone);
        state.count(&gone);
    });
    let on_disk = disk::cleanup_expired(slf);
    let removed = distinct(py, gone.iter().filter_map(|removed| removed.key.as_ref()), on_disk);
    let only_on_disk = removed.saturating_sub(gone.len());
    this.state.with(py, |state| state.counters.expirations += only_on_disk as u64);
    this.dismiss(py, gone);
    Ok(removed)
}

/// The background sweep: like `cleanup_expired`, for a thread that must not raise.
pub fn sweep(slf: &Bound<'_, ResultCache>) -> PyResult<()> {
    slf.get().enter(slf.py())?;
    cleanup_expired(slf).map(drop)
}

/// Keeps the error count of a tier that is being closed.
pub fn keep_errors(this: &ResultCache, py: Python<'_>, errors: u64) {
    this.settings.with(py, |settings| settings.disk_errors += errors);
}

/// The disk tier failed once more.
pub fn count_disk_error(this: &ResultCache, py: Python<'_>) {
    this.settings.with(py, |settings| settings.disk_errors += 1);
}

/// Shows the collector every object the cache holds; shows nothing if the cache is in use at this very moment.
pub fn traverse(this: &ResultCache, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
    // SAFETY: the collector runs attached.
    let entries = unsafe {
        this.state.try_with_unchecked(|state| {
            for (slot, entry) in state.engine.iter() {
                visit.call(&entry.key)?;
                visit.call(&entry.value)?;
                if let Some(alias) = state.engine.alias(slot) {
                    visit.call(&alias.arguments)?;
                }
            }
            visit.call(&this.flights)?;
            visit.call(&this.registry)
        })
    };
    entries.unwrap_or(Ok(()))?;
    // SAFETY: as above.
    let settings = unsafe {
        this.settings.try_with_unchecked(|settings| {
            visit.call(&settings.default_ttl)?;
            for held in [&settings.sizeof, &settings.on_evict, &settings.on_hit, &settings.on_miss] {
                visit.call(held)?;
            }
            Ok(())
        })
    };
    settings.unwrap_or(Ok(()))
}

/// Breaks reference cycles: gives up every object held.
pub fn release_all(this: &ResultCache) {
    let mut gone = Gone::default();
    // SAFETY: the collector runs attached.
    unsafe {
        this.state.try_with_unchecked(|state| state.engine.clear(&mut gone));
    }
    // SAFETY: as above.
    let held = unsafe {
        this.settings.try_with_unchecked(|settings| {
            (settings.sizeof.take(), settings.on_evict.take(), settings.on_hit.take(), settings.on_miss.take())
        })
    };
    drop(gone);
    drop(held);
}
