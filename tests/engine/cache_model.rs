//! Random operations on the cache engine against a model that searches and sorts plain vectors.

use proptest::prelude::*;
use upshift::cache::{Cache, Label, LabelId, Limits, New, PolicyKind, Reason, Removals, Slot};
use upshift::support::clock::NEVER;

type Key = u8;
type Value = u32;
type Alias = u16;

/// Few different hashes, shared between keys and aliases: every lookup meets strangers.
fn hash(of: u16) -> u64 {
    u64::from(of % 7) << 32
}

#[derive(Clone, Debug)]
struct Item {
    key: Key,
    value: Value,
    expires: u64,
    grace: u64,
    created: u64,
    accesses: u32,
    weight: u64,
    cost: f32,
    labels: Vec<Label>,
    alias: Option<Alias>,
    // What the policies go by: uses for LFU and cost, and the place in the order.
    uses: u32,
    primary: u64,
    stamp: u64,
}

impl Item {
    fn deadline(&self) -> u64 {
        self.expires.saturating_add(self.grace)
    }
}

/// Everything about a value to store.
#[derive(Clone, Debug)]
struct Spec {
    ttl: Option<u64>,
    grace: u64,
    weight: u64,
    cost: f32,
    labels: Vec<Label>,
    alias: Option<u16>,
}

#[derive(Clone, Debug)]
enum Op {
    Set(Key, Spec),
    Touch(Key),
    Remove(Key),
    Renew(Key, Option<u64>, u64),
    Wait(u64),
    Expire,
    Scan(Key),
    RemoveLabelled(Label),
    Limits(usize, Option<u64>),
    Policy(PolicyKind),
    Intern(Label),
    Clear,
}

struct Model {
    items: Vec<Item>,
    limits: Limits,
    policy: PolicyKind,
    inflation: f64,
    stamp: u64,
}

impl Model {
    fn position(&self, key: Key) -> Option<usize> {
        self.items.iter().position(|item| item.key == key)
    }

    fn bytes(&self) -> u64 {
        self.items.iter().map(|item| item.weight).sum()
    }

    /// Where an item goes in the order after an event; `stored` for a new value, otherwise a use.
    fn place(&mut self, at: usize, stored: bool) {
        self.stamp += 1;
        let (stamp, inflation, policy) = (self.stamp, self.inflation, self.policy);
        let item = &mut self.items[at];
        match policy {
            PolicyKind::Lru | PolicyKind::Adaptive => (item.primary, item.stamp) = (0, stamp),
            PolicyKind::Fifo if stored => (item.primary, item.stamp) = (0, stamp),
            PolicyKind::Fifo => {}
            PolicyKind::Lfu => (item.primary, item.stamp) = (u64::from(item.uses), stamp),
            PolicyKind::Ttl if stored || item.expires == NEVER => (item.primary, item.stamp) = (item.expires, stamp),
            PolicyKind::Ttl => {}
            PolicyKind::Cost => {
                let worth = f64::from(item.cost) / item.weight.max(1) as f64;
                item.primary = (inflation + f64::from(item.uses) * worth).to_bits();
                item.stamp = stamp;
            }
        }
    }

    fn order(&self) -> Vec<Key> {
        let mut items: Vec<&Item> = self.items.iter().collect();
        items.sort_by_key(|item| (item.primary, item.stamp));
        items.iter().map(|item| item.key).collect()
    }
}

struct Both {
    cache: Cache<Key, Value, Alias>,
    model: Model,
    now: u64,
    next_value: Value,
}

impl Both {
    fn new(limits: Limits, policy: PolicyKind) -> Self {
        let model = Model { items: Vec::new(), limits, policy, inflation: 0.0, stamp: 0 };
        Self { cache: Cache::new(limits, policy), model, now: 1_000, next_value: 0 }
    }

    fn find(&self, key: Key) -> Option<Slot> {
        self.cache.find(hash(key.into()), |&other| other == key)
    }

