"""The interpreter ends with connections, transactions and statements under way: in bounded time, with status 0."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest
from harness import child_env, run

HEADER = """
import atexit, asyncio, gc, os, sys, threading, time, warnings
warnings.simplefilter("ignore", ResourceWarning)
import upshift.sqlite as sqlite
path = sys.argv[1]
ENDLESS = "WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
with sqlite.connect(path) as con:
    con.execute("PRAGMA journal_mode = WAL").fetchall()
    con.execute("CREATE TABLE IF NOT EXISTS t (x)")
    con.execute("INSERT INTO t VALUES (0)")
con.close()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "exit.db"


def rows(path):
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [x for (x,) in connection.execute("SELECT x FROM t ORDER BY x")]


def quickly(body, path, seconds=20):
    start = time.monotonic()
    run(HEADER + body, path, timeout=40)
    assert time.monotonic() - start < seconds


OPEN = {
    "deferred": "con = sqlite.connect(path)",
    "immediate": "con = sqlite.connect(path, isolation_level='IMMEDIATE')",
    "explicit": "con = sqlite.connect(path, isolation_level=None); con.execute('BEGIN')",
    "autocommit off": "con = sqlite.connect(path, autocommit=False)",
}


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "raise SystemExit"], ids=["falls off", "exit", "raise"])
@pytest.mark.parametrize("how", OPEN.values(), ids=OPEN)
def test_an_open_transaction_is_rolled_back(path, how, end):  # issue 3 §6 "interpreter exit with open transactions"
    quickly(f"{how}\ncon.execute('INSERT INTO t VALUES (1)')\nassert con.in_transaction\n{end}\n", path)
    assert rows(path) == [0]


def test_an_open_transaction_of_a_pool_is_rolled_back(path):
    body = """
pool = sqlite.ConnectionPool(path)
held = pool.acquire()
held.execute("INSERT INTO t VALUES (1)")
held.execute("BEGIN")
held.execute("INSERT INTO t VALUES (2)")
"""
    quickly(body, path)
    assert rows(path) == [0, 1]


def test_a_reference_cycle_at_exit(path):
    body = """
class Own(sqlite.Connection):
    pass
con = Own(path)
con.me = con
con.create_function("f", 0, lambda: con)
con.execute("INSERT INTO t VALUES (1)")
cursor = con.execute("SELECT * FROM t")
cursor.fetchone()
"""
    quickly(body, path)
    assert rows(path) == [0]


@pytest.mark.parametrize(
    "work",
    [
        "con.execute(ENDLESS).fetchone()",
        "sqlite.connect(':memory:', check_same_thread=False).execute(ENDLESS).fetchone()",
        "con.executemany('INSERT INTO t VALUES (?)', ((i,) for i in iter(int, 1)))",
        "list(iter(lambda: con.execute('SELECT count(*) FROM t').fetchone(), None))",
        "list(iter(lambda: con.execute('INSERT INTO t VALUES (1)') and con.commit(), 1))",
        "list(iter(lambda: sqlite.connect(path).close(), 1))",
    ],
    ids=["statement", "statement in memory", "executemany", "reads", "writes", "opening"],
)
def test_daemon_threads_in_statements(path, work):  # issue 3 §6
    body = f"""
def work():
    con = sqlite.connect(path, check_same_thread=False, timeout=60)
    {work}
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
"""
    for _ in range(3):
        quickly(body, path)
    rows(path)


def test_daemon_threads_on_one_connection(path):
    body = """
con = sqlite.connect(path, check_same_thread=False, isolation_level=None)
def work():
    while True:
        con.execute("INSERT INTO t VALUES (1)")
        con.execute("SELECT * FROM t").fetchmany(3)
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
"""
    for _ in range(3):
        quickly(body, path)
    rows(path)


def test_daemon_threads_waiting_for_a_lock(path):
    """One holds the database, others wait for it up to a minute; nobody waits at exit."""
    body = """
holder = sqlite.connect(path, isolation_level=None, check_same_thread=False)
holder.execute("BEGIN IMMEDIATE")
def work():
    con = sqlite.connect(path, timeout=60, isolation_level=None)
    con.execute("INSERT INTO t VALUES (1)")
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
"""
    quickly(body, path)
    assert rows(path) == [0]


def test_daemon_threads_waiting_for_a_connection_in_use(path):
    body = """
con = sqlite.connect(":memory:", check_same_thread=False)
def endless():
    con.execute(ENDLESS).fetchone()
for work in (endless, endless, con.commit, con.close, lambda: con.execute("SELECT 1"), lambda: con.total_changes):
    threading.Thread(target=work, daemon=True).start()
    time.sleep(0.05)
"""
    quickly(body, path)


def test_daemon_threads_in_a_pool(path):
    body = """
pool = sqlite.ConnectionPool(path, max_size=2, check_interval=0.01)
def work():
    while True:
        with pool.connection(timeout=60) as con:
            con.execute("INSERT INTO t VALUES (1)")
for _ in range(5):
    threading.Thread(target=work, daemon=True).start()
held = pool.acquire()
time.sleep(0.3)
"""
    for _ in range(3):
        quickly(body, path)
    rows(path)


