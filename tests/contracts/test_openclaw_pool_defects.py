"""Contract openclaw §7: defects P1 to P18 of the original, none of which may come back. One section per number."""

from __future__ import annotations

import gc
import os
import shutil
import sqlite3
import statistics
import threading
import time
from contextlib import closing, suppress

import pytest
from harness import Peer, Task, eventually, run_literal, stays, together

from upshift.sqlite import ConnectionPool
from upshift.systems.openclaw import close_all_pools, get_pool
from upshift.testing import travel


def picked(pool, *names):
    stats = pool.get_stats()
    return tuple(stats[name] for name in names)


def sizes(pool):
    return picked(pool, "current_size", "available", "in_use")


def make_database(path, value):
    """A database of the standard library: one table, one row, no companions."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (?)", (value,))


# P1


def test_p01_the_same_connection_comes_back(make_pool):  # openclaw P1: "fails its own reuse expectation"
    pool = make_pool(min_size=2, max_size=5)
    first = pool.acquire()
    number = id(first.conn)
    pool.release(first)
    second = pool.acquire()
    assert id(second.conn) == number
    pool.release(second)
    assert pool.get_stats()["total_created"] == 2


# P2


def test_p02_maintenance_ends_with_the_pool(make_pool, pool_path):  # openclaw P2
    pools = [make_pool(min_size=2, check_interval=0.02) for _ in range(3)]
    time.sleep(0.1)
    for pool in pools:
        pool.close_all()
    pool_path.unlink()
    stays(lambda: os.listdir(pool_path.parent) == [], seconds=0.3)
    assert [sizes(pool) for pool in pools] == [(0, 0, 0)] * 3


# P3


def test_p03_no_zombies_after_close(make_pool):  # openclaw P3
    pool = make_pool()
    borrowed = pool.acquire()
    pool.close_all(timeout=0)
    with pytest.raises(sqlite3.ProgrammingError):
        pool.acquire(timeout=0)
    borrowed.close()
    pool.release(borrowed)
    assert sizes(pool) == (0, 0, 0)
    assert picked(pool, "total_created", "total_closed") == (2, 2)


def test_p03_an_opening_under_way_at_close_is_no_zombie(make_pool):  # openclaw P3, P8
    for _ in range(20):
        pool = make_pool(min_size=0, max_size=4)

        def borrow(index, pool=pool):
            if index == 3:
                return pool.close_all(timeout=5)
            with suppress(sqlite3.ProgrammingError):
                return pool.acquire(timeout=5).close()

        together(borrow, 4)
        assert sizes(pool) == (0, 0, 0)


# P4


def test_p04_one_connection_has_one_borrower(make_pool):  # openclaw P4
    pool = make_pool(min_size=1, max_size=3)
    held, lock = set(), threading.Lock()

    def work(index):
        for _ in range(200):
            connection = pool.acquire(timeout=20)
            key = id(connection.conn)
            with lock:
                assert key not in held
                held.add(key)
            with lock:
                held.remove(key)
            raw = connection.conn
            pool.release(connection)
            # Late and foreign releases, while others already hold the same connection.
            connection.close()
            pool.release(connection)
            del raw

    together(work, 4)
    assert picked(pool, "acquisitions", "releases", "in_use") == (800, 800, 0)


# P5


def test_p05_a_late_wrapper_does_not_reach_the_next_borrower(make_pool):  # openclaw P5
    pool = make_pool(min_size=1, max_size=1)
    late = pool.acquire()
    late.execute("CREATE TABLE t (x)")
    late.close()
    with pool.connection() as connection:
        connection.execute("BEGIN")
        connection.execute("INSERT INTO t VALUES (1)")
        for use in (late.rollback, late.commit, lambda: late.execute("DELETE FROM t"), late.cursor):
            with pytest.raises(sqlite3.ProgrammingError):
                use()
        late.close()
        assert connection.in_transaction
        assert connection.execute("SELECT count(*) FROM t").fetchone()[0] == 1


# P6


def test_p06_dropped_wrappers_give_their_slot_back(make_pool):  # openclaw P6
    pool = make_pool(min_size=0, max_size=2)
    for _ in range(10):
        held = [pool.acquire(timeout=5)]
        with pytest.warns(ResourceWarning):
            held.clear()
    gc.collect()
    assert picked(pool, "timeouts", "in_use") == (0, 0)
    assert picked(pool, "total_created")[0] <= 2


# P7


def test_p07_cleanup_stops_at_min_size(make_pool):  # openclaw P7: closed all idle ones, re-opened to the minimum
    pool = make_pool(min_size=3, max_size=8, max_idle_time=0.05, check_interval=0.02)
    for each in [pool.acquire() for _ in range(8)]:
        each.close()
    eventually(lambda: sizes(pool) == (3, 3, 0))
    created = picked(pool, "total_created")
    stays(lambda: sizes(pool) == (3, 3, 0), seconds=0.3)
    assert picked(pool, "total_created") == created == (8,)


def test_p07_connections_in_use_count_towards_the_minimum(make_pool):  # openclaw P7, §3.1
    pool = make_pool(min_size=2, max_size=4, max_idle_time=0.05, check_interval=0.02)
    borrowed = [pool.acquire() for _ in range(4)]
    borrowed.pop().close()
    borrowed.pop().close()
    eventually(lambda: sizes(pool) == (2, 0, 2))
    for each in borrowed:
        each.close()
    assert sizes(pool) == (2, 2, 0)


# P8


def test_p08_maintenance_never_closes_what_is_handed_out(make_pool):  # openclaw P8
    pool = make_pool(min_size=0, max_size=2, max_idle_time=0, check_interval=0.001)

    def work(index):
        for i in range(400):
            with pool.connection(timeout=20) as connection:
                assert connection.execute("SELECT ?", (i,)).fetchone()[0] == i
            if i % 50 == 0:
                time.sleep(0.005)

    together(work, 4)
    assert pool.get_stats()["errors"] == 0
    assert pool.get_stats()["total_closed"] > 0


# P9


def test_p09_an_explicit_begin_is_committed(make_pool):  # openclaw P9, §9.4
    pool = make_pool()
    with pool.connection() as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t VALUES (1)")
    with pool.connection() as one, pool.connection() as two:
        assert [each.execute("SELECT count(*) FROM t").fetchone()[0] for each in (one, two)] == [1, 1]


# P10


def test_p10_a_timeout_of_zero_takes_an_idle_connection(make_pool):  # openclaw P10
    pool = make_pool(min_size=1, max_size=1)
    connection = pool.acquire(timeout=0)
    assert connection is not None
    assert pool.acquire(timeout=0) is None
    connection.close()
    pool.acquire(0).close()


def test_p10_hand_over_is_not_polled(make_pool):  # openclaw P10: each hand-over cost up to 10 ms
    pool = make_pool(min_size=1, max_size=1)
    stamps = []

    def pass_on(_):
        for _ in range(25):
            with pool.connection(timeout=30):
                stamps.append(time.perf_counter())

    together(pass_on, 4)
    stamps.sort()
    assert len(stamps) == 100
    assert statistics.median(b - a for a, b in zip(stamps, stamps[1:])) < 0.005


def test_p10_the_wall_clock_does_not_matter(make_pool, monkeypatch):  # openclaw P10
    pool = make_pool(min_size=0, max_size=1)
    now = time.time
    with pool.connection():
        monkeypatch.setattr(time, "time", lambda: now() + 1e6)
        start = time.monotonic()
        assert pool.acquire(timeout=0.2) is None
        assert time.monotonic() - start > 0.19


# P11


def test_p11_a_bad_path_is_tried_with_back_off(make_pool, tmp_path):  # openclaw P11: 50 attempts in 0.5 s
    pool = make_pool(tmp_path, min_size=0)  # a folder
    start = time.monotonic()
    assert pool.acquire(timeout=0.5) is None
    assert time.monotonic() - start < 5
    assert 2 <= pool.get_stats()["errors"] <= 15
    assert isinstance(pool.last_error, sqlite3.OperationalError)
    with pytest.raises(TimeoutError) as caught, pool.connection(timeout=0):
        pytest.fail("entered")
    assert caught.value.__cause__ is pool.last_error or str(caught.value.__cause__) == str(pool.last_error)


def test_p11_a_file_that_is_no_database(make_pool, pool_path):  # openclaw P11
    pool_path.write_bytes(b"no database at all" * 1000)
    pool = make_pool(min_size=0)
    assert pool.acquire(timeout=0.1) is None
    assert isinstance(pool.last_error, sqlite3.DatabaseError)
    assert "not a database" in str(pool.last_error)
    assert pool_path.read_bytes() == b"no database at all" * 1000


# P12


def test_p12_contradicting_sizes(pool_path):  # openclaw P12: hung while locked
    with pytest.raises(ValueError, match=r"max_size|min_size"):
        Task(ConnectionPool, pool_path, min_size=5, max_size=2).result(10)
    with pytest.raises(ValueError, match=r"max_size|min_size"):
        Task(get_pool, pool_path, 5, 2).result(10)
    close_all_pools()


# P13


def test_p13_memory_is_shared_within_a_pool(make_pool):  # openclaw P13
    pool, other = make_pool(":memory:"), make_pool(":memory:")
    with pool.connection() as one, pool.connection() as two, pool.connection() as three:
        one.execute("CREATE TABLE t (x)")
        one.execute("INSERT INTO t VALUES (42)")
        assert [each.execute("SELECT x FROM t").fetchone()[0] for each in (one, two, three)] == [42] * 3
    with other.connection() as connection, pytest.raises(sqlite3.OperationalError, match="no such table"):
        connection.execute("SELECT * FROM t")


def test_p13_memory_lives_as_long_as_the_pool(make_pool):  # openclaw P13
    pool = make_pool(":memory:", min_size=0, max_size=2, max_idle_time=0.02, check_interval=0.02)
    with pool.connection() as connection:
        connection.execute("CREATE TABLE t (x)")
    eventually(lambda: pool.get_stats()["current_size"] == 0)
    with pool.connection() as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone()[0] == 0
    pool.close_all()
    fresh = make_pool(":memory:")
    with fresh.connection() as connection, pytest.raises(sqlite3.OperationalError, match="no such table"):
        connection.execute("SELECT * FROM t")


def test_p13_memory_takes_readers_and_writers(make_pool, tmp_path, monkeypatch):  # openclaw P13, DESIGN §3
    monkeypatch.chdir(tmp_path)
    pool = make_pool(":memory:", max_size=4)
    with pool.connection() as connection:
        connection.execute("CREATE TABLE t (x)")

    def work(index):
        for i in range(100):
            with pool.connection(timeout=30) as connection:
                connection.execute("INSERT INTO t VALUES (?)", (index * 1000 + i,))
                connection.execute("SELECT count(*) FROM t").fetchone()

    together(work, 4)
    with pool.connection() as connection:
        assert connection.execute("SELECT count(DISTINCT x) FROM t").fetchone()[0] == 400
    assert os.listdir(tmp_path) == []


# P14


def test_p14_a_replaced_file_is_noticed(make_pool, pool_path, tmp_path):  # openclaw P14
    make_database(pool_path, "old")
    pool = make_pool(check_interval=0.03)
    with pool.connection() as connection:
        assert connection.execute("SELECT x FROM t").fetchone()[0] == "old"
    make_database(tmp_path / "new.db", "new")
    for name in os.listdir(tmp_path):
        if name.startswith("pool.db-"):
            os.unlink(tmp_path / name)
    os.replace(tmp_path / "new.db", pool_path)

    def value():
        with pool.connection() as connection:
            return connection.execute("SELECT x FROM t").fetchone()[0]

    eventually(lambda: value() == "new")
    assert sizes(pool)[2] == 0
    assert pool.get_stats()["total_closed"] >= 2


def test_p14_a_deleted_file_is_noticed(make_pool, pool_path, tmp_path):  # openclaw P14
    make_database(pool_path, "old")
    pool = make_pool(check_interval=0.03)
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    closed = eventually(lambda: pool.get_stats()["total_closed"])
    assert closed >= 1

    def fresh():
        with pool.connection() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS fresh (x)")
        return pool_path.exists()

    eventually(fresh)
    pool.close_all()
    with closing(sqlite3.connect(pool_path)) as outside:
        assert outside.execute("SELECT name FROM sqlite_master").fetchall() == [("fresh",)]


def test_p14_a_replaced_file_is_noticed_by_the_next_borrower_after_a_second(
    make_pool, pool_path, tmp_path
):  # openclaw P14
    make_database(pool_path, "old")
    pool = make_pool()
    borrowed = pool.acquire()
    assert pool.write("INSERT INTO t VALUES ('older')").rowcount == 1
    for name in os.listdir(tmp_path):
        os.unlink(tmp_path / name)
    make_database(pool_path, "new")
    travel(1.1)
    with pool.connection() as connection:
        assert [row[0] for row in connection.execute("SELECT x FROM t")] == ["new"]
    borrowed.close()
    assert pool.write("INSERT INTO t VALUES ('newer')").rowcount == 1
    pool.close_all()
    with closing(sqlite3.connect(pool_path)) as outside:
        assert outside.execute("SELECT x FROM t").fetchall() == [("new",), ("newer",)]


def test_p14_writes_notice_a_deleted_file_after_a_second(make_pool, pool_path, tmp_path):  # openclaw P14
    make_database(pool_path, "old")
    pool = make_pool()
    pool.write("INSERT INTO t VALUES ('older')")
    for name in os.listdir(tmp_path):
        os.unlink(tmp_path / name)
    travel(1.1)
    with pytest.raises(sqlite3.OperationalError, match="no such table: t"):
        pool.write("INSERT INTO t VALUES ('lost')")
    pool.write("CREATE TABLE fresh (x)")
    pool.close_all()
    with closing(sqlite3.connect(pool_path)) as outside:
        assert outside.execute("SELECT name FROM sqlite_master").fetchall() == [("fresh",)]


def test_p14_closing_leaves_the_file_alone_that_took_the_name(make_pool, pool_path, tmp_path):  # openclaw P14
    make_database(pool_path, "old")
    pool = make_pool()
    pool.write("INSERT INTO t VALUES ('older')")
    with pool.connection() as connection:
        connection.execute("SELECT x FROM t").fetchall()
    make_database(tmp_path / "new.db", "new")
    log = (tmp_path / "pool.db-wal").read_bytes()
    os.replace(tmp_path / "new.db", pool_path)
    content = pool_path.read_bytes()
    pool.close_all()
    assert pool_path.read_bytes() == content
    assert (tmp_path / "pool.db-wal").read_bytes() == log


def test_p14_busy_is_not_bad(make_pool, pool_path):  # openclaw P14
    pool = make_pool(check_interval=0.02)
    with pool.connection() as connection:
        connection.execute("CREATE TABLE t (x)")
    with Peer(f"import sqlite3; other = sqlite3.connect({str(pool_path)!r}, isolation_level=None)") as peer:
        peer("other.execute('BEGIN EXCLUSIVE').fetchall()")
        stays(lambda: pool.get_stats()["total_closed"] == 0, seconds=0.3)
        peer("other.execute('COMMIT').fetchall()")
    assert pool.get_stats()["errors"] == 0


# P15

LOCKED = """
import sqlite3
other = sqlite3.connect({path!r}, isolation_level=None)
other.execute("CREATE TABLE IF NOT EXISTS t (x)")
other.execute("BEGIN EXCLUSIVE").fetchall()
"""


def test_p15_a_slow_opening_holds_nobody_up(make_pool, pool_path):  # openclaw P15: opened under the global lock
    pool = make_pool(min_size=1, max_size=3)
    idle = pool.acquire()
    # The file in rollback-journal mode again, and locked: whoever opens it now has to wait.
    idle.execute("PRAGMA journal_mode = DELETE").fetchall()
    with Peer(LOCKED.format(path=str(pool_path))) as peer:
        opening = Task(pool.acquire, 25)
        time.sleep(0.2)
        start = time.monotonic()
        pool.get_stats()
        idle.close()
        pool.release(None)
        len(pool.in_use)
        again = pool.acquire(timeout=0)
        assert time.monotonic() - start < 2
        assert again is not None
        again.close()
        peer("other.execute('COMMIT').fetchall()")
    opening.result(25).close()
    assert sizes(pool)[2] == 0


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="platform: counts descriptors in /proc")
def test_p15_half_opened_connections_do_not_leak(pool_path):  # openclaw P15
    pool_path.write_bytes(b"no database at all" * 1000)
    program = """
    import os, sys
    from upshift.sqlite import ConnectionPool
    pool = ConnectionPool(sys.argv[1], min_size=0)
    pool.acquire(timeout=0)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        pool.acquire(timeout=0)
    print((pool.get_stats()["errors"], len(os.listdir("/proc/self/fd")) - before))
    pool.close_all()
    """
    assert run_literal(program, pool_path) == (51, 0)


# P16


def test_p16_a_borrowers_changes_end_with_the_loan(make_pool):  # openclaw P16
    pool = make_pool(min_size=1, max_size=1)
    with pool.connection() as connection:
        connection.row_factory = None
        connection.text_factory = bytes
        connection.isolation_level = ""
        assert connection.execute("SELECT 'a'").fetchone() == (b"a",)
    with pool.connection() as connection:
        row = connection.execute("SELECT 'a' AS name").fetchone()
        assert isinstance(row, sqlite3.Row)
        assert row["name"] == "a"
        assert connection.isolation_level is None


def test_p16_writes_reach_the_connection(make_pool):  # openclaw P16 "silently local"
    with make_pool().connection() as connection:
        connection.row_factory = lambda cursor, row: ("mine", *row)
        assert connection.conn.execute("SELECT 1").fetchone() == ("mine", 1)


# P17


def test_p17_two_names_of_one_file(tmp_path, monkeypatch):  # openclaw P17
    monkeypatch.chdir(tmp_path)
    assert get_pool("a.db") is get_pool("./a.db") is get_pool(tmp_path / "a.db")
    close_all_pools()


def test_p17_closed_pools_are_forgotten(tmp_path):  # openclaw P17
    pool = get_pool(tmp_path / "a.db")
    pool.close_all()
    fresh = get_pool(tmp_path / "a.db")
    assert fresh is not pool
    with fresh.connection() as connection:
        assert connection.execute("SELECT 1").fetchone()[0] == 1
    close_all_pools()


# P18


FORK = """
import os, sqlite3, sys, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from upshift.sqlite import ConnectionPool
path = sys.argv[1]
pool = ConnectionPool(path, min_size=2, check_interval=0.05)
with pool.connection() as connection:
    connection.execute("CREATE TABLE t (who)")

