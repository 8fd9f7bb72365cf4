"""What a result was made from, and which rows of an earlier call are still true."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data.prepare.prepared_case import PreparedCase
from engine.case_metrics import Row, read_cases, write_cases
from engine.inference import Predictor
from engine.results import Result, threshold_source
from engine.run_folders import Run
from utils.config import Evaluation
from utils.files import read_json, sha256_of, write_json


def describe_origin(
    evaluation: Evaluation, run: Run, predictor: Predictor, threshold: float, result: Result
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
        "split_hash": predictor.split_hash,
        "threshold": threshold,
        "arithmetic": predictor.precision,
        "window_voxels": predictor.window_voxels,
        "checkpoint_sha256": sha256_of(evaluation.released or run.checkpoint),
        "previous": str(relative) if relative else None,
        "previous_sha256": digest_result(previous.folder) if previous else None,
    }


def digest_result(folder: Path) -> str:
    """Changes with every new evaluation into this folder."""
    return sha256_of(folder / "origin.json", folder / "cases.csv")


def kept_rows(result: Result, origin: Row, prepared: Sequence[PreparedCase]) -> list[Row]:
    """Rows of an earlier call that are still true; the others leave cases.csv.

    All are given up when the origin changed, and that of a case whose files or label map did.
    """
    note, cases = result.folder / "origin.json", result.folder / "cases.csv"
    (result.folder / "done").unlink(missing_ok=True)
    keys = {case.case_id: case.folder.name for case in prepared if case.folder is not None}
    before, rows_before = _read_before(note, cases)
    keys_before = before.pop("cases", {})
    rows = []
    for row in rows_before if before == origin else []:
        name = row["case_id"]
        same = name in keys and keys[name] == keys_before.get(name)
        if same and result.mask_path(name).is_file():
            rows.append(row)
    write_cases(cases, rows)  # before the note that would make older rows look true
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
