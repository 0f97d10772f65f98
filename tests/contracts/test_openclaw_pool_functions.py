"""Contract openclaw §3.4, and §1 as far as `core.db_pool` is concerned: shared pools, the demonstration, the import."""

from __future__ import annotations

import ast
import gc
import inspect
import os
import sqlite3
import time
import weakref
from contextlib import closing
from pathlib import Path

import pytest
from harness import Task, run, run_literal, together

from upshift.sqlite import ConnectionPool, PooledConnection
from upshift.systems.openclaw import close_all_pools, db_pool_main, get_pool


@pytest.fixture(autouse=True)
def forget():
    """Shared pools belong to the process: none is left to the next test."""
    yield
    close_all_pools()


# --- get_pool


def test_one_pool_per_database(tmp_path):  # openclaw §3.4
    one, other = get_pool(tmp_path / "one.db"), get_pool(tmp_path / "other.db")
    assert isinstance(one, ConnectionPool)
    assert one is not other
    assert get_pool(tmp_path / "one.db") is one
    assert get_pool(tmp_path / "other.db") is other


def test_sizes_count_on_first_creation_only(pool_path):  # openclaw §3.4
    pool = get_pool(pool_path, 1, 3)
    assert (pool.min_size, pool.max_size) == (1, 3)
    assert get_pool(pool_path, min_size=5, max_size=20) is pool
    assert get_pool(db_path=pool_path) is pool
    assert (pool.min_size, pool.max_size) == (1, 3)


def test_defaults(pool_path):  # openclaw §3.4
    pool = get_pool(pool_path)
    assert (pool.min_size, pool.max_size) == (2, 10)
    assert list(inspect.signature(get_pool).parameters)[:3] == ["db_path", "min_size", "max_size"]


def test_names_of_one_file_share_a_pool(pool_path, monkeypatch):  # openclaw §3.4 "resolved absolute path", P17
    monkeypatch.chdir(pool_path.parent)
    (pool_path.parent / "folder").mkdir()
    (pool_path.parent / "link.db").symlink_to(pool_path)
    pool = get_pool("pool.db")
    names = [
        *("./pool.db", "folder/../pool.db", str(pool_path), pool_path, Path("pool.db"), "link.db"),
        os.path.join(pool_path.parent, ".", "pool.db"),
    ]
    for name in names:
        assert get_pool(name) is pool


def test_a_locked_file_holds_up_its_own_callers_only(tmp_path):  # openclaw P15
    with closing(sqlite3.connect(tmp_path / "locked.db", isolation_level=None, check_same_thread=False)) as other:
        other.execute("CREATE TABLE t (x)")
        other.execute("BEGIN EXCLUSIVE")
        waiting = [Task(get_pool, tmp_path / "locked.db") for _ in range(2)]
        time.sleep(0.2)
        free = Task(get_pool, tmp_path / "free.db").result(10)
        assert free.running
        assert not any(task.done() for task in waiting)
        assert get_pool(tmp_path / "free.db") is free
        other.execute("COMMIT")
        one, two = (task.result(30) for task in waiting)
        assert one is two is get_pool(tmp_path / "locked.db")


def test_a_relative_name_keeps_its_folder(tmp_path, monkeypatch):  # openclaw §3.4
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    pool = get_pool("pool.db", min_size=0)
    monkeypatch.chdir(tmp_path / "b")
    assert get_pool("pool.db", min_size=0) is not pool
    with pool.connection() as connection:
        connection.execute("CREATE TABLE t (x)")
    assert (tmp_path / "a" / "pool.db").exists()
    assert not (tmp_path / "b" / "pool.db").exists()


def test_a_closed_pool_is_replaced(pool_path):  # openclaw §3.4, P17
    pool = get_pool(pool_path)
    pool.close_all()
    fresh = get_pool(pool_path, 1, 4)
    assert fresh is not pool
    assert fresh.running
    assert fresh.max_size == 4
    assert get_pool(pool_path) is fresh


