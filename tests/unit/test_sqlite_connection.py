"""Connections: how they begin, who may use them, how they end, and that they let others run."""

from __future__ import annotations

import contextlib
import decimal
import gc
import os
import re
import sqlite3
import sys
import threading
import time
import weakref
from contextlib import closing

import pytest
from harness import Task

import upshift.sqlite as sqlite

#: Counts for about a third of a second.
LONG = "WITH RECURSIVE c (x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM c WHERE x < {}) SELECT max(x) FROM c"


@pytest.fixture
def connection():
    made = sqlite.connect(":memory:")
    yield made
    made.close()


class Beats:
    """A thread that notes the time each millisecond, if it is let run."""

    def __enter__(self):
        self.times = []
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.beat)
        self.thread.start()
        while not self.times:
            time.sleep(0.001)
        self.started = time.perf_counter()
        return self

    def beat(self):
        while not self.done.is_set():
            self.times.append(time.perf_counter())
            time.sleep(0.001)

    def __exit__(self, *_):
        self.ended = time.perf_counter()
        self.done.set()
        self.thread.join()

    def longest_gap(self):
        inside = [self.started, *(moment for moment in self.times if self.started < moment < self.ended), self.ended]
        return max(after - before for before, after in zip(inside, inside[1:]))


# ---- opening


@pytest.mark.parametrize("kind", ["str", "bytes", "path", "odd bytes"])
@pytest.mark.skipif(sys.platform == "win32", reason="platform: names are bytes on Unix only")
def test_names_of_files(tmp_path, kind):
    path = tmp_path / "a b%ä.db"
    name = {
        "str": str(path),
        "bytes": os.fsencode(path),
        "path": path,
        "odd bytes": os.fsencode(tmp_path) + b"/\xff.db",
    }
    connection = sqlite.connect(name[kind])
    connection.execute("CREATE TABLE t (a)")
    connection.close()
    other = sqlite3.connect(name[kind])
    assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("t",)]
    other.close()


def test_names_that_are_none(tmp_path):
    for wrong, error in ((5, TypeError), (None, TypeError), ("a\0b", ValueError)):
        with pytest.raises(error):
            sqlite.connect(wrong)
    with pytest.raises(sqlite.OperationalError, match="unable to open database file") as caught:
        sqlite.connect(tmp_path / "no such folder" / "x.db")
    assert caught.value.sqlite_errorname.startswith("SQLITE_CANTOPEN")


def test_uris(tmp_path):
    path = tmp_path / "uri.db"
    sqlite.connect(path).close()
    read_only = sqlite.connect(f"file:{path}?mode=ro", uri=True)
    with pytest.raises(sqlite.OperationalError, match="readonly"):
        read_only.execute("CREATE TABLE t (a)")
    read_only.close()
    with pytest.raises(sqlite.OperationalError):
        sqlite.connect(f"file:{tmp_path}/missing.db?mode=rw", uri=True)
    one, other = (sqlite.connect("file:shared?mode=memory&cache=shared", uri=True) for _ in range(2))
    one.execute("CREATE TABLE t (a)")
    assert other.execute("SELECT * FROM t").fetchall() == []
    one.close()
    other.close()


@pytest.mark.parametrize("timeout", [0, 0.5, 5, -1])
def test_timeouts(timeout):
    connection = sqlite.connect(":memory:", timeout=timeout)
    assert connection.execute("PRAGMA busy_timeout").fetchone() == (max(int(timeout * 1000), 0),)
    connection.close()
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="timeout"):
            sqlite.connect(":memory:", timeout=wrong)


def test_a_subclass_has_its_own_init():
    class Own(sqlite.Connection):
        def __init__(self, name, *, marker):
            super().__init__(name)
            self.marker = marker

    connection = Own(":memory:", marker=7)
    assert connection.marker == 7
    assert connection.execute("SELECT 1").fetchone() == (1,)
    connection.close()


