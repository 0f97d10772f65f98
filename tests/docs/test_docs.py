"""The documentation is true: every example runs, both sides of a migration agree, every parameter is explained."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .examples import SIDES, docstrings, sections

ROOT = Path(__file__).resolve().parents[2]
RUNNER = Path(__file__).with_name("examples.py")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"python", "sh", "text"}

# `auto` acts when it is imported.
MODULES = [
    "upshift",
    "upshift.cache",
    "upshift.cli",
    "upshift.compat",
    "upshift.compat.doctor",
    "upshift.compat.environment",
    "upshift.exceptions",
    "upshift.systems.openclaw",
    "upshift.tasks",
    "upshift.testing",
]


def found(pairs):
    for document in DOCUMENTS:
        for section in sections(document.read_text(encoding="utf-8")):
            if section.blocks and any(block.directive in SIDES for block in section.blocks) == pairs:
                yield pytest.param(document, section, id=f"{document.stem}-{section.title}")


def run(folder, *arguments):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    for name in ("OPENCLAW_WORKSPACE", "UPSHIFT_INSTALL", "UPSHIFT_TRUST_LEGACY"):
        env.pop(name, None)
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, str(RUNNER), *map(str, arguments)],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize(("document", "section"), list(found(pairs=False)))
def test_examples(document, section, tmp_path):
    run(tmp_path / "empty", "markdown", document, section.line)


@pytest.mark.parametrize(("document", "section"), list(found(pairs=True)))
def test_both_sides_of_a_migration_agree(document, section, tmp_path):
    assert all(section.side(side) for side in SIDES)
    assert {block.directive for block in section.blocks} == set(SIDES)
    before, after = (run(tmp_path / side, "markdown", document, section.line, side) for side in SIDES)
    assert before == after
    assert before.strip()


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name, tmp_path):
    run(tmp_path / "empty", "module", name)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.stem)
def test_no_block_escapes(document):
    text = document.read_text(encoding="utf-8")
    blocks = [block for section in sections(text) for block in section.blocks]
    assert len(re.findall(r"(?m)^\s*```", text)) == 2 * len(blocks)
    assert {block.language for block in blocks if block.directive != "file"} <= LANGUAGES
    assert all(block.argument for block in blocks if block.directive in ("file", "not run"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.stem)
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8"))
    local = [link.partition("#")[0] for link in links if "://" not in link]
    assert [link for link in local if link and not (document.parent / link).exists()] == []


def test_the_folder_map_shows_what_is_there():
    (house,) = [s for s in sections((ROOT / "README.md").read_text(encoding="utf-8")) if s.title == "Folders"]
    (tree,) = house.blocks
    paths = [line.split()[0] for line in tree.text.splitlines() if line and not line.startswith(" ")]
    assert [path for path in paths if not (ROOT / path).exists()] == []


def described():
    """The docstring of everything public."""
    seen = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for owner, text in docstrings(module):
            seen.setdefault(owner, text)
    return [pytest.param(text, id=owner) for owner, text in seen.items()]


@pytest.mark.parametrize("text", described())
def test_everything_public_is_described(text):
    assert text.strip()


def native():
    from upshift import CachedFunction, ResultCache

    yield "ResultCache", ResultCache
    for kind in (ResultCache, CachedFunction, type(ResultCache().lock)):
        for name in sorted(vars(kind)):
            member = vars(kind)[name]
            if not name.startswith("_") and inspect.isroutine(member):
                yield f"{kind.__name__}.{name}", member


@pytest.mark.parametrize("value", [pytest.param(value, id=name) for name, value in native()])
def test_every_parameter_is_explained(value):
    named = [
        name
        for name, parameter in inspect.signature(value).parameters.items()
        if name != "self" and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    assert [name for name in named if not re.search(rf"\b{name}\b", value.__doc__)] == []


@pytest.mark.parametrize(
    "text",
    [
        "```python\nassert 1 == 2\n```",
        "```python\n>>> 1 + 1\n3\n```",
        "```python\n>>> undefined\n```",
        "```sh\nfalse\ntrue\n```",
        "<!-- file: a.py -->\n```python\nraise SystemExit(3)\n```\n```sh\npython a.py\n```",
    ],
)
def test_a_false_example_fails(text, tmp_path):
    document = tmp_path / "document.md"
    document.write_text(f"# Title\n\n{text}\n", encoding="utf-8")
    with pytest.raises(AssertionError, match=r"Error|Expected"):
        run(tmp_path / "empty", "markdown", document, 1)
