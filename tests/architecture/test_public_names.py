"""``__all__`` of every public module is what the module defines, and importing one costs nothing it need not."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

from .sources import module_name, python_files


def is_public(name: str) -> bool:
    parts = name.split(".")
    # The demo is an application, not API.
    return not any(part.startswith("_") for part in parts) and "bootstrap" not in parts and "demo" not in parts


# `auto` acts when it is imported.
MODULES = [name for name in map(module_name, python_files()) if is_public(name) and name != "upshift.auto"]


@pytest.mark.parametrize("name", MODULES)
def test_all(name):
    module = importlib.import_module(name)
    if name == "upshift.systems" and not hasattr(module, "__all__"):
        return  # a folder of independent modules
    exported = module.__all__
    assert len(set(exported)) == len(exported)
    assert [public for public in exported if not hasattr(module, public)] == []
    defined = {
        public
        for public, value in vars(module).items()
        if not public.startswith("_")
        and (inspect.isclass(value) or inspect.isroutine(value))
        and value.__module__ == name
    }
    hooks = {public for public in defined if public.startswith("pytest_")}
    # Cold methods of a native class are functions of its façade, attached when that is imported.
    classes = [getattr(module, public) for public in exported if inspect.isclass(getattr(module, public))]
    methods = {id(value) for cls in classes for value in vars(cls).values()}
    attached = {public for public in defined if id(getattr(module, public)) in methods}
    assert sorted(defined - hooks - attached - set(exported)) == []


@pytest.mark.parametrize("name", ["upshift.compat", "upshift.compat.pytest_plugin", "upshift.cli"])
def test_import_leaves_the_native_module_alone(name):
    """These are loaded in processes that may never use upshift: any pytest run, any child of ``upshift run``.

    ``upshift/__init__.py`` therefore gets its names on first use (a module ``__getattr__``).
    """
    code = f"import sys, {name}; sys.exit('upshift._native' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_pytest_is_told_not_to_rewrite_the_package():
    """Without the mark it warns in each run that upshift was imported before it, as in every child of ``upshift run``:
    an error for suites that turn warnings into errors."""
    import upshift

    assert "PYTEST_DONT_REWRITE" in (upshift.__doc__ or "")
