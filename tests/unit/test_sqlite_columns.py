"""`Cursor.fetchnumpy` and `fetchnumpy_batches`: results as NumPy arrays."""

from __future__ import annotations

import gc
import sqlite3
import sys
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upshift import sqlite


@pytest.fixture
def con():
    with_connection = sqlite.connect(":memory:", check_same_thread=False)
    yield with_connection
    with_connection.close()


def same(array, expected):
    """Equal values, None where masked."""
    values = array.tolist()
    assert len(values) == len(expected)
    for one, other in zip(values, expected):
        assert one == other, (values, expected)


class TestTypes:
    def test_each_type_has_its_array(self, con):
        arrays = con.execute("SELECT 1 AS i, 0.5 AS f, 'text' AS t, x'00ff' AS b, NULL AS n").fetchnumpy()
        assert {name: array.dtype.str for name, array in arrays.items()} == {
            "i": "<i8",
            "f": "<f8",
            "t": "|O",
            "b": "|O",
            "n": "<f8",
        }
        assert (arrays["t"][0], arrays["b"][0]) == ("text", b"\x00\xff")
        assert arrays["n"].mask.tolist() == [True]

    def test_integers_and_floats_make_floats_unless_a_digit_is_lost(self, con):
        sql = "SELECT * FROM (VALUES (1), (0.5), (?))"
        small = con.execute(sql, (2**53,)).fetchnumpy()["column1"]
        assert small.dtype == np.float64
        large = con.execute(sql, (2**53 + 1,)).fetchnumpy()["column1"]
        assert large.dtype == object
        assert large.tolist() == [1, 0.5, 2**53 + 1]

    def test_several_types_make_objects(self, con):
        array = con.execute("SELECT * FROM (VALUES (1), ('a'), (NULL), (2.5), (x'41'))").fetchnumpy()["column1"]
        assert array.dtype == object
        assert array.tolist() == [1, "a", None, 2.5, b"A"]

    def test_types_of_empty_results_are_the_declared_ones(self, con):
        con.execute("CREATE TABLE t (a INTEGER, b REAL, c TEXT, d BLOB, e DECIMAL(10, 2), f)")
        for cursor in (con.execute("SELECT * FROM t"), con.execute("SELECT * FROM t WHERE a > 5")):
            arrays = cursor.fetchnumpy()
            assert [array.dtype.str for array in arrays.values()] == ["<i8", "<f8", "|O", "|O", "<f8", "<f8"]
            assert [len(array) for array in arrays.values()] == [0] * 6
        con.execute("INSERT INTO t (a) VALUES (1)")
        con.execute("UPDATE t SET a = NULL")
        arrays = con.execute("SELECT * FROM t").fetchnumpy()
        assert [array.dtype.str for array in arrays.values()] == ["<i8", "<f8", "|O", "|O", "<f8", "<f8"]
        assert [array.tolist() for array in arrays.values()] == [[None]] * 6

    def test_a_result_read_to_its_end_still_has_columns(self, con):
        con.execute("CREATE TABLE t (a TEXT)")
        con.execute("INSERT INTO t VALUES ('x')")
        cursor = con.execute("SELECT a, 1 AS b FROM t")
        assert cursor.fetchall() == [("x", 1)]
        arrays = cursor.fetchnumpy()
        assert {name: (len(array), array.dtype.kind) for name, array in arrays.items()} == {
            "a": (0, "O"),
            "b": (0, "f"),
        }
        con.execute("DROP TABLE t")
        assert list(cursor.fetchnumpy()) == ["a", "b"]

    def test_names_occur_once(self, con):
        arrays = con.execute("SELECT 1 AS a, 2 AS a, 3 AS b").fetchnumpy()
        assert {name: array.tolist() for name, array in arrays.items()} == {"a": [1], "a:1": [2], "b": [3]}

    def test_limits_of_numbers(self, con):
        values = [2**63 - 1, -(2**63), 0]
        array = con.execute("SELECT * FROM (VALUES (?), (?), (?))", values).fetchnumpy()["column1"]
        assert array.tolist() == values
        array = con.execute("SELECT * FROM (VALUES (9e999), (-9e999))").fetchnumpy()["column1"]
        assert array.tolist() == [float("inf"), float("-inf")]

    @given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text() | st.binary(), max_size=40))
    def test_as_the_standard_library_reads_it(self, values):
        con, plain = sqlite.connect(":memory:"), sqlite3.connect(":memory:")
        for connection in (con, plain):
            connection.execute("CREATE TABLE t (v)")
            connection.executemany("INSERT INTO t VALUES (?)", [(value,) for value in values])
        expected = [row[0] for row in plain.execute("SELECT v FROM t")]
        same(con.execute("SELECT v FROM t").fetchnumpy()["v"], expected)
        parts = [part["v"].tolist() for part in con.execute("SELECT v FROM t").fetchnumpy_batches(7)]
        assert [value for part in parts for value in part] == expected
        con.close()
        plain.close()


