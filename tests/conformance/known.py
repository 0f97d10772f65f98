"""Tests of CPython's sqlite suite that `upshift.sqlite` cannot pass, each with what makes it impossible.

A key is the id of a test, with `*` as a wildcard; in front of it may stand the Python versions it is about
(`3.9-3.11 `, `3.13- `). The list only gets shorter: an entry that no failing test needs is an error, on every
interpreter it is about.
"""

from __future__ import annotations

KNOWN: dict[str, str] = {}
