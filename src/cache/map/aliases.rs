//! Second keys: a table of its own, so that a lookup by alias compares before it touches an entry.

use hashbrown::HashTable;

use super::spread;
use crate::support::slab::Chunks;

#[derive(Debug)]
struct Record<A> {
    hash: u32,
    slot: u32,
    alias: A,
}

#[derive(Debug)]
pub(super) struct Aliases<A> {
    table: HashTable<Record<A>>,
    /// By slot, as far as the highest slot that ever had an alias: its hash, by which the table finds it.
    hashes: Chunks<Option<u32>>,
}

impl<A> Default for Aliases<A> {
    fn default() -> Self {
        Self { table: HashTable::new(), hashes: Chunks::default() }
    }
}

impl<A> Aliases<A> {
    #[inline(always)]
    pub fn find(&self, hash: u32, mut eq: impl FnMut(&A) -> bool) -> Option<u32> {
        let found = self.table.find(spread(hash), |record| record.hash == hash && eq(&record.alias));
        found.map(|record| record.slot)
    }

    /// The slots of all aliases of one hash.
    pub fn candidates(&self, hash: u32) -> impl Iterator<Item = u32> {
        self.table.iter_hash(spread(hash)).filter(move |record| record.hash == hash).map(|record| record.slot)
    }

    pub fn of(&self, slot: u32) -> Option<&A> {
        let hash = (*self.hashes.get(slot)?)?;
        self.table.find(spread(hash), |record| record.slot == slot).map(|record| &record.alias)
    }

    #[inline]
    pub fn has(&self, slot: u32) -> bool {
        self.hashes.get(slot).is_some_and(Option::is_some)
    }

    /// The slot must not have one.
    pub fn set(&mut self, slot: u32, hash: u32, alias: A) {
        self.hashes.reach(slot, None);
        self.hashes[slot] = Some(hash);
        self.table.insert_unique(spread(hash), Record { hash, slot, alias }, |record| spread(record.hash));
    }

    #[inline]
    pub fn take(&mut self, slot: u32) -> Option<A> {
        let hash = self.hashes.get_mut(slot)?.take()?;
        let record = self.table.find_entry(spread(hash), |record| record.slot == slot).ok()?;
        Some(record.remove().0.alias)
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn heap_bytes(&self) -> usize {
        self.table.allocation_size() + self.hashes.heap_bytes()
    }
}
