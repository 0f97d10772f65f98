//! The workers of one manager: who is idle, who executes, who is woken for a task, who may go.
//!
//! Workers sleep on a condition of their own. The one that went to sleep last is woken first, so that those that are not
//! needed stay idle long enough to be noticed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::support::clock;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Stopped,
    Running,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// Asleep, or about to be.
    Idle,
    /// Looking for a task.
    Searching,
    Executing,
}

struct Worker {
    doing: Doing,
    /// Since when it has not executed anything.
    idle_since: u64,
    /// Microseconds since the epoch.
    active_at: i64,
    may_go: bool,
    wake: Arc<Condvar>,
    woken: bool,
}

struct State {
    phase: Phase,
    /// The last number given to a worker.
    hired: u64,
    workers: BTreeMap<u64, Worker>,
    /// Workers asleep; the last one is woken first.
    asleep: Vec<u64>,
    /// There may be a task to claim.
    more: bool,
    /// Counts what may have brought a task.
    news: u64,
}

pub struct Crew {
    state: Mutex<State>,
    /// Somebody left, or everything is done.
    changed: Condvar,
}

/// What a worker is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Look for a task; what the look finds is told with this number.
    Search(u64),
    Leave,
}

/// What can be seen from outside.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    pub workers: usize,
    pub executing: usize,
    /// Nanoseconds.
    pub longest_idle: u64,
    /// Microseconds since the epoch of each worker's last activity.
    pub activity: Vec<(u64, i64, bool)>,
}

