//! The pool over connections that are numbers.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use super::*;

const SECOND: u64 = 1_000_000_000;

/// What the connections are connected to. Time stands still unless it is moved, jobs wait until they are run.
#[derive(Default)]
struct World {
    open: BTreeSet<u32>,
    bad: BTreeSet<u32>,
    interrupted: Vec<u32>,
    overdue: Vec<u32>,
    attempts: u32,
    last: u32,
    fails: bool,
    now: u64,
    jobs: VecDeque<(Duration, Job)>,
    during_check: Option<Job>,
}

#[derive(Default)]
struct Fake(Mutex<World>);

impl Manage for Fake {
    type Connection = u32;
    type Error = u32;
    type Origin = &'static str;

    fn connect(&self, _until: Option<Instant>) -> Result<u32, u32> {
        let mut world = self.0.lock();
        world.attempts += 1;
        if world.fails {
            return Err(world.attempts);
        }
        world.last += 1;
        let id = world.last;
        world.open.insert(id);
        Ok(id)
    }

    fn reset(&self, connection: &u32) -> bool {
        !self.0.lock().bad.contains(connection)
    }

    fn check(&self, connection: &u32, is_idle: &dyn Fn() -> bool) -> Health {
        if !is_idle() {
            // Another thread borrowed it since the round began.
            return Health::Good;
        }
        let meanwhile = self.0.lock().during_check.take();
        if let Some(job) = meanwhile {
            job();
            assert!(!is_idle());
        }
        if self.0.lock().bad.contains(connection) { Health::Bad } else { Health::Good }
    }

    fn close(&self, connection: &u32) {
        assert!(self.0.lock().open.remove(connection), "closed twice");
    }

    fn interrupt(&self, connection: &u32) {
        self.0.lock().interrupted.push(*connection);
    }

    fn overdue(&self, connection: &u32, _origin: Option<Arc<&'static str>>, _held: Duration) {
        self.0.lock().overdue.push(*connection);
    }

    fn now(&self) -> u64 {
        self.0.lock().now
    }

    fn later(&self, delay: Duration, job: Job) -> std::io::Result<()> {
        self.0.lock().jobs.push_back((delay, job));
        Ok(())
    }
}

type FakePool = Arc<Pool<Fake>>;

fn pool(min_size: usize, max_size: usize) -> FakePool {
    let pool = Pool::new(Fake::default(), Settings { min_size, max_size, ..Settings::default() });
    pool.fill();
    pool
}

fn world(pool: &FakePool) -> parking_lot::MutexGuard<'_, World> {
    pool.manage().0.lock()
}

fn travel(pool: &FakePool, seconds: u64) {
    world(pool).now += seconds * SECOND;
}

/// Runs what was to be run in the background, and what that leads to.
fn run_jobs(pool: &FakePool) {
    loop {
        let Some((_, job)) = world(pool).jobs.pop_front() else { return };
        job();
    }
}

fn acquire(pool: &FakePool, milliseconds: u64) -> Result<Lease<u32>, Refusal<u32>> {
    pool.acquire(None, Patience::until(Some(Instant::now() + Duration::from_millis(milliseconds))))
}

fn take(pool: &FakePool) -> Lease<u32> {
    match acquire(pool, 0) {
        Ok(lease) => lease,
        Err(_) => panic!("there is one to be had"),
    }
}

/// Waits until somebody waits.
fn until_waiting(pool: &FakePool, count: usize) {
    while pool.stats().waiting < count {
        thread::yield_now();
    }
}

#[test]
fn lends_what_came_back_last() {
    let pool = pool(3, 3);
    let (a, b) = (take(&pool), take(&pool));
    assert_ne!(a.connection(), b.connection());
    assert!(pool.release(&a));
    assert!(pool.release(&b));
    for _ in 0..5 {
        let again = take(&pool);
        assert_eq!(again.connection(), b.connection());
        assert!(pool.release(&again));
    }
    let stats = pool.stats();
    assert_eq!((stats.size, stats.available, stats.in_use, stats.created), (3, 3, 0, 3));
    assert_eq!((stats.acquisitions, stats.releases, stats.uses), (7, 7, 7));
    pool.validate();
}

