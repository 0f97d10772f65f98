"""The write lane: writers of a file take turns, readers never wait, and errors say who is in the way."""

from __future__ import annotations

import asyncio
import gc
import itertools
import sqlite3
import threading
import time

import pytest
from harness import Task, run_literal

from upshift import exceptions, sqlite
from upshift.sqlite import _aio

BUSY = 5
BUSY_SNAPSHOT = 517


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "lane.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (a)")
    connection.close()
    return path


@pytest.fixture
def connect(path):
    opened = []

    def connect(database=path, **options):
        options = {"isolation_level": None, "check_same_thread": False, "timeout": 10, **options}
        opened.append(sqlite.connect(database, **options))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


@pytest.fixture
def memory(connect):
    names = itertools.count()
    return lambda **options: connect(f"file:/lane-{id(names)}?vfs=memdb", uri=True, **options)


def count(connection):
    return connection.execute("SELECT count(*) FROM t").fetchone()[0]


def is_free(connection):
    """Whether the lane is free, asked by another thread through another connection."""

    def write():
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")

    timeout = connection.execute("PRAGMA busy_timeout").fetchone()[0]
    connection.execute("PRAGMA busy_timeout = 1")
    try:
        Task(write).result()
    except exceptions.WriteLaneTimeout:
        return False
    finally:
        connection.execute(f"PRAGMA busy_timeout = {timeout}")
    return True


def test_who_would_wait_for_itself_is_told_at_once(connect):
    first, second = connect(), connect()
    first.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    for sql in ("INSERT INTO t VALUES (1)", "BEGIN IMMEDIATE", "CREATE TABLE u (a)", "DELETE FROM t RETURNING a"):
        with pytest.raises(exceptions.WriteLaneDeadlock) as caught:
            second.execute(sql)
        assert not second.in_transaction
    assert time.monotonic() - started < 5
    assert isinstance(caught.value, sqlite3.OperationalError)
    assert (caught.value.sqlite_errorcode, caught.value.sqlite_errorname) == (BUSY, "SQLITE_BUSY")
    message = str(caught.value)
    for part in ("wait for itself", "commit, roll back or close", "MainThread", "since", "BEGIN IMMEDIATE"):
        assert part in message
    assert message.startswith("database is locked: ")
    holder = caught.value.holder
    assert (holder["thread"], holder["statement"]) == (threading.get_ident(), "BEGIN IMMEDIATE")
    # Other tests in this process may have let time pass (`upshift.testing.travel`).
    assert time.time() - 60 < holder["since"]
    first.execute("COMMIT")
    second.execute("INSERT INTO t VALUES (1)")


def test_the_deadline_names_the_holder(connect):
    first, second = connect(), connect(timeout=0.2)
    holds, done = threading.Event(), threading.Event()

    def hold():
        first.execute("BEGIN")
        first.execute("UPDATE t SET a = 7 /* the culprit */")
        holds.set()
        done.wait(60)
        first.execute("COMMIT")

    thread = threading.Thread(target=hold, name="the one in the way")
    thread.start()
    holds.wait(60)
    started = time.monotonic()
    with pytest.raises(exceptions.WriteLaneTimeout) as caught:
        second.execute("INSERT INTO t VALUES (1)")
    assert 0.2 <= time.monotonic() - started < 5
    assert isinstance(caught.value, TimeoutError)
    for part in ("the one in the way", "the culprit", "since"):
        assert part in str(caught.value)
    # Readers do not wait.
    assert count(second) == 0
    done.set()
    thread.join()
    second.execute("INSERT INTO t VALUES (1)")


def test_a_stale_snapshot_is_advised(connect):
    first, second = connect(), connect()
    first.execute("BEGIN")
    assert count(first) == 0
    second.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(sqlite3.OperationalError, match="BEGIN IMMEDIATE") as caught:
        first.execute("INSERT INTO t VALUES (2)")
    assert caught.value.sqlite_errorcode == BUSY_SNAPSHOT
    assert "locked" not in str(caught.value)
    first.execute("ROLLBACK")
    first.execute("INSERT INTO t VALUES (2)")


