"""The handlers every manager has from the start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import datetime
from typing import Any, Callable

from upshift._native import CpuMeter, system_disk, system_memory

__all__ = ["BUILT_IN", "analyze_logs", "check_dependencies", "monitor_performance", "run_tests"]

TEST_SECONDS = 300
PIP_SECONDS = 60
#: Lines of a log that are looked at, from its end.
LOG_LINES = 1000
_BLOCK = 1 << 16
#: However long the lines are.
_MOST = 64 << 20


def run_tests(context: dict[str, Any]) -> dict[str, Any]:
    """Runs pytest, verbosely, with this interpreter in the current directory."""
    try:
        done = _run([sys.executable, "-m", "pytest", "-v"], TEST_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        return {"success": False, "error": str(error)}
    return {"success": done.returncode == 0, "output": done.stdout, "errors": done.stderr}


def check_dependencies(context: dict[str, Any]) -> dict[str, Any]:
    """Lists outdated packages of this interpreter."""
    try:
        done = _run([sys.executable, "-m", "pip", "list", "--outdated", "--format=json"], PIP_SECONDS)
        if done.returncode != 0:
            return {"success": False, "error": "pip check failed"}
        outdated = json.loads(done.stdout or "[]")
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return {"success": False, "error": str(error)}
    return {"success": True, "outdated_count": len(outdated), "outdated": outdated}


def analyze_logs(context: dict[str, Any]) -> dict[str, Any]:
    """Picks errors and warnings out of the last lines of `context['log_file']`."""
    path = context.get("log_file")
    if not path or not os.path.isfile(path):  # noqa: PTH113 - it may be anything that names a file
        return {"success": False, "error": "Log file not found"}
    errors, warnings = [], []
    for line in _last_lines(path, LOG_LINES):
        upper = line.upper()
        if "ERROR" in upper:
            errors.append(line.strip())
        elif "WARNING" in upper:
            warnings.append(line.strip())
    return {
        "success": True,
        "errors": errors,
        "warnings": warnings,
        "error_count": len(errors),
        "warning_count": len(warnings),
    }


def monitor_performance(context: dict[str, Any]) -> dict[str, Any]:
    """Load of processors (over a second), memory and root file system, in percent; None for what cannot be measured."""
    meter = CpuMeter()
    time.sleep(1)
    cpu, memory, disk = meter.sample(), system_memory(), system_disk(os.path.abspath(os.sep))  # noqa: PTH100
    return {
        "success": True,
        "cpu_percent": None if cpu is None else round(cpu, 1),
        "memory_percent": None if memory is None else round(memory["percent"], 1),
        "disk_percent": None if disk is None else round(disk["percent"], 1),
        "timestamp": datetime.now().isoformat(),
    }


BUILT_IN: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "run_tests": run_tests,
    "check_dependencies": check_dependencies,
    "analyze_logs": analyze_logs,
    "monitor_performance": monitor_performance,
}


def _run(command: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=seconds,
        check=False,
    )


def _last_lines(path: Any, count: int) -> list[str]:
    """Read from the end, so that a large file is not read whole."""
    with open(path, "rb") as file:  # noqa: PTH123
        left = file.seek(0, os.SEEK_END)
        blocks: list[bytes] = []
        lines = size = 0
        # One more line end than lines, so that the first of them is whole.
        while left > 0 and lines <= count and size < _MOST:
            step = min(_BLOCK, left)
            left -= step
            file.seek(left)
            block = file.read(step)
            lines += block.count(b"\n")
            size += len(block)
            blocks.append(block)
    found = b"".join(reversed(blocks)).decode("utf-8", "replace").split("\n")
    # What follows the last line end is no line if it is empty.
    return (found if found[-1] else found[:-1])[-count:]
