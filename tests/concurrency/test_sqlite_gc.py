"""Garbage collection: cycles through connections, cursors, rows, blobs and pools die; without cycles at once."""

from __future__ import annotations

import gc
import sqlite3
import weakref

import pytest
from harness import run_literal

import upshift.sqlite
from upshift.sqlite import ConnectionPool

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


class Thing:
    """Something weakly referenceable to put into cycles."""


class Connection(upshift.sqlite.Connection):
    pass


class Cursor(upshift.sqlite.Cursor):
    pass


def dies(build):
    """Whether what `build` returns is collected once nobody holds it."""
    reference = weakref.ref(build())
    gc.collect()
    gc.collect()
    return reference() is None


def through_attribute():
    con = upshift.sqlite.connect(":memory:", factory=Connection)
    con.me = con
    return con


def through_row_factory():
    con = upshift.sqlite.connect(":memory:")
    con.row_factory = lambda cursor, row: con
    con.execute("SELECT 1").fetchone()
    return con


def through_text_factory():
    con = upshift.sqlite.connect(":memory:")
    con.text_factory = lambda raw: con
    con.execute("SELECT 'a'").fetchone()
    return con


def through_function():
    con = upshift.sqlite.connect(":memory:")
    con.create_function("f", 1, lambda x: con and x)
    con.execute("SELECT f(1)").fetchone()
    return con


def through_aggregate():
    con = upshift.sqlite.connect(":memory:")

    class Sum:
        owner = con

        def step(self, x):
            pass

        def finalize(self):
            return 1

    con.create_aggregate("f", 1, Sum)
    con.execute("SELECT f(1)").fetchone()
    return con


def through_collation():
    con = upshift.sqlite.connect(":memory:")
    con.create_collation("c", lambda a, b: 0 if con else 1)
    return con


def through_authorizer():
    con = upshift.sqlite.connect(":memory:")
    con.set_authorizer(lambda *_: 0 if con else 1)
    con.execute("SELECT 1")
    return con


def through_progress_handler():
    con = upshift.sqlite.connect(":memory:")
    con.set_progress_handler(lambda: 0 if con else 1, 10)
    return con


def through_trace():
    con = upshift.sqlite.connect(":memory:")
    con.set_trace_callback(lambda sql: con)
    con.execute("SELECT 1")
    return con


def through_cursor():
    con = upshift.sqlite.connect(":memory:", factory=Connection)
    con.cursor_ = con.execute("SELECT 1 UNION SELECT 2")
    con.cursor_.fetchone()
    return con


def through_attribute_of_a_cursor():
    cur = upshift.sqlite.connect(":memory:").cursor(Cursor)
    cur.me = cur
    cur.execute("SELECT 1")
    return cur


def through_row_factory_of_a_cursor():
    cur = upshift.sqlite.connect(":memory:").cursor()
    cur.row_factory = lambda cursor, row: cur
    cur.execute("SELECT 1 UNION SELECT 2").fetchone()
    return cur


def through_rows():
    thing = Thing()
    con = upshift.sqlite.connect(":memory:", detect_types=upshift.sqlite.PARSE_COLNAMES)
    con.row_factory = upshift.sqlite.Row
    upshift.sqlite.register_converter("thing", lambda raw: thing)
    try:
        thing.row = con.execute("SELECT 1 AS 'x [thing]'").fetchone()
    finally:
        del sqlite3.converters["THING"]
    assert thing.row["x"] is thing
    return thing


def through_blob():
    con = upshift.sqlite.connect(":memory:", factory=Connection)
    con.execute("CREATE TABLE t (b)")
    con.execute("INSERT INTO t VALUES (zeroblob(5))")
    con.blob = con.blobopen("t", "b", 1)
    return con


def through_dump():
    con = upshift.sqlite.connect(":memory:", factory=Connection)
    con.execute("CREATE TABLE t (b)")
    con.dump = con.iterdump()
    next(con.dump)
    return con


def through_parameters():
    """The parameters of a statement that has not ended, if anything keeps them."""
    thing = Thing()

    class Text(str):
        owner = thing

    thing.cur = upshift.sqlite.connect(":memory:").execute("SELECT ? UNION SELECT 2", (Text("a"),))
    thing.cur.fetchone()
    return thing


BUILDERS = [
    through_attribute,
    through_row_factory,
    through_text_factory,
    through_function,
    through_aggregate,
    through_collation,
    through_authorizer,
    through_progress_handler,
    through_trace,
    through_cursor,
    through_attribute_of_a_cursor,
    through_row_factory_of_a_cursor,
    through_rows,
    through_blob,
    through_dump,
    through_parameters,
]


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_a_cycle_dies(build):  # DESIGN §2.4
    assert dies(build)


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_a_cycle_of_a_closed_connection_dies(build):
    def closed():
        thing = build()
        con = thing if isinstance(thing, sqlite3.Connection) else getattr(thing, "connection", None)
        if con is not None:
            con.close()
        return thing

    assert dies(closed)


def test_a_pool_in_a_cycle_dies(tmp_path):
    def through_idle_connection():
        pool = ConnectionPool(tmp_path / "pool.db")
        with pool.connection() as con:
            con.create_function("f", 0, lambda: pool)
        return pool

    def through_loan():
        pool = ConnectionPool(tmp_path / "pool.db")
        pool.loan = pool.acquire()
        return pool

    def through_attribute():
        pool = ConnectionPool(tmp_path / "pool.db")
        pool.views = [pool.stats, pool.metadata, pool.available, pool.in_use, pool.lock, pool.maintenance_thread]
        return pool

    for build in (through_idle_connection, through_loan, through_attribute):
        assert dies(build), build


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_without_cycles_all_die_at_once(no_collector, tmp_path):
    con = upshift.sqlite.connect(tmp_path / "t.db")
    con.execute("CREATE TABLE t (x)")
    con.commit()
    cur = con.execute("SELECT * FROM t")
    function = Thing()
    con.create_function("f", 0, function.__repr__)
    con.row_factory = lambda cursor, row: row
    references = [weakref.ref(thing) for thing in (con, cur, function, con.row_factory)]
    del con, cur, function
    assert [reference() for reference in references] == [None] * 4


