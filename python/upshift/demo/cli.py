"""The command `upshift demo`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any, TextIO

from .report import table
from .runner import ApplicationError, Runner

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
PROBLEMS_SHOWN = 10


def main(argv: list[str] | None = None) -> int:
    """Run the demo and return its exit code: 0 done, 1 failed or nothing to scan, 2 bad usage, 130 interrupted."""
    options = _parser().parse_args(argv)
    try:
        return _demo(options, sys.stdout)
    except KeyboardInterrupt:
        return _complain("stopped", EXIT_INTERRUPTED)
    except ApplicationError as error:
        return _complain(str(error), EXIT_FAILED)
    except BrokenPipeError:
        # The reader of a pipe has seen enough; what Python still holds for it goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="upshift demo",
        description="Run a small application that imports core.result_cache and core.db_pool, unchanged, on the native "
        "cache and pool: it scans Python sources for quality evidence; cold, warm, after a restart, and after touching "
        "one file of a copy. The evidence is left in a database, which answers three questions at the end.",
    )
    parser.add_argument("path", nargs="?", help="folder or file to scan (default: the standard library)")
    parser.add_argument("--limit", type=_positive, metavar="N", help="scan only the first N files")
    parser.add_argument("--top", type=_positive, default=10, metavar="N", help="name N functions (default: 10)")
    parser.add_argument(
        "--workdir", metavar="DIR", help="keep cache, database and scratch tree in a new folder below DIR"
    )
    return parser


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, not {text!r}")
    return number


def _demo(options: argparse.Namespace, out: TextIO) -> int:
    text = sysconfig.get_paths()["stdlib"] if options.path is None else options.path
    if not text:  # which Path would take for the current folder
        return _complain("the path is empty", EXIT_USAGE)
    path = Path(text)
    try:
        path.stat()
    except (OSError, ValueError) as error:
        return _complain(f"{text!a}: {getattr(error, 'strerror', None) or error}", EXIT_USAGE)
    try:
        if options.workdir is not None:
            Path(options.workdir).mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix="upshift-demo-", dir=options.workdir)).absolute()
    except (OSError, ValueError) as error:
        return _complain(f"no working folder: {error}", EXIT_USAGE)
    try:
        return _phases(Runner(path, work, options.top, options.limit), out)
    finally:
        if options.workdir is None:
            shutil.rmtree(work, ignore_errors=True)
        else:
            _say(out, f"kept: {_plain(str(work))}")


def _phases(runner: Runner, out: TextIO) -> int:
    files, problems = runner.prepare()
    _say(out, f"{len(files):,} Python files in {_plain(str(runner.path))}")
    for problem in problems[:PROBLEMS_SHOWN]:
        _say(out, f"  not scanned: {_plain(problem['name'])}: {problem['detail']}")
    if len(problems) > PROBLEMS_SHOWN:
        _say(out, f"  not scanned: {len(problems) - PROBLEMS_SHOWN:,} more")
    if not files:
        return _complain("nothing to scan", EXIT_FAILED)
    _say(out, "cold, and again in the same process ...")
    runner.cold_and_warm()
    _say(out, "again in a new process ...")
    runner.restart()
    if runner.touched is None:
        _say(out, "no file can be read, so none is touched")
    else:
        _say(out, f"again after touching {_plain(runner.touched)} (a copy of it) ...")
        runner.touch()
    _say(out, "", *table(runner.phases), "")
    _say(
        out,
        "A wall time is that of one pass: find the files, look up or compute their evidence, add it up, write to the",
        "database what is new. Not in it: starting Python, the questions, and the "
        f"{runner.closing:.3f} s in which the first process",
        "closed its cache and the database.",
        "",
        *runner.report.splitlines(),
    )
    if not runner.agree():
        return _complain("the passes came to different evidence; did files change meanwhile?", EXIT_FAILED)
    return 0


def _plain(text: str) -> str:
    return text if text.isprintable() else ascii(text)[1:-1]


def _say(out: TextIO, *lines: Any) -> None:
    # Whatever a file is called, the terminal's encoding must not end the demo. Flushed as children write there too.
    encoding = out.encoding or "utf-8"
    for line in lines:
        print(str(line).encode(encoding, "backslashreplace").decode(encoding), file=out)
    out.flush()


def _complain(message: str, code: int) -> int:
    print(f"upshift demo: {message}", file=sys.stderr)
    return code
