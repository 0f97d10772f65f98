"""Eight writers and four readers on one WAL file: commits a second, reads meanwhile, and who was told "locked".

Every write is one row and one commit, every read one row by its key; all go on as fast as they can. Afterwards the
rows are counted: a commit that was acknowledged and is not there ends the run. All sides commit alike: with
``synchronous=NORMAL`` (what survives a killed process), and again with FULL (what survives a power loss too).
"""

from __future__ import annotations

import itertools
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import apsw
from report import OURS, Budget, Case, Row, row
from sqlite_peers import ROWS, Bench
from timing import Effort

WRITERS, READERS = 8, 4
INSERT = "INSERT INTO log (writer, note) VALUES (?, 'written')"
LOOKUP = "SELECT * FROM item WHERE id = ?"
COUNT = "SELECT count(*) FROM log"
GROUPED = "upshift pool.write"
FULL = "PRAGMA synchronous = FULL"

Work = Callable[[int], Any]


@dataclass
class Outcome:
    """Of one run; rates in thousands a second."""

    commits: float
    reads: float
    locked: int


@dataclass(frozen=True)
class Side:
    """A library at work: makes what a thread writes with and what it reads with."""

    writer: Callable[[], Work]
    reader: Callable[[], Work]
    #: Rows that were written so far. Asked of the library itself: another copy of SQLite must not open its file.
    count: Callable[[], int]


def _pooled(bench: Bench, grouped: bool, durability: str = "process") -> Side:
    pool = bench.pool(WRITERS + READERS, durability=durability)

    def write(number: int) -> None:
        with pool.connection() as connection:
            connection.execute(INSERT, (number,))

    def write_grouped(number: int) -> None:
        pool.write(INSERT, (number,))

    def read(key: int) -> None:
        with pool.connection() as connection:
            connection.execute(LOOKUP, (key,)).fetchone()

    def count() -> int:
        with pool.connection() as connection:
            return connection.execute(COUNT).fetchone()[0]

    return Side(lambda: write_grouped if grouped else write, lambda: read, count)


def _each(bench: Bench, connect: Callable[[str], Any], setting: str | None = None) -> Side:
    """A connection for each thread, with a busy timeout of five seconds: the default of sqlite3."""
    path = bench.file()

    def writer() -> Work:
        connection = connect(path)
        if setting is not None:
            connection.execute(setting)
        return lambda number: connection.execute(INSERT, (number,))

    def reader() -> Work:
        connection = connect(path)
        return lambda key: connection.execute(LOOKUP, (key,)).fetchone()

    counter = connect(path)
    return Side(writer, reader, lambda: counter.execute(COUNT).fetchone()[0])


def _alchemy(bench: Bench) -> Side:
    pool = bench.queue_pool(WRITERS + READERS)

    def run(sql: str, *arguments: Any) -> Any:
        connection = pool.connect()
        try:
            return connection.cursor().execute(sql, arguments).fetchall()
        finally:
            connection.close()

    return Side(lambda: lambda n: run(INSERT, n), lambda: lambda k: run(LOOKUP, k), lambda: run(COUNT)[0][0])


def _run(side: Side, seconds: float) -> Outcome:
    stop = threading.Event()
    start = threading.Barrier(WRITERS + READERS + 1)
    done, locked = [0] * (WRITERS + READERS), [0] * (WRITERS + READERS)

    def loop(number: int, work: Work, arguments: Iterator[int]) -> None:
        start.wait()
        while not stop.is_set():
            try:
                work(next(arguments))
            except (sqlite3.OperationalError, apsw.BusyError) as error:
                if "locked" not in str(error):
                    raise
                locked[number] += 1
            else:
                done[number] += 1

    crew = []
    for number in range(WRITERS + READERS):
        if number < WRITERS:
            work, arguments = side.writer(), itertools.repeat(number)
        else:
            work, arguments = side.reader(), itertools.cycle((7919 * i + number) % ROWS for i in range(1000))
        crew.append(threading.Thread(target=loop, args=(number, work, arguments)))
    before = side.count()
    for thread in crew:
        thread.start()
    start.wait()
    started = time.perf_counter()
    time.sleep(seconds)
    commits, reads = sum(done[:WRITERS]), sum(done[WRITERS:])
    taken = 1e3 * (time.perf_counter() - started)
    stop.set()
    for thread in crew:
        thread.join()
    acknowledged, found = sum(done[:WRITERS]), side.count() - before
    if acknowledged != found:
        raise SystemExit(f"{acknowledged} commits were acknowledged, {found} rows are there")
    return Outcome(commits / taken, reads / taken, sum(locked))


def _compete(effort: Effort, contenders: dict[str, Callable[[Bench], Side]]) -> dict[str, list[Outcome]]:
    """Runs each in turn, beginning with another one in each round."""
    found: dict[str, list[Outcome]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(effort.rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            with Bench() as bench:
                found[name].append(_run(contenders[name](bench), 2 * effort.scale))
    return found


def _line(path: str, kind: str, budget: Budget | None, found: dict[str, list[Outcome]]) -> Row:
    numbers = {name: [getattr(outcome, kind) for outcome in each] for name, each in found.items()}
    return row(f"sqlite: 8 writers + 4 readers, {path}", numbers, unit="k/s", rising=True, budget=budget)


def _measure(effort: Effort) -> list[Row]:
    contenders: dict[str, Callable[[Bench], Side]] = {
        OURS: lambda bench: _pooled(bench, grouped=False),
        GROUPED: lambda bench: _pooled(bench, grouped=True),
        "sqlite3, a connection a thread": lambda bench: _each(bench, bench.sqlite3),
        "apsw, a connection a thread": lambda bench: _each(bench, bench.apsw),
        "SQLAlchemy pool": _alchemy,
    }
    found = _compete(effort, contenders)
    grouped = {**found, OURS: found[GROUPED]}
    del grouped[GROUPED], found[GROUPED]

    times = {name: [float(outcome.locked) for outcome in each] for name, each in found.items()}
    times[OURS] = [one + other.locked for one, other in zip(times[OURS], grouped[OURS])]
    others = [name for name in times if name != OURS]
    locked = "sqlite: 8 writers + 4 readers, told 'database is locked'"
    three = Budget(3, "ratio >=")
    return [
        _line("commits, one by one in the lane", "commits", three, found),
        _line("reads meanwhile", "reads", None, found),
        _line("commits, pool.write", "commits", three, grouped),
        _line("reads meanwhile, pool.write", "reads", None, grouped),
        row(locked, times, unit="times", floors=others, budget=Budget(0, "value <=")),
    ]


def _measure_power(effort: Effort) -> list[Row]:
    found = _compete(
        effort,
        {
            OURS: lambda bench: _pooled(bench, grouped=True, durability="power"),
            "sqlite3, a connection a thread": lambda bench: _each(bench, bench.sqlite3, FULL),
            "apsw, a connection a thread": lambda bench: _each(bench, bench.apsw, FULL),
        },
    )
    return [
        _line("commits that survive a power loss, pool.write", "commits", Budget(3, "ratio >="), found),
        _line("reads meanwhile, with such commits", "reads", None, found),
    ]


def cases() -> list[Case]:
    return [
        Case("sqlite: 8 writers + 4 readers", _measure),
        Case("sqlite: 8 writers + 4 readers, power loss", _measure_power),
    ]
