"""uvicorn, run so that it leaves signals and logging of the process alone."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from upshift.dashboard.hub import ConnectionManager

__all__ = ["serve"]

logger = logging.getLogger("upshift.dashboard")

#: Connections that may wait to be accepted.
_BACKLOG = 512
#: Seconds between two complaints of the same.
_SILENCE = 60.0


class _Config(uvicorn.Config):
    def configure_logging(self) -> None:
        """Loggers belong to the application, which may run a uvicorn of its own."""

    def load(self) -> None:
        super().load()
        protocol: Any = self.http_protocol_class

        class Unlogged(protocol):  # type: ignore[misc]
            """A page that asks every few seconds is no news."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                self.access_log = False

        self.http_protocol_class = Unlogged


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, begun: Callable[[], None]) -> None:
        super().__init__(config)
        self._begun = begun

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._begun()


class _Complaints:
    """What the event loop has to complain of. That descriptors have run out it would say hundreds of times a second."""

    def __init__(self) -> None:
        self._said_at = -_SILENCE

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        message = context["message"]
        if "_start_serving" in message:
            logger.debug("the listener was closed before it was to be tried again: %s", context.get("exception"))
        elif not message.startswith("socket.accept()"):
            loop.default_exception_handler(context)
        elif loop.time() - self._said_at >= _SILENCE:
            self._said_at = loop.time()
            logger.error("the dashboard cannot accept connections for now: %s", context.get("exception"))


async def serve(
    app: Any,
    listener: socket.socket,
    hub: ConnectionManager,
    begun: Callable[[asyncio.AbstractEventLoop, asyncio.Event], None],
    grace: int,
    max_message: int,
) -> None:
    """Serves until the event that it hands to `begun` is set; then says goodbye to the WebSockets and ends."""
    loop, stop_asked = asyncio.get_running_loop(), asyncio.Event()
    loop.set_exception_handler(_Complaints())
    config = _Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        proxy_headers=False,
        ws_max_size=max_message,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=grace,
    )
    server = _Server(config, lambda: begun(loop, stop_asked))
    serving = asyncio.ensure_future(server.serve([listener]))
    asking = asyncio.ensure_future(stop_asked.wait())
    await asyncio.wait([serving, asking], return_when=asyncio.FIRST_COMPLETED)
    asking.cancel()
    if not serving.done():
        # No new clients while the others are told.
        for accepting in server.servers:
            accepting.close()
        await hub.close()
        server.should_exit = True
    await serving
    # Who did not read to the end is cut off: a transport left over would outlive its event loop.
    for connection in list(server.server_state.connections):
        connection.transport.abort()
    await asyncio.sleep(0)
