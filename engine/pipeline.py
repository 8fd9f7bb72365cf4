"""Read, predict, write: the next case is read and the last one written while one is predicted."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from utils.threads import one_blas_thread

Item = TypeVar("Item")
Data = TypeVar("Data")
Found = TypeVar("Found")


def run_pipeline(
    items: Sequence[Item],
    read: Callable[[Item], Data],
    predict: Callable[[Item, Data], Found],
    write: Callable[[Item, Found], None],
    *,
    overlap: bool,
) -> None:
    """Take each item through three steps: `write(item, predict(item, read(item)))`, in order.

    With `overlap` a thread reads one item ahead and another writes the one before, so that three
    items are in memory at most; numpy, SciPy, SimpleITK and zlib compute without Python's lock.
    `predict` runs in the calling thread, which keeps the GPU and gets the signals. What it has
    computed is always written: also when another item fails, and when a signal ends the process. Of
    several items that fail the first one's exception is raised, after which none is predicted.
    """
    if not overlap:
        for item in items:
            write(item, predict(item, read(item)))
        return
    if not items:
        return
    written: deque[Future[None]] = deque(maxlen=2)
    # One for all three threads: each alone would at its end give the process its own number back.
    with one_blas_thread(), ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        ahead = reader.submit(read, items[0])
        try:
            for number, item in enumerate(items):
                data = ahead.result()
                if number + 1 < len(items):
                    ahead = reader.submit(read, items[number + 1])
                if written and written[-1].done():
                    written[-1].result()
                found = predict(item, data)
                written.append(writer.submit(write, item, found))
                del data, found  # the writer's now: freed when it has written
                if len(written) == 2:
                    written[0].result()
            written[-1].result()
        except Exception as error:
            writer.shutdown()
            failed = [future.exception() for future in written if future.done()]
            first = next((one for one in failed if one is not None), error)
            if first is error:
                raise
            raise first from error


def overlaps(device: torch.device) -> bool:
    """Whether reading and writing have a processor's core beside what predicts on `device`.

    On a CPU all of whose cores compute the network, further threads would only slow it down.
    """
    if device.type != "cpu":
        return True
    has_affinity = hasattr(os, "sched_getaffinity")  # not on macOS
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return torch.get_num_threads() < cores
