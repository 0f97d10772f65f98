"""Contract openclaw §1, §4.1–4.3: enums, the manager's methods, stats, tables, attributes."""

from __future__ import annotations

import enum
import gc
import inspect
import json
import os
import pickle
import re
import sqlite3
import threading
import time
import weakref
from contextlib import closing
from pathlib import Path

import pytest
from harness import Task, eventually, run_literal, together, travelled

import upshift.sqlite
from upshift.tasks import BackgroundTaskManager, TaskPriority, TaskStatus

COLUMNS = [
    *("id", "task_type", "task_description", "priority", "status", "context", "result", "error"),
    *("created_at", "started_at", "completed_at"),
]
DB_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


def outside(path, sql, *args):
    """A look from outside, with the standard library."""
    with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
        return connection.execute(sql, args).fetchall()


# §4 enums


def test_enums():  # openclaw §1, §4
    assert {each.name: each.value for each in TaskPriority} == {"LOW": 1, "MEDIUM": 2, "HIGH": 3, "CRITICAL": 4}
    assert {each.name: each.value for each in TaskStatus} == {
        "QUEUED": "queued",
        "RUNNING": "running",
        "COMPLETED": "completed",
        "FAILED": "failed",
        "CANCELLED": "cancelled",
    }
    for member in (TaskPriority(3), TaskPriority["HIGH"], TaskStatus("failed")):
        assert isinstance(member, enum.Enum)
        assert pickle.loads(pickle.dumps(member)) is member
        assert {member: 1}[member] == 1


# §4.1 the constructor


def test_signatures():  # openclaw §1 "parameter names and positional order are API"
    def names(function):
        return [name for name in inspect.signature(function).parameters if name != "self"]

    assert names(BackgroundTaskManager)[:4] == ["db_path", "max_workers", "min_workers", "enable_auto_scaling"]
    assert names(BackgroundTaskManager.queue_task)[:4] == ["task_type", "description", "priority", "context"]
    assert names(BackgroundTaskManager.register_rule) == ["trigger_event", "task_type", "condition", "priority"]
    assert names(BackgroundTaskManager.trigger_event) == ["event", "context"]
    assert names(BackgroundTaskManager.stop_workers) == ["drain", "timeout"]


def test_defaults(manager):  # openclaw §4.1, §8 "1–8 workers", §9 1
    assert (manager.max_workers, manager.min_workers, manager.enable_auto_scaling) == (8, 1, True)
    found = (manager.scale_up_queue_depth, manager.scale_down_idle_time, manager.cpu_threshold)
    assert (*found, manager.scaling_check_interval) == (5, 30, 80, 5)


def test_positional_order_is_path_max_min_flag(make_manager, task_path):
    manager = make_manager(task_path, 3, 2, False)
    assert (manager.max_workers, manager.min_workers, manager.enable_auto_scaling) == (3, 2, False)


@pytest.mark.parametrize("options", [{"min_workers": -1}, {"max_workers": 0}, {"max_workers": -3}])
def test_impossible_numbers(make_manager, options):
    with pytest.raises(ValueError):
        make_manager(**options)


def test_a_minimum_above_the_maximum_wins(make_manager):
    manager = make_manager(max_workers=1, min_workers=3)
    manager.start_workers()
    assert (manager.current_workers, manager.max_workers) == (3, 1)


def test_max_workers_is_never_clamped(make_manager):  # openclaw §4.1, §9 3
    assert make_manager(max_workers=500).get_worker_stats()["max_workers"] == 500


def test_the_default_path_is_in_the_workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENCLAW_WORKSPACE", str(tmp_path))
    with BackgroundTaskManager() as manager:
        assert Path(manager.db_path) == tmp_path / "background_tasks.db"
        manager.queue_task("t")
    assert (tmp_path / "background_tasks.db").stat().st_size > 0


@pytest.mark.parametrize("kind", [str, Path])
def test_paths(tmp_path, kind):
    with BackgroundTaskManager(kind(tmp_path / "a.db")) as manager:
        assert manager.queue_task("t") == 1


def test_an_empty_file_is_a_valid_start(make_manager, task_path):  # openclaw §2.5
    task_path.touch()
    assert make_manager().queue_task("t") == 1


