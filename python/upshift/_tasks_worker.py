"""What a worker thread does, and what a handler may ask of it."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import logging
import os
import time
import traceback
import weakref
from typing import TYPE_CHECKING, Any, Callable, Optional

if TYPE_CHECKING:
    from upshift._native import ClaimedTask, TaskCore
    from upshift.tasks import BackgroundTaskManager

__all__ = ["Handlers", "RunningTask", "TaskQueue", "current", "work"]

logger = logging.getLogger("upshift.tasks")

Handler = Callable[[dict[str, Any]], Any]
NO_HANDLER = "No handler registered"

_current: contextvars.ContextVar[Optional[RunningTask]] = contextvars.ContextVar("upshift_task", default=None)


class RunningTask:
    """The task that a handler runs for."""

    __slots__ = ("_cancelled", "_deadline", "_progress", "attempt", "id", "task_type")

    def __init__(self, id: int, task_type: str, attempt: int, time_limit: float | None) -> None:  # noqa: A002
        #: As `queue_task()` returned it.
        self.id = id
        self.task_type = task_type
        #: 1 for the first run.
        self.attempt = attempt
        self._cancelled = False
        self._deadline = None if time_limit is None else time.monotonic() + time_limit
        self._progress: Any = None

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked for its end, or its time is over: the handler should return soon."""
        return self._cancelled or self._is_late()

    def _is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def progress(self, value: Any) -> None:
        """Tell how far the work is; `BackgroundTaskManager.get_progress()` shows it."""
        self._progress = value

    def __repr__(self) -> str:
        return f"<RunningTask {self.id} {self.task_type!r} attempt {self.attempt}>"


def current() -> RunningTask | None:
    """The task that the calling handler runs for; None outside of one."""
    return _current.get()


class Handlers(dict[str, Handler]):
    """type -> handler. The engine hears of each change."""

    def __init__(self, manager: BackgroundTaskManager) -> None:
        super().__init__()
        self._manager = weakref.ref(manager)

    def _changed(self) -> None:
        manager = self._manager()
        if manager is not None:
            manager._tell_handlers()

    def __setitem__(self, task_type: str, handler: Handler) -> None:
        super().__setitem__(task_type, handler)
        self._changed()

    def __delitem__(self, task_type: str) -> None:
        super().__delitem__(task_type)
        self._changed()

    def setdefault(self, task_type: str, default: Any = None) -> Any:
        value = super().setdefault(task_type, default)
        self._changed()
        return value

    def pop(self, *arguments: Any) -> Any:
        value = super().pop(*arguments)
        self._changed()
        return value

    def popitem(self) -> tuple[str, Handler]:
        item = super().popitem()
        self._changed()
        return item

    def clear(self) -> None:
        super().clear()
        self._changed()

    def update(self, *arguments: Any, **named: Any) -> None:
        super().update(*arguments, **named)
        self._changed()

    def __ior__(self, other: Any) -> Handlers:  # type: ignore[override,misc]
        self.update(other)
        return self


class TaskQueue:
    """How many tasks wait for a worker of this manager."""

    def __init__(self, manager: BackgroundTaskManager) -> None:
        self._manager = weakref.ref(manager)

    def qsize(self) -> int:
        """Tasks that wait."""
        manager = self._manager()
        return 0 if manager is None else manager._core.depth()

    def empty(self) -> bool:
        """Whether none waits."""
        return self.qsize() == 0

    def __repr__(self) -> str:
        return f"<TaskQueue {self.qsize()} waiting>"


def work(manager: BackgroundTaskManager, core: TaskCore, number: int) -> None:
    """The life of a worker: claims tasks, runs their handlers, and hands over how they ended with the next claim."""
    pid = os.getpid()
    task: ClaimedTask | None = None
    text, failed, retries, backoff = "", False, 0, 0.0
    try:
        while True:
            task = core.next(number, task, text, failed, retries, backoff)
            if task is None:
                return
            handler = manager.task_handlers.get(task.task_type)
            if handler is None and task.adopted:
                # Queued by somebody else, who may have had one; somebody may come who has.
                core.give_away(number, task)
                task = None
                continue
            text, failed = _run(manager, handler, task)
            if os.getpid() != pid:
                _end_of_child(text, failed)
            if failed:
                retries, backoff = manager._tries(task) if handler is not None else (0, 0.0)
    finally:
        if os.getpid() == pid:
            core.dismiss(number)


def _run(manager: BackgroundTaskManager, handler: Handler | None, task: ClaimedTask) -> tuple[str, bool]:
    """The result as JSON, or the error; and whether it is one."""
    if handler is None:
        return NO_HANDLER, True
    running = RunningTask(task.id, task.task_type, task.attempt, task.time_limit)
    token = _current.set(running)
    manager._running[task.id] = running
    try:
        text = task.context
        context = {} if text is None else json.loads(text)
        result = handler(context)
        if inspect.iscoroutine(result):
            result = asyncio.run(_within(result, task.time_limit))
        text = json.dumps(result)
        return (text, False) if not running._is_late() else (_late(task), True)
    except BaseException as error:
        logger.debug("task %d (%s) failed", task.id, task.task_type, exc_info=True)
        return (_late(task) if running._is_late() else describe(error)), True
    finally:
        manager._running.pop(task.id, None)
        _current.reset(token)


async def _within(awaitable: Any, seconds: float | None) -> Any:
    return await asyncio.wait_for(awaitable, seconds)


def _late(task: ClaimedTask) -> str:
    return f"time limit of {task.time_limit} s exceeded"


def describe(error: BaseException) -> str:
    """`str(error)`, or the name of its class if that is empty."""
    try:
        text = str(error)
    except BaseException:  # the exception's own __str__ may raise anything, and it is only asked for a text
        text = ""
    return (text or type(error).__name__).encode("utf-8", "backslashreplace").decode("utf-8")


def _end_of_child(text: str, failed: bool) -> None:
    """A handler forked, and its child came back here: the task is the parent's, so the child ends."""
    if failed:
        traceback.print_stack()
        logger.error("a child process that a handler forked came back from it and ends: %s", text)
    os._exit(1 if failed else 0)
