"""Durable background tasks: queued in an SQLite file, run by worker threads, recorded.

A task that `queue_task()` has accepted survives the end of any process, also by `kill -9`, and runs to a recorded end.

>>> import os, tempfile
>>> from upshift import BackgroundTaskManager, TaskPriority
>>> folder = tempfile.TemporaryDirectory()
>>> manager = BackgroundTaskManager(os.path.join(folder.name, "tasks.db"), max_workers=2)
>>> @manager.register_handler("greet")
... def greet(context):
...     return {"text": f"hello {context['name']}"}
>>> manager.start_workers()
>>> task = manager.queue_task("greet", "a greeting", TaskPriority.HIGH, {"name": "Ada"})
>>> manager.wait(task, timeout=10)["result"]
{'text': 'hello Ada'}
>>> manager.close()
>>> folder.cleanup()
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Callable, NamedTuple, Optional, TypeVar, Union

import upshift._process  # noqa: F401
from upshift import _native
from upshift._tasks_conditions import condition_of, holds
from upshift._tasks_crew import Crew
from upshift._tasks_handlers import BUILT_IN
from upshift._tasks_options import TaskPriority, TaskStatus, count, encode, entry, number_of, options_of, seconds
from upshift._tasks_worker import Handlers, RunningTask, TaskQueue, current
from upshift._workspace import workspace
from upshift.exceptions import NotInitialisedError
from upshift.sqlite import Connection, Row, connect

__all__ = ["BackgroundTaskManager", "RunningTask", "TaskPriority", "TaskStatus", "current"]

logger = logging.getLogger("upshift.tasks")

F = TypeVar("F", bound=Callable[..., Any])

#: Seconds that handlers still running may hold up the end of the interpreter.
_AT_EXIT = 5.0
#: Seconds between looks at a task that another process may end.
_LOOK = 0.25
#: Seconds between looks of a coroutine at what this process has recorded.
_PAUSE = 0.01


_ENDED = frozenset({"completed", "failed", "cancelled"})


class _Tries(NamedTuple):
    retries: int
    backoff: float


def _text(value: Any) -> Any:
    """What JSON says; what is none (foreign SQL may have written anything) stays as it is."""
    if not isinstance(value, (str, bytes)):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


class BackgroundTaskManager(Crew):
    """Queues tasks in a file and runs them on worker threads, whose number follows the load.

    Tasks that were queued survive this process. What it leaves queued when it ends is taken over by the next manager on
    the file that starts workers and has a handler; what it was running when it died is run once more, and has failed
    if that process dies, too. Tasks of managers that live are left alone, unless this one is `shared`.

    Workers are daemon threads named `worker-<n>`. May be subclassed, weakly referenced and used as a context manager
    (leaving it calls `close()`). In a forked child it opens the file anew and has no workers until `start_workers()`.

    Args:
        db_path: Path of the database, str or path-like; None = `background_tasks.db` in the workspace; `":memory:"` is
            a database that ends with the manager.
        max_workers: Workers there may be at a time.
        min_workers: Workers that are kept; more than `max_workers` wins over it.
        enable_auto_scaling: Begin with `min_workers` and follow the load; otherwise there are always `max_workers`.
        scale_up_queue_depth: Waiting tasks per worker above which workers are added.
        scale_down_idle_time: Seconds after which an idle worker may go.
        cpu_threshold: Percent of all processors above which no worker is added.
        scaling_check_interval: Seconds between evaluations.
        durability: What an accepted task and a recorded result survive: "process" the end of any process, "power" also
            a power loss.
        shared: Also run tasks that other managers queued, alive or not, if there is a handler here: for several
            processes that work one file.

    Raises:
        ValueError: `min_workers` is negative or `max_workers` less than 1.
        sqlite3.Error: The file cannot be opened.
    """

    def __init__(
        self,
        db_path: Union[str, os.PathLike[str], None] = None,
        max_workers: int = 8,
        min_workers: int = 1,
        enable_auto_scaling: bool = True,
        *,
        scale_up_queue_depth: float = 5,
        scale_down_idle_time: float = 30,
        cpu_threshold: float = 80,
        scaling_check_interval: float = 5,
        durability: str = "process",
        shared: bool = False,
    ) -> None:
        for name, value, least in (("min_workers", min_workers, 0), ("max_workers", max_workers, 1)):
            if not isinstance(value, int):
                raise TypeError(f"{name} must be an int, not {type(value).__name__}")
            if value < least:
                raise ValueError(f"{name} must be {least} or more, not {value}")
        #: As it was given.
        self.db_path = workspace() / "background_tasks.db" if db_path is None else db_path
        self.min_workers = min_workers
        self.max_workers = max_workers
        self.enable_auto_scaling = enable_auto_scaling
        self.scale_up_queue_depth = scale_up_queue_depth
        self.scale_down_idle_time = scale_down_idle_time
        self.cpu_threshold = cpu_threshold
        #: Epoch of the last evaluation.
        self.last_scaling_check = time.time()
        #: Whether workers are started.
        self.running = False
        self._scaling_check_interval = scaling_check_interval
        self._options = (durability, shared)
        self._tries_of: dict[str, _Tries] = {}
        self._cpu_is_unknown = False
        self._closed = False
        self._abandoned: list[Any] = []
        #: type -> handler; assigning an item registers.
        self.task_handlers = Handlers(self)
        #: `qsize()` and `empty()` of what waits.
        self.task_queue = TaskQueue(self)
        self._begin()
        self.task_handlers.update(BUILT_IN)
        _managers.add(self)

    def _begin(self) -> None:
        """Opens the file, in this process."""
        #: Held while workers are added or taken out.
        self.worker_lock = threading.RLock()
        self._lifecycle = threading.RLock()
        #: One read at a time: a statement joins the snapshot of another one that is under way on the connection, and
        #: would not see what was committed since that began.
        self._reading = threading.Lock()
        self._generation = 0
        self._threads: dict[int, threading.Thread] = {}
        self._running: dict[int, RunningTask] = {}
        self._conn: Connection | None = None
        self._engine = _native.TaskCore(self.db_path, *self._options)
        self._reader = self._connect()
        self._tell_handlers()

    def _connect(self) -> Connection:
        path, is_uri = self._engine.location
        connection = connect(path, timeout=30.0, uri=is_uri, isolation_level=None, check_same_thread=False)
        connection.row_factory = Row
        return connection

    @property
    def _core(self) -> _native.TaskCore:
        try:
            core = self._engine
        except AttributeError:
            message = f"{type(self).__name__}.__init__() was never called on this object"
            raise NotInitialisedError(message) from None
        if not core.is_ours and not self._closed:
            # What belongs to the parent is left alone, and never touched again.
            self._abandoned.append((core, self._reader, self._conn))
            self._begin()
            core = self._engine
        return core

    def _tell_handlers(self) -> None:
        core = self.__dict__.get("_engine")
        if core is not None and core.is_ours:
            core.set_handled(json.dumps([str(name) for name in self.task_handlers]))

    # ---- handlers and rules ----

    def register_handler(self, task_type: str, *, retries: int = 0, backoff: float = 1.0) -> Callable[[F], F]:
        """Decorator: the function runs tasks of this type, from now on and instead of an earlier one.

        It is called with the context, a dict. What it returns is the result, and must be serialisable as JSON; what it
        raises is the error. `async def` functions run in an event loop of their own.

        Args:
            task_type: The type of task.
            retries: How often a task that failed is tried again.
            backoff: Seconds before the first retry; each further one waits twice as long, up to an hour. Spread by a
                quarter in both directions.
        """
        if not isinstance(task_type, str):
            raise TypeError(f"task_type must be a str, not {type(task_type).__name__}")
        tries = _Tries(count(retries, "retries"), seconds(backoff, "backoff"))

        def register(handler: F) -> F:
            self._tries_of[task_type] = tries
            self.task_handlers[task_type] = handler
            return handler

        return register

    def _tries(self, task: _native.ClaimedTask) -> _Tries:
        """How often it is tried again: as it was queued, else as its handler was registered."""
        own = self._tries_of.get(task.task_type, _Tries(0, 1.0))
        retries, backoff = task.retries, task.backoff
        return _Tries(own.retries if retries is None else retries, own.backoff if backoff is None else backoff)

    def register_rule(
        self,
        trigger_event: str,
        task_type: str,
        condition: Optional[str] = None,
        priority: Union[TaskPriority, int] = TaskPriority.MEDIUM,
    ) -> None:
        """Have an event queue a task from now on, also after a restart.

        The same event, type and condition again changes the priority of that rule.

        Args:
            trigger_event: Name of the event.
            task_type: Type of the task.
            condition: An expression over the keys of the event's context, such as `"count > 5 and level == 'high'"`;
                None or empty = always.
            priority: Of the tasks.

        Raises:
            ValueError: The condition is not in the grammar, or the priority unknown.
        """
        for name, value in (("trigger_event", trigger_event), ("task_type", task_type)):
            if not isinstance(value, str):
                raise TypeError(f"{name} must be a str, not {type(value).__name__}")
        if not (condition is None or isinstance(condition, str)):
            raise TypeError(f"condition must be a str or None, not {type(condition).__name__}")
        number = number_of(priority)
        condition = condition.strip() if condition else None
        if condition:
            condition_of(condition)
        reader = self._open_reader()
        same = "trigger_event = ? AND task_type = ? AND coalesce(condition, '') = coalesce(?, '')"
        rule = (trigger_event, task_type, condition or None)
        reader.execute(
            "INSERT INTO task_rules (trigger_event, task_type, condition, priority) SELECT ?, ?, ?, ? "
            f"WHERE NOT EXISTS (SELECT 1 FROM task_rules WHERE {same})",
            (*rule, number, *rule),
        )
        # The original system added a copy of each rule with each start.
        reader.execute(
            f"DELETE FROM task_rules WHERE {same} AND id > (SELECT min(id) FROM task_rules WHERE {same})", rule + rule
        )
        reader.execute(f"UPDATE task_rules SET priority = ? WHERE {same}", (number, *rule))

    def trigger_event(self, event: str, context: Optional[dict[str, Any]] = None) -> list[int]:
        """Queue the task of each rule for this event whose condition holds, or that has none.

        Args:
            event: Name of the event.
            context: Handed to the tasks; its keys are the names in conditions.

        Returns:
            Numbers of the new tasks.
        """
        encode(context)
        rules = self._rows(
            "SELECT task_type, coalesce(condition, '') AS condition, priority FROM task_rules "
            "WHERE trigger_event = ? AND enabled ORDER BY id",
            event,
        )
        ids: list[int] = []
        seen: set[tuple[str, str]] = set()
        for rule in rules:
            task_type, condition, priority = rule["task_type"], rule["condition"], rule["priority"]
            if (task_type, condition) in seen or not holds(condition, context or {}):
                continue
            seen.add((task_type, condition))
            number = priority if priority in (1, 2, 3, 4) else TaskPriority.MEDIUM
            ids.append(self.queue_task(task_type, f"Auto-triggered by {event}", number, context))
        return ids

    # ---- tasks ----

    def queue_task(
        self,
        task_type: str,
        description: Optional[str] = None,
        priority: Union[TaskPriority, int] = TaskPriority.MEDIUM,
        context: Optional[dict[str, Any]] = None,
        *,
        delay: Union[float, timedelta, None] = None,
        at: Union[datetime, float, None] = None,
        retries: Optional[int] = None,
        backoff: Union[float, timedelta, None] = None,
        key: Optional[str] = None,
        time_limit: Union[float, timedelta, None] = None,
        connection: Any = None,
    ) -> int:
        """Queue a task. It is committed when this returns; calls that come together share a commit.

        Args:
            task_type: Which handler runs it. There may be none yet.
            description: For people.
            priority: A `TaskPriority`, or its number. Higher ones run first, equal ones in order.
            context: What the handler gets: a dict that JSON can express.
            delay: Seconds before it may run.
            at: When it may run: a datetime (local without a time zone), or seconds since the epoch.
            retries: How often it is tried again if it fails; None = as its handler was registered.
            backoff: Seconds before the first retry; None = as its handler was registered.
            key: A second task with this key is not queued; the number of the first is returned.
            time_limit: Seconds after which `current().cancelled` is true for its handler, and after which it has failed
                however the handler ends. Asynchronous handlers are cancelled at that time.
            connection: A connection to the same file: the task is queued by the transaction that is open there, and is
                there once that is committed. Workers find it within a second then. With a delay, but no other option.

        Returns:
            The task's number, unique in the file.

        Raises:
            TypeError: The context cannot be stored as JSON; nothing is queued.
            ValueError: The priority is unknown, or another argument out of range.
            sqlite3.ProgrammingError: The manager is closed.
        """
        core = self._core
        if connection is not None:
            others = (retries, backoff, key, time_limit)
            if any(value is not None for value in others):
                raise ValueError("with connection, a task has no retries, backoff, key or time_limit of its own")
            row = (task_type, description, number_of(priority), encode(context))
            due = options_of(core.now, {"delay": delay, "at": at})
            return self._queue_through(connection, row, None if due is None else json.loads(due).get("due"))
        options = None
        is_plain = delay is None and at is None and retries is None
        if not (is_plain and backoff is None and key is None and time_limit is None):
            given = {"delay": delay, "at": at, "retries": retries, "backoff": backoff, "key": key}
            options = options_of(core.now, {**given, "time_limit": time_limit})
        number = core.enqueue(task_type, description, number_of(priority), encode(context), options)
        if number is None and key is not None:
            number = core.task_of(key)
        if number is None:
            raise RuntimeError("the task was not queued, though nothing was in its way")
        return number

    def _queue_through(self, connection: Any, row: tuple[Any, ...], due: int | None) -> int:
        if not isinstance(row[0], str):
            raise TypeError(f"task_type must be a str, not {type(row[0]).__name__}")
        sql = "INSERT INTO background_tasks (task_type, task_description, priority, context) VALUES (?, ?, ?, ?)"
        number: int = connection.execute(sql, row).lastrowid
        connection.execute(
            "INSERT INTO upshift_leases (task, manager, state, rank, kind, due) VALUES (?, ?, ?, ?, ?, ?)",
            (number, self._core.manager, 0 if due is None else 2, -row[2], row[0], due),
        )
        return number

    def queue_tasks(self, tasks: Iterable[Any]) -> list[int]:
        """Queue many tasks in one transaction: all of them or, if anything is wrong with one, none.

        Args:
            tasks: A task each: its type, or a mapping of parameters of `queue_task()`, but no `key`.

        Returns:
            Their numbers, in order.
        """
        core = self._core
        entries = [entry(task, core.now) for task in tasks]
        return core.enqueue_many(json.dumps(entries)) if entries else []

    def cancel_task(self, task_id: int) -> bool:
        """Cancel a task that is still queued; whether it was.

        Args:
            task_id: As `queue_task()` returned it.
        """
        return self._core.cancel(task_id)

    def recover_tasks(self, include_legacy: bool = False) -> int:
        """Take over, now, what managers that are gone left; `start_workers()` does so for types with a handler here.

        Args:
            include_legacy: Also what was in the file before upshift first opened it. Years-old work does not run
                unasked.

        Returns:
            How many tasks were taken over.
        """
        return self._core.recover(True, include_legacy)

    def wait(self, task_id: int, timeout: Optional[float] = None) -> dict[str, Any]:
        """Wait until a task has ended, wherever it runs.

        Args:
            task_id: As `queue_task()` returned it.
            timeout: Seconds; None = without limit.

        Returns:
            The task, as `get_task_status()` shows it.

        Raises:
            LookupError: There is no such task.
            TimeoutError: It has not ended in time.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            core = self._core
            seen = core.runs()
            task = self.get_task_status(task_id)
            if task is None:
                raise LookupError(f"there is no task {task_id}")
            if task["status"] in _ENDED:
                return task
            left = _LOOK if until is None else min(_LOOK, until - time.monotonic())
            if left <= 0:
                raise TimeoutError(f"task {task_id} is {task['status']} after {timeout} s")
            core.wait_for_run(seen, left)

    async def await_task(self, task_id: int, timeout: Optional[float] = None) -> dict[str, Any]:
        """`wait()` for coroutines: the event loop goes on meanwhile.

        Args:
            task_id: As `queue_task()` returned it.
            timeout: Seconds; None = without limit.
        """
        loop = asyncio.get_running_loop()
        until = None if timeout is None else loop.time() + timeout
        look_at, seen = 0.0, -1
        while True:
            runs = self._core.runs()
            if runs != seen or loop.time() >= look_at:
                seen, look_at = runs, loop.time() + _LOOK
                try:
                    return self.wait(task_id, 0)
                except TimeoutError:
                    if until is not None and loop.time() >= until:
                        raise TimeoutError(f"task {task_id} has not ended after {timeout} s") from None
            await asyncio.sleep(_PAUSE)

    def request_cancel(self, task_id: int) -> bool:
        """Ask a handler that runs in this process to end: `current().cancelled` becomes true for it.

        Args:
            task_id: As `queue_task()` returned it.

        Returns:
            Whether it is running here.
        """
        running = self._running.get(task_id)
        if running is not None:
            running._cancelled = True
        return running is not None

    def get_progress(self, task_id: int) -> Any:
        """What the handler of a task that runs in this process told last by `current().progress()`, or None.

        Args:
            task_id: As `queue_task()` returned it.
        """
        running = self._running.get(task_id)
        return None if running is None else running._progress

    # ---- looking ----

    @property
    def conn(self) -> Connection:
        """A connection to the file, for any thread; each statement commits by itself, rows have names."""
        core = self._core
        if self._conn is None and not core.is_closed:
            self._conn = self._connect()
        return self._reader if self._conn is None else self._conn

    def _open_reader(self) -> Connection:
        self._core  # noqa: B018 - opens the file anew in a forked child
        return self._reader

    def _rows(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        reader = self._open_reader()
        with self._reading:
            rows = reader.execute(sql, parameters).fetchall()
        return [dict(row) for row in rows]

    def get_task_status(self, task_id: int) -> Optional[dict[str, Any]]:
        """Everything about a task, `context` and `result` decoded; None if there is no such task.

        Args:
            task_id: As `queue_task()` returned it.
        """
        rows = self._rows(f"SELECT {_COLUMNS} FROM background_tasks WHERE id = ?", task_id)
        if not rows:
            return None
        task = rows[0]
        task["context"], task["result"] = _text(task["context"]), _text(task["result"])
        return task

    def get_queued_tasks(self) -> list[dict[str, Any]]:
        """Tasks that are queued, in the order in which they will run; `context` and `result` as JSON text."""
        self._core.look()
        return self._active("queued", "state <> 1")

    def get_running_tasks(self) -> list[dict[str, Any]]:
        """Tasks that are running, in the same form."""
        return self._active("running", "state = 1")

    def _active(self, status: str, state: str) -> list[dict[str, Any]]:
        """By their leases: there is no index on the status, and most rows have ended. What the original system left has
        no lease."""
        return self._rows(
            f"SELECT {_COLUMNS} FROM background_tasks WHERE status = ? AND (id IN (SELECT task FROM upshift_leases "
            f"WHERE {state}) OR id <= (SELECT value FROM upshift_meta WHERE name = 'legacy')) "
            "ORDER BY priority DESC, created_at, id",
            status,
        )

    def get_attempts(self, task_id: int) -> list[dict[str, Any]]:
        """Runs of a task that failed or crashed, and the last one if there were any: `attempt`, `started_at`,
        `ended_at`, `outcome` ("failed", "crashed" or "completed"), `error`.

        Args:
            task_id: As `queue_task()` returned it.
        """
        return self._rows(
            "SELECT attempt, started_at, ended_at, outcome, error FROM upshift_attempts WHERE task = ? ORDER BY id",
            task_id,
        )

    def get_dead_letters(self) -> list[dict[str, Any]]:
        """Tasks that have failed for good: `task`, `task_type`, `reason` ("failed" or "crashed"), `error`, `attempts`,
        `died_at`."""
        return self._rows(
            "SELECT task, task_type, reason, error, attempts, died_at FROM upshift_dead_letters ORDER BY died_at, task"
        )

    # ---- the end ----

    def share(self) -> None:
        """Also run tasks that other managers queued, as with `shared=True`. Only while workers are stopped."""
        if self.running:
            raise RuntimeError("share() is for a manager whose workers are stopped")
        self._core.share()
        self._options = (self._options[0], True)

    def abandon(self) -> None:
        """Close at once: what is running is given back, to be run again, and is not recorded here any more."""
        self._close(0.0, gives_back=True)

    def close(self) -> None:
        """Stop workers and close the file; what is queued is for other managers then. Idempotent."""
        self._close(30.0, gives_back=False)

    def _close(self, timeout: float, gives_back: bool) -> None:
        if self._closed or self.__dict__.get("_engine") is None:
            return
        if not self._engine.is_ours:
            self._closed = True
            return
        with self._lifecycle:
            self.stop_workers(timeout=timeout)
            self._closed = True
            # While something of the group is open, the log stays: so these first.
            self._reader.close()
            if self._conn is not None:
                self._conn.close()
            self._engine.close(timeout, gives_back)

    def __enter__(self) -> BackgroundTaskManager:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")


_COLUMNS = (
    "id, task_type, task_description, priority, status, context, result, error, created_at, started_at, completed_at"
)


_managers: weakref.WeakSet[BackgroundTaskManager] = weakref.WeakSet()


def _at_exit() -> None:
    until = time.monotonic() + _AT_EXIT
    for manager in list(_managers):
        try:
            manager._close(max(0.0, until - time.monotonic()), gives_back=True)
        except Exception:
            logger.exception("a task manager could not be closed")


def _after_fork() -> None:
    for manager in list(_managers):
        # Its threads are the parent's; the file is opened anew when it is first used.
        manager.running = False


# Before the runtime is stopped: that was registered earlier.
atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