def test_callbacks_are_let_go_when_replaced_or_closed(no_collector):
    con = upshift.sqlite.connect(":memory:")

    def callback():
        thing = Thing()
        references.append(weakref.ref(thing))
        return lambda *_: 0 * len([thing])

    references = []
    for _ in range(3):
        con.create_function("f", 0, callback())
        con.create_collation("c", callback())
        con.set_authorizer(callback())
        con.set_progress_handler(callback(), 5)
        con.set_trace_callback(callback())
        con.row_factory = callback()
        con.text_factory = callback()
    assert [reference() is None for reference in references] == [True] * 14 + [False] * 7
    con.row_factory, con.text_factory = None, str
    con.close()
    assert [reference() for reference in references] == [None] * 21


def test_results_are_let_go(no_collector):
    """A cursor keeps nothing of what it has given away, nor of the parameters of a finished statement."""
    con = upshift.sqlite.connect(":memory:", detect_types=upshift.sqlite.PARSE_COLNAMES)
    thing = Thing()
    upshift.sqlite.register_converter("thing", lambda raw: Thing())
    try:
        cur = con.execute("SELECT 1 AS 'x [thing]' UNION ALL SELECT 2")
        references = [weakref.ref(row[0]) for row in cur.fetchall()]
    finally:
        del sqlite3.converters["THING"]
    assert [reference() for reference in references] == [None, None]

    class Text(str):
        pass

    text = Text("a")
    text.thing = thing
    reference = weakref.ref(thing)
    cur.execute("SELECT ?", (text,)).fetchall()
    del text, thing
    assert reference() is None
    con.close()


def test_everything_inside_is_visible_to_the_collector():  # DESIGN §2.4 "implements traverse"
    con = upshift.sqlite.connect(":memory:")
    factory, function, trace = (lambda *_: None), (lambda: 1), (lambda sql: None)
    con.row_factory = factory
    con.create_function("f", 0, function)
    con.set_trace_callback(trace)
    assert {id(factory), id(function), id(trace)} <= {id(item) for item in gc.get_referents(con)}
    cur = con.cursor()
    assert {id(con), id(factory)} <= {id(item) for item in gc.get_referents(cur)}
    con.close()


def test_classes_are_tracked():
    con = upshift.sqlite.connect(":memory:")
    con.row_factory = upshift.sqlite.Row
    row = con.execute("SELECT 'a'").fetchone()
    assert all(gc.is_tracked(thing) for thing in (con, con.cursor(), row))
    con.close()


def test_the_collector_strikes_while_an_object_is_made(tmp_path):
    """Python 3.11 may collect between the allocation of an object and the moment its fields are written."""
    program = """
    import gc, sys
    from upshift import ResultCache, sqlite
    class Pool(sqlite.ConnectionPool): pass
    class Connection(sqlite.Connection): pass
    class Cursor(sqlite.Cursor): pass
    con = sqlite.connect(":memory:")
    makers = [
        lambda: sqlite.ConnectionPool.__new__(sqlite.ConnectionPool), lambda: Pool.__new__(Pool),
        lambda: sqlite.Connection(":memory:").close(), lambda: Connection(":memory:").close(),
        con.cursor, lambda: Cursor(con), lambda: ResultCache(10),
    ]
    for make in makers:
        for i in range(300):
            gc.set_threshold(1 + i % 12, 1, 1)
            make()
    gc.set_threshold(700, 10, 10)
    pools = []
    for i in range(1500):
        pool = sqlite.ConnectionPool(sys.argv[1], min_size=0)
        pool.name = str(i)
        pools.append(pool)
    print(len(pools))
    """
    assert run_literal(program, tmp_path / "pool.db") == 1500


def test_the_collector_strikes_during_every_operation():
    program = """
    import gc, threading, warnings
    warnings.simplefilter("ignore", ResourceWarning)
    import upshift.sqlite as sqlite
    gc.set_threshold(1)
    con = sqlite.connect(":memory:", check_same_thread=False, isolation_level=None, detect_types=3)
    con.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x, s TEXT)")
    class Node:
        def __init__(self, x):
            self.me, self.x = self, x
        def __conform__(self, protocol):
            return self.x
        def __del__(self):
            con.execute("SELECT 1").fetchone()
    def work(n):
        for i in range(150):
            con.execute("INSERT INTO t (x, s) VALUES (?, ?)", (Node(i), "text"))
            con.executemany("INSERT INTO t (x) VALUES (?)", [(Node(i),) for i in range(3)])
            own = sqlite.connect(":memory:")
            own.create_function("f", 1, lambda x, node=Node(1), own=own: [x][0])
            own.row_factory = lambda cursor, row, node=Node(2): {"row": row, "node": Node(3)}
            assert own.execute("SELECT f(1)").fetchone()["row"] == (1,)
            own.me = own if hasattr(own, "__dict__") else None
            con.execute("SELECT * FROM t").fetchmany(3)
    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    [thread.start() for thread in threads]
    [thread.join(50) for thread in threads]
    print((any(thread.is_alive() for thread in threads), con.execute("SELECT count(*) FROM t").fetchone()))
    """
    assert run_literal(program, timeout=58) == (False, (3 * 150 * 4,))
