"""`--crops-from predictions`: training crops around what a coarse network finds in unseen cases.

A coarse network finds its own training cases nearly as they are labeled, and unseen centers worse.
So each source center is predicted by a coarse network of the other sources, which has seen neither
it nor the target: the folds are the source centers, and what they cost is a coarse training for
each. They are usual runs and evaluations; with a missing one the training is refused with the
commands to give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data.prepare.prepared_case import PreparedCase
from data.readers.masks import read_mask
from data.roi import Box
from data.splits import CaseName, Split
from engine.cascade import mask_box
from engine.case_metrics import read_cases
from engine.command_line import config_arguments, evaluation_arguments
from engine.results import Result, digest_result, result_folder, why_outdated
from engine.run_folders import Run, find_runs
from methods import make_config
from utils.commands import command_line
from utils.config import Config, Evaluation
from utils.files import read_json, write_json
from utils.stages import PREDICTIONS, STAGES

COARSE = "tumor_coarse"
NOTE = "crops.json"  # in the run folder: the results that the crops are from


def find_predictions(config: Config, split: Split) -> dict[str, Result]:
    """For each source of a split the result of a coarse network of the others; {} for labels.

    In the pancreas of the labels (`--roi-source mask`). Raises FileNotFoundError with the commands
    to give where one is missing, and ValueError for a single source, a fold inside a center, and a
    result that no longer holds.
    """
    if config.stage.crops_from != PREDICTIONS:
        return {}
    if split.fold is not None or len(split.sources) < 2:
        raise ValueError(
            "--crops-from predictions: each source is predicted by a network of the others, so "
            "give two or more --sources and no --fold"
        )
    found, missing = {}, []
    for name in split.sources:
        others = tuple(source for source in split.sources if source != name)
        asked = _evaluation(config, name, others)
        run = _newest(config, others)
        folder = None if run is None else result_folder(run, COARSE, name, asked)
        result = None if folder is None else Result(folder, COARSE, name, None, _masks(folder))
        if run is None or result is None or not result.done:
            missing += [] if run is not None else [_train(config, name, others)]
            missing += [command_line("evaluate", COARSE, evaluation_arguments(asked))]
            continue
        outdated = why_outdated(config.checkpoints, result.folder)
        if outdated:
            again = command_line("evaluate", COARSE, evaluation_arguments(asked))
            raise ValueError(f"--crops-from predictions: {outdated}; give\n  {again}")
        found[name] = result
    if missing:
        raise FileNotFoundError(
            "--crops-from predictions needs what coarse networks find in sources that they were "
            "not trained on; give\n  " + "\n  ".join(missing)
        )
    return found


def predicted_boxes(
    results: dict[str, Result], cases: Sequence[PreparedCase]
) -> dict[CaseName, Box] | None:
    """What each training case is cropped around; None for the labels.

    As in the cascade: the box of what was found, or the pancreas where that was nothing. Raises
    ValueError where a mask is missing or not the one that was evaluated.
    """
    if not results:
        return None
    boxes = {}
    for case in cases:
        if "tumor" not in case.boxes:  # trains nothing
            continue
        result = results[case.center]
        result.check_mask(case.case_id)
        box = mask_box(read_mask(result.mask_path(case.case_id), case.grid), case)
        boxes[case.center, case.case_id] = case.boxes["pancreas"] if box is None else box
    return boxes


def note_predictions(run: Run, results: dict[str, Result]) -> None:
    """Write which results the crops of a run are from, with their digests.

    Raises ValueError where the run that resumes began with others.
    """
    if not results:
        return
    now = {name: digest_result(result.folder) for name, result in results.items()}
    path = run.folder / NOTE
    if not path.is_file():
        write_json(path, now)
        return
    before = read_json(path, "start a new run with --no-resume")
    changed = sorted(name for name in now if before.get(name) != now[name])
    if changed:
        raise ValueError(
            f"{run.folder}: the coarse results on {', '.join(changed)} changed since it began; "
            "start a new run with --no-resume"
        )


def _newest(config: Config, others: tuple[str, ...]) -> Run | None:
    """The finished coarse run of exactly these sources: of this timestamp, of this seed, newest."""
    runs = [
        run
        for run in find_runs(config.checkpoints, COARSE, method=config.method, fold=None)
        if run.done and set(run.sources) == set(others)
    ]
    runs.sort(key=lambda run: (run.time == config.time, run.seed == config.seed), reverse=True)
    return runs[0] if runs else None


def _evaluation(config: Config, name: str, others: tuple[str, ...]) -> Evaluation:
    return Evaluation(
        COARSE,
        centers=config.centers,
        sources=others,
        target=name,
        checkpoints=config.checkpoints,
        cache=config.cache,
        roi_source="mask",
        method=config.method,
    )


def _train(config: Config, name: str, others: tuple[str, ...]) -> str:
    """The command of the coarse training, with what a run shares with that of the fine stage."""
    default = make_config(STAGES[COARSE], config.method)
    coarse = replace(
        config,
        stage=default.stage,
        settings=default.settings,
        sources=others,
        target=name,
        time=None,
        precision=default.precision,
    )
    return command_line("train", COARSE, config_arguments(coarse))


def _masks(folder: Path) -> dict[str, str]:
    rows = read_cases(folder / "cases.csv") if (folder / "cases.csv").is_file() else []
    return {str(row["case_id"]): str(row.get("mask_sha256")) for row in rows}
