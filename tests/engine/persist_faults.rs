//! The disk tier on files that are broken, foreign, full, locked or old.
#![cfg(unix)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use common::{eventually, open, open_with, row, row_for, sorted, tagged, value};
use rusqlite::Connection;
use upshift::cache::persist::{DiskTier, Durability, Options, PersistError};
use upshift::support::{clock, runtime};

const MB: usize = 1 << 20;

/// What the other processes of these tests do; nothing when run as a test.
#[test]
fn child() {
    let Some((role, path)) = common::role() else {
        return;
    };
    match role.as_str() {
        "umask" => umask(&path),
        "read-only" => read_only(&path),
        "full" => full(&path),
        "legacy" => legacy(&path),
        other => panic!("{other}?"),
    }
}

fn try_open(path: &Path) -> Result<DiskTier, PersistError> {
    DiskTier::open(path, Options::default())
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_file_that_is_no_database_is_refused_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.db");
    let text = "not a database, ".repeat(1_000);
    fs::write(&path, &text).unwrap();
    assert!(matches!(try_open(&path), Err(PersistError::Store(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert!(try_open(folder.path()).is_err());
    assert!(try_open(&folder.path().join("missing/cache.db")).is_err());
}

#[test]
fn an_empty_file_is_a_valid_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.db");
    fs::write(&path, "").unwrap();
    set_mode(&path, 0o640);
    let tier = open(&path);
    tier.put("k", row("x")).unwrap();
    tier.close();
    assert_eq!(value(&open(&path), "k").as_deref(), Some("x"));
    assert_eq!(mode(&path), 0o640);
}

#[test]
fn a_later_version_is_refused_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.db");
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 99; CREATE TABLE t (x);").unwrap();
    assert!(try_open(&path).is_err());
    let tables: i64 =
        Connection::open(&path).unwrap().query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 1);
}

/// Half of a file, and a file with noise in it: whatever can be read is right, the rest is counted.
#[test]
fn damaged_files_give_errors_or_nothing() {
    for damage in ["truncated", "noise", "zeros"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache.db");
        let tier = open(&path);
        for n in 0..2_000 {
            tier.put(&n.to_string(), tagged(&format!("{n:0500}"), &["t"])).unwrap();
        }
        tier.close();
        let mut bytes = fs::read(&path).unwrap();
        let half = bytes.len() / 2;
        match damage {
            "truncated" => bytes.truncate(half),
            "noise" => bytes[half..].iter_mut().enumerate().for_each(|(n, byte)| *byte = (n * 7 + n / 251) as u8),
            _ => bytes[half..].fill(0),
        }
        fs::write(&path, bytes).unwrap();
        let Ok(tier) = try_open(&path) else { continue };
        let mut failed = 0;
        for n in 0..2_000 {
            match tier.get(&n.to_string()) {
                Ok(Some(found)) => {
                    assert_eq!(found.blob, format!("{n:0500}").as_bytes(), "{damage}")
                }
                Ok(None) => {}
                Err(_) => failed += 1,
            }
        }
        assert!(failed > 0 && tier.errors() >= failed, "{damage}");
        tier.put("new", row("x")).unwrap();
        assert_eq!(value(&tier, "new").as_deref(), Some("x"));
        assert!(tier.invalidate_tag("t").is_ok());
        assert!(tier.clear().is_ok());
        for n in 0..2_000 {
            assert!(!matches!(tier.get(&n.to_string()), Ok(Some(_))), "{damage}: served after clear");
        }
        tier.close();
    }
}

#[test]
fn files_of_others_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.db");
    open(&path).close();
    set_mode(&path, 0o602);
    assert!(matches!(try_open(&path), Err(PersistError::Untrusted { .. })));
    set_mode(&path, 0o600);
    assert!(try_open(&path).is_ok());
    // Root gives the file away; others name one of root's.
    let foreign = match std::os::unix::fs::chown(&path, Some(12_345), None) {
        Ok(()) => path,
        Err(_) => "/etc/passwd".into(),
    };
    let before = fs::metadata(&foreign).unwrap().modified().unwrap();
    assert!(matches!(try_open(&foreign), Err(PersistError::Untrusted { .. })));
    assert_eq!(fs::metadata(&foreign).unwrap().modified().unwrap(), before);
}

