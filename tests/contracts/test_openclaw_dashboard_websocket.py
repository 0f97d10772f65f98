"""Contract openclaw §5.4 and `ConnectionManager` of §5.1: what goes over the WebSocket, and who may open one."""

from __future__ import annotations

import asyncio
import json
import socket
import time

import pytest
from harness import eventually, stays
from webclient import close_code, message, request, websocket

from upshift.dashboard import ConnectionManager


def refused(server, **options):
    """Status of the answer to a handshake."""
    from websockets.exceptions import InvalidStatus

    with pytest.raises(InvalidStatus) as refusal, websocket(server, **options):
        pass
    return refusal.value.response.status_code


# --- messages


def test_updates_every_two_seconds(dashboard):  # openclaw §5.4, §8 "Dashboard every 2 s"
    with websocket(dashboard) as line:
        connected = time.monotonic()
        first = message(line)
        assert time.monotonic() - connected < 2.2
        assert first["type"] == "metrics_update"
        arrived = time.monotonic()
        second = message(line)
        assert time.monotonic() - arrived == pytest.approx(2, abs=0.4)
    assert set(first) == {"type", "data"}
    assert second["data"]["timestamp_epoch"] > first["data"]["timestamp_epoch"]


def test_update_is_the_sample_of_the_history(dashboard):  # openclaw §5.4 "same sample as in the history"
    with websocket(dashboard) as one, websocket(dashboard) as other:
        sample = message(one)["data"]
        assert sample == message(other)["data"]
    assert sample in request(dashboard, "/api/metrics/history").json()


def test_no_snapshot_ahead_of_the_first_update(dashboard):  # openclaw §5.4
    eventually(lambda: dashboard.metrics_history)
    count = len(dashboard.metrics_history)
    with websocket(dashboard) as line:
        sample = message(line)["data"]
    assert sample == list(dashboard.metrics_history)[count]


def test_update_arrives_soon_after_it_was_taken(dashboard):  # openclaw §8 "WebSocket latency < 50 ms"
    with websocket(dashboard) as line:
        latencies = []
        for _ in range(3):
            sample = message(line)["data"]
            latencies.append(time.time() - sample["timestamp_epoch"])
    assert min(latencies) < 0.05


def test_ping(dashboard):  # openclaw §5.4
    with websocket(dashboard) as line, websocket(dashboard) as other:
        line.send("ping")
        assert message(line) == {"type": "pong"}
        assert message(other)["type"] == "metrics_update"


def test_other_text_is_ignored(dashboard):  # openclaw §5.4
    with websocket(dashboard) as line:
        for text in ("", "PING", "ping ", '{"type": "ping"}', "\x00", "é" * 500):
            line.send(text)
        line.send("ping")
        assert message(line) == {"type": "pong"}


def test_binary_is_no_server_error(dashboard, caplog):  # openclaw §5.4, D9
    with caplog.at_level("ERROR"), websocket(dashboard) as line:
        line.send(b"ping")
        line.send(b"\xff\x00")
        line.send("ping")
        assert message(line) == {"type": "pong"}
    assert caplog.records == []
    eventually(lambda: not dashboard.connection_manager.active_connections)


def test_a_client_that_vanishes_is_forgotten(dashboard):  # openclaw D9 "leaks the client"
    for leave in ("close", "cut"):
        with websocket(dashboard) as line:
            eventually(lambda: len(dashboard.connection_manager.active_connections) == 1)
            if leave == "cut":
                line.socket.shutdown(socket.SHUT_RDWR)
        eventually(lambda: not dashboard.connection_manager.active_connections)


def test_a_long_message_is_refused(dashboard):
    with websocket(dashboard) as line:
        line.send("x" * 100_000)
        assert close_code(line) == 1009


