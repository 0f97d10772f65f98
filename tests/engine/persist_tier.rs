//! The disk tier of one process, through its public interface.

mod common;

use std::time::Duration;

use common::{eventually, row, row_for, sorted, tagged};
use upshift::cache::persist::{self, Change, DiskTier, Durability, Options, PersistError, Row};

fn open(folder: &tempfile::TempDir) -> DiskTier {
    DiskTier::open(folder.path().join("cache.db"), Options::default()).unwrap()
}

#[test]
fn rows_are_read_before_and_after_the_commit() {
    let folder = tempfile::tempdir().unwrap();
    let tier = open(&folder);
    let stored =
        Row { function: Some("m.f".to_owned()), tags: vec!["a".to_owned(), "b".to_owned()], ..row_for("x", 60) };
    tier.put("k", stored.clone()).unwrap();
    assert_eq!(tier.get("k").unwrap().as_ref(), Some(&stored));
    assert!(tier.contains("k").unwrap());
    assert!(tier.flush(None).unwrap());
    assert_eq!(tier.get("k").unwrap().as_ref(), Some(&stored));
    assert!(tier.contains("k").unwrap());
    tier.close();
    tier.close();
    assert!(tier.get("k").is_err());
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["cache.db"]);
    let tier = open(&folder);
    assert_eq!(tier.get("k").unwrap(), Some(stored));
    assert_eq!(tier.errors(), 0);
}

#[test]
fn background_commits_without_being_asked() {
    let folder = tempfile::tempdir().unwrap();
    let tier = open(&folder);
    tier.put("k", row("x")).unwrap();
    let other = rusqlite::Connection::open(folder.path().join("cache.db")).unwrap();
    let count = || -> i64 { other.query_row("SELECT count(*) FROM result_cache", [], |row| row.get(0)).unwrap() };
    eventually(|| count() == 1);
}

#[test]
fn removals_cover_pending_and_stored_rows() {
    for stored in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let tier = open(&folder);
        tier.put("f:1", Row { function: Some("f".to_owned()), ..tagged("x", &["a"]) }).unwrap();
        tier.put("f:2", tagged("x", &["a", "b"])).unwrap();
        tier.put("g:1", Row { function: Some("f".to_owned()), ..tagged("x", &["b"]) }).unwrap();
        tier.put("g:2", row("x")).unwrap();
        tier.put("old", Row { tags: vec!["a".to_owned()], ..row_for("x", -5) }).unwrap();
        if stored {
            assert!(tier.flush(None).unwrap());
        }
        assert_eq!(sorted(tier.invalidate_tag("a").unwrap()), ["f:1", "f:2"]);
        assert!(tier.get("f:1").unwrap().is_none());
        assert_eq!(tier.invalidate_tag("a").unwrap(), [""; 0]);
        tier.put("f:3", row("x")).unwrap();
        assert_eq!(sorted(tier.invalidate_pattern("f:").unwrap()), ["f:3"]);
        assert_eq!(tier.invalidate_function("f").unwrap(), ["g:1"]);
        assert!(tier.delete("g:2").unwrap());
        assert!(!tier.delete("g:2").unwrap());
        tier.put("old", row_for("x", -5)).unwrap();
        assert!(!tier.delete("old").unwrap());
        tier.put("old", row_for("x", -5)).unwrap();
        tier.put("live", row_for("x", 5)).unwrap();
        assert_eq!(tier.cleanup_expired().unwrap(), ["old"]);
        tier.put("old", row_for("x", -5)).unwrap();
        assert_eq!(tier.clear().unwrap(), ["live"]);
        assert_eq!(tier.clear().unwrap(), [""; 0]);
    }
}

#[test]
fn handles_of_one_process_share_pending_rows_and_tell_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (open(&folder), open(&folder));
    one.put("k", row("x")).unwrap();
    assert_eq!(two.get("k").unwrap().unwrap().blob, b"x");
    assert_eq!(two.changes(), [Change::Key("k".to_owned())]);
    assert_eq!(one.changes(), []);
    two.invalidate_tag("t").unwrap();
    assert_eq!(one.changes(), [Change::Tag("t".to_owned())]);
    assert_eq!(two.changes(), []);
    one.close();
    assert!(one.get("k").is_err());
    two.put("l", row("y")).unwrap();
    two.close();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn durable_puts_are_committed_when_they_return() {
    for durability in [Durability::Process, Durability::Power] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache.db");
        let tier = DiskTier::open(&path, Options { durability, coherence: None }).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (tier, path) = (&tier, &path);
                scope.spawn(move || {
                    let other = rusqlite::Connection::open(path).unwrap();
                    other.busy_timeout(Duration::from_secs(5)).unwrap();
                    for n in 0..25 {
                        let key = format!("{thread}:{n}");
                        tier.put(&key, row("x")).unwrap();
                        let sql = "SELECT count(*) FROM result_cache WHERE cache_key = ?1";
                        let count: i64 = other.query_row(sql, [&key], |row| row.get(0)).unwrap();
                        assert_eq!(count, 1);
                    }
                });
            }
        });
        assert_eq!(tier.errors(), 0);
    }
}

