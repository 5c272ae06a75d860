"""Wall and CPU seconds of calls."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple


class Seconds(NamedTuple):
    """Seconds of wall time, and of this process on all cores."""

    wall: float
    cpu: float


def seconds_of(run: Callable[[], Any]) -> Seconds:
    """Return the seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def repeat(run: Callable[[], Any], seconds: float, least: int = 1, most: int = 1 << 62) -> list[Seconds]:
    """Call `run` for `seconds` of wall time, at least `least` and at most `most` times; return the seconds of each."""
    spent: list[Seconds] = []
    begun = time.perf_counter()
    while len(spent) < min(least, most) or (len(spent) < most and time.perf_counter() - begun < seconds):
        spent.append(seconds_of(run))
    return spent


def middle(spent: list[Seconds]) -> Seconds:
    """Return the median of wall and of CPU seconds."""
    return Seconds(*map(median, zip(*spent, strict=True)))
