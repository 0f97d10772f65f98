//! A count-min sketch of recent use: four bits a counter, halved at intervals.
//!
//! The four counters of a hash lie in one block of 64 bytes, so an estimate costs one cache miss. Frequencies stop at
//! 15, which is enough to tell what stays from what goes. (Einziger, Friedman and Manes, "TinyLFU: a highly efficient
//! cache admission policy", 2017.)

/// Words of 16 counters in a block.
const BLOCK: usize = 8;
/// Counters are halved after this many uses for each word.
const SAMPLE: usize = 10;
/// After a shift of a word by one: the bits that stayed in their counters.
const HALVES: u64 = 0x7777_7777_7777_7777;
/// The lowest bit of every counter.
const ONES: u64 = 0x1111_1111_1111_1111;

#[derive(Debug)]
pub(super) struct Sketch {
    /// One for each entry expected, rounded up to a power of two.
    words: Vec<u64>,
    /// Uses counted since the last halving, and half of those before.
    additions: usize,
}

/// Spreads a hash anew, so that blocks and counters do not follow the buckets of the table.
#[inline]
fn mix(hash: u32) -> u64 {
    let x = u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x ^ x >> 32
}

impl Default for Sketch {
    fn default() -> Self {
        Self { words: vec![0; BLOCK * 8], additions: 0 }
    }
}

impl Sketch {
    /// Number of entries it serves well.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.words.len()
    }

    /// Doubles the sketch. A hash then reads a copy of the counters it had.
    pub fn grow(&mut self) {
        self.words.extend_from_within(..);
    }

    /// Where a hash has its counters: the first word of the block, and bits to choose word and counter from.
    #[inline]
    fn locate(&self, hash: u32) -> (usize, u64) {
        let mixed = mix(hash);
        ((mixed as usize & (self.words.len() / BLOCK - 1)) * BLOCK, mixed >> 36)
    }

    /// The estimated number of recent uses, 0 to 15: never below the true one, apart from the halving.
    #[inline]
    pub fn estimate(&self, hash: u32) -> u32 {
        let (block, bits) = self.locate(hash);
        let block = &self.words[block..block + BLOCK];
        (0..4)
            .map(|row| {
                let bits = bits >> (row * 7);
                let word = block[row * 2 + (bits & 1) as usize];
                (word >> ((bits >> 1 & 15) * 4) & 15) as u32
            })
            .fold(15, u32::min)
    }

    /// Counts a use.
    #[inline]
    pub fn add(&mut self, hash: u32) {
        let (block, bits) = self.locate(hash);
        let block = &mut self.words[block..block + BLOCK];
        let mut added = false;
        for row in 0..4 {
            let bits = bits >> (row * 7);
            let word = &mut block[row * 2 + (bits & 1) as usize];
            let shift = (bits >> 1 & 15) * 4;
            if *word >> shift & 15 != 15 {
                *word += 1 << shift;
                added = true;
            }
        }
        if added {
            self.additions += 1;
            if self.additions >= self.words.len() * SAMPLE {
                self.age();
            }
        }
    }

    /// Halves every counter.
    #[cold]
    fn age(&mut self) {
        let mut odd = 0usize;
        for word in &mut self.words {
            odd += (*word & ONES).count_ones() as usize;
            *word = *word >> 1 & HALVES;
        }
        self.additions = self.additions.saturating_sub(odd / 4) / 2;
    }

    pub fn heap_bytes(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_up_to_fifteen() {
        let mut sketch = Sketch::default();
        assert_eq!(sketch.estimate(7), 0);
        for n in 1..=20 {
            sketch.add(7);
            assert_eq!(sketch.estimate(7), n.min(15));
        }
    }

    #[test]
    fn growing_keeps_the_counts() {
        let mut sketch = Sketch::default();
        for hash in 0..20u32 {
            for _ in 0..hash % 5 {
                sketch.add(hash);
            }
        }
        let before: Vec<u32> = (0..20).map(|hash| sketch.estimate(hash)).collect();
        sketch.grow();
        assert_eq!((0..20).map(|hash| sketch.estimate(hash)).collect::<Vec<_>>(), before);
    }

    #[test]
    fn old_counts_fade() {
        let mut sketch = Sketch::default();
        for _ in 0..15 {
            sketch.add(1);
        }
        for hash in 0..4_000 {
            sketch.add(hash + 1_000);
        }
        assert!(sketch.estimate(1) < 12);
    }
}
