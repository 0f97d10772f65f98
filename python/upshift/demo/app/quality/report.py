"""Put the summary of a scan into words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from .sources import printable

PROBLEMS_SHOWN = 10


def report(summary: dict[str, Any], questions: dict[str, Any], root: str) -> list[str]:
    """Lines of text; files are named below `root`."""
    return [*_lines(summary, root), *_answers(summary, questions, root)]


def _lines(summary: dict[str, Any], root: str) -> Iterator[str]:
    functions, documentable = summary["functions"], summary["documentable"]
    yield (
        f"{summary['files']:,} files in {summary['packages']:,} folders: {summary['lines']:,} lines, "
        f"{summary['classes']:,} classes, {functions:,} functions"
    )
    if documentable:
        yield f"{100 * summary['documented'] / documentable:.1f} % of modules, classes and functions have a docstring"
    if functions:
        longest = summary["longest"]
        yield f"mean cyclomatic complexity {summary['complexity'] / functions:.2f}"
        yield f"longest function: {longest['name']}, {longest['length']:,} lines, {_place(root, longest)}"
    yield from _problems(summary["problems"])
    if summary["most_complex"]:
        yield ""
        yield f"The {len(summary['most_complex'])} most complex functions"
        yield "complexity  lines  function"
        for function in summary["most_complex"]:
            name = printable(function["name"])
            yield f"{function['complexity']:10,}  {function['length']:5,}  {name}  {_place(root, function)}"


def _answers(summary: dict[str, Any], questions: dict[str, Any], root: str) -> Iterator[str]:
    answers = questions["answers"]
    if answers["packages"]:
        yield ""
        yield f"Three questions to the database of evidence, answered in {1000 * questions['seconds']:,.1f} ms"
        yield ""
        yield "Which packages have the most complex functions?"
        yield "mean complexity  functions  package"
        for row in answers["packages"]:
            yield f"{row['mean']:15,.2f}  {row['functions']:9,}  {printable(row['package']) or '(outside packages)'}"
    if answers["undocumented"]:
        yield ""
        yield "Which are the longest functions without a docstring?"
        yield "lines  complexity  function"
        for row in answers["undocumented"]:
            yield f"{row['length']:5,}  {row['complexity']:10,}  {printable(row['name'])}  {_place(root, row)}"
    if answers["half"]:
        needed, files = answers["half"][0]["needed"], summary["files"]
        yield ""
        yield f"Where is the complexity? Half of it is in {needed:,} of {files:,} files, the first of which are"
        yield "complexity  with those above  file"
        for row in answers["half"]:
            name = printable(str(PurePath(root, *row["file"].split("/"))))
            yield f"{row['complexity']:10,}  {row['percent']:14.1f} %  {name}"


def _place(root: str, function: dict[str, Any]) -> str:
    path = PurePath(root, *function["file"].split("/"))
    return f"{printable(str(path))}:{function['line']}"


def _problems(problems: list[dict[str, str]]) -> Iterator[str]:
    if not problems:
        yield "problems: none"
        return
    counts = Counter(problem["kind"] for problem in problems)
    yield "problems: " + ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))
    for problem in problems[:PROBLEMS_SHOWN]:
        yield f"  {printable(problem['name'])}: {problem['kind']}: {printable(problem['detail'])}"
    if len(problems) > PROBLEMS_SHOWN:
        yield f"  and {len(problems) - PROBLEMS_SHOWN:,} more"
