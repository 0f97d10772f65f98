"""Contract openclaw §1 and §6.1: import paths, observable attributes, and what public classes must allow."""

from __future__ import annotations

import collections.abc
import copy
import gc
import pickle
import weakref

import pytest
from harness import Task, run_literal, stays

from upshift import ResultCache, get_cache
from upshift.testing import travel

COUNTERS = {"hits", "misses", "evictions", "expirations", "sets", "deletes"}


# --- §6.1 ResultCache


def test_the_configuration(db_path):  # openclaw §6.1
    cache = ResultCache(max_size=7, default_ttl=60.5)
    assert (cache.max_size, cache.default_ttl, cache.enable_persistent) == (7, 60.5, False)
    with ResultCache(enable_persistent=True, db_path=db_path) as cache:
        assert (cache.max_size, cache.default_ttl, cache.enable_persistent) == (1000, 3600, True)


def test_cache_is_a_mapping_in_lru_order(cache):  # openclaw §6.1
    cache.set("a", 1)
    cache.set("b", 2, ttl=0)
    cache.get("a")
    view = cache.cache
    assert isinstance(view, collections.abc.Mapping)
    assert list(view) == list(view.keys()) == ["b", "a"]
    assert len(view) == 2
    assert "a" in view
    assert "z" not in view
    value, expires, created, accesses = view["a"]
    assert (value, accesses) == (1, 1)
    assert type(accesses) is int
    assert expires - created == pytest.approx(3600, abs=1)
    assert view["b"][:2] == (2, None)
    assert dict(view.items())["a"] == view["a"]
    assert view.get("z") is None
    with pytest.raises(KeyError):
        view["z"]


def test_looking_at_the_mapping_changes_nothing(cache):  # openclaw §6.1 "view"
    cache.warmup({"a": 1, "b": 2})
    before = cache.get_stats()
    assert cache.cache["a"][3] == cache.cache["a"][3] == 0
    assert [entry[0] for entry in cache.cache.values()] == [1, 2]
    assert list(cache.cache) == ["a", "b"]
    assert cache.get_stats() == before


def test_times_in_the_mapping_are_epochs():  # openclaw §6.1 "Epoch = Unix seconds as float"
    program = """
    import time
    from upshift import ResultCache
    cache = ResultCache()
    cache.set("a", 1, ttl=100)
    _, expires, created, _ = cache.cache["a"]
    now = time.time()
    print((type(expires) is type(created) is float, now - created, expires - now))
    """
    floats, age, left = run_literal(program)
    assert floats
    assert -0.1 < age < 10
    assert 90 < left <= 100.1


def test_the_mapping_is_live_and_read_only(cache):  # openclaw §6.1 "read-only view"
    view = cache.cache
    cache.set("a", 1)
    assert list(view) == ["a"]
    with pytest.raises((TypeError, AttributeError)):
        view["b"] = (1, None, 0.0, 0)
    with pytest.raises((TypeError, AttributeError)):
        del view["a"]
    with pytest.raises((TypeError, AttributeError)):
        view.clear()
    cache.delete("a")
    assert not view


def test_tags_is_a_mapping_of_sets(cache):  # openclaw §6.1 "tag → set of keys; view"
    view = cache.tags
    assert isinstance(view, collections.abc.Mapping)
    assert dict(view) == {}
    cache.set("a", 1, tags=["x", "y"])
    cache.set("b", 1, tags=["y"])
    assert dict(view) == {"x": {"a"}, "y": {"a", "b"}}
    assert isinstance(view["x"], collections.abc.Set)
    assert len(view) == 2
    assert "x" in view
    assert "z" not in view
    with pytest.raises(KeyError):
        view["z"]
    with pytest.raises((TypeError, AttributeError)):
        view["z"] = {"a"}
    cache.clear()
    assert len(view) == 0


def test_stats_are_six_live_counters(cache):  # openclaw §6.1
    stats = cache.stats
    assert isinstance(stats, collections.abc.Mapping)
    assert dict(stats) == dict.fromkeys(COUNTERS, 0)
    cache.set("a", 1)
    cache.get("a")
    cache.get("b")
    cache.delete("a")
    assert dict(stats) == {"hits": 1, "misses": 1, "evictions": 0, "expirations": 0, "sets": 1, "deletes": 1}
    assert cache.stats["hits"] == 1


def test_the_lock_is_reentrant(cache):  # openclaw §6.1, §1 "locks were re-entrant"
    with cache.lock, cache.lock:
        cache.set("a", 1)
        assert cache.get("a") == 1
        assert cache.cached()(lambda: 5)() == 5
        assert cache.clear() == 2
    assert cache.lock.acquire() is True
    cache.lock.release()
    with pytest.raises(RuntimeError):
        cache.lock.release()


def test_the_lock_excludes_other_threads(cache):  # openclaw §6.1, DESIGN §3 "lock held by a user"
    cache.lock.acquire()
    other = Task(cache.set, "a", 1)
    try:
        stays(lambda: not other.done())
        assert cache.get("a") is None
    finally:
        cache.lock.release()
    other.result()
    assert cache.get("a") == 1


