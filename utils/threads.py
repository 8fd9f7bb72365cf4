"""Threads of the libraries below numpy."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from typing import Any


def one_blas_thread() -> AbstractContextManager[Any]:
    """A context in which numpy's matrix products run in one thread, in the whole process.

    For many small ones in a row: beside PyTorch's own threads, BLAS's wait for each other far
    longer than they compute (benchmarks/bench_restore.py).
    """
    limited: AbstractContextManager[Any] = _controller().limit(limits=1, user_api="blas")
    return limited


@functools.cache
def _controller() -> Any:
    """Made once: it looks through every library of the process."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
