//! A priority queue of small integers whose members can change priority or leave from the middle.
//!
//! Four children a node: a quarter of the levels' cache misses of a binary heap on the way down. Equal priorities leave
//! in the order in which they were last set.

use super::list::NONE;
use super::slab::Chunks;

#[derive(Clone, Copy, Debug)]
struct Node {
    key: u64,
    /// Tie-breaker. It wraps, so among equal keys whose last changes lie 2^31 changes apart the order is arbitrary.
    stamp: u32,
    member: u32,
}

impl Node {
    #[inline]
    fn before(&self, other: &Node) -> bool {
        self.key < other.key || (self.key == other.key && (self.stamp.wrapping_sub(other.stamp) as i32) < 0)
    }
}

/// Smallest key first. `set` and `remove` are O(log n), `first` is O(1).
#[derive(Debug, Default)]
pub struct Heap {
    nodes: Chunks<Node>,
    /// Where each member is in `nodes`; [`NONE`] for those that are not.
    places: Chunks<u32>,
    stamp: u32,
}

const ARITY: u32 = 4;

impl Heap {
    #[inline]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The member with the smallest key, and the key.
    #[inline]
    pub fn first(&self) -> Option<(u32, u64)> {
        self.nodes.get(0).map(|node| (node.member, node.key))
    }

    /// The key of `member`, if it is in the heap.
    pub fn key(&self, member: u32) -> Option<u64> {
        self.place(member).map(|place| self.nodes[place].key)
    }

    #[inline]
    pub fn contains(&self, member: u32) -> bool {
        self.place(member).is_some()
    }

    /// Adds `member` or changes its key; either way it now comes after all others of equal key.
    pub fn set(&mut self, member: u32, key: u64) {
        self.stamp = self.stamp.wrapping_add(1);
        let node = Node { key, stamp: self.stamp, member };
        match self.place(member) {
            Some(place) => {
                self.nodes[place] = node;
                self.settle(place);
            }
            None => {
                self.places.reach(member, NONE);
                let place = self.nodes.len() as u32;
                self.nodes.push(node);
                self.rise(place);
            }
        }
    }

    /// Takes `member` out; false if it was not in.
    pub fn remove(&mut self, member: u32) -> bool {
        let Some(place) = self.place(member) else { return false };
        self.places[member] = NONE;
        if let Some(last) = self.nodes.pop() {
            if last.member != member {
                self.nodes[place] = last;
                self.settle(place);
            }
        }
        true
    }

    /// Replaces every key by `change(key)`, which must keep their order. O(n).
    pub fn rekey(&mut self, change: impl Fn(u64) -> u64) {
        for place in 0..self.nodes.len() as u32 {
            let node = &mut self.nodes[place];
            node.key = change(node.key);
        }
    }

    /// Members, smallest key first. O(n log n).
    pub fn order(&self) -> Vec<u32> {
        let mut nodes: Vec<Node> = self.nodes.iter().copied().collect();
        let newest = self.stamp;
        nodes.sort_unstable_by_key(|node| (node.key, std::cmp::Reverse(newest.wrapping_sub(node.stamp))));
        nodes.into_iter().map(|node| node.member).collect()
    }

    pub fn heap_bytes(&self) -> usize {
        self.nodes.heap_bytes() + self.places.heap_bytes()
    }

    #[inline]
    fn place(&self, member: u32) -> Option<u32> {
        self.places.get(member).copied().filter(|&place| place != NONE)
    }

    /// Moves the node at `place`, whose key may be anything, where it belongs.
    fn settle(&mut self, place: u32) {
        if self.rise(place) == place {
            self.sink(place);
        }
    }

    fn rise(&mut self, mut place: u32) -> u32 {
        let node = self.nodes[place];
        while place > 0 {
            let parent = (place - 1) / ARITY;
            let above = self.nodes[parent];
            if !node.before(&above) {
                break;
            }
            self.put(place, above);
            place = parent;
        }
        self.put(place, node);
        place
    }

    fn sink(&mut self, mut place: u32) {
        let node = self.nodes[place];
        let len = self.nodes.len() as u32;
        loop {
            let first = place * ARITY + 1;
            if first >= len {
                break;
            }
            let mut least = first;
            for child in first + 1..(first + ARITY).min(len) {
                if self.nodes[child].before(&self.nodes[least]) {
                    least = child;
                }
            }
            let below = self.nodes[least];
            if !below.before(&node) {
                break;
            }
            self.put(place, below);
            place = least;
        }
        self.put(place, node);
    }

    #[inline]
    fn put(&mut self, place: u32, node: Node) {
        self.nodes[place] = node;
        self.places[node.member] = place;
    }

    /// Panics if a node precedes its parent or its recorded place is wrong.
    #[doc(hidden)]
    pub fn validate(&self) {
        for (place, node) in self.nodes.iter().enumerate() {
            assert_eq!(self.places[node.member] as usize, place);
            if place > 0 {
                assert!(!node.before(&self.nodes[(place as u32 - 1) / ARITY]), "member {} is too deep", node.member);
            }
        }
        assert_eq!(self.places.iter().filter(|&&place| place != NONE).count(), self.nodes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn heap_follows_a_sorted_list(ops in prop::collection::vec((0..3u8, 0..40u32, 0..12u64), 1..300)) {
            let mut heap = Heap::default();
            let mut model: Vec<(u64, usize, u32)> = Vec::new(); // key, time of the last change, member
            for (time, (op, member, key)) in ops.into_iter().enumerate() {
                if op == 0 {
                    let known = model.iter().any(|item| item.2 == member);
                    model.retain(|item| item.2 != member);
                    prop_assert_eq!(heap.remove(member), known);
                } else {
                    model.retain(|item| item.2 != member);
                    model.push((key, time, member));
                    heap.set(member, key);
                }
                model.sort_unstable();
                heap.validate();
                prop_assert_eq!(heap.first(), model.first().map(|item| (item.2, item.0)));
                prop_assert_eq!(heap.order(), model.iter().map(|item| item.2).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn rekey_keeps_the_order() {
        let mut heap = Heap::default();
        for member in 0..50 {
            heap.set(member, 1000 + u64::from(member * 7 % 50));
        }
        let order = heap.order();
        heap.rekey(|key| key - 1000);
        heap.validate();
        assert_eq!(heap.order(), order);
        assert_eq!(heap.key(order[0]), Some(0));
    }
}
