"""The page: one HTML text with its style and script inside, and the policy that allows nothing else."""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path

__all__ = ["page"]

_STATIC = Path(__file__).with_name("static")


@functools.lru_cache(maxsize=1)
def page() -> tuple[str, dict[str, str]]:
    """The page and the headers to send with it."""
    html = _read("index.html")
    style = _read("dashboard.css")
    script = _read("charts.js") + _read("dashboard.js")
    html = html.replace("/* style */", style).replace("/* script */", script)
    # Only these two texts may act; nothing that gets into the page by another way can, nor reach another host.
    policy = "; ".join(
        [
            "default-src 'none'",
            f"style-src '{_digest(style)}'",
            f"script-src '{_digest(script)}'",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )
    headers = {
        "content-security-policy": policy,
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
    return html, headers


def _read(name: str) -> str:
    return (_STATIC / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
