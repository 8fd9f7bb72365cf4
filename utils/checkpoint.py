"""Checkpoints: tensors and plain types only, written atomically, read with `weights_only=True`."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

FORMAT = 1  # raise when a reader of the old layout would misread the new one
PLAIN_TYPES = (torch.Tensor, torch.nn.Parameter, bool, int, float, str, type(None))


def write_atomic(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Call `write` on a temporary file beside `path`, flush it to disk, then rename it.

    A process killed at any moment leaves either the old file or the new one, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
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


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Save tensors and plain types; anything else raises TypeError before a byte is written."""
    _refuse_objects(content, "checkpoint")
    write_atomic(path, lambda handle: torch.save({"format": FORMAT, **content}, handle))


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Load what `save_checkpoint` wrote.

    Raises FileNotFoundError, or ValueError with the file's name where it is cut short, is no
    checkpoint, holds objects, or is of another format.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no checkpoint there; train the stage first")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load compares no checksums
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged")
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # bytes that are no checkpoint can raise nearly anything
        raise ValueError(
            f"{path}: not a readable checkpoint ({str(error).partition(chr(10))[0]}); "
            "delete the run folder and train again, or restore the file"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path}: not a checkpoint of format {FORMAT}; it was made by other code")
    return content


def _refuse_objects(value: Any, place: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_objects(key, f"a key of {place}")
            _refuse_objects(item, f"{place}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _refuse_objects(item, f"{place}[{index}]")
    elif type(value) not in PLAIN_TYPES:  # numpy.float64 is a float, but would not load
        raise TypeError(f"{place} is a {type(value).__name__}; only tensors and plain types")
