//! The table of entries.

use hashbrown::HashTable;
use smallvec::SmallVec;

use super::entry::{DEFAULT_COST, Entry, Extra, ExtraId, New, Reason, Removals, Removed, Slot};
use super::expiry::Expiry;
use super::labels::{Label, LabelId, Labels, Marks};
use super::policy::{Facts, Policy, PolicyKind};
use crate::support::clock::NEVER;
use crate::support::slab::{Chunks, Slab};

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

/// Records in the table are slots; this bit tells a record under an entry's alias from the one under its key.
const ALIAS: u32 = 1 << 31;
/// Slots stay below [`ALIAS`] however high the limit.
const MOST: usize = ALIAS as usize - 2;

/// The part of a hash that is kept with an entry.
#[inline]
fn keep(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// The hash by which the table finds a record. The table takes its tag from the top seven bits and the position from the
/// bottom; doubling the 32 bits gives both their share.
#[inline]
fn spread(kept: u32) -> u64 {
    u64::from(kept) << 32 | u64::from(kept)
}

#[derive(Debug)]
struct Alias<A> {
    hash: u32,
    alias: A,
}

/// A bounded map from `K` to `V`, where each entry may have a second key of type `A`.
///
/// Hashes must be well mixed, above all in their upper 32 bits, which are the ones used. The cache itself never compares
/// keys: `find` asks the caller about candidates with the right hash. Methods that take a [`Slot`] panic if nothing is there.
///
/// Entries past their deadline stay until [`expire`](Self::expire) or an insertion that needs room takes them;
/// callers check [`is_expired`](Self::is_expired).
#[derive(Debug)]
pub struct Cache<K, V, A = ()> {
    table: HashTable<u32>,
    entries: Slab<Entry<K, V>>,
    extras: Slab<Extra>,
    /// By slot, as far as the highest slot that ever had an alias.
    aliases: Chunks<Option<Alias<A>>>,
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
            aliases: Chunks::default(),
            policy: Policy::new(kind),
            expiry: Expiry::default(),
            labels: Labels::default(),
            limits,
            bytes: 0,
        }
    }

    /// The entry under a key. Does not count as use; see [`touch`](Self::touch). Expired entries are found too.
    #[inline]
    pub fn find(&self, hash: u64, mut eq: impl FnMut(&K) -> bool) -> Option<Slot> {
        let kept = keep(hash);
        self.table
            .find(spread(kept), |&record| {
                record & ALIAS == 0 && {
                    let entry = &self.entries[record];
                    entry.hash == kept && eq(&entry.key)
                }
            })
            .map(|&record| Slot(record))
    }

    /// The entry under a second key.
    #[inline]
    pub fn find_alias(&self, hash: u64, mut eq: impl FnMut(&A) -> bool) -> Option<Slot> {
        let kept = keep(hash);
        self.table
            .find(spread(kept), |&record| {
                record & ALIAS != 0
                    && match self.aliases.get(record & !ALIAS) {
                        Some(Some(alias)) => alias.hash == kept && eq(&alias.alias),
                        _ => false,
                    }
            })
            .map(|&record| Slot(record & !ALIAS))
    }

    /// The entries that may be the one under a key, for callers that cannot compare in place.
    pub fn candidates(&self, hash: u64) -> SmallVec<[Slot; 4]> {
        let kept = keep(hash);
        let records = self.table.iter_hash(spread(kept)).copied();
        records
            .filter(|&record| record & ALIAS == 0 && self.entries[record].hash == kept)
            .map(Slot)
            .collect()
    }

    /// As [`candidates`](Self::candidates), for second keys.
    pub fn alias_candidates(&self, hash: u64) -> SmallVec<[Slot; 4]> {
        let kept = keep(hash);
        let records = self.table.iter_hash(spread(kept)).copied();
        records
            .filter(|&record| {
                record & ALIAS != 0
                    && matches!(self.aliases.get(record & !ALIAS), Some(Some(alias)) if alias.hash == kept)
            })
            .map(|record| Slot(record & !ALIAS))
            .collect()
    }

    #[inline]
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
        match self.aliases.get(slot.0) {
            Some(Some(alias)) => Some(&alias.alias),
            _ => None,
        }
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

    /// Entries in the order in which the policy would evict them, coldest first. O(n), O(n log n) for the policies with a heap.
    pub fn order(&self) -> Vec<Slot> {
        self.policy.order().into_iter().map(Slot).collect()
    }

    /// Counts a use of the entry and tells the policy.
    #[inline]
    pub fn touch(&mut self, slot: Slot) {
        let entry = &mut self.entries[slot.0];
        entry.accesses = entry.accesses.saturating_add(1);
        self.policy.access(slot.0, entry.hash);
    }
}

