"""`run_stage`: one stage's masks and measures on an unseen center, from the stage before it."""

from __future__ import annotations

import hashlib
import json
import resource
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from data.case import Case, Center
from data.centers import load_centers
from data.dataset import target_mask
from data.prepare.prepare_centers import prepare_centers
from data.prepare.prepared_case import PreparedCase, PrepareSettings, restore_prob, to_prepared_mask
from data.readers import load_case
from data.readers.masks import read_mask, write_mask
from data.roi import Box, bounding_box
from data.splits import CaseName
from engine.case_metrics import Row, measure_case, read_cases, write_cases, write_summary
from engine.inference import Model, load_model, predict_case
from engine.results import Result, find_previous, pick_runs, result_folder
from engine.run_folders import Run, locked, mark_done
from engine.threshold_selection import best_threshold, heldout_sweeps, sweep_path, write_sweep
from utils.config import Evaluation
from utils.files import write_json
from utils.postprocess import keep_components
from utils.progress import Progress
from utils.stages import Stage


def run_stage(evaluation: Evaluation) -> list[Path]:
    """Predict and measure a stage on each center that was asked for; return the result folders.

    Cases that are there already are kept, so that a killed evaluation goes on where it was.
    Raises FileNotFoundError, with the command to give, where a run or an earlier result is missing.
    """
    centers = load_centers(evaluation.centers)
    folders = []
    for run, target in pick_runs(evaluation, centers):
        previous = find_previous(evaluation, run, target, centers)
        folders.append(evaluate_run(evaluation, run, centers[target], previous))
    return folders


def evaluate_run(evaluation: Evaluation, run: Run, center: Center, previous: Result | None) -> Path:
    """Predict, write and measure with one run the cases of `center` that the protocol names.

    Duplicates that the run's split dropped are left out: another center's copy of them has trained.
    Raises ValueError where a case has trained the run.
    """
    model = load_model(run, evaluation.device, evaluation.precision)
    stage = model.stage
    model.threshold = choose_threshold(evaluation, run, stage, center)
    settings = PrepareSettings(spacing=model.config.spacing)
    prepared = prepare_centers([center], evaluation.cache, settings, evaluation.workers)
    cases = select_cases(evaluation, run, center.name, prepared[center.name], model.train_cases)
    folder = result_folder(run, stage.name, center.name, evaluation.roi_source, evaluation.protocol)
    result = Result(folder, stage.name, previous)
    result.folder.mkdir(parents=True, exist_ok=True)
    origin = provenance(run, model, evaluation, center, previous)
    table = result.folder / "cases.csv"
    with locked(result.folder):
        rows = kept_rows(result, origin, cases)
        there = {row["case_id"] for row in rows}
        todo = [case for case in cases if case.case_id not in there]
        progress = Progress(f"{stage.name} on {center.name}", len(todo))
        for item in todo:
            row = evaluate_case(evaluation, model, center, item, result)
            rows = sorted([*rows, row], key=lambda r: r["case_id"])
            write_cases(table, rows)
            progress.advance({key: row[key] for key in ("dsc", "seconds") if key in row})
        progress.close()
        write_summary(result.folder / "summary.json", read_cases(table), origin)
        mark_done(result.folder)
    return result.folder


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
    if evaluation.protocol == "heldout":
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


def choose_threshold(evaluation: Evaluation, run: Run, stage: Stage, center: Center) -> float:
    """The probability above which a voxel is foreground (`paper`, `honest`; see `Evaluation`).

    `paper`: the target center's own threshold for the tumor, as the paper gives it. `honest`: the
    one that is best on the held-out source cases. `heldout` itself predicts at the stage's.
    """
    if stage.target == "pancreas" or evaluation.protocol == "heldout":
        return stage.threshold
    if evaluation.protocol == "paper":
        return stage.threshold if center.tumor_threshold is None else center.tumor_threshold
    return best_threshold(heldout_sweeps(evaluation, run, stage))