#[test]
fn a_borrow_ends_once() {
    let pool = pool(0, 2);
    let a = take(&pool);
    assert!(a.is_live());
    assert!(pool.release(&a));
    assert!(!a.is_live());
    assert!(!pool.release(&a));
    let b = take(&pool);
    assert_eq!(a.connection(), b.connection());
    assert!(!pool.release(&a), "the connection is somebody else's now");
    assert!(b.is_live());
    assert_eq!(pool.stats().releases, 1);
    pool.validate();
}

#[test]
fn waiters_are_served_in_order_of_arrival() {
    let pool = pool(1, 1);
    let held = take(&pool);
    let (send, receive) = mpsc::channel();
    let mut threads = Vec::new();
    for number in 0..4 {
        let (other, send) = (Arc::clone(&pool), send.clone());
        threads.push(thread::spawn(move || {
            let lease = other.acquire(None, Patience::until(None)).ok().unwrap();
            send.send(number).unwrap();
            assert!(other.release(&lease));
        }));
        until_waiting(&pool, number + 1);
    }
    pool.release(&held);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(receive.try_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(pool.stats().created, 1);
    pool.validate();
}

#[test]
fn times_out_and_tries_once() {
    let pool = pool(1, 1);
    let held = take(&pool);
    assert!(matches!(acquire(&pool, 0), Err(Refusal::TimedOut(None))));
    let begun = Instant::now();
    assert!(matches!(acquire(&pool, 30), Err(Refusal::TimedOut(None))));
    assert!(begun.elapsed() >= Duration::from_millis(30));
    assert_eq!(pool.stats().timeouts, 2);
    pool.release(&held);
    assert!(acquire(&pool, 0).is_ok());
    pool.validate();
}

#[test]
fn backs_off_while_opening_fails() {
    let pool = pool(0, 2);
    world(&pool).fails = true;
    let Err(Refusal::TimedOut(Some(cause))) = acquire(&pool, 100) else { panic!("no cause") };
    let attempts = world(&pool).attempts;
    assert!((2..=5).contains(&attempts), "{attempts} attempts in 100 ms");
    assert_eq!(*cause, attempts);
    assert_eq!(pool.last_error().as_deref(), Some(&attempts));
    let stats = pool.stats();
    assert_eq!((stats.errors, stats.timeouts, stats.size), (u64::from(attempts), 1, 0));
    assert!(matches!(acquire(&pool, 0), Err(Refusal::TimedOut(Some(_)))));
    assert_eq!(world(&pool).attempts, attempts + 1);
    // It works again while somebody waits.
    let other = Arc::clone(&pool);
    let waiter = thread::spawn(move || acquire(&other, 5_000).is_ok());
    until_waiting(&pool, 1);
    world(&pool).fails = false;
    assert!(waiter.join().unwrap());
    pool.validate();
}

#[test]
fn fill_stops_at_the_first_failure() {
    let pool = Pool::new(Fake::default(), Settings { min_size: 3, ..Settings::default() });
    world(&pool).fails = true;
    pool.fill();
    assert_eq!((pool.stats().errors, pool.stats().size), (1, 0));
    world(&pool).fails = false;
    pool.maintain();
    assert_eq!(pool.stats().size, 3);
}

#[test]
fn who_waits_may_be_interrupted() {
    let pool = pool(1, 1);
    let _held = take(&pool);
    let mut asked = 0;
    let mut ask = || {
        asked += 1;
        asked < 3
    };
    let patience = Patience { until: None, ask: Some((Duration::from_millis(1), &mut ask)) };
    assert!(matches!(pool.acquire(None, patience), Err(Refusal::Interrupted)));
    assert_eq!((pool.stats().waiting, pool.stats().timeouts), (0, 0));
    pool.validate();
}

#[test]
fn unfit_connections_are_replaced() {
    let pool = pool(1, 1);
    let lease = take(&pool);
    let first = *lease.connection();
    world(&pool).bad.insert(first);
    let other = Arc::clone(&pool);
    let waiter = thread::spawn(move || *acquire(&other, 5_000).ok().unwrap().connection());
    until_waiting(&pool, 1);
    assert!(pool.release(&lease));
    assert_ne!(waiter.join().unwrap(), first);
    let stats = pool.stats();
    assert_eq!((stats.created, stats.closed, stats.releases, stats.in_use), (2, 1, 1, 1));
    pool.validate();
}

#[test]
fn maintenance_closes_bad_old_and_idle_ones() {
    let settings = Settings { min_size: 1, max_size: 4, max_lifetime: 1000 * SECOND, ..Settings::default() };
    let pool = Pool::new(Fake::default(), settings);
    let leases: Vec<_> = (0..4).map(|_| take(&pool)).collect();
    leases.iter().for_each(|lease| assert!(pool.release(lease)));
    let ids: Vec<_> = leases.iter().map(|lease| *lease.connection()).collect();
    world(&pool).bad.insert(ids[3]);
    pool.maintain();
    assert_eq!(world(&pool).open.iter().copied().collect::<Vec<_>>(), ids[..3]);
    travel(&pool, 301);
    let kept = take(&pool);
    assert_eq!(*kept.connection(), ids[2]);
    pool.maintain();
    assert_eq!(pool.stats().size, 1, "the lent one is the minimum");
    travel(&pool, 700);
    assert!(pool.release(&kept));
    assert_eq!(pool.stats().size, 0, "its lifetime is over");
    pool.maintain();
    assert_eq!(pool.stats().size, 1);
    pool.validate();
}

#[test]
fn a_connection_found_bad_while_lent_goes_when_it_comes_back() {
    let pool = pool(1, 1);
    // It is lent while somebody looks at it.
    let (other, lent) = (Arc::clone(&pool), Arc::new(Mutex::new(None)));
    let borrower = Arc::clone(&lent);
    world(&pool).during_check = Some(Box::new(move || *borrower.lock() = Some(take(&other))));
    world(&pool).bad.insert(1);
    pool.maintain();
    assert_eq!((pool.stats().size, pool.stats().in_use), (1, 1));
    world(&pool).bad.clear();
    assert!(pool.release(lent.lock().as_ref().unwrap()));
    assert_eq!((pool.stats().size, pool.stats().closed), (0, 1));
    pool.validate();
}

#[test]
fn long_borrows_are_reported_once() {
    let settings = Settings { min_size: 0, max_size: 2, leak_after: 10 * SECOND, ..Settings::default() };
    let pool = Pool::new(Fake::default(), settings);
    let lease = pool.acquire(Some(Arc::new("here")), Patience::none()).ok().unwrap();
    travel(&pool, 5);
    let _second = take(&pool);
    travel(&pool, 5);
    pool.maintain();
    pool.maintain();
    assert_eq!(world(&pool).overdue, [*lease.connection()]);
    assert_eq!(pool.stats().overdue, 1);
    let holders: Vec<_> =
        pool.holders().iter().map(|holder| (holder.origin.as_deref().copied(), holder.held)).collect();
    assert_eq!(holders, [(Some("here"), 10 * SECOND), (None, 5 * SECOND)]);
    assert!(pool.release(&lease));
    assert!(pool.stats().hold.p50.abs_diff(10 * SECOND) <= 10 * SECOND / 8);
}

#[test]
fn callbacks_get_returned_and_new_connections() {
    let pool = pool(1, 2);
    let got = Arc::new(Mutex::new(Vec::new()));
    let later = |pool: &FakePool| {
        let got = Arc::clone(&got);
        pool.acquire_later(None, Box::new(move |lease| got.lock().push(lease.unwrap())))
    };
    let Begun::Leased(first) = later(&pool) else { panic!("one was idle") };
    let Begun::Waits(_) = later(&pool) else { panic!() };
    let Begun::Waits(cancelled) = later(&pool) else { panic!() };
    let Begun::Waits(_) = later(&pool) else { panic!() };
    assert_eq!(pool.stats().waiting, 3);
    run_jobs(&pool);
    assert_eq!((got.lock().len(), pool.stats().size), (1, 2));
    assert!(pool.cancel(cancelled, true));
    assert!(!pool.cancel(cancelled, true));
    assert!(pool.release(&first));
    assert_eq!((got.lock().len(), pool.stats().waiting, pool.stats().timeouts), (2, 0, 1));
    assert_eq!(got.lock()[1].connection(), first.connection());
    pool.validate();
}

#[test]
fn callbacks_outlast_failures() {
    let pool = pool(0, 1);
    world(&pool).fails = true;
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let begun = pool.acquire_later(
        None,
        Box::new(move |lease| {
            count.fetch_add(lease.map_or(0, |_| 1), Ordering::Relaxed);
        }),
    );
    assert!(matches!(begun, Begun::Waits(_)));
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let (delay, job) = world(&pool).jobs.pop_front().unwrap();
        pauses.push(delay.as_millis());
        job();
    }
    assert_eq!(pauses, [0, 10, 0, 20, 0, 40, 0, 80]);
    assert_eq!(world(&pool).jobs.len(), 1);
    world(&pool).fails = false;
    run_jobs(&pool);
    assert_eq!(served.load(Ordering::Relaxed), 1);
    pool.validate();
}

