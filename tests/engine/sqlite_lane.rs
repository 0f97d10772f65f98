//! The write lane: order, exclusion, self-waits and deadlines, against a naive model and with threads.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use upshift::sqlite::lane::{self, Access, Actor, Claim, Enqueued, Key, Lane, LaneError, Refused, Ticket};
use upshift::support::clock;

fn memory(name: &str) -> Arc<Lane> {
    lane::of(Key::Memory(name.to_owned()))
}

fn write(connection: u64, thread: u64) -> Claim<'static> {
    Claim { connection, actor: Actor::thread(thread), access: Access::Write, statement: "INSERT INTO t VALUES (1)" }
}

fn read(connection: u64, thread: u64) -> Claim<'static> {
    Claim { access: Access::Read, ..write(connection, thread) }
}

fn within(millis: u64) -> Option<u64> {
    Some(clock::now() + millis * 1_000_000)
}

#[test]
fn one_lane_per_file() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other, link) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("link"));
    std::fs::write(&one, "").unwrap();
    std::fs::write(&other, "").unwrap();
    std::fs::hard_link(&one, &link).unwrap();
    let open = |path: &std::path::Path| lane::of(Key::File(upshift::store::id_of(path).unwrap()));
    let first = open(&one);
    assert!(Arc::ptr_eq(&first, &open(&link)));
    assert!(!Arc::ptr_eq(&first, &open(&other)));
    first.try_take(&write(1, 1)).unwrap();
    drop(first);
    // Nobody knew the old one any more.
    assert!(open(&one).holder().is_none());
}

#[test]
fn who_would_wait_for_itself_is_told_at_once() {
    let lane = memory("self-wait");
    lane.try_take(&write(1, 1)).unwrap();
    lane.try_take(&write(1, 1)).unwrap();
    let Err(Refused::SelfWait(holder)) = lane.try_take(&write(2, 1)) else { panic!() };
    assert_eq!((holder.connection, holder.statement()), (1, "INSERT INTO t VALUES (1)"));
    let Err(error @ LaneError::SelfWait(_)) = lane.take(&write(2, 1), None, || false) else { panic!() };
    assert!(error.to_string().contains("connection 1 of thread 1, since "), "{error}");
    assert!(matches!(lane.try_take(&write(2, 2)), Err(Refused::Busy)));
    // The transaction was passed on to another thread, which will end it.
    lane.try_take(&write(1, 2)).unwrap();
    assert!(matches!(lane.try_take(&write(2, 1)), Err(Refused::Busy)));
    lane.give_back(2);
    lane.give_back(1);
    assert!(lane.holder().is_none());
    // Tasks of one thread wait for each other, but not while they block it.
    let task = |connection, task| Claim { actor: Actor::task(1, task), ..write(connection, 1) };
    lane.try_take(&task(1, 10)).unwrap();
    assert!(matches!(lane.enqueue(&task(2, 10), || ()), Err(LaneError::SelfWait(_))));
    assert!(matches!(lane.enqueue(&task(2, 11), || ()), Ok(Enqueued::Waiting(_))));
    assert!(matches!(lane.try_take(&task(2, 11)), Err(Refused::Busy)));
    assert!(matches!(lane.take(&task(2, 11), None, || false), Err(LaneError::SelfWait(_))));
}

#[test]
fn the_deadline_names_the_holder() {
    let lane = memory("deadline");
    lane.try_take(&write(1, 1)).unwrap();
    let begun = Instant::now();
    let Err(LaneError::Timeout(Some(holder))) = lane.take(&write(2, 2), within(60), || false) else { panic!() };
    assert!(begun.elapsed() >= Duration::from_millis(60));
    assert_eq!(holder.connection, 1);
    assert_eq!(lane.waiting(), 0);
    let mut asked = 0;
    let stop = || {
        asked += 1;
        asked == 2
    };
    assert!(matches!(lane.take(&write(2, 2), None, stop), Err(LaneError::Interrupted)));
    assert_eq!(lane.waiting(), 0);
    lane.give_back(1);
    lane.take(&write(2, 2), Some(0), || false).unwrap();
}

