"""The cache's rows in nanoseconds: decorated hits, `get` and `set`, eviction, threads.

Keys are looked up by objects that are equal to those stored, but not the same, as a program's keys mostly are.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import cachebox
import cachetools
import moka_py
import theine
from report import OURS, Budget, Case, Row, row
from timing import Contender, Effort, contender, in_threads, measure

import upshift

ENTRIES = 1000
TTL = 3600
LIFETIME = timedelta(seconds=TTL)
STORED = [i + 10_000 for i in range(ENTRIES)]
WANTED = [[i + 10_000 for i in range(ENTRIES)]]
ABSENT = [[i + 50_000 for i in range(ENTRIES)]]
#: Comes round long after it was evicted.
FRESH = [[batch * ENTRIES + i + 100_000 for i in range(ENTRIES)] for batch in range(50)]
WORDS = [f"user:{i}" for i in range(ENTRIES)]
WANTED_WORDS = [[f"user:{i}" for i in range(ENTRIES)]]

CALL, DICT = "native call", "dict"


# ---- decorated calls -----------------------------------------------------------------------------------------------


def one(number: Any) -> Any:
    return number


def two(left: str, right: str) -> str:
    return left


def keywords(number: int, *, limit: int, order: str) -> int:
    return number


def _decorated(function: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """The function under each library's decorator, all with a time to live but for the standard library's."""
    typed = theine.Memoize(2 * ENTRIES, LIFETIME)
    boxed = cachebox.cached(cachebox.TTLCache(2 * ENTRIES, TTL), postprocess=None)
    return {
        OURS: upshift.ResultCache(max_size=2 * ENTRIES).cached(ttl=TTL)(function),
        "functools.lru_cache": functools.lru_cache(maxsize=2 * ENTRIES)(function),
        "cachebox TTL": boxed(function),
        "moka-py": moka_py.cached(2 * ENTRIES, ttl=TTL)(function),
        "theine": typed(function),
        "cachetools TTL": cachetools.cached(cachetools.TTLCache(2 * ENTRIES, TTL), lock=threading.Lock())(function),
    }


def _hits(path: str, function: Any, call: str, stored: Sequence[Any], wanted: Any, limit: float, **names: Any) -> Case:
    def run(effort: Effort) -> Row:
        contenders = []
        for name, decorated in _decorated(function).items():
            arguments = {"f": decorated, **names}
            contender(name, call, [stored], **arguments).run(1)
            contenders.append(contender(name, call, wanted, **arguments))
        contenders += _floors(dict.fromkeys(stored))
        return row(path, measure(contenders, effort), floors=(CALL, DICT), budget=Budget(limit))

    return Case(path, run)


def _floors(table: dict[Any, Any]) -> list[Contender]:
    """An empty native function of one argument, and the lookup in a dict."""
    wanted = [[type(key)(str(key)) for key in table]]
    return [contender(CALL, "f(k)", wanted, f=callable), contender(DICT, "d[k]", wanted, d=table)]


def _decorated_rows() -> list[Case]:
    text = "landing"
    return [
        _hits("decorated hit, 1 int", one, "f(k)", STORED, WANTED, 0.7),
        _hits("decorated hit, 1 int, the very object stored", one, "f(k)", STORED, [STORED], 0.7),
        _hits("decorated hit, 1 str", one, "f(k)", WORDS, WANTED_WORDS, 0.7),
        _hits("decorated hit, 2 str", two, "f(k, t)", WORDS, WANTED_WORDS, 0.65, t=text),
        _hits("decorated hit, int + 2 keywords", keywords, "f(k, limit=n, order=t)", STORED, WANTED, 0.4, n=50, t=text),
    ]


# ---- get and set ---------------------------------------------------------------------------------------------------

#: Time to live given to each `set`.
EACH = 60


def _forever(kind: str) -> dict[str, tuple[Any, str, str]]:
    """Caches without a time to live (ours has one all the same): the object, its `get`, its `set`."""
    boxed = {"LRU": cachebox.LRUCache, "LFU": cachebox.LFUCache}[kind]
    return {
        OURS: (upshift.ResultCache(max_size=ENTRIES, default_ttl=TTL), "c.get(k)", "c.set(k, k)"),
        f"cachebox {kind}": (boxed(ENTRIES), "c.get(k)", "c.insert(k, k)"),
        # Items are its quicker way to set.
        f"cachebox {kind} [k]": (boxed(ENTRIES), "c.get(k)", "c[k] = k"),
    }


def _timed() -> dict[str, tuple[Any, str, str]]:
    """Caches with a time to live: the object, its `get`, its `set`. Per entry, where the library can."""
    return {
        OURS: (upshift.ResultCache(max_size=ENTRIES), "c.get(k)", f"c.set(k, k, {EACH})"),
        "cachebox VTTL": (cachebox.VTTLCache(ENTRIES), "c.get(k)", f"c.insert(k, k, {EACH})"),
        "cachebox TTL (one for all)": (cachebox.TTLCache(ENTRIES, EACH), "c.get(k)", "c.insert(k, k)"),
        "moka-py": (moka_py.Moka(ENTRIES), "c.get(k)", f"c.set(k, k, {EACH})"),
        "theine": (theine.Cache(ENTRIES), "c.get(k)", "c.set(k, k, lifetime)"),
        "cachetools TTL (one for all)": (cachetools.TTLCache(ENTRIES, EACH), "c.get(k)", "c[k] = k"),
    }


def _operation(path: str, caches: Callable[[], Any], write: bool, keys: Any, limit: float, **ours: Any) -> Case:
    def run(effort: Effort) -> Row:
        contenders = []
        for name, (cache, get, put) in caches().items():
            if name == OURS:
                for option, value in ours.items():
                    setattr(cache, option, value)
            names = {"c": cache, "lifetime": timedelta(seconds=EACH)}
            contender(name, put, [STORED], **names).run(1)
            contenders.append(contender(name, put if write else get, keys, **names))
        known = dict.fromkeys(STORED)
        contenders.append(contender(DICT, "d[k] = k" if write and keys is not FRESH else "d.get(k)", keys, d=known))
        return row(path, measure(contenders, effort), floors=(DICT,), budget=Budget(limit))

    return Case(path, run)


def _get_and_set_rows() -> list[Case]:
    lru = functools.partial(_forever, "LRU")
    lfu = functools.partial(_forever, "LFU")
    operations: list[tuple[str, bool, Any]] = [
        ("get hit", False, WANTED),
        ("get miss", False, ABSENT),
        ("set overwrite", True, WANTED),
        ("set evicting", True, FRESH),
    ]
    plain = [_operation(f"{name}, peers without TTL", lru, write, keys, 1.15) for name, write, keys in operations]
    timed = [_operation(f"{name}, peers with TTL", _timed, write, keys, 1.0) for name, write, keys in operations]
    return [
        *plain,
        *timed,
        _operation("set evicting, LFU", lfu, True, FRESH, 1.0, policy="lfu"),
        _operation("set evicting, adaptive against LFU", lfu, True, FRESH, 1.0, policy="adaptive"),
    ]


# ---- threads -------------------------------------------------------------------------------------------------------

#: (key, whether to set it): nine reads to one write.
MIX = [[(key, place % 10 == 0) for place, key in enumerate(WANTED[0])]]


def _mixed(threads: int) -> Case:
    path = f"90/10 get and set, {threads} thread{'s' * (threads > 1)}"

    def run(effort: Effort) -> Row:
        contenders = []
        for name, (cache, get, put) in _timed().items():
            names = {"c": cache, "lifetime": timedelta(seconds=EACH), "lock": threading.Lock()}
            contender(name, put, [STORED], **names).run(1)
            guard = "with lock: " if name.startswith("cachetools") else ""
            statement = f"if w: {guard}{put}\nelse: {guard}{get}".replace("if w: with", "if w:\n    with")
            statement = statement.replace("else: with", "else:\n    with")
            contenders.append(in_threads(contender(name, statement, MIX, each="k, w", **names), threads))
        return row(path, measure(contenders, _longer(effort)))

    return Case(path, run)


def _called(threads: int) -> Case:
    path = f"decorated hit, 1 int, {threads} thread{'s' * (threads > 1)}"

    def run(effort: Effort) -> Row:
        contenders = []
        for name, decorated in _decorated(one).items():
            contender(name, "f(k)", [STORED], f=decorated).run(1)
            contenders.append(in_threads(contender(name, "f(k)", WANTED, f=decorated), threads))
        return row(path, measure(contenders, _longer(effort)))

    return Case(path, run)


def _longer(effort: Effort) -> Effort:
    """Turns of several switches between threads."""
    return Effort(effort.rounds, 2, 10 * effort.seconds, effort.scale)


def cases() -> list[Case]:
    threads = [case(count) for case in (_mixed, _called) for count in (1, 4)]
    return [*_decorated_rows(), *_get_and_set_rows(), *threads]