#[test]
fn close_turns_waiters_away_and_closes_what_comes_back() {
    let pool = pool(2, 2);
    let (a, b) = (take(&pool), take(&pool));
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    pool.acquire_later(
        None,
        Box::new(move |lease| {
            count.fetch_add(lease.map_or(1, |_| 0), Ordering::Relaxed);
        }),
    );
    let other = Arc::clone(&pool);
    let waiter = thread::spawn(move || matches!(acquire(&other, 5_000), Err(Refusal::Closed)));
    until_waiting(&pool, 2);
    assert!(!pool.close(Patience::none()));
    assert!(waiter.join().unwrap());
    assert_eq!(refused.load(Ordering::Relaxed), 1);
    assert_eq!(world(&pool).interrupted.len(), 2);
    assert!(matches!(acquire(&pool, 0), Err(Refusal::Closed)));
    assert!(pool.release(&a));
    assert_eq!((pool.stats().size, world(&pool).open.len()), (1, 1));
    pool.maintain();
    let other = Arc::clone(&pool);
    let closer = thread::spawn(move || other.close(Patience::until(None)));
    assert!(pool.release(&b));
    assert!(closer.join().unwrap());
    assert!(world(&pool).open.is_empty());
    let stats = pool.stats();
    assert_eq!((stats.created, stats.closed, stats.size, stats.in_use), (2, 2, 0, 0));
    pool.validate();
}

