"""Contract openclaw §5.2 and §5.3: what the endpoints answer."""

from __future__ import annotations

import re
import socket
import threading
import time
from contextlib import contextmanager
from datetime import datetime
from types import SimpleNamespace

import pytest
from harness import eventually
from webclient import act, message, request, websocket

from upshift import ConnectionPool, ResultCache

TASK_KEYS = {
    *("id", "task_type", "task_description", "priority", "status", "context", "result", "error"),
    *("created_at", "started_at", "completed_at"),
}
WORKER_KEYS = {
    *("current_workers", "min_workers", "max_workers", "auto_scaling_enabled"),
    *("queue_depth", "active_workers", "worker_activity"),
}
SYSTEM_KEYS = {
    *("cpu_percent", "memory_percent", "disk_percent"),
    *("memory_used_gb", "memory_total_gb", "disk_used_gb", "disk_total_gb"),
}
STATS_KEYS = {"timestamp", "timestamp_epoch", "system", "workers", "tasks", "cache", "db_pools"}


def local_iso(text):
    moment = datetime.fromisoformat(text)
    assert moment.tzinfo is None
    return moment.timestamp()


# --- /


def test_page(dashboard):  # openclaw §5.2 row `/`
    answer = request(dashboard, "/")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>OpenClaw Dashboard</title>" in answer.text
    assert "color-scheme: dark" in answer.text
    # Self-contained: the only addresses are names of XML vocabularies.
    addresses = set(re.findall(r"https?://[^'\"\s)]+", answer.text))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"(?!data:)", answer.text) == []


def test_page_writes_no_markup_from_data(dashboard):  # openclaw §5.2 "inserted as text, never HTML"
    text = request(dashboard, "/").text
    for dangerous in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "srcdoc"):
        assert dangerous not in text


