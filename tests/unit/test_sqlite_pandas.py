"""pandas on `upshift.sqlite`: raw connections, those of a pool, and through SQLAlchemy; the same as on `sqlite3`."""

from __future__ import annotations

import datetime as dt
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from pandas.testing import assert_frame_equal

import upshift.sqlite

# Since Python 3.12 the default adapters of dates warn; pandas registers its own for times only.
pytestmark = pytest.mark.filterwarnings("ignore:The default .* is deprecated as of Python 3.12:DeprecationWarning")

KINDS = ["standard library", "raw", "pool", "wrapper", "alchemy"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "frames.db"


@contextmanager
def opened(kind, path):
    """What pandas takes as `con`, of one kind."""
    if kind == "standard library":
        with closing(sqlite3.connect(path)) as connection:
            yield connection
    elif kind == "raw":
        with closing(upshift.sqlite.connect(path)) as connection:
            yield connection
    elif kind in ("pool", "wrapper"):
        pool = upshift.sqlite.ConnectionPool(path, min_size=0)
        with pool.connection() as connection:
            connection.row_factory = None
            yield connection if kind == "wrapper" else connection.conn
        pool.close_all()
    else:
        engine = sa.create_engine(f"sqlite:///{path}", module=upshift.sqlite)
        yield engine
        engine.dispose()


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def con(kind, path):
    with opened(kind, path) as connection:
        yield connection


@pytest.fixture
def frame():
    return pd.DataFrame(
        {
            "i": np.arange(5, dtype="int64"),
            "big": np.array([2**62, -(2**63), 0, 1, 2**63 - 1], dtype="int64"),
            "f": [0.5, float("nan"), -1.25, 1e300, 0.0],
            "s": ["a", None, "ü", "", "\U0001f600"],
            "flag": [True, False, True, True, False],
            "b": [b"\0\xff", b"", None, b"x" * 1000, b"y"],
        }
    )


def test_round_trip(con, frame):
    assert frame.to_sql("t", con, index=False) == 5
    found = pd.read_sql("SELECT * FROM t", con)
    assert list(found.columns) == list(frame.columns)
    for name in ("i", "big", "f"):
        pd.testing.assert_series_equal(found[name], frame[name])
    assert [None if pd.isna(value) else value for value in found["s"]] == ["a", None, "ü", "", "\U0001f600"]
    assert found["flag"].tolist() == [1, 0, 1, 1, 0]
    assert [None if value is None else bytes(value) for value in found["b"]] == frame["b"].tolist()


def test_what_pandas_reads_does_not_depend_on_the_module(con, path, frame):
    frame.to_sql("t", con, index=True, index_label="row")
    sql = "SELECT *, i * 1.5 AS computed, NULL AS void, 'x' || s AS text FROM t WHERE row > ?"
    if isinstance(con, sa.Engine):
        found = pd.read_sql(sql.replace("?", "1"), con)
    else:
        found = pd.read_sql(sql, con, params=(1,))
    with closing(sqlite3.connect(path)) as connection:
        assert_frame_equal(found, pd.read_sql(sql, connection, params=(1,)))
    assert len(found) == 3


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "alchemy"], indirect=True)
def test_the_stored_rows_do_not_depend_on_the_module(con, path, frame, tmp_path):
    frame.to_sql("t", con)
    rows = pd.read_sql("SELECT sql FROM sqlite_master", con)["sql"].tolist(), list(con.execute("SELECT * FROM t"))
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        frame.to_sql("t", other)
        expected = other.execute("SELECT * FROM t").fetchall()
        assert rows[0] == [sql for (sql,) in other.execute("SELECT sql FROM sqlite_master")]
    assert repr([tuple(row) for row in rows[1]]) == repr(expected)  # repr: NaN is not equal to itself


@pytest.mark.parametrize("method", [None, "multi"])
@pytest.mark.parametrize("chunksize", [None, 7])
def test_many_rows(con, method, chunksize):
    frame = pd.DataFrame({"x": np.arange(100), "y": np.linspace(0, 1, 100)})
    frame.to_sql("t", con, index=False, method=method, chunksize=chunksize)
    assert_frame_equal(pd.read_sql("SELECT * FROM t ORDER BY x", con), frame)
    parts = list(pd.read_sql("SELECT * FROM t ORDER BY x", con, chunksize=30))
    assert [len(part) for part in parts] == [30, 30, 30, 10]
    assert_frame_equal(pd.concat(parts, ignore_index=True), frame)


