"""Issue 2 §4, additions to `ResultCache`: byte limits, policies, jitter, flushing, codec restrictions."""

from __future__ import annotations

from datetime import timedelta

import pytest
from harness import Peer, run_literal

from upshift import ResultCache
from upshift.testing import travel

MB = 1 << 20


class Custom:
    """Only pickle can express it."""

    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return type(other) is Custom and self.x == other.x

    __hash__ = None


# --- max_bytes, sizeof


def test_max_bytes_with_sizeof(make_cache):  # issue 2 §4 max_bytes
    cache = make_cache(max_bytes=10, sizeof=len)
    cache.set("a", "1234")
    cache.set("b", "1234")
    stats = cache.get_stats()
    assert (stats["bytes"], stats["max_bytes"], stats["evictions"]) == (8, 10, 0)
    cache.set("c", "123")
    assert list(cache.cache) == ["b", "c"]
    stats = cache.get_stats()
    assert (stats["bytes"], stats["evictions"]) == (7, 1)
    cache.set("c", "")
    assert cache.get_stats()["bytes"] == 4
    cache.delete("b")
    assert cache.get_stats()["bytes"] == 0


def test_max_bytes_evicts_as_many_as_needed(cache, make_cache):  # issue 2 §4 max_bytes
    cache = make_cache(max_bytes=10, sizeof=len)
    cache.warmup(dict.fromkeys("abcde", "12"))
    cache.set("large", "x" * 9)
    assert list(cache.cache) == ["large"]
    assert cache.get_stats()["evictions"] == 5


def test_a_value_larger_than_the_limit_does_not_stay(cache, make_cache):  # issue 2 §4 max_bytes
    cache = make_cache(max_bytes=10, sizeof=len)
    cache.set("a", "1234")
    cache.set("a", "x" * 11)
    assert list(cache.cache) == []
    assert cache.get_stats()["bytes"] == 0
    cache.set("b", "1234")
    assert list(cache.cache) == ["b"]


def test_both_limits_hold_together(make_cache):  # issue 2 §4 "next to max_size"
    cache = make_cache(max_size=2, max_bytes=10, sizeof=len)
    cache.warmup({"a": "1", "b": "1", "c": "1"})
    assert list(cache.cache) == ["b", "c"]
    cache.set("d", "x" * 9)
    assert list(cache.cache) == ["c", "d"]
    cache.set("e", "xx")
    assert list(cache.cache) == ["e"]


