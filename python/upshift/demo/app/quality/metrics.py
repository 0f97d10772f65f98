"""Measure one Python source.

Cyclomatic complexity of a function is 1 plus its decisions, boolean operators included. A decision is: `if`, `elif`,
a conditional expression, `for`, `while`, each `except`, `assert`, each `for` and each `if` of a comprehension, each
`and`/`or` between two operands, each `case` that can fail to match, each guard of a `case`. `else`, `finally` and
`with` decide nothing. Nested functions stand for themselves; lambdas and class bodies belong to the function around.
"""

from __future__ import annotations

import ast
import io
import tokenize
import warnings
from pathlib import Path
from typing import Any

# Part of every cache key: raise it when the numbers change their meaning.
VERSION = 2

_BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Assert)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# `match` came with Python 3.10; earlier parsers never produce these nodes.
_CASE: Any = getattr(ast, "match_case", ())
_CAPTURE: Any = getattr(ast, "MatchAs", ())
_ALTERNATIVES: Any = getattr(ast, "MatchOr", ())


def measure_file(path: str) -> dict[str, Any]:
    """Evidence of the file at `path` as plain data; see `measure`. Raises `OSError` if it cannot be read."""
    return measure(Path(path).read_bytes())


def measure(data: bytes) -> dict[str, Any]:
    """Evidence of one source, read as the interpreter reads it (byte order mark, coding line, any line ends).

    `functions` is a list of (complexity, line, length in lines, dotted name, whether documented), most complex first,
    `longest` the longest of them or None, `complexity` their sum; `module_complexity` is that of the code outside
    functions. `documented` of `documentable` modules, classes and functions have a docstring (an empty module needs
    none). `failure` is None, or (kind, detail) with the numbers that cannot be known at 0.
    """
    evidence: dict[str, Any] = {
        "lines": 0,
        "functions": [],
        "classes": 0,
        "documented": 0,
        "documentable": 0,
        "complexity": 0,
        "module_complexity": 0,
        "longest": None,
        "failure": None,
    }
    try:
        text = _decode(data)
    except (UnicodeError, LookupError, SyntaxError) as error:
        evidence["failure"] = ("undecodable", str(error))
        return evidence
    evidence["lines"] = text.count("\n") + (not text.endswith("\n") and text != "")
    try:
        tree = _parse(text)
    # ValueError: NUL characters before Python 3.12, lone surrogates; the last two: nesting beyond the parser's stack.
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        evidence["failure"] = ("unparsable", _describe(error))
        return evidence
    _examine(tree, evidence)
    return evidence


def _decode(data: bytes) -> str:
    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    # Only these are line ends in Python; str.splitlines would count form feeds and others as well.
    return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def _parse(text: str) -> ast.Module:
    # Odd escapes and the like are the business of those who run the file, not of those who count its lines.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text)


def _describe(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.lineno:
        return f"line {error.lineno}: {error.msg}"
    return str(error) or type(error).__name__


def _examine(tree: ast.Module, evidence: dict[str, Any]) -> None:
    """Fill in what the syntax tree shows. With its own stack, as trees may be deeper than Python's."""
    module = [1]  # complexity so far, in a list to be shared by the nodes that add to it
    owners: list[tuple[list[int], Any, str, bool]] = []
    stack: list[tuple[ast.AST, list[int], str]] = [(tree, module, "")]
    while stack:
        node, owner, prefix = stack.pop()
        owner[0] += decisions(node)
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            name = prefix + node.name
            documented = _count_docstring(node.body, evidence)
            inner = owner
            if isinstance(node, ast.ClassDef):
                evidence["classes"] += 1
            else:
                inner = [1]
                owners.append((inner, node, name, documented))
            body = set(map(id, node.body))
            for child in ast.iter_child_nodes(node):
                # Decorators, defaults, annotations and bases are evaluated around the definition, not inside it.
                stack.append((child, inner, name + ".") if id(child) in body else (child, owner, prefix))
        else:
            stack.extend((child, owner, prefix) for child in ast.iter_child_nodes(node))
    if tree.body:
        _count_docstring(tree.body, evidence)
    functions = [
        (count[0], node.lineno, node.end_lineno - node.lineno + 1, name, documented)
        for count, node, name, documented in owners
    ]
    functions.sort(key=lambda function: (-function[0], function[1]))
    evidence["functions"] = functions
    evidence["longest"] = max(functions, key=lambda function: (function[2], -function[1]), default=None)
    evidence["complexity"] = sum(function[0] for function in functions)
    evidence["module_complexity"] = module[0]


def decisions(node: ast.AST) -> int:
    """Decisions that this node adds by itself, without its children."""
    if isinstance(node, _BRANCHES):
        return 1
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    if isinstance(node, _CASE):
        case: Any = node
        return (not _always_matches(case.pattern)) + (case.guard is not None)
    return 0


def _always_matches(pattern: Any) -> bool:
    if isinstance(pattern, _CAPTURE):
        return pattern.pattern is None or _always_matches(pattern.pattern)
    return isinstance(pattern, _ALTERNATIVES) and _always_matches(pattern.patterns[-1])


def _count_docstring(body: list[ast.stmt], evidence: dict[str, Any]) -> bool:
    statement = body[0]
    constant = statement.value if isinstance(statement, ast.Expr) else None
    documented = isinstance(constant, ast.Constant) and isinstance(constant.value, str)
    evidence["documentable"] += 1
    evidence["documented"] += documented
    return documented
