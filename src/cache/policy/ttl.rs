//! Soonest to expire first; entries that never expire last, the least recently used of them first.

use super::{Evict, Facts};
use crate::support::clock::NEVER;
use crate::support::heap::Heap;
use crate::support::list::{Links, List};

#[derive(Debug, Default)]
pub(in crate::cache) struct Ttl {
    /// Entries with an expiry, by it.
    expiring: Heap,
    links: Links,
    /// Entries without, least recent first.
    lasting: List,
}

impl Evict for Ttl {
    #[inline]
    fn insert(&mut self, slot: u32, facts: &Facts) {
        if facts.expires == NEVER {
            self.links.reach(slot);
            self.lasting.push_back(&mut self.links, slot);
        } else {
            self.expiring.set(slot, facts.expires);
        }
    }

    #[inline]
    fn access(&mut self, slot: u32, _: u32) {
        if !self.expiring.contains(slot) {
            self.lasting.move_to_back(&mut self.links, slot);
        }
    }

    fn update(&mut self, slot: u32, facts: &Facts) {
        self.remove(slot);
        self.insert(slot, facts);
    }

    fn remove(&mut self, slot: u32) {
        if !self.expiring.remove(slot) {
            self.lasting.remove(&mut self.links, slot);
        }
    }

    #[inline]
    fn victim(&mut self) -> Option<u32> {
        self.expiring.first().map(|(slot, _)| slot).or_else(|| self.lasting.front())
    }

    fn order(&self) -> Vec<u32> {
        let mut order = self.expiring.order();
        order.extend(self.lasting.iter(&self.links));
        order
    }

    fn heap_bytes(&self) -> usize {
        self.expiring.heap_bytes() + self.links.heap_bytes()
    }

    fn validate(&self) {
        self.expiring.validate();
        self.lasting.validate(&self.links);
        assert!(!self.lasting.iter(&self.links).any(|slot| self.expiring.contains(slot)));
    }
}
