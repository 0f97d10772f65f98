//! GreedyDual-Size with frequency: the entry that is cheapest to compute again, for its size and how often it is used,
//! goes first.
//!
//! An entry's priority is `L + uses * cost / size`. `L`, the inflation, is the priority of the last victim, so entries
//! that are not used sink below newcomers however costly they once were. Where no sizes are given all are 1, where no
//! costs are given likewise; then this is LFU with ageing. (Cao and Irani, "Cost-aware WWW proxy caching algorithms",
//! 1997; Cherkasova, "Improving WWW proxies performance with Greedy-Dual-Size-Frequency caching policy", 1998.)

use super::{Evict, Facts};
use crate::support::heap::Heap;
use crate::support::slab::Chunks;

#[derive(Clone, Copy, Debug, Default)]
struct Worth {
    /// Cost for its size.
    each: f64,
    uses: u32,
}

#[derive(Debug, Default)]
pub(in crate::cache) struct Cost {
    /// By priority. Positive floats sort by their bits as integers do.
    queue: Heap,
    worths: Chunks<Worth>,
    inflation: f64,
}

fn worth(facts: &Facts) -> f64 {
    // Written so that NaN becomes 0.
    let cost = if facts.cost > 0.0 { facts.cost.min(f32::MAX) } else { 0.0 };
    f64::from(cost) / facts.weight.max(1) as f64
}

impl Cost {
    fn enqueue(&mut self, slot: u32) {
        let Worth { each, uses } = self.worths[slot];
        let gain = each * f64::from(uses);
        if self.inflation + gain == self.inflation && gain > 0.0 {
            // The gain vanishes beside what costlier entries have left behind: measure from here again. Rare, because a
            // costlier entry leaves only after all others.
            let base = self.inflation;
            self.queue.rekey(|key| (f64::from_bits(key) - base).max(0.0).to_bits());
            self.inflation = 0.0;
        }
        self.queue.set(slot, (self.inflation + gain).to_bits());
    }
}

impl Evict for Cost {
    fn insert(&mut self, slot: u32, facts: &Facts) {
        self.worths.reach(slot, Worth::default());
        self.worths[slot] = Worth { each: worth(facts), uses: facts.accesses.saturating_add(1) };
        self.enqueue(slot);
    }

    fn access(&mut self, slot: u32, _: u32) {
        let worth = &mut self.worths[slot];
        worth.uses = worth.uses.saturating_add(1);
        self.enqueue(slot);
    }

    fn update(&mut self, slot: u32, facts: &Facts) {
        self.worths[slot].each = worth(facts);
        self.access(slot, facts.hash);
    }

    fn remove(&mut self, slot: u32) {
        self.queue.remove(slot);
    }

    fn victim(&mut self) -> Option<u32> {
        let (slot, key) = self.queue.first()?;
        self.inflation = self.inflation.max(f64::from_bits(key));
        Some(slot)
    }

    fn order(&self) -> Vec<u32> {
        self.queue.order()
    }

    fn heap_bytes(&self) -> usize {
        self.queue.heap_bytes() + self.worths.heap_bytes()
    }

    fn validate(&self) {
        self.queue.validate();
        assert!(self.inflation.is_finite());
        assert!(self.queue.first().is_none_or(|(_, key)| f64::from_bits(key).is_finite()));
    }
}