/// Storing and removing. Amortised O(1) an entry apart from the policies with a heap, plus O(labels of the entry).
impl<K, V, A> Cache<K, V, A> {
    /// Stores a value under a key that must not be present, then evicts down to the limits, expired entries first. The new
    /// entry itself is not evicted. If it cannot stay (no entries allowed, heavier than the limit, past its deadline)
    /// it goes to `out`, nothing else changes and the result is `None`.
    #[inline]
    pub fn insert(
        &mut self,
        hash: u64,
        key: K,
        value: V,
        new: New<'_, A>,
        out: &mut Removals<K, V, A>,
    ) -> Option<Slot> {
        if let Some(reason) = self.refusal(&new) {
            self.labels.settle();
            out.push(refused(Some(key), value, new, reason));
            return None;
        }
        let kept = keep(hash);
        let facts = Facts {
            hash: kept,
            accesses: 0,
            expires: new.expires,
            weight: new.weight,
            cost: new.cost,
        };
        let deadline = new.deadline();
        let extra = if Extra::needed(&new) {
            ExtraId::new(self.extras.insert(Extra {
                grace: new.grace,
                weight: new.weight,
                marks: Marks::new(),
                cost: new.cost,
            }))
        } else {
            ExtraId::NONE
        };
        let slot = self.entries.insert(Entry {
            key,
            value,
            expires: new.expires,
            created: new.now,
            hash: kept,
            accesses: 0,
            weight: u32::try_from(new.weight).unwrap_or(u32::MAX),
            extra,
        });
        self.link(spread(kept), slot);
        self.bytes += u128::from(new.weight);
        if extra != ExtraId::NONE {
            // Labels first: the evictions below may take the last other entry of one of them.
            self.relabel(slot, new.labels);
            self.labels.settle();
        }
        if let Some((hash, alias)) = new.alias {
            self.set_alias(slot, keep(hash), alias);
        }
        // The policy does not know the entry yet, so it cannot choose it.
        self.shrink(new.now, out);
        self.policy.insert(slot, &facts);
        self.expiry.schedule(slot, deadline);
        Some(Slot(slot))
    }

    /// Gives an entry a new value: everything but its key is as after `insert`, and for the policy it counts as a use. The old value
    /// goes to `out` with [`Reason::Replaced`]. `None` if the new one cannot stay; then it goes to `out` as well, with the key. A heavier
    /// value may make the policy choose this very entry.
    pub fn replace(&mut self, slot: Slot, value: V, new: New<'_, A>, out: &mut Removals<K, V, A>) -> Option<Slot> {
        let slot = slot.0;
        let refusal = self.refusal(&new);
        let weight = self.weight_of(slot);
        let entry = &mut self.entries[slot];
        let old = Removed {
            key: None,
            value: std::mem::replace(&mut entry.value, value),
            alias: None,
            reason: Reason::Replaced,
            expires: std::mem::replace(&mut entry.expires, new.expires),
            created: std::mem::replace(&mut entry.created, new.now),
            accesses: std::mem::take(&mut entry.accesses),
            weight,
        };
        entry.weight = u32::try_from(new.weight).unwrap_or(u32::MAX);
        let hash = entry.hash;
        let alias = self.take_alias(slot);
        out.push(Removed { alias, ..old });
        self.bytes = self.bytes - u128::from(weight) + u128::from(new.weight);
        self.expiry.cancel(slot);
        if Extra::needed(&new) || self.entries[slot].extra != ExtraId::NONE {
            let extra = self.extra_mut(slot);
            (extra.grace, extra.weight, extra.cost) = (new.grace, new.weight, new.cost);
            self.relabel(slot, new.labels);
            self.drop_plain_extra(slot);
        }
        self.labels.settle();
        let deadline = new.deadline();
        if let Some((hash, alias)) = new.alias {
            self.set_alias(slot, keep(hash), alias);
        }
        if let Some(reason) = refusal {
            let removed = self.take(slot, reason);
            out.extend(removed);
            return None;
        }
        let facts = Facts {
            hash,
            accesses: 0,
            expires: new.expires,
            weight: new.weight,
            cost: new.cost,
        };
        self.policy.update(slot, &facts);
        self.expiry.schedule(slot, deadline);
        self.shrink(new.now, out);
        self.entries.get(slot).map(|_| Slot(slot))
    }

