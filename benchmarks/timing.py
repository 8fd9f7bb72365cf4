"""Times of things that are compared: measured in turn, as medians, with the rounds' own ratios."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

Seconds = dict[str, list[float]]


def interleaved(
    ways: Mapping[str, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    warm_up: int = 1,
) -> Seconds:
    """Seconds of each way in each round: all ways once, then all again.

    What else the machine does then falls on all of them alike. `clock`: `time.process_time` counts
    the process's own work. The first `warm_up` rounds do not count.
    """
    seconds: Seconds = {name: [] for name in ways}
    for number in range(-warm_up, rounds):
        for name, way in ways.items():
            started = clock()
            way()
            taken = clock() - started
            if number >= 0:
                seconds[name].append(taken)
    return seconds


def medians(seconds: Seconds) -> dict[str, float]:
    """`NAME_s` -> the median seconds of each way."""
    return {f"{name}_s": median(taken) for name, taken in seconds.items()}


def times_as_fast(seconds: Seconds, ours: str) -> dict[str, float]:
    """`NAME_ratio` -> how many times as fast ours is as each other way: median over the rounds."""
    return {
        f"{name}_ratio": median(a / b for a, b in zip(taken, seconds[ours], strict=True))
        for name, taken in seconds.items()
        if name != ours
    }


def peak_mib(children: bool = False) -> float:
    """The most memory that this process, or the largest of its ended children, has held."""
    who = resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return resource.getrusage(who).ru_maxrss / unit
