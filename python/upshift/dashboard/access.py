"""Who may talk to the dashboard: a check in front of every request, as plain ASGI.

Two kinds of visitors are kept out. Other web sites open in the user's browser: by `Origin`, and, while only this
machine can connect, by `Host`, which also stops names that were made to point here (DNS rebinding). And, when the
dashboard listens to other machines, everybody without its token.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Optional
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

__all__ = ["ACTION_HEADER", "Access", "Guard", "is_loopback"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Requests that change something carry it. No other site can: it is not one of the headers that need no permission.
ACTION_HEADER = "x-upshift-action"
#: What a browser on this machine may call the dashboard.
_LOCAL_NAMES = frozenset(["localhost", "127.0.0.1", "::1"])
_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


def is_loopback(host: str) -> bool:
    """Whether a listener on `host` can be reached from this machine only. Names other than localhost: no."""
    if host.lower() == "localhost":
        return True
    address = _address(host)
    return address is not None and address.is_loopback


class Access:
    """What one dashboard demands of a request.

    Args:
        host: Where it listens. On a loopback address, requests have to name this machine as their `Host`.
        token: Secret that every request has to carry; None makes one up unless `host` is a loopback address.
    """

    def __init__(self, host: str, token: str | None) -> None:
        self.is_local = is_loopback(host)
        #: Whether the token was made up here, so that somebody has to be told.
        self.is_generated = token is None and not self.is_local
        self.token = secrets.token_urlsafe(24) if self.is_generated else token
        #: What requests that change something have to carry; the page asks for it.
        self.action_token = secrets.token_urlsafe(24)
        # The token's hash keeps two dashboards apart: cookies do not tell ports from each other.
        self.cookie = "upshift-" + hashlib.sha256((self.token or "").encode()).hexdigest()[:12]
        self._names = _LOCAL_NAMES | {host.strip("[]").lower()} if _address(host) else _LOCAL_NAMES

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason if the request must not be answered."""
        headers = _headers(scope)
        hosts = headers.get("host", [])
        host = _split_host(hosts[0]) if len(hosts) == 1 else None
        if self.is_local and (host is None or host[0] not in self._names | _transport_name(scope)):
            return 403, "the dashboard answers to localhost, 127.0.0.1 and [::1] only"
        if any(not _is_same(origin, host) for origin in headers.get("origin", [])):
            return 403, "the request comes from another site"
        if self.token is not None and not any(self._is_token(given) for given in self._tokens(scope, headers)):
            return 401, "open the dashboard with its token: the address ends in ?token=…"
        return None

    def may_act(self, given: str | None) -> bool:
        """Whether a request that changes something comes from the page, by what it has as `ACTION_HEADER`."""
        return given is not None and _equal(given, self.action_token)

    def _is_token(self, given: str) -> bool:
        return self.token is not None and _equal(given, self.token)

    def is_page_with_token(self, scope: Scope) -> bool:
        """Whether a browser opens the page with the token in its address. Programs may send it so every time."""
        is_page = scope["type"] == "http" and scope["method"] == "GET" and scope["path"].endswith("/")
        return is_page and any(name == "token" and self._is_token(value) for name, value in _query(scope))

    def _tokens(self, scope: Scope, headers: dict[str, list[str]]) -> list[str]:
        found = [value for name, value in _query(scope) if name == "token"]
        for header in headers.get("authorization", []):
            scheme, _, value = header.partition(" ")
            if scheme.lower() == "bearer":
                found.append(value.strip())
        for header in headers.get("cookie", []):
            # Not http.cookies: it gives up at somebody else's odd cookie on this host.
            pairs = (part.strip().partition("=") for part in header.split(";"))
            found += [unquote(value) for name, _, value in pairs if name == self.cookie]
        return found


class Guard:
    """ASGI application that lets through to `app` what `access` allows."""

    def __init__(self, app: App, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._access.refusal(scope)
        if refusal is None:
            if self._access.is_page_with_token(scope):
                await self._remember_token(scope, send)
            else:
                await self._app(scope, receive, send)
        elif scope["type"] == "http":
            status, reason = refusal
            await _respond(send, status, {"detail": reason})
        else:
            await receive()  # the handshake
            # Closing before accepting is answered with 403.
            await send({"type": "websocket.close", "code": 1008})

    async def _remember_token(self, scope: Scope, send: Send) -> None:
        """Moves the token from the address, which people copy and browsers remember, into a cookie."""
        token = quote(self._access.token or "", safe="")
        path = scope.get("root_path") or "/"
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        # Lax: a link to the dashboard, say from a chat, works. What changes something needs the action header.
        cookie = f"{self._access.cookie}={token}; Path={path}; HttpOnly; SameSite=Lax{secure}"
        rest = urlencode([(name, value) for name, value in _query(scope) if name != "token"])
        # Relative to where the request went, so that no proxy or prefix has to be known.
        location = f"./?{rest}" if rest else "./"
        await _respond(send, 303, {}, [(b"location", location.encode()), (b"set-cookie", cookie.encode())])


async def _respond(send: Send, status: int, body: Any, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    content = json.dumps(body).encode()
    fixed = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": fixed + (headers or [])})
    await send({"type": "http.response.body", "body": content})


def _headers(scope: Scope) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _query(scope: Scope) -> list[tuple[str, str]]:
    return parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)


def _transport_name(scope: Scope) -> set[str]:
    """The name a test client talks to inside the process; a real connection has an address instead."""
    server = scope.get("server")
    name = str(server[0]).lower() if server else ""
    return set() if not name or name.startswith("/") or _address(name) is not None else {name}


def _split_host(netloc: str, default: int | None = None) -> tuple[str, int | None] | None:
    """`Name:80` → (`name`, 80); None for what is no host."""
    try:
        parts = urlsplit(f"//{netloc}")
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname or parts.username is not None or parts.path or parts.query or parts.fragment:
        return None
    return parts.hostname, default if port is None else port


def _is_same(origin: str, host: tuple[str, Optional[int]] | None) -> bool:
    """Whether a page of `origin` was served by `host` (the request's `Host` header)."""
    scheme, separator, netloc = origin.partition("://")
    default = _DEFAULT_PORTS.get(scheme.lower())
    if host is None or not separator or default is None:
        return False
    name, port = host
    return _split_host(netloc, default) == (name, default if port is None else port)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode("utf-8", "replace"))