#[test]
fn rounds_follow_each_other_until_the_pool_is_gone() {
    let pool = pool(1, 1);
    pool.start_upkeep();
    pool.start_upkeep();
    assert_eq!(world(&pool).jobs.len(), 1);
    pool.configure(|settings| settings.interval = Duration::from_secs(1));
    assert_eq!(world(&pool).jobs.len(), 2);
    // The first was overtaken by the second, which schedules the next.
    for _ in 0..2 {
        let (_, job) = world(&pool).jobs.pop_front().unwrap();
        job();
    }
    let (delay, job) = world(&pool).jobs.pop_front().unwrap();
    assert_eq!(delay, Duration::from_secs(1));
    assert!(world(&pool).jobs.is_empty());
    let weak = Arc::downgrade(&pool);
    drop(pool);
    assert!(weak.upgrade().is_none());
    job();
}

#[test]
fn limits_may_change() {
    let pool = pool(1, 1);
    let a = take(&pool);
    let other = Arc::clone(&pool);
    let waiter = thread::spawn(move || acquire(&other, 5_000).ok().unwrap());
    until_waiting(&pool, 1);
    pool.configure(|settings| settings.max_size = 2);
    let b = waiter.join().unwrap();
    pool.configure(|settings| settings.max_size = 1);
    assert!(pool.release(&a));
    assert_eq!(pool.stats().size, 1);
    assert!(pool.release(&b));
    assert_eq!(pool.stats().size, 1);
    pool.validate();
}

