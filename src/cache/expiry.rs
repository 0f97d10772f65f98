//! Deadlines of entries: a hierarchical timer wheel with its lists threaded through one array (8 bytes an entry).
//!
//! Level `l` has 64 buckets of 64^l ns each, down to single nanoseconds. An entry waits at the level of the highest
//! base-64 digit in which its deadline differs from `turned`, the time up to which the wheel has turned. When its
//! bucket comes up it moves to a lower level, or leaves if the whole bucket has passed. So an entry moves at most once
//! a level, in practice two or three times, and expiry is exact without ever comparing all entries of a bucket again
//! and again.
//!
//! The idea is Varghese and Lauck's, "Hashed and hierarchical timing wheels" (1987).

use crate::support::clock::NEVER;
use crate::support::slab::Chunks;

const NONE: u32 = u32::MAX;
/// Marks a `prev` that names a bucket: the member is the first of its list.
const BUCKET: u32 = 1 << 31;

const BITS: u32 = 6;
const LEVELS: usize = 64usize.div_ceil(BITS as usize);
const BUCKETS: usize = LEVELS << BITS;

#[derive(Clone, Copy, Debug)]
struct Link {
    /// [`NONE`] when not scheduled.
    prev: u32,
    next: u32,
}

const LOOSE: Link = Link { prev: NONE, next: NONE };

#[derive(Debug)]
struct Wheel {
    heads: [u32; BUCKETS],
    /// A bit for each bucket of a level that is not empty.
    occupied: [u64; LEVELS],
    turned: u64,
}

/// Deadlines by slot. `now` should not run backwards: nothing leaves early if it does, but may leave late.
#[derive(Debug)]
pub(super) struct Expiry {
    links: Chunks<Link>,
    /// Allocated with the first deadline.
    wheel: Option<Box<Wheel>>,
    /// No deadline is earlier. The one comparison that an insertion into a full cache usually makes.
    next: u64,
    len: usize,
}

impl Default for Expiry {
    fn default() -> Self {
        Self { links: Chunks::default(), wheel: None, next: NEVER, len: 0 }
    }
}

impl Expiry {
    /// Number of entries with a deadline.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds `slot`, which must not be in. [`NEVER`] is no deadline.
    #[inline]
    pub fn schedule(&mut self, slot: u32, deadline: u64) {
        if deadline == NEVER {
            return;
        }
        self.links.reach(slot, LOOSE);
        self.next = self.next.min(deadline);
        self.len += 1;
        let wheel = self.wheel.get_or_insert_with(Wheel::new);
        wheel.place(&mut self.links, slot, deadline);
    }

    /// Takes `slot` out if it is in.
    #[inline]
    pub fn cancel(&mut self, slot: u32) {
        let Some(&link) = self.links.get(slot) else { return };
        if link.prev == NONE {
            return;
        }
        if let Some(wheel) = &mut self.wheel {
            wheel.unlink(&mut self.links, slot, link);
            self.len -= 1;
        }
    }

    /// Changes the deadline of `slot` from `from` to `to`.
    ///
    /// A slot whose deadline moves back stays where it is: it is placed anew when its old bucket comes up. So an entry
    /// that is overwritten again and again is moved once in each lifetime, not with each write.
    #[inline]
    pub fn reschedule(&mut self, slot: u32, from: u64, to: u64) {
        if from > to || to == NEVER {
            self.cancel(slot);
            self.schedule(slot, to);
        }
    }

    /// Whether some deadline may have passed by `now`.
    #[inline]
    pub fn may_be_due(&self, now: u64) -> bool {
        now >= self.next
    }

    /// Takes out one slot whose deadline is not after `now`. `deadline` must give the present deadlines.
    #[inline]
    pub fn pop(&mut self, now: u64, deadline: impl Fn(u32) -> u64) -> Option<u32> {
        if now < self.next { None } else { self.pop_due(now, deadline) }
    }

    fn pop_due(&mut self, now: u64, deadline: impl Fn(u32) -> u64) -> Option<u32> {
        let Some(wheel) = &mut self.wheel else {
            self.next = NEVER;
            return None;
        };
        loop {
            // Lower levels hold earlier deadlines, so the first bucket in use is the earliest.
            let Some(level) = wheel.occupied.iter().position(|&bits| bits != 0) else {
                self.next = NEVER;
                wheel.turned = wheel.turned.max(now);
                return None;
            };
            let digit = wheel.occupied[level].trailing_zeros();
            let shift = BITS * level as u32;
            let above = u64::MAX.checked_shl(shift + BITS).unwrap_or(0);
            let start = (wheel.turned & above) | u64::from(digit) << shift;
            if start > now {
                self.next = start;
                wheel.turned = wheel.turned.max(now);
                return None;
            }
            let bucket = (level << BITS) + digit as usize;
            if start + ((1 << shift) - 1) <= now {
                let slot = wheel.heads[bucket];
                let link = self.links[slot];
                wheel.unlink(&mut self.links, slot, link);
                let due = deadline(slot);
                if due > now {
                    // Rescheduled since it was placed.
                    wheel.place(&mut self.links, slot, due);
                    continue;
                }
                self.len -= 1;
                return Some(slot);
            }
            // The bucket has begun but not passed: spread it over the levels below.
            let mut slot = std::mem::replace(&mut wheel.heads[bucket], NONE);
            wheel.occupied[level] &= !(1 << digit);
            wheel.turned = wheel.turned.max(start);
            while slot != NONE {
                let next = self.links[slot].next;
                wheel.place(&mut self.links, slot, deadline(slot));
                slot = next;
            }
        }
    }

