"""`run_stage`: one stage's masks and measures on an unseen center, from the stage before it."""

from __future__ import annotations

import hashlib
import json
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.case import Case
from data.centers import Center, load_centers
from data.dataset import target_mask
from data.preprocess import (
    PreparedCase,
    PrepareSettings,
    prepare_centers,
    restore_prob,
    to_prepared_mask,
)
from data.readers import load_case
from data.readers.masks import read_mask, write_mask
from data.roi import Box, bounding_box
from utils.checkpoint import write_json
from utils.config import Evaluation, stage_named
from utils.evaluation import Row, measure_case, read_cases, write_cases, write_summary
from utils.inference import Model, load_model, predict_case
from utils.postprocess import keep_components
from utils.progress import Progress
from utils.runs import Run, find_runs, locked, mark_done


@dataclass(frozen=True)
class Result:
    """The evaluation of one run on one center: masks that the next stage reads."""

    folder: Path
    stage: str
    previous: Result | None

    def mask_path(self, case_id: str) -> Path:
        """Where the mask of a case is, on the grid of its image."""
        return self.folder / "predictions" / f"{case_id}.nii.gz"

    @property
    def done(self) -> bool:
        """Whether every case is there; the mark is written last."""
        return (self.folder / "done").is_file()


def run_stage(evaluation: Evaluation) -> list[Path]:
    """Predict and measure a stage on each center that was asked for; return the result folders.

    Cases that are there already are kept, so that a killed evaluation goes on where it was.
    Raises FileNotFoundError, with the command to give, where a run or an earlier result is missing.
    """
    centers = load_centers(evaluation.centers)
    folders = []
    for run, target in pick_runs(evaluation, centers):
        previous = find_previous(evaluation, run, target)
        folders.append(evaluate_run(evaluation, run, centers[target], previous))
    return folders


def pick_runs(evaluation: Evaluation, centers: dict[str, Center]) -> list[tuple[Run, str]]:
    """The finished runs to evaluate, each with its center: the newest timestamp, or --time."""
    target = evaluation.target
    if target is not None and target not in centers:
        raise ValueError(
            f"--target {target}: not in {evaluation.centers}, which has {', '.join(centers)}"
        )
    wanted: dict[str, Any] = {}
    if evaluation.time is not None:
        wanted["time"] = evaluation.time
    if evaluation.sources:
        wanted["sources"] = evaluation.sources
    runs = find_runs(evaluation.checkpoints, evaluation.stage, **wanted)
    if target is not None:
        runs = [run for run in runs if target not in run.sources]
        runs = [run for run in runs if run.target == target] or runs
    finished = [run for run in runs if run.done]
    if not finished:
        raise FileNotFoundError(_missing_run(evaluation, runs))
    newest = [run for run in finished if run.time == finished[0].time]
    if target is not None and len(newest) > 1:
        choices = "; ".join(" ".join(run.sources) for run in newest)
        raise ValueError(f"--target {target}: several runs fit; add --sources, one of: {choices}")
    pairs = [(run, target or run.target or "") for run in newest]
    for run, name in pairs:
        if name not in centers:
            raise ValueError(f"{run.folder}: its center {name!r} is not in {evaluation.centers}")
    return pairs


def find_previous(evaluation: Evaluation, run: Run, target: str) -> Result | None:
    """The result of the stage before, on the same center; prefers the timestamp of `run`.

    With ROIs from labels ("mask") the tumor's coarse stage needs no result.
    """
    stage = stage_named(evaluation.stage)
    if evaluation.roi_source == "mask" and stage.target == "pancreas":
        raise ValueError("--roi-source mask is for the tumor stages: it replaces the pancreas ones")
    if stage.previous is None or (evaluation.roi_source == "mask" and stage.roi == "pancreas"):
        return None
    runs = [
        earlier
        for earlier in find_runs(evaluation.checkpoints, stage.previous)
        if target not in earlier.sources and set(run.sources) <= set(earlier.sources)
    ]
    if stage.target == "tumor":
        runs = [r for r in runs if r.sources == run.sources] + runs
    runs.sort(key=lambda earlier: earlier.time != run.time)
    finished = [earlier for earlier in runs if earlier.done]
    for earlier in finished:
        result = Result(result_folder(earlier, target, evaluation.roi_source), stage.previous, None)
        if result.done:
            before = json.loads((result.folder / "summary.json").read_text(encoding="utf-8"))
            return _chain(evaluation.checkpoints, result, before["previous"])
    flags = f"--target {target} --centers {evaluation.centers}"
    flags += f" --checkpoints {evaluation.checkpoints}"
    if not finished:
        state = "unfinished" if runs else "missing"
        raise FileNotFoundError(
            f"{evaluation.stage} needs {stage.previous}, whose training is {state}; give\n"
            f"  python {script('train', stage.previous)} {flags}\n"
            f"  python {script('evaluate', stage.previous)} {flags}"
        )
    roi = " --roi-source mask" if evaluation.roi_source == "mask" else ""
    raise FileNotFoundError(
        f"{evaluation.stage} reads the masks of {stage.previous} on {target}, and they are "
        f"missing or unfinished; give\n  python {script('evaluate', stage.previous)} {flags}{roi}"
    )


