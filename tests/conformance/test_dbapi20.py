"""PEP 249, point by point, against `upshift.sqlite`; against the standard library to prove the tests themselves."""

from __future__ import annotations

import datetime as dt
import importlib
import math
import sqlite3
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import Task, together

EXCEPTIONS = {
    "Warning": "Exception",
    "Error": "Exception",
    "InterfaceError": "Error",
    "DatabaseError": "Error",
    "DataError": "DatabaseError",
    "OperationalError": "DatabaseError",
    "IntegrityError": "DatabaseError",
    "InternalError": "DatabaseError",
    "ProgrammingError": "DatabaseError",
    "NotSupportedError": "DatabaseError",
}
DRINKS = ["Boag's", "Carlton Cold", "Coopers Bitter", "Coopers Extra", "Victoria Bitter", "XXXX"]


@pytest.fixture(params=["sqlite3", "upshift.sqlite"])
def db(request):
    """The module under test."""
    if request.param != "sqlite3":
        pytest.importorskip("upshift.sqlite")
    return importlib.import_module(request.param)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "dbapi.db")


@pytest.fixture
def connect(db, path):
    """Opens connections to one file and closes them at the end."""
    opened = []

    def make(**options):
        connection = db.connect(path, **options)
        opened.append(connection)
        return connection

    yield make
    for connection in opened:
        connection.close()


@pytest.fixture
def con(connect):
    return connect()


@pytest.fixture
def cur(con):
    cursor = con.cursor()
    cursor.execute("CREATE TABLE booze (name TEXT UNIQUE)")
    return cursor


@pytest.fixture
def full(cur):
    """A cursor whose table holds six names."""
    cur.executemany("INSERT INTO booze VALUES (?)", [(name,) for name in DRINKS])
    return cur


# --- the module


def test_globals(db):
    assert db.apilevel == "2.0"
    assert db.paramstyle == "qmark"
    if db is not sqlite3 or sys.version_info >= (3, 11):  # before, the standard library says 1 whatever was compiled
        assert db.threadsafety == 3


@pytest.mark.parametrize(("name", "parent"), EXCEPTIONS.items())
def test_exceptions(db, name, parent):
    found = getattr(db, name)
    assert found.__bases__ == (getattr(db, parent, None) or Exception,)
    assert found is getattr(sqlite3, name)


def test_exceptions_are_attributes_of_connections(db, con):
    for name in EXCEPTIONS:
        assert getattr(con, name) is getattr(db, name)


def test_constructors(db):
    assert db.Date(2002, 12, 25) == dt.date(2002, 12, 25)
    assert db.Time(13, 45, 30) == dt.time(13, 45, 30)
    assert db.Timestamp(2002, 12, 25, 13, 45, 30) == dt.datetime(2002, 12, 25, 13, 45, 30)
    ticks = time.mktime((2002, 12, 25, 13, 45, 30, 0, 0, 0))
    assert db.DateFromTicks(ticks) == dt.date(2002, 12, 25)
    assert db.TimeFromTicks(ticks) == dt.time(13, 45, 30)
    assert db.TimestampFromTicks(ticks) == dt.datetime(2002, 12, 25, 13, 45, 30)
    assert bytes(db.Binary(b"a\0b")) == b"a\0b"


# --- connections


def test_connections_have_the_four_methods(con):
    assert con.commit() is None
    assert con.rollback() is None
    assert con.cursor().connection is con
    assert con.close() is None


def test_commit_makes_changes_visible_to_others(connect):
    one, other = connect(), connect()
    one.execute("CREATE TABLE t (x)")
    one.execute("INSERT INTO t VALUES (1)")
    assert other.execute("SELECT count(*) FROM t").fetchone() == (0,)
    one.commit()
    assert other.execute("SELECT count(*) FROM t").fetchone() == (1,)


def test_rollback_undoes(con, full):
    con.commit()
    full.execute("DELETE FROM booze")
    con.rollback()
    assert full.execute("SELECT count(*) FROM booze").fetchone() == (6,)


def test_close_without_commit_rolls_back(db, path):
    with closing(db.connect(path)) as con:
        con.execute("CREATE TABLE t (x)")
        con.execute("INSERT INTO t VALUES (1)")
    with closing(db.connect(path)) as con:
        assert con.execute("SELECT * FROM t").fetchall() == []