#[test]
fn files_are_private_whatever_the_umask() {
    let folder = tempfile::tempdir().unwrap();
    common::run("umask", &folder.path().join("cache.db"));
}

#[allow(unsafe_code)]
fn umask(path: &Path) {
    for (n, mask) in [0, 0o777, 0o022].into_iter().enumerate() {
        let path = path.with_extension(n.to_string());
        // SAFETY: the mask belongs to this process, which runs nothing else.
        unsafe { libc::umask(mask) };
        let tier = open(&path);
        tier.put("k", row("x")).unwrap();
        assert!(tier.flush(None).unwrap());
        for suffix in ["", "-wal", "-shm"] {
            let mut name = path.clone().into_os_string();
            name.push(suffix);
            assert_eq!(mode(Path::new(&name)), 0o600, "umask {mask:o}, {suffix}");
        }
    }
}

#[test]
fn read_only_files_and_folders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o777);
    common::run("read-only", &folder.path().join("cache.db"));
}

#[allow(unsafe_code)]
fn read_only(path: &Path) {
    // Modes mean nothing to root.
    // SAFETY: this process runs nothing else.
    unsafe {
        if libc::geteuid() == 0 {
            assert_eq!(libc::setgid(65_534), 0);
            assert_eq!(libc::setuid(65_534), 0);
        }
    }
    let folder = path.with_file_name("own");
    fs::create_dir(&folder).unwrap();
    let path = folder.join("cache.db");
    let tier = open(&path);
    tier.put("k", row("x")).unwrap();
    tier.close();
    set_mode(&path, 0o400);
    assert!(try_open(&path).is_err());
    set_mode(&path, 0o600);
    set_mode(&folder, 0o500);
    assert!(try_open(&path).is_err());
    assert!(try_open(&folder.join("other.db")).is_err());
    set_mode(&folder, 0o700);
    assert_eq!(value(&open(&path), "k").as_deref(), Some("x"));
}

#[test]
fn a_locked_file_holds_nobody_up_and_serves_nothing_stale() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.db");
    let tier = open_with(&path, Durability::Process);
    for key in ["replaced", "deleted", "discarded", "tagged", "f:1", "p!1", "kept"] {
        tier.put(key, tagged("old", if key == "tagged" { &["t"] } else { &[] })).unwrap();
    }
    tier.put("expired", row_for("old", -1)).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();

    tier.put("replaced", row("new")).unwrap();
    assert_eq!(tier.errors(), 1);
    // From now on nobody waits for the lock.
    let begun = std::time::Instant::now();
    tier.put("added", row("new")).unwrap();
    assert!(tier.delete("deleted").unwrap());
    assert!(!tier.delete("deleted").unwrap());
    tier.discard("discarded").unwrap();
    assert_eq!(tier.invalidate_tag("t").unwrap(), ["tagged"]);
    assert_eq!(tier.invalidate_function("f").unwrap(), ["f:1"]);
    assert_eq!(tier.invalidate_pattern("!").unwrap(), ["p!1"]);
    assert_eq!(tier.cleanup_expired().unwrap(), ["expired"]);
    assert_eq!(tier.cleanup_expired().unwrap(), [""; 0]);
    assert!(begun.elapsed() < Duration::from_secs(1));
    let expect = |tier: &DiskTier| {
        for (key, text) in [("replaced", Some("new")), ("added", Some("new")), ("kept", Some("old"))] {
            assert_eq!(value(tier, key).as_deref(), text);
        }
        for key in ["deleted", "discarded", "tagged", "f:1", "p!1", "expired"] {
            assert_eq!(value(tier, key), None, "{key}");
        }
        let keys = tier.preload(100).unwrap().into_iter().map(|(key, _)| key).collect();
        assert_eq!(sorted(keys), ["added", "kept", "replaced"]);
    };
    expect(&tier);
    assert!(!tier.flush(Some(Duration::from_millis(10))).unwrap());

    other.execute_batch("ROLLBACK").unwrap();
    // It comes back by itself.
    let sql = "SELECT count(*) FROM result_cache WHERE cache_key IN ('added', 'deleted', 'tagged', 'f:1', 'p!1')";
    eventually(|| other.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap() == 1);
    expect(&tier);
    tier.close();
    drop(other);
    expect(&open(&path));
}

