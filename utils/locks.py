"""Locks on files, which die with the process that holds them, however it ends.

A child that is forked inherits open files and with them a lock; so it closes them first.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of some network file systems
_open: set[IO[Any]] = set()


@contextmanager
def lock_file(path: Path) -> Iterator[IO[Any]]:
    """An open file for `try_lock` and `share_lock`, made where it is missing. Raises OSError."""
    with path.open("a") as handle:
        _open.add(handle)
        try:
            yield handle
        finally:
            _open.discard(handle)


def try_lock(handle: IO[Any]) -> bool:
    """Take the lock for this process alone; False where another one has it."""
    return _flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def share_lock(handle: IO[Any]) -> None:
    """Take the lock together with others that share it; wait for one that has it alone."""
    _flock(handle, fcntl.LOCK_SH)


def _flock(handle: IO[Any], operation: int) -> bool:
    try:
        fcntl.flock(handle, operation)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        print(
            f"warning: {handle.name}: this disk knows no locks ({error.strerror}); see to it that "
            "no second process works in its folder",
            file=sys.stderr,
            flush=True,
        )
    return True


def _close_in_child() -> None:
    for handle in _open:
        handle.close()
    _open.clear()


os.register_at_fork(after_in_child=_close_in_child)
