"""Find the Python sources of a tree."""

# ruff: noqa: PTH116, PTH118, PTH119
# Plain strings: a scan handles thousands of names, and Path objects would cost it more than looking up the evidence.

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

SUFFIX = ".py"
# Folders that hold no sources of the tree's own: compiled files, and packages installed from elsewhere.
SKIPPED_FOLDERS = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules"})


class Source(NamedTuple):
    """One file in one version: a changed file is a different `Source`."""

    path: str  # as the operating system takes it
    name: str  # relative to the root, with forward slashes
    size: int  # bytes
    mtime_ns: int

    @property
    def package(self) -> str:
        """Dotted path of the folder below the root; empty for files in the root itself."""
        return self.name.rpartition("/")[0].replace("/", ".")


class Problem(NamedTuple):
    """A file or folder that gave no evidence, and why."""

    name: str
    kind: str  # "unreadable", "undecodable" or "unparsable"
    detail: str


def find_sources(root: str, limit: int | None = None) -> tuple[list[Source], list[Problem]]:
    """All sources below `root`, at most `limit`, in a fixed order. A file stands for itself, whatever its suffix.

    Symbolic links to files count as files; links to folders are not followed, so loops cannot occur. Folders that
    cannot be listed, dangling links and anything named like a source that is no regular file come back as problems.
    Raises `OSError` or `ValueError` if `root` itself cannot be examined.
    """
    problems: list[Problem] = []
    is_folder = stat.S_ISDIR(os.stat(root).st_mode)
    found = _walk(root, problems) if is_folder else iter([(root, os.path.basename(root))])
    sources: list[Source] = []
    for path, name in found:
        if limit is not None and len(sources) >= limit:
            break
        try:
            status = os.stat(path)
        except OSError as error:
            problems.append(Problem(name, "unreadable", reason(error)))
            continue
        if stat.S_ISREG(status.st_mode):
            sources.append(Source(path, name, status.st_size, status.st_mtime_ns))
        else:  # reading a pipe or a device could block for ever
            problems.append(Problem(name, "unreadable", "not a regular file"))
    return sources, problems


def _walk(root: str, problems: list[Problem]) -> Iterator[tuple[str, str]]:
    def failed(error: OSError) -> None:
        name = os.path.relpath(error.filename, root) if error.filename else "."
        problems.append(Problem(name.replace(os.sep, "/"), "unreadable", reason(error)))

    for folder, folders, files in os.walk(root, onerror=failed):
        folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS and not name.startswith("."))
        below = os.path.relpath(folder, root)
        prefix = "" if below == os.curdir else below.replace(os.sep, "/") + "/"
        for file in sorted(files):
            if file.endswith(SUFFIX):
                yield os.path.join(folder, file), prefix + file


def reason(error: OSError) -> str:
    """The system's words for an error, without the path that is printed beside them."""
    return error.strerror or str(error) or type(error).__name__


def printable(text: str) -> str:
    """`text` fit for any terminal: control characters and undecodable bytes of file names are escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
