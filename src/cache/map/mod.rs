//! The table of entries: lookup, and what storing and removing share.

mod aliases;
mod check;
mod labelled;
mod store;

use hashbrown::HashTable;
use smallvec::SmallVec;

use self::aliases::Aliases;
use crate::cache::entry::{DEFAULT_COST, Entry, Extra, ExtraId, New, Reason, Removals, Removed, Slot};
use crate::cache::expiry::Expiry;
use crate::cache::labels::{Labels, Marks};
use crate::cache::policy::{Facts, Policy, PolicyKind};
use crate::support::slab::Slab;

/// How much may be in the cache. Both limits hold after every operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub entries: usize,
    /// Sum of weights; `None` for no limit.
    pub bytes: Option<u64>,
}

impl Limits {
    pub fn entries(entries: usize) -> Self {
        Self { entries, bytes: None }
    }
}

/// More entries than this are not kept, however high the limit.
const MOST: usize = (1 << 31) - 2;

/// The part of a hash that is kept with an entry.
#[inline]
fn keep(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// The hash by which the table finds a record. The table takes its tag from the top seven bits and the position from
/// the bottom; doubling the 32 bits gives both their share.
#[inline]
fn spread(kept: u32) -> u64 {
    u64::from(kept) << 32 | u64::from(kept)
}

/// A bounded map from `K` to `V`, where each entry may have a second key of type `A`.
///
/// Hashes must be well mixed, above all in their upper 32 bits, which are the ones used. The cache itself never
/// compares keys: `find` asks the caller about candidates with the right hash. Methods that take a [`Slot`] panic if
/// nothing is there.
///
/// Entries past their deadline stay until [`expire`](Self::expire) or an insertion that needs room takes them;
/// callers check [`is_expired`](Self::is_expired).
#[derive(Debug)]
pub struct Cache<K, V, A = ()> {
    table: HashTable<u32>,
    entries: Slab<Entry<K, V>>,
    extras: Slab<Extra>,
    aliases: Aliases<A>,
    policy: Policy,
    expiry: Expiry,
    labels: Labels,
    limits: Limits,
    /// Wide enough for any sum of weights.
    bytes: u128,
}

/// Lookup.
impl<K, V, A> Cache<K, V, A> {
    pub fn new(limits: Limits, kind: PolicyKind) -> Self {
        Self {
            table: HashTable::new(),
            entries: Slab::default(),
            extras: Slab::default(),
            aliases: Aliases::default(),
            policy: Policy::new(kind),
            expiry: Expiry::default(),
            labels: Labels::default(),
            limits,
            bytes: 0,
        }
    }

    /// The entry under a key. Does not count as use; see [`touch`](Self::touch). Expired entries are found too.
    #[inline(always)]
    pub fn find(&self, hash: u64, mut eq: impl FnMut(&K) -> bool) -> Option<Slot> {
        let kept = keep(hash);
        let found = self.table.find(spread(kept), |&slot| {
            let entry = &self.entries[slot];
            entry.hash == kept && eq(&entry.key)
        });
        found.map(|&slot| Slot(slot))
    }

    /// The entry under a second key.
    #[inline(always)]
    pub fn find_alias(&self, hash: u64, eq: impl FnMut(&A) -> bool) -> Option<Slot> {
        self.aliases.find(keep(hash), eq).map(Slot)
    }

    /// The entries that may be the one under a key, for callers that cannot compare in place.
    pub fn candidates(&self, hash: u64) -> SmallVec<[Slot; 4]> {
        let kept = keep(hash);
        let found = self.table.iter_hash(spread(kept)).copied();
        found.filter(|&slot| self.entries[slot].hash == kept).map(Slot).collect()
    }

    /// As [`candidates`](Self::candidates), for second keys.
    pub fn alias_candidates(&self, hash: u64) -> SmallVec<[Slot; 4]> {
        self.aliases.candidates(keep(hash)).map(Slot).collect()
    }

    #[inline(always)]
    pub fn entry(&self, slot: Slot) -> &Entry<K, V> {
        &self.entries[slot.0]
    }

    /// As [`entry`](Self::entry), for slots that may have been vacated.
    #[inline]
    pub fn get(&self, slot: Slot) -> Option<&Entry<K, V>> {
        self.entries.get(slot.0)
    }

    /// Whether the value is no longer fresh.
    #[inline]
    pub fn is_expired(&self, slot: Slot, now: u64) -> bool {
        self.entries[slot.0].expires <= now
    }

    #[inline]
    pub fn alias(&self, slot: Slot) -> Option<&A> {
        self.aliases.of(slot.0)
    }

    /// When the entry has to go: `expires` and the grace after it.
    #[inline]
    pub fn deadline(&self, slot: Slot) -> u64 {
        self.entries[slot.0].expires.saturating_add(self.grace(slot))
    }

    /// How long after `expires` the entry is kept, in nanoseconds.
    pub fn grace(&self, slot: Slot) -> u64 {
        self.extra(slot.0).map_or(0, |extra| extra.grace)
    }

    pub fn weight(&self, slot: Slot) -> u64 {
        self.weight_of(slot.0)
    }

    /// Entries in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &Entry<K, V>)> {
        self.entries.iter().map(|(slot, entry)| (Slot(slot), entry))
    }

    /// Number of entries, expired ones included.
    #[inline]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Sum of weights, at most `u64::MAX`.
    #[inline]
    pub fn bytes(&self) -> u64 {
        u64::try_from(self.bytes).unwrap_or(u64::MAX)
    }

    #[inline]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    #[inline]
    pub fn policy(&self) -> PolicyKind {
        self.policy.kind()
    }

    /// Entries in the order in which the policy would evict them, coldest first. O(n), O(n log n) for the policies with
    /// a heap.
    pub fn order(&self) -> Vec<Slot> {
        self.policy.order().into_iter().map(Slot).collect()
    }

    /// The value of an entry that `fresh` accepts by its expiry, counted as a use.
    #[inline(always)]
    pub fn serve(&mut self, slot: Slot, fresh: impl FnOnce(u64) -> bool) -> Option<&V> {
        let entry = &mut self.entries[slot.0];
        if !fresh(entry.expires) {
            return None;
        }
        entry.accesses = entry.accesses.saturating_add(1);
        self.policy.access(slot.0, entry.hash);
        Some(&entry.value)
    }

    /// Counts a use of the entry and tells the policy.
    #[inline(always)]
    pub fn touch(&mut self, slot: Slot) {
        let entry = &mut self.entries[slot.0];
        entry.accesses = entry.accesses.saturating_add(1);
        self.policy.access(slot.0, entry.hash);
    }
}

