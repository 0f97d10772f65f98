"""Show how far a scan is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import shutil
import time
from types import TracebackType
from typing import TextIO

BAR_SECONDS = 0.1  # between two drawings: a warm scan ends before the first one, so drawing costs it nothing
LINE_SECONDS = 5.0


class Progress:
    """Counts up to `total`. As a context manager it leaves the line clean, also when interrupted."""

    def __init__(self, label: str, total: int, out: TextIO) -> None:
        self.label = label
        self.total = total
        self.done = 0
        self._out = out
        self._bar = out.isatty()
        self._every = BAR_SECONDS if self._bar else LINE_SECONDS
        self._drawn = 0  # width of what stands on the terminal's line
        self._next = time.monotonic() + self._every

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._replace("")

    def advance(self) -> None:
        """One more is done. Writes at most once per interval."""
        self.done += 1
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._every
            self._show()

    def _show(self) -> None:
        count = f"{self.done:,}/{self.total:,}"
        percent = f"{100 * self.done // max(self.total, 1)} %"
        if not self._bar:
            print(f"{self.label}: {count} ({percent})", file=self._out, flush=True)
            return
        # One column stays free: a full line would make some terminals scroll.
        columns = shutil.get_terminal_size().columns - 1
        room = min(columns - len(self.label) - len(count) - len(percent) - 5, 50)
        filled = room * self.done // max(self.total, 1)
        bar = f" [{'#' * filled}{'.' * (room - filled)}]" if room >= 10 else ""
        self._replace(f"{self.label}{bar} {count} {percent}"[: max(columns, 0)])

    def _replace(self, text: str) -> None:
        if self._bar and (text or self._drawn):
            self._out.write("\r" + text.ljust(self._drawn) + ("" if text else "\r"))
            self._out.flush()
            self._drawn = len(text)
