"""`upshift.tasks` beyond the contract: waiting, retries, asynchronous handlers, the running task."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import Task, eventually, run, together, travelled

import upshift.sqlite
from upshift.exceptions import NotInitialisedError
from upshift.tasks import BackgroundTaskManager, TaskPriority, current


@pytest.fixture
def manager(tmp_path):
    with BackgroundTaskManager(tmp_path / "tasks.db", 2, 1, False) as manager:
        yield manager


# Waiting


def test_wait_returns_the_task(manager):
    manager.register_handler("t")(lambda context: context["a"])
    waiting = Task(manager.wait, manager.queue_task("t", context={"a": 5}))
    time.sleep(0.05)
    manager.start_workers()
    found = waiting.result(20)
    assert (found["status"], found["result"]) == ("completed", 5)


def test_wait_gives_up_in_time(manager):
    task = manager.queue_task("t")
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match=f"task {task} is queued"):
        manager.wait(task, 0.3)
    assert 0.25 < time.monotonic() - begun < 2
    with pytest.raises(LookupError):
        manager.wait(task + 1, 1)


def test_waiting_is_woken_not_polled(manager):
    manager.register_handler("t")(lambda context: None)
    manager.start_workers()
    manager.wait(manager.queue_task("t"), 20)
    begun = time.monotonic()
    for _ in range(20):
        manager.wait(manager.queue_task("t"), 20)
    assert time.monotonic() - begun < 20 * 0.1


# Retries


def test_a_failed_task_is_tried_again(manager):
    times = []

    @manager.register_handler("t", retries=2, backoff=0.1)
    def handler(context):
        times.append(time.monotonic())
        if len(times) < 3:
            raise ValueError(f"failure {len(times)}")
        return "at last"

    manager.start_workers()
    task = manager.wait(manager.queue_task("t"), 20)
    assert (task["status"], task["result"], task["error"]) == ("completed", "at last", None)
    waits = [later - earlier for earlier, later in zip(times, times[1:])]
    assert 0.07 < waits[0] < 0.6
    assert 0.14 < waits[1] < 0.8
    attempts = [(each["attempt"], each["outcome"], each["error"]) for each in manager.get_attempts(task["id"])]
    assert attempts == [(1, "failed", "failure 1"), (2, "failed", "failure 2"), (3, "completed", None)]
    assert manager.get_dead_letters() == []


def test_retries_end(manager):
    calls = []

    @manager.register_handler("t", retries=1, backoff=0)
    def handler(context):
        calls.append(1)
        raise ValueError("always")

    manager.start_workers()
    task = manager.wait(manager.queue_task("t"), 20)
    assert (task["status"], task["error"], len(calls)) == ("failed", "always", 2)
    assert manager.get_dead_letters()[0]["attempts"] == 2


@pytest.mark.parametrize("options", [{"retries": -1}, {"backoff": -1}, {"backoff": float("nan")}])
def test_impossible_retries(manager, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        manager.register_handler("t", **options)


# Handlers


def test_asynchronous_handlers(manager):
    @manager.register_handler("t")
    async def handler(context):
        await asyncio.sleep(0.01)
        return [context["a"], current().id]

    manager.start_workers()
    task = manager.queue_task("t", context={"a": 1})
    assert manager.wait(task, 20)["result"] == [1, task]


def test_the_running_task(manager):
    assert current() is None
    seen = []

    @manager.register_handler("t")
    def handler(context):
        running = current()
        seen.append((running.id, running.task_type, running.attempt, running.cancelled))

    manager.start_workers()
    task = manager.queue_task("t")
    manager.wait(task, 20)
    assert seen == [(task, "t", 1, False)]


# Options


def test_many_tasks_at_once(manager):
    seen = []
    manager.register_handler("t")(lambda context: seen.append(context.get("i")))
    ids = manager.queue_tasks(["t", {"task_type": "t", "context": {"i": 1}, "priority": TaskPriority.HIGH}])
    ids += manager.queue_tasks({"task_type": "t", "description": "d", "context": {"i": i}} for i in (2, 3))
    assert ids == [1, 2, 3, 4]
    assert manager.queue_tasks([]) == []
    assert manager.get_task_status(3)["task_description"] == "d"
    manager.max_workers = 1
    manager.start_workers()
    manager.stop_workers(drain=True)
    assert sorted(seen, key=str) == [1, 2, 3, None]
    assert seen[0] == 1


@pytest.mark.parametrize(
    "task", [5, {"context": {}}, {"task_type": "t", "context": {"a": object()}}, {"task_type": "t", "strange": 1}]
)
def test_a_batch_with_a_fault_queues_nothing(manager, task):
    with pytest.raises(TypeError):
        manager.queue_tasks(["t", task])
    assert manager.get_queued_tasks() == []


def test_delays(manager):
    manager.register_handler("t")(lambda context: time.time())
    manager.start_workers()
    begun = time.time()
    later = manager.queue_task("t", delay=0.4)
    at = manager.queue_task("t", at=datetime.fromtimestamp(begun + travelled() + 0.2))
    past = manager.queue_task("t", at=begun - 100)
    batch = manager.queue_tasks([{"task_type": "t", "delay": timedelta(seconds=0.3)}])[0]
    assert manager.get_task_status(later)["status"] == "queued"
    waits = [manager.wait(task, 20)["result"] - begun for task in (past, at, batch, later)]
    for wait, least in zip(waits, (0, 0.2, 0.3, 0.4)):
        assert least - 0.01 <= wait < least + 1.5


def test_a_delay_survives_a_restart(tmp_path):
    with BackgroundTaskManager(tmp_path / "tasks.db") as manager:
        task = manager.queue_task("t", delay=0.5)
    with BackgroundTaskManager(tmp_path / "tasks.db") as manager:
        manager.register_handler("t")(lambda context: 1)
        manager.start_workers()
        assert manager.get_task_status(task)["status"] == "queued"
        assert manager.wait(task, 20)["result"] == 1


def test_a_key_stands_for_one_task(manager):
    first = manager.queue_task("t", key="a", context={"i": 1})
    assert manager.queue_task("t", key="a", context={"i": 2}) == first
    assert manager.queue_task("t", key="b") != first
    assert len(manager.get_queued_tasks()) == 2
    assert manager.get_task_status(first)["context"] == {"i": 1}
    assert manager.get_task_status(first)["result"] is None


def test_keys_under_concurrency(manager):
    ids = together(lambda index: [manager.queue_task("t", key=str(i)) for i in range(30)], 6)
    assert all(own == ids[0] for own in ids)
    assert len(manager.get_queued_tasks()) == 30


def test_retries_of_a_task_come_before_those_of_its_handler(manager):
    calls = []

    @manager.register_handler("t", retries=5, backoff=0)
    def handler(context):
        calls.append(current().attempt)
        raise ValueError

    manager.start_workers()
    manager.wait(manager.queue_task("t", retries=1), 20)
    assert calls == [1, 2]
    calls.clear()
    manager.wait(manager.queue_task("t", retries=0), 20)
    assert calls == [1]


@pytest.mark.parametrize(
    "options",
    [
        {"delay": -1},
        {"delay": float("inf")},
        {"at": float("nan")},
        {"retries": -1},
        {"backoff": -1},
        {"time_limit": -1},
        {"delay": 1, "at": 1},
    ],
)
def test_options_out_of_range(manager, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        manager.queue_task("t", **options)
    assert manager.get_queued_tasks() == []


@pytest.mark.parametrize("options", [{"delay": "1"}, {"at": "now"}, {"retries": 1.5}, {"key": 1}, {"time_limit": []}])
def test_options_of_another_kind(manager, options):
    with pytest.raises(TypeError, match=next(iter(options))):
        manager.queue_task("t", **options)


def test_queueing_in_a_transaction_of_ones_own(manager):
    manager.register_handler("t")(lambda context: context["i"])
    manager.start_workers()
    with closing(upshift.sqlite.connect(manager.db_path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
        connection.execute("BEGIN")
        connection.execute("INSERT INTO orders VALUES (1)")
        lost = manager.queue_task("t", context={"i": 1}, connection=connection)
        connection.execute("ROLLBACK")
        assert manager.get_task_status(lost) is None
        connection.execute("BEGIN")
        connection.execute("INSERT INTO orders VALUES (2)")
        kept = manager.queue_task("t", context={"i": 2}, connection=connection)
        later = manager.queue_task("t", context={"i": 3}, delay=0.2, connection=connection)
        assert manager.get_queued_tasks() == []
        connection.execute("COMMIT")
        with pytest.raises(ValueError, match="connection"):
            manager.queue_task("t", key="k", connection=connection)
    assert manager.wait(kept, 20)["result"] == 2
    assert manager.wait(later, 20)["result"] == 3


def test_a_time_limit(manager):
    @manager.register_handler("patient")
    def patient(context):
        until = time.monotonic() + 10
        while not current().cancelled and time.monotonic() < until:
            time.sleep(0.005)
        return "stopped by itself"

    @manager.register_handler("async")
    async def endless(context):
        await asyncio.sleep(30)

    manager.start_workers()
    for kind in ("patient", "async"):
        begun = time.monotonic()
        task = manager.wait(manager.queue_task(kind, time_limit=0.2), 20)
        assert (task["status"], task["error"]) == ("failed", "time limit of 0.2 s exceeded")
        assert 0.15 < time.monotonic() - begun < 5
    assert manager.wait(manager.queue_task("patient", time_limit=0), 20)["status"] == "failed"


def test_cancelling_and_watching_a_handler(manager):
    @manager.register_handler("t")
    def handler(context):
        current().progress({"done": 0.5})
        until = time.monotonic() + 20
        while not current().cancelled and time.monotonic() < until:
            time.sleep(0.005)
        return "ended early"

    manager.start_workers()
    task = manager.queue_task("t")
    eventually(lambda: manager.get_progress(task) == {"done": 0.5})
    assert manager.cancel_task(task) is False
    assert manager.request_cancel(task) is True
    assert manager.wait(task, 20)["result"] == "ended early"
    assert manager.request_cancel(task) is False
    assert manager.get_progress(task) is None


def test_awaiting_tasks(manager):
    manager.register_handler("t")(lambda context: context["i"])

    async def main():
        ids = [manager.queue_task("t", context={"i": i}) for i in range(20)]
        found = await asyncio.gather(*(manager.await_task(task, 20) for task in ids))
        assert [task["result"] for task in found] == list(range(20))
        later = manager.queue_task("t", delay=60)
        with pytest.raises(TimeoutError):
            await manager.await_task(later, 0.1)
        with pytest.raises(LookupError):
            await manager.await_task(999)

    manager.start_workers()
    asyncio.run(main())


# The object


def test_a_subclass_that_forgets_init(tmp_path):
    class Careless(BackgroundTaskManager):
        def __init__(self):
            pass

    with pytest.raises(NotInitialisedError):
        Careless().queue_task("t")


def test_importing_has_no_side_effects(tmp_path):
    code = """
        import os, threading
        import upshift.tasks
        assert threading.active_count() == 1
        assert os.listdir(".") == []
    """
    run(code, cwd=tmp_path)


def test_a_slow_disk_of_another_writer_is_waited_for(manager):
    """While somebody else writes, queueing waits instead of failing."""
    holder, release = threading.Event(), threading.Event()

    def write():
        connection = manager.conn
        connection.execute("BEGIN IMMEDIATE")
        holder.set()
        release.wait(20)
        connection.execute("COMMIT")

    writing = Task(write)
    assert holder.wait(20)
    queueing = Task(manager.queue_task, "t")
    time.sleep(0.2)
    assert not queueing.done()
    release.set()
    assert queueing.result(20) == 1
    writing.result(20)