    pub fn heap_bytes(&self) -> usize {
        self.links.heap_bytes() + self.wheel.as_ref().map_or(0, |_| size_of::<Wheel>())
    }

    /// Panics if the lists are broken or a slot is in the wrong bucket. `scheduled` is how many must be in.
    pub fn validate(&self, scheduled: usize, deadline: impl Fn(u32) -> u64) {
        assert_eq!(self.len, scheduled);
        let Some(wheel) = &self.wheel else {
            return assert_eq!(self.len, 0);
        };
        let mut count = 0;
        for (bucket, &head) in wheel.heads.iter().enumerate() {
            let bit = wheel.occupied[bucket >> BITS] >> (bucket & 63) & 1;
            assert_eq!(bit == 1, head != NONE, "bucket {bucket} is marked wrongly");
            let mut prev = BUCKET | bucket as u32;
            let mut slot = head;
            while slot != NONE {
                let due = deadline(slot);
                assert!(due >= self.next, "slot {slot} is due before the earliest");
                let level = bucket >> BITS;
                let shift = BITS * level as u32;
                let above = u64::MAX.checked_shl(shift + BITS).unwrap_or(0);
                let start = (wheel.turned & above) | (bucket as u64 & 63) << shift;
                assert!(start <= due.max(wheel.turned), "slot {slot} at level {level}");
                assert_eq!(self.links[slot].prev, prev);
                prev = slot;
                slot = self.links[slot].next;
                count += 1;
                assert!(count <= self.len, "a list is a cycle");
            }
        }
        assert_eq!(count, self.len);
        assert_eq!(self.links.iter().filter(|link| link.prev != NONE).count(), self.len);
    }
}

impl Wheel {
    fn new() -> Box<Self> {
        Box::new(Self { heads: [NONE; BUCKETS], occupied: [0; LEVELS], turned: 0 })
    }

    #[inline]
    fn place(&mut self, links: &mut Chunks<Link>, slot: u32, deadline: u64) {
        // What is overdue goes to the bucket that comes up next.
        let deadline = deadline.max(self.turned);
        let level = (63 - ((deadline ^ self.turned) | 1).leading_zeros()) / BITS;
        let digit = (deadline >> (BITS * level)) as u32 & 63;
        let bucket = (level << BITS) + digit;
        let next = std::mem::replace(&mut self.heads[bucket as usize], slot);
        self.occupied[level as usize] |= 1 << digit;
        links[slot] = Link { prev: BUCKET | bucket, next };
        if next != NONE {
            links[next].prev = slot;
        }
    }

    #[inline]
    fn unlink(&mut self, links: &mut Chunks<Link>, slot: u32, link: Link) {
        links[slot] = LOOSE;
        if link.next != NONE {
            links[link.next].prev = link.prev;
        }
        if link.prev & BUCKET == 0 {
            links[link.prev].next = link.next;
        } else {
            let bucket = link.prev & !BUCKET;
            self.heads[bucket as usize] = link.next;
            if link.next == NONE {
                self.occupied[(bucket >> BITS) as usize] &= !(1 << (bucket & 63));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn drain(expiry: &mut Expiry, now: u64, due: &BTreeMap<u32, u64>) -> Vec<u32> {
        let mut gone = Vec::new();
        while let Some(slot) = expiry.pop(now, |slot| due[&slot]) {
            gone.push(slot);
        }
        gone.sort_unstable();
        gone
    }

    #[test]
    fn exact_to_the_nanosecond_at_every_level() {
        for level in 0..11 {
            let span = 1u64 << (BITS * level);
            for deadline in [span, span + 1, span * 3 + span / 2, (span - 1).max(1)] {
                let mut expiry = Expiry::default();
                let due = BTreeMap::from([(0, deadline)]);
                expiry.schedule(0, deadline);
                assert!(drain(&mut expiry, deadline - 1, &due).is_empty());
                expiry.validate(1, |_| deadline);
                assert_eq!(drain(&mut expiry, deadline, &due), [0]);
            }
        }
    }

    #[test]
    fn the_last_deadline_is_the_one_before_never() {
        let mut expiry = Expiry::default();
        expiry.schedule(0, NEVER);
        assert_eq!(expiry.len(), 0);
        let due = BTreeMap::from([(1, NEVER - 1)]);
        expiry.schedule(1, NEVER - 1);
        assert!(drain(&mut expiry, NEVER - 2, &due).is_empty());
        assert_eq!(drain(&mut expiry, NEVER - 1, &due), [1]);
    }

    proptest! {
        #[test]
        fn wheel_follows_a_map(
            ops in prop::collection::vec((0..4u8, 0..24u32, 0..40u32, any::<u64>()), 1..200),
            start in prop_oneof![Just(0u64), any::<u32>().prop_map(u64::from), Just(1 << 60)],
        ) {
            let mut expiry = Expiry::default();
            let mut due = BTreeMap::new();
            let mut now = start;
            for (op, slot, scale, random) in ops {
                let span = random % (1 << scale);
                match op {
                    0 => {
                        expiry.cancel(slot);
                        due.remove(&slot);
                    }
                    1 => {
                        now += span;
                        let gone: Vec<u32> = due.iter().filter(|d| *d.1 <= now).map(|d| *d.0).collect();
                        prop_assert_eq!(drain(&mut expiry, now, &due), gone.clone());
                        for slot in gone {
                            due.remove(&slot);
                        }
                    }
                    _ => {
                        match due.insert(slot, now + span) {
                            Some(from) => expiry.reschedule(slot, from, now + span),
                            None => expiry.schedule(slot, now + span),
                        }
                    }
                }
                expiry.validate(due.len(), |slot| due[&slot]);
            }
        }
    }
}
