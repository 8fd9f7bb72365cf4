"""Tasks of the scheduler's tests and what stands for training in them; light to import."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from reproduce.workflow.schedule import Orders, run_tasks
from reproduce.workflow.tasks import Report, Task

PATIENCE_S = 120.0  # a busy machine is no error


def act(task: Task, device: str) -> None:
    """A stand-in for training: `argv` is a folder and what to do there."""
    folder, deed = Path(task.argv[0]), task.argv[1]
    with (folder / "order.txt").open("a") as handle:
        handle.write(f"{task.name} {device} {os.getpid()}\n")
    print(f"{task.name} speaks", flush=True)
    if deed == "fail":
        raise ValueError("case C/c1: its label is empty")
    if deed == "crash":
        raise RuntimeError("not foreseen")
    if deed == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if deed == "exit":
        raise SystemExit(2)
    if deed == "save":
        save_when_told(folder / f"{task.name}.saved")
    if deed == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (folder / f"{task.name}.began").touch()
        time.sleep(PATIENCE_S)


def save_when_told(path: Path) -> None:
    """As a training does: SIGTERM is noted, the state is saved, the process leaves with 143."""
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    path.with_suffix(".began").touch()
    while not told:
        time.sleep(0.01)
    path.write_text("state")
    signal.signal(signal.SIGTERM, before)
    raise SystemExit(143)


class Place:
    """A folder with tasks in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.said = folder, list[str]()

    def task(self, name: str, deed: str = "work", needs: Sequence[str] = ()) -> Task:
        """A task that `act` can run here."""
        return Task(name, "train", "tumor_fine", (str(self.folder), deed), "x.py", tuple(needs))

    def run(self, tasks: Sequence[Task], devices: int = 1, **more: object) -> Report:
        """Run them on so many devices; `more` are fields of `Orders`."""
        orders = Orders(act, self.folder / "logs", self.folder, say=self.said.append, **more)  # type: ignore[arg-type]
        return run_tasks(tasks, [f"device{k}" for k in range(devices)], orders)

    def order(self) -> list[list[str]]:
        """Name, device and process of each task that began, in order."""
        path = self.folder / "order.txt"
        return [line.split() for line in path.read_text().splitlines()] if path.is_file() else []

    def wait_for(self, name: str) -> None:
        """Until a file of that name is here."""
        end = time.monotonic() + PATIENCE_S
        while not (self.folder / name).exists():
            assert time.monotonic() < end, f"no {name}"
            time.sleep(0.01)
