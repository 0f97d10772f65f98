"""What a task may be queued with, checked and in the form the engine stores."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Optional, Union

__all__ = ["Entry", "TaskPriority", "TaskStatus", "count", "encode", "entry", "seconds"]


class TaskPriority(enum.Enum):
    """How urgent a task is."""

    __module__ = "upshift.tasks"

    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4


class TaskStatus(enum.Enum):
    """What a task has come to."""

    __module__ = "upshift.tasks"

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


_PRIORITIES = {each: each.value for each in TaskPriority}
_PARAMETERS = frozenset({
    *("task_type", "description", "priority", "context"),
    *("delay", "at", "retries", "backoff", "key", "time_limit"),
})  # fmt: skip


class Entry(NamedTuple):
    """A task as the engine takes it."""

    task_type: str
    description: Optional[str]
    priority: int
    context: Optional[str]
    options: Optional[str]


def number_of(priority: Union[TaskPriority, int]) -> int:
    number = _PRIORITIES.get(priority) if isinstance(priority, TaskPriority) else priority
    if type(number) is int and 1 <= number <= 4:
        return number
    raise ValueError(f"priority must be a TaskPriority or an int from 1 to 4, not {priority!r}")


def encode(context: Optional[dict[str, Any]]) -> str | None:
    if context is None:
        return None
    if not isinstance(context, dict):
        raise TypeError(f"context must be a dict or None, not {type(context).__name__}")
    if not context:
        return None
    try:
        return json.dumps(context)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"context cannot be stored as JSON: {error}") from error


def options_of(now: int, options: Mapping[str, Any]) -> str | None:
    """`options` without those that are None, as JSON; `now` in microseconds since the epoch."""
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        return None
    unknown = sorted(set(given) - _PARAMETERS)
    if unknown:
        raise TypeError(f"queue_task() got an unexpected argument {unknown[0]!r}")
    if "delay" in given and "at" in given:
        raise ValueError("delay and at exclude each other")
    found: dict[str, Any] = {}
    if "delay" in given:
        found["due"] = now + int(seconds(given["delay"], "delay") * 1e6)
    if "at" in given:
        found["due"] = _moment(given["at"])
    if "retries" in given:
        found["retries"] = count(given["retries"], "retries")
    for name in ("backoff", "time_limit"):
        if name in given:
            found[name] = seconds(given[name], name)
    if "key" in given:
        if not isinstance(given["key"], str):
            raise TypeError(f"key must be a str, not {type(given['key']).__name__}")
        found["key"] = given["key"]
    if found.get("due", now + 1) <= now:
        del found["due"]
    # A task with nothing but a past time is one without options.
    return json.dumps(found) if found else None


def entry(task: Any, now: int) -> Entry:
    """What `queue_tasks()` was given for one task."""
    if isinstance(task, str):
        task = {"task_type": task}
    if not isinstance(task, Mapping):
        raise TypeError(
            f"each task must be a type or a mapping of queue_task()'s parameters, not {type(task).__name__}"
        )
    rest = {name: task[name] for name in task if name not in ("task_type", "description", "priority", "context")}
    kind, description = task.get("task_type"), task.get("description")
    if not isinstance(kind, str):
        raise TypeError(f"task_type must be a str, not {type(kind).__name__}")
    if not (description is None or isinstance(description, str)):
        raise TypeError(f"description must be a str or None, not {type(description).__name__}")
    if rest.get("key") is not None:
        raise ValueError("a key belongs to a task that is queued by itself, with queue_task()")
    priority = number_of(task.get("priority", TaskPriority.MEDIUM))
    return Entry(kind, description, priority, encode(task.get("context")), options_of(now, rest))


def count(value: Any, name: str) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < 0:
        raise ValueError(f"{name} must be 0 or more, not {value}")
    return value


def seconds(value: Any, name: str) -> float:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds or a timedelta, not {type(value).__name__}")
    if not 0 <= value < 1e11:
        raise ValueError(f"{name} must be finite and 0 or more, not {value}")
    return float(value)


def _moment(at: Any) -> int:
    """Microseconds since the epoch. A datetime without a time zone is local time."""
    if isinstance(at, datetime):
        at = at.timestamp()
    if not isinstance(at, (int, float)):
        raise TypeError(f"at must be a datetime or seconds since the epoch, not {type(at).__name__}")
    if not abs(at) < 1e11:
        raise ValueError(f"at must be finite, not {at}")
    return int(at * 1e6)
