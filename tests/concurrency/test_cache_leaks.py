"""Creating, using and dropping caches for ever needs no more threads, descriptors or memory than once."""

from __future__ import annotations

import os

import pytest
from harness import run_literal

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="platform: counts resources in /proc")

LOOP = """
    import asyncio, gc, os, sys, threading
    from upshift import ResultCache
    folder = sys.argv[1]

    def resources():
        gc.collect()
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")), pages * 4

    def grown(body, rounds, warm):
        for i in range(warm):
            body(i)
        before = resources()
        for i in range(rounds):
            body(i)
        after = resources()
        print(tuple(b - a for a, b in zip(before, after)))
"""


def check(body, tmp_path, rounds, kilobytes=4096, warm=None):
    program = LOOP + body + f"\n    grown(body, {rounds}, {warm or rounds})\n"
    threads, descriptors, memory = run_literal(program, tmp_path, timeout=55)
    assert threads <= 4  # the background pool grows to four threads and no further
    assert descriptors <= 0
    assert memory < kilobytes, f"{memory} KiB more after {rounds} rounds"


def test_memory_caches(tmp_path):
    body = """
    def body(i):
        cache = ResultCache(max_size=100)
        f = cache.cached(tags=["t"])(lambda x: [x])
        for x in range(200):
            cache.set(f"k{x}", [x], tags=["t", f"t{x}"])
            f(x % 20)
        cache.me = cache
    """
    check(body, tmp_path, 300)


@pytest.mark.parametrize("close", ["cache.close()", "pass"], ids=["closed", "dropped"])
@pytest.mark.parametrize("name", ["one.db", "{i}.db"], ids=["one file", "many files"])
def test_persistent_caches(tmp_path, close, name):
    body = f"""
    def body(i):
        cache = ResultCache(enable_persistent=True, db_path=os.path.join(folder, f"{name}"))
        for x in range(20):
            cache.set(f"k{{x}}", [x], tags=["t"])
        cache.flush(20)
        cache.get("k1")
        {close}
    """
    check(body, tmp_path, 60, kilobytes=8192)


def test_sets_and_removals(tmp_path):
    body = """
    cache = ResultCache(max_size=100, enable_persistent=True, db_path=os.path.join(folder, "cache.db"), ttl_jitter=0.1)
    def body(i):
        for x in range(1000):
            cache.set(f"key{x}", "x" * 100, tags=["t", f"tag{x}"], ttl=1000)
        cache.invalidate_by_tag("t")
        cache.get("absent")
        for x in range(100):
            cache.set(("tuple", i, x), [x])
        cache.clear()
        cache.flush(20)
    """
    check(body, tmp_path, 25, kilobytes=8192)


@pytest.mark.parametrize("policy", ["lru", "lfu", "fifo", "ttl", "adaptive", "cost"])
def test_churn_of_every_policy(tmp_path, policy):
    body = f"""
    cache = ResultCache(max_size=500, policy="{policy}")
    def body(i):
        for x in range(2000):
            cache.set((i, x), [x], ttl=1000 if x % 2 else 0, tags=[f"t{{i}}:{{x}}"])
            cache.get((i, x - 100))
    """
    check(body, tmp_path, 40)


def test_calls_with_tokens_errors_and_flights(tmp_path):
    body = """
    cache = ResultCache(max_size=100)
    @cache.cached()
    def f(x):
        if x is None:
            raise ValueError
        return [x]
    class Unpicklable:
        def __reduce__(self):
            raise TypeError
    @cache.cached()
    async def g(x):
        await asyncio.sleep(0)
        return [x]
    async def many():
        await asyncio.gather(*(g(x % 7) for x in range(50)))
        task = asyncio.create_task(g(object()))
        await asyncio.sleep(0)
        task.cancel()
    def body(i):
        for x in range(300):
            f(Unpicklable())
            try:
                f(None)
            except ValueError:
                pass
        threads = [threading.Thread(target=f, args=(i,)) for _ in range(8)]
        [thread.start() for thread in threads]
        [thread.join(20) for thread in threads]
        asyncio.run(many())
    """
    check(body, tmp_path, 40)


def test_decorators_and_closures(tmp_path):
    body = """
    cache = ResultCache(max_size=100)
    def body(i):
        def factory(n):
            @cache.cached(tags=["t"])
            def f(x):
                return x + n
            return f
        for n in range(50):
            factory(n)(1)
    """
    check(body, tmp_path, 60)


def test_one_set_of_threads_serves_all_caches(tmp_path):  # DESIGN §2.8 "one background runtime"
    program = """
    import os, sys
    from upshift import ResultCache
    caches = [ResultCache(enable_persistent=True, db_path=os.path.join(sys.argv[1], f"{i}.db")) for i in range(30)]
    for cache in caches:
        cache.set("key", 1)
        cache.flush(20)
    print(len(os.listdir("/proc/self/task")))
    for cache in caches:
        cache.close()
    """
    assert run_literal(program, tmp_path) <= 12


def test_a_memory_cache_starts_no_thread_until_it_must():
    program = """
    import os
    from upshift import ResultCache
    cache = ResultCache(default_ttl=0)
    cache.set("key", 1)
    cache.get("key")
    print(len(os.listdir("/proc/self/task")))
    """
    assert run_literal(program) <= 2
