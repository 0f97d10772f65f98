"""Contract openclaw §3.1: what a pool opens, lends, takes back and closes."""

from __future__ import annotations

import os
import sqlite3
import statistics
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
from harness import Peer, Task, eventually, stays, together

import upshift.sqlite
from upshift.sqlite import ConnectionPool, PooledConnection


def sizes(pool):
    stats = pool.get_stats()
    return stats["current_size"], stats["available"], stats["in_use"]


def companions(path):
    """Files that SQLite keeps beside an open database."""
    return sorted(name for name in os.listdir(path.parent) if name.startswith(path.name + "-"))


# --- the constructor


def test_defaults(pool):  # openclaw §3.1 signature
    assert (pool.min_size, pool.max_size, pool.max_idle_time, pool.check_interval) == (2, 10, 300, 60)


def test_positional_order(make_pool, pool_path):  # openclaw §1 "Parameter names and positional order are API"
    pool = make_pool(pool_path, 1, 3, 20, 5)
    assert (pool.min_size, pool.max_size, pool.max_idle_time, pool.check_interval) == (1, 3, 20, 5)


def test_keywords(pool_path):  # openclaw §1 "all parameters may be passed by keyword"
    pool = ConnectionPool(check_interval=5, max_idle_time=20.5, max_size=3, min_size=1, db_path=pool_path)
    assert (pool.min_size, pool.max_size, pool.max_idle_time, pool.check_interval) == (1, 3, 20.5, 5)
    pool.close_all()


def test_unknown_parameters_are_refused(pool_path):
    with pytest.raises(TypeError):
        ConnectionPool(pool_path, minsize=1)
    with pytest.raises(TypeError):
        ConnectionPool()


@pytest.mark.parametrize("min_size", [0, 1, 2, 5])
def test_min_size_connections_are_open_at_once(make_pool, min_size):  # openclaw §3.1
    pool = make_pool(min_size=min_size, max_size=5)
    assert sizes(pool) == (min_size, min_size, 0)
    assert pool.get_stats()["total_created"] == min_size


@pytest.mark.parametrize(("min_size", "max_size"), [(-1, 5), (3, 2), (0, 0), (0, -1), (-2, -1), (11, 10)])
def test_impossible_sizes(pool_path, min_size, max_size):  # openclaw §3.1 "else ValueError", P12
    with pytest.raises(ValueError):
        Task(ConnectionPool, pool_path, min_size, max_size).result(10)
    assert not pool_path.exists()


