"""Tasks by numbers that are never given twice, as the write lane tells them apart.

`id()` of a task that has ended is given to a later one, which would be taken for it.
"""

from __future__ import annotations

import asyncio
import itertools
import weakref
from typing import Any

_next = itertools.count(1)
_numbers: weakref.WeakKeyDictionary[asyncio.Task[Any], int] = weakref.WeakKeyDictionary()


def task_number() -> int:
    """The number of the running task."""
    task = asyncio.current_task()
    if task is None:
        # A coroutine that something else drives: nobody else is it.
        return next(_next)
    number = _numbers.get(task)
    if number is None:
        number = _numbers[task] = next(_next)
    return number
