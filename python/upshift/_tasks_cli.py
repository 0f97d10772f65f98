"""`upshift worker MODULE:MANAGER`: processes that run the tasks of a manager's file until they are told to stop."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import Any, Optional

__all__ = ["main"]

#: Seconds between looks at child processes and at tasks still running.
_LOOK = 0.2
#: Times that a process which ended by itself is started again at once, one after the other.
_RESTARTS = 5


def main(args: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="upshift worker",
        description="Run the tasks of a manager's file, those of other processes included.",
        epilog="SIGTERM and Ctrl+C let running tasks end and keep the rest in the file; a second one gives running "
        "tasks back to the file as well.",
    )
    parser.add_argument(
        "manager", metavar="MODULE:MANAGER", help="a BackgroundTaskManager, or a function that makes one"
    )
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="worker processes (default: 1)")
    parser.add_argument("--workers", type=int, metavar="N", help="threads of each (default: as the manager says)")
    options = parser.parse_args(args)
    module, colon, name = options.manager.partition(":")
    if not (module and colon and name):
        parser.error(f"MODULE:MANAGER expected, not {options.manager!r}")
    if options.processes < 1 or (options.workers is not None and options.workers < 1):
        parser.error("--processes and --workers must be 1 or more")
    if options.processes > 1:
        return _supervise(options)
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        target: Any = import_module(module)
        for part in name.split("."):
            target = getattr(target, part)
    except (ImportError, AttributeError) as error:
        _say(f"{error}")
        return 2

    from upshift.tasks import BackgroundTaskManager

    manager = target if isinstance(target, BackgroundTaskManager) else target()
    if not isinstance(manager, BackgroundTaskManager):
        _say(f"{options.manager} is no BackgroundTaskManager")
        return 2
    return _work(manager, options.workers)


def _say(text: str) -> None:
    sys.stderr.write(f"upshift worker: {text}\n")


class _Signals:
    """Counts requests to stop."""

    def __init__(self) -> None:
        self.count = 0
        self.wake = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Optional[FrameType]) -> None:
        self.count += 1
        self.wake.set()


def _work(manager: Any, workers: int | None) -> int:
    signals = _Signals()
    if workers is not None:
        manager.max_workers, manager.enable_auto_scaling = workers, False
    manager.share()
    manager.start_workers()
    while not signals.wake.wait(_LOOK):
        pass
    while signals.count < 2 and manager.workers:
        manager.stop_workers(timeout=_LOOK)
    manager.abandon()
    return 0


def _supervise(options: argparse.Namespace) -> int:
    """Keeps so many processes running, and hands signals on to them."""
    signals = _Signals()
    command = [sys.executable, "-m", "upshift", "worker", options.manager]
    if options.workers is not None:
        command += ["--workers", str(options.workers)]
    # A group of their own: Ctrl+C of a terminal reaches them through this process only, once.
    start = {"start_new_session": True} if os.name == "posix" else {}
    children = [subprocess.Popen(command, **start) for _ in range(options.processes)]  # type: ignore[call-overload]
    restarts, sent = 0, 0
    while children:
        signals.wake.wait(_LOOK)
        signals.wake.clear()
        for child in children if signals.count > sent else []:
            child.send_signal(signal.SIGTERM)
        sent = signals.count
        for child in [child for child in children if child.poll() is not None]:
            children.remove(child)
            if sent == 0 and child.returncode != 2 and restarts < _RESTARTS * options.processes:
                restarts += 1
                _say(f"a process ended with {child.returncode}; another is started")
                children.append(subprocess.Popen(command, **start))  # type: ignore[call-overload]
    return 0 if sent else 1
