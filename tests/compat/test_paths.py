"""The application's own ``core``, in every shape and every order on ``sys.path``, is what it was without upshift.

Each arrangement is probed by a process without upshift and by processes with it, in three orders of events. Whatever
the first one can import, the others must get from the same files; only ``core.result_cache`` differs.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from .conftest import write

FOLDERS = {
    "regular": {
        "core/__init__.py": "VERSION = 'regular'",
        "core/settings.py": "from core import VERSION",
        "core/sub/__init__.py": "from .. import settings",
        "core/sub/deep.py": "from . import settings",
    },
    "eager": {
        # Its __init__ pulls in the module, as packages that flatten their names do.
        "core/__init__.py": """
            try:
                from .result_cache import ResultCache
            except ImportError:
                ResultCache = None
            VERSION = 'eager'
        """,
        "core/settings.py": "",
    },
    "namespace a": {"core/alpha.py": "", "core/shared.py": "", "core/sub/deep.py": ""},
    "namespace b": {"core/beta.py": "from core import shared", "core/shared.py": "", "core/sub/deeper.py": ""},
    "own copy": {
        "core/__init__.py": "VERSION = 'own copy'",
        "core/result_cache.py": "class ResultCache: pass",
        "core/user.py": "from .result_cache import ResultCache",
    },
    "own copy in a namespace": {"core/result_cache.py": "class ResultCache: pass", "core/beta.py": ""},
    "no core": {"other.py": ""},
}

ARRANGEMENTS = [
    arrangement
    for folders in [
        ["regular"],
        ["eager"],
        ["own copy"],
        ["own copy in a namespace"],
        ["no core"],
        ["namespace a", "namespace b"],
        ["regular", "namespace a"],
        ["regular", "own copy"],
        ["regular", "no core", "own copy in a namespace"],
        ["own copy", "namespace a"],
        ["namespace a", "namespace b", "no core"],
        ["namespace a", "own copy in a namespace", "no core"],
    ]
    for arrangement in itertools.permutations(folders)
]

PROBE = """
    import importlib, json, sys

    order, folders = sys.argv[1], sys.argv[2:]
    modules = ["core", "core.alpha", "core.beta", "core.settings", "core.shared", "core.sub", "core.sub.deep",
               "core.sub.deeper", "core.user", "core.missing", "other"]
    found = {}

    def probe(name):
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            found[name] = f"{type(error).__name__} {error.name}"
        else:
            found[name] = getattr(module, "__file__", None) or "namespace"

    if order != "without upshift":
        from upshift import compat
        compat.install("core.result_cache")
    if order != "served module before path":
        sys.path[:0] = folders
    if order == "served module last":
        for name in modules:
            probe(name)
    probe("core.result_cache")
    if order == "served module before path":
        sys.path[:0] = folders
    for name in modules:
        probe(name)

    core = sys.modules.get("core")
    if core is not None:
        found["VERSION"] = getattr(core, "VERSION", None)
        found["__path__"] = list(core.__path__)
    if order != "without upshift":
        served = sys.modules["core.result_cache"]
        assert core.result_cache is served, core
        assert served.__spec__.origin.startswith("upshift"), served
        for name in "core.user", "core":  # the modules that import it relatively
            if hasattr(sys.modules.get(name), "ResultCache"):
                assert sys.modules[name].ResultCache is served.ResultCache, name
    print(json.dumps(found))
"""


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, str]:
    return {name: str(write(tmp_path / name.replace(" ", "_"), files)) for name, files in FOLDERS.items()}


@pytest.mark.parametrize("arrangement", ARRANGEMENTS, ids=" + ".join)
def test_own_modules_are_the_same_with_and_without_upshift(arrangement, folders, python, tmp_path):
    probe = write(tmp_path, {"probe.py": PROBE}) / "probe.py"

    def observed(order: str) -> dict[str, object]:
        result = json.loads(python(probe, order, *(folders[name] for name in arrangement)).stdout)
        result.pop("core.result_cache", None)
        return result

    expected = observed("without upshift")
    if expected["core"] == "ModuleNotFoundError core":  # then upshift makes one up, without anything in it
        expected = {
            name: f"ModuleNotFoundError {name}" if str(found) == "ModuleNotFoundError core" else found
            for name, found in expected.items()
        }
        expected.update({"core": "namespace", "core.sub.deep": "ModuleNotFoundError core.sub"})
        expected.update({"core.sub.deeper": "ModuleNotFoundError core.sub", "VERSION": None, "__path__": []})

    assert observed("served module first") == expected
    assert observed("served module last") == expected
    assert observed("served module before path") == expected
