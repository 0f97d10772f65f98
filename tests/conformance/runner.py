"""Runs CPython's own sqlite suite with `sqlite3` served by another module, in the current folder.

    python runner.py MODULE RESULTS [FIRST]     # JSON lines; the tests from number FIRST on

`suite.py` starts it, once more after a crash, and is what people use.
"""

from __future__ import annotations

import faulthandler
import importlib
import importlib.machinery
import json
import os
import pkgutil
import subprocess
import sys
import traceback
import unittest
import warnings

#: Seconds after which one test counts as hanging. The slowest of the standard library takes 10.
LIMIT = 60

# What a child of a test runs before its own source, so that its `sqlite3` is the same as here.
PREFIX = "import sys; sys.path[:] = {path!r}; import runner; runner.serve({name!r}); sys.path.remove({folder!r})\n"


class Submodules:
    """Finds submodules (`sqlite3.__main__`, `sqlite3.test`) in the standard library's folder."""

    def __init__(self, folders):
        self.folders = list(folders)

    def find_spec(self, name, path=None, target=None):
        if name.rpartition(".")[0] != "sqlite3":
            return None
        return importlib.machinery.PathFinder.find_spec(name, self.folders)


def serve(name):
    """Makes `import sqlite3` give module `name`; returns it."""
    original = importlib.import_module("sqlite3")
    module = importlib.import_module(name)
    if module is not original:
        sys.modules["sqlite3"] = sys.modules["sqlite3.dbapi2"] = module
        sys.meta_path.insert(0, Submodules(original.__path__))
        if not hasattr(module, "__path__"):  # a single file serves as well
            module.__path__ = []
    return module


def serve_children(name):
    """Has every `python -c …` that a test starts do the same first."""
    folder = os.path.dirname(os.path.abspath(__file__))
    path = [folder, *(entry for entry in sys.path if entry and entry != folder)]
    prefix = PREFIX.format(path=path, name=name, folder=folder)
    init = subprocess.Popen.__init__

    def patched(self, args, *rest, **options):
        if isinstance(args, (list, tuple)) and args[0] == sys.executable and "-c" in args:
            place = args.index("-c") + 1
            args = [*args[:place], prefix + args[place], *args[place + 1 :]]
        init(self, args, *rest, **options)

    subprocess.Popen.__init__ = patched


def flat(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flat(item)
        else:
            yield item


def load():
    """Names the package of the suite and lists its tests, in a fixed order."""
    if sys.version_info >= (3, 11):
        package, prefix = "test.test_sqlite3", "test_"
    else:
        package, prefix = "sqlite3.test", ""
    folders = importlib.import_module(package).__path__
    names = sorted(module.name for module in pkgutil.iter_modules(folders) if module.name.startswith(prefix))
    tests = []
    for name in names:
        module = importlib.import_module(f"{package}.{name}")
        if name in ("__main__", "util"):
            continue
        # Before 3.10 the methods are called Check…, which only the module's own suite knows.
        made = module.suite() if hasattr(module, "suite") else unittest.defaultTestLoader.loadTestsFromModule(module)
        tests += sorted(flat(made), key=lambda test: test.id())
    return package, tests


class Result(unittest.TestResult):
    """Writes a line when a test starts and one when it has ended: a crash loses nothing."""

    def __init__(self, package, file):
        super().__init__()
        self.package = package
        self.file = file

    def name(self, test):
        return test.id()[len(self.package) + 1 :]

    def write(self, **line):
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()

    def startTest(self, test):
        super().startTest(test)
        self.status, self.detail = "passed", ""
        self.write(start=self.name(test))
        faulthandler.dump_traceback_later(LIMIT, exit=True)

    def stopTest(self, test):
        faulthandler.cancel_dump_traceback_later()
        self.write(id=self.name(test), status=self.status, detail=self.detail)
        super().stopTest(test)

    def worst(self, status, error):
        self.status = status
        self.detail += "".join(traceback.format_exception(*error))

    def addError(self, test, err):
        if isinstance(test, unittest.TestCase):
            self.worst("error", err)
        else:  # a setUpClass or setUpModule; its tests have no outcome
            self.write(fixture=str(test), detail="".join(traceback.format_exception(*err)))

    def addFailure(self, test, err):
        self.worst("failed", err)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.worst("failed", err)

    def addSkip(self, test, reason):
        if self.status == "passed":
            self.status, self.detail = "skipped", reason

    def addUnexpectedSuccess(self, test):
        self.status, self.detail = "failed", "unexpected success"


def main(name, results, first="0"):
    faulthandler.enable()
    module = serve(name)
    serve_children(name)
    with open(results, "a", encoding="utf-8") as file:
        package, tests = load()
        served = {
            getattr(sys.modules[f"{package}.{part}"], "sqlite", module).__name__
            for part in {test.id()[len(package) + 1 :].split(".")[0] for test in tests}
        }
        result = Result(package, file)
        result.write(
            python=list(sys.version_info[:3]),
            sqlite=module.sqlite_version,
            served=sorted(served),
            tests=[result.name(test) for test in tests],
        )
        # As regrtest has it: what a test does not expect is shown, not raised.
        warnings.simplefilter("default")
        unittest.TestSuite(tests[int(first) :]).run(result)
        result.write(end=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
