"""`core.scalability_integration`: cache, pools, tasks and dashboard of an application behind one manager."""

from __future__ import annotations

import atexit
import contextlib
import functools
import inspect
import logging
import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from upshift._workspace import workspace
from upshift.cache import ResultCache
from upshift.sqlite import ConnectionPool, PooledConnection
from upshift.systems.openclaw import give_back_pool, share_pool
from upshift.tasks import BackgroundTaskManager, TaskPriority

if TYPE_CHECKING:
    from upshift.dashboard import DashboardServer

__all__ = ["ScalabilityManager", "cached", "get_manager", "main", "queue_task", "with_db_pool"]

logger = logging.getLogger("upshift.openclaw")

# All that live, for the end of the process; it holds none of them.
_managers: weakref.WeakSet[ScalabilityManager] = weakref.WeakSet()
_manager: ScalabilityManager | None = None
_manager_lock = threading.RLock()
#: Types of tasks that `queue_task` has said to be without a handler.
_warned: set[str] = set()


class ScalabilityManager:
    """Cache, task manager and connection pools of one workspace, and their dashboard.

    Opens the cache and the task store; workers, pools and the dashboard begin when they are asked for. What is left at
    the end of the process is cleaned up then. Can be used as a context manager that cleans up.

    Args:
        workspace_path: Folder of the database files, made if need be; None = `OPENCLAW_WORKSPACE`, else the current.
        cache_size: Results kept in memory.
        cache_ttl: Seconds a result is kept unless told otherwise; 0 = for ever.
        db_pool_min: Connections each pool keeps open.
        db_pool_max: Connections each pool opens at most.
        worker_min: Workers that stay when there is nothing to do.
        worker_max: Workers there are at most.
        enable_auto_scaling: Change the number of workers with the load; False: always `worker_max`.
        enable_persistent_cache: Keep results in `<workspace>/result_cache.db` as well.

    Attributes:
        workspace: The folder.
        cache: The `ResultCache`.
        task_manager: The `BackgroundTaskManager`, on `<workspace>/background_tasks.db`.
        db_pools: name → `ConnectionPool`, those opened so far.
        db_pool_config: `min_size` and `max_size` of pools still to be opened.
        dashboard: The `DashboardServer` or None.
    """

    def __init__(
        self,
        workspace_path: str | os.PathLike[str] | None = None,
        cache_size: int = 1000,
        cache_ttl: float = 3600,
        db_pool_min: int = 2,
        db_pool_max: int = 10,
        worker_min: int = 1,
        worker_max: int = 8,
        enable_auto_scaling: bool = True,
        enable_persistent_cache: bool = True,
    ) -> None:
        if not (0 <= db_pool_min <= db_pool_max and db_pool_max >= 1):
            message = (
                f"db_pool_min and db_pool_max must be 0 <= min <= max and max >= 1, not {db_pool_min}, {db_pool_max}"
            )
            raise ValueError(message)
        self.workspace = workspace() if workspace_path is None else Path(workspace_path)
        self.workspace.mkdir(parents=True, exist_ok=True)
        self.db_pools: dict[str, ConnectionPool] = {}
        self.db_pool_config = {"min_size": db_pool_min, "max_size": db_pool_max}
        self.dashboard: DashboardServer | None = None
        self._lock = threading.RLock()
        self._is_cleaned = False
        store = self.workspace / "result_cache.db" if enable_persistent_cache else None
        self.cache = ResultCache(cache_size, cache_ttl, enable_persistent_cache, store)
        try:
            self.task_manager = BackgroundTaskManager(
                self.workspace / "background_tasks.db",
                max_workers=worker_max,
                min_workers=worker_min,
                enable_auto_scaling=enable_auto_scaling,
            )
        except BaseException:
            self.cache.close()
            raise
        # The shares are given back by a manager that is dropped as well. At exit, `cleanup` does it.
        self._shares: list[ConnectionPool] = []
        weakref.finalize(self, _give_back, self._shares).atexit = False
        _clean_up_at_exit(self)

    @property
    def db_pool(self) -> ConnectionPool:
        """The pool named "main"."""
        return self.get_db_pool("main")

    def get_db_pool(self, db_name: str = "main") -> ConnectionPool:
        """The pool on `<workspace>/<db_name>.db`, opened on first use.

        Managers of one workspace share it: it is closed when the last one cleans up.

        Raises:
            ValueError: The name is empty, absolute or contains `..`.
            RuntimeError: The manager has been cleaned up.
        """
        path = self.workspace / f"{_checked_name(db_name)}.db"
        with self._lock:
            pool = self.db_pools.get(db_name)
            if pool is not None and pool.running:
                return pool
            self._refuse_if_cleaned()
            path.parent.mkdir(parents=True, exist_ok=True)
            pool = share_pool(path, **self.db_pool_config)
            self._shares.append(pool)
            self.db_pools[db_name] = pool
            return pool

    def start_workers(self) -> None:
        """Start the task manager's workers; no effect while they run."""
        self.task_manager.start_workers()

    def stop_workers(self) -> None:
        """Stop them; tasks that wait stay in the store."""
        self.task_manager.stop_workers()

    def start_dashboard(
        self, port: int = 8080, host: str = "127.0.0.1", *, token: str | None = None
    ) -> DashboardServer:
        """Serve a dashboard of this manager's tasks, cache and pools; it listens when this returns.

        Args:
            port: TCP port; 0 picks a free one, `dashboard.port` tells which.
            host: Address to listen on.
            token: Secret that visitors have to give; None: none on a loopback address, otherwise one is made up.

        Raises:
            RuntimeError: One is running, or the manager has been cleaned up.
            OSError: The port is taken.
            ImportError: The extra `upshift[dashboard]` is not installed.
        """
        from upshift.dashboard import DashboardServer

        with self._lock:
            self._refuse_if_cleaned()
            if self.dashboard is not None and self.dashboard.running:
                raise RuntimeError(f"a dashboard is already running on port {self.dashboard.port}")
            server = DashboardServer(
                port,
                host=host,
                task_manager=self.task_manager,
                cache=self.cache,
                db_pools=self.db_pools,
                workspace=self.workspace,
                token=token,
            )
            server.start(block=False)
            self.dashboard = server
            return server

    def get_status(self) -> dict[str, Any]:
        """Statistics of the cache, the workers and the pools opened so far."""
        return {
            "cache": self.cache.get_stats(),
            "workers": self.task_manager.get_worker_stats(),
            "db_pools": {name: pool.get_stats() for name, pool in dict(self.db_pools).items()},
        }

    def cleanup(self) -> None:
        """End the dashboard, the workers, the pools that this manager opened and the cache. Idempotent.

        Tasks that wait stay in the store. Pools that other managers use stay open for them. Whatever fails, the rest is
        done; the error is raised at the end.
        """
        with self._lock:
            self._is_cleaned = True
            dashboard, self.dashboard = self.dashboard, None
        with contextlib.ExitStack() as steps:  # run last to first
            steps.callback(self.cache.close)
            steps.callback(self._close_pools)
            steps.callback(self.task_manager.close)
            if dashboard is not None:
                steps.callback(dashboard.stop)

    def _close_pools(self) -> None:
        with self._lock:
            self.db_pools.clear()
            shares = self._shares[:]
            self._shares.clear()
        _give_back(shares)

    def _refuse_if_cleaned(self) -> None:
        if self._is_cleaned:
            raise RuntimeError("the manager has been cleaned up; make a new one, or call get_manager()")

    def __enter__(self) -> ScalabilityManager:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.cleanup()


