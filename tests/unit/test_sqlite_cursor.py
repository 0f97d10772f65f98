"""Cursors: statements and their cache, values in and out, what a result says about itself."""

from __future__ import annotations

import functools
import sqlite3
import sys
import warnings

import pytest

import upshift.sqlite as sqlite

TWIN = pytest.mark.parametrize("module", [sqlite3, sqlite], ids=["sqlite3", "upshift"])


@pytest.fixture
def connection():
    made = sqlite.connect(":memory:")
    yield made
    made.close()


@pytest.fixture
def twin(module):
    """A connection of either module: they have to agree."""
    made = module.connect(":memory:")
    yield made
    made.close()


def names(cursor):
    return [column[0] for column in cursor.description]


# ---- values


@TWIN
@pytest.mark.parametrize(
    "value",
    [
        None,
        0,
        -1,
        2**63 - 1,
        -(2**63),
        True,
        1.5,
        -0.0,
        float("inf"),
        "",
        "a",
        "ä\N{GRINNING FACE}",
        "nul\0inside",
        b"",
        b"\0\xff",
        bytearray(b"ab"),
        memoryview(b"abcd")[1:3],
    ],
    ids=lambda value: "memoryview" if isinstance(value, memoryview) else ascii(value),
)
def test_values_come_back(twin, value):
    (found,) = twin.execute("SELECT ?", (value,)).fetchone()
    wanted = bytes(value) if isinstance(value, (bytearray, memoryview)) else value
    assert found == wanted
    assert type(found) is type(wanted) or type(wanted) is bool
    assert twin.execute("SELECT ? IS ?", (value, value)).fetchone() == (1,)


@TWIN
def test_not_a_number_is_null(twin):
    assert twin.execute("SELECT ?", (float("nan"),)).fetchone() == (None,)


@TWIN
@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 2**200], ids=["2^63", "-2^63-1", "2^200"])
def test_integers_have_64_bits(twin, value):
    with pytest.raises(OverflowError, match="too large to convert to SQLite INTEGER"):
        twin.execute("SELECT ?", (value,))


@TWIN
def test_surrogates_are_no_text(twin):
    with pytest.raises(UnicodeEncodeError):
        twin.execute("SELECT ?", ("\ud800",))
    with pytest.raises(
        UnicodeEncodeError if sys.version_info[:2] != (3, 10) else (UnicodeEncodeError, sqlite3.Warning)
    ):
        twin.execute("SELECT '\ud800'")
    # The connection is as good as before.
    assert twin.execute("SELECT 1").fetchone() == (1,)


@TWIN
def test_null_characters_in_statements(twin):
    for sql in ("\0SELECT 1", "SELECT 1\0", "SELECT '\0'"):
        with pytest.raises((ValueError, sqlite3.ProgrammingError), match="null character"):
            twin.execute(sql)


@TWIN
def test_subclasses_of_values(twin):
    class Int(int):
        pass

    class Text(str):
        __slots__ = ()

    assert twin.execute("SELECT ?, ?", (Int(3), Text("x"))).fetchone() == (3, "x")


def test_unsupported_values_name_the_parameter(connection):
    error = sqlite.ProgrammingError if sys.version_info >= (3, 11) else sqlite.InterfaceError
    place = 2 if sys.version_info >= (3, 11) else 1
    with pytest.raises(error, match=f"Error binding parameter {place}"):
        connection.execute("SELECT ?, ?", (1, object()))


def test_the_object_decides_how_it_is_stored(connection):
    class Point:
        def __conform__(self, protocol):
            assert protocol is sqlite.PrepareProtocol
            return "1;2"

    assert connection.execute("SELECT ?", (Point(),)).fetchone() == ("1;2",)


# ---- parameters


