"""Name resolution for the doctor: where a syntax tree imports known modules, and what it uses from them.

Scopes follow Python's rules (a parameter called like a module alias hides it), but the order of statements is not
looked at: an alias bound anywhere in a scope counts in all of it. Loops instead of recursion, so that no real file is
too deep.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from upshift.compat import tables

__all__ = ["Use", "find_uses"]

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_SCOPES = (*_FUNCTIONS, *_COMPREHENSIONS, ast.ClassDef)
# Calls whose first argument may be the dotted name of a module or of something in one.
_BY_NAME = frozenset(["__import__", "delattr", "import_module", "importorskip", "patch", "setattr"])
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class Use:
    """An import of ``module`` and the ``names`` used through it, each with its line."""

    def __init__(self, module: str, line: int, statement: str) -> None:
        self.module = module
        self.line = line
        self.statement = statement
        self.names: list[tuple[str, int]] = []


class _Scope:
    def __init__(self, node: ast.AST, outer: _Scope | None) -> None:
        self.node = node
        self.outer = outer
        # Name → dotted path it stands for, None if it is something else.
        self.bound: dict[str, str | None] = {}
        self.elsewhere: set[str] = set()  # declared global or nonlocal

    def bind(self, name: str, path: str | None = None) -> None:
        # `try: import x … except ImportError: x = None` leaves x an alias.
        if path is not None or name not in self.bound:
            self.bound[name] = path

    def lookup(self, name: str) -> str | None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.bound and name not in scope.elsewhere:
                return scope.bound[name]
            scope = scope.outer
            while scope is not None and isinstance(scope.node, ast.ClassDef):
                scope = scope.outer
        return None


def find_uses(tree: ast.Module, file: Path) -> list[Use]:
    """Every import of a module in :data:`upshift.compat.tables.MODULES`, in no particular order."""
    return _Finder(file).run(tree)


class _Finder:
    def __init__(self, file: Path) -> None:
        self._folders = file.resolve().parent
        self._uses: list[Use] = []
        self._aliased: dict[str, Use] = {}  # module → the use that attributes found later belong to

    def run(self, tree: ast.Module) -> list[Use]:
        # Imports of all scopes first: a function may use what is imported further down.
        scopes = list(self._scopes(_Scope(tree, None)))
        for scope in scopes:
            for node in _nodes_of(scope.node):
                self._attribute(scope, node)
        return self._uses

    def _scopes(self, top: _Scope) -> Iterator[_Scope]:
        waiting = [top]
        while waiting:
            scope = waiting.pop()
            for name in _parameters(scope.node):
                scope.bind(name)
            for node in _nodes_of(scope.node):
                self._bind(scope, node)
                if isinstance(node, _SCOPES):
                    waiting.append(_Scope(node, scope))
            yield scope

    def _bind(self, scope: _Scope, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            self._import(scope, node)
        elif isinstance(node, ast.ImportFrom):
            self._import_from(scope, node)
        elif isinstance(node, ast.Call):
            self._by_name(node)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            scope.elsewhere.update(node.names)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            scope.bind(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler)) and node.name:
            scope.bind(node.name)

    def _import(self, scope: _Scope, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name in tables.MODULES:
                self._add(alias.name, node, has_alias=True)
            if alias.asname:
                scope.bind(alias.asname, alias.name)
            else:
                top = alias.name.partition(".")[0]
                scope.bind(top, top)

    def _import_from(self, scope: _Scope, node: ast.ImportFrom) -> None:
        bases = self._absolute(node.level, node.module)
        module = next((base for base in bases if base in tables.MODULES), None)
        if module is not None:
            use = self._add(module, node)
            use.names += [(alias.name, node.lineno) for alias in node.names]
        for alias in node.names:
            paths = [f"{base}.{alias.name}" for base in bases]
            found = next((path for path in paths if path in tables.MODULES), None)
            if found is not None:
                self._add(found, node, has_alias=True)
            scope.bind(alias.asname or alias.name, found or _longest_known(paths))

    def _by_name(self, node: ast.Call) -> None:
        function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        first = node.args[0] if node.args else None
        if function not in _BY_NAME or not isinstance(first, ast.Constant) or not isinstance(first.value, str):
            return
        if not _DOTTED.fullmatch(first.value):
            return
        module, names = _split(first.value.split("."))
        if module is not None:
            use = Use(module, node.lineno, f"{function}({first.value!r})")
            use.names += [(name, node.lineno) for name in names[:1]]
            self._uses.append(use)

    def _attribute(self, scope: _Scope, node: ast.AST) -> None:
        if not isinstance(node, ast.Attribute):
            return
        attributes: list[str] = []
        root: ast.expr = node
        while isinstance(root, ast.Attribute):
            attributes.insert(0, root.attr)
            root = root.value
        path = scope.lookup(root.id) if isinstance(root, ast.Name) else None
        if path is None:
            return
        module, names = _split([*path.split("."), *attributes])
        # Exactly one name past the module: longer chains contain that one as a node of their own.
        if module is None or len(names) != 1 or not isinstance(node.ctx, ast.Load):
            return
        use = self._aliased.get(module) or self._add(module, node, has_alias=True)
        use.names.append((names[0], node.lineno))

    def _add(self, module: str, node: ast.stmt | ast.expr, has_alias: bool = False) -> Use:
        use = Use(module, node.lineno, ast.unparse(node))
        self._uses.append(use)
        if has_alias and (module not in self._aliased or use.line < self._aliased[module].line):
            self._aliased[module] = use
        return use

    def _absolute(self, level: int, module: str | None) -> list[str]:
        """What the module of a ``from`` statement may be called.

        A relative one is certain as far as folders have an ``__init__.py``; above that, any folder may be a namespace
        package or stand on ``sys.path``.
        """
        if level == 0:
            return [module or ""]
        folder = self._folders
        certain = 0
        while (folder / "__init__.py").is_file() and folder.parent != folder:
            certain += 1
            folder = folder.parent
        parts = self._folders.parts[1:]
        kept = len(parts) - (level - 1)
        certain = max(certain - (level - 1), 1)
        tail = module.split(".") if module else []
        return [".".join([*parts[start:kept], *tail]) for start in range(kept - certain, -1, -1)]


def _nodes_of(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes that belong to a scope: its body, and what nested scopes evaluate outside themselves."""
    waiting = list(_inner(scope))
    while waiting:
        node = waiting.pop()
        yield node
        waiting += _outer(node) if isinstance(node, _SCOPES) else ast.iter_child_nodes(node)


