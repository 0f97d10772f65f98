//! What the tests of the disk tier share.
#![allow(dead_code)] // each test binary uses its part

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use upshift::cache::persist::{DiskTier, Durability, Options, Row};
use upshift::support::clock;

const ROLE: &str = "UPSHIFT_TEST_ROLE";

pub fn row(blob: &str) -> Row {
    Row {
        blob: blob.as_bytes().to_vec(),
        ttl_seconds: None,
        created: clock::epoch_micros() / 1_000_000 * 1_000_000,
        expires: None,
        tags: Vec::new(),
        function: None,
    }
}

pub fn row_for(blob: &str, seconds: i64) -> Row {
    let expires = Some(clock::epoch_micros() + seconds * 1_000_000);
    Row { ttl_seconds: Some(seconds), expires, ..row(blob) }
}

pub fn tagged(blob: &str, tags: &[&str]) -> Row {
    Row { tags: tags.iter().map(|tag| (*tag).to_owned()).collect(), ..row(blob) }
}

pub fn open(path: &Path) -> DiskTier {
    open_with(path, Durability::Memory)
}

pub fn open_with(path: &Path, durability: Durability) -> DiskTier {
    DiskTier::open(path, Options { durability, coherence: None }).unwrap()
}

/// Opens the file as another process would.
pub fn open_apart(path: &Path) -> DiskTier {
    DiskTier::open_apart(path, Options::default()).unwrap()
}

/// The value under a key as text.
pub fn value(tier: &DiskTier, key: &str) -> Option<String> {
    tier.get(key).unwrap().map(|row| String::from_utf8(row.blob).unwrap())
}

pub fn sorted(mut keys: Vec<String>) -> Vec<String> {
    keys.sort();
    keys
}

/// Waits until something holds, ten seconds at most.
pub fn eventually(mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(10), "never happened");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs the test `child` of this binary in another process, with a role and a path to work on. The process writes a line
/// when it is [`ready`].
pub fn spawn(role: &str, path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env("UPSHIFT_TEST_PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The role and path of this process if it is a child.
pub fn role() -> Option<(String, std::path::PathBuf)> {
    let role = std::env::var(ROLE).ok()?;
    Some((role, std::env::var_os("UPSHIFT_TEST_PATH")?.into()))
}

const READY: &str = "child is ready";

/// Tells the parent, and waits for it to close the child's standard input or to kill the child.
#[allow(clippy::print_stdout)]
pub fn ready() {
    println!("\n{READY}");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}

pub fn wait_until_ready(child: &mut Child) {
    use std::io::{BufRead, BufReader, Read};
    let mut line = String::new();
    let mut output = BufReader::with_capacity(1, child.stdout.as_mut().unwrap().by_ref());
    while output.read_line(&mut line).unwrap() > 0 {
        if line.trim() == READY {
            return;
        }
        line.clear();
    }
    panic!("child ended early: {:?}", child.wait());
}

/// Lets a waiting child go on and expects it to succeed.
pub fn finish(mut child: Child) {
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

/// Runs a role to its end and expects it to succeed.
pub fn run(role: &str, path: &Path) {
    let mut child = spawn(role, path);
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{role}: {}", String::from_utf8_lossy(&output.stdout));
}