    /// Moves an entry's expiry; its value, counts and place with the policy stay, except where the policy goes by expiry.
    pub fn renew(&mut self, slot: Slot, expires: u64, grace: u64) {
        let slot = slot.0;
        self.entries[slot].expires = expires;
        if grace != 0 || self.entries[slot].extra != ExtraId::NONE {
            self.extra_mut(slot).grace = grace;
            self.drop_plain_extra(slot);
        }
        self.expiry.cancel(slot);
        self.expiry.schedule(slot, expires.saturating_add(grace));
        if self.policy.kind() == PolicyKind::Ttl {
            let facts = self.facts(slot);
            self.policy.update(slot, &facts);
        }
    }

    /// Takes an entry out.
    pub fn remove(&mut self, slot: Slot, reason: Reason) -> Removed<K, V, A> {
        match self.take(slot.0, reason) {
            Some(removed) => removed,
            None => panic!("no entry in slot {}", slot.0),
        }
    }

    /// Takes everything out and gives the memory back.
    pub fn clear(&mut self, out: &mut Removals<K, V, A>) {
        out.reserve(self.len());
        // Coldest first, as single evictions would.
        for slot in self.policy.order() {
            out.extend(self.take(slot, Reason::Cleared));
        }
        let labels = std::mem::take(&mut self.labels);
        *self = Self::new(self.limits, self.policy.kind());
        // Labels just interned for the next insertion stay valid.
        self.labels = labels;
    }

    /// Takes out everything whose deadline (`expires` + `grace`) is not after `now`. O(1) amortised an entry, O(1) if there is none.
    pub fn expire(&mut self, now: u64, out: &mut Removals<K, V, A>) {
        while let Some(slot) = self.pop_expired(now) {
            out.extend(self.take(slot, Reason::Expired));
        }
    }

    /// Takes out every entry whose key satisfies `pred`. O(n).
    pub fn scan(&mut self, out: &mut Removals<K, V, A>, reason: Reason, mut pred: impl FnMut(&K) -> bool) {
        let found: Vec<u32> = self
            .entries
            .iter()
            .filter(|(_, entry)| pred(&entry.key))
            .map(|(slot, _)| slot)
            .collect();
        for slot in found {
            out.extend(self.take(slot, reason));
        }
    }

    /// Evicts down to the new limits at once.
    pub fn set_limits(&mut self, limits: Limits, out: &mut Removals<K, V, A>) {
        self.limits = limits;
        self.shrink(0, out);
    }

    /// Changes the policy at once. The new one starts from the order and the use counts of the old. O(n), O(n log n) for those with a heap.
    pub fn set_policy(&mut self, kind: PolicyKind) {
        if kind == self.policy.kind() {
            return;
        }
        let order = self.policy.order();
        self.policy = Policy::new(kind);
        for slot in order {
            let facts = self.facts(slot);
            self.policy.insert(slot, &facts);
        }
    }
}

