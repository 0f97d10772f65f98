//! Whether the commits of a connection are short.
//!
//! With a write-ahead log and without a sync a commit takes some ten microseconds, less than handing a lock from one
//! thread to another and back. Whether that is so depends on settings, disk and load, so it is measured.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};

/// A short commit, in nanoseconds.
const SHORT: u64 = 60_000;
/// A commit that should not have been counted on to be short.
const LONG: u64 = 5_000_000;
/// How many short commits in excess of two for each other one make a connection quick.
const TRIAL: i32 = 8;
/// The weight of the last commit in the mean is one of so many.
const WEIGHT: u64 = 256;
/// What it takes to be quick again, at first and at most.
const EXILE: i32 = 256;
const LONGEST_EXILE: i32 = 1 << 16;

/// The commits of one connection, which is used by one thread at a time.
pub struct Pace {
    /// From [`TRIAL`] on the connection is quick.
    credit: AtomicI32,
    /// Nanoseconds of a commit while the connection is quick.
    mean: AtomicU64,
    exile: AtomicI32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { credit: AtomicI32::new(0), mean: AtomicU64::new(0), exile: AtomicI32::new(EXILE) }
    }
}

impl Pace {
    /// Whether the next commit is expected to be short.
    #[inline(always)]
    pub fn is_quick(&self) -> bool {
        self.credit.load(Relaxed) >= TRIAL
    }

    /// A commit has taken so many nanoseconds. While the connection is not quick they include what the thread waited for
    /// a processor, so single long ones mean little; once it is quick, the mean of all has to be short.
    pub fn note(&self, ns: u64) {
        let credit = self.credit.load(Relaxed);
        if credit < TRIAL {
            let credit = if ns <= SHORT { credit + 1 } else { credit.min((credit - 2).max(-2 * TRIAL)) };
            self.credit.store(credit, Relaxed);
            self.mean.store(SHORT / 2, Relaxed);
            return;
        }
        let mean = (self.mean.load(Relaxed) * (WEIGHT - 1) + ns) / WEIGHT;
        self.mean.store(mean, Relaxed);
        let exile = self.exile.load(Relaxed);
        if ns > LONG {
            // Others had to wait for it: the more often, the less it is tried.
            self.exile.store((2 * exile).min(LONGEST_EXILE), Relaxed);
        }
        if ns > LONG || mean > SHORT {
            self.credit.store(-exile, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(commits: impl IntoIterator<Item = u64>) -> Pace {
        let pace = Pace::default();
        commits.into_iter().for_each(|ns| pace.note(ns));
        pace
    }

    #[test]
    fn a_connection_is_quick_after_some_short_commits() {
        assert!(!after([]).is_quick());
        assert!(!after([20_000; 7]).is_quick());
        assert!(after([20_000; 8]).is_quick());
        assert!(!after([200_000; 1_000]).is_quick());
    }

    #[test]
    fn waiting_for_a_processor_now_and_then_does_not_matter() {
        let mostly_short = [20_000, 20_000, 20_000, 4_000_000].repeat(5);
        assert!(after(mostly_short.into_iter().chain([20_000; 3])).is_quick());
        assert!(!after([20_000, 4_000_000].repeat(40)).is_quick());
    }

    #[test]
    fn checkpoints_of_a_fast_disk_are_made_up_for() {
        let pace = after([20_000; 8]);
        for _ in 0..100 {
            (0..500).for_each(|_| pace.note(20_000));
            pace.note(2_500_000);
            assert!(pace.is_quick());
        }
    }

    #[test]
    fn slow_commits_end_it() {
        let pace = after([20_000; 8]);
        (0..100).for_each(|_| pace.note(250_000));
        assert!(!pace.is_quick());
        (0..EXILE + TRIAL - 1).for_each(|_| pace.note(20_000));
        assert!(!pace.is_quick());
        pace.note(20_000);
        assert!(pace.is_quick());
    }

    #[test]
    fn long_ones_end_it_for_longer_each_time() {
        let pace = after([20_000; 8]);
        let mut exile = EXILE;
        for _ in 0..12 {
            pace.note(6_000_000);
            (0..exile + TRIAL - 1).for_each(|_| pace.note(20_000));
            assert!(!pace.is_quick());
            pace.note(20_000);
            assert!(pace.is_quick());
            exile = (2 * exile).min(LONGEST_EXILE);
        }
    }
}
