//! Prepared statements kept for the next use of the same text.
//!
//! A statement is taken out while it runs, so that a second run of the text gets another one.

use hashbrown::HashTable;

/// Least recently used ones leave first. `S` is a statement with what its user keeps about it.
pub struct Statements<S> {
    table: HashTable<Kept<S>>,
    capacity: usize,
    turn: u64,
}

struct Kept<S> {
    hash: u64,
    /// When it was put here.
    turn: u64,
    statement: S,
}

impl<S> Statements<S> {
    pub fn new(capacity: usize) -> Self {
        Self { table: HashTable::new(), capacity, turn: 0 }
    }

    /// Takes the statement out whose text has this hash and satisfies `same`.
    #[inline]
    pub fn take(&mut self, hash: u64, mut same: impl FnMut(&S) -> bool) -> Option<S> {
        let found = self.table.find_entry(hash, |kept| kept.hash == hash && same(&kept.statement));
        found.ok().map(|entry| entry.remove().0.statement)
    }

    /// Keeps a statement; returns what has to leave for it.
    #[inline]
    #[must_use]
    pub fn put(&mut self, hash: u64, statement: S) -> Option<S> {
        if self.capacity == 0 {
            return Some(statement);
        }
        let gone = if self.table.len() >= self.capacity { self.take_oldest() } else { None };
        self.turn += 1;
        self.table.insert_unique(hash, Kept { hash, turn: self.turn, statement }, |kept| kept.hash);
        gone
    }

    /// Empties it.
    pub fn take_all(&mut self) -> Vec<S> {
        self.table.drain().map(|kept| kept.statement).collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = &S> {
        self.table.iter().map(|kept| &kept.statement)
    }

    /// A search through all of them: only programs with more texts than places get here, and preparing costs more.
    #[cold]
    fn take_oldest(&mut self) -> Option<S> {
        let (hash, turn) = self.table.iter().map(|kept| (kept.hash, kept.turn)).min_by_key(|&(_, turn)| turn)?;
        let entry = self.table.find_entry(hash, |kept| kept.turn == turn).ok()?;
        Some(entry.remove().0.statement)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_out_what_was_put_and_drops_the_oldest() {
        let mut kept = Statements::new(2);
        assert_eq!(kept.put(7, "a"), None);
        assert_eq!(kept.put(7, "b"), None);
        assert_eq!(kept.take(7, |text| *text == "a"), Some("a"));
        assert_eq!(kept.take(7, |text| *text == "a"), None);
        assert_eq!(kept.put(7, "a"), None);
        assert_eq!(kept.put(9, "c"), Some("b"));
        assert_eq!(kept.take_all().len(), 2);
        assert_eq!(Statements::new(0).put(1, "a"), Some("a"));
    }
}