#[test]
fn readers_of_memory_share() {
    let lane = memory("readers");
    lane.try_take(&read(1, 1)).unwrap();
    lane.try_take(&read(2, 2)).unwrap();
    let granted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&granted);
    let Ok(Enqueued::Waiting(_writer)) = lane.enqueue(&write(3, 3), move || {
        count.fetch_add(1, Ordering::SeqCst);
    }) else {
        panic!()
    };
    // Behind the writer, unless the writer waits for the same thread.
    assert!(matches!(lane.try_take(&read(4, 4)), Err(Refused::Busy)));
    lane.try_take(&read(5, 1)).unwrap();
    assert!(matches!(lane.try_take(&write(6, 1)), Err(Refused::SelfWait(_))));
    lane.give_back(5);
    lane.give_back(1);
    // Alone now, and the writer waits for it: it may write first.
    lane.try_take(&write(2, 2)).unwrap();
    lane.downgrade(2);
    assert_eq!(granted.load(Ordering::SeqCst), 0);
    lane.give_back(2);
    assert_eq!(granted.load(Ordering::SeqCst), 1);
    lane.give_back(3);
    // Two that have read cannot both write.
    lane.try_take(&read(1, 1)).unwrap();
    lane.try_take(&read(2, 2)).unwrap();
    let Ok(Enqueued::Waiting(_first)) = lane.enqueue(&write(1, 1), || ()) else { panic!() };
    assert!(matches!(lane.try_take(&write(2, 2)), Err(Refused::Stalemate(_))));
}

/// What a lane does, without regard to speed: holders and a queue in plain lists.
#[derive(Default)]
struct Model {
    holders: Vec<(u64, u64, Access)>,
    queue: Vec<(u64, u64, u64, Access)>,
}

#[derive(Debug, PartialEq)]
enum Answer {
    Granted,
    Waits,
    SelfWait,
    Stalemate,
}

impl Model {
    fn ask(&mut self, ticket: u64, connection: u64, thread: u64, access: Access) -> Answer {
        for holder in &mut self.holders {
            if holder.0 == connection && (holder.2 == Access::Write || access == Access::Read) {
                holder.1 = thread;
                return Answer::Granted;
            }
        }
        let others: Vec<_> = self.holders.iter().filter(|holder| holder.0 != connection).collect();
        let upgrades = others.len() < self.holders.len();
        let own = others.iter().any(|holder| holder.1 == thread);
        let conflict = others.iter().any(|holder| holder.2 == Access::Write || access == Access::Write);
        if conflict && own {
            return Answer::SelfWait;
        }
        if !conflict && (self.queue.is_empty() || own || upgrades) {
            self.grant(connection, thread, access);
            return Answer::Granted;
        }
        if upgrades {
            if self.queue.iter().any(|waiter| self.holders.iter().any(|holder| holder.0 == waiter.1)) {
                return Answer::Stalemate;
            }
            self.queue.insert(0, (ticket, connection, thread, access));
        } else {
            self.queue.push((ticket, connection, thread, access));
        }
        Answer::Waits
    }

    fn grant(&mut self, connection: u64, thread: u64, access: Access) {
        self.holders.retain(|holder| holder.0 != connection);
        self.holders.push((connection, thread, access));
    }

    fn cancel(&mut self, ticket: u64) -> (bool, Vec<u64>) {
        let before = self.queue.len();
        self.queue.retain(|waiter| waiter.0 != ticket);
        (self.queue.len() < before, self.settle())
    }

    fn give_back(&mut self, connection: u64) -> Vec<u64> {
        self.holders.retain(|holder| holder.0 != connection);
        self.settle()
    }

    fn downgrade(&mut self, connection: u64) -> Vec<u64> {
        for holder in self.holders.iter_mut().filter(|holder| holder.0 == connection) {
            holder.2 = Access::Read;
        }
        self.settle()
    }

