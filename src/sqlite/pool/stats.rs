//! What a pool tells about itself.

use std::sync::Arc;

use super::Kept;

/// Counters and sizes at one moment: `size == available + in_use == created - closed`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    pub created: u64,
    pub closed: u64,
    pub size: usize,
    pub available: usize,
    pub in_use: usize,
    /// Borrows that succeeded.
    pub acquisitions: u64,
    pub releases: u64,
    pub timeouts: u64,
    /// Attempts to open a connection that failed.
    pub errors: u64,
    /// Borrows reported as too long.
    pub overdue: u64,
    pub waiting: usize,
    pub min_size: usize,
    pub max_size: usize,
    /// How often the connections that are open now were lent, all together.
    pub uses: u64,
    pub wait: Percentiles,
    pub hold: Percentiles,
}

/// Nanoseconds that half, 95 % and 99 % of all times recorded do not exceed, within an eighth; 0 if there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Percentiles {
    pub p50: u64,
    pub p95: u64,
    pub p99: u64,
}

/// An open connection.
pub struct Member<C> {
    pub(super) kept: Arc<Kept<C>>,
    /// When it was opened: microseconds since the Unix epoch.
    pub created_at: i64,
    /// When it was last lent or returned, in the same way.
    pub last_used: i64,
    /// How often it was lent.
    pub uses: u64,
    pub lent: bool,
}

impl<C> Member<C> {
    pub fn connection(&self) -> &C {
        self.kept.connection()
    }
}

/// Who has a connection.
pub struct Holder<O> {
    pub origin: Option<Arc<O>>,
    /// Nanoseconds since it was borrowed.
    pub held: u64,
}

/// Buckets to each power of two: the middle of a bucket is within an eighth of all in it.
const STEPS: usize = 4;
const BUCKETS: usize = 64 * STEPS;

/// Times counted in buckets that grow with them.
pub struct Histogram {
    counts: Box<[u64; BUCKETS]>,
    total: u64,
}

impl Histogram {
    pub fn new() -> Self {
        Self { counts: Box::new([0; BUCKETS]), total: 0 }
    }

    #[inline(always)]
    pub fn record(&mut self, ns: u64) {
        self.counts[bucket(ns)] += 1;
        self.total += 1;
    }

    pub fn percentiles(&self) -> Percentiles {
        Percentiles { p50: self.quantile(50), p95: self.quantile(95), p99: self.quantile(99) }
    }

    fn quantile(&self, percent: u64) -> u64 {
        if self.total == 0 {
            return 0;
        }
        // The least count that covers so many per cent, without overflow.
        let rank = (u128::from(self.total) * u128::from(percent)).div_ceil(100) as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return middle(bucket);
            }
        }
        u64::MAX
    }
}

#[inline(always)]
fn bucket(ns: u64) -> usize {
    if ns < STEPS as u64 {
        return ns as usize;
    }
    let power = 63 - ns.leading_zeros() as usize;
    // The two bits after the leading one.
    power * STEPS + ((ns >> (power - 2)) & 3) as usize
}

fn middle(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let (power, step) = (bucket / STEPS, (bucket % STEPS) as u64);
    let width = 1_u64 << (power - 2);
    (4 + step) * width + width / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_ordered_and_close() {
        let mut last = 0;
        for power in 0..60 {
            for offset in [0, 1, 2, 3, 5, 7] {
                let ns = (1_u64 << power) + (offset << power >> 3);
                assert!(bucket(ns) >= last && bucket(ns) < BUCKETS, "{ns}");
                last = bucket(ns);
                let off = middle(last).abs_diff(ns);
                assert!(off <= ns / 8 + 1, "{ns} counted as {}", middle(last));
            }
        }
        assert_eq!(bucket(0), 0);
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn quantiles_of_known_times() {
        let mut times = Histogram::new();
        assert_eq!(times.percentiles(), Percentiles::default());
        for ns in 1..=1000 {
            times.record(ns * 1000);
        }
        let found = times.percentiles();
        for (value, exact) in [(found.p50, 500_000), (found.p95, 950_000), (found.p99, 990_000)] {
            assert!(u64::abs_diff(value, exact) <= exact / 8, "{value} for {exact}");
        }
        let mut zeros = Histogram::new();
        zeros.record(0);
        assert_eq!(zeros.percentiles().p99, 0);
    }
}
