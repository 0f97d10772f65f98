//! Two small caches that never store anything: which of two modes would hit more often?
//!
//! Both are fed the requests for a fixed sample of the keys and have room for the same share of entries. A sample by
//! key keeps every key's own pattern of requests, so the difference of their hit ratios estimates that of full-sized
//! caches. (Waldspurger, Saemundsson, Ahmad and Park, "Cache modeling and optimization using miniature simulations",
//! 2017.)

use hashbrown::HashTable;

use super::segments::{Mode, Segments};
use super::sketch::Sketch;
use crate::support::slab::Slab;

/// The sample is halved until the small caches would get less room than this...
const LEAST_ROOM: usize = 64;
/// ...or one key in 2^6 is left; a smaller sample would save nothing that can be noticed.
const MOST_HALVINGS: u32 = 6;
/// Requests over which hits are averaged: this many for each entry of a small cache, but enough to drown the noise.
const REQUESTS_PER_ENTRY: usize = 4;
const LEAST_REQUESTS: usize = 1024;
/// By how much one must lead, as a share of the sampled requests, for the mode to change.
const MARGIN: f32 = 0.01;

#[derive(Debug)]
pub(super) struct Duel {
    /// The sample is one key in 2^halvings.
    halvings: u32,
    /// Size of the real cache for which the sample was chosen.
    chosen_for: usize,
    /// Keys that one of the small caches has or both have, known by their hashes.
    table: HashTable<u32>,
    hashes: Slab<u32>,
    frequent: Segments,
    recent: Segments,
    /// Moving average of the hits of `recent` minus those of `frequent`.
    lead: f32,
    /// Weight of one request in it.
    weight: f32,
}

#[inline]
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

impl Duel {
    /// For a cache of `len` entries.
    pub fn new(len: usize) -> Self {
        let halvings = (len / LEAST_ROOM).checked_ilog2().unwrap_or(0).min(MOST_HALVINGS);
        let requests = ((len >> halvings) * REQUESTS_PER_ENTRY).max(LEAST_REQUESTS);
        Self {
            halvings,
            chosen_for: len,
            table: HashTable::new(),
            hashes: Slab::default(),
            frequent: Segments::new(Mode::Frequent),
            recent: Segments::new(Mode::Recent),
            lead: 0.0,
            weight: 1.0 / requests as f32,
        }
    }

    /// Tells of a request for the key with this hash in a cache of `len` entries. The result is the mode that leads
    /// clearly, if one does and this request was in the sample.
    #[inline]
    pub fn observe(&mut self, hash: u32, len: usize, sketch: &Sketch) -> Option<Mode> {
        // Not the bits that choose among buckets of the table or blocks of the sketch.
        let draw = hash.wrapping_mul(0x9E37_79B1) >> 16;
        if draw & ((1 << self.halvings) - 1) == 0 { self.play(hash, len, sketch) } else { None }
    }

    fn play(&mut self, hash: u32, len: usize, sketch: &Sketch) -> Option<Mode> {
        if len > self.chosen_for * 4 || len < self.chosen_for / 4 {
            *self = Self { lead: self.lead, ..Self::new(len) };
        }
        let room = (len >> self.halvings).max(1);
        let id = match self.table.find(spread(hash), |&id| self.hashes[id] == hash) {
            Some(&id) => id,
            None => {
                let id = self.hashes.insert(hash);
                let hashes = &self.hashes;
                self.table.insert_unique(spread(hash), id, |&id| spread(hashes[id]));
                id
            }
        };
        let recent = self.request(Mode::Recent, id, hash, room, sketch);
        let frequent = self.request(Mode::Frequent, id, hash, room, sketch);
        let score = f32::from(i8::from(recent) - i8::from(frequent));
        self.lead += (score - self.lead) * self.weight;
        match self.lead {
            lead if lead > MARGIN => Some(Mode::Recent),
            lead if lead < -MARGIN => Some(Mode::Frequent),
            _ => None,
        }
    }

    /// Whether one of the small caches hits; if not, the key enters it.
    fn request(&mut self, mode: Mode, id: u32, hash: u32, room: usize, sketch: &Sketch) -> bool {
        let (this, other) = match mode {
            Mode::Frequent => (&mut self.frequent, &self.recent),
            Mode::Recent => (&mut self.recent, &self.frequent),
        };
        if this.holds(id) {
            this.access(id);
            return true;
        }
        while this.len() >= room {
            let Some(victim) = this.victim(sketch) else { break };
            this.remove(victim);
            if other.holds(victim) {
                continue;
            }
            if let Some(hash) = self.hashes.remove(victim) {
                if let Ok(record) = self.table.find_entry(spread(hash), |&id| id == victim) {
                    record.remove();
                }
            }
        }
        this.insert(id, hash);
        false
    }

    pub fn heap_bytes(&self) -> usize {
        let caches = self.frequent.heap_bytes() + self.recent.heap_bytes();
        size_of::<Self>() + self.table.allocation_size() + self.hashes.heap_bytes() + caches
    }

    /// Panics if a key is lost or kept for nothing.
    pub fn validate(&self) {
        self.hashes.validate();
        self.frequent.validate();
        self.recent.validate();
        assert_eq!(self.table.len(), self.hashes.len());
        for (id, &hash) in self.hashes.iter() {
            assert!(self.frequent.holds(id) || self.recent.holds(id));
            assert_eq!(self.table.find(spread(hash), |&id| self.hashes[id] == hash), Some(&id));
        }
    }
}
