"""A stand-in for the user's tree in which one file can be touched without touching the user's."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from pathlib import Path


def build(root: Path, names: list[str], destination: Path) -> str | None:
    """Recreate the files `names` of folder `root` below `destination`; returns the name of the one that is a true copy.

    All others are symbolic links, so they keep size, time and access rights of the originals (where the platform or the
    file system has no links, they are copies, and what cannot be read is left out). The copy is the first file that can
    be read; None if there is none. Raises `OSError` if nothing can be created at `destination`.
    """
    copied: str | None = None
    folders = set()
    for name in names:
        source, target = (base.joinpath(*name.split("/")) for base in (root, destination))
        if target.parent not in folders:
            target.parent.mkdir(parents=True, exist_ok=True)
            folders.add(target.parent)
        if copied is None and _copy(source, target):
            copied = name
            continue
        try:
            target.symlink_to(source)
        except (OSError, NotImplementedError):
            _copy(source, target)
    return copied


def touch(path: Path) -> None:
    """Give a file the present time of change, and in any case one later than it has."""
    before = path.stat()
    # Two seconds are the coarsest step of any file system in use (FAT).
    now = max(time.time_ns(), before.st_mtime_ns + 2_000_000_000)
    os.utime(path, ns=(now, now))


def _copy(source: Path, target: Path) -> bool:
    try:
        shutil.copyfile(source, target)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            target.unlink()
        return False
    status = source.stat()
    target.chmod(stat.S_IMODE(status.st_mode) | stat.S_IWUSR)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    return True
