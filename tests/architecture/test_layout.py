"""Where things are: mirrored trees, sizes, and files that belong to every release."""

from __future__ import annotations

import ast
import re
import subprocess

import pytest

from .sources import ENGINE, PACKAGE, ROOT, engine_module, module_name, python_files, rust_code, rust_files

LIMIT = 600  # lines without unit tests; past it, split along a noun
NOT_CORES = {"lib", "py", "store", "support"}


def code_lines(text: str) -> int:
    return sum(1 for line in text.splitlines() if line.strip())


@pytest.mark.parametrize("file", rust_files(), ids=lambda file: str(file.relative_to(ENGINE)))
def test_rust_file_size(file):
    assert code_lines(rust_code(file)) <= LIMIT


@pytest.mark.parametrize("file", python_files(), ids=module_name)
def test_python_file_size(file):
    assert code_lines(file.read_text(encoding="utf-8")) <= LIMIT


def exists(folder, name, suffix) -> bool:
    return (folder / f"{name}{suffix}").is_file() or (folder / name).is_dir()


@pytest.mark.parametrize("core", sorted({engine_module(file) for file in rust_files()} - NOT_CORES))
def test_a_bound_core_has_its_four_paths(core):
    """src/cache ↔ src/py/cache.rs ↔ python/upshift/cache.py ↔ tests/unit/test_cache.py."""
    binding, facade = exists(ENGINE / "py", core, ".rs"), exists(PACKAGE, core, ".py")
    assert binding == facade, f"{core}: binding and façade come together"
    if facade:
        assert list((ROOT / "tests" / "unit").glob(f"test_{core}*")), f"tests/unit/test_{core}.py"


def test_no_print_in_the_package():
    """Logging is quiet by default; only commands print."""
    wrong = []
    for file in python_files():
        inside = file.relative_to(PACKAGE).parts
        if inside[0] in ("cli.py", "demo"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                wrong.append(f"{module_name(file)}:{node.lineno}")
    assert wrong == []


def test_nothing_is_left_to_do():
    marks = re.compile(r"\b(todo|unimplemented|dbg)!\s*\(")
    assert [str(file) for file in rust_files() if marks.search(rust_code(file))] == []


def test_unsafe_is_denied_by_default():
    """Exceptions are written down where they are (`allow(unsafe_code)`), with a SAFETY comment that clippy asks for."""
    cargo = (ROOT / "Cargo.toml").read_text(encoding="utf-8")
    assert re.search(r'^unsafe_code = "(deny|forbid)"$', cargo, flags=re.MULTILINE)
    assert re.search(r'^undocumented_unsafe_blocks = "(deny|forbid)"$', cargo, flags=re.MULTILINE)


def test_changelog_has_an_unreleased_section():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[?Unreleased\]?$", text, flags=re.MULTILINE)


@pytest.mark.parametrize("file", ["LICENSE-MIT", "LICENSE-APACHE", "README.md", "python/upshift/py.typed"])
def test_file_is_there(file):
    assert (ROOT / file).is_file()


def test_licence_is_stated_alike():
    expression = 'license = "MIT OR Apache-2.0"'
    for file in ("Cargo.toml", "pyproject.toml"):
        assert expression in (ROOT / file).read_text(encoding="utf-8")


def test_nothing_local_is_committed():
    """No lock files, no folders of the machine somebody worked on."""
    if not (ROOT / ".git").exists():
        pytest.skip("platform: not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [ROOT / name for name in listed.split("\0") if name]
    assert [str(file) for file in files if file.name.endswith(".lock")] == []
    personal = re.compile(rb"(?<![\w.])/(?:root|home/\w+|Users/\w+)/")
    texts = [file for file in files if file.is_file()]
    assert [str(file) for file in texts if personal.search(file.read_bytes())] == []
