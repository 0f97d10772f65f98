"""Contract openclaw §4.4: order, outcomes, scaling, crash recovery, threads."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from contextlib import closing

import pytest
from harness import Peer, eventually, run, run_literal, stays

from upshift.tasks import BackgroundTaskManager, TaskPriority

SETUP = """
import os, sys, time, threading
from upshift.tasks import BackgroundTaskManager
"""


def outside(path, sql, *args):
    with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
        return connection.execute(sql, args).fetchall()


# Order


def test_highest_priority_first_then_in_order(make_manager):
    manager = make_manager(max_workers=1, enable_auto_scaling=False)
    seen = []
    manager.register_handler("t")(lambda context: seen.append(context["i"]))
    priorities = [2, 1, 4, 2, 3, 4, 1, 3]
    ids = [manager.queue_task("t", priority=priority, context={"i": i}) for i, priority in enumerate(priorities)]
    manager.start_workers()
    for task in ids:
        manager.wait(task, 20)
    assert seen == [2, 5, 4, 7, 0, 3, 1, 6]


def test_an_urgent_task_overtakes_a_backlog(make_manager):
    manager = make_manager(max_workers=1, enable_auto_scaling=False)
    seen, started, release = [], threading.Event(), threading.Event()

    @manager.register_handler("t")
    def handler(context):
        started.set()
        release.wait(20)
        seen.append(context["i"])

    ids = [manager.queue_task("t", context={"i": i}) for i in range(5)]
    manager.start_workers()
    assert started.wait(20)
    ids.append(manager.queue_task("t", priority=TaskPriority.CRITICAL, context={"i": "now"}))
    release.set()
    for task in ids:
        manager.wait(task, 20)
    assert seen[:2] == [0, "now"]


# Outcomes


@pytest.mark.parametrize("value", [None, 5, 1.5, "text", [1, [2]], True, {"success": False}, {}, {"a": {"b": [None]}}])
def test_whatever_json_can_express_is_a_result(manager, task_path, value):  # openclaw §4.4, W5
    contexts = []

    @manager.register_handler("t")
    def handler(context):
        contexts.append(context)
        return value

    manager.start_workers()
    task = manager.wait(manager.queue_task("t"), 20)
    assert (task["status"], task["result"], task["error"], contexts) == ("completed", value, None, [{}])
    assert outside(task_path, "SELECT result FROM background_tasks") == [(json.dumps(value),)]


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("it broke"), "it broke"),
        (ValueError(), "ValueError"),
        (SystemExit(3), "3"),
        (SystemExit(), "SystemExit"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (BaseException("base"), "base"),
        (Mute(), "Mute"),
        (ValueError("lone \ud800"), "lone \\ud800"),
    ],
)
def test_an_exception_fails_the_task_and_the_worker_survives(make_manager, error, text):  # openclaw §4.4, W6
    manager = make_manager(max_workers=1, enable_auto_scaling=False)

    @manager.register_handler("bad")
    def bad(context):
        raise error

    manager.register_handler("good")(lambda context: 1)
    manager.start_workers()
    (thread,) = manager.workers
    task = manager.wait(manager.queue_task("bad"), 20)
    assert (task["status"], task["error"], task["result"]) == ("failed", text, None)
    assert task["completed_at"]
    assert manager.wait(manager.queue_task("good"), 20)["status"] == "completed"
    assert manager.workers == [thread]


@pytest.mark.parametrize("value", [{1, 2}, object(), b"bytes", {("a",): 1}])
def test_a_result_that_is_no_json_fails_the_task(manager, value):
    manager.register_handler("t")(lambda context: value)
    manager.start_workers()
    task = manager.wait(manager.queue_task("t"), 20)
    assert (task["status"], task["result"]) == ("failed", None)
    assert task["error"]


def test_no_handler(manager):
    manager.start_workers()
    task = manager.wait(manager.queue_task("nobody"), 20)
    assert (task["status"], task["error"]) == ("failed", "No handler registered")


def test_failures_are_kept_as_dead_letters(manager):
    @manager.register_handler("bad")
    def bad(context):
        raise ValueError("it broke")

    manager.start_workers()
    task = manager.queue_task("bad")
    manager.wait(task, 20)
    (letter,) = manager.get_dead_letters()
    found = (letter["task"], letter["task_type"], letter["reason"], letter["error"], letter["attempts"])
    assert found == (task, "bad", "failed", "it broke", 1)
    (attempt,) = manager.get_attempts(task)
    assert (attempt["attempt"], attempt["outcome"], attempt["error"]) == (1, "failed", "it broke")


def test_an_idle_worker_starts_at_once(manager):
    manager.register_handler("t")(lambda context: time.monotonic())
    manager.start_workers()
    manager.wait(manager.queue_task("t"), 20)
    taken = []
    for _ in range(20):
        time.sleep(0.01)
        begun = time.monotonic()
        taken.append(manager.wait(manager.queue_task("t"), 20)["result"] - begun)
    assert sorted(taken)[10] < 0.02


def test_a_long_handler_stalls_nobody(make_manager):
    manager = make_manager(max_workers=2, enable_auto_scaling=False)
    release = threading.Event()
    manager.register_handler("long")(lambda context: release.wait(20))
    manager.register_handler("short")(lambda context: 1)
    manager.start_workers()
    long = manager.queue_task("long")
    for _ in range(20):
        assert manager.wait(manager.queue_task("short"), 20)["result"] == 1
    assert manager.get_task_status(long)["status"] == "running"
    release.set()
    assert manager.wait(long, 20)["result"] is True


def test_handlers_use_the_manager_freely(make_manager):
    manager = make_manager(max_workers=3, enable_auto_scaling=False)

    @manager.register_handler("parent")
    def parent(context):
        child = manager.queue_task("child", context={"n": 20})
        return [manager.wait(child, 20)["result"], manager.conn.execute("SELECT 7").fetchone()[0]]

    manager.register_handler("child")(lambda context: context["n"] + 1)
    manager.start_workers()
    assert manager.wait(manager.queue_task("parent"), 20)["result"] == [21, 7]


# Scale-up


def blocked(manager, tasks):
    """Queues tasks that end when the returned event is set."""
    release = threading.Event()
    manager.register_handler("wait")(lambda context: release.wait(30))
    for _ in range(tasks):
        manager.queue_task("wait")
    return release


def test_a_backlog_after_the_start_grows_between_3_and_5_seconds(make_manager):  # openclaw §4.4, §8 "2–5 s"
    manager = make_manager(cpu_threshold=101)
    begun = time.monotonic()
    manager.start_workers()
    release = blocked(manager, 40)
    try:
        stays(lambda: manager.current_workers == 1, seconds=3 - (time.monotonic() - begun), interval=0.1)
        eventually(lambda: manager.current_workers > 1, timeout=5.5 - (time.monotonic() - begun))
        assert manager.current_workers == 2
    finally:
        release.set()


def test_the_ramp_doubles_up_to_the_maximum(make_manager):
    manager = make_manager(max_workers=6, cpu_threshold=101, scaling_check_interval=0.2)
    release = blocked(manager, 60)
    steps, grow = [], manager._grow
    manager._grow = lambda to: (steps.append(to), grow(to))
    try:
        manager.start_workers()
        eventually(lambda: len(manager.workers) == 6)
        assert steps == [1, 2, 4, 6]
        stays(lambda: manager.current_workers == len(manager.workers) == 6, seconds=0.6)
    finally:
        release.set()


def test_a_busy_machine_is_left_alone(make_manager):
    manager = make_manager(cpu_threshold=-1, scaling_check_interval=0.05)
    release = blocked(manager, 30)
    try:
        manager.start_workers()
        stays(lambda: manager.current_workers == 1, seconds=0.5)
        manager.cpu_threshold = 101
        eventually(lambda: manager.current_workers > 1)
    finally:
        release.set()


def test_settings_take_effect_at_run_time(make_manager):  # openclaw §4.1
    manager = make_manager(cpu_threshold=101, max_workers=1)
    release = blocked(manager, 30)
    try:
        manager.start_workers()
        manager.scaling_check_interval = 0.05
        stays(lambda: manager.current_workers == 1, seconds=0.3)
        manager.enable_auto_scaling = False
        manager.max_workers = 3
        stays(lambda: manager.current_workers == 1, seconds=0.3)
        manager.enable_auto_scaling = True
        eventually(lambda: manager.current_workers == 3)
        manager.min_workers = 4
        eventually(lambda: manager.current_workers == 4)
    finally:
        release.set()


def test_without_workers_a_task_brings_one(make_manager):
    manager = make_manager(min_workers=0, cpu_threshold=101, scaling_check_interval=0.1)
    manager.register_handler("t")(lambda context: 1)
    manager.start_workers()
    assert manager.current_workers == 0
    assert manager.wait(manager.queue_task("t"), 20)["result"] == 1
    assert manager.current_workers == 1


# Scale-down


def test_idle_workers_go_one_by_one_down_to_the_minimum(make_manager):  # openclaw §4.4, §9 16
    manager = make_manager(max_workers=4, cpu_threshold=101, scaling_check_interval=0.1, scale_down_idle_time=0.5)
    release = blocked(manager, 60)
    manager.start_workers()
    eventually(lambda: manager.current_workers == 4)
    release.set()
    eventually(manager.task_queue.empty)
    begun, seen = time.monotonic(), [4]

    def shrunk():
        if manager.current_workers != seen[-1]:
            seen.append(manager.current_workers)
        return seen[-1] == 1

    eventually(shrunk, interval=0.002)
    assert seen == [4, 3, 2, 1]
    assert time.monotonic() - begun > 0.4
    stays(lambda: manager.current_workers == 1, seconds=0.5)
    eventually(lambda: len(manager.workers) == 1)
    assert set(manager.get_worker_stats()["worker_activity"]) == {manager.workers[0].name}


def test_a_busy_worker_is_never_retired_or_counted_idle(make_manager):  # openclaw §4.4, W10
    manager = make_manager(max_workers=2, min_workers=0, scaling_check_interval=0.05, scale_down_idle_time=0.1)
    manager.enable_auto_scaling = False
    release = blocked(manager, 2)
    manager.start_workers()
    eventually(lambda: len(manager.get_running_tasks()) == 2)
    manager.enable_auto_scaling = True
    stays(lambda: manager.current_workers == 2, seconds=0.5)
    assert manager.get_worker_stats()["active_workers"] == 2
    release.set()
    eventually(lambda: manager.current_workers == 0)


def test_few_tasks_keep_few_workers(make_manager):
    """The worker that slept last is woken first, so the others stay idle and go."""
    manager = make_manager(max_workers=4, min_workers=1, scaling_check_interval=0.1, scale_down_idle_time=0.5)
    manager.enable_auto_scaling = False
    manager.register_handler("t")(lambda context: None)
    manager.start_workers()
    manager.enable_auto_scaling = True
    until = time.monotonic() + 20
    while manager.current_workers > 1:
        assert time.monotonic() < until
        manager.wait(manager.queue_task("t"), 20)
        time.sleep(0.02)


# Crash recovery


def die(peer):
    peer.kill()
    peer.close()


def child(path, code):
    """A child with a manager that has executed `code`; `die(child)` is SIGKILL."""
    peer = Peer(SETUP)
    peer(f"manager = BackgroundTaskManager({str(path)!r}, max_workers=2, enable_auto_scaling=False)")
    peer(code)
    return peer


def test_queued_tasks_of_a_dead_process_are_taken_over(make_manager, task_path):  # openclaw §4.4, W7
    peer = child(task_path, "ids = [manager.queue_task('t', context={'i': i}) for i in range(10)]")
    die(peer)
    manager = make_manager()
    manager.register_handler("t")(lambda context: context["i"])
    manager.start_workers()
    assert [manager.wait(task, 20)["result"] for task in range(1, 11)] == list(range(10))


RUNNING = """
started = threading.Event()
@manager.register_handler('t')
def handler(context):
    started.set()
    time.sleep(60)
