"""Connections, cursors and blobs shared by threads, closed under running statements, and outlived by what they made."""

from __future__ import annotations

import itertools
import os
import sqlite3
import threading
import time
from contextlib import closing, suppress

import pytest
from harness import Task, eventually, run, run_literal, together

import upshift.sqlite

COUNT = "WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n LIMIT ?) SELECT count(*) FROM n"
ROWS = "WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n LIMIT ?) SELECT x FROM n"


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "threads.db")


@pytest.fixture(params=["memory", "file"])
def con(request, path):
    name = ":memory:" if request.param == "memory" else path
    connection = upshift.sqlite.connect(name, check_same_thread=False, isolation_level=None)
    yield connection
    connection.close()


@pytest.fixture
def running(con):
    """Starts a statement in a thread and returns when it runs; it takes minutes unless something ends it."""
    tasks = []

    def start(steps=3_000_000_000):
        begun = threading.Event()
        con.create_function("begun", 0, lambda: begun.set() or steps)
        task = Task(lambda: con.execute(COUNT.replace("?", "begun()")).fetchone())
        tasks.append(task)
        assert begun.wait(20)
        time.sleep(0.02)
        return task

    yield start
    for task in tasks:
        while not task.done():
            con.interrupt()
            task.join(0.05)


# --- running statements


def test_interrupt_ends_a_statement_of_another_thread(con, running):
    task = running()
    start = time.monotonic()
    con.interrupt()
    with pytest.raises(sqlite3.OperationalError, match="interrupted") as caught:
        task.result(20)
    assert caught.value.sqlite_errorcode == 9
    assert time.monotonic() - start < 5
    assert con.execute("SELECT 1").fetchone() == (1,)


def test_closing_waits_for_the_statement_of_another_thread(con, running):
    task = running(steps=3_000_000)
    con.close()
    with suppress(sqlite3.ProgrammingError):  # closed between the statement's last step and the fetch
        assert task.result(30) == (3_000_000,)
    with pytest.raises(sqlite3.ProgrammingError):
        con.execute("SELECT 1")


def test_closing_while_a_statement_is_interrupted(con, running):
    task = running()
    closing_task = Task(con.close)
    time.sleep(0.05)
    deadline = time.monotonic() + 20
    while not closing_task.done() and time.monotonic() < deadline:
        con.interrupt()
        closing_task.join(0.02)
    closing_task.result(1)
    with pytest.raises((sqlite3.OperationalError, sqlite3.ProgrammingError)):
        task.result(20)


def test_another_thread_waits_for_its_turn(con, running):
    task = running(steps=2_000_000)
    assert con.execute("SELECT 7").fetchone() == (7,)
    assert task.result(30) == (2_000_000,)


def test_other_python_threads_run_meanwhile(con, running):
    task = running(steps=4_000_000)
    turns = 0
    while not task.done():
        turns += 1
        time.sleep(0.001)
    assert task.result() == (4_000_000,)
    assert turns > 20