USES = {
    "cursor": lambda con: con.cursor(),
    "commit": lambda con: con.commit(),
    "rollback": lambda con: con.rollback(),
    "execute": lambda con: con.execute("SELECT 1"),
    "executemany": lambda con: con.executemany("SELECT ?", [(1,)]),
    "executescript": lambda con: con.executescript("SELECT 1"),
    "call": lambda con: con("SELECT 1"),
    "total_changes": lambda con: con.total_changes,
    "in_transaction": lambda con: con.in_transaction,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_closed_connection_refuses(db, con, use):
    con.close()
    con.close()
    with pytest.raises(db.ProgrammingError, match="closed"):
        use(con)


def test_cursors_of_a_closed_connection_refuse(db, con, full):
    full.execute("SELECT * FROM booze")
    con.close()
    for use in (full.fetchone, full.fetchmany, full.fetchall, full.__next__, lambda: full.execute("SELECT 1")):
        with pytest.raises(db.ProgrammingError):
            use()


def test_cursors_of_one_connection_see_each_other(con, full):
    other = con.cursor()
    other.execute("SELECT name FROM booze ORDER BY name")
    assert [name for (name,) in other.fetchall()] == DRINKS
    other.execute("DELETE FROM booze WHERE name LIKE 'Coopers%'")
    assert full.execute("SELECT count(*) FROM booze").fetchone() == (4,)


def test_the_context_manager_commits_or_rolls_back(con, cur):
    with con as entered:
        assert entered is con
        cur.execute("INSERT INTO booze VALUES ('kept')")
    assert not con.in_transaction
    with suppress(ZeroDivisionError):
        with con:
            cur.execute("INSERT INTO booze VALUES ('lost')")
            raise ZeroDivisionError
        pytest.fail("swallowed")
    assert not con.in_transaction
    assert cur.execute("SELECT name FROM booze").fetchall() == [("kept",)]


# --- cursors: attributes


def test_description(cur):
    assert cur.description is None
    cur.execute("INSERT INTO booze VALUES ('a')")
    assert cur.description is None
    cur.execute("SELECT name, 1 AS one, 2 FROM booze")
    assert len(cur.description) == 3
    assert [column[0] for column in cur.description] == ["name", "one", "2"]
    assert all(type(column) is tuple and len(column) == 7 for column in cur.description)
    assert all(column[1:] == (None,) * 6 for column in cur.description)
    cur.fetchall()
    assert [column[0] for column in cur.description] == ["name", "one", "2"]
    cur.execute("SELECT name AS empty FROM booze WHERE 0")
    assert [column[0] for column in cur.description] == ["empty"]
    cur.execute("DROP TABLE booze")
    assert cur.description is None


def test_rowcount(con, cur):
    assert con.cursor().rowcount == -1
    cur.executemany("INSERT INTO booze VALUES (?)", ((name,) for name in DRINKS))
    assert cur.rowcount == 6
    cur.execute("UPDATE booze SET name = name || '!' WHERE name LIKE 'Coopers%'")
    assert cur.rowcount == 2
    cur.execute("DELETE FROM booze WHERE 0")
    assert cur.rowcount == 0
    cur.execute("DELETE FROM booze")
    assert cur.rowcount == 6
    cur.execute("SELECT 1")
    assert cur.rowcount == -1


def test_lastrowid(cur):
    for expected in (1, 2):
        cur.execute("INSERT INTO booze VALUES (?)", (f"drink {expected}",))
        assert cur.lastrowid == expected
    cur.execute("SELECT 1")
    assert cur.lastrowid == 2


def test_arraysize(full):
    assert full.arraysize == 1
    full.execute("SELECT name FROM booze")
    assert len(full.fetchmany()) == 1
    full.arraysize = 4
    assert len(full.fetchmany()) == 4
    assert len(full.fetchmany()) == 1
    assert full.arraysize == 4


def test_the_cursor_knows_its_connection(con, cur):
    assert cur.connection is con
    with pytest.raises((AttributeError, TypeError)):
        cur.connection = None


# --- cursors: methods


def test_a_closed_cursor_refuses(db, cur):
    assert cur.close() is None
    cur.close()
    uses = [
        *(cur.fetchone, cur.fetchmany, cur.fetchall, cur.__next__),
        *(lambda: cur.execute("SELECT 1"), lambda: cur.executemany("SELECT ?", []), lambda: cur.executescript("")),
    ]
    for use in uses:
        with pytest.raises(db.ProgrammingError):
            use()


def test_execute_returns_the_cursor(cur):
    assert cur.execute("SELECT 1") is cur
    assert cur.executemany("INSERT INTO booze VALUES (?)", []) is cur
    assert cur.executescript("") is cur


def test_qmark_and_named_parameters(cur):
    cur.execute("INSERT INTO booze VALUES (?)", ("qmark",))
    cur.execute("INSERT INTO booze VALUES (?)", ["list"])
    cur.execute("INSERT INTO booze VALUES (:name)", {"name": "named"})
    cur.execute("INSERT INTO booze VALUES (@name)", {"name": "at"})
    cur.execute("INSERT INTO booze VALUES ($name)", {"name": "dollar", "more": 1})
    assert cur.execute("SELECT name FROM booze").fetchall() == [
        *(("qmark",), ("list",), ("named",), ("at",), ("dollar",))
    ]
    assert cur.execute("SELECT ?2, ?1", ("a", "b")).fetchone() == ("b", "a")


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        ("INSERT INTO booze VALUES (?)", ()),
        ("INSERT INTO booze VALUES (?)", ("a", "b")),
        ("INSERT INTO booze VALUES ('a')", ("b",)),
        ("INSERT INTO booze VALUES (:name)", {}),
        ("INSERT INTO booze VALUES (:name)", {"other": 1}),
    ],
)
def test_wrong_parameters(db, cur, sql, parameters):
    with pytest.raises(db.ProgrammingError):
        cur.execute(sql, parameters)
    assert cur.execute("SELECT * FROM booze").fetchall() == []