class TestNulls:
    SQL = "SELECT * FROM (VALUES (1, 0.5, 'a'), (NULL, NULL, NULL))"

    def test_masked(self, con):
        number, real, text = con.execute(self.SQL).fetchnumpy().values()
        assert isinstance(number, np.ma.MaskedArray)
        assert isinstance(real, np.ma.MaskedArray)
        assert (number.dtype, number.tolist(), real.tolist(), text.tolist()) == (
            np.int64,
            [1, None],
            [0.5, None],
            ["a", None],
        )

    def test_nan(self, con):
        number, real, text = con.execute(self.SQL).fetchnumpy(nulls="nan").values()
        for array in (number, real):
            assert not isinstance(array, np.ma.MaskedArray)
            assert array.dtype == np.float64
            assert np.isnan(array[1])
        assert text.tolist() == ["a", None]

    def test_nan_never_costs_a_digit(self, con):
        array = con.execute("SELECT * FROM (VALUES (?), (NULL))", (2**53 + 1,)).fetchnumpy(nulls="nan")["column1"]
        assert array.dtype == object
        assert array.tolist() == [2**53 + 1, None]

    def test_without_nulls_nothing_is_masked(self, con):
        array = con.execute("SELECT 1 AS a").fetchnumpy()["a"]
        assert type(array) is np.ndarray


class TestText:
    def test_fixed_width(self, con):
        con.execute("CREATE TABLE t (a TEXT)")
        con.executemany("INSERT INTO t VALUES (?)", [("",), ("äöü",), ("🙂",), ("a\0b",)])
        array = con.execute("SELECT a FROM t").fetchnumpy(text="fixed")["a"]
        assert array.dtype.str == "<U3"
        assert array.tolist() == ["", "äöü", "🙂", "a\0b"]
        con.execute("INSERT INTO t VALUES (NULL)")
        array = con.execute("SELECT a FROM t").fetchnumpy(text="fixed", nulls="nan")["a"]
        assert array.tolist()[-2:] == ["a\0b", None]
        assert con.execute("SELECT a FROM t WHERE 0").fetchnumpy(text="fixed")["a"].dtype.kind == "U"

    def test_fixed_width_over_many_batches_and_other_values(self, con):
        sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150000) "
        array = con.execute(sql + "SELECT 'v' || i AS v FROM n").fetchnumpy(text="fixed")["v"]
        assert (array.dtype.str, array[0], array[-1], len(array)) == ("<U7", "v1", "v150000", 150_000)
        array = con.execute(sql + "SELECT iif(i < 140000, 'v' || i, i) AS v FROM n").fetchnumpy(text="fixed")["v"]
        assert (array.dtype, array[0], array[-1], len(array)) == (object, "v1", 150_000, 150_000)

    def test_undecodable(self, con):
        con.execute("CREATE TABLE t (a TEXT)")
        con.execute("INSERT INTO t VALUES (CAST(x'ff41' AS TEXT))")
        for options in ({}, {"text": "fixed"}):
            with pytest.raises(sqlite3.OperationalError, match="Could not decode to UTF-8 column 'a' with text"):
                con.execute("SELECT a FROM t").fetchnumpy(**options)

    def test_text_factory(self, con):
        con.text_factory = bytes
        assert con.execute("SELECT 'ä' AS a").fetchnumpy()["a"].tolist() == ["ä".encode()]
        con.text_factory = lambda raw: [raw]
        assert con.execute("SELECT 'ä' AS a").fetchnumpy()["a"].tolist() == [["ä".encode()]]

    def test_a_text_factory_may_use_the_connection(self, con):
        con.text_factory = lambda raw: con.execute("SELECT 1").fetchone()[0]
        assert con.execute("SELECT 'ä' AS a").fetchnumpy()["a"].tolist() == [1]

        def fail(raw):
            raise ZeroDivisionError

        con.text_factory = fail
        with pytest.raises(ZeroDivisionError):
            con.execute("SELECT 'ä' AS a").fetchnumpy()
        con.text_factory = str
        assert con.execute("SELECT 'ä' AS a").fetchnumpy()["a"].tolist() == ["ä"]

    def test_a_text_factory_has_no_say_in_fixed_width_text(self, con):
        con.text_factory = bytes
        same(con.execute("SELECT 'a' AS x").fetchnumpy(text="fixed")["x"], ["a"])

    def test_converters_and_row_factories_have_no_say(self):
        sqlite.register_converter("shouted", bytes.upper)
        con = sqlite.connect(":memory:", detect_types=sqlite.PARSE_DECLTYPES)
        try:
            con.execute("CREATE TABLE t (x shouted)")
            con.execute("INSERT INTO t VALUES ('a')")
            assert con.execute("SELECT x FROM t").fetchall() == [(b"A",)]
            con.row_factory = lambda cursor, row: pytest.fail("called")
            same(con.execute("SELECT x FROM t").fetchnumpy()["x"], ["a"])
        finally:
            con.close()
            sqlite3.converters.pop("SHOUTED")


