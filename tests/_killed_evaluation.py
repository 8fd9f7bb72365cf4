"""A script that evaluates, is killed where it was told, and begins again: see `main`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import engine.case_metrics
import engine.case_pipeline
import engine.evaluation
from engine.case_metrics import read_cases
from methods import METHODS
from tests._evaluation_fixtures import WindowMethod
from utils.config import Evaluation

PLACES = {
    "read_mask": engine.case_pipeline,
    "segment_stage": engine.case_pipeline,
    "write_mask": engine.case_pipeline,
    "write_text": engine.case_metrics,  # cases.csv: once before the first case, then of each
    "write_summary": engine.evaluation,
    "mark_done": engine.evaluation,
}


def kill_at(name: str, call: int, when: str) -> None:
    """Make the given call (from 1) of a function that the pipeline uses the process's last."""
    real: Callable[..., Any] = getattr(PLACES[name], name)
    calls = []

    def deadly(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        last = len(calls) == call
        if when == "before" and last:
            os.kill(os.getpid(), signal.SIGKILL)
        value = real(*args, **kwargs)
        if when == "after" and last:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    setattr(PLACES[name], name, deadly)


def main() -> None:
    """CENTERS CHECKPOINTS CACHE LOG STAGE, then any number of FUNCTION:CALL:before|after.

    For each of these a process evaluates STAGE and is killed there; a last one runs to its end.
    Its line in LOG: the cases that it predicted, its exit status, and the cases of cases.csv then.
    """
    centers, checkpoints, cache, log = (Path(word) for word in sys.argv[1:5])
    METHODS["ours"] = WindowMethod
    engine.case_pipeline.overlaps = lambda device: True  # also on one core
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
        tables = checkpoints.glob("*/evaluation*/cases.csv")
        there = [row["case_id"] for table in tables for row in read_cases(table)]
        with log.open("a") as handle:
            handle.write(f";{os.waitstatus_to_exitcode(status)};{' '.join(there)}\n")


def _evaluate_and_die(evaluation: Evaluation, log: Path, point: str) -> None:
    if point:
        name, call, when = point.split(":")
        kill_at(name, int(call), when)
    predict_case = engine.case_pipeline.predict_case

    def logged(*args: Any) -> Any:
        with log.open("a") as handle:
            handle.write(f"{args[1].item.case_id} ")
        return predict_case(*args)

    setattr(engine.case_pipeline, predict_case.__name__, logged)
    engine.evaluation.run_stage(evaluation)
    os._exit(0)


if __name__ == "__main__":
    main()
