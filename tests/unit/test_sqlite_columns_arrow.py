"""Results through the Arrow PyCapsule interface, with the real libraries."""

from __future__ import annotations

import gc
import os
import sqlite3
import threading

import pytest

from upshift import sqlite

pa = pytest.importorskip("pyarrow", reason="platform: no pyarrow for this Python")


@pytest.fixture
def con():
    with_connection = sqlite.connect(":memory:", check_same_thread=False)
    yield with_connection
    with_connection.close()


@pytest.fixture
def table(con):
    con.execute("CREATE TABLE t (i INTEGER, f REAL, s TEXT, b BLOB)")
    rows = [(1, 0.5, "a", b"\x00"), (None, None, None, None), (-(2**63), float("inf"), "ä\0", b"")]
    con.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", rows)
    return rows


def count(limit):
    return f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {limit}) "


class TestConsumers:
    def test_pyarrow(self, con, table):
        result = pa.table(con.execute("SELECT * FROM t"))
        assert [str(field.type) for field in result.schema] == ["int64", "double", "string", "binary"]
        assert [tuple(row.values()) for row in result.to_pylist()] == table

    def test_polars(self, con, table):
        pl = pytest.importorskip("polars", reason="platform: no polars for this Python")
        assert pl.DataFrame(con.execute("SELECT * FROM t")).rows() == table

    def test_pandas(self, con, table):
        pd = pytest.importorskip("pandas", reason="platform: no pandas for this Python")
        if not hasattr(pd.DataFrame, "from_arrow"):
            pytest.skip("platform: the pandas for this Python takes no Arrow streams")
        frame = pd.DataFrame.from_arrow(con.execute("SELECT * FROM t"))
        assert frame["f"].tolist()[0] == 0.5
        assert frame["i"].isna().tolist() == [False, True, False]

    def test_nothing_is_copied(self, con):
        cursor = con.execute(count(60_000) + "SELECT i, i * 0.5 AS f, 'text ' || i AS s FROM n")
        before = pa.total_allocated_bytes()
        result = pa.table(cursor)
        assert result.num_rows == 60_000
        assert result.nbytes > 1_000_000
        assert pa.total_allocated_bytes() - before < 10_000
        con.close()
        gc.collect()
        assert result["s"][59_999].as_py() == "text 60000"

    def test_empty_results_have_declared_types(self, con, table):
        result = pa.table(con.execute("SELECT *, i + 1 AS e FROM t WHERE 0"))
        assert [str(field.type) for field in result.schema] == ["int64", "double", "string", "binary", "null"]
        assert result.num_rows == 0

    def test_names_occur_once(self, con):
        assert pa.table(con.execute("SELECT 1 AS a, 2 AS a")).to_pylist() == [{"a": 1, "a:1": 2}]

    def test_what_is_left_of_a_result(self, con):
        cursor = con.execute(count(5) + "SELECT i FROM n")
        cursor.fetchone()
        assert pa.table(cursor)["i"].to_pylist() == [2, 3, 4, 5]
        assert cursor.fetchall() == []
        assert pa.table(cursor).num_rows == 0

    def test_returning(self, con):
        con.execute("CREATE TABLE r (a)")
        capsule = con.execute("INSERT INTO r VALUES (1), (2) RETURNING a").__arrow_c_stream__()
        assert con.execute("SELECT count(*) FROM r").fetchone() == (2,)
        del capsule
        con.rollback()
        assert pa.table(con.execute("INSERT INTO r VALUES (1) RETURNING a")).to_pylist() == [{"a": 1}]

    def test_no_result(self, con):
        with pytest.raises(sqlite3.ProgrammingError, match="no result"):
            con.cursor().__arrow_c_stream__()