    fn settle(&mut self) -> Vec<u64> {
        let mut granted = Vec::new();
        loop {
            let conflicts = |(_, connection, _, access): (u64, u64, u64, Access)| {
                let writes = |held: &(u64, u64, Access)| held.2 == Access::Write || access == Access::Write;
                self.holders.iter().any(|held| held.0 != connection && writes(held))
            };
            let had = |&(_, connection, _, access): &(u64, u64, u64, Access)| {
                self.holders
                    .iter()
                    .any(|held| held.0 == connection && (held.2 == Access::Write || access == Access::Read))
            };
            let Some(&(ticket, connection, thread, access)) = self.queue.first() else { return granted };
            if conflicts(self.queue[0]) {
                let Some(place) = self.queue.iter().position(had) else { return granted };
                granted.push(self.queue.remove(place).0);
                continue;
            }
            let had = had(&self.queue[0]);
            self.queue.remove(0);
            if !had {
                self.grant(connection, thread, access);
            }
            granted.push(ticket);
        }
    }

    fn validate(&self) {
        let writers = self.holders.iter().filter(|holder| holder.2 == Access::Write).count();
        assert!(writers == 0 || self.holders.len() == 1, "{:?}", self.holders);
        assert!(!self.holders.is_empty() || self.queue.is_empty());
    }
}