def in_child(body):
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
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "hangs"
"""

fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: has no fork")


@fork
def test_p18_a_pool_works_on_both_sides_of_fork(pool_path):  # openclaw P18
    body = """
def child():
    for _ in range(3):
        with pool.connection() as connection:
            connection.execute("INSERT INTO t VALUES ('child')")
    stats = pool.get_stats()
    pool.close_all()
    return stats["current_size"] == stats["available"] + stats["in_use"] >= 1
statuses = [in_child(child) for _ in range(3)]
with pool.connection() as connection:
    connection.execute("INSERT INTO t VALUES ('parent')")
    rows = [tuple(row) for row in connection.execute("SELECT who, count(*) FROM t GROUP BY who ORDER BY who")]
    sound = connection.execute("PRAGMA integrity_check").fetchone()[0]
pool.close_all()
print((statuses, rows, sound, os.listdir(os.path.dirname(path))))
"""
    statuses, rows, sound, names = run_literal(FORK + body, pool_path)
    assert (statuses, rows, sound, names) == ([0, 0, 0], [("child", 9), ("parent", 1)], "ok", ["pool.db"])


@fork
def test_p18_an_inherited_loan_is_refused_and_never_closed(pool_path):  # openclaw P18 "without closing them"
    body = """
borrowed = pool.acquire()
borrowed.execute("BEGIN IMMEDIATE")
borrowed.execute("INSERT INTO t VALUES ('parent')")
def child():
    refused = 0
    for use in (lambda: borrowed.execute("COMMIT"), borrowed.commit, lambda: borrowed.conn.execute("SELECT 1")):
        try:
            use()
        except sqlite3.ProgrammingError:
            refused += 1
    borrowed.close()
    pool.release(borrowed)
    return refused == 3
