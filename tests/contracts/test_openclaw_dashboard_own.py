"""Contract openclaw §5.1: a dashboard without a `task_manager` makes one; §9.18."""

from __future__ import annotations

import os
import sqlite3

import pytest
from harness import eventually, run, stays
from webclient import request

from upshift import BackgroundTaskManager, DashboardServer


@pytest.fixture
def make(tmp_path):
    made = []

    def make(**options):
        options.setdefault("workspace", tmp_path)
        made.append(DashboardServer(0, **options))
        return made[-1]

    yield make
    for server in made:
        server.stop()


def test_workers_run_before_start(make, tmp_path):  # openclaw §5.1 "usable before `start()`"
    tasks = make().task_manager
    assert isinstance(tasks, BackgroundTaskManager)
    assert tasks.running
    assert (tasks.min_workers, tasks.max_workers, tasks.enable_auto_scaling) == (1, 8, True)
    assert tasks.current_workers == 1
    assert (tmp_path / "background_tasks.db").exists()

    @tasks.register_handler("early")
    def early(context):
        return context["number"]

    task = tasks.queue_task("early", context={"number": 7})
    eventually(lambda: tasks.get_task_status(task)["status"] == "completed")
    assert tasks.get_task_status(task)["result"] == 7


def test_workspace(make, tmp_path, monkeypatch):  # openclaw §1 "Workspace", D1 "ignores the manager's workspace"
    (tmp_path / "chosen").mkdir()
    make(workspace=str(tmp_path / "chosen"))
    assert (tmp_path / "chosen" / "background_tasks.db").exists()
    (tmp_path / "default").mkdir()
    monkeypatch.setenv("OPENCLAW_WORKSPACE", str(tmp_path / "default"))
    make(workspace=None)
    assert (tmp_path / "default" / "background_tasks.db").exists()


def test_it_is_served(make):
    server = make()
    server.start(block=False)
    assert request(server, "/api/workers/stats").json()["current_workers"] == 1
    assert request(server, "/api/health").json()["status"] == "healthy"


def test_stop_closes_it(make):  # openclaw §5.1 "then what the server itself created"
    server = make()
    server.start(block=False)
    server.stop()
    assert not server.task_manager.running
    with pytest.raises(sqlite3.ProgrammingError):
        server.task_manager.queue_task("late")


def test_it_adopts_nothing(make, tmp_path):  # openclaw §5.1 "adopting no foreign rows"
    with BackgroundTaskManager(tmp_path / "background_tasks.db") as gone:
        left = gone.queue_task("analyze_logs", "left behind by its manager")
    tasks = make().task_manager
    assert "analyze_logs" in tasks.task_handlers
    own = tasks.queue_task("analyze_logs", "its own")
    eventually(lambda: tasks.get_task_status(own)["status"] == "completed")
    stays(lambda: tasks.get_task_status(left)["status"] == "queued", seconds=2.5)


def test_it_does_not_run_what_a_live_manager_queued(make, tmp_path):  # openclaw D1, §9.18
    with BackgroundTaskManager(tmp_path / "background_tasks.db") as application:
        task = application.queue_task("analyze_logs", "the application's")
        server = make()
        server.start(block=False)
        # The facts of the file are reported, its own workers are called its own.
        assert request(server, "/api/system/stats").json()["tasks"]["pending"] == 1
        stays(lambda: application.get_task_status(task)["status"] == "queued", seconds=1.5)


def test_left_running_at_exit(tmp_path):  # openclaw §1: bounded exit
    code = """
        import sys
        from upshift import DashboardServer
        server = DashboardServer(0, workspace=sys.argv[1])
        server.start(block=False)
        print("left running")
    """
    assert run(code, tmp_path, timeout=20) == "left running\n"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: no fork")
def test_a_forked_child_stops_nothing_of_its_parent(make):  # openclaw P18 in spirit
    server = make()
    server.start(block=False)
    child = os.fork()
    if child == 0:
        try:
            server._finish(True)
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert request(server, "/api/health").status == 200
