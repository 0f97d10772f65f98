//! Pauses between tries for a lock that has no queue, because other processes hold it.
//!
//! Short at first: who writes one transaction after the other leaves gaps of microseconds only, and who looks for one
//! every millisecond hardly ever meets them.

use std::time::Duration;

/// So many pauses of each length, and then as many of the last as it takes.
const STEPS: [(u32, Duration); 3] =
    [(20, Duration::from_micros(50)), (40, Duration::from_micros(200)), (u32::MAX, Duration::from_millis(1))];

/// The pause after so many tries.
pub fn pause(tries: u32) -> Duration {
    let mut left = tries;
    for (count, length) in STEPS {
        match left.checked_sub(count) {
            Some(rest) => left = rest,
            None => return length,
        }
    }
    STEPS[STEPS.len() - 1].1
}

/// All pauses before that one.
pub fn waited(tries: u32) -> Duration {
    let mut left = tries;
    let mut sum = Duration::ZERO;
    for (count, length) in STEPS {
        let some = left.min(count);
        sum += length * some;
        left -= some;
    }
    sum
}

/// Sleeps as long as comes after `tries`, and counts.
pub fn sleep(tries: &mut u32) {
    std::thread::sleep(pause(*tries));
    *tries = tries.saturating_add(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_the_pauses() {
        let mut sum = Duration::ZERO;
        for tries in 0..200 {
            assert_eq!(waited(tries), sum);
            sum += pause(tries);
        }
        assert_eq!(pause(u32::MAX), Duration::from_millis(1));
        assert_eq!(waited(5_000), Duration::from_millis(1 + 8 + 4_940));
    }
}
