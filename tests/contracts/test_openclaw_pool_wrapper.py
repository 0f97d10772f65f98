"""Contract openclaw §3.2: the wrapper that a borrower holds."""

from __future__ import annotations

import gc
import sqlite3
import weakref
from contextlib import closing

import pytest
from harness import Task, eventually, together

import upshift.sqlite
from upshift.sqlite import PooledConnection


def idle(pool):
    stats = pool.get_stats()
    return stats["available"], stats["in_use"], stats["releases"]


@pytest.fixture
def connection(pool):
    borrowed = pool.acquire()
    borrowed.execute("CREATE TABLE t (x INTEGER PRIMARY KEY, name TEXT)")
    yield borrowed
    borrowed.close()


# --- methods


def test_execute_and_executemany(connection):  # openclaw §3.2
    cursor = connection.executemany("INSERT INTO t VALUES (?, ?)", [(1, "a"), (2, "b")])
    assert isinstance(cursor, sqlite3.Cursor)
    assert cursor.rowcount == 2
    cursor = connection.execute("SELECT name FROM t WHERE x = ?", (2,))
    assert isinstance(cursor, sqlite3.Cursor)
    assert cursor.fetchone()["name"] == "b"
    assert connection.execute("SELECT :a", {"a": 1}).fetchone()[0] == 1


def test_cursor(connection):  # openclaw §3.2
    cursor = connection.cursor()
    assert isinstance(cursor, sqlite3.Cursor)
    assert cursor.connection is connection.conn
    cursor.execute("INSERT INTO t VALUES (1, 'a')")
    assert cursor.lastrowid == 1

    class Own(upshift.sqlite.Cursor):
        pass

    assert type(connection.cursor(Own)) is Own


def test_commit_and_rollback(connection, pool):  # openclaw §3.2
    for finish, expected in ((connection.rollback, 0), (connection.commit, 1)):
        connection.execute("BEGIN")
        connection.execute("INSERT INTO t VALUES (1, 'a')")
        assert finish() is None
        assert not connection.in_transaction
        with pool.connection() as other:
            assert other.execute("SELECT count(*) FROM t").fetchone()[0] == expected


def test_close_gives_back(pool):  # openclaw §3.2
    connection = pool.acquire()
    assert idle(pool) == (1, 1, 0)
    assert connection.close() is None
    assert idle(pool) == (2, 0, 1)
    connection.close()
    assert idle(pool) == (2, 0, 1)


def test_close_rolls_back(pool, connection):  # openclaw §3.1 release
    other = pool.acquire()
    other.execute("BEGIN")
    other.execute("INSERT INTO t VALUES (1, 'a')")
    other.close()
    assert connection.execute("SELECT count(*) FROM t").fetchone()[0] == 0


def test_close_is_safe_from_many_threads(pool):  # openclaw §3.2 "idempotent, thread-safe"
    for turn in range(1, 51):
        connection = pool.acquire()
        together(lambda _, connection=connection: connection.close(), 4)
        assert idle(pool) == (2, 0, turn)


# --- with


def test_with_yields_itself_commits_and_gives_back(pool, connection):  # openclaw §3.2
    with pool.acquire() as other:
        assert isinstance(other, PooledConnection)
        other.execute("BEGIN")
        other.execute("INSERT INTO t VALUES (1, 'a')")
    assert idle(pool) == (1, 1, 1)
    assert connection.execute("SELECT count(*) FROM t").fetchone()[0] == 1
    borrowed = pool.acquire()
    with borrowed as entered:
        assert entered is borrowed
    with pytest.raises(sqlite3.ProgrammingError):
        borrowed.execute("SELECT 1")


def test_with_rolls_back_propagates_and_gives_back(pool, connection):  # openclaw §3.2
    error = KeyError("x")
    with pytest.raises(KeyError) as caught:  # noqa: PT012
        with pool.acquire() as other:
            other.execute("INSERT INTO t VALUES (1, 'before')")
            other.execute("BEGIN")
            other.execute("INSERT INTO t VALUES (2, 'inside')")
            raise error
    assert caught.value is error
    assert idle(pool) == (1, 1, 1)
    assert [row["name"] for row in connection.execute("SELECT name FROM t")] == ["before"]


