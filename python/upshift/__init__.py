"""upshift: native parts for Python systems that have to scale, under the names they already import.

`ResultCache`, `get_cache()` and `CachedFunction` are the result cache, `sqlite`, `ConnectionPool` and `get_pool()` are
SQLite; `upshift.compat` serves both under the import paths of other systems.

PYTEST_DONT_REWRITE
"""

# The names are imported on first use: the import hook, the command line and the pytest plugin live in this package as
# well, and run in processes that may never need the native module.

__all__ = [
    "BackgroundTaskManager",
    "CachedFunction",
    "ConnectionPool",
    "DashboardServer",
    "PooledConnection",
    "ResultCache",
    "TaskPriority",
    "TaskStatus",
    "__version__",
    "close_all_pools",
    "get_cache",
    "get_pool",
    "sqlite",
    "tasks",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from upshift import sqlite, tasks
    from upshift._native import __version__
    from upshift.cache import CachedFunction, ResultCache
    from upshift.dashboard import DashboardServer
    from upshift.sqlite import ConnectionPool, PooledConnection
    from upshift.systems.openclaw import close_all_pools, get_cache, get_pool
    from upshift.tasks import BackgroundTaskManager, TaskPriority, TaskStatus
else:
    _HOMES = {
        "BackgroundTaskManager": "upshift.tasks",
        "CachedFunction": "upshift.cache",
        "ConnectionPool": "upshift.sqlite",
        "DashboardServer": "upshift.dashboard",
        "PooledConnection": "upshift.sqlite",
        "ResultCache": "upshift.cache",
        "TaskPriority": "upshift.tasks",
        "TaskStatus": "upshift.tasks",
        "__version__": "upshift._native",
        "close_all_pools": "upshift.systems.openclaw",
        "get_cache": "upshift.systems.openclaw",
        "get_pool": "upshift.systems.openclaw",
    }

    def __getattr__(name):
        from importlib import import_module

        if name in ("sqlite", "tasks"):
            return import_module(f"upshift.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
