"""A full disk, files of limited size, no descriptors: SQLite's own errors, and all works again when there is room."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from contextlib import closing

import pytest
from harness import run_literal

PROGRAM = """
import importlib, os, signal, sqlite3, sys
path, name, journal = sys.argv[1:]
module = importlib.import_module(name)
def told(error):
    return [type(error).__name__, str(error), getattr(error, "sqlite_errorcode", 0)]
con = module.connect(path, isolation_level=None)
con.execute(f"PRAGMA journal_mode = {journal}").fetchall()
con.execute("PRAGMA cache_size = 20")
con.execute("CREATE TABLE t (x)")
con.execute("INSERT INTO t VALUES ('kept')")
found = []
FILL
for style in ("statements", "transaction", "executemany"):
    try:
        if style == "transaction":
            con.execute("BEGIN IMMEDIATE")
        if style == "executemany":
            con.executemany("INSERT INTO t VALUES (?)", ((os.urandom(20_000),) for _ in range(200)))
        else:
            for i in range(200):
                con.execute("INSERT INTO t VALUES (?)", (os.urandom(20_000),))
        if style == "transaction":
            con.execute("COMMIT")
        found.append("no error")
    except sqlite3.Error as error:
        found.append(told(error))
    if con.in_transaction:
        con.execute("ROLLBACK")
    found.append(con.execute("SELECT x FROM t WHERE typeof(x) = 'text'").fetchall())
FREE
con.execute("DELETE FROM t WHERE typeof(x) = 'blob'")
con.execute("INSERT INTO t VALUES ('after')")
found.append(con.execute("SELECT x FROM t").fetchall())
found.append(con.execute("PRAGMA integrity_check").fetchall())
con.close()
print(found)
"""

LIMIT = """
import resource
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
"""
UNLIMIT = "resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))"
BALLAST = """
with open(os.path.join(os.path.dirname(path), "ballast"), "wb") as file:
    file.write(bytes(1_200_000))
"""
THROW_OUT = "os.unlink(os.path.join(os.path.dirname(path), 'ballast'))"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of two megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("platform: only root can mount")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(folder)], capture_output=True, timeout=30
    )
    if mounted.returncode:
        pytest.skip("platform: mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True, timeout=30)


def check(program, folder, journal):
    """Played by both modules, with the same outcome; returns it."""
    expected = run_literal(program, folder / "theirs.db", "sqlite3", journal, timeout=55)
    for name in os.listdir(folder):
        os.unlink(folder / name)
    found = run_literal(program, folder / "ours.db", "upshift.sqlite", journal, timeout=55)
    assert found == expected
    assert found[1] == found[3] == found[5] == [("kept",)]
    assert found[-2:] == [[("kept",), ("after",)], [("ok",)]]
    return found


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_a_full_file_system(small_disk, journal):  # issue 3 §6 "full disk"
    found = check(PROGRAM.replace("FILL", BALLAST).replace("FREE", THROW_OUT), small_disk, journal)
    assert [outcome[:2] for outcome in found[0:6:2]] == [["OperationalError", "database or disk is full"]] * 3


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_a_limit_on_the_size_of_files(tmp_path, journal):  # issue 3 §6 "full disk"
    found = check(PROGRAM.replace("FILL", LIMIT).replace("FREE", UNLIMIT), tmp_path, journal)
    assert [outcome[0] for outcome in found[0:6:2]] == ["OperationalError"] * 3


def test_a_pool_on_a_full_disk(small_disk):  # issue 3 §6 "resources given back"
    program = """
    import os, sqlite3, sys
    from upshift.sqlite import ConnectionPool
    path = sys.argv[1]
    pool = ConnectionPool(path)
    with pool.connection() as con:
        con.execute("CREATE TABLE t (x)")
    ballast = os.path.join(os.path.dirname(path), "ballast")
    with open(ballast, "wb") as file:
        file.write(bytes(1_200_000))
    errors = set()
    for _ in range(200):
        try:
            with pool.connection() as con:
                con.execute("BEGIN")
                con.execute("INSERT INTO t VALUES (?)", (os.urandom(20_000),))
                con.execute("INSERT INTO t VALUES (?)", (os.urandom(20_000),))
        except sqlite3.OperationalError as error:
            errors.add(str(error))
    stats = pool.get_stats()
    with pool.connection() as con:
        rows = con.execute("SELECT count(*) FROM t").fetchone()[0]
        clean = not con.in_transaction
    os.unlink(ballast)
    found = (sorted(errors), stats["in_use"], rows % 2, rows > 10, clean)
    pool.close_all()
    con = sqlite3.connect(path)
    sound = con.execute("PRAGMA integrity_check").fetchone()[0]
    con.close()
    print((found, sound, sorted(os.listdir(os.path.dirname(path)))))
    """
    found, sound, names = run_literal(program, small_disk / "pool.db", timeout=55)
    assert found == (["database or disk is full"], 0, 0, True, True)
    assert (sound, names) == ("ok", ["pool.db"])


def test_no_room_for_a_new_database(small_disk):
    with open(small_disk / "ballast", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == 28  # noqa: PT017
    program = """
    import importlib, os, sqlite3, sys
    path, name = sys.argv[1:]
    module = importlib.import_module(name)
    found = []
    try:
        con = module.connect(path)
        con.execute("CREATE TABLE t (x)")
    except sqlite3.OperationalError as error:
        found.append((str(error), getattr(error, "sqlite_errorcode", 0)))
    con.close()
    print(found)
    """
    expected = run_literal(program, small_disk / "theirs.db", "sqlite3")
    assert run_literal(program, small_disk / "ours.db", "upshift.sqlite") == expected
    assert len(expected) == 1
    program = """
    import sys
    from upshift.sqlite import ConnectionPool
    pool = ConnectionPool(sys.argv[1])
    print((pool.acquire(timeout=0.05), pool.get_stats()["current_size"], "full" in str(pool.last_error)))
    pool.close_all()
    """
    assert run_literal(program, small_disk / "pool.db") == (None, 0, True)


NO_DESCRIPTORS = """
import os, resource, sqlite3, sys
import upshift.sqlite as sqlite
path = sys.argv[1]
pool = sqlite.ConnectionPool(path, min_size=1, max_size=3)
with pool.connection() as con:
    con.execute("CREATE TABLE t (x)")
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
taken = []
try:
    while True:
        taken.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