class TestSchema:
    def test_a_later_value_of_another_type_ends_the_stream(self, con):
        cursor = con.execute(count(70_000) + "SELECT iif(i = 70000, 'x', i) AS v FROM n")
        with pytest.raises(
            pa.ArrowInvalid, match=r'column "v", row 69999 \(from 0\): TEXT in a column of 64-bit integers'
        ):
            pa.table(cursor)

    def test_a_mixed_column_is_refused_at_once(self, con):
        cursor = con.execute("SELECT column1 AS v FROM (VALUES (1), ('x'))")
        with pytest.raises(
            ValueError, match=r'column "v", row 1 \(from 0\): TEXT in a column of 64-bit integers; CAST'
        ):
            cursor.__arrow_c_stream__()

    def test_requested(self, con):
        con.execute("CREATE TABLE m (a, b)")
        con.executemany("INSERT INTO m VALUES (?, ?)", [(1, 0), ("x", 1), (2.5, None)])
        wanted = pa.schema([("a", pa.large_utf8()), ("b", pa.bool_())])
        result = pa.RecordBatchReader.from_stream(con.execute("SELECT a, b FROM m"), wanted).read_all()
        assert result.schema == wanted
        assert result.to_pydict() == {"a": ["1", "x", "2.5"], "b": [False, True, None]}

    def test_requested_in_vain(self, con):
        def read(sql, **types):
            wanted = pa.schema(list(types.items()))
            return pa.RecordBatchReader.from_stream(con.execute(sql), wanted).read_all()

        with pytest.raises(ValueError, match=r'requested schema has the columns \["b"\], the result has \["a"\]'):
            read("SELECT 1 AS a", b=pa.int64())
        with pytest.raises(ValueError, match='column "a" cannot be given as Timestamp'):
            read("SELECT 1 AS a", a=pa.timestamp("s"))
        with pytest.raises(pa.ArrowInvalid, match=r'column "a", row 0 .*300 is out of range for Int8'):
            read("SELECT 300 AS a", a=pa.int8())
        with pytest.raises(ValueError, match=r'column "a", row 0 .*TEXT in a column of 64-bit integers'):
            read("SELECT 'x' AS a", a=pa.int8())
        with pytest.raises(TypeError, match="PyCapsule"):
            con.execute("SELECT 1").__arrow_c_stream__(3)

    def test_text_that_is_none(self, con):
        cursor = con.execute("SELECT column1 AS v FROM (VALUES ('ok'), (CAST(x'41ff' AS TEXT)))")
        with pytest.raises(pa.ArrowInvalid, match=r'column "v", row 1 \(from 0\): TEXT that is no UTF-8'):
            pa.table(cursor)
        # Two halves of a character do not make one.
        halves = con.execute("SELECT column1 AS v FROM (VALUES (CAST(x'c3' AS TEXT)), (CAST(x'a4' AS TEXT)))")
        with pytest.raises(pa.ArrowInvalid, match="row 0"):
            pa.table(halves)


