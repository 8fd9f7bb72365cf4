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

from data.case import LABEL_TUMOR, Center
from data.centers import load_centers
from data.dataset import target_mask
from data.prepare.duplicates import keep_unseen
from data.prepare.prepare_centers import prepare_centers
from data.prepare.prepared_case import PreparedCase, PrepareSettings, to_prepared_mask
from data.readers import load_label
from data.readers.masks import read_mask, write_mask
from data.roi import Box
from data.splits import Split
from engine.cascade import Earlier, Prediction, Roi, mask_box, segment_stage
from engine.case_metrics import (
    Row,
    measure_case,
    measure_findings,
    read_cases,
    write_cases,
    write_summary,
)
from engine.crops import Found, input_box
from engine.external import (
    ExternalPredictor,
    check_evaluation,
    load_external,
    measure_pancreas,
    pancreas_summary,
    segment_external,
)
from engine.inference import Predictor, load_predictor, load_released_predictor
from engine.provenance import describe_origin, kept_rows, written_by_evaluation
from engine.released_runs import record_released_run
from engine.results import Result, find_previous, pick_runs, result_folder, threshold_source
from engine.run_folders import Run, locked, mark_done, refuse_changed
from engine.threshold_selection import best_threshold, heldout_sweeps, sweep_path, write_sweep
from engine.verification import check_run
from methods import EXTERNAL
from utils.config import Evaluation
from utils.device import device_name, peak_memory_mib, reset_peak_memory
from utils.files import check_folder, sha256_of
from utils.leftovers import remove_leftovers
from utils.progress import Progress
from utils.stages import NONE, PANCREAS, Stage, stage_named

PANCREAS_LABEL = "pancreas label"


@dataclass(frozen=True)
class Work:
    """What all cases of one result share."""

    evaluation: Evaluation
    predictor: Predictor | ExternalPredictor
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
    cases = select_cases(evaluation, run, center.name, prepared[center.name], predictor.split)
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
        rows = read_cases(folder / "cases.csv")
        write_summary(folder / "summary.json", rows, {**origin, **pancreas_summary(folder, rows)})
        mark_done(folder, written_by_evaluation(folder))
    return folder


def open_predictor(evaluation: Evaluation, run: Run) -> Predictor | ExternalPredictor:
    """The run's trained stage or system, or the released file that is evaluated in its place."""
    if run.method in EXTERNAL:
        refuse_changed(run)
        system = load_external(run, evaluation.device)
        check_run(run, system)
        check_evaluation(evaluation, system)
        return system
    device, precision = evaluation.device, evaluation.precision
    window_voxels = evaluation.window_voxels
    if evaluation.released is None:
        refuse_changed(run)
        predictor = load_predictor(
            run.checkpoint, device, precision, stage=evaluation.stage, window_voxels=window_voxels
        )
        check_run(run, predictor)
        return predictor
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
    split: Split | None,
) -> list[PreparedCase]:
    """The cases of `center` to evaluate: all, a fold's test cases, or the held-out ones.

    `split`: of the checkpoint, None where it is not known. Raises ValueError where one of the cases
    has trained the run.
    """
    wanted = {(center, case.case_id) for case in prepared}
    if split is not None:
        wanted -= set(split.dropped_cases)
    if evaluation.cases == "heldout":
        wanted &= set(split.heldout_cases if split else ())
    elif split is not None and split.fold is not None:
        wanted &= set(split.test_cases)
    leaked = sorted(case_id for _, case_id in wanted & set(split.train_cases if split else ()))
    if leaked:
        raise ValueError(
            f"{run.folder} was trained on {', '.join(leaked)} of {center}: a result on them would "
            "be no test; evaluate it on a center that it has not seen"
        )
    return [case for case in prepared if (center, case.case_id) in wanted]


