"""Issue 2 §4: `on_evict`, `on_hit` and `on_miss` listeners: what they hear, and that no lock is held meanwhile."""

from __future__ import annotations

import pytest
from harness import Task, run_literal

from upshift.testing import travel


@pytest.fixture
def heard():
    return []


@pytest.fixture
def make(make_cache, heard):
    def listening(**options):
        return make_cache(on_evict=lambda key, value, reason: heard.append((key, value, reason)), **options)

    return listening


def test_capacity(make, heard, policy):
    cache = make(max_size=2, policy=policy)
    for i in range(5):
        cache.set(f"k{i}", i)
    assert len(heard) == 3
    assert {reason for _, _, reason in heard} == {"capacity"}
    left = {(key, entry[0]) for key, entry in cache.cache.items()}
    assert left | {(key, value) for key, value, _ in heard} == {(f"k{i}", i) for i in range(5)}


def test_capacity_goes_coldest_first(make, heard):
    cache = make(max_size=3)
    cache.warmup({"a": 1, "b": 2, "c": 3})
    cache.get("a")
    cache.max_size = 1
    assert heard == [("b", 2, "capacity"), ("c", 3, "capacity")]


def test_bytes(make, heard):
    cache = make(max_bytes=10, sizeof=len)
    cache.set("a", "123456")
    cache.set("b", "123456")
    assert heard == [("a", "123456", "bytes")]


@pytest.mark.parametrize("trigger", ["get", "cleanup_expired", "set"])
def test_expired(make, heard, trigger):
    cache = make(max_size=1)
    cache.set("a", 1, ttl=10)
    travel(11)
    if trigger == "get":
        cache.get("a")
    elif trigger == "set":
        cache.set("b", 2)
    else:
        cache.cleanup_expired()
    assert heard == [("a", 1, "expired")]


def test_replaced(make, heard):
    cache = make()
    cache.set("a", 1)
    cache.set("a", 2)
    assert heard == [("a", 1, "replaced")]


def test_deleted(make, heard):
    cache = make()
    cache.set("a", 1)
    cache.delete("a")
    cache.delete("a")
    assert heard == [("a", 1, "deleted")]


def test_invalidated(make, heard):
    cache = make()
    cache.set("a", 1, tags=["t"])
    cache.set("b:1", 2)
    f = cache.cached(key_func=lambda x: f"f{x}")(lambda x: x)
    f(3)
    cache.invalidate_by_tag("t")
    cache.invalidate_pattern("b:")
    f.cache_clear()
    assert heard == [("a", 1, "invalidated"), ("b:1", 2, "invalidated"), ("f3", 3, "invalidated")]


def test_cleared(make, heard):
    cache = make()
    cache.warmup({"a": 1, "b": 2})
    cache.clear()
    assert sorted(heard) == [("a", 1, "cleared"), ("b", 2, "cleared")]


def test_the_very_objects_are_handed_over(make, heard):
    cache = make()
    key, value = ("tuple", 1), object()
    cache.set(key, value)
    cache.delete(("tuple", 1))
    assert heard[0][0] is key
    assert heard[0][1] is value


def test_hits_and_misses(make_cache):
    events = []
    cache = make_cache(on_hit=lambda key: events.append(("hit", key)), on_miss=lambda key: events.append(("miss", key)))
    cache.get("a")
    cache.set("a", 1)
    cache.get("a")
    assert "a" in cache
    cache.set("b", 1, ttl=10)
    travel(11)
    cache.get("b")
    assert events == [("miss", "a"), ("hit", "a"), ("miss", "b")]


def test_hits_and_misses_of_a_decorated_function(make_cache, style):
    events = []
    cache = make_cache(on_hit=lambda key: events.append(("hit", key)), on_miss=lambda key: events.append(("miss", key)))
    f = cache.cached()(style.form(lambda x: x))
    for _ in range(3):
        style.call(f, 1)
    key = f.cache_key(1)
    assert events == [("miss", key), ("hit", key), ("hit", key)]


def test_a_hit_on_disk_is_a_hit(open_cache):
    events = []
    cache = open_cache(max_size=1, on_hit=events.append, on_miss=events.append)
    cache.set("a", 1)
    cache.set("b", 1)
    cache.get("a")
    assert events == ["a"]


ACTIONS = {
    "evict": lambda cache: cache.set("new", 1),
    "replace": lambda cache: cache.set("a", 2),
    "delete": lambda cache: cache.delete("a"),
    "clear": lambda cache: cache.clear(),
    "tag": lambda cache: cache.invalidate_by_tag("t"),
    "pattern": lambda cache: cache.invalidate_pattern("a"),
    "expire": lambda cache: (travel(5000), cache.cleanup_expired()),
    "shrink": lambda cache: setattr(cache, "max_size", 0),
    "hit": lambda cache: cache.get("a"),
    "miss": lambda cache: cache.get("z"),
    "call": lambda cache: cache.cached()(lambda: 5)(),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_no_lock_is_held_while_a_listener_runs(make_cache, action):  # issue 2 §4 "called outside every lock"
    entered = []

    def listener(*event):
        if entered:
            return
        entered.append(event)
        cache.set("own", 1)  # this thread
        assert cache.get("own") == 1
        with cache.lock:  # and any other one
            cache.delete("own")
        assert Task(use).result(20) == 2
        Task(cache.flush, 10).result(20)

    def use():
        with cache.lock:
            cache.set("other", 2)
            return cache.get("other")

    cache = make_cache(max_size=1, on_evict=listener, on_hit=listener, on_miss=listener)
    cache.set("a", 1, tags=["t"])
    ACTIONS[action](cache)
    assert len(entered) == 1


def test_a_listener_that_evicts_in_turn_ends(make_cache):
    count = []

    def listener(key, value, reason):
        count.append(key)
        if len(count) < 50:
            cache.set(f"again{len(count)}", 1)

    cache = make_cache(max_size=1, on_evict=listener)
    cache.set("a", 1)
    cache.set("b", 1)
    assert len(count) == 50
    assert len(cache.cache) == 1


def test_a_failing_listener_fails_no_operation():
    program = """
    import logging, sys
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda info: None
    from upshift import ResultCache
    def fail(*event):
        raise RuntimeError("listener")
    cache = ResultCache(max_size=1, on_evict=fail, on_hit=fail, on_miss=fail)
    cache.set("a", 1)
    cache.set("b", 2)
    f = cache.cached()(lambda x: x)
    found = (cache.get("a"), cache.get("b"), f(1), f(1), cache.delete("a"), cache.clear())
    print((*found, cache.get_stats()["evictions"]))
    """
    assert run_literal(program) == (None, 2, 1, 1, False, 1, 2)


def test_a_listener_that_is_not_callable_is_refused(make_cache):
    for name in ("on_evict", "on_hit", "on_miss", "sizeof"):
        with pytest.raises(TypeError):
            make_cache(**{name: 5})