def test_memory(make_manager):
    manager = make_manager(":memory:", enable_auto_scaling=False, max_workers=2)
    manager.register_handler("t")(lambda context: context)
    manager.start_workers()
    assert manager.wait(manager.queue_task("t", context={"a": 1}), 20)["result"] == {"a": 1}
    assert manager.conn.execute("SELECT count(*) FROM background_tasks").fetchone()[0] == 1


def test_construction_starts_no_threads(tmp_path):
    code = """
        import sys, threading, os
        from upshift.tasks import BackgroundTaskManager
        def count():
            return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
        before = count()
        manager = BackgroundTaskManager(sys.argv[1])
        print((threading.active_count(), count() - before))
    """
    assert run_literal(code, tmp_path / "a.db") == (1, 0)


def test_an_unusable_path(tmp_path):
    with pytest.raises(sqlite3.OperationalError):
        BackgroundTaskManager(tmp_path / "missing" / "a.db")


# §4.1 queue_task


def test_queue_task_commits_before_it_returns(manager, task_path):
    task = manager.queue_task("t", "a thing", TaskPriority.HIGH, {"a": [1, None, "ü"]})
    assert isinstance(task, int)
    (row,) = outside(
        task_path, "SELECT id, task_type, task_description, priority, status, context FROM background_tasks"
    )
    assert row[:5] == (task, "t", "a thing", 3, "queued")
    assert json.loads(row[5]) == {"a": [1, None, "ü"]}


def test_ids_are_unique_under_concurrency(manager):  # openclaw §4.1, W4
    ids = together(lambda index: [manager.queue_task("t", context={"i": index}) for _ in range(100)], 8)
    flat = [task for own in ids for task in own]
    assert len(set(flat)) == 800
    assert all(own == sorted(own) for own in ids)
    assert manager.task_queue.qsize() == 800


@pytest.mark.parametrize("context", [None, {}])
def test_no_context_is_null(manager, task_path, context):
    manager.queue_task("t", context=context)
    assert outside(task_path, "SELECT context FROM background_tasks") == [(None,)]


class Endless(dict):
    pass


def endless():
    value = {}
    value["self"] = value
    return value


@pytest.mark.parametrize("context", [{"a": object()}, {"a": {1, 2}}, {("a",): 1}, [1], "text", 5, endless()])
def test_a_context_that_is_no_json_stores_nothing(manager, task_path, context):
    with pytest.raises(TypeError, match="context"):
        manager.queue_task("t", context=context)
    assert outside(task_path, "SELECT count(*) FROM background_tasks") == [(0,)]


@pytest.mark.parametrize("priority", [0, 5, -1, "HIGH", 2.0, True, None, TaskStatus.QUEUED])
def test_an_unknown_priority(manager, task_path, priority):
    with pytest.raises(ValueError, match="priority"):
        manager.queue_task("t", priority=priority)
    assert outside(task_path, "SELECT count(*) FROM background_tasks") == [(0,)]


@pytest.mark.parametrize("priority", [*TaskPriority, 1, 2, 3, 4])
def test_priorities(manager, priority):
    task = manager.get_task_status(manager.queue_task("t", priority=priority))
    assert task["priority"] == (priority.value if isinstance(priority, TaskPriority) else priority)


@pytest.mark.parametrize("task_type", [None, 5, b"t"])
def test_a_type_is_text(manager, task_type):
    with pytest.raises(TypeError, match="task_type"):
        manager.queue_task(task_type)


def test_queueing_while_stopped_and_after_close(manager):
    manager.start_workers()
    manager.stop_workers()
    assert manager.queue_task("t") == 1
    manager.close()
    with pytest.raises(sqlite3.ProgrammingError):
        manager.queue_task("t")


# §4.1 handlers


def test_register_handler_returns_the_function_and_the_latest_wins(manager):
    def first(context):
        return 1

    assert manager.register_handler("t")(first) is first
    manager.start_workers()
    assert manager.wait(manager.queue_task("t"), 20)["result"] == 1
    manager.register_handler("t")(lambda context: 2)
    assert manager.wait(manager.queue_task("t"), 20)["result"] == 2
    manager.task_handlers["t"] = lambda context: 3
    assert manager.wait(manager.queue_task("t"), 20)["result"] == 3
    manager.task_handlers.update(t=lambda context: 4)
    assert manager.wait(manager.queue_task("t"), 20)["result"] == 4


