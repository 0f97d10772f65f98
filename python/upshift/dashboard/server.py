"""`DashboardServer`: the dashboard of one task manager, served from a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, TypeVar

import upshift._process  # noqa: F401
from upshift.dashboard.access import Access
from upshift.dashboard.hub import ConnectionManager
from upshift.dashboard.records import TaskRecords
from upshift.dashboard.sampler import HISTORY, Collector, Sampler
from upshift.tasks import BackgroundTaskManager

if TYPE_CHECKING:
    from fastapi import FastAPI

    from upshift.cache import ResultCache
    from upshift.sqlite import ConnectionPool

__all__ = ["DashboardServer", "main"]

logger = logging.getLogger("upshift.dashboard")

T = TypeVar("T")

_EXTRA = "the dashboard needs FastAPI and uvicorn: pip install 'upshift[dashboard]'"
#: Threads that read the store for requests.
_READERS = 4
#: Seconds that requests under way have to end after `stop()`, and that `stop()` itself takes at most.
_GRACE = 3
_STOP_TIMEOUT = 10.0
#: Bytes of the longest WebSocket message a client may send; the only one that means something is `ping`.
_MAX_MESSAGE = 4096


class DashboardServer:
    """Shows tasks, workers, cache and pools of this process, live, to a browser.

    Args:
        port: TCP port; 0 picks a free one, `port` then tells which.
        host: Address to listen on. Anything but a loopback address makes a token necessary.
        task_manager: Observed manager, never closed by this. None: an own one on `<workspace>/background_tasks.db` with
            its workers started.
        cache: Observed `ResultCache`.
        db_pools: name → observed `ConnectionPool`; looked up at each sample.
        workspace: Folder of the own manager's database; None: `OPENCLAW_WORKSPACE`, else the current one.
        token: Secret that every request has to carry, as `?token=`, bearer token or the cookie that the page sets.
            None: none on a loopback address, otherwise one is made up; `url` has it.

    Attributes:
        app: The FastAPI application; can be mounted into another one.
        connection_manager: The WebSocket clients.
        metrics_history: The last 100 samples, one every 2 seconds.
        last_update: When this object was made, as an epoch.
    """

    def __init__(
        self,
        port: int = 8080,
        *,
        host: str = "127.0.0.1",
        task_manager: Any = None,
        cache: ResultCache | None = None,
        db_pools: Mapping[str, ConnectionPool] | None = None,
        workspace: str | os.PathLike[str] | None = None,
        token: str | None = None,
    ) -> None:
        if isinstance(port, bool) or not isinstance(port, int):
            raise TypeError(f"port must be an int, not {type(port).__name__}")
        if not 0 <= port <= 65535:
            raise ValueError(f"port must be from 0 to 65535, not {port}")
        if token is not None and not token:
            raise ValueError("token must not be empty; None does without one on a loopback address")
        self.port = port
        self.host = host
        self.memory = None
        self.last_update = time.time()
        self.connection_manager = ConnectionManager()
        self.metrics_history: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self.metrics_task: Sampler | None = None
        self._made_at = time.monotonic()
        self._access = Access(host, token)
        self._owns_manager = task_manager is None
        self.task_manager = _own_manager(workspace) if task_manager is None else task_manager
        self._records = TaskRecords(self.task_manager)
        self._collector = Collector(self.task_manager, cache, db_pools)
        self._lock = threading.Lock()
        self._app: FastAPI | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_asked: asyncio.Event | None = None
        self._serving_in = 0
        self._is_stopped = False
        self._ended = threading.Event()
        # What `start_async()` waits for, each in its own loop.
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    @property
    def app(self) -> FastAPI:
        """The FastAPI application. Raises ImportError where the extra `upshift[dashboard]` is not installed."""
        with self._lock:
            if self._app is None:
                try:
                    from upshift.dashboard.app import create_app
                except ImportError as error:
                    raise ImportError(_EXTRA) from error
                self._app = create_app(self)
            return self._app

    @property
    def running(self) -> bool:
        """Whether it serves."""
        return self._thread is not None and not self._is_stopped

    @property
    def token(self) -> str | None:
        """What requests have to carry, given or made up; None if nothing."""
        return self._access.token

    @property
    def url(self) -> str:
        """Address of the page for a browser on this machine, with the token."""
        host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(self.host, self.host).strip("[]")
        host = f"[{host}]" if ":" in host else host
        query = ""
        if self.token is not None:
            from urllib.parse import urlencode

            query = "?" + urlencode({"token": self.token})
        return f"http://{host}:{self.port}/{query}"

    def start(self, block: bool = True) -> None:
        """Serve until `stop()` or Ctrl+C (KeyboardInterrupt reaches the caller).

        Args:
            block: False returns as soon as the server listens.

        Raises:
            OSError: The port is taken.
            ImportError: The extra `upshift[dashboard]` is not installed.
            RuntimeError: Already started, or stopped before.
        """
        self._start()
        if not block:
            return
        try:
            # With a limit, because on some systems only then Ctrl+C is noticed.
            while not self._ended.wait(1.0):
                pass
        except BaseException:
            self.stop()
            raise

    async def start_async(self) -> None:
        """The same as a coroutine; other coroutines go on meanwhile. Cancelling it stops the server."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        starting = loop.run_in_executor(None, self._start)
        try:
            await asyncio.shield(starting)
            with self._lock:
                self._waiters.append((loop, ended))
                if self._ended.is_set():
                    ended.set()
            await ended.wait()
        except asyncio.CancelledError:
            # Its thread goes on starting; what has not begun cannot be stopped.
            await asyncio.wait([starting])
            await loop.run_in_executor(None, self.stop)
            raise

    def stop(self) -> None:
        """End serving: the port is free on return, WebSockets are closed. Idempotent; may be called from any thread."""
        with self._lock:
            is_first, self._is_stopped = not self._is_stopped, True
            thread = self._thread
        if thread is threading.current_thread():
            # From a route: the event loop that has to wind down is the caller's.
            threading.Thread(target=self._finish, args=(is_first,), name="upshift-dashboard-stop").start()
        else:
            self._finish(is_first)

    def _finish(self, is_first: bool) -> None:
        if not is_first:
            self._ended.wait(_STOP_TIMEOUT)
            return
        try:
            if self._loop is not None and self._stop_asked is not None and self._serving_in == os.getpid():
                try:
                    self._loop.call_soon_threadsafe(self._stop_asked.set)
                except RuntimeError:
                    logger.debug("the dashboard's event loop had ended by itself")
                thread = self._thread
                if thread is not None:
                    thread.join(_STOP_TIMEOUT)
                if thread is not None and thread.is_alive():
                    logger.warning("the dashboard did not end within %g s", _STOP_TIMEOUT)
            if self.metrics_task is not None:
                self.metrics_task.cancel()
                self.metrics_task.join(_STOP_TIMEOUT)
            if self._readers is not None:
                # Waited for with a limit: one of them may hang in the store.
                ending = threading.Thread(target=self._readers.shutdown, name="upshift-dashboard-end", daemon=True)
                ending.start()
                ending.join(_GRACE)
            if self._owns_manager:
                self.task_manager.close()
        finally:
            with self._lock:
                self._ended.set()
                waiters, self._waiters = self._waiters, []
            for loop, ended in waiters:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(ended.set)

    def _start(self) -> None:
        app = self.app
        try:
            import uvicorn  # noqa: F401
        except ImportError as error:
            raise ImportError(_EXTRA) from error
        with self._lock:
            if self._is_stopped:
                raise RuntimeError("the dashboard has been stopped; make a new DashboardServer")
            if self._thread is not None:
                raise RuntimeError("the dashboard is already running")
            listener = _listen(self.host, self.port)
            try:
                self.port = listener.getsockname()[1]
                outcome: list[BaseException] = []
                listening = threading.Event()
                self._thread = threading.Thread(
                    target=self._serve,
                    args=(app, listener, listening, outcome),
                    name="upshift-dashboard",
                    daemon=True,
                )
                self._thread.start()
                listening.wait()
                if outcome:
                    self._thread = None
                    raise outcome[0]
            except BaseException:
                listener.close()
                raise
        self._begin_sampling()
        if self._access.is_generated:
            logger.warning("dashboard with a token of its own: %s", self.url)
        else:
            logger.info("dashboard: http://%s:%d/", self.host, self.port)

    def _serve(
        self, app: FastAPI, listener: socket.socket, listening: threading.Event, outcome: list[BaseException]
    ) -> None:
        from upshift.dashboard.serving import serve

        def begun(loop: asyncio.AbstractEventLoop, stop_asked: asyncio.Event) -> None:
            # A forked child must not wake the loop of its parent.
            self._loop, self._stop_asked, self._serving_in = loop, stop_asked, os.getpid()
            listening.set()

        try:
            asyncio.run(serve(app, listener, self.connection_manager, begun, _GRACE, _MAX_MESSAGE))
        except BaseException as error:
            if listening.is_set():
                logger.exception("the dashboard ended")
            else:
                outcome.append(error)
        finally:
            if not listening.is_set():
                listening.set()
            elif not self._is_stopped:  # it fell over
                self.stop()

    def _begin_sampling(self) -> None:
        """The history grows from the start on, whether anybody looks or not."""
        with self._lock:
            if self.metrics_task is None and not self._is_stopped:
                self.metrics_task = Sampler(self._take_sample)

    def _take_sample(self) -> None:
        sample = self._collector.collect()
        self.metrics_history.append(sample)
        self.connection_manager.publish({"type": "metrics_update", "data": sample})

    def _uptime(self) -> float:
        return time.monotonic() - self._made_at

    async def _in_thread(self, work: Callable[[], T]) -> T:
        with self._lock:
            if self._readers is None:
                self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="upshift-dashboard-reader")
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)


def main() -> None:
    """Serve the dashboard on port 8080 until Ctrl+C. Its address goes to the log `upshift.dashboard`."""
    server = DashboardServer(port=8080)
    try:
        server.start()
    except KeyboardInterrupt:
        logger.info("dashboard ended")
    finally:
        server.stop()


class _OwnTaskManager(BackgroundTaskManager):
    """Runs what is queued through it, and nothing that others left in the file."""

    def _tell_handlers(self) -> None:
        """The store takes tasks over for the types that it is told to have handlers: none."""


def _own_manager(workspace: Optional[str | os.PathLike[str]]) -> BackgroundTaskManager:
    path = None if workspace is None else Path(workspace) / "background_tasks.db"
    manager = _OwnTaskManager(path, max_workers=8, min_workers=1, enable_auto_scaling=True)
    manager.start_workers()
    return manager


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; OSError if the address is taken or none of this machine's."""
    name = host.strip("[]") or "0.0.0.0"
    family, _, _, _, address = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    is_any = family == socket.AF_INET6 and name == "::" and socket.has_dualstack_ipv6()
    listener = socket.create_server(address, family=family, dualstack_ipv6=is_any)
    listener.setblocking(False)
    return listener
