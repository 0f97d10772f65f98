//! The disk tier against a naive model, under random operations.

mod common;

use std::collections::BTreeMap;

use common::{open, sorted};
use proptest::prelude::*;
use upshift::cache::persist::{Change, DiskTier, Row};
use upshift::support::clock;

const HOUR: i64 = 3_600_000_000;

#[derive(Clone, Debug)]
enum Action {
    Put { key: usize, value: u8, live: Option<bool>, tags: Vec<usize>, function: Option<usize> },
    Get(usize),
    Discard(usize),
    Touch(usize),
    Delete(usize),
    Tag(usize),
    Pattern(usize),
    Function(usize),
    Clear,
    Cleanup,
    Preload(usize),
    Flush,
    Reopen,
}

const KEYS: [&str; 8] = ["f:1", "f:2", "g:1", "g:2", "", "a b", "ключ", "nul\0inside"];
const TAGS: [&str; 3] = ["red", "Red", "%"];
const PATTERNS: [&str; 6] = ["f:", ":1", "G", "", "_", "люч"];
const FUNCTIONS: [&str; 3] = ["f", "g", "m.h"];

fn action() -> impl Strategy<Value = Action> {
    let key = 0..KEYS.len();
    prop_oneof![
        8 => (key.clone(), any::<u8>(), prop_oneof![Just(None), Just(Some(true)), Just(Some(true)), Just(Some(false))],
            prop::collection::vec(0..TAGS.len(), 0..3), prop::option::of(0..FUNCTIONS.len()))
            .prop_map(|(key, value, live, tags, function)| Action::Put { key, value, live, tags, function }),
        6 => key.clone().prop_map(Action::Get),
        1 => key.clone().prop_map(Action::Discard),
        1 => key.clone().prop_map(Action::Touch),
        2 => key.prop_map(Action::Delete),
        2 => (0..TAGS.len()).prop_map(Action::Tag),
        2 => (0..PATTERNS.len()).prop_map(Action::Pattern),
        2 => (0..FUNCTIONS.len()).prop_map(Action::Function),
        1 => Just(Action::Clear),
        1 => Just(Action::Cleanup),
        1 => (0..KEYS.len() + 2).prop_map(Action::Preload),
        3 => Just(Action::Flush),
        1 => Just(Action::Reopen),
    ]
}

/// What the tier should hold: rows by key.
#[derive(Default)]
struct Model(BTreeMap<String, Row>);

impl Model {
    fn live(row: &Row) -> bool {
        row.expires.is_none_or(|expires| expires > clock::epoch_micros())
    }

    fn get(&self, key: &str) -> Option<&Row> {
        self.0.get(key).filter(|row| Self::live(row))
    }

    /// Removes rows and returns the live keys among them.
    fn remove(&mut self, mut which: impl FnMut(&str, &Row) -> bool) -> Vec<String> {
        let mut removed = Vec::new();
        self.0.retain(|key, row| {
            let gone = which(key, row);
            if gone && Self::live(row) {
                removed.push(key.clone());
            }
            !gone
        });
        removed
    }
}

/// Tags have no order in the table.
fn normal(mut row: Row) -> Row {
    row.tags.sort();
    row
}