def test_a_stalled_client_delays_nobody(dashboard):  # openclaw D9
    hub = dashboard.connection_manager
    with socket.socket() as stalled, websocket(dashboard) as line:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(("127.0.0.1", dashboard.port))
        stalled.sendall(
            b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n" % dashboard.port
        )
        eventually(lambda: len(hub.active_connections) == 2)
        # More than any buffer between the two takes.
        received = 0
        for number in range(40):
            hub.publish({"type": "filling", "number": number, "text": "x" * 500_000})
            deadline = time.monotonic() + 2
            while True:
                found = message(line, timeout=max(deadline - time.monotonic(), 0.01))
                if found.get("number") == number:
                    received += 1
                    break
        assert received == 40
        waiting = [client for client in hub._clients.values() if client.latest is not None]
        # The stalled one has one message waiting, the newest, not all that it missed.
        assert [json.loads(client.latest).get("number") for client in waiting] in ([39], [None])
        assert len(waiting) == 1


# --- who may connect


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1.evil.example", "null", "file://", "x"])
def test_origin_of_another_site(dashboard, origin):  # openclaw §5.4
    assert refused(dashboard, origin=origin) == 403
    assert request(dashboard, "/api/system/stats", headers=[("Origin", origin)]).status == 403


def test_origin_on_another_port_is_another_site(dashboard):
    assert refused(dashboard, origin=f"http://127.0.0.1:{dashboard.port + 1}") == 403
    assert refused(dashboard, origin=f"http://localhost:{dashboard.port}") == 403


def test_own_origin(dashboard):  # openclaw §5.4 "its host must match Host"
    for origin in (f"http://127.0.0.1:{dashboard.port}", f"HTTP://127.0.0.1:{dashboard.port}"):
        with websocket(dashboard, origin=origin) as line:
            line.send("ping")
            assert message(line) == {"type": "pong"}


HOSTS = ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "evil@127.0.0.1", "localhost/x", "0"]


@pytest.mark.parametrize("host", HOSTS)
def test_host_of_another_name(dashboard, host):  # openclaw §5.4 "DNS rebinding"
    for path in ("/", "/api/health", "/api/tasks/queued", "/nothing"):
        assert request(dashboard, path, host=host).status == 403


def test_host_that_is_missing_or_doubled(dashboard):
    assert request(dashboard, "/api/health", host=False).status in (400, 403)
    twice = request(dashboard, "/api/health", headers=[("Host", "evil.example")])
    assert twice.status in (400, 403)


LOCAL = ["localhost", "LOCALHOST", "127.0.0.1", "[::1]", "localhost:1", "127.0.0.1:65535", "[::1]:9"]


@pytest.mark.parametrize("host", LOCAL)
def test_host_of_this_machine(dashboard, host):  # openclaw §5.4 "localhost, 127.0.0.1 or [::1]"
    assert request(dashboard, "/api/health", host=host).status == 200


