"""Actions of throw-away steps, for the tests of `reproduce/workflow`; they import nothing heavy."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any


def touch(request: dict[str, Any], device: str) -> None:
    """Note that it began, work for `seconds`, note that it ended."""
    _note(request, "begin", device)
    print(f"{request['name']} speaks")
    time.sleep(request.get("seconds", 0.0))
    _note(request, "end", device)


def fail(request: dict[str, Any], device: str) -> None:
    raise ValueError(f"{request['name']}: no such case")


def crash(request: dict[str, Any], device: str) -> None:
    raise ZeroDivisionError("a fault of the code")


def kill_itself(request: dict[str, Any], device: str) -> None:
    os.kill(os.getpid(), 9)


def save_and_exit(request: dict[str, Any], device: str) -> None:
    """Endless work that saves when it is told to exit, as a training does."""
    _note(request, "begin", device)
    try:
        time.sleep(600)
    finally:
        time.sleep(request.get("save_s", 0.0))
        _note(request, "saved", device)


def never_exit(request: dict[str, Any], device: str) -> None:
    """Work that holds on to the end of the grace."""
    _note(request, "begin", device)
    while True:
        try:
            time.sleep(600)
        except SystemExit:
            _note(request, "deaf", device)


def _note(request: dict[str, Any], word: str, device: str) -> None:
    line = f"{request['name']} {word} {device} {os.getpid()} {time.monotonic()}\n"
    with (Path(request["folder"]) / "order.txt").open("a") as handle:
        handle.write(line)