class TestFetching:
    def rows(self, count):
        return f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) SELECT i FROM n"

    def test_size_and_mixing_with_rows(self, con):
        cursor = con.execute(self.rows(10))
        assert cursor.fetchone() == (1,)
        assert cursor.fetchnumpy(3)["i"].tolist() == [2, 3, 4]
        assert cursor.fetchmany(2) == [(5,), (6,)]
        assert cursor.fetchnumpy(0)["i"].tolist() == []
        assert cursor.fetchnumpy(100)["i"].tolist() == [7, 8, 9, 10]
        assert cursor.fetchnumpy(100)["i"].tolist() == []
        assert cursor.fetchone() is None
        with pytest.raises(ValueError, match="size must be 0 or more"):
            cursor.fetchnumpy(-1)

    def test_batches(self, con):
        cursor = con.execute(self.rows(10))
        batches = cursor.fetchnumpy_batches(4)
        assert iter(batches) is batches
        assert next(batches)["i"].tolist() == [1, 2, 3, 4]
        # The cursor is free; the iterator goes on.
        assert cursor.fetchone() is None
        assert cursor.execute("SELECT 'other'").fetchall() == [("other",)]
        assert [batch["i"].tolist() for batch in batches] == [[5, 6, 7, 8], [9, 10]]
        assert list(batches) == []
        assert [len(part["i"]) for part in con.execute(self.rows(100_000)).fetchnumpy_batches()] == [65_536, 34_464]
        for size in (0, -1):
            with pytest.raises(ValueError, match="size must be 1 or more"):
                con.execute("SELECT 1").fetchnumpy_batches(size)

    def test_a_type_lasts_from_batch_to_batch(self, con):
        sql = "SELECT * FROM (VALUES (0.5), (1), (2), (3))"
        kinds = [part["column1"].dtype.kind for part in con.execute(sql).fetchnumpy_batches(2)]
        assert kinds == ["f", "f"]

    def test_no_result(self, con):
        for cursor in (con.cursor(), con.execute("CREATE TABLE t (a)"), con.execute("INSERT INTO t VALUES (1)")):
            with pytest.raises(sqlite3.ProgrammingError, match="no result"):
                cursor.fetchnumpy()
            with pytest.raises(sqlite3.ProgrammingError, match="no result"):
                cursor.fetchnumpy_batches()

    def test_wrong_options(self, con):
        for options, message in (({"text": "x"}, "text must be"), ({"nulls": 3}, "nulls")):
            with pytest.raises((ValueError, TypeError), match=message):
                con.execute("SELECT 1").fetchnumpy(**options)

    def test_returning(self, con):
        con.execute("CREATE TABLE t (a)")
        cursor = con.execute("INSERT INTO t VALUES (1), (2) RETURNING a")
        assert cursor.fetchnumpy()["a"].tolist() == [1, 2]
        assert cursor.rowcount == 2
        assert con.execute("SELECT count(*) FROM t").fetchone() == (2,)

    def test_a_failing_query(self, con):
        cursor = con.execute("SELECT abs(column1) FROM (VALUES (1), (-9223372036854775808))")
        with pytest.raises(sqlite3.OperationalError, match="integer overflow"):
            cursor.fetchnumpy()
        assert cursor.execute("SELECT 1 AS a").fetchnumpy()["a"].tolist() == [1]

    def test_closed(self, con):
        cursor = con.execute(self.rows(10))
        batches = con.execute(self.rows(10)).fetchnumpy_batches(3)
        next(batches)
        con.close()
        for call in (cursor.fetchnumpy, lambda: next(batches)):
            with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
                call()

    def test_closed_cursor_and_wrong_thread(self):
        con = sqlite.connect(":memory:")
        cursor = con.execute("SELECT 1")
        errors = []

        def read():
            try:
                cursor.fetchnumpy()
            except sqlite3.ProgrammingError as error:
                errors.append(str(error))

        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
        assert "created in a thread" in errors[0]
        cursor.close()
        with pytest.raises(sqlite3.ProgrammingError, match="closed cursor"):
            cursor.fetchnumpy()
        con.close()

    def test_statements_end_with_what_was_abandoned(self, con):
        con.execute("CREATE TABLE t AS " + self.rows(1000))
        batches = con.execute("SELECT * FROM t").fetchnumpy_batches(10)
        next(batches)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            con.execute("DROP TABLE t")
        del batches
        con.execute("DROP TABLE t")


