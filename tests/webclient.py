"""HTTP and WebSocket clients of the dashboard's tests, as plain as possible: what is sent is what the test says.

Imported as a plain module, like `harness`.
"""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    text: str

    def json(self):
        return json.loads(self.text)


def request(server, path, method="GET", headers=(), host=None, body=None):
    """One request on a connection of its own. `headers` are pairs, sent as they are; `host` replaces the right Host."""
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=15)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        if host is not False:
            connection.putheader("Host", host or address.netloc)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        text = answer.read().decode()
        return Response(answer.status, {name.lower(): value for name, value in answer.getheaders()}, text)
    finally:
        connection.close()


def act(server, path, token=None, headers=()):
    """POST as the page does it."""
    token = request(server, "/api/session").json()["action_token"] if token is None else token
    return request(server, path, "POST", [("X-Upshift-Action", token), *headers])


def websocket(server, path="/ws", headers=(), **options):
    """To be used as a context manager; `recv` and `send` block."""
    from websockets.sync.client import connect

    address = urlsplit(server.url)
    options.setdefault("open_timeout", 15)
    return connect(f"ws://{address.netloc}{path}", additional_headers=list(headers), proxy=None, **options)


def message(socket, timeout=5.0):
    return json.loads(socket.recv(timeout=timeout))


def close_code(socket, timeout=5.0):
    """Reads until the server closes; the code of its close frame, or None if there was none."""
    from websockets.exceptions import ConnectionClosed

    try:
        while True:
            socket.recv(timeout=timeout)
    except ConnectionClosed as closed:
        return None if closed.rcvd is None else closed.rcvd.code
