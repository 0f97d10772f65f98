"""The parts of system `openclaw` that are not domain classes: its process-wide cache and its demonstrations."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from pathlib import Path

from upshift.cache import ResultCache

__all__ = ["get_cache", "result_cache_main", "workspace"]

logger = logging.getLogger("upshift.openclaw")

_cache: ResultCache | None = None
_cache_lock = threading.Lock()


def workspace() -> Path:
    """Default directory of the system's database files: `OPENCLAW_WORKSPACE`, else the current directory."""
    chosen = os.environ.get("OPENCLAW_WORKSPACE")
    return Path(chosen) if chosen else Path.cwd()


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
