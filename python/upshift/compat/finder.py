"""The import hook: serves exact submodules, and makes up a parent package only where the application has none.

The finder stands first on ``sys.meta_path`` and answers for

- the paths it was told to serve: a module filled from :data:`upshift.compat.tables.MODULES`;
- the parent packages of those paths: what the other finders know is handed through untouched, be it a regular or a
  namespace package. Only where they know nothing a package is made up, with a ``__path__`` that looks again at each
  import; should the application's own regular package turn up on ``sys.path`` later, the made-up one becomes it.

Nothing of upshift but this folder is imported before a served module is.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType

from upshift.compat import tables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.abc import Loader
    from typing import Any
else:
    # typing and importlib.abc would make up most of the time this takes at the start of every child process.
    Loader = object

__all__ = ["Finder", "is_made_up", "is_served", "parents_of"]

_MISSING = object()


class Finder:
    """Meta path finder for a set of served paths.

    Whoever owns the finder changes that set under its own lock; an import reads it once, without one.
    """

    def __init__(self) -> None:
        self.paths: frozenset[str] = frozenset()
        self._parents: frozenset[str] = frozenset()
        # What a parent package had under a served module's name before that was imported.
        self._replaced: dict[str, Any] = {}
        self._asking = threading.local()

    def serve(self, paths: frozenset[str]) -> None:
        """Replaces the set of served paths."""
        self.paths = paths
        self._parents = frozenset(parent for path in paths for parent in parents_of(path))

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in self.paths:
            return ModuleSpec(fullname, _ServedLoader(self), origin=f"upshift, for {tables.MODULES[fullname].system}")
        if fullname in self._names_being_asked():
            return None  # another finder asks the import system back
        if fullname in self._parents:
            return self.ask_others(fullname, path, target) or self._make_up(fullname)
        parent = fullname.rpartition(".")[0]
        if parent in self._parents and self._real_package(parent) is not None:
            return self._after_adoption(parent, self.ask_others(fullname, path, target))
        return None

    def ask_others(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the import system would find without this finder."""
        names = self._names_being_asked()
        names.add(fullname)
        try:
            for finder in list(sys.meta_path):
                find_spec = getattr(finder, "find_spec", None)
                if finder is self or find_spec is None:
                    continue
                spec: ModuleSpec | None = find_spec(fullname, path, target)
                if spec is not None:
                    return spec
            return None
        finally:
            names.discard(fullname)

    def adopt(self, name: str) -> None:
        """Turns a made-up package into the application's regular one, if that is on the path by now."""
        module = sys.modules.get(name)
        if module is None or self._real_package(name) is None:
            return
        module.__dict__.pop("__getattr__", None)
        try:
            importlib.reload(module)
        except BaseException:
            # As after any failed import, the next one starts from nothing.
            sys.modules.pop(name, None)
            raise

    def remember(self, module: ModuleType) -> None:
        """Keeps what the parent package has under the module's name, before the import system writes over it."""
        parent, _, child = module.__name__.rpartition(".")
        before = vars(sys.modules[parent]).get(child, _MISSING) if parent in sys.modules else _MISSING
        if not is_served(before) and not is_made_up(before):  # as after a reload
            self._replaced[module.__name__] = before

    def forget(self, name: str) -> None:
        """Takes a module of ours out of ``sys.modules`` and gives its parent package the attribute it had."""
        module = sys.modules.pop(name)
        parent, _, child = name.rpartition(".")
        package = sys.modules.get(parent)
        before = self._replaced.pop(name, _MISSING)
        if package is None or vars(package).get(child) is not module:
            return
        if before is _MISSING:
            delattr(package, child)
        else:
            setattr(package, child, before)

    def _names_being_asked(self) -> set[str]:
        names: set[str] = self._asking.__dict__.setdefault("names", set())
        return names

    def _make_up(self, fullname: str) -> ModuleSpec:
        spec = ModuleSpec(fullname, _MadeUpLoader(self), origin="upshift", is_package=True)
        spec.submodule_search_locations = _LivePath(self, fullname)  # type: ignore[assignment]
        return spec

    def _real_package(self, name: str) -> ModuleSpec | None:
        """The application's regular package that has appeared where one was made up."""
        module = sys.modules.get(name)
        if not is_made_up(module):
            return None
        spec = self.ask_others(name, _search_path(name), module)
        is_regular = spec is not None and spec.loader is not None and spec.submodule_search_locations is not None
        return spec if is_regular else None

    def _after_adoption(self, parent: str, spec: ModuleSpec | None) -> ModuleSpec | None:
        if spec is not None and spec.loader is not None:
            spec.loader = _AdoptFirst(self, parent, spec.loader)
        return spec


