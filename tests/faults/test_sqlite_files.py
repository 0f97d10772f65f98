"""Corrupt files, folders that cannot be written, odd paths: SQLite's own errors, as `sqlite3` raises them.

Each scene is played with both modules and must come to the same end.
"""

from __future__ import annotations

import importlib
import os
import random
import shutil
import sqlite3
import stat
import sys
from contextlib import closing
from pathlib import Path

import pytest
from harness import run_literal

import upshift.sqlite

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="platform: names and rights as on Linux")


def told(error):
    """What a caller can learn from an exception."""
    found = [type(error).__name__, str(error)]
    if sys.version_info >= (3, 11):  # the standard library has them from there on
        found += [getattr(error, "sqlite_errorcode", None), getattr(error, "sqlite_errorname", None)]
    return found


def outcomes(module, path, *steps, **options):
    """Results of statements on a fresh connection, or what they raise."""
    found = []
    try:
        connection = module.connect(path, **options)
    except (sqlite3.Error, ValueError, TypeError, UnicodeError) as error:
        return [told(error)]
    with closing(connection):
        for sql in steps:
            try:
                found.append(connection.execute(sql).fetchall())
            except sqlite3.Error as error:
                found.append(told(error))
    return found


def alike(make, *steps, **options):
    """The common outcome of both modules, each on a file that `make` has made anew."""
    expected = outcomes(sqlite3, make(), *steps, **options)
    found = outcomes(upshift.sqlite, make(), *steps, **options)
    assert found == expected
    return found


def open_files(folder):
    """Names of open files below a folder."""
    if not os.path.isdir("/proc/self/fd"):
        return []
    links = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    return [name for name in links if name.startswith(str(folder))]


@pytest.fixture(autouse=True)
def nothing_stays_open(tmp_path):
    yield
    assert open_files(tmp_path) == []


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.db"


def fill(path):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, s TEXT)")
        connection.executemany("INSERT INTO t (s) VALUES (?)", [("x" * (i % 300),) for i in range(1000)])
        connection.execute("CREATE INDEX by_s ON t (s)")


READS = (
    "PRAGMA schema_version",
    "SELECT count(*), sum(length(s)) FROM t",
    "SELECT s FROM t ORDER BY s DESC LIMIT 3",
    "PRAGMA integrity_check",
    "INSERT INTO t (s) VALUES ('new')",
    "UPDATE t SET s = 'changed' WHERE id % 100 = 0",
)

# --- corrupt files


def test_rubbish(path):  # issue 3 §6 "Corrupt files"
    def make():
        path.write_bytes(b"This is no database. " * 500)
        return path

    found = alike(make, *READS)
    assert found[0][:2] == ["DatabaseError", "file is not a database"]
    assert path.read_bytes() == b"This is no database. " * 500


def test_an_empty_file_is_an_empty_database(path):
    def make():
        path.write_bytes(b"")
        return path

    assert alike(make, "SELECT count(*) FROM sqlite_master", "CREATE TABLE t (x)") == [[(0,)], []]


@pytest.mark.parametrize("size", [1, 16, 99, 100, 4096, 5000, 8192, 20_000])
def test_truncated(path, size):
    def make():
        path.unlink(missing_ok=True)
        fill(path)
        os.truncate(path, size)
        return path

    found = alike(make, *READS)
    assert any(outcome and outcome[0] in ("DatabaseError", "OperationalError") for outcome in found)


@pytest.mark.parametrize("seed", range(12))
def test_damaged_anywhere(path, seed):
    def make():
        path.unlink(missing_ok=True)
        fill(path)
        rng = random.Random(seed)
        data = bytearray(path.read_bytes())
        for _ in range(rng.choice([1, 20, 500])):
            place = rng.randrange(100 if seed % 3 else 0, len(data))
            data[place] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        return path

    alike(make, *READS)