#[test]
fn clear_counts_while_the_file_is_locked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.db");
    let tier = open(&path);
    tier.put("a", row("x")).unwrap();
    tier.put("b", row("x")).unwrap();
    assert!(tier.flush(None).unwrap());
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    tier.put("c", row("x")).unwrap();
    assert_eq!(sorted(tier.clear().unwrap()), ["a", "b", "c"]);
    tier.put("d", row("x")).unwrap();
    assert_eq!(tier.clear().unwrap(), ["d"]);
    tier.put("e", row("x")).unwrap();
    other.execute_batch("ROLLBACK").unwrap();
    assert!(tier.flush(None).unwrap());
    assert_eq!(tier.preload(10).unwrap().len(), 1);
    assert_eq!(tier.clear().unwrap(), ["e"]);
}

#[test]
fn memory_is_bounded_while_the_disk_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.db");
    let tier = open(&path);
    tier.put("0", row("old")).unwrap();
    tier.put("other", row("old")).unwrap();
    assert!(tier.flush(None).unwrap());
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(
        !tier
            .flush({
                tier.put("first", row("x")).unwrap();
                None
            })
            .unwrap()
    );
    let big = "x".repeat(4 * MB);
    for n in (0..40).rev() {
        tier.put(&n.to_string(), row(&big)).unwrap();
    }
    let held = (0..40).filter(|n| tier.get(&n.to_string()).unwrap().is_some()).count();
    assert!((14..=17).contains(&held), "{held} of 4 MB each");
    assert_eq!(value(&tier, "0"), None, "given up, and not stale either");
    assert_eq!(value(&tier, "other").as_deref(), Some("old"));
    // Keys alone can be too many as well.
    for n in 0..400_000 {
        tier.discard(&format!("key {n}")).unwrap();
    }
    assert_eq!(value(&tier, "other"), None, "nothing stored counts any more");
    tier.put("late", row("x")).unwrap();
    other.execute_batch("ROLLBACK").unwrap();
    assert!(tier.flush(None).unwrap());
    assert_eq!(tier.preload(10).unwrap().len(), usize::from(value(&tier, "late").is_some()));
    tier.put("again", row("x")).unwrap();
    assert!(tier.flush(None).unwrap());
    assert_eq!(value(&tier, "again").as_deref(), Some("x"));
}

#[test]
fn a_full_disk_loses_nothing_that_fits_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    common::run("full", &folder.path().join("cache.db"));
}

#[allow(unsafe_code)]
fn full(path: &Path) {
    let tier = open(path);
    for n in 0..10 {
        tier.put(&n.to_string(), row("old")).unwrap();
    }
    assert!(tier.flush(None).unwrap());
    // A limit on the size of files stands in for the disk; past it, writes fail.
    let limit = |bytes: libc::rlim_t| {
        // SAFETY: both calls concern this process only, which runs nothing else.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
            assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
        }
    };
    limit(MB as libc::rlim_t);
    let big = "x".repeat(100_000);
    for n in 0..50 {
        tier.put(&n.to_string(), row(&big)).unwrap();
    }
    assert!(!tier.flush(None).unwrap());
    assert!(tier.errors() > 0);
    assert!(tier.delete("1").unwrap());
    assert!(tier.invalidate_pattern("2").unwrap().len() > 10);
    let expect = |tier: &DiskTier| {
        for n in 0..50 {
            let key = n.to_string();
            let gone = key == "1" || key.contains('2');
            assert_eq!(value(tier, &key), (!gone).then(|| big.clone()), "{key}");
        }
    };
    expect(&tier);
    assert!(!tier.flush(None).unwrap());
    expect(&tier);
    limit(libc::RLIM_INFINITY);
    assert!(tier.flush(None).unwrap());
    expect(&tier);
    tier.close();
    expect(&open(path));
}

#[test]
fn a_file_of_the_replaced_system_is_converted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.db");
    // New York, by rule, so that no time zone database is needed.
    for zone in ["EST5EDT,M3.2.0,M11.1.0", "<+0530>-5:30"] {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["child", "--exact", "--nocapture"]).env("TZ", zone);
        child.env("UPSHIFT_TEST_ROLE", "legacy").env("UPSHIFT_TEST_PATH", &path);
        let output = child.output().unwrap();
        assert!(output.status.success(), "{zone}: {}", String::from_utf8_lossy(&output.stdout));
        fs::remove_file(&path).unwrap();
    }
}

