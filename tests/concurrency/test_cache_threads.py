"""Many threads on one cache: nothing lost, nothing counted twice, nothing waiting for ever."""

from __future__ import annotations

import random
import sys
import threading
import time

import pytest
from harness import Task, stays, together

from upshift import ResultCache

POLICIES = ("lru", "lfu", "fifo", "ttl", "adaptive", "cost")


@pytest.fixture(autouse=True)
def _frequent_switches():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture(params=["memory", "persistent"])
def make(request, tmp_path):
    opened = []

    def make_cache(**options):
        if request.param == "persistent":
            options.update(enable_persistent=True, db_path=tmp_path / "cache.db")
        opened.append(ResultCache(**options))
        return opened[-1]

    yield make_cache
    for cache in opened:
        cache.close()


def test_counts_add_up(make):
    cache = make(max_size=10_000)

    def work(index):
        for i in range(1000):
            cache.set(f"{index}:{i}", i)
            assert cache.get(f"{index}:{i}") == i
            assert cache.get(f"{index}:{i}:absent") is None

    together(work, 4)
    stats = cache.get_stats()
    assert (stats["sets"], stats["hits"], stats["misses"], stats["size"]) == (4000, 4000, 4000, 4000)


@pytest.mark.parametrize("policy", POLICIES)
def test_random_operations_keep_the_cache_sound(make, policy):
    cache = make(max_size=50, policy=policy)
    operations = (
        lambda rng, key: cache.set(key, key, tags=[f"t{rng.randrange(5)}"]),
        lambda rng, key: cache.set(key, key, ttl=rng.choice((0, 0.001, 100, -1)), cost=rng.random()),
        lambda rng, key: cache.get(key),
        lambda rng, key: cache.get(key),
        lambda rng, key: cache.delete(key),
        lambda rng, key: key in cache,
        lambda rng, key: cache.invalidate_by_tag(f"t{rng.randrange(5)}"),
        lambda rng, key: cache.invalidate_pattern(key[:5]),
        lambda rng, key: cache.cleanup_expired(),
        lambda rng, key: cache.get_stats(),
        lambda rng, key: list(cache.cache.items()),
        lambda rng, key: dict(cache.tags.items()),
        lambda rng, key: setattr(cache, "max_size", rng.choice((40, 50))),
        lambda rng, key: setattr(cache, "policy", policy),
        lambda rng, key: cache.clear() if rng.random() < 0.01 else None,
        lambda rng, key: cache.flush(1) if rng.random() < 0.01 else None,
    )

    def work(index):
        rng = random.Random(index)
        for _ in range(1500):
            rng.choice(operations)(rng, f"key:{rng.randrange(100)}")

    together(work, 4, timeout=50)
    stats = cache.get_stats()
    assert stats["size"] == len(list(cache.cache)) <= 50
    live = {key for keys in cache.tags.values() for key in keys}
    assert live <= set(cache.cache)
    assert stats["tags_count"] == len(list(cache.tags))
    for key, entry in cache.cache.items():
        assert entry[0] == key
    cache.clear()
    assert (len(cache), cache.get_stats()["tags_count"]) == (0, 0)


def test_each_removal_is_reported_to_one_thread_only(make):
    cache = make(max_size=2000)
    cache.warmup({f"k{i}": i for i in range(1000)})
    removed = together(lambda index: sum(cache.delete(f"k{i}") for i in range(1000)), 4)
    assert sum(removed) == 1000
    assert cache.get_stats()["deletes"] == 1000
    cache.warmup({f"k{i}": i for i in range(1000)})
    assert sum(together(lambda index: cache.clear(), 4)) == 1000
    for i in range(1000):
        cache.set(f"k{i}", i, tags=["t"])
    assert sum(together(lambda index: cache.invalidate_by_tag("t"), 4)) == 1000


