"""Opening, using and dropping for ever needs no more threads, descriptors or memory than once."""

from __future__ import annotations

import os

import pytest
from harness import run_literal

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="platform: counts resources in /proc")

LOOP = """
    import asyncio, gc, os, sys, threading, warnings
    warnings.simplefilter("ignore", ResourceWarning)
    import upshift.sqlite as sqlite
    folder = sys.argv[1]
    path = os.path.join(folder, "leaks.db")
    with sqlite.connect(path) as con:
        con.execute("PRAGMA journal_mode = WAL").fetchall()
        con.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, s TEXT, b BLOB)")
        con.executemany("INSERT INTO t (s, b) VALUES (?, zeroblob(2000))", [("x" * 100,)] * 50)
    con.close()

    def resources():
        gc.collect()
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")), pages * 4

    def grown(body, rounds, warm):
        for i in range(warm):
            body(i)
        before = resources()
        for i in range(rounds):
            body(i)
        after = resources()
        print(tuple(b - a for a, b in zip(before, after)))
"""


def check(body, tmp_path, rounds, kilobytes=4096, warm=None, spare=0):
    program = LOOP + body + f"\n    grown(body, {rounds}, {warm or rounds})\n"
    threads, descriptors, memory = run_literal(program, tmp_path, timeout=55)
    assert threads <= 4  # the background pool grows to four threads and no further
    assert descriptors <= spare
    assert memory < kilobytes, f"{memory} KiB more after {rounds} rounds"


CONNECTIONS = {
    "closed": "con.close()",
    "dropped": "pass",
    "closed with a cursor open": "cur = con.execute('SELECT * FROM t'); cur.fetchone(); con.close()",
    "dropped with a cursor open": "cur = con.execute('SELECT * FROM t'); cur.fetchone()",
    "dropped in a transaction": "con.execute('BEGIN'); con.execute('DELETE FROM t')",
    "dropped in a cycle": "con.create_function('g', 0, lambda: con)",
}


@pytest.mark.parametrize("end", CONNECTIONS.values(), ids=CONNECTIONS)
@pytest.mark.parametrize("name", ["path", "':memory:'"], ids=["file", "memory"])
def test_connections(tmp_path, end, name):  # issue 3 §6 "resources given back"
    body = f"""
    class Own(sqlite.Connection):
        pass
    def body(i):
        con = sqlite.connect({name}, factory=Own)
        con.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, s TEXT, b BLOB)")
        con.execute("SELECT * FROM t WHERE id = ?", (i,)).fetchall()
        {end}
    """
    check(body, tmp_path, 150)


def test_failed_openings(tmp_path):
    body = """
    with open(os.path.join(folder, "rubbish"), "wb") as file:
        file.write(b"rubbish" * 1000)
    def body(i):
        for name in (folder, os.path.join(folder, "missing", "x.db"), "\\0", 5):
            try:
                sqlite.connect(name)
                raise SystemExit(1)
            except (sqlite.Error, ValueError, TypeError):
                pass
        con = sqlite.connect(os.path.join(folder, "rubbish"))
        try:
            con.execute("SELECT * FROM t")
            raise SystemExit(1)
        except sqlite.DatabaseError:
            pass
    """
    check(body, tmp_path, 200)


def test_cursors_and_rows(tmp_path):
    body = """
    con = sqlite.connect(path)
    con.row_factory = sqlite.Row
    def body(i):
        for n in range(20):
            cur = con.execute("SELECT id, s, b FROM t")
            rows = cur.fetchmany(10)
            assert rows[0]["s"] == "x" * 100 and len(dict(rows[1])["b"]) == 2000
            hash(rows[0]), rows[0] == rows[1], list(rows[0]), rows[0].keys()
            cur.description
            con.execute("SELECT ?, ?, ?", ("a" * 1000, b"b" * 1000, i * 1.5)).fetchone()
            con.cursor().close()
    """
    check(body, tmp_path, 60)


