//! Reads of stored rows, until they are recorded. Plain bookkeeping: no lock, no clock, no I/O.
//!
//! Recording a read rewrites its row, and so a page that others are about to read. So reads are collected and recorded
//! in the order of keys, as neighbours share pages, when nobody is in a hurry.

/// Reads of one key.
pub(super) struct Touch {
    pub key: Box<str>,
    pub count: i64,
    /// Unix microseconds of the last one.
    pub at: i64,
}

/// Reads kept. What comes on top is not recorded.
const LIMIT: usize = 65_536;

#[derive(Default)]
pub(super) struct Touches {
    /// A key may occur several times.
    list: Vec<Touch>,
    added: u64,
}

impl Touches {
    /// Adds reads of a key, O(1) amortised. Returns true when it is time to record some.
    pub fn add(&mut self, key: &str, count: i64, at: i64) -> bool {
        self.added += 1;
        if self.list.len() >= LIMIT {
            return true;
        }
        self.list.push(Touch { key: key.into(), count, at });
        if self.list.len() < LIMIT {
            return false;
        }
        merge(&mut self.list);
        self.list.len() > LIMIT / 2
    }

    /// Takes up to `max` keys, in their order.
    pub fn take(&mut self, max: usize) -> Vec<Touch> {
        merge(&mut self.list);
        self.list.drain(..max.min(self.list.len())).collect()
    }

    /// Upper limit of the number of keys.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Grows with every read.
    pub fn added(&self) -> u64 {
        self.added
    }

    pub fn clear(&mut self) {
        self.list.clear();
    }
}

/// Sorts by key and adds up what belongs to one.
pub(super) fn merge(list: &mut Vec<Touch>) {
    list.sort_by(|a, b| a.key.cmp(&b.key));
    list.dedup_by(|later, first| {
        let same = later.key == first.key;
        if same {
            first.count += later.count;
            first.at = first.at.max(later.at);
        }
        same
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_and_keeps_the_order_of_keys() {
        let mut touches = Touches::default();
        for (key, count, at) in [("b", 1, 5), ("a", 2, 6), ("b", 3, 4), ("c", 1, 1)] {
            assert!(!touches.add(key, count, at));
        }
        let seen = |list: Vec<Touch>| list.into_iter().map(|t| (t.key.into(), t.count, t.at)).collect::<Vec<_>>();
        assert_eq!(seen(touches.take(2)), [(String::from("a"), 2, 6), ("b".into(), 4, 5)]);
        assert_eq!(seen(touches.take(2)), [("c".into(), 1, 1)]);
        assert_eq!(touches.len(), 0);
    }

    #[test]
    fn is_bounded_and_says_when_it_fills_up() {
        let mut few = Touches::default();
        assert!(!(0..3 * LIMIT).any(|n| few.add(&format!("{}", n % 100), 1, 0)));
        assert_eq!(few.take(LIMIT).iter().map(|touch| touch.count).sum::<i64>(), 3 * LIMIT as i64);
        let mut many = Touches::default();
        assert_eq!((0..2 * LIMIT).position(|n| many.add(&format!("{n}"), 1, 0)), Some(LIMIT - 1));
        assert!(many.add("more", 1, 0));
        assert_eq!(many.len(), LIMIT);
    }
}
