"""NIH Pancreas-CT: one DICOM series per PANCREAS_XXXX, labels as labelXXXX.nii.gz; no lesions."""

from __future__ import annotations

import re
from pathlib import Path

from data.case import Center, DataError
from data.readers.dicom import list_series_folders
from data.readers.files import CaseFiles, check_exclude, list_volumes, patient_of

LABEL_MAP = {"background": (0,), "pancreas": (1,)}
# Published labels run against y of their DICOM series, and their headers do not place them: unless
# a label's header puts it exactly on its series, its voxels are mirrored in y.
LABEL_GEOMETRY = "flip_y"
WITHDRAWN = ("PANCREAS_0025", "PANCREAS_0070")  # by the publisher: 82 cases, 80 used


def list_cases(center: Center) -> list[CaseFiles]:
    """The cases that were not withdrawn. Raises `DataError`.

    `images` and `labels` of the center narrow the search; without them both are looked for
    anywhere below its path.
    """
    series = _find_series(center.path / (center.images or "."))
    labels = list_volumes(center.path / (center.labels or "."), recursive=True)
    check_exclude(center, series)
    cases = []
    for case_id in sorted(series):
        if case_id in center.exclude or case_id in WITHDRAWN:
            continue
        own_labels = labels.get(f"label{case_id.removeprefix('PANCREAS_')}", [])
        problem = None
        if len(series[case_id]) != 1:
            problem = f"holds {len(series[case_id])} folders with DICOM slices; keep one"
        elif len(own_labels) > 1:
            problem = f"has {len(own_labels)} label files; keep one"
        image = series[case_id][0] if series[case_id] else center.path / case_id
        label = own_labels[0] if own_labels else None
        cases.append(CaseFiles(case_id, image, label, patient_of(case_id, center), problem))
    if not cases:
        raise DataError(f"{center.path}: no folder PANCREAS_XXXX in it; correct the path")
    return cases


def _find_series(folder: Path) -> dict[str, list[Path]]:
    """PANCREAS_XXXX -> the folders at or below it that hold DICOM slices."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; correct the path in the centers file")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("PANCREAS_*")):
        if not (path.is_dir() and re.fullmatch(r"PANCREAS_\d{4}", path.name)):
            continue
        below = [path, *(p for p in path.rglob("*") if p.is_dir())]
        holders = {series for parent in below for series in list_series_folders(parent)}
        if path in list_series_folders(path.parent):
            holders.add(path)
        found.setdefault(path.name, []).extend(sorted(holders))
    return found