def test_without_init_nothing_works():
    connection = sqlite.Connection.__new__(sqlite.Connection)
    for use in (
        connection.cursor,
        connection.commit,
        connection.close,
        connection.interrupt,
        connection.serialize,
        connection.iterdump,
        lambda: connection.execute("SELECT 1"),
        lambda: connection.isolation_level,
        lambda: connection.in_transaction,
        lambda: connection.getlimit(0),
        lambda: connection.blobopen("t", "b", 1),
    ):
        with pytest.raises(sqlite.ProgrammingError, match=r"Base Connection\.__init__ not called"):
            use()


def test_opened_again(tmp_path):
    connection = sqlite.connect(tmp_path / "one.db")
    connection.row_factory = sqlite.Row
    connection.text_factory = bytes
    connection.execute("CREATE TABLE t (a)")
    connection.executemany("INSERT INTO t VALUES (?)", [("x",), ("y",)])
    connection.commit()
    standing = connection.execute("SELECT a FROM t")
    connection.__init__(tmp_path / "two.db")
    # The connection is as new; the cursor still stands on its row.
    assert connection.row_factory is None
    assert connection.text_factory is str
    with pytest.raises(sqlite.OperationalError, match="no such table"):
        connection.execute("SELECT a FROM t")
    assert [row["a"] for row in standing] == ["x", "y"]
    standing.execute("CREATE TABLE u (a)")
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("u",)]
    connection.close()


def test_opened_again_in_vain(tmp_path):
    connection = sqlite.connect(":memory:")
    with pytest.raises(sqlite.OperationalError):
        connection.__init__(tmp_path)
    with pytest.raises(sqlite.ProgrammingError, match="not called"):
        connection.execute("SELECT 1")
    connection.__init__(":memory:")
    connection.close()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="platform: asks Linux for open files")
def test_opened_again_closes_what_nobody_stands_on(tmp_path):
    def is_open():
        links = (os.path.join("/proc/self/fd", entry) for entry in os.listdir("/proc/self/fd"))
        return any(os.path.islink(link) and os.readlink(link).endswith("one.db") for link in links)

    connection = sqlite.connect(tmp_path / "one.db")
    connection.execute("CREATE TABLE t (a)")
    standing = connection.execute("SELECT 1 UNION SELECT 2")
    connection.__init__(":memory:")
    assert is_open()
    standing.fetchall()
    standing.close()
    assert not is_open()
    connection.close()


# ---- closing


def test_closes_with_everything_left(tmp_path):
    connection = sqlite.connect(tmp_path / "close.db")
    connection.execute("CREATE TABLE t (b)")
    connection.execute("INSERT INTO t VALUES (zeroblob(10))")
    connection.commit()
    left = [connection.execute("SELECT 1 UNION SELECT 2"), connection.blobopen("t", "b", 1), connection.iterdump()]
    next(left[2])
    connection.close()
    connection.close()
    for use in (connection.cursor, connection.commit, lambda: connection.total_changes, connection.__enter__):
        with pytest.raises(sqlite.ProgrammingError, match="closed database"):
            use()
    # Nothing holds the file any more.
    other = sqlite3.connect(tmp_path / "close.db", timeout=0)
    other.execute("BEGIN EXCLUSIVE")
    other.close()


def test_a_running_statement_keeps_its_connection_open(connection):
    messages = []

    def close(text):
        try:
            connection.close()
        except sqlite.ProgrammingError as error:
            messages.append(str(error))
        return text

    connection.text_factory = close
    assert connection.execute("SELECT 'x'").fetchall() == [(b"x",)]
    assert messages == ["cannot close the connection while one of its statements is running"]


def test_a_connection_that_dies_closes(tmp_path):
    connection = sqlite.connect(tmp_path / "dies.db")
    connection.execute("CREATE TABLE t (a)")
    connection.execute("INSERT INTO t VALUES (1)")
    gone = weakref.ref(connection)
    warns = pytest.warns(ResourceWarning) if sys.version_info >= (3, 13) else contextlib.nullcontext()
    with warns:
        del connection
        gc.collect()
    assert gone() is None
    other = sqlite3.connect(tmp_path / "dies.db", timeout=0)
    assert other.execute("SELECT * FROM t").fetchall() == []
    other.execute("INSERT INTO t VALUES (2)")
    other.close()


