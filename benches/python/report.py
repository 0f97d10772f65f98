"""Rows, their budgets, and the Markdown that `make bench` prints."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Any

from timing import Effort, median, ratio

PEERS = ("cachebox", "moka-py", "theine", "cachetools", "diskcache")
SQLITE_PEERS = ("apsw", "DBUtils", "SQLAlchemy", "peewee", "numpy", "pandas", "polars", "pyarrow")
TASK_PEERS = ("huey",)
OURS = "upshift"


@dataclass(frozen=True)
class Budget:
    """What a row must reach: a ratio to the best peer, or a number of its own."""

    limit: float
    #: "ratio <=", "ratio >=" or "value <="
    kind: str = "ratio <="

    def __str__(self) -> str:
        sign = "≥" if self.kind.endswith(">=") else "≤"
        text = f"{self.limit:g}"
        if len(text) > len("0.123"):  # one seventh, and the like
            text = str(Fraction(self.limit).limit_denominator(20))
        return f"{sign} {text}" + (" ×" if self.kind.startswith("ratio") else "")

    def holds(self, value: float, against_best: float | None) -> bool:
        number = value if self.kind.startswith("value") else against_best
        if number is None:
            return False
        return number >= self.limit if self.kind.endswith(">=") else number <= self.limit


@dataclass
class Row:
    """One measured line of the table. All numbers are lists, one for each round."""

    path: str
    unit: str
    ours: Sequence[float]
    peers: Mapping[str, Sequence[float]] = field(default_factory=dict)
    floors: Mapping[str, Sequence[float]] = field(default_factory=dict)
    budget: Budget | None = None
    #: Figures per second: the higher the better.
    rising: bool = False

    def best(self) -> tuple[str, float] | None:
        """The peer that is hardest to beat, and our ratio to it."""
        # Nothing is a multiple of none.
        ratios = {name: ratio(self.ours, numbers) for name, numbers in self.peers.items() if all(numbers)}
        if not ratios:
            return None
        return (min if self.rising else max)(ratios.items(), key=lambda item: item[1])

    def met(self) -> bool | None:
        if self.budget is None:
            return None
        best = self.best()
        return self.budget.holds(median(self.ours), best[1] if best else None)

    def cells(self) -> list[str]:
        best = self.best()
        peer = f"{self._number(self.peers[best[0]])} ({best[0]})" if best else "–"
        floors = [f"{name} {self._number(numbers)}" for name, numbers in self.floors.items()]
        return [
            self.path,
            self._number(self.ours),
            peer,
            f"{best[1]:.2f}" if best else "–",
            str(self.budget) if self.budget else "–",
            {True: "yes", False: "**MISSED**", None: "–"}[self.met()],
            " · ".join(floors) or "–",
        ]

    def _number(self, numbers: Sequence[float]) -> str:
        number = median(numbers)
        return f"{number:.1f} {self.unit}" if number < 100 else f"{number:,.0f} {self.unit}"

    def record(self) -> dict[str, Any]:
        best = self.best()
        return {
            "path": self.path,
            "unit": self.unit,
            "ours": list(self.ours),
            "peers": {name: list(numbers) for name, numbers in self.peers.items()},
            "floors": {name: list(numbers) for name, numbers in self.floors.items()},
            "best_peer": best[0] if best else None,
            "ratio": best[1] if best else None,
            "budget": str(self.budget) if self.budget else None,
            "met": self.met(),
        }


@dataclass(frozen=True)
class Case:
    """A row that can be measured."""

    path: str
    measure: Callable[[Effort], Row | list[Row]]


def row(
    path: str,
    times: Mapping[str, Sequence[float]],
    *,
    floors: Sequence[str] = (),
    budget: Budget | None = None,
    unit: str = "ns",
    rising: bool = False,
) -> Row:
    """A row from the numbers of all contenders: ours, those named in `floors`, and the peers."""
    return Row(
        path=path,
        unit=unit,
        ours=times[OURS],
        peers={name: numbers for name, numbers in times.items() if name != OURS and name not in floors},
        floors={name: times[name] for name in floors},
        budget=budget,
        rising=rising,
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def main_table(rows: Sequence[Row]) -> str:
    header = ["path", "upshift", "best peer", "ratio", "budget", "met?", "floor, others"]
    return table(header, [row.cells() for row in rows])


def environment(libraries: Mapping[str, str]) -> dict[str, str]:
    """The machine and all versions that matter; `libraries` are the SQLite libraries in this process."""
    versions = {name: metadata.version(name) for name in ("upshift", *PEERS, *SQLITE_PEERS, *TASK_PEERS)}
    return {
        "machine": f"{_processor()}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}",
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": "; ".join(f"{users}: {library}" for users, library in libraries.items()),
        "executable": Path(sys.executable).name,
        **versions,
    }


def heading(found: Mapping[str, str]) -> str:
    versions = ", ".join(f"{name} {found[name]}" for name in ("upshift", *PEERS, *SQLITE_PEERS, *TASK_PEERS))
    return (
        f"{found['machine']} (load {found['load']}); {found['python']}; {versions}.\n"
        f"SQLite of {found['sqlite']}.\n"
        "Medians of the rounds; ratios are upshift to the best peer within a round, then the median."
    )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
