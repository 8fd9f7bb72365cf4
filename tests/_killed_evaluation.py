"""A script that evaluates, is killed where it was told, and begins again: see `main`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import engine.evaluation
from methods import METHODS
from tests._evaluation_fixtures import WindowMethod
from utils.config import Evaluation


def kill_at(name: str, call: int, when: str) -> None:
    """Make the given call (from 1) of a function that the pipeline uses the process's last."""
    real: Callable[..., Any] = getattr(engine.evaluation, name)
    calls = []

    def deadly(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        if when == "before" and len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        value = real(*args, **kwargs)
        if when == "after" and len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    setattr(engine.evaluation, name, deadly)


def main() -> None:
    """CENTERS CHECKPOINTS CACHE LOG STAGE, then any number of FUNCTION:CALL:before|after.

    For each of these a process evaluates STAGE and is killed there; a last one runs to its end.
    Each appends the cases that it has predicted to LOG, and a line with its exit status.
    """
    centers, checkpoints, cache, log = (Path(word) for word in sys.argv[1:5])
    METHODS["ours"] = WindowMethod
    evaluation = Evaluation(
        sys.argv[5],
        centers=centers,
        target="C",
        checkpoints=checkpoints,
        cache=cache,
        device="cpu",
        precision="fp32",
        workers=0,
    )
    for point in [*sys.argv[6:], ""]:
        child = os.fork()  # nothing has been computed yet, so no thread is lost
        if child == 0:
            _evaluate_and_die(evaluation, log, point)
        status = os.waitpid(child, 0)[1]
        with log.open("a") as handle:
            handle.write(f"status {os.waitstatus_to_exitcode(status)}\n")


def _evaluate_and_die(evaluation: Evaluation, log: Path, point: str) -> None:
    if point:
        name, call, when = point.split(":")
        kill_at(name, int(call), when)
    evaluate_case = engine.evaluation.evaluate_case

    def logged(*args: Any) -> Any:
        row = evaluate_case(*args)
        with log.open("a") as handle:
            handle.write(f"{row['case_id']}\n")
        return row

    setattr(engine.evaluation, evaluate_case.__name__, logged)
    engine.evaluation.run_stage(evaluation)
    os._exit(0)


if __name__ == "__main__":
    main()
