"""Masks -> cases.csv and summary.json: the protocol's metrics, on the original grid, in mm.

Detection is measured here too: `measure_findings`, whose lists are numbers with a space between.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.files import append_text, read_csv, write_json, write_text
from utils.lesions import Places, longest_axis, match_findings, split_components
from utils.metrics import (
    centroid_distance,
    crop_to_both,
    dsc,
    precision,
    recall,
    surface_metrics,
)

Row = dict[str, Any]
METRICS = ("dsc", "asd_mm", "hd95_mm", "hd95_max_mm", "recall", "precision", "centroid_mm")
# Of each lesion its longest axis, the intersection over union with the finding that hits it and
# that finding's highest probability (0 both: missed); of each finding without a lesion the latter.
LIST_COLUMNS = ("lesion_mm", "lesion_iou", "lesion_prob", "false_prob")
TEXT_COLUMNS = (
    *("case_id", "empty", "fallback", "arithmetic", "device", "mask_sha256"),
    *LIST_COLUMNS,
)
# `windows`: into how many the crop was cut, 0: none. `arithmetic`: fp32, bf16 or fp16 (the metric
# `precision` has that name already).
COLUMNS = (
    "case_id",
    *METRICS,
    "roi_coverage",
    "roi_coverage_margin",
    "roi_max_prob",
    *LIST_COLUMNS,
    "pred_ml",
    "label_ml",
    "empty",
    "fallback",
    "rounds",
    "threshold",
    "windows",
    "arithmetic",
    "seconds",
    "device",
    "peak_memory_mib",
    "mask_sha256",
)
HEADER = ",".join(COLUMNS) + "\n"


def measure_case(
    pred: np.ndarray, mask: np.ndarray | None, spacing: tuple[float, float, float]
) -> Row:
    """Every metric of one case; bool (z, y, x) on the original grid, spacing in mm.

    Without a label (`mask` None) there are volumes only. An empty prediction or label gets the
    protocol's constants, and `empty` names which of the two it is.
    """
    ml = float(np.prod(spacing)) / 1000.0
    row: Row = {"pred_ml": np.count_nonzero(pred) * ml, "empty": "" if pred.any() else "pred"}
    if mask is None:
        return row
    pred, mask = crop_to_both(pred, mask)
    surface = surface_metrics(pred, mask, spacing)
    if not mask.any():
        row["empty"] = (row["empty"] + " label").strip()
    return row | {
        "label_ml": np.count_nonzero(mask) * ml,
        "dsc": dsc(pred, mask),
        "asd_mm": surface.asd_mm,
        "hd95_mm": surface.hd95_mm,
        "hd95_max_mm": surface.hd95_max_mm,
        "recall": recall(pred, mask),
        "precision": precision(pred, mask),
        "centroid_mm": centroid_distance(pred, mask, spacing),
    }


def measure_findings(
    pred: np.ndarray,
    mask: np.ndarray | None,
    spacing: tuple[float, float, float],
    highest_prob: Callable[[Places], float],
) -> Row:
    """Which lesions of the label a result hits: `LIST_COLUMNS`, {} without a label.

    `highest_prob`: of the voxels at these indices (z, y, x), the component of a result.
    """
    if mask is None:
        return {}
    findings, lesions = split_components(pred), split_components(mask)
    matches = match_findings(findings, lesions, mask.shape)
    probs = [highest_prob(places) for places in findings]
    return {
        "lesion_mm": to_list([longest_axis(places, spacing) for places in lesions]),
        "lesion_iou": to_list(matches.iou),
        "lesion_prob": to_list([probs[n] if n >= 0 else 0.0 for n in matches.of_lesion]),
        "false_prob": to_list([probs[n] for n in matches.false]),
    }


def to_list(numbers: Sequence[float]) -> str:
    """Numbers as the text of a list column, six digits each."""
    return " ".join(f"{number:.6g}" for number in numbers)


def read_list(row: Row, column: str) -> list[float]:
    """The numbers of a list column; [] where there are none."""
    return [float(text) for text in row.get(column, "").split()]


def write_cases(path: Path, rows: Sequence[Row]) -> None:
    """cases.csv: one row per case, what is unknown left empty; written atomically."""
    write_text(path, HEADER + "".join(map(_line, rows)))


def append_case(path: Path, row: Row) -> None:
    """Add a row to a file of `write_cases` without reading the others, begun where it is missing.

    A case that is there already is then there twice: its last row is the one that counts. Raises
    ValueError, naming the file, where it is of another version and cannot be read.
    """
    there = b""
    if path.is_file():
        with path.open("rb") as stream:
            there = stream.read(len(HEADER.encode()))
    if there != HEADER.encode():
        write_cases(path, read_cases(path))
    append_text(path, _line(row))


def sort_cases(path: Path) -> list[Row]:
    """The rows of a file of `append_case`, which is written anew in the order of the cases' names.

    Of a case that is there twice the last row stays.
    """
    last = {row["case_id"]: row for row in read_cases(path)}
    rows = [last[name] for name in sorted(last)]
    write_cases(path, rows)
    return rows


def read_cases(path: Path) -> list[Row]:
    """The rows of cases.csv, numbers as floats, empty cells left out; none where it is missing.

    A last line that a killed `append_case` has left unfinished is passed over. Raises
    ValueError, naming the file, where it is damaged.
    """
    if not path.is_file():
        return []
    cure = f"delete {path.parent} and evaluate again"
    rows = []
    for number, row in enumerate(read_csv(path, cure, ("case_id",), grows=True), start=2):
        try:
            rows.append({k: _value(k, v) for k, v in row.items() if v})
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: is damaged ({error}); {cure}") from error
    return rows


def summarize(rows: Sequence[Row]) -> Row:
    """Mean of each metric over the cases (none dropped), and which cases were empty."""
    summary: Row = {"cases": len(rows)}
    for name in METRICS:
        values = [float(row[name]) for row in rows if name in row and math.isfinite(row[name])]
        summary[name] = float(np.mean(values)) if values else None
    summary["seconds_per_case"] = float(np.mean([row["seconds"] for row in rows])) if rows else None
    summary["empty"] = {str(row["case_id"]): row["empty"] for row in rows if row.get("empty")}
    summary["fallback"] = {
        str(row["case_id"]): row["fallback"] for row in rows if row.get("fallback")
    }
    return summary


def write_summary(path: Path, rows: Sequence[Row], provenance: Row) -> None:
    """summary.json: `summarize`, and where it came from."""
    write_json(path, {**summarize(rows), **provenance})


def _line(row: Row) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow([_cell(row.get(key)) for key in COLUMNS])
    return buffer.getvalue()


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _value(name: str, text: str) -> Any:
    return text if name in TEXT_COLUMNS else float(text)
