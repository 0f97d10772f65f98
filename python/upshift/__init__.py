"""upshift: native parts for Python systems that have to scale, under the names they already import.

The public names are imported on first use: the import hook, the command line and the pytest plugin live in this package
as well, and run in processes that may never need the native module. (PYTEST_DONT_REWRITE)
"""

__all__ = ["CachedFunction", "ResultCache", "__version__", "get_cache"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from upshift._native import __version__
    from upshift.cache import CachedFunction, ResultCache
    from upshift.systems.openclaw import get_cache
else:
    _HOMES = {
        "CachedFunction": "upshift.cache",
        "ResultCache": "upshift.cache",
        "__version__": "upshift._native",
        "get_cache": "upshift.systems.openclaw",
    }

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
