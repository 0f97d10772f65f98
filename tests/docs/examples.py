"""Reads and runs the examples of the documentation.

In Markdown a heading starts a section. Its code blocks run in order, in one namespace and one empty folder, in an
interpreter of their own:

- ``python``: with ``>>>`` as a doctest, otherwise as it stands;
- ``sh``: by the shell, line by line, every line has to succeed.

A comment in front of a block changes that:

- ``<!-- file: NAME -->``: the block is written to that file;
- ``<!-- before -->``, ``<!-- after -->``: the two sides of a migration, run apart; both have to print the same;
- ``<!-- not run: REASON -->``.

Run as a script this module is the child: ``examples.py markdown FILE LINE [SIDE]`` or ``examples.py module NAME``.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
SIDES = ("before", "after")


@dataclass
class Block:
    """A fenced code block; ``line`` is that of its first line of code."""

    language: str
    line: int
    text: str
    directive: str = ""
    argument: str = ""


@dataclass
class Section:
    """A heading and the blocks up to the next one."""

    title: str
    line: int
    blocks: list[Block] = field(default_factory=list)

    def side(self, directive: str) -> list[Block]:
        return [block for block in self.blocks if block.directive == directive]


def sections(text: str) -> list[Section]:
    """The sections of a Markdown text, those without blocks included."""
    found = [Section("", 1)]
    directive, argument = "", ""
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        heading = re.match(r"#+ +(.*)", line)
        comment = re.fullmatch(r"<!-- (before|after|file|not run)(?:: (.*))? -->", line)
        fence = re.fullmatch(r"```(\w+)", line)
        if heading:
            found.append(Section(heading[1], number))
        elif comment:
            directive, argument = comment[1], comment[2] or ""
            continue
        elif fence:
            code: list[str] = []
            for _, inner in lines:
                if inner == "```":
                    break
                code.append(inner)
            found[-1].blocks.append(Block(fence[1], number + 1, "\n".join(code) + "\n", directive, argument))
        if line:
            directive, argument = "", ""
    return found


def run_section(path: Path, line: int, directive: str = "") -> None:
    """Runs the blocks of the section at that line in this process and the current folder. Raises if one fails."""
    (section,) = [section for section in sections(path.read_text(encoding="utf-8")) if section.line == line]
    app = types.ModuleType("app")
    # Blocks are defined where classes can be pickled and functions have a name that does not depend on this runner.
    sys.modules["app"] = app
    for block in section.side(directive) if directive else section.blocks:
        if block.directive == "file":
            Path(block.argument).write_text(block.text, encoding="utf-8")
        elif block.directive == "not run":
            continue
        elif block.language == "sh":
            _run_shell(block)
        elif block.language == "python":
            _run_python(block, path, vars(app))


def _run_shell(block: Block) -> None:
    environment = {**os.environ, "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])}
    subprocess.run(["sh", "-euc", block.text], env=environment, stdin=subprocess.DEVNULL, check=True)


def _run_python(block: Block, path: Path, namespace: dict[str, object]) -> None:
    if ">>>" in block.text:
        test = doctest.DocTestParser().get_doctest(block.text, namespace, path.name, str(path), block.line - 1)
        test.globs = namespace  # later blocks go on with what this one defines
        _run_doctest(test)
    else:
        # Tracebacks then name the line of the document.
        exec(compile("\n" * (block.line - 1) + block.text, str(path), "exec"), namespace)


def _run_doctest(test: doctest.DocTest) -> None:
    report: list[str] = []
    outcome = doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=report.append, clear_globs=False)
    if outcome.failed:
        raise AssertionError("".join(report))


def docstrings(module: types.ModuleType) -> Iterator[tuple[str, str]]:
    """(name, docstring) of a module, of what it exports, and of the public members of exported classes."""
    yield module.__name__, module.__doc__ or ""
    for name in getattr(module, "__all__", ()):
        exported = getattr(module, name)
        if not (inspect.isclass(exported) or inspect.isroutine(exported)):
            continue
        yield f"{module.__name__}.{name}", exported.__doc__ or ""
        if inspect.isclass(exported):
            # Sorted: the order of native properties differs from process to process.
            for member, value in sorted(vars(exported).items(), key=lambda item: item[0]):
                described = inspect.isroutine(value) or inspect.isgetsetdescriptor(value) or isinstance(value, property)
                if described and not member.startswith("_"):
                    yield f"{module.__name__}.{name}.{member}", value.__doc__ or ""


def run_docstrings(name: str) -> None:
    """Runs every ``>>>`` in the docstrings of a module. Raises if one fails."""
    parser = doctest.DocTestParser()
    for owner, text in docstrings(importlib.import_module(name)):
        if ">>>" in text:
            _run_doctest(parser.get_doctest(inspect.cleandoc(text), {"__name__": "app"}, owner, None, 0))


if __name__ == "__main__":
    kind, target, *rest = sys.argv[1:]
    if kind == "markdown":
        run_section(Path(target), int(rest[0]), *rest[1:])
    else:
        run_docstrings(target)