#: Python code that SQLite calls: before Python 3.14 a daemon thread is unwound out of it at exit.
BUSY = {
    "function": "con.create_function('f', 1, lambda x: sum(range(50)))\n    sql = 'SELECT f(1), f(2), f(3)'",
    "aggregate": """
    class Sum:
        def step(self, x): sum(range(50))
        def finalize(self): return sum(range(50))
    con.create_aggregate('f', 1, Sum)
    sql = 'SELECT f(1)'""",
    "collation": "con.create_collation('c', lambda a, b: len(range(50)) and (a > b) - (a < b))\n    "
    "sql = \"SELECT * FROM (VALUES ('a'), ('c'), ('b')) ORDER BY 1 COLLATE c\"",
    "row factory": "con.row_factory = lambda c, r: [sum(range(50))]\n    sql = 'SELECT 1 UNION SELECT 2'",
    "text factory": "con.text_factory = lambda b: sum(range(50))\n    sql = \"SELECT 'a', 'b'\"",
    "trace": "con.set_trace_callback(lambda sql: sum(range(50)))\n    sql = 'SELECT 1'",
    "progress": "con.set_progress_handler(lambda: 0 * sum(range(50)), 1)\n    sql = 'SELECT 1 UNION SELECT 2'",
    "authorizer": "con.set_authorizer(lambda *_: 0 * sum(range(50)))\n    sql = 'SELECT 1'",
}


@pytest.mark.parametrize("install", BUSY.values(), ids=BUSY)
def test_daemon_threads_inside_callbacks(path, install):
    body = f"""
def work():
    con = sqlite.connect(":memory:", cached_statements=0)
    {install}
    while True:
        con.execute(sql).fetchall()
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.2)
"""
    for _ in range(3):
        quickly(body, path)


def silent(body, path):
    """Nothing is written to standard error either."""
    done = subprocess.run(
        [sys.executable, "-c", HEADER + body, str(path)],
        env=child_env(),
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_use_from_exit_handlers_and_globals_at_shutdown(path):
    body = """
con = sqlite.connect(path, check_same_thread=False)
pool = sqlite.ConnectionPool(path)
class Late:
    def __init__(self):
        self.con = con
        self.cursor = con.execute("SELECT * FROM t")
        self.row = con.execute("SELECT x FROM t").fetchone()
    def __del__(self):
        self.cursor.fetchall()
        self.con.execute("SELECT 1").fetchone()
        self.con.rollback()
        self.con.close()
late = Late()
def at_exit():
    with con:
        con.execute("INSERT INTO t VALUES (5)")
    with pool.connection() as lent:
        lent.execute("INSERT INTO t VALUES (6)")
atexit.register(at_exit)
"""
    silent(body, path)
    assert rows(path) == [0, 5, 6]


def test_a_pool_in_a_thread_that_outlives_the_main_one(path):
    body = """
pool = sqlite.ConnectionPool(path)
def work():
    time.sleep(0.3)
    for i in range(1, 20):
        with pool.connection() as con:
            con.execute("INSERT INTO t VALUES (?)", (i,))
threading.Thread(target=work).start()
"""
    silent(body, path)
    assert rows(path) == list(range(20))


def test_ctrl_c_ends_a_wait_for_a_pool(path):
    body = """
import signal
pool = sqlite.ConnectionPool(path, min_size=1, max_size=1)
held = pool.acquire()
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
start = time.monotonic()
try:
    pool.acquire(timeout=60)
except KeyboardInterrupt:
    held.close()
    again = pool.acquire(timeout=0)
    os._exit(0 if again and time.monotonic() - start < 15 else 4)
os._exit(5)
"""
    run(HEADER + body, path, timeout=40)


def test_threads_that_come_out_of_sqlite_after_the_end(path):
    """Threads that wake up in SQLite when the interpreter is gone stay where they are."""
    body = """
barrier = threading.Barrier(5)
def work():
    con = sqlite.connect(":memory:")
    barrier.wait(20)
    for _ in range(10_000):
        con.execute(ENDLESS.replace("FROM n)", "FROM n LIMIT 20000)")).fetchone()
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
barrier.wait(20)
"""
    for _ in range(5):
        quickly(body, path)


@pytest.mark.parametrize(
    "work",
    ["kept.execute(ENDLESS)", "any(iter(lambda: kept.execute('SELECT 0').fetchone()[0], 1))"],
    ids=["one statement", "many"],
)
def test_a_connection_that_somebody_kept_holds_up_nothing(path, work):
    """Given back, it is idle; a daemon thread executes on it all the same."""
    body = f"""
pool = sqlite.ConnectionPool(path)
borrowed = pool.acquire()
kept = borrowed.conn
borrowed.close()
threading.Thread(target=lambda: {work}, daemon=True).start()
time.sleep(0.3)
"""
    quickly(body, path)
    assert rows(path) == [0]
