"""The standard library's `sqlite3` and `upshift.sqlite` on one file in one process: no lost row, no corruption.

Two copies of SQLite in one process would drop each other's POSIX locks (https://sqlite.org/howtocorrupt.html, §2.2).
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

import pytest
from harness import Peer, run_literal

import upshift.sqlite

LOAD = """
import os, random, sqlite3, sys, threading, time
import upshift.sqlite
path, journal, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
modules = [sqlite3, upshift.sqlite]
with sqlite3.connect(path, isolation_level=None) as con:
    con.execute(f"PRAGMA journal_mode = {journal}")
    con.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, who TEXT, n INTEGER, pad TEXT)")
    con.execute("CREATE INDEX by_who ON t (who, n)")
con.close()
deadline = time.monotonic() + seconds
acknowledged, errors, torn = {}, [], []
def writer(index, module):
    # Connections come and go: closing a descriptor is what drops the locks of a second copy.
    n = 0
    while time.monotonic() < deadline:
        con = module.connect(path, timeout=30, isolation_level=None)
        try:
            for _ in range(random.randrange(1, 6)):
                con.execute("BEGIN IMMEDIATE")
                pad = "x" * random.randrange(500)
                con.execute("INSERT INTO t (who, n, pad) VALUES (?, ?, ?)", (f"w{index}", n, pad))
                con.execute("INSERT INTO t (who, n, pad) VALUES (?, ?, 'twin')", (f"w{index} twin", n))
                con.execute("COMMIT")
                acknowledged[index] = n = n + 1
        except sqlite3.Error as error:
            errors.append(repr(error))
            return
        finally:
            con.close()
def reader(index, module):
    while time.monotonic() < deadline:
        con = module.connect(path, timeout=30, isolation_level=None)
        try:
            con.execute("BEGIN")
            one = con.execute("SELECT count(*) FROM t WHERE pad <> 'twin'").fetchone()[0]
            two = con.execute("SELECT count(*) FROM t WHERE pad = 'twin'").fetchone()[0]
            con.execute("COMMIT")
            if one != two:
                torn.append((one, two))
        except sqlite3.Error as error:
            errors.append(repr(error))
            return
        finally:
            con.close()
threads = [threading.Thread(target=writer, args=(i, modules[i % 2])) for i in range(4)]
threads += [threading.Thread(target=reader, args=(i, modules[i % 2])) for i in range(2)]
[thread.start() for thread in threads]
[thread.join(55) for thread in threads]
with sqlite3.connect(path) as con:
    sound = [row[0] for row in con.execute("PRAGMA integrity_check")]
    found = {int(who[1:]): n for who, n in con.execute("SELECT who, count(*) FROM t WHERE pad <> 'twin' GROUP BY who")}
con.close()
print((sound, errors, torn, found == acknowledged, len(acknowledged), sum(found.values()) > 20))
"""


def use_rows(connection, factory):
    connection.row_factory = factory
    return connection.execute("SELECT 1").fetchone()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "shared.db"


def test_the_library_is_the_interpreters():  # DESIGN §3, contract openclaw §1.1
    if not upshift.sqlite.shares_interpreter_library:
        pytest.skip("the extension was built with its own SQLite")
    assert upshift.sqlite.shares_interpreter_library is True
    assert upshift.sqlite.sqlite_version == sqlite3.sqlite_version


@pytest.mark.skipif(not upshift.sqlite.shares_interpreter_library, reason="platform: a build with its own SQLite")
class TestOneLibrary:
    def test_both_see_one_memory_database(self):  # DESIGN §3 "both sides open one vfs=memdb name"
        name = f"file:/upshift-test-{os.getpid()}?vfs=memdb"
        with (
            closing(sqlite3.connect(name, uri=True)) as theirs,
            closing(upshift.sqlite.connect(name, uri=True)) as ours,
        ):
            with theirs:
                theirs.execute("CREATE TABLE t (x)")
                theirs.execute("INSERT INTO t VALUES (42)")
            assert ours.execute("SELECT x FROM t").fetchone() == (42,)

    @pytest.mark.parametrize("journal", ["WAL", "DELETE"])
    def test_mixed_use_under_load(self, path, journal):  # issue 3 §6 "no corruption"
        sound, errors, torn, all_there, writers, enough = run_literal(LOAD, path, journal, 3, timeout=58)
        assert sound == ["ok"]
        assert errors == []
        assert torn == []
        assert (all_there, writers, enough) == (True, 4, True)

    def test_closing_one_keeps_the_locks_of_the_other(self, path):
        """The documented way to lose them: https://sqlite.org/howtocorrupt.html."""
        with closing(sqlite3.connect(path)) as con, con:
            con.execute("CREATE TABLE t (x)")
        holder = upshift.sqlite.connect(path, isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        sqlite3.connect(path).close()
        with (
            closing(sqlite3.connect(path, timeout=0)) as other,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            other.execute("SELECT * FROM t").fetchall()
        with Peer(f"import sqlite3; con = sqlite3.connect({str(path)!r}, timeout=0)") as peer:
            code = "try:\n    con.execute('INSERT INTO t VALUES (1)')\n    found = 'written'\n"
            assert peer(code + "except sqlite3.OperationalError as error:\n    found = str(error)\nfound") == (
                "database is locked"
            )
        holder.execute("COMMIT")
        holder.close()

    def test_objects_of_both_work_on_each_others_data(self, path):
        with closing(upshift.sqlite.connect(path)) as ours, closing(sqlite3.connect(path)) as theirs:
            with ours:
                ours.execute("CREATE TABLE t (x)")
            with theirs:
                theirs.executemany("INSERT INTO t VALUES (?)", [(i,) for i in range(10)])
            with ours:
                ours.execute("DELETE FROM t WHERE x > 4")
            assert theirs.execute("SELECT sum(x) FROM t").fetchone() == (10,)
            with pytest.raises(sqlite3.Error):
                theirs.execute("SELECT * FROM nowhere")
            with pytest.raises(upshift.sqlite.Error):
                ours.execute("SELECT * FROM nowhere")

    def test_a_connection_of_the_standard_library_is_no_target(self, path):  # DESIGN §3 "documented as impossible"
        with closing(upshift.sqlite.connect(path)) as ours, closing(sqlite3.connect(":memory:")) as theirs:
            with pytest.raises(TypeError):
                ours.backup(theirs)
            with pytest.raises(TypeError):
                theirs.backup(ours)

    def test_the_two_kinds_of_row(self, path):  # DESIGN §3: recognised by identity; a subclass is a clear error
        with closing(upshift.sqlite.connect(path)) as ours:
            ours.row_factory = sqlite3.Row
            row = ours.execute("SELECT 1 AS one").fetchone()
            assert isinstance(row, sqlite3.Row)
            assert isinstance(row, upshift.sqlite.Row)
            assert row["ONE"] == 1

            class Own(sqlite3.Row):
                pass

            with pytest.raises(TypeError, match=r"Row"):
                use_rows(ours, Own)