task = manager.queue_task('t')
manager.start_workers()
assert started.wait(20)
"""


def test_a_run_that_was_killed_is_repeated_once(make_manager, task_path):  # openclaw §4.4
    peer = child(task_path, RUNNING)
    die(peer)
    second = child(task_path, RUNNING.replace("task = manager.queue_task('t')", "task = 1"))
    assert outside(task_path, "SELECT status FROM background_tasks WHERE id = 1") == [("running",)]
    die(second)
    manager = make_manager()
    manager.register_handler("t")(lambda context: "must not run")
    manager.start_workers()
    task = manager.wait(1, 20)
    assert task["status"] == "failed"
    assert "gone" in task["error"]
    assert "2 times" in task["error"]
    assert [(each["attempt"], each["outcome"]) for each in manager.get_attempts(1)] == [(1, "crashed"), (2, "crashed")]
    assert [letter["reason"] for letter in manager.get_dead_letters()] == ["crashed"]


def test_a_running_manager_finds_the_dead_by_itself(make_manager, task_path):  # openclaw §4.4 "within 30 s"
    manager = make_manager()
    manager.register_handler("t")(lambda context: "taken over")
    manager.start_workers()
    peer = child(task_path, RUNNING)
    time.sleep(1.2)
    assert manager.get_task_status(1)["status"] == "running"
    die(peer)
    assert manager.wait(1, 10)["result"] == "taken over"


def test_rows_of_a_live_owner_are_never_touched(make_manager, task_path):  # openclaw §4.4
    owner = make_manager()
    mine = owner.queue_task("t")
    with Peer(SETUP) as peer:
        peer(f"manager = BackgroundTaskManager({str(task_path)!r})")
        theirs = peer("manager.queue_task('t')")
        other = make_manager()
        other.register_handler("t")(lambda context: "other")
        other.start_workers()
        stays(lambda: len(other.get_queued_tasks()) == 2, seconds=1.5, interval=0.1)
        assert other.task_queue.qsize() == 0
        assert other.recover_tasks() == 0
        peer("manager.close()")
        assert other.wait(theirs, 20)["result"] == "other"
    assert owner.get_task_status(mine)["status"] == "queued"
    owner.close()
    assert other.wait(mine, 20)["result"] == "other"


def test_two_managers_on_one_file_run_each_task_once(make_manager):
    managers = [make_manager(max_workers=3, enable_auto_scaling=False) for _ in range(2)]
    seen = []
    for manager in managers:
        manager.register_handler("t")(lambda context: seen.append(context["i"]))
        manager.start_workers()
    ids = [managers[i % 2].queue_task("t", context={"i": i}) for i in range(200)]
    for task in ids:
        managers[0].wait(task, 30)
    assert sorted(seen) == list(range(200))


def test_an_adopted_task_without_a_handler_stays_queued(make_manager, task_path):
    die(child(task_path, "manager.queue_task('strange'); manager.queue_task('t')"))
    manager = make_manager()
    manager.register_handler("t")(lambda context: 1)
    manager.start_workers()
    assert manager.wait(2, 20)["result"] == 1
    stays(lambda: manager.get_task_status(1)["status"] == "queued", seconds=1.3, interval=0.1)
    manager.register_handler("strange")(lambda context: "at last")
    assert manager.wait(1, 20)["result"] == "at last"


def original_file(path):
    """As the original system left it: its two tables, rows and nothing else."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript("""
            CREATE TABLE background_tasks (
                id INTEGER PRIMARY KEY AUTOINCREMENT, task_type TEXT NOT NULL, task_description TEXT,
                priority INTEGER DEFAULT 2, status TEXT DEFAULT 'queued', context TEXT, result TEXT, error TEXT,
                created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, started_at TIMESTAMP, completed_at TIMESTAMP);
            CREATE TABLE task_rules (
                id INTEGER PRIMARY KEY AUTOINCREMENT, trigger_event TEXT NOT NULL, task_type TEXT NOT NULL,
                condition TEXT, priority INTEGER DEFAULT 2, enabled INTEGER DEFAULT 1);
            INSERT INTO background_tasks (task_type, status)
                VALUES ('t', 'queued'), ('t', 'running'), ('t', 'completed');
        """)


def test_rows_of_the_original_are_not_run_unasked(make_manager, task_path):  # openclaw §4.4
    original_file(task_path)
    manager = make_manager()
    seen = []
    manager.register_handler("t")(lambda context: seen.append(1))
    manager.start_workers()
    new = manager.queue_task("t")
    manager.wait(new, 20)
    assert manager.recover_tasks() == 0
    time.sleep(1.2)
    states = [row[0] for row in outside(task_path, "SELECT status FROM background_tasks ORDER BY id")]
    assert states == ["queued", "running", "completed", "completed"]
    assert manager.recover_tasks(include_legacy=True) == 2
    assert [manager.wait(task, 20)["status"] for task in (1, 2)] == ["completed", "completed"]
    assert len(seen) == 3
    assert manager.recover_tasks(include_legacy=True) == 0


def test_recovery_counts_what_it_adopts(make_manager, task_path):
    die(child(task_path, "[manager.queue_task('t') for _ in range(3)]"))
    manager = make_manager()
    assert manager.recover_tasks() == 3
    assert manager.recover_tasks() == 0
    assert manager.task_queue.qsize() == 3


def test_rows_of_foreign_sql_are_found_within_seconds(make_manager, task_path):
    manager = make_manager()
    manager.register_handler("t")(lambda context: context)
    manager.start_workers()
    outside(task_path, "INSERT INTO background_tasks (task_type, context) VALUES ('t', '{\"a\": 1}')")
    assert eventually(lambda: manager.get_task_status(1)["result"], timeout=5) == {"a": 1}
    # And what it takes back.
    manager.stop_workers()
    for _ in range(2):
        manager.queue_task("t")
    outside(task_path, "UPDATE background_tasks SET status = 'cancelled' WHERE id = 2")
    outside(task_path, "DELETE FROM background_tasks WHERE id = 3")
    assert manager.task_queue.qsize() == 0
    manager.start_workers()
    stays(lambda: manager.get_task_status(2)["status"] == "cancelled", seconds=0.3)


def test_a_record_of_a_lost_lease_changes_nothing(make_manager, task_path, caplog):
    """A worker that was taken for dead and comes back."""
    manager = make_manager(max_workers=1, enable_auto_scaling=False)
    started, release = threading.Event(), threading.Event()

    @manager.register_handler("t")
    def handler(context):
        started.set()
        release.wait(20)
        return "too late"

    task = manager.queue_task("t")
    manager.start_workers()
    assert started.wait(20)
    # Somebody else has claimed it meanwhile.
    outside(task_path, "UPDATE upshift_leases SET token = 42 WHERE task = ?", task)
    release.set()
    eventually(lambda: "taken away" in caplog.text)
    found = manager.get_task_status(task)
    assert (found["status"], found["result"]) == ("running", None)


# Threads


def test_live_threads_never_exceed_the_maximum(make_manager):  # openclaw W11
    manager = make_manager(max_workers=3, cpu_threshold=101, scaling_check_interval=0.01, scale_down_idle_time=0)
    manager.register_handler("t")(lambda context: None)

    def live():
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("worker-")]

    for _ in range(15):
        manager.start_workers()
        for _ in range(30):
            manager.queue_task("t")
            names = live()
            assert len(names) == len(set(names)) <= 3
        manager.stop_workers()
        assert live() == []
    assert manager.workers == []


def test_normal_exit_is_bounded_and_keeps_what_is_queued(tmp_path):  # openclaw §4.4 "Workers", W3
    code = (
        SETUP
        + """
