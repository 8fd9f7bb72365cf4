"""Files that are whole or absent, and known by their bytes."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from utils.files import append_text, digest_of, write_atomic


def test_a_file_is_on_the_disk_before_it_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the flush a power failure can leave the new name with no bytes behind it."""
    seen: list[tuple[str, int]] = []
    fsync, replace = os.fsync, Path.replace

    def flushed(descriptor: int) -> None:
        seen.append(("fsync", os.fstat(descriptor).st_size))
        fsync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        seen.append(("rename", path.stat().st_size))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", renamed)
    write_atomic(tmp_path / "a" / "file", lambda handle: handle.write(b"twelve bytes"))
    assert seen == [("fsync", 12), ("rename", 12)]
    assert (tmp_path / "a" / "file").read_bytes() == b"twelve bytes"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(handle: object) -> None:
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_atomic(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_digest_follows_the_bytes_whatever_the_clock_says(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert digest_of(path) is None
    times = (10**18, 10**18)
    for content in (b"one", b"two", b"six"):  # of one size, and with the times of the first
        path.write_bytes(content)
        os.utime(path, ns=times)
        assert digest_of(path) == hashlib.sha256(content).hexdigest()
    assert digest_of(tmp_path) is None  # a folder


def test_lines_are_added_behind_whole_ones(tmp_path: Path) -> None:
    path = tmp_path / "lines.csv"
    path.write_bytes(b"")
    append_text(path, "head\n")
    append_text(path, "é,1\nb,2\n")
    assert path.read_text(encoding="utf-8") == "head\né,1\nb,2\n"
    with path.open("ab") as stream:
        stream.write(b"c,")  # a process was killed here
    append_text(path, "d,4\n")
    assert path.read_text(encoding="utf-8") == "head\né,1\nb,2\nd,4\n"
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        append_text(tmp_path / "none.csv", "a\n")


def test_lines_that_a_full_disk_refuses_leave_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lines.csv"
    path.write_text("head\n")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("utils.files.os.fsync", full)
    with pytest.raises(OSError, match=r"no space: .*lines\.csv"):
        append_text(path, "a\n")
    assert path.read_text() == "head\n"
