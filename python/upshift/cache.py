"""Result cache: `ResultCache` and the `cached` decorator.

The class itself is native (`upshift._native.ResultCache`); this module adds its cold methods, so that importing either
gives the same, complete class.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sqlite3
import sys
import threading
import types
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

import upshift._process  # noqa: F401
from upshift import _calls, _native
from upshift._native import CachedFunction, ResultCache
from upshift._views import EntriesView, StatsView, TagsView

__all__ = ["CachedFunction", "ResultCache"]

# Kept in the cache itself, `_registry`, where the collector sees it (the globals of a function may hold the cache):
#: name -> (code or callable, its globals), which code each name stands for.
_NAMES = "names"
#: The connection that `db_conn` opened.
_CONNECTION = "connection"
_registry_lock = threading.Lock()


def cached(
    self: ResultCache,
    ttl: Any = None,
    tags: Any = None,
    key_func: Callable[..., Any] | None = None,
    *,
    version: Any = None,
    ignore: Iterable[str] = (),
    single_flight: bool | str = True,
    wait_timeout: float | timedelta | None = None,
    stale_while_revalidate: float | timedelta = 0,
    stale_if_error: float | timedelta = 0,
    ttl_jitter: float | None = None,
) -> Callable[[Callable[..., Any]], Any]:
    """Decorator factory: keep results of a function, plain or `async def`, in this cache.

    A call is bound to the function's signature with defaults applied; calls that bind alike share an entry, values of
    different type never do. Results, `None` included, are stored until they expire, are evicted or invalidated;
    exceptions are never stored. Closures with free variables, lambdas and a second function under a name already in
    use get a private namespace and stay out of the disk tier. Calls whose arguments can be neither pickled nor weakly
    referenced are passed through.

    Args:
        ttl: Lifetime in seconds, a timedelta as well, as in all options that are times; None = the cache's default,
            0 = for ever; or a callable given the result.
        tags: Tag or iterable of tags for `invalidate_by_tag`; or a callable given the result.
        key_func: Called with the arguments; what it returns is the key, used verbatim.
        version: Any value; results of different versions are kept apart. Change it when the code changes.
        ignore: Names of parameters that do not count for the key, such as `("self",)`.
        single_flight: True = of concurrent identical misses, threads or coroutines, one computes and the others
            wait; "processes" = also across the processes that share the store; False = everyone computes.
        wait_timeout: Seconds after which a waiter gives up with `SingleFlightTimeout`; None = no limit.
        stale_while_revalidate: For so many seconds after expiry the old result is served at once, while one
            background call computes the new one.
        stale_if_error: For so many seconds after expiry the old result is served if computing raises an `Exception`.
        ttl_jitter: Fraction in [0, 1) by which each lifetime is shortened at random; None = the cache's.

    Returns:
        A decorator. What it makes behaves like the function and adds `cache_clear()`, `cache_info()`, `cache_key()`,
        `invalidate()`, `refresh()` and `__wrapped__`.

    Raises:
        ValueError, TypeError: An option is out of range or not of the accepted kind.
    """
    if single_flight not in (True, False, "processes"):
        raise ValueError(f'single_flight must be True, False or "processes", not {single_flight!r}')
    stale_while_revalidate = _seconds("stale_while_revalidate", stale_while_revalidate)
    stale_if_error = _seconds("stale_if_error", stale_if_error)
    wait_timeout = None if wait_timeout is None else _seconds("wait_timeout", wait_timeout)
    if not isinstance(ignore, Iterable):
        raise TypeError(f"ignore must be a str or an iterable of str, not {type(ignore).__name__}")
    ignored = (ignore,) if isinstance(ignore, str) else tuple(ignore)

    def decorate(function: Callable[..., Any]) -> Any:
        if isinstance(function, (staticmethod, classmethod)):
            return type(function)(decorate(function.__func__))
        if not callable(function):
            raise TypeError(f"cached() decorates a callable, not {_kind_and_hint(function)}")
        parameters = _parameters(function, ignored)
        name, private = _identify(self, function)
        # A key_func's keys are used verbatim: whose they are is the user's choice.
        private = private and key_func is None
        asynchronous = _calls.is_asynchronous(function)
        across = single_flight == "processes"
        call = _native.Call(
            self,
            function,
            name,
            parameters,
            key_func=key_func,
            ttl=ttl,
            tags=tags,
            jitter=ttl_jitter,
            version=version,
            memory_only=private,
            single_flight=bool(single_flight),
            wait_timeout=wait_timeout,
            stale_while_revalidate=stale_while_revalidate,
            stale_if_error=stale_if_error,
            driver=_calls.run_async if asynchronous else _calls.run_across_processes if across else None,
            overridden=_calls.run_async if asynchronous else _calls.run_overridden,
            refresh_later=_calls.refresh_later,
        )
        if across:
            _calls.share_across_processes(call)
        return _native.make_cached(call, _metadata(function, asynchronous))

    return decorate


def _kind_and_hint(decorated: object) -> str:
    hint = "put @property above it" if isinstance(decorated, property) else "was it used without ()?"
    return f"{type(decorated).__name__}; {hint}"


def _seconds(option: str, value: Any) -> float:
    """The seconds that a number or a timedelta means, checked to be 0 or more."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    try:
        is_accepted = seconds >= 0
    except TypeError:
        raise TypeError(f"{option} must be a number of seconds or a timedelta, not {type(value).__name__}") from None
    if not is_accepted:
        raise ValueError(f"{option} must be 0 or more seconds, not {value!r}")
    return float(seconds)


