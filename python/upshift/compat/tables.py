"""Which import paths upshift knows, and the object that stands behind each public name.

Data and lookups only. A target is ``"module:attribute"`` and is imported when the served module is, not before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from upshift.exceptions import CompatError

__all__ = ["MODULES", "Module", "resolve", "served", "systems"]


class Module:
    """One import path of a system.

    ``names`` maps each public name to its target. Without names the path is known, but not served by this version.
    """

    # No NamedTuple or dataclass: every child process reads this at its start, `typing` costs more than the whole file.
    __slots__ = ("doc", "names", "system")

    def __init__(self, system: str, doc: str, names: Mapping[str, str] | None = None) -> None:
        self.system = system
        self.doc = doc
        self.names = names or {}


MODULES: dict[str, Module] = {
    "core.result_cache": Module(
        "openclaw",
        "Result cache in memory and on disk, and the cached decorator.",
        {
            "ResultCache": "upshift.cache:ResultCache",
            "get_cache": "upshift.systems.openclaw:get_cache",
            "main": "upshift.systems.openclaw:result_cache_main",
        },
    ),
    "core.db_pool": Module(
        "openclaw",
        "SQLite connection pool.",
        {
            "ConnectionPool": "upshift.sqlite:ConnectionPool",
            "PooledConnection": "upshift.sqlite:PooledConnection",
            "get_pool": "upshift.systems.openclaw:get_pool",
            "close_all_pools": "upshift.systems.openclaw:close_all_pools",
            "main": "upshift.systems.openclaw:db_pool_main",
        },
    ),
    "core.scalability_integration": Module(
        "openclaw",
        "Cache, pool and tasks behind one manager.",
        {
            "ScalabilityManager": "upshift.systems.openclaw_manager:ScalabilityManager",
            "get_manager": "upshift.systems.openclaw_manager:get_manager",
            "cached": "upshift.systems.openclaw_manager:cached",
            "with_db_pool": "upshift.systems.openclaw_manager:with_db_pool",
            "queue_task": "upshift.systems.openclaw_manager:queue_task",
            "main": "upshift.systems.openclaw_manager:main",
            "BackgroundTaskManager": "upshift.tasks:BackgroundTaskManager",
            "TaskPriority": "upshift.tasks:TaskPriority",
            "ResultCache": "upshift.cache:ResultCache",
            "get_cache": "upshift.systems.openclaw:get_cache",
            "ConnectionPool": "upshift.sqlite:ConnectionPool",
            "get_pool": "upshift.systems.openclaw:get_pool",
            "close_all_pools": "upshift.systems.openclaw:close_all_pools",
        },
    ),
    "autonomous.background_tasks": Module(
        "openclaw",
        "Durable background tasks on auto-scaling workers.",
        {
            "BackgroundTaskManager": "upshift.tasks:BackgroundTaskManager",
            "TaskPriority": "upshift.tasks:TaskPriority",
            "TaskStatus": "upshift.tasks:TaskStatus",
            "main": "upshift.systems.openclaw:background_tasks_main",
        },
    ),
    "web.dashboard": Module(
        "openclaw",
        "Dashboard over HTTP and WebSocket.",
        {
            "DashboardServer": "upshift.dashboard:DashboardServer",
            "ConnectionManager": "upshift.dashboard:ConnectionManager",
            "main": "upshift.dashboard:main",
        },
    ),
}


def systems() -> list[str]:
    """Names that :func:`upshift.compat.install` takes for a whole system, sorted."""
    return sorted({module.system for module in MODULES.values()})


def served() -> list[str]:
    """Import paths that can be installed, in table order."""
    return [path for path, module in MODULES.items() if module.names]


def resolve(requests: Iterable[str]) -> list[str]:
    """Import paths meant by module and system names, without repetition; no request at all means everything served.

    A system stands for those of its modules that are served. Raises :class:`CompatError` for a name that is unknown,
    and for a module or system of which nothing is served yet.
    """
    requests = list(requests)
    if not requests:
        return served()
    return list(dict.fromkeys(path for request in requests for path in _resolve_one(request)))


def _resolve_one(request: str) -> list[str]:
    if not isinstance(request, str):
        raise TypeError(f"names of modules or systems must be str, one argument each, not {type(request).__name__}")
    if request in MODULES:
        if not MODULES[request].names:
            raise CompatError(f"{request!r} is {_not_served(MODULES[request].system)}", name=request)
        return [request]
    if request in systems():
        found = _served_of(request)
        if not found:
            raise CompatError(f"system {request!r} is {_not_served(request)}", name=request)
        return found

    from difflib import get_close_matches

    close = get_close_matches(request, [*systems(), *MODULES], n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known systems: {', '.join(systems())}"
    raise CompatError(f"upshift knows no module or system {request!r}; {hint}", name=request)


def _served_of(system: str) -> list[str]:
    return [path for path in served() if MODULES[path].system == system]


def _not_served(system: str) -> str:
    have = ", ".join(_served_of(system)) or "nothing"
    return f"not served by this version of upshift yet (of {system} it serves: {have})"
