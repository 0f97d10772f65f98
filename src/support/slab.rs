//! Storage addressed by `u32`, grown in chunks.
//!
//! A `Vec` doubles: just after growing, half of it is air, and growing copies everything while the caller waits. Here
//! only the last chunk grows by doubling, up to 2,048 items; full chunks never move.

#![allow(unsafe_code)]

use std::ops::{Index, IndexMut};

const BITS: u32 = 11;
/// Items in a full chunk. Large enough for the table of chunks to stay in the first-level cache at a million items,
/// small enough that a chunk of entries stays below malloc's threshold for separate mappings (128 KiB).
const CHUNK: usize = 1 << BITS;

/// A growable array that never moves a full chunk.
///
/// Invariant: every chunk but the last holds `CHUNK` items, the last at least one; `len` is their sum.
#[derive(Debug)]
pub struct Chunks<T> {
    chunks: Vec<Vec<T>>,
    len: usize,
}

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<T> Chunks<T> {
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn push(&mut self, item: T) {
        if self.len % CHUNK == 0 {
            self.chunks.push(Vec::new());
        }
        if let Some(chunk) = self.chunks.last_mut() {
            if chunk.len() == chunk.capacity() {
                chunk.reserve_exact(chunk.len().max(8));
            }
            chunk.push(item);
            self.len += 1;
        }
    }

    pub fn pop(&mut self) -> Option<T> {
        let chunk = self.chunks.last_mut()?;
        let item = chunk.pop();
        self.len -= 1;
        if chunk.is_empty() {
            self.chunks.pop();
        }
        item
    }

    /// Makes `index` valid, adding copies of `fill`.
    #[inline]
    pub fn reach(&mut self, index: u32, fill: T)
    where
        T: Clone,
    {
        if self.len <= index as usize {
            self.extend_to(index, fill);
        }
    }

    #[cold]
    fn extend_to(&mut self, index: u32, fill: T)
    where
        T: Clone,
    {
        while self.len <= index as usize {
            self.push(fill.clone());
        }
    }

    #[inline]
    pub fn get(&self, index: u32) -> Option<&T> {
        if (index as usize) < self.len {
            // SAFETY: below `len`, so by the invariant the chunk exists and holds the item.
            Some(unsafe { self.chunks.get_unchecked((index >> BITS) as usize).get_unchecked(index as usize % CHUNK) })
        } else {
            None
        }
    }

    #[inline]
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        if (index as usize) < self.len {
            // SAFETY: as in `get`; the exclusive borrow of `self` covers the item.
            Some(unsafe {
                self.chunks.get_unchecked_mut((index >> BITS) as usize).get_unchecked_mut(index as usize % CHUNK)
            })
        } else {
            None
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten()
    }

    /// Bytes on the heap, without what the items own themselves.
    pub fn heap_bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.capacity() * size_of::<T>()).sum::<usize>()
            + self.chunks.capacity() * size_of::<Vec<T>>()
    }
}

#[cold]
#[inline(never)]
fn no_such(index: u32) -> ! {
    panic!("no item at index {index}")
}

impl<T> Index<u32> for Chunks<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: u32) -> &T {
        match self.get(index) {
            Some(item) => item,
            None => no_such(index),
        }
    }
}

impl<T> IndexMut<u32> for Chunks<T> {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut T {
        match self.get_mut(index) {
            Some(item) => item,
            None => no_such(index),
        }
    }
}

/// Costs no byte beyond `T` where `T` has a niche beside four other bytes.
#[derive(Debug)]
enum Cell<T> {
    Full(T),
    /// Vacant; holds the next vacant cell, [`END`] after the last.
    Free(u32),
}

const END: u32 = u32::MAX;

/// Items with stable addresses: `insert` returns an index that stays valid until `remove`. Vacated indices are
/// reused, the latest first.
#[derive(Debug)]
pub struct Slab<T> {
    cells: Chunks<Cell<T>>,
    free: u32,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { cells: Chunks::default(), free: END, len: 0 }
    }
}