class TestStream:
    def read(self, con, rows=200_000):
        return pa.RecordBatchReader.from_stream(con.execute(count(rows) + "SELECT i FROM n"))

    def test_comes_in_batches(self, con):
        assert [batch.num_rows for batch in self.read(con)] == [65_536, 65_536, 65_536, 3392]
        wide = con.execute(count(60) + "SELECT zeroblob(1000000) AS b FROM n")
        assert max(batch.num_rows for batch in pa.RecordBatchReader.from_stream(wide)) < 20

    @pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="platform: reads /proc")
    def test_memory_is_bounded(self, con):
        def used():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        total, most, before = 0, 0, used()
        sql = count(800_000) + "SELECT i, hex(randomblob(150)) AS s FROM n"
        for batch in pa.RecordBatchReader.from_stream(con.execute(sql)):
            total += batch.nbytes
            most = max(most, used() - before)
            del batch
        assert total > 240_000_000
        assert most < 120_000_000

    def test_the_cursor_is_free_meanwhile(self, con):
        cursor = con.execute(count(100_000) + "SELECT i FROM n")
        reader = pa.RecordBatchReader.from_stream(cursor)
        assert cursor.execute("SELECT 'other'").fetchall() == [("other",)]
        assert reader.read_all().num_rows == 100_000

    def test_closed_connection(self, con):
        reader = self.read(con)
        reader.read_next_batch()
        con.close()
        with pytest.raises(OSError, match="closed database"):
            reader.read_next_batch()

    def test_a_connection_given_back_to_its_pool(self, tmp_path):
        with sqlite.ConnectionPool(tmp_path / "data.db", min_size=1, max_size=1) as pool:
            with pool.connection() as conn:
                conn.execute("CREATE TABLE t AS " + count(200_000) + "SELECT i FROM n")
                reader = pa.RecordBatchReader.from_stream(conn.execute("SELECT i FROM t"))
                batches = conn.execute("SELECT i FROM t").fetchnumpy_batches(10)
                assert next(batches)["i"].tolist() == list(range(1, 11))
                reader.read_next_batch()
            with pool.connection():
                with pytest.raises(OSError, match="given back to its pool"):
                    reader.read_next_batch()
                with pytest.raises(sqlite3.ProgrammingError, match="given back to its pool"):
                    next(batches)

    def test_a_failing_query(self, con):
        sql = count(70_000) + "SELECT abs(iif(i = 69999, -9223372036854775808, i)) AS v FROM n"
        reader = pa.RecordBatchReader.from_stream(con.execute(sql))
        reader.read_next_batch()
        with pytest.raises(OSError, match="integer overflow"):
            reader.read_next_batch()
        assert con.execute("SELECT 1").fetchall() == [(1,)]

    def test_statements_end_with_what_was_abandoned(self, con):
        con.execute("CREATE TABLE t AS " + count(100_000) + "SELECT i FROM n")
        capsule = con.execute("SELECT * FROM t").__arrow_c_stream__()
        reader = pa.RecordBatchReader.from_stream(con.execute("SELECT * FROM t"))
        reader.read_next_batch()
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            con.execute("DROP TABLE t")
        del capsule, reader
        gc.collect()
        con.execute("DROP TABLE t")

    def test_threads_pull_while_others_use_the_connection(self, con):
        con.execute("CREATE TABLE t AS " + count(200_000) + "SELECT i FROM n")
        failures = []

        def pull():
            try:
                for _ in range(3):
                    reader = pa.RecordBatchReader.from_stream(con.execute("SELECT i FROM t"))
                    assert sum(batch.num_rows for batch in reader) == 200_000
            except BaseException as error:  # whatever it is, the test must see it
                failures.append(error)

        def use():
            try:
                for _ in range(60):
                    assert con.execute("SELECT max(i) FROM t WHERE i < 100").fetchall() == [(99,)]
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=pull) for _ in range(2)] + [threading.Thread(target=use) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []

    def test_functions_in_python(self, con):
        con.create_function("twice", 1, lambda value: value * 2)
        con.create_function("fail", 1, lambda value: 1 // (value - 70_000))
        con.create_function("look", 0, lambda: con.execute("SELECT 5").fetchone()[0])
        failures = []

        def pull():
            try:
                reader = pa.RecordBatchReader.from_stream(con.execute(count(150_000) + "SELECT twice(i) AS v FROM n"))
                assert sum(batch["v"][0].as_py() for batch in reader) == 2 + 131_074 + 262_146
            except BaseException as error:  # whatever it is, the test must see it
                failures.append(error)

        threads = [threading.Thread(target=pull) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(50):
            assert con.execute("SELECT twice(21)").fetchone() == (42,)
        for thread in threads:
            thread.join()
        assert failures == []
        reader = pa.RecordBatchReader.from_stream(con.execute(count(80_000) + "SELECT fail(i) AS v FROM n"))
        reader.read_next_batch()
        with pytest.raises(OSError, match="user-defined function raised exception"):
            reader.read_next_batch()
        looked = pa.table(con.execute(count(70_000) + "SELECT look() AS v FROM n"))
        assert looked["v"].unique().to_pylist() == [5]

    def test_a_function_that_closes_the_connection(self, con):
        refused = []

        def close():
            try:
                con.close()
            except sqlite3.ProgrammingError as error:
                refused.append(error)
            return 1

        con.create_function("shut", 0, close)
        reader = pa.RecordBatchReader.from_stream(
            con.execute(count(66_000) + "SELECT iif(i % 65999, i, shut()) FROM n")
        )
        assert reader.read_all().num_rows == 66_000
        assert len(refused) == 1
