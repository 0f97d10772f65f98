//! First in, first out: in order of storing. Use changes nothing; a new value under an old key is stored anew.

use super::{Evict, Facts};
use crate::support::list::{Links, List};

#[derive(Debug, Default)]
pub(in crate::cache) struct Fifo {
    links: Links,
    /// Stored first, first.
    list: List,
}

impl Evict for Fifo {
    #[inline]
    fn insert(&mut self, slot: u32, _: &Facts) {
        self.links.reach(slot);
        self.list.push_back(&mut self.links, slot);
    }

    #[inline]
    fn access(&mut self, _: u32, _: u32) {}

    #[inline]
    fn update(&mut self, slot: u32, _: &Facts) {
        self.list.move_to_back(&mut self.links, slot);
    }

    #[inline]
    fn remove(&mut self, slot: u32) {
        self.list.remove(&mut self.links, slot);
    }

    #[inline]
    fn victim(&mut self) -> Option<u32> {
        self.list.front()
    }

    fn order(&self) -> Vec<u32> {
        self.list.iter(&self.links).collect()
    }

    fn heap_bytes(&self) -> usize {
        self.links.heap_bytes()
    }

    fn validate(&self) {
        self.list.validate(&self.links);
    }
}