def get_manager(**kwargs: Any) -> ScalabilityManager:
    """The process-wide manager; arguments, those of `ScalabilityManager`, count on the first call only.

    One that has been cleaned up is replaced. Safe to call from any thread.
    """
    global _manager
    with _manager_lock:
        if _manager is None or _manager._is_cleaned:
            _manager = ScalabilityManager(**kwargs)
        return _manager


def cached(ttl: float | None = 3600, tags: str | Iterable[str] | None = None) -> Callable[[Callable[..., Any]], Any]:
    """Decorator factory: keep results of a function, plain or `async def`, in the process-wide manager's cache.

    The manager is made when the decorated function is first called, not before.

    Args:
        ttl: Seconds; None = the cache's default.
        tags: For `invalidate_by_tag`; a str is one tag.
    """
    tags = tags if tags is None or isinstance(tags, str) else list(tags)

    def decorate(function: Any) -> Any:
        if isinstance(function, (staticmethod, classmethod)):
            return type(function)(decorate(function.__func__))
        if not callable(function):
            raise TypeError(f"cached() decorates functions, not {type(function).__name__}")
        current = _Current(function, ttl, tags)

        def call(*args: Any, **kwargs: Any) -> Any:
            return current.get()(*args, **kwargs)

        async def call_async(*args: Any, **kwargs: Any) -> Any:
            return await current.get()(*args, **kwargs)

        wrapper: Any = call_async if inspect.iscoroutinefunction(function) else call
        functools.update_wrapper(wrapper, function)
        for name in ("cache_clear", "cache_info", "cache_key", "invalidate", "refresh"):
            setattr(wrapper, name, current.forward(name))
        return wrapper

    return decorate