fn legacy(path: &Path) {
    let old = Connection::open(path).unwrap();
    old.execute_batch(
        "PRAGMA foreign_keys = OFF;
         CREATE TABLE result_cache (cache_key TEXT PRIMARY KEY, cache_value BLOB NOT NULL, ttl_seconds INTEGER,
             created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, expires_at TIMESTAMP, access_count INTEGER DEFAULT 0,
             last_accessed TIMESTAMP DEFAULT CURRENT_TIMESTAMP, size_bytes INTEGER);
         CREATE TABLE cache_tags (cache_key TEXT NOT NULL, tag TEXT NOT NULL, PRIMARY KEY (cache_key, tag),
             FOREIGN KEY (cache_key) REFERENCES result_cache(cache_key) ON DELETE CASCADE);
         CREATE INDEX idx_cache_expires ON result_cache(expires_at);
         INSERT INTO result_cache (cache_key, cache_value, expires_at) VALUES
             ('winter', x'80044b012e', '2090-01-15 12:00:00.123456'),
             ('summer', x'80044b012e', '2090-07-15T12:00:00'),
             ('short', x'80044b012e', '2090-01-15 12:00:00.5'),
             ('never', x'80044b012e', NULL),
             ('past', x'80044b012e', '2020-01-15 12:00:00'),
             ('odd', x'80044b012e', 'tomorrow'),
             ('number', x'80044b012e', 4000000000);
         INSERT INTO cache_tags VALUES ('winter', 't'), ('orphan', 't');",
    )
    .unwrap();
    drop(old);
    set_mode(path, 0o644);
    let eastern = std::env::var("TZ").unwrap().starts_with("EST");
    // Noon of that day in UTC, and how far that is from noon over there.
    let noon = |day: i64| day * 86_400 * 1_000_000 + 12 * HOUR;
    let (winter, summer) = if eastern { (5 * HOUR, 4 * HOUR) } else { (-11 * HOUR / 2, -11 * HOUR / 2) };
    const HOUR: i64 = 3_600_000_000;
    const JANUARY: i64 = 43_844;
    const JULY: i64 = JANUARY + 181;
    let expected = [
        ("winter", Some(noon(JANUARY) + winter + 123_456)),
        ("summer", Some(noon(JULY) + summer)),
        ("short", Some(noon(JANUARY) + winter + 500_000)),
        ("never", None),
    ];
    for _ in 0..2 {
        let tier = open(path);
        for (key, expires) in expected {
            let row = tier.get(key).unwrap().unwrap();
            assert_eq!(row.expires, expires, "{key}");
            assert_eq!(row.blob, b"\x80\x04\x4b\x01\x2e");
        }
        for key in ["past", "odd", "number"] {
            assert!(tier.get(key).unwrap().is_none(), "{key}");
        }
        assert_eq!(tier.errors(), 0);
        // A second opening converts nothing.
        tier.close();
    }
    let tier = open(path);
    assert_eq!(tier.cleanup_expired().unwrap(), ["past"]);
    assert_eq!(tier.invalidate_tag("t").unwrap(), ["winter"]);
    tier.close();
    let tables = Connection::open(path).unwrap();
    assert_eq!(tables.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0)).unwrap(), 1);
    assert_eq!(tables.query_row("SELECT count(*) FROM cache_tags", [], |row| row.get::<_, i64>(0)).unwrap(), 0);
}

