"""How the C library lends memory: what is freed is kept for the next tensor."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD = -1  # of glibc's malloc.h
M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory in this process; returns whether it will.

    It returns large blocks to the system at once, and the next tensor of that size is mapped and
    zeroed page by page: for a pass over a large tensor that takes longer than its arithmetic. Kept,
    the process's memory stays at its peak until it ends. Elsewhere than on glibc nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library, as musl
        return False
    # No block from the system directly, and none of the heap's end back.
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))
