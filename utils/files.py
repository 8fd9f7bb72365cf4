"""Files that are whole or absent: atomic writes of bytes, text and JSON; and their digest."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

SETTLED_SECONDS = 2.0  # the times of some file systems are this coarse


def write_atomic(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Call `write` on a temporary file beside `path`, flush it to disk, then rename it.

    A process killed at any moment leaves either the old file or the new one, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
    try:
        with partial.open("wb") as handle:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def remove_partial_files(folder: Path) -> None:
    """Delete what `write_atomic` left in `folder` where a process was killed while it wrote.

    Only while no other process writes there.
    """
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomic(path, lambda handle: handle.write(text.encode("utf-8")))


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; NaN is an error, since other readers refuse it."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def digest_of(path: Path) -> str | None:
    """`sha256_of` one file; None where it cannot be read.

    The bytes are read again only where size or times of the file changed, or have been set so
    recently that a change might not show in them.
    """
    try:
        found = path.stat()
        settled = time.time() - max(found.st_mtime, found.st_ctime) > SETTLED_SECONDS
        state = (found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        return _digest_in_state(path, state) if settled else sha256_of(path)
    except OSError:
        return None


@functools.lru_cache(maxsize=4096)
def _digest_in_state(path: Path, state: tuple[int, int, int]) -> str:
    return sha256_of(path)


def sha256_of(*paths: Path) -> str:
    """Hex digest of one file, or of the digests of several in this order. Raises OSError."""
    digests = []
    for path in paths:
        with path.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256"))
    if len(digests) == 1:
        return digests[0].hexdigest()
    return hashlib.sha256(b"".join(digest.digest() for digest in digests)).hexdigest()
