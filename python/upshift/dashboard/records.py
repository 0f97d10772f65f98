"""What the dashboard reads from the tables of a task manager, and the two things it can do to a task."""

from __future__ import annotations

import json
from typing import Any

from upshift.dashboard.counts import StatusCounts

__all__ = ["ActionError", "TaskRecords"]

#: status → its name in the stats object.
_COUNT_NAMES = {
    "queued": "pending",
    "running": "in_progress",
    "completed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
}
_LIST_COLUMNS = (
    "id, task_type, substr(task_description, 1, 300) AS task_description, priority, status, "
    "substr(error, 1, 300) AS error, created_at, started_at, completed_at"
)
#: Ids of SQLite; the tables know no other.
_MAX_ID = 2**63 - 1


class ActionError(Exception):
    """The task is not in a state in which that can be done."""


class TaskRecords:
    """Reads through the manager's own connection, so that what it shows is what the manager sees."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._counts = StatusCounts(self._query)

    def counts(self) -> dict[str, int]:
        """How many tasks are in each state."""
        by_status = self._counts.get()
        return {name: by_status.get(status, 0) for status, name in _COUNT_NAMES.items()}

    def status(self, task_id: int) -> dict[str, Any] | None:
        """The task with `context` and `result` decoded, or None."""
        found: dict[str, Any] | None = self._manager.get_task_status(task_id) if abs(task_id) <= _MAX_ID else None
        return found

    def page(self, status: str | None, text: str, before: int | None, limit: int) -> dict[str, Any]:
        """The newest tasks: those of one status, with `text` in type or description, older than id `before`."""
        conditions = ["1"]
        values: list[Any] = []
        if status is not None:
            conditions.append("status = ?")
            values.append(status)
        if text:
            pattern = "%" + text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
            conditions.append("(task_type LIKE ? ESCAPE '\\' OR task_description LIKE ? ESCAPE '\\')")
            values += [pattern, pattern]
        if before is not None:
            conditions.append("id < ?")
            values.append(min(before, _MAX_ID))
        rows = self._query(
            f"SELECT {_LIST_COLUMNS} FROM background_tasks WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?",
            [*values, limit + 1],
        )
        return {"tasks": [dict(row) for row in rows[:limit]], "more": len(rows) > limit}

    def detail(self, task_id: int) -> dict[str, Any] | None:
        """Task and, if the manager keeps them, its attempts; None for an unknown id."""
        task = self.status(task_id)
        return None if task is None else {"task": task, "attempts": self._attempts(task_id)}

    def cancel(self, task_id: int) -> None:
        """Takes a queued task back."""
        if not self._manager.cancel_task(task_id):
            raise ActionError("only a task that is still queued can be cancelled")

    def retry(self, task: dict[str, Any]) -> int:
        """Queues a finished task again, as a new one that the old record stays beside; returns its id."""
        if task["status"] in ("queued", "running"):
            raise ActionError("the task has not ended yet")
        context = task["context"]
        if isinstance(context, str):  # a manager that keeps the text
            context = json.loads(context)
        new: int = self._manager.queue_task(
            task["task_type"], task["task_description"], int(task["priority"]), context or None
        )
        return new

    def _attempts(self, task_id: int) -> list[dict[str, Any]]:
        get_attempts = getattr(self._manager, "get_attempts", None)
        return [] if get_attempts is None else list(get_attempts(task_id))

    def _query(self, sql: str, values: list[Any] | None = None) -> list[Any]:
        rows: list[Any] = self._manager.conn.execute(sql, values or []).fetchall()
        return rows