impl Crew {
    pub fn new() -> Self {
        let state = State {
            phase: Phase::Stopped,
            hired: 0,
            workers: BTreeMap::new(),
            asleep: Vec::new(),
            more: true,
            news: 0,
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Lets workers run. Those that are left of an earlier time go on.
    pub fn start(&self) {
        let mut state = self.state.lock();
        state.phase = Phase::Running;
        state.more = true;
        state.workers.values_mut().for_each(|worker| worker.may_go = false);
    }

    pub fn is_running(&self) -> bool {
        self.state.lock().phase != Phase::Stopped
    }

    /// Room for one more worker, under a number of its own. It counts from here on, before its thread has started.
    pub fn hire(&self) -> u64 {
        let mut state = self.state.lock();
        state.hired += 1;
        let number = state.hired;
        let worker = Worker {
            doing: Doing::Idle,
            idle_since: clock::now(),
            active_at: clock::epoch_micros(),
            may_go: false,
            wake: Arc::new(Condvar::new()),
            woken: false,
        };
        state.workers.insert(number, worker);
        number
    }

    /// The worker is gone.
    pub fn dismiss(&self, number: u64) {
        let mut state = self.state.lock();
        state.workers.remove(&number);
        state.asleep.retain(|asleep| *asleep != number);
        // It may have been the one that was woken.
        if state.more {
            state.wake_one();
        }
        drop(state);
        self.changed.notify_all();
    }

    /// There may be a task now.
    pub fn tell(&self) {
        let mut state = self.state.lock();
        state.news += 1;
        state.more = true;
        if state.phase != Phase::Stopped && !state.is_searching() {
            state.wake_one();
        }
    }

    /// The worker has nothing to do; returns when that changes.
    pub fn wait(&self, number: u64) -> Turn {
        let mut state = self.state.lock();
        loop {
            let phase = state.phase;
            let (more, news) = (state.more, state.news);
            let Some(worker) = state.workers.get_mut(&number) else { return Turn::Leave };
            if phase == Phase::Stopped || worker.may_go {
                worker.doing = Doing::Idle;
                return Turn::Leave;
            }
            if more {
                worker.doing = Doing::Searching;
                worker.woken = false;
                return Turn::Search(news);
            }
            worker.doing = Doing::Idle;
            worker.woken = false;
            let wake = Arc::clone(&worker.wake);
            state.asleep.push(number);
            self.changed.notify_all();
            wake.wait(&mut state);
            state.asleep.retain(|asleep| *asleep != number);
        }
    }

    /// Whether a worker that ends a task may claim another one in the same step.
    pub fn goes_on(&self, number: u64) -> Option<u64> {
        let state = self.state.lock();
        let may_go = state.workers.get(&number).is_none_or(|worker| worker.may_go);
        (state.phase != Phase::Stopped && state.more && !may_go).then_some(state.news)
    }

    /// The worker ended its task, and it is recorded.
    pub fn ended(&self, number: u64) {
        let mut state = self.state.lock();
        if let Some(worker) = state.workers.get_mut(&number) {
            if worker.doing == Doing::Executing {
                worker.doing = Doing::Searching;
                worker.idle_since = clock::now();
            }
            worker.active_at = clock::epoch_micros();
        }
    }

    /// A look for tasks, begun at `news`, found one or none.
    pub fn found(&self, number: u64, news: u64, any: bool) {
        let mut state = self.state.lock();
        if !any {
            if state.news == news {
                state.more = false;
            }
            return;
        }
        if let Some(worker) = state.workers.get_mut(&number) {
            worker.doing = Doing::Executing;
            worker.active_at = clock::epoch_micros();
            worker.may_go = false;
        }
        // Where there was one there may be another.
        if state.more && !state.is_searching() {
            state.wake_one();
        }
    }

    /// Nothing was found out; the worker tries again later.
    pub fn pause(&self, number: u64, time: Duration) {
        let mut state = self.state.lock();
        let Some(worker) = state.workers.get_mut(&number) else { return };
        if worker.doing == Doing::Searching {
            worker.doing = Doing::Idle;
        }
        let wake = Arc::clone(&worker.wake);
        if state.phase != Phase::Stopped {
            wake.wait_for(&mut state, time);
        }
    }

    /// Lets the worker go that has been idle longest. Returns whether there was one.
    pub fn retire_one(&self) -> bool {
        let mut state = self.state.lock();
        let idle = state.workers.values_mut().filter(|worker| worker.doing == Doing::Idle && !worker.may_go);
        let Some(worker) = idle.min_by_key(|worker| worker.idle_since) else { return false };
        worker.may_go = true;
        worker.wake.notify_all();
        true
    }

    /// Waits until nothing is left to be done, up to `timeout`. Returns whether that is so.
    pub fn drain(&self, timeout: Duration) -> bool {
        let until = Instant::now().checked_add(timeout);
        let mut state = self.state.lock();
        if state.phase != Phase::Running || state.workers.is_empty() {
            return true;
        }
        while !state.is_done() {
            if !self.wait_for_change(&mut state, until) {
                return false;
            }
        }
        true
    }

    /// Hands out nothing more, and waits up to `timeout` for workers that execute. Returns whether none is left.
    pub fn stop(&self, timeout: Duration) -> bool {
        let until = Instant::now().checked_add(timeout);
        let mut state = self.state.lock();
        state.phase = Phase::Stopped;
        state.workers.values().for_each(|worker| {
            worker.wake.notify_all();
        });
        while !state.workers.is_empty() {
            if !self.wait_for_change(&mut state, until) {
                return false;
            }
        }
        true
    }

    fn wait_for_change(&self, state: &mut MutexGuard<'_, State>, until: Option<Instant>) -> bool {
        match until {
            Some(until) => !self.changed.wait_until(state, until).timed_out(),
            None => {
                self.changed.wait(state);
                true
            }
        }
    }

    /// Workers that live, and how many of them are executing.
    pub fn count(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.workers.len(), state.executing())
    }

    pub fn view(&self) -> View {
        let state = self.state.lock();
        let now = clock::now();
        let idle = state.workers.values().filter(|worker| worker.doing != Doing::Executing);
        View {
            workers: state.workers.len(),
            executing: state.executing(),
            longest_idle: idle.map(|worker| now.saturating_sub(worker.idle_since)).max().unwrap_or(0),
            activity: state
                .workers
                .iter()
                .map(|(number, worker)| (*number, worker.active_at, worker.doing == Doing::Executing))
                .collect(),
        }
    }
}

impl Default for Crew {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    fn executing(&self) -> usize {
        self.workers.values().filter(|worker| worker.doing == Doing::Executing).count()
    }