#[test]
fn preload_gives_recent_rows_first() {
    let folder = tempfile::tempdir().unwrap();
    let tier = open(&folder);
    for n in 0..600 {
        tier.put(&format!("k{n:03}"), row("x")).unwrap();
        if n % 200 == 0 {
            tier.flush(None).unwrap();
        }
    }
    tier.put("dead", row_for("x", -1)).unwrap();
    tier.flush(None).unwrap();
    tier.put("k000", row("new")).unwrap();
    tier.discard("k001").unwrap();
    let rows = tier.preload(10_000).unwrap();
    assert_eq!(rows.len(), 599);
    assert_eq!((rows[0].0.as_str(), rows[0].1.blob.as_slice()), ("k000", b"new".as_slice()));
    assert_eq!(tier.preload(7).unwrap().len(), 7);
    assert_eq!(tier.preload(0).unwrap().len(), 0);
}

#[test]
fn touches_are_recorded_with_the_next_flush() {
    let folder = tempfile::tempdir().unwrap();
    let tier = open(&folder);
    tier.put("k", row("x")).unwrap();
    tier.flush(None).unwrap();
    tier.touched("k", 2).unwrap();
    tier.touched("k", 1).unwrap();
    assert!(tier.flush(None).unwrap());
    let other = rusqlite::Connection::open(folder.path().join("cache.db")).unwrap();
    let count: i64 = other.query_row("SELECT access_count FROM result_cache", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 3);
}

#[test]
fn one_lease_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let tier = open(&folder);
    let minute = Duration::from_secs(60);
    let lease = tier.lease_acquire("k", minute).unwrap().unwrap();
    assert!(tier.lease_acquire("k", minute).unwrap().is_none());
    assert!(tier.lease_acquire("l", minute).unwrap().is_some());
    assert!(tier.lease_renew(&lease, minute).unwrap());
    tier.lease_release(lease).unwrap();
    let short = tier.lease_acquire("k", Duration::from_millis(1)).unwrap().unwrap();
    std::thread::sleep(Duration::from_millis(5));
    let lease = tier.lease_acquire("k", minute).unwrap().unwrap();
    assert!(!tier.lease_renew(&short, minute).unwrap());
    tier.lease_release(short).unwrap();
    assert!(tier.lease_renew(&lease, minute).unwrap());
}

#[test]
fn threads_use_it_while_it_is_parked_and_closed() {
    for durability in [Durability::Memory, Durability::Process] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache.db");
        let tier = DiskTier::open(&path, Options { durability, coherence: None }).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let tier = tier.clone();
                scope.spawn(move || {
                    for n in 0_u32.. {
                        let key = format!("{thread}:{}", n % 50);
                        let result = match n % 7 {
                            0 => tier.delete(&key).map(drop),
                            1 => tier.invalidate_tag(&key).map(drop),
                            2 => tier.preload(3).map(drop),
                            3 => tier.discard(&key),
                            4 => tier.lease_acquire(&key, Duration::from_millis(1)).map(drop),
                            5 => tier.get(&key).map(drop),
                            _ => tier.put(&key, tagged("x", &[&key])),
                        };
                        tier.changes();
                        if matches!(result, Err(PersistError::Closed)) {
                            return;
                        }
                        result.unwrap();
                    }
                });
            }
            for _ in 0..20 {
                // As around a fork.
                persist::before_fork();
                persist::after_fork_parent();
                std::thread::sleep(Duration::from_millis(2));
            }
            tier.close();
        });
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        open(&folder).preload(1_000).unwrap();
    }
}

#[test]
fn preload_makes_up_for_stored_rows_that_are_pending_removal() {
    let folder = tempfile::tempdir().unwrap();
    let tier = open(&folder);
    for n in 0..10 {
        tier.put(&n.to_string(), row("x")).unwrap();
    }
    assert!(tier.flush(None).unwrap());
    for n in 4..10 {
        tier.discard(&n.to_string()).unwrap();
    }
    assert_eq!(tier.preload(4).unwrap().len(), 4);
}
