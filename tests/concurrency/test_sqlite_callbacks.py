"""Callbacks in bad company: cycles, re-entry, closing, other threads, long statements, the end of the interpreter."""

from __future__ import annotations

import contextlib
import gc
import sqlite3
import sys
import threading
import time
import weakref

import pytest
from harness import Task, eventually, run

from upshift import sqlite

COUNT = "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < {}) SELECT {} FROM r"
WINDOW = COUNT.format(9, "f(i) OVER (ORDER BY i ROWS 2 PRECEDING)")
SORTED = "SELECT x FROM (SELECT 'a' AS x UNION ALL SELECT 'b') ORDER BY x COLLATE c"


def window_class(body):
    """A class for aggregates and window functions all of whose methods call `body()`."""

    class Window:
        def __init__(self):
            body()

        def step(self, *_):
            body()

        inverse = step

        def value(self):
            return body() and 1

        finalize = value

    return Window


#: For each kind of callback: how to set one that calls `body()` and returns something harmless, and a statement for it.
KINDS = {
    "function": (lambda c, body: c.create_function("f", -1, lambda *_: body() and 1), "SELECT f(1)"),
    "aggregate": (lambda c, body: c.create_aggregate("f", -1, window_class(body)), "SELECT f(1)"),
    "window": (lambda c, body: c.create_window_function("f", -1, window_class(body)), WINDOW),
    "collation": (lambda c, body: c.create_collation("c", lambda *_: body() and 0), SORTED),
    "authorizer": (lambda c, body: c.set_authorizer(lambda *_: (body(), 0)[1]), "SELECT 1"),
    "progress": (lambda c, body: c.set_progress_handler(lambda: body() and None, 10), COUNT.format(9, "i")),
    "trace": (lambda c, body: c.set_trace_callback(lambda *_: body()), "SELECT 1"),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture
def connection():
    connection = sqlite.connect(":memory:", check_same_thread=False)
    yield connection
    connection.close()


def once(body):
    """Calls `body` the first time only, so that what it does may call back again."""
    calls = []

    def guarded():
        calls.append(1)
        if len(calls) == 1:
            body()

    return guarded


# ---- cycles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("used", [False, True])
def test_cycles_die(kind, used):
    def build():
        connection = sqlite.connect(":memory:")
        hook, statement = kind
        hook(connection, lambda: connection)
        if used:
            connection.execute(statement).fetchall()
        return weakref.ref(connection)

    reference = build()
    gc.collect()
    gc.collect()
    assert reference() is None


def test_cycles_through_several_connections_die(kind):
    one, other = sqlite.connect(":memory:"), sqlite.connect(":memory:")
    kind[0](one, lambda other=other: other)
    kind[0](other, lambda one=one: one)
    references = weakref.ref(one), weakref.ref(other)
    del one, other
    gc.collect()
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_a_replaced_callback_is_given_up(connection, kind):
    class Thing:
        pass

    thing = Thing()
    reference = weakref.ref(thing)
    kind[0](connection, lambda thing=thing: True)
    del thing
    assert reference() is not None
    kind[0](connection, lambda: True)
    gc.collect()
    assert reference() is None


def test_callbacks_are_given_up_when_the_connection_closes(kind):
    class Thing:
        pass

    thing = Thing()
    reference = weakref.ref(thing)
    connection = sqlite.connect(":memory:")
    kind[0](connection, lambda thing=thing: True)
    del thing
    connection.close()
    gc.collect()
    assert reference() is None


def test_a_compiled_statement_outlives_its_connection(kind):
    connection = sqlite.connect(":memory:")
    kind[0](connection, lambda: True)
    statement = connection(kind[1])
    reference = weakref.ref(connection)
    del connection
    assert reference() is None
    kept = [statement]
    kept.append(kept)
    del statement, kept
    gc.collect()


def test_collections_during_callbacks(connection, kind):
    hook, statement = kind

    def body():
        cycle = [sqlite.connect(":memory:")]
        cycle.append(cycle)
        hook(cycle[0], cycle.copy)
        del cycle
        gc.collect()
        return True

    hook(connection, body)
    connection.execute(statement).fetchall()


# ---- re-entry ------------------------------------------------------------------------------------------------------


def test_other_statements_may_run_within(connection, kind):
    hook, statement = kind
    expected = connection.execute(statement.replace("f(", "sum(").replace("COLLATE c", "")).fetchall()
    seen = []
    hook(connection, once(lambda: seen.extend(connection.execute("SELECT 'within'").fetchall())))
    assert len(connection.execute(statement).fetchall()) == len(expected)
    assert seen == [("within",)]


def test_writing_within_a_reading_statement(connection):
    connection.execute("CREATE TABLE log(x)")
    connection.create_function("log", 1, lambda x: connection.execute("INSERT INTO log VALUES (?)", (x,)).lastrowid)
    assert connection.execute(COUNT.format(5, "log(i)")).fetchall() == [(1,), (2,), (3,), (4,), (5,)]
    connection.commit()
    assert connection.execute("SELECT sum(x) FROM log").fetchone() == (15,)


def test_the_cursor_itself_may_not(connection, kind):
    hook, statement = kind
    errors = []
    cursor = connection.cursor()

    def body():
        for use in (
            lambda: cursor.execute("SELECT 1"),
            cursor.fetchall,
            cursor.fetchone,
            cursor.close,
            lambda: next(cursor),
        ):
            with pytest.raises(sqlite3.ProgrammingError, match="Recursive use of cursors not allowed"):
                use()
            errors.append(1)

    hook(connection, once(body))
    cursor.execute(statement)
    assert errors
    cursor.fetchall()


def test_closing_is_refused(connection, kind):
    hook, statement = kind
    refused = []

    def body():
        with pytest.raises(sqlite3.ProgrammingError, match="cannot close the connection"):
            connection.close()
        refused.append(1)
        return True

    hook(connection, body)
    assert connection.execute(statement).fetchall()
    assert refused
    connection.execute("SELECT 1")


@pytest.mark.parametrize("fetched", [0, 1, 3])
@pytest.mark.parametrize("end", ["close", "delete", "execute", "connection"])
def test_closing_is_refused_where_a_statement_is_broken_off(fetched, end):
    connection = sqlite.connect(":memory:")
    refused = []

    class Closing(window_class(lambda: True)):
        def finalize(self):
            with pytest.raises(sqlite3.ProgrammingError):
                connection.close()
            refused.append(connection.execute("SELECT 1").fetchall())
            return 1

    connection.create_window_function("f", -1, Closing)
    cursor = connection.execute(WINDOW)
    for _ in range(fetched):
        cursor.fetchone()
    if end == "close":
        cursor.close()
    elif end == "delete":
        del cursor
    elif end == "execute":
        cursor.execute("SELECT 1")
    else:
        connection.close()
        assert len(refused) == 1
        return
    assert refused == [[(1,)]]
    connection.close()


def test_initialising_again_within_is_no_crash(connection, kind):
    hook, statement = kind

    def body():
        with contextlib.suppress(sqlite3.Error):
            connection.__init__(":memory:")

    hook(connection, once(body))
    with contextlib.suppress(sqlite3.Error):
        connection.execute(statement).fetchall()


def test_the_last_references_may_go_within(kind):
    hook, statement = kind
    held = {}
    held["connection"] = sqlite.connect(":memory:")
    reference = weakref.ref(held["connection"])
    hook(held["connection"], lambda: held.clear() or gc.collect() or True)
    held["connection"].execute(statement).fetchall()
    assert not held
    gc.collect()
    assert reference() is None


def test_interrupting_from_within(connection):
    connection.create_function("stop", 0, connection.interrupt)
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        connection.execute(COUNT.format(1_000_000, "count(stop())")).fetchall()
    assert connection.execute("SELECT 1").fetchall() == [(1,)]


def test_callbacks_may_set_callbacks(connection, kind):
    hook, statement = kind

    def body():
        for other, _ in KINDS.values():
            with contextlib.suppress(sqlite3.Error):  # what is in use cannot be replaced
                other(connection, lambda: True)

    hook(connection, once(body))
    connection.execute(statement).fetchall()
    gc.collect()
    with contextlib.suppress(sqlite3.Error):
        connection.execute(statement).fetchall()


def test_exceptions_everywhere(connection, kind):
    hook, statement = kind

    def body():
        raise KeyError("within")

    hook(connection, body)
    for _ in range(20):
        with contextlib.suppress(sqlite3.Error, KeyError):
            connection.execute(statement).fetchall()
    hook(connection, lambda: True)
    assert connection.execute(statement).fetchall()


def test_endless_recursion_ends(connection):
    connection.create_function("f", 0, lambda: connection.execute("SELECT f()").fetchall())
    with pytest.raises(sqlite3.OperationalError):
        connection.execute("SELECT f()").fetchall()
    assert connection.execute("SELECT 1").fetchall() == [(1,)]


def test_two_connections_within_each_other():
    one, other = sqlite.connect(":memory:"), sqlite.connect(":memory:")
    one.create_function("there", 1, lambda x: other.execute("SELECT back(?)", (x,)).fetchone()[0])
    other.create_function("back", 1, lambda x: one.execute("SELECT ? + 1", (x,)).fetchone()[0])
    assert one.execute(COUNT.format(100, "there(i)")).fetchall() == [(i + 1,) for i in range(1, 101)]


def test_a_fork_of_frames():
    """Callbacks of callbacks of many kinds at once."""
    connection = sqlite.connect(":memory:")
    depth = []

    def body():
        if len(depth) < 5:
            depth.append(1)
            for _, statement in KINDS.values():
                connection.execute(statement).fetchall()
            depth.pop()
        return True

    for hook, _ in KINDS.values():
        with contextlib.suppress(sqlite3.OperationalError):
            hook(connection, body)
    depth.extend([1] * 4)
    for _, statement in KINDS.values():
        connection.execute(statement).fetchall()
    connection.close()


# ---- threads -------------------------------------------------------------------------------------------------------


class Spin:
    """A thread that runs Python code, and counts how far it gets."""

    def __enter__(self):
        self.count = 0
        self.stopped = False
        self.task = Task(self.run)
        eventually(lambda: self.count)
        return self

    def run(self):
        while not self.stopped:
            self.count += 1

    def __exit__(self, *_):
        self.stopped = True
        self.task.result()


@pytest.mark.parametrize("function", [lambda x: x, abs], ids=["Python", "C"])
def test_a_long_statement_shares_the_interpreter(connection, function):
    """A statement that calls a function all the time neither starves other threads nor is starved by them."""
    connection.create_function("f", 1, function)
    statement = COUNT.format(200_000, "sum(f(i))")
    start = time.perf_counter()
    connection.execute(statement).fetchall()
    alone = time.perf_counter() - start
    assert alone > 0.05
    with Spin() as spin:
        before = spin.count
        start = time.perf_counter()
        assert connection.execute(statement).fetchall() == [(200_000 * 200_001 // 2,)]
        beside = time.perf_counter() - start
        assert spin.count - before > 1000
    # Fair would be 2, and the other thread's turns of 5 ms between turns of 5 ms.
    assert beside < 12 * alone + 1


def test_many_threads_with_functions_of_their_own():
    def work(place):
        connection = sqlite.connect(":memory:")
        connection.create_function("f", 1, lambda x: x + place)
        connection.create_aggregate("g", 1, window_class(lambda: True))
        connection.create_collation("c", lambda a, b: (a > b) - (a < b))
        connection.set_progress_handler(lambda: None, 500)
        for _ in range(3):
            rows = connection.execute(COUNT.format(5000, "sum(f(i)), g(i)")).fetchall()
            assert rows == [(5000 * 5001 // 2 + 5000 * place, 1)]
            assert connection.execute(SORTED).fetchall() == [("a",), ("b",)]
        connection.close()

    for task in [Task(work, place) for place in range(6)]:
        task.result()


def test_one_connection_of_many_threads(connection, kind):
    hook, statement = kind
    calls = []
    hook(connection, lambda: calls.append(1) or True)

    def work():
        for _ in range(50):
            assert connection.execute(statement).fetchall()

    for task in [Task(work) for _ in range(4)]:
        task.result()
    assert calls


def test_waiting_for_each_other(connection):
    """A function waits for a thread that needs the interpreter, and waits for the connection meanwhile."""
    turns = []

    def wait(x):
        task = Task(lambda: turns.append(sqlite.connect(":memory:").execute("SELECT 1").fetchone()))
        other = Task(lambda: connection.execute("SELECT 2").fetchone())
        task.result()
        assert not other.done()
        waiting.append(other)
        return x

    waiting = []
    connection.create_function("wait", 1, wait)
    assert connection.execute(COUNT.format(5, "sum(wait(i))")).fetchone() == (15,)
    assert [task.result() for task in waiting] == [(2,)] * 5
    assert len(turns) == 5


def test_closing_from_another_thread_waits(connection):
    inside = threading.Event()
    connection.create_function("slow", 1, lambda x: inside.set() or time.sleep(0.01) or x)
    running = Task(lambda: connection.execute(COUNT.format(20, "sum(slow(i))")).fetchone())
    inside.wait(20)
    connection.close()
    with contextlib.suppress(sqlite3.ProgrammingError):  # closed before the row could be fetched
        assert running.result() == (210,)


def test_interrupting_from_another_thread(connection):
    inside = threading.Event()
    connection.create_function("f", 1, lambda x: inside.set() or x)
    running = Task(lambda: connection.execute(COUNT.format(50_000_000, "sum(f(i))")).fetchone())
    inside.wait(20)
    connection.interrupt()
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        running.result()


def test_the_progress_handler_of_a_long_statement(connection):
    """It is called with the interpreter, which the statement has let go of; and the statement still lets go."""
    calls = []
    for n in (1000, 50_000, 1_000_003):
        connection.set_progress_handler(lambda: calls.append(sys.getrefcount(calls)) and None, n)
        with Spin() as spin:
            before, done = spin.count, len(calls)
            connection.execute(COUNT.format(1_000_000, "count(i)")).fetchall()
            assert spin.count - before > 1000
            assert len(calls) - done > 10


def test_a_c_function_as_progress_handler_does_not_starve_others(connection):
    event = threading.Event()
    connection.set_progress_handler(event.is_set, 100)
    Task(lambda: time.sleep(0.05) or event.set())
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        connection.execute(COUNT.format(1_000_000_000, "count(i)")).fetchall()


@pytest.mark.parametrize("kind", ["function", "window", "collation", "progress"])
@pytest.mark.parametrize("where", [":memory:", "file"])
def test_daemon_threads_inside_callbacks_at_exit(tmp_path, kind, where):
    code = """
import sys, threading, time
from upshift import sqlite
class Window:
    def step(self, x): pass
    inverse = step
    def value(self): return 1
    finalize = value
started = []
def work(place):
    connection = sqlite.connect(sys.argv[1] if sys.argv[1] == ":memory:" else sys.argv[1] + str(place))
    kind = sys.argv[2]
    if kind == "progress":
        connection.set_progress_handler(lambda: 0, 10)
    connection.create_function("f", 1, lambda x: x)
    connection.create_window_function("w", 1, Window)
    connection.create_collation("c", lambda a, b: (a > b) - (a < b))
    what = {"function": "sum(f(i))", "window": "w(i) OVER (ORDER BY i ROWS 2 PRECEDING)", "progress": "sum(i)",
            "collation": "sum('a' || i < 'b' || i COLLATE c)"}[kind]
    started.append(1)
    while True:
        connection.execute("WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < 10000) SELECT "
                           + what + " FROM r").fetchall()
for place in range(4):
    threading.Thread(target=work, args=(place,), daemon=True).start()
while len(started) < 4:
    time.sleep(0.01)
time.sleep(0.2)
"""
    run(code, where if where == ":memory:" else tmp_path / "database", kind, timeout=30)


def test_exit_with_an_aggregate_under_way():
    code = """
from upshift import sqlite
class Window:
    def step(self, x): pass
    inverse = step
    def value(self): return 1
    def finalize(self): return connection.execute("SELECT 1").fetchone()[0]
connection = sqlite.connect(":memory:")
connection.create_window_function("w", 1, Window)
rows = connection.execute("SELECT w(x) OVER (ORDER BY x) FROM (SELECT 1 AS x UNION SELECT 2)")
next(rows)
"""
    run(code)
