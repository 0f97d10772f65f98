"""Every exception upshift raises on its own account.

Each class also inherits what callers already catch::

    UpshiftError(Exception)
    ├── NotInitialisedError(UpshiftError, RuntimeError)
    ├── SingleFlightTimeout(UpshiftError, TimeoutError)
    ├── WriteLaneError(UpshiftError, sqlite3.OperationalError)
    │   ├── WriteLaneTimeout(WriteLaneError, TimeoutError)
    │   └── WriteLaneDeadlock(WriteLaneError)
    └── CompatError(UpshiftError, ImportError)
"""

from __future__ import annotations

from sqlite3 import OperationalError

__all__ = [
    "CompatError",
    "NotInitialisedError",
    "SingleFlightTimeout",
    "UpshiftError",
    "WriteLaneDeadlock",
    "WriteLaneError",
    "WriteLaneTimeout",
]

TYPE_CHECKING = False
if TYPE_CHECKING:  # every child process reads this at its start, and `typing` takes longer than all of it
    from typing import Any


class UpshiftError(Exception):
    """Base of all of them."""


class NotInitialisedError(UpshiftError, RuntimeError):
    """A method was called before ``__init__`` has run (a subclass that forgot ``super().__init__()``)."""


class SingleFlightTimeout(UpshiftError, TimeoutError):
    """A caller waited longer than ``wait_timeout`` for the result another caller is computing."""


class WriteLaneError(UpshiftError, OperationalError):
    """A statement did not get its turn to write. The message says who has it, and since when.

    Attributes:
        holder: Who has the write lane, a dict of `connection`, `thread`, `statement` and `since` (seconds since the
            epoch). None if it was given back at the same moment.
    """

    holder: dict[str, Any] | None = None


class WriteLaneTimeout(WriteLaneError, TimeoutError):
    """Its turn did not come within the timeout of the connection."""


class WriteLaneDeadlock(WriteLaneError):
    """Its turn would never come: the caller itself, through another connection, is in the way."""


class CompatError(UpshiftError, ImportError):
    """An import path cannot be served: unknown, not served yet, or already imported from somewhere else."""
