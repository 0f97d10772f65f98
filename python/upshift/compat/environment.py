"""How child processes learn what to serve: ``UPSHIFT_INSTALL``, and a bootstrap folder on ``PYTHONPATH``.

The folder holds a ``sitecustomize`` that every Python started with this environment runs first (not under ``-I``,
``-E`` or ``-S``). It calls :func:`install_from` and then the ``sitecustomize`` it hides, if there is one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from upshift import compat

__all__ = ["BOOTSTRAP", "VARIABLE", "for_children", "install_from"]

VARIABLE = "UPSHIFT_INSTALL"
BOOTSTRAP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bootstrap")


def for_children(names: Iterable[str], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables to set, so that processes started with ``environ`` serve ``names`` too."""
    search = [entry for entry in environ.get("PYTHONPATH", "").split(os.pathsep) if entry != BOOTSTRAP]
    if search == [""]:  # unset or empty; an empty entry among others means the current directory
        search = []
    return {VARIABLE: ",".join(names), "PYTHONPATH": os.pathsep.join([BOOTSTRAP, *search])}


def install_from(environ: Mapping[str, str] = os.environ) -> list[str] | None:
    """Installs what ``UPSHIFT_INSTALL`` lists, separated by commas. None when it is unset, nothing when it is empty."""
    value = environ.get(VARIABLE)
    if value is None:
        return None
    names = [name.strip() for name in value.split(",") if name.strip()]
    return compat.install(*names) if names else []
