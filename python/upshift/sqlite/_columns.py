"""NumPy arrays as columns of parameters: what the native side takes, of what users have."""

from __future__ import annotations

from collections.abc import Mapping
from types import GeneratorType
from typing import Any

Prepared = list[tuple[str, str, Any, int, Any]]
"""Of each column its name, the kind of its values, the values, a width, and a mask of NULLs."""

_UNITS = {"h": "s", "m": "s", "s": "s", "ms": "ms", "us": "us", "ns": "ns"}
_DAYS = ("Y", "M", "W", "D")


def prepare(parameters: Any) -> Prepared | None:
    """The columns of a mapping of arrays or of a structured array; None for anything else."""
    if isinstance(parameters, Mapping):
        columns = dict(parameters)
        arrays = [name for name, values in columns.items() if _is_array(values)]
        if not arrays:
            _refuse_lists(columns)
            return None
        for name, values in columns.items():
            if not isinstance(name, str):
                raise TypeError(f"names of columns are str, not {type(name).__name__}")
            if name not in arrays:
                raise TypeError(
                    f"column {name!r}: expected an array, as the other columns are, not {type(values).__name__}"
                )
    elif getattr(getattr(parameters, "dtype", None), "names", None) and hasattr(parameters, "__array__"):
        columns = {name: parameters[name] for name in parameters.dtype.names}
    else:
        return None
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns differ in length: {lengths}")
    return [_column(name, values) for name, values in columns.items()]


def _refuse_lists(columns: dict[Any, Any]) -> None:
    """A dict of lists by name is meant as columns; to run the statement with each name, as sqlite3 would, is not."""
    lists = (list, tuple, range, GeneratorType)
    if columns and all(isinstance(name, str) and isinstance(values, lists) for name, values in columns.items()):
        name, values = next(iter(columns.items()))
        raise TypeError(f"column {name!r}: expected an array, not {type(values).__name__}")


def _is_array(values: Any) -> bool:
    return hasattr(values, "__array__") or hasattr(values, "__arrow_c_array__")


def _column(name: str, values: Any) -> tuple[str, str, Any, int, Any]:
    mask = None
    if hasattr(values, "__arrow_c_array__"):
        return name, "arrow_array", values.__arrow_c_array__(), 0, None
    if hasattr(values, "__arrow_c_stream__"):
        try:
            return name, "arrow_stream", values.__arrow_c_stream__(), 0, None
        except ImportError:
            values = values.to_numpy()  # pandas without pyarrow
    import numpy as np

    if isinstance(values, np.ma.MaskedArray):
        mask = np.ascontiguousarray(np.ma.getmaskarray(values))
        values = values.data
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"column {name!r}: expected one dimension, not {array.ndim}")
    kind, width = array.dtype.kind, 0
    if kind == "f" and array.dtype.itemsize not in (4, 8):
        array = array.astype(np.float32 if array.dtype.itemsize == 2 else np.float64)
    elif kind == "M":
        unit, _ = np.datetime_data(array.dtype)
        if unit in _DAYS:
            unit, array = "D", array.astype("datetime64[D]")
        elif unit in _UNITS:
            unit = _UNITS[unit]
            array = array.astype(f"datetime64[{unit}]")
        else:
            raise TypeError(f"column {name!r}: datetime64[{unit}] cannot be stored in SQLite; cast it to nanoseconds")
        return name, unit, _plain(array, np).view("i8"), 0, mask
    elif kind in "US":
        if not array.dtype.itemsize:
            array = array.astype(f"{kind}1")
        width = array.dtype.itemsize // (4 if kind == "U" else 1)
        return name, kind, _plain(array, np).view("u4" if kind == "U" else "u1"), width, mask
    elif kind in "OT":
        return name, "O", array.tolist(), 0, mask
    elif kind not in "biuf":
        raise TypeError(
            f"column {name!r}: values of type {array.dtype} cannot be stored in SQLite; cast the column first"
        )
    array = _plain(array, np)
    return name, array.dtype.kind + str(array.dtype.itemsize), array, width, mask


def _plain(array: Any, np: Any) -> Any:
    """In one piece, aligned, in the byte order of the machine."""
    return np.require(array, array.dtype.newbyteorder("="), ["C", "A"])
