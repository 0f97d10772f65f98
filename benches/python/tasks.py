"""Durable tasks: queued one by one, in batches and by eight threads; and queued, run and recorded. Against huey.

Both sides commit each task before its number is told, with a write-ahead log and without forcing it to the disk at each
commit (upshift: durability "process"; huey: `fsync=False`). A batch is one transaction; huey has none. What is run is
counted afterwards: a task that is not recorded ends the run.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from huey import SqliteHuey
from report import OURS, Budget, Case, Row, row
from timing import Effort

from upshift.tasks import BackgroundTaskManager

TASKS = 4000
THREADS = 8
#: Seconds after which something is wrong.
PATIENCE = 300
HUEY = "huey, fsync off"

Run = Callable[[Path, int], float]


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="upshift-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _in_threads(work: Callable[[int], object], count: int) -> None:
    crew = [threading.Thread(target=lambda: [work(i) for i in range(count // THREADS)]) for _ in range(THREADS)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()


def _ours(work: Callable[[BackgroundTaskManager, int], object], durability: str = "process") -> Run:
    def run(folder: Path, count: int) -> float:
        with BackgroundTaskManager(folder / "tasks.db", durability=durability) as manager:
            taken = _timed(lambda: work(manager, count))
            found = manager.conn.execute("SELECT count(*) FROM background_tasks").fetchone()[0]
        if found != count:
            raise SystemExit(f"{count} tasks were accepted, {found} are there")
        return taken

    return run


def _one_by_one(manager: BackgroundTaskManager, count: int) -> None:
    for i in range(count):
        manager.queue_task("bench", context={"i": i})


def _batch(manager: BackgroundTaskManager, count: int) -> None:
    for begin in range(0, count, 500):
        manager.queue_tasks({"task_type": "bench", "context": {"i": begin + i}} for i in range(500))


def _by_threads(manager: BackgroundTaskManager, count: int) -> None:
    _in_threads(lambda i: manager.queue_task("bench", context={"i": i}), count)


def _through(workers: int) -> Callable[[BackgroundTaskManager, int], None]:
    def work(manager: BackgroundTaskManager, count: int) -> None:
        manager.register_handler("bench")(lambda context: context["i"])
        manager.max_workers, manager.enable_auto_scaling = workers, False
        _one_by_one(manager, count)
        manager.start_workers()
        manager.stop_workers(drain=True, timeout=PATIENCE)
        done = manager.conn.execute("SELECT count(*) FROM background_tasks WHERE status = 'completed'").fetchone()[0]
        if done != count:
            raise SystemExit(f"{count} tasks were accepted, {done} are recorded")

    return work


def _huey(work: Callable[[SqliteHuey, Callable[[int], object], int], object]) -> Run:
    def run(folder: Path, count: int) -> float:
        huey = SqliteHuey("bench", filename=str(folder / "huey.db"), fsync=False, journal_mode="wal")
        task = huey.task()(lambda i: i)
        try:
            return _timed(lambda: work(huey, task, count))
        finally:
            huey.storage.close()

    return run


def _huey_one_by_one(huey: SqliteHuey, task: Callable[[int], object], count: int) -> None:
    for i in range(count):
        task(i)


def _huey_by_threads(huey: SqliteHuey, task: Callable[[int], object], count: int) -> None:
    _in_threads(task, count)


def _huey_through(huey: SqliteHuey, task: Callable[[int], object], count: int) -> None:
    """What its worker does with each task, without the pauses of its loop."""
    _huey_one_by_one(huey, task, count)
    for _ in range(count):
        huey.execute(huey.dequeue())
    if huey.result_count() != count:
        raise SystemExit(f"{count} tasks were accepted, {huey.result_count()} are recorded")


def _compete(path: str, budget: Budget | None, contenders: dict[str, Run]) -> Case:
    def measure(effort: Effort) -> Row:
        count = int(TASKS * effort.scale) // 500 * 500 or 500
        numbers: dict[str, list[float]] = {name: [] for name in contenders}
        names = list(contenders)
        for number in range(effort.rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                with _folder() as folder:
                    numbers[name].append(count / contenders[name](folder, count) / 1e3)
        others = [name for name in numbers if name.startswith("upshift ")]
        return row(f"durable task: {path}", numbers, unit="k/s", rising=True, budget=budget, floors=others)

    return Case(f"durable task: {path}", measure)


def cases() -> list[Case]:
    eight = Budget(8, "ratio >=")
    return [
        _compete(
            "enqueue one by one",
            Budget(1.6, "ratio >="),
            {OURS: _ours(_one_by_one), HUEY: _huey(_huey_one_by_one), "upshift power": _ours(_one_by_one, "power")},
        ),
        _compete("enqueue in batches of 500", eight, {OURS: _ours(_batch), HUEY: _huey(_huey_one_by_one)}),
        _compete(
            "enqueue by 8 threads",
            eight,
            {OURS: _ours(_by_threads), HUEY: _huey(_huey_by_threads), "upshift power": _ours(_by_threads, "power")},
        ),
        _compete(
            "enqueue + run + record",
            Budget(5, "ratio >="),
            {OURS: _ours(_through(1)), HUEY: _huey(_huey_through), "upshift 4 workers": _ours(_through(4))},
        ),
    ]
