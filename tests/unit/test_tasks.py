"""`upshift.tasks` beyond the contract: waiting, retries, asynchronous handlers, the running task."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import Task, run

from upshift.exceptions import NotInitialisedError
from upshift.tasks import BackgroundTaskManager, current


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