    /// Takes `out` from the model too, checking each removal.
    fn account(&mut self, out: Removals<Key, Value, Alias>, now: u64, newest: Option<Key>) {
        for removed in out {
            let key = removed.key.expect("only a replaced value leaves without its key");
            let at = self.model.position(key).expect("what leaves was in the cache");
            let item = self.model.items[at].clone();
            assert_eq!(removed.value, item.value);
            assert_eq!(removed.alias, item.alias);
            assert_eq!((removed.expires, removed.created), (item.expires, item.created));
            assert_eq!((removed.accesses, removed.weight), (item.accesses, item.weight));
            match removed.reason {
                Reason::Expired => assert!(item.deadline() <= now),
                Reason::Capacity | Reason::Bytes => {
                    let over = if removed.reason == Reason::Capacity {
                        self.model.items.len() > self.model.limits.entries
                    } else {
                        self.model.limits.bytes.is_some_and(|limit| self.model.bytes() > limit)
                    };
                    assert!(over, "evicted without need");
                    assert!(!self.model.items.iter().any(|item| item.deadline() <= now), "expired entries go first");
                    if self.model.policy != PolicyKind::Adaptive {
                        let coldest = self.model.order().into_iter().find(|&key| Some(key) != newest);
                        assert_eq!(Some(key), coldest, "the policy chose another");
                    }
                    self.model.inflation = self.model.inflation.max(f64::from_bits(item.primary));
                    assert_ne!(Some(key), newest, "the new entry was evicted");
                }
                _ => {}
            }
            self.model.items.remove(at);
        }
    }

    fn set(&mut self, key: Key, spec: Spec) {
        let mut out = Removals::new();
        let ids: Vec<LabelId> = spec.labels.iter().map(|label| self.cache.label(label.clone())).collect();
        let alias = spec.alias.map(|variant| u16::from(key) * 4 + variant % 4);
        let expires = spec.ttl.map_or(NEVER, |ttl| self.now + ttl);
        let new = New {
            expires,
            grace: spec.grace,
            weight: spec.weight,
            cost: spec.cost,
            labels: &ids,
            alias: alias.map(|alias| (hash(alias), alias)),
            ..New::at(self.now)
        };
        self.next_value += 1;
        let value = self.next_value;
        let stays = self.model.limits.entries > 0
            && self.model.limits.bytes.is_none_or(|limit| spec.weight <= limit)
            && expires.saturating_add(spec.grace) > self.now;
        let mut labels = spec.labels;
        labels.sort_by_key(|label| format!("{label:?}"));
        labels.dedup();
        let item = Item {
            key,
            value,
            expires,
            grace: spec.grace,
            created: self.now,
            accesses: 0,
            weight: spec.weight,
            cost: spec.cost,
            labels,
            alias,
            uses: 1,
            primary: 0,
            stamp: 0,
        };
        let Some(slot) = self.find(key) else {
            let inserted = self.cache.insert(hash(key.into()), key, value, new, &mut out);
            assert_eq!(inserted.is_some(), stays);
            if stays {
                self.model.items.push(item);
                self.account(out, self.now, Some(key));
                let at = self.model.position(key).expect("just inserted");
                self.model.place(at, true);
            } else {
                assert_eq!(out.len(), 1);
                assert_eq!((out[0].key, out[0].value, out[0].alias), (Some(key), value, alias));
            }
            return;
        };
        let at = self.model.position(key).expect("the cache has it");
        let uses = self.model.items[at].uses + 1;
        let (primary, stamp) = (self.model.items[at].primary, self.model.items[at].stamp);
        let old = std::mem::replace(&mut self.model.items[at], Item { uses, primary, stamp, ..item });
        let replaced = self.cache.replace(slot, value, new, &mut out);
        let first = out.remove(0);
        assert_eq!((first.key, first.value, first.alias), (None, old.value, old.alias));
        assert_eq!((first.reason, first.weight, first.accesses), (Reason::Replaced, old.weight, old.accesses));
        if stays {
            self.model.place(at, true);
            self.account(out, self.now, None);
            assert_eq!(replaced, self.find(key));
        } else {
            assert_eq!(replaced, None);
            assert_eq!((out.len(), out[0].key, out[0].value), (1, Some(key), value));
            self.model.items.remove(at);
        }
    }

