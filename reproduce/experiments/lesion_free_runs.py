"""Trained rows on lesion-free scans of their target: new bodies on the target's scanner, drawn.

For specificity and what builds on it. Each scan is drawn once for all rows. Resumable: what a
training has of a scan, with the same weights and threshold, is not computed again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.case import Center
from data.centers import load_centers
from data.phantom.redraw import DrawnCenters
from data.readers import list_cases
from engine.case_metrics import measure_case, measure_findings
from engine.crops import input_box
from engine.inference import Predictor
from reproduce.analysis.lesion_free import LESION_FREE, MEASURED_STAGE, LesionFreeScan
from reproduce.analysis.paper_tables import EVERY_ROW
from reproduce.analysis.tables import thresholds_of
from reproduce.experiments.plan import Plan
from reproduce.experiments.trained import (
    PANCREAS,
    TUMOR,
    Organ,
    Trained,
    by_target_and_seed,
    find_pancreas,
    find_tumor,
    load_stages,
    thresholds_of_row,
)
from utils.progress import Progress


@dataclass(frozen=True)
class LesionFreeRequest:
    """What is to be measured: `scans` of each target."""

    plan: Plan
    out: Path
    scans: int
    drawn: DrawnCenters
    device: str = "auto"


def measure_lesion_free(request: LesionFreeRequest, trained: Sequence[Trained]) -> list[str]:
    """Compute what is missing, scan by scan; returns which thresholds are not known yet."""
    centers = load_centers(request.plan.centers)
    unknown: list[str] = []
    for (target, seed), items in by_target_and_seed(trained).items():
        records = [_open_record(request, centers, item, unknown) for item in items]
        _measure_group(request, centers[target], f"{target}, seed {seed}, lesion-free", records)
    return unknown


def name_scans(center: Center, count: int) -> list[str]:
    """Scans of bodies that are not among the center's own cases, whose numbers go before."""
    own = max(int(files.case_id.rpartition("_")[2]) for files in list_cases(center))
    return [f"free_{number:03d}" for number in range(own + 1, own + 1 + count)]


@dataclass
class _Record:
    """What one training has so far, its thresholds, and its networks once they are needed."""

    trained: Trained
    path: Path
    weights: str
    thresholds: Mapping[str, Mapping[str, float]]  # how they were chosen -> stage -> value
    scans: list[LesionFreeScan]
    networks: dict[str, Predictor] = field(default_factory=dict)

    def lacks(self, case_id: str) -> bool:
        there = {s.threshold for s in self.scans if s.case_id == case_id}
        return not set(self.thresholds) <= there

    def add(self, found: Sequence[LesionFreeScan]) -> None:
        """Replace what is there of a scan, and write the file."""
        keys = {LESION_FREE.key(scan) for scan in found}
        kept = [scan for scan in self.scans if LESION_FREE.key(scan) not in keys]
        self.scans = sorted([*kept, *found], key=lambda s: (s.threshold, s.case_id))
        LESION_FREE.write(self.path, self.scans)


def _open_record(
    request: LesionFreeRequest, centers: Mapping[str, Center], item: Trained, unknown: list[str]
) -> _Record:
    """What a training has; of other weights and other thresholds nothing is kept."""
    thresholds: dict[str, Mapping[str, float]] = {}
    for choice in thresholds_of(EVERY_ROW, request.plan.holdout):
        try:
            thresholds[choice] = thresholds_of_row(request.plan, centers, item, choice)
        except FileNotFoundError:
            unknown.append(f"{item.row}, {item.target}, seed {item.seed}, threshold {choice}")
    path = LESION_FREE.path(request.out, item.method, item.target, item.seed)
    weights = item.weights
    kept = [
        scan
        for scan in LESION_FREE.read(path)
        if scan.weights == weights
        and scan.threshold in thresholds
        and f"{thresholds[scan.threshold][MEASURED_STAGE]:g}" == f"{scan.threshold_value:g}"
    ]
    return _Record(item, path, weights, thresholds, kept)


def _measure_group(
    request: LesionFreeRequest, center: Center, name: str, records: Sequence[_Record]
) -> None:
    """All rows of one target and seed: they share the scans and what the pancreas stages find."""
    names = name_scans(center, request.scans)
    todo = {case_id: [r for r in records if r.lacks(case_id)] for case_id in names}
    total = sum(map(len, todo.values()))
    if not total:
        print(f"{name}: done already", flush=True)
        return
    pancreas = load_stages(records[0].trained, PANCREAS, request.device)
    progress = Progress(name, total)
    for case_id, of_scan in todo.items():
        if not of_scan:
            continue
        case = request.drawn.without_lesion(center.name, case_id)
        organ = find_pancreas(case, pancreas)
        for record in of_scan:
            if not record.networks:
                record.networks = load_stages(record.trained, TUMOR, request.device)
            found = _measure_scan(record, organ)
            record.add(found)
            progress.advance({"prob": found[0].roi_max_prob} if found else {})
    progress.close()


def _measure_scan(record: _Record, organ: Organ) -> list[LesionFreeScan]:
    """One scan at each threshold; equal ones are predicted once."""
    item, lines = record.trained, []
    known: dict[tuple[float, ...], dict[str, Any]] = {}
    for choice, thresholds in record.thresholds.items():
        values = tuple(thresholds.values())
        if values not in known:
            known[values] = _measure(record.networks, organ, thresholds)
        lines.append(
            LesionFreeScan(
                item.method, item.row, item.target, item.seed, choice, organ.case.case_id,
                thresholds[MEASURED_STAGE], **known[values], weights=record.weights,
            )
        )  # fmt: skip
    return lines


def _measure(
    networks: Mapping[str, Predictor], organ: Organ, thresholds: Mapping[str, float]
) -> dict[str, Any]:
    """The columns of cases.csv that detection reads, as an evaluation measures them."""
    found = find_tumor(organ, networks, thresholds)[MEASURED_STAGE]
    around = organ.box_on(found.prepared)
    prepared = found.prepared
    roi = input_box(networks[MEASURED_STAGE].stage, prepared.shape, around, prepared.spacing)
    spacing = organ.case.spacing
    nothing = np.zeros_like(found.mask)
    return {
        "roi_max_prob": found.highest_in(roi),
        "pred_ml": measure_case(found.mask, None, spacing)["pred_ml"],
        "false_prob": measure_findings(found.mask, nothing, spacing, found.highest_at)[
            "false_prob"
        ],
        "fallback": found.roi.fallback,
    }
