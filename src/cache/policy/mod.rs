//! Eviction policies: which entry goes when the cache is over a limit.
//!
//! A policy is bookkeeping only, over slots: no lock, no clock, no I/O, no keys or values. The cache tells it what
//! happens and asks for victims; [`Policy`] chooses the implementation with one `match`, so calls are static and
//! inline.
//!
//! | policy | victim | cost per operation | memory per entry |
//! |---|---|---|---|
//! | [`lru`] | least recently used | O(1) | 8 bytes |
//! | [`lfu`] | least often used, least recent among equals | O(1) | 12 bytes |
//! | [`fifo`] | stored first | O(1) | 8 bytes |
//! | [`ttl`] | soonest to expire | O(log n) | 20 bytes |
//! | [`cost`] | cheapest to compute again for its size and use | O(log n) | 36 bytes |
//! | [`adaptive`] | by recency and frequency, whichever hits more | O(1) | 22 to 30 bytes |

mod adaptive;
mod cost;
mod duel;
mod fifo;
mod lfu;
mod lru;
mod segments;
mod sketch;
mod ttl;

use std::fmt;
use std::str::FromStr;

use adaptive::Adaptive;
use cost::Cost;
use fifo::Fifo;
use lfu::Lfu;
use lru::Lru;
use ttl::Ttl;

/// The policies by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PolicyKind {
    #[default]
    Lru,
    Lfu,
    Fifo,
    Ttl,
    Adaptive,
    Cost,
}

impl PolicyKind {
    pub const ALL: [Self; 6] = [Self::Lru, Self::Lfu, Self::Fifo, Self::Ttl, Self::Adaptive, Self::Cost];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lru => "lru",
            Self::Lfu => "lfu",
            Self::Fifo => "fifo",
            Self::Ttl => "ttl",
            Self::Adaptive => "adaptive",
            Self::Cost => "cost",
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of a policy was not one of [`PolicyKind::ALL`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown policy {0:?}; use one of \"lru\", \"lfu\", \"fifo\", \"ttl\", \"adaptive\", \"cost\"")]
pub struct UnknownPolicy(pub String);

impl FromStr for PolicyKind {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name).ok_or_else(|| UnknownPolicy(name.to_owned()))
    }
}

/// What a policy may know of an entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub hash: u32,
    /// Uses before now: not zero only for entries handed over by another policy.
    pub accesses: u32,
    pub expires: u64,
    pub weight: u64,
    pub cost: f32,
}

/// The operations of a policy. Slots are those of the cache; each is inserted once and removed once.
pub(super) trait Evict: Default {
    /// A new entry; the hottest where order of arrival matters.
    fn insert(&mut self, slot: u32, facts: &Facts);
    /// The entry was used.
    fn access(&mut self, slot: u32, hash: u32);
    /// The entry has a new value: as if used, and its facts may have changed.
    fn update(&mut self, slot: u32, facts: &Facts);
    /// The entry leaves, for whatever reason.
    fn remove(&mut self, slot: u32);
    /// The entry to evict, `None` only if there is none. It must be removed next, because choosing may count as a loss.
    fn victim(&mut self) -> Option<u32>;
    /// All entries, the first to go first, as far as that can be told.
    fn order(&self) -> Vec<u32>;
    /// Estimated bytes on the heap.
    fn heap_bytes(&self) -> usize;
    /// Panics on a broken invariant.
    fn validate(&self);
}

#[derive(Debug)]
pub(super) enum Policy {
    Lru(Lru),
    Lfu(Lfu),
    Fifo(Fifo),
    Ttl(Ttl),
    Adaptive(Box<Adaptive>),
    Cost(Cost),
}

macro_rules! each {
    ($policy:expr, $p:ident => $call:expr) => {
        match $policy {
            Policy::Lru($p) => $call,
            Policy::Lfu($p) => $call,
            Policy::Fifo($p) => $call,
            Policy::Ttl($p) => $call,
            Policy::Adaptive($p) => $call,
            Policy::Cost($p) => $call,
        }
    };
}

impl Policy {
    pub fn new(kind: PolicyKind) -> Self {
        match kind {
            PolicyKind::Lru => Self::Lru(Lru::default()),
            PolicyKind::Lfu => Self::Lfu(Lfu::default()),
            PolicyKind::Fifo => Self::Fifo(Fifo::default()),
            PolicyKind::Ttl => Self::Ttl(Ttl::default()),
            PolicyKind::Adaptive => Self::Adaptive(Box::default()),
            PolicyKind::Cost => Self::Cost(Cost::default()),
        }
    }

    #[inline]
    pub fn kind(&self) -> PolicyKind {
        match self {
            Self::Lru(_) => PolicyKind::Lru,
            Self::Lfu(_) => PolicyKind::Lfu,
            Self::Fifo(_) => PolicyKind::Fifo,
            Self::Ttl(_) => PolicyKind::Ttl,
            Self::Adaptive(_) => PolicyKind::Adaptive,
            Self::Cost(_) => PolicyKind::Cost,
        }
    }

    #[inline]
    pub fn insert(&mut self, slot: u32, facts: &Facts) {
        each!(self, p => p.insert(slot, facts));
    }

    #[inline]
    pub fn access(&mut self, slot: u32, hash: u32) {
        each!(self, p => p.access(slot, hash));
    }

    #[inline]
    pub fn update(&mut self, slot: u32, facts: &Facts) {
        each!(self, p => p.update(slot, facts));
    }

    #[inline]
    pub fn remove(&mut self, slot: u32) {
        each!(self, p => p.remove(slot));
    }

    #[inline]
    pub fn victim(&mut self) -> Option<u32> {
        each!(self, p => p.victim())
    }

    pub fn order(&self) -> Vec<u32> {
        each!(self, p => p.order())
    }

    pub fn heap_bytes(&self) -> usize {
        each!(self, p => p.heap_bytes())
    }

    pub fn validate(&self) {
        each!(self, p => p.validate());
    }
}
