"""Parallel scans: one query, several connections, one moment."""

from __future__ import annotations

import signal
import sqlite3
import threading
import time

import numpy as np
import pytest

from upshift import sqlite
from upshift._native import sqlite_scan


def connect(path):
    return sqlite.connect(path, isolation_level=None, check_same_thread=False)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "data.db"
    con = connect(path)
    con.execute("PRAGMA journal_mode = WAL")
    con.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v REAL, s TEXT)")
    con.execute("BEGIN")
    con.executemany("INSERT INTO t VALUES (?, ?, ?)", [(n, n / 2, f"row {n}") for n in range(30_000)])
    con.execute("COMMIT")
    con.close()
    return path


@pytest.fixture
def connections(path):
    opened = [connect(path) for _ in range(3)]
    yield opened
    for con in opened:
        con.close()


class TestResult:
    def test_arrays(self, connections):
        result = sqlite_scan(connections, "SELECT id, v, s FROM t WHERE id % 2 = ?", (1,))
        assert len(result) == 15_000
        assert result.columns == ["id", "v", "s"]
        assert "15000 rows: id, v, s" in repr(result)
        for _ in range(2):
            arrays = result.numpy()
            assert np.array_equal(arrays["id"], np.arange(1, 30_000, 2))
            assert np.array_equal(arrays["v"], np.arange(1, 30_000, 2) / 2)
            assert (arrays["s"][0], arrays["s"][-1]) == ("row 1", "row 29999")
        assert result.numpy(text="fixed")["s"].dtype.str == "<U9"

    def test_arrow(self, connections):
        pa = pytest.importorskip("pyarrow", reason="platform: no pyarrow for this Python")
        result = sqlite_scan(connections, "SELECT id, nullif(s, 'row 7') AS s, NULL AS n FROM t")
        before = pa.total_allocated_bytes()
        tables = [pa.table(result) for _ in range(2)]
        assert pa.total_allocated_bytes() - before < 10_000
        assert tables[0].equals(tables[1])
        assert tables[0]["id"].to_pylist() == list(range(30_000))
        assert tables[0]["s"].null_count == 1
        # The memory is Arrow's now; arrays are made of it all the same.
        arrays = result.numpy()
        assert np.array_equal(arrays["id"], np.arange(30_000))
        assert arrays["s"][6:9].tolist() == ["row 6", None, "row 8"]
        assert arrays["n"].mask.all()

    def test_columns_of_several_types(self, connections):
        result = sqlite_scan(connections, "SELECT iif(id < 29000, id, s) AS v FROM t")
        array = result.numpy()["v"]
        assert (array.dtype, array[0], array[-1]) == (object, 0, "row 29999")
        with pytest.raises(ValueError, match=r'column "v", row 29000 \(from 0\)'):
            result.__arrow_c_stream__()
        assert len(result.numpy()["v"]) == 30_000

    def test_text_that_is_none(self, connections):
        result = sqlite_scan(connections, "SELECT iif(id = 20000, CAST(x'ff' AS TEXT), s) AS v FROM t")
        with pytest.raises(ValueError, match=r'column "v", row 20000 \(from 0\): TEXT that is no UTF-8'):
            result.__arrow_c_stream__()
        with pytest.raises(sqlite3.OperationalError, match="Could not decode"):
            result.numpy()

    def test_empty(self, connections):
        result = sqlite_scan(connections, "SELECT * FROM t WHERE id > 50000")
        assert len(result) == 0
        assert {name: array.dtype.kind for name, array in result.numpy().items()} == {"id": "i", "v": "f", "s": "O"}

    def test_parameters(self, connections):
        named = sqlite_scan(connections, "SELECT id FROM t WHERE id BETWEEN :a AND :b", {"a": 3, "b": 5})
        assert named.numpy()["id"].tolist() == [3, 4, 5]
        sets = sqlite_scan(connections, "SELECT max(id) AS m FROM t WHERE id % 3 = ?", None, [(0,), (1,), (2,)])
        assert sets.numpy()["m"].tolist() == [29_997, 29_998, 29_999]


