"""Contract openclaw §7: defects C1 to C18 of the original, none of which may come back. One section per number."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import sqlite3
import threading
import time
import weakref
from contextlib import closing

import pytest
from harness import Peer, eventually, run_literal, together

from upshift import ResultCache
from upshift.testing import travel


class Opaque:
    def __reduce__(self):
        raise TypeError("not picklable")


class Trap:
    """Would prove by a file that its pickle was executed."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_c01_a_none_result_is_not_recomputed(cache, style):  # openclaw C1
    runs = []
    f = cache.cached()(style.form(lambda x: runs.append(x)))
    for _ in range(3):
        assert style.call(f, 1) is None
    assert runs == [1]
    assert (cache.get_stats()["hits"], cache.get_stats()["misses"]) == (2, 1)


def test_c01_a_none_result_survives_a_restart(open_cache):  # openclaw C1
    cache = open_cache()
    cache.set("none", None)
    cache.close()
    assert open_cache().get("none", "default") is None


def test_c02_cache_clear_finds_its_entries(cache, style):  # openclaw C2
    f = cache.cached()(style.form(lambda x: x))
    for x in range(3):
        style.call(f, x)
    assert f.cache_clear() == 3
    assert len(cache) == 0


# C3 and C4 (keys) fill test_openclaw_cache_keys.py.


@pytest.fixture
def evicted(open_cache):
    """A cache of one memory entry, so that "a" and "b" are only on disk."""
    cache = open_cache(max_size=1)
    cache.set("x:a", 1, tags=["t"])
    cache.set("x:b", 2, tags=["t", "u"])
    cache.set("y:c", 3, tags=["u"])
    return cache


@pytest.fixture
def reopened(evicted, open_cache):
    """The same entries written by an earlier run."""
    evicted.close()
    return open_cache()


@pytest.fixture(params=["evicted", "reopened"])
def disk_only(request):
    return request.getfixturevalue(request.param)


def test_c05_invalidate_by_tag_reaches_the_disk(disk_only, open_cache):  # openclaw C5
    assert disk_only.invalidate_by_tag("t") == 2
    assert disk_only.get_stats()["deletes"] == 2
    assert [disk_only.get(key) for key in ("x:a", "x:b", "y:c")] == [None, None, 3]
    disk_only.close()
    assert [open_cache().get(key) for key in ("x:a", "x:b", "y:c")] == [None, None, 3]


def test_c05_invalidate_pattern_reaches_the_disk(disk_only, open_cache):  # openclaw C5
    assert disk_only.invalidate_pattern("x:") == 2
    assert disk_only.invalidate_pattern("C") == 0
    assert [disk_only.get(key) for key in ("x:a", "x:b", "y:c")] == [None, None, 3]
    disk_only.close()
    assert [open_cache().get(key) for key in ("x:a", "x:b", "y:c")] == [None, None, 3]


def test_c05_delete_reaches_the_disk(disk_only, open_cache):  # openclaw C5
    assert disk_only.delete("x:a") is True
    assert disk_only.delete("x:a") is False
    assert disk_only.get_stats()["deletes"] == 1
    disk_only.close()
    assert open_cache().get("x:a") is None


def test_c05_clear_reaches_the_disk(disk_only, open_cache, rows):  # openclaw C5
    assert disk_only.clear() == 3
    disk_only.close()
    assert rows() == []
    assert rows("SELECT * FROM cache_tags") == []


def test_c05_a_pending_write_does_not_come_back(open_cache, rows):  # openclaw C5, with a write-behind tier
    cache = open_cache(max_size=1)
    for i in range(50):
        cache.set("key", i, tags=["t"])
        cache.set("other", i)
        assert [cache.delete("key"), cache.get("key")] == [True, None]
    cache.close()
    assert rows() == ["other"]


def test_c06_an_unpicklable_replacement_removes_the_old_row(open_cache, rows):  # openclaw C6
    cache = open_cache()
    cache.set("key", "old", tags=["t"])
    cache.flush()
    cache.set("key", Opaque())
    cache.close()
    assert rows() == []
    assert rows("SELECT * FROM cache_tags") == []
    assert open_cache().get("key") is None


def test_c06_an_evicted_unpicklable_value_uncovers_nothing(open_cache):  # openclaw C6
    cache = open_cache(max_size=1)
    cache.set("key", "old")
    cache.set("key", Opaque())
    cache.set("other", 1)
    assert cache.get("key") is None


