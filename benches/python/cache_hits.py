"""Hit ratios on synthetic traces, the same for every cache. The traces are those of `benches/traces`, in small."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cachebox
import moka_py
import numpy as np
import report
import theine
from timing import Effort

import upshift

KEYS = 50_000
REQUESTS = 400_000
#: Capacities as shares of the keys.
SHARES = (0.01, 0.1)
POLICIES = ("adaptive", "lru", "lfu", "fifo", "ttl", "cost")
#: How far the adaptive policy may stay behind the best, in points.
LIMIT = 2.0


# ---- traces --------------------------------------------------------------------------------------------------------


def _zipf(count: int, exponent: float, seed: int) -> np.ndarray:
    """Ranks from 0, the most popular."""
    shares = np.cumsum(np.arange(1, KEYS + 1, dtype=float) ** -exponent)
    return np.searchsorted(shares / shares[-1], np.random.default_rng(seed).random(count))


def _with_scans(count: int) -> np.ndarray:
    """Zipf, interrupted by scans over keys that never come again: one request in three."""
    ranks = _zipf(count, 1.0, 2)
    place = np.arange(count)
    return np.where(place % 30_000 < 20_000, ranks, place + (1 << 32))


def _shifting(count: int) -> np.ndarray:
    """Zipf over keys that are all exchanged four times."""
    return _zipf(count, 1.0, 3) + (np.arange(count) // (count // 5) << 32)


def _drifting(count: int) -> np.ndarray:
    """Zipf by age: a new key every fifth request, the newest the most popular."""
    return KEYS + np.arange(count) // 5 - _zipf(count, 1.0, 4)


TRACES: dict[str, Callable[[int], np.ndarray]] = {
    "zipf 0.8": lambda count: _zipf(count, 0.8, 1),
    "zipf 1.0": lambda count: _zipf(count, 1.0, 1),
    "zipf 1.0 + scans": _with_scans,
    "loop": lambda count: np.arange(count) % KEYS,
    "shifting": _shifting,
    "drifting": _drifting,
}


def _requests(name: str, count: int) -> list[int]:
    """The trace with keys that tell nothing of their rank."""
    keys = TRACES[name](count).astype(np.uint64) + np.uint64(1)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        keys = (keys ^ (keys >> np.uint64(shift))) * np.uint64(factor)
    return ((keys ^ (keys >> np.uint64(31))) >> np.uint64(1)).tolist()


# ---- caches --------------------------------------------------------------------------------------------------------


def _replay(get: Callable[[int], Any], put: Callable[[int, int], Any], requests: Sequence[int]) -> float:
    hits = 0
    for key in requests:
        if get(key) is None:
            put(key, 1)
        else:
            hits += 1
    return 100 * hits / len(requests)


def _upshift(policy: str) -> Callable[[int, Sequence[int]], float]:
    def replay(capacity: int, requests: Sequence[int]) -> float:
        cache = upshift.ResultCache(capacity, policy=policy)
        return _replay(cache.get, cache.set, requests)

    return replay


def _cachebox(kind: type) -> Callable[[int, Sequence[int]], float]:
    def replay(capacity: int, requests: Sequence[int]) -> float:
        cache = kind(capacity)
        return _replay(cache.get, cache.insert, requests)

    return replay


def _moka(capacity: int, requests: Sequence[int]) -> float:
    cache = moka_py.Moka(capacity)
    return _replay(cache.get, cache.set, requests)


def _theine(capacity: int, requests: Sequence[int]) -> float:
    cache: Any = theine.Cache(capacity)
    try:
        return _replay(lambda key: cache.get(key)[0], cache.set, requests)
    finally:
        cache.close()


CACHES: dict[str, Callable[[int, Sequence[int]], float]] = {
    **{policy: _upshift(policy) for policy in POLICIES},
    "theine W-TinyLFU": _theine,
    "moka-py TinyLFU": _moka,
    "cachebox LFU": _cachebox(cachebox.LFUCache),
    "cachebox LRU": _cachebox(cachebox.LRUCache),
}


# ---- the table -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    trace: str
    entries: int
    #: Percent, by cache.
    ratios: dict[str, float]

    @property
    def label(self) -> str:
        return f"hit ratio {self.trace} at {self.entries} entries"

    def best(self) -> float:
        """Of all policies and peers but the adaptive one."""
        return max(ratio for name, ratio in self.ratios.items() if name != POLICIES[0])

    def behind(self) -> float:
        return self.ratios[POLICIES[0]] - self.best()

    def met(self) -> bool:
        return self.behind() >= -LIMIT

    def record(self) -> dict[str, Any]:
        return {"trace": self.trace, "entries": self.entries, "percent": self.ratios, "adaptive_to_best": self.behind()}


def measure(name: str, effort: Effort) -> list[Line]:
    requests = _requests(name, int(REQUESTS * effort.scale))
    capacities = [int(KEYS * share) for share in SHARES]
    return [
        Line(name, capacity, {cache: replay(capacity, requests) for cache, replay in CACHES.items()})
        for capacity in capacities
    ]


def render(lines: Sequence[Line]) -> str:
    """Percent for the adaptive policy, for all others points against the best of the line."""
    header = ["hit ratio", "entries", "best", "adaptive", *list(CACHES)[1:], f"adaptive within {LIMIT:g}?"]
    rows = []
    for line in lines:
        best = max(line.ratios.values())
        points = [f"{ratio - best:+.1f}" for ratio in line.ratios.values()]
        verdict = "yes" if line.met() else "**MISSED**"
        rows.append([line.trace, str(line.entries), f"{best:.1f} %", *points, verdict])
    return report.table(header, rows) + "\n\nColumns after `best`: points against the best of the line."
