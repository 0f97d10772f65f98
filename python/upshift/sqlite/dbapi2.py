"""`upshift.sqlite` under the name of `sqlite3.dbapi2`, which many libraries import."""

from typing import TYPE_CHECKING

import upshift.sqlite as _sqlite
from upshift.sqlite import *  # noqa: F403

if not TYPE_CHECKING:
    __getattr__ = _sqlite.__getattr__

_HIDDEN = ("Final", "TYPE_CHECKING", "annotations")
globals()["__all__"] = [name for name in globals() if not name.startswith("_") and name not in _HIDDEN]
