"""upshift: native parts for Python systems that have to scale, under the names they already import."""

from upshift.cache import CachedFunction, ResultCache
from upshift.systems.openclaw import get_cache

__version__: str
from upshift._native import __version__

__all__ = ["CachedFunction", "ResultCache", "__version__", "get_cache"]
