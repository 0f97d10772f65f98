"""Load of the machine: processor, memory, root file system. Nothing here waits."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from upshift import _native

__all__ = ["SystemMeter"]

logger = logging.getLogger("upshift.dashboard")

_GIB = 1024**3
_NOTHING = {"percent": 0.0, "used": 0, "total": 0}


class SystemMeter:
    """Measures on request. What cannot be measured on this system is 0, and said once in the log."""

    def __init__(self) -> None:
        self._processors = _native.CpuMeter()
        self._failed: set[str] = set()

    def measure(self) -> dict[str, float]:
        """The object `system` of a sample: percentages with one decimal, sizes in GiB with two."""
        processors = self._said("processor load", self._processors.sample())
        memory = self._said("memory", _native.system_memory()) or _NOTHING
        disk = self._said("disk", _native.system_disk(Path(os.sep).resolve())) or _NOTHING
        return {
            "cpu_percent": round(processors or 0.0, 1),
            "memory_percent": round(memory["percent"], 1),
            "memory_used_gb": round(memory["used"] / _GIB, 2),
            "memory_total_gb": round(memory["total"] / _GIB, 2),
            "disk_percent": round(disk["percent"], 1),
            "disk_used_gb": round(disk["used"] / _GIB, 2),
            "disk_total_gb": round(disk["total"] / _GIB, 2),
        }

    def _said(self, what: str, value: Any) -> Any:
        if value is None and what not in self._failed:
            self._failed.add(what)
            logger.warning("the %s cannot be measured here; it is shown as 0", what)
        return value
