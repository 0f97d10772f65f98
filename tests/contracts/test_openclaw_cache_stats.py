"""Contract openclaw §2.4: statistics, on both tiers."""

from __future__ import annotations

import pytest

from upshift.testing import travel

KEYS = {
    "size",
    "max_size",
    "hits",
    "misses",
    "hit_rate",
    "evictions",
    "expirations",
    "sets",
    "deletes",
    "tags_count",
    "total_requests",
}


def test_a_fresh_cache(make_cache):  # openclaw §2.4
    stats = make_cache(max_size=7).get_stats()
    assert set(stats) >= KEYS
    assert {name: stats[name] for name in KEYS} == {**dict.fromkeys(KEYS, 0), "max_size": 7}


def test_types(cache):  # openclaw §2.4 "All int except hit_rate"
    cache.set("a", 1)
    cache.get("a")
    stats = cache.get_stats()
    assert type(stats) is dict
    assert type(stats["hit_rate"]) is float
    assert {type(stats[name]) for name in KEYS - {"hit_rate"}} == {int}


def test_the_result_is_a_snapshot(cache):  # openclaw §2.4
    stats = cache.get_stats()
    stats["hits"] = 99
    cache.get("a")
    assert stats["misses"] == 0
    assert cache.get_stats()["hits"] == 0


@pytest.mark.parametrize(
    ("hits", "misses", "rate"),
    [(0, 0, 0), (1, 0, 1.0), (0, 1, 0.0), (1, 2, 0.333), (2, 1, 0.667), (1, 1, 0.5), (1, 999, 0.001)],
)
def test_hit_rate_is_rounded_to_three_decimals(cache, hits, misses, rate):  # openclaw §2.4
    cache.set("a", 1)
    for _ in range(hits):
        cache.get("a")
    for _ in range(misses):
        cache.get("b")
    stats = cache.get_stats()
    assert stats["hit_rate"] == rate
    assert stats["total_requests"] == hits + misses == stats["hits"] + stats["misses"]


@pytest.mark.parametrize(("n", "m"), [(10, 3), (1000, 100), (5, 5), (3, 10), (2, 1)])
def test_n_distinct_keys_in_a_cache_of_m(make_cache, n, m):  # openclaw §2.4
    cache = make_cache(max_size=m)
    for i in range(n):
        cache.set(f"k{i}", i)
    stats = cache.get_stats()
    kept = min(n, m)
    assert (stats["size"], stats["evictions"], stats["sets"]) == (kept, n - kept, n)
    assert list(cache.cache) == [f"k{i}" for i in range(n - kept, n)]


def test_any_policy_keeps_to_the_limit(make_cache, policy):  # openclaw §2.4, one suite per policy
    cache = make_cache(max_size=10, policy=policy)
    for i in range(100):
        cache.set(f"k{i}", i)
    stats = cache.get_stats()
    assert (stats["size"], stats["evictions"], stats["sets"], stats["policy"]) == (10, 90, 100, policy)
    assert len(cache.cache) == 10


def test_tags_count_counts_tags_with_a_live_entry(cache):  # openclaw §2.4, C7
    def count():
        return cache.get_stats()["tags_count"]

    cache.set("a", 1, ttl=10, tags=["x", "y"])
    cache.set("b", 1, ttl=100, tags=["y", "z"])
    assert count() == 3
    cache.set("a", 1, ttl=10, tags=["x"])
    assert count() == 3
    cache.delete("b")
    assert count() == 1
    cache.set("b", 1, ttl=100, tags=["z"])
    travel(50)
    cache.get("a")
    assert count() == 1
    cache.invalidate_by_tag("z")
    assert count() == 0


def test_evicted_entries_leave_their_tags(make_cache):  # openclaw §2.4, C7
    cache = make_cache(max_size=2)
    for i in range(10):
        cache.set(f"k{i}", i, tags=[f"t{i}", "all"])
    assert dict(cache.tags) == {"t8": {"k8"}, "t9": {"k9"}, "all": {"k8", "k9"}}


def test_expirations_are_no_evictions(make_cache):  # openclaw §2.4
    cache = make_cache(max_size=2)
    cache.set("dead", 1, ttl=10)
    cache.set("live", 1, ttl=100)
    travel(50)
    cache.set("new", 1)
    stats = cache.get_stats()
    assert (stats["evictions"], stats["size"]) == (0, 2)
    assert "live" in cache
    assert "new" in cache


def test_what_counts_where(cache):  # openclaw §2.1, §2.4
    cache.set("a", 1)
    cache.set("a", 2)
    cache.warmup({"b": 1, "c": 2})
    cache.get("a")
    cache.get("zzz")
    cache.delete("a")
    cache.delete("a")
    cache.invalidate_pattern("b")
    cache.clear()
    stats = cache.get_stats()
    counted = {name: stats[name] for name in ("sets", "hits", "misses", "deletes", "evictions", "expirations")}
    assert counted == {"sets": 4, "hits": 1, "misses": 1, "deletes": 2, "evictions": 0, "expirations": 0}