def _parameters(function: Callable[..., Any], ignored: tuple[str, ...]) -> list[tuple[str, int, bool, Any, bool]]:
    """The signature as the native binder takes it; any arguments at all if the callable does not tell."""
    try:
        signature = _signature(function)
    except ValueError:
        if ignored:
            raise ValueError(f"ignore needs a signature, and {function!r} has none") from None
        return [("args", 2, False, None, False), ("kwargs", 4, False, None, False)]
    unknown = [name for name in ignored if name not in signature.parameters]
    if unknown:
        raise ValueError(f"ignore names {unknown[0]!r}, which is not a parameter of {function!r}")
    empty = inspect.Parameter.empty
    return [
        (
            parameter.name,
            int(parameter.kind),
            parameter.default is not empty,
            None if parameter.default is empty else parameter.default,
            parameter.name in ignored,
        )
        for parameter in signature.parameters.values()
    ]


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """The signature that calls are bound to: that of the wrapped function only if the wrapper takes any arguments."""
    try:
        own = inspect.signature(function, follow_wrapped=False)
    except ValueError:
        return inspect.signature(function)
    kinds = {parameter.kind for parameter in own.parameters.values()}
    anything = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD} <= kinds
    return inspect.signature(function) if anything else own


def _identify(cache: ResultCache, function: Callable[..., Any]) -> tuple[str, bool]:
    """Name under which a function's keys stand, and whether it is private to this object.

    A qualified name identifies a function unless it is a closure or a lambda, or the name already stands for other
    code in this cache.
    """
    qualname = getattr(function, "__qualname__", None)
    code = getattr(function, "__code__", None)
    if not isinstance(qualname, str):
        return f"{_calls.private_namespace()}/{type(function).__module__}.{type(function).__qualname__}", True
    name = f"{_module_name(function) or '__main__'}.{qualname}".replace(":", "_")
    # A method that uses super() closes over its class alone; that identifies it well enough.
    closed_over = set(getattr(code, "co_freevars", ())) - {"__class__"}
    private = bool(closed_over) or "<lambda>" in qualname or _module_name(function) is None or _is_of_object(function)
    if not private:
        identity = (function if code is None else code, getattr(function, "__globals__", None))
        with _registry_lock:
            known = cache._registry.setdefault(_NAMES, {}).setdefault(name, identity)
        private = not _same_code(known, identity)
    return (f"{_calls.private_namespace()}/{name}", True) if private else (name, False)


def _is_of_object(function: Callable[..., Any]) -> bool:
    """Whether it is a bound method whose name does not tell of which object; a class that it is named after is told."""
    owner = getattr(function, "__self__", None)
    if owner is None or isinstance(owner, types.ModuleType):
        return False
    name = getattr(function, "__name__", None)
    named_after = isinstance(owner, type) and f"{owner.__qualname__}.{name}" == function.__qualname__
    return not named_after or owner.__module__ != function.__module__


