"""Serves upshift under the import paths of existing systems.

    >>> from upshift import compat
    >>> compat.install("openclaw")          # every module of the system, or single ones: "core.result_cache"
    ['core.result_cache', 'core.db_pool', 'core.scalability_integration',
     'autonomous.background_tasks', 'web.dashboard']

From then on ``import core.result_cache`` gives upshift's module in this process; the application's ``core`` package and
everything else in it stay what they are. ``upshift run``, ``import upshift.auto`` and the pytest option ``--upshift``
call this, and reach child processes as well.
"""

from __future__ import annotations

import sys
import threading

from upshift.compat import tables
from upshift.compat.finder import Finder, is_made_up, is_served, parents_of
from upshift.exceptions import CompatError

__all__ = ["Status", "install", "status", "uninstall"]

_lock = threading.RLock()
_finder = Finder()


class Status:
    """A served import path, as of the moment it was asked for."""

    __slots__ = {  # noqa: RUF023
        "module": "The import path.",
        "system": "Name of the system it belongs to.",
        "names": "Its public names, a tuple.",
        "imported": "Whether anything in this process has imported it yet.",
    }

    def __init__(self, module: str) -> None:
        self.module = module
        self.system = tables.MODULES[module].system
        self.names = tuple(tables.MODULES[module].names)
        self.imported = is_served(sys.modules.get(module))

    def __repr__(self) -> str:
        return f"<{self.module} of {self.system}: {'imported' if self.imported else 'not imported yet'}>"


def install(*modules_or_systems: str) -> list[str]:
    """Serves these import paths from now on and returns them; without arguments everything this version has.

    Installing what is installed changes nothing, except that the import hook becomes the first one again. Raises
    :class:`CompatError`, and installs nothing, for an unknown or not yet served name, and for a module that the
    application has already imported from elsewhere. Thread-safe.
    """
    paths = tables.resolve(modules_or_systems)
    with _lock:
        for path in paths:
            if path in sys.modules and not is_served(sys.modules[path]):
                raise CompatError(_already_imported(path), name=path)
        _finder.serve(_finder.paths.union(paths))
        if sys.meta_path[:1] != [_finder]:
            _remove_finder()
            sys.meta_path.insert(0, _finder)
    return paths


def uninstall(*modules_or_systems: str) -> None:
    """Stops serving these import paths, or all of them, and undoes what importing them did.

    Served modules and made-up packages leave ``sys.modules``, attributes of parent packages become what they were. What
    the application holds on to (``from core.result_cache import ResultCache``) keeps working. Names that are not
    installed are ignored, unknown ones raise :class:`CompatError`. Thread-safe.
    """
    with _lock:
        paths = _finder.paths
        if modules_or_systems:
            paths = paths.intersection(tables.resolve(modules_or_systems))
        _finder.serve(_finder.paths - paths)
        if not _finder.paths:
            _remove_finder()
        for path in paths:
            if is_served(sys.modules.get(path)):
                _finder.forget(path)
        for parent in sorted({parent for path in paths for parent in parents_of(path)}, reverse=True):
            # A made-up package that found folders of the application later stays as long as modules of it are loaded.
            if is_made_up(sys.modules.get(parent)) and not any(name.startswith(parent + ".") for name in sys.modules):
                _finder.forget(parent)


def status() -> list[Status]:
    """What is served in this process at present, sorted by import path."""
    with _lock:
        return [Status(path) for path in sorted(_finder.paths)]


def _remove_finder() -> None:
    # In place: others hold references to this very list.
    sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not _finder]


def _already_imported(path: str) -> str:
    source = getattr(sys.modules[path], "__file__", None) or "an unknown place"
    return (
        f"{path!r} is already imported from {source}; call upshift.compat.install() before its first import, "
        "or start the program with `upshift run`"
    )
