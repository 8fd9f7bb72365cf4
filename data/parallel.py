"""Independent jobs in as many processes as asked for, with progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

import SimpleITK as sitk
from tqdm import tqdm

from data.case import DataError

Job = TypeVar("Job")
Result = TypeVar("Result")
T = TypeVar("T")
LINE_EVERY_S = 15.0


def run_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int, text: str
) -> list[Result]:
    """`function` of each job, in the order of `jobs`; 1 worker is this process.

    Raises `DataError` where a worker was killed.
    """
    if workers <= 1 or len(jobs) <= 1:
        return list(track(map(function, jobs), len(jobs), text))
    results: dict[int, Result] = {}
    context = get_context("spawn")  # a fork of a process with threads can hang
    with ProcessPoolExecutor(min(workers, len(jobs)), context, _one_thread) as pool:
        futures = {pool.submit(function, job): number for number, job in enumerate(jobs)}
        try:
            for future in track(as_completed(futures), len(jobs), text):
                results[futures[future]] = future.result()
        except BrokenProcessPool as error:
            raise DataError(
                f"{text}: a worker process was killed, most likely for want of memory; run again "
                "with fewer workers (what is done is kept)"
            ) from error
    return [results[number] for number in range(len(jobs))]


def _one_thread() -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def track(items: Iterable[T], total: int, text: str) -> Iterator[T]:
    """Pass `items` through and say on stderr how far it is, with the remaining time."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=text)
        return
    started = said = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - said >= LINE_EVERY_S:
            said = now
            left = (now - started) / done * (total - done)
            print(f"{text}: {done} of {total}, {left:.0f} s left", file=sys.stderr, flush=True)