def _same_code(known: tuple[object, object], new: tuple[object, object]) -> bool:
    """Whether two functions of one name are the same text in the same module, as after `importlib.reload`."""
    same_file = getattr(known[0], "co_filename", None) == getattr(new[0], "co_filename", None)
    return same_file and known[0] == new[0] and known[1] is new[1]


def _module_name(function: Callable[..., Any]) -> str | None:
    """The function's module; for the main program what names it in every process: `-m` name or script path."""
    module = getattr(function, "__module__", None)
    if module not in ("__main__", "__mp_main__"):
        return module
    main = sys.modules.get(module)
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name not in ("__main__", "__mp_main__"):
        return str(spec.name)
    path = getattr(main, "__file__", None)
    return None if path is None else str(_calls.absolute(path))


_COPIED = (*functools.WRAPPER_ASSIGNMENTS, "__code__", "__defaults__", "__kwdefaults__")


def _metadata(function: Callable[..., Any], asynchronous: bool) -> dict[str, Any]:
    """What the decorated object shows of the function: `functools.wraps`, and what `inspect` asks functions for."""
    attributes: dict[str, Any] = {}
    for name in _COPIED:
        try:
            attributes[name] = getattr(function, name)
        except AttributeError:
            continue
    attributes.update(getattr(function, "__dict__", {}))
    # What another caching decorator left on the function must not hide the methods of this one.
    for name in ("cache_clear", "cache_info", "cache_key", "invalidate", "refresh"):
        attributes.pop(name, None)
    attributes["__wrapped__"] = function
    if asynchronous:
        attributes.update(_calls.coroutine_marks())
    return attributes


def get_stats(self: ResultCache) -> dict[str, Any]:
    """Counters and sizes as one consistent snapshot.

    Returns:
        `size` (entries in memory), `max_size`, `hits`, `misses`, `hit_rate` (0 to 1, rounded to 3 decimals),
        `evictions`, `expirations`, `sets`, `deletes`, `tags_count` (tags with at least one entry), `total_requests`;
        further `policy`, `bytes` (charged; 0 while neither `max_bytes` nor `sizeof` is set), `max_bytes`,
        `disk_errors` (operations of the disk tier that failed and were done without).
    """
    return self._counts()


def warmup(self: ResultCache, data: Mapping[Any, Any], ttl: float | None = None) -> None:
    """Store each pair of the mapping `data`, as `set(key, value, ttl)` would."""
    if not hasattr(data, "items"):
        raise TypeError(f"data must be a mapping, not {type(data).__name__}")
    for key, value in data.items():
        self.set(key, value, ttl)


def close(self: ResultCache) -> None:
    """Flush and close the disk tier; idempotent. The object goes on as a memory-only cache.

    Leaves no `-wal` or `-shm` file behind; the main file stays. Blocks until pending writes are on disk.
    """
    with _registry_lock:
        connection = self._registry.pop(_CONNECTION, None)
    if connection is not None:
        connection.close()
    self._close_store()


def _db_conn(self: ResultCache) -> sqlite3.Connection | None:
    """A standard-library connection to the disk tier's file, usable from any thread, or None without one.

    For inspection: pending writes are flushed before it is handed out. Opened on first use, closed by `close()`. One of
    `upshift.sqlite` if upshift was built with an SQLite library of its own: two libraries must not open one file.
    """
    path = self._db_path()
    if path is None:
        return None
    self.flush()
    with _registry_lock:
        connection: sqlite3.Connection | None = self._registry.get(_CONNECTION)
        if connection is None:
            library = sqlite3 if _native.shares_interpreter_library() else importlib.import_module("upshift.sqlite")
            connection = self._registry[_CONNECTION] = library.connect(path, check_same_thread=False)
    return connection


def _enter(self: ResultCache) -> ResultCache:
    return self


def _exit(self: ResultCache, *_exception: object) -> None:
    self.close()


def cache_clear(self: CachedFunction[..., Any]) -> int:
    """Remove exactly this function's entries, in memory and on disk; returns how many live ones there were."""
    return self._call.clear()