def test_the_lock_is_the_same_object_each_time(cache):  # openclaw §6.1
    assert cache.lock is cache.lock


def test_db_conn(open_cache):  # openclaw §6.1 "connection or None"
    assert ResultCache().db_conn is None
    cache = open_cache()
    cache.set("key", 1)
    cache.flush()
    assert cache.db_conn.execute("SELECT count(*) FROM result_cache").fetchone()[0] == 1
    cache.close()
    assert cache.db_conn is None


def test_max_size_is_assignable(make_cache):  # spec: assignable at run time, in effect at once
    cache = make_cache(max_size=5)
    cache.warmup({f"k{i}": i for i in range(5)})
    cache.max_size = 2
    stats = cache.get_stats()
    assert (stats["size"], stats["max_size"], stats["evictions"]) == (2, 2, 3)
    assert list(cache.cache) == ["k3", "k4"]
    cache.max_size = 3
    cache.warmup({"a": 1, "b": 2})
    assert list(cache.cache) == ["k4", "a", "b"]


def test_default_ttl_is_assignable(cache):
    cache.default_ttl = 10
    cache.set("short", 1)
    cache.default_ttl = 0
    cache.set("immortal", 1)
    travel(5000)
    assert (cache.get("short"), cache.get("immortal")) == (None, 1)


@pytest.mark.parametrize("max_size", [-1, -1000])
def test_a_negative_size_is_refused(max_size):  # openclaw §2.1, C15
    with pytest.raises(ValueError, match="max_size"):
        ResultCache(max_size=max_size)
    cache = ResultCache(max_size=3)
    with pytest.raises(ValueError, match="max_size"):
        cache.max_size = max_size
    assert cache.max_size == 3


# --- §6.1 decorated function


def test_attributes_of_a_decorated_function(cache):  # openclaw §6.1
    def original(x):
        return x

    f = cache.cached()(original)
    assert f.__wrapped__ is original
    assert f.cache_clear() == 0
    assert f.cache_info()["size"] == 0


# --- §1 public classes


def test_can_be_subclassed_with_another_signature():  # openclaw §1, DESIGN §2.1
    class Named(ResultCache):
        def __init__(self, name, *, size):
            super().__init__(max_size=size)
            self.name = name

        def get_stats(self):
            return {**super().get_stats(), "name": self.name}

    cache = Named("mine", size=3)
    cache.set("a", 1)
    assert isinstance(cache, ResultCache)
    assert cache.get("a") == 1
    assert (cache.get_stats()["name"], cache.get_stats()["max_size"]) == ("mine", 3)


def test_takes_extra_attributes_and_weak_references():  # openclaw §1
    cache = ResultCache()
    cache.extra = [1]
    assert cache.extra == [1]
    reference = weakref.ref(cache)
    assert reference() is cache
    del cache
    gc.collect()
    assert reference() is None


def test_a_decorated_function_takes_weak_references(cache):  # openclaw §1
    f = cache.cached()(lambda: 1)
    assert weakref.ref(f)() is f
    assert len({f, f}) == 1


def test_an_object_that_was_never_initialised_raises():  # DESIGN §2.1
    cache = ResultCache.__new__(ResultCache)
    for call in (lambda: cache.get("a"), lambda: cache.set("a", 1), cache.get_stats, cache.clear, lambda: len(cache)):
        with pytest.raises(RuntimeError):
            call()


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_is_not_copied_or_pickled(duplicate):  # DESIGN §2.1
    with pytest.raises(TypeError, match="ResultCache"):
        duplicate(ResultCache())


# --- §1 modules


def test_importing_has_no_side_effects(tmp_path):  # openclaw §1, C18
    program = """
    import os, sys, threading
    before = (list(sys.path), sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc") else [])
    import upshift, upshift.cache, upshift.testing, upshift.exceptions
    after = (list(sys.path), sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc") else [])
    native = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc") else 1
    print((before == after, threading.active_count(), native, os.listdir(".")))
    """
    assert run_literal(program, cwd=tmp_path) == (True, 1, 1, [])


def test_core_result_cache_serves_the_same_objects(tmp_path):  # openclaw §1 "the same class object"
    program = """
    import os, threading
    import upshift, upshift.compat
    upshift.compat.install("openclaw")
    from core.result_cache import ResultCache, get_cache, main
    same = (ResultCache is upshift.ResultCache, get_cache is upshift.get_cache)
    import contextlib, io
    with contextlib.redirect_stdout(io.StringIO()):
        result = main()
    print((same, result, os.listdir("."), threading.active_count()))
    """
    assert run_literal(program, cwd=tmp_path) == ((True, True), None, [], 1)


def test_the_public_names():  # openclaw §1
    import upshift

    assert {"ResultCache", "get_cache"} <= set(upshift.__all__)
    assert ResultCache.__name__ == "ResultCache"
    assert ResultCache.__module__.startswith("upshift")
    assert callable(get_cache)