@pytest.mark.parametrize(
    "make",
    [
        lambda i: b"%d" % i + b"x" * MB,
        lambda i: f"{i}" + "x" * MB,
        lambda i: [bytes(1024) + b"%d" % i + b"%d" % j for j in range(1024)],
        lambda i: {"a": {"b": (b"%d" % i + b"x" * MB,)}},
        lambda i: bytearray(MB),
    ],
    ids=["bytes", "str", "list", "nested", "bytearray"],
)
def test_sizes_are_estimated_natively(make):  # issue 2 §4 "sizes estimated natively"
    cache = ResultCache(max_bytes=4 * MB + MB // 2)
    for i in range(8):
        cache.set(i, make(i))
        assert cache.get_stats()["bytes"] <= 4 * MB + MB // 2
    assert cache.get_stats()["size"] == 4


def test_small_values_are_not_free():  # issue 2 §4 max_bytes
    cache = ResultCache(max_size=100_000, max_bytes=10_000)
    for i in range(10_000):
        cache.set(i, i)
    assert 10 < cache.get_stats()["size"] < 2000


def test_max_bytes_is_assignable(make_cache):  # spec: assignable at run time, in effect at once
    cache = make_cache(max_bytes=100, sizeof=len)
    cache.warmup(dict.fromkeys("abcde", "x" * 10))
    cache.max_bytes = 25
    assert list(cache.cache) == ["d", "e"]
    assert cache.get_stats()["max_bytes"] == cache.max_bytes == 25
    cache.max_bytes = None
    cache.warmup({str(i): "x" * 10 for i in range(100)})
    assert cache.get_stats()["size"] == 102


def test_negative_max_bytes_is_refused():
    with pytest.raises(ValueError, match="max_bytes"):
        ResultCache(max_bytes=-1)


def test_an_error_in_sizeof_reaches_the_caller_and_stores_nothing(make_cache):
    cache = make_cache(max_bytes=100, sizeof=lambda value: 1 // value)
    with pytest.raises(ZeroDivisionError):
        cache.set("a", 0)
    assert cache.get("a") is None
    cache.set("b", 1)
    assert cache.get("b") == 1


# --- policy


def filled(make, policy, keys="abc", **options):
    cache = make(max_size=len(keys), policy=policy, **options)
    for key in keys:
        cache.set(key, key)
    return cache


def test_policy_lru(make_cache):  # issue 2 §3 "strict global order"
    cache = filled(make_cache, "lru")
    cache.get("a")
    cache.set("b", "again")
    cache.set("d", "d")
    assert set(cache.cache) == {"a", "b", "d"}


def test_policy_fifo(make_cache):  # issue 2 §3
    cache = filled(make_cache, "fifo")
    cache.get("a")
    cache.set("d", "d")
    assert set(cache.cache) == {"b", "c", "d"}


def test_policy_lfu(make_cache):  # issue 2 §3
    cache = filled(make_cache, "lfu")
    for key, times in (("a", 3), ("b", 1), ("c", 2)):
        for _ in range(times):
            cache.get(key)
    cache.set("d", "d")
    assert set(cache.cache) == {"a", "c", "d"}


def test_policy_ttl(make_cache):  # issue 2 §3 "soonest to expire"
    cache = make_cache(max_size=3, policy="ttl")
    for key, ttl in (("a", 300), ("b", 100), ("c", 0)):
        cache.set(key, key, ttl=ttl)
    cache.set("d", "d", ttl=200)
    assert set(cache.cache) == {"a", "c", "d"}
    cache.set("e", "e", ttl=250)
    assert set(cache.cache) == {"a", "c", "e"}


def test_policy_cost(make_cache):  # issue 2 §3 "cost of recomputation over size and age"
    cache = make_cache(max_size=3, policy="cost")
    for key, cost in (("a", 100.0), ("b", 1.0), ("c", 100.0)):
        cache.set(key, key, cost=cost)
    cache.set("d", "d", cost=100.0)
    assert set(cache.cache) == {"a", "c", "d"}


def test_policy_cost_measures_decorated_functions(make_cache):  # issue 2 §3, §4
    import time

    cache = make_cache(max_size=2, policy="cost")
    slow = cache.cached(key_func=lambda x: f"slow{x}")(lambda x: time.sleep(0.05))
    fast = cache.cached(key_func=lambda x: f"fast{x}")(lambda x: None)
    slow(1)
    for x in range(20):
        fast(x)
    assert "slow1" in cache.cache


def test_policy_adaptive_resists_a_scan(make_cache):  # issue 2 §3
    cache = make_cache(max_size=100, policy="adaptive")
    hot = [f"hot{i}" for i in range(50)]
    cache.warmup(dict.fromkeys(hot, 1))
    for _ in range(20):
        for key in hot:
            cache.get(key)
    for i in range(2000):
        cache.set(f"scan{i}", i)
    assert sum(key in cache.cache for key in hot) >= 30  # LRU keeps none


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="lru"):
        ResultCache(policy="clock")
    cache = ResultCache()
    with pytest.raises(ValueError, match="lru"):
        cache.policy = "clock"
    assert cache.policy == cache.get_stats()["policy"] == "lru"


def test_switching_the_policy_takes_effect_at_once(make_cache):  # issue 2 §3
    cache = filled(make_cache, "lru")
    cache.get("a")
    cache.policy = "fifo"
    assert cache.policy == cache.get_stats()["policy"] == "fifo"
    cache.set("d", "d")
    assert len(cache.cache) == 3
    assert "d" in cache
    cache.set("e", "e", ttl=10)
    cache.set("f", "f", ttl=100)
    assert len(cache.cache) == 3
    cache.policy = "ttl"
    cache.set("g", "g", ttl=50)
    assert "e" not in cache.cache


def test_switching_keeps_every_entry(make_cache, policy):  # issue 2 §3, one suite per policy
    from_each = ("lru", "lfu", "fifo", "ttl", "adaptive", "cost")
    for other in from_each:
        cache = make_cache(max_size=20, policy=other)
        cache.clear()
        cache.warmup({f"k{i}": i for i in range(20)})
        cache.policy = policy
        assert {key: entry[0] for key, entry in cache.cache.items()} == {f"k{i}": i for i in range(20)}
        cache.warmup({f"n{i}": i for i in range(50)})
        assert cache.get_stats()["size"] == 20
        cache.close()


# --- jitter


def lifetimes(cache):
    return [round(expires - created, 3) for _, expires, created, _ in cache.cache.values()]


def test_no_jitter_by_default(make_cache):  # issue 2 §4 "off or neutral by default"
    cache = make_cache()
    cache.warmup({str(i): i for i in range(50)}, ttl=1000)
    assert set(lifetimes(cache)) == {1000}


def test_jitter_spreads_expiry(make_cache):  # issue 2 §4 ttl_jitter
    cache = make_cache(ttl_jitter=0.2)
    cache.warmup({str(i): i for i in range(200)}, ttl=1000)
    found = lifetimes(cache)
    assert len(set(found)) > 150
    assert 800 <= min(found) < max(found) <= 1200
    assert max(found) - min(found) > 50


def test_jitter_leaves_no_expiry_alone(make_cache):  # issue 2 §4, openclaw §2.1
    cache = make_cache(ttl_jitter=0.2)
    cache.set("key", 1, ttl=0)
    assert cache.cache["key"][1] is None


def test_jitter_of_one_function(make_cache):  # issue 2 §4: `cached(ttl_jitter=)` goes first
    cache = make_cache()
    f = cache.cached(ttl=1000, ttl_jitter=0.5)(lambda x: x)
    for x in range(100):
        f(x)
    found = lifetimes(cache)
    assert len(set(found)) > 75
    assert 500 <= min(found) < max(found) <= 1500


@pytest.mark.parametrize("jitter", [-0.1, 1.5])
def test_a_jitter_out_of_range_is_refused(jitter):
    with pytest.raises(ValueError, match="jitter"):
        ResultCache(ttl_jitter=jitter)


# --- flush, codec


def test_flush_makes_writes_visible_to_others(open_cache, db_path):  # issue 2 §4 flush()
    cache = open_cache()
    for i in range(500):
        cache.set(f"k{i}", i)
    assert cache.flush() is True
    with Peer(f"import sqlite3; connection = sqlite3.connect({str(db_path)!r})") as other:
        assert other("connection.execute('SELECT count(*) FROM result_cache').fetchone()[0]") == 500


def test_flush_of_a_memory_cache_is_true():
    assert ResultCache().flush() is True


def test_a_cache_reads_its_own_writes_at_once(open_cache):  # issue 2 §4 "this process reads its own writes at once"
    writer, reader = open_cache(max_size=0), open_cache(max_size=0)
    for i in range(200):
        writer.set("key", i)
        assert writer.get("key") == i
        assert reader.get("key") == i
    writer.delete("key")
    assert reader.get("key") is None


@pytest.mark.parametrize("durability", ["", "disk", None, 1])
def test_an_unknown_durability_is_refused(durability):
    with pytest.raises((ValueError, TypeError)):
        ResultCache(durability=durability)


def test_allow_pickle_false_keeps_other_values_in_memory(open_cache):  # issue 2 §4, openclaw C14 "restricted mode"
    cache = open_cache(allow_pickle=False)
    value = Custom(1)
    cache.set("custom", "old")
    cache.set("custom", value)
    cache.set("plain", {"a": [1, (2, b"x"), {3}]})
    assert cache.get("custom") is value
    cache.close()
    cache = open_cache(allow_pickle=False)
    assert cache.get("custom") is None
    assert cache.get("plain") == {"a": [1, (2, b"x"), {3}]}


def test_allow_pickle_false_never_unpickles(db_path):  # issue 2 §4, openclaw C14
    program = """
    import sys
    from upshift import ResultCache
    class Custom:
        def __reduce__(self):
            return (unpickled.append, (1,))
    unpickled = []
    class Plain:
        pass
    with ResultCache(enable_persistent=True, db_path=sys.argv[1]) as cache:
        cache.set("custom", Plain())
    events = []
    sys.addaudithook(lambda event, args: events.append(event) if event == "pickle.find_class" else None)
    with ResultCache(enable_persistent=True, db_path=sys.argv[1], allow_pickle=False) as cache:
        restricted = (cache.get("custom", "default"), list(events))
    with ResultCache(enable_persistent=True, db_path=sys.argv[1]) as cache:
        cache.set("custom", Plain())
    with ResultCache(enable_persistent=True, db_path=sys.argv[1]) as cache:
        print((restricted, type(cache.get("custom")).__name__, bool(events)))
    """
    assert run_literal(program, db_path) == (("default", []), "Plain", True)


def test_extra_stats(make_cache):  # spec: get_stats()
    stats = make_cache(max_bytes=5 * MB).get_stats()
    assert (stats["policy"], stats["bytes"], stats["max_bytes"], stats["disk_errors"]) == ("lru", 0, 5 * MB, 0)
    assert make_cache().get_stats()["max_bytes"] is None


def test_the_new_options_are_keyword_only():  # issue 2 §4 "keyword-only"
    with pytest.raises(TypeError):
        ResultCache(10, 60, False, None, 1000)
    with pytest.raises(TypeError):
        ResultCache(unknown=1)


def test_jittered_entries_do_expire(make_cache):  # issue 2 §4 ttl_jitter
    cache = make_cache(ttl_jitter=0.5)
    cache.warmup({str(i): i for i in range(50)}, ttl=100)
    travel(151)
    assert cache.cleanup_expired() == 50


@pytest.mark.parametrize("option", ["wait_timeout", "stale_while_revalidate", "stale_if_error"])
def test_times_of_cached_are_numbers_or_timedeltas(option):
    cache = ResultCache()
    assert cache.cached(**{option: timedelta(seconds=1)})(len)("abc") == 3
    with pytest.raises(TypeError, match=f"{option} must be a number of seconds or a timedelta, not str"):
        cache.cached(**{option: "1"})
    for negative in (-1, timedelta(seconds=-1), float("nan")):
        with pytest.raises(ValueError, match=f"{option} must be 0 or more"):
            cache.cached(**{option: negative})


def test_a_timedelta_of_staleness_counts_in_seconds():
    cache, answers = ResultCache(), iter([1])
    f = cache.cached(ttl=10, stale_if_error=timedelta(minutes=1))(lambda: 1 // next(answers, 0))
    assert f() == 1
    travel(11)
    assert f() == 1
    travel(60)
    with pytest.raises(ZeroDivisionError):
        f()


def test_messages_name_the_argument():
    cache = ResultCache()
    with pytest.raises(TypeError, match="ignore must be a str or an iterable of str, not int"):
        cache.cached(ignore=3)
    with pytest.raises(TypeError, match="data must be a mapping, not list"):
        cache.warmup([("a", 1)])
    with pytest.raises(TypeError, match="put @property above it"):
        cache.cached()(property(len))
    with pytest.raises(TypeError, match="seconds must be a number or a timedelta, not str"):
        travel("1")