# ---- threads


def test_only_its_thread_may_use_a_connection(connection):
    errors = []

    def use():
        for call in (
            connection.cursor,
            connection.commit,
            lambda: connection.execute("SELECT 1"),
            connection.serialize,
        ):
            try:
                call()
            except sqlite.ProgrammingError as error:
                errors.append(str(error))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert len(errors) == 4
    assert all(error.startswith("SQLite objects created in a thread can only be used in that same") for error in errors)


def test_a_long_statement_lets_other_threads_run(connection):
    sql = LONG.format(1_500_000)
    with Beats() as beats:
        connection.execute(sql).fetchall()
    assert beats.ended - beats.started > 0.05
    assert beats.longest_gap() < max(0.05, (beats.ended - beats.started) / 4)


def test_a_long_result_lets_other_threads_run(connection):
    sql = (
        "WITH RECURSIVE c (x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM c WHERE x < 600000) SELECT x, x, 'text' FROM c"
    )
    with Beats() as beats:
        rows = connection.execute(sql).fetchall()
    assert len(rows) == 600_000
    assert beats.ended - beats.started > 0.05
    assert beats.longest_gap() < max(0.05, (beats.ended - beats.started) / 4)


def test_a_statement_that_waits_for_a_lock_lets_other_threads_run(tmp_path):
    path = tmp_path / "locked.db"
    connection, blocker = sqlite.connect(path, timeout=0.3), sqlite3.connect(path, isolation_level=None)
    blocker.execute("CREATE TABLE t (a)")
    blocker.execute("BEGIN EXCLUSIVE")
    with Beats() as beats:
        with pytest.raises(sqlite.OperationalError, match="database is locked"):
            connection.execute("SELECT * FROM t")
    assert 0.25 < beats.ended - beats.started < 2
    assert beats.longest_gap() < 0.1
    connection.close()
    blocker.close()


def test_the_busy_timeout_may_be_changed_and_still_lets_other_threads_run(tmp_path):
    path = tmp_path / "locked.db"
    connection, blocker = sqlite.connect(path, timeout=0), sqlite3.connect(path, isolation_level=None)
    blocker.execute("CREATE TABLE t (a)")
    assert connection.execute("PRAGMA busy_timeout").fetchone() == (0,)
    assert connection.execute("PRAGMA busy_timeout = 300").fetchone() == (300,)
    connection.executescript("-- so\nPRAGMA main.busy_timeout = 300;")
    assert connection.execute("PRAGMA busy_timeout").fetchone() == (300,)
    connection.execute("EXPLAIN PRAGMA busy_timeout = 5").fetchall()
    connection("PRAGMA busy_timeout = 5")
    assert connection.execute("PRAGMA busy_timeout").fetchone() == (300,)
    blocker.execute("BEGIN EXCLUSIVE")
    with Beats() as beats:
        with pytest.raises(sqlite.OperationalError, match="database is locked"):
            connection.execute("SELECT * FROM t")
    assert 0.25 < beats.ended - beats.started < 2
    assert beats.longest_gap() < 0.1
    blocker.execute("ROLLBACK")
    assert connection.execute("SELECT * FROM t").fetchall() == []
    connection.close()
    blocker.close()


def test_interrupt_from_another_thread():
    connection = sqlite.connect(":memory:", check_same_thread=False)
    timer = threading.Timer(0.1, connection.interrupt)
    timer.start()
    with pytest.raises(sqlite.OperationalError, match="interrupted") as caught:
        connection.execute(LONG.format(10**12)).fetchall()
    assert caught.value.sqlite_errorcode == sqlite.SQLITE_INTERRUPT
    timer.join()
    assert connection.execute("SELECT 1").fetchone() == (1,)
    connection.close()
    with pytest.raises(sqlite.ProgrammingError):
        connection.interrupt()


# ---- limits and switches


