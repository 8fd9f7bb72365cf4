"""Tasks over devices, a process for each: in order of need, and no failure holds up the others.

`run_tasks` knows nothing of training: it is given tasks and the function that runs one.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any

from reproduce.workflow.tasks import Answer, Queue, Report, Task
from reproduce.workflow.worker import GRACE_S, Action, work
from utils.config import StoppedError

LOCK, WORKERS_LOCK = "run.lock", "workers.lock"
POLL_S = 0.2  # how soon a signal or the end of the time is seen
STATUS_S = 60.0  # how often a line says where the running tasks are
TIME = "time"  # why a run was stopped, if not by a signal


@dataclass(frozen=True)
class Orders:
    """How the tasks are run: `action` runs one, `is_done` says that one needs no running.

    `logs`: folder of a log file per task. `folder`: holds the locks. `seconds`: when to end.
    """

    action: Action
    logs: Path
    folder: Path
    is_done: Callable[[Task], bool] = lambda task: False
    seconds: float | None = None
    say: Callable[[str], None] = print
    grace_s: float = GRACE_S


def run_tasks(tasks: Sequence[Task], devices: Sequence[str], orders: Orders) -> Report:
    """Run every task once, on whichever device is free, in their order as far as `needs` allow.

    A task that fails leaves out those that need it; the others go on. SIGINT, SIGTERM or the end
    of `orders.seconds` tell the running ones to save and leave; a second signal kills them.
    Raises ValueError where a task needs one that is not there or itself.
    """
    queue = Queue(tasks)
    if not devices:
        raise ValueError("no device to run on; give one at least, as in --devices cpu")
    with _signals() as received:
        return _Crew(queue, devices, orders, received).run()


@contextmanager
def only_one(folder: Path, seconds: float = GRACE_S) -> Iterator[None]:
    """Hold `folder` against a second call, and wait for the workers of one that was killed.

    Raises StoppedError where another call is at work, or such workers do not end in `seconds`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as own, (folder / WORKERS_LOCK).open("a") as workers:
        if not _try_lock(own):
            raise StoppedError(
                f"{folder}: another reproduce/run.py is at work here; wait for it, or give "
                "another --out"
            )
        end = time.monotonic() + seconds
        told = False
        while not _try_lock(workers):
            if not told:
                print(f"{folder}: a killed call's processes still save; waiting", flush=True)
            told = True
            if time.monotonic() > end:
                raise StoppedError(f"{folder}: processes of an earlier call do not end; end them")
            time.sleep(POLL_S)
        fcntl.flock(workers, fcntl.LOCK_UN)
        yield


def _try_lock(handle: Any) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _Worker:
    """The parent's side of one device: its process, made when first needed and after a death."""

    def __init__(self, device: str, orders: Orders) -> None:
        self.device, self.orders = device, orders
        self.process: Any = None
        self.connection: Connection | None = None
        self.task: Task | None = None
        self.started = 0.0

    @property
    def log(self) -> Path:
        assert self.task is not None
        return self.orders.logs / f"{self.task.name}.log"

    def start(self, task: Task) -> None:
        """Hand a task over."""
        if self.process is None or not self.process.is_alive():
            self._spawn()
        self.task, self.started = task, time.monotonic()
        assert self.connection is not None
        with suppress(OSError):  # it died just now; `answer` will see that
            self.connection.send((task, self.log))

    def answer(self) -> Answer | None:
        """How the running task ended; None while it runs."""
        assert self.connection is not None
        if self.connection.poll():
            try:
                answer: Answer = self.connection.recv()
                if answer.status == "stopped":
                    self.process.join()
                return answer
            except (EOFError, OSError):  # it died before it could answer
                pass
        elif self.process.is_alive():
            return None
        self.process.join()
        code = self.process.exitcode
        if code in (-signal.SIGTERM, 128 + signal.SIGTERM):
            return Answer("stopped", "was told to leave")
        why = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        return Answer("failed", f"its process ended: {why}" + " (memory?)" * (code == -9))

    def end(self, grace_s: float) -> None:
        """Let the process go; kill it where it does not."""
        if self.process is None:
            return
        assert self.connection is not None
        self.connection.close()
        self.process.join(grace_s)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def _spawn(self) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA does not live through a fork
        if self.connection is not None:
            self.connection.close()
        self.connection, theirs = context.Pipe()
        lock = self.orders.folder / WORKERS_LOCK
        self.process = context.Process(
            target=work, args=(theirs, self.orders.action, self.device, lock)
        )
        self.process.start()
        theirs.close()


