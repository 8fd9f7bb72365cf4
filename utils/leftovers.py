"""Unfinished files and folders carry their owner's name, so that what a killed one left is found.

Two machines may share a folder, and may have equal host names (containers often do): an owner is
known by its machine's boot, its process namespace and its pid.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import socket
import time
import uuid
from contextlib import suppress
from pathlib import Path

OLD_S = 24 * 3600.0  # what nobody has touched for so long is left over, wherever its owner was
PART = ".part"
_OWNER = re.compile(r"\.([0-9a-f]{10})-(\d+)-[0-9a-f]{8}\.")


@functools.cache
def machine() -> str:
    """10 hex digits for this machine since it was started, and its own kind of pids."""
    words = [socket.gethostname()]
    for path, read in (
        ("/proc/sys/kernel/random/boot_id", Path.read_text),
        ("/proc/self/ns/pid", Path.readlink),
    ):
        with suppress(OSError):  # not Linux
            words.append(str(read(Path(path))))
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:10]


def unfinished_path(path: Path, suffix: str = "") -> Path:
    """A new hidden name beside `path`, with this process as its owner.

    `suffix`: what it has to end in, for libraries that choose a format by it.
    """
    stem = path.name.removesuffix(suffix)
    owner = f"{machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    return path.with_name(f".{stem}.{owner}{PART}{suffix}")


def remove_leftovers(folder: Path, *, alone: bool = False) -> None:
    """Delete unfinished files and folders of processes that are gone, in `folder` itself.

    `alone`: no other process writes here, so all of them are.
    """
    for path in folder.glob(f".*{PART}*"):
        if alone or is_left_over(path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink(missing_ok=True)


def is_left_over(path: Path) -> bool:
    """Whether the owner of an unfinished file or folder is gone."""
    owner = _OWNER.search(path.name)
    if owner is not None and owner[1] == machine() and not _is_alive(int(owner[2])):
        return True
    try:
        return time.time() - path.stat().st_mtime > OLD_S
    except OSError:
        return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