@pytest.mark.parametrize("other", ["upshift", "sqlite3"])
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_a_transaction_that_has_read_waits_for_the_writer(connect, path, other, end):
    first = connect()
    second = connect() if other == "upshift" else sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    first.execute("BEGIN")
    assert count(first) == 0
    second.execute("BEGIN IMMEDIATE")
    second.execute("INSERT INTO t VALUES (1)")
    waiting = Task(lambda: first.execute("INSERT INTO t VALUES (2)"))
    time.sleep(0.1)
    assert not waiting.done()
    second.execute(end)
    if end == "ROLLBACK":
        waiting.result()
        first.execute("COMMIT")
        assert count(first) == 1
    else:
        with pytest.raises(sqlite3.OperationalError, match="BEGIN IMMEDIATE"):
            waiting.result()
    second.close()


def test_the_lane_is_given_back_whatever_happens(connect, path):
    other = connect()

    def begun(**options):
        connection = connect(**options)
        connection.execute("BEGIN IMMEDIATE")
        assert not is_free(other)
        return connection

    begun().execute("COMMIT")
    assert is_free(other)
    begun().rollback()
    assert is_free(other)
    begun().close()
    assert is_free(other)
    connection = sqlite.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    assert not is_free(other)
    del connection
    gc.collect()
    assert is_free(other)
    connection = connect()
    connection.execute("CREATE UNIQUE INDEX i ON t (a)")
    assert is_free(other)
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute("INSERT INTO t VALUES (1), (1)")
    assert is_free(other)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute("INSERT OR ROLLBACK INTO t VALUES (1)")
    assert is_free(other)
    with pytest.raises(sqlite3.OperationalError):
        connection.executescript("BEGIN; INSERT INTO t VALUES (3); COMMIT; INSERT INTO nowhere VALUES (1)")
    assert is_free(other)
    with pytest.raises(sqlite3.ProgrammingError):
        connection.execute("INSERT INTO t VALUES (?)", ())
    with pytest.raises(ZeroDivisionError):
        connection.executemany("INSERT INTO t VALUES (?)", ((1 / n,) for n in (2, 1, 0)))
    assert is_free(other)
    rows = connection.execute("INSERT INTO t VALUES (10), (11) RETURNING a")
    assert next(rows) == (10,)
    # Not before the statement has ended.
    assert not is_free(other)
    assert rows.fetchall() == [(11,)]
    assert is_free(other)
    rows = connection.execute("INSERT INTO t VALUES (12), (13) RETURNING a")
    del rows
    assert is_free(other)


@pytest.mark.parametrize("options", [{"isolation_level": ""}, {"isolation_level": "IMMEDIATE"}, {"autocommit": False}])
def test_transactions_that_begin_by_themselves(connect, options):
    connection, other = connect(**options), connect()
    assert count(connection) == 0
    connection.commit()
    assert is_free(other)
    connection.execute("INSERT INTO t VALUES (1)")
    assert not is_free(other)
    connection.executemany("INSERT INTO t VALUES (?)", [(2,), (3,)])
    with connection:
        connection.execute("DELETE FROM t WHERE a = 2")
    assert is_free(other)
    connection.execute("INSERT INTO t VALUES (4)")
    connection.rollback()
    assert is_free(other)
    assert count(connection) == 2


def test_only_statements_that_write_take_the_lane(connect):
    first, second = connect(), connect(timeout=0.05)
    first.execute("BEGIN IMMEDIATE")
    for sql in (
        "SELECT * FROM t",
        "BEGIN",
        "COMMIT",
        "SAVEPOINT s",
        "RELEASE s",
        "PRAGMA journal_mode",
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = NORMAL",
        "PRAGMA table_info(t)",
        "EXPLAIN INSERT INTO t VALUES (1)",
        "EXPLAIN QUERY PLAN DELETE FROM t",
    ):
        Task(lambda sql=sql: second.execute(sql).fetchall()).result()


