"""Errors that are not the code's: disk, memory, rights, mounts; in words a user can act on."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.config import StoppedError

# errno -> (what is wrong, what to do)
_CAUSES = {
    errno.ENOSPC: ("the disk is full", "free some space on it"),
    errno.EDQUOT: ("your quota on this disk is used up", "delete something, or ask for more"),
    errno.EFBIG: ("the file is larger than this disk or `ulimit -f` allows", "raise the limit"),
    errno.EROFS: ("the disk is read-only", "give a folder on another one"),
    errno.EACCES: ("you have no permission", "correct the rights, or give another place"),
    errno.EPERM: ("you have no permission", "correct the rights, or give another place"),
    errno.ENOENT: ("no such file or folder", "correct the path, or restore it"),
    errno.ENOTDIR: ("a file is where a folder belongs", "rename the file, or give another place"),
    errno.EEXIST: ("a file is where a folder belongs", "rename the file, or give another place"),
    errno.EISDIR: ("a folder is where a file belongs", "give the path of a file"),
    errno.ENOTEMPTY: ("the folder is not empty", "see what is in it, and delete it"),
    errno.ENAMETOOLONG: ("the name is too long", "give a shorter one"),
    errno.ELOOP: ("links lead in a circle", "correct them"),
    errno.EIO: ("the disk cannot read or write here", "check it: it may be failing"),
    errno.ESTALE: ("the network disk has lost this file", "mount it again"),
    errno.ENOTCONN: ("the network disk is not connected", "mount it again"),
    errno.EHOSTDOWN: ("the network disk does not answer", "wait for it, or mount it again"),
    errno.EREMOTEIO: ("the network disk does not answer", "wait for it, or mount it again"),
    errno.ETIMEDOUT: ("the disk does not answer", "wait for it, or mount it again"),
    errno.ENODEV: ("the disk is gone", "mount it again"),
    errno.ENXIO: ("the disk is gone", "mount it again"),
    errno.EMFILE: ("too many files are open", "raise `ulimit -n`"),
    errno.ENFILE: ("too many files are open on this machine", "end other programs"),
    errno.ENOMEM: ("there is too little memory", "end other programs, or give fewer --workers"),
    errno.EAGAIN: ("no further process can be started", "raise `ulimit -u`, or fewer --workers"),
    errno.EBUSY: ("it is in use", "end what uses it"),
    errno.ETXTBSY: ("it is in use", "end what uses it"),
}
# Of the machine or the disk, and not of one file: no other case fares better.
_OF_ALL = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EAGAIN),
    errno.ENOMEM,
)
FULL_MEMORY = "there is too little memory"
_CURE_OF_MEMORY = "end other programs, or give fewer --workers"
_CURE_OF_GPU = "end what else uses the GPU, or take a larger one"


def describe_error(error: BaseException) -> str | None:
    """What is wrong and what to do, with the notes of the exception; None for a fault of the code.

    A `ValueError` or `StoppedError` says it itself.
    """
    text = _describe(error)
    if text is None:
        return None
    return "; ".join([text, *getattr(error, "__notes__", ())])


def _describe(error: BaseException) -> str | None:
    if isinstance(error, OSError) and error.errno in _CAUSES:
        return _describe_os_error(error)
    if isinstance(error, (ValueError, FileNotFoundError, StoppedError)):
        return str(error)
    if isinstance(error, OSError):
        return f"{_place(error)}{error.strerror or error}"
    if is_memory_error(error):
        on_gpu = "cuda" in str(error).lower()
        memory = "the GPU's memory is too small" if on_gpu else FULL_MEMORY
        detail = str(error).partition("\n")[0]
        cure = _CURE_OF_GPU if on_gpu else _CURE_OF_MEMORY
        return f"{memory}{f' ({detail})' if detail else ''}; {cure}"
    return None


def is_memory_error(error: BaseException) -> bool:
    """Whether memory is too small; asks PyTorch only where it is loaded anyway."""
    if "torch" in sys.modules:
        from utils.device import is_out_of_memory

        return is_out_of_memory(error)
    return isinstance(error, MemoryError)


def is_damage(error: BaseException) -> bool:
    """Whether a file's bytes are bad, and not the way to it: another copy of it may be read."""
    if isinstance(error, OSError):
        return error.errno in (None, errno.EIO, errno.EINVAL)  # the last: a place beyond its end
    return not is_memory_error(error)


def stops_all(error: BaseException) -> bool:
    """Whether what failed for one file or case will fail for every other: a full disk, say."""
    return isinstance(error, OSError) and error.errno in _OF_ALL


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an `OSError` of an open file, which names no path, this one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or its name where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _describe_os_error(error: OSError) -> str:
    cause, cure = _CAUSES[error.errno or 0]
    if isinstance(error, FileNotFoundError) and error.filename is None:
        return str(error)
    return f"{_place(error)}{cause} ({error.strerror}); {cure}"


def _place(error: OSError) -> str:
    return "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
