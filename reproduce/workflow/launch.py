"""Run the steps of a plan by Snakemake, and say how they end.

Nothing here knows of training: it is given names, actions and needs. Snakemake decides what runs
when and where; signals and the end of the time go to the steps, which save before they exit.
"""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from reproduce.workflow.plan_file import Entry, PlanFile, forget_step, read_status
from reproduce.workflow.processes import (
    GRACE_S,
    POLL_S,
    no_step_runs,
)
from utils.signals import exit_with_parent, noted_signals

SNAKEFILE = Path(__file__).with_name("Snakefile")
LOCAL, TIME, KILLED = "local", "time", "Snakemake was killed"
NO_ANSWER = {
    "": "it was not started; see logs/snakemake.log",
    "running": "its process was killed (out of memory?)",
    "terminated": "its process was told to exit (SIGTERM)",
}
STATUS_S = 60.0  # how often a line says where the running steps are


@dataclass(frozen=True)
class Engine:
    """How Snakemake runs the steps: `executor` and, for a cluster, `jobs` at once and a profile.

    `seconds`: when to end; None: no limit.
    """

    executor: str = LOCAL
    jobs: int = 1
    profile: Path | None = None
    seconds: float | None = None
    grace_s: float = GRACE_S
    say: Callable[[str], None] = print