def result_folder(run: Run, target: str, roi_source: str) -> Path:
    """Where a run's evaluation on a center lies."""
    return run.folder / f"evaluation_{target}_{roi_source}"


def script(kind: str, stage: str) -> str:
    """The path of a stage's script; kind is "train" or "evaluate"."""
    return f"{kind}_{stage.partition('_')[0]}/{kind}_sh_{stage}.py"


def evaluate_run(evaluation: Evaluation, run: Run, center: Center, previous: Result | None) -> Path:
    """Predict, write and measure every case of `center` with one run."""
    model = load_model(run, evaluation.device, evaluation.precision)
    if model.stage.target == "tumor" and center.tumor_threshold is not None:
        model.threshold = center.tumor_threshold
    settings = PrepareSettings(spacing=model.config.spacing)
    prepared = prepare_centers([center], evaluation.cache, settings, evaluation.workers)
    result = Result(
        result_folder(run, center.name, evaluation.roi_source), model.stage.name, previous
    )
    result.folder.mkdir(parents=True, exist_ok=True)
    origin = provenance(run, model, evaluation, center, previous)
    with locked(Run(result.folder, run.time, run.sources, run.target)):
        rows = kept_rows(result, origin)
        there = {row["case_id"] for row in rows}
        todo = [case for case in prepared[center.name] if case.case_id not in there]
        progress = Progress(f"{model.stage.name} on {center.name}", len(todo))
        for item in todo:
            row = evaluate_case(evaluation, model, center, item, result)
            rows = sorted([*rows, row], key=lambda r: r["case_id"])
            write_cases(result.folder / "cases.csv", rows)
            progress.advance({key: row[key] for key in ("dsc", "seconds") if key in row})
        progress.close()
        write_summary(result.folder / "summary.json", rows, origin)
        mark_done(result.folder)
    return result.folder


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
    pred = keep_components(restore_prob(prediction.prob, item) > model.threshold)
    write_mask(result.mask_path(item.case_id), pred, case.grid)
    seconds = time.monotonic() - started
    mask = None if case.label is None else target_mask(case.label, model.stage.target)
    row = measure_case(pred, mask, case.spacing)
    if item.label is not None:
        row["roi_coverage_margin"] = coverage(item, model.stage.target, prediction.box)
        if around is not None:
            row["roi_coverage"] = coverage(item, model.stage.target, around)
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
        "method": model.config.method,
        "time": run.time,
        "sources": list(run.sources),
        "target": center.name,
        "roi_source": evaluation.roi_source,
        "threshold": model.threshold,
        "checkpoint_sha256": hashlib.sha256(run.checkpoint.read_bytes()).hexdigest(),
        "previous": str(relative) if relative else None,
        "previous_done": (previous.folder / "done").read_text("utf-8") if previous else None,
    }


def kept_rows(result: Result, origin: Row) -> list[Row]:
    """Rows of an earlier call that are still true; all are given up when their origin changed."""
    note = result.folder / "origin.json"
    (result.folder / "done").unlink(missing_ok=True)
    if note.is_file() and json.loads(note.read_text(encoding="utf-8")) == origin:
        rows = read_cases(result.folder / "cases.csv")
        return [row for row in rows if result.mask_path(row["case_id"]).is_file()]
    (result.folder / "cases.csv").unlink(missing_ok=True)
    write_json(note, origin)
    return []


def _chain(checkpoints: Path, result: Result, previous: str | None) -> Result:
    """`result` with the results before it, as its summary names them."""
    if previous is None:
        return result
    folder = checkpoints / previous
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    before = _chain(checkpoints, Result(folder, summary["stage"], None), summary["previous"])
    return Result(result.folder, result.stage, before)


def _missing_run(evaluation: Evaluation, unfinished: Sequence[Run]) -> str:
    flags = f"--centers {evaluation.centers} --checkpoints {evaluation.checkpoints}"
    if evaluation.target is not None:
        flags += f" --target {evaluation.target}"
    if unfinished:
        found = f"the training in {unfinished[0].folder} is not finished; it goes on with"
    else:
        found = f"no trained {evaluation.stage} in {evaluation.checkpoints} fits; train it with"
    return f"{found}\n  python {script('train', evaluation.stage)} {flags}"
