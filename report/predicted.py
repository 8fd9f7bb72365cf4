"""Predicted scans -> the contents of their page: what `predict.py --report` shows."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.case import Case
from data.readers.masks import read_mask
from data.readers.scans import Scan, load_scan
from engine.predict_scans import ReadOptions
from engine.scan_output import MEASURES, mask_files, read_manifest
from report.contents import CaseImages, Contents, Layer, ReportCase, ResultRows
from utils.stages import STAGES


@dataclass(frozen=True)
class PredictedScan:
    """One scan of a prediction.

    `load`: reads image and masks again (see `scan_images`); None where the scan could not be
    predicted, `warnings` then says why. `measures`: stage -> what was measured of its mask; a label
    adds dsc and the like.
    """

    case_id: str
    load: Callable[[], CaseImages] | None = field(default=None, repr=False)
    measures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def scan_images(
    case: Case, masks: Mapping[str, np.ndarray], label: np.ndarray | None = None
) -> CaseImages:
    """The arrays of a scan; `masks`: stage -> bool (z, y, x) on the case's canonical grid."""
    layers = tuple(
        Layer(_shown(name), stage.target, masks[name])
        for name, stage in STAGES.items()
        if name in masks
    )
    return CaseImages(case.image_hu, case.spacing, case.label if label is None else label, layers)


def read_predicted(
    out: Path, scans: Sequence[Scan], failures: Mapping[str, str], read: ReadOptions
) -> list[PredictedScan]:
    """The scans as `engine.predict_scans` left them in `out`; a failed one has its cause alone.

    Images and masks stay on the disk until the page asks for a scan. `read`: as they were read.
    """
    found = []
    for scan in scans:
        folder = out / scan.case_id
        manifest = {} if scan.case_id in failures else read_manifest(folder)
        if not manifest:
            cause = failures.get(scan.case_id, "was not predicted")
            found.append(PredictedScan(scan.case_id, warnings=[cause]))
            continue
        measures = json.loads((folder / MEASURES).read_text(encoding="utf-8"))
        load = functools.partial(_load, scan, mask_files(folder, manifest), read)
        found.append(PredictedScan(scan.case_id, load, measures["stages"], measures["warnings"]))
    return found


def _load(scan: Scan, masks: Mapping[str, Path], read: ReadOptions) -> CaseImages:
    case = load_scan(scan, read.series, read.repair)
    return scan_images(case, {stage: read_mask(path, case.grid) for stage, path in masks.items()})


def predicted_contents(
    title: str,
    scans: Sequence[PredictedScan],
    *,
    facts: Mapping[str, str],
    checkpoints: Mapping[str, str],
) -> Contents:
    """The page of one or more predicted scans; it opens with the last stage.

    `facts`: what stands at the foot, such as the command; `checkpoints`: stage -> sha256. Raises
    ValueError for two scans of one name.
    """
    results = [
        ResultRows(
            _shown(name),
            [
                {**scan.measures[name], "case_id": scan.case_id}
                for scan in scans
                if name in scan.measures
            ],
        )
        for name in reversed(STAGES)
    ]
    return Contents(
        title=title,
        cases=[ReportCase(s.case_id, "", s.load, tuple(s.warnings)) for s in scans],
        results=[result for result in results if result.rows],
        facts=facts,
        checkpoints=checkpoints,
    )


def _shown(stage: str) -> str:
    return stage.replace("_", " ")
