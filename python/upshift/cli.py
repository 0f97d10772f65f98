"""The ``upshift`` command: ``run``, ``doctor``, ``demo``, ``worker``, ``prove``. Each imports only what it needs."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence

__all__ = ["main"]

_RUN_USAGE = """\
usage: upshift run [--systems A,B] [python options] script.py|-m module|-c code|- [args ...]

Run a Python program with upshift behind the import paths it already uses.
Everything after --systems is handed to the interpreter as it is; child
processes of the program are served too.

options:
  --systems A,B   systems or single modules, e.g. openclaw or core.result_cache
                  (default: everything this version serves)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status: 2 for a usage error, the rest is the subcommand's."""
    args = list(sys.argv[1:] if argv is None else argv)
    # These two hand their arguments on untouched, options included, which argparse cannot.
    if args[:1] == ["run"]:
        return _run(args[1:])
    if args[:1] == ["demo"]:
        from upshift.demo.cli import main as demo

        return demo(args[1:]) or 0

    if args[:1] == ["worker"]:
        from upshift._tasks_cli import main as worker

        return worker(args[1:])
    if args[:1] == ["prove"]:
        from upshift._tasks_prove import main as prove

        return prove(args[1:])

    options = _parser().parse_args(args)
    if options.version:
        from importlib.metadata import version

        print(f"upshift {version('upshift')}")
        return 0
    if options.command == "doctor":
        return _doctor(options.path, options.json)
    _parser().print_help()
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="upshift", description="Native parts under the names your program imports.")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="run | doctor | demo | worker | prove")
    commands.add_parser("run", add_help=False, help="run a Python program on upshift, unchanged")
    doctor = commands.add_parser(
        "doctor",
        help="list the imports of a code base that upshift can serve",
        description="List the imports of a code base that upshift can serve, and names used from them that it cannot.",
        epilog="exit status: 0 every name used is served, 1 at least one is not, 2 path is empty or does not exist. "
        "Files that cannot be read or parsed are listed and do not change it.",
    )
    doctor.add_argument("path", help="a file, or a folder that is scanned for *.py")
    doctor.add_argument("--json", action="store_true", help="print the whole report as one JSON object")
    commands.add_parser("demo", add_help=False, help="scan real sources with a cached application, cold and warm")
    commands.add_parser("prove", add_help=False, help="show by experiment that no task is lost")
    commands.add_parser("worker", add_help=False, help="run the tasks of a task manager's file")
    return parser


def _doctor(path: str, as_json: bool) -> int:
    from upshift.compat import doctor

    if not path:  # which Path would take for the current folder
        print("upshift doctor: the path is empty", file=sys.stderr)
        return 2
    try:
        report = doctor.scan(path)
    except FileNotFoundError:
        print(f"upshift doctor: {path}: no such file or folder", file=sys.stderr)
        return 2
    # Whatever a file is called, the terminal's encoding must not end the report.
    encoding = sys.stdout.encoding or "utf-8"
    text = report.to_json() if as_json else report.to_text()
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:  # `upshift doctor . | head`; keeps the interpreter from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0 if report.is_served else 1


def _run(args: list[str]) -> int:
    from upshift.compat import environment, tables
    from upshift.exceptions import CompatError

    names: list[str] = []
    while args and args[0].startswith("--systems"):
        option, equals, value = args.pop(0).partition("=")
        if option != "--systems" or not (equals or args):
            return _usage_error(f"{option} expects names")
        found = (value if equals else args.pop(0)).replace(",", " ").split()
        if not found:  # as from an unset variable; it would mean everything
            return _usage_error("--systems expects names")
        names += found
    if args[:1] in (["-h"], ["--help"]):
        print(_RUN_USAGE, end="")
        return 0
    if not args:
        return _usage_error("nothing to run")
    lost = _ignores_environment(args)
    if lost:
        return _usage_error(f"python {lost} ignores PYTHONPATH, through which upshift reaches the program")
    try:
        paths = tables.resolve(names)
    except CompatError as error:
        return _usage_error(str(error))
    if not sys.executable:
        return _usage_error("there is no interpreter to run the program with (sys.executable is empty)")

    # A fresh interpreter, not runpy: sys.argv, sys.path, __main__, exit status, signals and tracebacks are exactly
    # those of `python …`, and the program's own processes are started in the same way.
    env = {**os.environ, **environment.for_children(paths)}
    command = [sys.executable, *args]
    sys.stdout.flush()
    if os.name == "posix":
        os.execve(command[0], command, env)
    return subprocess.call(command, env=env)  # exec on Windows returns to the shell at once


def _ignores_environment(args: list[str]) -> str:
    """The interpreter option before the program that would keep the bootstrap folder from being read, or ''."""
    rest = iter(args)
    for arg in rest:
        if not arg.startswith("-") or arg == "-":
            return ""
        if arg.startswith("--"):
            if arg == "--check-hash-based-pycs":
                next(rest, None)
            continue
        for position, letter in enumerate(arg[1:], 2):
            if letter in "EIS":
                return f"-{letter}"
            if letter in "cm":
                return ""
            if letter in "WXQ":
                if position == len(arg):
                    next(rest, None)
                break
    return ""


def _usage_error(message: str) -> int:
    print(f"upshift run: {message}\n\n{_RUN_USAGE}", end="", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
