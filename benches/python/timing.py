"""Interleaved timing: in each round every contender has its turn, so that a slow moment of the machine strikes all.

What is compared is ratios within a round; the median over the rounds is what a table shows. Work of one thread is
timed by that thread's processor time, so that other programs on the machine count for little; all else by the clock.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

#: Performs that many batches of operations.
Run = Callable[[int], Any]


@dataclass(frozen=True)
class Effort:
    """How much time a measurement may take."""

    rounds: int = 5
    #: Turns of each contender in a round; the fastest counts, which takes out interruptions by other processes.
    passes: int = 7
    #: Length of one turn.
    seconds: float = 0.004
    #: Scales counts of operations that cannot be chosen by time.
    scale: float = 1.0


QUICK = Effort(rounds=3, passes=3, seconds=0.002, scale=0.25)


@dataclass(frozen=True)
class Contender:
    name: str
    run: Run
    #: Operations in a batch.
    batch: int
    #: Nanoseconds by which it is timed.
    clock: Callable[[], int] = time.thread_time_ns


def contender(
    name: str, statement: str, batches: Sequence[Sequence[Any]], /, each: str = "k", **names: Any
) -> Contender:
    """A contender that executes `statement` for each item of the batches, bound to `each`.

    The loop is compiled for each contender, as `timeit` does it, with `names` as its local variables: all pay the
    same few nanoseconds for it, and no call stands between the loop and what is measured. The batches are gone
    through again and again, across turns.
    """
    variables = ", ".join(f"{name}={name}" for name in names)
    source = (
        f"def run(count, *, islice=islice, stream=stream, {variables}):\n"
        f"    for batch in islice(stream, count):\n"
        f"        for {each} in batch:\n"
    ) + textwrap.indent(textwrap.dedent(statement).strip(), " " * 12)
    namespace = {"islice": itertools.islice, "stream": itertools.cycle(batches), **names}
    exec(compile(source, f"<{name}>", "exec"), namespace)
    return Contender(name, namespace["run"], len(batches[0]))


def in_threads(contender: Contender, threads: int) -> Contender:
    """The same work divided among threads; a batch is then one of each thread."""

    def run(count: int) -> None:
        crew = [threading.Thread(target=contender.run, args=(count,)) for _ in range(threads)]
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()

    return Contender(contender.name, run, contender.batch * threads, time.perf_counter_ns)


def measure(contenders: Sequence[Contender], effort: Effort) -> dict[str, list[float]]:
    """Nanoseconds per operation, by contender, one number for each round."""
    counts = [_calibrate(contender, effort.seconds) for contender in contenders]
    times: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    turns = list(zip(contenders, counts))
    gc.collect()
    gc.disable()
    try:
        for number in range(effort.rounds):
            best = dict.fromkeys(times, float("inf"))
            for _ in range(effort.passes):
                # Each round begins with another contender.
                for contender, count in turns[number % len(turns) :] + turns[: number % len(turns)]:
                    each = _time(contender, count) / (count * contender.batch)
                    best[contender.name] = min(best[contender.name], each)
            for name, each in best.items():
                times[name].append(each)
    finally:
        gc.enable()
    return times


def median(numbers: Sequence[float]) -> float:
    return statistics.median(numbers)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios round by round."""
    return statistics.median(mine / other for mine, other in zip(ours, theirs))


def _time(contender: Contender, count: int) -> int:
    started = contender.clock()
    contender.run(count)
    return contender.clock() - started


def _calibrate(contender: Contender, seconds: float) -> int:
    """Number of batches that take about `seconds`; warms the contender up by the way."""
    count = 1
    while True:
        taken = _time(contender, count) / 1e9
        if taken >= seconds / 2:
            return max(1, round(count * seconds / taken))
        count *= 2