def test_limits(connection):
    former = connection.getlimit(sqlite.SQLITE_LIMIT_SQL_LENGTH)
    assert connection.setlimit(sqlite.SQLITE_LIMIT_SQL_LENGTH, 20) == former
    assert connection.getlimit(sqlite.SQLITE_LIMIT_SQL_LENGTH) == 20
    with pytest.raises(sqlite.DataError, match="query string is too large"):
        connection.execute("SELECT 1111111111111111")
    assert connection.setlimit(sqlite.SQLITE_LIMIT_SQL_LENGTH, former) == 20
    with pytest.raises(sqlite.ProgrammingError, match="'category' is out of bounds"):
        connection.getlimit(100)
    with pytest.raises(OverflowError):
        connection.setlimit(2**40, 1)
    connection.setlimit(sqlite.SQLITE_LIMIT_LENGTH, 100)
    with pytest.raises(sqlite.DataError, match="too big"):
        connection.execute("SELECT ?", ("x" * 200,))


def test_switches(connection):
    switch = sqlite.SQLITE_DBCONFIG_ENABLE_FKEY
    assert connection.getconfig(switch) is False
    assert connection.setconfig(switch) is None
    assert connection.getconfig(switch) is True
    assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)
    connection.setconfig(switch, 0)
    assert connection.getconfig(switch) is False
    for wrong in (-1, 0, 1000, 1001):
        with pytest.raises(ValueError, match="unknown config 'op'"):
            connection.setconfig(wrong)
    connection.setconfig(sqlite.SQLITE_DBCONFIG_DEFENSIVE, True)
    with pytest.raises(sqlite.OperationalError, match="may not be modified"):
        connection.execute("UPDATE sqlite_master SET name = 'x'")


def test_a_call_compiles_a_statement(connection):
    assert type(connection("SELECT 1")).__name__ == "Statement"
    with pytest.raises(TypeError):
        connection()
    with pytest.raises(TypeError):
        connection(5)
    with pytest.raises(sqlite.OperationalError):
        connection("SELEC")


class Flag:
    def __init__(self, value):
        self.value = value

    def __bool__(self):
        return self.value


@pytest.mark.parametrize("flag", [1, 0, True, False, Flag(True), Flag(False), "x", ""])
def test_flags_are_truth_values(tmp_path, monkeypatch, flag):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "flags.db"
    with contextlib.closing(sqlite.connect(path, check_same_thread=flag)) as connection:
        connection.execute("CREATE TABLE t (b)")
        connection.execute("INSERT INTO t VALUES (zeroblob(4))")
        connection.commit()
        elsewhere = Task(lambda: connection.execute("SELECT 1").fetchone())
        if flag:
            with pytest.raises(sqlite.ProgrammingError, match="thread"):
                elsewhere.result()
        else:
            assert elsewhere.result() == (1,)
        with connection.blobopen("t", "b", 1, readonly=flag) as blob:
            if flag:
                with pytest.raises(sqlite.OperationalError):
                    blob.write(b"1")
            else:
                blob.write(b"1")
    with contextlib.closing(sqlite.connect("file:named.db?mode=memory", uri=flag)) as connection:
        # Some libraries take every name for a URI; what counts is that a true flag does.
        assert connection.execute("PRAGMA database_list").fetchone()[2] == "" or not flag


def test_a_flag_that_raises(tmp_path):
    class Moody:
        def __bool__(self):
            raise LookupError("no opinion")

    with pytest.raises(LookupError, match="no opinion"):
        sqlite.connect(":memory:", uri=Moody())


def test_the_cursor_method_of_a_subclass_is_called_where_it_always_was():
    """Python 3.9 and 3.10 call it for `execute()` and its kin, newer ones do not."""

    def calls_of(module):
        calls = []

        class Own(module.Connection):
            def cursor(self, *arguments):
                calls.append(arguments)
                return super().cursor(*arguments)

        connection = module.connect(":memory:", factory=Own)
        connection.execute("CREATE TABLE t (x)")
        connection.executemany("INSERT INTO t VALUES (?)", [(1,)])
        connection.executescript("SELECT 1")
        connection.close()
        return calls

    assert calls_of(sqlite) == calls_of(sqlite3)


