"""`upshift prove tasks`: kills processes that run tasks, again and again, and counts what became of the tasks."""

from __future__ import annotations

import argparse
import collections
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["main"]

#: What a worker process is: each run of a task appends a line to the ledger.
_WORKER = """
import os, sys, time
from upshift.tasks import BackgroundTaskManager
manager = BackgroundTaskManager(sys.argv[1], 3, 1, False, shared=True)
ledger = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
@manager.register_handler("append")
def append(context):
    os.write(ledger, b"%d %d %f\\n" % (context["i"], os.getpid(), time.time()))
    time.sleep(context["seconds"])
manager.start_workers()
sys.stdout.write("ready\\n")
sys.stdout.flush()
time.sleep(86400)
"""
_PROCESSES = 2
_TASKS_A_KILL = 30
#: Seconds for a task to end once the killing is over.
_PATIENCE = 120.0


class _Run(NamedTuple):
    pid: int
    at: float


def main(args: Sequence[str]) -> int:
    """Runs the command; returns 0 if nothing was lost."""
    parser = argparse.ArgumentParser(prog="upshift prove", description="Show by experiment what upshift promises.")
    parser.add_argument("what", choices=["tasks"], help="tasks: no accepted task is lost by kill -9")
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="processes to kill (default: 200)")
    parser.add_argument("--seed", type=int, help="repeats the moments of an earlier run")
    options = parser.parse_args(args)
    if options.kills < 1:
        parser.error("--kills must be 1 or more")
    with tempfile.TemporaryDirectory(prefix="upshift-prove-") as folder:
        return _prove(Path(folder), options.kills, random.Random(options.seed))


def _start(database: Path, ledger: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _WORKER, str(database), str(ledger)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    if process.stdout is None or process.stdout.readline() != "ready\n":
        raise RuntimeError("a worker process did not start")
    return process


def _kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _prove(folder: Path, kills: int, chance: random.Random) -> int:
    from upshift.tasks import BackgroundTaskManager

    database, ledger = folder / "tasks.db", folder / "ledger"
    killed: dict[int, float] = {}
    with BackgroundTaskManager(database) as producer:
        accepted: list[int] = []
        workers = [_start(database, ledger) for _ in range(_PROCESSES)]
        try:
            for kill in range(kills):
                for _ in range(_TASKS_A_KILL):
                    context = {"i": len(accepted), "seconds": chance.choice([0, 0.01, 0.1])}
                    accepted.append(producer.queue_task("append", context=context))
                time.sleep(chance.uniform(0, 0.15))
                victim = workers[kill % _PROCESSES]
                killed[victim.pid] = time.time()
                _kill(victim)
                workers[kill % _PROCESSES] = _start(database, ledger)
            ended = [producer.wait(task, _PATIENCE) for task in accepted]
        finally:
            for worker in workers:
                _kill(worker)
        crashes = producer.conn.execute("SELECT task FROM upshift_attempts WHERE outcome = 'crashed'").fetchall()
    return _report(accepted, ended, {row[0] for row in crashes}, ledger.read_text(), killed)


def _report(
    accepted: list[int], ended: list[dict[str, Any]], crashed: set[int], ledger: str, killed: dict[int, float]
) -> int:
    runs: dict[int, list[_Run]] = collections.defaultdict(list)
    for line in ledger.splitlines():
        i, pid, at = line.split()
        runs[int(i)].append(_Run(int(pid), float(at)))
    statuses = collections.Counter(task["status"] for task in ended)
    lost = sum(task["status"] == "completed" and not runs[i] for i, task in enumerate(ended))
    lost += sum(statuses[status] for status in ("queued", "running"))
    again = [i for i, found in runs.items() if len(found) > 1]
    outside = [i for i in again if accepted[i] not in crashed]
    recovery = [run.at - killed[before.pid] for i in again for before, run in zip(runs[i], runs[i][1:])
                if before.pid in killed]  # fmt: skip
    lines = {
        "kills": len(killed),
        "accepted": len(accepted),
        "completed": statuses["completed"],
        "failed, killed in both of their runs": statuses["failed"],
        "lost": lost,
        "run twice, a kill fell inside": len(again) - len(outside),
        "run twice without a kill inside": len(outside),
        "largest recovery time": f"{max(recovery, default=0.0):.2f} s",
    }
    for name, value in lines.items():
        sys.stdout.write(f"{name + ':':40}{value}\n")
    return 1 if lost or outside else 0
