//! What the cache engine promises, case by case.

use std::str::FromStr;

use upshift::cache::{Cache, Label, Limits, New, PolicyKind, Reason, Removals, Slot};
use upshift::support::clock::NEVER;

type Text = Cache<&'static str, u32, &'static str>;

/// Well mixed enough for short names.
fn hash(name: &str) -> u64 {
    name.bytes().fold(7u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29))
}

fn cache(entries: usize, kind: PolicyKind) -> Text {
    Cache::new(Limits::entries(entries), kind)
}

fn put(cache: &mut Text, key: &'static str, new: New<'_, &'static str>) -> Vec<(Option<&'static str>, Reason)> {
    let mut out = Removals::new();
    match find(cache, key) {
        Some(slot) => cache.replace(slot, 0, new, &mut out),
        None => cache.insert(hash(key), key, 0, new, &mut out),
    };
    cache.validate();
    out.into_iter().map(|removed| (removed.key, removed.reason)).collect()
}

fn find(cache: &Text, key: &str) -> Option<Slot> {
    cache.find(hash(key), |&other| other == key)
}

fn touch(cache: &mut Text, key: &str) {
    let slot = find(cache, key).expect("present");
    cache.touch(slot);
}

fn keys(cache: &Text) -> Vec<&'static str> {
    cache.order().into_iter().map(|slot| cache.entry(slot).key).collect()
}

#[test]
fn each_policy_evicts_its_own_choice() {
    for (kind, victim) in [
        (PolicyKind::Lru, "b"),
        (PolicyKind::Fifo, "a"),
        (PolicyKind::Lfu, "c"),
        (PolicyKind::Ttl, "d"),
        (PolicyKind::Cost, "b"),
    ] {
        let mut cache = cache(4, kind);
        let at = New::at(0);
        put(&mut cache, "a", New { cost: 9.0, ..New::at(0) });
        put(&mut cache, "b", New { cost: 0.1, ..New::at(0) });
        put(&mut cache, "c", New { cost: 9.0, ..New::at(0) });
        put(&mut cache, "d", New { expires: 100, ..at });
        for key in ["b", "b", "c", "a", "a", "d", "d"] {
            touch(&mut cache, key);
        }
        assert_eq!(put(&mut cache, "e", New::at(1)), [(Some(victim), Reason::Capacity)], "{kind}");
    }
}

#[test]
fn cost_weighs_recomputation_against_size() {
    let mut cache: Text = Cache::new(Limits { entries: 10, bytes: Some(100) }, PolicyKind::Cost);
    put(&mut cache, "large and slow", New { weight: 60, cost: 60.0, ..New::at(0) });
    put(&mut cache, "small and slow", New { weight: 10, cost: 60.0, ..New::at(0) });
    put(&mut cache, "small and fast", New { weight: 10, cost: 5.0, ..New::at(0) });
    assert_eq!(keys(&cache), ["small and fast", "large and slow", "small and slow"]);
    assert_eq!(
        put(&mut cache, "new", New { weight: 40, cost: 1.0, ..New::at(0) }),
        [(Some("small and fast"), Reason::Bytes), (Some("large and slow"), Reason::Bytes)]
    );
}

#[test]
fn a_costly_entry_ages_out_and_odd_costs_do_no_harm() {
    let mut cache = cache(2, PolicyKind::Cost);
    put(&mut cache, "once dear", New { cost: 3.0, ..New::at(0) });
    let names = ["a", "b", "c", "d", "e", "f"];
    let gone: Vec<_> = names.iter().flat_map(|&name| put(&mut cache, name, New::at(0))).collect();
    assert!(gone.contains(&(Some("once dear"), Reason::Capacity)), "unused, it sinks below newcomers");
    for (name, cost) in [("g", f32::NAN), ("h", -1.0), ("i", f32::INFINITY), ("j", f32::MAX), ("k", 1e-30), ("l", 0.0)]
    {
        put(&mut cache, name, New { cost, weight: 0, ..New::at(0) });
    }
    for name in names {
        put(&mut cache, name, New { cost: 1.0, ..New::at(0) });
        touch(&mut cache, name);
    }
    assert_eq!(cache.len(), 2);
}

#[test]
fn writing_more_than_fits_keeps_the_latest() {
    let mut cache: Cache<u64, u64> = Cache::new(Limits::entries(100), PolicyKind::Lru);
    let mut out = Removals::new();
    for key in 0..1_000u64 {
        cache.insert(key.wrapping_mul(0x9E37_79B9_7F4A_7C15), key, key, New::at(key), &mut out);
    }
    assert_eq!((cache.len(), out.len()), (100, 900));
    assert!(out.iter().map(|removed| removed.value).eq(0..900));
    assert!(cache.order().into_iter().map(|slot| cache.entry(slot).key).eq(900..1_000));
}