class TestMemory:
    def test_arrays_are_writable_and_own_native_memory(self, con):
        array = con.execute("SELECT 1 AS a UNION ALL SELECT 2").fetchnumpy()["a"]
        assert not array.flags.owndata
        assert array.flags.writeable
        assert array.flags.aligned
        array[0] = 7
        con.close()
        gc.collect()
        assert array.tolist() == [7, 2]

    def test_without_numpy(self, con, monkeypatch):
        cursor = con.execute("SELECT 1 AS a")
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "numpy", None)
            with pytest.raises(ImportError, match=r"NumPy.*pip install numpy"):
                cursor.fetchnumpy()
            with pytest.raises(ImportError, match="NumPy"):
                cursor.fetchnumpy_batches()
        assert cursor.fetchnumpy()["a"].tolist() == [1]

    def test_cycles_are_collected(self):
        con = sqlite.connect(":memory:")
        con.batches = con.execute("SELECT 1 UNION SELECT 2").fetchnumpy_batches(1)
        reference = weakref.ref(con)
        next(con.batches)
        del con
        gc.collect()
        assert reference() is None

    def test_other_threads_run_meanwhile(self, con):
        counted = 0
        done = threading.Event()

        def count():
            nonlocal counted
            while not done.is_set():
                counted += 1

        thread = threading.Thread(target=count)
        thread.start()
        before = counted
        sql = (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600000) SELECT i, i * 0.5 FROM n"
        )
        arrays = con.execute(sql).fetchnumpy()
        done.set()
        thread.join()
        assert len(arrays["i"]) == 600_000
        assert counted - before > 1000

    def test_threads_share_a_connection(self, con):
        con.execute("CREATE TABLE t (a INTEGER, b TEXT)")
        con.executemany("INSERT INTO t VALUES (?, ?)", [(n, str(n)) for n in range(20_000)])
        failures = []

        def read():
            try:
                for _ in range(10):
                    arrays = con.execute("SELECT * FROM t").fetchnumpy()
                    assert arrays["a"].sum() == 199_990_000
                    assert arrays["b"][-1] == "19999"
            except BaseException as error:  # whatever it is, the test must see it
                failures.append(error)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