/// Internals.
impl<K, V, A> Cache<K, V, A> {
    #[inline]
    fn refusal(&self, new: &New<'_, A>) -> Option<Reason> {
        if self.limits.entries == 0 {
            return Some(Reason::Capacity);
        }
        if self.limits.bytes.is_some_and(|limit| new.weight > limit) {
            return Some(Reason::Bytes);
        }
        if new.deadline() <= new.now {
            return Some(Reason::Expired);
        }
        None
    }

    /// Evicts until the limits hold; `now` = 0 to leave expired entries out of it.
    #[inline]
    fn shrink(&mut self, now: u64, out: &mut Removals<K, V, A>) {
        loop {
            let reason = if self.entries.len() > self.limits.entries.min(MOST) {
                Reason::Capacity
            } else if self.limits.bytes.is_some_and(|limit| self.bytes > u128::from(limit)) {
                Reason::Bytes
            } else {
                return;
            };
            let (slot, reason) = match self.pop_expired(now) {
                Some(slot) => (slot, Reason::Expired),
                None => match self.policy.victim() {
                    Some(slot) => (slot, reason),
                    None => return,
                },
            };
            if let Some(removed) = self.take(slot, reason) {
                out.push(removed);
            }
        }
    }

    #[inline]
    fn pop_expired(&mut self, now: u64) -> Option<u32> {
        let (entries, extras) = (&self.entries, &self.extras);
        self.expiry.pop(now, |slot| deadline(entries, extras, slot))
    }

    /// Takes an entry out of everything.
    #[inline]
    fn take(&mut self, slot: u32, reason: Reason) -> Option<Removed<K, V, A>> {
        let entry = self.entries.remove(slot)?;
        if let Ok(record) = self.table.find_entry(spread(entry.hash), |&record| record == slot) {
            record.remove();
        }
        self.policy.remove(slot);
        self.expiry.cancel(slot);
        let mut weight = u64::from(entry.weight);
        if let Some(extra) = entry.extra.get().and_then(|index| self.extras.remove(index)) {
            weight = extra.weight;
            self.unlabel(extra.marks);
        }
        self.bytes -= u128::from(weight);
        Some(Removed {
            key: Some(entry.key),
            value: entry.value,
            alias: self.aliases.take(slot),
            reason,
            expires: entry.expires,
            created: entry.created,
            accesses: entry.accesses,
            weight,
        })
    }

    #[inline]
    fn link(&mut self, hash: u64, slot: u32) {
        let entries = &self.entries;
        self.table.insert_unique(hash, slot, |&slot| spread(entries[slot].hash));
    }

    #[inline]
    fn extra(&self, slot: u32) -> Option<&Extra> {
        self.entries[slot].extra.get().map(|index| &self.extras[index])
    }

    fn extra_mut(&mut self, slot: u32) -> &mut Extra {
        let entry = &mut self.entries[slot];
        let index = match entry.extra.get() {
            Some(index) => index,
            None => {
                let weight = u64::from(entry.weight);
                let extra = Extra { grace: 0, weight, marks: Marks::new(), cost: DEFAULT_COST };
                let index = self.extras.insert(extra);
                entry.extra = ExtraId::new(index);
                index
            }
        };
        &mut self.extras[index]
    }

    /// Frees an [`Extra`] that has become superfluous.
    fn drop_plain_extra(&mut self, slot: u32) {
        let Some(index) = self.entries[slot].extra.get() else {
            return;
        };
        let extra = &self.extras[index];
        if extra.grace == 0
            && extra.weight < u64::from(u32::MAX)
            && extra.cost == DEFAULT_COST
            && extra.marks.is_empty()
        {
            self.extras.remove(index);
            self.entries[slot].extra = ExtraId::NONE;
        }
    }

    #[inline]
    fn weight_of(&self, slot: u32) -> u64 {
        self.extra(slot).map_or_else(|| u64::from(self.entries[slot].weight), |extra| extra.weight)
    }

    fn facts(&self, slot: u32) -> Facts {
        let entry = &self.entries[slot];
        Facts {
            hash: entry.hash,
            accesses: entry.accesses,
            expires: entry.expires,
            weight: self.weight_of(slot),
            cost: self.extra(slot).map_or(DEFAULT_COST, |extra| extra.cost),
        }
    }
}

/// When the entry has to go.
#[inline]
fn deadline<K, V>(entries: &Slab<Entry<K, V>>, extras: &Slab<Extra>, slot: u32) -> u64 {
    let entry = &entries[slot];
    let grace = entry.extra.get().map_or(0, |index| extras[index].grace);
    entry.expires.saturating_add(grace)
}