@TWIN
def test_parameters_by_name(twin):
    class Default(dict):
        def __missing__(self, key):
            return key * 2

    sql = "SELECT :a, @b, $a"
    assert twin.execute(sql, {"a": 1, "b": 2, "c": 3}).fetchone() == (1, 2, 1)
    assert twin.execute(sql, Default(a=1)).fetchone() == (1, "bb", 1)
    with pytest.raises(sqlite3.ProgrammingError, match="You did not supply a value for binding"):
        twin.execute(sql, {"a": 1})
    with pytest.raises(sqlite3.ProgrammingError, match="Binding 1 has no name"):
        twin.execute("SELECT ?", {"a": 1})


@TWIN
def test_parameters_by_position(twin):
    class Sequence:
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return [5, 6][index]

    assert twin.execute("SELECT ?, ?", Sequence()).fetchone() == (5, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12.1
        assert twin.execute("SELECT ?2, ?1, ?2", [1, 2]).fetchone() == (2, 1, 2)
    for wrong in ((), (1,), (1, 2, 3)):
        with pytest.raises(sqlite3.ProgrammingError, match=f"there are {len(wrong)} supplied"):
            twin.execute("SELECT ?, ?", wrong)
    with pytest.raises((ValueError, sqlite3.ProgrammingError), match="parameters are of unsupported type"):
        twin.execute("SELECT ?", 1)


def test_a_sequence_that_fails_passes_its_error_on(connection):
    class Sequence:
        def __len__(self):
            return 1

        def __getitem__(self, index):
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        connection.execute("SELECT ?", Sequence())
    assert connection.execute("SELECT ?", (1,)).fetchone() == (1,)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="platform: deprecated from Python 3.12 on")
def test_names_with_a_sequence_are_deprecated(connection):
    with pytest.warns(DeprecationWarning, match=r"Binding 1 \(':a'\) is a named parameter") as caught:
        connection.execute("SELECT :a", (1,))
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        connection.execute("SELECT ?1", (1,))


# ---- statements


@TWIN
@pytest.mark.parametrize("sql", ["", "  \n", "-- only a comment", "/* only */ /* comments */", "/* open", ";"])
def test_statements_of_nothing(twin, sql):
    if type(twin) is sqlite3.Connection and sys.version_info < (3, 10):
        pytest.skip("platform: Python 3.9 refuses some of them")
    cursor = twin.execute("SELECT 1")
    cursor.execute(sql)
    assert cursor.description is None
    assert cursor.fetchone() is None
    assert cursor.rowcount == -1


@TWIN
@pytest.mark.parametrize(
    "sql", ["SELECT 1; -- done", "/* a */ SELECT 1 /* b */ ; /* c */", "-- x\nSELECT 1", "SELECT 1;\n"]
)
def test_comments_around_a_statement(twin, sql):
    assert twin.execute(sql).fetchall() == [(1,)]


@TWIN
@pytest.mark.parametrize("sql", ["SELECT 1; SELECT 2", "SELECT 1; x", "SELECT 1; -- c\n x"])
def test_one_statement_at_a_time(twin, sql):
    with pytest.raises((sqlite3.ProgrammingError, sqlite3.Warning), match="one statement at a time"):
        twin.execute(sql)


def test_errors_have_codes_on_every_version(connection):
    connection.execute("CREATE TABLE t (a PRIMARY KEY)")
    connection.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(sqlite.IntegrityError) as caught:
        connection.execute("INSERT INTO t VALUES (1)")
    assert caught.value.sqlite_errorcode == sqlite.SQLITE_CONSTRAINT_PRIMARYKEY
    assert caught.value.sqlite_errorname == "SQLITE_CONSTRAINT_PRIMARYKEY"
    with pytest.raises(sqlite.OperationalError, match='near "SELEC": syntax error') as caught:
        connection.execute("SELEC 1")
    assert caught.value.sqlite_errorname == "SQLITE_ERROR"


# ---- the cache of statements