def test_files_without_a_log_have_no_lane(connect, tmp_path):
    first, second = (connect(tmp_path / "plain.db", timeout=0.05) for _ in range(2))
    first.execute("CREATE TABLE t (a)")
    first.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked") as caught:
        second.execute("INSERT INTO t VALUES (1)")
    assert not isinstance(caught.value, exceptions.WriteLaneError)
    first.execute("COMMIT")
    # From now on it has one.
    assert first.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    first.execute("BEGIN IMMEDIATE")
    with pytest.raises(exceptions.WriteLaneDeadlock):
        second.execute("INSERT INTO t VALUES (1)")


def test_interrupt_ends_the_wait(connect):
    first, second = connect(), connect(timeout=60)
    first.execute("BEGIN IMMEDIATE")
    waiting = Task(lambda: second.execute("INSERT INTO t VALUES (1)"))
    while not waiting.done():
        second.interrupt()
        time.sleep(0.01)
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        waiting.result()


def test_ctrl_c_ends_the_wait(path):
    code = """
        import os, signal, sys, threading, time
        from upshift import sqlite
        first, second = (sqlite.connect(sys.argv[1], check_same_thread=False, timeout=60) for _ in range(2))
        holds = threading.Event()
        def hold():
            first.execute("BEGIN IMMEDIATE")
            holds.set()
        threading.Thread(target=hold).start()
        holds.wait()
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            second.execute("INSERT INTO t VALUES (1)")
        except KeyboardInterrupt:
            first.rollback()
            second.execute("INSERT INTO t VALUES (1)")
            print(second.execute("SELECT count(*) FROM t").fetchone()[0])
    """
    assert run_literal(code, path) == 1


def test_writers_take_turns_in_order(connect):
    first = connect()
    connections = [connect() for _ in range(8)]
    first.execute("BEGIN IMMEDIATE")
    waiting = []
    for number, connection in enumerate(connections):
        waiting.append(Task(lambda number=number, c=connection: c.execute("INSERT INTO t VALUES (?)", (number,))))
        time.sleep(0.05)
    first.execute("COMMIT")
    for task in waiting:
        task.result()
    assert first.execute("SELECT a FROM t ORDER BY rowid").fetchall() == [(number,) for number in range(8)]


def test_a_connection_belongs_to_whoever_uses_it(connect):
    """One thread begins, another goes on and commits: the first may wait for that."""
    first, second = connect(), connect()
    first.execute("BEGIN IMMEDIATE")
    Task(lambda: first.execute("INSERT INTO t VALUES (1)")).result()
    finish = threading.Timer(0.1, first.execute, ("COMMIT",))
    finish.start()
    second.execute("INSERT INTO t VALUES (2)")
    finish.join()
    assert count(first) == 2


def test_readers_of_memory_wait_for_the_writer(memory):
    first, second, third = memory(), memory(), memory()
    first.execute("CREATE TABLE t (a)")
    first.execute("BEGIN IMMEDIATE")
    first.execute("INSERT INTO t VALUES (1)")
    reading = Task(lambda: count(second))
    time.sleep(0.05)
    assert not reading.done()
    first.execute("COMMIT")
    assert reading.result() == 1
    # Readers share.
    rows, others = second.execute("SELECT a FROM t UNION SELECT 2"), third.execute("SELECT a FROM t UNION SELECT 2")
    assert next(rows) == next(others) == (1,)
    writing = Task(lambda: first.execute("INSERT INTO t VALUES (2)"))
    time.sleep(0.05)
    assert not writing.done()
    # Who reads already may read more, though a writer waits: the writer waits for it.
    assert count(third) == 1
    assert rows.fetchall() == others.fetchall() == [(2,)]
    writing.result()
    rows = second.execute("SELECT a FROM t")
    assert next(rows) == (1,)
    with pytest.raises(exceptions.WriteLaneDeadlock):
        first.execute("DELETE FROM t")


