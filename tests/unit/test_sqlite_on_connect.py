"""`ConnectionPool(on_connect=…)`: called once with each new connection, before it is lent."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
import weakref

import pytest
from harness import eventually

from upshift.sqlite import Connection, ConnectionPool


def test_is_called_once_with_each_connection_before_it_is_lent(tmp_path):
    seen = []

    def configure(connection):
        assert type(connection) is Connection
        seen.append(connection)
        connection.create_function("number", 0, lambda: len(seen))

    with ConnectionPool(tmp_path / "a.db", min_size=1, max_size=3, on_connect=configure) as pool:
        assert len(seen) == 1
        with pool.connection() as one, pool.connection() as other:
            assert [one.conn, other.conn] == seen
            assert other.execute("SELECT number()").fetchone()[0] == 2
        with pool.connection() as again:
            assert again.conn in seen
        assert len(seen) == 2
        assert sum(pool.scan("SELECT number() AS n", partitions=[(), ()]).numpy()["n"]) == 4


def test_coroutines_and_the_background(tmp_path):
    threads = []

    def configure(connection):
        threads.append(threading.get_ident())
        connection.execute("PRAGMA foreign_keys = ON")

    async def main():
        async with pool.aconnection() as connection:
            cursor = await connection.execute("PRAGMA foreign_keys")
            return (await cursor.fetchone())[0]

    with ConnectionPool(tmp_path / "a.db", min_size=0, on_connect=configure) as pool:
        assert asyncio.run(main()) == 1
        assert len(threads) == 1
        assert threads[0] != threading.get_ident()
        pool.min_size = 2
        pool._maintain()
        assert len(threads) == 2


def test_what_it_leaves_open_is_ended(tmp_path):
    cursors = []

    def configure(connection):
        connection.execute("CREATE TABLE IF NOT EXISTS t (x)")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t VALUES (1), (2)")
        cursors.append(connection.execute("SELECT x FROM t"))
        connection.row_factory = None

    with ConnectionPool(tmp_path / "a.db", min_size=2, on_connect=configure) as pool:
        assert pool.last_error is None
        with pool.connection() as connection:
            assert not connection.in_transaction
            assert connection.execute("SELECT count(*) AS n FROM t").fetchone()["n"] == 0
        with pytest.raises(sqlite3.ProgrammingError):
            cursors[0].fetchone()


def test_what_it_raises_is_a_failure_to_open(tmp_path):
    opened, failing = [], True

    def configure(connection):
        opened.append(connection)
        if failing:
            raise LookupError("no configuration")

    with ConnectionPool(tmp_path / "a.db", min_size=1, on_connect=configure) as pool:
        assert pool.get_stats()["current_size"] == 0
        assert isinstance(pool.last_error, LookupError)
        assert pool.acquire(timeout=0) is None
        with pytest.raises(TimeoutError, match="on_connect raised LookupError: no configuration") as caught:
            pool.connection(timeout=0).__enter__()
        assert isinstance(caught.value.__cause__, LookupError)
        for connection in opened:
            with pytest.raises(sqlite3.ProgrammingError, match="closed"):
                connection.execute("SELECT 1")
        failing = False
        with pool.connection() as connection:
            assert connection.execute("SELECT 1").fetchone()[0] == 1


def test_a_connection_that_it_closes_is_not_lent(tmp_path):
    with ConnectionPool(tmp_path / "a.db", min_size=1, on_connect=lambda connection: connection.close()) as pool:
        assert pool.acquire(timeout=0) is None
        assert "on_connect" in str(pool.last_error)


def test_must_be_callable(tmp_path):
    with pytest.raises(TypeError, match="on_connect must be"):
        ConnectionPool(tmp_path / "a.db", on_connect=1)
    ConnectionPool(tmp_path / "a.db", on_connect=None).close_all()


@pytest.mark.parametrize("raises", [False, True])
def test_a_cycle_through_it_is_collected(tmp_path, raises):
    class Owner:
        def __init__(self):
            self.pool = ConnectionPool(tmp_path / "a.db", min_size=1, on_connect=self.configure)
            if not raises:
                self.pool.write("CREATE TABLE t (x)")

        def configure(self, connection):
            connection.create_function("owner", 0, lambda: self)
            if raises:
                raise LookupError("no")

    owner = weakref.ref(Owner())

    def gone():
        gc.collect()
        return owner() is None

    eventually(gone)


def test_memory(tmp_path):
    configure = lambda connection: connection.execute("CREATE TABLE IF NOT EXISTS t (x)")  # noqa: E731
    with ConnectionPool(":memory:", min_size=2, on_connect=configure) as pool:
        assert pool.write("INSERT INTO t VALUES (1)").rowcount == 1
