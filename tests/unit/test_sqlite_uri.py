"""`ConnectionPool(uri=True)`, and names of databases that are none."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

import pytest

from upshift.sqlite import ConnectionPool


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "named.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.commit()
    return path


def count(pool):
    with pool.connection() as connection:
        return connection.execute("SELECT count(*) FROM t").fetchone()[0]


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_for_reading_only(path, mode):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
    with ConnectionPool(f"file:{path}?mode=ro", uri=True) as pool:
        assert pool.last_error is None
        assert pool.get_stats()["current_size"] == 2
        assert count(pool) == 1
        with pool.connection() as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone()[0] == mode
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                connection.execute("INSERT INTO t VALUES (2)")
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            pool.write("INSERT INTO t VALUES (2)")
        assert pool.db_path == f"file:{path}?mode=ro"


def test_the_file_must_exist(tmp_path):
    for mode in ("ro", "rw"):
        with ConnectionPool(f"file:{tmp_path / 'none.db'}?mode={mode}", uri=True, min_size=1) as pool:
            assert isinstance(pool.last_error, sqlite3.OperationalError)
    assert os.listdir(tmp_path) == []


def test_a_relative_uri_stays_where_it_was(path, tmp_path, monkeypatch):
    folder = tmp_path / "100 % odd? #1"
    folder.mkdir()
    os.rename(path, folder / "a b.db")
    monkeypatch.chdir(folder)
    with ConnectionPool("file:a%20b.db?mode=rw#mark", min_size=0, uri=1) as pool:
        monkeypatch.chdir(tmp_path)
        assert count(pool) == 1
        pool.write("INSERT INTO t VALUES (2)")
        assert count(pool) == 2
    assert sorted(os.listdir(folder)) == ["a b.db"]


@pytest.mark.parametrize("form", ["file:{}", "file://{}", "file://localhost{}", "{}"])
def test_forms_of_one_name(path, form):
    with ConnectionPool(form.format(path), uri=True) as pool:
        assert count(pool) == 1


def test_without_the_flag_it_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ConnectionPool("file:x.db?mode=ro", min_size=1) as pool:
        assert pool.last_error is None
        assert "file:x.db?mode=ro" in os.listdir(tmp_path)


@pytest.mark.parametrize(
    "uri", ["file::memory:", "file:", "file:a?mode=memory", "file:/a?vfs=memdb", "file:a?cache=shared&mode=memory"]
)
def test_a_uri_of_no_file_is_refused(uri):
    with pytest.raises(ValueError, match="db_path must be the URI of a file"):
        ConnectionPool(uri, uri=True)


@pytest.mark.parametrize("name", ["", b""])
def test_an_empty_name_is_refused(name):
    with pytest.raises(ValueError, match="db_path must be a path"):
        ConnectionPool(name)


def test_the_memory_of_a_pool_needs_no_uri():
    with ConnectionPool(":memory:", uri=True) as pool:
        pool.write("CREATE TABLE t (x)")
        assert count(pool) == 0
