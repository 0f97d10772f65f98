"""Run the application in child processes, each under `upshift run`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from . import mirror
from .report import Phase

APPLICATION = Path(__file__).with_name("app") / "main.py"
LAUNCHER = ("-m", "upshift.cli", "run", "--systems", "openclaw")

STOP_SECONDS = 5.0  # an interrupted application has this long to close its cache


class ApplicationError(Exception):
    """The application ended with another exit code than 0; it has said why on standard error."""


class Runner:
    """The demo over one tree, with everything it writes in the folder `work` (which must be empty)."""

    def __init__(self, path: Path, work: Path, top: int = 10, limit: int | None = None) -> None:
        self.path = path
        self.is_folder = path.is_dir()
        self.folder = path if self.is_folder else path.parent
        self.work = work
        self.top = top
        self.limit = limit
        self.tree = work / "tree"
        self.touched: str | None = None
        self.phases: list[Phase] = []
        self.summaries: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any]] = []  # to the questions that each process ended with
        self.closing = 0.0  # seconds the cold process needed to close cache and database
        self.report = ""  # of the last pass, in the application's words

    def prepare(self) -> tuple[list[str], list[dict[str, str]]]:
        """Ask the application which files it would scan, and recreate those. Returns them, and what is no such file."""
        limit = [] if self.limit is None else ["--limit", str(self.limit)]
        listing, _ = self._run("--list", *limit, str(self.path.absolute()))
        files = listing["files"]
        self.tree.mkdir()
        self.touched = mirror.build(self.folder.absolute(), files, self.tree)
        return files, listing["problems"]

    def cold_and_warm(self) -> None:
        """Two passes in one process that starts with an empty cache."""
        self.closing = self._scan("cold", "warm in memory")

    def restart(self) -> None:
        """A pass in a new process."""
        self._scan("warm after a restart")

    def touch(self) -> None:
        """A pass in a new process after one file has changed."""
        if self.touched is not None:
            mirror.touch(self.tree.joinpath(*self.touched.split("/")))
            self._scan("after touching one file")

    def agree(self) -> bool:
        """Whether all passes came to the same evidence, remembered or computed, and left the same in the database."""
        found = (self.summaries, self.answers)
        return all(each == several[0] for several in found for each in several)

    def _scan(self, *titles: str) -> float:
        target = self.tree if self.is_folder else self.tree / self.path.name
        files = ("--cache", str(self.work / "quality_cache.db"), "--evidence", str(self.work / "quality.db"))
        passes = ("--passes", str(len(titles)), "--top", str(self.top))
        outcome, self.report = self._run(*files, *passes, "--name", str(self.folder), str(target))
        for title, measured in zip(titles, outcome["passes"]):
            self.phases.append(Phase.of(title, measured))
            self.summaries.append(measured["summary"])
        self.answers.append(outcome["questions"]["answers"])
        return float(outcome["closing"])

    def _run(self, *arguments: str) -> tuple[dict[str, Any], str]:
        results = self.work / "results.json"
        command = [sys.executable, *LAUNCHER, str(APPLICATION), "--json", str(results), *arguments]
        # In its own folder, lest modules in the user's current one are taken for those of the application.
        process = subprocess.Popen(
            command, cwd=self.work, env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        try:
            output, _ = process.communicate()
        except BaseException:
            _stop(process)
            raise
        if process.returncode in (130, -signal.SIGINT):
            raise KeyboardInterrupt
        if process.returncode != 0:
            raise ApplicationError(f"the application ended with exit code {process.returncode}")
        return json.loads(results.read_text(encoding="utf-8")), output.decode("utf-8", "backslashreplace")


def _environment() -> dict[str, str]:
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:backslashreplace"}
    if "PYTHONPATH" in environment:
        folders = environment["PYTHONPATH"].split(os.pathsep)
        environment["PYTHONPATH"] = os.pathsep.join(str(Path(folder).absolute()) for folder in folders)
    return environment


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a child: Ctrl+C on a terminal has reached it too, a signal to this process alone has not."""
    try:
        process.wait(1.0)
    except subprocess.TimeoutExpired:
        if os.name == "posix":
            process.send_signal(signal.SIGINT)
        else:
            process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