    fn apply(&mut self, op: Op) {
        let mut out = Removals::new();
        match op {
            Op::Set(key, spec) => self.set(key, spec),
            Op::Touch(key) => {
                if let Some(slot) = self.find(key) {
                    self.cache.touch(slot);
                    let at = self.model.position(key).expect("the cache has it");
                    self.model.items[at].accesses += 1;
                    self.model.items[at].uses += 1;
                    self.model.place(at, false);
                }
            }
            Op::Remove(key) => {
                if let Some(slot) = self.find(key) {
                    out.push(self.cache.remove(slot, Reason::Deleted));
                    self.account(out, self.now, None);
                }
            }
            Op::Renew(key, ttl, grace) => {
                if let Some(slot) = self.find(key) {
                    let expires = ttl.map_or(NEVER, |ttl| self.now + ttl);
                    self.cache.renew(slot, expires, grace);
                    let at = self.model.position(key).expect("the cache has it");
                    (self.model.items[at].expires, self.model.items[at].grace) = (expires, grace);
                    if self.model.policy == PolicyKind::Ttl {
                        self.model.place(at, true);
                    }
                }
            }
            Op::Wait(time) => self.now += time,
            Op::Expire => {
                self.cache.expire(self.now, &mut out);
                assert!(out.iter().all(|removed| removed.reason == Reason::Expired));
                self.account(out, self.now, None);
                assert!(self.model.items.iter().all(|item| item.deadline() > self.now));
            }
            Op::Scan(part) => {
                self.cache.scan(&mut out, Reason::Invalidated, |key| key % 5 == part % 5);
                self.account(out, self.now, None);
                assert!(self.model.items.iter().all(|item| item.key % 5 != part % 5));
            }
            Op::RemoveLabelled(label) => {
                if let Some(id) = self.cache.find_label(&label) {
                    self.cache.remove_labelled(id, Reason::Invalidated, &mut out);
                }
                self.account(out, self.now, None);
                assert!(!self.model.items.iter().any(|item| item.labels.contains(&label)));
            }
            Op::Limits(entries, bytes) => {
                self.model.limits = Limits { entries, bytes };
                self.cache.set_limits(self.model.limits, &mut out);
                self.account(out, 0, None);
            }
            Op::Policy(kind) => {
                if kind != self.model.policy {
                    let order = self.cache.order();
                    let order: Vec<Key> = order.into_iter().map(|slot| self.cache.entry(slot).key).collect();
                    self.cache.set_policy(kind);
                    (self.model.policy, self.model.inflation) = (kind, 0.0);
                    for key in order {
                        let at = self.model.position(key).expect("the cache has it");
                        self.model.items[at].uses = self.model.items[at].accesses + 1;
                        self.model.place(at, true);
                    }
                }
            }
            Op::Intern(label) => {
                self.cache.label(label);
            }
            Op::Clear => {
                self.cache.clear(&mut out);
                self.account(out, self.now, None);
                self.model.inflation = 0.0;
                assert!(self.cache.is_empty());
            }
        }
    }

    fn compare(&self) {
        let (cache, model) = (&self.cache, &self.model);
        cache.validate();
        assert_eq!(cache.len(), model.items.len());
        assert_eq!(cache.bytes(), model.bytes());
        assert_eq!((cache.limits(), cache.policy()), (model.limits, model.policy));
        for item in &model.items {
            let slot = self.find(item.key).expect("in the model");
            let entry = cache.entry(slot);
            assert_eq!((entry.key, entry.value), (item.key, item.value));
            assert_eq!((entry.expires, entry.created, entry.accesses), (item.expires, item.created, item.accesses));
            assert_eq!((cache.weight(slot), cache.grace(slot)), (item.weight, item.grace));
            assert_eq!(cache.is_expired(slot, self.now), item.expires <= self.now);
            assert!(cache.candidates(hash(item.key.into())).contains(&slot));
            assert_eq!(cache.alias(slot), item.alias.as_ref());
            if let Some(alias) = item.alias {
                assert_eq!(cache.find_alias(hash(alias), |&other| other == alias), Some(slot));
                assert!(cache.alias_candidates(hash(alias)).contains(&slot));
            }
            let mut labels: Vec<&Label> = cache.labels_of(slot).filter_map(|id| cache.label_of(id)).collect();
            labels.sort_by_key(|label| format!("{label:?}"));
            assert!(labels.into_iter().eq(&item.labels));
        }
        let mut tags: Vec<&Label> =
            model.items.iter().flat_map(|item| &item.labels).filter(|label| matches!(label, Label::Tag(_))).collect();
        tags.sort_by_key(|label| format!("{label:?}"));
        tags.dedup();
        assert_eq!(cache.tag_count(), tags.len());
        let order: Vec<Key> = cache.order().into_iter().map(|slot| cache.entry(slot).key).collect();
        if model.policy == PolicyKind::Adaptive {
            assert_eq!(order.len(), model.items.len());
        } else {
            assert_eq!(order, model.order());
        }
        for ending in ["a:", "aa:", ":"] {
            let mut heads: Vec<Option<&Label>> =
                cache.heads_ending_with(ending).into_iter().map(|id| cache.label_of(id)).collect();
            heads.retain(|label| label.is_some_and(|label| model.items.iter().any(|item| item.labels.contains(label))));
            let mut expected: Vec<&Label> = model
                .items
                .iter()
                .flat_map(|item| &item.labels)
                .filter(|label| matches!(label, Label::Head(text) if text.ends_with(ending)))
                .collect();
            expected.sort_by_key(|label| format!("{label:?}"));
            expected.dedup();
            assert_eq!(heads.len(), expected.len());
        }
    }
}

