"""pytest option ``--upshift=openclaw,…``: a suite runs against upshift behind the import paths it already uses.

The plugin is loaded in every pytest run of an environment that has upshift, so it imports nothing until asked.
"""

from __future__ import annotations

import os
from typing import NamedTuple, Optional

import pytest

__all__: list[str] = []


class _Undo(NamedTuple):
    paths: list[str]
    variables: dict[str, Optional[str]]


_undo = pytest.StashKey[_Undo]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("upshift").addoption(
        "--upshift",
        metavar="SYSTEMS",
        action="append",
        help="serve these systems or modules from upshift, e.g. openclaw or core.result_cache; processes that tests "
        "start are served too",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Installs before any conftest of the project can import what is to be served."""
    requests: list[str] = early_config.known_args_namespace.upshift or []
    names = ",".join(requests).replace(",", " ").split()
    if not names:
        return
    from upshift import compat
    from upshift.compat import environment
    from upshift.exceptions import CompatError

    before = {status.module for status in compat.status()}
    try:
        paths = compat.install(*names)
    except CompatError as error:
        raise pytest.UsageError(f"--upshift: {error}") from error
    variables = environment.for_children(paths)
    early_config.stash[_undo] = _Undo(
        [path for path in paths if path not in before], {name: os.environ.get(name) for name in variables}
    )
    os.environ.update(variables)


def pytest_report_header(config: pytest.Config) -> str | None:
    if _undo not in config.stash:
        return None
    from upshift import compat

    return "upshift: serves " + ", ".join(status.module for status in compat.status())


def pytest_unconfigure(config: pytest.Config) -> None:
    """A process that runs pytest as a library is afterwards what it was."""
    undo = config.stash.get(_undo, None)
    if undo is None:
        return
    from upshift import compat

    if undo.paths:
        compat.uninstall(*undo.paths)
    for name, value in undo.variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