def test_c07_no_orphan_tag_rows(open_cache, rows):  # openclaw C7
    cache = open_cache()
    cache.set("key", 1, tags=["a", "b", "a"])
    cache.set("key", 2, tags=["b", "c"])
    cache.set("gone", 3, tags=["a"])
    cache.delete("gone")
    cache.set("dead", 1, ttl=10, tags=["d"])
    travel(11)
    cache.cleanup_expired()
    cache.close()
    assert rows("SELECT cache_key, tag FROM cache_tags ORDER BY tag") == [("key", "b"), ("key", "c")]
    assert rows("SELECT * FROM cache_tags WHERE cache_key NOT IN (SELECT cache_key FROM result_cache)") == []


def evicting(tags):
    """Seconds for one evicting `set` in a cache with `tags` distinct tags; the best of five rounds of 200."""
    cache = ResultCache(max_size=max(tags, 1000))
    for i in range(max(tags, 1000)):
        cache.set(f"k{i}", i, tags=[f"t{i}"] if tags else None)
    best = float("inf")
    for turn in range(5):
        start = time.perf_counter()
        for i in range(200):
            cache.set(f"new{turn}-{i}", i)
        best = min(best, (time.perf_counter() - start) / 200)
    assert cache.get_stats()["evictions"] == 1000
    return best


def test_c08_eviction_does_not_depend_on_the_number_of_tags():  # openclaw C8: was 800 times slower at 20,000
    assert evicting(20_000) < 20 * evicting(0)


# C9 (time zones) is in test_openclaw_cache_disk.py and tests/faults/test_cache_original_store.py.


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="platform: counts system calls in /proc")
def test_c10_a_memory_hit_does_no_disk_io(db_path):  # openclaw C10
    program = """
    import sys
    from upshift import ResultCache
    cache = ResultCache(enable_persistent=True, db_path=sys.argv[1])
    cache.set("key", 1)
    f = cache.cached()(len)
    f("abc")
    cache.flush()
    def calls():
        with open("/proc/self/io") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("sysc"))
    before = calls()
    for _ in range(20_000):
        cache.get("key")
        f("abc")
    print(calls() - before)
    cache.close()
    """
    assert run_literal(program, db_path) < 2000


@pytest.mark.timeout(120)
def test_c11_expired_entries_go_by_themselves(db_path):  # openclaw C11, §9.10 "at most 60 s"
    program = """
    import sqlite3, sys, threading, time
    from upshift import ResultCache
    cache = ResultCache(enable_persistent=True, db_path=sys.argv[1])
    for i in range(100):
        cache.set(f"k{i}", i, ttl=1, tags=["t"])
    cache.set("live", 1, ttl=1000)
    cache.flush()
    connection = sqlite3.connect(sys.argv[1])
    deadline = time.monotonic() + 75
    while time.monotonic() < deadline:
        left = connection.execute("SELECT count(*) FROM result_cache").fetchone()[0]
        if left == 1 and len(cache.cache) == 1:
            break
        time.sleep(0.1)
    connection.close()
    print((left, len(cache.cache), cache.get_stats()["expirations"], cache.get_stats()["tags_count"]))
    cache.close()
    """
    assert run_literal(program, db_path, timeout=110) == (1, 1, 100, 0)


def test_c11_the_sweeper_does_not_keep_the_cache_alive(tier, db_path):  # openclaw C11 "only a weak reference"
    class Owned(ResultCache):
        pass

    cache = Owned(enable_persistent=tier == "persistent", db_path=db_path)
    cache.set("key", 1, ttl=1)
    reference = weakref.ref(cache)
    del cache
    gc.collect()
    assert reference() is None


# C12 (after close, without a path) is in test_openclaw_cache_lifetime.py and _methods.py.


def test_c13_a_locked_store_is_no_error(open_cache, db_path, rows):  # openclaw C13
    cache = open_cache()
    cache.set("before", 1)
    assert cache.flush()
    with Peer(f"import sqlite3; connection = sqlite3.connect({str(db_path)!r}, isolation_level=None)") as other:
        other("connection.execute('BEGIN IMMEDIATE').fetchall()")
        start = time.monotonic()
        cache.set("during", 2)
        assert cache.get("during") == 2
        assert cache.get("before") == 1
        assert cache.get("absent") is None
        assert time.monotonic() - start < 5
        assert cache.flush(timeout=0.1) is False
        other("connection.execute('COMMIT').fetchall()")
    assert cache.flush(timeout=30) is True
    assert rows() == ["before", "during"]