fn label() -> impl Strategy<Value = Label> {
    prop_oneof![
        (0..4u8).prop_map(|n| Label::Tag(format!("t{n}").into())),
        prop::sample::select(vec!["a:", "aa:", "ba:", "b:", "aab:"]).prop_map(|text| Label::Head(text.into())),
        (0..3u64).prop_map(Label::Group),
    ]
}

fn ttl() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![2 => Just(None), 4 => (0..40u64).prop_map(Some), 2 => (0..20_000u64).prop_map(Some)]
}

fn spec() -> impl Strategy<Value = Spec> {
    let weight = prop_oneof![6 => 0..30u64, 1 => Just(u64::from(u32::MAX)), 1 => Just(1 << 40)];
    let cost = prop_oneof![Just(1.0), 0.0..50.0f32];
    let grace = prop_oneof![3 => Just(0), 1 => 0..30u64];
    let labels = prop::collection::vec(label(), 0..4);
    (ttl(), grace, weight, cost, labels, prop::option::of(any::<u16>()))
        .prop_map(|(ttl, grace, weight, cost, labels, alias)| Spec { ttl, grace, weight, cost, labels, alias })
}

fn limits() -> impl Strategy<Value = (usize, Option<u64>)> {
    (0..12usize, prop_oneof![Just(None), (0..120u64).prop_map(Some), Just(Some(1 << 41))])
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0..20u8;
    prop_oneof![
        30 => (key.clone(), spec()).prop_map(|(key, spec)| Op::Set(key, spec)),
        30 => key.clone().prop_map(Op::Touch),
        4 => key.clone().prop_map(Op::Remove),
        3 => (key.clone(), ttl(), 0..30u64).prop_map(|(key, ttl, grace)| Op::Renew(key, ttl, grace)),
        8 => prop_oneof![0..8u64, 0..3000u64].prop_map(Op::Wait),
        4 => Just(Op::Expire),
        1 => key.prop_map(Op::Scan),
        3 => label().prop_map(Op::RemoveLabelled),
        2 => limits().prop_map(|(entries, bytes)| Op::Limits(entries, bytes)),
        1 => label().prop_map(Op::Intern),
        1 => Just(Op::Clear),
    ]
}

fn kind() -> impl Strategy<Value = PolicyKind> {
    prop::sample::select(PolicyKind::ALL.to_vec())
}

fn run(policy: PolicyKind, (entries, bytes): (usize, Option<u64>), ops: Vec<Op>) {
    let mut both = Both::new(Limits { entries, bytes }, policy);
    for op in ops {
        both.apply(op);
        both.compare();
    }
}

macro_rules! every_policy {
    ($($name:ident: $kind:expr,)*) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(150))]
            $(
                #[test]
                fn $name(limits in limits(), ops in prop::collection::vec(op(), 1..120)) {
                    run($kind, limits, ops);
                }
            )*

            #[test]
            fn switching_policies(
                kind in kind(),
                limits in limits(),
                ops in prop::collection::vec(prop_oneof![8 => op(), 1 => self::kind().prop_map(Op::Policy)], 1..120),
            ) {
                run(kind, limits, ops);
            }
        }
    };
}

every_policy! {
    lru: PolicyKind::Lru,
    lfu: PolicyKind::Lfu,
    fifo: PolicyKind::Fifo,
    ttl_policy: PolicyKind::Ttl,
    adaptive: PolicyKind::Adaptive,
    cost: PolicyKind::Cost,
}
