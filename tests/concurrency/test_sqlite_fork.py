"""`fork` with open connections, running statements and pools: the child refuses what it inherited and harms nothing."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

import pytest
from harness import run_literal

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: has no fork")

# Forking while threads run is what these tests are about, so the interpreter's own warning is turned off.
HEADER = """
import gc, os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
warnings.simplefilter("ignore", ResourceWarning)
import sqlite3 as stdlib
import upshift.sqlite as sqlite
path = sys.argv[1]

def in_child(body, seconds=20):
    "Runs `body` in a forked child; returns its exit status, or 'hangs'."
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = 0 if body() else 1
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(status)
    return ended(pid, seconds)

def ended(pid, seconds=20):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "hangs"

def refused(*uses):
    "Whether each use raises ProgrammingError."
    for use in uses:
        try:
            use()
        except sqlite.ProgrammingError:
            continue
        return False
    return True

con = sqlite.connect(path, isolation_level=None, check_same_thread=False)
con.execute("PRAGMA journal_mode = WAL").fetchall()
con.execute("CREATE TABLE t (who, b BLOB)")
def names():
    return [name for (name,) in con.execute("SELECT who FROM t ORDER BY rowid")]
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fork.db"


@pytest.fixture(autouse=True)
def sound(path):
    yield
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_inherited_objects_are_refused(path):
    body = """
con.execute("INSERT INTO t VALUES ('a', zeroblob(10))")
cur = con.execute("SELECT who FROM t")
uses = [
    lambda: con.execute("SELECT 1"), con.cursor, con.commit, con.rollback, con.interrupt, lambda: con.total_changes,
    lambda: con.in_transaction, lambda: con.create_function("f", 0, int), lambda: list(con.iterdump()),
    cur.fetchone, cur.fetchall, lambda: next(cur), lambda: cur.execute("SELECT 1"),
]
if hasattr(con, "blobopen"):
    blob = con.blobopen("t", "b", 1)
    uses += [blob.read, lambda: blob.write(b"x"), lambda: con.blobopen("t", "b", 1)]
status = in_child(lambda: refused(*uses))
print((status, cur.fetchone(), names()))
"""
    assert run_literal(HEADER + body, path) == (0, ("a",), ["a"])


@pytest.mark.parametrize("end", ["con.close()", "cur.close()", "del globals()['con'], globals()['cur']; gc.collect()"])
def test_closing_or_dropping_in_the_child_leaves_the_parent_alone(path, end):
    body = f"""
cur = con.cursor()
con.execute("BEGIN IMMEDIATE")
con.execute("INSERT INTO t VALUES ('parent', NULL)")
def child():
    try:
        {end}
    except sqlite.ProgrammingError:
        pass
    return os.path.exists(path + "-wal") and os.path.exists(path + "-shm")
status = in_child(child)
# The transaction is still ours: another process cannot write.
other = stdlib.connect(path, timeout=0)
try:
    other.execute("INSERT INTO t VALUES ('thief', NULL)")
    locked = False
except stdlib.OperationalError:
    locked = True
other.close()
con.execute("COMMIT")
print((status, locked, names()))
"""
    assert run_literal(HEADER + body, path) == (0, True, ["parent"])


def test_a_child_that_exits_normally(path):
    """Exit handlers, finalisers and all: nothing of the parent's is closed, checkpointed or unlinked."""
    body = """
con.execute("INSERT INTO t VALUES ('before', NULL)")
pool = sqlite.ConnectionPool(path)
held = pool.acquire()
held.execute("BEGIN")
held.execute("INSERT INTO t VALUES ('parent', NULL)")
pid = os.fork()
if pid == 0:
    sys.exit(0)
status = ended(pid)
wal = os.path.exists(path + "-wal")
held.execute("COMMIT")
held.close()
pool.close_all()
print((status, wal, names()))
"""
    assert run_literal(HEADER + body, path) == (0, True, ["before", "parent"])


def test_a_child_opens_connections_of_its_own(path):
    body = """
def child():
    own = sqlite.connect(path, isolation_level=None)
    for i in range(20):
        own.execute("INSERT INTO t VALUES (?, NULL)", (f"child {i}",))
    with sqlite.ConnectionPool(path).connection() as lent:
        lent.execute("INSERT INTO t VALUES ('child of a pool', NULL)")
    own.close()
    return True
con.execute("INSERT INTO t VALUES ('before', NULL)")
statuses = [in_child(child) for _ in range(3)]
con.execute("INSERT INTO t VALUES ('after', NULL)")
found = names()
print((statuses, len(found), found[0], found[-1], os.path.exists(path + "-wal")))
"""
    assert run_literal(HEADER + body, path) == ([0, 0, 0], 65, "before", "after", True)