def test_c14_a_planted_pickle_is_never_executed(open_cache, db_path, tmp_path, rows):  # openclaw C14
    cache = open_cache()
    cache.set("key", 1)
    cache.close()
    target = tmp_path / "executed"
    with closing(sqlite3.connect(str(db_path))) as connection, connection:
        connection.execute("UPDATE result_cache SET cache_value = ?", (pickle.dumps(Trap(str(target))),))
    cache = open_cache()
    assert cache.get("key", "default") == "default"
    assert cache.preload() == 0
    stats = cache.get_stats()
    assert (stats["hits"], stats["misses"]) == (0, 1)
    cache.close()
    assert not target.exists()
    # A bare pickle may be a row of the replaced system: it is kept, and never served unless it is trusted.
    assert rows() == ["key"]


def test_c14_plain_values_need_no_pickle(db_path):  # openclaw C14 "without resolving any global"
    program = """
    import sys
    from upshift import ResultCache
    value = {"list": [1, 2.5, None, True], "bytes": b"x", "tuple": (1, "a"), "set": {1, 2}}
    with ResultCache(enable_persistent=True, db_path=sys.argv[1]) as cache:
        cache.set("key", value)
    seen = []
    sys.addaudithook(lambda event, args: seen.append(event) if event.startswith("pickle") else None)
    with ResultCache(enable_persistent=True, db_path=sys.argv[1], allow_pickle=False) as cache:
        print((cache.get("key") == value, seen))
    """
    assert run_literal(program, db_path) == (True, [])


# C15 (negative numbers) is in test_openclaw_cache_lifetime.py and _attributes.py.


def test_c16_a_coroutine_function_may_be_awaited_again(cache):  # openclaw C16
    @cache.cached()
    async def f(x):
        return [x]

    async def main():
        return [await f(1), await f(1), *(await asyncio.gather(f(1), f(1)))]

    results = asyncio.run(main())
    assert all(result is results[0] for result in results)


def test_c17_identical_misses_run_once(cache):  # openclaw C17, §2.2
    runs = []
    release = threading.Event()

    @cache.cached()
    def f(x):
        runs.append(x)
        release.wait(30)
        return [x]

    def call(index):
        if index == 0:
            eventually(lambda: runs)
            time.sleep(0.1)  # lets the others line up; the outcome does not depend on it
            return release.set()
        return f(1)

    results = together(call, 9)[1:]
    assert runs == [1]
    assert all(result is results[0] for result in results)


def test_c17_a_waiter_retries_after_a_failure(cache):  # openclaw §2.2 "if it raises, a waiter retries"
    runs = []
    release = threading.Event()

    @cache.cached()
    def f():
        runs.append(1)
        if len(runs) == 1:
            release.wait(30)
            raise KeyError("first")
        return "second"

    def call(index):
        if index == 0:
            eventually(lambda: runs)
            return release.set()
        try:
            return f()
        except KeyError as error:
            return error.args[0]

    assert sorted(together(call, 5)[1:]) == ["first", "second", "second", "second"]
    assert len(runs) == 2


def test_c17_recursion_with_the_same_key(cache, style):  # openclaw §2.2 "must not deadlock"
    depth = []

    def body(x):
        depth.append(x)
        return f(x) if len(depth) < 3 else "end"

    async def coroutine(x):
        depth.append(x)
        return await f(x) if len(depth) < 3 else "end"

    f = cache.cached()(body if style.name == "sync" else coroutine)
    assert style.call(f, 1) == "end"
    assert style.call(f, 1) == "end"
    assert len(depth) == 3


def test_c18_the_shared_cache_is_created_once():  # openclaw C18: test_openclaw_cache_disk.py has it with a store
    program = """
    import threading
    from upshift import get_cache
    barrier, made = threading.Barrier(16), []
    def make():
        barrier.wait(30)
        made.append(id(get_cache()))
    threads = [threading.Thread(target=make) for _ in range(16)]
    [thread.start() for thread in threads]
    [thread.join(30) for thread in threads]
    print((len(made), len(set(made))))
    """
    assert run_literal(program) == (16, 1)
