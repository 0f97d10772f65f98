"""`executemany` with columns: mappings of NumPy arrays, structured arrays, and what speaks Arrow."""

from __future__ import annotations

import datetime as dt
import decimal
import sqlite3
from types import SimpleNamespace

import numpy as np
import pytest

from upshift import sqlite


@pytest.fixture
def con():
    with_connection = sqlite.connect(":memory:", isolation_level=None)
    with_connection.execute("CREATE TABLE t (a, b, c)")
    yield with_connection
    with_connection.close()


def stored(con, values):
    """A column of these values, as SQLite has it then."""
    con.execute("DELETE FROM t")
    assert con.executemany("INSERT INTO t (a) VALUES (:a)", {"a": values}).rowcount == len(values)
    return [row[0] for row in con.execute("SELECT a FROM t")]


class TestNumpy:
    def test_by_name(self, con):
        columns = {"b": np.array([0.5, np.nan]), "unused": np.zeros(2), "a": np.array([1, 2])}
        cursor = con.executemany("INSERT INTO t VALUES (:a, :b, $a + 1)".replace("$a", ":a"), columns)
        assert cursor.rowcount == 2
        assert con.execute("SELECT * FROM t").fetchall() == [(1, 0.5, 2), (2, None, 3)]

    def test_by_position(self, con):
        con.executemany(
            "INSERT INTO t VALUES (?, ?, ?)", {"x": np.arange(2), "y": np.array(["a", "b"]), "z": np.ones(2)}
        )
        assert con.execute("SELECT * FROM t").fetchall() == [(0, "a", 1.0), (1, "b", 1.0)]

    @pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i4", ">u2"])
    def test_integers(self, con, dtype):
        info = np.iinfo(dtype)
        values = [int(info.min), 0, min(int(info.max), 2**63 - 1)]
        found = stored(con, np.array(values, dtype))
        assert found == values
        assert {type(value) for value in found} == {int}

    @pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f8", "g"])
    def test_floats(self, con, dtype):
        found = stored(con, np.array([0.5, -np.inf, np.nan, 1], dtype))
        assert found == [0.5, float("-inf"), None, 1.0]
        assert {type(value) for value in found} == {float, type(None)}

    def test_other_types(self, con):
        assert stored(con, np.array([True, False])) == [1, 0]
        assert stored(con, np.array(["", "äöü", "🙂🙂", "a\0b"])) == ["", "äöü", "🙂🙂", "a\0b"]
        assert stored(con, np.array([""] * 3)) == ["", "", ""]
        assert stored(con, np.array(["ab", "c"], ">U2")) == ["ab", "c"]
        assert stored(con, np.array([b"ab", b""])) == [b"ab", b""]
        assert stored(con, np.array([1, 0.5, "x", b"y", None, 2**62, True], object)) == [
            1,
            0.5,
            "x",
            b"y",
            None,
            2**62,
            1,
        ]

    def test_dates_are_text_as_the_adapters_make_it(self, con):
        when = dt.datetime(2024, 2, 29, 12, 30, 1, 250_000)
        for unit in ("us", "ns", "ms"):
            assert stored(con, np.array([when, "NaT"], f"M8[{unit}]")) == [when.isoformat(" "), None]
        assert stored(con, np.array(["1969-12-31T23:59:59"], "M8[s]")) == ["1969-12-31 23:59:59"]
        assert stored(con, np.array(["2024-02-29T12"], "M8[h]")) == ["2024-02-29 12:00:00"]
        assert stored(con, np.array(["0001-01-01", "9999-12-31", "NaT"], "M8[D]")) == ["0001-01-01", "9999-12-31", None]
        assert stored(con, np.array(["2024-02"], "M8[M]")) == ["2024-02-01"]
        with pytest.raises(ValueError, match=r'column "a", row 1 \(from 0\): a date outside the years 1 to 9999'):
            stored(con, np.array(["2000-01-01", "10000-01-01"], "M8[D]"))

    def test_masked(self, con):
        assert stored(con, np.ma.array([1, 2, 3], mask=[0, 1, 0])) == [1, None, 3]
        assert stored(con, np.ma.array(["x", "y"], mask=[1, 0])) == [None, "y"]
        assert stored(con, np.ma.array([object(), 1], mask=[1, 0], dtype=object)) == [None, 1]

    def test_any_memory_layout(self, con):
        values = np.arange(20).reshape(4, 5)
        assert stored(con, values[:, 2]) == [2, 7, 12, 17]
        assert stored(con, values[0, ::-2]) == [4, 2, 0]
        assert stored(con, np.array(["ab", "cd", "ef"])[::2]) == ["ab", "ef"]
        assert stored(con, np.frombuffer(b"\0" + np.arange(3).tobytes(), "i8", offset=1)) == [0, 1, 2]
        read_only = np.arange(3)
        read_only.flags.writeable = False
        assert stored(con, read_only) == [0, 1, 2]
        assert stored(con, np.array([], "f8")) == []

    def test_structured(self, con):
        rows = np.array([(1, 0.5, "x"), (2, 1.5, "y")], [("a", "i4"), ("b", "f8"), ("c", "U3")])
        con.executemany("INSERT INTO t VALUES (:a, :b, :c)", rows)
        assert con.execute("SELECT * FROM t").fetchall() == [(1, 0.5, "x"), (2, 1.5, "y")]

    def test_adapters_count_for_objects(self, con):
        class Point:
            def __init__(self, x):
                self.x = x

            def __conform__(self, protocol):
                return f"point {self.x}"

        points = np.empty(2, object)
        points[:] = [Point(1), Point(2)]
        assert stored(con, points) == ["point 1", "point 2"]

    def test_what_cannot_be_stored(self, con):
        with pytest.raises(OverflowError, match=r'column "a", row 1 \(from 0\): 18446744073709551615 is too large'):
            stored(con, np.array([0, 2**64 - 1], "u8"))
        with pytest.raises(OverflowError, match=r'column "a", row 0 \(from 0\): .*too large'):
            stored(con, np.array([2**64, None], object))
        with pytest.raises(
            sqlite3.ProgrammingError, match=r'column "a", row 1 \(from 0\): type .object. is not supported'
        ):
            stored(con, np.array([0, object()], object))
        for values in (np.zeros(2, complex), np.zeros(2, "m8[s]"), np.zeros(2, "M8[ps]")):
            with pytest.raises(TypeError, match=r"column 'a'.*cannot be stored"):
                stored(con, values)
        with pytest.raises(ValueError, match="column 'a': expected one dimension, not 2"):
            stored(con, np.zeros((2, 2)))

    def test_columns_that_do_not_fit(self, con):
        two = {"a": np.zeros(2), "b": np.zeros(2)}
        with pytest.raises(sqlite3.ProgrammingError, match="uses 3, and there are 2 supplied"):
            con.executemany("INSERT INTO t VALUES (?, ?, ?)", two)
        with pytest.raises(sqlite3.ProgrammingError, match="binding parameter :c"):
            con.executemany("INSERT INTO t VALUES (:a, :b, :c)", two)
        with pytest.raises(ValueError, match="differ in length"):
            con.executemany("INSERT INTO t VALUES (:a, :b, 0)", {"a": np.zeros(2), "b": np.zeros(3)})
        with pytest.raises(TypeError, match="column 'b': expected an array"):
            con.executemany("INSERT INTO t VALUES (:a, :b, 0)", {"a": np.zeros(2), "b": [1, 2]})
        with pytest.raises(sqlite3.ProgrammingError, match="DML"):
            con.executemany("SELECT ?", {"a": np.zeros(2)})
        assert con.execute("SELECT count(*) FROM t").fetchone() == (0,)