# §4.1 rules


def test_rules(manager, task_path):
    manager.register_rule("saved", "index")
    manager.register_rule("saved", "scan", "size > 10", TaskPriority.CRITICAL)
    manager.register_rule("other", "never")
    assert manager.trigger_event("nothing") == []
    (small,) = manager.trigger_event("saved", {"size": 3})
    both = manager.trigger_event("saved", {"size": 30})
    assert [manager.get_task_status(task)["task_type"] for task in both] == ["index", "scan"]
    task = manager.get_task_status(both[1])
    assert (task["priority"], task["task_description"], task["context"]) == (4, "Auto-triggered by saved", {"size": 30})
    assert manager.get_task_status(small)["priority"] == 2
    # A failing condition skips that rule only.
    assert len(manager.trigger_event("saved")) == 1


def test_a_rule_may_be_disabled(manager):
    manager.register_rule("saved", "index")
    manager.conn.execute("UPDATE task_rules SET enabled = 0")
    assert manager.trigger_event("saved") == []


@pytest.mark.parametrize("condition", ["__import__('os')", "x.y", "a b", "lambda: 1", "[i for i in x]", "2 ** 9"])
def test_conditions_outside_the_grammar(manager, task_path, condition):
    with pytest.raises(ValueError):
        manager.register_rule("saved", "index", condition)
    assert outside(task_path, "SELECT count(*) FROM task_rules") == [(0,)]


# §4.1 starting and stopping


def test_start_without_scaling_starts_exactly_max_workers(make_manager):
    manager = make_manager(max_workers=3, min_workers=1, enable_auto_scaling=False)
    manager.start_workers()
    assert manager.current_workers == 3
    assert sorted(thread.name for thread in manager.workers) == ["worker-1", "worker-2", "worker-3"]
    assert all(thread.daemon and thread in threading.enumerate() for thread in manager.workers)
    manager.start_workers()
    assert (manager.current_workers, len(manager.workers)) == (3, 3)


def test_start_with_scaling_starts_min_workers(make_manager):
    manager = make_manager(max_workers=8, min_workers=2)
    manager.start_workers()
    assert (manager.current_workers, len(manager.workers), manager.running) == (2, 2, True)


def test_stop_lets_running_work_end_and_keeps_the_rest(make_manager, task_path):
    manager = make_manager(max_workers=1, enable_auto_scaling=False)
    started, release = threading.Event(), threading.Event()

    @manager.register_handler("slow")
    def slow(context):
        started.set()
        release.wait(20)
        return "done"

    first, second = manager.queue_task("slow"), manager.queue_task("slow")
    manager.start_workers()
    assert started.wait(20)
    stopping = Task(manager.stop_workers)
    time.sleep(0.1)
    assert not stopping.done()
    release.set()
    stopping.result(20)
    assert (manager.current_workers, manager.running, manager.workers) == (0, False, [])
    assert [manager.get_task_status(task)["status"] for task in (first, second)] == ["completed", "queued"]
    manager.start_workers()
    assert manager.wait(second, 20)["status"] == "completed"


def test_stop_with_drain_empties_the_queue_first(make_manager):
    manager = make_manager(max_workers=2, enable_auto_scaling=False)
    manager.register_handler("t")(lambda context: time.sleep(0.002))
    ids = [manager.queue_task("t") for _ in range(100)]
    manager.start_workers()
    manager.stop_workers(drain=True)
    assert {manager.get_task_status(task)["status"] for task in ids} == {"completed"}


@pytest.mark.parametrize("drain", [False, True])
def test_stop_never_blocks_beyond_its_timeout(make_manager, drain):
    manager = make_manager(max_workers=1, enable_auto_scaling=False)
    started, release = threading.Event(), threading.Event()

    @manager.register_handler("slow")
    def slow(context):
        started.set()
        release.wait(20)

    task = manager.queue_task("slow")
    manager.start_workers()
    assert started.wait(20)
    begun = time.monotonic()
    manager.stop_workers(drain=drain, timeout=0.3)
    assert 0.25 < time.monotonic() - begun < 3
    assert manager.current_workers == 0
    # It ends by itself, is recorded, and a new start never makes it one worker too many.
    manager.start_workers()
    assert manager.current_workers == 1
    release.set()
    assert manager.wait(task, 20)["status"] == "completed"


