"""The interpreter ends while the cache is at work: in bounded time, with status 0, and without losing what was set."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest
from harness import child_env, run

HEADER = """
import asyncio, os, sys, threading, time
from upshift import ResultCache
path = sys.argv[1]
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache.db"


def keys(path):
    with closing(sqlite3.connect(str(path), timeout=30)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {key for (key,) in connection.execute("SELECT cache_key FROM result_cache")}


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "raise SystemExit"], ids=["falls off", "exit", "raise"])
def test_a_normal_exit_flushes(path, end):  # issue 2 §7 "interpreter exit with the writer busy"
    body = f"""
cache = ResultCache(max_size=5000, enable_persistent=True, db_path=path)
for i in range(3000):
    cache.set(f"k{{i}}", "x" * 200)
{end}
"""
    start = time.monotonic()
    run(HEADER + body, path, timeout=30)
    assert time.monotonic() - start < 25
    assert keys(path) == {f"k{i}" for i in range(3000)}


def test_a_cache_collected_without_close_loses_nothing(path):
    body = """
def use():
    cache = ResultCache(enable_persistent=True, db_path=path)
    for i in range(500):
        cache.set(f"k{i}", i)
use()
"""
    run(HEADER + body, path)
    assert keys(path) == {f"k{i}" for i in range(500)}


def test_exit_with_daemon_threads_writing(path):
    body = """
cache = ResultCache(enable_persistent=True, db_path=path)
f = cache.cached(tags=["t"])(lambda x: "x" * 100)
def work():
    i = 0
    while True:
        i += 1
        cache.set(f"k{i % 300}", i, tags=["t"])
        cache.get(f"k{i % 100}")
        f(i % 50)
        if i % 500 == 0:
            cache.invalidate_by_tag("t")
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
"""
    for _ in range(3):
        run(HEADER + body, path, timeout=30)
        keys(path)


@pytest.mark.parametrize("store", ["", "enable_persistent=True, db_path=path"], ids=["memory", "persistent"])
def test_exit_with_threads_waiting_on_a_flight(path, store):  # issue 2 §7
    body = f"""
cache = ResultCache({store})
inside = threading.Event()
@cache.cached(key_func=lambda: "key", single_flight=MODE)
def f():
    inside.set()
    time.sleep(3600)
for _ in range(5):
    threading.Thread(target=f, daemon=True).start()
inside.wait(30)
time.sleep(0.2)
"""
    modes = ("True", "'processes'") if store else ("True",)
    for mode in modes:
        start = time.monotonic()
        run(HEADER + body.replace("MODE", mode), path, timeout=30)
        assert time.monotonic() - start < 20


def test_exit_while_the_user_holds_the_lock(path):
    body = """
cache = ResultCache(enable_persistent=True, db_path=path)
cache.set("key", 1)
cache.lock.acquire()
for call in (lambda: cache.get("key"), lambda: cache.set("late", 1), cache.clear):
    threading.Thread(target=call, daemon=True).start()
time.sleep(0.2)
"""
    run(HEADER + body, path, timeout=30)
    assert "key" in keys(path)


def test_exit_with_a_renewal_under_way(path):
    body = """
from upshift.testing import travel
cache = ResultCache(enable_persistent=True, db_path=path)
started = threading.Event()
runs = []
@cache.cached(ttl=100, stale_while_revalidate=50)
def f():
    runs.append(1)
    if len(runs) == 2:
        started.set()
        time.sleep(3600)
    return 1
f()
travel(120)
f()
assert started.wait(30)
"""
    run(HEADER + body, path, timeout=30)