def test_texts_of_statements(tmp_path):
    """Each is another one: the cache holds so many and forgets the rest."""
    body = """
    con = sqlite.connect(path, cached_statements=50)
    def body(i):
        for n in range(200):
            con.execute(f"SELECT id, {i} + {n} AS c{i}x{n} FROM t WHERE id < ? -- {'x' * 200}", (n,)).fetchone()
    """
    check(body, tmp_path, 60)


def test_errors(tmp_path):
    body = """
    con = sqlite.connect(path, isolation_level=None)
    class Odd:
        def __conform__(self, protocol):
            raise KeyError
    def fails(call, *arguments):
        try:
            call(*arguments)
        except Exception:
            return
        raise SystemExit(1)
    def body(i):
        for n in range(30):
            fails(con.execute, f"SELECT nothing_{i}_{n}")
            fails(con.execute, "INSERT INTO t (id) VALUES (1)")
            fails(con.execute, "SELECT ?", ())
            fails(con.execute, "SELECT ?", (object(),))
            fails(con.execute, "SELECT :a", {})
            fails(con.execute, "SELECT ?", ("\\ud800",))
            fails(con.executemany, "INSERT INTO t (id) VALUES (?)", [(1,), (1,)])
            fails(con.executescript, "SELECT 1; nonsense")
            fails(con.execute, "SELECT 1; SELECT 2")
            fails(con.execute, "SELECT ?", (Odd(),))
            fails(con.execute, "SELECT ?", (2 ** 70,))
            fails(con.execute("SELECT 1").__init__, 5)
    """
    check(body, tmp_path, 60)


def test_callbacks(tmp_path):
    body = """
    con = sqlite.connect(path)
    class Sum:
        def __init__(self): self.n = []
        def step(self, x): self.n.append(x)
        def inverse(self, x): self.n.pop()
        def value(self): return len(self.n)
        def finalize(self): return len(self.n)
    class Fails(Sum):
        def step(self, x): raise ValueError
    def body(i):
        payload = [i] * 1000
        con.create_function("f", 1, lambda x: (payload, x)[1])
        con.create_aggregate("a", 1, Sum)
        con.create_aggregate("bad", 1, Fails)
        con.create_collation("c", lambda x, y: (x > y) - (x < y) + 0 * len(payload))
        con.set_trace_callback(lambda sql: payload)
        con.set_progress_handler(lambda: 0 * len(payload), 100)
        con.set_authorizer(lambda *a: 0 * len(payload))
        con.execute("SELECT f(s), a(s) FROM t GROUP BY id ORDER BY s COLLATE c").fetchall()
        con.execute("SELECT f(s) FROM t").fetchone()
        if hasattr(con, "create_window_function"):
            con.create_window_function("w", 1, Sum)
            con.execute("SELECT w(s) OVER (ORDER BY id ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) FROM t").fetchall()
        try:
            con.execute("SELECT bad(s) FROM t")
            raise SystemExit(1)
        except sqlite.OperationalError:
            pass
        con.set_trace_callback(None)
        con.set_progress_handler(None, 0)
        con.set_authorizer(None)
        con.create_function("f", 1, None)
    """
    check(body, tmp_path, 200)


def test_blobs_backups_and_serialisation(tmp_path):
    body = """
    con = sqlite.connect(path)
    con.execute("PRAGMA journal_mode = DELETE").fetchall()  # a database in memory cannot be in WAL mode
    def body(i):
        target = sqlite.connect(":memory:")
        con.backup(target)
        con.backup(target, pages=3, progress=lambda *a: None, sleep=0)
        list(target.iterdump())
        if hasattr(con, "blobopen"):
            with con.blobopen("t", "b", 1 + i % 50) as blob:
                blob.write(b"x" * 100)
                blob[5:50] = b"y" * 45
                blob.seek(0)
                assert blob.read(6) == b"xxxxxy"
            blob = con.blobopen("t", "b", 1)
            blob.read()
        if hasattr(con, "serialize"):
            data = target.serialize()
            target.deserialize(data)
            assert target.execute("SELECT count(*) FROM t").fetchone() == (50,)
        target.close()
    """
    check(body, tmp_path, 60, kilobytes=8192)