def test_page_allows_itself_nothing_else(dashboard):
    policy = request(dashboard, "/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


# --- /api/health


def test_health(dashboard):  # openclaw §5.2
    before = time.time()
    answer = request(dashboard, "/api/health")
    assert answer.status == 200
    body = answer.json()
    assert set(body) == {"status", "timestamp", "uptime"}
    assert body["status"] == "healthy"
    assert before - 1 <= local_iso(body["timestamp"]) <= time.time() + 1
    assert isinstance(body["uptime"], float)
    later = request(dashboard, "/api/health").json()["uptime"]
    assert 0 < body["uptime"] < later < 60


def test_uptime_counts_from_construction(make_dashboard):  # openclaw §5.2
    server = make_dashboard(start=False)
    time.sleep(0.3)
    server.start(block=False)
    assert request(server, "/api/health").json()["uptime"] >= 0.3


def test_health_is_degraded_when_the_store_fails(dashboard, manager):  # openclaw §5.2, D6 "Health is a constant"
    manager.close()
    answer = request(dashboard, "/api/health")
    assert answer.status == 503
    body = answer.json()
    assert body["status"] == "degraded"
    assert any(problem.startswith("store: ") for problem in body["problems"])


def test_health_is_degraded_when_workers_died(dashboard, manager, monkeypatch):  # openclaw §5.2
    stats = {**manager.get_worker_stats(), "min_workers": 1, "current_workers": 0}
    monkeypatch.setattr(manager, "get_worker_stats", lambda: stats)
    assert request(dashboard, "/api/health").status == 200  # they were never started
    monkeypatch.setattr(manager, "running", True)
    answer = request(dashboard, "/api/health")
    assert answer.status == 503
    assert answer.json()["problems"] == ["workers: started, but none is alive"]


# --- /api/system/stats


def test_stats_object(dashboard):  # openclaw §5.3
    before = time.time()
    answer = request(dashboard, "/api/system/stats")
    assert answer.status == 200
    stats = answer.json()
    assert set(stats) == STATS_KEYS
    assert isinstance(stats["timestamp_epoch"], float)
    assert before <= stats["timestamp_epoch"] <= time.time()
    assert local_iso(stats["timestamp"]) == pytest.approx(stats["timestamp_epoch"], abs=0.01)
    assert set(stats["workers"]) == WORKER_KEYS
    assert stats["tasks"] == {"pending": 0, "in_progress": 0, "completed": 0, "failed": 0, "cancelled": 0}
    assert stats["cache"] is None
    assert stats["db_pools"] == {}


def test_system_numbers(dashboard):  # openclaw §5.3
    import shutil

    time.sleep(0.3)  # the processor's load shows over time
    system = request(dashboard, "/api/system/stats").json()["system"]
    assert set(system) == SYSTEM_KEYS
    for name in ("cpu_percent", "memory_percent", "disk_percent"):
        assert 0 <= system[name] <= 100
        assert round(system[name], 1) == system[name]
    disk = shutil.disk_usage("/")
    assert system["disk_total_gb"] == round(disk.total / 2**30, 2)
    assert system["disk_used_gb"] == pytest.approx(disk.used / 2**30, abs=1)
    # Of what users may have: some of a file system is for the administrator only.
    assert system["disk_percent"] == pytest.approx(100 * disk.used / (disk.used + disk.free), abs=1)
    assert 0 < system["memory_used_gb"] < system["memory_total_gb"]
    share = 100 * system["memory_used_gb"] / system["memory_total_gb"]
    assert system["memory_percent"] == pytest.approx(share, abs=0.2)


def test_cpu_percent_sees_load(dashboard):  # openclaw §5.3, nothing is faked
    def percent():
        return request(dashboard, "/api/system/stats").json()["system"]["cpu_percent"]

    end = time.perf_counter() + 5
    while time.perf_counter() < end and percent() == 0:
        sum(range(100_000))
    assert percent() > 0


def test_task_counts_are_those_of_the_table(dashboard, manager):  # openclaw §5.3, D1, D2
    first = manager.queue_task("count", "one")
    for status in ("running", "completed", "completed", "failed", "failed", "failed"):
        task = manager.queue_task("count", "other")
        manager.conn.execute("UPDATE background_tasks SET status = ? WHERE id = ?", (status, task))
    for _ in range(4):
        assert manager.cancel_task(manager.queue_task("count", "not wanted"))
    stats = request(dashboard, "/api/system/stats").json()
    assert stats["tasks"] == {"pending": 1, "in_progress": 1, "completed": 2, "failed": 3, "cancelled": 4}
    assert stats["workers"]["queue_depth"] == 1
    assert manager.cancel_task(first)


def test_cache_and_pools_are_reported(make_dashboard, tmp_path):  # openclaw §5.3, D3
    cache = ResultCache(max_size=7)
    cache.set("key", 1)
    cache.get("key")
    with ConnectionPool(tmp_path / "a.db", 1, 3) as pool:
        pools = {"main": pool}
        server = make_dashboard(cache=cache, db_pools=pools)
        with pool.connection():
            stats = request(server, "/api/system/stats").json()
            assert stats["cache"] == cache.get_stats()
            assert stats["db_pools"]["main"]["in_use"] == 1
        assert set(stats["db_pools"]["main"]) == set(pool.get_stats())
        with ConnectionPool(tmp_path / "b.db", 1, 3) as other:
            pools["late"] = other  # opened after the dashboard
            assert set(request(server, "/api/system/stats").json()["db_pools"]) == {"main", "late"}


def test_what_cannot_be_read_does_not_hide_the_rest(dashboard, manager):
    manager.close()
    answer = request(dashboard, "/api/system/stats")
    assert answer.status == 200
    stats = answer.json()
    assert stats["tasks"] is None
    assert "tasks" in stats["errors"]
    assert set(stats["system"]) == SYSTEM_KEYS


def test_a_store_that_does_not_answer(dashboard, manager, caplog):  # D6 "task endpoints give 500"
    task = manager.queue_task("a")
    manager.close()
    for path in ("/api/tasks/queued", "/api/tasks", f"/api/tasks/status/{task}", f"/api/tasks/{task}/detail"):
        answer = request(dashboard, path)
        assert answer.status == 503
        assert answer.json()["detail"].startswith("the task store does not answer: ")
    assert act(dashboard, f"/api/tasks/{task}/cancel").status == 503
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


# --- workers and tasks


def test_workers_stats(dashboard, manager):  # openclaw §5.2
    manager.queue_task("wait", "for a worker")
    stats = request(dashboard, "/api/workers/stats").json()
    assert set(stats) == WORKER_KEYS
    assert stats["queue_depth"] == 1
    assert stats["current_workers"] == 0


def test_queued_tasks_have_raw_text(dashboard, manager):  # openclaw §5.2, §9.15
    low = manager.queue_task("a", "low", 1, {"number": 1})
    high = manager.queue_task("b", None, 3)
    tasks = request(dashboard, "/api/tasks/queued").json()
    assert [task["id"] for task in tasks] == [high, low]
    assert all(set(task) == TASK_KEYS for task in tasks)
    assert tasks[0]["context"] is None
    assert tasks[1]["context"] == '{"number": 1}'
    assert request(dashboard, "/api/tasks/running").json() == []


def test_running_tasks(dashboard, manager):  # openclaw §5.2
    begun, end = threading.Event(), threading.Event()

    @manager.register_handler("a")
    def handle(context):
        begun.set()
        end.wait(20)

    task = manager.queue_task("a", "runs", context={"number": 1})
    manager.start_workers()
    assert begun.wait(10)
    found = request(dashboard, "/api/tasks/running").json()
    stats = request(dashboard, "/api/system/stats").json()
    end.set()
    assert [(row["id"], row["context"], set(row)) for row in found] == [(task, '{"number": 1}', TASK_KEYS)]
    assert stats["tasks"]["in_progress"] == 1
    assert request(dashboard, "/api/tasks/queued").json() == []


def test_task_status_is_decoded(dashboard, manager):  # openclaw §5.2
    task = manager.queue_task("a", "decoded", context={"number": 1})
    manager.conn.execute("UPDATE background_tasks SET result = '[1, null]' WHERE id = ?", (task,))
    body = request(dashboard, f"/api/tasks/status/{task}").json()
    assert set(body) == TASK_KEYS
    assert body["context"] == {"number": 1}
    assert body["result"] == [1, None]


@pytest.mark.parametrize("unknown", ["999999", "0", "-1", str(2**63), "9" * 30])
def test_unknown_task(dashboard, unknown):  # openclaw §5.2 "any integer"
    for path in (f"/api/tasks/status/{unknown}", f"/api/tasks/{unknown}/detail"):
        answer = request(dashboard, path)
        assert answer.status == 404
        assert answer.json() == {"error": "Task not found"}


@pytest.mark.parametrize("wrong", ["abc", "1.5", "1e3", "null"])
def test_task_id_that_is_no_integer(dashboard, wrong):  # openclaw §5.2
    answer = request(dashboard, f"/api/tasks/status/{wrong}")
    assert answer.status == 422
    assert isinstance(answer.json()["detail"], list)


# --- history


def test_history_grows_while_nobody_looks(make_dashboard):  # openclaw §5.2, D8
    server = make_dashboard()
    eventually(lambda: len(server.metrics_history) >= 2)
    samples = request(server, "/api/metrics/history").json()
    assert all(set(sample) == STATS_KEYS for sample in samples)
    times = [sample["timestamp_epoch"] for sample in samples]
    assert times == sorted(times)
    assert times[1] - times[0] == pytest.approx(2, abs=0.5)


def test_history_has_the_last_100(make_dashboard):  # openclaw §5.2
    server = make_dashboard(start=False)
    for _ in range(103):
        server._take_sample()
    server.start(block=False)
    samples = request(server, "/api/metrics/history").json()
    assert len(samples) == 100
    assert samples == list(server.metrics_history)[: len(samples)]


def test_sampling_can_be_ended(dashboard):
    eventually(lambda: dashboard.metrics_history)
    assert not dashboard.metrics_task.done()
    assert dashboard.metrics_task.cancel()
    assert dashboard.metrics_task.done()


# --- everything else


@pytest.mark.parametrize("path", ["/nothing", "/api", "/api/health/", "/docs", "/openapi.json", "/redoc", "/static"])
def test_other_paths(dashboard, path):  # openclaw §5.2 row "other"
    answer = request(dashboard, path)
    assert answer.status == 404
    assert answer.json() == {"detail": "Not Found"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", ["/", "/api/health", "/api/tasks/queued", "/api/tasks/status/1"])
def test_wrong_method(dashboard, path, method):  # openclaw §5.2 row "other"
    answer = request(dashboard, path, method)
    assert answer.status == 405
    assert answer.json() == {"detail": "Method Not Allowed"}


def test_no_cors_headers(dashboard):  # openclaw §5.2
    own = f"http://127.0.0.1:{dashboard.port}"
    for path in ("/", "/api/health", "/api/system/stats"):
        answer = request(dashboard, path, headers=[("Origin", own)])
        assert answer.status == 200
        assert [name for name in answer.headers if name.startswith("access-control")] == []


def test_json_is_said_to_be_json(dashboard):
    for path in ("/api/health", "/api/system/stats", "/api/tasks/status/1", "/nothing"):
        assert request(dashboard, path).headers["content-type"] == "application/json"


# --- beyond the contract: the page's table, details, actions


def test_task_pages(dashboard, manager):
    tasks = [manager.queue_task(f"type_{number % 2}", f"number {number} 100%") for number in range(7)]
    page = request(dashboard, "/api/tasks?limit=3").json()
    assert [task["id"] for task in page["tasks"]] == tasks[:3:-1]
    assert page["more"] is True
    rest = request(dashboard, f"/api/tasks?limit=50&before={tasks[4]}").json()
    assert [task["id"] for task in rest["tasks"]] == tasks[3::-1]
    assert rest["more"] is False
    found = request(dashboard, "/api/tasks?q=NUMBER%205").json()["tasks"]
    assert [task["task_description"] for task in found] == ["number 5 100%"]
    assert request(dashboard, "/api/tasks?q=type_1").json()["tasks"][0]["id"] == tasks[5]
    # What a search asks for is text, not a pattern.
    assert len(request(dashboard, "/api/tasks?q=100%25").json()["tasks"]) == 7
    assert request(dashboard, "/api/tasks?q=1%250").json()["tasks"] == []
    assert request(dashboard, "/api/tasks?q=typeX1").json()["tasks"] == []
    manager.cancel_task(tasks[2])
    assert [task["id"] for task in request(dashboard, "/api/tasks?status=cancelled").json()["tasks"]] == [tasks[2]]


@pytest.mark.parametrize("query", ["status=nothing", "limit=0", "limit=201", "limit=x", "before=0", "q=" + "x" * 201])
def test_task_page_of_nonsense(dashboard, query):
    answer = request(dashboard, f"/api/tasks?{query}")
    assert answer.status == 422
    assert isinstance(answer.json()["detail"], list)


def test_cancel(dashboard, manager):
    task = manager.queue_task("a", "unwanted")
    answer = act(dashboard, f"/api/tasks/{task}/cancel")
    assert (answer.status, answer.json()) == (200, {"task_id": task, "status": "cancelled"})
    assert manager.get_task_status(task)["status"] == "cancelled"
    again = act(dashboard, f"/api/tasks/{task}/cancel")
    assert (again.status, again.json()) == (409, {"error": "only a task that is still queued can be cancelled"})


def test_retry_queues_a_copy(dashboard, manager):
    task = manager.queue_task("a", "once more", 3, {"number": 1})
    early = act(dashboard, f"/api/tasks/{task}/retry")
    assert (early.status, early.json()) == (409, {"error": "the task has not ended yet"})
    manager.conn.execute("UPDATE background_tasks SET status = 'failed', error = 'no luck' WHERE id = ?", (task,))
    answer = act(dashboard, f"/api/tasks/{task}/retry")
    assert answer.status == 200
    new = manager.get_task_status(answer.json()["task_id"])
    assert new["id"] != task
    assert (new["task_type"], new["task_description"], new["priority"]) == ("a", "once more", 3)
    assert (new["context"], new["status"], new["error"]) == ({"number": 1}, "queued", None)
    assert manager.get_task_status(task)["error"] == "no luck"


def test_actions_on_unknown_tasks(dashboard):
    for action in ("cancel", "retry"):
        answer = act(dashboard, f"/api/tasks/4711/{action}")
        assert (answer.status, answer.json()) == (404, {"error": "Task not found"})
        assert act(dashboard, f"/api/tasks/x/{action}").status == 422


def test_actions_need_the_header(dashboard, manager):
    task = manager.queue_task("a", "precious")
    path = f"/api/tasks/{task}/cancel"
    assert request(dashboard, path, "POST").status == 403
    assert act(dashboard, path, token="guess").status == 403
    assert act(dashboard, path, headers=[("Origin", "http://evil.example")]).status == 403
    assert request(dashboard, path).status == 405
    assert manager.get_task_status(task)["status"] == "queued"


# --- as a part of another application


def test_mounted_into_another_application(make_dashboard, manager):  # openclaw §6.1 `app`
    from fastapi import FastAPI

    server = make_dashboard(start=False)
    outer = FastAPI()
    outer.mount("/watch", server.app)

    with serving(outer) as site:
        assert "OpenClaw Dashboard" in request(site, "/watch/").text
        assert request(site, "/watch/api/health").json()["status"] == "healthy"
        assert request(site, "/watch/api/tasks/queued").json() == []
        assert request(site, "/watch/api/health", host="evil.example").status == 403
        with websocket(site, "/watch/ws") as line:
            line.send("ping")
            assert message(line) == {"type": "pong"}
            assert message(line)["type"] == "metrics_update"
        server.stop()
        stopped = request(site, "/watch/api/health")
        assert (stopped.status, stopped.json()["status"]) == (503, "degraded")
        assert request(site, "/watch/api/tasks/queued").status == 503


@contextmanager
def serving(app):
    """Somebody else's server."""
    import uvicorn

    config = uvicorn.Config(app, log_config=None, lifespan="off", ws_per_message_deflate=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield SimpleNamespace(url=f"http://127.0.0.1:{listener.getsockname()[1]}/")
        finally:
            server.should_exit = True
            thread.join(10)
