//! The disk tier shared by processes: what a killed one leaves, coherence, leases, fork.
#![cfg(unix)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use common::{eventually, finish, open, open_apart, open_with, row, sorted, spawn, tagged, value, wait_until_ready};
use upshift::cache::persist::{self, Change, DiskTier, Durability};

const MINUTE: Duration = Duration::from_secs(60);

/// What the other processes of these tests do; nothing when run as a test.
#[test]
fn child() {
    let Some((role, path)) = common::role() else {
        return;
    };
    match role.as_str() {
        "put-process" => put_until_killed(&open_with(&path, Durability::Process)),
        "put-power" => put_until_killed(&open_with(&path, Durability::Power)),
        "put-memory" => {
            let tier = open(&path);
            for n in 0..100 {
                tier.put(&n.to_string(), row("x")).unwrap();
            }
            std::thread::sleep(Duration::from_secs(1));
            common::ready();
        }
        "hold-lease" => {
            let tier = open(&path);
            let lease = tier.lease_acquire("k", MINUTE).unwrap().unwrap();
            common::ready();
            drop((lease, tier));
        }
        "release-lease" => {
            let tier = open(&path);
            let lease = tier.lease_acquire("k", MINUTE).unwrap().unwrap();
            common::ready();
            tier.put("k", row("computed")).unwrap();
            tier.lease_release(lease).unwrap();
            tier.close();
        }
        "invalidate" => {
            let tier = open(&path);
            tier.put("replaced", row("new")).unwrap();
            assert!(tier.flush(None).unwrap());
            assert!(tier.delete("deleted").unwrap());
            tier.invalidate_tag("t").unwrap();
            tier.invalidate_pattern("p:").unwrap();
            tier.invalidate_function("f").unwrap();
            tier.close();
        }
        "hammer" => hammer(&path),
        "fork" => fork(&path, false),
        "fork-with-hooks" => fork(&path, true),
        other => panic!("{other}?"),
    }
}

#[allow(clippy::print_stdout)]
fn put_until_killed(tier: &DiskTier) {
    for n in 0.. {
        tier.put(&n.to_string(), row(&n.to_string())).unwrap();
        println!("put {n}");
        std::io::stdout().flush().unwrap();
    }
}

#[test]
fn acknowledged_rows_survive_kill_9() {
    for role in ["put-process", "put-power"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache.db");
        let mut child = spawn(role, &path);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = None;
        while acknowledged < Some(150) {
            let line = lines.next().unwrap().unwrap();
            acknowledged = line.strip_prefix("put ").map(|n| n.parse::<i32>().unwrap()).or(acknowledged);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it wrote before it died.
        for line in lines.map_while(Result::ok) {
            acknowledged = line.strip_prefix("put ").and_then(|n| n.parse().ok()).or(acknowledged);
        }
        let tier = open(&path);
        for n in 0..=acknowledged.unwrap() {
            assert_eq!(value(&tier, &n.to_string()), Some(n.to_string()), "{role}");
        }
        tier.close();
        check_sound(&path);
    }
}

#[test]
fn written_behind_rows_survive_kill_9_after_a_moment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.db");
    let mut child = spawn("put-memory", &path);
    wait_until_ready(&mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    let tier = open(&path);
    for n in 0..100 {
        assert_eq!(value(&tier, &n.to_string()).as_deref(), Some("x"));
    }
}

#[test]
fn invalidations_reach_other_processes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.db");
    let tier = open(&path);
    for key in ["replaced", "deleted", "kept", "p:1", "f:1"] {
        tier.put(key, tagged("old", if key == "kept" { &[] } else { &["t"] })).unwrap();
    }
    assert!(tier.flush(None).unwrap());
    assert_eq!(tier.changes(), []);
    common::run("invalidate", &path);
    let text = str::to_owned;
    assert_eq!(
        tier.changes(),
        [
            Change::Key(text("replaced")),
            Change::Key(text("deleted")),
            Change::Tag(text("t")),
            Change::Pattern(text("p:")),
            Change::Function(text("f")),
        ]
    );
    assert_eq!(tier.changes(), []);
    assert_eq!(value(&tier, "replaced").as_deref(), Some("new"));
    assert_eq!(tier.invalidate_pattern("").unwrap().len(), 2);
}

#[test]
fn a_pending_write_does_not_bring_an_invalidated_value_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.db");
    let (here, there) = (open(&path), open_apart(&path));
    for round in 0..20 {
        let text = round.to_string();
        here.put("key", row(&text)).unwrap();
        here.put("tagged", tagged(&text, &["t"])).unwrap();
        here.put("f:1", row(&text)).unwrap();
        here.put("kept", row(&text)).unwrap();
        there.delete("key").unwrap();
        there.invalidate_tag("t").unwrap();
        there.invalidate_function("f").unwrap();
        assert!(here.flush(None).unwrap());
        for tier in [&here, &there] {
            assert_eq!(value(tier, "key"), None);
            assert_eq!(value(tier, "tagged"), None);
            assert_eq!(value(tier, "f:1"), None);
            assert_eq!(value(tier, "kept"), Some(text.clone()));
        }
        // A later write of the same key is none of its business.
        here.put("key", row("later")).unwrap();
        assert!(here.flush(None).unwrap());
        assert_eq!(value(&there, "key").as_deref(), Some("later"));
    }
}

