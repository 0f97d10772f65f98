"""Rows: names, factories, and what tuples and `Row` have in common."""

from __future__ import annotations

import copy
import pickle
import sqlite3

import pytest

import upshift.sqlite as sqlite


@pytest.fixture
def connection():
    made = sqlite.connect(":memory:")
    yield made
    made.close()


def row_of(connection, sql, factory=sqlite.Row):
    connection.row_factory = factory
    return connection.execute(sql).fetchone()


@pytest.mark.parametrize("factory", [sqlite.Row, sqlite3.Row], ids=["upshift", "stdlib"])
def test_the_standard_librarys_row_means_ours(connection, factory):
    row = row_of(connection, "SELECT 1 AS a, 'x' AS B", factory)
    assert connection.row_factory is factory
    assert type(row) is sqlite.Row
    assert isinstance(row, sqlite3.Row)
    assert (row["a"], row["A"], row["b"], row[0], row[-1]) == (1, 1, "x", 1, "x")
    cursor = connection.cursor()
    assert cursor.row_factory is factory
    cursor.row_factory = None
    assert cursor.execute("SELECT 1").fetchone() == (1,)


def test_a_subclass_of_the_standard_librarys_row_is_refused_and_says_what_to_do(connection):
    class Theirs(sqlite3.Row):
        pass

    class Ours(sqlite.Row):
        pass

    for owner in (connection, connection.cursor()):
        with pytest.raises(TypeError, match=r"derive it from upshift\.sqlite\.Row"):
            owner.row_factory = Theirs
    row = row_of(connection, "SELECT 1 AS a", Ours)
    assert type(row) is Ours
    assert row["a"] == 1


def test_is_a_sequence_with_names(connection):
    row = row_of(connection, "SELECT 1 AS a, 2 AS b, 3 AS a")
    assert row.keys() == ["a", "b", "a"]
    assert tuple(row) == (1, 2, 3)
    assert dict(row) == {"a": 1, "b": 2}
    assert row["a"] == 1
    assert (len(row), list(reversed(row)), 2 in row, 9 in row) == (3, [3, 2, 1], True, False)
    assert (row[1:], row[::-1], row[5:]) == ((2, 3), (3, 2, 1), ())
    a, b, c = row
    assert [a, b, c] == [1, 2, 3]
    assert max(row) == 3


def test_only_ascii_letters_have_a_case(connection):
    row = row_of(connection, 'SELECT 1 AS "Größe", 2 AS "ß"')
    assert row["gRößE"] == 1
    with pytest.raises(IndexError, match="No item with that key"):
        row["GRÖSSE"]
    with pytest.raises(IndexError):
        row["SS"]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("c", "No item with that key"),
        (5, "tuple index out of range"),
        (-3, "tuple index out of range"),
        (2**70, "cannot fit 'int'"),
        (1.0, "Index must be int or string"),
        (None, "Index must be int or string"),
    ],
)
def test_wrong_keys(connection, key, message):
    row = row_of(connection, "SELECT 1 AS a, 2 AS b")
    with pytest.raises(IndexError, match=message):
        row[key]


def test_equal_with_equal_names_and_values(connection):
    first, same = row_of(connection, "SELECT 1 AS a"), row_of(connection, "SELECT 1 AS a")
    other_name, other_value = row_of(connection, "SELECT 1 AS b"), row_of(connection, "SELECT 2 AS a")
    assert first == same
    assert hash(first) == hash(same)
    assert first != other_name
    assert first != other_value
    assert first != (1,)
    assert {first, same, other_name} == {first, other_name}
    with pytest.raises(TypeError):
        first < same  # noqa: B015


def test_is_not_pickled_nor_copied(connection):
    row = row_of(connection, "SELECT 1")
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot pickle"):
            way(row)


