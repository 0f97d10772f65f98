"""Helpers for users' own tests."""

from __future__ import annotations

from datetime import timedelta

from upshift import _native

__all__ = ["travel"]


def travel(seconds: float | timedelta) -> None:
    """Move every clock of the engine forward by `seconds`, a number or a timedelta, in this process and for good.

    What would have expired by then has expired at once; nothing sleeps. Patching `time.time` or `time.monotonic` has no
    such effect, because the engine reads the system's clocks natively.

    Raises:
        ValueError: `seconds` is negative, NaN or infinite: engine clocks never run backwards.
    """
    number = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
    try:
        is_accepted = 0 <= number < float("inf")
    except TypeError:
        raise TypeError(f"seconds must be a number or a timedelta, not {type(seconds).__name__}") from None
    if not is_accepted:
        raise ValueError(f"seconds must be finite and 0 or more, not {seconds}")
    _native.travel(number)
