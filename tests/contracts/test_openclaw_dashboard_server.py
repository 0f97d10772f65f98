"""Contract openclaw §5.1: making, starting and stopping a `DashboardServer`."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import pytest
from harness import child_env, eventually, run
from webclient import close_code, message, request, websocket

from upshift import DashboardServer
from upshift.dashboard import server as dashboard_server

PARAMETERS = ["port", "host", "task_manager", "cache", "db_pools", "workspace", "token"]


def is_listening(port):
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


# --- constructor


def test_signature():  # openclaw §5.1
    parameters = inspect.signature(DashboardServer).parameters
    assert list(parameters) == PARAMETERS
    assert parameters["port"].default == 8080
    assert parameters["host"].default == "127.0.0.1"
    assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in PARAMETERS[1:])


def test_bad_arguments(manager):
    for port in (-1, 65536):
        with pytest.raises(ValueError, match=f"port must be from 0 to 65535, not {port}"):
            DashboardServer(port, task_manager=manager)
    for port in ("8080", 1.5, True):
        with pytest.raises(TypeError, match="port must be an int"):
            DashboardServer(port, task_manager=manager)
    with pytest.raises(ValueError, match="token must not be empty"):
        DashboardServer(0, task_manager=manager, token="")


def test_attributes(manager, make_dashboard):  # openclaw §6.1
    before = time.time()
    server = make_dashboard(start=False)
    assert server.task_manager is manager
    assert before <= server.last_update <= time.time()
    assert server.memory is None
    assert server.metrics_task is None
    assert server.metrics_history.maxlen == 100
    assert list(server.metrics_history) == []
    assert server.connection_manager.active_connections == []
    assert callable(server.app)
    assert server.app is server.app
    server.note = "extra attributes are allowed"
    assert weakref.ref(server)() is server


def test_it_can_be_subclassed(manager):  # openclaw §1
    class Named(DashboardServer):
        def __init__(self, name, **options):
            super().__init__(0, **options)
            self.name = name

    server = Named("mine", task_manager=manager)
    assert server.name == "mine"
    server.stop()


def test_construction_opens_nothing(make_dashboard):  # openclaw §1: nothing happens before it is asked for
    threads = set(threading.enumerate())
    server = make_dashboard(start=False, port=0)
    assert server.port == 0
    assert set(threading.enumerate()) == threads


# --- start


def test_start_without_blocking_returns_while_it_listens(dashboard):  # openclaw §5.1 "returns once listening"
    assert is_listening(dashboard.port)
    assert request(dashboard, "/api/health").status == 200


def test_port_0_picks_a_free_one(dashboard):  # openclaw §5.1
    assert dashboard.port > 0
    assert dashboard.url == f"http://127.0.0.1:{dashboard.port}/"


def test_start_blocks_until_stop(make_dashboard):  # openclaw §5.1, §9.5
    server = make_dashboard(start=False)
    ended = threading.Event()
    thread = threading.Thread(target=lambda: (server.start(), ended.set()))
    thread.start()
    eventually(lambda: server.port and is_listening(server.port))
    assert not ended.wait(0.3)
    server.stop()
    assert ended.wait(5)
    thread.join()


def test_other_threads_run_while_it_serves(make_dashboard):  # openclaw §5.1 "GIL released while serving"
    server = make_dashboard(start=False)
    thread = threading.Thread(target=server.start)
    thread.start()
    started = time.perf_counter()
    for _ in range(100):
        time.sleep(0.001)
    assert time.perf_counter() - started < 5
    eventually(lambda: server.port)
    server.stop()
    thread.join(10)
    assert not thread.is_alive()


def test_an_occupied_port_is_an_error_of_the_caller(make_dashboard, caplog):  # openclaw §5.1, D7
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = make_dashboard(start=False, port=other.getsockname()[1])
        with caplog.at_level("INFO", "upshift.dashboard"):
            for block in (True, False):
                with pytest.raises(OSError, match="use"):
                    server.start(block=block)
            with pytest.raises(OSError, match="use"):
                asyncio.run(server.start_async())
    assert [record.getMessage() for record in caplog.records if "http://" in record.getMessage()] == []
    server.start(block=False)  # the port has become free
    assert request(server, "/api/health").status == 200


def test_it_starts_once(dashboard):
    with pytest.raises(RuntimeError, match="already running"):
        dashboard.start()


def test_ctrl_c_reaches_the_caller(tmp_path):  # openclaw §5.1 "KeyboardInterrupt reaches the caller"
    code = """
        import sys, threading
        sys.path.insert(0, sys.argv[1])
        from dashboards import managers
        from pathlib import Path
        from upshift.dashboard import DashboardServer
        with managers(Path(sys.argv[2])) as make:
            server = DashboardServer(0, task_manager=make())
            threading.Timer(0.7, print, ["serving"], {"flush": True}).start()
            try:
                server.start()
            except KeyboardInterrupt:
                print("interrupted", flush=True)
    """
    tests = os.path.dirname(os.path.dirname(__file__))
    command = [sys.executable, "-c", textwrap.dedent(code), tests, str(tmp_path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=child_env())
    try:
        assert child.stdout.readline() == "serving\n"
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=20)
    finally:
        child.kill()
    assert (out, err, child.returncode) == ("interrupted\n", "", 0)


# --- start_async


def test_start_async_leaves_the_loop_to_others(make_dashboard):  # openclaw §5.1
    server = make_dashboard(start=False)

    async def main():
        serving = asyncio.create_task(server.start_async())
        while not server.port:
            await asyncio.sleep(0.01)
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(None, request, server, "/api/health")
        assert not serving.done()
        await loop.run_in_executor(None, server.stop)
        await asyncio.wait_for(serving, 5)
        return answer

    assert inspect.iscoroutinefunction(DashboardServer.start_async)
    assert asyncio.run(main()).status == 200
    assert not is_listening(server.port)


def test_start_async_ends_when_cancelled(make_dashboard):
    server = make_dashboard(start=False)

    async def main():
        serving = asyncio.create_task(server.start_async())
        while not server.port:
            await asyncio.sleep(0.01)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving

    asyncio.run(main())
    assert not is_listening(server.port)


# --- stop


def test_stop_frees_the_port(dashboard):  # openclaw §5.1, D6
    dashboard.stop()
    with socket.create_server(("127.0.0.1", dashboard.port)):
        pass
    dashboard.stop()  # idempotent


def test_stop_is_idempotent_from_many_threads(dashboard):  # openclaw §5.1
    threads = [threading.Thread(target=dashboard.stop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert not any(thread.is_alive() for thread in threads)
    assert not is_listening(dashboard.port)


def test_stop_closes_websockets_with_a_close_frame(dashboard):  # openclaw §5.1
    with websocket(dashboard) as one, websocket(dashboard) as other:
        message(one)
        dashboard.stop()
        for socket_ in (one, other):
            assert close_code(socket_) == 1001
    assert dashboard.connection_manager.active_connections == []


def test_stop_before_start(make_dashboard):
    server = make_dashboard(start=False)
    server.stop()
    with pytest.raises(RuntimeError, match="has been stopped"):
        server.start()


def test_a_stopped_one_stays_stopped(dashboard):  # openclaw §5.1 "may be refused with RuntimeError"
    dashboard.stop()
    with pytest.raises(RuntimeError, match="has been stopped"):
        dashboard.start(block=False)


def test_stop_from_one_of_its_own_routes(make_dashboard):  # openclaw §5.1 "any thread"
    server = make_dashboard(start=False)

    @server.app.get("/quit")
    async def leave():
        server.stop()
        return {}

    server.start(block=False)
    assert request(server, "/quit").status == 200
    eventually(lambda: not is_listening(server.port))


def test_stop_leaves_no_threads(make_dashboard):
    before = set(threading.enumerate())
    server = make_dashboard()
    request(server, "/api/system/stats")
    with websocket(server) as socket_:
        message(socket_)
    server.stop()
    eventually(lambda: set(threading.enumerate()) <= before)


def test_stop_does_not_wait_for_a_client_that_never_reads(dashboard):
    address = ("127.0.0.1", dashboard.port)
    with socket.create_connection(address) as stalled:
        stalled.sendall(
            b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n" % dashboard.port
        )
        eventually(lambda: dashboard.connection_manager.active_connections)
        started = time.perf_counter()
        dashboard.stop()
        assert time.perf_counter() - started < 6
        assert not is_listening(dashboard.port)


def test_the_given_manager_is_never_closed(manager, dashboard):  # openclaw §5.1
    dashboard.stop()
    assert manager.queue_task("still", "open") > 0


def test_a_running_one_does_not_keep_the_process():  # openclaw §1: bounded exit
    code = """
        import sys
        sys.path.insert(0, sys.argv[1])
        import tempfile
        from dashboards import managers
        from pathlib import Path
        from upshift.dashboard import DashboardServer
        from webclient import request
        with tempfile.TemporaryDirectory() as folder, managers(Path(folder)) as make:
            server = DashboardServer(0, task_manager=make())
            server.start(block=False)
            request(server, "/api/system/stats")
            print("left running")
    """
    assert run(code, os.path.dirname(os.path.dirname(__file__)), timeout=30) == "left running\n"


def test_a_dropped_one_is_collected(make_manager):  # openclaw §1: takes part in garbage collection
    import gc

    server = DashboardServer(0, task_manager=make_manager())
    _ = server.app
    server._begin_sampling()
    sampler, gone = server.metrics_task, weakref.ref(server)
    del server, _
    gc.collect()
    assert gone() is None
    eventually(sampler.done)


# --- without the extra


def test_importing_needs_no_framework():  # openclaw §1, D4
    code = """
        import sys
        for name in ("fastapi", "uvicorn", "starlette", "websockets"):
            sys.modules[name] = None
        import upshift.dashboard
        from upshift import DashboardServer
        from upshift.dashboard import ConnectionManager, main
        class Manager: conn = None
        server = DashboardServer(task_manager=Manager())
        for attempt in (lambda: server.app, lambda: server.start(), lambda: server.start(block=False)):
            try:
                attempt()
            except ImportError as error:
                print(error)
    """
    assert run(code).splitlines() == ["the dashboard needs FastAPI and uvicorn: pip install 'upshift[dashboard]'"] * 3


def test_importing_does_nothing():  # openclaw §1
    code = """
        import sys, threading
        import upshift.dashboard.server
        print(threading.active_count(), [name for name in ("fastapi", "uvicorn", "starlette") if name in sys.modules])
    """
    assert run(code) == "1 []\n"


# --- main


def test_main_serves_on_8080_until_ctrl_c(monkeypatch, manager):  # openclaw §1
    made = []

    def interrupted(self, block=True):
        made.append((self.port, block))
        raise KeyboardInterrupt

    monkeypatch.setattr(dashboard_server, "_own_manager", lambda workspace: manager)
    monkeypatch.setattr(DashboardServer, "start", interrupted)
    assert dashboard_server.main() is None
    assert made == [(8080, True)]
    assert list(inspect.signature(dashboard_server.main).parameters) == []
