"""Readers: one on-disk layout each. Axes are permuted and flipped here and nowhere else."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data.case import LABEL_TUMOR, Case, Center, DataError, Grid, LabelMap
from data.readers import folder, msd, nih, nnunet_raw, panorama, structures
from data.readers.dicom import read_dicom_folder
from data.readers.files import CaseFiles
from data.readers.label import read_label
from data.readers.listing import EXPECTED_REASONS, Listing
from data.readers.masks import read_mask, write_mask
from data.readers.series import wanted_series
from data.readers.sites import select_site
from data.readers.values import to_hu
from data.readers.volume import Volume, canonical_spacing, grid_axis_map, read_volume

__all__ = [
    "READERS",
    "CaseFiles",
    "Listing",
    "Reader",
    "label_map_of",
    "list_cases",
    "list_center",
    "load_case",
    "load_image",
    "load_label",
    "read_mask",
    "write_mask",
]


@dataclass(frozen=True)
class Reader:
    """One layout: how a center is listed, and what its labels mean unless the center says else.

    `label_map`: name -> values on disk, or a function that reads it from the data set.
    `label_geometry`: see `data.readers.label.read_label`. `patient_pattern`: a regular expression
    whose first group is the patient.
    """

    list_center: Callable[[Center], Listing]
    label_map: LabelMap | Callable[[Center], LabelMap]
    label_geometry: str
    patient_pattern: str | None = None


READERS: dict[str, Reader] = {
    "msd": Reader(msd.list_center, msd.LABEL_MAP, msd.LABEL_GEOMETRY),
    "nih": Reader(nih.list_center, nih.LABEL_MAP, nih.LABEL_GEOMETRY),
    "panorama": Reader(
        panorama.list_center,
        panorama.LABEL_MAP,
        panorama.LABEL_GEOMETRY,
        panorama.PATIENT_PATTERN,
    ),
    "nnunet_raw": Reader(nnunet_raw.list_center, nnunet_raw.label_map, nnunet_raw.LABEL_GEOMETRY),
    "folder": Reader(folder.list_center, folder.LABEL_MAP, folder.LABEL_GEOMETRY),
    "structures": Reader(structures.list_center, structures.LABEL_MAP, structures.LABEL_GEOMETRY),
}


def list_center(center: Center) -> Listing:
    """What lies in a center's folders: its cases, sorted by id, and all that is left out.

    Raises `DataError`, each problem beginning with the center.
    """
    try:
        listing = READERS[center.reader].list_center(center)
        if center.sites is not None:
            listing = select_site(center, listing)
    except DataError as error:
        raise DataError([_named(center, problem) for problem in error.problems]) from error
    if not listing.cases:
        reasons = "".join(f"; {path} {reason}" for path, reason in listing.left_out[:3])
        raise DataError(
            f"{center.name}: no case under {center.path}; correct its path or reader{reasons}"
        )
    cases = sorted(map(_with_utf8, listing.cases), key=lambda files: files.case_id)
    left_out = tuple((_shown(path), _shown(reason)) for path, reason in listing.left_out)
    return replace(listing, cases=tuple(cases), left_out=left_out)


def _with_utf8(case: CaseFiles) -> CaseFiles:
    """The case; one whose files have names that are no UTF-8 gets a problem and a name that is."""
    names = [case.case_id, case.patient_id, str(case.image), str(case.label), case.problem or ""]
    if all(name == _shown(name) for name in names):
        return case
    problem = case.problem or f"{case.image}: its name is no UTF-8 text; rename the file"
    case_id, patient_id = _shown(case.case_id), _shown(case.patient_id)
    return replace(case, case_id=case_id, patient_id=patient_id, problem=_shown(problem))


def _shown(text: str) -> str:
    """A text that can be printed and written: bytes of a file name that are no UTF-8 as \\udcff."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def list_cases(center: Center) -> list[CaseFiles]:
    """The cases of a center, sorted by id, without the excluded ones. Raises `DataError`.

    What is left out for another reason is given as one warning; `list_center` has all of it.
    """
    listing = list_center(center)
    told = [entry for entry in listing.left_out if not entry[1].startswith(EXPECTED_REASONS)]
    if told:
        path, reason = told[0]
        warnings.warn(
            f"{center.name}: {len(told)} files or folders are left out, for example {path}, which "
            f"{reason}; python data/check.py lists all",
            stacklevel=2,
        )
    return list(listing.cases)


def _named(center: Center, problem: str) -> str:
    return problem if problem.startswith(f"{center.name}: ") else f"{center.name}: {problem}"


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
    path: Path,
    case_id: str,
    center: str = "",
    *,
    rescale: tuple[float, float] = (1.0, 0.0),
    series: str | None = None,
    repair: bool = False,
) -> Case:
    """One CT (a volume file or a folder with a DICOM series) without a label, for prediction.

    `rescale`: (scale, offset), HU = scale * stored value + offset. `series`: of several in the
    folder, see `choose_series`. `repair`: resample irregular DICOM, see `read_slices`. Raises
    `DataError`.
    """
    volume = _read_image(path, rescale, series, repair)
    return _make_case(volume, case_id, center, None)


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
        label, _ = read_label(files, place, label_map_of(center), geometry)
    except DataError as error:
        name = f"{center.name}/{files.case_id}"
        raise DataError([f"{name}: {problem}" for problem in error.problems]) from error
    return label


def _load_case(center: Center, files: CaseFiles) -> Case:
    if files.problem is not None:
        raise DataError(files.problem)
    series = wanted_series(center, files.case_id)
    volume = _read_image(files.image, (center.hu_scale, center.hu_offset), series)
    label = None
    if files.label is not None:
        geometry = center.label_geometry or READERS[center.reader].label_geometry
        label, notes = read_label(files, volume, label_map_of(center), geometry)
        volume = replace(volume, notes=(*volume.notes, *notes))
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


def _read_image(
    path: Path, rescale: tuple[float, float], series: str | None, repair: bool = False
) -> Volume:
    """The volume with int16 HU as its array, still in the file's order."""
    volume = read_dicom_folder(path, series, repair) if path.is_dir() else read_volume(path)
    image_hu, notes = to_hu(volume.array, path, *rescale)
    return replace(volume, array=image_hu, notes=(*volume.notes, *notes))


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