manager = BackgroundTaskManager(sys.argv[1], max_workers=2, enable_auto_scaling=False)
manager.register_handler('quick')(lambda context: time.sleep(0.01))
for _ in range(1000):
    manager.queue_task('quick')
manager.start_workers()
time.sleep(0.2)
"""
    )
    begun = time.monotonic()
    run(code, tmp_path / "a.db", timeout=30)
    assert time.monotonic() - begun < 15
    states = dict(outside(tmp_path / "a.db", "SELECT status, count(*) FROM background_tasks GROUP BY status"))
    assert set(states) == {"queued", "completed"}
    assert sum(states.values()) == 1000


def test_a_handler_that_outlasts_the_exit_is_given_back(tmp_path):
    code = (
        SETUP
        + """
manager = BackgroundTaskManager(sys.argv[1])
started = threading.Event()
def handler(context):
    started.set()
    time.sleep(60)
manager.register_handler('t')(handler)
manager.queue_task('t')
manager.start_workers()
started.wait(20)
"""
    )
    begun = time.monotonic()
    run(code, tmp_path / "a.db", timeout=40)
    assert time.monotonic() - begun < 20
    with BackgroundTaskManager(tmp_path / "a.db") as manager:
        assert manager.get_task_status(1)["status"] == "queued"
        manager.register_handler("t")(lambda context: "again")
        manager.start_workers()
        assert manager.wait(1, 20)["result"] == "again"
        assert manager.get_attempts(1) == []


def test_exit_without_any_stop_does_not_hang(tmp_path):  # openclaw W3
    code = (
        SETUP
        + """
manager = BackgroundTaskManager(sys.argv[1])
manager.queue_task('nobody')
print((1,))
"""
    )
    assert run_literal(code, tmp_path / "a.db", timeout=20) == (1,)
