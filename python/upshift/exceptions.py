"""Every exception upshift raises on its own account.

Each class also inherits what callers already catch::

    UpshiftError(Exception)
    ├── NotInitialisedError(UpshiftError, RuntimeError)
    ├── SingleFlightTimeout(UpshiftError, TimeoutError)
    └── CompatError(UpshiftError, ImportError)
"""

__all__ = ["CompatError", "NotInitialisedError", "SingleFlightTimeout", "UpshiftError"]


class UpshiftError(Exception):
    """Base of all of them."""


class NotInitialisedError(UpshiftError, RuntimeError):
    """A method was called before ``__init__`` has run (a subclass that forgot ``super().__init__()``)."""


class SingleFlightTimeout(UpshiftError, TimeoutError):
    """A caller waited longer than ``wait_timeout`` for the result another caller is computing."""


class CompatError(UpshiftError, ImportError):
    """An import path cannot be served: unknown, not served yet, or already imported from somewhere else."""