def test_both_sides_write(path):
    body = """
pids = []
for n in range(3):
    pid = os.fork()
    if pid == 0:
        own = sqlite.connect(path, isolation_level=None, timeout=30)
        for i in range(100):
            own.execute("INSERT INTO t VALUES ('child', NULL)")
        own.close()
        os._exit(0)
    pids.append(pid)
for i in range(100):
    con.execute("INSERT INTO t VALUES ('parent', NULL)")
statuses = [ended(pid, 40) for pid in pids]
print((statuses, con.execute("SELECT who, count(*) FROM t GROUP BY who ORDER BY who").fetchall()))
"""
    assert run_literal(HEADER + body, path) == ([0, 0, 0], [("child", 300), ("parent", 100)])


def test_fork_while_other_threads_are_in_statements(path):
    body = """
stop = threading.Event()
def write():
    while not stop.is_set():
        con.execute("INSERT INTO t VALUES ('thread', NULL)")
def read():
    own = sqlite.connect(path)
    while not stop.is_set():
        own.execute("SELECT count(*), max(who) FROM t").fetchall()
def long():
    own = sqlite.connect(":memory:")
    while not stop.is_set():
        own.execute("WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n LIMIT 300000) "
                    "SELECT count(*) FROM n").fetchall()
threads = [threading.Thread(target=work) for work in (write, read, long)]
[thread.start() for thread in threads]
def child():
    if not refused(lambda: con.execute("SELECT 1")):
        return False
    own = sqlite.connect(path, isolation_level=None, timeout=30)
    own.execute("INSERT INTO t VALUES ('child', NULL)")
    own.close()
    memory = sqlite.connect(":memory:")
    return memory.execute("SELECT 1").fetchone() == (1,)
statuses = []
for _ in range(10):
    statuses.append(in_child(child))
    time.sleep(0.02)
stop.set()
[thread.join(20) for thread in threads]
print((statuses, con.execute("SELECT count(*) FROM t WHERE who = 'child'").fetchone()))
"""
    assert run_literal(HEADER + body, path, timeout=58) == ([0] * 10, (10,))


def test_fork_inside_a_callback(path):
    body = """
statuses = []
def f():
    statuses.append(in_child(lambda: refused(lambda: con.execute("SELECT 1"))))
    return 7
con.create_function("f", 0, f)
con.execute("BEGIN")
con.execute("INSERT INTO t VALUES ('parent', NULL)")
row = con.execute("SELECT f(), f()").fetchone()
con.execute("COMMIT")
print((statuses, row, names()))
"""
    assert run_literal(HEADER + body, path) == ([0, 0], (7, 7), ["parent"])


def test_memory_databases_do_not_cross(path):
    """Nor do they stop the child from having its own."""
    body = """
memory = sqlite.connect(":memory:")
memory.execute("CREATE TABLE m (x)")
pool = sqlite.ConnectionPool(":memory:")
def child():
    own = sqlite.connect(":memory:")
    own.execute("CREATE TABLE m (x)")
    own.close()
    return refused(lambda: memory.execute("SELECT * FROM m"))
status = in_child(child)
memory.execute("INSERT INTO m VALUES (1)")
with pool.connection() as lent:
    lent.execute("CREATE TABLE m (x)")
pool.close_all()
print((status, memory.execute("SELECT * FROM m").fetchall()))
"""
    assert run_literal(HEADER + body, path) == (0, [(1,)])


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(path, tmp_path, method):
    (tmp_path / "worker.py").write_text(
        """
import upshift.sqlite as sqlite
from upshift.systems.openclaw import get_pool
def work(arguments):
    path, x = arguments
    with get_pool(path).connection(timeout=30) as con:
        con.execute("INSERT INTO t VALUES (?, NULL)", (f"worker {x}",))
        return con.execute("SELECT ? * 2", (x,)).fetchone()[0]
"""
    )
    body = f"""
import multiprocessing
sys.path.insert(0, os.path.dirname(path))
if __name__ == "__main__":
    from worker import work
    work((path, -1))
    with multiprocessing.get_context("{method}").Pool(2) as workers:
        results = workers.map_async(work, [(path, x) for x in range(20)]).get(40)
        workers.close()
        workers.join()
    print((results == [2 * x for x in range(20)], len(names())))
"""
    assert run_literal(HEADER + body, path) == (True, 21)