def test_a_pool_of_ones_own_is_not_shared(make_pool, pool_path):
    own = make_pool()
    assert get_pool(pool_path) is not own


def test_wrong_arguments_register_nothing(pool_path):
    with pytest.raises(ValueError):
        get_pool(pool_path, 5, 2)
    assert get_pool(pool_path).max_size == 10


def test_creation_is_safe_from_many_threads(pool_path):
    pools = together(lambda _: get_pool(pool_path), 8)
    assert len({id(pool) for pool in pools}) == 1
    assert pools[0].get_stats()["total_created"] == 2


# --- close_all_pools


def test_close_all_pools_closes_and_forgets(tmp_path):  # openclaw §3.4
    pools = [get_pool(tmp_path / f"{i}.db") for i in range(3)]
    assert close_all_pools() is None
    assert [pool.running for pool in pools] == [False] * 3
    assert [pool.get_stats()["current_size"] for pool in pools] == [0] * 3
    fresh = get_pool(tmp_path / "0.db")
    assert fresh is not pools[0]
    assert fresh.running
    references = [weakref.ref(pool) for pool in pools]
    pools.clear()
    gc.collect()
    assert [reference() for reference in references] == [None] * 3


def test_close_all_pools_of_none():  # openclaw §3.4
    close_all_pools()
    close_all_pools()


def test_close_all_pools_leaves_pools_of_ones_own(pool):
    close_all_pools()
    assert pool.running
    with pool.connection() as connection:
        assert connection.execute("SELECT 1").fetchone()[0] == 1


def test_borrowed_connections_outlive_a_closed_registry(pool_path):  # openclaw §3.1 close_all
    connection = get_pool(pool_path).acquire()
    close_all_pools()
    connection.close()
    assert connection.pool.get_stats()["current_size"] == 0


# --- main


def test_main_is_quiet_and_leaves_nothing(tmp_path, monkeypatch, capfd):  # openclaw §1 "self-cleaning demonstration"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENCLAW_WORKSPACE", str(tmp_path))
    assert db_pool_main() is None
    assert os.listdir(tmp_path) == []
    assert capfd.readouterr() == ("", "")
    assert list(inspect.signature(db_pool_main).parameters) == []


def test_main_shows_what_it_does_in_the_log(caplog):  # openclaw §1 "Use logging, quiet by default"
    with caplog.at_level("INFO", logger="upshift"):
        db_pool_main()
    assert caplog.records
    assert all(record.name.startswith("upshift") for record in caplog.records)


# --- the module under its old name


def test_the_old_import_path(pool_path):  # openclaw §1
    program = """
    import sys
    from upshift import compat
    compat.install("core.db_pool")
    import core.db_pool as module
    from core.db_pool import ConnectionPool, PooledConnection, close_all_pools, get_pool, main
    import upshift.sqlite
    pool = get_pool(sys.argv[1])
    with pool.connection() as connection:
        found = (
            ConnectionPool is upshift.sqlite.ConnectionPool,
            PooledConnection is upshift.sqlite.PooledConnection,
            type(pool) is ConnectionPool,
            type(connection) is PooledConnection,
            connection.execute("SELECT 1").fetchone()[0],
        )
    close_all_pools()
    print((sorted(name for name in vars(module) if not name.startswith("_")), found, main()))
    """
    names, found, returned = run_literal(program, pool_path)
    assert names == ["ConnectionPool", "PooledConnection", "close_all_pools", "get_pool", "main"]
    assert found == (True, True, True, True, 1)
    assert returned is None


