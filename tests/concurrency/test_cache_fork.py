"""`fork` with the disk writer busy, with flights under way, with locks held: both sides go on working."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

import pytest
from harness import run_literal

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: has no fork")

# Forking while threads run is what these tests are about, so the interpreter's own warning is turned off.
HEADER = """
import os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from upshift import ResultCache
path = sys.argv[1]

def in_child(body, seconds=40):
    "Runs `body` in a forked child; returns its exit status, or 'hangs'."
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = 0 if body() else 1
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(status)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "hangs"
"""


def keys(path):
    with closing(sqlite3.connect(str(path), timeout=30)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {key for (key,) in connection.execute("SELECT cache_key FROM result_cache")}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache.db"


def test_memory_is_inherited_and_then_separate(path):
    body = """
cache = ResultCache()
f = cache.cached()(lambda x: x * 2)
cache.set("a", 1); f(1)
def child():
    ok = cache.get("a") == 1 and f(1) == 2
    cache.set("a", 2); cache.set("b", 1)
    return ok and f(2) == 4 and cache.clear() == 4
print((in_child(child), cache.get("a"), cache.get("b"), len(cache)))
"""
    assert run_literal(HEADER + body, path) == (0, 1, None, 2)


def test_both_sides_keep_writing(path):
    body = """
cache = ResultCache(max_size=5000, enable_persistent=True, db_path=path)
for i in range(1000):
    cache.set(f"parent{i}", i)
def child():
    for i in range(200):
        cache.set(f"child{i}", i)
    seen = cache.get("parent999") == 999 and cache.get("child0") == 0
    flushed = cache.flush(30)
    cache.close()
    return seen and flushed
status = in_child(child)
for i in range(100):
    cache.set(f"after{i}", i)
cache.close()
print(status)
"""
    assert run_literal(HEADER + body, path) == 0
    expected = (
        {f"parent{i}" for i in range(1000)} | {f"child{i}" for i in range(200)} | {f"after{i}" for i in range(100)}
    )
    assert keys(path) >= expected


def test_forking_again_and_again_with_the_writer_busy(path):  # issue 2 §7 "fork … with the writer busy"
    body = """
cache = ResultCache(enable_persistent=True, db_path=path)
stop = threading.Event()
def write():
    i = 0
    while not stop.is_set():
        i += 1
        cache.set(f"k{i % 500}", "x" * 500, tags=["t"])
        if i % 100 == 0:
            cache.invalidate_pattern("k49")
writers = [threading.Thread(target=write, daemon=True) for _ in range(2)]
[writer.start() for writer in writers]
def child():
    cache.set("child", os.getpid())
    return cache.get("child") == os.getpid() and cache.flush(20) and cache.get("never") is None
statuses = [in_child(child, 20) for _ in range(10)]
stop.set()
[writer.join(20) for writer in writers]
cache.close()
print(statuses)
"""
    assert run_literal(HEADER + body, path) == [0] * 10
    assert "child" in keys(path)


def test_forking_while_other_threads_hold_locks_and_flights(path):
    body = """
cache = ResultCache(enable_persistent=True, db_path=path)
inside, leave = threading.Event(), threading.Event()
@cache.cached(key_func=lambda: "flight")
def slow():
    if not inside.is_set():
        inside.set()
        leave.wait(30)
    return os.getpid()
def hold():
    with cache.lock:
        slow()
holder = threading.Thread(target=hold, daemon=True)
holder.start()
inside.wait(30)
def child():
    # The thread that led the flight and held the lock does not exist here.
    cache.set("a", 1)
    return cache.get("a") == 1 and slow() == os.getpid()
status = in_child(child, 20)
leave.set()
holder.join(20)
print((status, slow() == os.getpid(), holder.is_alive()))
cache.close()
"""
    assert run_literal(HEADER + body, path) == (0, True, False)


def test_a_child_that_just_exits_leaves_the_parent_alone(path):
    body = """
cache = ResultCache(enable_persistent=True, db_path=path)
cache.set("before", 1)
statuses = [in_child(lambda: True) for _ in range(3)]
cache.set("after", 1)
ok = cache.flush(20)
cache.close()
print((statuses, ok, sorted(name for name in os.listdir(os.path.dirname(path)) if name.endswith(("-wal", "-shm")))))
"""
    assert run_literal(HEADER + body, path) == ([0, 0, 0], True, [])
    assert keys(path) == {"before", "after"}


def test_a_child_that_exits_normally_runs_its_exit_handlers(path):
    body = """
cache = ResultCache(enable_persistent=True, db_path=path)
cache.set("parent", 1)
pid = os.fork()
if pid == 0:
    cache.set("child", 1)
    sys.exit(0)
deadline = time.monotonic() + 30
status = None
while status is None and time.monotonic() < deadline:
    done, code = os.waitpid(pid, os.WNOHANG)
    status = code if done else None
    time.sleep(0.01)
cache.close()
print(status)
"""
    assert run_literal(HEADER + body, path) == 0
    assert keys(path) == {"parent", "child"}


def test_multiprocessing_workers(path):
    body = """
import multiprocessing
cache = ResultCache(enable_persistent=True, db_path=path)
f = cache.cached(key_func=lambda x: f"f{x}")(lambda x: x * x)
f(0)
def work(x):
    return f(x)
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        results = pool.map_async(work, range(20)).get(40)
        pool.close()
        pool.join()
    print(results == [x * x for x in range(20)])
    cache.close()
"""
    assert run_literal(HEADER + body, path) is True
