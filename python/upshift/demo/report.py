"""The table of phases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple


class Phase(NamedTuple):
    """One pass of the application over all files, in its own measurements and those of its cache."""

    title: str
    seconds: float
    computed: int
    hits: int
    requests: int
    rows: int  # of evidence, written to the database

    @classmethod
    def of(cls, title: str, measured: dict[str, Any]) -> Phase:
        """From what the application wrote: `get_stats()` before and after the pass, and its stopwatch."""
        before, after = measured["before"], measured["after"]
        computed, hits, requests = (after[name] - before[name] for name in ("sets", "hits", "total_requests"))
        return cls(title, measured["seconds"], computed, hits, requests, measured["rows"])


HEADINGS = ("phase", "wall time", "computed", "hits", "hit rate", "rows written", "speed-up")


def table(phases: list[Phase]) -> Iterator[str]:
    """Aligned lines; speed-up is against the first phase."""
    rows = [HEADINGS]
    for phase in phases:
        rate = f"{100 * phase.hits / phase.requests:.1f} %" if phase.requests else "-"
        faster = f"{phases[0].seconds / phase.seconds:,.1f} x"
        seconds = f"{phase.seconds:,.3f} s"
        counts = (f"{phase.computed:,}", f"{phase.hits:,}", rate, f"{phase.rows:,}")
        rows.append((phase.title, seconds, *counts, faster))
    widths = [max(map(len, column)) for column in zip(*rows)]
    for title, *numbers in rows:
        yield "  ".join([title.ljust(widths[0]), *(text.rjust(width) for text, width in zip(numbers, widths[1:]))])