def test_each_eviction_is_heard_once():
    heard = []
    cache = ResultCache(max_size=100, on_evict=lambda key, value, reason: heard.append(key))
    together(lambda index: [cache.set((index, i), i) for i in range(1000)], 4)
    assert len(heard) == len(set(heard)) == 3900
    assert set(heard) | set(cache.cache) == {(index, i) for index in range(4) for i in range(1000)}


@pytest.mark.parametrize("policy", POLICIES)
def test_decorated_functions_under_eviction_return_the_right_result(make, policy):
    cache = make(max_size=10, policy=policy)
    f = cache.cached()(lambda x: (x, x * 2))

    def work(index):
        rng = random.Random(index)
        for _ in range(1000):
            x = rng.randrange(30)
            assert f(x) == (x, x * 2)

    together(work, 4)
    info = f.cache_info()
    assert info["function_hits"] + info["function_misses"] >= 4000


def test_close_while_others_work(make):
    cache = make()
    stop = threading.Event()

    def work(index):
        i = 0
        while not stop.is_set():
            i += 1
            cache.set(f"{index}:{i % 50}", i)
            assert cache.get(f"{index}:{i % 50}") == i
            cache.invalidate_pattern(f"{index}:{(i + 25) % 50}x")
        return i

    workers = [Task(work, index) for index in range(3)]
    time.sleep(0.1)
    cache.close()
    time.sleep(0.05)
    stop.set()
    assert all(worker.result() > 0 for worker in workers)
    assert cache.db_conn is None


# --- the user's hold on the lock

WAITING = {
    "get": lambda cache, f: cache.get("key"),
    "set": lambda cache, f: cache.set("key", 2),
    "delete": lambda cache, f: cache.delete("key"),
    "clear": lambda cache, f: cache.clear(),
    "tag": lambda cache, f: cache.invalidate_by_tag("t"),
    "pattern": lambda cache, f: cache.invalidate_pattern("k"),
    "cleanup": lambda cache, f: cache.cleanup_expired(),
    "warmup": lambda cache, f: cache.warmup({"a": 1}),
    "stats": lambda cache, f: cache.get_stats(),
    "len": lambda cache, f: len(cache),
    "contains": lambda cache, f: "key" in cache,
    "call": lambda cache, f: f(1),
    "miss": lambda cache, f: f(2),
    "view": lambda cache, f: list(cache.cache),
    "resize": lambda cache, f: setattr(cache, "max_size", 5),
}


@pytest.mark.parametrize("operation", WAITING)
def test_operations_wait_for_a_lock_held_by_the_user(make, operation):  # DESIGN §3 "ResultCache.lock held by a user"
    cache = make()
    f = cache.cached()(lambda x: x)
    f(1)
    cache.set("key", 1, tags=["t"])
    with cache.lock:
        before = (cache.get("key"), len(cache))
        other = Task(WAITING[operation], cache, f)
        stays(lambda: not other.done(), 0.15)
        # Nothing changes under the holder's feet; it may itself use the cache.
        assert (cache.get("key"), len(cache)) == before
        assert f(1) == 1
    other.result(20)


def test_the_lock_makes_compound_operations_atomic(make):
    cache = make()
    cache.set("count", 0)

    def work(index):
        for _ in range(500):
            with cache.lock:
                cache.set("count", cache.get("count") + 1)

    together(work, 4)
    assert cache.get("count") == 2000


def test_the_lock_follows_the_protocol_of_rlock():
    lock = ResultCache().lock
    assert lock.acquire() is True
    assert lock.acquire(blocking=False) is True
    assert Task(lock.acquire, False).result() is False
    start = time.monotonic()
    assert Task(lock.acquire, True, 0.1).result() is False
    assert time.monotonic() - start < 10
    lock.release()
    assert Task(lock.acquire, False).result() is False
    lock.release()
    with pytest.raises(RuntimeError):
        lock.release()

    def take_and_give():
        with lock:
            return True

    assert Task(take_and_give).result() is True


def test_only_the_owner_releases_the_lock():
    lock = ResultCache().lock
    with lock, pytest.raises(RuntimeError):
        Task(lock.release).result()
