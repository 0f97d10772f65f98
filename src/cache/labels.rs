//! Labels: sets of entries under a name, for removal in time proportional to what is removed.
//!
//! Each label keeps its members in an array, each entry the places where it stands in those arrays, so that an entry
//! leaves all its labels without searching.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};

use hashbrown::HashTable;
use smallvec::SmallVec;

use super::entry::Slot;
use crate::support::slab::Slab;

/// A name for a set of entries. Entries may carry any number of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Label {
    /// Chosen by the user.
    Tag(Box<str>),
    /// The text of a string key up to and including its first `:`.
    Head(Box<str>),
    /// Numbered by the caller, for example one for each decorated function.
    Group(u64),
}

/// An interned [`Label`]. Valid while an entry carries the label, and from `label` until the next `insert` or
/// `replace` returns; after that the number may stand for another label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelId(u32);

/// That an entry carries a label.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub label: LabelId,
    /// Where the entry stands among the members.
    place: u32,
}

pub(super) type Marks = SmallVec<[Mark; 2]>;

#[derive(Debug)]
struct Members {
    label: Label,
    hash: u64,
    slots: Vec<Slot>,
}

/// All labels in use.
#[derive(Debug, Default)]
pub(super) struct Labels {
    all: Slab<Members>,
    table: HashTable<u32>,
    hasher: RandomState,
    /// Heads by their text read backwards: those with a common ending are neighbours.
    heads: BTreeMap<Box<[u8]>, LabelId>,
    /// Interned and perhaps not carried by any entry yet.
    fresh: Vec<LabelId>,
    tags: usize,
}

fn backwards(text: &str) -> Box<[u8]> {
    text.bytes().rev().collect()
}

impl Labels {
    pub fn intern(&mut self, label: Label) -> LabelId {
        let hash = self.hash(&label);
        if let Some(&id) = self.table.find(hash, |&id| self.all[id].label == label) {
            return LabelId(id);
        }
        let head = match &label {
            Label::Head(text) => Some(backwards(text)),
            _ => None,
        };
        let id = LabelId(self.all.insert(Members { label, hash, slots: Vec::new() }));
        let all = &self.all;
        self.table.insert_unique(hash, id.0, |&id| all[id].hash);
        if let Some(text) = head {
            self.heads.insert(text, id);
        }
        self.fresh.push(id);
        id
    }

    pub fn find(&self, label: &Label) -> Option<LabelId> {
        self.table.find(self.hash(label), |&id| self.all[id].label == *label).copied().map(LabelId)
    }

    pub fn members(&self, id: LabelId) -> &[Slot] {
        self.all.get(id.0).map_or(&[], |members| &members.slots)
    }

    pub fn heads_ending_with(&self, ending: &str) -> Vec<LabelId> {
        let ending = backwards(ending);
        let from = self.heads.range::<[u8], _>((std::ops::Bound::Included(&*ending), std::ops::Bound::Unbounded));
        from.take_while(|(text, _)| text.starts_with(&ending)).map(|(_, &id)| id).collect()
    }

    /// Number of tags that entries carry.
    pub fn tag_count(&self) -> usize {
        self.tags
    }

    pub fn tags(&self) -> impl Iterator<Item = (&str, LabelId)> {
        self.all.iter().filter_map(|(id, members)| match &members.label {
            Label::Tag(text) if !members.slots.is_empty() => Some((&**text, LabelId(id))),
            _ => None,
        })
    }

    pub fn get(&self, id: LabelId) -> Option<&Label> {
        self.all.get(id.0).map(|members| &members.label)
    }

    /// Adds `slot`, which must not be a member yet.
    pub fn attach(&mut self, slot: Slot, id: LabelId) -> Mark {
        let members = &mut self.all[id.0];
        if members.slots.is_empty() && matches!(members.label, Label::Tag(_)) {
            self.tags += 1;
        }
        members.slots.push(slot);
        Mark { label: id, place: (members.slots.len() - 1) as u32 }
    }

    /// Takes out the entry that holds `mark`. `moved(slot, label)` must give the mark of another entry for writing: the
    /// last member takes the vacated place. The label goes with its last member.
    pub fn detach<'m>(&mut self, mark: Mark, moved: impl FnOnce(Slot, LabelId) -> Option<&'m mut Mark>) {
        let members = &mut self.all[mark.label.0];
        members.slots.swap_remove(mark.place as usize);
        if let Some(&slot) = members.slots.get(mark.place as usize) {
            if let Some(other) = moved(slot, mark.label) {
                other.place = mark.place;
            }
        } else if members.slots.is_empty() {
            if matches!(members.label, Label::Tag(_)) {
                self.tags -= 1;
            }
            self.free(mark.label);
            return;
        }
        if members.slots.len() * 4 < members.slots.capacity() && members.slots.capacity() > 64 {
            members.slots.shrink_to(members.slots.len() * 2);
        }
    }

    /// Frees labels that were interned and then not used.
    #[inline]
    pub fn settle(&mut self) {
        while let Some(id) = self.fresh.pop() {
            if self.all.get(id.0).is_some_and(|members| members.slots.is_empty()) {
                self.free(id);
            }
        }
    }

    fn free(&mut self, id: LabelId) {
        let Some(members) = self.all.remove(id.0) else { return };
        if let Ok(found) = self.table.find_entry(members.hash, |&other| other == id.0) {
            found.remove();
        }
        if let Label::Head(text) = &members.label {
            self.heads.remove(&backwards(text));
        }
    }

    fn hash(&self, label: &Label) -> u64 {
        self.hasher.hash_one(label)
    }

    pub fn heap_bytes(&self) -> usize {
        let mut bytes = self.all.heap_bytes() + self.table.allocation_size() + self.fresh.capacity() * 4;
        for (_, members) in self.all.iter() {
            bytes += members.slots.capacity() * size_of::<Slot>();
            bytes += match &members.label {
                Label::Tag(text) => text.len(),
                // The text twice, and a node of the tree shared with others.
                Label::Head(text) => text.len() * 2 + 32,
                Label::Group(_) => 0,
            };
        }
        bytes
    }

    /// Panics if a label is lost or miscounted; `marks` must give the labels of an entry.
    pub fn validate<'m>(&self, marks: impl Fn(Slot) -> &'m [Mark]) {
        self.all.validate();
        assert_eq!(self.table.len(), self.all.len());
        let mut heads = 0;
        for (id, members) in self.all.iter() {
            let id = LabelId(id);
            assert_eq!(self.find(&members.label), Some(id));
            assert!(!members.slots.is_empty() || self.fresh.contains(&id), "{:?} has no members", members.label);
            for (place, &slot) in members.slots.iter().enumerate() {
                let mark = marks(slot).iter().find(|mark| mark.label == id);
                assert_eq!(mark.map(|mark| mark.place as usize), Some(place), "{:?} of {slot:?}", members.label);
            }
            if let Label::Head(text) = &members.label {
                assert_eq!(self.heads.get(&backwards(text)), Some(&id));
                heads += 1;
            }
        }
        assert_eq!(self.heads.len(), heads);
        assert_eq!(self.tags, self.tags().count());
    }
}
