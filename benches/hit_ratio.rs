//! Hit ratios of all policies on synthetic traces, as a table. `cargo bench --no-default-features --bench hit_ratio`

#![allow(clippy::print_stdout)]

mod traces;

use upshift::cache::{Cache, Limits, New, PolicyKind, Removals};

/// Capacities as shares of a trace's keys.
const SHARES: [f64; 5] = [0.005, 0.01, 0.05, 0.1, 0.25];

fn hit_ratio(kind: PolicyKind, capacity: usize, requests: &[u64]) -> f64 {
    let mut cache: Cache<u64, ()> = Cache::new(Limits::entries(capacity), kind);
    let mut out = Removals::new();
    let mut hits = 0;
    for (now, &key) in requests.iter().enumerate() {
        if let Some(slot) = cache.find(key, |&other| other == key) {
            cache.touch(slot);
            hits += 1;
        } else {
            // As with a default time to live that nothing reaches.
            let new = New { expires: now as u64 + (1 << 40), ..New::at(now as u64) };
            cache.insert(key, key, (), new, &mut out);
            out.clear();
        }
    }
    100.0 * f64::from(hits) / requests.len() as f64
}

fn main() {
    print!("{:18}{:>8}", "hit ratio in %", "entries");
    PolicyKind::ALL.iter().for_each(|kind| print!("{:>10}", kind.as_str()));
    println!("{:>16}", "adaptive - best");
    for trace in traces::all() {
        for share in SHARES {
            let capacity = (trace.keys as f64 * share) as usize;
            let ratios = PolicyKind::ALL.map(|kind| hit_ratio(kind, capacity, &trace.requests));
            print!("{:18}{capacity:>8}", trace.name);
            let (mut adaptive, mut best) = (0.0, 0.0);
            for (kind, ratio) in PolicyKind::ALL.into_iter().zip(ratios) {
                print!("{ratio:>10.2}");
                if kind == PolicyKind::Adaptive {
                    adaptive = ratio;
                } else {
                    best = f64::max(best, ratio);
                }
            }
            println!("{:>+16.2}", adaptive - best);
        }
    }
}
