"""The threshold `source-val`: chosen on held-out cases of the source centers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine.results import result_folder
from engine.run_folders import Run
from utils.commands import command_line, to_arguments
from utils.config import Evaluation
from utils.files import read_json, write_json
from utils.metrics import dsc
from utils.postprocess import keep_components
from utils.stages import Stage

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # the paper's three are among them
MIDDLE = 0.5

Sweep = dict[str, float]  # threshold, as text -> Dice in percent


def sweep_path(folder: Path, case_id: str) -> Path:
    """Where a held-out case's Dice at every threshold is kept."""
    return folder / "sweeps" / f"{case_id}.json"


def write_sweep(path: Path, prob: np.ndarray, mask: np.ndarray) -> None:
    """Dice (%) of the prediction at each of `THRESHOLDS`, components kept as in the result.

    `prob` float32 and `mask` bool, (z, y, x), on the original grid. The crops of a recurrent stage
    are those that its own threshold gave.
    """
    write_json(path, {f"{t:g}": dsc(keep_components(prob > t), mask) for t in THRESHOLDS})


def heldout_sweeps(evaluation: Evaluation, run: Run, stage: Stage) -> list[list[Sweep]]:
    """For each source center the sweeps of its held-out cases, of one run.

    Raises ValueError where the run held none out, FileNotFoundError, with the command to give,
    where they are not predicted yet.
    """
    names = sorted({center for center, _ in run.heldout_cases})
    if not names:
        raise ValueError(
            f"{run.folder}: trained on every case of its sources, so none is left to choose a "
            "threshold on; train it with --holdout 0.1, or use --threshold target"
        )
    sweeps = []
    for name in names:
        heldout = replace(evaluation, cases="heldout", threshold="target")
        folder = result_folder(run, stage.name, name, heldout)
        if not (folder / "done").is_file():
            options = {
                "sources": run.sources if run.fold is None else (),
                "target": run.target,
                "fold": run.fold,
                "method": run.method,
                "seed": run.seed,
                "roi_source": evaluation.roi_source,
                "cases": heldout.cases,
                "time": run.time,
                **{key: getattr(evaluation, key) for key in ("centers", "checkpoints", "cache")},
            }
            command = command_line("evaluate", stage.name, to_arguments(options))
            raise FileNotFoundError(
                f"the threshold source-val of {run.folder} needs the held-out cases of {name}, and "
                f"they are missing or unfinished in {folder}; evaluate the stages before on them, "
                f"then give\n  {command}"
            )
        cases = [case_id for center, case_id in sorted(run.heldout_cases) if center == name]
        paths = [sweep_path(folder, case_id) for case_id in cases]
        cure = f"delete {folder} and evaluate the held-out cases again"
        needed = [f"{t:g}" for t in THRESHOLDS]
        sweeps.append([read_json(p, cure, needed) for p in paths if p.is_file()])
    return sweeps


def best_threshold(sweeps: Sequence[Sequence[Sweep]]) -> float:
    """The threshold of the highest Dice: mean over a center's cases, then over the centers.

    Of equal ones, that nearest to 0.5. Raises ValueError where no case has a label.
    """
    centers = [center for center in sweeps if center]
    if not centers:
        raise ValueError("no held-out case has a label to choose a threshold on")

    def goodness(threshold: float) -> tuple[float, float]:
        key = f"{threshold:g}"
        mean = float(np.mean([np.mean([case[key] for case in center]) for center in centers]))
        return round(mean, 9), -abs(threshold - MIDDLE)

    return max(THRESHOLDS, key=goodness)