def test_executemany(cur):
    cur.executemany("INSERT INTO booze VALUES (?)", [("a",), ("b",)])
    cur.executemany("INSERT INTO booze VALUES (:n)", [{"n": "c"}, {"n": "d"}])
    cur.executemany("INSERT INTO booze VALUES (?)", iter([["e"]]))
    cur.executemany("INSERT INTO booze VALUES (?)", [])
    assert cur.execute("SELECT group_concat(name, '') FROM booze").fetchone() == ("abcde",)


def test_executemany_is_not_for_queries(db, cur):
    with pytest.raises(db.ProgrammingError):
        cur.executemany("SELECT ?", [(1,)])


def test_executemany_stops_at_the_first_error(db, con, cur):
    with pytest.raises(db.IntegrityError):
        cur.executemany("INSERT INTO booze VALUES (?)", [("a",), ("a",), ("b",)])
    assert con.in_transaction
    assert cur.execute("SELECT name FROM booze").fetchall() == [("a",)]


def test_one_statement_at_a_time(db, cur):
    with pytest.raises((db.ProgrammingError, db.Warning)):
        cur.execute("SELECT 1; SELECT 2")
    assert cur.execute("SELECT 1; -- nothing more").fetchone() == (1,)


def test_fetchone(con, full):
    with closing(con.cursor()) as fresh:
        assert fresh.fetchone() is None
    full.execute("SELECT name FROM booze ORDER BY name")
    for name in DRINKS:
        assert full.fetchone() == (name,)
    assert full.fetchone() is None
    assert full.fetchone() is None
    full.execute("DELETE FROM booze")
    assert full.fetchone() is None


def test_fetchmany(full):
    full.execute("SELECT name FROM booze ORDER BY name")
    assert full.fetchmany(4) == [(name,) for name in DRINKS[:4]]
    assert full.fetchmany(size=4) == [(name,) for name in DRINKS[4:]]
    assert full.fetchmany(4) == []
    assert full.fetchmany() == []
    full.execute("SELECT name FROM booze WHERE 0")
    assert full.fetchmany(4) == []


def test_fetchall(full):
    full.execute("SELECT name FROM booze ORDER BY name")
    assert full.fetchall() == [(name,) for name in DRINKS]
    assert full.fetchall() == []
    assert full.execute("SELECT name FROM booze WHERE 0").fetchall() == []


def test_mixed_fetches(full):
    full.execute("SELECT name FROM booze ORDER BY name")
    rows = [full.fetchone(), *full.fetchmany(2), next(full), *full.fetchmany(1), *full.fetchall()]
    assert rows == [(name,) for name in DRINKS]
    assert full.fetchone() is None


def test_iteration(full):
    full.execute("SELECT name FROM booze ORDER BY name")
    assert iter(full) is full
    assert [name for (name,) in full] == DRINKS
    with pytest.raises(StopIteration):
        next(full)


def test_a_cursor_used_again_forgets_its_rows(full):
    full.execute("SELECT name FROM booze")
    full.fetchone()
    full.execute("SELECT 'new'")
    assert full.fetchall() == [("new",)]


def test_sizes_are_accepted(cur):
    assert cur.setinputsizes((25,)) is None
    assert cur.setinputsizes([int, str]) is None
    assert cur.setoutputsize(1000) is None
    assert cur.setoutputsize(2000, 0) is None
    cur.execute("INSERT INTO booze VALUES (?)", ("x" * 100,))
    assert len(cur.execute("SELECT name FROM booze").fetchone()[0]) == 100


# --- values and errors


