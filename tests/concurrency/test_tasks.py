"""Task managers under stress: starts and stops, handlers that fork or end the process, interpreter exit, cycles."""

from __future__ import annotations

import functools
import gc
import os
import sqlite3
import threading
import time
import weakref
from contextlib import closing

import pytest
from harness import eventually, run, run_literal, together

from upshift.tasks import BackgroundTaskManager

SETUP = """
import os, sys, threading, time
from upshift.tasks import BackgroundTaskManager
manager = BackgroundTaskManager(sys.argv[1], 2, 1, False)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tasks.db"


def statuses(path):
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT status FROM background_tasks ORDER BY id")]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="platform: no list of open files")
def test_start_and_stop_leak_nothing(path):
    def counts():
        gc.collect()
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    with BackgroundTaskManager(path, 3, 1, False) as manager:
        manager.register_handler("t")(lambda context: None)
        before = None
        for turn in range(150):
            manager.start_workers()
            manager.queue_task("t")
            manager.stop_workers()
            if turn == 20:
                before = counts()
        after = counts()
        assert after[0] <= before[0]
        assert after[1] <= before[1] + 2
        assert manager._threads == {}
    eventually(lambda: counts()[1] < before[1])


def test_opened_and_dropped_managers_leave_no_threads_and_files(path):
    def once():
        manager = BackgroundTaskManager(path)
        manager.queue_task("t")
        return weakref.ref(manager)

    references = [once() for _ in range(20)]
    gc.collect()
    assert [reference() for reference in references] == [None] * 20
    # Their leaving is written in the background.
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        eventually(lambda: connection.execute("SELECT count(*) FROM upshift_managers").fetchone()[0] == 0)
    with BackgroundTaskManager(path) as manager:
        assert manager.recover_tasks() == 20


def test_threads_start_stop_and_queue_at_once(path):
    with BackgroundTaskManager(path, 4, 1, False) as manager:
        manager.register_handler("t")(lambda context: None)

        def work(index):
            for turn in range(30):
                if index == 0:
                    manager.start_workers()
                elif index == 1 and turn % 3 == 0:
                    manager.stop_workers(timeout=5)
                else:
                    manager.queue_task("t")
                assert len(manager.workers) <= 4

        together(work, 5)
        manager.start_workers()
        manager.stop_workers(drain=True, timeout=30)
        assert set(statuses(path)) == {"completed"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: no fork")
def test_a_handler_that_forks(path):
    code = (
        SETUP
        + """
@manager.register_handler('leaves')
def leaves(context):
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

@manager.register_handler('returns')
def returns(context):
    pid = os.fork()
    if pid == 0:
        return 'the child is not to record this'
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

@manager.register_handler('queues')
def queues(context):
    pid = os.fork()
    if pid == 0:
        manager.queue_task('nobody')
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

manager.start_workers()
print([manager.wait(manager.queue_task(kind), 30)['result'] for kind in ('leaves', 'returns', 'queues')])
manager.close()
"""
    )
    assert run_literal(code, path, timeout=60) == [7, 0, 0]
    assert statuses(path)[:3] == ["completed"] * 3


def test_a_handler_that_ends_the_process_does_not_loop(path):
    code = (
        SETUP
        + """
manager.register_handler('t')(lambda context: os._exit(3))
if sys.argv[2] == 'first':
    manager.queue_task('t')
manager.start_workers()
time.sleep(30)
"""
    )
    run(code, path, "first", status=3, timeout=20)
    run(code, path, "second", status=3, timeout=20)
    with BackgroundTaskManager(path, 2, 1, False) as manager:
        manager.register_handler("t")(lambda context: "must not run")
        manager.start_workers()
        task = manager.wait(1, 20)
    assert task["status"] == "failed"
    assert "run 2 times" in task["error"]


def test_exit_while_workers_are_busy(path):
    code = (
        SETUP
        + """
manager.register_handler('t')(lambda context: sum(range(20000)))
for _ in range(300):
    manager.queue_task('t')
manager.start_workers()
threading.Thread(target=lambda: [manager.queue_task('t') for _ in range(2000)], daemon=True).start()
time.sleep(float(sys.argv[2]))
"""
    )
    for seconds in (0, 0.05, 0.2):
        run(code, path, seconds, timeout=40)
    assert "running" not in statuses(path)


def test_exit_within_an_endless_handler(path):
    code = (
        SETUP
        + """
started = threading.Event()
def endless(context):
    started.set()
    while True:
        pass
manager.register_handler('t')(endless)
manager.queue_task('t')
manager.start_workers()
started.wait(20)
"""
    )
    begun = time.monotonic()
    run(code, path, timeout=40)
    assert time.monotonic() - begun < 25
    assert statuses(path) == ["queued"]


def test_a_manager_in_a_cycle_dies(path):
    manager = BackgroundTaskManager(path)

    manager.register_handler("t")(functools.partial(BackgroundTaskManager.get_worker_stats, manager))
    reference = weakref.ref(manager)
    del manager
    gc.collect()
    assert reference() is None


def test_two_managers_of_one_process_on_one_file(path):
    seen = []
    with BackgroundTaskManager(path, 2, 1, False) as one, BackgroundTaskManager(path, 2, 1, False, shared=True) as two:
        for manager in (one, two):
            manager.register_handler("t")(lambda context: seen.append(context["i"]))
            manager.start_workers()
        ids = [(one, two)[i % 2].queue_task("t", context={"i": i}) for i in range(200)]
        for task in ids:
            one.wait(task, 30)
    assert sorted(seen) == list(range(200))
