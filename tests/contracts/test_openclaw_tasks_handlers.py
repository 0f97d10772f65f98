"""Contract openclaw §4.6: the handlers every manager has."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime

import pytest

from upshift import _tasks_handlers as handlers


def test_they_are_present_and_replaceable(manager):
    assert {"run_tests", "check_dependencies", "analyze_logs", "monitor_performance"} <= set(manager.task_handlers)
    manager.register_handler("run_tests")(lambda context: "mine")
    manager.start_workers()
    assert manager.wait(manager.queue_task("run_tests"), 20)["result"] == "mine"


def test_run_tests_uses_this_interpreter_in_the_current_folder(tmp_path, monkeypatch):  # openclaw §4.6, W13
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:cacheprovider")
    (tmp_path / "test_one.py").write_text(
        f"import sys\n\ndef test_one():\n    assert sys.executable == {sys.executable!r}\n"
    )
    found = handlers.run_tests({})
    assert found["success"] is True, found
    assert "test_one.py::test_one PASSED" in found["output"]
    assert isinstance(found["errors"], str)
    (tmp_path / "test_one.py").write_text("def test_one():\n    assert False\n")
    found = handlers.run_tests({})
    assert found["success"] is False
    assert "FAILED" in found["output"]


def test_run_tests_that_cannot_run(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/at/all")
    found = handlers.run_tests({})
    assert found["success"] is False
    assert found["error"]
    assert set(found) == {"success", "error"}


def test_time_limits(monkeypatch):
    limits = []

    def run(command, **options):
        limits.append((command[0], options["timeout"]))
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(subprocess, "run", run)
    assert handlers.run_tests({})["success"] is False
    assert handlers.check_dependencies({})["success"] is False
    assert limits == [(sys.executable, 300), (sys.executable, 60)]


def finished(status, output):
    def run(command, **_):
        assert command[:3] == [sys.executable, "-m", "pip"]
        assert "--outdated" in command
        return subprocess.CompletedProcess(command, status, output, "")

    return run


def test_check_dependencies(monkeypatch):  # openclaw §4.6, W13
    rows = [{"name": "a", "version": "1", "latest_version": "2"}]
    monkeypatch.setattr(subprocess, "run", finished(0, json.dumps(rows)))
    assert handlers.check_dependencies({}) == {"success": True, "outdated_count": 1, "outdated": rows}
    monkeypatch.setattr(subprocess, "run", finished(1, ""))
    assert handlers.check_dependencies({}) == {"success": False, "error": "pip check failed"}


def test_analyze_logs(tmp_path):
    log = tmp_path / "app.log"
    log.write_bytes(b"fine\n  an ERROR here  \r\nwarning: x\nError and WARNING\n\xff\xfe Warning \xff\nlast error")
    found = handlers.analyze_logs({"log_file": str(log)})
    assert found == {
        "success": True,
        "errors": ["an ERROR here", "Error and WARNING", "last error"],
        "warnings": ["warning: x", "\ufffd\ufffd Warning \ufffd"],
        "error_count": 3,
        "warning_count": 2,
    }


@pytest.mark.parametrize("context", [{}, {"log_file": ""}, {"log_file": "/nowhere/at/all.log"}, {"log_file": "/"}])
def test_analyze_logs_without_a_file(context):
    assert handlers.analyze_logs(context) == {"success": False, "error": "Log file not found"}


def test_analyze_logs_looks_at_the_last_thousand_lines(tmp_path):  # openclaw §4.6, W13 "whole log file read"
    log = tmp_path / "app.log"
    log.write_text("".join(f"ERROR {i} {'x' * 200}\n" for i in range(5000)))
    found = handlers.analyze_logs({"log_file": log})
    assert found["error_count"] == 1000
    assert found["errors"][0].startswith("ERROR 4000 ")
    assert found["errors"][-1].startswith("ERROR 4999 ")


def test_monitor_performance():
    found = handlers.monitor_performance({})
    assert found["success"] is True
    for name in ("cpu_percent", "memory_percent", "disk_percent"):
        assert 0 <= found[name] <= 100
    assert abs((datetime.now() - datetime.fromisoformat(found["timestamp"])).total_seconds()) < 60