#[test]
fn what_cannot_stay_comes_back() {
    let mut none = cache(0, PolicyKind::Lru);
    let new = New { alias: Some((hash("x"), "x")), ..New::at(0) };
    let mut out = Removals::new();
    assert_eq!(none.insert(hash("a"), "a", 7, new, &mut out), None);
    assert_eq!((out[0].key, out[0].value, out[0].alias, out[0].reason), (Some("a"), 7, Some("x"), Reason::Capacity));
    let mut small: Text = Cache::new(Limits { entries: 9, bytes: Some(10) }, PolicyKind::Lru);
    assert_eq!(put(&mut small, "a", New { weight: 10, ..New::at(0) }), []);
    assert_eq!(put(&mut small, "b", New { weight: 11, ..New::at(0) }), [(Some("b"), Reason::Bytes)]);
    assert_eq!(keys(&small), ["a"], "refusing evicts nobody");
    assert_eq!(put(&mut small, "c", New { expires: 5, ..New::at(5) }), [(Some("c"), Reason::Expired)]);
    let replaced = put(&mut small, "a", New { weight: 11, ..New::at(0) });
    assert_eq!(replaced, [(None, Reason::Replaced), (Some("a"), Reason::Bytes)]);
    assert!(small.is_empty());
}

#[test]
fn expiry_is_exact_and_grace_keeps_stale_values() {
    let mut cache = cache(9, PolicyKind::Lru);
    put(&mut cache, "short", New { expires: 1_000, ..New::at(0) });
    put(&mut cache, "stale", New { expires: 1_000, grace: 500, ..New::at(0) });
    put(&mut cache, "ever", New::at(0));
    let slot = find(&cache, "stale").expect("present");
    assert!(!cache.is_expired(slot, 999));
    let mut out = Removals::new();
    cache.expire(999, &mut out);
    assert!(out.is_empty());
    cache.expire(1_000, &mut out);
    assert_eq!((out.len(), out[0].key, out[0].reason), (1, Some("short"), Reason::Expired));
    assert!(cache.is_expired(slot, 1_000));
    assert_eq!(find(&cache, "stale"), Some(slot), "callers may serve it stale");
    cache.expire(1_499, &mut out);
    assert_eq!(out.len(), 1);
    cache.renew(slot, 2_000, 0);
    cache.expire(1_999, &mut out);
    assert_eq!(out.len(), 1);
    cache.expire(2_000, &mut out);
    assert_eq!((out.len(), out[1].expires), (2, 2_000));
    cache.expire(NEVER, &mut out);
    assert_eq!(keys(&cache), ["ever"]);
}

#[test]
fn expired_entries_make_room_before_live_ones() {
    let mut cache = cache(2, PolicyKind::Lru);
    put(&mut cache, "old", New::at(0));
    put(&mut cache, "dead", New { expires: 10, ..New::at(0) });
    assert_eq!(put(&mut cache, "new", New::at(10)), [(Some("dead"), Reason::Expired)]);
    assert_eq!(keys(&cache), ["old", "new"]);
}

#[test]
fn a_label_survives_the_eviction_of_its_last_other_entry() {
    let mut cache = cache(1, PolicyKind::Lru);
    for key in ["a", "b", "c"] {
        let tag = cache.label(Label::Tag("t".into()));
        put(&mut cache, key, New { labels: &[tag, tag], ..New::at(0) });
    }
    assert_eq!(cache.tags().map(|(text, _)| text).collect::<Vec<_>>(), ["t"]);
    let tag = cache.find_label(&Label::Tag("t".into())).expect("carried");
    assert_eq!(cache.members(tag).len(), 1);
    let mut out = Removals::new();
    cache.remove_labelled(tag, Reason::Invalidated, &mut out);
    assert_eq!((out.len(), cache.tag_count(), cache.find_label(&Label::Tag("t".into()))), (1, 0, None));
    cache.validate();
}

#[test]
fn replacing_exchanges_labels_and_alias() {
    let mut cache = cache(9, PolicyKind::Lru);
    let (one, two) = (cache.label(Label::Tag("one".into())), cache.label(Label::Tag("two".into())));
    put(&mut cache, "a", New { labels: &[one, two], alias: Some((1 << 40, "old")), ..New::at(0) });
    let three = cache.label(Label::Tag("three".into()));
    put(&mut cache, "a", New { labels: &[two, three], alias: Some((2 << 40, "new")), ..New::at(0) });
    let mut tags: Vec<&str> = cache.tags().map(|(text, _)| text).collect();
    tags.sort_unstable();
    assert_eq!(tags, ["three", "two"]);
    assert_eq!(cache.find_alias(1 << 40, |_| true), None);
    assert_eq!(cache.find_alias(2 << 40, |&alias| alias == "new"), find(&cache, "a"));
    put(&mut cache, "a", New::at(0));
    assert_eq!((cache.tag_count(), cache.find_alias(2 << 40, |_| true)), (0, None));
}

