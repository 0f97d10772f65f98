"""A dashboard without file descriptors: contract openclaw §8 "accept errors back off, never abort"."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
from harness import child_env, eventually
from webclient import request

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="platform: no resource limits")

SERVER = """
    import resource, sys, tempfile
    from pathlib import Path
    from upshift import BackgroundTaskManager, DashboardServer

    with tempfile.TemporaryDirectory() as folder, BackgroundTaskManager(Path(folder) / "tasks.db") as manager:
        server = DashboardServer(0, task_manager=manager)
        server.start(block=False)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        print(server.port, flush=True)
        sys.stdin.read()
        server.stop()
"""


def test_it_comes_back_when_clients_leave():
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(SERVER)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=child_env(), **pipes) as child:
        try:
            port = int(child.stdout.readline())
            site = SimpleNamespace(url=f"http://127.0.0.1:{port}/")
            assert request(site, "/api/health").status == 200
            crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
            # The last ones wait in the queue of the listener; nobody accepts them.
            crowd[-1].sendall(f"GET /api/health HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            crowd[-1].settimeout(1.5)
            with pytest.raises(socket.timeout):
                crowd[-1].recv(1)
            for one in crowd:
                one.close()
            assert eventually(lambda: answers(site))
            assert child.poll() is None
        finally:
            child.stdin.close()
            child.stdin = None
            _, complaints = child.communicate(timeout=20)
    assert complaints == ""  # quiet unless logging is configured
    assert child.returncode == 0


def answers(site):
    try:
        return request(site, "/api/health").status == 200
    except OSError:
        return False