def test_importing_does_nothing_else(tmp_path):  # openclaw §1 "Importing has no side effects"
    program = """
    import os, sys, threading
    before = set(os.listdir("/proc/self/task")), set(os.listdir("/proc/self/fd")), os.listdir("."), list(sys.path)
    from upshift import compat
    compat.install("core.db_pool")
    import core.db_pool
    after = set(os.listdir("/proc/self/task")), set(os.listdir("/proc/self/fd")), os.listdir("."), list(sys.path)
    foreign = sorted({"numpy", "pandas", "pyarrow", "psutil", "fastapi"} & set(sys.modules))
    print((before == after, foreign))
    """
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("platform: counts resources in /proc")
    assert run_literal(program, cwd=tmp_path) == (True, [])


def test_importing_prints_nothing():  # openclaw §1
    assert run("import upshift.sqlite, upshift.systems.openclaw") == ""


# --- what §1 asks of public classes


class Counting(ConnectionPool):
    """A user's subclass with a signature of its own."""

    def __init__(self, path, label):
        super().__init__(path, min_size=1)
        self.label = label
        self.seen = 0

    def acquire(self, timeout=10.0):
        self.seen += 1
        return super().acquire(timeout)


def test_pools_can_be_subclassed(pool_path):  # openclaw §1
    pool = Counting(pool_path, "mine")
    assert (pool.label, pool.min_size) == ("mine", 1)
    connection = pool.acquire()
    assert connection.pool is pool
    connection.close()
    with pool.connection() as connection:
        assert connection.execute("SELECT 1").fetchone()[0] == 1
    assert pool.seen >= 1
    pool.close_all()


def test_an_uninitialised_pool_raises(pool_path):  # DESIGN §2.1
    class Forgetful(ConnectionPool):
        def __init__(self):
            pass

    pool = Forgetful()
    for use in (pool.acquire, pool.get_stats, lambda: pool.max_size, lambda: pool.release(None)):
        with pytest.raises((RuntimeError, sqlite3.ProgrammingError)):
            use()


def test_pools_take_attributes_and_weak_references(pool):  # openclaw §1
    pool.note = "mine"
    assert pool.note == "mine"
    assert weakref.ref(pool)() is pool


def test_pools_take_part_in_garbage_collection(pool_path):  # openclaw §1
    def cycle():
        pool = ConnectionPool(pool_path)
        pool.me = pool
        with pool.connection() as connection:
            connection.create_function("f", 0, lambda: pool)
        return weakref.ref(pool)

    reference = cycle()
    gc.collect()
    gc.collect()
    assert reference() is None


def test_pools_do_not_pickle(pool):  # DESIGN §2.1
    import pickle

    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(pool)


def test_classes_pickle_by_name():
    import pickle

    for cls in (ConnectionPool, PooledConnection):
        assert pickle.loads(pickle.dumps(cls)) is cls


def test_exit_without_closing(pool_path):  # openclaw D14: no hook pins them, no thread hangs the interpreter
    program = """
    import sys
    from upshift.systems.openclaw import get_pool
    pool = get_pool(sys.argv[1])
    connection = pool.acquire()
    connection.execute("CREATE TABLE t (x)")
    connection.execute("INSERT INTO t VALUES (1)")
    connection.execute("BEGIN")
    connection.execute("INSERT INTO t VALUES (2)")
    """
    run(program, pool_path, timeout=20)
    peer = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT x FROM t').fetchall())"
    assert ast.literal_eval(run(peer, pool_path)) == [(1,)]


def test_closing_all_pools_waits_once_for_all(tmp_path):  # openclaw §3.4
    pools = [get_pool(tmp_path / f"{number}.db") for number in range(4)]
    lent = [pool.acquire() for pool in pools]
    started = time.monotonic()
    close_all_pools(timeout=0.2)
    assert 0.2 <= time.monotonic() - started < 0.7
    assert not any(pool.running for pool in pools)
    for wrapper in lent:
        wrapper.close()
    for timeout in ("1", float("nan")):
        with pytest.raises((TypeError, ValueError), match="timeout must be"):
            close_all_pools(timeout)
    close_all_pools(None)
