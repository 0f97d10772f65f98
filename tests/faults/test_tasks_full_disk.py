"""A full disk: what cannot be stored is refused, what cannot be recorded is recorded when there is room."""

from __future__ import annotations

import pytest
from harness import run_literal

resource = pytest.importorskip("resource", reason="platform: no limits of file size")

PROGRAM = """
import resource, signal, sqlite3, sys, threading, time
from upshift.tasks import BackgroundTaskManager
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
manager = BackgroundTaskManager(sys.argv[1], 1, 1, False)
started, release = threading.Event(), threading.Event()

@manager.register_handler("t")
def handler(context):
    started.set()
    release.wait(20)
    return "x" * 100_000

task = manager.queue_task("t")
manager.start_workers()
assert started.wait(20)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
found, accepted = [], 0
try:
    for i in range(1000):
        manager.queue_task("t", context={"padding": "x" * 1000})
        accepted += 1
except sqlite3.OperationalError as error:
    found.append(str(error))
found.append(len(manager.get_queued_tasks()) == accepted)
release.set()
time.sleep(0.5)
found.append(manager.get_task_status(task)["status"])
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
found.append(manager.wait(task, 20)["status"])
found.append(manager.conn.execute("PRAGMA integrity_check").fetchone()[0])
manager.stop_workers(drain=True, timeout=30)
found.append(len(manager.get_queued_tasks()))
manager.close()
print(found)
"""


def test_a_result_waits_for_room(tmp_path):
    message, *found = run_literal(PROGRAM, tmp_path / "tasks.db", timeout=60)
    assert "full" in message or "disk I/O" in message
    assert found == [True, "running", "completed", "ok", 0]