def test_stopping_what_never_started(manager):
    begun = time.monotonic()
    manager.stop_workers()
    manager.stop_workers(drain=True)
    assert time.monotonic() - begun < 1


def test_a_handler_may_stop_the_workers(make_manager):
    manager = make_manager(max_workers=2, enable_auto_scaling=False)
    manager.register_handler("stop")(lambda context: manager.stop_workers())
    task = manager.queue_task("stop")
    manager.start_workers()
    assert manager.wait(task, 10)["status"] == "completed"
    eventually(lambda: manager.workers == [])


def test_close_is_idempotent_and_leaves_only_the_file(make_manager, task_path):
    manager = make_manager()
    manager.start_workers()
    manager.conn.execute("SELECT 1")
    manager.queue_task("t")
    manager.close()
    manager.close()
    assert os.listdir(task_path.parent) == [task_path.name]
    with pytest.raises(sqlite3.ProgrammingError):
        manager.conn.execute("SELECT 1")


# §4.1 looking


def test_a_task_has_exactly_eleven_keys(manager):
    task = manager.queue_task("t", context={"a": 1})
    status, (queued,) = manager.get_task_status(task), manager.get_queued_tasks()
    assert list(status) == list(queued) == COLUMNS
    assert (status["context"], queued["context"]) == ({"a": 1}, '{"a": 1}')  # openclaw §9 15
    assert manager.get_task_status(task + 1) is None


def test_running_tasks_have_the_same_form(manager):
    started, release = threading.Event(), threading.Event()

    @manager.register_handler("slow")
    def slow(context):
        started.set()
        release.wait(20)

    task = manager.queue_task("slow", context={"a": 1})
    manager.start_workers()
    assert started.wait(20)
    (running,) = manager.get_running_tasks()
    assert (running["id"], running["status"], running["context"]) == (task, "running", '{"a": 1}')
    assert list(running) == COLUMNS
    assert manager.get_queued_tasks() == []
    release.set()
    manager.wait(task, 20)


def test_queued_tasks_are_in_order(manager):
    order = [manager.queue_task("t", priority=priority) for priority in (2, 1, 4, 2, 3, 4)]
    assert [task["id"] for task in manager.get_queued_tasks()] == [order[i] for i in (2, 5, 4, 0, 3, 1)]


def test_cancel(manager):
    task, other = manager.queue_task("t"), manager.queue_task("t")
    assert manager.cancel_task(task) is True
    assert manager.cancel_task(task) is False
    assert manager.cancel_task(99) is False
    found = manager.get_task_status(task)
    assert found["status"] == TaskStatus.CANCELLED.value
    assert DB_TIME.fullmatch(found["completed_at"])
    assert manager.task_queue.qsize() == 1
    manager.register_handler("t")(lambda context: None)
    manager.start_workers()
    assert manager.wait(other, 20)["status"] == "completed"
    assert manager.get_task_status(task)["status"] == "cancelled"
    assert manager.cancel_task(other) is False


# §4.2


def test_stats(make_manager):
    manager = make_manager(max_workers=4, min_workers=2)
    stats = manager.get_worker_stats()
    assert stats == {
        "current_workers": 0,
        "min_workers": 2,
        "max_workers": 4,
        "auto_scaling_enabled": True,
        "queue_depth": 0,
        "active_workers": 0,
        "worker_activity": {},
    }
    manager.queue_task("nobody", priority=1)
    assert manager.get_worker_stats()["queue_depth"] == 1
    manager.cancel_task(1)
    before = time.time() + travelled()
    manager.start_workers()
    stats = json.loads(json.dumps(manager.get_worker_stats()))
    assert (stats["current_workers"], stats["active_workers"], stats["queue_depth"]) == (2, 2, 0)
    assert set(stats["worker_activity"]) == {"worker-1", "worker-2"}
    assert all(abs(at - before) < 5 for at in stats["worker_activity"].values())


def test_depth_counts_what_waits_not_what_runs(make_manager):
    manager = make_manager(max_workers=1, enable_auto_scaling=False)
    started, release = threading.Event(), threading.Event()

    @manager.register_handler("slow")
    def slow(context):
        started.set()
        release.wait(20)

    for _ in range(3):
        manager.queue_task("slow")
    manager.start_workers()
    assert started.wait(20)
    assert manager.get_worker_stats()["queue_depth"] == manager.task_queue.qsize() == 2
    assert not manager.task_queue.empty()
    release.set()
    eventually(manager.task_queue.empty)


