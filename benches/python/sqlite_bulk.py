"""Many rows at once: fetched, written, as NumPy columns, as an Arrow stream, scanned by several connections."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from report import OURS, Budget, Case, Row, row
from sqlite_floor import NAME as STEP
from sqlite_floor import floor
from sqlite_peers import ITEMS, ROWS, Bench, items
from timing import Effort

ALL, NUMBERS = "SELECT * FROM item", "SELECT * FROM sample"
FRESH = ITEMS.replace("item", "fresh")
INSERT = "INSERT INTO fresh VALUES (?, ?, ?, ?, ?)"


@dataclass(frozen=True)
class Whole:
    """An operation of milliseconds, and what has to be done before each, untimed."""

    run: Callable[[], Any]
    before: Callable[[], Any] = lambda: None


def _row(
    path: str,
    contenders: Mapping[str, Whole],
    effort: Effort,
    *,
    clock: Callable[[], int] = time.thread_time_ns,
    floors: Iterable[str] = (),
    limit: float | None = None,
) -> Row:
    """Each contender in turn, the faster of two turns a round; in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    gc.collect()
    gc.disable()
    try:
        for number in range(effort.rounds):
            turns = names[number % len(names) :] + names[: number % len(names)]
            best = dict.fromkeys(names, float("inf"))
            for name in turns * 2:
                contenders[name].before()
                started = clock()
                result = contenders[name].run()
                # Taking the result apart is part of the price.
                del result
                best[name] = min(best[name], (clock() - started) / 1e6)
            for name in names:
                times[name].append(best[name])
    finally:
        gc.enable()
    known = [name for name in floors if name in times]
    return row(path, times, unit="ms", floors=known, budget=Budget(limit) if limit else None)


# ---- rows of Python objects ----------------------------------------------------------------------------------------


def _fetchall(effort: Effort) -> Row:
    with Bench() as bench:
        connections = {OURS: bench.upshift(), "apsw": bench.apsw(), "sqlite3": bench.sqlite3()}
        contenders = {
            name: Whole(lambda c=connection: c.execute(ALL).fetchall()) for name, connection in connections.items()
        }
        if bare := floor(bench, ALL):
            contenders[STEP] = Whole(lambda: bare.run(0, 1))
        return _row("sqlite: fetchall 100 k × 5", contenders, effort, floors=[STEP], limit=0.9)


def _into_fresh(connection: Any, write: Callable[[], Any]) -> Whole:
    """One transaction into a new table."""

    def before() -> None:
        connection.execute("DROP TABLE IF EXISTS fresh")
        connection.execute(FRESH)

    def run() -> None:
        connection.execute("BEGIN")
        write()
        connection.execute("COMMIT")

    return Whole(run, before)


def _executemany(effort: Effort) -> Row:
    rows = items(ROWS)
    with Bench(rows=1) as bench:
        connections = {OURS: bench.upshift(), "apsw": bench.apsw(), "sqlite3": bench.sqlite3()}
        contenders = {
            name: _into_fresh(connection, lambda c=connection: c.cursor().executemany(INSERT, rows))
            for name, connection in connections.items()
        }
        if bare := floor(bench, INSERT, FRESH):

            def insert() -> None:
                bare.prepare(INSERT)
                bare.insert(ROWS)

            contenders[STEP] = _into_fresh(bare, insert)
        return _row("sqlite: executemany 100 k × 5", contenders, effort, floors=[STEP], limit=1.0)


# ---- columns -------------------------------------------------------------------------------------------------------


def _numpy(effort: Effort) -> Row:
    with Bench() as bench:
        ours, plain, other = bench.upshift(), bench.sqlite3(), bench.apsw()
        contenders = {
            OURS: Whole(lambda: ours.execute(NUMBERS).fetchnumpy()),
            "sqlite3 fetchall, np.array": Whole(lambda: np.array(plain.execute(NUMBERS).fetchall())),
            "sqlite3 fetchall, np.array of each column": Whole(
                lambda: [np.array(column) for column in zip(*plain.execute(NUMBERS).fetchall())]
            ),
            "apsw fetchall, np.array": Whole(lambda: np.array(other.execute(NUMBERS).fetchall())),
        }
        if bare := floor(bench, NUMBERS):
            contenders[STEP] = Whole(lambda: bare.run(0, 1))
        floors = [STEP, "apsw fetchall, np.array"]
        return _row("sqlite: 5 numeric columns × 100 k into NumPy", contenders, effort, floors=floors, limit=1 / 7)


def _insert_numpy(effort: Effort) -> Row:
    rows = items(ROWS)
    columns = {
        name: np.array([each[place] for each in rows]) for name, place in {"id": 0, "price": 2, "stock": 3}.items()
    }
    sql = "INSERT INTO fresh (id, price, stock) VALUES (:id, :price, :stock)"
    with Bench(rows=1) as bench:
        ours = bench.upshift()
        contenders = {OURS: _into_fresh(ours, lambda: ours.cursor().executemany(sql, columns))}
        for name, peer in {"sqlite3": bench.sqlite3(), "apsw": bench.apsw()}.items():

            def write(peer: Any = peer) -> None:
                rows = zip(*(column.tolist() for column in columns.values()))
                peer.cursor().executemany("INSERT INTO fresh (id, price, stock) VALUES (?, ?, ?)", rows)

            contenders[f"{name}, zip of tolist()"] = _into_fresh(peer, write)
        return _row("sqlite: executemany from 3 NumPy columns × 100 k", contenders, effort)


def _arrow(effort: Effort) -> list[Row]:
    with Bench() as bench:
        ours, plain = bench.upshift(), bench.sqlite3()

        def arrow() -> pa.Table:
            return pa.RecordBatchReader.from_stream(ours.execute(ALL)).read_all()

        pandas = {
            OURS: Whole(lambda: pd.DataFrame.from_arrow(ours.execute(ALL))),
            "pandas.read_sql": Whole(lambda: pd.read_sql(ALL, plain)),
        }
        polars = {
            OURS: Whole(lambda: pl.DataFrame(ours.execute(ALL))),
            "polars.read_database": Whole(lambda: pl.read_database(ALL, plain)),
        }
        pyarrow = {
            OURS: Whole(arrow),
            "sqlite3 fetchall, pa.table": Whole(lambda: pa.table(list(zip(*plain.execute(ALL))), names=list("abcde"))),
        }
        tables = {"pandas": pandas, "polars": polars, "pyarrow": pyarrow}
        # Their own threads take part: the clock counts.
        return [
            _row(f"sqlite: 100 k × 5 into {name}", contenders, effort, clock=time.perf_counter_ns)
            for name, contenders in tables.items()
        ]


def _scan(effort: Effort) -> Row:
    with Bench() as bench:
        pool, plain = bench.pool(), bench.sqlite3()
        contenders = {
            OURS: Whole(lambda: pool.scan(NUMBERS, partitions=2).numpy()),
            "upshift, 1 partition": Whole(lambda: pool.scan(NUMBERS, partitions=1).numpy()),
            "sqlite3 fetchall, np.array": Whole(lambda: np.array(plain.execute(NUMBERS).fetchall())),
        }
        path = "sqlite: scan of 5 numeric columns × 100 k, 2 partitions"
        return _row(path, contenders, effort, clock=time.perf_counter_ns)


def cases() -> list[Case]:
    return [
        Case("sqlite: fetchall", _fetchall),
        Case("sqlite: executemany", _executemany),
        Case("sqlite: NumPy", _numpy),
        Case("sqlite: executemany from NumPy", _insert_numpy),
        Case("sqlite: Arrow", _arrow),
        Case("sqlite: scan", _scan),
    ]
