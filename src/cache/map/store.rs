//! Storing and removing: O(1) amortised an entry apart from the policies with a heap, plus O(labels of the entry).

use super::{Cache, Limits, MOST, keep, spread};
use crate::cache::entry::{DEFAULT_COST, Entry, Extra, ExtraId, New, Reason, Removals, Removed, Slot};
use crate::cache::labels::Marks;
use crate::cache::policy::{Facts, Policy, PolicyKind};

impl<K, V, A> Cache<K, V, A> {
    /// Stores a value under a key that must not be present, then evicts down to the limits, expired entries first. The
    /// new entry itself is not evicted. If it cannot stay (no entries allowed, heavier than the limit, past its
    /// deadline) it goes to `out`, nothing else changes and the result is `None`.
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
        let facts = Facts { hash: kept, accesses: 0, expires: new.expires, weight: new.weight, cost: new.cost };
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
            self.aliases.set(slot, keep(hash), alias);
        }
        // The policy does not know the entry yet, so it cannot choose it.
        self.shrink(new.now, out);
        self.policy.insert(slot, &facts);
        self.expiry.schedule(slot, deadline);
        Some(Slot(slot))
    }

    /// Gives an entry a new value: everything but its key is as after `insert`, and for the policy it counts as a use.
    /// The old value goes to `out` with [`Reason::Replaced`]. `None` if the new one cannot stay; then it goes to `out`
    /// as well, with the key. A heavier value may make the policy choose this very entry.
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
        let alias = self.aliases.take(slot);
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
            self.aliases.set(slot, keep(hash), alias);
        }
        if let Some(reason) = refusal {
            let removed = self.take(slot, reason);
            out.extend(removed);
            return None;
        }
        let facts = Facts { hash, accesses: 0, expires: new.expires, weight: new.weight, cost: new.cost };
        self.policy.update(slot, &facts);
        self.expiry.schedule(slot, deadline);
        self.shrink(new.now, out);
        self.entries.get(slot).map(|_| Slot(slot))
    }

    /// Moves an entry's expiry; its value, counts and place with the policy stay, except where the policy goes by
    /// expiry.
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

    /// [`replace`](Self::replace) for the plain case: no labels, weight, grace or alias before or after. Returns the old
    /// value, or the new one as an error if the case is not plain.
    #[inline]
    pub fn swap(&mut self, slot: Slot, value: V, now: u64, expires: u64) -> Result<V, V> {
        let slot = slot.0;
        if expires <= now || !self.is_plain(slot) {
            return Err(value);
        }
        let entry = &mut self.entries[slot];
        let from = std::mem::replace(&mut entry.expires, expires);
        let value = std::mem::replace(&mut entry.value, value);
        (entry.created, entry.accesses) = (now, 0);
        let facts = Facts { hash: entry.hash, accesses: 0, expires, weight: 0, cost: DEFAULT_COST };
        self.policy.update(slot, &facts);
        self.expiry.reschedule(slot, from, expires);
        Ok(value)
    }

    /// [`insert`](Self::insert) into a full cache for the plain case: the new entry takes the place of the policy's victim,
    /// which is returned. Key and value come back as an error if the case is not plain, or nothing needs to go.
    #[inline]
    pub fn displace(&mut self, hash: u64, key: K, value: V, now: u64, expires: u64) -> Result<(K, V), (K, V)> {
        let full = self.entries.len() == self.limits.entries.min(MOST) && self.limits.bytes.is_none();
        if !full || expires <= now || self.expiry.may_be_due(now) {
            return Err((key, value));
        }
        let Some(slot) = self.policy.victim().filter(|slot| self.is_plain(*slot)) else {
            return Err((key, value));
        };
        let kept = keep(hash);
        let new = Entry { key, value, expires, created: now, hash: kept, accesses: 0, weight: 0, extra: ExtraId::NONE };
        let old = std::mem::replace(&mut self.entries[slot], new);
        if let Ok(record) = self.table.find_entry(spread(old.hash), |&record| record == slot) {
            record.remove();
        }
        self.link(spread(kept), slot);
        self.policy.remove(slot);
        self.policy.insert(slot, &Facts { hash: kept, accesses: 0, expires, weight: 0, cost: DEFAULT_COST });
        self.expiry.reschedule(slot, old.expires, expires);
        Ok((old.key, old.value))
    }

    /// Whether the entry has nothing but a value and an expiry.
    #[inline]
    fn is_plain(&self, slot: u32) -> bool {
        let entry = &self.entries[slot];
        entry.extra == ExtraId::NONE && entry.weight == 0 && !self.aliases.has(slot)
    }

    /// Gives the entry a second key, in place of the one it had, which is returned.
    pub fn attach(&mut self, slot: Slot, hash: u64, alias: A) -> Option<A> {
        let old = self.aliases.take(slot.0);
        self.aliases.set(slot.0, keep(hash), alias);
        old
    }

    /// Changes what the entry weighs. Evicts nothing; see [`set_limits`](Self::set_limits).
    pub fn set_weight(&mut self, slot: Slot, weight: u64) {
        let slot = slot.0;
        self.bytes = self.bytes - u128::from(self.weight_of(slot)) + u128::from(weight);
        self.entries[slot].weight = u32::try_from(weight).unwrap_or(u32::MAX);
        if weight >= u64::from(u32::MAX) || self.entries[slot].extra != ExtraId::NONE {
            self.extra_mut(slot).weight = weight;
            self.drop_plain_extra(slot);
        }
        let facts = self.facts(slot);
        self.policy.update(slot, &facts);
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

    /// Takes out everything whose deadline (`expires` + `grace`) is not after `now`. O(1) amortised an entry, O(1) if
    /// there is none.
    pub fn expire(&mut self, now: u64, out: &mut Removals<K, V, A>) {
        while let Some(slot) = self.pop_expired(now) {
            out.extend(self.take(slot, Reason::Expired));
        }
    }

    /// Takes out every entry whose key satisfies `pred`. O(n).
    pub fn scan(&mut self, out: &mut Removals<K, V, A>, reason: Reason, mut pred: impl FnMut(&K) -> bool) {
        let found: Vec<u32> = self.entries.iter().filter(|(_, entry)| pred(&entry.key)).map(|(slot, _)| slot).collect();
        for slot in found {
            out.extend(self.take(slot, reason));
        }
    }

    /// Evicts down to the new limits at once.
    pub fn set_limits(&mut self, limits: Limits, out: &mut Removals<K, V, A>) {
        self.limits = limits;
        self.shrink(0, out);
    }

    /// Changes the policy at once. The new one starts from the order and the use counts of the old. O(n), O(n log n)
    /// for those with a heap.
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