def _inner(scope: ast.AST) -> Iterator[ast.AST]:
    if isinstance(scope, ast.Lambda):
        yield scope.body
    elif isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)):
        yield from scope.body
    else:
        yield from ast.iter_child_nodes(scope)


def _outer(scope: ast.AST) -> Iterator[ast.AST]:
    """Decorators, defaults, annotations and bases are evaluated where the definition stands."""
    yield from getattr(scope, "decorator_list", ())
    if isinstance(scope, ast.ClassDef):
        yield from scope.bases
        yield from scope.keywords
    elif isinstance(scope, _FUNCTIONS):
        yield scope.args
        if not isinstance(scope, ast.Lambda) and scope.returns is not None:
            yield scope.returns


def _parameters(scope: ast.AST) -> Iterator[str]:
    if isinstance(scope, _FUNCTIONS):
        yield from (node.arg for node in ast.walk(scope.args) if isinstance(node, ast.arg))


def _split(parts: list[str]) -> tuple[str | None, list[str]]:
    """``["core", "result_cache", "x"]`` → ``("core.result_cache", ["x"])``; None if no known module is a prefix."""
    for length in range(len(parts), 0, -1):
        path = ".".join(parts[:length])
        if path in tables.MODULES:
            return path, parts[length:]
    return None, parts


def _longest_known(paths: list[str]) -> str | None:
    """The path that leads towards a known module, as ``core`` does to ``core.result_cache``."""
    return next((path for path in paths if any(known.startswith(path + ".") for known in tables.MODULES)), None)
