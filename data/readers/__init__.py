"""Readers: one on-disk layout each. Axes are permuted and flipped here and nowhere else."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.case import LABEL_TUMOR, Case, Center, DataError, LabelMap
from data.readers import folder, msd, nih, nnunet_raw, panorama
from data.readers.dicom import read_dicom_folder
from data.readers.files import CaseFiles
from data.readers.label import read_label
from data.readers.masks import read_mask, write_mask
from data.readers.values import to_hu
from data.readers.volume import Volume, canonical_spacing, grid_axis_map, read_volume

__all__ = [
    "READERS",
    "CaseFiles",
    "Reader",
    "label_map_of",
    "list_cases",
    "load_case",
    "load_image",
    "read_mask",
    "write_mask",
]


@dataclass(frozen=True)
class Reader:
    """One layout: how cases are listed, and what its labels mean unless the center says else.

    `label_map`: name -> values on disk, or a function that reads it from the data set.
    `label_geometry`: see `data.readers.label.read_label`. `patient_pattern`: a regular expression
    whose first group is the patient.
    """

    list_cases: Callable[[Center], list[CaseFiles]]
    label_map: LabelMap | Callable[[Center], LabelMap]
    label_geometry: str
    patient_pattern: str | None = None


READERS: dict[str, Reader] = {
    "msd": Reader(msd.list_cases, msd.LABEL_MAP, msd.LABEL_GEOMETRY),
    "nih": Reader(nih.list_cases, nih.LABEL_MAP, nih.LABEL_GEOMETRY),
    "panorama": Reader(
        panorama.list_cases,
        panorama.LABEL_MAP,
        panorama.LABEL_GEOMETRY,
        panorama.PATIENT_PATTERN,
    ),
    "nnunet_raw": Reader(nnunet_raw.list_cases, nnunet_raw.label_map, nnunet_raw.LABEL_GEOMETRY),
    "folder": Reader(folder.list_cases, folder.LABEL_MAP, folder.LABEL_GEOMETRY),
}


def list_cases(center: Center) -> list[CaseFiles]:
    """The cases of a center, sorted by id, without the excluded ones. Raises `DataError`."""
    cases = sorted(READERS[center.reader].list_cases(center), key=lambda files: files.case_id)
    if not cases:
        raise DataError(f"{center.name}: no case under {center.path}; correct its path or reader")
    return cases


def label_map_of(center: Center) -> LabelMap:
    """The center's own label map, else its reader's. Raises `DataError`."""
    if center.label_map is not None:
        return center.label_map
    rule = READERS[center.reader].label_map
    return rule(center) if callable(rule) else rule


def load_case(center: Center, files: CaseFiles) -> Case:
    """Read image and label (None where there is no file) in the canonical orientation.

    What had to be fixed is in `notes` and given as warnings. Raises `DataError`, its problems
    beginning with center and case.
    """
    name = f"{center.name}/{files.case_id}"
    try:
        case = _load_case(center, files)
    except DataError as error:
        raise DataError([f"{name}: {problem}" for problem in error.problems]) from error
    for note in case.notes:
        warnings.warn(f"{name}: {note}", stacklevel=2)
    return case


def load_image(
    path: Path, case_id: str, center: str = "", *, rescale: tuple[float, float] = (1.0, 0.0)
) -> Case:
    """One CT (a volume file or a folder with a DICOM series) without a label, for prediction.

    `rescale`: (scale, offset), HU = scale * stored value + offset. Raises `DataError`.
    """
    volume = _read_image(path, rescale)
    return _make_case(volume, case_id, center, None)


def _load_case(center: Center, files: CaseFiles) -> Case:
    if files.problem is not None:
        raise DataError(files.problem)
    volume = _read_image(files.image, (center.hu_scale, center.hu_offset))
    label = None
    if files.label is not None:
        geometry = center.label_geometry or READERS[center.reader].label_geometry
        label = read_label(files.label, volume, label_map_of(center), geometry)
        label = np.ascontiguousarray(label)
        if not label.any():
            raise DataError(
                f"{files.label}: is empty, no voxel is pancreas or tumor; correct the label, or "
                f'list "{files.case_id}" under exclude'
            )
        if not center.has_lesions and (label == LABEL_TUMOR).any():
            raise DataError(
                f"{files.label}: holds tumor voxels, but the center has has_lesions = false; "
                "set it to true, or map the value to pancreas in label_map"
            )
    return _make_case(volume, files.case_id, center.name, label)


def _read_image(path: Path, rescale: tuple[float, float]) -> Volume:
    """The volume with int16 HU as its array, still in the file's order."""
    volume = read_dicom_folder(path) if path.is_dir() else read_volume(path)
    image_hu, notes = to_hu(volume.array, path, *rescale)
    return Volume(image_hu, volume.grid, (*volume.notes, *notes), volume.tags)


def _make_case(volume: Volume, case_id: str, center: str, label: np.ndarray | None) -> Case:
    return Case(
        case_id,
        center,
        np.ascontiguousarray(grid_axis_map(volume.grid).to_canonical(volume.array)),
        label,
        canonical_spacing(volume.grid),
        volume.grid,
        volume.notes,
        volume.tags,
    )
