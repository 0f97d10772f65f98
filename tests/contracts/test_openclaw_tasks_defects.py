"""Contract openclaw §7: defects W1 to W13 of the original, none of which may come back. One section per number.

W5 to W7 and W11 have more in test_openclaw_tasks_execution.py, W8 in …_conditions.py, W13 in …_handlers.py.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest
from harness import Peer, eventually, run, together

from upshift import _native
from upshift.tasks import BackgroundTaskManager


def live():
    return [thread for thread in threading.enumerate() if thread.name.startswith("worker-")]


# W1


def test_w01_as_many_live_as_are_reported(make_manager):  # openclaw W1
    for _ in range(5):
        manager = make_manager(max_workers=8, enable_auto_scaling=False)
        manager.start_workers()
        assert manager.current_workers == len(manager.workers) == len(live()) == 8
        time.sleep(0.05)
        assert len(live()) == 8
        manager.stop_workers()
        assert live() == []


# W2


def test_w02_stop_with_a_backlog_is_bounded(make_manager):  # openclaw W2
    manager = make_manager(max_workers=2, enable_auto_scaling=False)
    manager.register_handler("t")(lambda context: time.sleep(0.01))
    for _ in range(2000):
        manager.queue_task("t")
    manager.start_workers()
    begun = time.monotonic()
    manager.stop_workers()
    assert time.monotonic() - begun < 5
    assert manager.task_queue.qsize() > 1000


# W3


def test_w03_a_queued_task_does_not_hang_the_exit(tmp_path):  # openclaw W3
    code = """
        import sys
        from upshift.tasks import BackgroundTaskManager
        manager = BackgroundTaskManager(sys.argv[1])
        manager.register_handler("t")(lambda context: None)
        manager.queue_task("t")
        manager.start_workers()
        manager.queue_task("t")
    """
    begun = time.monotonic()
    run(code, tmp_path / "a.db", timeout=30)
    assert time.monotonic() - begun < 15


# W4


def test_w04_eight_threads_on_one_manager(make_manager):  # openclaw W4
    manager = make_manager(max_workers=4, enable_auto_scaling=False)
    manager.register_handler("t")(lambda context: context["i"])
    manager.start_workers()

    def work(index):
        own = [manager.queue_task("t", context={"i": (index, i)}) for i in range(50)]
        for task in own:
            assert manager.get_task_status(task)["id"] == task
            manager.get_queued_tasks()
            manager.get_worker_stats()
        return own

    ids = [task for own in together(work, 8) for task in own]
    assert len(set(ids)) == 400
    assert None not in ids
    assert {manager.wait(task, 30)["status"] for task in ids} == {"completed"}


# W5


def test_w05_a_result_need_not_be_a_dict(manager):  # openclaw W5
    manager.register_handler("t")(lambda context: "just text")
    manager.start_workers()
    assert manager.wait(manager.queue_task("t"), 20)["status"] == "completed"


# W6


def test_w06_system_exit_leaves_nothing_running(make_manager):  # openclaw W6
    manager = make_manager(max_workers=2, enable_auto_scaling=False)

    @manager.register_handler("exit")
    def leave(context):
        sys.exit(1)

    manager.start_workers()
    ids = [manager.queue_task("exit") for _ in range(20)]
    assert {manager.wait(task, 20)["status"] for task in ids} == {"failed"}
    assert manager.get_running_tasks() == []
    assert manager.current_workers == len(manager.workers) == 2
    begun = time.monotonic()
    manager.stop_workers(drain=True)
    assert time.monotonic() - begun < 5


# W7


def test_w07_a_restart_loads_what_was_queued(task_path):  # openclaw W7
    with BackgroundTaskManager(task_path) as manager:
        ids = [manager.queue_task("t", context={"i": i}) for i in range(5)]
    with BackgroundTaskManager(task_path) as manager:
        manager.register_handler("t")(lambda context: context["i"])
        manager.start_workers()
        assert [manager.wait(task, 20)["result"] for task in ids] == list(range(5))


# W8


@pytest.mark.parametrize("condition", ["open('x','w')", "().__class__.__base__.__subclasses__()", "''.__doc__"])
def test_w08_conditions_reach_nothing(manager, condition):  # openclaw W8
    with pytest.raises(ValueError):
        manager.register_rule("e", "t", condition)


# W9


def test_w09_rules_do_not_multiply(task_path):  # openclaw W9
    for start in range(3):
        with BackgroundTaskManager(task_path) as manager:
            manager.register_rule("e", "t")
            manager.register_rule("e", "t", "")
            manager.register_rule("e", "t", "a > 1", start + 1)
            assert manager.conn.execute("SELECT count(*) FROM task_rules").fetchone()[0] == 2
            ids = manager.trigger_event("e", {"a": 2})
            assert [manager.get_task_status(task)["priority"] for task in ids] == [2, start + 1]


def test_w09_copies_that_the_original_made_queue_one_task(manager):  # openclaw W9
    for _ in range(4):
        manager.conn.execute("INSERT INTO task_rules (trigger_event, task_type) VALUES ('e', 't')")
    assert len(manager.trigger_event("e")) == 1
    manager.register_rule("e", "t", priority=4)
    assert [tuple(row) for row in manager.conn.execute("SELECT id, priority FROM task_rules")] == [(1, 4)]


# W10


def test_w10_activity_is_of_live_workers_only(make_manager):  # openclaw W10
    manager = make_manager(max_workers=3, enable_auto_scaling=False)
    release = threading.Event()
    manager.register_handler("t")(lambda context: release.wait(20))
    manager.start_workers()
    for _ in range(3):
        manager.queue_task("t")
    eventually(lambda: len(manager.get_running_tasks()) == 3)
    stats = manager.get_worker_stats()
    assert stats["active_workers"] == 3
    assert set(stats["worker_activity"]) == {thread.name for thread in manager.workers}
    release.set()
    manager.stop_workers()
    assert manager.worker_activity == {}
    assert manager.get_worker_stats()["active_workers"] == 0


# W11


def test_w11_quick_restarts_leave_one_of_each(make_manager):  # openclaw W11
    manager = make_manager(max_workers=4, min_workers=2, scaling_check_interval=0.1, cpu_threshold=101)
    evaluations = []
    scale = manager._scale
    manager._scale = lambda: evaluations.append(time.monotonic()) or scale()
    for _ in range(20):
        manager.start_workers()
        names = [thread.name for thread in live()]
        assert len(names) == len(set(names)) == 2
        manager.stop_workers()
    manager.start_workers()
    evaluations.clear()
    time.sleep(1.05)
    assert 5 <= len(evaluations) <= 11, "one series of evaluations, not one for each start"
    assert len(manager.workers) == 2


# W12


def test_w12_the_load_is_measured_without_waiting(make_manager):  # openclaw W12
    core = make_manager()._core
    core.cpu_percent()
    time.sleep(0.25)
    begun = time.monotonic()
    found = core.cpu_percent()
    assert time.monotonic() - begun < 0.1
    assert 0 <= found <= 100


def test_w12_an_unknown_load_is_logged_once(make_manager, monkeypatch, caplog):  # openclaw W12
    manager = make_manager()

    class Blind:
        def __getattr__(self, name):
            return (lambda: None) if name == "cpu_percent" else getattr(manager.__dict__["_real"], name)

    manager._real, manager._engine = manager._engine, Blind()
    manager.running = True
    manager._scale()
    manager._scale()
    manager.running = False
    manager._engine = manager._real
    assert caplog.text.count("cannot be measured") == 1


# W13


def test_w13_the_running_interpreter(monkeypatch):  # openclaw W13
    from upshift import _tasks_handlers

    seen = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: seen.append(command[0]) or finished(command))
    _tasks_handlers.run_tests({})
    _tasks_handlers.check_dependencies({})
    assert seen == [sys.executable] * 2


def finished(command):
    return subprocess.CompletedProcess(command, 0, "[]", "")


# Forks and other processes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: no fork")
def test_a_manager_in_a_forked_child(task_path):
    code = """
        import os, sys
        from upshift.tasks import BackgroundTaskManager
        manager = BackgroundTaskManager(sys.argv[1], max_workers=2, enable_auto_scaling=False)
        manager.register_handler("t")(lambda context: os.getpid())
        manager.start_workers()
        assert manager.wait(manager.queue_task("t"), 20)["result"] == os.getpid()
        pid = os.fork()
        if pid == 0:
            assert (manager.running, manager.current_workers, manager.workers) == (False, 0, [])
            task = manager.queue_task("t")
            manager.start_workers()
            ok = manager.wait(task, 20)["result"] == os.getpid() != os.getppid()
            manager.close()
            os._exit(0 if ok else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert manager.wait(manager.queue_task("t"), 20)["result"] == os.getpid()
        assert manager.current_workers == 2
        manager.close()
    """
    run(code, task_path, timeout=50)
    with closing(sqlite3.connect(task_path)) as connection:
        assert connection.execute("SELECT count(*) FROM background_tasks WHERE status = 'completed'").fetchone() == (3,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_file_worked_by_several_processes(task_path, make_manager):
    setup = f"""
        import os
        from upshift.tasks import BackgroundTaskManager
        manager = BackgroundTaskManager({str(task_path)!r}, 2, 1, False, shared=True)
        manager.register_handler("t")(lambda context: os.getpid())
        manager.start_workers()
    """
    producer = make_manager()
    with Peer() as one, Peer() as other:
        one(setup)
        other(setup)
        ids = [producer.queue_task("t") for _ in range(300)]
        pids = [producer.wait(task, 30)["result"] for task in ids]
        assert set(pids) <= {one.pid, other.pid}
        one("manager.close()")
        other("manager.close()")
    assert producer.get_queued_tasks() == []


def test_the_decision_is_the_engines():
    assert _native.tasks_decide(40, 1, 1, 0.0, 0.0, 1, 8, 5.0, 30.0, 80.0) == 2
    assert _native.tasks_decide(0, 2, 0, 31.0, 0.0, 1, 8, 5.0, 30.0, 80.0) == -1
    assert _native.tasks_decide(40, 1, 1, 0.0, 99.0, 1, 8, 5.0, 30.0, 80.0) == 0
