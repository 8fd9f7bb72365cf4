"""Independent jobs in as many processes as asked for, with progress."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from tqdm import tqdm

from data.case import DataError
from utils.signals import held_signals, obey_parent

Job = TypeVar("Job")
Result = TypeVar("Result")
T = TypeVar("T")
LINE_EVERY_S = 15.0


def run_jobs(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int,
    text: str,
) -> list[Result]:
    """`function` of each job, in the order of `jobs`; 0 or 1 worker is this process.

    Whatever ends it early (a signal, an error), jobs that have begun end first and no other
    begins. Raises `DataError` where a worker was killed.
    """
    numbered = enumerate(jobs)
    if workers <= 1 or len(jobs) <= 1:
        return list(track((function(job) for _, job in numbered), len(jobs), text))
    workers = min(workers, len(jobs))
    context = get_context("spawn")  # a fork of a process with threads can hang
    with ProcessPoolExecutor(workers, context, _begin_worker) as pool:
        try:
            results = dict(track(_in_pool(pool, workers, function, numbered), len(jobs), text))
        except BrokenProcessPool as error:
            raise DataError(
                f"{text}: a worker process was killed, most likely out of memory; run again "
                "with fewer workers (what is done is kept)"
            ) from error
    return [results[number] for number in range(len(jobs))]


def _in_pool(
    pool: ProcessPoolExecutor,
    workers: int,
    function: Callable[[Job], Result],
    numbered: Iterator[tuple[int, Job]],
) -> Iterator[tuple[int, Result]]:
    """Number and result of each job, as they end; the pool never holds more than it works on.

    Given all jobs at once, the pool would do every one of them before it could be left.
    """
    running: dict[Future[Result], int] = {}
    for number, job in itertools.islice(numbered, workers):
        with held_signals():  # the first job starts the processes
            future = pool.submit(function, job)
        running[future] = number
    while running:
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            yield running.pop(future), future.result()
            for number, job in itertools.islice(numbered, 1):
                running[pool.submit(function, job)] = number


def _begin_worker() -> None:
    import SimpleITK as sitk

    obey_parent()
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