def test_if_exists(con):
    frame = pd.DataFrame({"x": [1, 2]})
    frame.to_sql("t", con, index=False)
    with pytest.raises(ValueError, match="exists"):
        frame.to_sql("t", con, index=False)
    frame.to_sql("t", con, index=False, if_exists="append")
    assert pd.read_sql("SELECT x FROM t", con)["x"].tolist() == [1, 2, 1, 2]
    frame.to_sql("t", con, index=False, if_exists="replace")
    assert pd.read_sql("SELECT x FROM t", con)["x"].tolist() == [1, 2]


def test_dates(con):
    frame = pd.DataFrame(
        {
            "at": pd.to_datetime(["2024-02-29 12:30:00.123456", None, "1999-12-31 00:00:00.000001"]),
            "day": [dt.date(2024, 2, 29), None, dt.date(1, 1, 1)],
            "time": [dt.time(1, 2, 3), dt.time(4, 5, 6, 7), None],
        }
    )
    frame.to_sql("t", con, index=False)
    found = pd.read_sql("SELECT * FROM t", con, parse_dates=["at"])
    assert found["at"].dt.strftime("%F %T.%f").tolist()[0] == "2024-02-29 12:30:00.123456"
    assert pd.isna(found["at"][1])
    assert found["day"].astype(str).tolist()[0] == "2024-02-29"
    assert found["time"].astype(str).tolist()[0][:8] == "01:02:03"


def test_index_and_params(con, kind):
    frame = pd.DataFrame({"x": [1, 2, 3]}, index=pd.Index(["a", "b", "c"], name="key"))
    frame.to_sql("t", con)
    assert_frame_equal(pd.read_sql("SELECT * FROM t", con, index_col="key"), frame)
    if kind == "alchemy":
        found = pd.read_sql(sa.text("SELECT x FROM t WHERE key = :k"), con, params={"k": "b"})
    else:
        found = pd.read_sql("SELECT x FROM t WHERE key = :k", con, params={"k": "b"})
    assert found["x"].tolist() == [2]


def test_empty_results(con):
    pd.DataFrame({"x": [1], "s": ["a"]}).to_sql("t", con, index=False)
    found = pd.read_sql("SELECT * FROM t WHERE 0", con)
    assert (list(found.columns), len(found)) == (["x", "s"], 0)


def test_column_types(con, kind):
    kinds = {"x": sa.Integer(), "s": sa.String(10)} if kind == "alchemy" else {"x": "INTEGER", "s": "VARCHAR(10)"}
    pd.DataFrame({"x": [1], "s": ["a"]}).to_sql("t", con, index=False, dtype=kinds)
    sql = pd.read_sql("SELECT sql FROM sqlite_master", con)["sql"][0]
    assert "INTEGER" in sql
    assert "VARCHAR(10)" in sql


def test_errors(con, kind):
    with pytest.raises((pd.errors.DatabaseError, sa.exc.OperationalError), match="no such table"):
        pd.read_sql("SELECT * FROM absent", con)
    pd.DataFrame({"x": [1]}).to_sql("t", con, index=False)
    assert pd.read_sql("SELECT x FROM t", con)["x"].tolist() == [1]


# In a connection of a pool each statement commits by itself; with an engine pandas commits what it wrote so far.
@pytest.mark.parametrize("kind", ["standard library", "raw"], indirect=True)
def test_a_failed_write_leaves_nothing(con):
    frame = pd.DataFrame({"x": [1, 2, None]})
    con.execute("CREATE TABLE t (x NOT NULL)")
    con.commit()
    with pytest.raises((sqlite3.IntegrityError, pd.errors.DatabaseError)):
        frame.to_sql("t", con, index=False, if_exists="append")
    assert len(pd.read_sql("SELECT * FROM t", con)) == 0


@pytest.mark.parametrize("kind", ["raw", "pool"], indirect=True)
def test_pandas_takes_it_for_a_connection_of_the_standard_library(con, recwarn):
    """For anything else it warns, and later versions refuse."""
    pd.DataFrame({"x": [1]}).to_sql("t", con, index=False)
    pd.read_sql("SELECT * FROM t", con)
    assert [str(warning.message) for warning in recwarn if "SQLAlchemy" in str(warning.message)] == []


@pytest.mark.parametrize("kind", ["alchemy"], indirect=True)
def test_tables_by_name(con, frame):
    frame[["i", "s"]].to_sql("t", con, index=False)
    found = pd.read_sql_table("t", con, columns=["i"])
    assert found["i"].tolist() == [0, 1, 2, 3, 4]
    assert pd.read_sql("t", con).shape == (5, 2)


def test_no_pandas_no_numpy_needed_to_import():
    """The module itself asks for none of the libraries above."""
    code = "import sys, upshift.sqlite; print({'numpy', 'pandas', 'pyarrow', 'sqlalchemy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