#[test]
fn threads_take_turns() {
    let pool = pool(0, 3);
    let busy = Arc::new(Mutex::new(BTreeSet::new()));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (pool, busy) = (Arc::clone(&pool), Arc::clone(&busy));
            thread::spawn(move || {
                for round in 0..200 {
                    let lease = pool.acquire(None, Patience::until(None)).ok().unwrap();
                    assert!(busy.lock().insert(*lease.connection()), "lent twice");
                    if round % 50 == 0 {
                        world(&pool).bad.insert(*lease.connection());
                    }
                    thread::yield_now();
                    assert!(busy.lock().remove(lease.connection()));
                    assert!(pool.release(&lease));
                    if round % 20 == 0 {
                        pool.maintain();
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    pool.validate();
    let stats = pool.stats();
    assert_eq!((stats.in_use, stats.waiting, stats.acquisitions), (0, 0, 1600));
    assert!(pool.close(Patience::until(None)));
    assert!(world(&pool).open.is_empty());
}

mod model {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Acquire,
        Later,
        Cancel(usize),
        Release(usize),
        ReleaseAgain(usize),
        Break(usize),
        Fail(bool),
        Travel(u64),
        Maintain,
        Jobs,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => Just(Step::Acquire),
            3 => Just(Step::Later),
            1 => (0..8_usize).prop_map(Step::Cancel),
            6 => (0..8_usize).prop_map(Step::Release),
            1 => (0..8_usize).prop_map(Step::ReleaseAgain),
            1 => (0..8_usize).prop_map(Step::Break),
            1 => any::<bool>().prop_map(Step::Fail),
            1 => (1..200_u64).prop_map(Step::Travel),
            1 => Just(Step::Maintain),
            3 => Just(Step::Jobs),
        ];
        proptest::collection::vec(step, 1..80)
    }

    /// Number of the callback, and what it got.
    type Served = (usize, Lease<u32>);

    /// The same, with lists that are searched.
    struct Naive {
        min: usize,
        max: usize,
        idle: Vec<(u32, u64)>,
        lent: Vec<u32>,
        waiting: Vec<usize>,
    }

    proptest! {
        #[test]
        fn agrees_with_a_naive_pool(min in 0..3_usize, more in 1..4_usize, steps in steps()) {
            let (min, max) = (min, min + more);
            let pool = pool(min, max);
            let mut naive = Naive { min, max, idle: Vec::new(), lent: Vec::new(), waiting: Vec::new() };
            // What is new lies below what was used.
            naive.idle = (1..=min as u32).rev().map(|id| (id, 0)).collect();
            let mut leases: Vec<Lease<u32>> = Vec::new();
            let mut returned: Vec<Lease<u32>> = Vec::new();
            let mut tickets: Vec<(usize, Ticket)> = Vec::new();
            let got: Arc<Mutex<Vec<Served>>> = Arc::default();
            let mut arrivals = 0;
            for step in steps {
                match step {
                    Step::Acquire => {
                        let expected = naive.idle.pop().map(|(id, _)| id);
                        let fails = world(&pool).fails;
                        match acquire(&pool, 0) {
                            Ok(lease) => {
                                match expected {
                                    Some(id) => prop_assert_eq!(*lease.connection(), id),
                                    None => prop_assert!(!fails && naive.lent.len() < naive.max),
                                }
                                naive.lent.push(*lease.connection());
                                leases.push(lease);
                            }
                            Err(_) => prop_assert!(expected.is_none()),
                        }
                    }
                    Step::Later => {
                        arrivals += 1;
                        let (number, got) = (arrivals, Arc::clone(&got));
                        let callback = move |lease: Option<Lease<u32>>| got.lock().push((number, lease.unwrap()));
                        match pool.acquire_later(None, Box::new(callback)) {
                            Begun::Leased(lease) => {
                                prop_assert_eq!(naive.idle.pop().map(|(id, _)| id), Some(*lease.connection()));
                                naive.lent.push(*lease.connection());
                                leases.push(lease);
                            }
                            Begun::Waits(ticket) => {
                                prop_assert!(naive.idle.is_empty());
                                naive.waiting.push(number);
                                tickets.push((number, ticket));
                            }
                            Begun::Closed => prop_assert!(false),
                        }
                    }
                    Step::Cancel(at) => {
                        if let Some(&(number, ticket)) = tickets.get(at) {
                            let waits = naive.waiting.contains(&number);
                            prop_assert_eq!(pool.cancel(ticket, false), waits);
                            naive.waiting.retain(|&other| other != number);
                        }
                    }
                    Step::Release(at) if at < leases.len() => {
                        let lease = leases.remove(at);
                        let id = *lease.connection();
                        naive.lent.retain(|&other| other != id);
                        let healthy = !world(&pool).bad.contains(&id);
                        prop_assert!(pool.release(&lease));
                        if healthy && naive.waiting.is_empty() {
                            naive.idle.push((id, world(&pool).now));
                        }
                        returned.push(lease);
                    }
                    Step::ReleaseAgain(at) => {
                        if let Some(lease) = returned.get(at) {
                            prop_assert!(!pool.release(lease));
                        }
                    }
                    Step::Break(at) => {
                        if let Some(lease) = leases.get(at) {
                            world(&pool).bad.insert(*lease.connection());
                        }
                    }
                    Step::Fail(fails) => world(&pool).fails = fails,
                    Step::Travel(seconds) => travel(&pool, seconds),
                    Step::Maintain => {
                        let now = world(&pool).now;
                        let mut by_age = naive.idle.clone();
                        by_age.sort_by_key(|&(_, since)| since);
                        by_age.retain(|&(_, since)| now - since > 300 * SECOND);
                        let spare = (naive.idle.len() + naive.lent.len()).saturating_sub(naive.min);
                        by_age.truncate(spare);
                        naive.idle.retain(|member| !by_age.contains(member));
                        let before = world(&pool).open.clone();
                        pool.maintain();
                        let after = world(&pool).open.clone();
                        for id in after.difference(&before).filter(|_| naive.waiting.is_empty()) {
                            naive.idle.insert(0, (*id, now));
                        }
                    }
                    Step::Jobs => {
                        let jobs = std::mem::take(&mut world(&pool).jobs);
                        for (_, job) in jobs {
                            let before = world(&pool).open.clone();
                            let waited = naive.waiting.len() - got.lock().len().min(naive.waiting.len());
                            job();
                            let after = world(&pool).open.clone();
                            for id in after.difference(&before).filter(|_| waited == 0) {
                                naive.idle.insert(0, (*id, world(&pool).now));
                            }
                        }
                    }
                    Step::Release(_) => {}
                }
                // Served in order of arrival.
                for (number, lease) in std::mem::take(&mut *got.lock()) {
                    prop_assert_eq!(naive.waiting.first(), Some(&number));
                    naive.waiting.remove(0);
                    naive.lent.push(*lease.connection());
                    leases.push(lease);
                }
                pool.validate();
                let stats = pool.stats();
                let open: BTreeSet<u32> = naive.idle.iter().map(|&(id, _)| id).chain(naive.lent.iter().copied()).collect();
                prop_assert_eq!(&world(&pool).open, &open);
                prop_assert_eq!((stats.available, stats.in_use, stats.waiting),
                    (naive.idle.len(), naive.lent.len(), naive.waiting.len()));
                prop_assert!(stats.size <= naive.max);
                prop_assert_eq!(stats.created - stats.closed, stats.size as u64);
            }
            for lease in leases {
                prop_assert!(pool.release(&lease));
            }
            pool.validate();
        }
    }
}
