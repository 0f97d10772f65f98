"""Contract openclaw §8: the documented numbers of the pool. Speed against the peers is measured in benches/python."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing

import pytest
from harness import together


def median_of(action, turns):
    """Median seconds of one call of `action(i)`."""
    taken = []
    for i in range(turns):
        start = time.perf_counter()
        action(i)
        taken.append(time.perf_counter() - start)
    return sorted(taken)[turns // 2]


def test_defaults(pool):  # openclaw §8 "2–10"
    assert (pool.min_size, pool.max_size) == (2, 10)
    borrowed = [pool.acquire(timeout=0) for _ in range(11)]
    assert [each is None for each in borrowed] == [False] * 10 + [True]
    for each in borrowed[:10]:
        each.close()


@pytest.mark.parametrize(("low", "high"), [(1, 3), (2, 8), (4, 20)], ids=["small", "medium", "large"])
def test_presets_construct_and_run(make_pool, low, high):  # openclaw §8 presets
    pool = make_pool(min_size=low, max_size=high)
    assert pool.get_stats()["current_size"] == low
    borrowed = [pool.acquire(timeout=0) for _ in range(high)]
    assert [each.execute("SELECT 1").fetchone()[0] for each in borrowed] == [1] * high
    for each in borrowed:
        each.close()
    assert pool.get_stats()["current_size"] == high


def test_acquiring_an_idle_connection_takes_less_than_a_millisecond(pool):  # openclaw §8 "Acquire < 1 ms when idle"
    def borrow(_):
        pool.acquire().close()

    assert median_of(borrow, 501) < 1e-3


def test_a_new_connection_takes_about_ten_milliseconds(make_pool):  # openclaw §8 "~10 ms new connection"
    pool = make_pool(min_size=0, max_size=51)
    borrowed = []
    assert median_of(lambda _: borrowed.append(pool.acquire()), 51) < 20e-3
    for each in borrowed:
        each.close()


def test_connections_are_reused(make_pool):  # openclaw §8 "reuse > 95 %"
    pool = make_pool()

    def work(_):
        for i in range(100):
            with pool.connection() as connection:
                assert connection.execute("SELECT ?", (i,)).fetchone()[0] == i

    together(work, 8)
    stats = pool.get_stats()
    assert stats["acquisitions"] == 800
    assert 1 - stats["total_created"] / stats["acquisitions"] > 0.95


def test_fifty_rounds_of_a_trivial_query(pool):  # openclaw §8 "far below 5 s (target < 0.2 s)"
    start = time.perf_counter()
    for _ in range(50):
        with pool.connection() as connection:
            connection.execute("SELECT 1").fetchone()
    assert time.perf_counter() - start < 0.5


def test_three_threads_of_ten_inserts(make_pool, pool_path):  # openclaw §8 load floor
    pool = make_pool(max_size=5)
    with pool.connection() as connection:
        connection.execute("CREATE TABLE t (thread, i)")

    def work(index):
        for i in range(10):
            with pool.connection() as connection:
                connection.execute("INSERT INTO t VALUES (?, ?)", (index, i))

    together(work, 3)
    pool.close_all()
    with closing(sqlite3.connect(pool_path)) as outside:
        rows = outside.execute("SELECT thread, i FROM t ORDER BY 1, 2").fetchall()
    assert rows == [(index, i) for index in range(3) for i in range(10)]


def test_wal_writes_are_faster_than_with_a_rollback_journal(make_pool, tmp_path):  # openclaw §8 "WAL ~2× DELETE mode"
    def writing(connection):
        connection.execute("CREATE TABLE t (x)")
        return median_of(lambda i: connection.execute("INSERT INTO t VALUES (?)", (i,)), 101)

    with closing(sqlite3.connect(tmp_path / "delete.db", isolation_level=None)) as plain:
        rollback_journal = writing(plain)
    with make_pool().connection() as connection:
        assert writing(connection) < rollback_journal / 1.5


def test_the_documented_pragmas_save_no_data_loss(pool, pool_path):
    """`synchronous=NORMAL` in WAL mode: what was committed is in the file once the pool is closed."""
    with pool.connection() as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.executemany("INSERT INTO t VALUES (?)", [(i,) for i in range(1000)])
    pool.close_all()
    with closing(sqlite3.connect(pool_path)) as outside:
        assert outside.execute("SELECT count(*) FROM t").fetchone() == (1000,)
        assert outside.execute("PRAGMA integrity_check").fetchone() == ("ok",)