class Named:
    """Path-like, and nothing else."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


@pytest.mark.parametrize("form", [str, Path, Named], ids=["str", "Path", "fspath"])
def test_the_path_may_be_any_path_like(make_pool, pool_path, form):  # openclaw §3.1
    pool = make_pool(form(pool_path))
    with pool.connection() as connection:
        connection.execute("CREATE TABLE t (x)")
    assert pool_path.exists()
    assert os.fspath(pool.db_path) == str(pool_path)


def test_other_paths_are_refused():
    for path in (None, 1, 1.5, object()):
        with pytest.raises(TypeError):
            ConnectionPool(path)


def test_one_maintenance_thread_per_pool(make_pool, tmp_path):  # openclaw §3.1
    pools = [make_pool(tmp_path / f"{i}.db", min_size=0) for i in range(3)]
    threads = [pool.maintenance_thread for pool in pools]
    assert len({id(thread) for thread in threads}) == 3
    assert all(thread.is_alive() for thread in threads)
    pools[0].close_all()
    assert [thread.is_alive() for thread in threads] == [False, True, True]


@pytest.fixture
def unopenable(tmp_path):
    """A path that becomes good once its folder exists."""
    return tmp_path / "missing" / "pool.db"


def test_a_file_that_cannot_be_opened_is_no_error_of_the_constructor(make_pool, unopenable):  # openclaw §3.1
    pool = make_pool(unopenable)
    assert sizes(pool) == (0, 0, 0)
    assert pool.get_stats()["errors"] >= 1
    assert pool.get_stats()["total_created"] == 0
    assert isinstance(pool.last_error, sqlite3.OperationalError)
    assert pool.running


def test_errors_count_attempts(make_pool, unopenable):  # openclaw §3.1 "errors+1 per attempt"
    pool = make_pool(unopenable, min_size=0)
    assert pool.get_stats()["errors"] == 0
    for expected in (1, 2, 3):
        assert pool.acquire(timeout=0) is None
        assert pool.get_stats()["errors"] == expected


def test_no_error_no_last_error(pool):  # openclaw §3.1 [X]
    assert pool.last_error is None


# --- physical connections


@pytest.fixture
def connection(pool):
    borrowed = pool.acquire()
    yield borrowed
    borrowed.close()


def test_a_physical_connection_is_one_of_the_standard_library(connection):  # openclaw §3.1, DESIGN §3
    assert isinstance(connection, PooledConnection)
    assert isinstance(connection.conn, sqlite3.Connection)
    assert type(connection.conn) is upshift.sqlite.Connection
    assert connection.conn.__class__ is sqlite3.Connection


@pytest.mark.parametrize(
    ("pragma", "value"),
    [
        ("journal_mode", "wal"),
        ("synchronous", 1),
        ("cache_size", -64000),
        ("temp_store", 2),
        ("mmap_size", 268435456),
    ],
)
def test_pragmas(pool, pragma, value):  # openclaw §3.1, §8 "64 MB page cache, 256 MB mmap, memory temp store"
    borrowed = [pool.acquire() for _ in range(4)]  # opened by the constructor and later
    assert [each.execute(f"PRAGMA {pragma}").fetchone()[0] for each in borrowed] == [value] * 4
    for each in borrowed:
        each.close()


def test_connections_are_for_any_thread(connection):  # openclaw §3.1 check_same_thread=False
    assert Task(lambda: connection.execute("SELECT 1").fetchone()[0]).result() == 1


def test_isolation_level_and_row_factory(connection):  # openclaw §3.1
    assert connection.isolation_level is None
    assert connection.row_factory in (sqlite3.Row, upshift.sqlite.Row)
    assert connection.text_factory is str
    assert isinstance(connection.execute("SELECT 1 AS one").fetchone(), sqlite3.Row)


def test_each_statement_commits_by_itself(pool, pool_path):  # openclaw §3.1, §9.4
    one, other = pool.acquire(), pool.acquire()
    one.execute("CREATE TABLE t (x)")
    one.execute("INSERT INTO t VALUES (1)")
    assert not one.in_transaction
    assert other.execute("SELECT count(*) FROM t").fetchone()[0] == 1
    with closing(sqlite3.connect(pool_path)) as outside:
        assert outside.execute("SELECT count(*) FROM t").fetchone() == (1,)
    one.close()
    other.close()


def test_a_manual_acquire_without_commit_persists(pool, pool_path):  # openclaw §9.4
    connection = pool.acquire()
    connection.execute("CREATE TABLE t (x)")
    connection.execute("INSERT INTO t VALUES (1)")
    pool.release(connection)
    pool.close_all()
    with closing(sqlite3.connect(pool_path)) as outside:
        assert outside.execute("SELECT * FROM t").fetchall() == [(1,)]


def test_a_user_may_open_transactions(pool):  # openclaw §3.1 "unless the user issues BEGIN"
    one, other = pool.acquire(), pool.acquire()
    one.execute("CREATE TABLE t (x)")
    one.execute("BEGIN")
    one.execute("INSERT INTO t VALUES (1)")
    assert one.in_transaction
    assert other.execute("SELECT count(*) FROM t").fetchone()[0] == 0
    one.execute("COMMIT")
    assert other.execute("SELECT count(*) FROM t").fetchone()[0] == 1
    one.close()
    other.close()


def test_it_waits_for_another_process(pool, pool_path):  # openclaw §3.1 "busy timeout 30 s"
    with pool.connection() as connection:
        connection.execute("CREATE TABLE t (x)")
    with Peer(f"import sqlite3; other = sqlite3.connect({str(pool_path)!r}, isolation_level=None)") as peer:
        peer("other.execute('BEGIN IMMEDIATE').fetchall()")

        def write():
            with pool.connection() as connection:
                connection.execute("INSERT INTO t VALUES (1)")

        waiting = Task(write)
        stays(lambda: not waiting.done(), seconds=1)
        peer("other.execute('COMMIT').fetchall()")
        waiting.result(20)


# --- acquire


def test_acquire_gives_a_pooled_connection(pool):
    connection = pool.acquire()
    assert isinstance(connection, PooledConnection)
    assert connection.pool is pool
    assert sizes(pool) == (2, 1, 1)
    connection.close()
    assert sizes(pool) == (2, 2, 0)


def test_the_most_recently_released_is_reused(make_pool):  # openclaw §3.1 LIFO, P1
    pool = make_pool(min_size=3)
    for _ in range(5):
        first = pool.acquire()
        raw = first.conn
        first.close()
        again = pool.acquire()
        assert again.conn is raw
        again.close()


def test_idle_connections_are_a_stack(make_pool):  # openclaw §3.1 LIFO
    pool = make_pool(min_size=3)
    borrowed = [pool.acquire() for _ in range(3)]
    raw = [each.conn for each in borrowed]
    for index in (1, 0, 2):
        borrowed[index].close()
    borrowed = [pool.acquire() for _ in range(3)]
    assert [raw.index(each.conn) for each in borrowed] == [2, 0, 1]
    for each in borrowed:
        each.close()


def test_it_opens_more_up_to_max_size(make_pool):  # openclaw §3.1
    pool = make_pool(min_size=1, max_size=3)
    borrowed = []
    for size in (1, 2, 3):
        borrowed.append(pool.acquire())
        assert sizes(pool) == (size, 0, size)
    assert len({id(each.conn) for each in borrowed}) == 3
    assert pool.acquire(timeout=0.05) is None
    assert sizes(pool) == (3, 0, 3)
    for each in borrowed:
        each.close()
    assert sizes(pool) == (3, 3, 0)


def test_a_timeout_gives_none(make_pool):  # openclaw §3.1
    pool = make_pool(min_size=0, max_size=1)
    with pool.connection():
        start = time.monotonic()
        assert pool.acquire(timeout=0.3) is None
        assert 0.29 <= time.monotonic() - start < 5
        assert pool.acquire(0.01) is None
    stats = pool.get_stats()
    assert (stats["timeouts"], stats["acquisitions"]) == (2, 1)


def test_a_timeout_of_zero_tries_once(make_pool):  # openclaw §3.1, P10
    pool = make_pool(min_size=1, max_size=2)
    idle, opened = pool.acquire(timeout=0), pool.acquire(timeout=0)
    assert isinstance(idle, PooledConnection)
    assert isinstance(opened, PooledConnection)
    start = time.monotonic()
    assert pool.acquire(timeout=0) is None
    assert time.monotonic() - start < 0.5
    assert pool.get_stats()["timeouts"] == 1
    idle.close()
    opened.close()


def test_none_waits_without_limit(make_pool):  # openclaw §3.1 [X]
    pool = make_pool(min_size=0, max_size=1)
    connection = pool.acquire()
    waiting = Task(pool.acquire, timeout=None)
    stays(lambda: not waiting.done(), seconds=0.3)
    connection.close()
    waiting.result().close()


def test_waiters_are_served_in_order_of_arrival(make_pool):  # openclaw §3.1, P10 "unfair"
    pool = make_pool(min_size=1, max_size=1)
    connection, order, tasks = pool.acquire(), [], []

    def wait(index):
        with pool.connection(timeout=30):
            order.append(index)

    for index in range(10):
        tasks.append(Task(wait, index))
        # The next arrives when this one waits. Nothing tells that it does, so it gets time.
        time.sleep(0.03)
    connection.close()
    for task in tasks:
        task.result()
    assert order == list(range(10))


def test_nobody_overtakes_a_waiter(make_pool):  # openclaw §3.1 "waits in arrival order"
    pool = make_pool(min_size=1, max_size=1)
    connection, order = pool.acquire(), []

    def wait():
        with pool.connection(timeout=30):
            order.append("waiter")

    task = Task(wait)
    time.sleep(0.1)
    connection.close()
    with pool.connection(timeout=30):
        order.append("releaser")
    task.result()
    assert order == ["waiter", "releaser"]


def test_a_waiter_that_gave_up_takes_nothing(make_pool):
    pool = make_pool(min_size=1, max_size=1)
    connection = pool.acquire()
    assert together(lambda _: pool.acquire(timeout=0.05), 4) == [None] * 4
    connection.close()
    assert sizes(pool) == (1, 1, 0)
    again = pool.acquire(timeout=0)
    assert again is not None
    again.close()
    assert pool.get_stats()["timeouts"] == 4


def test_a_release_wakes_at_once(make_pool):  # openclaw §3.1 "woken by a release, without polling", P10
    pool = make_pool(min_size=1, max_size=1)
    delays = []
    for _ in range(15):
        connection = pool.acquire()

        def wait():
            borrowed = pool.acquire(timeout=30)
            arrived = time.perf_counter()
            borrowed.close()
            return arrived

        task = Task(wait)
        time.sleep(0.02)
        released = time.perf_counter()
        connection.close()
        delays.append(task.result() - released)
    assert statistics.median(delays) < 0.005


def test_waiting_takes_no_processor_time(make_pool):  # openclaw §3.1 "without polling"
    pool = make_pool(min_size=1, max_size=1)
    with pool.connection():
        tasks = [Task(pool.acquire, 1.0) for _ in range(4)]
        start = time.process_time()
        assert [task.result() for task in tasks] == [None] * 4
        assert time.process_time() - start < 0.3


def test_a_failed_opening_is_tried_again_until_the_timeout(make_pool, unopenable):  # openclaw §3.1, P11
    pool = make_pool(unopenable, min_size=0)
    start = time.monotonic()
    assert pool.acquire(timeout=0.5) is None
    assert 0.45 < time.monotonic() - start < 5
    stats = pool.get_stats()
    assert 2 <= stats["errors"] <= 15
    assert stats["timeouts"] == 1
    assert isinstance(pool.last_error, sqlite3.OperationalError)
    assert "unable to open" in str(pool.last_error)


def test_an_opening_that_works_again(make_pool, unopenable):  # openclaw §3.1 "retries with back-off"
    pool = make_pool(unopenable, min_size=0)
    waiting = Task(pool.acquire, 20)
    eventually(lambda: pool.get_stats()["errors"])
    unopenable.parent.mkdir()
    connection = waiting.result()
    assert connection.execute("SELECT 1").fetchone()[0] == 1
    connection.close()
    assert sizes(pool) == (1, 1, 0)


def test_acquire_after_close_all(pool):  # openclaw §3.1, P3
    pool.close_all()
    for timeout in (0, 0.1, None):
        with pytest.raises(sqlite3.ProgrammingError):
            pool.acquire(timeout)
    with pytest.raises(sqlite3.ProgrammingError), pool.connection():
        pytest.fail("entered")
    assert sizes(pool) == (0, 0, 0)


# --- connection()


def test_connection_yields_and_gives_back(pool):  # openclaw §3.1
    with pool.connection() as connection:
        assert isinstance(connection, PooledConnection)
        assert sizes(pool) == (2, 1, 1)
        raw = connection.conn
    assert sizes(pool) == (2, 2, 0)
    assert pool.get_stats()["releases"] == 1
    with pool.connection(timeout=1) as connection:
        assert connection.conn is raw


def test_connection_times_out(make_pool):  # openclaw §3.1, §9.9
    pool = make_pool(min_size=0, max_size=1)
    with pool.connection():
        with pytest.raises(TimeoutError) as caught, pool.connection(timeout=0.05):
            pytest.fail("entered")
    assert caught.value.__cause__ is None
    assert pool.get_stats()["timeouts"] == 1


def test_a_timeout_names_the_last_open_error(make_pool, unopenable):  # openclaw §3.1 "chained"
    pool = make_pool(unopenable, min_size=0)
    with pytest.raises(TimeoutError) as caught, pool.connection(timeout=0.05):
        pytest.fail("entered")
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)


def read(pool):
    with pool.connection() as connection:
        return [row[0] for row in connection.execute("SELECT x FROM t ORDER BY x")]


@pytest.fixture
def table(pool):
    with pool.connection() as connection:
        connection.execute("CREATE TABLE t (x INTEGER PRIMARY KEY)")
    return pool


def test_a_normal_exit_commits(table):  # openclaw §3.1, P9
    with table.connection() as connection:
        connection.execute("BEGIN")
        connection.execute("INSERT INTO t VALUES (1)")
    assert read(table) == [1]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3), sqlite3.IntegrityError()])
def test_an_exceptional_exit_rolls_back(table, error):  # openclaw §3.1, §9.4
    with pytest.raises(type(error)) as caught:  # noqa: PT012
        with table.connection() as connection:
            connection.execute("INSERT INTO t VALUES (1)")
            connection.execute("BEGIN")
            connection.execute("INSERT INTO t VALUES (2)")
            raise error
    assert caught.value is error
    assert sizes(table) == (2, 2, 0)
    assert read(table) == [1]  # what ran outside BEGIN stays


def test_a_commit_that_fails_is_raised_and_leaves_a_clean_connection(table):
    with table.connection() as connection:
        connection.execute("CREATE TABLE child (x REFERENCES t DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(sqlite3.IntegrityError):  # noqa: PT012
        with table.connection() as connection:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("BEGIN")
            connection.execute("INSERT INTO child VALUES (99)")
    assert sizes(table) == (2, 2, 0)
    with table.connection() as connection:
        assert not connection.in_transaction
        assert connection.execute("SELECT count(*) FROM child").fetchone()[0] == 0


def test_a_connection_given_back_inside_the_block(table):
    with table.connection() as connection:
        connection.close()
    assert sizes(table) == (2, 2, 0)
    assert table.get_stats()["releases"] == table.get_stats()["acquisitions"]


def test_connection_is_lazy_and_single_use(pool):
    manager = pool.connection()
    assert sizes(pool) == (2, 2, 0)
    with manager:
        assert sizes(pool) == (2, 1, 1)
    with pytest.raises((RuntimeError, TypeError, AttributeError, sqlite3.ProgrammingError)), manager:
        pytest.fail("entered twice")


# --- release


@pytest.mark.parametrize("form", ["wrapper", "raw"])
def test_release_takes_either_form(pool, form):  # openclaw §3.1
    connection = pool.acquire()
    pool.release(connection if form == "wrapper" else connection.conn)
    assert sizes(pool) == (2, 2, 0)
    assert pool.get_stats()["releases"] == 1
    with pytest.raises(sqlite3.ProgrammingError):
        connection.execute("SELECT 1")


def test_release_ignores_what_it_does_not_know(pool, make_pool, tmp_path):  # openclaw §3.1, P4
    other = make_pool(tmp_path / "other.db")
    with closing(sqlite3.connect(":memory:")) as foreign, closing(upshift.sqlite.connect(":memory:")) as mine:
        borrowed, elsewhere = pool.acquire(), other.acquire()
        for unknown in (None, object(), 1, "x", foreign, mine, elsewhere, elsewhere.conn, pool):
            assert pool.release(unknown) is None
        assert sizes(pool) == (2, 1, 1)
        assert sizes(other) == (2, 1, 1)
        assert pool.get_stats()["releases"] == other.get_stats()["releases"] == 0
        assert elsewhere.execute("SELECT 1").fetchone()[0] == 1
        assert foreign.execute("SELECT 1").fetchone() == mine.execute("SELECT 1").fetchone() == (1,)
        borrowed.close()
        elsewhere.close()


def test_a_second_release_does_nothing(pool):  # openclaw §3.1, P4
    connection = pool.acquire()
    raw = connection.conn
    for _ in range(2):
        pool.release(connection)
        pool.release(raw)
        connection.close()
    assert sizes(pool) == (2, 2, 0)
    assert pool.get_stats()["releases"] == 1
    one, two = pool.acquire(), pool.acquire()
    assert one.conn is not two.conn
    # The late wrapper has no power over the connection's next borrower.
    pool.release(connection)
    connection.close()
    assert sizes(pool) == (2, 0, 2)
    assert one.execute("SELECT 1").fetchone()[0] == 1
    one.close()
    two.close()


def test_release_rolls_back(table):  # openclaw §3.1
    connection = table.acquire()
    connection.execute("BEGIN")
    connection.execute("INSERT INTO t VALUES (1)")
    raw = connection.conn
    table.release(connection)
    assert not raw.in_transaction
    assert read(table) == []


def test_release_restores_the_settings(pool):  # openclaw §3.1, P16
    connection = pool.acquire()
    raw = connection.conn
    connection.row_factory = lambda cursor, row: list(row)
    connection.text_factory = bytes
    connection.isolation_level = "EXCLUSIVE"
    assert (raw.isolation_level, raw.text_factory) == ("EXCLUSIVE", bytes)
    pool.release(connection)
    again = pool.acquire()
    assert again.conn is raw
    assert (again.isolation_level, again.text_factory) == (None, str)
    row = again.execute("SELECT 'text' AS name").fetchone()
    assert (type(row["name"]), isinstance(row, sqlite3.Row)) == (str, True)
    again.close()


def test_a_connection_that_its_borrower_closed_is_replaced(pool):  # openclaw §3.1 "closes it if unhealthy"
    connection = pool.acquire()
    connection.conn.close()
    pool.release(connection)
    stats = pool.get_stats()
    assert stats["current_size"] == stats["total_created"] - stats["total_closed"] == stats["available"]
    assert stats["total_closed"] == 1
    borrowed = [pool.acquire() for _ in range(3)]
    assert [each.execute("SELECT 1").fetchone()[0] for each in borrowed] == [1] * 3
    for each in borrowed:
        each.close()


def test_unfinished_results_do_not_block_others(table):
    connection = table.acquire()
    connection.executemany("INSERT INTO t VALUES (?)", [(i,) for i in range(100)])
    cursor = connection.execute("SELECT * FROM t")
    cursor.fetchone()
    connection.close()
    with table.connection() as other:
        other.execute("DROP TABLE t")  # refused while a statement reads the table on the same connection
    assert cursor is not None


def test_release_from_another_thread(pool):
    connection = pool.acquire()
    Task(pool.release, connection).result()
    assert sizes(pool) == (2, 2, 0)


# --- close_all


def test_close_all_leaves_nothing_open(table, pool_path):  # openclaw §3.1
    assert companions(pool_path)
    assert table.close_all() is None
    stats = table.get_stats()
    assert (stats["current_size"], stats["total_closed"]) == (0, stats["total_created"])
    assert companions(pool_path) == []
    assert table.running is False
    descriptors = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    assert str(pool_path) not in descriptors
    pool_path.unlink()


def test_close_all_is_idempotent(pool):  # openclaw §3.1
    for _ in range(3):
        pool.close_all()
    together(lambda _: pool.close_all(), 4)
    assert pool.get_stats()["total_closed"] == 2


def test_close_all_wakes_waiters(make_pool):  # openclaw §3.1
    pool = make_pool(min_size=1, max_size=1)
    connection = pool.acquire()

    def wait(index):
        with suppress(sqlite3.ProgrammingError):
            return pool.acquire(timeout=None if index else 60)
        return "refused"

    waiting = [Task(wait, index) for index in range(3)]
    time.sleep(0.1)
    start = time.monotonic()
    closing_pool = Task(pool.close_all)
    assert [task.result(20) for task in waiting] == ["refused"] * 3
    assert time.monotonic() - start < 4
    connection.close()
    closing_pool.result(20)


def test_close_all_waits_for_what_is_lent(table):  # openclaw §3.1 "waits up to timeout for borrowed ones"
    connection = table.acquire()
    closing_pool = Task(table.close_all, timeout=30)
    eventually(lambda: not table.running)
    stays(lambda: not closing_pool.done(), seconds=0.3)
    connection.execute("INSERT INTO t VALUES (1)")
    connection.close()
    closing_pool.result(10)
    assert sizes(table) == (0, 0, 0)


def test_close_all_gives_up_after_its_timeout(pool, pool_path):  # openclaw §3.1, P3
    connection = pool.acquire()
    start = time.monotonic()
    pool.close_all(timeout=0.2)
    assert 0.15 < time.monotonic() - start < 4
    assert sizes(pool) == (1, 0, 1)
    connection.close()
    stats = pool.get_stats()
    assert (stats["current_size"], stats["in_use"], stats["total_closed"]) == (0, 0, stats["total_created"])
    assert companions(pool_path) == []
    with pytest.raises(sqlite3.ProgrammingError):
        connection.conn.execute("SELECT 1")


ENDLESS = "WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"


def test_close_all_interrupts_running_statements(pool):  # openclaw §3.1 "interrupted and closed when returned"
    started = threading.Event()

    def work():
        with pool.connection() as connection:
            connection.create_function("started", 0, lambda: started.set() or 1)
            connection.execute("SELECT started()").fetchone()
            connection.execute(ENDLESS).fetchone()

    running = Task(work)
    assert started.wait(20)
    time.sleep(0.05)
    pool.close_all(timeout=0.1)
    with pytest.raises(sqlite3.OperationalError, match="interrupt"):
        running.result(20)
    eventually(lambda: sizes(pool) == (0, 0, 0))


@pytest.mark.parametrize("returned", ["before", "after"])
def test_close_all_interrupts_what_is_being_returned(pool, returned):  # openclaw §3.1
    connection, started = pool.acquire(), threading.Event()
    connection.create_function("started", 0, lambda: started.set() or 1)

    def work():
        connection.execute("SELECT started()").fetchone()
        connection.execute(ENDLESS).fetchone()

    def give_back():
        connection.close()

    running = Task(work)
    assert started.wait(20)
    time.sleep(0.05)
    if returned == "before":
        returning = Task(give_back)
        time.sleep(0.1)
    pool.close_all(timeout=0.2)
    if returned == "after":
        returning = Task(give_back)
    with pytest.raises(sqlite3.OperationalError, match="interrupt"):
        running.result(20)
    returning.result(20)
    eventually(lambda: sizes(pool) == (0, 0, 0))


def test_close_all_interrupts_who_kept_a_connection(pool):
    """Returned, it is idle, but somebody executes on it all the same."""
    borrowed = pool.acquire()
    kept, started = borrowed.conn, threading.Event()
    borrowed.close()
    kept.set_progress_handler(started.set, 1000)
    running = Task(lambda: kept.execute(ENDLESS).fetchone())
    assert started.wait(20)
    Task(pool.close_all).result(20)
    with pytest.raises(sqlite3.OperationalError, match="interrupt"):
        running.result(20)
    with pytest.raises(sqlite3.ProgrammingError):
        kept.execute("SELECT 1")


def test_close_all_leaves_who_cannot_be_interrupted(pool):
    borrowed = pool.acquire()
    kept, started, end = borrowed.conn, threading.Event(), threading.Event()
    borrowed.close()
    kept.create_function("wait", 0, lambda: started.set() or end.wait(60))
    running = Task(lambda: kept.execute("SELECT wait()").fetchone())
    assert started.wait(20)
    Task(pool.close_all).result(20)
    assert sizes(pool) == (0, 0, 0)
    end.set()
    with suppress(sqlite3.Error):
        running.result(20)


def test_close_all_stops_maintenance(make_pool):  # openclaw §3.1 "Stops and joins maintenance"
    pool = make_pool(check_interval=0.01)
    assert pool.maintenance_thread.is_alive()
    pool.close_all()
    assert not pool.maintenance_thread.is_alive()
    pool.maintenance_thread.join(1)


def test_nothing_opens_the_file_again(make_pool, pool_path):  # openclaw §3.1, P2
    pool = make_pool(check_interval=0.02)
    pool.close_all()
    pool_path.unlink()
    stays(lambda: not pool_path.exists(), seconds=0.3)
    assert pool.get_stats()["current_size"] == 0


def test_closing_a_pool_does_not_disturb_another_on_the_file(make_pool, pool_path):
    one, other = make_pool(), make_pool()
    with one.connection() as connection:
        connection.execute("CREATE TABLE t (x)")
    one.close_all()
    with other.connection() as connection:
        connection.execute("INSERT INTO t VALUES (1)")
        assert connection.execute("SELECT count(*) FROM t").fetchone()[0] == 1
    assert companions(pool_path)


# --- maintenance


def test_idle_connections_are_closed_down_to_min_size(make_pool):  # openclaw §3.1, P7
    pool = make_pool(min_size=2, max_size=6, max_idle_time=0.1, check_interval=0.03)
    borrowed = [pool.acquire() for _ in range(6)]
    for each in borrowed:
        each.close()
    eventually(lambda: sizes(pool) == (2, 2, 0))
    stats = pool.get_stats()
    assert (stats["total_created"], stats["total_closed"]) == (6, 4)
    # It stays there: nothing is closed only to be opened again.
    stays(lambda: sizes(pool) == (2, 2, 0), seconds=0.3)
    assert pool.get_stats()["total_created"] == 6


def test_the_oldest_go_first(make_pool):  # openclaw §3.1 "oldest first"
    pool = make_pool(min_size=1, max_size=3, max_idle_time=0.1, check_interval=0.03)
    borrowed = [pool.acquire() for _ in range(3)]
    last = borrowed[1].conn
    for index in (2, 0, 1):
        borrowed[index].close()
        time.sleep(0.02)
    eventually(lambda: sizes(pool) == (1, 1, 0))
    with pool.connection() as connection:
        assert connection.conn is last


def test_connections_in_use_are_left_alone(make_pool):  # openclaw §3.1 "idle connections"
    pool = make_pool(min_size=0, max_size=2, max_idle_time=0.05, check_interval=0.02)
    with pool.connection() as connection:
        raw = connection.conn
        time.sleep(0.3)
        assert raw.execute("SELECT 1").fetchone()[0] == 1
        assert pool.get_stats()["total_closed"] == 0
    eventually(lambda: sizes(pool) == (0, 0, 0))


def test_young_idle_connections_stay(make_pool):  # openclaw §3.1 "idle longer than max_idle_time"
    pool = make_pool(min_size=0, max_size=3, max_idle_time=300, check_interval=0.02)
    for each in [pool.acquire() for _ in range(3)]:
        each.close()
    stays(lambda: sizes(pool) == (3, 3, 0), seconds=0.3)


def test_it_refills_to_min_size(make_pool, unopenable):  # openclaw §3.1 "refills to min_size"
    pool = make_pool(unopenable, min_size=3, check_interval=0.03)
    assert sizes(pool) == (0, 0, 0)
    unopenable.parent.mkdir()
    eventually(lambda: sizes(pool) == (3, 3, 0))


def test_dead_idle_connections_are_replaced(make_pool):  # openclaw §3.1 "checks health of idle connections"
    pool = make_pool(min_size=2, check_interval=0.03)
    connection = pool.acquire()
    raw = connection.conn
    connection.close()
    raw.close()  # a borrower who kept it
    eventually(lambda: pool.get_stats()["total_closed"] == 1)
    eventually(lambda: sizes(pool) == (2, 2, 0))
    borrowed = [pool.acquire() for _ in range(2)]
    assert raw not in [each.conn for each in borrowed]
    for each in borrowed:
        assert each.execute("SELECT 1").fetchone()[0] == 1
        each.close()


def test_a_pool_nobody_holds_goes_away(tmp_path):  # openclaw §1: maintenance must not keep it alive
    import gc
    import weakref

    pool = ConnectionPool(tmp_path / "dropped.db", check_interval=0.02)
    reference = weakref.ref(pool)
    time.sleep(0.1)
    del pool
    gc.collect()
    eventually(lambda: reference() is None)
    eventually(lambda: companions(tmp_path / "dropped.db") == [])


def test_a_closed_pool_cannot_be_entered(make_pool):  # openclaw §3.1 "After close_all(): ProgrammingError"
    pool = make_pool()
    with pool as same:
        assert same is pool
    with pytest.raises(sqlite3.ProgrammingError, match="closed pool"), pool:
        raise AssertionError


def test_who_has_a_connection_may_use_it_while_the_pool_closes(make_pool):  # openclaw §3.1 close_all
    pool = make_pool()
    connection = pool.acquire()
    ending = Task(pool.close_all, 20)
    eventually(lambda: not pool.running)
    assert connection.execute("SELECT 1").fetchone()[0] == 1
    assert not ending.done()
    connection.close()
    ending.result()
