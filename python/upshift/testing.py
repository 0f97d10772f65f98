"""Helpers for users' own tests."""

from __future__ import annotations

from upshift import _native

__all__ = ["travel"]


def travel(seconds: float) -> None:
    """Move every clock of the engine forward by `seconds`, in this process and for good.

    What would have expired by then has expired at once; nothing sleeps. Patching `time.time` or `time.monotonic` has no
    such effect, because the engine reads the system's clocks natively.

    Raises:
        ValueError: `seconds` is negative, NaN or infinite: engine clocks never run backwards.
    """
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"seconds must be finite and 0 or more, not {seconds}")
    _native.travel(seconds)
