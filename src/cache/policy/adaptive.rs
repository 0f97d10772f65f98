//! Serves as LRU until its own algorithm is measured and chosen.
use super::lru::Lru;
use super::{Evict, Facts};

#[derive(Debug, Default)]
pub(in crate::cache) struct Adaptive(Lru);

impl Evict for Adaptive {
    fn insert(&mut self, slot: u32, facts: &Facts) {
        self.0.insert(slot, facts);
    }
    fn access(&mut self, slot: u32, hash: u32) {
        self.0.access(slot, hash);
    }
    fn update(&mut self, slot: u32, facts: &Facts) {
        self.0.update(slot, facts);
    }
    fn remove(&mut self, slot: u32) {
        self.0.remove(slot);
    }
    fn victim(&mut self) -> Option<u32> {
        self.0.victim()
    }
    fn order(&self) -> Vec<u32> {
        self.0.order()
    }
    fn heap_bytes(&self) -> usize {
        self.0.heap_bytes()
    }
    fn validate(&self) {
        self.0.validate();
    }
}
