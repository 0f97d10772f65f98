"""`pool.write()` and `await pool.awrite()`: results, errors and their company, values, deadlines, the end."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import OrderedDict
from contextlib import closing
from datetime import timedelta

import pytest

from upshift import exceptions
from upshift.sqlite import ConnectionPool, Row


@pytest.fixture
def pool(tmp_path):
    with ConnectionPool(tmp_path / "write.db", min_size=0) as pool:
        pool.write("CREATE TABLE t (k INTEGER PRIMARY KEY, u UNIQUE, c)")
        yield pool


def rows(pool, sql="SELECT k, u, c FROM t ORDER BY k"):
    with pool.connection() as connection:
        return [tuple(row) for row in connection.execute(sql)]


class Held:
    """A transaction of another thread, which keeps the lane."""

    def __init__(self, pool):
        self._begun, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(pool,), name="holder")

    def _run(self, pool):
        with pool.connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            self._begun.set()
            self._end.wait(60)
            connection.execute("ROLLBACK")

    def __enter__(self):
        self._thread.start()
        self._begun.wait(60)

    def __exit__(self, *_):
        self._end.set()
        self._thread.join(60)


def test_a_write_tells_what_it_did(pool):
    result = pool.write("INSERT INTO t (k, u) VALUES (?, ?)", (7, "x"))
    assert (result.rowcount, result.lastrowid, result.rows) == (1, 7, [])
    assert repr(result) == "<WriteResult rowcount=1 lastrowid=7 rows=0>"
    result = pool.write("UPDATE t SET c = :c RETURNING k, c AS Colour", {"c": "red", "unused": object()})
    assert (result.rowcount, result.lastrowid) == (1, None)
    (row,) = result.rows
    assert type(row) is Row
    assert (row["colour"], row[0], row.keys()) == ("red", 7, ["k", "Colour"])
    result = pool.write("SELECT count(*) FROM t")
    assert (result.rowcount, tuple(result.rows[0])) == (-1, (1,))
    assert pool.write("DELETE FROM t").rowcount == 1
    # Committed, as others see it.
    with closing(sqlite3.connect(pool.db_path)) as other:
        assert other.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_values_go_there_and_back(pool):
    class Text(str):
        __slots__ = ()

    values = [None, 0, -(2**63), 2**63 - 1, 1.5, float("inf"), "", "é\0z", b"", b"\0\xff"]
    given = [*values, True, Text("sub"), bytearray(b"ab"), memoryview(b"cd")]
    result = pool.write(f"SELECT {', '.join('?' * len(given))}", given)
    assert list(result.rows[0]) == [*values, 1, "sub", b"ab", b"cd"]
    assert tuple(pool.write("SELECT :a", OrderedDict(a=1)).rows[0]) == (1,)
    assert tuple(pool.write("SELECT ?", [timedelta.max.days]).rows[0]) == (999999999,)
    with pytest.raises(OverflowError):
        pool.write("SELECT ?", (2**63,))
    with pytest.raises(UnicodeEncodeError):
        pool.write("SELECT ?", ("\ud800",))
    with pytest.raises(sqlite3.OperationalError, match="UTF-8"):
        pool.write("SELECT CAST(x'ff' AS TEXT)")


def test_adapters_apply(pool):
    class Point:
        def __init__(self, x):
            self.x = x

    sqlite3.register_adapter(Point, lambda point: f"at {point.x}")
    assert tuple(pool.write("SELECT ?", (Point(3),)).rows[0]) == ("at 3",)


@pytest.mark.parametrize(
    ("sql", "parameters", "match"),
    [
        ("SELECT ?", (), "Incorrect number of bindings"),
        ("SELECT ?", (1, 2), "Incorrect number of bindings"),
        ("SELECT :a", {}, "did not supply a value for binding parameter :a"),
        ("SELECT ?", (object(),), "type 'object' is not supported"),
        ("SELECT :a", {"a": object()}, "type 'object' is not supported"),
        ("SELECT ?", 7, "unsupported type"),
        ("SELECT 1; SELECT 2", (), "one statement at a time"),
        ("BEGIN", (), "BEGIN has no place"),
        ("/* c */ commit", (), "COMMIT has no place"),
        ("PRAGMA user_version = 1", (), "PRAGMA has no place"),
        ("VACUUM", (), "VACUUM has no place"),
        ("ATTACH 'x' AS y", (), "ATTACH has no place"),
        ("; commit", (), "COMMIT has no place"),
        ("; ;end", (), "COMMIT has no place"),
        ("\ufeffrollback", (), "ROLLBACK has no place"),
        ("; savepoint q", (), "SAVEPOINT has no place"),
        ("; release upshift", (), "RELEASE has no place"),
        ("; rollback to upshift", (), "ROLLBACK has no place"),
        ("; pragma user_version", (), "PRAGMA has no place"),
        ("\ufeff; attach ? as y", ("x",), "ATTACH has no place"),
        ("; detach y", (), "DETACH has no place"),
    ],
)
def test_what_has_no_place_is_refused(pool, sql, parameters, match):
    with pytest.raises(sqlite3.ProgrammingError, match=match):
        pool.write(sql, parameters)


@pytest.mark.parametrize(
    "sql", ["; commit", "\ufeffrollback", "; savepoint q", "; pragma locking_mode=exclusive", "; vacuum"]
)
def test_what_is_refused_leaves_the_others_of_the_group_alone(pool, sql):
    outcomes = {}

    def write(k):
        try:
            outcomes[k] = pool.write(sql) if k % 5 == 3 else pool.write("INSERT INTO t (k) VALUES (?)", (k,)).rowcount
        except sqlite3.Error as error:
            outcomes[k] = type(error)

    with Held(pool):
        threads = [threading.Thread(target=write, args=(k,)) for k in range(20)]
        for thread in threads:
            thread.start()
        # So that they come to share transactions.
        time.sleep(0.1)
    for thread in threads:
        thread.join(60)
    assert {k for k, outcome in outcomes.items() if outcome == 1} == {k for k in range(20) if k % 5 != 3}
    assert all(issubclass(outcomes[k], sqlite3.Error) for k in range(3, 20, 5))
    assert [k for k, _, _ in rows(pool)] == [k for k in range(20) if k % 5 != 3]


def test_an_authorizer_of_on_connect_is_asked_as_well(tmp_path):
    def deny_deletes(action, *_):
        return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_DELETE else sqlite3.SQLITE_OK

    path = tmp_path / "asked.db"
    with ConnectionPool(path, on_connect=lambda connection: connection.set_authorizer(deny_deletes)) as pool:
        pool.write("CREATE TABLE t (x)")
        assert pool.write("INSERT INTO t VALUES (1)").rowcount == 1
        with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
            pool.write("DELETE FROM t")
        with pytest.raises(sqlite3.ProgrammingError, match="COMMIT has no place"):
            pool.write("; commit")
        assert rows(pool, "SELECT x FROM t") == [(1,)]


def test_virtual_tables_and_pragma_functions_work_in_a_group(pool):
    pool.write("CREATE VIRTUAL TABLE f USING fts5(a)")
    pool.write("INSERT INTO f VALUES ('words')")
    pool.write("INSERT INTO f (f) VALUES ('optimize')")
    assert tuple(pool.write("SELECT * FROM f('words')").rows[0]) == ("words",)
    assert tuple(pool.write("SELECT user_version FROM pragma_user_version").rows[0]) == (0,)


def test_errors_are_those_of_the_statement(pool):
    pool.write("INSERT INTO t (k, u) VALUES (1, 1)")
    with pytest.raises(sqlite3.IntegrityError, match=r"UNIQUE constraint failed: t\.u") as caught:
        pool.write("INSERT INTO t (k, u) VALUES (2, 1)")
    assert caught.value.sqlite_errorname == "SQLITE_CONSTRAINT_UNIQUE"
    with pytest.raises(sqlite3.OperationalError, match="no such table: nowhere"):
        pool.write("INSERT INTO nowhere VALUES (1)")
    with pytest.raises(ValueError, match="durability"):
        pool.write("DELETE FROM t", durability="maybe")
    with pytest.raises(TypeError):
        pool.write(b"DELETE FROM t")


def test_errors_leave_the_others_of_the_group_alone(pool):
    outcomes = {}

    def write(k, sql):
        try:
            outcomes[k] = pool.write(sql, (k,)).rowcount
        except sqlite3.IntegrityError as error:
            outcomes[k] = error.sqlite_errorname

    pool.write("INSERT INTO t (k, u) VALUES (1000, 1)")
    threads = []
    with Held(pool):
        for k in range(24):
            clause = ["INSERT", "INSERT OR ROLLBACK", "INSERT OR FAIL", "INSERT OR IGNORE"][k % 4]
            row = "(?, 1)" if k % 3 == 0 else "(?, NULL)"
            threads.append(threading.Thread(target=write, args=(k, f"{clause} INTO t (k, u) VALUES {row}")))
            threads[-1].start()
        while sum(thread.is_alive() for thread in threads) < 24:
            time.sleep(0.01)
    for thread in threads:
        thread.join(60)
    fails = {k: 0 if k % 4 == 3 else "SQLITE_CONSTRAINT_UNIQUE" for k in range(0, 24, 3)}
    assert outcomes == {k: fails.get(k, 1) for k in range(24)}
    assert [k for k, _, _ in rows(pool)] == [k for k in range(24) if k % 3] + [1000]


def test_writes_share_commits(pool):
    def write(number):
        for n in range(100):
            pool.write("INSERT INTO t (u) VALUES (?)", (f"{number}-{n}",), durability=["process", "power"][n % 50 == 0])

    with Held(pool):
        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join(60)
    assert len(rows(pool)) == 800
    writes, commits, largest = pool._write_stats()
    assert writes == 801
    assert commits < writes
    assert largest > 1


def test_who_has_a_transaction_open_would_wait_for_itself(pool):
    with pool.connection() as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(exceptions.WriteLaneDeadlock, match="MainThread"):
            pool.write("DELETE FROM t")
        connection.rollback()
        pool.write("DELETE FROM t")


@pytest.mark.parametrize("timeout", [0.1, timedelta(seconds=0.1)])
def test_the_deadline_names_the_holder(pool, timeout):
    with Held(pool):
        started = time.monotonic()
        with pytest.raises(exceptions.WriteLaneTimeout, match=r'thread "holder".*BEGIN IMMEDIATE'):
            pool.write("DELETE FROM t", timeout=timeout)
        assert 0.1 <= time.monotonic() - started < 5
    pool.write("DELETE FROM t", timeout=None)


def test_another_process_is_waited_for(pool):
    with closing(sqlite3.connect(pool.db_path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked") as caught:
            pool.write("DELETE FROM t", timeout=0.1)
        assert caught.value.sqlite_errorname == "SQLITE_BUSY"
        commit = threading.Timer(0.1, other.execute, ("COMMIT",))
        commit.start()
        pool.write("DELETE FROM t")
        commit.join()


def test_a_closed_pool_refuses(tmp_path):
    pool = ConnectionPool(tmp_path / "closed.db", min_size=0)
    pool.write("CREATE TABLE t (k)")
    pool.close_all()
    with pytest.raises(sqlite3.ProgrammingError, match="closed pool"):
        pool.write("DELETE FROM t")
    with pytest.raises(sqlite3.ProgrammingError, match="closed pool"):
        asyncio.run(pool.awrite("DELETE FROM t"))
    assert [path.name for path in tmp_path.iterdir()] == ["closed.db"]
    pool = ConnectionPool(tmp_path / "never.db", min_size=0)
    pool.close_all()
    with pytest.raises(sqlite3.ProgrammingError, match="closed pool"):
        pool.write("CREATE TABLE t (k)")


def test_closing_ends_the_wait_for_a_turn(pool):
    outcomes = []

    def write():
        try:
            pool.write("DELETE FROM t")
        except sqlite3.ProgrammingError as error:
            outcomes.append(str(error))

    with Held(pool):
        threads = [threading.Thread(target=write) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        pool.close_all(timeout=0.1)
        for thread in threads:
            thread.join(60)
    assert outcomes == ["Cannot operate on a closed pool."] * 3


def test_a_file_that_cannot_be_opened(tmp_path):
    with ConnectionPool(tmp_path / "missing" / "x.db", min_size=0) as pool:
        with pytest.raises(sqlite3.OperationalError, match="unable to open"):
            pool.write("CREATE TABLE t (k)", timeout=0)
        (tmp_path / "missing").mkdir()
        pool.write("CREATE TABLE t (k)")


def test_memory(tmp_path):
    with ConnectionPool(":memory:") as pool:
        pool.write("CREATE TABLE t (k INTEGER PRIMARY KEY, u, c)")
        threads = [
            threading.Thread(target=lambda: [pool.write("INSERT INTO t (u) VALUES (1)") for _ in range(50)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            assert len(rows(pool)) <= 200
        assert len(rows(pool)) == 200


def test_a_replaced_file_is_noticed(tmp_path):
    path = tmp_path / "replaced.db"
    with ConnectionPool(path, min_size=0) as pool:
        pool.write("CREATE TABLE t (k)")
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink()
        pool._maintain()
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            pool.write("INSERT INTO t VALUES (1)")
        pool.write("CREATE TABLE t (k)")
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_coroutines_share_commits(pool):
    async def main():
        result = await pool.awrite("INSERT INTO t (u) VALUES (:u) RETURNING u", {"u": "first"})
        assert (result.rowcount, result.lastrowid, tuple(result.rows[0])) == (1, 1, ("first",))
        writes = [pool.awrite("INSERT INTO t (u) VALUES (?)", (n // 2,)) for n in range(200)]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert sum(isinstance(outcome, sqlite3.IntegrityError) for outcome in outcomes) == 100
        with pytest.raises(sqlite3.ProgrammingError):
            await pool.awrite("COMMIT")

    asyncio.run(main())
    assert len(rows(pool)) == 101
    writes, commits, _ = pool._write_stats()
    assert (writes, commits < 50) == (102, True)
    # Another loop.
    asyncio.run(pool.awrite("DELETE FROM t"))
    assert rows(pool) == []


def test_coroutines_wait_without_threads_and_give_up(pool):
    async def main():
        with Held(pool):
            with pytest.raises(exceptions.WriteLaneTimeout, match="holder"):
                await pool.awrite("INSERT INTO t (k) VALUES (1)", timeout=0.05)
            writes = [asyncio.ensure_future(pool.awrite("INSERT INTO t (k) VALUES (?)", (n,))) for n in range(10, 30)]
            await asyncio.sleep(0.05)
            for write in writes[::2]:
                write.cancel()
            await asyncio.sleep(0.05)
            assert [write.cancelled() for write in writes] == [True, False] * 10
        await asyncio.gather(*writes[1::2])
        async with pool.aconnection() as connection:
            await connection.execute("BEGIN IMMEDIATE")
            with pytest.raises(exceptions.WriteLaneDeadlock, match="a task of thread"):
                await pool.awrite("DELETE FROM t")
            await connection.rollback()

    asyncio.run(main())
    assert [k for k, _, _ in rows(pool)] == list(range(11, 30, 2))


def test_threads_and_tasks_share_commits(pool):
    async def main():
        threads = [asyncio.to_thread(pool.write, "INSERT INTO t (u) VALUES (?)", (f"t{n}",)) for n in range(50)]
        tasks = [pool.awrite("INSERT INTO t (u) VALUES (?)", (f"a{n}",)) for n in range(50)]
        await asyncio.gather(*threads, *tasks)

    asyncio.run(main())
    assert len(rows(pool)) == 100


def test_on_connect_configures_the_connection_that_writes(tmp_path):
    kept = []

    def configure(connection):
        connection.execute("PRAGMA foreign_keys = ON")
        connection.create_function("twice", 1, lambda value: value * 2)
        connection.create_collation("backwards", lambda one, other: (one < other) - (one > other))
        kept.append(connection)

    with ConnectionPool(tmp_path / "configured.db", min_size=0, on_connect=configure) as pool:
        pool.write("CREATE TABLE parent (k INTEGER PRIMARY KEY, name TEXT COLLATE backwards)")
        pool.write("CREATE TABLE child (parent REFERENCES parent)")
        assert len(kept) == 1
        assert pool.write("INSERT INTO parent VALUES (1, twice('a')) RETURNING name").rows[0]["name"] == "aa"
        with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
            pool.write("INSERT INTO child VALUES (2)")
        pool.write("INSERT INTO parent VALUES (2, 'b')")
        assert [row["k"] for row in pool.write("SELECT k FROM parent ORDER BY name").rows] == [2, 1]
        # Whoever kept it cannot get at it.
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            kept[0].execute("SELECT 1")
        kept[0].close()
        assert asyncio.run(pool.awrite("SELECT twice(2) AS four")).rows[0]["four"] == 4


def test_a_collation_that_raises_fails_the_write(tmp_path):
    def compare(one, other):
        raise LookupError("no order today")

    configure = lambda connection: connection.create_collation("moody", compare)  # noqa: E731
    with ConnectionPool(tmp_path / "moody.db", min_size=0, on_connect=configure) as pool:
        pool.write("CREATE TABLE t (name TEXT COLLATE moody UNIQUE)")
        pool.write("INSERT INTO t VALUES ('a')")
        with pytest.raises(sqlite3.OperationalError, match="callback"):
            pool.write("INSERT INTO t VALUES ('b')")
        assert pool.write("SELECT count(*) AS n FROM t").rows[0]["n"] == 1


def test_what_on_connect_raises_is_raised_by_write(tmp_path):
    def configure(connection):
        raise LookupError("no configuration")

    with ConnectionPool(tmp_path / "refused.db", min_size=0, on_connect=configure) as pool:
        with pytest.raises(LookupError, match="no configuration"):
            pool.write("CREATE TABLE t (x)")
        with pytest.raises(LookupError, match="no configuration"):
            asyncio.run(pool.awrite("CREATE TABLE t (x)"))


def test_on_connect_may_write_itself(tmp_path):
    def configure(connection):
        if not made:
            made.append(1)
            pool.write("CREATE TABLE made (x)")

    made = []
    with ConnectionPool(tmp_path / "nested.db", min_size=0, on_connect=configure) as pool:
        pool.write("INSERT INTO made VALUES (1)")
        assert pool.write("SELECT count(*) AS n FROM made").rows[0]["n"] == 1