@TWIN
def test_kept_statements_follow_the_schema(twin):
    twin.execute("CREATE TABLE t (a)")
    twin.execute("INSERT INTO t VALUES (1)")
    sql = "SELECT * FROM t"
    cursor = twin.execute(sql)
    assert (names(cursor), cursor.fetchall()) == (["a"], [(1,)])
    twin.execute("ALTER TABLE t ADD COLUMN b DEFAULT 2")
    cursor = twin.execute(sql)
    assert (names(cursor), cursor.fetchall()) == (["a", "b"], [(1, 2)])
    twin.execute("ALTER TABLE t RENAME COLUMN a TO c")
    cursor = twin.execute(sql)
    assert (names(cursor), cursor.fetchall()) == (["c", "b"], [(1, 2)])
    twin.commit()
    twin.execute("DROP TABLE t")
    twin.execute("CREATE TABLE t (other)")
    cursor = twin.execute(sql)
    assert (names(cursor), cursor.fetchall()) == (["other"], [])
    twin.execute("DROP TABLE t")
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        twin.execute(sql)
    twin.execute("CREATE TABLE t (a, b, c)")
    assert names(twin.execute(sql)) == ["a", "b", "c"]


def test_kept_statements_follow_other_connections(tmp_path):
    connection, other = sqlite.connect(tmp_path / "one.db"), sqlite3.connect(tmp_path / "one.db")
    connection.execute("CREATE TABLE t (a)")
    assert names(connection.execute("SELECT * FROM t")) == ["a"]
    other.execute("ALTER TABLE t ADD COLUMN b")
    assert names(connection.execute("SELECT * FROM t")) == ["a", "b"]
    other.close()
    connection.close()


def test_one_text_on_several_cursors_at_once(connection):
    sql = "SELECT value FROM json_each('[1, 2, 3]')"
    cursors = [connection.execute(sql) for _ in range(5)]
    assert [cursor.fetchone() for cursor in cursors] == [(1,)] * 5
    assert [cursor.fetchall() for cursor in cursors] == [[(2,), (3,)]] * 5
    assert connection.execute(sql).fetchall() == [(1,), (2,), (3,)]


@pytest.mark.parametrize("size", [0, 1, 3, 128])
def test_any_size_of_the_cache_will_do(size):
    connection = sqlite.connect(":memory:", cached_statements=size)
    for _ in range(3):
        for i in range(10):
            assert connection.execute(f"SELECT {i}, ?", (i,)).fetchall() == [(i, i)]
    connection.close()


def test_values_of_one_run_do_not_stay_for_the_next(connection):
    sql = "SELECT ?1, ?2"
    assert connection.execute(sql, ("x" * 1000, 2)).fetchone() == ("x" * 1000, 2)
    with pytest.raises(sqlite.ProgrammingError):
        connection.execute(sql, (1,))
    assert connection.execute(sql, (None, None)).fetchone() == (None, None)


def test_a_failed_run_leaves_the_statement_usable(connection):
    connection.execute("CREATE TABLE t (a CHECK (a > 0))")
    sql = "INSERT INTO t VALUES (?)"
    for _ in range(3):
        with pytest.raises(sqlite.IntegrityError):
            connection.execute(sql, (-1,))
        connection.execute(sql, (1,))
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (3,)


# ---- executemany


def test_many_from_a_generator_that_uses_the_connection(connection):
    connection.execute("CREATE TABLE t (a)")

    def rows():
        for i in range(5):
            (count,) = connection.execute("SELECT count(*) FROM t").fetchone()
            assert count == i
            yield (count,)

    cursor = connection.executemany("INSERT INTO t VALUES (?)", rows())
    assert cursor.rowcount == 5
    assert connection.execute("SELECT a FROM t").fetchall() == [(i,) for i in range(5)]


@TWIN
def test_many_from_a_generator_that_reads_what_is_written(twin):
    twin.execute("CREATE TABLE t (a)")
    twin.executemany("INSERT INTO t VALUES (?)", [(1,), (2,)])
    rows = ((a + 2,) for (a,) in twin.execute("SELECT a FROM t WHERE a < 50"))
    twin.executemany("INSERT INTO t VALUES (?)", rows)
    assert twin.execute("SELECT max(a) FROM t").fetchone() == (51,)