@pytest.mark.parametrize("where", ["header", "frames", "length"])
def test_a_damaged_log(path, tmp_path, where):
    """Frames that do not verify are as if never written; nothing raises."""
    source = tmp_path / "source.db"
    with closing(sqlite3.connect(source)) as connection:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, s TEXT)")
        connection.execute("PRAGMA wal_checkpoint").fetchall()
        for i in range(20):
            connection.execute("INSERT INTO t (s) VALUES (?)", (str(i) * 100,))
            connection.commit()
        kept = {suffix: Path(f"{source}{suffix}").read_bytes() for suffix in ("", "-wal")}

    def make():
        for suffix in ("-shm", "-wal", ""):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        path.write_bytes(kept[""])
        log = bytearray(kept["-wal"])
        if where == "header":
            log[0:16] = b"\xff" * 16
        elif where == "frames":
            log[len(log) // 2] ^= 0xFF
        else:
            del log[len(log) // 2 + 7 :]
        Path(f"{path}-wal").write_bytes(log)
        return path

    found = alike(make, "PRAGMA integrity_check", "SELECT count(*) FROM t", "INSERT INTO t (s) VALUES ('new')")
    assert found[0] == [("ok",)]
    assert found[1][0][0] < 20


def test_a_corrupt_schema(path):
    def make():
        path.unlink(missing_ok=True)
        fill(path)
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("UPDATE sqlite_master SET sql = 'CREATE nonsense' WHERE name = 't'")
        return path

    found = alike(make, *READS)
    assert found[1][0] == "DatabaseError"
    assert "malformed database schema" in found[1][1]


def test_a_newer_format(path):
    def make():
        path.unlink(missing_ok=True)
        fill(path)
        data = bytearray(path.read_bytes())
        data[18:20] = b"\x09\x09"  # write and read version
        path.write_bytes(data)
        return path

    alike(make, *READS)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="platform: not in the standard library before 3.11")
@pytest.mark.parametrize("data", [b"rubbish" * 1000, b"SQLite format 3\0" + b"\xff" * 5000, b"x"], ids=len)
def test_deserialising_rubbish(data):
    def play(module):
        with closing(module.connect(":memory:")) as connection:
            found = []
            for use in (
                lambda: connection.deserialize(data),
                lambda: connection.execute("SELECT * FROM t").fetchall(),
                lambda: connection.execute("CREATE TABLE t (x)").fetchall(),
            ):
                try:
                    found.append(use())
                except sqlite3.Error as error:
                    found.append(told(error))
            return found

    assert play(upshift.sqlite) == play(sqlite3)


def test_a_corrupt_file_in_a_pool(path, tmp_path):
    path.write_bytes(b"This is no database. " * 500)
    pool = upshift.sqlite.ConnectionPool(path)
    assert pool.get_stats()["current_size"] == 0
    assert pool.acquire(timeout=0.05) is None
    with pytest.raises(TimeoutError) as caught, pool.connection(timeout=0):
        pytest.fail("entered")
    assert told(caught.value.__cause__)[:2] == ["DatabaseError", "file is not a database"]
    pool.close_all()
    assert path.read_bytes() == b"This is no database. " * 500
    assert os.listdir(tmp_path) == ["file.db"]


# --- what cannot be opened or written


def test_a_folder_and_a_missing_folder(tmp_path):
    for name in (tmp_path, tmp_path / "missing" / "x.db", tmp_path / "file.db" / "x.db"):
        found = alike(lambda name=name: name, "SELECT 1")
        assert found[0][:2] == ["OperationalError", "unable to open database file"]


@pytest.mark.parametrize("name", ["a\0b", b"a\0b", 5, None, 1.5, print], ids=repr)
def test_no_path_at_all(name):
    expected, found = ([type(call(name))] for call in (raised_by(sqlite3), raised_by(upshift.sqlite)))
    assert found == expected


def raised_by(module):
    def call(name):
        with pytest.raises((ValueError, TypeError, sqlite3.Error)) as caught:
            module.connect(name)
        return caught.value

    return call


#: Rights do not bind root: the scenes are played by another user in a child.
RIGHTS = """
import importlib, json, os, shutil, sqlite3, sys
from contextlib import closing
folder, scene, name = sys.argv[1:]
module = importlib.import_module(name)
def told(error):
    return [type(error).__name__, str(error), getattr(error, "sqlite_errorcode", 0)]
def attempt(*steps, path=os.path.join(folder, "file.db"), **options):
    found = []
    try:
        con = module.connect(path, timeout=0.2, **options)
    except sqlite3.Error as error:
        return [told(error)]
    for sql in steps:
        try:
            found.append([list(row) for row in con.execute(sql).fetchall()])
        except sqlite3.Error as error:
            found.append(told(error))
    con.close()
    return found
BECOME
found = [attempt("SELECT count(*) FROM t", "INSERT INTO t VALUES (9)", "CREATE TABLE u (x)", "PRAGMA journal_mode")]
uri = "file:" + os.path.join(folder, "file.db") + "?"
for query in ("mode=ro", "mode=rw", "immutable=1", "mode=rwc", "mode=nonsense"):
    found.append(attempt("SELECT count(*) FROM t", "INSERT INTO t VALUES (9)", path=uri + query, uri=True))
found.append(attempt("CREATE TABLE t (x)", path=os.path.join(folder, "new.db")))
print((found, sorted(os.listdir(folder)) if os.access(folder, os.R_OK) else []))
"""

SCENES = {
    "read-only folder": lambda folder, db: folder.chmod(0o555),
    "read-only file": lambda folder, db: db.chmod(0o444),
    "read-only both": lambda folder, db: (db.chmod(0o444), folder.chmod(0o555)),
    "unreadable file": lambda folder, db: db.chmod(0),
    "folder without access": lambda folder, db: folder.chmod(0o400),
    "writable": lambda folder, db: None,
}


@linux
@pytest.mark.parametrize("journal", ["delete", "wal"])
@pytest.mark.parametrize("scene", SCENES)
def test_rights(open_folder, as_user, give_away, scene, journal):  # issue 3 §6 "read-only directories"
    found = []
    for module in ("sqlite3", "upshift.sqlite"):
        folder = open_folder / module
        folder.mkdir()
        db = folder / "file.db"
        with closing(sqlite3.connect(db)) as connection, connection:
            connection.execute(f"PRAGMA journal_mode = {journal}").fetchall()
            connection.execute("CREATE TABLE t (x)")
            connection.execute("INSERT INTO t VALUES (1)")
        give_away(db)
        give_away(folder)
        SCENES[scene](folder, db)
        program = RIGHTS.replace("BECOME", as_user)
        text = repr(run_literal(program, folder, scene, module, cwd="/")).replace(str(folder), "FOLDER")
        found.append(text)
        folder.chmod(0o700)
    assert found[1] == found[0]
    if scene == "writable":
        assert "unable" not in found[0].split("new.db")[0].split("mode=nonsense")[0][:40]
    else:
        assert "unable to open" in found[0] or "readonly" in found[0]


@linux
def test_a_pool_on_a_read_only_folder(open_folder, as_user, give_away):
    folder = open_folder / "pool"
    folder.mkdir()
    fill(folder / "file.db")
    give_away(folder)
    folder.chmod(0o555)
    program = """
    import os, sys
    import upshift.sqlite as sqlite
    BECOME
    pool = sqlite.ConnectionPool(sys.argv[1])
    found = (pool.get_stats()["current_size"], pool.acquire(timeout=0.05), str(pool.last_error))
    pool.close_all()
    open_ones = [fd for fd in os.listdir("/proc/self/fd") if "file.db" in os.path.realpath(f"/proc/self/fd/{fd}")]
    print((found, open_ones))
    """
    found, open_ones = run_literal(program.replace("BECOME", as_user), folder / "file.db", cwd="/")
    folder.chmod(0o700)
    assert found[:2] == (0, None)
    assert "readonly" in found[2] or "unable to open" in found[2]
    assert open_ones == []


def test_a_database_made_by_a_pool_has_ordinary_rights(tmp_path):
    previous = os.umask(0o027)
    try:
        pool = upshift.sqlite.ConnectionPool(tmp_path / "pool.db")
        sqlite3.connect(tmp_path / "plain.db").execute("CREATE TABLE t (x)").connection.close()
    finally:
        os.umask(previous)
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("pool.db", "plain.db")}
    pool.close_all()
    assert modes["pool.db"] == modes["plain.db"] == 0o640