class TestStandardLibrary:
    """What means rows to `sqlite3` goes on to mean rows."""

    def test_rows_of_a_matrix(self, con):
        plain = sqlite3.connect(":memory:")
        plain.execute("CREATE TABLE t (a, b, c)")
        matrix = np.arange(9.0).reshape(3, 3)
        for rows in (matrix, list(matrix), tuple(matrix), iter(matrix)):
            for connection in (con, plain):
                connection.execute("DELETE FROM t")
            con.executemany("INSERT INTO t VALUES (?, ?, ?)", rows)
            plain.executemany("INSERT INTO t VALUES (?, ?, ?)", matrix)
            found = con.execute("SELECT * FROM t").fetchall()
            assert found == plain.execute("SELECT * FROM t").fetchall() == [tuple(row) for row in matrix.tolist()]
        plain.close()

    def test_a_list_of_columns_is_none(self, con):
        with pytest.raises(
            sqlite3.ProgrammingError, match=r"uses 3, and there are 5 supplied. To pass columns, .* a dict"
        ):
            con.executemany("INSERT INTO t VALUES (?, ?, ?)", [np.zeros(5), np.zeros(5), np.zeros(5)])
        with pytest.raises(sqlite3.ProgrammingError, match=r"supplied\.$"):
            con.executemany("INSERT INTO t VALUES (?, ?, ?)", [(1,)])

    def test_rows_of_a_cursor(self, con):
        con.execute("CREATE TABLE s (a)")
        con.executemany("INSERT INTO s VALUES (?)", [(1,), ("x",), (None,)])
        con.executemany("INSERT INTO t (a) VALUES (?)", con.execute("SELECT a FROM s"))
        assert con.execute("SELECT a FROM t").fetchall() == [(1,), ("x",), (None,)]

    def test_a_dict_of_no_arrays(self, con):
        con.executemany("INSERT INTO t (a) VALUES (?)", {"x": 1, "y": [2]})
        assert con.execute("SELECT a FROM t").fetchall() == [("x",), ("y",)]