impl<T> Slab<T> {
    /// Number of items in the slab.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Stores `item`. The caller keeps the number of items below `u32::MAX`.
    #[inline]
    pub fn insert(&mut self, item: T) -> u32 {
        self.len += 1;
        let index = self.free;
        if index == END {
            self.cells.push(Cell::Full(item));
            return (self.cells.len() - 1) as u32;
        }
        let cell = &mut self.cells[index];
        if let Cell::Free(next) = *cell {
            self.free = next;
        }
        *cell = Cell::Full(item);
        index
    }

    /// Takes the item at `index` out.
    #[inline]
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let cell = self.cells.get_mut(index)?;
        if let Cell::Free(_) = cell {
            return None;
        }
        let cell = std::mem::replace(cell, Cell::Free(self.free));
        self.free = index;
        self.len -= 1;
        match cell {
            Cell::Full(item) => Some(item),
            Cell::Free(_) => None,
        }
    }

    #[inline]
    pub fn get(&self, index: u32) -> Option<&T> {
        match self.cells.get(index) {
            Some(Cell::Full(item)) => Some(item),
            _ => None,
        }
    }

    #[inline]
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        match self.cells.get_mut(index) {
            Some(Cell::Full(item)) => Some(item),
            _ => None,
        }
    }

    /// Items with their indices, in index order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.cells.iter().enumerate().filter_map(|(index, cell)| match cell {
            Cell::Full(item) => Some((index as u32, item)),
            Cell::Free(_) => None,
        })
    }

    /// Bytes on the heap, without what the items own themselves.
    pub fn heap_bytes(&self) -> usize {
        self.cells.heap_bytes()
    }

    /// Panics if the list of vacant cells is broken.
    #[doc(hidden)]
    pub fn validate(&self) {
        let mut vacant = 0;
        let mut next = self.free;
        while next != END {
            vacant += 1;
            assert!(vacant <= self.cells.len(), "the list of vacant cells is a cycle");
            match self.cells[next] {
                Cell::Free(after) => next = after,
                Cell::Full(_) => panic!("cell {next} is listed as vacant"),
            }
        }
        assert_eq!(self.len + vacant, self.cells.len());
        assert_eq!(self.iter().count(), self.len);
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: u32) -> &T {
        match self.get(index) {
            Some(item) => item,
            None => no_such(index),
        }
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut T {
        match self.get_mut(index) {
            Some(item) => item,
            None => no_such(index),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn only_the_last_chunk_has_room_to_spare() {
        let mut chunks = Chunks::default();
        for i in 0..(3 * CHUNK as u64 + 1) {
            chunks.push(i);
        }
        assert_eq!(chunks.len(), 3 * CHUNK + 1);
        assert_eq!(chunks[2 * CHUNK as u32], 2 * CHUNK as u64);
        assert!(chunks.heap_bytes() < (3 * CHUNK + 8) * 8 + 256);
        while chunks.pop().is_some() {}
        assert!(chunks.is_empty());
    }

    #[test]
    fn out_of_range_is_none_or_panics() {
        let mut chunks = Chunks::default();
        assert_eq!(chunks.get(0), None);
        chunks.reach(5, 7u8);
        assert_eq!(chunks.get(5), Some(&7));
        assert_eq!(chunks.get(6), None);
        assert!(std::panic::catch_unwind(|| chunks[6]).is_err());
    }

    proptest! {
        #[test]
        fn slab_follows_a_map(ops in prop::collection::vec((any::<bool>(), any::<u16>()), 1..400)) {
            let mut slab = Slab::default();
            let mut model: HashMap<u32, u16> = HashMap::new();
            for (insert, value) in ops {
                if insert {
                    let index = slab.insert(value);
                    prop_assert!(model.insert(index, value).is_none());
                } else {
                    let index = u32::from(value) % 64;
                    prop_assert_eq!(slab.remove(index), model.remove(&index));
                }
                slab.validate();
                for (index, value) in &model {
                    prop_assert_eq!(slab.get(*index), Some(value));
                }
            }
        }
    }
}
