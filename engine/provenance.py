"""What a result was made from, and which rows of an earlier call are still true."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from data.prepare.prepared_case import PreparedCase
from engine.case_metrics import Row, read_cases, write_cases
from engine.external import PANCREAS_CASES, ExternalPredictor
from engine.inference import Predictor
from engine.results import Result, digest_result, threshold_source
from engine.run_folders import DONE, Run, changed_files
from utils.config import Evaluation
from utils.files import digest_of, read_json, sha256_of, write_json

log = logging.getLogger(__name__)


def describe_origin(
    evaluation: Evaluation,
    run: Run,
    predictor: Predictor | ExternalPredictor,
    threshold: float,
    result: Result,
) -> Row:
    """What a result is made from: its weights' file, its threshold, the result before it."""
    previous = result.previous
    relative = previous.folder.relative_to(evaluation.checkpoints) if previous else None
    return {
        "stage": predictor.stage.name,
        "method": run.method,
        "seed": run.seed,
        "time": run.time,
        "sources": list(run.sources),
        "target": result.center,
        "fold": run.fold,
        "tested_cases": evaluation.cases,
        "threshold_source": threshold_source(evaluation, predictor.stage),
        "roi_source": evaluation.roi_source,
        "split_hash": None if predictor.split is None else predictor.split.hash,
        "threshold": threshold,
        "arithmetic": predictor.precision,
        "window_voxels": predictor.window_voxels,
        "checkpoint_sha256": sha256_of(evaluation.released or run.checkpoint),
        "previous": str(relative) if relative else None,
        "previous_sha256": digest_result(previous.folder) if previous else None,
    }


def written_by_evaluation(folder: Path) -> list[Path]:
    """The files of a finished evaluation that must stay as they are; cases.csv names the masks'."""
    own = [folder / name for name in ("cases.csv", "origin.json", "summary.json")]
    of_external = [*folder.glob(PANCREAS_CASES), *folder.glob("label_maps/*.nii.gz")]
    return [*own, *folder.glob("sweeps/*.json"), *of_external]


def kept_rows(result: Result, origin: Row, prepared: Sequence[PreparedCase]) -> list[Row]:
    """Rows of an earlier call that are still true; the others leave cases.csv.

    All are given up when the origin or a file of the result changed, and that of a case whose
    files, label map or mask did.
    """
    note, cases = result.folder / "origin.json", result.folder / "cases.csv"
    changed = changed_files(result.folder)
    if changed:
        log.warning(
            "%s: %s changed since the evaluation; every case is evaluated again",
            *(result.folder, ", ".join(changed)),
        )
    keys = {case.case_id: case.content_key for case in prepared}
    before, rows_before = _read_before(note, cases)
    keys_before = before.pop("cases", {})
    rows = []
    for row in rows_before if before == origin and not changed else []:
        name = row["case_id"]
        same = name in keys and keys[name] == keys_before.get(name)
        if same and digest_of(result.mask_path(name)) == row.get("mask_sha256", ""):
            rows.append(row)
    # In this order: cases.csv no longer fits `done` where the work ends between the two, and no
    # older row looks true by the new note.
    write_cases(cases, rows)
    (result.folder / DONE).unlink(missing_ok=True)
    write_json(note, {**origin, "cases": keys})
    return rows


def _read_before(note: Path, cases: Path) -> tuple[Row, list[Row]]:
    """What an earlier call left; where that is damaged, one line, and nothing is kept."""
    cure = "all of its cases are evaluated again"
    try:
        before = read_json(note, cure) if note.is_file() else {}
        if not isinstance(before.get("cases", {}), dict):
            raise ValueError(f"{note}: is of another version; {cure}")
        return before, read_cases(cases)
    except ValueError as error:
        print(f"warning: {error}", flush=True)
        return {}, []
