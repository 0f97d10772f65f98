//! Doubly linked lists of small integers, threaded through one array.
//!
//! [`Links`] holds the links (8 bytes a member); any number of [`List`]s share it as long as each member is in at most
//! one of them. Nothing allocates except [`Links`] reaching a new highest member.

use super::slab::Chunks;

/// No member.
pub const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    prev: u32,
    next: u32,
}

const LOOSE: Link = Link { prev: NONE, next: NONE };

/// The links of all members of all lists over it.
#[derive(Debug, Default)]
pub struct Links(Chunks<Link>);

impl Links {
    /// Makes room for `member`; must be called before it first enters a list.
    #[inline]
    pub fn reach(&mut self, member: u32) {
        self.0.reach(member, LOOSE);
    }

    pub fn heap_bytes(&self) -> usize {
        self.0.heap_bytes()
    }
}

/// One list. All operations are O(1); each must be given the same [`Links`].
#[derive(Clone, Copy, Debug)]
pub struct List {
    front: u32,
    back: u32,
    len: u32,
}

impl Default for List {
    fn default() -> Self {
        Self { front: NONE, back: NONE, len: 0 }
    }
}

impl List {
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    pub fn front(&self) -> Option<u32> {
        if self.front == NONE { None } else { Some(self.front) }
    }

    #[inline]
    pub fn back(&self) -> Option<u32> {
        if self.back == NONE { None } else { Some(self.back) }
    }

    /// The member after `member`.
    #[inline]
    pub fn next(&self, links: &Links, member: u32) -> Option<u32> {
        let next = links.0[member].next;
        if next == NONE { None } else { Some(next) }
    }

    #[inline]
    pub fn push_back(&mut self, links: &mut Links, member: u32) {
        links.0[member] = Link { prev: self.back, next: NONE };
        if self.back == NONE {
            self.front = member;
        } else {
            links.0[self.back].next = member;
        }
        self.back = member;
        self.len += 1;
    }

    #[inline]
    pub fn push_front(&mut self, links: &mut Links, member: u32) {
        links.0[member] = Link { prev: NONE, next: self.front };
        if self.front == NONE {
            self.back = member;
        } else {
            links.0[self.front].prev = member;
        }
        self.front = member;
        self.len += 1;
    }

    /// Takes out `member`, which must be in this list.
    #[inline]
    pub fn remove(&mut self, links: &mut Links, member: u32) {
        let Link { prev, next } = links.0[member];
        if prev == NONE {
            self.front = next;
        } else {
            links.0[prev].next = next;
        }
        if next == NONE {
            self.back = prev;
        } else {
            links.0[next].prev = prev;
        }
        self.len -= 1;
    }

    /// Makes `member`, which must be in this list, the last.
    #[inline]
    pub fn move_to_back(&mut self, links: &mut Links, member: u32) {
        if self.back == member {
            return;
        }
        let Link { prev, next } = links.0[member];
        links.0[next].prev = prev;
        if prev == NONE {
            self.front = next;
        } else {
            links.0[prev].next = next;
        }
        links.0[self.back].next = member;
        links.0[member] = Link { prev: self.back, next: NONE };
        self.back = member;
    }

    /// Members from front to back.
    pub fn iter<'a>(&self, links: &'a Links) -> impl Iterator<Item = u32> + use<'a> {
        let mut next = self.front;
        std::iter::from_fn(move || {
            let member = next;
            if member == NONE {
                return None;
            }
            next = links.0[member].next;
            Some(member)
        })
    }

    /// Panics if the links do not form this list in both directions.
    #[doc(hidden)]
    pub fn validate(&self, links: &Links) {
        let mut prev = NONE;
        let mut count = 0;
        for member in self.iter(links) {
            assert_eq!(links.0[member].prev, prev, "member {member} points back to the wrong one");
            prev = member;
            count += 1;
            assert!(count <= self.len, "more members than counted, or a cycle");
        }
        assert_eq!((count, prev), (self.len, self.back));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        #[test]
        fn two_lists_follow_two_deques(ops in prop::collection::vec((0..4u8, 0..16u32, any::<bool>()), 1..200)) {
            let mut links = Links::default();
            let mut lists = [List::default(); 2];
            let mut models = [VecDeque::new(), VecDeque::new()];
            for (op, member, which) in ops {
                let which = usize::from(which);
                let home = models.iter().position(|model| model.contains(&member));
                links.reach(member);
                match (op, home) {
                    (0, None) => {
                        lists[which].push_back(&mut links, member);
                        models[which].push_back(member);
                    }
                    (1, None) => {
                        lists[which].push_front(&mut links, member);
                        models[which].push_front(member);
                    }
                    (2, Some(home)) => {
                        lists[home].remove(&mut links, member);
                        models[home].retain(|&other| other != member);
                    }
                    (3, Some(home)) => {
                        lists[home].move_to_back(&mut links, member);
                        models[home].retain(|&other| other != member);
                        models[home].push_back(member);
                    }
                    _ => {}
                }
                for (list, model) in lists.iter().zip(&models) {
                    list.validate(&links);
                    prop_assert!(list.iter(&links).eq(model.iter().copied()));
                    prop_assert_eq!(list.front(), model.front().copied());
                    prop_assert_eq!(list.back(), model.back().copied());
                }
            }
        }
    }
}