class TestTransactions:
    def test_one_begins(self):
        con = sqlite.connect(":memory:")
        con.execute("CREATE TABLE t (a)")
        con.executemany("INSERT INTO t VALUES (:a)", {"a": np.arange(3)})
        assert con.in_transaction
        con.rollback()
        assert con.execute("SELECT count(*) FROM t").fetchone() == (0,)
        con.close()

    def test_a_failing_row(self, con):
        con.execute("CREATE TABLE u (a UNIQUE)")
        con.execute("BEGIN")
        with pytest.raises(sqlite3.IntegrityError, match=r"UNIQUE constraint failed: u.a"):
            con.executemany("INSERT INTO u VALUES (:a)", {"a": np.array([1, 2, 1])})
        assert con.execute("SELECT a FROM u").fetchall() == [(1,), (2,)]
        con.execute("ROLLBACK")
        assert con.executemany("INSERT INTO u VALUES (:a)", {"a": np.arange(40_000)}).rowcount == 40_000

    def test_updates_count_rows(self, con):
        con.executemany("INSERT INTO t (a, b) VALUES (?, ?)", [(n % 3, n) for n in range(9)])
        cursor = con.executemany("UPDATE t SET c = :c WHERE a = :a", {"a": np.arange(2), "c": np.array(["x", "y"])})
        assert cursor.rowcount == 6


