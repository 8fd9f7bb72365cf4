"""Tasks, and which of them wait, run and ended: no processes, no clock."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

PREPARE, TRAIN, EVALUATE = "prepare", "train", "evaluate"


@dataclass(frozen=True)
class Task:
    """One command: `name` is its own among all, `needs` are names of tasks to be done before."""

    name: str
    kind: str
    stage: str
    argv: tuple[str, ...]
    script: str
    needs: tuple[str, ...] = ()
    trainings: tuple[tuple[str, tuple[str, ...]], ...] = ()  # an evaluation's: stage, arguments

    @property
    def command(self) -> str:
        """What a user types for it, from the root."""
        return "python " + shlex.join([self.script, *self.argv])


@dataclass(frozen=True)
class Answer:
    """How a task ended: "done", "failed" or "stopped" (told to leave), and why it failed."""

    status: str
    message: str = ""


@dataclass
class Report:
    """What became of the tasks. `stopped`: "" (ran to the end), "SIGINT", "SIGTERM" or "time"."""

    done: list[Task] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # name -> why
    skipped: dict[str, str] = field(default_factory=dict)  # name -> the failed task it needs
    left: list[Task] = field(default_factory=list)
    stopped: str = ""


class Queue:
    """Which tasks wait, run and ended; no processes, no clock."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        """Tasks of one name are one task. Raises ValueError for needs that cannot be met."""
        self.waiting = {task.name: task for task in tasks}
        self.running: dict[str, Task] = {}
        self.report = Report()
        self.total = len(self.waiting)
        met: set[str] = set()
        rest = dict(self.waiting)
        while rest:
            free = [name for name, task in rest.items() if met.issuperset(task.needs)]
            if not free:
                name, task = next(iter(rest.items()))
                raise ValueError(
                    f"{name} needs {', '.join(set(task.needs) - met)}: not among the tasks, or in "
                    "a circle"
                )
            met.update(free)
            for name in free:
                rest.pop(name)

    def take(self) -> Task | None:
        """The first task whose needs are done; None where all wait for others."""
        open_ = self.waiting.keys() | self.running.keys()
        for name, task in self.waiting.items():
            if open_.isdisjoint(task.needs):
                self.running[name] = self.waiting.pop(name)
                return task
        return None

    def finish(self, task: Task, answer: Answer) -> None:
        """Note how a running task ended, and skip what needs a failed one."""
        self.running.pop(task.name)
        if answer.status == "done":
            self.report.done.append(task)
        elif answer.status == "failed":
            self.report.failed[task.name] = answer.message
            self._skip(task.name)
        else:
            self.report.left.append(task)

    def close(self, stopped: str) -> Report:
        """The report; what still waits is left."""
        self.report.left += self.waiting.values()
        self.report.stopped = stopped if self.report.left else ""
        return self.report

    @property
    def ended(self) -> int:
        """How many tasks will not run any more."""
        return self.total - len(self.waiting) - len(self.running)

    def _skip(self, failed: str) -> None:
        for name in [n for n, task in self.waiting.items() if failed in task.needs]:
            if self.waiting.pop(name, None) is not None:
                self.report.skipped[name] = failed
                self._skip(name)