def test_two_connections_run_in_parallel(path):
    """A long statement releases the interpreter's lock, so that two take less than twice as long as one."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("platform: has one processor")

    def work(_):
        with closing(upshift.sqlite.connect(":memory:")) as connection:
            start = time.perf_counter()
            assert connection.execute(COUNT, (3_000_000,)).fetchone() == (3_000_000,)
            return start, time.perf_counter()

    def overlap():
        spans = sorted(together(work, 2))
        return spans[0][1] - spans[1][0] > 0.5 * (spans[1][1] - spans[1][0])

    assert any(overlap() for _ in range(3))


def test_interrupting_an_idle_connection_does_nothing(con):
    con.interrupt()
    assert con.execute("SELECT 1").fetchone() == (1,)
    con.close()
    with pytest.raises(sqlite3.ProgrammingError):
        con.interrupt()


# --- shared objects


def test_threads_share_one_cursor(con):
    cursor = con.execute(ROWS, (6000,))
    fetch = [cursor.fetchone, lambda: cursor.fetchmany(5), lambda: next(cursor, None)]

    def work(index):
        seen = []
        while True:
            found = fetch[index % 3]()
            if not found:
                return seen
            seen += [x for (x,) in found] if isinstance(found, list) else found

    seen = list(itertools.chain(*together(work, 6)))
    assert sorted(seen) == list(range(1, 6001))


def test_nobody_misses_a_row_of_a_shared_cursor(con):
    """A step that takes long lets the others in; they wait for their row instead of seeing the end of the rows."""
    total, fetchers = 48, 4
    slow = "(WITH RECURSIVE n(x) AS (VALUES (r.x) UNION ALL SELECT x + 1 FROM n LIMIT 5000) SELECT count(*) FROM n)"
    rows = f"WITH RECURSIVE r(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM r LIMIT ?) SELECT x, {slow} FROM r"
    for fetch in (lambda cursor: cursor.fetchone(), lambda cursor: next(cursor), lambda cursor: cursor.fetchmany(1)[0]):
        cursor = con.execute(rows, (total,))

        def work(_, fetch=fetch, cursor=cursor):
            return [fetch(cursor)[0] for _ in range(total // fetchers)]

        assert sorted(itertools.chain(*together(work, fetchers))) == list(range(1, total + 1))
        assert cursor.fetchone() is None


def test_threads_execute_on_one_cursor(con):
    """Results mix, but each is a row of one of the statements, and nobody is refused."""
    cursor = con.cursor()

    def work(index):
        wrong = []
        for i in range(300):
            row = cursor.execute("SELECT ?, ?", (index, i)).fetchone()
            if row is not None and not (0 <= row[0] < 4 and 0 <= row[1] < 300):
                wrong.append(row)
        return wrong

    assert together(work, 4) == [[]] * 4


def test_one_thread_closes_what_others_use(con):
    con.execute("CREATE TABLE t (x)")
    done = [0] * 4

    def work(index):
        if index == 0:
            eventually(lambda: min(done[1:]) > 1, interval=0.001)
            return con.close()
        with suppress(sqlite3.ProgrammingError):
            while True:
                con.execute("INSERT INTO t VALUES (?)", (done[index],))
                con.execute("SELECT count(*) FROM t").fetchone()
                done[index] += 1

    together(work, 4)
    with pytest.raises(sqlite3.ProgrammingError):
        con.execute("SELECT 1")


def test_one_thread_closes_the_cursor_others_fetch_from(con):
    for _ in range(20):
        cursor = con.execute(ROWS, (100_000,))

        def work(index, cursor=cursor):
            if index == 0:
                time.sleep(0.002)
                return cursor.close()
            try:
                while cursor.fetchmany(10):
                    pass
            except sqlite3.ProgrammingError:
                pass

        together(work, 3)
        with pytest.raises(sqlite3.ProgrammingError):
            cursor.fetchone()


def test_total_changes_adds_up(con):
    con.execute("CREATE TABLE t (x)")
    together(lambda index: [con.execute("INSERT INTO t VALUES (1)") for _ in range(100)] and None, 4)
    assert con.total_changes == 400


def test_the_target_of_a_backup_is_nobody_elses(con):
    """SQLite does not look after that, and would crash."""
    con.execute("CREATE TABLE t (x)")
    con.executemany("INSERT INTO t VALUES (?)", [("x" * 500,) for _ in range(100)])
    target = upshift.sqlite.connect(":memory:", check_same_thread=False, isolation_level=None)
    refused = []

    def intrude(*_):
        uses = [
            lambda: target.execute("SELECT count(*) FROM t").fetchall(),
            lambda: target.execute("BEGIN IMMEDIATE"),
            lambda: target.commit(),
            lambda: target.in_transaction,
            lambda: con.backup(target),
            lambda: target.backup(con),
            lambda: target.close(),
        ]
        for use in uses:
            with pytest.raises((sqlite3.OperationalError, sqlite3.ProgrammingError)) as caught:
                use()
            refused.append(caught.type)

    def progress(status, remaining, total):
        if remaining == total - 2:
            intrude()
            Task(intrude).result()
            assert con.execute("SELECT count(*) FROM t").fetchone() == (100,)

    con.backup(target, pages=1, progress=progress)
    assert len(refused) == 14
    assert target.execute("SELECT count(*) FROM t").fetchone() == (100,)
    assert target.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    target.close()


CHAOS = """
import faulthandler, gc, os, random, sys, threading, time, warnings
faulthandler.enable()
faulthandler.dump_traceback_later(50, exit=True)
import upshift.sqlite as sqlite
path, seed, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
sys.setswitchinterval(1e-5)
sys.unraisablehook = lambda *_: None
opened = []
def open_one():
    options = {"isolation_level": random.choice([None, "", "IMMEDIATE"])}
    options["cached_statements"] = random.choice([0, 3, 128])
    con = sqlite.connect(random.choice([path, path, ":memory:"]), check_same_thread=False, timeout=0.2, **options)
    opened.append(con)
    try:
        con.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, x, s TEXT, b BLOB)")
        con.execute("INSERT INTO t (x, s, b) VALUES (1, 'a', zeroblob(50))")
        con.commit()
    except sqlite.Error:
        pass
    return con
cons = [open_one() for _ in range(4)]
cursors = [con.cursor() for con in cons for _ in range(2)]
deadline = time.monotonic() + seconds
done = [0]
class Sum:
    def __init__(self): self.n = 0
    def step(self, x): self.n += 1
    def finalize(self): return self.n
