"""Dashboard over HTTP and WebSocket for the tasks, cache and pools of a process: `DashboardServer`.

Serving needs FastAPI and uvicorn (`pip install upshift[dashboard]`); importing this package does not.
"""

from __future__ import annotations

from typing import Any

__all__ = ["ConnectionManager", "DashboardServer", "main"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from upshift.dashboard.hub import ConnectionManager
    from upshift.dashboard.server import DashboardServer, main
else:
    _HOMES = {
        "ConnectionManager": "upshift.dashboard.hub",
        "DashboardServer": "upshift.dashboard.server",
        "main": "upshift.dashboard.server",
    }

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value