def test_a_reader_of_memory_that_has_to_read_the_schema_is_refused_in_time(memory):
    first, second, third = memory(), memory(), memory(timeout=0.05)
    first.execute("CREATE TABLE t (a)")
    first.execute("BEGIN IMMEDIATE")
    first.execute("INSERT INTO t VALUES (1)")
    started = time.monotonic()
    with pytest.raises(exceptions.WriteLaneDeadlock):
        second.execute("SELECT count(*) FROM t")
    with pytest.raises(exceptions.WriteLaneTimeout):
        Task(count, third).result()
    assert time.monotonic() - started < 5
    waiting = Task(count, second)
    time.sleep(0.05)
    assert not waiting.done()
    first.execute("COMMIT")
    assert waiting.result() == count(third) == 1
    assert is_free(first)


def test_statements_compiled_at_once_do_not_keep_each_other_from_writing(memory):
    setup = memory()
    setup.execute("CREATE TABLE t (a)")

    def work(number):
        connection = memory()
        for n in range(100):
            # A text of its own: it is compiled each time.
            connection.execute(f"INSERT INTO t VALUES ({number * 1000 + n})")

    for task in [Task(work, number) for number in range(4)]:
        task.result()
    assert count(setup) == 400


def test_a_task_reads_the_schema_of_memory_in_its_turn(memory):
    first, second = memory(), memory()
    first.execute("CREATE TABLE t (a)")

    async def main():
        first.execute("BEGIN IMMEDIATE")
        first.execute("INSERT INTO t VALUES (1)")
        connection = _aio.AsyncConnection(second)
        reading = asyncio.ensure_future(connection.execute("SELECT count(*) FROM t"))
        await asyncio.sleep(0.1)
        assert not reading.done()
        await asyncio.to_thread(first.execute, "COMMIT")
        assert await (await reading).fetchone() == (1,)

    asyncio.run(main())


def test_threads_share_a_database_in_memory(memory):
    setup = memory()
    setup.execute("CREATE TABLE t (a)")

    def work(number):
        connection = memory()
        for n in range(200):
            connection.execute("INSERT INTO t VALUES (?)", (n,))
            if n % 10 == 0:
                connection.execute("BEGIN IMMEDIATE")
                assert count(connection) > n
                connection.execute("UPDATE t SET a = a + 1 WHERE a = ?", (number,))
                connection.execute("COMMIT")

    tasks = [Task(work, number) for number in range(4)]
    for task in tasks:
        task.result()
    assert count(setup) == 800