def evaluate_case(
    evaluation: Evaluation, model: Model, center: Center, item: PreparedCase, result: Result
) -> Row:
    """Predict one case, write its mask on the original grid, and measure it there."""
    started = time.monotonic()
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
    assert item.files is not None  # prepared from a center's files
    case = load_case(center, item.files)
    around, fallback = find_roi(evaluation, model, case, item, result)
    prediction = predict_case(model, item.image_hu, around)
    prob = restore_prob(prediction.prob, item)
    pred = keep_components(prob > model.threshold)
    write_mask(result.mask_path(item.case_id), pred, case.grid)
    seconds = time.monotonic() - started
    mask = None if case.label is None else target_mask(case.label, model.stage.target)
    row = measure_case(pred, mask, case.spacing)
    if item.label is not None:
        row["roi_coverage_margin"] = coverage(item, model.stage.target, prediction.box)
        if around is not None:
            row["roi_coverage"] = coverage(item, model.stage.target, around)
    if evaluation.protocol == "heldout" and mask is not None:
        write_sweep(sweep_path(result.folder, item.case_id), prob, mask)
    return row | {
        "case_id": item.case_id,
        "fallback": fallback,
        "rounds": prediction.rounds,
        "threshold": model.threshold,
        "seconds": seconds,
        "peak_memory_mib": peak_memory_mib(model.device),
    }


def find_roi(
    evaluation: Evaluation, model: Model, case: Case, item: PreparedCase, result: Result
) -> tuple[Box | None, str]:
    """The box to crop around, and which fallback gave it ("" where none was needed).

    The stage before gives it; where its mask is empty, the one before that ("even where coarse
    segmentation fails completely, the fine model can compensate"); at last the central window.
    """
    stage = model.stage
    if stage.roi == "volume":
        return None, ""
    step = result.previous
    while step is not None:
        mask = to_prepared_mask(read_mask(step.mask_path(item.case_id), case.grid), item)
        box = bounding_box(mask)
        if box is not None:
            return box, "" if step is result.previous else step.stage
        step = step.previous
    if evaluation.roi_source == "mask":
        box = item.boxes.get("pancreas")
        if box is None:
            raise ValueError(f"{item.case_id}: --roi-source mask needs a pancreas label")
        return box, "" if stage.roi == "pancreas" else "pancreas label"
    return None, "whole volume"


def coverage(item: PreparedCase, target: str, box: Box) -> float:
    """Part of the target's voxels (prepared grid) that lie in `box`; 0 where there are none."""
    assert item.label is not None
    mask = target_mask(item.label, target)
    total = np.count_nonzero(mask)
    return float(np.count_nonzero(mask[box.slices]) / total) if total else 0.0


def peak_memory_mib(device: torch.device) -> float:
    """Most memory held so far: of the GPU for this case, of the process on a CPU; MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def provenance(
    run: Run, model: Model, evaluation: Evaluation, center: Center, previous: Result | None
) -> Row:
    """What a result was made from: its model's file, its threshold, the result before it."""
    relative = previous.folder.relative_to(evaluation.checkpoints) if previous else None
    return {
        "stage": model.stage.name,
        "method": run.method,
        "variant": run.variant,
        "seed": run.seed,
        "time": run.time,
        "sources": list(run.sources),
        "target": center.name,
        "fold": run.fold,
        "protocol": evaluation.protocol,
        "roi_source": evaluation.roi_source,
        "split_hash": model.split_hash,
        "threshold": model.threshold,
        "checkpoint_sha256": _sha256(run.checkpoint),
        "previous": str(relative) if relative else None,
        "previous_sha256": digest_result(previous.folder) if previous else None,
    }


def digest_result(folder: Path) -> str:
    """Changes with every new evaluation into this folder."""
    return _sha256(folder / "origin.json", folder / "cases.csv")


def kept_rows(result: Result, origin: Row, prepared: Sequence[PreparedCase]) -> list[Row]:
    """Rows of an earlier call that are still true; the others leave cases.csv.

    All are given up when the origin changed, and that of a case whose files or label map did.
    """
    note, cases = result.folder / "origin.json", result.folder / "cases.csv"
    (result.folder / "done").unlink(missing_ok=True)
    keys = {case.case_id: case.folder.name for case in prepared if case.folder is not None}
    before = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
    keys_before = before.pop("cases", {})
    rows = []
    for row in read_cases(cases) if before == origin else []:
        name = row["case_id"]
        same = name in keys and keys[name] == keys_before.get(name)
        if same and result.mask_path(name).is_file():
            rows.append(row)
    write_cases(cases, rows)  # before the note that would make older rows look true
    write_json(note, {**origin, "cases": keys})
    return rows


def _sha256(*paths: Path) -> str:
    content = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            content.update(hashlib.file_digest(stream, "sha256").digest())
    return content.hexdigest()
