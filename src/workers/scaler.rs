//! How many workers there should be: a pure decision from a snapshot.

/// What is seen when the number of workers is looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Tasks that wait for a worker.
    pub waiting: usize,
    /// Workers alive.
    pub workers: usize,
    /// Workers that execute a task.
    pub executing: usize,
    /// How long the worker that has been idle longest has been so, in nanoseconds; 0 if none is idle.
    pub longest_idle: u64,
    /// Of the whole machine, 0 if it cannot be measured.
    pub cpu_percent: f64,
}

/// What the user asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    pub min: usize,
    /// A greater `min` wins.
    pub max: usize,
    /// More waiting tasks per worker than this ask for further workers.
    pub queue_depth: f64,
    /// Nanoseconds after which an idle worker is one too many.
    pub idle_time: u64,
    /// Above this the machine is busy enough.
    pub cpu_threshold: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Stay,
    Grow {
        to: usize,
    },
    /// One idle worker may go.
    RetireOne,
}

pub fn decide(load: &Load, limits: &Limits) -> Decision {
    let max = limits.max.max(limits.min);
    if load.workers < limits.min {
        return Decision::Grow { to: limits.min };
    }
    let wants_more = match load.workers {
        0 => load.waiting > 0,
        workers => load.waiting as f64 / workers as f64 > limits.queue_depth,
    };
    if wants_more && load.workers < max && load.cpu_percent <= limits.cpu_threshold {
        // At least one more, at most twice as many.
        let wanted = (load.waiting as f64 / limits.queue_depth.max(f64::MIN_POSITIVE)).floor().min(1e9) as usize + 1;
        let to = wanted.max(load.workers + 1).min((2 * load.workers).max(1)).min(max);
        return Decision::Grow { to };
    }
    if load.workers > max && load.executing < load.workers {
        return Decision::RetireOne;
    }
    let is_idle = load.executing < load.workers && load.longest_idle > limits.idle_time;
    if load.waiting == 0 && load.workers > limits.min && is_idle {
        return Decision::RetireOne;
    }
    Decision::Stay
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const LIMITS: Limits = Limits { min: 1, max: 8, queue_depth: 5.0, idle_time: 30 * SECOND, cpu_threshold: 80.0 };

    fn load(waiting: usize, workers: usize, executing: usize, idle_seconds: u64, cpu_percent: f64) -> Load {
        Load { waiting, workers, executing, longest_idle: idle_seconds * SECOND, cpu_percent }
    }

    #[test]
    fn grows_by_depth_at_least_one_at_most_double() {
        use Decision::{Grow, Stay};
        let table = [
            // Five waiting for one worker are not more than five.
            (load(5, 1, 1, 0, 0.0), Stay),
            (load(6, 1, 1, 0, 0.0), Grow { to: 2 }),
            (load(1000, 1, 1, 0, 0.0), Grow { to: 2 }),
            (load(1000, 2, 2, 0, 0.0), Grow { to: 4 }),
            (load(16, 3, 3, 0, 0.0), Grow { to: 4 }),
            (load(21, 4, 4, 0, 0.0), Grow { to: 5 }),
            (load(1000, 5, 5, 0, 0.0), Grow { to: 8 }),
            (load(1000, 8, 8, 0, 0.0), Stay),
            (load(1000, 9, 9, 0, 0.0), Stay),
            // The maximum was lowered.
            (load(1000, 9, 8, 0, 0.0), Decision::RetireOne),
            // At the threshold is not above it.
            (load(1000, 2, 2, 0, 80.0), Grow { to: 4 }),
            (load(1000, 2, 2, 0, 80.1), Stay),
        ];
        for (seen, expected) in table {
            assert_eq!(decide(&seen, &LIMITS), expected, "{seen:?}");
        }
    }

    #[test]
    fn a_single_task_without_workers_gets_one() {
        let limits = Limits { min: 0, ..LIMITS };
        assert_eq!(decide(&load(1, 0, 0, 0, 0.0), &limits), Decision::Grow { to: 1 });
        assert_eq!(decide(&load(100, 0, 0, 0, 0.0), &limits), Decision::Grow { to: 1 });
        assert_eq!(decide(&load(1, 0, 0, 0, 90.0), &limits), Decision::Stay);
        assert_eq!(decide(&load(0, 0, 0, 0, 0.0), &limits), Decision::Stay);
    }

    #[test]
    fn retires_one_idle_worker_when_nothing_waits() {
        use Decision::{RetireOne, Stay};
        let table = [
            (load(0, 3, 0, 31, 0.0), RetireOne),
            (load(0, 3, 2, 31, 0.0), RetireOne),
            (load(0, 3, 0, 30, 0.0), Stay),
            (load(1, 3, 0, 31, 0.0), Stay),
            // A busy worker is not idle, however long ago it was.
            (load(0, 3, 3, 31, 0.0), Stay),
            (load(0, 1, 0, 31, 0.0), Stay),
            // A busy machine does not keep idle workers.
            (load(0, 2, 0, 31, 100.0), RetireOne),
        ];
        for (seen, expected) in table {
            assert_eq!(decide(&seen, &LIMITS), expected, "{seen:?}");
        }
    }

    #[test]
    fn a_minimum_above_the_maximum_wins() {
        let limits = Limits { min: 4, max: 2, ..LIMITS };
        assert_eq!(decide(&load(0, 2, 0, 31, 0.0), &limits), Decision::Grow { to: 4 });
        assert_eq!(decide(&load(1000, 4, 4, 0, 0.0), &limits), Decision::Stay);
    }

    #[test]
    fn a_depth_of_nothing_asks_for_all_it_may() {
        let limits = Limits { queue_depth: 0.0, ..LIMITS };
        assert_eq!(decide(&load(1, 2, 2, 0, 0.0), &limits), Decision::Grow { to: 4 });
        assert_eq!(decide(&load(0, 2, 2, 0, 0.0), &limits), Decision::Stay);
    }
}
