"""Stores of others, that anyone may write, or that cannot be written. CI is root, so children drop their uid."""

from __future__ import annotations

import os
import pickle
import sqlite3
import stat
from contextlib import closing

import pytest
from harness import run_literal

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="platform: only root can give files away")

# Prints what a cache on `path` does as that user, and every warning it logs.
PROBE = """
import logging, os, sys, threading, sqlite3, json, pickle, decimal, uuid, datetime
path, expected = sys.argv[1:3]
records = []
class Keep(logging.Handler):
    def emit(self, record):
        records.append(record.getMessage())
logging.getLogger("upshift").addHandler(Keep(logging.WARNING))
from upshift import ResultCache
ResultCache().set("warm", 1)
AS_USER
cache = ResultCache(enable_persistent=True, db_path=path)
found = cache.get("key", "absent")
cache.set("new", 1, tags=["t"])
memory = cache.get("new")
cache.delete("key")
cache.invalidate_by_tag("x")
cache.cleanup_expired()
cache.flush(5)
stats = cache.get_stats()
cache.clear()
cache.close()
print((found, memory, stats["disk_errors"] > 0, len(records)))
"""


def probe(path, as_user=""):
    return run_literal(PROBE.replace("AS_USER", as_user), path, "x")


def make_store(path):
    program = """
    import sys
    from upshift import ResultCache
    with ResultCache(enable_persistent=True, db_path=sys.argv[1]) as cache:
        cache.set("key", "value", tags=["x"])
        cache.set("pickled", range(3))
    print(1)
    """
    assert run_literal(program, path) == 1
    return path


def content(path):
    with closing(sqlite3.connect(str(path))) as connection:
        return connection.execute("SELECT cache_key FROM result_cache ORDER BY cache_key").fetchall()


MEMORY_ONLY = ("absent", 1, True, 1)


def test_the_probe_itself(open_folder):
    assert probe(make_store(open_folder / "cache.db")) == ("value", 1, False, 0)


@needs_root
def test_a_store_of_another_user(open_folder, give_away):  # openclaw C14, DESIGN §3 "foreign-owned"
    path = make_store(open_folder / "cache.db")
    give_away(path)
    before = path.read_bytes()
    assert probe(path) == MEMORY_ONLY
    assert path.read_bytes() == before


@needs_root
def test_a_store_of_root_for_another_user(open_folder, as_user):  # openclaw C14
    path = make_store(open_folder / "cache.db")
    for beside in open_folder.iterdir():
        beside.chmod(0o644)
    assert probe(path, as_user) == MEMORY_ONLY
    assert content(path) == [("key",), ("pickled",)]


@pytest.mark.parametrize("mode", [0o666, 0o602, 0o622, 0o777])
def test_a_store_that_anyone_may_write(open_folder, mode):  # openclaw C14, DESIGN §3 "world-writable"
    path = make_store(open_folder / "cache.db")
    path.chmod(mode)
    assert probe(path) == MEMORY_ONLY
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert content(path) == [("key",), ("pickled",)]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_a_store_that_others_may_only_read(open_folder, mode):
    path = make_store(open_folder / "cache.db")
    path.chmod(mode)
    assert probe(path) == ("value", 1, False, 0)


def test_an_empty_file_that_anyone_may_write(open_folder):  # openclaw C14: planted before the first start
    path = open_folder / "cache.db"
    path.touch()
    path.chmod(0o666)
    assert probe(path) == MEMORY_ONLY
    assert path.stat().st_size == 0


@needs_root
def test_a_link_to_a_store_of_another_user(open_folder, give_away):  # openclaw C14
    path = make_store(open_folder / "theirs.db")
    give_away(path)
    link = open_folder / "cache.db"
    link.symlink_to(path)
    assert probe(link) == MEMORY_ONLY


def test_a_read_only_file(open_folder, as_user, give_away):  # issue 2 §7 "read-only"
    folder = open_folder / "own"
    folder.mkdir()
    path = make_store(folder / "cache.db")
    for each in (*folder.iterdir(), folder):
        give_away(each)
    path.chmod(0o400)
    found, memory, _, warnings = probe(path, as_user)
    assert found in ("value", "absent")  # it may serve what it can read
    assert memory == 1
    assert warnings <= 1
    assert content(path) == [("key",), ("pickled",)]