/// Labels.
impl<K, V, A> Cache<K, V, A> {
    /// The id of a label, for [`New::labels`] of the next `insert` or `replace`; see [`LabelId`] for how long it is valid.
    pub fn label(&mut self, label: Label) -> LabelId {
        self.labels.intern(label)
    }

    /// The id of a label that entries carry.
    pub fn find_label(&self, label: &Label) -> Option<LabelId> {
        self.labels.find(label)
    }

    /// Entries that carry a label, expired ones included.
    pub fn members(&self, id: LabelId) -> &[Slot] {
        self.labels.members(id)
    }

    /// The label behind an id.
    pub fn label_of(&self, id: LabelId) -> Option<&Label> {
        self.labels.get(id)
    }

    pub fn labels_of(&self, slot: Slot) -> impl Iterator<Item = LabelId> {
        self.extra(slot.0)
            .map_or(&[][..], |extra| &extra.marks)
            .iter()
            .map(|mark| mark.label)
    }

    /// Takes out all entries that carry a label.
    pub fn remove_labelled(&mut self, id: LabelId, reason: Reason, out: &mut Removals<K, V, A>) {
        let count = self.labels.members(id).len();
        out.reserve(count);
        for _ in 0..count {
            let Some(&slot) = self.labels.members(id).last() else {
                break;
            };
            out.extend(self.take(slot.0, reason));
        }
    }

    /// [`Label::Head`]s whose text ends with `ending`. O(log n + found).
    pub fn heads_ending_with(&self, ending: &str) -> Vec<LabelId> {
        self.labels.heads_ending_with(ending)
    }

    /// Number of tags that entries carry.
    pub fn tag_count(&self) -> usize {
        self.labels.tag_count()
    }

    /// Tags that entries carry, in no particular order.
    pub fn tags(&self) -> impl Iterator<Item = (&str, LabelId)> {
        self.labels.tags()
    }

    /// Makes `ids` the labels of a slot that has an [`Extra`].
    fn relabel(&mut self, slot: u32, ids: &[LabelId]) {
        let Some(index) = self.entries[slot].extra.get() else {
            return;
        };
        let old = std::mem::take(&mut self.extras[index].marks);
        let mut ids: SmallVec<[LabelId; 8]> = SmallVec::from_slice(ids);
        ids.sort_unstable();
        ids.dedup();
        let mut marks = Marks::with_capacity(ids.len());
        let mut gone = Marks::new();
        let mut rest = old.into_iter().peekable();
        for id in ids {
            while let Some(mark) = rest.next_if(|mark| mark.label < id) {
                gone.push(mark);
            }
            let mark = match rest.next_if(|mark| mark.label == id) {
                Some(mark) => mark,
                None => self.labels.attach(Slot(slot), id),
            };
            marks.push(mark);
        }
        gone.extend(rest);
        self.extras[index].marks = marks;
        self.unlabel(gone);
    }