def leave_out_leaked(
    evaluation: Evaluation,
    predictor: Predictor | ExternalPredictor,
    cases: Sequence[PreparedCase],
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
    if isinstance(work.predictor, ExternalPredictor):
        return evaluate_external(work, work.predictor, item)
    started = time.monotonic()
    reset_peak_memory(work.predictor.device)
    earlier = read_earlier(work, item)
    found = read_found(work, item, work.predictor.stage)
    prediction = segment_stage(work.predictor, item, earlier, work.threshold, found)
    mask_path = work.result.mask_path(item.case_id)
    write_mask(mask_path, prediction.mask, item.grid)
    seconds = time.monotonic() - started
    assert item.files is not None  # prepared from a center's files
    label = load_label(work.center, item.files, item.grid)
    mask = None if label is None else target_mask(label, work.predictor.stage.target)
    row = measure_case(prediction.mask, mask, item.original_spacing)
    if prediction.target == "tumor":
        row |= measure_detection(work, item, prediction, mask)
    if work.evaluation.cases == "heldout" and mask is not None:
        write_sweep(sweep_path(work.result.folder, item.case_id), prediction.prob, mask)
    return row | {
        "case_id": item.case_id,
        **measure_roi(item, prediction.target, prediction.box, prediction.roi),
        "fallback": prediction.roi.fallback,
        "rounds": prediction.rounds,
        "threshold": work.threshold,
        "windows": prediction.windows,
        "arithmetic": prediction.precision,
        "seconds": seconds,
        "device": device_name(work.predictor.device),
        "peak_memory_mib": peak_memory_mib(work.predictor.device),
        "mask_sha256": sha256_of(mask_path),
    }


def evaluate_external(work: Work, predictor: ExternalPredictor, item: PreparedCase) -> Row:
    """`evaluate_case` of a system that is not ours; the pancreas is measured apart."""
    started = time.monotonic()
    reset_peak_memory(predictor.device)
    earlier = read_earlier(work, item)
    found = segment_external(predictor, item, work.center, earlier)
    mask, mask_path = found.labels == LABEL_TUMOR, work.result.mask_path(item.case_id)
    write_mask(mask_path, mask, item.grid)
    seconds = time.monotonic() - started
    assert item.files is not None  # prepared from a center's files
    label = load_label(work.center, item.files, item.grid)
    measure_pancreas(work.result.folder, item.case_id, found.labels, label, item)
    truth = None if label is None else target_mask(label, predictor.stage.target)
    return measure_case(mask, truth, item.original_spacing) | {
        "case_id": item.case_id,
        **measure_roi(item, predictor.stage.target, found.box, found.roi),
        "fallback": found.roi.fallback,
        "arithmetic": predictor.precision,
        "seconds": seconds,
        "device": device_name(predictor.device),
        "peak_memory_mib": peak_memory_mib(predictor.device),
        "mask_sha256": sha256_of(mask_path),
    }


def read_earlier(work: Work, item: PreparedCase) -> list[Earlier]:
    """The masks of the stages before, nearest first, up to the first that holds anything.

    With ROIs from labels the last of them is the pancreas of the label. Raises ValueError where the
    case has none, and where a mask is not the one that was evaluated.
    """
    earlier: list[Earlier] = []
    step = work.result.previous
    while step is not None:
        step.check_mask(item.case_id)
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


def read_found(work: Work, item: PreparedCase, stage: Stage) -> Found:
    """What more the stage's settings read of the stages before it (`Found`)."""
    pancreas = pancreas_box(work, item) if stage.crop_middle == PANCREAS else None
    before = work.result.previous
    if stage.second_channel == NONE or before is None:
        return Found(pancreas)
    before.check_mask(item.case_id)
    mask = read_mask(before.mask_path(item.case_id), item.grid)
    return Found(pancreas, to_prepared_mask(mask, item))


def measure_detection(
    work: Work, item: PreparedCase, prediction: Prediction, mask: np.ndarray | None
) -> Row:
    """How sure the stage is of a tumor in the pancreas, and which lesions of the label it hits."""
    around = pancreas_box(work, item)
    roi = input_box(work.predictor.stage, item.shape, around, item.spacing)
    found = measure_findings(prediction.mask, mask, item.original_spacing, prediction.highest_at)
    return {"roi_max_prob": prediction.highest_in(roi), **found}


def pancreas_box(work: Work, item: PreparedCase) -> Box | None:
    """The pancreas that was found before, on the prepared grid, or that of the label.

    None where there is none: then the region of interest is the central window.
    """
    step = work.result.previous
    while step is not None:
        if stage_named(step.stage).target == "pancreas":
            box = mask_box(read_mask(step.mask_path(item.case_id), item.grid), item)
            if box is not None:
                return box
        step = step.previous
    return item.boxes.get("pancreas") if work.evaluation.roi_source == "mask" else None


def measure_roi(item: PreparedCase, organ: str, box: Box | None, roi: Roi) -> Row:
    """How much of the target lay in the box that was found before, and in it with its margin.

    `box`: with the margin; None: the whole image was seen, so there is nothing to tell.
    """
    if item.label is None or box is None:
        return {}
    target = target_mask(item.label, organ)
    row = {"roi_coverage_margin": coverage(target, box)}
    if roi.box is not None:
        row["roi_coverage"] = coverage(target, roi.box)
    return row


def coverage(mask: np.ndarray, box: Box) -> float:
    """Part of the mask's voxels (bool, (z, y, x)) that lie in `box`; 0 where there are none."""
    total = np.count_nonzero(mask)
    return float(np.count_nonzero(mask[box.slices]) / total) if total else 0.0