@pytest.mark.parametrize(
    "value",
    [
        *(None, 0, 1, -1, 127, 128, 255, 2**31, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63)),
        *(0.5, -0.0, 1e308, 5e-324, math.inf, -math.inf, 3.0),
        *("", "a", "ä", "\u20ac", "\U0001f600", "nul\0inside", "x" * 70_000, "ä" * 70_000),
        *(b"", b"\0", b"\xff" * 3, bytes(range(256)) * 300),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_round_trip(cur, value):
    (found,) = cur.execute("SELECT ?", (value,)).fetchone()
    assert found == value
    assert type(found) is type(value)
    assert math.copysign(1, found) == math.copysign(1, value) if isinstance(value, float) else True
    cur.execute("CREATE TABLE t (x)")
    cur.execute("INSERT INTO t VALUES (?)", (value,))
    assert cur.execute("SELECT x, typeof(x) FROM t").fetchall() == [(value, storage(value))]


def storage(value):
    names = {type(None): "null", int: "integer", float: "real", str: "text", bytes: "blob"}
    return names[type(value)]


def test_other_values(db, cur):
    def back(value):
        return cur.execute("SELECT ?", (value,)).fetchone()[0]

    assert (back(True), type(back(True))) == (1, int)
    assert back(math.nan) is None  # SQLite has no NaN
    for buffer in (bytearray(b"ab"), memoryview(b"ab"), db.Binary(b"ab")):
        assert (back(buffer), type(back(buffer))) == (b"ab", bytes)
    for number in (2**63, -(2**63) - 1, 10**30):
        with pytest.raises(OverflowError):
            back(number)
    with pytest.raises(UnicodeEncodeError):
        back("\ud800")
    with pytest.raises((db.ProgrammingError, db.InterfaceError)):  # the latter before Python 3.11
        back(object())


@pytest.mark.parametrize(
    ("sql", "error", "code"),
    [
        ("SELEC 1", "OperationalError", 1),
        ("SELECT * FROM nowhere", "OperationalError", 1),
        ("SELECT nothing FROM booze", "OperationalError", 1),
        ("INSERT INTO booze VALUES ('Boag''s')", "IntegrityError", 2067),
        ("INSERT INTO checked VALUES (0)", "IntegrityError", 275),
        ("INSERT INTO checked VALUES (NULL)", "IntegrityError", 1299),
        ("INSERT INTO strict VALUES (x'00')", "IntegrityError", 3091),
    ],
)
def test_errors(db, con, full, sql, error, code):
    full.execute("CREATE TABLE checked (x NOT NULL CHECK (x > 0))")
    full.execute("CREATE TABLE strict (x INTEGER) STRICT")
    with pytest.raises(getattr(db, error)) as caught:
        full.execute(sql)
    assert type(caught.value) is getattr(sqlite3, error)
    assert str(caught.value)
    if db is not sqlite3 or sys.version_info >= (3, 11):
        assert caught.value.sqlite_errorcode == code
        # The standard library knows no name for the newest codes.
        assert caught.value.sqlite_errorname.startswith("SQLITE_") or code == 3091
    # The connection is none the worse for it.
    assert full.execute("SELECT count(*) FROM booze").fetchone() == (6,)


# --- threads


def test_a_connection_keeps_to_its_thread(db, con, full):
    full.execute("SELECT name FROM booze")

    def use(action):
        with pytest.raises(db.ProgrammingError, match="thread"):
            action()

    actions = [con.cursor, con.commit, con.close, full.fetchone, full.close, lambda: con.execute("SELECT 1")]
    for action in actions:
        Task(use, action).result()
    assert len(full.fetchall()) == 6


def test_threads_may_share_the_module(db, tmp_path):  # threadsafety ≥ 1
    def work(index):
        with closing(db.connect(str(tmp_path / f"{index}.db"))) as con:
            con.execute("CREATE TABLE t (x)")
            con.executemany("INSERT INTO t VALUES (?)", ((i,) for i in range(500)))
            con.commit()
            return con.execute("SELECT sum(x) FROM t").fetchone()[0]

    assert together(work, 4) == [sum(range(500))] * 4


def test_threads_may_share_a_connection(db, connect):  # threadsafety ≥ 2
    con = connect(check_same_thread=False, isolation_level=None)
    con.execute("CREATE TABLE t (x)")

    def work(index):
        for i in range(200):
            con.execute("INSERT INTO t VALUES (?)", (index * 1000 + i,))
            assert con.execute("SELECT 1 + ?", (i,)).fetchone() == (i + 1,)

    together(work, 4)
    assert con.execute("SELECT count(DISTINCT x) FROM t").fetchone() == (800,)


def test_threads_may_share_a_cursor(db, connect):  # threadsafety 3
    if db is sqlite3:
        pytest.skip("platform: a cursor of the standard library is not meant to be shared while it runs")
    con = connect(check_same_thread=False)
    total = 5000
    cur = con.execute(
        f"WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n LIMIT {total}) SELECT x FROM n"
    )
    lock, seen = threading.Lock(), []

    def work(index):
        mine = []
        while True:
            rows = cur.fetchmany(7) if index % 2 else [row for row in [cur.fetchone()] if row]
            if not rows:
                break
            mine += [x for (x,) in rows]
        with lock:
            seen.extend(mine)

    together(work, 4)
    assert sorted(seen) == list(range(1, total + 1))
