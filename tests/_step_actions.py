"""Throw-away steps for the tests of `reproduce/workflow`; they import nothing heavy.

As a script it runs such steps, so that a test can send it signals: FOLDER ACTION GRACE DEVICE...
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reproduce.workflow.launch import Engine, Outcome, run_steps
from reproduce.workflow.plan_file import Entry, PlanFile
from reproduce.workflow.processes import only_one


def touch(request: dict[str, Any], device: str) -> None:
    """Note that it began, work for `seconds`, note that it ended."""
    _note(request, "begin", device)
    print(f"{request['name']} speaks, {os.environ.get('OMP_NUM_THREADS')} threads")
    time.sleep(request.get("seconds", 0.0))
    _note(request, "end", device)


def fail(request: dict[str, Any], device: str) -> None:
    raise ValueError(f"{request['name']}: no such case")


def crash(request: dict[str, Any], device: str) -> None:
    raise ZeroDivisionError("a fault of the code")


def kill_itself(request: dict[str, Any], device: str) -> None:
    os.kill(os.getpid(), 9)


def save_and_exit(request: dict[str, Any], device: str) -> None:
    """Endless work that takes a while to save when it is told to exit, as a training does."""
    _note(request, "begin", device)
    try:
        time.sleep(600)
    finally:
        time.sleep(0.5)
        _note(request, "saved", device)


def never_exit(request: dict[str, Any], device: str) -> None:
    """Work that does not end when it is told to exit."""
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


class Clock:
    """Stands for `time` in `launch`: two hours later from the moment that something has happened.

    So the end of the time comes behind it, however busy the machine is; after five minutes without
    it the time ends too, and with it the test.
    """

    def __init__(self, happened: Callable[[], bool]) -> None:
        self.happened, self.later_s, self.began = happened, 0.0, time.monotonic()

    def monotonic(self) -> float:
        over = time.monotonic() - self.began > 300.0
        if not self.later_s and (over or self.happened()):
            self.later_s = 7200.0
        return time.monotonic() + self.later_s


class Place:
    """A folder for throw-away steps, and what they leave there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []

    def entry(
        self, name: str, action: str = "touch", needs: Sequence[str] = (), **more: Any
    ) -> Entry:
        request = {"name": name, "folder": str(self.folder), **more}
        return Entry(name, f"tests._step_actions:{action}", request, f"do {name}", tuple(needs))

    def plan(
        self, entries: Sequence[Entry], devices: Sequence[str] = ("cpu",), threads: int | None = 1
    ) -> PlanFile:
        return PlanFile(self.folder, self.folder, tuple(devices), True, threads, tuple(entries))

    def run(self, entries: Sequence[Entry], *devices: str, **engine: Any) -> Outcome:
        plan = self.plan(entries, devices or ("cpu",))
        return run_steps(plan, Engine(say=self.said.append, **engine))

    def order(self) -> list[list[str]]:
        """What the steps noted: name, word, device, pid, time."""
        path = self.folder / "order.txt"
        return [line.split() for line in path.read_text().splitlines()] if path.is_file() else []

    def noted(self, word: str) -> list[str]:
        """The steps that noted a word, in order."""
        return [line[0] for line in self.order() if line[1] == word]

    def log(self, name: str) -> str:
        return (self.folder / "logs" / f"{name}.log").read_text()


def main() -> None:
    folder, action, grace_s = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    place = Place(folder)
    entries = [place.entry("a", action), place.entry("b", action), place.entry("c", needs=["a"])]
    engine = Engine(grace_s=grace_s, say=print)
    with only_one(folder):
        outcome = run_steps(place.plan(entries, sys.argv[4:]), engine)
    print(f"stopped={outcome.stopped} left={' '.join(outcome.left)}")


if __name__ == "__main__":
    main()