def test_websocket_with_another_host(dashboard):  # openclaw §5.4 "every request (HTTP too)"
    with socket.create_connection(("127.0.0.1", dashboard.port)) as raw:
        raw.sendall(
            b"GET /ws HTTP/1.1\r\nHost: evil.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        assert raw.recv(100).startswith(b"HTTP/1.1 403 ")


def test_host_is_honoured(make_dashboard):  # openclaw §9.6, D5
    server = make_dashboard(host="127.0.0.2")
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
    assert request(server, "/api/health").status == 200


# --- the token


@pytest.fixture
def public(make_dashboard):
    return make_dashboard(host="0.0.0.0")


def test_no_token_on_loopback(dashboard):
    assert dashboard.token is None
    for host in ("localhost", "127.0.0.1", "::1", "127.8.8.8"):
        assert type(dashboard)(0, host=host, task_manager=dashboard.task_manager).token is None


def test_a_token_is_made_up_for_other_hosts(make_dashboard, caplog):  # DESIGN §3, D5 "without authentication"
    server = make_dashboard(start=False, host="0.0.0.0")
    other = make_dashboard(start=False, host="0.0.0.0")
    assert len(server.token) >= 32
    assert server.token != other.token
    with caplog.at_level("INFO", "upshift.dashboard"):
        server.start(block=False)
    said = [record.getMessage() for record in caplog.records if server.token in record.getMessage()]
    assert said == [f"dashboard with a token of its own: http://127.0.0.1:{server.port}/?token={server.token}"]


def test_a_given_token_is_not_logged(make_dashboard, caplog):
    with caplog.at_level("DEBUG", "upshift.dashboard"):
        make_dashboard(host="0.0.0.0", token="given-by-the-user")
    assert "given-by-the-user" not in caplog.text


def test_nothing_without_the_token(public):
    for path in ("/", "/api/health", "/api/system/stats", "/api/tasks/queued", "/api/session", "/nothing"):
        assert request(public, path).status == 401
        assert request(public, path, headers=[("Authorization", "Bearer wrong")]).status == 401
        assert request(public, f"{path}?token=wrong").status == 401
    assert request(public, "/api/tasks/1/cancel", "POST").status == 401
    assert refused(public) == 403
    assert refused(public, path="/ws?token=wrong") == 403


def test_ways_to_give_the_token(public):
    token = public.token
    assert request(public, f"/api/health?token={token}").status == 200
    assert request(public, "/api/health", headers=[("Authorization", f"Bearer {token}")]).status == 200
    with websocket(public, f"/ws?token={token}") as line:
        line.send("ping")
        assert message(line) == {"type": "pong"}


def test_the_page_moves_the_token_into_a_cookie(public):
    answer = request(public, f"/?token={public.token}&x=1")
    assert (answer.status, answer.headers["location"]) == (303, "./?x=1")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    pair = cookie.split(";")[0]
    crowd = [("Cookie", f"other=1; b@d[name=2; {pair}; ;=")]
    assert request(public, "/", headers=[("Cookie", pair)]).status == 200
    assert request(public, "/api/health", headers=crowd).status == 200
    with websocket(public, headers=[("Cookie", pair)]) as line:
        line.send("ping")
        assert message(line) == {"type": "pong"}
    assert request(public, "/", headers=[("Cookie", pair + "x")]).status == 401


def test_a_token_with_any_characters(make_dashboard):
    server = make_dashboard(token="a b;ü/?&=\"'")
    cookie = request(server, server.url.partition(str(server.port))[2]).headers["set-cookie"]
    assert request(server, "/", headers=[("Cookie", cookie.split(";")[0])]).status == 200


def test_other_names_are_fine_where_others_may_connect(public):
    asked = [("Authorization", f"Bearer {public.token}")]
    assert request(public, "/api/health", host="monitor.example", headers=asked).status == 200
    own, other = ("Origin", "https://monitor.example"), ("Origin", "https://evil.example")
    assert request(public, "/api/health", host="monitor.example", headers=[*asked, own]).status == 200
    assert request(public, "/api/health", host="monitor.example", headers=[*asked, other]).status == 403


# --- ConnectionManager


class Socket:
    """What a framework hands to `connect`."""

    def __init__(self, fails=False, stalls=False):
        self.sent, self.fails, self.stalls, self.accepted, self.closed = [], fails, stalls, False, None

    async def accept(self):
        self.accepted = True

    async def send_text(self, text):
        if self.fails:
            raise RuntimeError("gone")
        if self.stalls:
            await asyncio.Event().wait()
        self.sent.append(json.loads(text))

    async def close(self, code=1000):
        self.closed = code


class OldSocket(Socket):
    send_text = None

    async def send_json(self, data):
        self.sent.append(data)


def test_connect_accepts_and_registers():  # openclaw §5.1
    async def main():
        hub, one = ConnectionManager(), Socket()
        assert hub.active_connections == []
        assert isinstance(hub.active_connections, list)
        await hub.connect(one)
        assert one.accepted
        assert hub.active_connections == [one]
        hub.disconnect(one)
        assert hub.active_connections == []

    asyncio.run(main())


def test_disconnect_of_an_absent_client():  # openclaw §5.1, D9
    hub = ConnectionManager()
    assert hub.disconnect(Socket()) is None
    hub.disconnect(None)


def test_broadcast():  # openclaw §5.1 "JSON to all; failing clients dropped"
    async def main():
        hub, sockets = ConnectionManager(), [Socket(), Socket(fails=True), OldSocket(), Socket()]
        for one in sockets:
            await hub.connect(one)
        await hub.broadcast({"type": "x", "number": 1})
        assert [one.sent for one in sockets] == [[{"type": "x", "number": 1}], [], *[[{"type": "x", "number": 1}]] * 2]
        assert hub.active_connections == [sockets[0], sockets[2], sockets[3]]
        await hub.broadcast([1, "two", None])
        assert sockets[0].sent[1:] == [[1, "two", None]]
        with pytest.raises(TypeError):
            await hub.broadcast(object())

    asyncio.run(main())


def test_broadcast_without_clients():
    asyncio.run(ConnectionManager().broadcast({}))


def test_broadcast_does_not_wait_for_a_stalled_client():  # openclaw D9 "sequential broadcast"
    async def main():
        hub, stalled, others = ConnectionManager(), Socket(stalls=True), [Socket() for _ in range(3)]
        for one in (others[0], stalled, *others[1:]):
            await hub.connect(one)
        started = time.monotonic()
        for number in range(3):
            hub.publish(number)
            await asyncio.sleep(0.02)
        assert [one.sent for one in others] == [[0, 1, 2]] * 3
        await hub.broadcast(3)
        assert time.monotonic() - started < 2
        assert stalled in hub.active_connections
        hub.disconnect(stalled)
        await hub.broadcast(4)
        assert others[0].sent == [0, 1, 2, 3, 4]

    asyncio.run(main())


def test_clients_of_several_event_loops():
    import threading

    hub, sockets, ready, end = ConnectionManager(), [Socket(), Socket()], threading.Barrier(3), threading.Event()

    def serve(one):
        async def main():
            await hub.connect(one)
            ready.wait(5)
            while not end.is_set():
                await asyncio.sleep(0.01)

        asyncio.run(main())

    threads = [threading.Thread(target=serve, args=(one,)) for one in sockets]
    for thread in threads:
        thread.start()
    ready.wait(5)
    hub.publish("hello")
    eventually(lambda: all(one.sent == ["hello"] for one in sockets))
    end.set()
    for thread in threads:
        thread.join()
    # Their loops are closed by now.
    hub.publish("anybody?")
    assert hub.active_connections == []


def test_close_says_goodbye():
    async def main():
        hub, sockets = ConnectionManager(), [Socket(), Socket(fails=True), Socket()]
        for one in sockets:
            await hub.connect(one)
        await hub.close()
        assert [one.closed for one in sockets] == [1001] * 3
        assert hub.active_connections == []

    asyncio.run(main())


def test_answers_of_a_client_that_does_not_read_are_bounded():
    async def main():
        hub, stalled = ConnectionManager(), Socket(stalls=True)
        await hub.connect(stalled)
        for _ in range(1000):
            hub.answer(stalled, {"type": "pong"})
        (client,) = hub._clients.values()
        assert len(client.answers) <= 32
        hub.disconnect(stalled)
        hub.answer(stalled, {"type": "pong"})

    asyncio.run(main())


def test_two_dashboards_do_not_mix(make_dashboard, make_manager, tmp_path):
    one = make_dashboard()
    other = make_dashboard(make_manager(tmp_path / "other.db"))
    with websocket(one) as line:
        eventually(lambda: one.connection_manager.active_connections)
        stays(lambda: other.connection_manager.active_connections == [])
        message(line)
