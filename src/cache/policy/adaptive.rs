//! Admission by frequency where popularity lasts, recency where it fades.
//!
//! The entries are in the segments of W-TinyLFU, with a sketch of recent frequencies, and the window is either a hundredth or
//! everything (LRU). Which of the two is decided by a [duel](Duel) of two small simulated caches over a sample of the keys.

use super::duel::Duel;
use super::segments::{Segments, known};
use super::sketch::Sketch;
use super::{Evict, Facts};

#[derive(Debug, Default)]
pub(in crate::cache) struct Adaptive {
    segments: Segments,
    sketch: Sketch,
    /// From the first eviction on: until then nobody wins.
    duel: Option<Box<Duel>>,
}

impl Adaptive {
    /// Counts a request.
    #[inline]
    fn request(&mut self, hash: u32) {
        let hash = known(hash);
        self.sketch.add(hash);
        if let Some(duel) = &mut self.duel {
            if let Some(mode) = duel.observe(hash, self.segments.len(), &self.sketch) {
                self.segments.set_mode(mode);
            }
        }
    }
}

impl Evict for Adaptive {
    #[inline]
    fn insert(&mut self, slot: u32, facts: &Facts) {
        self.segments.insert(slot, facts.hash);
        if self.segments.len() > self.sketch.capacity() {
            self.sketch.grow();
        }
        for _ in 0..facts.accesses.min(15) {
            self.sketch.add(known(facts.hash));
        }
        self.request(facts.hash);
    }

    #[inline]
    fn access(&mut self, slot: u32, hash: u32) {
        self.segments.access(slot);
        self.request(hash);
    }

    #[inline]
    fn update(&mut self, slot: u32, facts: &Facts) {
        self.access(slot, facts.hash);
    }

    #[inline]
    fn remove(&mut self, slot: u32) {
        self.segments.remove(slot);
    }

    #[inline]
    fn victim(&mut self) -> Option<u32> {
        if self.duel.is_none() {
            self.duel = Some(Box::new(Duel::new(self.segments.len())));
        }
        self.segments.victim(&self.sketch)
    }

    fn order(&self) -> Vec<u32> {
        self.segments.order()
    }

    fn heap_bytes(&self) -> usize {
        self.segments.heap_bytes() + self.sketch.heap_bytes() + self.duel.as_ref().map_or(0, |duel| duel.heap_bytes())
    }

    fn validate(&self) {
        self.segments.validate();
        if let Some(duel) = &self.duel {
            duel.validate();
        }
    }
}