found = []
for _ in range(3):
    try:
        sqlite.connect(path + "2").execute("SELECT * FROM sqlite_master")
    except sqlite3.OperationalError as error:
        found.append(str(error))
with pool.connection() as held:
    more = pool.acquire(timeout=0.05)
    error = str(pool.last_error)
    held.execute("INSERT INTO t VALUES (1)")
for descriptor in taken:
    os.close(descriptor)
with pool.connection() as one, pool.connection() as two:
    rows = two.execute("SELECT count(*) FROM t").fetchone()[0]
pool.close_all()
print((found, more, error, rows))
"""


def test_no_descriptors_left(tmp_path):
    message = "unable to open database file"
    assert run_literal(NO_DESCRIPTORS, tmp_path / "pool.db") == ([message] * 3, None, message, 1)


def test_a_temporary_folder_that_is_full(small_disk, tmp_path):
    """A sort that needs more room than there is."""
    program = """
    import importlib, os, sqlite3, sys
    module = importlib.import_module(sys.argv[1])
    con = module.connect(sys.argv[2])
    con.execute("PRAGMA temp_store = FILE")
    con.execute("PRAGMA cache_size = 10")
    rows = "WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n LIMIT 20000) "
    try:
        con.execute(rows + "SELECT hex(randomblob(500)) AS h FROM n ORDER BY h").fetchall()
        found = None
    except sqlite3.OperationalError as error:
        found = (str(error), getattr(error, "sqlite_errorcode", 0))
    print((found, con.execute("SELECT 1").fetchone()))
    con.close()
    """
    env = {"SQLITE_TMPDIR": small_disk}
    expected, found = (run_literal(program, name, tmp_path / "t.db", env=env) for name in ("sqlite3", "upshift.sqlite"))
    assert found == expected
    assert found[0] is not None


def test_limits_of_the_connection(tmp_path):
    """SQLite's own limits, for which there is no room either."""
    import upshift.sqlite

    def play(module):
        found = []
        with closing(module.connect(tmp_path / "t.db")) as con:
            con.execute("PRAGMA max_page_count = 20")
            con.execute("CREATE TABLE IF NOT EXISTS t (x)")
            for statement in (
                ("INSERT INTO t VALUES (zeroblob(?))", (200_000,)),
                ("INSERT INTO t VALUES (zeroblob(?))", (2_000_000_000,)),
                ("SELECT " + "1 + " * 5000 + "1", ()),
                ("SELECT ?40000", ()),
            ):
                try:
                    found.append(con.execute(*statement).fetchall())
                except sqlite3.Error as error:
                    found.append((type(error), str(error)))
        return found

    assert play(upshift.sqlite) == play(sqlite3)