class _ServedLoader(Loader):
    """Fills a module from its table. Also answers ``python -m``: there the module's ``main()`` is run."""

    def __init__(self, finder: Finder) -> None:
        self._finder = finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        entry = tables.MODULES[module.__name__]
        found = {name: _load(target) for name, target in entry.names.items()}
        self._finder.remember(module)
        module.__doc__ = entry.doc
        module.__file__ = None
        module.__dict__.update(found, __all__=list(found))

    def get_code(self, fullname: str) -> CodeType:
        lines = [f"from {fullname} import *"]
        if "main" in tables.MODULES[fullname].names:
            lines.append("if __name__ == '__main__': main()")
        return compile("\n".join(lines), f"<upshift {fullname}>", "exec")

    def get_source(self, fullname: str) -> str | None:
        return None

    def is_package(self, fullname: str) -> bool:
        return False


class _MadeUpLoader(Loader):
    """Loader of a made-up package: empty, until a regular one of that name appears."""

    def __init__(self, finder: Finder) -> None:
        self._finder = finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        self._finder.remember(module)

        def __getattr__(attribute: str) -> Any:
            # `import core; core.VERSION` asks no finder, so the package looks for its real self here as well.
            if sys.modules.get(name) is module:
                self._finder.adopt(name)
                value = vars(module).get(attribute, _MISSING)
                if value is not _MISSING:
                    return value
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")

        module.__dict__["__getattr__"] = __getattr__

    def get_code(self, fullname: str) -> CodeType:
        return compile("", f"<upshift {fullname}>", "exec")

    def get_source(self, fullname: str) -> str | None:
        return ""

    def is_package(self, fullname: str) -> bool:
        return True


class _AdoptFirst(Loader):
    """Runs the real ``__init__`` of a made-up package before the first submodule found in it.

    Not done in ``find_spec``: the import system holds its global lock there, and this runs the application's code.
    """

    def __init__(self, finder: Finder, parent: str, loader: Any) -> None:
        self._finder = finder
        self._parent = parent
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        spec.loader = self._loader
        self._finder.adopt(self._parent)
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class _LivePath(Sequence[str]):
    """``__path__`` of a made-up package: the folders that hold a part of it now, asked anew each time."""

    def __init__(self, finder: Finder, fullname: str) -> None:
        self._finder = finder
        self._fullname = fullname
        self._added: list[str] = []

    def _folders(self) -> list[str]:
        spec = self._finder.ask_others(self._fullname, _search_path(self._fullname))
        locations = spec.submodule_search_locations if spec is not None else None
        return [*(locations or ()), *self._added]

    def __iter__(self) -> Iterator[str]:
        return iter(self._folders())

    def __len__(self) -> int:
        return len(self._folders())

    def __getitem__(self, index: Any) -> Any:
        return self._folders()[index]

    def append(self, folder: str) -> None:
        self._added.append(folder)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._folders()!r})"


def parents_of(path: str) -> list[str]:
    """``a.b.c`` → ``["a", "a.b"]``."""
    parts = path.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def is_served(module: object) -> bool:
    """Whether this is a module that upshift has filled."""
    return isinstance(_loader_of(module), _ServedLoader)


def is_made_up(module: object) -> bool:
    """Whether this is a package that upshift has made up."""
    return isinstance(_loader_of(module), _MadeUpLoader)


def _loader_of(module: object) -> object:
    return getattr(getattr(module, "__spec__", None), "loader", None)


def _search_path(fullname: str) -> Sequence[str] | None:
    parent = fullname.rpartition(".")[0]
    return getattr(sys.modules.get(parent), "__path__", None) if parent else None


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
