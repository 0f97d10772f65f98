//! Monotonic time in nanoseconds, and one offset that moves every clock of the process forward.
//!
//! Deadlines are `u64` nanoseconds on the scale of [`now`]. Reading the exact clock costs about 20 ns, the coarse one
//! about 6; hot paths compare with [`is_past`], which reads the exact one only when the answer depends on it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

/// The deadline that never comes.
pub const NEVER: u64 = u64::MAX;

/// How far the coarse clock may lag. The slowest kernel tick in use is 10 ms; the rest is for late ticks.
const COARSE_LAG: u64 = 50_000_000;

/// Nanoseconds added to every clock. Relaxed: it orders nothing, and a reader that sees it late reads an earlier time.
static OFFSET: AtomicU64 = AtomicU64::new(0);

/// Exact monotonic time.
#[inline]
pub fn now() -> u64 {
    source::exact().saturating_add(OFFSET.load(Relaxed))
}

/// Monotonic time as of the last kernel tick: never ahead of [`now`], behind it by at most a few ticks. Where the
/// system has no such clock, this is [`now`].
#[inline(always)]
pub fn coarse() -> u64 {
    source::coarse().saturating_add(OFFSET.load(Relaxed))
}

/// Whether `deadline` has come (`deadline <= now()`), exactly.
#[inline(always)]
pub fn is_past(deadline: u64) -> bool {
    let coarse = coarse();
    if coarse >= deadline {
        return true;
    }
    deadline - coarse <= COARSE_LAG && now() >= deadline
}

/// Lifetimes from this one on are counted from the last kernel tick, see [`start_of`].
const LONG: u64 = 10_000_000_000;

/// The moment from which a lifetime of `ns` that begins now is counted. Short ones begin exactly now. Long ones begin at
/// the last kernel tick, a few milliseconds before: that takes a quarter of the time to read.
#[inline(always)]
pub fn start_of(ns: u64) -> u64 {
    if ns >= LONG { coarse() } else { now() }
}

/// Moves every clock of the process forward by `ns`, for tests. There is no way back.
pub fn travel(ns: u64) {
    let _ = OFFSET.fetch_update(Relaxed, Relaxed, |offset| Some(offset.saturating_add(ns)));
}

/// Wall clock: microseconds since the Unix epoch, moved by [`travel`] too.
pub fn epoch_micros() -> i64 {
    let wall = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros),
    };
    let offset = OFFSET.load(Relaxed) / 1_000;
    wall.saturating_add(i64::try_from(offset).unwrap_or(i64::MAX))
}

#[cfg(unix)]
mod source {
    #![allow(unsafe_code)]

    use libc::{CLOCK_MONOTONIC, clock_gettime, clockid_t, timespec};

    #[cfg(any(target_os = "linux", target_os = "android"))]
    use libc::CLOCK_MONOTONIC_COARSE;

    /// Where there is no coarse clock on the same scale, the exact one serves.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const CLOCK_MONOTONIC_COARSE: clockid_t = CLOCK_MONOTONIC;

    #[inline]
    fn read(id: clockid_t) -> u64 {
        let mut time = timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a valid place for the result. The call fails only for an unknown clock id; both ids are
        // compiled in for systems that have them, and `time` would stay zero.
        unsafe { clock_gettime(id, &mut time) };
        (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
    }

    #[inline]
    pub fn exact() -> u64 {
        read(CLOCK_MONOTONIC)
    }

    #[inline]
    pub fn coarse() -> u64 {
        read(CLOCK_MONOTONIC_COARSE)
    }
}

#[cfg(not(unix))]
mod source {
    use std::sync::OnceLock;
    use std::time::Instant;

    pub fn exact() -> u64 {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }

    pub fn coarse() -> u64 {
        exact()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coarse_is_never_ahead_and_not_far_behind() {
        for _ in 0..10_000 {
            let early = coarse();
            let exact = now();
            assert!(early <= exact);
            assert!(exact - early < COARSE_LAG * 20, "{} ns behind", exact - early);
        }
    }

    #[test]
    fn deadlines_are_exact_around_now() {
        assert!(is_past(0));
        assert!(is_past(now()));
        assert!(!is_past(NEVER));
        assert!(!is_past(now() + 1_000_000_000_000));
        let soon = now() + 200_000;
        while !is_past(soon) {
            std::hint::spin_loop();
        }
        assert!(now() >= soon);
    }

    #[test]
    fn travel_moves_all_three_clocks() {
        let (exact, rough, wall) = (now(), coarse(), epoch_micros());
        travel(3_600_000_000_000);
        assert!(now() - exact >= 3_600_000_000_000);
        assert!(coarse() - rough >= 3_600_000_000_000);
        assert!(epoch_micros() - wall >= 3_599_000_000);
    }
}
