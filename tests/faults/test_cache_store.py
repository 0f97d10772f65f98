"""Stores that are damaged, of another kind, unreachable, or vanish: the cache goes on in memory and never raises."""

from __future__ import annotations

import logging
import os
import random
import sqlite3
from contextlib import closing

import pytest
from harness import run_literal

from upshift import ResultCache


def exercise(cache):
    """Every method, none of which may raise whatever the store is like."""
    cache.set("new", [1], tags=["t", "u"])
    assert cache.get("new") == [1]
    cache.get("k1")
    cache.get("absent")
    assert "new" in cache
    cache.warmup({f"w{i}": i for i in range(20)})
    assert cache.get("w19") == 19
    assert cache.cached()(lambda x: x * 2)(2) == 4
    assert cache.delete("w0") is True
    cache.delete("k2")
    assert cache.invalidate_by_tag("u") >= 1
    assert cache.invalidate_pattern("w1") >= 11
    cache.cleanup_expired()
    cache.preload()
    cache.flush(5)
    stats = cache.get_stats()
    assert cache.clear() >= 1
    cache.close()
    cache.close()
    return stats


@pytest.fixture
def store(db_path):
    """A sound store of some pages."""
    with ResultCache(enable_persistent=True, db_path=db_path) as cache:
        for i in range(200):
            cache.set(f"k{i}", "x" * 500, tags=[f"t{i}"])
    return db_path


def warnings_of(caplog):
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "content",
    [b"not a database, " * 1000, b"x", b"\0" * 8192, b"SQLite format 3\0", b"SQLite format 3\0" + b"\xff" * 4096],
    ids=["text", "one byte", "zeros", "header only", "broken header"],
)
def test_a_file_of_another_kind(db_path, content, caplog):  # issue 2 §7 "a corrupt … store"
    db_path.write_bytes(content)
    db_path.chmod(0o600)
    with caplog.at_level(logging.WARNING, logger="upshift"):
        cache = ResultCache(enable_persistent=True, db_path=db_path)
        first = len(warnings_of(caplog))
        stats = exercise(cache)
    assert stats["disk_errors"] >= 1
    assert first <= 1
    assert len(warnings_of(caplog)) == 1
    assert db_path.read_bytes() == content  # it may be anything; it is not the cache's to overwrite


def test_a_database_of_someone_else(db_path):
    with closing(sqlite3.connect(str(db_path))) as connection, connection:
        connection.execute("CREATE TABLE users (name TEXT)")
        connection.execute("INSERT INTO users VALUES ('ada')")
    db_path.chmod(0o600)
    exercise(ResultCache(enable_persistent=True, db_path=db_path))
    with closing(sqlite3.connect(str(db_path))) as connection:
        assert connection.execute("SELECT name FROM users").fetchall() == [("ada",)]


def test_tables_of_another_shape(db_path):
    with closing(sqlite3.connect(str(db_path))) as connection, connection:
        connection.execute("CREATE TABLE result_cache (something INTEGER)")
        connection.execute("CREATE VIEW cache_tags AS SELECT 1")
    db_path.chmod(0o600)
    exercise(ResultCache(enable_persistent=True, db_path=db_path))


def test_a_store_of_a_later_version(store):
    with closing(sqlite3.connect(str(store))) as connection, connection:
        connection.execute("PRAGMA user_version = 1000000")
    before = store.read_bytes()
    exercise(ResultCache(enable_persistent=True, db_path=store))
    assert store.read_bytes() == before


