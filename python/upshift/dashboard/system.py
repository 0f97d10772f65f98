"""Load of the machine: processor, memory, root file system. Nothing here waits."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["SystemMeter"]

logger = logging.getLogger("upshift.dashboard")

_GIB = 1024**3
#: Seconds between two readings of the processor counters; the kernel advances them a hundred times a second.
_MIN_WINDOW = 0.2


class SystemMeter:
    """Measures on request. What cannot be measured on this system is 0, and said once in the log."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failed: set[str] = set()
        self._counters = self._attempt("processor", _cpu_counters, (0.0, 0.0))
        self._read_at = time.monotonic()
        self._percent = 0.0

    def measure(self) -> dict[str, float]:
        """The object `system` of a sample: percentages with one decimal, sizes in GiB with two."""
        memory_used, memory_total = self._attempt("memory", _memory, (0, 0))
        disk_used, disk_total = self._attempt("disk", _disk, (0, 0))
        return {
            "cpu_percent": self._cpu_percent(),
            "memory_percent": _percent(memory_used, memory_total),
            "memory_used_gb": round(memory_used / _GIB, 2),
            "memory_total_gb": round(memory_total / _GIB, 2),
            "disk_percent": _percent(disk_used, disk_total),
            "disk_used_gb": round(disk_used / _GIB, 2),
            "disk_total_gb": round(disk_total / _GIB, 2),
        }

    def _cpu_percent(self) -> float:
        with self._lock:
            now = time.monotonic()
            if now - self._read_at >= _MIN_WINDOW:
                busy, total = self._attempt("processor", _cpu_counters, self._counters)
                before_busy, before_total = self._counters
                self._percent = _percent(busy - before_busy, total - before_total)
                self._counters, self._read_at = (busy, total), now
            return self._percent

    def _attempt(
        self, what: str, read: Callable[[], tuple[float, float]], otherwise: tuple[float, float]
    ) -> tuple[float, float]:
        try:
            return read()
        except (OSError, LookupError, ValueError) as error:
            if what not in self._failed:
                self._failed.add(what)
                logger.warning("%s cannot be measured here: %s", what, error)
            return otherwise


def _percent(part: float, whole: float) -> float:
    return round(min(max(100 * part / whole, 0.0), 100.0), 1) if whole > 0 else 0.0


def _cpu_counters() -> tuple[float, float]:
    """Busy and total time of all processors since the start of the system."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = fields[3] + fields[4]  # waiting for the disk is idle as well
    return sum(fields) - idle, sum(fields)


def _memory() -> tuple[float, float]:
    sizes = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("MemTotal", "MemAvailable"):
            sizes[name] = int(rest.split()[0]) * 1024
    return sizes["MemTotal"] - sizes["MemAvailable"], sizes["MemTotal"]


def _disk() -> tuple[float, float]:
    usage = shutil.disk_usage("/")
    return usage.used, usage.total