def test_made_by_hand(connection):
    cursor = connection.execute("SELECT 1 AS a")
    assert sqlite.Row(cursor, (7,))["a"] == 7
    with pytest.raises(TypeError):
        sqlite.Row(cursor, [7])
    with pytest.raises(TypeError):
        sqlite.Row(None, (7,))
    # A row has the names of its cursor at the time.
    cursor.execute("CREATE TABLE t (a)")
    assert sqlite.Row(cursor, (7,)).keys() == []


def test_keeps_its_names_when_the_cursor_goes_on(connection):
    connection.row_factory = sqlite.Row
    cursor = connection.execute("SELECT 1 AS a UNION SELECT 2")
    row = cursor.fetchone()
    cursor.execute("SELECT 1 AS b")
    assert row.keys() == ["a"]
    connection.close()
    assert row["a"] == 1


def test_other_factories_get_the_cursor_and_a_tuple(connection):
    seen = []

    def factory(cursor, row):
        seen.append((cursor, row))
        return {name[0]: value for name, value in zip(cursor.description, row)}

    connection.row_factory = factory
    cursor = connection.execute("SELECT 1 AS a, 2 AS b UNION SELECT 3, 4")
    assert cursor.fetchall() == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    assert seen == [(cursor, (1, 2)), (cursor, (3, 4))]
    connection.row_factory = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        connection.execute("SELECT 1").fetchone()


def test_a_cursor_has_the_factory_of_its_beginning(connection):
    cursor = connection.cursor()
    connection.row_factory = sqlite.Row
    assert type(cursor.execute("SELECT 1").fetchone()) is tuple
    assert type(connection.cursor().execute("SELECT 1").fetchone()) is sqlite.Row


@pytest.mark.parametrize("fetch", ["fetchone", "fetchall", "fetchmany", "iterate"])
def test_every_way_of_fetching_gives_the_same_rows(connection, fetch):
    connection.row_factory = sqlite.Row
    cursor = connection.execute("SELECT value AS v FROM json_each('[1, 2, 3]')")
    if fetch == "fetchone":
        rows = list(iter(cursor.fetchone, None))
    elif fetch == "fetchmany":
        rows = cursor.fetchmany(2) + cursor.fetchmany(2)
    else:
        rows = cursor.fetchall() if fetch == "fetchall" else list(cursor)
    assert [(type(row), row["v"]) for row in rows] == [(sqlite.Row, 1), (sqlite.Row, 2), (sqlite.Row, 3)]


def test_rows_of_returning(connection):
    connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
    connection.row_factory = sqlite.Row
    row = connection.execute("INSERT INTO t (b) VALUES ('x') RETURNING a AS key, b").fetchone()
    assert (row["key"], row["b"]) == (1, "x")


# ---- text_factory


def test_text_factories(connection):
    sql = "SELECT 'ä'"
    assert connection.execute(sql).fetchone() == ("ä",)
    assert connection.text_factory is str
    for factory, value in (
        (bytes, "ä".encode()),
        (bytearray, bytearray("ä".encode())),
        (lambda text: text.decode() + "!", "ä!"),
    ):
        connection.text_factory = factory
        assert connection.text_factory is factory
        found = connection.execute(sql).fetchone()[0]
        assert (found, type(found)) == (value, type(value))


def test_bytes_that_are_no_text(connection):
    with pytest.raises(sqlite.OperationalError, match=r"Could not decode to UTF-8 column 'a' with text"):
        connection.execute("SELECT CAST(x'ff' AS TEXT) AS a").fetchone()
    connection.text_factory = lambda text: text.decode(errors="replace")
    assert connection.execute("SELECT CAST(x'ff' AS TEXT)").fetchone() == ("\N{REPLACEMENT CHARACTER}",)


def test_a_row_that_cannot_be_decoded_does_not_end_the_result(connection):
    """As ever: the next call meets the row again."""
    cursor = connection.execute("SELECT 'a' UNION ALL SELECT CAST(x'ff' AS TEXT) UNION ALL SELECT 'b'")
    assert cursor.fetchone() == ("a",)
    with pytest.raises(sqlite.OperationalError):
        cursor.fetchone()
