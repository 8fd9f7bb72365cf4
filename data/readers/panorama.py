"""PANORAMA: <patient>_<study>_0000.nii.gz in any subfolders, labels <patient>_<study>.nii.gz."""

from __future__ import annotations

from pathlib import Path

from data.case import Center, DataError
from data.readers.files import CaseFiles, list_volumes, match_by_name, strip_suffix

# 1 PDAC lesion, 2 veins, 3 arteries, 4 pancreas parenchyma, 5 pancreatic duct, 6 common bile duct
LABEL_MAP = {"background": (0, 2, 3, 6), "pancreas": (1, 4, 5), "tumor": (1,)}
LABEL_GEOMETRY = "strict"
CHANNEL = "_0000"
PATIENT_PATTERN = r"^([^_]+)_"


def list_cases(center: Center) -> list[CaseFiles]:
    """Every image whose name ends in _0000, below `images` or anywhere; labels likewise.

    Where a case has a manual and an automatic label (folders of those names), the manual one
    counts. Images without a label are left out: the labels are published apart, and not all are
    public. Raises `DataError`.
    """
    images = strip_suffix(
        list_volumes(center.path / (center.images or "."), recursive=True), CHANNEL
    )
    if not images:
        raise DataError(f"{center.path}: no image <id>{CHANNEL}.nii.gz in it; correct the path")
    labels = list_volumes(center.path / (center.labels or "."), recursive=True)
    own = {case_id: _prefer_manual(paths) for case_id, paths in labels.items() if case_id in images}
    return match_by_name(center, {case_id: images[case_id] for case_id in own}, own)


def _prefer_manual(paths: list[Path]) -> list[Path]:
    manual = [path for path in paths if any("manual" in part for part in path.parts[-3:-1])]
    return manual if manual else paths
