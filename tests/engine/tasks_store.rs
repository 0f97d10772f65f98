//! The task store through its own interface: claims, fencing, crashes, other managers, time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use upshift::support::clock;
use upshift::tasks::{Actor, Core, Done, Durability, End, Ended, New, Options, Store, Task};

fn options(shared: bool) -> Options {
    Options { durability: Durability::Process, shared }
}

fn open(path: &Path) -> Store {
    Store::open(path, &options(false)).unwrap()
}

fn new(kind: &str, priority: i64) -> New {
    New { kind: kind.into(), description: None, priority, context: None, options: None }
}

fn put(store: &Store, new: New) -> i64 {
    store.enqueue(new, Actor::thread(1), None, || false).unwrap().unwrap()
}

fn claim(store: &Store) -> Option<Task> {
    store.step(1, None, true).unwrap().task
}

fn end(store: &Store, task: &Task, end: End) -> bool {
    store.step(1, Some(&Done { task: task.id, token: task.token, rank: task.rank, end }), false).unwrap().recorded
}

fn completed() -> End {
    End::Completed("1".into())
}

#[test]
fn claims_by_priority_then_number_and_each_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("a.db"));
    let ids: Vec<_> = [2, 1, 4, 2].map(|priority| put(&store, new("t", priority))).into();
    assert_eq!(store.depth().unwrap(), 4);
    let order: Vec<_> = std::iter::from_fn(|| claim(&store)).map(|task| task.id).collect();
    assert_eq!(order, [ids[2], ids[0], ids[3], ids[1]]);
    assert_eq!(store.depth().unwrap(), 0);
}

#[test]
fn one_step_records_and_claims() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("a.db"));
    let ids: Vec<_> = (0..3).map(|_| put(&store, new("t", 2))).collect();
    let first = claim(&store).unwrap();
    let done = Done { task: first.id, token: first.token, rank: first.rank, end: completed() };
    let step = store.step(1, Some(&done), true).unwrap();
    assert!(step.recorded);
    assert_eq!(step.task.unwrap().id, ids[1]);
    // The same record again finds no lease, and claims nevertheless.
    let step = store.step(1, Some(&done), true).unwrap();
    assert!(!step.recorded);
    assert_eq!(step.task.unwrap().id, ids[2]);
}

#[test]
fn a_record_with_an_old_token_changes_nothing_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("a.db"));
    put(&store, new("t", 2));
    let late = claim(&store).unwrap();
    assert!(store.give_back(late.id, late.token, false).unwrap());
    let again = claim(&store).unwrap();
    assert_eq!((again.id, again.attempt), (late.id, late.attempt));
    assert!(!end(&store, &late, completed()));
    assert!(!store.give_back(late.id, late.token, false).unwrap());
    assert!(end(&store, &again, completed()));
    assert!(!end(&store, &again, completed()));
}

#[test]
fn crashes_requeue_once_and_then_end_the_task() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let heir = open(&path);
    heir.set_handled("[\"t\"]");
    let victim = open(&path);
    put(&victim, new("t", 2));
    let first = claim(&victim).unwrap();
    assert_eq!(heir.bury(victim.manager(), "it died").unwrap(), 0);
    assert_eq!(heir.adopt(false).unwrap(), 1);
    // Come back, it cannot record over its successor.
    assert!(!end(&victim, &first, completed()));
    let second = claim(&heir).unwrap();
    assert_eq!((second.id, second.attempt, second.adopted), (first.id, 2, true));
    assert_eq!(victim.bury(heir.manager(), "it died").unwrap(), 1);
    assert!(!end(&heir, &second, completed()));
    assert_eq!(heir.adopt(true).unwrap(), 0);
    assert!(claim(&heir).is_none());
}

#[test]
fn others_are_left_alone_unless_shared() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let (owner, other) = (open(&path), open(&path));
    let shared = Store::open(&path, &options(true)).unwrap();
    for store in [&other, &shared] {
        store.set_handled("[\"t\"]");
    }
    let (low, high) = (put(&owner, new("t", 1)), put(&owner, new("t", 3)));
    put(&owner, new("strange", 4));
    let own = put(&shared, new("unhandled", 1));
    assert!(claim(&other).is_none());
    assert_eq!(other.adopt(true).unwrap(), 0);
    let order: Vec<_> = std::iter::from_fn(|| claim(&shared)).map(|task| task.id).collect();
    assert_eq!(order, [high, low, own]);
    assert_eq!(claim(&owner).unwrap().kind, "strange");
}

#[test]
fn what_is_left_behind_in_good_order_is_nobodys() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let (leaving, heir) = (open(&path), open(&path));
    heir.set_handled("[\"t\"]");
    for _ in 0..3 {
        put(&leaving, new("t", 2));
    }
    let running = claim(&leaving).unwrap();
    leaving.leave(true).unwrap();
    assert_eq!(heir.others().unwrap().len(), 0);
    assert_eq!(heir.adopt(true).unwrap(), 3);
    // Given back is no crash.
    assert_eq!((claim(&heir).unwrap().id, claim(&heir).unwrap().attempt), (running.id, 1));
}

