"""A process that ends when the one that started it does (Linux)."""

from __future__ import annotations

import ctypes
import os

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def exit_with_parent(number: int, parent: int | None = None) -> None:
    """Have the kernel send this process signal `number` when the thread that started it ends.

    `parent`: its process, where it may have ended before this call; then the signal comes now.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), number)
