"""The WebSocket clients of a dashboard: everybody gets the newest message, nobody waits for a slow one."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections import deque
from typing import Any

__all__ = ["ConnectionManager"]

logger = logging.getLogger("upshift.dashboard")

#: Seconds that `broadcast` and `close` give clients to take a message.
GRACE = 1.0
#: Answers kept for a client that asks without reading; further ones push out the oldest.
_MAX_ANSWERS = 32


class _Client:
    """A WebSocket and what it is still to be sent."""

    __slots__ = ("answers", "latest", "loop", "task", "websocket")

    def __init__(self, websocket: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.websocket = websocket
        self.loop = loop
        # Broadcast text not sent yet; a newer one replaces it.
        self.latest: str | None = None
        # Answers to this client alone, sent first.
        self.answers: deque[str] | None = None
        # Exists only while there is something to send.
        self.task: asyncio.Task[None] | None = None


class ConnectionManager:
    """Registers WebSockets and sends to all of them.

    For each client only the newest broadcast waits to be sent: one that does not read skips messages and delays nobody.
    Clients may live in different event loops; each is served in the one that called `connect`.

    Attributes:
        active_connections: The registered WebSockets.
    """

    def __init__(self) -> None:
        self.active_connections: list[Any] = []
        self._clients: dict[int, _Client] = {}
        self._lock = threading.Lock()

    async def connect(self, websocket: Any) -> None:
        """Accept a WebSocket and register it."""
        await websocket.accept()
        client = _Client(websocket, asyncio.get_running_loop())
        with self._lock:
            if id(websocket) not in self._clients:
                self.active_connections.append(websocket)
                self._clients[id(websocket)] = client

    def disconnect(self, websocket: Any) -> None:
        """Forget a WebSocket; no effect if it is not registered. It is not closed."""
        with self._lock:
            client = self._clients.pop(id(websocket), None)
            if client is None:
                return
            self.active_connections[:] = [other for other in self.active_connections if other is not websocket]
        task = client.task
        if task is not None and not task.done() and task is not _current_task():
            _call_in(client.loop, task.cancel)

    async def broadcast(self, message: Any) -> None:
        """Send a message as JSON to all clients; those that fail are dropped.

        Returns when every client has taken it, and after a second anyway: who is slower gets it, or a newer one, later.
        """
        self._send_to_all(json.dumps(message, separators=(",", ":")))
        await asyncio.sleep(0)  # other loops' clients are on their way, this one's have their tasks
        loop = asyncio.get_running_loop()
        tasks = [client.task for client in self._snapshot() if client.loop is loop and client.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=GRACE)

    def publish(self, message: Any) -> None:
        """The same from any thread, without waiting."""
        self._send_to_all(json.dumps(message, separators=(",", ":")))

    def answer(self, websocket: Any, message: Any) -> None:
        """Send a message to one client only; to be called in its event loop."""
        client = self._clients.get(id(websocket))
        if client is None:
            return
        if client.answers is None:
            client.answers = deque(maxlen=_MAX_ANSWERS)
        client.answers.append(json.dumps(message, separators=(",", ":")))
        self._wake(client)

    async def close(self, code: int = 1001) -> None:
        """Close the WebSockets of this event loop, whatever their clients do, within a second; forget all."""
        loop = asyncio.get_running_loop()
        clients = self._snapshot()
        for client in clients:
            self.disconnect(client.websocket)
        closing = [asyncio.ensure_future(client.websocket.close(code)) for client in clients if client.loop is loop]
        if not closing:
            return
        done, late = await asyncio.wait(closing, timeout=GRACE)
        for task in late:
            task.cancel()
        for task in done:
            if not task.cancelled() and task.exception() is not None:
                logger.debug("a client was gone before it could be told: %r", task.exception())

    def _snapshot(self) -> list[_Client]:
        with self._lock:
            return list(self._clients.values())

    def _send_to_all(self, text: str) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[_Client]] = {}
        for client in self._snapshot():
            by_loop.setdefault(client.loop, []).append(client)
        for loop, clients in by_loop.items():
            if loop is _running_loop():
                self._offer(clients, text)
            elif not _call_in(loop, self._offer, clients, text):
                for client in clients:
                    self.disconnect(client.websocket)

    def _offer(self, clients: list[_Client], text: str) -> None:
        for client in clients:
            client.latest = text
            self._wake(client)

    def _wake(self, client: _Client) -> None:
        if client.task is None and self._clients.get(id(client.websocket)) is client:
            client.task = client.loop.create_task(self._deliver(client))

    async def _deliver(self, client: _Client) -> None:
        try:
            while True:
                if client.answers:
                    text = client.answers.popleft()
                elif client.latest is not None:
                    text, client.latest = client.latest, None
                else:
                    break
                await _send(client.websocket, text)
        except Exception as error:  # whatever the transport raises: this client is lost, the others are not
            logger.debug("a dashboard client is dropped: %r", error)
            self.disconnect(client.websocket)
        finally:
            client.task = None


async def _send(websocket: Any, text: str) -> None:
    send_text = getattr(websocket, "send_text", None)
    if send_text is not None:
        await send_text(text)
    else:
        await websocket.send_json(json.loads(text))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _current_task() -> asyncio.Task[Any] | None:
    return None if _running_loop() is None else asyncio.current_task()


def _call_in(loop: asyncio.AbstractEventLoop, function: Any, *args: Any) -> bool:
    """Whether the loop will call it; a closed one never will."""
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        return False
    return True
