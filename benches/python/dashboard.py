"""What WebSocket clients of the dashboard cost, and how soon an update reaches them all.

The server runs in a process of its own, `dashboard.py serve`, so that its memory is only its own. The clients live in
this one and do as little as possible: they stand for browsers on other machines, yet share the processors here.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from report import OURS, Budget, Case, Row, row
from timing import Effort

CLIENTS = 500
#: Updates that are timed; one comes every two seconds.
UPDATES = 5
#: Pages that are looked at while workers work.
PAGES = 10
_HANDSHAKE = (
    "GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dXBzaGlmdCBiZW5jaG1hcg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@dataclass
class Found:
    """What some clients saw, and what they cost."""

    #: For each update: seconds from taking the sample to its arrival at the last client, and at the middle one.
    slowest: list[float]
    median: list[float]
    #: Of the server's heap, per client.
    bytes_each: float


def clients(count: int, updates: int = UPDATES) -> Found:
    """Connects so many clients at once and looks on for some updates."""
    with _server() as (port, ask):
        return asyncio.run(_watch(port, count, updates, ask))


def share(pages: int, updates: int = UPDATES) -> float:
    """Percent of one processor that the server takes for so many pages: what the workers of its process lose.

    Tasks change all the time, so each page also asks for the list of tasks after every update.
    """
    with _server() as (port, ask):

        async def look() -> float:
            begun: list[float] = []

            async def page() -> None:
                arrivals: list[tuple[float, float]] = []
                watching = asyncio.ensure_future(_client(port, updates + 1, arrivals))
                for number in range(updates + 1):
                    while len(arrivals) <= number:
                        await asyncio.sleep(0.02)
                    if not begun:  # the first update is over
                        begun.extend([ask("processor"), time.monotonic()])
                    await _tasks(port)
                await watching

            await asyncio.gather(*(page() for _ in range(pages)))
            return 100 * (ask("processor") - begun[0]) / (time.monotonic() - begun[1])

        return asyncio.run(look())


async def _tasks(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET /api/tasks?limit=25 HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        answer = await reader.read()
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"no list of tasks: {answer[:200]!r}")
    finally:
        writer.close()


async def _watch(port: int, count: int, updates: int, ask: Any) -> Found:
    # What the first client makes the server load is no cost of a client.
    first: list[tuple[float, float]] = []
    await _client(port, 1, first)
    before = ask("memory")
    seen: list[list[tuple[float, float]]] = [[] for _ in range(count)]
    done = [asyncio.ensure_future(_client(port, updates + 1, arrivals)) for arrivals in seen]
    while any(not arrivals for arrivals in seen):
        await asyncio.sleep(0.1)
    loop = asyncio.get_running_loop()
    after = await loop.run_in_executor(None, ask, "memory")
    await asyncio.gather(*done)
    late: dict[float, list[float]] = {}
    for arrivals in seen:
        for taken, arrived in arrivals[1:]:  # while clients were still connecting it is not the steady state
            late.setdefault(taken, []).append(arrived - taken)
    complete = [sorted(times) for times in late.values() if len(times) == count]
    return Found(
        slowest=[times[-1] for times in complete],
        median=[times[count // 2] for times in complete],
        bytes_each=(after - before) / count,
    )


async def _client(port: int, updates: int, arrivals: list[tuple[float, float]]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(_HANDSHAKE.format(port=port).encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 101 "):
            raise RuntimeError(f"no WebSocket: {answer!r}")
        while len(arrivals) < updates:
            payload = await _frame(reader)
            arrived = time.time()
            arrivals.append((json.loads(payload)["data"]["timestamp_epoch"], arrived))
    finally:
        writer.close()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """The payload of the next text frame; the server's are unmasked and in one piece."""
    while True:
        kind, length = await reader.readexactly(2)
        if length == 126:
            length = int.from_bytes(await reader.readexactly(2), "big")
        elif length == 127:
            length = int.from_bytes(await reader.readexactly(8), "big")
        payload = await reader.readexactly(length)
        if kind == 0x81:
            return payload


@contextmanager
def _server() -> Any:
    command = [sys.executable, __file__, "serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        requests: IO[str] = child.stdin
        answers: IO[str] = child.stdout

        def ask(what: str) -> float:
            requests.write(what + "\n")
            requests.flush()
            return float(answers.readline())

        try:
            yield int(ask("port")), ask
        finally:
            requests.close()
            child.wait(20)


def _serve() -> None:
    from upshift import BackgroundTaskManager, DashboardServer, ResultCache

    with tempfile.TemporaryDirectory() as folder:
        manager = BackgroundTaskManager(Path(folder) / "tasks.db")
        for number in range(100):
            manager.queue_task("bench", f"Task number {number}")
        server = DashboardServer(0, task_manager=manager, cache=ResultCache())
        server.start(block=False)
        answers = {"port": lambda: server.port, "memory": _anonymous, "processor": time.process_time}
        for line in sys.stdin:
            sys.stdout.write(f"{answers[line.strip()]()}\n")
            sys.stdout.flush()
        server.stop()
        manager.close()


def _anonymous() -> int:
    """Bytes of this process that back its heap: free memory is given back first, code pages do not count."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no Anonymous: in /proc/self/smaps_rollup")


def cases() -> list[Case]:
    memory = f"dashboard, memory per WebSocket client, {CLIENTS} clients"
    latency = f"dashboard, an update until the last of {CLIENTS} clients has it"

    processor = f"dashboard, share of a processor with {PAGES} pages open"

    def run(effort: Effort) -> list[Row]:
        found = clients(CLIENTS, UPDATES if effort.rounds > 3 else 2)
        return [
            row(memory, {OURS: [found.bytes_each / 1024]}, unit="KB", budget=Budget(64, "value <=")),
            row(latency, {OURS: [late * 1000 for late in found.slowest]}, unit="ms", budget=Budget(50, "value <=")),
        ]

    def run_share(effort: Effort) -> Row:
        found = [share(PAGES, UPDATES if effort.rounds > 3 else 2) for _ in range(min(effort.rounds, 3))]
        return row(processor, {OURS: found}, unit="%", budget=Budget(2, "value <="))

    return [Case(f"{memory}; {latency}", run), Case(processor, run_share)]


if __name__ == "__main__":
    _serve()
