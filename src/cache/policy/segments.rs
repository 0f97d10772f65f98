//! Entries in the three lists of W-TinyLFU: a window for newcomers, and a main part of probation and protected.
//!
//! A newcomer enters the window. The oldest of a full window meets the coldest entry of the main part, and the one that
//! the sketch has seen less often goes. A hit in probation earns protection. Protection is for four fifths of the main
//! part; from there the oldest fall back to probation. With a window that takes everything this is LRU.

use super::sketch::Sketch;
use crate::support::list::{Links, List};
use crate::support::slab::Chunks;

/// Places of members: indices of the lists, and in the two lowest bits of a mark.
const WINDOW: u32 = 0;
const PROBATION: u32 = 1;
const PROTECTED: u32 = 2;
const ABSENT: u32 = 3;
const PLACE: u32 = 3;

/// How many members one operation may move to get a list down to its size after a change of mode.
const MOVES: u32 = 4;

/// What decides who stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// Frequency: the window has one entry in a hundred.
    #[default]
    Frequent,
    /// Recency: the window takes everything.
    Recent,
}

#[derive(Debug, Default)]
pub(super) struct Segments {
    links: Links,
    /// The upper 30 bits of the hash, and the place.
    marks: Chunks<u32>,
    /// By place, coldest first.
    lists: [List; 3],
    mode: Mode,
    /// State of the dice for admission.
    dice: u32,
}

/// The part of a hash that a mark holds, under which the sketch knows it.
#[inline]
pub(super) fn known(hash: u32) -> u32 {
    hash & !PLACE
}

impl Segments {
    pub fn new(mode: Mode) -> Self {
        Self { mode, ..Self::default() }
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.lists.iter().map(List::len).sum()
    }

    #[inline]
    pub fn holds(&self, member: u32) -> bool {
        self.marks.get(member).is_some_and(|mark| mark & PLACE != ABSENT)
    }

    #[cfg(test)]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Takes effect with the next operations, a few members at a time.
    #[inline]
    pub fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
    }

    #[inline]
    pub fn insert(&mut self, member: u32, hash: u32) {
        self.links.reach(member);
        self.marks.reach(member, ABSENT);
        self.marks[member] = known(hash) | WINDOW;
        self.lists[WINDOW as usize].push_back(&mut self.links, member);
        let room = self.room();
        for _ in 0..MOVES {
            if self.lists[WINDOW as usize].len() <= room {
                break;
            }
            if let Some(oldest) = self.front(WINDOW) {
                self.transfer(oldest, PROBATION);
            }
        }
    }

    #[inline]
    pub fn access(&mut self, member: u32) {
        let place = self.marks[member] & PLACE;
        if self.mode == Mode::Recent && place != WINDOW {
            self.transfer(member, WINDOW);
        } else if place == PROBATION {
            self.transfer(member, PROTECTED);
            self.unprotect();
        } else {
            self.lists[place as usize].move_to_back(&mut self.links, member);
        }
    }

    #[inline]
    pub fn remove(&mut self, member: u32) {
        let place = self.marks[member] & PLACE;
        self.lists[place as usize].remove(&mut self.links, member);
        self.marks[member] = ABSENT;
    }

    /// Who makes room for a newcomer that will be inserted next.
    #[inline]
    pub fn victim(&mut self, sketch: &Sketch) -> Option<u32> {
        let coldest = self.front(PROBATION).or(self.front(PROTECTED));
        let (Some(oldest), Some(coldest)) = (self.front(WINDOW), coldest) else {
            return coldest.or(self.front(WINDOW));
        };
        if self.lists[WINDOW as usize].len() < self.room() {
            return Some(coldest);
        }
        if !self.admits(sketch, oldest, coldest) {
            return Some(oldest);
        }
        self.transfer(oldest, PROBATION);
        Some(coldest)
    }

    /// Coldest first. Exact in [`Mode::Recent`]; otherwise the contest at the window's end may decide differently.
    pub fn order(&self) -> Vec<u32> {
        let places = [PROBATION, PROTECTED, WINDOW];
        places.into_iter().flat_map(|place| self.lists[place as usize].iter(&self.links)).collect()
    }

    pub fn heap_bytes(&self) -> usize {
        self.links.heap_bytes() + self.marks.heap_bytes()
    }

    /// Panics if a list is broken or a mark names the wrong one.
    pub fn validate(&self) {
        for place in [WINDOW, PROBATION, PROTECTED] {
            let list = &self.lists[place as usize];
            list.validate(&self.links);
            assert!(list.iter(&self.links).all(|member| self.marks[member] & PLACE == place));
        }
        assert_eq!(self.marks.iter().filter(|&mark| mark & PLACE != ABSENT).count(), self.len());
    }

    #[inline]
    fn front(&self, place: u32) -> Option<u32> {
        self.lists[place as usize].front()
    }

    /// Members the window may have.
    #[inline]
    fn room(&self) -> usize {
        match self.mode {
            Mode::Frequent => (self.len() / 100).max(1),
            Mode::Recent => usize::MAX,
        }
    }

    #[inline]
    fn transfer(&mut self, member: u32, to: u32) {
        let mark = self.marks[member];
        self.marks[member] = known(mark) | to;
        self.lists[(mark & PLACE) as usize].remove(&mut self.links, member);
        self.lists[to as usize].push_back(&mut self.links, member);
    }

    /// Gets protection down to its share.
    #[inline]
    fn unprotect(&mut self) {
        for _ in 0..MOVES {
            let protected = self.lists[PROTECTED as usize].len();
            if protected * 5 <= (protected + self.lists[PROBATION as usize].len()) * 4 {
                break;
            }
            if let Some(oldest) = self.front(PROTECTED) {
                self.transfer(oldest, PROBATION);
            }
        }
    }

    #[inline]
    fn admits(&mut self, sketch: &Sketch, newcomer: u32, resident: u32) -> bool {
        let new = sketch.estimate(known(self.marks[newcomer]));
        let old = sketch.estimate(known(self.marks[resident]));
        if new > old {
            return true;
        }
        // A resident that owes its count to others would keep everyone out until the sketch ages; let one in 128 pass.
        self.dice = self.dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        new > 5 && self.dice >> 25 == 0
    }
}