# §4.3


def test_tables(manager, task_path):
    columns = [row[1] for row in outside(task_path, "PRAGMA table_info(background_tasks)")]
    assert columns == COLUMNS
    rules = [row[1] for row in outside(task_path, "PRAGMA table_info(task_rules)")]
    assert rules == ["id", "trigger_event", "task_type", "condition", "priority", "enabled"]
    defaults = {row[1]: row[4] for row in outside(task_path, "PRAGMA table_info(background_tasks)")}
    assert (defaults["priority"], defaults["status"]) == ("2", "'queued'")
    sql = outside(task_path, "SELECT sql FROM sqlite_master WHERE name = 'background_tasks'")[0][0]
    assert "id INTEGER PRIMARY KEY AUTOINCREMENT" in sql
    own = {row[0] for row in outside(task_path, "SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert {name for name in own if not name.startswith(("upshift_", "sqlite_"))} == {"background_tasks", "task_rules"}


def test_times_are_utc_text(manager):
    manager.register_handler("t")(lambda context: None)
    manager.start_workers()
    task = manager.wait(manager.queue_task("t"), 20)
    times = [task[name] for name in ("created_at", "started_at", "completed_at")]
    assert all(DB_TIME.fullmatch(each) for each in times)
    assert times == sorted(times)
    now = manager.conn.execute("SELECT CURRENT_TIMESTAMP").fetchone()[0]
    assert abs(time.mktime(time.strptime(now, "%Y-%m-%d %H:%M:%S")) - time.mktime(time.gmtime())) < 5


def test_numbers_are_not_given_twice(manager):
    first = manager.queue_task("t")
    manager.conn.execute("DELETE FROM background_tasks")
    assert manager.queue_task("t") == first + 1


# §6.1


def test_attributes(make_manager, task_path):
    manager = make_manager()
    assert manager.db_path == task_path
    assert isinstance(manager.conn, upshift.sqlite.Connection)
    assert isinstance(manager.conn, sqlite3.Connection)
    manager.queue_task("t")
    row = Task(lambda: manager.conn.execute("SELECT * FROM background_tasks").fetchone()).result()
    assert row["task_type"] == "t"
    with manager.worker_lock:
        assert manager.workers == []
    assert isinstance(manager.task_handlers, dict)
    assert {"run_tests", "check_dependencies", "analyze_logs", "monitor_performance"} <= set(manager.task_handlers)
    assert (manager.current_workers, manager.worker_activity, manager.running) == (0, {}, False)
    assert abs(manager.last_scaling_check - time.time()) < 60


def test_user_sql_in_a_transaction_of_its_own(manager):
    manager.conn.execute("BEGIN")
    manager.conn.execute("INSERT INTO task_rules (trigger_event, task_type) VALUES ('e', 't')")
    manager.conn.commit()
    assert len(manager.trigger_event("e")) == 1


def test_subclasses_references_and_cycles(task_path):  # openclaw §1
    class Mine(BackgroundTaskManager):
        def __init__(self, path):
            super().__init__(db_path=path, max_workers=2)
            self.extra = self

    manager = Mine(task_path)
    manager.register_handler("t")(lambda context, manager=manager: None)
    reference = weakref.ref(manager)
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(manager)
    del manager
    gc.collect()
    assert reference() is None


def test_names_of_the_module():  # openclaw §1
    from upshift.compat import tables

    module = tables.MODULES["autonomous.background_tasks"]
    assert module.names["BackgroundTaskManager"] == "upshift.tasks:BackgroundTaskManager"
    import upshift

    assert upshift.BackgroundTaskManager is BackgroundTaskManager
    assert upshift.TaskPriority is TaskPriority


def test_main_cleans_up_after_itself(tmp_path, monkeypatch, capfd):
    from upshift.systems.openclaw import background_tasks_main

    monkeypatch.chdir(tmp_path)
    assert background_tasks_main() is None
    assert os.listdir(tmp_path) == []
    assert capfd.readouterr() == ("", "")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("worker-")]
