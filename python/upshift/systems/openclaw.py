"""The parts of system `openclaw` that are not domain classes: its process-wide cache and pools, its demonstrations."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from upshift._workspace import workspace
from upshift.cache import ResultCache
from upshift.sqlite import ConnectionPool
from upshift.tasks import BackgroundTaskManager, TaskPriority

__all__ = [
    "background_tasks_main",
    "close_all_pools",
    "db_pool_main",
    "get_cache",
    "get_pool",
    "give_back_pool",
    "result_cache_main",
    "share_pool",
    "workspace",
]

logger = logging.getLogger("upshift.openclaw")

_cache: ResultCache | None = None
_cache_lock = threading.Lock()
_pools: dict[str, ConnectionPool] = {}
# Pools that a manager opened, and how many managers use each.
_shares: dict[ConnectionPool, int] = {}
_pools_lock = threading.Lock()
# One for each pool that is being opened: a file that another process has locked holds up its own callers only.
_opening: dict[str, threading.Lock] = {}


def get_cache(max_size: int = 1000, default_ttl: float = 3600, enable_persistent: bool = False) -> ResultCache:
    """The process-wide cache; the arguments count on the first call only.

    Args:
        max_size: Entries kept in memory.
        default_ttl: Seconds; 0 = entries never expire.
        enable_persistent: Keep results in `<workspace>/result_cache.db` as well.

    Returns:
        The same `ResultCache` on every call. Safe to call from any thread.
    """
    global _cache
    with _cache_lock:
        if _cache is None:
            path = workspace() / "result_cache.db" if enable_persistent else None
            _cache = ResultCache(max_size, default_ttl, enable_persistent, path)
        return _cache


def result_cache_main() -> None:
    """A short demonstration of the cache; leaves nothing behind. What it sees goes to the log `upshift.openclaw`."""
    with tempfile.TemporaryDirectory() as folder:
        with ResultCache(max_size=3, default_ttl=60, enable_persistent=True, db_path=Path(folder) / "demo.db") as cache:

            @cache.cached(ttl=30, tags="squares")
            def square(number: int) -> int:
                return number * number

            results = [square(number) for number in (2, 3, 2, 2)]
            logger.info("squares %s, %s", results, square.cache_info())
            cache.set("greeting", "hello", tags=["demo"])
            logger.info("greeting %r, invalidated %d", cache.get("greeting"), cache.invalidate_by_tag("demo"))
            for number in range(5):
                cache.set(f"number:{number}", number)
            logger.info("after five more entries: %s", cache.get_stats())


def get_pool(
    db_path: str | bytes | os.PathLike[str] | os.PathLike[bytes], min_size: int = 2, max_size: int = 10
) -> ConnectionPool:
    """The process-wide pool of a database; the sizes count on the first call for it only.

    Args:
        db_path: Path of the database. All names of one file share a pool, links and `..` included; `":memory:"` is one
            database as well.
        min_size: Connections that are kept open.
        max_size: Connections that may be open at a time.

    Returns:
        The same `ConnectionPool` on every call, a fresh one after it was closed. Safe to call from any thread.

    Raises:
        ValueError: A size is out of range, or `min_size` exceeds `max_size`; on the first call only.
        TypeError: An argument is of another kind.
    """
    if not isinstance(db_path, (str, bytes, os.PathLike)):
        raise TypeError(f"db_path must be str, bytes or a path-like object, not {type(db_path).__name__}")
    return _open_pool(_key(db_path), db_path, min_size, max_size)


def share_pool(db_path: str | os.PathLike[str], min_size: int, max_size: int) -> ConnectionPool:
    """The same for one who will `give_back_pool()`: a pool opened so is closed by the last who gives it back."""
    key = _key(db_path)
    while True:
        pool = _open_pool(key, db_path, min_size, max_size, is_shared=True)
        with _pools_lock:
            if _pools.get(key) is pool:
                if pool in _shares:
                    _shares[pool] += 1
                return pool
        # Just given back by somebody else.


def give_back_pool(pool: ConnectionPool) -> None:
    """Give up a share of a pool; without effect on one that `get_pool()` opened, for the whole process."""
    with _pools_lock:
        if pool not in _shares:
            return
        _shares[pool] -= 1
        if _shares[pool] > 0:
            return
        del _shares[pool]
        for key in [key for key, other in _pools.items() if other is pool]:
            del _pools[key]
    pool.close_all()


def _key(db_path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> str:
    name = os.fsdecode(db_path)
    return name if name == ":memory:" else os.path.realpath(name)


def _open_pool(
    key: str,
    db_path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    min_size: int,
    max_size: int,
    is_shared: bool = False,
) -> ConnectionPool:
    with _pools_lock:
        pool = _pools.get(key)
        if pool is not None and pool.running:
            return pool
        opening = _opening.setdefault(key, threading.Lock())
    with opening:
        pool = _pools.get(key)
        if pool is None or not pool.running:
            pool = ConnectionPool(db_path, min_size, max_size)
            with _pools_lock:
                replaced = _pools.get(key)
                if replaced is not None:
                    _shares.pop(replaced, None)
                _pools[key] = pool
                if is_shared:
                    _shares[pool] = 0
        return pool


def _after_fork() -> None:
    """The threads that held the locks are not in the child."""
    global _pools_lock
    _pools_lock = threading.Lock()
    _opening.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def close_all_pools(timeout: float | timedelta | None = 5.0) -> None:
    """Close and forget all pools that `get_pool()` made.

    Args:
        timeout: Seconds to wait for connections that are lent, all pools together; None = without limit.
    """
    seconds = ConnectionPool._seconds(timeout)
    end = None if seconds is None else time.monotonic() + seconds
    with _pools_lock:
        pools = list(_pools.values())
        _pools.clear()
        _shares.clear()
    for pool in pools:
        pool.close_all(None if end is None else max(end - time.monotonic(), 0))


def db_pool_main() -> None:
    """A short demonstration of the pool; leaves nothing behind. What it sees goes to the log `upshift.openclaw`."""
    with tempfile.TemporaryDirectory() as folder, ConnectionPool(Path(folder) / "demo.db", 1, 3) as pool:
        with pool.connection() as connection:
            connection.execute("CREATE TABLE squares (number INTEGER PRIMARY KEY, square INTEGER)")
            connection.executemany("INSERT INTO squares VALUES (?, ?)", [(n, n * n) for n in range(10)])
        first = pool.acquire()
        raw = None if first is None else first.conn
        pool.release(first)
        with pool.connection() as again:
            logger.info("the same connection came back: %s", again.conn is raw)
            row = again.execute("SELECT count(*) AS rows, sum(square) AS total FROM squares").fetchone()
            logger.info("%d rows, sum %d", row["rows"], row["total"])
        logger.info("pool: %s", pool.get_stats())


def background_tasks_main() -> None:
    """A short demonstration of tasks; leaves nothing behind. What it sees goes to the log `upshift.openclaw`."""
    with tempfile.TemporaryDirectory() as folder:
        with BackgroundTaskManager(Path(folder) / "demo.db", max_workers=2) as manager:

            @manager.register_handler("square")
            def square(context: dict[str, Any]) -> int:
                number: int = context["number"]
                return number * number

            manager.register_rule("number_found", "square", "number > 2", TaskPriority.HIGH)
            tasks = [manager.queue_task("square", context={"number": number}) for number in (1, 2)]
            tasks += manager.trigger_event("number_found", {"number": 3})
            logger.info("queued: %s", [task["id"] for task in manager.get_queued_tasks()])
            manager.start_workers()
            results = [manager.wait(task, timeout=10)["result"] for task in tasks]
            logger.info("squares %s, %s", results, manager.get_worker_stats())
