//! Time per operation of the cache engine. `cargo bench --no-default-features --bench cache`

#[allow(dead_code)] // The other bench uses the rest.
mod traces;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use traces::{Random, Zipf, mix};
use upshift::cache::{Cache, Limits, New, PolicyKind, Removals};

const ENTRIES: u64 = 100_000;
const HOUR: u64 = 3_600_000_000_000;

type Bench = Cache<u64, u64, u64>;

/// Stores `key` with an hour to live; a microsecond passes with each key.
fn store(cache: &mut Bench, key: u64, out: &mut Removals<u64, u64, u64>) {
    let now = key * 1_000;
    cache.insert(mix(key), key, key, New { expires: now + HOUR, weight: 64, ..New::at(now) }, out);
}

fn full(kind: PolicyKind) -> Bench {
    let mut cache = Cache::new(Limits::entries(ENTRIES as usize), kind);
    let mut out = Removals::new();
    (0..ENTRIES).for_each(|key| store(&mut cache, key, &mut out));
    cache
}

/// A million keys by Zipf(1.0) over those present, hot ones scattered.
fn popular() -> Vec<u64> {
    let (zipf, mut random) = (Zipf::new(ENTRIES as usize, 1.0), Random(7));
    (0..1 << 20).map(|_| zipf.sample(&mut random) * 7_919 % ENTRIES).collect()
}

fn uniform() -> Vec<u64> {
    let mut random = Random(8);
    (0..1 << 20).map(|_| random.draw() % ENTRIES).collect()
}

fn hit(cache: &mut Bench, key: u64) -> u64 {
    match cache.find(mix(key), |&other| other == key) {
        Some(slot) => {
            cache.touch(slot);
            cache.entry(slot).value
        }
        None => 0,
    }
}

fn hits(c: &mut Criterion) {
    for (name, keys) in [("zipf", popular()), ("uniform", uniform())] {
        let mut group = c.benchmark_group(format!("find+touch/{name}"));
        for kind in PolicyKind::ALL {
            let mut cache = full(kind);
            let mut turn = keys.iter().cycle();
            group.bench_function(kind.as_str(), |b| {
                b.iter(|| hit(&mut cache, turn.next().copied().unwrap_or(0)));
            });
        }
    }
}

fn misses(c: &mut Criterion) {
    let cache = full(PolicyKind::Lru);
    let mut key = ENTRIES;
    c.bench_function("find/absent", |b| {
        b.iter(|| {
            key += 1;
            black_box(cache.find(mix(key), |&other| other == key))
        });
    });
}

/// Insertions into a full cache, each of which evicts.
fn insertions(c: &mut Criterion) {
    let mut group = c.benchmark_group("insert+evict");
    for kind in PolicyKind::ALL {
        let mut cache = full(kind);
        let mut key = ENTRIES;
        let mut out = Removals::new();
        group.bench_function(kind.as_str(), |b| {
            b.iter(|| {
                key += 1;
                store(&mut cache, key, &mut out);
                black_box(&out);
                out.clear();
            });
        });
    }
}

fn replacements(c: &mut Criterion) {
    let keys = popular();
    let mut cache = full(PolicyKind::Lru);
    let mut turn = keys.iter().cycle();
    let mut out = Removals::new();
    let mut now = ENTRIES * 1_000;
    c.bench_function("find+replace/lru", |b| {
        b.iter(|| {
            let key = turn.next().copied().unwrap_or(0);
            now += 1_000;
            if let Some(slot) = cache.find(mix(key), |&other| other == key) {
                cache.replace(slot, now, New { expires: now + HOUR, weight: 64, ..New::at(now) }, &mut out);
            }
            black_box(&out);
            out.clear();
        });
    });
}

/// A full cache expires, time passing in a thousand steps; per entry.
fn expiry(c: &mut Criterion) {
    c.bench_function("expire/entry", |b| {
        b.iter_custom(|iterations| {
            let mut spent = Duration::ZERO;
            let mut done = 0;
            while done < iterations {
                let mut cache = full(PolicyKind::Lru);
                let mut out = Removals::new();
                let start = Instant::now();
                for step in 1..=1_000 {
                    cache.expire(HOUR + step * ENTRIES, &mut out);
                    done += out.len() as u64;
                    out.clear();
                }
                spent += start.elapsed();
            }
            spent.mul_f64(iterations as f64 / done as f64)
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1_500));
    targets = hits, misses, insertions, replacements, expiry
}
criterion_main!(benches);