def test_a_read_only_folder(open_folder, as_user, give_away):  # issue 2 §7 "read-only"
    folder = open_folder / "own"
    folder.mkdir()
    path = make_store(folder / "cache.db")
    for each in (*folder.iterdir(), folder):
        give_away(each)
    path.chmod(0o400)
    folder.chmod(0o500)
    found, memory, _, warnings = probe(path, as_user)
    assert found in ("value", "absent")
    assert memory == 1
    assert warnings <= 1


def test_no_store_can_be_made_in_a_read_only_folder(open_folder, as_user, give_away):
    folder = open_folder / "own"
    folder.mkdir()
    give_away(folder)
    folder.chmod(0o500)
    assert probe(folder / "cache.db", as_user) == MEMORY_ONLY
    assert list(folder.iterdir()) == []


def test_an_unreadable_store(open_folder, as_user, give_away):
    folder = open_folder / "own"
    folder.mkdir()
    path = make_store(folder / "cache.db")
    for each in (*folder.iterdir(), folder):
        give_away(each)
    path.chmod(0)
    assert probe(path, as_user) == MEMORY_ONLY


def test_a_folder_that_may_not_be_entered(open_folder, as_user, give_away):
    folder = open_folder / "own"
    folder.mkdir()
    path = make_store(folder / "cache.db")
    for each in (*folder.iterdir(), folder):
        give_away(each)
    folder.chmod(0)
    assert probe(path, as_user) == MEMORY_ONLY


def test_the_key_of_pickled_values_is_private(open_folder):  # DESIGN §3 "key in a 0600 file beside the store"
    path = make_store(open_folder / "cache.db")
    beside = [each for each in open_folder.iterdir() if each != path]
    assert beside, "pickled values are authenticated, so there is a key"
    assert {stat.S_IMODE(each.stat().st_mode) for each in beside} == {0o600}


READ = """
import os, sys
from upshift import ResultCache
with ResultCache(enable_persistent=True, db_path=sys.argv[1]) as cache:
    print((cache.get("key", "absent"), list(cache.get("pickled", "absent"))))
"""


def test_losing_the_key_loses_the_pickled_rows_only(open_folder):  # DESIGN §3 "losing it loses only those rows"
    path = make_store(open_folder / "cache.db")
    assert run_literal(READ, path) == ("value", [0, 1, 2])
    for each in open_folder.iterdir():
        if each != path:
            each.unlink()
    assert run_literal(READ, path) == ("value", list("absent"))
    make_store(path)
    assert run_literal(READ, path) == ("value", [0, 1, 2])


@pytest.mark.parametrize("damage", ["chmod", "short", "empty", "other"])
def test_a_key_file_that_cannot_be_trusted(open_folder, damage):  # DESIGN §3
    path = make_store(open_folder / "cache.db")
    (key,) = [each for each in open_folder.iterdir() if each != path]
    if damage == "chmod":
        key.chmod(0o666)
    else:
        key.write_bytes({"short": b"x", "empty": b"", "other": os.urandom(key.stat().st_size)}[damage])
    assert run_literal(READ, path) == ("value", list("absent"))


def test_a_store_moved_without_its_key(open_folder):  # DESIGN §3: another machine's pickles are not trusted
    (open_folder / "a").mkdir()
    (open_folder / "b").mkdir()
    path = make_store(open_folder / "a" / "cache.db")
    moved = open_folder / "b" / "cache.db"
    path.rename(moved)
    assert run_literal(READ, moved) == ("value", list("absent"))


def test_nobody_who_can_write_rows_can_run_code(open_folder):  # openclaw C14
    path = make_store(open_folder / "cache.db")

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(open_folder / "executed"),))

    with closing(sqlite3.connect(str(path))) as connection, connection:
        (sample,) = connection.execute("SELECT cache_value FROM result_cache WHERE cache_key = 'pickled'").fetchone()
        planted = pickle.dumps(Trap())
        for i, blob in enumerate((planted, sample[:1] + planted, sample[:33] + planted, sample + planted)):
            connection.execute("INSERT INTO result_cache (cache_key, cache_value) VALUES (?, ?)", (f"planted{i}", blob))
    program = """
    import sys
    from upshift import ResultCache
    with ResultCache(enable_persistent=True, db_path=sys.argv[1]) as cache:
        loaded = cache.preload()
        print(([cache.get(f"planted{i}", "absent") for i in range(4)], loaded, cache.get_stats()["disk_errors"] > 0))
    """
    assert run_literal(program, path) == (["absent"] * 4, 2, True)
    assert not (open_folder / "executed").exists()
