//! Request traces with fixed seeds, shared by the benches.

/// SplitMix64: small, fast, and the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// Uniform in 0..1.
    pub fn unit(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Spreads the bits of `x` over the whole word: a hash for integer keys.
#[inline]
pub fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Ranks from 0, the most popular, with probability proportional to 1 / (rank + 1)^s.
pub struct Zipf(Vec<f64>);

impl Zipf {
    pub fn new(ranks: usize, s: f64) -> Self {
        let mut sum = 0.0;
        let mut table: Vec<f64> = (1..=ranks)
            .map(|rank| {
                sum += (rank as f64).powf(-s);
                sum
            })
            .collect();
        table.iter_mut().for_each(|share| *share /= sum);
        Self(table)
    }

    pub fn sample(&self, random: &mut Random) -> u64 {
        let at = random.unit();
        self.0.partition_point(|&share| share < at) as u64
    }
}

pub struct Trace {
    pub name: &'static str,
    /// What capacities are a share of.
    pub keys: usize,
    pub requests: Vec<u64>,
}

const KEYS: usize = 50_000;
const REQUESTS: usize = 1_000_000;

pub fn zipf(name: &'static str, s: f64) -> Trace {
    let (zipf, mut random) = (Zipf::new(KEYS, s), Random(1));
    Trace { name, keys: KEYS, requests: (0..REQUESTS).map(|_| mix(zipf.sample(&mut random))).collect() }
}

/// Zipf(1.0), interrupted by scans over keys that never come again: one request in three.
pub fn scan() -> Trace {
    let (zipf, mut random) = (Zipf::new(KEYS, 1.0), Random(2));
    let mut requests = Vec::with_capacity(REQUESTS);
    let mut stranger = 1 << 32;
    while requests.len() < REQUESTS {
        requests.extend((0..20_000).map(|_| mix(zipf.sample(&mut random))));
        requests.extend((0..10_000).map(|_| {
            stranger += 1;
            mix(stranger)
        }));
    }
    Trace { name: "zipf 1.0 + scans", keys: KEYS, requests }
}

/// All keys in turn, again and again: what is least recent is needed next.
pub fn looping() -> Trace {
    Trace { name: "loop", keys: KEYS, requests: (0..REQUESTS).map(|i| mix((i % KEYS) as u64)).collect() }
}

/// Zipf(1.0) over keys that are all exchanged every 100,000 requests: what was popular is never asked for again.
pub fn shifting() -> Trace {
    let (zipf, mut random) = (Zipf::new(KEYS, 1.0), Random(3));
    let key = |i: usize, random: &mut Random| mix(((i / 100_000) as u64) << 32 | zipf.sample(random));
    Trace { name: "shifting", keys: KEYS, requests: (0..REQUESTS).map(|i| key(i, &mut random)).collect() }
}

/// Zipf(1.0) by age: a new key every fifth request, the newest the most popular. Popularity fades all the time.
pub fn drifting() -> Trace {
    let (zipf, mut random) = (Zipf::new(KEYS, 1.0), Random(4));
    let key = |i: usize, random: &mut Random| mix((KEYS + i / 5) as u64 - zipf.sample(random));
    Trace { name: "drifting", keys: KEYS, requests: (0..REQUESTS).map(|i| key(i, &mut random)).collect() }
}

pub fn all() -> Vec<Trace> {
    vec![zipf("zipf 0.8", 0.8), zipf("zipf 1.0", 1.0), scan(), looping(), shifting(), drifting()]
}
