"""Files that are whole or absent: atomic writes of bytes, text and JSON; lines; digests."""

from __future__ import annotations

import csv
import errno
import functools
import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from utils.errors import describe_error, first_line, is_damage
from utils.leftovers import unfinished_path

SETTLED_SECONDS = 2.0  # the times of some file systems are this coarse


def write_atomic(path: Path, write: Callable[[IO[bytes]], Any], keep: Path | None = None) -> None:
    """Call `write` on a temporary file beside `path`, flush it to disk, then rename it.

    A process killed at any moment leaves either the old file or the new one, never a part.
    `keep`: the old file stays under this name, in the same folder. Raises OSError, naming `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = unfinished_path(path)
    try:
        _fill(partial, write)
        if keep is not None and path.exists():
            _keep(path, keep, partial)
        partial.replace(path)
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(path), None  # and not the temporary one
        raise
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _fill(partial: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write and flush a new file; an `OSError` of its disk is raised as such.

    Libraries that write into an open file raise errors of their own where it fails.
    """
    with _Recording(partial, "wb") as raw:
        try:
            handle = io.BufferedWriter(raw)
            write(handle)
            handle.flush()
            os.fsync(raw.fileno())
        except Exception as error:
            if raw.error is not None and raw.error is not error:
                raise raw.error from error
            raise


def _keep(path: Path, keep: Path, partial: Path) -> None:
    """Give the file at `path` the name `keep` too; where a disk has no links, instead."""
    second = unfinished_path(keep)
    try:
        os.link(path, second)
    except OSError:
        path.replace(keep)
        return
    try:
        second.replace(keep)
    finally:
        second.unlink(missing_ok=True)


class _Recording(io.FileIO):
    """A file that remembers the error of a write that failed."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def check_folder(option: str, path: Path, *, written: bool = True) -> None:
    """Raise ValueError where a folder cannot be made or written to, before hours of work are lost.

    `option`: what named it. `written`: whether it must be writable.
    """
    there = path
    try:
        while not there.exists() and there != there.parent:
            there = there.parent
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
        if written and not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))
        if max(len(os.fsencode(part)) for part in path.parts) > os.pathconf(there, "PC_NAME_MAX"):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(path))
    except OSError as error:
        raise ValueError(f"{option} {describe_error(error)}") from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomic(path, lambda handle: handle.write(text.encode("utf-8")))


def append_text(path: Path, text: str) -> None:
    """Add whole lines of UTF-8 text to a file, and flush them to disk; costs no more as it grows.

    A process killed meanwhile leaves all earlier lines and at most a part of the new ones, whose
    unfinished last line the next call drops. Raises OSError, naming `path`.
    """
    _drop_unfinished_line(path)
    try:
        with path.open("r+b") as stream:
            end = stream.seek(0, os.SEEK_END)
            try:
                stream.write(text.encode("utf-8"))
                stream.flush()
                os.fsync(stream.fileno())
            except OSError:
                os.truncate(path, end)
                raise
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(path), None
        raise


def _drop_unfinished_line(path: Path) -> None:
    """Cut off what is behind the last line's end: what a killed `append_text` has left."""
    with path.open("r+b") as stream:
        if stream.seek(0, os.SEEK_END) == 0:
            return
        stream.seek(-1, os.SEEK_END)
        if stream.read(1) == b"\n":
            return
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)


def read_json(path: Path, cure: str, keys: Sequence[str] = ()) -> dict[str, Any]:
    """A JSON object with these keys.

    Raises ValueError that names the file, what is wrong with it, and `cure`, what to do; and
    FileNotFoundError.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is damaged ({first_line(error)}); {cure}") from error
    except OSError as error:
        if not is_damage(error):
            raise
        raise ValueError(f"{describe_error(error)}; {cure}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: is damaged (holds no JSON object); {cure}")
    missing = [key for key in keys if key not in content]
    if missing:
        raise ValueError(f"{path}: has no {missing[0]!r}, it is of another version; {cure}")
    return content


def read_csv(
    path: Path, cure: str, columns: Sequence[str] = (), grows: bool = False
) -> list[dict[str, str]]:
    """The rows of a table with a header, each as long as the header.

    `grows`: by `append_text`, so a last line without its end is passed over. Raises ValueError
    that names the file, what is wrong with it, and `cure`; FileNotFoundError.
    """
    rows: list[dict[str, str]] = []
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            lines = (line for line in stream if not grows or line.endswith("\n"))
            reader = csv.DictReader(lines, strict=True)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(f"{path}: has no column {', '.join(missing)}; {cure}")
            for row in reader:
                if None in row or None in row.values():
                    number = reader.line_num
                    raise ValueError(f"{path}, line {number}: not as long as the header; {cure}")
                rows.append(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: is damaged ({first_line(error)}); {cure}") from error
    return rows


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