class TestRefusals:
    @pytest.mark.parametrize(
        ("sql", "reason"),
        [
            ("SELECT count(*) FROM t", "aggregate"),
            ("SELECT * FROM t ORDER BY v", "ORDER BY"),
            ("SELECT * FROM t JOIN t AS u", "more than one table"),
            ("SELECT DISTINCT v FROM t", "DISTINCT"),
        ],
    )
    def test_statements_that_cannot_be_split(self, connections, sql, reason):
        with pytest.raises(ValueError, match=rf"cannot be split by rowid: .*{reason}.*partitions may be a list"):
            sqlite_scan(connections, sql)

    def test_wrong_arguments(self, connections):
        for arguments, error, message in (
            (([], "SELECT 1"), ValueError, "needs a connection"),
            ((connections, "SELECT x FROM t"), sqlite3.OperationalError, "no such column"),
            ((connections, "SELECT id FROM t WHERE id = ?"), sqlite3.ProgrammingError, "uses 1, and there are 0"),
            ((connections, "SELECT ?", None, []), ValueError, "empty list"),
            ((connections, "SELECT ?", (1,), [(1,)]), ValueError, "no others"),
            ((connections, "DELETE FROM t", None, [()]), sqlite3.ProgrammingError, "reads"),
            ((connections, "SELECT ?", None, [(object(),)]), sqlite3.ProgrammingError, "parameter 1: type 'object'"),
        ):
            with pytest.raises(error, match=message):
                sqlite_scan(*arguments)

    def test_open_transactions_and_closed_connections(self, connections):
        connections[1].execute("BEGIN")
        with pytest.raises(sqlite3.ProgrammingError, match="transaction open"):
            sqlite_scan(connections, "SELECT id FROM t")
        connections[1].execute("COMMIT")
        connections[1].close()
        with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
            sqlite_scan(connections, "SELECT id FROM t")
        assert not connections[0].in_transaction


class TestMoment:
    def test_commits_do_not_show_in_part(self, path, connections):
        writer = connect(path)
        writer.execute("CREATE TABLE pair (id INTEGER PRIMARY KEY, v INTEGER)")
        writer.execute("INSERT INTO pair SELECT id, 0 FROM t")
        done = threading.Event()
        failures = []

        def write():
            try:
                amount = 0
                while not done.is_set():
                    amount += 1
                    writer.execute("UPDATE pair SET v = iif(id, -?1, ?1) WHERE id IN (0, 29999)", (amount,))
            except BaseException as error:  # whatever it is, the test must see it
                failures.append(error)

        thread = threading.Thread(target=write)
        thread.start()
        seen = set()
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            values = sqlite_scan(connections, "SELECT v FROM pair").numpy()["v"]
            assert values.sum() == 0
            seen.add(int(values[0]))
        done.set()
        thread.join()
        writer.close()
        assert failures == []
        assert len(seen) > 1

    def test_without_a_write_ahead_log(self, tmp_path):
        path = tmp_path / "old.db"
        opened = [connect(path) for _ in range(2)]
        opened[0].execute("CREATE TABLE t AS SELECT 1 AS a")
        assert sqlite_scan(opened, "SELECT a FROM t").numpy()["a"].tolist() == [1]
        for con in opened:
            con.close()

    def test_read_only(self, path):
        opened = [sqlite.connect(f"file:{path}?mode=ro", uri=True) for _ in range(2)]
        assert len(sqlite_scan(opened, "SELECT id FROM t")) == 30_000
        for con in opened:
            con.close()

    def test_it_can_be_interrupted(self, connections):
        class Stop(Exception):
            pass

        def stop(number, frame):
            raise Stop

        before = signal.signal(signal.SIGALRM, stop)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i + t.id FROM n"
            endless = f"SELECT id FROM t WHERE id IN ({numbers})"
            with pytest.raises(Stop):
                sqlite_scan(connections, endless)
        finally:
            signal.signal(signal.SIGALRM, before)
        assert len(sqlite_scan(connections, "SELECT id FROM t")) == 30_000