status = in_child(child)
wal = os.path.exists(path + "-wal")
still = borrowed.in_transaction
borrowed.commit()
borrowed.close()
with pool.connection() as connection:
    rows = [row[0] for row in connection.execute("SELECT who FROM t")]
pool.close_all()
print((status, wal, still, rows))
"""
    assert run_literal(FORK + body, pool_path) == (0, True, True, ["parent"])


@fork
def test_p18_an_inherited_pool_may_be_dropped(pool_path):  # openclaw P18
    body = """
import gc
def child():
    global pool
    del pool
    gc.collect()
    return os.path.exists(path + "-wal")
status = in_child(child)
with pool.connection() as connection:
    connection.execute("INSERT INTO t VALUES ('parent')")
pid = os.fork()
if pid == 0:
    sys.exit(0)  # exit handlers and all
os.waitpid(pid, 0)
with pool.connection() as connection:
    connection.execute("INSERT INTO t VALUES ('parent')")
    count = connection.execute("SELECT count(*) FROM t").fetchone()[0]
pool.close_all()
print((status, count))
"""
    assert run_literal(FORK + body, pool_path) == (0, 2)


@fork
def test_p18_fork_while_others_borrow(pool_path):  # openclaw P18: no lock stays taken in the child
    body = """
import threading
stop = threading.Event()
def work():
    while not stop.is_set():
        with pool.connection(timeout=20) as connection:
            connection.execute("INSERT INTO t VALUES ('thread')")
        pool.get_stats()
threads = [threading.Thread(target=work) for _ in range(3)]
[thread.start() for thread in threads]
def child():
    with pool.connection(timeout=20) as connection:
        connection.execute("INSERT INTO t VALUES ('child')")
    return pool.get_stats()["in_use"] == 0
statuses = [in_child(child) for _ in range(8)]
stop.set()
[thread.join(20) for thread in threads]
with pool.connection() as connection:
    count = connection.execute("SELECT count(*) FROM t WHERE who = 'child'").fetchone()[0]
    sound = connection.execute("PRAGMA integrity_check").fetchone()[0]
pool.close_all()
print((statuses, count, sound))
"""
    assert run_literal(FORK + body, pool_path) == ([0] * 8, 8, "ok")
