"""Contract openclaw §3.3: the statistics of a pool."""

from __future__ import annotations

import threading

import pytest
from harness import Task, together

INTEGERS = {
    "total_created",
    "total_closed",
    "current_size",
    "acquisitions",
    "releases",
    "timeouts",
    "errors",
    "available",
    "in_use",
    "min_size",
    "max_size",
}


def consistent(stats):
    return (
        stats["current_size"]
        == stats["available"] + stats["in_use"]
        == stats["total_created"] - stats["total_closed"]
        >= 0
    )


def picked(pool, *names):
    stats = pool.get_stats()
    return tuple(stats[name] for name in names)


def test_a_fresh_pool(make_pool):  # openclaw §3.3
    stats = make_pool(min_size=3, max_size=7).get_stats()
    assert type(stats) is dict
    assert {name: stats[name] for name in INTEGERS} == {
        **dict.fromkeys(INTEGERS, 0),
        "total_created": 3,
        "current_size": 3,
        "available": 3,
        "min_size": 3,
        "max_size": 7,
    }
    assert stats["avg_use_count"] == 0


def test_types(pool):  # openclaw §3.3
    with pool.connection():
        stats = pool.get_stats()
    assert {type(stats[name]) for name in INTEGERS} == {int}
    assert isinstance(stats["avg_use_count"], (int, float))


def test_the_result_is_a_snapshot(pool):  # openclaw §3.1 "One consistent snapshot"
    stats = pool.get_stats()
    stats["acquisitions"] = 99
    with pool.connection():
        assert stats["in_use"] == 0
        assert picked(pool, "acquisitions", "in_use") == (1, 1)


def test_what_counts_where(make_pool):  # openclaw §3.3
    pool = make_pool(min_size=1, max_size=2)
    names = ("acquisitions", "releases", "timeouts", "total_created", "current_size", "available", "in_use")
    one = pool.acquire()
    assert picked(pool, *names) == (1, 0, 0, 1, 1, 0, 1)
    two = pool.acquire()
    assert picked(pool, *names) == (2, 0, 0, 2, 2, 0, 2)
    assert pool.acquire(timeout=0) is None
    assert picked(pool, *names) == (2, 0, 1, 2, 2, 0, 2)
    one.close()
    two.close()
    assert picked(pool, *names) == (2, 2, 1, 2, 2, 2, 0)
    pool.close_all()
    assert picked(pool, *names) == (2, 2, 1, 2, 0, 0, 0)
    assert consistent(pool.get_stats())


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_average_use(make_pool, rounds):  # openclaw §3.3 "mean hand-outs per open connection"
    pool = make_pool(min_size=2, max_size=2)
    for _ in range(rounds):
        with pool.connection():
            pass
    assert pool.get_stats()["avg_use_count"] == pytest.approx(rounds / 2)
    with pool.connection(), pool.connection():
        assert pool.get_stats()["avg_use_count"] == pytest.approx((rounds + 2) / 2)


def test_average_use_of_nothing(make_pool):  # openclaw §3.3 "0 if none"
    pool = make_pool(min_size=0)
    assert pool.get_stats()["avg_use_count"] == 0
    with pool.connection():
        pass
    pool.close_all()
    assert pool.get_stats()["avg_use_count"] == 0


def test_a_failed_opening_leaves_the_sizes_alone(make_pool, tmp_path):  # openclaw §3.3
    pool = make_pool(tmp_path / "missing" / "pool.db", min_size=0)
    assert pool.acquire(timeout=0.05) is None
    assert picked(pool, "current_size", "total_created", "total_closed", "acquisitions") == (0, 0, 0, 0)


def test_every_snapshot_is_consistent_under_load(make_pool):  # openclaw §3.3 "In every snapshot", P8
    pool = make_pool(min_size=0, max_size=3, max_idle_time=0.001, check_interval=0.001)
    done = threading.Event()

    def watch():
        wrong, seen = [], 0
        while not done.is_set():
            stats = pool.get_stats()
            seen += 1
            if not consistent(stats) or stats["current_size"] > 3 or stats["releases"] > stats["acquisitions"]:
                wrong.append(stats)
        return seen, wrong

    def work(index):
        for i in range(300):
            connection = pool.acquire(timeout=20)
            assert connection.execute("SELECT ?", (i,)).fetchone()[0] == i
            if i % 7 == 0:
                connection.conn.close()
            connection.close()

    watching = Task(watch)
    together(work, 4)
    done.set()
    seen, wrong = watching.result()
    assert wrong == []
    assert seen > 100
    assert picked(pool, "acquisitions", "releases", "in_use", "timeouts") == (1200, 1200, 0, 0)
