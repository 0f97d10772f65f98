//! Turns at the interpreter lock, for threads that use SQLite.
//!
//! Some of them keep the lock from one short statement to the next; others let go of it for a statement, and want it back
//! afterwards. Handing it over takes longer than a short statement. So those that keep it have a turn, then give it away
//! to all that want it back at that time, and only one of them comes back for the next turn: the others would do nothing
//! but give it away again.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::support::clock;
use crate::support::runtime::PerProcess;

/// How long a turn lasts once others wait, in nanoseconds.
const TURN: u64 = 50_000;
/// How long the others have the lock at most before the next turn.
const BREAK: u64 = 1_000_000;
/// How long a thread that gave its turn away stays away at most, though others use the turns: as long as Python makes
/// threads wait for each other.
const AWAY: u64 = 5_000_000;

/// Whether it is worth looking at `waiting`. In a forked child it may be too high for ever, which costs a look.
static HINT: AtomicU32 = AtomicU32::new(0);
// Neither counts nor locks of threads that a fork has left behind.
static TURNS: PerProcess<Turns> = PerProcess::new();

/// The turns of this process. With the standard library's locks: those of parking_lot share tables that a fork may find
/// locked.
pub struct Turns {
    /// Threads that want the lock back.
    waiting: AtomicU32,
    /// When the turn began.
    since: AtomicU64,
    away: Mutex<Away>,
    back: Condvar,
}

/// Those that gave their turn away.
struct Away {
    count: u32,
    /// The last one that did, by number.
    last: u64,
}

/// Whether somebody waits for the lock.
#[inline(always)]
pub fn is_wanted() -> bool {
    HINT.load(Relaxed) != 0 && TURNS.peek().is_some_and(|turns| turns.waiting.load(Relaxed) != 0)
}

/// The caller, which let go of the lock, waits for it from now on, until [`Turns::end`].
pub fn wait() -> &'static Turns {
    let new = |_: Option<&Turns>| Turns {
        waiting: AtomicU32::new(0),
        since: AtomicU64::new(0),
        away: Mutex::new(Away { count: 0, last: 0 }),
        back: Condvar::new(),
    };
    let turns = TURNS.get(new);
    HINT.fetch_add(1, Relaxed);
    turns.waiting.fetch_add(1, Relaxed);
    turns
}

/// The turns, if the present one is over.
pub fn over() -> Option<&'static Turns> {
    TURNS.peek().filter(|turns| clock::now() >= turns.since.load(Relaxed) + TURN)
}

impl Turns {
    /// The caller has the lock. If it was the last that waited, the next turn begins.
    pub fn end(&self) {
        HINT.fetch_sub(1, Relaxed);
        if self.waiting.fetch_sub(1, Relaxed) == 1 {
            self.since.store(clock::now(), Relaxed);
            if self.away().count != 0 {
                self.back.notify_one();
            }
        }
    }

    /// Stays away, without the lock, until it is this thread's turn, or others have kept it out for long enough.
    pub fn give_away(&self) {
        let mut away = self.away();
        away.count += 1;
        away.last += 1;
        let (own, until) = (away.last, clock::now() + AWAY);
        loop {
            let now = clock::now();
            let next = self.since.load(Relaxed) + TURN + BREAK;
            if now >= next {
                self.since.store(now, Relaxed);
                break;
            }
            if now >= until {
                break;
            }
            // One of them looks at the clock; the others would find the turn taken.
            let wait = if away.last == own { next.min(until) } else { until } - now;
            let (guard, result) =
                self.back.wait_timeout(away, Duration::from_nanos(wait)).unwrap_or_else(PoisonError::into_inner);
            away = guard;
            if !result.timed_out() {
                break;
            }
        }
        away.count -= 1;
    }

    fn away(&self) -> MutexGuard<'_, Away> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
