"""Contract openclaw §2.1: how long entries live, loading, cleaning and closing, on both tiers."""

from __future__ import annotations

import logging
import sqlite3
from collections import OrderedDict

import pytest

from upshift.testing import travel

YEAR = 365 * 24 * 3600.0


# --- lifetimes


def test_an_entry_lives_exactly_its_ttl(cache):  # openclaw §2.1, §2.2
    cache.set("key", 1, ttl=100)
    travel(90)
    assert cache.get("key") == 1
    travel(10)
    assert cache.get("key") is None


def test_ttl_none_means_the_default(make_cache):  # openclaw §2.1
    cache = make_cache(default_ttl=100)
    cache.set("key", 1)
    cache.set("own", 1, ttl=1000)
    travel(101)
    assert cache.get("key") is None
    assert cache.get("own") == 1


@pytest.mark.parametrize("default_ttl", [0, 0.0])
def test_default_ttl_zero_never_expires(make_cache, default_ttl):  # openclaw §2.1
    cache = make_cache(default_ttl=default_ttl)
    cache.set("key", 1)
    assert cache.cache["key"][1] is None
    travel(YEAR)
    assert cache.get("key") == 1


def test_ttl_zero_never_expires(make_cache):  # openclaw §2.1
    cache = make_cache(default_ttl=10)
    cache.set("key", 1, ttl=0)
    travel(YEAR)
    assert cache.get("key") == 1


def test_a_float_ttl_is_not_rounded(make_cache):  # openclaw §2.1 "int or float"
    cache = make_cache(default_ttl=1000.9)
    cache.set("default", 1)
    cache.set("own", 1, ttl=2000.9)
    travel(1000.0)
    assert cache.get("default") == 1
    travel(1.0)
    assert cache.get("default") is None
    assert cache.get("own") == 1
    travel(1000.0)
    assert cache.get("own") is None


def test_a_fraction_of_a_second_is_not_zero(cache):  # openclaw §2.1: 0.5 is not "never expires"
    cache.set("key", 1, ttl=0.5)
    travel(1)
    assert cache.get("key") is None


@pytest.mark.parametrize("ttl", [-1, -0.001])
def test_a_negative_ttl_is_already_expired(cache, ttl):  # openclaw §2.1, C15
    cache.set("key", "old", tags=["t"])
    cache.set("key", "new", ttl=ttl, tags=["t"])
    assert cache.get("key") is None
    assert "key" not in cache
    stats = cache.get_stats()
    assert (stats["sets"], stats["size"], stats["tags_count"]) == (2, 0, 0)


def test_a_negative_default_ttl_is_already_expired(make_cache):  # openclaw §2.1, C15
    cache = make_cache(default_ttl=-1)
    cache.set("key", 1)
    assert cache.get("key") is None
    cache.set("key", 1, ttl=10)
    assert cache.get("key") == 1


@pytest.mark.parametrize("ttl", ["10", [], object()], ids=["str", "list", "object"])
def test_a_ttl_that_is_no_number_raises_and_changes_nothing(cache, ttl):  # openclaw §2.1 "int or float"
    cache.set("key", "old")
    with pytest.raises(TypeError):
        cache.set("key", "new", ttl=ttl)
    assert cache.get("key") == "old"
    assert cache.get_stats()["sets"] == 1


@pytest.mark.parametrize("ttl", [10**9, 10**12, 10**30, float("inf"), 1e300])
def test_a_huge_ttl_is_far_in_the_future(cache, ttl):  # openclaw §2.1
    cache.set("key", 1, ttl=ttl)
    travel(1000)
    assert cache.get("key") == 1


def test_set_restarts_the_lifetime(cache):  # openclaw §2.1 "replaces expiry"
    cache.set("key", 1, ttl=100)
    travel(90)
    cache.set("key", 2, ttl=100)
    travel(90)
    assert cache.get("key") == 2
    travel(10)
    assert cache.get("key") is None