class TestPool:
    @pytest.fixture
    def pool(self, path):
        pool = sqlite.ConnectionPool(path, min_size=1, max_size=3)
        yield pool
        pool.close_all()

    def test_scan(self, pool):
        result = pool.scan("SELECT id, s FROM t WHERE id >= ?", (29_000,), partitions=2)
        assert result.numpy()["id"].tolist() == list(range(29_000, 30_000))
        assert pool.get_stats()["in_use"] == 0
        assert pool.get_stats()["total_created"] == 2
        assert len(pool.scan("SELECT id FROM t")) == 30_000
        assert len(pool.scan("SELECT id FROM t WHERE id < :limit", {"limit": 10}, 50)) == 10

    def test_partitions_by_parameters(self, pool):
        sql = "SELECT count(*) AS c, avg(v) AS v FROM t WHERE id % 2 = ?"
        arrays = pool.scan(sql, partitions=[(0,), (1,)]).numpy()
        assert arrays["c"].tolist() == [15_000, 15_000]
        named = pool.scan("SELECT :x AS x", partitions=[{"x": 1}, {"x": 2.5}, {"x": None}])
        assert named.numpy()["x"].tolist() == [1, 2.5, None]

    def test_fewer_connections_than_wanted(self, pool):
        others = [pool.acquire() for _ in range(2)]
        assert len(pool.scan("SELECT id FROM t", partitions=3)) == 30_000
        third = pool.acquire()
        with pytest.raises(TimeoutError):
            pool.scan("SELECT id FROM t", timeout=0.05)
        for other in (*others, third):
            other.close()
        assert pool.get_stats()["available"] == 3

    def test_failures_give_connections_back(self, pool):
        for arguments, error in (
            (("SELECT count(*) FROM t",), ValueError),
            (("SELECT nothing FROM t",), sqlite3.OperationalError),
            (("SELECT id FROM t", (), 0), ValueError),
            (("SELECT id FROM t", (), []), ValueError),
            (("SELECT id FROM t", (1,), [()]), ValueError),
        ):
            with pytest.raises(error):
                pool.scan(*arguments)
        assert pool.get_stats()["in_use"] == 0
        pool.close_all()
        with pytest.raises(sqlite3.ProgrammingError):
            pool.scan("SELECT id FROM t")

    def test_in_memory(self):
        with sqlite.ConnectionPool(":memory:", max_size=3) as pool:
            with pool.connection() as conn:
                conn.execute("CREATE TABLE t (a)")
                conn.executemany("INSERT INTO t VALUES (:a)", {"a": np.arange(5000)})
            assert pool.scan("SELECT a FROM t", partitions=3).numpy()["a"].sum() == 12_497_500
            # Nothing is held afterwards.
            with pool.connection() as conn:
                conn.execute("DELETE FROM t")
            assert len(pool.scan("SELECT a FROM t", partitions=2)) == 0

    def test_beside_group_commits(self, pool):
        with pool.connection() as conn:
            conn.execute("CREATE TABLE pair (id INTEGER PRIMARY KEY, v INTEGER)")
            conn.execute("INSERT INTO pair SELECT id, 0 FROM t")
        done = threading.Event()

        def write():
            amount = 0
            while not done.is_set():
                amount += 1
                pool.write("UPDATE pair SET v = iif(id, -?1, ?1) WHERE id IN (0, 29999)", (amount,))

        thread = threading.Thread(target=write)
        thread.start()
        sums = {int(pool.scan("SELECT v FROM pair", partitions=2).numpy()["v"].sum()) for _ in range(30)}
        done.set()
        thread.join()
        assert sums == {0}