fn step(tier: &mut DiskTier, path: &std::path::Path, model: &mut Model, action: &Action) {
    match action {
        Action::Put { key, value, live, tags, function } => {
            let now = clock::epoch_micros();
            let mut tags: Vec<String> = tags.iter().map(|tag| TAGS[*tag].to_owned()).collect();
            tags.sort();
            tags.dedup();
            let row = Row {
                blob: vec![*value; usize::from(*value) * 40],
                ttl_seconds: live.map(|live| if live { 3600 } else { -3600 }),
                created: now / 1_000_000 * 1_000_000,
                expires: live.map(|live| if live { now + HOUR } else { now - HOUR }),
                tags,
                function: function.map(|function| FUNCTIONS[function].to_owned()),
            };
            tier.put(KEYS[*key], row.clone()).unwrap();
            model.0.insert(KEYS[*key].to_owned(), row);
        }
        Action::Get(key) => {
            let found = tier.get(KEYS[*key]).unwrap().map(normal);
            assert_eq!(found.as_ref(), model.get(KEYS[*key]));
            assert_eq!(tier.contains(KEYS[*key]).unwrap(), found.is_some());
        }
        Action::Discard(key) => {
            tier.discard(KEYS[*key]).unwrap();
            model.0.remove(KEYS[*key]);
        }
        Action::Touch(key) => tier.touched(KEYS[*key], 2).unwrap(),
        Action::Delete(key) => {
            let live = model.get(KEYS[*key]).is_some();
            model.0.remove(KEYS[*key]);
            assert_eq!(tier.delete(KEYS[*key]).unwrap(), live);
        }
        Action::Tag(tag) => {
            let removed = model.remove(|_, row| row.tags.iter().any(|own| own == TAGS[*tag]));
            assert_eq!(sorted(tier.invalidate_tag(TAGS[*tag]).unwrap()), removed);
        }
        Action::Pattern(pattern) => {
            let removed = model.remove(|key, _| key.contains(PATTERNS[*pattern]));
            assert_eq!(sorted(tier.invalidate_pattern(PATTERNS[*pattern]).unwrap()), removed);
        }
        Action::Function(function) => {
            let name = FUNCTIONS[*function];
            let removed =
                model.remove(|key, row| row.function.as_deref() == Some(name) || key.starts_with(&format!("{name}:")));
            assert_eq!(sorted(tier.invalidate_function(name).unwrap()), removed);
        }
        Action::Clear => {
            let removed = model.remove(|_, _| true);
            assert_eq!(sorted(tier.clear().unwrap()), removed);
        }
        Action::Cleanup => {
            let mut expired = Vec::new();
            model.0.retain(|key, row| {
                let live = Model::live(row);
                if !live {
                    expired.push(key.clone());
                }
                live
            });
            assert_eq!(sorted(tier.cleanup_expired().unwrap()), expired);
        }
        Action::Preload(limit) => {
            let rows = tier.preload(*limit).unwrap();
            let live = model.0.values().filter(|row| Model::live(row)).count();
            assert_eq!(rows.len(), live.min(*limit));
            for (key, row) in rows {
                assert_eq!(Some(&normal(row)), model.get(&key));
            }
        }
        Action::Flush => assert!(tier.flush(None).unwrap()),
        Action::Reopen => {
            tier.close();
            *tier = open(path);
        }
    }
}

/// The tables themselves, as any other tool sees them: no row too many, no orphan.
fn check_tables(path: &std::path::Path, model: &Model) {
    let tables = rusqlite::Connection::open(path).unwrap();
    let mut keys = tables.prepare("SELECT cache_key FROM result_cache ORDER BY cache_key").unwrap();
    let keys: Vec<String> = keys.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert_eq!(keys, model.0.keys().cloned().collect::<Vec<_>>());
    for (table, expected) in [
        ("cache_tags", model.0.values().map(|row| row.tags.len()).sum::<usize>()),
        ("upshift_functions", model.0.values().filter(|row| row.function.is_some()).count()),
    ] {
        let count: i64 = tables.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
        assert_eq!(count, expected as i64, "{table}");
    }
    let sound: String = tables.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
    assert!(tables.prepare("PRAGMA foreign_key_check").unwrap().query([]).unwrap().next().unwrap().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_a_map(actions in prop::collection::vec(action(), 1..60)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache.db");
        let mut tier = open(&path);
        let mut model = Model::default();
        for action in &actions {
            step(&mut tier, &path, &mut model, action);
        }
        assert_eq!(tier.errors(), 0);
        tier.close();
        check_tables(&path, &model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Two openings of one file that know nothing of each other, as in two processes. A memory tier that drops what it is
    /// told to drop never serves a value that is not current.
    #[test]
    fn changes_keep_a_memory_tier_current(actions in prop::collection::vec((any::<bool>(), action()), 1..60)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache.db");
        let mut here = open(&path);
        let mut there = common::open_apart(&path);
        let mut model = Model::default();
        let mut memory: BTreeMap<String, Row> = BTreeMap::new();
        for (local, action) in &actions {
            if matches!(action, Action::Reopen) {
                continue;
            }
            // The order of commits decides between two openings, so each commits before the other acts.
            if *local {
                step(&mut here, &path, &mut model, action);
                here.flush(None).unwrap();
                for key in KEYS {
                    if model.get(key).is_none() {
                        memory.remove(key);
                    }
                }
            } else {
                step(&mut there, &path, &mut model, action);
                there.flush(None).unwrap();
            }
            for change in here.changes() {
                memory.retain(|key, row| !match &change {
                    Change::Key(changed) => key == changed,
                    Change::Tag(tag) => row.tags.contains(tag),
                    Change::Pattern(part) => key.contains(part.as_str()),
                    Change::Function(name) => row.function.as_deref() == Some(name) || key.starts_with(&format!("{name}:")),
                    Change::All => true,
                });
            }
            for key in KEYS {
                if let Some(row) = here.get(key).unwrap() {
                    if *local {
                        memory.insert(key.to_owned(), normal(row));
                    }
                }
            }
            for (key, row) in &memory {
                assert_eq!(Some(row), model.get(key), "stale {key:?}");
            }
        }
    }
}
