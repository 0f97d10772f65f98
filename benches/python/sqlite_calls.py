"""Short calls: borrowing a connection, `SELECT 1`, one row by its key, from one thread and from four.

Peers without a pool keep one connection (one a thread), the quickest that can be done with them; pools lend theirs for
each statement. Rows are made: all fetch what they select.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from report import OURS, Budget, Case, Row, row
from sqlite_floor import NAME as STEP
from sqlite_floor import floor
from sqlite_peers import ROWS, Bench
from timing import Contender, Effort, contender, measure

KEYS = [[(7919 * i) % ROWS for i in range(1000)]]
ONCE = [range(1000)]
ONE, LOOKUP = "SELECT 1", "SELECT * FROM item WHERE id = ?"
#: Arguments of `execute`, and what `k` goes through.
CALLS: dict[str, tuple[str, Any]] = {ONE: ("q", ONCE), LOOKUP: ("q, (k,)", KEYS)}
QUEUE = "SimpleQueue"


# ---- the pool alone ------------------------------------------------------------------------------------------------


def _lend(effort: Effort) -> Row:
    with Bench() as bench:
        ours, dbutils, alchemy = bench.pool(), bench.dbutils(), bench.queue_pool()
        lent: queue.SimpleQueue[object] = queue.SimpleQueue()
        lent.put(object())
        contenders = [
            contender(OURS, "release(acquire())", ONCE, acquire=ours.acquire, release=ours.release),
            contender("DBUtils PooledDB", "connection().close()", ONCE, connection=dbutils.connection),
            contender("SQLAlchemy QueuePool", "connect().close()", ONCE, connect=alchemy.connect),
            contender(QUEUE, "put(get())", ONCE, put=lent.put, get=lent.get),
        ]
        times = measure(contenders, effort)
    return row("sqlite: pool acquire + release", times, floors=(QUEUE,), budget=Budget(400, "value <="))


# ---- a statement and its row ---------------------------------------------------------------------------------------

#: How each library takes a connection, fetches one row, and gives the connection back.
POOLED = "c = acquire()\nc.execute({call}).fetchone()\nrelease(c)"
LENT = "c = connect()\nu = c.cursor()\nu.execute({call})\nu.fetchone()\nc.close()"
PEEWEE = "with lend(): run({call}).fetchone()"
BLOCK = "with lend() as c: c.execute({call}).fetchone()"


def _statements(bench: Bench, sql: str, pooled: str) -> list[Contender]:
    call, keys = CALLS[sql]
    pool, dbutils, alchemy, peewee = bench.pool(), bench.dbutils(), bench.queue_pool(), bench.peewee()
    plain, other = bench.sqlite3(), bench.apsw()

    def one(name: str, statement: str, **names: Any) -> Contender:
        return contender(name, statement.format(call=call), keys, q=sql, **names)

    return [
        one(OURS, pooled, acquire=pool.acquire, release=pool.release, lend=pool.connection),
        one("apsw, no pool", "c.execute({call}).fetchone()", c=other),
        one("sqlite3, no pool", "c.execute({call}).fetchone()", c=plain),
        one("DBUtils", LENT, connect=dbutils.connection),
        one("SQLAlchemy pool", LENT, connect=alchemy.connect),
        one("peewee pool", PEEWEE, lend=peewee.connection_context, run=peewee.execute_sql),
    ]


def _short(path: str, sql: str, limit: float | None, pooled: str = POOLED) -> Case:
    def run(effort: Effort) -> Row:
        with Bench() as bench:
            contenders = _statements(bench, sql, pooled)
            bare = floor(bench, sql)
            if bare:
                contenders.append(Contender(STEP, lambda count: bare.run(0, 1000 * count), 1000))
            times = measure(contenders, effort)
        floors = (STEP,) if bare else ()
        return row(path, times, floors=floors, budget=Budget(limit) if limit else None)

    return Case(path, run)


def _kept(path: str, sql: str) -> Case:
    """The drivers side by side, without a pool on any side."""

    def run(effort: Effort) -> Row:
        call, keys = CALLS[sql]
        with Bench() as bench:
            # Two connections for those that gain by keeping a cursor: a cursor with a row left holds its snapshot.
            runners = {
                OURS: bench.upshift(),
                "apsw": bench.apsw(),
                "apsw, cursor kept": bench.apsw().cursor(),
                "sqlite3": bench.sqlite3(),
                "sqlite3, cursor kept": bench.sqlite3().cursor(),
            }
            statement = f"c.execute({call}).fetchone()"
            contenders = [contender(name, statement, keys, c=runner, q=sql) for name, runner in runners.items()]
            return row(path, measure(contenders, effort))

    return Case(path, run)


# ---- four threads --------------------------------------------------------------------------------------------------


def _crew(name: str, members: Sequence[Contender]) -> Contender:
    """Contenders that run side by side, a thread each."""

    def run(count: int) -> None:
        threads = [threading.Thread(target=member.run, args=(count,)) for member in members]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return Contender(name, run, sum(member.batch for member in members), time.perf_counter_ns)


def _threads(count: int) -> Case:
    path = f"sqlite: point lookup through the pool, {count} threads"

    def run(effort: Effort) -> Row:
        with Bench() as bench:
            named: dict[str, Callable[[], Contender]] = {}
            pool, dbutils, alchemy = bench.pool(count), bench.dbutils(count), bench.queue_pool(count)
            path_apsw, path_plain = bench.file(), bench.file()
            direct = "c.execute(q, (k,)).fetchone()"

            def add(name: str, statement: str, names: Callable[[], dict[str, Any]]) -> None:
                named[name] = lambda: contender(name, statement.format(call="q, (k,)"), KEYS, q=LOOKUP, **names())

            add(OURS, POOLED, lambda: {"acquire": pool.acquire, "release": pool.release})
            add("apsw, a connection a thread", direct, lambda: {"c": bench.apsw(path_apsw)})
            add("sqlite3, a connection a thread", direct, lambda: {"c": bench.sqlite3(path_plain)})
            add("DBUtils", LENT, lambda: {"connect": dbutils.connection})
            add("SQLAlchemy pool", LENT, lambda: {"connect": alchemy.connect})
            crews = [_crew(name, [make() for _ in range(count)]) for name, make in named.items()]
            longer = Effort(effort.rounds, 2, 50 * effort.seconds, effort.scale)
            times = {name: [1e6 / each for each in numbers] for name, numbers in measure(crews, longer).items()}
        return row(path, times, unit="k/s", rising=True, budget=Budget(1.6, "ratio >="))

    return Case(path, run)


def cases() -> list[Case]:
    return [
        Case("sqlite: pool acquire + release", _lend),
        _short("sqlite: SELECT 1 through the pool", ONE, 1.5),
        _short("sqlite: SELECT 1 in `with pool.connection()`", ONE, None, BLOCK),
        _short("sqlite: point lookup through the pool", LOOKUP, 1.2),
        _kept("sqlite: SELECT 1, connection kept", ONE),
        _kept("sqlite: point lookup, connection kept", LOOKUP),
        _threads(4),
    ]
