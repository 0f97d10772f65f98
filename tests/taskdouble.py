"""A task manager that queues and never works."""

from __future__ import annotations

import json
import sqlite3
import threading

SCHEMA = """
CREATE TABLE IF NOT EXISTS background_tasks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, task_type TEXT, task_description TEXT, priority INTEGER DEFAULT 2,
    status TEXT DEFAULT 'queued', context TEXT, result TEXT, error TEXT,
    created_at TEXT DEFAULT CURRENT_TIMESTAMP, started_at TEXT, completed_at TEXT)
"""


class ManagerDouble:
    def __init__(self, db_path=":memory:", max_workers=8, min_workers=1):
        self.db_path, self.max_workers, self.min_workers = db_path, max_workers, min_workers
        self.running, self.enable_auto_scaling = False, True
        from upshift.sqlite import connect

        self.conn = connect(str(db_path), check_same_thread=False, isolation_level=None)
        self.conn.row_factory = sqlite3.Row
        self.conn.execute(SCHEMA)
        self.task_handlers = {}
        self.closed = False
        self.lock = threading.Lock()

    def start_workers(self):
        self.running = True

    def stop_workers(self, drain=False, timeout=30.0):
        self.running = False

    def close(self):
        self.running, self.closed = False, True
        self.conn.close()

    def queue_task(self, task_type, description=None, priority=2, context=None):
        with self.lock:
            return self.conn.execute(
                "INSERT INTO background_tasks (task_type, task_description, priority, context) VALUES (?, ?, ?, ?)",
                (
                    task_type,
                    description,
                    int(getattr(priority, "value", priority)),
                    json.dumps(context) if context else None,
                ),
            ).lastrowid

    def get_task_status(self, task_id):
        row = self.conn.execute("SELECT * FROM background_tasks WHERE id = ?", (task_id,)).fetchone()
        if row is None:
            return None
        task = dict(row)
        for name in ("context", "result"):
            task[name] = None if task[name] is None else json.loads(task[name])
        return task

    def _of(self, status):
        return [
            dict(row)
            for row in self.conn.execute(
                "SELECT * FROM background_tasks WHERE status = ? ORDER BY priority DESC, id", (status,)
            )
        ]

    def get_queued_tasks(self):
        return self._of("queued")

    def get_running_tasks(self):
        return self._of("running")

    def cancel_task(self, task_id):
        sql = "UPDATE background_tasks SET status = 'cancelled' WHERE id = ? AND status = 'queued'"
        return self.conn.execute(sql, (task_id,)).rowcount == 1

    def get_worker_stats(self):
        return {
            "current_workers": self.min_workers if self.running else 0,
            "min_workers": self.min_workers,
            "max_workers": self.max_workers,
            "auto_scaling_enabled": True,
            "queue_depth": len(self._of("queued")),
            "active_workers": 0,
            "worker_activity": {},
        }