@pytest.mark.parametrize("keep", [0.99, 0.5, 0.1, 0.01])
def test_a_truncated_store(store, keep):  # issue 2 §7 "truncated"
    os.truncate(store, int(store.stat().st_size * keep))
    exercise(ResultCache(enable_persistent=True, db_path=store))


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_store(store, seed):  # issue 2 §7 "corrupt"
    rng = random.Random(seed)
    content = bytearray(store.read_bytes())
    if seed % 3 == 0:  # one page of noise
        start = 4096 * rng.randrange(1, len(content) // 4096)
        content[start : start + 4096] = rng.randbytes(4096)
    else:
        for _ in range(50 * (seed % 3) ** 3):
            content[rng.randrange(100, len(content))] = rng.randrange(256)
    store.write_bytes(content)
    exercise(ResultCache(enable_persistent=True, db_path=store))


def test_damage_while_open(store):
    cache = ResultCache(enable_persistent=True, db_path=store)
    assert cache.get("k0") == "x" * 500
    size = store.stat().st_size
    with open(store, "r+b") as file:  # closing a descriptor is harmless here: nobody else has the file
        file.seek(4096)
        file.write(os.urandom(size - 4096))
    exercise(cache)


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_garbage_beside_the_store(store, suffix):
    beside = store.with_name(store.name + suffix)
    beside.write_bytes(b"garbage" * 1000)
    cache = ResultCache(enable_persistent=True, db_path=store)
    assert cache.get("k0", "absent") in ("x" * 500, "absent")
    exercise(cache)


def test_a_folder_in_place_of_the_file(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="upshift"):
        stats = exercise(ResultCache(enable_persistent=True, db_path=tmp_path))
    assert stats["disk_errors"] >= 1
    assert len(warnings_of(caplog)) == 1


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").touch()
    stats = exercise(ResultCache(enable_persistent=True, db_path=tmp_path / "file" / "cache.db"))
    assert stats["disk_errors"] >= 1


@pytest.mark.parametrize("path", ["", "\0", "a\0b", "x" * 5000], ids=["empty", "nul", "inner nul", "too long"])
def test_paths_that_cannot_be(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exercise(ResultCache(enable_persistent=True, db_path=path))


def test_names_with_special_characters(tmp_path):
    for name in ("a b.db", "ü.db", "%41.db", "x?mode=ro.db", "x#y.db", "file:z.db", "'quoted'.db"):
        path = tmp_path / name
        with ResultCache(enable_persistent=True, db_path=path) as cache:
            cache.set("key", name)
        assert path.exists(), name
        with ResultCache(enable_persistent=True, db_path=path) as cache:
            assert cache.get("key") == name


def test_a_path_that_is_no_path_raises():
    with pytest.raises(TypeError):
        ResultCache(enable_persistent=True, db_path=5)


@pytest.mark.parametrize("replace", [False, True], ids=["deleted", "replaced"])
def test_the_file_vanishes_while_open(store, replace):
    cache = ResultCache(enable_persistent=True, db_path=store)
    cache.set("before", 1)
    cache.flush(5)
    for path in list(store.parent.iterdir()):
        path.unlink()
    if replace:
        with closing(sqlite3.connect(str(store))) as connection, connection:
            connection.execute("CREATE TABLE other (x)")
    exercise(cache)
    # Whatever became of the first file, the path can be used again.
    if not replace:
        with ResultCache(enable_persistent=True, db_path=store) as cache:
            cache.set("again", 1)
        with ResultCache(enable_persistent=True, db_path=store) as cache:
            assert cache.get("again") == 1


def test_the_tables_vanish_while_open(store):
    cache = ResultCache(enable_persistent=True, db_path=store)
    cache.get("k0")
    with closing(sqlite3.connect(str(store), timeout=30)) as connection, connection:
        connection.execute("DROP TABLE cache_tags")
        connection.execute("DROP TABLE result_cache")
    stats = exercise(cache)
    assert stats["disk_errors"] >= 1


def test_two_names_of_one_file(store, tmp_path):
    link = tmp_path / "link.db"
    link.symlink_to(store)
    one = ResultCache(enable_persistent=True, db_path=store)
    two = ResultCache(enable_persistent=True, db_path=tmp_path / "." / "link.db")
    one.set("key", [1])
    assert two.get("key") == [1]
    assert two.get("k0") == "x" * 500
    one.close()
    two.set("after", 1)
    two.close()
    with ResultCache(enable_persistent=True, db_path=store) as cache:
        assert cache.get("after") == 1


def test_the_disk_errors_of_one_cache_are_its_own(store, tmp_path):
    bad = tmp_path / "bad.db"
    bad.write_bytes(b"garbage" * 1000)
    bad.chmod(0o600)
    with ResultCache(enable_persistent=True, db_path=store) as good, ResultCache(enable_persistent=True, db_path=bad):
        assert good.get("k0") == "x" * 500
        assert good.get_stats()["disk_errors"] == 0


def test_trouble_prints_nothing(db_path):  # openclaw §1 "Use logging, quiet by default"; DESIGN §2.13 "nothing prints"
    db_path.write_bytes(b"garbage" * 1000)
    program = """
    import contextlib, io, logging, sys
    logging.lastResort = None
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        from upshift import ResultCache
        cache = ResultCache(enable_persistent=True, db_path=sys.argv[1])
        cache.set("a", 1)
        cache.close()
    print(repr(out.getvalue()))
    """
    assert run_literal(program, db_path) == ""