#[test]
fn a_reader_that_missed_changes_is_told_to_drop_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.db");
    let (here, there) = (open(&path), open_apart(&path));
    let keys: Vec<String> = (0..18_000).map(|n| n.to_string()).collect();
    for text in ["old", "new"] {
        for key in &keys {
            there.put(key, row(text)).unwrap();
        }
        assert!(there.flush(None).unwrap());
    }
    let changes = here.changes();
    assert_eq!(changes[0], Change::All);
    assert!(changes.len() < 18_000);
    assert_eq!(here.changes(), []);
    there.put("0", row("newer")).unwrap();
    assert!(there.flush(None).unwrap());
    assert_eq!(here.changes(), [Change::Key("0".to_owned())]);
}

#[test]
fn the_lease_of_a_killed_process_is_free_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.db");
    let tier = open(&path);
    let mut child = spawn("hold-lease", &path);
    wait_until_ready(&mut child);
    assert!(tier.lease_acquire("k", MINUTE).unwrap().is_none());
    child.kill().unwrap();
    // Not waited for yet: its remains do not count as alive either.
    eventually(|| tier.lease_acquire("k", MINUTE).unwrap().is_some());
    child.wait().unwrap();
}

#[test]
fn who_takes_a_released_lease_finds_the_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.db");
    let tier = open(&path);
    let mut child = spawn("release-lease", &path);
    wait_until_ready(&mut child);
    assert!(tier.lease_acquire("k", MINUTE).unwrap().is_none());
    assert_eq!(value(&tier, "k"), None);
    drop(child.stdin.take());
    let begun = Instant::now();
    while tier.lease_acquire("k", MINUTE).unwrap().is_none() {
        assert!(begun.elapsed() < MINUTE);
    }
    assert_eq!(value(&tier, "k").as_deref(), Some("computed"));
    finish(child);
}

#[test]
fn many_processes_write_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.db");
    let tier = open(&path);
    let children: Vec<_> = (0..4).map(|_| spawn("hammer", &path)).collect();
    let pids: Vec<u32> = children.iter().map(std::process::Child::id).collect();
    children.into_iter().for_each(finish);
    let rows = tier.preload(usize::MAX).unwrap();
    let expected: Vec<String> = pids
        .iter()
        .flat_map(|pid| (0..200).filter(|n| n % 10 != 0).map(move |n| format!("{pid}:{n}")))
        .chain(["shared".to_owned()])
        .collect();
    assert_eq!(sorted(rows.into_iter().map(|(key, _)| key).collect()), sorted(expected));
    assert_eq!(tier.errors(), 0);
    tier.close();
    check_sound(&path);
}

fn hammer(path: &Path) {
    let tier = open_with(path, Durability::Process);
    let me = std::process::id();
    for n in 0..200 {
        tier.put(&format!("{me}:{n}"), tagged("x", &[&format!("{me}:{}", n % 10)])).unwrap();
        tier.put("shared", row(&me.to_string())).unwrap();
        tier.get("shared").unwrap();
        tier.changes();
    }
    assert_eq!(tier.invalidate_tag(&format!("{me}:0")).unwrap().len(), 20);
    assert_eq!(tier.errors(), 0);
    tier.close();
}

#[test]
fn a_forked_child_opens_the_file_anew() {
    for role in ["fork", "fork-with-hooks"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache.db");
        common::run(role, &path);
        let tier = open(&path);
        for key in ["stored", "parent", "child", "child later", "parent later"] {
            assert_eq!(value(&tier, key).as_deref(), Some("x"), "{role}: {key}");
        }
        tier.close();
        check_sound(&path);
        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["cache.db"], "{role}");
    }
}

#[allow(unsafe_code)]
fn fork(path: &Path, hooks: bool) {
    let tier = open(path);
    tier.put("stored", row("x")).unwrap();
    assert!(tier.flush(None).unwrap());
    // Leaves a read transaction open.
    assert_eq!(value(&tier, "stored").as_deref(), Some("x"));
    let (mut of_child, mut of_parent) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut byte = [0];
    tier.put("parent", row("x")).unwrap();
    if hooks {
        persist::before_fork();
    }
    // SAFETY: the child only calls what is under test, and leaves without running anything of the test harness.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // A panic must not reach the harness, which belongs to the parent.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            use std::io::Read;
            if hooks {
                persist::after_fork_child();
            }
            upshift::support::runtime::after_fork_child();
            assert_eq!(value(&tier, "stored").as_deref(), Some("x"));
            tier.put("child", row("x")).unwrap();
            assert_eq!(value(&tier, "child").as_deref(), Some("x"));
            assert!(tier.flush(None).unwrap());
            of_child.write_all(&byte).unwrap();
            // The parent closes meanwhile. It must notice this process, and leave the log alone.
            of_child.read_exact(&mut byte).unwrap();
            assert!(path.with_file_name("cache.db-wal").exists());
            // Written behind, by this process's own runtime.
            tier.put("child later", row("x")).unwrap();
            let other = rusqlite::Connection::open(path).unwrap();
            let sql = "SELECT count(*) FROM result_cache WHERE cache_key = 'child later'";
            eventually(|| other.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap() == 1);
            assert_eq!(tier.errors(), 0);
            tier.close();
        }));
        // SAFETY: ends the child at once, without running what the parent registered for its own end.
        unsafe { libc::_exit(i32::from(outcome.is_err())) };
    }
    use std::io::Read;
    if hooks {
        persist::after_fork_parent();
    }
    of_parent.read_exact(&mut byte).unwrap();
    assert_eq!(value(&tier, "child").as_deref(), Some("x"));
    tier.put("parent later", row("x")).unwrap();
    tier.close();
    of_parent.write_all(&byte).unwrap();
    let mut status = 0;
    // SAFETY: waits for the child made above.
    unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!(status, 0);
}

fn check_sound(path: &Path) {
    let tables = rusqlite::Connection::open(path).unwrap();
    let sound: String = tables.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
}