class _Current:
    """A function as the cache of the current process-wide manager has decorated it."""

    def __init__(self, function: Callable[..., Any], ttl: float | None, tags: Any) -> None:
        self._function = function
        self._options = {"ttl": ttl, "tags": tags}
        # Set together, so that a reader without the lock never sees the pair mixed.
        self._pair: tuple[ScalabilityManager, Any] | None = None

    def get(self) -> Any:
        pair = self._pair
        if pair is not None and pair[0] is _manager and not pair[0]._is_cleaned:
            return pair[1]
        with _manager_lock:
            manager = get_manager()
            if self._pair is None or self._pair[0] is not manager:
                self._pair = (manager, manager.cache.cached(**self._options)(self._function))
            return self._pair[1]

    def forward(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return getattr(self.get(), name)(*args, **kwargs)

        call.__name__ = name
        return call


def with_db_pool(db_name: str = "main") -> contextlib.AbstractContextManager[PooledConnection]:
    """A connection of the process-wide manager's pool, for a `with` block that commits or rolls back at its end."""
    connection: contextlib.AbstractContextManager[PooledConnection] = get_manager().get_db_pool(db_name).connection()
    return connection


def queue_task(
    task_type: str,
    description: str | None = None,
    priority: TaskPriority | int = TaskPriority.MEDIUM,
    context: dict[str, Any] | None = None,
) -> int:
    """Queue a task with the process-wide manager, and start its workers if they stand still and have a handler for it.

    Without a handler the task waits until somebody calls `start_workers()`; the log says so once for each type.

    Returns:
        The id of the task.
    """
    manager = get_manager()
    tasks = manager.task_manager
    task: int = tasks.queue_task(task_type, description, priority, context)
    if not tasks.running:
        if task_type in tasks.task_handlers:
            manager.start_workers()
        elif task_type not in _warned:
            _warned.add(task_type)
            logger.warning("no handler for tasks of type %r: they wait until start_workers() is called", task_type)
    return task


def main() -> None:
    """A short demonstration of everything together; leaves nothing behind. What it sees goes to `upshift.openclaw`."""
    with tempfile.TemporaryDirectory() as folder, ScalabilityManager(folder, worker_max=2) as manager:
        manager.start_workers()
        logger.info("workers started: %s", manager.task_manager.get_worker_stats())

        @manager.cache.cached(ttl=60)
        def square(number: int) -> int:
            return number * number

        logger.info("squares %s, %s", [square(number) for number in (2, 3, 2)], square.cache_info())
        with manager.db_pool.connection() as connection:
            connection.execute("CREATE TABLE squares (number INTEGER PRIMARY KEY, square INTEGER)")
            connection.execute("INSERT INTO squares VALUES (?, ?)", (3, square(3)))
        with manager.db_pool.connection() as connection:
            logger.info("from the pool: %s", dict(connection.execute("SELECT * FROM squares").fetchone()))
        finished = threading.Event()

        @manager.task_manager.register_handler("square")
        def work(context: dict[str, Any]) -> dict[str, Any]:
            finished.set()
            return {"square": square(context["number"])}

        task = manager.task_manager.queue_task("square", "A square", TaskPriority.HIGH, {"number": 4})
        finished.wait(10)
        manager.task_manager.stop_workers(drain=True)
        logger.info("task %d: %s", task, manager.task_manager.get_task_status(task))
        logger.info("status: %s", manager.get_status())


def _checked_name(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"db_name must be a str, not {type(name).__name__}")
    is_absolute = Path(name).is_absolute() or bool(PureWindowsPath(name).anchor)
    if not name or is_absolute or ".." in name or "\0" in name:
        raise ValueError(f"db_name must be a relative name without '..', not {name!r}")
    return name


def _give_back(shares: list[ConnectionPool]) -> None:
    with contextlib.ExitStack() as steps:
        for pool in shares:
            steps.callback(give_back_pool, pool)


def _clean_up_at_exit(manager: ScalabilityManager) -> None:
    with _manager_lock:
        if not _managers:
            atexit.unregister(_clean_up_all)
            atexit.register(_clean_up_all)
        _managers.add(manager)


def _clean_up_all() -> None:
    for manager in list(_managers):
        try:
            manager.cleanup()
        except Exception:  # the others still have their turn
            logger.exception("a manager could not be cleaned up at exit")