# --- odd paths

NAMES = [
    *("plain.db", "with space.db", " leading", "trailing ", "question?mark.db", "mode?mode=ro", "hash#mark.db"),
    *(
        "percent%41.db",
        "percent%",
        "%00",
        "a&b=c;d",
        "quote'.db",
        'double".db',
        "semi;colon",
        "back\\slash",
        "tab\there",
    ),
    *("new\nline", "ünïcödé", "\u65e5\u672c.db", "\U0001f600", "-dash", "~home", "$HOME", "*?[a]", "file:", "x" * 240),
    *("file:x?mode=memory", ":colon:", ".hidden", "...", "com1", "a:b"),
    *(b"bytes.db", b"\xff\xfe.db", b"caf\xe9 \xff%?#.db", "\udcff surrogate"),
]


def readable(path):
    """What the standard library finds at a path, given byte for byte as a URI."""
    from urllib.parse import quote

    uri = "file:" + quote(os.fsencode(path)) + "?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        return connection.execute("SELECT x FROM t").fetchall()


@linux
@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:24])
@pytest.mark.parametrize("form", ["as is", "bytes", "Path", "relative"])
def test_odd_names(tmp_path, monkeypatch, name, form):  # issue 3 §6 "a database on a path with odd bytes"
    full = os.path.join(os.fsencode(tmp_path), os.fsencode(name))
    given = {
        "as is": os.fsdecode(full) if isinstance(name, str) else full,
        "bytes": full,
        "Path": Path(os.fsdecode(full)),
        "relative": os.path.join(b"." if isinstance(name, bytes) else ".", name),
    }[form]
    monkeypatch.chdir(tmp_path)
    with closing(upshift.sqlite.connect(given)) as connection, connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (42)")
    assert [os.fsencode(found) for found in os.listdir(tmp_path)] == [os.fsencode(name)]
    assert readable(full) == [(42,)]
    with closing(sqlite3.connect(given)) as connection:
        assert connection.execute("SELECT x FROM t").fetchall() == [(42,)]


