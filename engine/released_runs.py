"""Run folders of released files: what they predicted is kept and found like a trained run's."""

from __future__ import annotations

from typing import Any

from engine.run_folders import Run, find_runs, free_time, mark_done
from models.released import RELEASED
from utils.config import Evaluation
from utils.files import sha256_of, write_json


def released_run(evaluation: Evaluation) -> Run:
    """The run of `evaluation.released`, in `<time>_<stage>_released`; a new one is not on disk yet.

    The newest one (of --time, where that is given) of the same bytes and the same sources, or a new
    one. Raises FileNotFoundError where the file is missing, ValueError where the target is one of
    the sources or --time names the folder of another file.
    """
    file, sources, stage = evaluation.released, evaluation.sources, evaluation.stage
    if file is None or not file.is_file():
        raise FileNotFoundError(f"--released {file}: no file there; give a state dict of {stage}")
    if evaluation.target in sources:
        raise ValueError(
            f"--target {evaluation.target}: is one of --sources, so a result would be no test"
        )
    same = {"method": RELEASED, "sources": sources, "released_sha256": sha256_of(file)}
    for run in find_runs(evaluation.checkpoints, stage, **same):
        if not evaluation.time or run.time in evaluation.time:
            return run
    time = evaluation.time[0] if evaluation.time else free_time(evaluation.checkpoints, stage)
    folder = evaluation.checkpoints / f"{time}_{stage}_{RELEASED}"
    if folder.exists():
        raise ValueError(
            f"{folder}: made from another file or with other --sources; give another --time"
        )
    return Run(folder, time, sources, None, RELEASED, None)


def record_released_run(evaluation: Evaluation, run: Run) -> None:
    """Write what `find_runs` reads, and the mark of a finished training."""
    assert evaluation.released is not None
    facts: dict[str, Any] = {
        "stage": evaluation.stage,
        "method": run.method,
        "seed": run.seed,
        "time": run.time,
        "sources": list(run.sources),
        "target": run.target,
        "fold": run.fold,
        "holdout": run.holdout,
        "released": str(evaluation.released),
        "released_sha256": sha256_of(evaluation.released),
        "config_hash": run.config_hash,
        "split_hash": run.split_hash,
        "names_hash": run.names_hash,
        "contents": {},
        "test_cases": [],
        "heldout_cases": [],
        "dropped_cases": [],
    }
    write_json(run.folder / "run.json", facts)
    mark_done(run.folder)
