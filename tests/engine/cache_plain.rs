//! `swap` and `displace` are `replace` and `insert` for plain entries: two caches fed the same operations, one through
//! either pair, must not differ.

use proptest::prelude::*;
use upshift::cache::{Cache, Limits, New, PolicyKind, Removals};
use upshift::support::clock::NEVER;

type Plain = Cache<u16, u32>;

fn hash(key: u16) -> u64 {
    u64::from(key).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Stores through the general operations; the keys that left.
fn general(cache: &mut Plain, key: u16, value: u32, now: u64, expires: u64) -> Vec<u16> {
    let mut out = Removals::new();
    let new = New { expires, ..New::at(now) };
    match cache.find(hash(key), |stored| *stored == key) {
        Some(slot) => cache.replace(slot, value, new, &mut out),
        None => cache.insert(hash(key), key, value, new, &mut out),
    };
    out.iter().filter_map(|removed| removed.key).collect()
}

/// Stores through the plain operations where they apply.
fn plain(cache: &mut Plain, key: u16, value: u32, now: u64, expires: u64) -> Vec<u16> {
    let done = match cache.find(hash(key), |stored| *stored == key) {
        Some(slot) => cache.swap(slot, value, now, expires).map(|_| Vec::new()).ok(),
        None => cache.displace(hash(key), key, value, now, expires).map(|(key, _)| vec![key]).ok(),
    };
    done.unwrap_or_else(|| general(cache, key, value, now, expires))
}

fn contents(cache: &Plain) -> Vec<(u16, u32, u64, u64, u32)> {
    let entry = |slot| {
        let entry = cache.entry(slot);
        (entry.key, entry.value, entry.expires, entry.created, entry.accesses)
    };
    cache.order().into_iter().map(entry).collect()
}

/// Takes out what has expired; the keys, sorted.
fn expired(cache: &mut Plain, now: u64) -> Vec<u16> {
    let mut out = Removals::new();
    cache.expire(now, &mut out);
    let mut keys: Vec<u16> = out.iter().filter_map(|removed| removed.key).collect();
    keys.sort_unstable();
    keys
}

proptest! {
    #[test]
    fn plain_operations_are_the_general_ones(
        kind in prop::sample::select(vec![
            PolicyKind::Lru, PolicyKind::Lfu, PolicyKind::Fifo, PolicyKind::Ttl, PolicyKind::Adaptive, PolicyKind::Cost,
        ]),
        size in 1..12usize,
        steps in prop::collection::vec((0..24u16, 0..3u8, 1..5_000u64, 0..400u64), 1..300),
    ) {
        let mut caches = [Plain::new(Limits::entries(size), kind), Plain::new(Limits::entries(size), kind)];
        let mut now = 1;
        for (value, (key, op, ttl, passed)) in steps.into_iter().enumerate() {
            now += passed;
            // Which of several expired entries goes first is nobody's business; so none is left for the stores.
            prop_assert_eq!(expired(&mut caches[0], now), expired(&mut caches[1], now));
            let expires = if ttl > 4_000 { NEVER } else { now + ttl };
            match op {
                0 => {
                    for cache in &mut caches {
                        if let Some(slot) = cache.find(hash(key), |stored| *stored == key) {
                            cache.touch(slot);
                        }
                    }
                }
                _ => {
                    let [one, two] = &mut caches;
                    let value = value as u32;
                    prop_assert_eq!(general(one, key, value, now, expires), plain(two, key, value, now, expires));
                }
            }
            caches[1].validate();
            prop_assert_eq!(contents(&caches[0]), contents(&caches[1]));
        }
        prop_assert_eq!(expired(&mut caches[0], now + 2_000), expired(&mut caches[1], now + 2_000));
    }
}
