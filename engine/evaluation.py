"""`run_stage`: one stage's masks and measures on an unseen center, from the stage before it.

The prediction is the cascade's (`engine/cascade.py`); here are only what comes before and after it:
the earlier masks are read, the mask is written and measured. The image comes from the cache of
prepared cases; of the original files only the label is read again, for the metrics.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.case import Center
from data.centers import load_centers
from data.dataset import target_mask
from data.prepare.duplicates import keep_unseen
from data.prepare.prepare_centers import prepare_centers
from data.prepare.prepared_case import PreparedCase, PrepareSettings
from data.readers import load_label
from data.readers.masks import read_mask, write_mask
from data.roi import Box
from data.splits import CaseName
from engine.cascade import Earlier, Prediction, mask_box, segment_stage
from engine.case_metrics import Row, measure_case, read_cases, write_cases, write_summary
from engine.inference import Predictor, load_predictor, load_released_predictor
from engine.provenance import describe_origin, kept_rows
from engine.released_runs import record_released_run
from engine.results import Result, find_previous, pick_runs, result_folder, threshold_source
from engine.run_folders import Run, locked, mark_done
from engine.threshold_selection import best_threshold, heldout_sweeps, sweep_path, write_sweep
from utils.config import Evaluation
from utils.device import peak_memory_mib, reset_peak_memory
from utils.files import check_folder
from utils.leftovers import remove_leftovers
from utils.progress import Progress
from utils.stages import Stage

PANCREAS_LABEL = "pancreas label"


@dataclass(frozen=True)
class Work:
    """What all cases of one result share."""

    evaluation: Evaluation
    predictor: Predictor
    threshold: float
    center: Center
    result: Result


def run_stage(evaluation: Evaluation) -> list[Path]:
    """Predict and measure a stage on each center that was asked for; return the result folders.

    Cases that are there already are kept, so that a killed evaluation resumes. Raises
    FileNotFoundError, with the command to give, where a run or an earlier result is missing.
    """
    check_folder("--cache", evaluation.cache, written=False)
    centers = load_centers(evaluation.centers)
    folders = []
    for run, target in pick_runs(evaluation, centers):
        previous = find_previous(evaluation, run, target, centers)
        folders.append(evaluate_run(evaluation, run, centers[target], previous))
    return folders


def evaluate_run(evaluation: Evaluation, run: Run, center: Center, previous: Result | None) -> Path:
    """Predict, write and measure with one run those cases of `center` that are asked for.

    Duplicates that the run's split dropped are left out: another center's copy of them has
    trained. Raises ValueError where a case has trained the run.
    """
    predictor = open_predictor(evaluation, run)
    threshold = choose_threshold(evaluation, run, predictor.stage, center)
    settings = PrepareSettings(spacing=predictor.config.spacing)
    prepared = prepare_centers([center], evaluation.cache, settings, evaluation.workers)
    cases = select_cases(evaluation, run, center.name, prepared[center.name], predictor.train_cases)
    cases, leaked = leave_out_leaked(evaluation, predictor, cases)
    folder = result_folder(run, evaluation.stage, center.name, evaluation)
    result = Result(folder, evaluation.stage, center.name, previous)
    work = Work(evaluation, predictor, threshold, center, result)
    folder.mkdir(parents=True, exist_ok=True)
    if evaluation.released is not None:
        record_released_run(evaluation, run)
    origin = describe_origin(evaluation, run, predictor, threshold, result)
    origin |= {"leaked": leaked}
    with locked(folder):
        for place in (folder, folder / "predictions", folder / "sweeps"):
            remove_leftovers(place, alone=True)
        rows = kept_rows(result, origin, cases)
        there = {row["case_id"] for row in rows}
        evaluate_cases(work, [case for case in cases if case.case_id not in there], rows)
        write_summary(folder / "summary.json", read_cases(folder / "cases.csv"), origin)
        mark_done(folder)
    return folder


def open_predictor(evaluation: Evaluation, run: Run) -> Predictor:
    """The run's trained stage, or the released file that is evaluated in a run's place."""
    device, precision = evaluation.device, evaluation.precision
    window_voxels = evaluation.window_voxels
    if evaluation.released is None:
        return load_predictor(
            run.checkpoint, device, precision, stage=evaluation.stage, window_voxels=window_voxels
        )
    print(
        f"{evaluation.released}: nothing tells which cases have trained a released network, so "
        f"nothing checks that those of {evaluation.target} are unseen",
        flush=True,
    )
    return load_released_predictor(
        evaluation.released, evaluation.stage, device, precision, window_voxels=window_voxels
    )


def select_cases(
    evaluation: Evaluation,
    run: Run,
    center: str,
    prepared: Sequence[PreparedCase],
    train_cases: frozenset[CaseName],
) -> list[PreparedCase]:
    """The cases of `center` to evaluate: all, a fold's test cases, or the held-out ones.

    Raises ValueError where one of them has trained the run.
    """
    wanted = {(center, case.case_id) for case in prepared} - run.dropped_cases
    if evaluation.cases == "heldout":
        wanted &= run.heldout_cases
    elif run.fold is not None:
        wanted &= run.test_cases
    leaked = sorted(case_id for name, case_id in wanted & train_cases)
    if leaked:
        raise ValueError(
            f"{run.folder} was trained on {', '.join(leaked)} of {center}: a result on them would "
            "be no test; evaluate it on a center that it has not seen"
        )
    return [case for case in prepared if (center, case.case_id) in wanted]


def leave_out_leaked(
    evaluation: Evaluation, predictor: Predictor, cases: Sequence[PreparedCase]
) -> tuple[list[PreparedCase], list[str]]:
    """The cases that show no scan which trained the run, whatever their names; why others do not.

    A scan is known by its signature, so a copy in another center is found, also one that the
    training's data left out as a duplicate. Raises `DataError` where there is one, unless
    --drop-leaked asks to leave them out.
    """
    trained = [*predictor.signatures.get("train", ())]
    if evaluation.cases != "heldout":  # these have chosen thresholds and the end of the training
        trained += predictor.signatures.get("heldout", ())
    kept, leaked = keep_unseen(trained, cases, evaluation.drop_leaked)
    for sentence in leaked:
        print(f"left out: {sentence}", flush=True)
    return kept, leaked


def choose_threshold(evaluation: Evaluation, run: Run, stage: Stage, center: Center) -> float:
    """The probability above which a voxel is foreground (see `threshold_source`).

    `target`: the target center's own for the tumor, as the paper gives it, or the stage's where
    centers.toml has none. `source-val`: the one that is best on the held-out source cases.
    """
    source = threshold_source(evaluation, stage)
    if source == "source-val":
        return best_threshold(heldout_sweeps(evaluation, run, stage))
    if source == "target" and center.tumor_threshold is not None:
        return center.tumor_threshold
    return stage.threshold


def evaluate_cases(work: Work, cases: Sequence[PreparedCase], rows: Sequence[Row]) -> None:
    """Evaluate one case after the other; cases.csv grows by each, `rows` are there already."""
    progress = Progress(f"{work.result.stage} on {work.center.name}", len(cases))
    for item in cases:
        try:
            row = evaluate_case(work, item)
        except (OSError, MemoryError, RuntimeError) as error:
            error.add_note(
                f"it was {work.center.name}/{item.case_id}; what was finished before is kept in "
                f"{work.result.folder}, and the same command resumes"
            )
            raise
        rows = sorted([*rows, row], key=lambda r: r["case_id"])
        write_cases(work.result.folder / "cases.csv", rows)
        progress.advance({key: row[key] for key in ("dsc", "seconds") if key in row})
    progress.close()


def evaluate_case(work: Work, item: PreparedCase) -> Row:
    """Predict one case, write its mask on the original grid, and measure it there."""
    started = time.monotonic()
    reset_peak_memory(work.predictor.device)
    earlier = read_earlier(work, item)
    prediction = segment_stage(work.predictor, item, earlier, work.threshold)
    write_mask(work.result.mask_path(item.case_id), prediction.mask, item.grid)
    seconds = time.monotonic() - started
    assert item.files is not None  # prepared from a center's files
    label = load_label(work.center, item.files, item.grid)
    mask = None if label is None else target_mask(label, work.predictor.stage.target)
    row = measure_case(prediction.mask, mask, item.original_spacing)
    if work.evaluation.cases == "heldout" and mask is not None:
        write_sweep(sweep_path(work.result.folder, item.case_id), prediction.prob, mask)
    return row | {
        "case_id": item.case_id,
        **measure_roi(item, prediction),
        "fallback": prediction.roi.fallback,
        "rounds": prediction.rounds,
        "threshold": work.threshold,
        "windows": prediction.windows,
        "arithmetic": prediction.precision,
        "seconds": seconds,
        "peak_memory_mib": peak_memory_mib(work.predictor.device),
    }


def read_earlier(work: Work, item: PreparedCase) -> list[Earlier]:
    """The masks of the stages before, nearest first, up to the first that holds anything.

    With ROIs from labels the last of them is the pancreas of the label; a ValueError where the case
    has none.
    """
    earlier: list[Earlier] = []
    step = work.result.previous
    while step is not None:
        mask = read_mask(step.mask_path(item.case_id), item.grid)
        earlier.append((step.stage, mask_box(mask, item)))
        if earlier[-1][1] is not None:
            return earlier
        step = step.previous
    if work.evaluation.roi_source == "mask":
        if "pancreas" not in item.boxes:
            raise ValueError(f"{item.case_id}: --roi-source mask needs a pancreas label")
        earlier.append((PANCREAS_LABEL, item.boxes["pancreas"]))
    return earlier


def measure_roi(item: PreparedCase, prediction: Prediction) -> Row:
    """How much of the target lay in the box that was found before, and in it with its margin."""
    if item.label is None:
        return {}
    target = target_mask(item.label, prediction.target)
    row = {"roi_coverage_margin": coverage(target, prediction.box)}
    if prediction.roi.box is not None:
        row["roi_coverage"] = coverage(target, prediction.roi.box)
    return row


def coverage(mask: np.ndarray, box: Box) -> float:
    """Part of the mask's voxels (bool, (z, y, x)) that lie in `box`; 0 where there are none."""
    total = np.count_nonzero(mask)
    return float(np.count_nonzero(mask[box.slices]) / total) if total else 0.0