class _Crew:
    """The loop: free devices take tasks, answers come back, signals and time end it."""

    def __init__(
        self, queue: Queue, devices: Sequence[str], orders: Orders, received: list[int]
    ) -> None:
        self.queue, self.orders, self.received = queue, orders, received
        self.workers = [_Worker(device, orders) for device in devices]
        self.began = self.said = time.monotonic()
        self.stopped, self.stopped_at, self.killed = "", 0.0, False

    def run(self) -> Report:
        try:
            while True:
                self._look_at_signals_and_clock()
                if not self.stopped:
                    self._hand_out()
                busy = [worker for worker in self.workers if worker.task is not None]
                if not busy:
                    break
                handles = [h for w in busy for h in (w.connection, w.process.sentinel) if h]
                wait(handles, POLL_S)
                for worker in busy:
                    self._collect(worker)
                self._say_status()
        finally:
            for worker in self.workers:
                worker.end(10.0 if self.stopped else self.orders.grace_s)
        return self.queue.close(self.stopped)

    def _hand_out(self) -> None:
        for worker in self.workers:
            while worker.task is None:
                task = self.queue.take()
                if task is None:
                    return
                if self.orders.is_done(task):
                    self.queue.finish(task, Answer("done"))
                    self._say(f"{task.name}: done already")
                    continue
                worker.start(task)
                self._say(f"{worker.device}: {task.name}")

    def _collect(self, worker: _Worker) -> None:
        answer = worker.answer()
        if answer is None:
            return
        task, log = worker.task, worker.log
        assert task is not None
        if answer.status == "stopped" and not self.stopped:  # by someone else
            answer = Answer("failed", answer.message)
        if self.killed and answer.status == "failed":
            answer = Answer("stopped")
        worker.task = None
        self.queue.finish(task, answer)
        took = timedelta(seconds=round(time.monotonic() - worker.started))
        if answer.status == "failed":
            self._say(f"{task.name}: FAILED after {took}: {answer.message}\n  log: {log}")
        else:
            self._say(f"{task.name}: {answer.status} after {took}")

    def _look_at_signals_and_clock(self) -> None:
        now = time.monotonic()
        seconds = self.orders.seconds
        over = seconds is not None and now - self.began >= seconds
        if not self.stopped and (self.received or over):
            self.stopped = signal.Signals(self.received[0]).name if self.received else TIME
            self.stopped_at = now
            why = "told to leave" if self.received else "the time is over"
            self.orders.say(f"{why}: the running tasks save and end")
            self._each_running("terminate")
        late = bool(self.stopped) and now - self.stopped_at > self.orders.grace_s
        if self.stopped and not self.killed and (late or len(self.received) > 1):
            self.killed = True
            self._each_running("kill")

    def _each_running(self, method: str) -> None:
        for worker in self.workers:
            if worker.process is not None and worker.process.is_alive():
                getattr(worker.process, method)()

    def _say(self, text: str) -> None:
        self.orders.say(f"[{self.queue.ended}/{self.queue.total}] {text}")

    def _say_status(self) -> None:
        now = time.monotonic()
        if now - self.said < STATUS_S:
            return
        self.said = now
        for worker in self.workers:
            if worker.task is not None:
                took = timedelta(seconds=round(now - worker.started))
                line = last_line(worker.log)
                self._say(f"{worker.device}: {worker.task.name}, {took}: {line}")


def last_line(path: Path, size: int = 2000) -> str:
    """The last line of a text file that is not empty; "" where there is none."""
    try:
        with path.open("rb") as handle:
            handle.seek(max(path.stat().st_size - size, 0))
            text = handle.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM append to, instead of ending the process."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before: Mapping[int, Any] = {n: signal.signal(n, note) for n in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