def test_a_task_and_a_thread(connect):
    """A coroutine awaits the turn that a thread has, and the other way round; the event loop goes on meanwhile."""
    first, second = connect(), connect()

    async def main():
        connection = _aio.AsyncConnection(second)
        first.execute("BEGIN IMMEDIATE")
        writing = asyncio.ensure_future(connection.execute("INSERT INTO t VALUES (1)"))
        await asyncio.sleep(0.1)
        assert not writing.done()
        await asyncio.to_thread(first.execute, "COMMIT")
        await writing
        await connection.execute("BEGIN IMMEDIATE")
        waiting = Task(lambda: first.execute("INSERT INTO t VALUES (2)"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await connection.commit()
        waiting.result()

    asyncio.run(main())
    assert count(first) == 2


def test_tasks_take_turns_without_threads(connect):
    """More writers than background threads: those who wait for a turn hold none of them."""
    connections = [connect() for _ in range(24)]

    async def write(number):
        connection = _aio.AsyncConnection(connections[number])
        for _ in range(3):
            await connection.execute("BEGIN IMMEDIATE")
            await asyncio.sleep(0.001)
            await connection.executemany("INSERT INTO t VALUES (?)", [(number,), (number,)])
            await connection.commit()

    async def main():
        await asyncio.wait_for(asyncio.gather(*map(write, range(24))), 60)

    asyncio.run(main())
    assert count(connections[0]) == 24 * 3 * 2


def test_a_task_is_told_that_it_would_wait_for_itself(connect):
    first, second = connect(), connect()

    async def main():
        one, two = _aio.AsyncConnection(first), _aio.AsyncConnection(second)
        await one.execute("BEGIN IMMEDIATE")
        with pytest.raises(exceptions.WriteLaneDeadlock, match="a task of thread"):
            await two.execute("INSERT INTO t VALUES (1)")
        # A statement that blocks the loop would keep the task from ever committing.
        with pytest.raises(exceptions.WriteLaneDeadlock):
            second.execute("INSERT INTO t VALUES (1)")
        other = asyncio.ensure_future(two.execute("INSERT INTO t VALUES (1)"))
        await asyncio.sleep(0.05)
        await one.commit()
        await other

    asyncio.run(main())
    assert count(first) == 1


def test_a_task_that_gives_up_leaves_the_queue(connect):
    first, second, third = connect(), connect(timeout=0.1), connect()

    async def main():
        two, three = _aio.AsyncConnection(second), _aio.AsyncConnection(third)
        first.execute("BEGIN IMMEDIATE")
        with pytest.raises(exceptions.WriteLaneTimeout, match="BEGIN IMMEDIATE"):
            await two.execute("INSERT INTO t VALUES (1)")
        cancelled = asyncio.ensure_future(three.execute("INSERT INTO t VALUES (2)"))
        await asyncio.sleep(0.1)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        first.execute("COMMIT")
        await two.execute("INSERT INTO t VALUES (3)")
        assert is_free(third)

    asyncio.run(main())
    assert first.execute("SELECT a FROM t").fetchall() == [(3,)]


def test_messages_begin_as_sqlites_do(connect):
    """Programs that try again look for "locked"."""
    first, second = connect(), connect(timeout=0.05)
    first.execute("BEGIN IMMEDIATE")
    for error, write in (
        (exceptions.WriteLaneDeadlock, lambda: second.execute("BEGIN IMMEDIATE")),
        (exceptions.WriteLaneTimeout, Task(second.execute, "BEGIN IMMEDIATE").result),
    ):
        with pytest.raises(error, match=r"^database is locked: "):
            write()


def test_a_thread_is_not_taken_for_one_that_has_ended(connect):
    """The system gives the id of a thread that has ended to the next one."""
    first, second = connect(), connect()
    for number in range(10):
        Task(first.execute, "BEGIN IMMEDIATE").result()
        waiting = Task(second.execute, "INSERT INTO t VALUES (?)", (number,))
        time.sleep(0.02)
        first.execute("COMMIT")
        waiting.result()
    assert count(first) == 10


def test_a_task_is_not_taken_for_one_that_has_ended(connect, path):
    first, second = connect(), connect()

    async def main():
        one, two = _aio.AsyncConnection(first), _aio.AsyncConnection(second)
        with sqlite.ConnectionPool(str(path), min_size=0) as pool:
            for number in range(10):
                # In tasks of their own (up to Python 3.11), which have ended when the next ones are made.
                await asyncio.wait_for(one.execute("BEGIN IMMEDIATE"), 60)
                waiting = asyncio.create_task(two.execute("INSERT INTO t VALUES (?)", (number,)))
                await asyncio.sleep(0.01)
                await one.commit()
                await waiting
                await asyncio.wait_for(one.execute("BEGIN IMMEDIATE"), 60)
                waiting = asyncio.create_task(pool.awrite("INSERT INTO t VALUES (?)", (number,)))
                await asyncio.sleep(0.01)
                await one.commit()
                await waiting

    asyncio.run(main())
    assert count(first) == 20


def test_a_read_makes_the_transaction_the_readers(connect):
    """Whoever used the connection last is who would wait for itself."""
    first, second = connect(), connect(timeout=60)
    Task(first.execute, "BEGIN IMMEDIATE").result()
    assert count(first) == 0
    with pytest.raises(exceptions.WriteLaneDeadlock, match="MainThread"):
        second.execute("INSERT INTO t VALUES (1)")
    assert Task(count, first).result() == 0
    finish = threading.Timer(0.1, first.execute, ("COMMIT",))
    finish.start()
    second.execute("INSERT INTO t VALUES (1)")
    finish.join()

    async def main():
        one, two = _aio.AsyncConnection(first), _aio.AsyncConnection(second)
        await asyncio.create_task(one.execute("BEGIN IMMEDIATE"))
        await one.execute("SELECT 1")
        with pytest.raises(exceptions.WriteLaneDeadlock, match='a task of thread "MainThread"'):
            await two.execute("INSERT INTO t VALUES (1)")
        await one.commit()

    asyncio.run(main())


def test_a_holder_whose_thread_has_ended_has_no_name(connect):
    first, second = connect(), connect(timeout=0.05)
    Task(first.execute, "BEGIN IMMEDIATE").result()
    with pytest.raises(exceptions.WriteLaneTimeout, match="of a thread that has ended") as caught:
        second.execute("INSERT INTO t VALUES (1)")
    assert caught.value.holder["thread"] is None
    first.execute("COMMIT")


@pytest.fixture
def attached(connect, tmp_path):
    """A connection that has attached the file, under one of several spellings."""
    other = tmp_path / "other.db"

    def make(spelling="o", **options):
        connection = connect(other, **options)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"ATTACH ? AS {spelling}", (str(tmp_path / "lane.db"),))
        connection.execute("CREATE TABLE IF NOT EXISTS main.u (a)")
        return connection

    return make


@pytest.mark.parametrize("spelling", ["o", '"o"', "[o];"])
def test_a_write_to_an_attached_file_is_told_that_it_would_wait_for_itself(connect, attached, spelling):
    first, second = connect(), attached(spelling, timeout=60)
    first.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    for sql in ("INSERT INTO o.t VALUES (1)", "BEGIN IMMEDIATE"):
        with pytest.raises(exceptions.WriteLaneDeadlock, match=r"MainThread.*BEGIN IMMEDIATE"):
            second.execute(sql)
        assert not second.in_transaction
    assert time.monotonic() - started < 20
    # What does not write there is not in the way.
    second.execute("INSERT INTO u VALUES (1)")
    assert second.execute("SELECT count(*) FROM o.t").fetchone() == (0,)
    first.execute("COMMIT")
    second.execute("INSERT INTO o.t VALUES (1)")
    second.execute("DETACH o")
    first.execute("BEGIN IMMEDIATE")
    second.execute("BEGIN IMMEDIATE")
    second.execute("ROLLBACK")
    first.execute("ROLLBACK")
    assert count(first) == 1


def test_the_deadline_names_the_holder_of_an_attached_file(connect, attached, tmp_path):
    first, second = connect(), attached(timeout=0.2)
    holding = Task(first.execute, "BEGIN IMMEDIATE /* the culprit */")
    holding.result()
    with pytest.raises(exceptions.WriteLaneTimeout, match="the culprit") as caught:
        second.execute("INSERT INTO o.t VALUES (1)")
    assert caught.value.holder["statement"] == "BEGIN IMMEDIATE /* the culprit */"
    assert (caught.value.sqlite_errorcode, second.in_transaction) == (BUSY, False)
    # Others may write to its own file.
    assert is_free(connect(tmp_path / "other.db"))
    first.execute("COMMIT")
    second.execute("INSERT INTO o.t VALUES (1)")
