"""`upshift worker`: processes that run the tasks of a file until they are told to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import child_env, eventually

from upshift.tasks import BackgroundTaskManager

pytestmark = pytest.mark.skipif(os.name != "posix", reason="platform: no SIGTERM")

MODULE = """
import os, time
from upshift.tasks import BackgroundTaskManager

manager = BackgroundTaskManager("tasks.db", max_workers=2, enable_auto_scaling=False)

@manager.register_handler("pid")
def pid(context):
    time.sleep(context.get("seconds", 0))
    return os.getpid()

@manager.register_handler("slow")
def slow(context):
    time.sleep(context["seconds"])
    return "done"

def make():
    return manager

nothing = 5
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "jobs.py").write_text(MODULE)
    return tmp_path


@pytest.fixture
def producer(folder):
    with BackgroundTaskManager(folder / "tasks.db") as manager:
        yield manager


@pytest.fixture
def start(folder):
    started = []

    def run(*arguments):
        command = [sys.executable, "-m", "upshift", "worker", *arguments]
        process = subprocess.Popen(command, cwd=folder, env=child_env(), stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=20)


@pytest.mark.parametrize("name", ["jobs:manager", "jobs:make"])
def test_it_runs_tasks_of_a_live_process_and_drains(producer, start, name):
    worker = start(name)
    assert producer.wait(producer.queue_task("pid"), 30)["result"] == worker.pid
    running = producer.queue_task("slow", context={"seconds": 1})
    eventually(lambda: producer.get_task_status(running)["status"] == "running")
    later = producer.queue_task("slow", delay=3600)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    assert producer.get_task_status(running)["result"] == "done"
    assert producer.get_task_status(later)["status"] == "queued"


def test_a_second_signal_gives_tasks_back(producer, start):
    worker = start("jobs:manager", "--workers", "1")
    running = producer.queue_task("slow", context={"seconds": 60})
    eventually(lambda: producer.get_task_status(running)["status"] == "running")
    begun = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    time.sleep(0.6)
    assert worker.poll() is None
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    assert time.monotonic() - begun < 15
    assert producer.get_task_status(running)["status"] == "queued"
    assert producer.get_attempts(running) == []


def test_several_processes(producer, start):
    worker = start("jobs:manager", "--processes", "2")
    pids = set()

    def both():
        # Long enough for the one that looks later to find some.
        ids = [producer.queue_task("pid", context={"seconds": 0.2}) for _ in range(20)]
        pids.update(producer.wait(task, 30)["result"] for task in ids)
        return len(pids) == 2

    eventually(both, timeout=30)
    assert worker.pid not in pids
    # One that dies is replaced, and its work goes on.
    victim = pids.pop()
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: both() or len(pids - {victim}) == 2, timeout=30)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    for pid in pids - {victim}:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["jobs"], "MODULE:MANAGER expected"),
        (["missing:manager"], "missing"),
        (["jobs:missing"], "missing"),
        (["jobs:manager", "--processes", "0"], "1 or more"),
    ],
)
def test_usage_errors(start, arguments, said):
    worker = start(*arguments)
    _, errors = worker.communicate(timeout=30)
    assert worker.returncode == 2
    assert said in errors
