"""Any other data set: a folder of images and a folder of labels, matched by name."""

from __future__ import annotations

from pathlib import Path

from data.case import Center
from data.readers.dicom import list_series_folders
from data.readers.files import CaseFiles, list_volumes, match_by_name, strip_suffix

LABEL_MAP = {"background": (0,), "pancreas": (1,), "tumor": (2,)}
LABEL_GEOMETRY = "strict"


def list_cases(center: Center) -> list[CaseFiles]:
    """Images (volume files, or subfolders with one DICOM series) and labels of the same name.

    Without a key `labels` and without a folder "labels" the center is for prediction only: every
    label is None. Raises `DataError`.
    """
    folder = center.path / (center.images or "images")
    images = list_volumes(folder)
    for series in list_series_folders(folder):
        images.setdefault(series.name, []).append(series)
    images = strip_suffix(images, center.image_suffix)
    label_folder: Path = center.path / (center.labels or "labels")
    labels: dict[str, list[Path]] = {}
    if center.labels is not None or label_folder.is_dir():
        labels = strip_suffix(list_volumes(label_folder), center.label_suffix)
    return match_by_name(center, images, labels)