    fn unlabel(&mut self, marks: Marks) {
        for mark in marks {
            self.labels.detach(mark, |other, label| {
                let index = self.entries.get(other.0)?.extra.get()?;
                let marks = &mut self.extras.get_mut(index)?.marks;
                let place = marks.binary_search_by_key(&label, |mark| mark.label).ok()?;
                marks.get_mut(place)
            });
        }
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
            alias: self.take_alias(slot),
            reason,
            expires: entry.expires,
            created: entry.created,
            accesses: entry.accesses,
            weight,
        })
    }

    #[inline]
    fn link(&mut self, hash: u64, record: u32) {
        let (entries, aliases) = (&self.entries, &self.aliases);
        self.table.insert_unique(hash, record, |&record| {
            spread(if record & ALIAS == 0 {
                entries[record].hash
            } else {
                aliases[record & !ALIAS].as_ref().map_or(0, |alias| alias.hash)
            })
        });
    }

    fn set_alias(&mut self, slot: u32, hash: u32, alias: A) {
        while self.aliases.len() <= slot as usize {
            self.aliases.push(None);
        }
        self.aliases[slot] = Some(Alias { hash, alias });
        self.link(spread(hash), slot | ALIAS);
    }

    #[inline]
    fn take_alias(&mut self, slot: u32) -> Option<A> {
        let Alias { hash, alias } = self.aliases.get_mut(slot)?.take()?;
        if let Ok(record) = self.table.find_entry(spread(hash), |&record| record == slot | ALIAS) {
            record.remove();
        }
        Some(alias)
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
                let extra = Extra {
                    grace: 0,
                    weight,
                    marks: Marks::new(),
                    cost: DEFAULT_COST,
                };
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
        self.extra(slot)
            .map_or_else(|| u64::from(self.entries[slot].weight), |extra| extra.weight)
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

    /// Estimated bytes on the heap, without what keys, values and aliases own themselves.
    pub fn heap_bytes(&self) -> usize {
        self.table.allocation_size()
            + self.entries.heap_bytes()
            + self.extras.heap_bytes()
            + self.aliases.heap_bytes()
            + self.policy.heap_bytes()
            + self.expiry.heap_bytes()
            + self.labels.heap_bytes()
    }

    /// Panics if the parts disagree with each other. O(n log n); for tests.
    #[doc(hidden)]
    pub fn validate(&self) {
        self.entries.validate();
        self.extras.validate();
        assert!(self.entries.len() <= self.limits.entries);
        assert!(self.limits.bytes.is_none_or(|limit| self.bytes <= u128::from(limit)));
        let (mut bytes, mut extras, mut aliases, mut deadlines) = (0u128, 0, 0, 0);
        for (slot, entry) in self.entries.iter() {
            let found = self
                .table
                .iter_hash(spread(entry.hash))
                .filter(|&&record| record == slot)
                .count();
            assert_eq!(found, 1, "slot {slot} is in the table {found} times");
            bytes += u128::from(self.weight_of(slot));
            deadlines += usize::from(deadline(&self.entries, &self.extras, slot) != NEVER);
            if let Some(extra) = self.extra(slot) {
                extras += 1;
                assert!(extra.marks.is_sorted_by(|a, b| a.label < b.label));
                for mark in &extra.marks {
                    assert!(self.labels.members(mark.label).contains(&Slot(slot)));
                }
            }
            if let Some(Some(alias)) = self.aliases.get(slot) {
                aliases += 1;
                let found = self
                    .table
                    .iter_hash(spread(alias.hash))
                    .filter(|&&record| record == slot | ALIAS)
                    .count();
                assert_eq!(found, 1, "slot {slot} is in the table by alias {found} times");
            }
        }
        assert_eq!(self.bytes, bytes);
        assert_eq!(self.extras.len(), extras);
        assert_eq!(self.aliases.iter().flatten().count(), aliases);
        assert_eq!(self.table.len(), self.entries.len() + aliases);
        self.expiry
            .validate(deadlines, |slot| deadline(&self.entries, &self.extras, slot));
        self.labels
            .validate(|slot| self.extra(slot.0).map_or(&[], |extra| &extra.marks));
        self.policy.validate();
        let mut order = self.policy.order();
        order.sort_unstable();
        assert!(
            order.into_iter().eq(self.entries.iter().map(|(slot, _)| slot)),
            "the policy knows other entries"
        );
    }
}

/// When the entry has to go.
#[inline]
fn deadline<K, V>(entries: &Slab<Entry<K, V>>, extras: &Slab<Extra>, slot: u32) -> u64 {
    let entry = &entries[slot];
    let grace = entry.extra.get().map_or(0, |index| extras[index].grace);
    entry.expires.saturating_add(grace)
}

/// What never got in.
#[cold]
fn refused<K, V, A>(key: Option<K>, value: V, new: New<'_, A>, reason: Reason) -> Removed<K, V, A> {
    Removed {
        key,
        value,
        alias: new.alias.map(|(_, alias)| alias),
        reason,
        expires: new.expires,
        created: new.now,
        accesses: 0,
        weight: new.weight,
    }
}