    /// Somebody is looking for a task, or was woken to do so.
    fn is_searching(&self) -> bool {
        self.workers.values().any(|worker| worker.doing == Doing::Searching || worker.woken)
    }

    fn is_done(&self) -> bool {
        !self.more && self.workers.values().all(|worker| worker.doing == Doing::Idle)
    }

    fn wake_one(&mut self) {
        while let Some(number) = self.asleep.pop() {
            if let Some(worker) = self.workers.get_mut(&number) {
                worker.woken = true;
                worker.wake.notify_all();
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique() {
        let crew = Crew::new();
        assert_eq!((crew.hire(), crew.hire(), crew.hire()), (1, 2, 3));
        crew.dismiss(2);
        assert_eq!(crew.hire(), 4);
        assert_eq!(crew.count(), (3, 0));
    }

    #[test]
    fn news_during_a_look_is_not_lost() {
        let crew = Crew::new();
        crew.start();
        let number = crew.hire();
        let Turn::Search(news) = crew.wait(number) else { panic!() };
        crew.tell();
        crew.found(number, news, false);
        let Turn::Search(again) = crew.wait(number) else { panic!() };
        assert_ne!(news, again);
        crew.found(number, again, false);
        assert_eq!(crew.goes_on(number), None);
    }

    #[test]
    fn a_worker_that_executes_is_not_retired() {
        let crew = Crew::new();
        crew.start();
        let number = crew.hire();
        let Turn::Search(news) = crew.wait(number) else { panic!() };
        crew.found(number, news, true);
        assert!(!crew.retire_one());
        assert_eq!((crew.count(), crew.view().longest_idle), ((1, 1), 0));
        crew.ended(number);
        assert!(!crew.stop(Duration::from_millis(1)));
        assert_eq!(crew.wait(number), Turn::Leave);
        crew.dismiss(number);
        assert!(crew.stop(Duration::ZERO));
    }

    #[test]
    fn those_left_of_an_earlier_time_go_on() {
        let crew = Crew::new();
        crew.start();
        let number = crew.hire();
        let Turn::Search(news) = crew.wait(number) else { panic!() };
        crew.found(number, news, true);
        assert!(!crew.stop(Duration::ZERO));
        assert_eq!(crew.goes_on(number), None);
        crew.start();
        assert!(crew.goes_on(number).is_some());
    }

    #[test]
    fn sleepers_are_woken_last_in_first_out_one_at_a_time() {
        let crew = Arc::new(Crew::new());
        crew.start();
        let (send, receive) = std::sync::mpsc::channel();
        let mut threads = Vec::new();
        for _ in 0..3 {
            let (number, crew, send) = (crew.hire(), Arc::clone(&crew), send.clone());
            let news = crew.state.lock().news;
            crew.found(number, news, false);
            let sleepers = crew.state.lock().asleep.len();
            let other = Arc::clone(&crew);
            threads.push(std::thread::spawn(move || {
                while let Turn::Search(news) = other.wait(number) {
                    send.send(number).unwrap();
                    other.found(number, news, false);
                }
                other.dismiss(number);
            }));
            while crew.state.lock().asleep.len() == sleepers {
                std::thread::yield_now();
            }
        }
        crew.tell();
        assert_eq!(receive.recv().unwrap(), 3);
        assert!(receive.recv_timeout(Duration::from_millis(50)).is_err());
        // The longest idle goes first.
        assert!(crew.retire_one());
        threads.remove(0).join().unwrap();
        assert_eq!(crew.count().0, 2);
        assert!(crew.drain(Duration::from_secs(10)) && crew.stop(Duration::from_secs(10)));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