def test_many_stops_at_an_error_and_keeps_what_it_did(connection):
    connection.execute("CREATE TABLE t (a PRIMARY KEY)")
    with pytest.raises(sqlite.IntegrityError):
        connection.executemany("INSERT INTO t VALUES (?)", [(1,), (2,), (1,), (3,)])
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (2,)
    assert connection.in_transaction

    def rows():
        yield (8,)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        connection.executemany("INSERT INTO t VALUES (?)", rows())
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (3,)


def test_many_of_a_list_that_changes_meanwhile(connection):
    connection.execute("CREATE TABLE t (a)")
    rows = []

    class Item:
        def __conform__(self, _protocol):
            rows.append((len(rows),)) if len(rows) < 5 else None
            return -1

    rows.append((Item(),))
    connection.executemany("INSERT INTO t VALUES (?)", rows)
    assert connection.execute("SELECT a FROM t").fetchall() == [(-1,), (1,)]


def test_many_takes_names_too(connection):
    connection.execute("CREATE TABLE t (a, b)")
    connection.executemany("INSERT INTO t VALUES (:a, :b)", ({"a": i, "b": str(i)} for i in range(3)))
    assert connection.execute("SELECT * FROM t").fetchall() == [(0, "0"), (1, "1"), (2, "2")]
    with pytest.raises(sqlite.ProgrammingError, match="DML"):
        connection.executemany("SELECT ?", [(1,)])


# ---- what a result says about itself


@TWIN
def test_description(twin):
    assert twin.cursor().description is None
    cursor = twin.execute('SELECT 1 AS a, 2 AS "b [x]", 3')
    assert cursor.description == tuple((name, None, None, None, None, None, None) for name in ("a", "b [x]", "3"))
    assert twin.execute("CREATE TABLE t (a)").description is None
    assert names(twin.execute("INSERT INTO t VALUES (1) RETURNING a AS b")) == ["b"]
    assert names(twin.execute("SELECT a FROM t WHERE 0")) == ["a"]
    assert names(twin.execute("EXPLAIN SELECT 1"))[:2] == ["addr", "opcode"]
    assert twin.execute("PRAGMA user_version = 1").description is None


@TWIN
def test_lastrowid(twin):
    cursor = twin.cursor()
    assert cursor.lastrowid is None
    twin.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b UNIQUE)")
    assert cursor.execute("INSERT INTO t VALUES (7, 'x')").lastrowid == 7
    cursor.execute("UPDATE t SET b = 'y'")
    assert cursor.lastrowid == 7
    cursor.executemany("INSERT INTO t (b) VALUES (?)", [("1",), ("2",)])
    assert cursor.lastrowid == 7
    with pytest.raises(sqlite3.IntegrityError):
        cursor.execute("INSERT INTO t VALUES (9, 'y')")
    assert cursor.lastrowid == 7
    assert cursor.execute("REPLACE INTO t VALUES (12, 'y')").lastrowid == 12


@TWIN
def test_rowcount_of_returning(twin):
    twin.execute("CREATE TABLE t (a)")
    cursor = twin.execute("INSERT INTO t VALUES (1), (2) RETURNING a")
    assert cursor.fetchall() == [(1,), (2,)]
    if type(twin) is sqlite.Connection or sys.version_info >= (3, 10):
        assert cursor.rowcount == 2


def test_fetchmany_and_arraysize(connection):
    cursor = connection.execute("SELECT value FROM json_each('[1, 2, 3, 4, 5]')")
    assert cursor.arraysize == 1
    assert cursor.fetchmany() == [(1,)]
    cursor.arraysize = 2
    assert cursor.fetchmany() == [(2,), (3,)]
    assert cursor.fetchmany(size=10) == [(4,), (5,)]
    assert cursor.fetchmany(3) == []
    with pytest.raises(TypeError):
        cursor.fetchmany("two")