def test_a_hit_does_not_prolong_the_lifetime(cache):  # openclaw §2.1
    cache.set("key", 1, ttl=100)
    for _ in range(3):
        travel(30)
        assert cache.get("key") == 1
    travel(30)
    assert cache.get("key") is None


def test_an_expired_get_removes_the_entry_everywhere(cache):  # openclaw §2.1 get, C7
    cache.set("key", 1, ttl=10, tags=["t"])
    travel(11)
    assert cache.get("key", "default") == "default"
    stats = cache.get_stats()
    assert (stats["expirations"], stats["misses"], stats["hits"]) == (1, 1, 0)
    assert (stats["size"], stats["tags_count"]) == (0, 0)
    cache.get("key")
    assert cache.get_stats()["expirations"] == 1


def test_an_expired_get_removes_the_disk_row_and_its_tags(open_cache, rows):  # openclaw §2.1 get
    cache = open_cache()
    cache.set("key", 1, ttl=10, tags=["t"])
    assert cache.flush()
    assert rows() == ["key"]
    travel(11)
    cache.get("key")
    assert cache.flush()
    assert rows() == []
    assert rows("SELECT tag FROM cache_tags") == []


def test_promotion_from_disk_keeps_the_remaining_lifetime_and_tags(open_cache):  # openclaw §2.1 get
    cache = open_cache()
    cache.set("key", [1], ttl=100, tags=["t"])
    cache.close()
    cache = open_cache(max_size=2)
    cache.warmup({"a": 1, "b": 2})
    travel(60)
    assert cache.get("key") == [1]
    stats = cache.get_stats()
    assert (stats["hits"], stats["misses"], stats["evictions"]) == (1, 0, 1)
    assert list(cache.cache) == ["b", "key"]
    assert dict(cache.tags) == {"t": {"key"}}
    travel(50)
    assert cache.get("key") is None


def test_a_dead_row_on_disk_is_a_miss(open_cache):  # openclaw §2.1 get
    cache = open_cache()
    cache.set("key", 1, ttl=100)
    cache.close()
    cache = open_cache()
    travel(101)
    assert cache.get("key", "default") == "default"
    assert "key" not in cache
    assert cache.get_stats()["misses"] == 1


def test_cleanup_expired(cache):  # openclaw §2.1
    for i in range(3):
        cache.set(f"dead{i}", i, ttl=10, tags=["t"])
    cache.set("live", 1, ttl=100, tags=["t", "u"])
    cache.set("immortal", 1, ttl=0)
    assert cache.cleanup_expired() == 0
    travel(50)
    assert cache.cleanup_expired() == 3
    stats = cache.get_stats()
    assert (stats["expirations"], stats["size"], stats["tags_count"]) == (3, 2, 2)
    assert dict(cache.tags) == {"t": {"live"}, "u": {"live"}}
    assert cache.cleanup_expired() == 0


def test_cleanup_expired_counts_a_key_of_both_tiers_once(open_cache, rows):  # openclaw §2.1 "distinct keys"
    cache = open_cache(max_size=2)
    for key in "abc":  # "a" is evicted, so only on disk
        cache.set(key, 1, ttl=10, tags=["t"])
    cache.set("live", 1, ttl=100)
    travel(50)
    assert cache.cleanup_expired() == 3
    assert cache.get_stats()["expirations"] == 3
    assert cache.flush()
    assert rows() == ["live"]
    assert rows("SELECT cache_key FROM cache_tags") == []


# --- warmup, preload


@pytest.mark.parametrize("mapping", [dict, OrderedDict])
def test_warmup_sets_each_pair(cache, mapping):  # openclaw §2.1
    assert cache.warmup(mapping([("a", 1), ("b", 2)])) is None
    assert (cache.get("a"), cache.get("b")) == (1, 2)
    assert cache.get_stats()["sets"] == 2


