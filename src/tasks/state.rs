//! What may become of a task: a pure function from its state and what happened.

/// The states users see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Queued,
    Running,
    Completed,
    Failed,
    Cancelled,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What happens to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A worker takes it.
    Claimed,
    /// Its handler returned.
    Returned,
    /// Its handler raised.
    Raised,
    /// The process that ran it is gone.
    Crashed,
    /// Its worker stops before the end, in good order.
    GivenBack,
    /// The user does not want it any more.
    Cancelled,
}

/// What happened to it before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    pub failures: u32,
    pub crashes: u32,
}

/// How often it is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Runs again after so many failures.
    pub retries: u32,
    /// Runs again after so many crashes: a task that kills its process must not loop.
    pub crashes: u32,
}

impl Default for Caps {
    fn default() -> Self {
        Self { retries: 0, crashes: 1 }
    }
}

/// The state after `event`; `None` if it cannot happen in this state, and changes nothing.
pub fn after(status: Status, event: Event, past: Past, caps: Caps) -> Option<Status> {
    use Status::{Cancelled, Completed, Failed, Queued, Running};
    match (status, event) {
        (Queued, Event::Claimed) => Some(Running),
        (Queued, Event::Cancelled) => Some(Cancelled),
        (Running, Event::Returned) => Some(Completed),
        (Running, Event::Raised) if past.failures < caps.retries => Some(Queued),
        (Running, Event::Raised) => Some(Failed),
        (Running, Event::Crashed) if past.crashes < caps.crashes => Some(Queued),
        (Running, Event::Crashed) => Some(Failed),
        (Running, Event::GivenBack) => Some(Queued),
        _ => None,
    }
}

/// Longest wait between two attempts, in seconds.
const LONGEST: f64 = 3600.0;

/// Seconds until the next attempt after so many failures: twice as long each time, and spread by up to a quarter so that
/// tasks that failed together do not come back together. `chance` is in [0, 1).
pub fn backoff(first: f64, failures: u32, chance: f64) -> f64 {
    let wait = (first.max(0.0) * 2f64.powi(failures.min(62) as i32)).min(LONGEST.max(first));
    wait * (0.75 + 0.5 * chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Past = Past { failures: 0, crashes: 0 };

    #[test]
    fn every_pair_of_state_and_event() {
        use Event::{Claimed, Crashed, GivenBack, Raised, Returned};
        use Status::{Cancelled, Completed, Failed, Queued, Running};
        let allowed = [
            (Queued, Claimed, Running),
            (Queued, Event::Cancelled, Cancelled),
            (Running, Returned, Completed),
            (Running, Raised, Failed),
            (Running, Crashed, Queued),
            (Running, GivenBack, Queued),
        ];
        for status in [Queued, Running, Completed, Failed, Cancelled] {
            for event in [Claimed, Returned, Raised, Crashed, GivenBack, Event::Cancelled] {
                let expected =
                    allowed.iter().find(|(from, by, _)| (*from, *by) == (status, event)).map(|(_, _, to)| *to);
                assert_eq!(after(status, event, NONE, Caps::default()), expected, "{status:?} {event:?}");
            }
        }
    }

    #[test]
    fn failures_and_crashes_have_caps_of_their_own() {
        let caps = Caps { retries: 2, crashes: 1 };
        let table = [
            (Event::Raised, Past { failures: 1, crashes: 9 }, Status::Queued),
            (Event::Raised, Past { failures: 2, crashes: 0 }, Status::Failed),
            (Event::Crashed, Past { failures: 9, crashes: 0 }, Status::Queued),
            (Event::Crashed, Past { failures: 0, crashes: 1 }, Status::Failed),
        ];
        for (event, past, expected) in table {
            assert_eq!(after(Status::Running, event, past, caps), Some(expected), "{event:?} {past:?}");
        }
    }

    #[test]
    fn waits_double_and_spread_and_end() {
        assert_eq!(backoff(2.0, 0, 0.5), 2.0);
        assert_eq!(backoff(2.0, 3, 0.5), 16.0);
        assert_eq!(backoff(2.0, 0, 0.0), 1.5);
        assert!(backoff(2.0, 0, 0.999) < 2.5);
        assert_eq!(backoff(1.0, u32::MAX, 0.5), LONGEST);
        assert_eq!(backoff(0.0, 5, 0.5), 0.0);
        assert_eq!(backoff(-1.0, 5, 0.5), 0.0);
    }
}
