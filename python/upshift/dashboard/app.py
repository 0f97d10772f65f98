"""The routes, as a FastAPI application that can serve alone or be mounted into another one."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, TypeVar

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request, WebSocket
from fastapi.responses import HTMLResponse, JSONResponse, Response

from upshift.dashboard.access import ACTION_HEADER, Guard
from upshift.dashboard.page import page
from upshift.dashboard.records import ActionError

if TYPE_CHECKING:
    from upshift.dashboard.server import DashboardServer

__all__ = ["create_app"]

T = TypeVar("T")

#: Seconds after which a store that does not answer counts as failed.
_HEALTH_TIMEOUT = 5.0
_NO_STORE = {"cache-control": "no-store"}
_NOT_FOUND = {"error": "Task not found"}

# FastAPI reads the annotations of the routes when they are declared, from the globals of this module.
Status = Optional[Literal["queued", "running", "completed", "failed", "cancelled"]]
Text = Annotated[str, Query(max_length=200)]
Before = Annotated[Optional[int], Query(ge=1)]
Limit = Annotated[int, Query(ge=1, le=200)]

# Routes are functions of the module and find their server in the request: FastAPI keeps the functions it has seen, and
# with a closure it would keep the server and all that it observes.
_routes = APIRouter(redirect_slashes=False)


def create_app(server: DashboardServer) -> FastAPI:
    """The application of one server."""
    # The API is the contract's, not a showcase of it: no pages of documentation, no guessing of slashes.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False, lifespan=_lifespan)
    app.state.dashboard = server
    app.include_router(_routes)
    app.add_middleware(Guard, access=server._access)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    # For who runs the application by itself; one that is mounted is begun by its first request.
    app.state.dashboard._begin_sampling()
    yield


@_routes.get("/")
async def _index(request: Request) -> Response:
    _server(request)._begin_sampling()
    html, headers = page()
    return HTMLResponse(html, headers=headers)


@_routes.get("/api/health")
async def _health(request: Request) -> Response:
    server = _server(request)
    try:
        problems = await asyncio.wait_for(_in_thread(server, server._collector.problems), _HEALTH_TIMEOUT)
    except asyncio.TimeoutError:
        problems = [f"store: no answer within {_HEALTH_TIMEOUT:g} s"]
    except HTTPException as error:
        problems = [error.detail]
    body: dict[str, Any] = {
        "status": "degraded" if problems else "healthy",
        "timestamp": datetime.now().isoformat(),
        "uptime": server._uptime(),
    }
    if problems:
        body["problems"] = problems
    return _json(body, 503 if problems else 200)


@_routes.get("/api/system/stats")
async def _system_stats(request: Request) -> Response:
    server = _server(request)
    return _json(await _in_thread(server, server._collector.collect))


@_routes.get("/api/workers/stats")
async def _worker_stats(request: Request) -> Response:
    server = _server(request)
    return _json(await _in_thread(server, server.task_manager.get_worker_stats))


@_routes.get("/api/tasks/queued")
async def _queued_tasks(request: Request) -> Response:
    server = _server(request)
    return _json(await _in_thread(server, server.task_manager.get_queued_tasks))


@_routes.get("/api/tasks/running")
async def _running_tasks(request: Request) -> Response:
    server = _server(request)
    return _json(await _in_thread(server, server.task_manager.get_running_tasks))


@_routes.get("/api/tasks/status/{task_id}")
async def _task_status(request: Request, task_id: int) -> Response:
    server = _server(request)
    task = await _in_thread(server, lambda: server._records.status(task_id))
    return _json(_NOT_FOUND, 404) if task is None else _json(task)


@_routes.get("/api/metrics/history")
async def _history(request: Request) -> Response:
    server = _server(request)
    server._begin_sampling()
    return _json(list(server.metrics_history))


@_routes.websocket("/ws")
async def _live(websocket: WebSocket) -> None:
    server: DashboardServer = websocket.app.state.dashboard
    hub = server.connection_manager
    server._begin_sampling()
    await hub.connect(websocket)
    try:
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                break
            if message.get("text") == "ping":
                hub.answer(websocket, {"type": "pong"})
    finally:
        hub.disconnect(websocket)


# What follows is for the page.


@_routes.get("/api/session")
async def _session(request: Request) -> Response:
    """What a request that changes something has to carry as `X-Upshift-Action`; other sites cannot read it."""
    server = _server(request)
    return _json({"action_token": server._access.action_token, "started": server.last_update})


@_routes.get("/api/tasks")
async def _tasks(
    request: Request, status: Status = None, q: Text = "", before: Before = None, limit: Limit = 50
) -> Response:
    server = _server(request)
    return _json(await _in_thread(server, lambda: server._records.page(status, q, before, limit)))


@_routes.get("/api/tasks/{task_id}/detail")
async def _task_detail(request: Request, task_id: int) -> Response:
    server = _server(request)
    detail = await _in_thread(server, lambda: server._records.detail(task_id))
    return _json(_NOT_FOUND, 404) if detail is None else _json(detail)


@_routes.post("/api/tasks/{task_id}/cancel")
async def _cancel(request: Request, task_id: int) -> Response:
    def action(server: DashboardServer, _task: dict[str, Any]) -> dict[str, Any]:
        server._records.cancel(task_id)
        return {"task_id": task_id, "status": "cancelled"}

    return await _act(request, task_id, action)


@_routes.post("/api/tasks/{task_id}/retry")
async def _retry(request: Request, task_id: int) -> Response:
    def action(server: DashboardServer, task: dict[str, Any]) -> dict[str, Any]:
        return {"task_id": server._records.retry(task), "status": "queued"}

    return await _act(request, task_id, action)


async def _act(
    request: Request, task_id: int, action: Callable[[DashboardServer, dict[str, Any]], dict[str, Any]]
) -> Response:
    server = _server(request)
    if not server._access.may_act(request.headers.get(ACTION_HEADER)):
        raise HTTPException(403, f"header {ACTION_HEADER} must be what api/session says")

    def work() -> tuple[dict[str, Any], int]:
        task = server._records.status(task_id)
        if task is None:
            return _NOT_FOUND, 404
        try:
            return action(server, task), 200
        except ActionError as error:
            return {"error": str(error)}, 409

    body, status = await _in_thread(server, work)
    return _json(body, status)


def _server(request: Request) -> DashboardServer:
    server: DashboardServer = request.app.state.dashboard
    return server


async def _in_thread(server: DashboardServer, work: Callable[[], T]) -> T:
    """What reads the store is done in a thread: the event loop has WebSockets to serve."""
    if server._is_stopped:
        raise HTTPException(503, "the dashboard has been stopped")
    server._begin_sampling()
    try:
        return await server._in_thread(work)
    except sqlite3.Error as error:
        raise HTTPException(503, f"the task store does not answer: {error}") from error


def _json(content: Any, status: int = 200) -> Response:
    return JSONResponse(content, status, headers=_NO_STORE)