def test_close_within_with(pool):
    with pool.acquire() as connection:
        connection.close()
    assert idle(pool) == (2, 0, 1)


# --- forwarding


def test_reads_go_to_the_connection(connection):  # openclaw §3.2
    assert connection.in_transaction is False
    connection.execute("BEGIN")
    assert connection.in_transaction is True
    connection.rollback()
    before = connection.total_changes
    connection.executescript("INSERT INTO t VALUES (1, 'a'); INSERT INTO t VALUES (2, 'b');")
    assert connection.total_changes == connection.conn.total_changes == before + 2
    connection.create_function("twice", 1, lambda x: x * 2)
    assert connection.execute("SELECT twice(21)").fetchone()[0] == 42
    with closing(upshift.sqlite.connect(":memory:")) as target:
        connection.backup(target)
        assert target.execute("SELECT count(*) FROM t").fetchone() == (2,)
    assert any("CREATE TABLE" in line for line in connection.iterdump())
    assert connection.Error is sqlite3.Error


def test_writes_go_to_the_connection(connection):  # openclaw §3.2, P16 "silently local"
    connection.row_factory = None
    assert connection.conn.row_factory is None
    assert connection.execute("SELECT 1").fetchone() == (1,)
    connection.text_factory = bytes
    assert connection.conn.text_factory is bytes
    assert connection.execute("SELECT 'a'").fetchone() == (b"a",)
    connection.isolation_level = "DEFERRED"
    assert connection.conn.isolation_level == "DEFERRED"
    connection.execute("INSERT INTO t VALUES (1, 'a')")
    assert connection.in_transaction


def test_unknown_attributes(connection):  # openclaw §3.2
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        connection.nothing_of_the_kind  # noqa: B018
    assert not hasattr(connection, "nothing_of_the_kind")
    with pytest.raises(AttributeError):
        connection.in_transaction = True


def test_conn_and_pool_are_read_only(connection, pool):  # openclaw §6.1: a write would lose the connection
    raw = connection.conn
    for name in ("conn", "pool"):
        with pytest.raises(AttributeError):
            setattr(connection, name, None)
    assert (connection.conn, connection.pool) == (raw, pool)


# --- .conn


def test_conn_is_the_same_object_for_the_same_connection(pool):  # openclaw §3.2 "users compare id(a.conn)"
    first = pool.acquire()
    raw, number = first.conn, id(first.conn)
    assert first.conn is raw
    first.close()
    del raw
    gc.collect()
    second = pool.acquire()
    assert id(second.conn) == number
    assert second is not first
    second.close()


def test_conn_is_readable_after_close(pool):  # openclaw §3.2
    connection = pool.acquire()
    raw = connection.conn
    connection.close()
    assert connection.conn is raw
    pool.close_all()
    assert connection.conn is raw


# --- after close


