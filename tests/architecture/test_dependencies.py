"""Who may know whom: arrows only point down."""

from __future__ import annotations

import re

import pytest

from .sources import ENGINE, PACKAGE, engine_module, imports, module_name, python_files, rust_code, rust_files

# What each part of the engine may use. A new part is added here when it is created.
USES = {
    "support": set(),
    "store": {"support"},
    "cache": {"support", "store"},
    "sqlite": {"support", "store"},
    "workers": {"support"},
    "tasks": {"support", "store", "sqlite", "workers", "system"},
    "stream": {"support", "store"},
    "graph": {"support"},
    "queue": {"support"},
    "ring": {"support"},
    "limiter": {"support"},
    "breaker": {"support"},
    "balancer": {"support"},
    "metrics": {"support"},
    "system": {"support"},
}

# Layers of the package, lowest first. A module belongs to the last one whose prefix it starts with.
LAYERS = [
    ["upshift._native", "upshift.exceptions"],
    ["upshift"],  # the façades
    ["upshift.dashboard"],
    ["upshift.systems"],
    ["upshift.compat"],
    ["upshift.__main__", "upshift.auto", "upshift.cli", "upshift.demo"],
]


def relative(files):
    return sorted(str(file.relative_to(ENGINE.parent)) for file in files)


def test_pyo3_is_named_only_in_the_binding():
    named = [file for file in rust_files() if re.search(r"\bpyo3\b", rust_code(file))]
    assert relative(file for file in named if engine_module(file) != "py") == []


def test_binding_has_one_gate():
    gates = [file for file in rust_files() if engine_module(file) != "py" and 'feature = "python"' in rust_code(file)]
    assert relative(gates) == ["src/lib.rs"]


def test_rusqlite_is_named_only_where_files_are_opened():
    allowed = re.compile(r"src/(store|sqlite)/|src/\w+/(persist\.rs|persist/|sqlite\.rs)")
    named = [file for file in rust_files() if re.search(r"\brusqlite\b|\blibsqlite3_sys\b", rust_code(file))]
    assert [name for name in relative(named) if not allowed.match(name)] == []


def test_engine_modules_use_only_what_is_below_them():
    wrong = []
    for file in rust_files():
        user = engine_module(file)
        if user in ("lib", "py"):
            continue
        assert user in USES, f"{user}: say in USES what this part of the engine may use"
        for used in re.findall(r"\bcrate::(\w+)", rust_code(file)):
            if used in {*USES, "py"} and used not in USES[user] | {user}:
                wrong.append(f"{file.relative_to(ENGINE)} uses {used}")
    assert wrong == []


def layer_of(name: str) -> int:
    found = [
        (len(prefix), number)
        for number, prefixes in enumerate(LAYERS)
        for prefix in prefixes
        if name == prefix or name.startswith(prefix + ".")
    ]
    return max(found)[1]


# The bootstrap folder is no part of the package: its sitecustomize stands in front of it.
MODULES = [file for file in python_files() if "bootstrap" not in file.parts]


@pytest.mark.parametrize("file", MODULES, ids=module_name)
def test_package_imports_point_down(file):
    # upshift/__init__.py is the index of all public names, those of the systems included.
    own = layer_of("upshift.systems" if module_name(file) == "upshift" else module_name(file))
    used = {name for name in imports(file) if name.startswith("upshift.")}
    assert sorted(name for name in used if layer_of(name) > own) == []


@pytest.mark.parametrize(
    ("module", "folder"), [("fastapi", "dashboard"), ("uvicorn", "dashboard"), ("starlette", "dashboard")]
)
def test_web_framework_only_in_the_dashboard(module, folder):
    files = [file for file in python_files() if any(name.split(".")[0] == module for name in imports(file))]
    assert [str(file) for file in files if file.relative_to(PACKAGE).parts[0] != folder] == []


@pytest.mark.parametrize("file", [file for file in MODULES if "compat" in file.parts], ids=module_name)
def test_compat_names_upshift_only_in_its_tables(file):
    """Façades and systems are imported when a served module is, not with the hook."""
    allowed = ("upshift.compat", "upshift.exceptions")
    used = {name for name in imports(file) if name.startswith("upshift.")}
    assert sorted(name for name in used if not name.startswith(allowed)) == []