@dataclass
class Outcome:
    """How the steps ended. `stopped`: "" (they ran to the end) or what stopped them."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # name -> why
    skipped: dict[str, str] = field(default_factory=dict)  # name -> the failed step it needs
    left: list[str] = field(default_factory=list)
    stopped: str = ""


def run_steps(plan: PlanFile, engine: Engine) -> Outcome:
    """Run every step of the plan once, behind those that it needs.

    A step that fails skips those that need it; the others run. SIGINT, SIGTERM, SIGHUP or the end
    of `engine.seconds` tell the running ones to save and exit; a second signal kills them.
    """
    if not plan.steps:
        return Outcome()
    for step in plan.steps:
        forget_step(plan.out, step.name)
    with noted_signals() as received, _snakemake(plan, engine) as process:
        stopped = _Watch(plan, engine, process, received).wait()
    return _outcome(plan, stopped)


@contextmanager
def _snakemake(plan: PlanFile, engine: Engine) -> Iterator[subprocess.Popen[bytes]]:
    """Snakemake at work, in a session of its own: Ctrl-C in a terminal is this process's business.

    When this process is killed, so is Snakemake, and by that its steps are told to exit; on a
    cluster it is interrupted instead, so that it can cancel its jobs.
    """
    words = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE)]
    words += ["--directory", str(plan.out), "--config", f"plan={plan.write()}"]
    words += ["--keep-going", "--nolock", "--rerun-incomplete", "--rerun-triggers", "mtime"]
    words += ["--scheduler", "greedy", "--drop-metadata"]
    if engine.executor == LOCAL:
        number = str(len(plan.devices))
        words += ["--cores", number, "--resources", f"device={number}"]
    else:
        words += ["--executor", engine.executor, "--jobs", str(engine.jobs)]
    if engine.profile is not None:
        words += ["--profile", str(engine.profile)]
    # Its Slurm plugin asks for a cluster's configuration when it is loaded, whatever the executor:
    # where Slurm's tools find no controller, they would say so after ten seconds.
    own = {"SLURM_CONF": os.devnull} if engine.executor == LOCAL else {}
    death = signal.SIGKILL if engine.executor == LOCAL else signal.SIGINT
    log = plan.out / "logs" / "snakemake.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("ab") as handle,
        subprocess.Popen(
            words,
            env={**os.environ, **own},
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=functools.partial(exit_with_parent, death, os.getpid()),
        ) as process,
    ):
        yield process


class _Watch:
    """Waits for Snakemake, says how the steps are, and ends them on a signal or in time."""

    def __init__(
        self,
        plan: PlanFile,
        engine: Engine,
        process: subprocess.Popen[bytes],
        received: list[int],
    ) -> None:
        self.plan, self.engine, self.process, self.received = plan, engine, process, received
        self.began = self.said = time.monotonic()
        self.seen: dict[str, str] = {}  # the last status of each step
        self.started: dict[str, float] = {}
        self.told: set[int] = set()  # pids that have got SIGTERM
        self.stopped, self.stopped_at = "", 0.0

    def wait(self) -> str:
        """Until the last step has ended; what stopped them, or ""."""
        while self.process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(POLL_S)
            self._look()
        ended = time.monotonic()
        if self.process.returncode < 0 and not self.stopped:
            self.stopped, self.stopped_at = KILLED, ended
        while not no_step_runs(self.plan.out, POLL_S):
            self._look()
            if time.monotonic() - ended > 2 * self.engine.grace_s:
                break  # of a cluster's node that does not answer any more
        self._look()
        return self.stopped

    def _look(self) -> None:
        """One round: the clock, signals, and what is new of the steps."""
        now, engine = time.monotonic(), self.engine
        over = engine.seconds is not None and now - self.began >= engine.seconds
        if not self.stopped and (self.received or over):
            self.stopped = signal.Signals(self.received[0]).name if self.received else TIME
            self.stopped_at = now
            why = self.stopped if self.received else "the time is over"
            engine.say(f"{why}: the running steps save and end")
            # At SIGTERM it starts no more steps; at SIGINT it also cancels those on a cluster.
            self._signal_engine(signal.SIGTERM if engine.executor == LOCAL else signal.SIGINT)
        late = bool(self.stopped) and now - self.stopped_at > engine.grace_s
        kill = bool(self.stopped) and (late or len(self.received) > 1)
        if kill:
            self._signal_engine(signal.SIGKILL)
        self._show_steps(now)
        if self.stopped:
            self._end_steps(kill)

    def _signal_engine(self, number: int) -> None:
        with suppress(ProcessLookupError):
            if self.process.poll() is None:
                self.process.send_signal(number)

    def _end_steps(self, kill: bool) -> None:
        """Tell the steps on this machine to exit: once, then, with `kill`, by force."""
        for step in self.plan.steps:
            status = read_status(self.plan.out, step.name)
            if status.get("status") != "running" or status["host"] != socket.gethostname():
                continue
            with suppress(ProcessLookupError):
                if kill:
                    os.kill(status["pid"], signal.SIGKILL)
                elif status["pid"] not in self.told:
                    self.told.add(status["pid"])
                    os.kill(status["pid"], signal.SIGTERM)

    def _show_steps(self, now: float) -> None:
        running = []
        for step in self.plan.steps:
            status = read_status(self.plan.out, step.name)
            word, before = status.get("status", ""), self.seen.get(step.name, "")
            if word == "running":
                running.append((step, status))
            if word == before:
                continue
            self.seen[step.name] = word
            if word == "running":
                self.started[step.name] = now
                self._say(f"{status['device']}: {step.name}")
            else:
                self._say(_ended(step, status, self.plan.out))
        if now - self.said >= STATUS_S:
            self.said = now
            for step, status in running:
                took = _clock(now - self.started[step.name])
                line = last_line(_log(self.plan.out, step.name))
                self._say(f"{status['device']}: {step.name}, {took}: {line}")

    def _say(self, text: str) -> None:
        ended = sum(word not in ("", "running") for word in self.seen.values())
        self.engine.say(f"[{ended}/{len(self.plan.steps)}] {text}")


def _outcome(plan: PlanFile, stopped: str) -> Outcome:
    """What the states of the steps say, once all have ended; each comes behind its needs."""
    outcome = Outcome(stopped=stopped)
    for step in plan.steps:
        status = read_status(plan.out, step.name)
        failed = next((n for n in step.needs if n in outcome.failed or n in outcome.skipped), None)
        if status.get("status") == "done":
            outcome.done.append(step.name)
        elif status.get("status") == "failed":
            outcome.failed[step.name] = status["message"]
        elif failed is not None:
            outcome.skipped[step.name] = failed
        elif stopped:
            outcome.left.append(step.name)
        else:
            outcome.failed[step.name] = NO_ANSWER[status.get("status", "")]
    outcome.stopped = stopped if outcome.left else ""
    return outcome


def _ended(step: Entry, status: dict[str, Any], out: Path) -> str:
    took = _clock(status.get("seconds", 0.0))
    if status["status"] == "failed":
        message = f"{step.name}: FAILED after {took}: {status['message']}"
        return f"{message}\n  log: {_log(out, step.name)}"
    return f"{step.name}: {status['status']} after {took}"


def _log(out: Path, name: str) -> Path:
    return out / "logs" / f"{name}.log"


def _clock(seconds: float) -> timedelta:
    return timedelta(seconds=round(seconds))


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
