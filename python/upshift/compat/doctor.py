"""``upshift doctor PATH``: which imports of a code base upshift can serve, and which names used from them it cannot.

Reads sources with :mod:`ast`, runs nothing. Seen are ``import`` and ``from`` statements (aliases and relative imports
included), attributes used on the imported module, and dotted names in ``import_module``, ``patch`` and their like. What
is reached in other ways (``getattr`` with a computed name, attributes of a class) is not.
"""

from __future__ import annotations

import ast
import json
import os
import stat
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from upshift.compat import tables
from upshift.compat.names import Use, find_uses

__all__ = ["Import", "Name", "Report", "Unreadable", "scan"]

_ALWAYS_SERVED = frozenset(
    ["*", "__all__", "__dict__", "__doc__", "__file__", "__loader__", "__name__", "__package__", "__spec__"]
)


@dataclass
class Name:
    """A name used from an imported module. ``line`` is where it is used."""

    name: str
    line: int
    served: bool


@dataclass
class Import:
    """One statement that imports a module upshift knows; ``served`` says whether the module itself can be installed."""

    file: str
    line: int
    statement: str
    module: str
    system: str
    served: bool
    names: list[Name] = field(default_factory=list)


@dataclass
class Unreadable:
    """A file or folder that could not be read, decoded or parsed."""

    file: str
    reason: str


@dataclass
class Report:
    """What :func:`scan` found. ``own_copies`` are files that hold a served module themselves."""

    path: str
    files: int = 0
    imports: list[Import] = field(default_factory=list)
    own_copies: list[str] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)

    @property
    def is_served(self) -> bool:
        """Whether every module and name found is served."""
        return all(found.served and all(name.served for name in found.names) for found in self.imports)

    def to_json(self) -> str:
        """The whole report as one JSON object; ``served`` is :attr:`is_served`."""
        return json.dumps({**asdict(self), "served": self.is_served}, indent=2)

    def to_text(self) -> str:
        """The report for people: imports with their names, then remarks, and a line of counts at the end."""
        return "\n".join([*self._import_lines(), *self._remark_lines(), self._summary()])

    def _import_lines(self) -> Iterator[str]:
        for found in self.imports:
            note = "" if found.served else f"  [{found.module}: NOT SERVED YET]"
            yield f"{found.file}:{found.line}: {found.statement}{note}"
            for name in found.names:
                where = f"  (line {name.line})" if name.line != found.line else ""
                yield f"    {'served    ' if name.served else 'NOT SERVED'}  {name.name}{where}"

    def _remark_lines(self) -> Iterator[str]:
        for file in self.own_copies:
            yield f"{file}: the project's own copy; an installed upshift module replaces it"
        for unreadable in self.unreadable:
            yield f"{unreadable.file}: not scanned: {unreadable.reason}"

    def _summary(self) -> str:
        names = [name for found in self.imports for name in found.names]
        return (
            f"files: {self.files}, not scanned: {len(self.unreadable)}, imports: {len(self.imports)}, "
            f"names: {len(names)}, not served: {sum(not name.served for name in names)}"
        )


def scan(path: str | os.PathLike[str]) -> Report:
    """Scans a file, or every ``*.py`` below a folder except hidden folders and virtual environments.

    Raises ``FileNotFoundError`` if there is no such path. Whatever cannot be read is listed in the report.
    """
    root = Path(path)
    root.stat()
    report = Report(os.fspath(path))
    for file in _python_files(root, report):
        report.files += 1
        if any(file.parts[-len(tail) :] == tail for tail in _served_files()):
            report.own_copies.append(str(file))
        try:
            tree = _parse(file)
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            report.unreadable.append(Unreadable(str(file), _reason(error)))
        else:
            report.imports += _imports(str(file), find_uses(tree, file))
    return report


def _python_files(root: Path, report: Report) -> Iterator[Path]:
    if not root.is_dir():
        yield root
        return

    def not_listed(error: OSError) -> None:
        report.unreadable.append(Unreadable(error.filename or str(root), _reason(error)))

    for folder, folders, files in os.walk(root, onerror=not_listed):
        folders[:] = sorted(name for name in folders if not _is_left_out(Path(folder, name)))
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py"))


def _is_left_out(folder: Path) -> bool:
    return folder.name.startswith(".") or folder.name == "__pycache__" or (folder / "pyvenv.cfg").exists()


def _served_files() -> list[tuple[str, ...]]:
    return [tuple(f"{path.replace('.', '/')}.py".split("/")) for path in tables.served()]


def _parse(file: Path) -> ast.Module:
    if not stat.S_ISREG(file.stat().st_mode):  # reading a pipe would wait for its writer
        raise OSError("not a regular file")
    source = file.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the scanned code, such as invalid escapes
        return ast.parse(source, filename=str(file))


def _reason(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.msg} (line {error.lineno})" if error.lineno else str(error.msg)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _imports(file: str, uses: list[Use]) -> list[Import]:
    found: list[Import] = []
    for use in uses:
        entry = tables.MODULES[use.module]
        names = [
            Name(name, line, served=name in entry.names or (bool(entry.names) and name in _ALWAYS_SERVED))
            for name, line in dict.fromkeys(use.names)
        ]
        found.append(Import(file, use.line, use.statement, use.module, entry.system, bool(entry.names), names))
    return sorted(found, key=lambda item: (item.line, item.module))