#[derive(Clone, Debug)]
enum Step {
    Ask { connection: u64, thread: u64, access: Access },
    Try { connection: u64, thread: u64, access: Access },
    Cancel(usize),
    GiveBack(u64),
    Downgrade(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let access = prop_oneof![2 => Just(Access::Write), 1 => Just(Access::Read)];
    let claim = (1..7u64, 1..6u64, access);
    let step = prop_oneof![
        4 => claim.clone().prop_map(|(connection, thread, access)| Step::Ask { connection, thread, access }),
        1 => claim.prop_map(|(connection, thread, access)| Step::Try { connection, thread, access }),
        1 => (0..8usize).prop_map(Step::Cancel),
        4 => (1..7u64).prop_map(Step::GiveBack),
        1 => (1..7u64).prop_map(Step::Downgrade),
    ];
    proptest::collection::vec(step, 1..120)
}

fn answer<T>(error: &Result<T, LaneError>) -> Answer {
    match error {
        Err(LaneError::SelfWait(_)) => Answer::SelfWait,
        Err(LaneError::Stalemate(_)) => Answer::Stalemate,
        _ => Answer::Waits,
    }
}

proptest! {
    #[test]
    fn behaves_like_the_model(steps in steps()) {
        static NAMES: AtomicU64 = AtomicU64::new(0);
        let lane = memory(&format!("model {}", NAMES.fetch_add(1, Ordering::Relaxed)));
        let mut model = Model::default();
        let woken: Arc<Mutex<Vec<u64>>> = Arc::default();
        let mut tickets: HashMap<u64, Ticket> = HashMap::new();
        for (number, step) in steps.into_iter().enumerate() {
            let number = number as u64;
            let mut expected = Vec::new();
            match step {
                Step::Ask { connection, thread, access } => {
                    let claim = Claim { connection, actor: Actor::task(1, thread), access, statement: "" };
                    let log = Arc::clone(&woken);
                    let asked = lane.enqueue(&claim, move || log.lock().unwrap().push(number));
                    let answered = if matches!(asked, Ok(Enqueued::Granted)) { Answer::Granted } else { answer(&asked) };
                    prop_assert_eq!(answered, model.ask(number, connection, thread, access));
                    expected = model.settle();
                    if let Ok(Enqueued::Waiting(ticket)) = asked {
                        tickets.insert(number, ticket);
                    }
                }
                Step::Try { connection, thread, access } => {
                    // Threads that block are told apart by thread, so here each task has a thread to itself.
                    let only_own = model.holders.iter().all(|holder| holder.0 == connection);
                    if only_own {
                        let claim = Claim { connection, actor: Actor::task(1, thread), access, statement: "" };
                        prop_assert!(lane.try_take(&claim).is_ok());
                        prop_assert_eq!(model.ask(number, connection, thread, access), Answer::Granted);
                        expected = model.settle();
                    }
                }
                Step::Cancel(place) => {
                    let mut numbers: Vec<u64> = tickets.keys().copied().collect();
                    numbers.sort_unstable();
                    if let Some(number) = numbers.get(place) {
                        let (was_there, settled) = model.cancel(*number);
                        expected = settled;
                        prop_assert_eq!(tickets[number].cancel(), was_there);
                        tickets.remove(number);
                    }
                }
                Step::GiveBack(connection) => {
                    expected = model.give_back(connection);
                    lane.give_back(connection);
                }
                Step::Downgrade(connection) => {
                    expected = model.downgrade(connection);
                    lane.downgrade(connection);
                }
            }
            model.validate();
            prop_assert_eq!(std::mem::take(&mut *woken.lock().unwrap()), expected);
            prop_assert_eq!(lane.waiting(), model.queue.len());
            let held = lane.holder().map(|holder| holder.connection);
            prop_assert_eq!(held.is_some(), !model.holders.is_empty());
            prop_assert!(held.is_none_or(|held| model.holders.iter().any(|holder| holder.0 == held)));
        }
    }
}

#[test]
fn threads_take_turns_in_order() {
    const THREADS: u64 = 8;
    const ROUNDS: usize = 400;
    let lane = memory("threads");
    let inside = AtomicBool::new(false);
    let turns = Mutex::new(Vec::new());
    let start = Barrier::new(THREADS as usize);
    thread::scope(|scope| {
        for me in 1..=THREADS {
            let (lane, inside, turns, start) = (&lane, &inside, &turns, &start);
            scope.spawn(move || {
                start.wait();
                for round in 0..ROUNDS {
                    let deadline = if round % 7 == 0 { within(1) } else { None };
                    match lane.take(&write(me, me), deadline, || false) {
                        Ok(()) => {}
                        Err(LaneError::Timeout(_)) => continue,
                        Err(error) => panic!("{error}"),
                    }
                    assert!(!inside.swap(true, Ordering::SeqCst));
                    turns.lock().unwrap().push(me);
                    if round % 16 == 0 {
                        thread::sleep(Duration::from_micros(300));
                    }
                    inside.store(false, Ordering::SeqCst);
                    lane.give_back(me);
                }
            });
        }
    });
    assert!(lane.holder().is_none() && lane.waiting() == 0);
    assert!(turns.into_inner().unwrap().len() > ROUNDS * 6);
}

#[test]
fn nobody_is_overtaken() {
    let lane = memory("order");
    lane.try_take(&write(1, 1)).unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let tickets = RefCell::new(Vec::new());
    thread::scope(|scope| {
        for me in 2..10u64 {
            // Threads and callbacks in one queue.
            if me % 2 == 0 {
                let (lane, order) = (&lane, Arc::clone(&order));
                scope.spawn(move || {
                    lane.take(&write(me, me), None, || false).unwrap();
                    order.lock().unwrap().push(me);
                    lane.give_back(me);
                });
            } else {
                let (again, order) = (Arc::clone(&lane), Arc::clone(&order));
                let asked = lane.enqueue(&write(me, me), move || {
                    order.lock().unwrap().push(me);
                    again.give_back(me);
                });
                let Ok(Enqueued::Waiting(ticket)) = asked else { panic!() };
                tickets.borrow_mut().push(ticket);
            }
            while lane.waiting() as u64 != me - 1 {
                thread::yield_now();
            }
        }
        lane.give_back(1);
    });
    assert_eq!(*order.lock().unwrap(), (2..10).collect::<Vec<_>>());
}

/// `cargo test --release --no-default-features --test sqlite_lane -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
fn uncontended_cost() {
    let lane = memory("cost");
    let claim = write(1, 1);
    let rounds = 10_000_000u32;
    for statement in ["INSERT INTO t VALUES (1)", &"x".repeat(300)] {
        let claim = Claim { statement, ..claim };
        let begun = Instant::now();
        for _ in 0..rounds {
            lane.try_take(&claim).unwrap();
            lane.give_back(1);
        }
        println!("{:.1} ns", begun.elapsed().as_nanos() as f64 / f64::from(rounds));
    }
}