class TestArrow:
    @pytest.fixture(autouse=True)
    def pyarrow(self):
        self.pa = pytest.importorskip("pyarrow", reason="platform: no pyarrow for this Python")

    def test_tables_batches_and_readers(self, con):
        pa = self.pa
        table = pa.table({"a": [1, None, 3], "b": ["x", "", None], "c": [b"1", None, b""]})
        expected = [(1, "x", b"1"), (None, "", None), (3, None, b"")]
        chunked = pa.concat_tables([table, table])
        for data, times in (
            (table, 1),
            (chunked, 2),
            (table.to_batches()[0], 1),
            (table.to_reader(), 1),
            (table.slice(1), 1),
        ):
            con.execute("DELETE FROM t")
            con.executemany("INSERT INTO t VALUES (:a, :b, :c)", data)
            found = con.execute("SELECT * FROM t").fetchall()
            assert (
                found == (expected[1:] if data.num_rows == 2 else expected * times)
                if hasattr(data, "num_rows")
                else found
            )

    def test_types(self, con):
        pa = self.pa
        when = dt.datetime(2024, 2, 29, 1, 2, 3, 4)
        cases = [
            (pa.array([decimal.Decimal("1.50"), None]), ["1.50", None]),
            (pa.array(["x", "x", None]).dictionary_encode(), ["x", "x", None]),
            (pa.array([when.date()]), ["2024-02-29"]),
            (pa.array([when]), [when.isoformat(" ")]),
            (pa.array([when], pa.timestamp("us", "UTC")), [when.isoformat(" ") + "+00:00"]),
            (pa.array([when], pa.timestamp("us", "Europe/Berlin")), [when.isoformat(" ") + "+00:00"]),
            (pa.array(["long enough to be elsewhere", "b"], pa.string_view()), ["long enough to be elsewhere", "b"]),
            (pa.array([1.5], pa.float16()) if hasattr(np, "float16") else pa.array([1.5]), [1.5]),
            (pa.nulls(2), [None, None]),
            (pa.array([2**64 - 1 >> 1], pa.uint64()), [2**63 - 1]),
        ]
        for array, expected in cases:
            assert stored(con, array) == expected, array.type
            con.execute("DELETE FROM t")
            con.executemany("INSERT INTO t (a) VALUES (?)", pa.table({"a": array}))
            assert [row[0] for row in con.execute("SELECT a FROM t")] == expected
        assert stored(con, pa.chunked_array([[1, None], [], [3]])) == [1, None, 3]

    def test_what_cannot_be_stored(self, con):
        pa = self.pa
        for values in (
            pa.array([[1]]),
            pa.array([{"x": 1}]),
            pa.array([dt.time(1)]),
            pa.array([dt.timedelta(1)]),
        ):
            with pytest.raises(TypeError, match=r'column "a": values of type .* cannot be stored'):
                con.executemany("INSERT INTO t (a) VALUES (?)", pa.table({"a": values}))
        with pytest.raises(ValueError, match="has no columns"):
            con.executemany("INSERT INTO t (a) VALUES (?)", pa.array([1]))
        table = pa.table({"a": pa.chunked_array([[1, 2], [2**64 - 1]], pa.uint64())})
        with pytest.raises(OverflowError, match=r'column "a", row 2 \(from 0\)'):
            con.executemany("INSERT INTO t (a) VALUES (?)", table)

    def test_a_producer_that_fails(self, con):
        pa = self.pa
        schema = pa.schema([("a", pa.int64())])

        def batches():
            yield pa.record_batch([pa.array([1])], schema)
            raise RuntimeError("no more of this")

        with pytest.raises(ValueError, match="no more of this"):
            con.executemany("INSERT INTO t (a) VALUES (?)", pa.RecordBatchReader.from_batches(schema, batches()))
        reader = pa.RecordBatchReader.from_batches(schema, [])
        capsule = reader.__arrow_c_stream__()
        pa.RecordBatchReader._import_from_c_capsule(capsule)
        with pytest.raises(ValueError, match="consumed already"):
            con.executemany("INSERT INTO t (a) VALUES (?)", SimpleNamespace(__arrow_c_stream__=lambda: capsule))
        with pytest.raises(TypeError, match="PyCapsule"):
            con.executemany("INSERT INTO t (a) VALUES (?)", SimpleNamespace(__arrow_c_stream__=lambda: 3))

    def test_a_producer_that_uses_the_connection(self, con):
        pa = self.pa
        schema = pa.schema([("a", pa.int64())])

        def batches():
            for _ in range(3):
                (count,) = con.execute("SELECT count(*) FROM t").fetchone()
                yield pa.record_batch([pa.array([count])], schema)

        con.executemany("INSERT INTO t (a) VALUES (?)", pa.RecordBatchReader.from_batches(schema, batches()))
        assert [row[0] for row in con.execute("SELECT a FROM t")] == [0, 1, 2]

    def test_a_connection_given_back_to_its_pool(self, tmp_path):
        pa = self.pa
        schema = pa.schema([("a", pa.int64())])
        with sqlite.ConnectionPool(tmp_path / "data.db", min_size=1, max_size=1) as pool:
            conn = pool.acquire()
            conn.execute("CREATE TABLE t (a)")

            def batches():
                yield pa.record_batch([pa.array([1])], schema)
                conn.close()
                yield pa.record_batch([pa.array([2])], schema)

            with pytest.raises(sqlite3.ProgrammingError, match="given back to its pool"):
                conn.executemany("INSERT INTO t VALUES (?)", pa.RecordBatchReader.from_batches(schema, batches()))
            with pool.connection() as conn:
                assert [row[0] for row in conn.execute("SELECT a FROM t")] == [1]

    def test_a_stream_of_the_same_connection(self, con):
        con.executemany("INSERT INTO t (a, b) VALUES (:a, :b)", {"a": np.arange(100_000), "b": np.zeros(100_000)})
        con.execute("CREATE TABLE u (a, b)")
        stream = con.execute("SELECT a, b FROM t").__arrow_c_stream__()
        cursor = con.executemany("INSERT INTO u VALUES (?, ?)", SimpleNamespace(__arrow_c_stream__=lambda: stream))
        assert cursor.rowcount == 100_000
        assert con.execute("SELECT sum(a) FROM u").fetchone() == (4_999_950_000,)

    def test_frames(self, con):
        pl = pytest.importorskip("polars", reason="platform: no polars for this Python")
        frame = pl.DataFrame({"a": [1, None], "b": ["x", "y"], "c": [dt.date(2024, 2, 29), None]})
        con.executemany("INSERT INTO t VALUES (:a, :b, :c)", frame)
        expected = [(1, "x", "2024-02-29"), (None, "y", None)]
        assert con.execute("SELECT * FROM t").fetchall() == expected
        con.execute("DELETE FROM t")
        con.executemany("INSERT INTO t VALUES (:a, :b, :c)", {name: frame[name] for name in frame.columns})
        assert con.execute("SELECT * FROM t").fetchall() == expected

    def test_pandas(self, con):
        pd = pytest.importorskip("pandas", reason="platform: no pandas for this Python")
        frame = pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": pd.to_datetime(["2024-02-29", None])})
        expected = [(1, "x", "2024-02-29 00:00:00"), (2, None, None)]
        if hasattr(frame, "__arrow_c_stream__"):
            con.executemany("INSERT INTO t VALUES (:a, :b, :c)", frame)
            assert con.execute("SELECT * FROM t").fetchall() == expected
            con.execute("DELETE FROM t")
        con.executemany("INSERT INTO t VALUES (:a, :b, :c)", {name: frame[name].to_numpy() for name in frame})
        assert [row[0::2] for row in con.execute("SELECT * FROM t")] == [row[0::2] for row in expected]


@pytest.mark.parametrize("values", [[1, 2, 3], (1, 2), range(3), (number for number in range(3)), []])
def test_lists_by_name_are_no_columns(values):
    connection = sqlite.connect(":memory:")
    connection.execute("CREATE TABLE t (x)")
    class_name = type(values).__name__
    with pytest.raises(TypeError, match=f"column 'x': expected an array, not {class_name}"):
        connection.executemany("INSERT INTO t VALUES (:x)", {"x": values})
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
    # As sqlite3 would: the keys are the rows.
    connection.executemany("INSERT INTO t VALUES (?)", {(1,): [2], ("a",): [3]})
    connection.executemany("INSERT INTO t VALUES (?)", {"b": "c", "d": 1})
    connection.executemany("INSERT INTO t VALUES (?)", {})
    assert connection.execute("SELECT x FROM t").fetchall() == [(1,), ("a",), ("b",), ("d",)]
    connection.close()