def test_executemany(tmp_path):
    body = """
    con = sqlite.connect(":memory:")
    con.execute("CREATE TABLE t (a, b, c)")
    def body(i):
        con.executemany("INSERT INTO t VALUES (?, ?, ?)", ((n, "x" * 50, None) for n in range(2000)))
        con.executemany("INSERT INTO t VALUES (:a, :b, :c)", [{"a": n, "b": b"y" * 50, "c": 1.5} for n in range(500)])
        con.execute("DELETE FROM t")
        con.commit()
    """
    check(body, tmp_path, 25)


@pytest.mark.parametrize("end", ["pool.close_all()", "pass"], ids=["closed", "dropped"])
def test_pools(tmp_path, end):
    body = f"""
    def body(i):
        pool = sqlite.ConnectionPool(path, min_size=1, max_size=4)
        with pool.connection() as one, pool.connection() as two:
            one.execute("SELECT count(*) FROM t").fetchone()
            two.execute("SELECT s FROM t").fetchmany(3)
        lost = pool.acquire()
        del lost
        pool.me = pool
        pool.get_stats(), pool.metadata, pool.available, pool.in_use, pool.stats
        del one, two
        {end}
    """
    check(body, tmp_path, 80, kilobytes=8192)


def test_loans(tmp_path):
    body = """
    pool = sqlite.ConnectionPool(path, max_size=3)
    def body(i):
        for n in range(200):
            with pool.connection() as con:
                con.execute("SELECT id FROM t WHERE id = ?", (n,)).fetchone()
            con = pool.acquire()
            con.row_factory = lambda c, r: [r]
            con.execute("BEGIN")
            pool.release(con.conn)
        threads = [threading.Thread(target=lambda: pool.acquire(timeout=0.01)) for _ in range(3)]
        held = [pool.acquire() for _ in range(3)]
        [thread.start() for thread in threads]
        [thread.join(20) for thread in threads]
        [con.close() for con in held]
    """
    check(body, tmp_path, 30)


def test_threads_that_come_and_go(tmp_path):
    body = """
    con = sqlite.connect(path, check_same_thread=False, isolation_level=None)
    def work():
        own = sqlite.connect(path)
        own.execute("SELECT * FROM t").fetchone()
        con.execute("SELECT count(*) FROM t").fetchone()
    def body(i):
        threads = [threading.Thread(target=work) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join(20) for thread in threads]
    """
    # While one connection has the file, SQLite keeps the descriptors of closed ones and uses them again: as many as
    # were open at the same time, which depends on how the threads met.
    check(body, tmp_path, 100, spare=4)


def test_adapters_and_converters(tmp_path):
    body = """
    import datetime as dt
    class Point:
        def __init__(self, x): self.x = x
        def __conform__(self, protocol): return f"{self.x};{self.x}"
    sqlite.register_adapter(complex, lambda z: str(z))
    sqlite.register_converter("point", lambda raw: Point(raw.decode()))
    con = sqlite.connect(":memory:", detect_types=sqlite.PARSE_DECLTYPES | sqlite.PARSE_COLNAMES)
    con.execute("CREATE TABLE t (p point, z)")
    def body(i):
        con.executemany("INSERT INTO t VALUES (?, ?)", [(Point(n), complex(n, i)) for n in range(200)])
        assert con.execute("SELECT p, p AS 'q [point]' FROM t").fetchall()[3][1].x == "3;3"
        con.rollback()
        sqlite.register_converter(f"kind{i % 5}", lambda raw: raw)
    """
    check(body, tmp_path, 40)