#[test]
fn tables_are_as_documented() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.db");
    let tier = open(&path);
    let now = clock::epoch_micros();
    tier.put("k", tagged("x", &["t"])).unwrap();
    tier.put("timed", row_for("xyz", 60)).unwrap();
    tier.close();
    let tables = Connection::open(&path).unwrap();
    let columns = |table: &str| -> Vec<String> {
        let mut names = tables.prepare(&format!("SELECT name FROM pragma_table_info('{table}')")).unwrap();
        names.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(
        columns("result_cache"),
        [
            "cache_key",
            "cache_value",
            "ttl_seconds",
            "created_at",
            "expires_at",
            "access_count",
            "last_accessed",
            "size_bytes"
        ]
    );
    assert_eq!(columns("cache_tags"), ["cache_key", "tag"]);
    let mut names =
        tables.prepare("SELECT name FROM sqlite_master WHERE name NOT GLOB 'sqlite_*' ORDER BY name").unwrap();
    let names: Vec<String> = names.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let (own, contract): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| name.starts_with("upshift_"));
    assert_eq!(contract, ["cache_tags", "idx_cache_expires", "idx_cache_tags", "result_cache"]);
    assert!(!own.is_empty());
    // Within a second or two of each other, and microseconds in the one column that has them.
    let sql = "SELECT abs(strftime('%s', created_at) - ?1) < 3 AND abs(strftime('%s', last_accessed) - ?1) < 3
        AND abs(strftime('%s', expires_at) - ?1 - 60) < 3 AND expires_at GLOB '????-??-?? ??:??:??.??????'
        AND length(created_at) = 19 AND size_bytes = 3 AND ttl_seconds = 60 AND access_count = 0
        FROM result_cache WHERE cache_key = 'timed'";
    assert!(tables.query_row(sql, [now / 1_000_000], |row| row.get::<_, bool>(0)).unwrap());
}

#[test]
fn rows_that_others_wrote_into_the_tables() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.db");
    let tier = open(&path);
    let other = Connection::open(&path).unwrap();
    other
        .execute_batch(
            "INSERT INTO result_cache (cache_key, cache_value, expires_at) VALUES ('odd', 'text', 'soon'), ('text', 'text', NULL),
                 ('number', 5, NULL);
             CREATE TRIGGER own BEFORE INSERT ON result_cache WHEN NEW.cache_key = 'refused'
                 BEGIN SELECT RAISE(ABORT, 'not this one'); END;",
        )
        .unwrap();
    assert_eq!(value(&tier, "odd"), None);
    assert_eq!(value(&tier, "number").as_deref(), Some(""), "nothing that decodes");
    assert_eq!(value(&tier, "text").as_deref(), Some("text"));
    // A row that the file will never take is counted and does not hold up the others.
    tier.put("refused", row("x")).unwrap();
    tier.put("accepted", row("x")).unwrap();
    assert!(tier.flush(None).unwrap());
    assert_eq!(tier.errors(), 1);
    assert_eq!(value(&tier, "refused"), None);
    assert_eq!(value(&tier, "accepted").as_deref(), Some("x"));
}

#[test]
fn a_deleted_file_is_no_trouble() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.db");
    let tier = open(&path);
    tier.put("k", row("x")).unwrap();
    assert!(tier.flush(None).unwrap());
    fs::remove_file(&path).unwrap();
    // It goes on where it was, unless the name is used again.
    assert_eq!(value(&tier, "k").as_deref(), Some("x"));
    let fresh = open(&path);
    assert!(matches!(tier.get("k"), Err(PersistError::Closed)));
    assert_eq!(value(&fresh, "k"), None);
    fresh.put("l", row("y")).unwrap();
    tier.close();
    fresh.close();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let tier = open(&path);
    assert_eq!(value(&tier, "l").as_deref(), Some("y"));
}

#[test]
fn a_file_put_in_place_by_another_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.db");
    let tier = open(&path);
    tier.put("k", row("x")).unwrap();
    assert!(tier.flush(None).unwrap());
    for suffix in ["", "-wal", "-shm"] {
        fs::remove_file(folder.path().join(format!("cache.db{suffix}"))).unwrap();
    }
    let other = Connection::open(&path).unwrap();
    other.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1);").unwrap();
    tier.put("l", row("y")).unwrap();
    tier.close();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "its log is still there");
    let fresh = Connection::open(&path).unwrap();
    assert_eq!(fresh.query_row("SELECT x FROM t", [], |row| row.get::<_, i64>(0)).unwrap(), 1);
}

#[test]
fn writing_behind_resumes_after_the_runtime_was_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.db");
    let tier = open(&path);
    let other = Connection::open(&path).unwrap();
    for n in 1..=20_i64 {
        tier.put(&n.to_string(), row("x")).unwrap();
        value(&tier, "missing");
        runtime::stop(Duration::from_secs(5));
        tier.put("again", row("x")).unwrap();
        let sql = "SELECT count(*) FROM result_cache";
        eventually(|| other.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap() == n + 1);
    }
}
