"""`pool.aconnection()`: what its connections and cursors have besides statements and rows; checks of arguments."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import timedelta
from fractions import Fraction

import pytest
from harness import Task

from upshift import sqlite
from upshift.sqlite import ConnectionPool


@pytest.fixture
def pool(tmp_path):
    with ConnectionPool(tmp_path / "async.db", min_size=0, max_size=2) as pool:
        pool.write("CREATE TABLE t (k INTEGER PRIMARY KEY, value REAL)")
        for number in range(100):
            pool.write("INSERT INTO t VALUES (?, ?)", (number, number / 2))
        yield pool


def run(pool, body):
    async def main():
        async with pool.aconnection() as connection:
            return await body(connection)

    return Task(asyncio.run, main()).result()


@pytest.mark.parametrize("timeout", ["1", [], float("nan"), object()])
def test_a_timeout_is_checked_at_once(pool, timeout):
    with pytest.raises((TypeError, ValueError), match="timeout must be") as expected:
        pool.connection(timeout)
    with pytest.raises(type(expected.value), match="timeout must be"):
        pool.aconnection(timeout)


@pytest.mark.parametrize("timeout", [0, -1, 0.01, timedelta(milliseconds=10), Fraction(1, 100)])
def test_a_timeout_that_passes_leaves_no_request_behind(tmp_path, timeout):
    async def main():
        with pytest.raises(TimeoutError):
            async with pool.aconnection(timeout):
                raise AssertionError

    with ConnectionPool(tmp_path / "one.db", max_size=1, min_size=1) as pool, pool.connection():
        Task(asyncio.run, main()).result()
        assert pool.get_stats()["waiting"] == 0


def test_a_loop_that_fails_to_wait_leaves_no_request_behind(tmp_path, monkeypatch):
    async def main():
        async def wait(*_arguments, **_options):
            raise LookupError("no waiting today")

        monkeypatch.setattr(asyncio, "wait", wait)
        with pytest.raises(LookupError):
            async with pool.aconnection():
                raise AssertionError
        monkeypatch.undo()

    with ConnectionPool(tmp_path / "one.db", max_size=1, min_size=1) as pool:
        with pool.connection():
            Task(asyncio.run, main()).result()
            assert pool.get_stats()["waiting"] == 0
        assert pool.get_stats()["available"] == 1


def test_unknown_attributes_are_refused(pool):
    async def body(connection):
        for thing in (connection, connection.cursor()):
            with pytest.raises(AttributeError):
                thing.colour = "red"
            with pytest.raises(AttributeError):
                thing.text_factry = bytes

    run(pool, body)


def test_settings_reach_the_connection(pool):
    async def body(connection):
        connection.text_factory = bytes
        connection.row_factory = None
        assert (connection.text_factory, connection.row_factory) == (bytes, None)
        assert await (await connection.execute("SELECT 'a'")).fetchone() == (b"a",)
        assert (connection.isolation_level, connection.autocommit) == (None, sqlite.LEGACY_TRANSACTION_CONTROL)
        connection.isolation_level = "IMMEDIATE"
        assert connection.conn.isolation_level == connection.isolation_level == "IMMEDIATE"
        await connection.execute("DELETE FROM t")
        assert connection.in_transaction
        await connection.rollback()
        connection.autocommit = False
        assert connection.in_transaction
        assert connection.conn.autocommit is False
        connection.autocommit = True

    run(pool, body)
    with pool.connection() as connection:
        assert connection.text_factory is str


def test_columns(pool):
    async def body(connection):
        cursor = await connection.execute("SELECT k, value FROM t ORDER BY k", prefetch=0)
        found = await cursor.fetchnumpy(30)
        assert found["k"].tolist() == list(range(30))
        batches = [batch async for batch in cursor.fetchnumpy_batches(40, nulls="nan")]
        assert [batch["k"].tolist() for batch in batches] == [list(range(30, 70)), list(range(70, 100))]
        assert batches[0]["value"].tolist() == [number / 2 for number in range(30, 70)]
        assert await (await connection.execute("SELECT k FROM t WHERE k > 97", prefetch=0)).fetchall() != []
        cursor = await connection.execute("SELECT k FROM t WHERE k < 3", prefetch=0)
        assert [row["k"] async for row in cursor] == [0, 1, 2]

    run(pool, body)


def test_columns_without_the_first_rows_are_refused(pool):
    async def body(connection):
        cursor = await connection.execute("SELECT k FROM t ORDER BY k")
        with pytest.raises(sqlite3.ProgrammingError, match="prefetch=0"):
            await cursor.fetchnumpy()
        with pytest.raises(sqlite3.ProgrammingError, match="prefetch=0"):
            await cursor.fetchnumpy_batches().__anext__()
        assert len(await cursor.fetchall()) == 100
        assert (await cursor.fetchnumpy())["k"].tolist() == []
        for prefetch in (-1, 1.5, None):
            with pytest.raises(ValueError, match="prefetch must be"):
                await connection.execute("SELECT 1", prefetch=prefetch)

    run(pool, body)


def test_functions_and_collations(pool):
    class Product:
        def __init__(self):
            self.value = 1

        def step(self, value):
            self.value *= value

        def finalize(self):
            return self.value

    class Window:
        def __init__(self):
            self.total = 0

        def step(self, value):
            self.total += value

        def inverse(self, value):
            self.total -= value

        def value(self):
            return self.total

        def finalize(self):
            return self.total

    async def body(connection):
        await connection.create_function("twice", 1, lambda value: value * 2, deterministic=True)
        await connection.create_aggregate("product", 1, Product)
        await connection.create_window_function("total_of", 1, Window)
        await connection.create_collation("backwards", lambda one, other: (one < other) - (one > other))
        cursor = await connection.execute("SELECT twice(k), product(k) FROM t WHERE k = 7")
        assert tuple(await cursor.fetchone()) == (14, 7)
        cursor = await connection.execute(
            "SELECT total_of(k) OVER (ORDER BY k ROWS 1 PRECEDING) FROM t WHERE k < 4 ORDER BY k"
        )
        assert [row[0] async for row in cursor] == [0, 1, 3, 5]
        cursor = await connection.execute("SELECT 'a' AS x UNION ALL SELECT 'b' ORDER BY x COLLATE backwards")
        assert [row[0] async for row in cursor] == ["b", "a"]
        await connection.create_function("twice", 1, None)
        with pytest.raises(sqlite3.OperationalError, match="twice"):
            await connection.execute("SELECT twice(1)")

    run(pool, body)


def test_callbacks_and_limits(pool):
    told = []

    async def body(connection):
        await connection.set_trace_callback(told.append)
        await connection.set_progress_handler(lambda: told.append("tick"), 1)
        await connection.execute("SELECT 1 AS traced")
        await connection.set_trace_callback(None)
        await connection.set_progress_handler(None, 1)
        assert "SELECT 1 AS traced" in told
        assert "tick" in told
        await connection.set_authorizer(lambda action, *_: sqlite.SQLITE_DENY if action == sqlite.SQLITE_READ else 0)
        with pytest.raises(sqlite3.DatabaseError, match="prohibited"):
            await connection.execute("SELECT k FROM t")
        await connection.set_authorizer(None)
        before = await connection.setlimit(sqlite.SQLITE_LIMIT_VARIABLE_NUMBER, 5)
        assert await connection.getlimit(sqlite.SQLITE_LIMIT_VARIABLE_NUMBER) == 5
        await connection.setlimit(sqlite.SQLITE_LIMIT_VARIABLE_NUMBER, before)

    run(pool, body)


def test_backup_and_dump(pool, tmp_path):
    async def body(connection):
        copy = sqlite.connect(tmp_path / "copy.db", check_same_thread=False)
        pages = []
        await connection.backup(copy, pages=1, progress=lambda *_: pages.append(1))
        assert copy.execute("SELECT count(*) FROM t").fetchone() == (100,)
        assert len(pages) > 1
        copy.close()
        lines = [line async for line in connection.iterdump()]
        assert lines == list(connection.conn.iterdump())
        assert len(lines) > 100
        with ConnectionPool(tmp_path / "other.db") as others:
            async with others.aconnection() as other:
                await connection.backup(other)
                assert (await (await other.execute("SELECT count(*) FROM t")).fetchone())[0] == 100
            with others.connection() as other:
                await connection.backup(other)

    run(pool, body)


def test_what_is_finished_refuses(pool):
    async def body(connection):
        return connection

    connection = run(pool, body)
    with pytest.raises(sqlite3.ProgrammingError, match="given back"):
        connection.text_factory = bytes
    with pytest.raises(sqlite3.ProgrammingError, match="given back"):
        asyncio.run(connection.create_function("f", 0, None))
