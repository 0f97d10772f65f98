"""Where database files go by default."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["workspace"]


def workspace() -> Path:
    """Default directory of the system's database files: `OPENCLAW_WORKSPACE`, else the current directory."""
    chosen = os.environ.get("OPENCLAW_WORKSPACE")
    return Path(chosen) if chosen else Path.cwd()