def give_up(*progress):
    "A backup waits for ever while somebody holds a transaction open."
    if time.monotonic() > deadline or random.random() < 0.1:
        raise TypeError
def operations(rng):
    con, cur = rng.choice(cons), rng.choice(cursors)
    yield lambda: cur.execute("SELECT * FROM t")
    yield lambda: cur.execute("SELECT * FROM t WHERE id = ?", (rng.randrange(50),))
    yield lambda: cur.execute("INSERT INTO t (x, s) VALUES (?, ?)", (rng.random(), "x" * rng.randrange(2000)))
    yield lambda: cur.executemany("INSERT INTO t (x) VALUES (?)", [(i,) for i in range(20)])
    yield lambda: cur.execute("DELETE FROM t WHERE id > 300")
    yield lambda: cur.executescript("SELECT 1; INSERT INTO t (x) VALUES (5);")
    yield lambda: cur.fetchone()
    yield lambda: cur.fetchmany(3)
    yield lambda: cur.fetchall()
    yield lambda: next(cur, None)
    yield lambda: (cur.description, cur.rowcount, cur.lastrowid, cur.connection)
    yield lambda: con.commit()
    yield lambda: con.rollback()
    yield lambda: con.interrupt()
    yield lambda: con.execute("UPDATE t SET x = x + 1 WHERE id % 7 = 0")
    yield lambda: (con.in_transaction, con.total_changes, con.isolation_level)
    yield lambda: setattr(con, "row_factory", rng.choice([None, sqlite.Row, lambda c, r: list(r)]))
    yield lambda: setattr(con, "text_factory", rng.choice([str, bytes, lambda b: b.decode()]))
    yield lambda: setattr(con, "isolation_level", rng.choice([None, "", "IMMEDIATE"]))
    yield lambda: con.create_function("f", 1, lambda x: x)
    yield lambda: con.create_function("f", 1, lambda x: con.execute("SELECT 1").fetchone()[0])
    yield lambda: con.create_function("f", 1, None)
    yield lambda: con.execute("SELECT f(x) FROM t").fetchall()
    yield lambda: con.create_aggregate("a", 1, Sum)
    yield lambda: con.execute("SELECT a(x), count(*) FROM t").fetchall()
    yield lambda: con.create_collation("c", lambda a, b: (a > b) - (a < b))
    yield lambda: con.execute("SELECT s FROM t ORDER BY s COLLATE c").fetchmany(5)
    yield lambda: con.set_trace_callback(rng.choice([None, str]))
    yield lambda: con.set_progress_handler(rng.choice([None, lambda: 0, lambda: rng.random() < 0.01]), 50)
    yield lambda: con.set_authorizer(rng.choice([None, None, lambda *_: sqlite.SQLITE_OK]))
    yield lambda: con.backup(rng.choice(cons), pages=rng.choice([-1, 1]), sleep=0.001, progress=give_up)
    yield lambda: list(con.iterdump()) if rng.random() < 0.2 else None
    yield lambda: con.blobopen("t", "b", 1).read() if hasattr(con, "blobopen") else None
    yield lambda: con.serialize() if hasattr(con, "serialize") else None
    yield lambda: con.__exit__(None, None, None)
    yield lambda: cursors.__setitem__(rng.randrange(len(cursors)), rng.choice(cons).cursor())
    yield lambda: cur.close() if rng.random() < 0.2 else None
    yield lambda: cons.__setitem__(rng.randrange(len(cons)), open_one()) if rng.random() < 0.1 else None
    yield lambda: con.close() if rng.random() < 0.1 else None
    yield lambda: gc.collect() if rng.random() < 0.05 else None
def work(index):
    rng = random.Random(seed * 100 + index)
    while time.monotonic() < deadline:
        for operation in rng.sample(list(operations(rng)), 8):
            try:
                operation()
            except (sqlite.Error, sqlite.Warning, TypeError, ValueError):
                pass
            done[0] += 1
threads = [threading.Thread(target=work, args=(index,)) for index in range(5)]
[thread.start() for thread in threads]
[thread.join(40) for thread in threads]
alive = [thread.is_alive() for thread in threads]
for con in opened:
    con.close()
import sqlite3
with sqlite3.connect(path, timeout=20) as con:
    sound = con.execute("PRAGMA integrity_check").fetchone()[0]
