//! What the cache stores, what callers hand in, and what leaves.

use std::fmt;
use std::num::NonZeroU32;

use smallvec::SmallVec;

use super::labels::{LabelId, Mark};
use crate::support::clock::NEVER;

/// The place of an entry. Valid until that entry leaves; then another entry may take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub(super) u32);

impl Slot {
    /// A number unique among the entries present, for callers that keep notes beside the cache.
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One entry. Readable as a whole; only the cache changes it.
#[derive(Debug)]
pub struct Entry<K, V> {
    pub key: K,
    pub value: V,
    /// When the value stops being fresh, in nanoseconds; [`NEVER`] if it does not.
    pub expires: u64,
    /// The `now` given when the value was stored.
    pub created: u64,
    pub(super) hash: u32,
    /// Calls of `touch` since the value was stored; stops at the maximum.
    pub accesses: u32,
    /// `u32::MAX`: too large, see [`Extra::weight`].
    pub(super) weight: u32,
    pub(super) extra: ExtraId,
}

/// Index of an [`Extra`], or none. Never zero, which leaves the slab a value to mark vacant cells with, so that they
/// cost no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ExtraId(NonZeroU32);

impl ExtraId {
    pub const NONE: Self = Self(NonZeroU32::MAX);

    #[inline]
    pub fn new(index: u32) -> Self {
        Self(NonZeroU32::MIN.saturating_add(index))
    }

    #[inline]
    pub fn get(self) -> Option<u32> {
        if self == Self::NONE { None } else { Some(self.0.get() - 1) }
    }
}

/// What most entries do not have.
#[derive(Debug)]
pub(super) struct Extra {
    pub grace: u64,
    pub weight: u64,
    /// Sorted by label.
    pub marks: SmallVec<[Mark; 2]>,
    pub cost: f32,
}

impl Extra {
    /// Whether an entry described by `new` needs one.
    #[inline]
    pub fn needed<A>(new: &New<'_, A>) -> bool {
        new.grace != 0 || new.weight >= u64::from(u32::MAX) || new.cost != DEFAULT_COST || !new.labels.is_empty()
    }
}

pub(super) const DEFAULT_COST: f32 = 1.0;

/// Everything about a value to be stored except key and value. Start from [`New::at`].
#[derive(Debug)]
pub struct New<'a, A = ()> {
    /// The present time, in nanoseconds on the caller's clock. Must not run backwards.
    pub now: u64,
    /// When the value stops being fresh; [`NEVER`] if it does not.
    pub expires: u64,
    /// Nanoseconds to keep the entry after `expires`, for callers that serve stale values.
    pub grace: u64,
    /// Counts against [`Limits::bytes`](super::Limits::bytes).
    pub weight: u64,
    /// What it takes to compute the value again, in any unit, for the cost policy. Negative or NaN counts as 0.
    pub cost: f32,
    /// Repetitions are ignored.
    pub labels: &'a [LabelId],
    /// A second key under its own hash, found by `find_alias`.
    pub alias: Option<(u64, A)>,
}

impl<A> New<'_, A> {
    /// Never expires, weighs nothing, costs 1, no labels, no alias.
    #[inline]
    pub fn at(now: u64) -> Self {
        Self { now, expires: NEVER, grace: 0, weight: 0, cost: DEFAULT_COST, labels: &[], alias: None }
    }

    /// When the entry has to go.
    #[inline]
    pub(super) fn deadline(&self) -> u64 {
        self.expires.saturating_add(self.grace)
    }
}

/// Why something left the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Chosen by the policy because of [`Limits::entries`](super::Limits::entries).
    Capacity,
    /// Chosen by the policy because of [`Limits::bytes`](super::Limits::bytes), or heavier than that alone.
    Bytes,
    /// Past `expires` and `grace`.
    Expired,
    /// A new value took its place under the same key.
    Replaced,
    /// Removed by key.
    Deleted,
    /// Removed by label or pattern.
    Invalidated,
    /// Everything was removed.
    Cleared,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Capacity => "capacity",
            Self::Bytes => "bytes",
            Self::Expired => "expired",
            Self::Replaced => "replaced",
            Self::Deleted => "deleted",
            Self::Invalidated => "invalidated",
            Self::Cleared => "cleared",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What left. The cache never drops a key, value or alias itself, so that callers choose where that happens.
#[derive(Debug)]
pub struct Removed<K, V, A = ()> {
    /// `None` with [`Reason::Replaced`]: the key is still in the cache.
    pub key: Option<K>,
    pub value: V,
    pub alias: Option<A>,
    pub reason: Reason,
    pub expires: u64,
    pub created: u64,
    pub accesses: u32,
    pub weight: u64,
}

/// Collects what leaves; one removal needs no allocation.
pub type Removals<K, V, A = ()> = SmallVec<[Removed<K, V, A>; 1]>;