# ---- converters


def test_converters_by_declared_type_and_by_name():
    sqlite.register_converter("point", lambda text: tuple(map(int, text.split(b";"))))
    connection = sqlite.connect(":memory:", detect_types=sqlite.PARSE_DECLTYPES | sqlite.PARSE_COLNAMES)
    connection.execute("CREATE TABLE t (p POINT(2), q)")
    connection.execute("INSERT INTO t VALUES ('1;2', '3;4'), (NULL, NULL)")
    cursor = connection.execute('SELECT p, q AS "q [point]", q FROM t')
    assert names(cursor) == ["p", "q", "q"]
    assert cursor.fetchall() == [((1, 2), (3, 4), "3;4"), (None, None, None)]
    # The values of a statement that has run before, with other detection.
    del sqlite.converters["POINT"]
    assert connection.execute("SELECT p FROM t").fetchone() == ("1;2",)
    connection.close()


def test_a_converter_that_fails_leaves_the_row(connection):
    sqlite.register_converter("failing", lambda _text: 1 / 0)
    made = sqlite.connect(":memory:", detect_types=sqlite.PARSE_COLNAMES)
    cursor = made.execute('SELECT 1 AS "a [failing]"')
    with pytest.raises(ZeroDivisionError):
        cursor.fetchone()
    del sqlite.converters["FAILING"]
    made.close()


# ---- life


def test_a_result_ends_when_the_cursor_goes_on(connection):
    cursor = connection.execute("SELECT 1 UNION SELECT 2")
    assert cursor.fetchone() == (1,)
    cursor.execute("SELECT 3")
    assert cursor.fetchall() == [(3,)]
    with pytest.raises(sqlite.OperationalError):
        cursor.execute("SELECT * FROM nowhere")
    assert cursor.fetchall() == []
    assert cursor.description is None


def test_rows_written_meanwhile_do_not_end_a_result(connection):
    connection.execute("CREATE TABLE t (a)")
    connection.executemany("INSERT INTO t VALUES (?)", [(i,) for i in range(10)])
    cursor = connection.execute("SELECT a FROM t ORDER BY a")
    for (a,) in cursor:
        connection.execute("UPDATE t SET a = a + 100 WHERE a = ?", (a,))
        connection.commit()
        if a > 5:
            break
    assert len(cursor.fetchall()) >= 3


def test_a_closed_cursor_stays_closed(connection):
    cursor = connection.execute("SELECT 1")
    cursor.close()
    cursor.close()
    for use in (
        cursor.fetchone,
        cursor.fetchall,
        cursor.fetchmany,
        lambda: next(cursor),
        lambda: cursor.execute("SELECT 1"),
    ):
        with pytest.raises(sqlite.ProgrammingError, match="closed cursor"):
            use()


def test_a_cursor_outlives_its_connection(connection):
    cursor = connection.execute("SELECT 1 UNION SELECT 2")
    cursor.fetchone()
    connection.close()
    run = functools.partial(cursor.execute, "SELECT 1")
    for use in (cursor.fetchone, cursor.fetchall, cursor.close, run):
        with pytest.raises(sqlite.ProgrammingError, match="closed database"):
            use()
    assert names(cursor) == ["1"]
    del cursor, run, use


def test_dml_takes_effect_without_fetching(connection):
    connection.execute("CREATE TABLE t (a)")
    cursor = connection.execute("INSERT INTO t VALUES (1), (2), (3) RETURNING a")
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (3,)
    cursor.close()
    connection.commit()
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (3,)


def test_required_by_pep_249(connection):
    cursor = connection.cursor()
    assert cursor.connection is connection
    assert cursor.setinputsizes([1]) is None
    assert cursor.setoutputsize(1) is None
    assert cursor.setoutputsize(1, 2) is None
    assert iter(cursor) is cursor
