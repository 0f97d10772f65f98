"""Runs at the start of every Python process whose environment `upshift run` or `upshift.auto` has prepared.

Serves what UPSHIFT_INSTALL lists, then runs the sitecustomize module that this one hides.
"""

import importlib.util
import os
import sys
from importlib.machinery import PathFinder

_HERE = os.path.dirname(os.path.abspath(__file__))


def _serve() -> None:
    try:
        from upshift.compat import environment
    except ModuleNotFoundError as error:
        # Another environment's interpreter: upshift is not installed there, so that program stays as it is.
        if error.name != "upshift":
            raise
    else:
        environment.install_from()


def _run_hidden() -> None:
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


# Programs do not get to see this folder on their path; it stays on PYTHONPATH for their children.
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != _HERE]
try:
    _serve()
finally:
    _run_hidden()