#[test]
fn delayed_tasks_wait_for_their_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("a.db"));
    let due = clock::epoch_micros() + 3_600_000_000;
    let id = put(&store, New { options: Some(format!("{{\"due\": {due}, \"retries\": 3}}")), ..new("t", 2) });
    assert!(claim(&store).is_none());
    assert_eq!(store.promote().unwrap(), (0, Some(due)));
    clock::travel(3_601_000_000_000);
    assert_eq!(store.promote().unwrap(), (1, None));
    let task = claim(&store).unwrap();
    assert_eq!((task.id, task.retries), (id, Some(3)));
    // A retry is delayed as well.
    let due = clock::epoch_micros() + 60_000_000;
    assert!(end(&store, &task, End::Again { error: "no".into(), due }));
    assert!(claim(&store).is_none());
    clock::travel(61_000_000_000);
    store.promote().unwrap();
    let again = claim(&store).unwrap();
    assert_eq!((again.attempt, again.failures), (2, 1));
    assert!(end(&store, &again, End::Failed { error: "no".into() }));
}

#[test]
fn a_clock_that_jumps_takes_no_lease() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let (owner, other) = (Core::open(&path, &options(false)).unwrap(), Core::open(&path, &options(false)).unwrap());
    other.store().set_handled("[\"t\"]");
    owner.enqueue(new("t", 2), Actor::thread(1), None, || false).unwrap();
    let task = owner.store().step(1, None, true).unwrap().task.unwrap();
    other.recover(true, false).unwrap();
    clock::travel(1_000_000_000_000_000);
    owner.store().beat().unwrap();
    assert_eq!(other.recover(true, false).unwrap(), 0);
    let done = Done { task: task.id, token: task.token, rank: task.rank, end: completed() };
    assert!(owner.store().step(1, Some(&done), false).unwrap().recorded);
}

#[test]
fn a_manager_that_falls_silent_is_taken_for_dead_and_may_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let (silent, other) = (open(&path), Core::open(&path, &options(false)).unwrap());
    other.store().set_handled("[\"t\"]");
    put(&silent, new("t", 2));
    put(&silent, new("t", 2));
    let late = claim(&silent).unwrap();
    assert_eq!(other.recover(false, false).unwrap(), 0);
    clock::travel(20_000_000_000);
    assert_eq!(other.recover(false, false).unwrap(), 0);
    clock::travel(6_000_000_000);
    assert_eq!(other.recover(false, false).unwrap(), 2);
    // It comes back: it cannot record what it was running, and is known again.
    assert!(!end(&silent, &late, completed()));
    silent.beat().unwrap();
    assert_eq!(other.store().others().unwrap().len(), 1);
    put(&silent, new("t", 2));
    assert_eq!(other.recover(false, false).unwrap(), 0);
    assert_eq!(silent.depth().unwrap(), 1);
}

#[test]
fn a_key_queues_one_task() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("a.db"));
    let keyed = |key: &str| New { options: Some(format!("{{\"key\": \"{key}\"}}")), ..new("t", 2) };
    let first = put(&store, keyed("a"));
    assert_eq!(store.enqueue(keyed("a"), Actor::thread(1), None, || false).unwrap(), None);
    assert_eq!(store.task_of("a").unwrap(), Some(first));
    assert_ne!(put(&store, keyed("b")), first);
    assert_eq!(store.task_of("c").unwrap(), None);
}

#[test]
fn a_batch_is_queued_whole_in_its_order() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("a.db"));
    let tasks = r#"[["a", null, 2, null, null], ["b", "text", 4, "{\"x\": 1}", null], ["c", null, 2, null, null]]"#;
    let ids = store.enqueue_many(tasks.into(), Actor::thread(1), None, || false).unwrap();
    assert_eq!(ids, [1, 2, 3]);
    let tasks: Vec<_> = std::iter::from_fn(|| claim(&store)).collect();
    let kinds: Vec<_> = tasks.iter().map(|task| task.kind.as_str()).collect();
    assert_eq!(kinds, ["b", "a", "c"]);
    assert_eq!(tasks[0].context.as_deref(), Some("{\"x\": 1}"));
    assert!(store.enqueue_many("[[null, null, 2, null, null]]".into(), Actor::thread(1), None, || false).is_err());
    assert!(claim(&store).is_none());
}

#[test]
fn workers_take_turns_and_leave() {
    let folder = tempfile::tempdir().unwrap();
    let core = Core::open(&folder.path().join("a.db"), &options(false)).unwrap();
    core.start().unwrap();
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (core, number) = (Arc::clone(&core), core.crew().hire());
            std::thread::spawn(move || {
                let (mut task, mut runs) = (None::<Task>, 0);
                loop {
                    let ended = task.as_ref().map(|task| (task, Ended::Returned { result: "1".into() }));
                    task = core.next(number, ended);
                    if task.is_none() {
                        core.crew().dismiss(number);
                        return runs;
                    }
                    runs += 1;
                }
            })
        })
        .collect();
    for _ in 0..500 {
        core.enqueue(new("t", 2), Actor::thread(1), None, || false).unwrap();
    }
    assert!(core.crew().drain(Duration::from_secs(30)));
    assert_eq!((core.runs(), core.store().depth().unwrap()), (500, 0));
    assert!(core.crew().stop(Duration::from_secs(10)));
    let runs: Vec<i32> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(runs.iter().sum::<i32>(), 500);
    assert!(core.close(Duration::from_secs(5), false));
}