#[test]
fn heads_are_found_by_their_ending() {
    let mut cache = cache(99, PolicyKind::Lru);
    for (key, head) in [("1", "app.f:"), ("2", "lib.f:"), ("3", "f:"), ("4", "g:"), ("5", "ö:"), ("6", "app.f:")] {
        let head = cache.label(Label::Head(head.into()));
        put(&mut cache, key, New { labels: &[head], ..New::at(0) });
    }
    assert_eq!(cache.heads_ending_with("f:").len(), 3);
    assert_eq!(cache.heads_ending_with(".f:").len(), 2);
    assert_eq!(cache.heads_ending_with(":").len(), 5);
    assert_eq!(cache.heads_ending_with("").len(), 5);
    assert_eq!(cache.heads_ending_with("ö:").len(), 1);
    assert_eq!(cache.heads_ending_with("h:").len(), 0);
}

#[test]
fn clear_returns_everything_and_keeps_the_settings() {
    let mut cache = cache(9, PolicyKind::Lfu);
    for key in ["a", "b", "c"] {
        let group = cache.label(Label::Group(1));
        put(&mut cache, key, New { labels: &[group], alias: Some((hash(key) + 1, key)), weight: 5, ..New::at(0) });
    }
    let mut out = Removals::new();
    cache.clear(&mut out);
    cache.validate();
    assert_eq!(out.iter().filter(|removed| removed.reason == Reason::Cleared && removed.alias.is_some()).count(), 3);
    assert_eq!(
        (cache.len(), cache.bytes(), cache.policy(), cache.limits()),
        (0, 0, PolicyKind::Lfu, Limits::entries(9))
    );
}

#[test]
fn limits_and_policy_change_at_once() {
    let mut cache = cache(4, PolicyKind::Lru);
    for key in ["a", "b", "c", "d"] {
        put(&mut cache, key, New { weight: 10, ..New::at(0) });
    }
    for key in ["b", "b", "a"] {
        touch(&mut cache, key);
    }
    cache.set_policy(PolicyKind::Lfu);
    assert_eq!(keys(&cache), ["c", "d", "a", "b"], "uses count from before");
    let mut out = Removals::new();
    cache.set_limits(Limits { entries: 4, bytes: Some(25) }, &mut out);
    assert_eq!(
        out.iter().map(|removed| (removed.key, removed.reason)).collect::<Vec<_>>(),
        [(Some("c"), Reason::Bytes), (Some("d"), Reason::Bytes)]
    );
    cache.set_policy(PolicyKind::Fifo);
    cache.set_limits(Limits { entries: 1, bytes: None }, &mut out);
    assert_eq!(keys(&cache), ["b"]);
}

#[test]
fn weights_may_be_as_large_as_they_like() {
    let mut cache: Text = Cache::new(Limits { entries: 9, bytes: None }, PolicyKind::Lru);
    for key in ["a", "b", "c"] {
        put(&mut cache, key, New { weight: u64::MAX, ..New::at(0) });
    }
    assert_eq!((cache.len(), cache.bytes()), (3, u64::MAX));
    let slot = find(&cache, "a").expect("present");
    assert_eq!(cache.remove(slot, Reason::Deleted).weight, u64::MAX);
    cache.validate();
}

#[test]
fn policies_have_names() {
    for kind in PolicyKind::ALL {
        assert_eq!(PolicyKind::from_str(kind.as_str()), Ok(kind));
    }
    let error = PolicyKind::from_str("LRU").expect_err("names are exact").to_string();
    assert!(error.contains("\"LRU\"") && error.contains("\"adaptive\""), "{error}");
}

#[test]
fn an_entry_with_expiry_costs_74_bytes() {
    for count in [100_000u64, 131_073] {
        let mut cache: Cache<u64, u64, (u64, u64)> = Cache::new(Limits::entries(1 << 20), PolicyKind::Lru);
        let mut out = Removals::new();
        for key in 0..count {
            let new = New { expires: 1 << 42, weight: 64, ..New::at(key) };
            cache.insert(key.wrapping_mul(0x9E37_79B9_7F4A_7C15), key, key, new, &mut out);
        }
        let each = cache.heap_bytes() as f64 / count as f64;
        assert!(each < 74.5, "{each:.2} bytes for each of {count} entries");
    }
}