def cache_info(self: CachedFunction[..., Any]) -> dict[str, Any]:
    """`get_stats()` of the cache, with this function's own `function_hits` and `function_misses`."""
    call = self._call
    return {**call.cache.get_stats(), "function_hits": call.function_hits, "function_misses": call.function_misses}


def cache_key(self: CachedFunction[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The key under which the result of this call is kept: `cache.get(f.cache_key(x))`.

    For a method pass the instance first, as in `Class.method.cache_key(instance, x)`.

    Raises:
        TypeError: The arguments do not fit the signature, or are such that the call is not cached.
    """
    request = self._call.resolve(args, kwargs)
    if request is None:
        inspect.signature(self).bind(*args, **kwargs)
        raise TypeError("these arguments can be neither pickled nor weakly referenced, so the call is not cached")
    return request.key


def invalidate(self: CachedFunction[..., Any], *args: Any, **kwargs: Any) -> bool:
    """Remove the result of one call from both tiers; True if there was a live one."""
    request = self._call.resolve(args, kwargs)
    return request is not None and self._call.cache.delete(request.key)


def refresh(self: CachedFunction[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Compute the result of one call now, store and return it; for a coroutine function, an awaitable of it."""
    return _calls.refresh(self._call, args, kwargs)


class BoundCachedFunction:
    """A cached method of one instance: `instance.method`. It passes for a bound method, and its `cache_key()`,
    `invalidate()` and `refresh()` know the instance."""

    __slots__ = ("__func__", "__self__", "__weakref__")

    def __init__(self, function: CachedFunction[..., Any], instance: object) -> None:
        self.__func__ = function
        self.__self__ = instance

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.__func__(self.__self__, *args, **kwargs)

    def cache_key(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.__func__.cache_key(self.__self__, *args, **kwargs)

    def invalidate(self, /, *args: Any, **kwargs: Any) -> bool:
        return self.__func__.invalidate(self.__self__, *args, **kwargs)

    def refresh(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.__func__.refresh(self.__self__, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__func__, name)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.__self__ is other.__self__ and self.__func__ is other.__func__

    def __hash__(self) -> int:
        return hash((id(self.__self__), id(self.__func__)))

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.__self__, self.__func__.__name__)

    def __repr__(self) -> str:
        return f"<bound {self.__func__!r} of {self.__self__!r}>"

    # `isinstance(x, types.MethodType)`, hence `inspect`, sees a method.
    __class__ = property(lambda self: types.MethodType)
    __doc__ = property(lambda self: self.__func__.__doc__)
    __module__ = property(lambda self: self.__func__.__module__)


_native._set_bound_type(BoundCachedFunction)


def _reduce(self: CachedFunction[..., Any]) -> str:
    return self.__qualname__


def _repr(self: CachedFunction[..., Any]) -> str:
    return f"<cached {self._call.function!r}>"


def _attach(target: type, members: dict[str, Any]) -> None:
    for name, member in members.items():
        function: Any = member.fget if isinstance(member, property) else member
        function.__name__ = name
        function.__qualname__ = f"{target.__name__}.{name}"
        setattr(target, name, member)


_attach(
    ResultCache,
    {
        "cached": cached,
        "get_stats": get_stats,
        "warmup": warmup,
        "close": close,
        "__enter__": _enter,
        "__exit__": _exit,
        "cache": property(lambda self: EntriesView(self), doc="Live view: key -> (value, expires, created, accesses)."),
        "tags": property(lambda self: TagsView(self), doc="Live view: tag -> set of keys."),
        "stats": property(lambda self: StatsView(self), doc="Live view of the six counters."),
        "db_conn": property(_db_conn, doc=_db_conn.__doc__),
    },
)
_attach(
    CachedFunction,
    {
        "cache_clear": cache_clear,
        "cache_info": cache_info,
        "cache_key": cache_key,
        "invalidate": invalidate,
        "refresh": refresh,
        "__reduce__": _reduce,
        "__repr__": _repr,
    },
)


def _after_fork_child() -> None:
    global _registry_lock
    _registry_lock = threading.Lock()
    _calls.after_fork_child()


# For annotations that are evaluated: `CachedFunction[[int], str]`.
CachedFunction.__class_getitem__ = classmethod(types.GenericAlias)  # type: ignore[assignment, method-assign]

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_child)
