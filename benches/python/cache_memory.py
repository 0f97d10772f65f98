"""Memory per entry, int to int with a time to live, measured in a fresh process for each number.

Run as a program, `cache_memory.py NAME ENTRIES` prints the bytes per entry of one cache.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from report import OURS, Budget, Case, Row, row
from timing import Effort

#: Just before and just after a power of two times 7/8, where hash tables double.
SIZES = (100_000, 131_073)
TTL = 3600


def _fill_upshift(count: int, keys: list[int], values: list[int]) -> object:
    import upshift

    cache = upshift.ResultCache(max_size=count)
    for key, value in zip(keys, values):
        cache.set(key, value, TTL)
    return cache


def _fill_lru_cache(count: int, keys: list[int], values: list[int]) -> object:
    upcoming = iter(values)
    cached = functools.lru_cache(maxsize=count)(lambda key: next(upcoming))
    for key in keys:
        cached(key)
    return cached


def _fill_cachebox(kind: str) -> Callable[[int, list[int], list[int]], object]:
    def fill(count: int, keys: list[int], values: list[int]) -> object:
        import cachebox

        cache = cachebox.TTLCache(count, TTL) if kind == "TTLCache" else getattr(cachebox, kind)(count)
        arguments = (TTL,) if kind == "VTTLCache" else ()
        for key, value in zip(keys, values):
            cache.insert(key, value, *arguments)
        return cache

    return fill


def _fill_moka(count: int, keys: list[int], values: list[int]) -> object:
    import moka_py

    cache = moka_py.Moka(count, ttl=TTL)
    for key, value in zip(keys, values):
        cache.set(key, value)
    return cache


def _fill_cachetools(count: int, keys: list[int], values: list[int]) -> object:
    import cachetools

    cache = cachetools.TTLCache(count, TTL)
    for key, value in zip(keys, values):
        cache[key] = value
    return cache


CACHES: dict[str, Callable[[int, list[int], list[int]], object]] = {
    OURS: _fill_upshift,
    "cachebox TTL (one for all)": _fill_cachebox("TTLCache"),
    "cachebox VTTL": _fill_cachebox("VTTLCache"),
    "cachebox LRU": _fill_cachebox("LRUCache"),
    "functools.lru_cache": _fill_lru_cache,
    "moka-py": _fill_moka,
    "cachetools TTL": _fill_cachetools,
}


def _anonymous() -> int:
    """Bytes of this process that back its heap: free memory is given back first, code pages do not count."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no Anonymous: in /proc/self/smaps_rollup")


def _child(name: str, count: int) -> float:
    keys = list(range(10**9, 10**9 + count))
    values = list(range(2 * 10**9, 2 * 10**9 + count))
    fill = CACHES[name]
    warm = fill(1000, keys[:1000], values[:1000])
    before = _anonymous()
    cache = fill(count, keys, values)
    after = _anonymous()
    del cache, warm
    return (after - before) / count


def _measure(name: str, count: int) -> float:
    command = [sys.executable, __file__, name, str(count)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def cases() -> list[Case]:
    def case(count: int) -> Case:
        path = f"memory per entry, int → int, {count:,} entries"

        def run(effort: Effort) -> Row:
            # The numbers hardly vary from process to process.
            rounds = range(2 if effort.rounds > 3 else 1)
            bytes_each = {name: [_measure(name, count) for _ in rounds] for name in CACHES}
            return row(path, bytes_each, unit="B", budget=Budget(80, "value <="))

        return Case(path, run)

    return [case(count) for count in SIZES]


if __name__ == "__main__":
    sys.stdout.write(f"{_child(sys.argv[1], int(sys.argv[2]))}\n")