print((alive, done[0] > 100, sound))
"""


@pytest.mark.parametrize("seed", range(4))
def test_chaos(path, seed):
    """Threads do whatever comes to their minds with shared connections; nothing crashes, hangs or is corrupted."""
    warnings = {"PYTHONWARNINGS": "ignore"}
    assert run_literal(CHAOS, path, seed, 2.5, env=warnings, timeout=58) == ([False] * 5, True, "ok")


# --- what outlives a connection


OUTLIVING = """
import faulthandler, gc, itertools, sys, threading, warnings
faulthandler.enable()
warnings.simplefilter("ignore", ResourceWarning)
import upshift.sqlite as sqlite
path = sys.argv[1]
with sqlite.connect(path) as con:
    con.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, b BLOB)")
    con.executemany("INSERT INTO t (b) VALUES (zeroblob(1000))", [()] * 100)
con.close()
def make():
    con = sqlite.connect(path, check_same_thread=False)
    con.row_factory = sqlite.Row
    things = {
        "connection": con,
        "running": con.execute("SELECT * FROM t"),
        "finished": con.execute("SELECT 1"),
        "fresh": con.cursor(),
        "row": con.execute("SELECT id, b FROM t").fetchone(),
        "dump": con.iterdump(),
    }
    things["running"].fetchone()
    next(things["dump"])
    if hasattr(con, "blobopen"):
        things["blob"] = con.blobopen("t", "b", 1)
    return things
def use(things):
    for name, thing in things.items():
        try:
            if name == "row":
                assert thing["id"] == 1 and len(thing["b"]) == 1000
            elif name == "blob":
                thing.read(10)
            elif name == "dump":
                list(thing)
            elif name == "connection":
                thing.execute("SELECT 1").fetchone()
            else:
                thing.fetchone()
                thing.execute("SELECT 1").fetchall()
        except sqlite.ProgrammingError:
            pass
"""


@pytest.mark.parametrize("close", ["close", "drop"])
@pytest.mark.parametrize("where", ["here", "thread"])
def test_cursors_rows_and_blobs_outlive_their_connection(path, close, where):  # issue 3 §6
    body = f"""
    in_thread = {where == "thread"}
    for order in itertools.permutations(["running", "fresh", "row", "blob"]):
        things = make()
        con = things.pop("connection")
        if "{close}" == "close":
            con.close()
        del con
        gc.collect()
        use(things)
        for name in order:
            held = [things.pop(name, None)]
            if in_thread:
                thread = threading.Thread(target=held.clear)
                thread.start()
                thread.join()
            held.clear()
            gc.collect()
            use(things)
        things.clear()
    """
    run(OUTLIVING + "\nif True:\n" + body, path)


def test_the_connection_goes_with_its_last_cursor(path):
    """A cursor keeps its connection open; both go together, and the file is closed then."""
    body = """
    import os
    def descriptors():
        return sum(os.path.realpath(f"/proc/self/fd/{fd}").startswith(path) for fd in os.listdir("/proc/self/fd"))
    if not os.path.isdir("/proc/self/fd"):
        print((True, True, 0))
        sys.exit()
    things = make()
    for name in ("connection", "finished", "fresh", "row", "dump", "blob"):
        things.pop(name, None)
    gc.collect()
    still = descriptors() > 0
    rows = len(things["running"].fetchall()) == 99
    things.clear()
    gc.collect()
    print((still, rows, descriptors()))
    """
    assert run_literal(OUTLIVING + "\nif True:\n" + body, path) == (True, True, 0)


def test_objects_dropped_while_the_connection_works(con, running):
    """Their statements are finalised later: the connection is taken."""
    cursors = [con.execute(ROWS, (1000,)) for _ in range(50)]
    for cursor in cursors:
        cursor.fetchone()
    del cursor
    task = running(steps=3_000_000)
    start = time.monotonic()
    cursors.clear()
    assert time.monotonic() - start < 5
    assert task.result(30) == (3_000_000,)
    con.execute("CREATE TABLE t (x)")
    con.execute("DROP TABLE t")


def test_a_connection_is_dropped_by_a_thread_that_did_not_open_it(path):
    held = [upshift.sqlite.connect(path)]
    held[0].execute("CREATE TABLE t (x)")
    held[0].commit()
    with pytest.raises(sqlite3.ProgrammingError):
        Task(lambda: held[0].execute("SELECT 1")).result()
    held[0].close()
    Task(held.clear).result()
    eventually(lambda: not os.path.exists(path + "-wal"))


def test_an_unfinished_statement_does_not_block_the_end_of_its_connection(path):
    connection = upshift.sqlite.connect(path)
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.executescript("CREATE TABLE t (x); INSERT INTO t VALUES (1); INSERT INTO t VALUES (2);")
    cursor = connection.execute("SELECT x FROM t")
    assert cursor.fetchone() == (1,)
    connection.close()
    assert not os.path.exists(path + "-wal")
    with pytest.raises(sqlite3.ProgrammingError):
        cursor.fetchone()
