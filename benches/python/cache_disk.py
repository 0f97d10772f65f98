"""The persistent cache: `set` of new 1 KB values, and `get` after a restart, in a new process for each number.

Run as a program, `cache_disk.py NAME FOLDER KEYS` reads every key of a store once, in random order, and prints what
one `get` took in nanoseconds, and before it, for NAME "upshift preload", what preload() took for one row.

Durability: NORMAL means committed: survives kill -9. FULL means synced: survives power loss. With durability="memory"
upshift acknowledges before it commits; `flush()` waits for the commit, which is NORMAL. diskcache commits each `set`,
NORMAL too.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diskcache
from report import OURS, Budget, Case, Row, row
from timing import Effort

import upshift

#: 20 MB: enough for checkpoints to take their share on every side.
KEYS = 20_000
RAW, GROUPED = "raw sqlite3, 1 a commit", "raw sqlite3, 1000 a commit"
RAW_FULL, RAW_STEP, PRELOAD = "raw sqlite3 FULL, 1 a commit", "raw sqlite3 step", "upshift preload"
TABLE = "CREATE TABLE kept (key TEXT PRIMARY KEY, value BLOB, expires REAL)"


def _key(i: int) -> str:
    return f"entry:{i}"


def _values(count: int) -> list[bytes]:
    source = random.Random(count)
    return [source.randbytes(1024) for _ in range(count)]


def _cache(folder: Path, **options: Any) -> upshift.ResultCache:
    return upshift.ResultCache(100_000, 3600, True, str(folder / "cache.db"), **options)


def _connect(folder: Path, synchronous: str = "NORMAL") -> sqlite3.Connection:
    connection = sqlite3.connect(folder / "raw.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={synchronous}")
    # As diskcache has it.
    connection.execute("PRAGMA mmap_size=67108864")
    return connection


# ---- writing: each returns nanoseconds per `set`, a pair if two moments count --------------------------------------


def _set_upshift(folder: Path, values: list[bytes], **options: Any) -> tuple[float, float]:
    cache = _cache(folder, **options)
    keys = [_key(i) for i in range(len(values))]
    started = time.perf_counter_ns()
    for key, value in zip(keys, values):
        cache.set(key, value)
    acknowledged = time.perf_counter_ns() - started
    assert cache.flush()
    flushed = time.perf_counter_ns() - started
    cache.close()
    return acknowledged / len(values), flushed / len(values)


def _set_diskcache(folder: Path, values: list[bytes]) -> float:
    with diskcache.Cache(str(folder / "diskcache")) as cache:
        keys = [_key(i) for i in range(len(values))]
        started = time.perf_counter_ns()
        for key, value in zip(keys, values):
            cache.set(key, value, 3600)
        return (time.perf_counter_ns() - started) / len(values)


def _set_raw(folder: Path, values: list[bytes], group: int, synchronous: str = "NORMAL") -> float:
    connection = _connect(folder, synchronous)
    connection.execute(TABLE)
    rows = [(_key(i), value, 0.0) for i, value in enumerate(values)]
    started = time.perf_counter_ns()
    for at in range(0, len(rows), group):
        connection.execute("BEGIN")
        connection.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", rows[at : at + group])
        connection.execute("COMMIT")
    taken = time.perf_counter_ns() - started
    connection.close()
    return taken / len(rows)


# ---- reading in a new process --------------------------------------------------------------------------------------


def _read(name: str, folder: Path, count: int) -> list[float]:
    found = []
    keys = [_key(i) for i in range(count)]
    random.Random(1).shuffle(keys)
    get: Callable[[str], Any]
    if name == "diskcache":
        get = diskcache.Cache(str(folder / "diskcache")).get
    elif name == RAW_STEP:
        connection = _connect(folder)

        def get(key: str) -> Any:
            return connection.execute("SELECT value, expires FROM kept WHERE key = ?", (key,)).fetchone()[0]

    else:
        cache = _cache(folder)
        get = cache.get
    if name == PRELOAD:
        started = time.perf_counter_ns()
        loaded = cache.preload()
        found.append((time.perf_counter_ns() - started) / count)
        if loaded != count:
            raise SystemExit(f"preload loaded {loaded} of {count}")
    started = time.perf_counter_ns()
    for key in keys:
        if get(key) is None:
            raise SystemExit(f"{name} lost {key}")
    return [*found, (time.perf_counter_ns() - started) / count]


def _restarted(name: str, folder: Path, count: int) -> list[float]:
    command = [sys.executable, __file__, name, str(folder), str(count)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [float(number) for number in printed.split()]


# ---- rows ----------------------------------------------------------------------------------------------------------


def _rates(times: dict[str, list[float]]) -> dict[str, list[float]]:
    """Thousands per second of nanoseconds each."""
    return {name: [1e6 / each for each in numbers] for name, numbers in times.items()}


def _in_turn(contenders: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            times[name].append(contenders[name]())
    return times


@contextmanager
def _folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="upshift-bench-"))
    try:
        yield made
    finally:
        shutil.rmtree(made)


def _write_rows(effort: Effort) -> list[Row]:
    values = _values(int(KEYS * effort.scale))
    moments: list[tuple[float, float]] = []

    def fresh(write: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        def run() -> Any:
            with _folder() as folder:
                return write(folder, values, *arguments)

        return run

    def ours() -> float:
        moments.append(fresh(_set_upshift)())
        return moments[-1][1]

    contenders = {
        OURS: ours,
        "diskcache": fresh(_set_diskcache),
        RAW: fresh(_set_raw, 1),
        GROUPED: fresh(_set_raw, 1000),
    }
    times = _in_turn(contenders, effort.rounds)
    floors = (RAW, GROUPED)
    acknowledged = {**times, OURS: [moment[0] for moment in moments]}
    return [
        row(
            "persistent set, new 1 KB, acknowledged in memory (durability=memory; diskcache and raw: NORMAL)",
            _rates(acknowledged),
            unit="k/s",
            rising=True,
            floors=floors,
            budget=Budget(10, "ratio >="),
        ),
        row(
            "persistent set, new 1 KB, including flush() (NORMAL on all sides)",
            _rates(times),
            unit="k/s",
            rising=True,
            floors=floors,
            budget=Budget(4, "ratio >="),
        ),
    ]


def _durable_rows(effort: Effort) -> list[Row]:
    values = _values(int(1000 * effort.scale))

    def ours(durability: str) -> Callable[[], float]:
        def run() -> float:
            with _folder() as folder:
                return _set_upshift(folder, values, durability=durability)[0]

        return run

    def raw(synchronous: str) -> Callable[[], float]:
        def run() -> float:
            with _folder() as folder:
                return _set_raw(folder, values, 1, synchronous)

        return run

    rows = []
    levels = (("process", "NORMAL", RAW, "survives kill -9"), ("power", "FULL", RAW_FULL, "survives power loss"))
    for durability, synchronous, floor, survives in levels:
        contenders = {OURS: ours(durability), floor: raw(synchronous)}
        times = _rates(_in_turn(contenders, effort.rounds))
        path = f"persistent set, new 1 KB, one caller, durability={durability} ({survives})"
        rows.append(row(path, times, unit="k/s", rising=True, floors=(floor,)))
    return rows


def _read_rows(effort: Effort) -> list[Row]:
    values = _values(int(KEYS * effort.scale))
    with _folder() as folder:
        _set_upshift(folder, values)
        _set_diskcache(folder, values)
        _set_raw(folder, values, 1000)

        preloading: list[float] = []

        def reader(name: str) -> Callable[[], float]:
            def run() -> float:
                *preload, get = _restarted(name, folder, len(values))
                preloading.extend(preload)
                return get

            return run

        times = _in_turn({name: reader(name) for name in (OURS, PRELOAD, "diskcache", RAW_STEP)}, effort.rounds)
    preloaded = times.pop(PRELOAD)

    def line(path: str, ours: list[float], limit: float | None) -> Row:
        numbers = _rates({**times, OURS: ours})
        budget = Budget(limit, "ratio >=") if limit else None
        return row(path, numbers, unit="k/s", rising=True, floors=(RAW_STEP,), budget=budget)

    return [
        line("persistent get after restart, 1 KB, each key once", times[OURS], 2),
        line("persistent get after restart and preload(), 1 KB, each key once", preloaded, 3),
        line("preload() itself, rows of 1 KB into memory (against a get of each)", preloading, None),
    ]


def cases() -> list[Case]:
    return [
        Case("persistent set", _write_rows),
        Case("persistent set, durable", _durable_rows),
        Case("persistent get after restart", _read_rows),
    ]


if __name__ == "__main__":
    numbers = _read(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    sys.stdout.write(" ".join(map(str, numbers)) + "\n")
