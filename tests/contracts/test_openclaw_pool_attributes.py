"""Contract openclaw §6.1: attributes of a pool that outside code could reasonably touch. They are live."""

from __future__ import annotations

import threading
import time

import pytest
from harness import Task, eventually, run_literal, stays

SEVEN = {"total_created", "total_closed", "current_size", "acquisitions", "releases", "timeouts", "errors"}


def test_configuration(make_pool, pool_path):  # openclaw §6.1
    pool = make_pool(pool_path, 1, 4, max_idle_time=12.5, check_interval=7)
    assert str(pool.db_path) == str(pool_path)
    assert (pool.min_size, pool.max_size, pool.max_idle_time, pool.check_interval) == (1, 4, 12.5, 7)


def test_running(pool):  # openclaw §6.1
    assert pool.running is True
    pool.close_all()
    assert pool.running is False


def test_stats_is_a_live_mapping_of_seven_counters(pool):  # openclaw §6.1
    stats = pool.stats
    assert set(stats) == SEVEN
    assert len(stats) == 7
    assert stats["total_created"] == stats["current_size"] == 2
    before = stats["acquisitions"], stats["releases"]
    with pool.connection():
        assert (stats["acquisitions"], stats["releases"]) == (before[0] + 1, before[1])
    assert (stats["acquisitions"], stats["releases"]) == (before[0] + 1, before[1] + 1)
    assert {name: dict(stats)[name] for name in SEVEN} == {name: pool.get_stats()[name] for name in SEVEN}
    assert stats.get("absent") is None
    with pytest.raises(KeyError):
        stats["absent"]


def test_available(pool):  # openclaw §6.1 "has qsize()"
    available = pool.available
    assert available.qsize() == 2
    with pool.connection(), pool.connection():
        assert available.qsize() == pool.available.qsize() == 0
    assert available.qsize() == 2


def test_in_use(pool):  # openclaw §6.1 "sized"
    in_use = pool.in_use
    assert len(in_use) == 0
    with pool.connection(), pool.connection(), pool.connection():
        assert len(in_use) == len(pool.in_use) == 3
    assert len(in_use) == 0


def test_metadata(pool):  # openclaw §6.1 "raw connection → created_at, last_used epochs, use_count"
    metadata = pool.metadata
    assert len(metadata) == 2
    connection = pool.acquire()
    raw = connection.conn
    assert raw in metadata
    entry = metadata[raw]
    assert entry["created_at"] <= entry["last_used"]
    assert entry["use_count"] == 1
    connection.close()
    pool.acquire().close()
    assert pool.metadata[raw]["use_count"] == 2
    assert pool.metadata[raw]["last_used"] >= entry["last_used"]
    assert pool.metadata[raw]["created_at"] == entry["created_at"]
    assert {type(value) for value in (entry["created_at"], entry["last_used"])} == {float}
    assert raw in list(pool.metadata)
    assert sum(entry["use_count"] for entry in pool.metadata.values()) == 2


def test_times_in_metadata_are_epochs(pool_path):
    """In a process of its own: other tests have moved the clocks of this one, which cannot be undone."""
    code = """
        import sys, time
        from upshift.sqlite import ConnectionPool
        before = time.time()
        with ConnectionPool(sys.argv[1], 1, 1) as pool, pool.connection() as connection:
            entry = dict(pool.metadata[connection.conn])
        print([before, entry["created_at"], entry["last_used"], time.time()])
    """
    times = run_literal(code, pool_path)
    assert times == sorted(times)


def test_metadata_of_other_connections(pool):
    with pytest.raises(KeyError):
        pool.metadata[object()]
    connection = pool.acquire()
    raw = connection.conn
    connection.close()
    pool.close_all()
    assert raw not in pool.metadata
    assert len(pool.metadata) == 0


@pytest.mark.parametrize("name", ["lock", "stats_lock"])
def test_locks_are_reentrant_context_managers(pool, name):  # openclaw §6.1, §1 "re-entry is legal"
    lock = getattr(pool, name)
    with lock:
        with lock:
            with pool.connection() as connection:
                assert connection.execute("SELECT 1").fetchone()[0] == 1
            assert pool.get_stats()["acquisitions"] == 1
            assert pool.stats["acquisitions"] == 1
    assert lock.acquire() is not False
    lock.release()


def test_the_lock_of_a_user_makes_others_wait(pool):  # openclaw §6.1
    with pool.lock:
        other = Task(pool.acquire)
        stays(lambda: not other.done(), seconds=0.2)
    other.result().close()


def test_maintenance_thread(make_pool):  # openclaw §6.1, DESIGN §2.8
    pool = make_pool(check_interval=0.05)
    thread = pool.maintenance_thread
    assert isinstance(thread.name, str)
    assert thread.name
    assert thread.daemon is True
    assert thread.is_alive()
    start = time.monotonic()
    thread.join(0.05)
    assert time.monotonic() - start < 5
    assert thread.is_alive()
    pool.close_all()
    thread.join(5)
    assert not thread.is_alive()


def test_join_waits_for_the_end(make_pool):  # openclaw §6.1
    pool = make_pool()
    joining = Task(pool.maintenance_thread.join)
    stays(lambda: not joining.done(), seconds=0.1)
    pool.close_all()
    joining.result(10)


def test_views_are_live_while_others_work(make_pool):
    pool = make_pool(min_size=0, max_size=4)
    leave = threading.Event()

    def hold():
        with pool.connection():
            leave.wait(30)

    tasks = [Task(hold) for _ in range(4)]
    eventually(lambda: len(pool.in_use) == 4)
    assert len(pool.metadata) == 4
    assert pool.available.qsize() == 0
    leave.set()
    for task in tasks:
        task.result()
    assert (len(pool.in_use), pool.available.qsize()) == (0, 4)