def test_use_from_exit_handlers_and_globals_at_shutdown(path):
    body = """
import atexit
cache = ResultCache(enable_persistent=True, db_path=path)
f = cache.cached()(lambda x: x)
class Late:
    def __init__(self):
        self.cache, self.f = cache, f
    def __del__(self):
        self.cache.set("from del", 1)
        self.cache.get("from del")
        self.f(2)
        self.cache.close()
late = Late()
cache.set("late", late)
def at_exit():
    cache.set("from atexit", 1)
    assert cache.get("from atexit") == 1
    assert f(1) == 1
atexit.register(at_exit)
"""
    done = subprocess.run(
        [sys.executable, "-c", HEADER + body, str(path)],
        env=child_env(),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "from atexit" in keys(path)


def test_exit_from_a_thread_pool(path):
    body = """
from concurrent.futures import ThreadPoolExecutor
cache = ResultCache(enable_persistent=True, db_path=path)
f = cache.cached(key_func=lambda x: f"k{x % 10}")(lambda x: time.sleep(0.01) or x)
pool = ThreadPoolExecutor(8)
futures = [pool.submit(f, x) for x in range(200)]
"""
    run(HEADER + body, path, timeout=40)
    assert keys(path) == {f"k{i}" for i in range(10)}


def test_an_uncaught_exception_and_ctrl_c_flush_too(path):
    body = """
import signal
cache = ResultCache(enable_persistent=True, db_path=path)
cache.set("key", 1)
os.kill(os.getpid(), signal.SIGINT)
time.sleep(30)
"""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", HEADER + body, str(path)],
        env=child_env(),
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert "KeyboardInterrupt" in done.stderr
    assert time.monotonic() - start < 20
    assert keys(path) == {"key"}


@pytest.mark.parametrize("waiting", ["f()", "cache.get('key')"], ids=["flight", "lock"])
def test_ctrl_c_ends_a_wait(path, waiting):
    body = f"""
import signal
cache = ResultCache()
inside = threading.Event()
@cache.cached(key_func=lambda: "key")
def f():
    inside.set()
    time.sleep(3600)
def hold():
    with cache.lock:
        f()
threading.Thread(target=hold, daemon=True).start()
inside.wait(30)
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
start = time.monotonic()
try:
    {waiting}
except KeyboardInterrupt:
    os._exit(0 if time.monotonic() - start < 15 else 4)
os._exit(5)
"""
    run(HEADER + body, path, timeout=40)


#: Python code that the native side calls: before Python 3.14 a daemon thread is unwound out of it at exit.
BUSY = {
    "renewal": """
@cache.cached(ttl=0.0001, stale_while_revalidate=100)
def f(x):
    return x
def work():
    f(1)
""",
    "del": """
class Value:
    def __del__(self):
        sum([i for i in range(100)])
def work():
    cache.set(next(numbers), Value())
""",
    "key pickling": """
class Argument:
    def __reduce__(self):
        sum([i for i in range(100)])
        return Argument, ()
@cache.cached()
def f(x):
    return 1
def work():
    f(Argument())
""",
    "logging": """
def listener(*arguments):
    raise ValueError
cache = ResultCache(on_miss=listener)
def work():
    cache.get("absent")
""",
    "eq and hash": """
class Key:
    def __hash__(self):
        return sum([0 for i in range(50)])
    def __eq__(self, other):
        return sum([1 for i in range(50)]) == 50
def work():
    cache.set(Key(), 1)
    cache.get(Key())
""",
    "sizeof": """
cache = ResultCache(max_bytes=1000, sizeof=lambda value: sum([1 for i in range(50)]))
def work():
    cache.set(next(numbers), 1)
""",
    "coroutines": """
@cache.cached(ttl=0.00001)
async def f(x):
    await asyncio.sleep(0)
    return x
async def main():
    while True:
        await asyncio.gather(f(1), f(1))
def work():
    asyncio.run(main())
""",
}


@pytest.mark.parametrize("work", list(BUSY.values()), ids=list(BUSY))
def test_exit_with_daemon_threads_inside_user_code(path, work):
    body = f"""
import itertools
numbers = itertools.count()
cache = ResultCache(max_size=10)
{work}
def loop():
    while True:
        work()
for _ in range(4):
    threading.Thread(target=loop, daemon=True).start()
time.sleep(0.2)
"""
    for _ in range(3):
        run(HEADER + body, path, timeout=30)
