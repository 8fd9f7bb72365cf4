"""What is there of the cells: finished runs and results, and the steps that are missing.

A result counts only with all that it was read from: another setting of an earlier stage makes it
another result, though its own run is the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from engine.case_metrics import Row, read_cases
from engine.command_line import parse_config, parse_evaluation
from engine.evaluation import digest_result
from engine.results import result_folder
from engine.run_folders import Run, find_runs
from reproduce.experiments.cells import (
    Cell,
    Plan,
    Step,
    evaluation_before,
    evaluations_of,
    steps_of,
    trainings_of,
)
from utils.commands import to_arguments
from utils.settings import to_plain
from utils.stages import STAGES

# What may differ between a run and the plan that it is used for: where and how it was computed.
NOT_COMPARED = (
    *("centers", "checkpoints", "cache", "time", "resume", "device", "precision", "workers"),
    *("checkpoint_seconds", "tensorboard", "sources", "target", "fold"),
)


def find_folders(plan: Plan, cell: Cell) -> list[Path]:
    """The finished result folders of a cell: one, or one a fold; [] where any is missing."""
    found = [find_results(step, strict=False)[:1] for step in evaluations_of(plan, cell)]
    return [results[0][cell.target] for results in found] if all(found) else []


def read_cell(plan: Plan, cell: Cell) -> list[Row] | None:
    """The rows of a cell's cases.csv, each with its center; None where the cell is missing."""
    folders = find_folders(plan, cell)
    if not folders:
        return None
    return [
        row | {"center": cell.target}
        for folder in folders
        for row in read_cases(folder / "cases.csv")
    ]


def is_done(step: Step) -> bool:
    """Whether a step's result is there, made with the plan's options."""
    return bool(finished_runs(step) if step.kind == "train" else find_results(step))


def find_results(step: Step, strict: bool = True) -> list[dict[str, Path]]:
    """The finished results of an evaluation, of the newest run first: center -> folder.

    Each is of a run that the step's training made, and was read from such a result of the stage
    before, as that is now: with other options there it would be another. `strict`: see
    `finished_runs`.
    """
    asked = parse_evaluation(STAGES[step.stage], step.argv)
    before = evaluation_before(step)
    earlier = [] if before is None else find_results(before, strict)
    results = []
    for run in finished_runs(step.needs[0], strict):
        centers = [str(asked.target)]
        if asked.protocol == "heldout":
            centers = sorted({center for center, _ in run.heldout_cases})
        result = {
            center: result_folder(run, step.stage, center, asked.roi_source, asked.protocol)
            for center in centers
        }
        if result and all(
            _is_true(folder, [other[center] for other in earlier if center in other])
            for center, folder in result.items()
        ):
            results.append(result)
    return results


def _is_true(folder: Path, earlier: Sequence[Path]) -> bool:
    """Whether a result is finished and was read from one of `earlier` as it is now.

    Of a coarse stage, or around labels, it was read from none.
    """
    if not (folder / "done").is_file():
        return False
    note = folder / "origin.json"
    origin = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
    if origin.get("previous") is None:
        return True
    parts = Path(origin["previous"]).parts
    return any(
        other.parts[-len(parts) :] == parts and digest_result(other) == origin["previous_sha256"]
        for other in earlier
    )


def missing_steps(plan: Plan, cells: Iterable[Cell]) -> list[Step]:
    """The steps of the cells that are not done, each once, behind the steps that they need.

    What stands on a step that is not done is not done either.
    """
    todo = [cell for cell in cells if not find_folders(plan, cell)]
    steps = dict.fromkeys(step for cell in todo for step in steps_of(plan, cell))
    missing: dict[Step, None] = {}
    for step in steps:
        if any(needed in missing for needed in step.needs) or not is_done(step):
            missing[step] = None
    return list(missing)


def exact_command(step: Step) -> str:
    """A step's command; that of an evaluation whose runs are there names them.

    Runs of other settings may lie beside them, and without --time the newest is evaluated.
    """
    if step.kind == "train":
        return step.command
    times = newest_times((train.stage, train.argv) for train in trainings_of(step))
    return replace(step, argv=(*step.argv, *to_arguments({"time": times}))).command


def newest_times(trainings: Iterable[tuple[str, tuple[str, ...]]]) -> tuple[str, ...]:
    """The timestamp of the newest finished run of each training (stage, arguments), for --time.

    () where the first, the evaluation's own, has none: it will be the newest when it is there.
    """
    runs = [finished_runs(Step("train", stage, argv))[:1] for stage, argv in trainings]
    return tuple(dict.fromkeys(run.time for found in runs if runs[0] for run in found))


def finished_runs(step: Step, strict: bool = True) -> list[Run]:
    """The finished runs that a training has made, wherever they were computed; newest first.

    Unless `strict`, runs that hold out another part of the sources fit too: their results are
    as true, only the threshold of the protocol `honest` asks for held-out cases.
    """
    config = parse_config(STAGES[step.stage], step.argv)
    fold = None if config.fold is None else int(config.fold)
    runs = find_runs(
        config.checkpoints,
        step.stage,
        method=config.method,
        variant=config.stage.variant,
        target=config.target,
        seed=config.seed,
        fold=fold,
    )
    sources = config.sources if fold is None else (config.target,)
    ignored = NOT_COMPARED if strict else (*NOT_COMPARED, "holdout")
    wanted = {k: v for k, v in to_plain(config).items() if k not in ignored}
    fitting = []
    for run in runs:
        made = json.loads((run.folder / "config.json").read_text(encoding="utf-8"))
        if run.done and set(run.sources) == set(sources) and wanted.items() <= made.items():
            fitting.append(run)
    return fitting