def test_warmup_honours_ttl(cache):  # openclaw §2.1
    cache.warmup({"a": 1}, ttl=10)
    travel(11)
    assert cache.get("a") is None


def test_preload_takes_the_most_recently_accessed_first(open_cache, rows, db_path):  # openclaw §2.1 [X], §9.10
    cache = open_cache()
    cache.warmup({f"k{i}": i for i in range(6)})
    cache.close()
    connection = sqlite3.connect(str(db_path))
    for i in range(6):
        connection.execute(
            "UPDATE result_cache SET last_accessed = datetime('now', ?) WHERE cache_key = ?",
            (f"-{(i * 2) % 5 + 1} days", f"k{i}"),
        )
    connection.commit()
    connection.close()
    wanted = rows("SELECT cache_key FROM result_cache ORDER BY last_accessed DESC LIMIT 3")
    cache = open_cache()
    assert cache.preload(3) == 3
    assert set(cache.cache) == set(wanted)


def test_preload_without_a_limit_stops_at_max_size(open_cache):  # openclaw §2.1 [X] "at most max_size"
    cache = open_cache()
    cache.warmup({f"k{i}": i for i in range(10)})
    cache.set("dead", 0, ttl=-1)
    cache.close()
    small = open_cache(max_size=4)
    assert small.preload() == 4
    assert len(small) == 4
    small.close()
    large = open_cache()
    assert large.preload() == 10
    assert large.preload(0) == 0
    assert {key: entry[0] for key, entry in large.cache.items()} == {f"k{i}": i for i in range(10)}


def test_preloaded_entries_keep_lifetime_and_tags(open_cache):  # openclaw §2.1 [X]
    cache = open_cache()
    cache.set("short", 1, ttl=100, tags=["t"])
    cache.set("long", 2, ttl=1000)
    cache.close()
    cache = open_cache()
    assert cache.preload() == 2
    assert dict(cache.tags) == {"t": {"short"}}
    travel(150)
    assert cache.get("short") is None
    assert cache.get("long") == 2


# --- closing


def test_close_is_idempotent_and_leaves_the_main_file_only(open_cache, tmp_path, db_path):  # openclaw §2.1
    cache = open_cache()
    cache.warmup({str(i): "x" * 1000 for i in range(200)})
    cache.close()
    cache.close()
    left = {path.name for path in tmp_path.iterdir()}
    assert db_path.name in left
    assert not [name for name in left if name.endswith(("-wal", "-shm", "-journal"))]


def test_close_flushes(open_cache, rows):  # openclaw §2.1
    cache = open_cache()
    cache.warmup({f"k{i:03}": i for i in range(500)})
    cache.close()
    assert rows() == [f"k{i:03}" for i in range(500)]


def test_a_closed_cache_goes_on_as_a_memory_cache(cache, caplog):  # openclaw §2.1, C12
    cache.set("before", 1, tags=["t"])
    cache.close()
    with caplog.at_level(logging.WARNING, logger="upshift"):
        assert cache.get("before") == 1
        cache.set("after", 2, tags=["t", "u"])
        cache.warmup({"a": 1, "b": 2, "x:1": 3})
        assert cache.get("after") == 2
        assert cache.get("never") is None
        assert cache.delete("a") is True
        assert cache.invalidate_by_tag("u") == 1
        assert cache.invalidate_pattern("x:") == 1
        assert cache.cleanup_expired() == 0
        assert cache.preload() == 0
        assert cache.cached()(len)("abc") == 3
        assert cache.get_stats()["size"] == len(cache) == 3
        cache.flush()
        assert cache.clear() == 3
        assert cache.db_conn is None
    assert caplog.records == []


def test_what_is_set_after_close_stays_off_the_disk(open_cache, rows):  # openclaw §2.1
    cache = open_cache()
    cache.set("before", 1)
    cache.close()
    cache.set("after", 1)
    cache.delete("before")
    cache.clear()
    assert rows() == ["before"]
