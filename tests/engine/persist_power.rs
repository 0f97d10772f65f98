//! What survives a power loss, with a file system that forgets everything that was not synced.
//!
//! A shim around SQLite's file system remembers the content of each file as of its last sync. That content, put into
//! another folder, is what a machine would find after losing its power in the worst way.
#![cfg(unix)]

mod common;
mod shim;

use std::path::Path;

use common::{open, open_with, row, value};
use upshift::cache::persist::Durability;

#[test]
fn durability_power_survives_and_the_others_stay_sound() {
    shim::install();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();

    let path = folder.join("power.db");
    let tier = open_with(&path, Durability::Power);
    for n in 0..20 {
        tier.put(&n.to_string(), row(&n.to_string())).unwrap();
        assert!(n % 5 != 4 || tier.delete("0").is_ok());
        assert_eq!(after_power_loss(&path, &n.to_string()), Some(n.to_string()));
        assert_eq!(after_power_loss(&path, "0").is_some(), n < 4, "a deleted row came back");
    }
    tier.close();

    // Survives a killed process, but nothing was synced for it; that is the price of the other levels.
    let path = folder.join("process.db");
    let tier = open_with(&path, Durability::Process);
    tier.put("k", row("x")).unwrap();
    assert_eq!(after_power_loss(&path, "k"), None);
    tier.close();
    assert_eq!(after_power_loss(&path, "k").as_deref(), Some("x"));

    // Large enough for checkpoints in between: whatever is lost, the file is sound.
    let path = folder.join("memory.db");
    let tier = open(&path);
    for round in 0..6 {
        for n in 0..2_000 {
            tier.put(&format!("{n}"), row(&"x".repeat(4_000))).unwrap();
        }
        assert!(tier.flush(None).unwrap());
        after_power_loss(&path, &round.to_string());
    }
    tier.close();
    assert_eq!(after_power_loss(&path, "1999"), Some("x".repeat(4_000)));
}

/// The value of a key in the file as it would be found, after making sure that the file is sound.
fn after_power_loss(path: &Path, key: &str) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let found = folder.path().join(path.file_name().unwrap());
    shim::restore(path, &found);
    {
        let tables = rusqlite::Connection::open(&found).unwrap();
        let sound: String = tables.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(sound, "ok");
    }
    let tier = open(&found);
    value(&tier, key)
}
