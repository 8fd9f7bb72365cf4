"""Readers: one on-disk layout each. Axes are permuted and flipped here and nowhere else."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.case import HU_RANGE, LABEL_TUMOR, Case, Center, DataError, Grid, LabelMap
from data.readers import folder, msd, nih, nnunet_raw, panorama
from data.readers.dicom import read_dicom_folder
from data.readers.files import CaseFiles
from data.readers.label import read_label
from data.readers.masks import read_mask, write_mask
from data.readers.volume import Volume, canonical_spacing, grid_axis_map, read_volume

__all__ = [
    "READERS",
    "CaseFiles",
    "Reader",
    "label_map_of",
    "list_cases",
    "load_case",
    "load_image",
    "load_label",
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

    What had to be mended is in `notes` and given as warnings. Raises `DataError`, its problems
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


def load_image(path: Path, case_id: str, center: str = "") -> Case:
    """One CT (a volume file or a folder with a DICOM series) without a label, for prediction."""
    volume = read_dicom_folder(path) if path.is_dir() else read_volume(path)
    image_hu, notes = to_hu(volume, path)
    spacing = canonical_spacing(volume.grid)
    return Case(case_id, center, image_hu, None, spacing, volume.grid, notes, volume.tags)


def load_label(center: Center, files: CaseFiles, grid: Grid) -> np.ndarray | None:
    """The label as `load_case` gives it, without reading the image, whose `grid` is known.

    uint8 (z, y, x), canonical; None where the case has no label file. Raises `DataError`, its
    problems beginning with center and case.
    """
    if files.label is None:
        return None
    geometry = center.label_geometry or READERS[center.reader].label_geometry
    place = Volume(np.broadcast_to(np.int16(0), grid.size_xyz[::-1]), grid)  # no memory
    try:
        label = read_label(files.label, place, label_map_of(center), geometry)
    except DataError as error:
        name = f"{center.name}/{files.case_id}"
        raise DataError([f"{name}: {problem}" for problem in error.problems]) from error
    return np.ascontiguousarray(label)


def _load_case(center: Center, files: CaseFiles) -> Case:
    if files.problem is not None:
        raise DataError(files.problem)
    volume = read_dicom_folder(files.image) if files.image.is_dir() else read_volume(files.image)
    image_hu, notes = to_hu(volume, files.image)
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
    return Case(
        files.case_id,
        center.name,
        image_hu,
        label,
        canonical_spacing(volume.grid),
        volume.grid,
        notes,
        volume.tags,
    )


def to_hu(volume: Volume, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """int16 HU, canonical and contiguous, clamped to `HU_RANGE` (padding is no HU), and notes.

    Raises `DataError` where the image holds one value only.
    """
    array, notes = volume.array, volume.notes
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        missing = int((~np.isfinite(array)).sum())
        notes = (*notes, f"{missing} voxels are not a number; read as {HU_RANGE[0]} HU")
        array = np.where(np.isfinite(array), array, HU_RANGE[0])
    if array.size == 0 or array.min() == array.max():
        raise DataError(f"{path}: every voxel has the same value; fetch or convert it again")
    if np.issubdtype(array.dtype, np.unsignedinteger):
        array = array.astype(np.int64)  # an unsigned type cannot be clamped to a negative HU
    clamped = np.clip(array, *HU_RANGE)
    if np.issubdtype(clamped.dtype, np.floating):
        clamped = np.rint(clamped)
    canonical = grid_axis_map(volume.grid).to_canonical(clamped.astype(np.int16, copy=False))
    return np.ascontiguousarray(canonical), notes
