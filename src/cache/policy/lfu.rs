//! Least frequently used, exact and O(1): a list of buckets in order of use counts, each a list of entries.
//!
//! An access moves an entry to the bucket of the next count, which is the neighbour or a new one between the two.
//! Counts do not age; for access patterns that drift, use the adaptive policy.

use super::{Evict, Facts};
use crate::support::list::{Links, List};
use crate::support::slab::{Chunks, Slab};

const NONE: u32 = u32::MAX;

/// Entries used equally often. Never empty.
#[derive(Debug)]
struct Bucket {
    uses: u32,
    /// Least recent first.
    members: List,
    /// Neighbours by count.
    fewer: u32,
    more: u32,
}

#[derive(Debug)]
pub(in crate::cache) struct Lfu {
    links: Links,
    buckets: Slab<Bucket>,
    /// The bucket of each slot.
    homes: Chunks<u32>,
    /// The bucket of the lowest count.
    least: u32,
}

impl Default for Lfu {
    fn default() -> Self {
        Self { links: Links::default(), buckets: Slab::default(), homes: Chunks::default(), least: NONE }
    }
}

impl Lfu {
    /// A new bucket after `fewer` ([`NONE`]: before all others).
    fn bucket_after(&mut self, fewer: u32, uses: u32) -> u32 {
        let more = if fewer == NONE { self.least } else { self.buckets[fewer].more };
        let id = self.buckets.insert(Bucket { uses, members: List::default(), fewer, more });
        if more != NONE {
            self.buckets[more].fewer = id;
        }
        if fewer == NONE {
            self.least = id;
        } else {
            self.buckets[fewer].more = id;
        }
        id
    }

    fn drop_bucket(&mut self, id: u32) {
        let Some(bucket) = self.buckets.remove(id) else { return };
        if bucket.more != NONE {
            self.buckets[bucket.more].fewer = bucket.fewer;
        }
        if bucket.fewer == NONE {
            self.least = bucket.more;
        } else {
            self.buckets[bucket.fewer].more = bucket.more;
        }
    }

    fn buckets(&self) -> impl Iterator<Item = &Bucket> {
        let mut next = self.least;
        std::iter::from_fn(move || {
            let bucket = self.buckets.get(next)?;
            next = bucket.more;
            Some(bucket)
        })
    }
}

impl Evict for Lfu {
    #[inline]
    fn insert(&mut self, slot: u32, facts: &Facts) {
        self.links.reach(slot);
        self.homes.reach(slot, NONE);
        // New entries have count 1 and find their bucket at once. Others come from a change of policy in the order of
        // that policy, and search.
        let uses = facts.accesses.saturating_add(1);
        let mut fewer = NONE;
        let mut home = self.least;
        while let Some(bucket) = self.buckets.get(home) {
            if bucket.uses >= uses {
                break;
            }
            fewer = home;
            home = bucket.more;
        }
        if self.buckets.get(home).is_none_or(|bucket| bucket.uses != uses) {
            home = self.bucket_after(fewer, uses);
        }
        self.buckets[home].members.push_back(&mut self.links, slot);
        self.homes[slot] = home;
    }

    #[inline]
    fn access(&mut self, slot: u32, _: u32) {
        let home = self.homes[slot];
        let bucket = &mut self.buckets[home];
        let uses = bucket.uses.saturating_add(1);
        let more = bucket.more;
        if uses == bucket.uses {
            return bucket.members.move_to_back(&mut self.links, slot);
        }
        let next_fits = self.buckets.get(more).is_some_and(|next| next.uses == uses);
        let bucket = &mut self.buckets[home];
        if bucket.members.len() == 1 && !next_fits {
            // Alone, and the next count is free: the bucket moves with its entry.
            bucket.uses = uses;
            return;
        }
        bucket.members.remove(&mut self.links, slot);
        let empty = bucket.members.is_empty();
        let target = if next_fits { more } else { self.bucket_after(home, uses) };
        self.buckets[target].members.push_back(&mut self.links, slot);
        self.homes[slot] = target;
        if empty {
            self.drop_bucket(home);
        }
    }

    #[inline]
    fn update(&mut self, slot: u32, facts: &Facts) {
        self.access(slot, facts.hash);
    }

    #[inline]
    fn remove(&mut self, slot: u32) {
        let home = self.homes[slot];
        let bucket = &mut self.buckets[home];
        bucket.members.remove(&mut self.links, slot);
        if bucket.members.is_empty() {
            self.drop_bucket(home);
        }
    }

    #[inline]
    fn victim(&mut self) -> Option<u32> {
        self.buckets.get(self.least)?.members.front()
    }

    fn order(&self) -> Vec<u32> {
        self.buckets().flat_map(|bucket| bucket.members.iter(&self.links)).collect()
    }

    fn heap_bytes(&self) -> usize {
        self.links.heap_bytes() + self.buckets.heap_bytes() + self.homes.heap_bytes()
    }

    fn validate(&self) {
        self.buckets.validate();
        let mut before = 0;
        let mut fewer = NONE;
        let mut count = 0;
        let mut id = self.least;
        while let Some(bucket) = self.buckets.get(id) {
            assert!(bucket.uses > before, "counts do not rise");
            assert!(!bucket.members.is_empty(), "the bucket of count {} is empty", bucket.uses);
            assert_eq!(bucket.fewer, fewer);
            bucket.members.validate(&self.links);
            for slot in bucket.members.iter(&self.links) {
                assert_eq!(self.homes[slot], id);
            }
            before = bucket.uses;
            fewer = id;
            count += 1;
            id = bucket.more;
        }
        assert_eq!(id, NONE);
        assert_eq!(count, self.buckets.len());
    }
}