@linux
@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:24])
def test_pools_on_odd_names(tmp_path, name):  # issue 3 §6
    full = tmp_path / os.fsdecode(name)
    pool = upshift.sqlite.ConnectionPool(full, min_size=1)
    with pool.connection() as connection, pool.connection() as other:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (42)")
        assert other.execute("SELECT x FROM t").fetchone()[0] == 42
    assert pool.get_stats()["errors"] == 0
    pool.close_all()
    assert [os.fsencode(found) for found in os.listdir(tmp_path)] == [os.fsencode(name)]
    assert readable(full) == [(42,)]


@linux
def test_very_long_paths(tmp_path):
    folder = tmp_path
    while len(str(folder)) < 3500:
        folder = folder / ("d" * 200)
    folder.mkdir(parents=True)
    found = alike(lambda: folder / "file.db", "CREATE TABLE t (x)")
    assert found[0][:2] == ["OperationalError", "unable to open database file"]
    shutil.rmtree(tmp_path / ("d" * 200))


def test_uri_names(tmp_path):
    steps = ("CREATE TABLE IF NOT EXISTS t (x)", "INSERT INTO t VALUES (1)", "SELECT count(*) FROM t")

    def folder(module):
        made = tmp_path / module.__name__
        made.mkdir()
        return made

    def play(module):
        home = folder(module)
        found = []
        for uri in (
            f"file:{home}/a%20b.db",
            f"file:{home}/c.db?mode=rw",
            f"file:{home}/d.db?mode=rwc&cache=private",
            f"file:{home}/d.db?mode=ro",
            f"file://localhost{home}/e.db",
            f"file://elsewhere{home}/f.db",
            f"file:{home}/g.db?vfs=nonsense",
            f"file:{home}/h%3fi%23.db",
            "file::memory:",
            "file:name?mode=memory",
            f"{home}/not a uri?mode=ro",
        ):
            found.append(outcomes(module, uri, *steps, uri=True))
        text = repr((found, sorted(os.listdir(home))))
        return text.replace(str(home), "HOME")

    assert play(upshift.sqlite) == play(sqlite3)


def test_memory_and_temporary_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (":memory:", "", b":memory:"):
        assert alike(lambda name=name: name, "CREATE TABLE t (x)", "SELECT count(*) FROM t") == [[], [(0,)]]
    assert os.listdir(tmp_path) == []


def test_a_link_and_its_target_are_one_database(tmp_path):
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
    with closing(upshift.sqlite.connect(tmp_path / "link.db")) as connection, connection:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("CREATE TABLE t (x)")
        with closing(upshift.sqlite.connect(tmp_path / "real.db")) as other:
            assert other.execute("SELECT count(*) FROM t").fetchone() == (0,)
    assert sorted(os.listdir(tmp_path)) == ["link.db", "real.db"]


@pytest.mark.parametrize("module", ["sqlite3", "upshift.sqlite"])
def test_the_folder_is_removed_under_an_open_database(tmp_path, module):
    """Played for both: what can still be done differs with time, that the process lives does not."""
    module = importlib.import_module(module)
    folder = tmp_path / "gone"
    folder.mkdir()
    with closing(module.connect(folder / "file.db", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (x)")
        shutil.rmtree(folder)
        with pytest.raises(sqlite3.OperationalError):
            connection.execute("INSERT INTO t VALUES (1)")
    assert not folder.exists()