OPERATIONS = {
    "cursor": lambda c: c.cursor(),
    "commit": lambda c: c.commit(),
    "rollback": lambda c: c.rollback(),
    "execute": lambda c: c.execute("SELECT 1"),
    "executemany": lambda c: c.executemany("SELECT ?", []),
    "with": lambda c: c.__enter__(),
    "executescript": lambda c: c.executescript("SELECT 1"),
    "read": lambda c: c.in_transaction,
    "total_changes": lambda c: c.total_changes,
    "write": lambda c: setattr(c, "row_factory", None),
    "create_function": lambda c: c.create_function("f", 0, int),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
@pytest.mark.parametrize("state", ["idle", "lent again", "pool closed"])
def test_after_close_everything_else_is_refused(pool, operation, state):  # openclaw §3.2, P5
    connection = pool.acquire()
    connection.close()
    again = pool.acquire() if state == "lent again" else None
    if state == "pool closed":
        pool.close_all()
    with pytest.raises(sqlite3.ProgrammingError):
        operation(connection)
    if again is not None:
        assert again.conn is connection.conn
        assert again.row_factory is not None
        again.close()


def test_a_method_taken_before_close_is_refused_after_it(pool):  # openclaw P5
    connection = pool.acquire()
    methods = connection.execute, connection.commit, connection.cursor
    connection.close()
    for method, arguments in zip(methods, (("SELECT 1",), (), ())):
        with pytest.raises(sqlite3.ProgrammingError):
            method(*arguments)


# --- dropped wrappers


def test_a_dropped_wrapper_gives_back_with_a_warning(pool):  # openclaw §3.2, P6
    connection = pool.acquire()
    raw = connection.conn
    connection.execute("CREATE TABLE t (x)")
    connection.execute("BEGIN")
    connection.execute("INSERT INTO t VALUES (1)")
    held = [connection]
    del connection
    with pytest.warns(ResourceWarning):
        held.clear()
    eventually(lambda: idle(pool)[:2] == (2, 0))
    with pool.connection() as again:
        assert again.conn is raw
        assert again.execute("SELECT count(*) FROM t").fetchone()[0] == 0


def test_a_wrapper_in_a_cycle_gives_back(pool):  # openclaw §3.2, P6
    class Holder:
        pass

    holder = Holder()
    holder.me, holder.connection = holder, pool.acquire()
    del holder
    with pytest.warns(ResourceWarning):
        gc.collect()
    eventually(lambda: idle(pool)[:2] == (2, 0))


def test_a_closed_wrapper_is_dropped_silently(pool):  # openclaw §3.2: with warnings as errors
    connection = pool.acquire()
    connection.close()
    del connection
    gc.collect()
    assert idle(pool) == (2, 0, 1)


def test_dropping_wakes_a_waiter(make_pool):  # openclaw P6 "leak their slot for ever"
    pool = make_pool(min_size=1, max_size=1)
    held = [pool.acquire()]
    waiting = Task(pool.acquire, 30)
    with pytest.warns(ResourceWarning):
        held.clear()
    waiting.result(20).close()


def test_a_dropped_pool_lets_its_borrower_finish(make_pool, pool_path):
    from upshift.sqlite import ConnectionPool

    connection = ConnectionPool(pool_path).acquire()
    gc.collect()
    assert connection.execute("SELECT 1").fetchone()[0] == 1
    assert isinstance(connection.pool, ConnectionPool)
    connection.pool.close_all(timeout=0)
    connection.close()


# --- rows and errors


def test_rows(connection):  # openclaw §3.2
    connection.execute("INSERT INTO t VALUES (1, 'a')")
    row = connection.execute("SELECT x, name AS Label FROM t").fetchone()
    assert isinstance(row, sqlite3.Row)
    assert (row[0], row[1], row[-1], row["x"], row["label"], row["LABEL"]) == (1, "a", "a", 1, "a", "a")
    assert row.keys() == ["x", "Label"]
    assert dict(row) == {"x": 1, "Label": "a"}
    assert tuple(row) == (1, "a")
    assert len(row) == 2
    assert row[0:2] == (1, "a")
    with pytest.raises(IndexError):
        row["absent"]
    with pytest.raises(IndexError):
        row[2]


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("INSERT INTO t VALUES (1, 'again')", sqlite3.IntegrityError),
        ("SELECT * FROM absent", sqlite3.OperationalError),
        ("nonsense", sqlite3.OperationalError),
        ("SELECT ?", sqlite3.ProgrammingError),
    ],
)
def test_errors_are_those_of_the_standard_library(connection, sql, error):  # openclaw §3.2
    connection.execute("INSERT INTO t VALUES (1, 'first')")
    with pytest.raises(sqlite3.Error) as caught:
        connection.execute(sql)
    assert type(caught.value) is error


# --- §1 for this class


def test_it_is_weakly_referenceable(connection):  # openclaw §1
    assert weakref.ref(connection)() is connection


def test_it_is_not_picklable(connection):  # DESIGN §2.1 "Not picklable → a clear TypeError"
    import pickle

    with pytest.raises(TypeError, match=r"pickle"):
        pickle.dumps(connection)


def test_isinstance_sees_a_connection_of_the_standard_library(pool):  # openclaw §3 "stdlib sqlite3.Connection"
    class Own(PooledConnection):
        pass

    with pool.connection() as connection:
        assert isinstance(connection, sqlite3.Connection)
        assert isinstance(connection, PooledConnection)
        assert type(connection) is PooledConnection
        assert type(connection).__name__ == "PooledConnection"
        own = Own(connection.conn, pool)
        assert isinstance(own, Own)
        assert own.__class__ is Own
