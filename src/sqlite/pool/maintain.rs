//! What a round of maintenance does: decisions from a snapshot, without side effects.

use super::Settings;
use crate::support::clock::NEVER;
use std::time::Duration;

/// An idle connection as a round finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idle {
    pub slot: u32,
    /// Since when it has been idle.
    pub since: u64,
    pub created: u64,
}

/// Which idle connections to close: those past their lifetime, and those idle for too long as far as that leaves
/// `min_size` connections, the ones idle longest first.
pub fn to_close(idle: &[Idle], size: usize, now: u64, settings: &Settings) -> Vec<u32> {
    let is_old = |idle: &&Idle| now.saturating_sub(idle.created) >= settings.max_lifetime;
    let mut gone: Vec<u32> = idle.iter().filter(is_old).map(|idle| idle.slot).collect();
    let is_long_idle = |idle: &&Idle| now.saturating_sub(idle.since) > settings.max_idle;
    let mut long: Vec<_> = idle.iter().filter(|idle| !is_old(idle)).filter(is_long_idle).collect();
    long.sort_by_key(|idle| idle.since);
    let spare = size.saturating_sub(gone.len()).saturating_sub(settings.min_size);
    gone.extend(long.iter().take(spare).map(|idle| idle.slot));
    gone
}

/// How many connections to open.
pub fn to_open(size: usize, opening: usize, settings: &Settings) -> usize {
    settings.min_size.min(settings.max_size).saturating_sub(size + opening)
}

/// Until the next round. Borrows are looked at often enough to report one within a fifth of the time it may last.
pub fn until_next(settings: &Settings) -> Duration {
    let mut next = settings.interval;
    if settings.leak_after != NEVER {
        next = next.min(Duration::from_nanos(settings.leak_after / 5));
    }
    next.max(SHORTEST)
}

/// Rounds do not follow each other faster, whatever is asked for.
const SHORTEST: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(slot: u32, since: u64, created: u64) -> Idle {
        Idle { slot, since, created }
    }

    #[test]
    fn closes_the_longest_idle_down_to_the_minimum() {
        let settings = Settings { min_size: 2, max_idle: 100, ..Settings::default() };
        let all = [idle(0, 30, 0), idle(1, 10, 0), idle(2, 20, 0), idle(3, 150, 0)];
        let cases: [(usize, u64, &[u32]); 6] = [
            (4, 110, &[]),
            (4, 111, &[1]),
            (4, 125, &[1, 2]),
            (4, 140, &[1, 2]),
            (4, 1000, &[1, 2]),
            (6, 140, &[1, 2, 0]),
        ];
        for (size, now, expected) in cases {
            assert_eq!(to_close(&all, size, now, &settings), expected, "{size} open at {now}");
        }
    }

    #[test]
    fn lifetime_goes_below_the_minimum_and_counts_against_idle_time() {
        let settings = Settings { min_size: 2, max_idle: 100, max_lifetime: 500, ..Settings::default() };
        let all = [idle(0, 450, 0), idle(1, 10, 100), idle(2, 20, 100)];
        assert_eq!(to_close(&all, 3, 499, &settings), [1]);
        assert_eq!(to_close(&all, 3, 500, &settings), [0]);
        assert_eq!(to_close(&all, 3, 600, &settings), [0, 1, 2]);
    }

    #[test]
    fn refills_to_the_minimum() {
        let settings = Settings { min_size: 3, max_size: 4, ..Settings::default() };
        for (size, opening, expected) in [(0, 0, 3), (1, 1, 1), (3, 0, 0), (4, 0, 0)] {
            assert_eq!(to_open(size, opening, &settings), expected);
        }
    }

    #[test]
    fn looks_more_often_for_leaks() {
        let minute = Duration::from_secs(60);
        for (leak_after, expected) in [(NEVER, minute), (5_000_000_000, Duration::from_secs(1)), (1, SHORTEST)] {
            let settings = Settings { leak_after, interval: minute, ..Settings::default() };
            assert_eq!(until_next(&settings), expected);
        }
    }
}