def test_what_other_threads_may_ask():
    def answers(module):
        found = []
        connection = module.connect(":memory:")

        def ask():
            for question in (
                lambda: connection.total_changes,
                lambda: connection.in_transaction,
                lambda: connection.isolation_level,
                lambda: connection.row_factory,
                lambda: connection.__enter__() is connection,
                lambda: connection.__exit__(None, None, None),
                connection.commit,
            ):
                try:
                    found.append(question())
                except module.ProgrammingError as error:
                    found.append(re.sub("[0-9]{4,}", "N", str(error)))

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(20)
        connection.close()
        return found

    assert answers(sqlite) == answers(sqlite3)
    assert answers(sqlite)[:5] == [0, False, "", None, True]


class Outcome:
    """What a call came to, in words that do not depend on the module."""

    def __init__(self, call):
        try:
            self.told = type(call()).__name__
        except Exception as error:
            self.told = (type(error).__name__, str(error))


@pytest.mark.parametrize(
    "call",
    [
        lambda con: con.execute("SELECT 1", None),
        lambda con: con.cursor().execute("SELECT 1", None),
        lambda con: con.executemany("", [()]),
        lambda con: con.executemany("-- nothing", []),
        lambda con: con.cursor().executemany(" ; ", [(), ()]),
        lambda con: con.execute("SELECT ?", (decimal.Decimal(1),)),
        lambda con: con.execute("SELECT ?", (threading.Thread(),)),
        pytest.param(
            lambda con: con.cursor().fetchmany(2**40),
            marks=pytest.mark.skipif(sys.version_info < (3, 10), reason="said in other words"),
        ),
    ],
    ids=range(8),
)
def test_odd_arguments_are_refused_as_ever(call):
    with closing(sqlite.connect(":memory:")) as ours, closing(sqlite3.connect(":memory:")) as theirs:
        assert Outcome(lambda: call(ours)).told == Outcome(lambda: call(theirs)).told


@pytest.mark.skipif(sys.version_info < (3, 10), reason="platform: Python 3.9 takes and words numbers in another way")
@pytest.mark.parametrize("size", [2**40 + 3, 2**31, -(2**31) - 1, 2**80, -1, 2**31 - 1, "a", 1.5, None, True])
@pytest.mark.filterwarnings("ignore:Truncation of value to int:RuntimeWarning")
def test_arraysize_is_a_c_int(size):
    def given(module):
        with closing(module.connect(":memory:")) as connection:
            cursor = connection.cursor()
            outcome = Outcome(lambda: setattr(cursor, "arraysize", size))
            return outcome.told, cursor.arraysize

    assert given(sqlite) == given(sqlite3)


@pytest.mark.skipif(not hasattr(sqlite3.Connection, "blobopen"), reason="new in Python 3.11")
@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        *(((), {}), (("t", "x"), {}), (("t", "x", 1, 1), {}), ((), {"table": "t", "column": "x", "row": 1})),
        *((("t", "x", row), {}) for row in ("1", 1.5, None, 2**63, 2**80, True, -(2**63))),
        *((("t\0", "x", 1), {}), ((1, "x", 1), {}), (("t", b"x", 1), {}), ((None, "x", 1), {})),
        *((("t", "x", 1), {"name": 5}), (("t", "x", 1), {"name": "nowhere"}), (("t", "x", 1), {"bogus": 1})),
        *((("t", "x", 1), {"readonly": value}) for value in (2, 0, True)),
    ],
)
def test_blobopen_takes_what_it_always_did(args, kwargs):
    def given(module):
        with closing(module.connect(":memory:")) as connection:
            connection.execute("CREATE TABLE t (x)")
            connection.execute("INSERT INTO t VALUES (zeroblob(3))")
            return Outcome(lambda: connection.blobopen(*args, **kwargs)).told

    assert given(sqlite) == given(sqlite3)
