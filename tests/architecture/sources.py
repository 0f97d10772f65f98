"""What the architecture tests look at: source files, without comments, and the imports of Python modules."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "src"
PACKAGE = ROOT / "python" / "upshift"


def rust_files() -> list[Path]:
    return sorted(ENGINE.rglob("*.rs"))


def python_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def rust_code(file: Path) -> str:
    """Its text up to the unit tests, without comments."""
    text = re.split(r"^#\[cfg\(test\)\]\s*(?:#\[.*\]\s*)*mod ", file.read_text(encoding="utf-8"), flags=re.MULTILINE)[0]
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    return re.sub(r"(?m)(^|\s)//.*$", "", text)


def engine_module(file: Path) -> str:
    """``src/cache/policy/lru.rs`` → ``cache``, ``src/ring.rs`` → ``ring``."""
    return file.relative_to(ENGINE).parts[0].removesuffix(".rs")


def module_name(file: Path) -> str:
    """``python/upshift/compat/__init__.py`` → ``upshift.compat``."""
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path) -> Iterator[str]:
    """Dotted names a module imports, those inside functions included."""
    package = file.relative_to(PACKAGE.parent).parent.parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
