//! Memory used, and whether the parts agree.

use super::{Cache, deadline, spread};
use crate::cache::entry::Slot;
use crate::support::clock::NEVER;

impl<K, V, A> Cache<K, V, A> {
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
            let found = self.table.iter_hash(spread(entry.hash)).filter(|&&record| record == slot).count();
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
            if self.aliases.of(slot).is_some() {
                aliases += 1;
            }
        }
        assert_eq!(self.bytes, bytes);
        assert_eq!(self.extras.len(), extras);
        assert_eq!(self.aliases.len(), aliases);
        assert_eq!(self.table.len(), self.entries.len());
        self.expiry.validate(deadlines, |slot| deadline(&self.entries, &self.extras, slot));
        self.labels.validate(|slot| self.extra(slot.0).map_or(&[], |extra| &extra.marks));
        self.policy.validate();
        let mut order = self.policy.order();
        order.sort_unstable();
        assert!(order.into_iter().eq(self.entries.iter().map(|(slot, _)| slot)), "the policy knows other entries");
    }
}
