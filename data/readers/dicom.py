"""One DICOM series in a folder -> `Volume`, slice by slice, with what its tags tell of the scanner.

Order and distance of slices come from their positions alone (see `data.readers.slices`). Uneven
distances and a tilted gantry can be repaired (`data.readers.repair`). Frames of a multi-frame file
are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.case import DataError, Grid
from data.readers.content import FETCH_AGAIN
from data.readers.dicom_kind import is_dicom_label
from data.readers.geometry import SPACING_MM, check_grid
from data.readers.listing import SLICE_SUFFIXES
from data.readers.repair import REPAIRED, even_depths, to_rectangular
from data.readers.series import choose_series
from data.readers.slices import (
    IrregularError,
    Slice,
    check_alike,
    check_positions,
    check_sideways,
)
from data.readers.volume import Volume, read_with_warnings

if TYPE_CHECKING:
    import SimpleITK as sitk

# The rows of Table I that only DICOM knows.
ACQUISITION_TAGS = {
    "manufacturer": "0008|0070",
    "tube_voltage_kvp": "0018|0060",
    "tube_current_ma": "0018|1151",
    "exposure_mas": "0018|1152",
    "spiral_pitch_factor": "0018|9311",
}
VARYING_TAGS = ("tube_current_ma", "exposure_mas")  # along a scan: their mean counts
POSITION, ORIENTATION, PIXEL_SPACING = "0020|0032", "0020|0037", "0028|0030"
GEOMETRY = {  # tag -> (its name, how many numbers)
    POSITION: ("position (ImagePositionPatient)", 3),
    ORIENTATION: ("orientation (ImageOrientationPatient)", 6),
    PIXEL_SPACING: ("pixel spacing (PixelSpacing)", 2),
}
MODALITY, FRAMES = "0008|0060", "0028|0008"
FRAME_OF_REFERENCE, SERIES = "0020|0052", "0020|000e"
IN_ACQUISITION, SLOPE, INTERCEPT = "0020|1002", "0028|1053", "0028|1052"
PHOTOMETRIC, BITS_STORED, SIGNED = "0028|0004", "0028|0101", "0028|0103"

_CT_CLASSES = b"1.2.840.10008.5.1.4.1.1.2"  # CT images and enhanced CT images
_ANY_CLASS = b"1.2.840.10008.5.1.4.1.1."


def read_dicom_folder(folder: Path, wanted: str | None = None, repair: bool = False) -> Volume:
    """The one series at or below `folder`; of several the `wanted` one, see `choose_series`.

    Raises `DataError` where there is none or more than one, or as `read_slices` does.
    """
    series, notes = choose_series(folder, wanted)
    volume = read_slices(series.files, series.folder, repair)
    return replace(volume, notes=(*notes, *volume.notes))


def read_slices(files: Sequence[str], folder: Path, repair: bool = False) -> Volume:
    """The volume of the series that consists of these files.

    `repair`: resample a series of uneven distances, or of a tilted gantry, onto a rectangular
    grid; a note says so. Else it raises `IrregularError`, a `DataError` like what else is refused.
    """
    slices, normal = _sort_slices(files, folder)
    try:
        grid, notes = _place(slices, normal, folder)
    except IrregularError as irregular:
        if not repair:
            raise
        return _read_repaired(slices, normal, folder, irregular)
    array, said = _read_planes(slices)
    notes = (*notes, *said)
    return Volume(array, grid, notes, acquisition(slices), *_series_of(slices))


def place_slices(files: Sequence[str], folder: Path) -> tuple[list[Slice], Grid, tuple[str, ...]]:
    """The headers of a series in the order of the volume's slices, its grid, and notes.

    Raises `DataError` where they form no volume.
    """
    slices, normal = _sort_slices(files, folder)
    return slices, *_place(slices, normal, folder)


def _sort_slices(files: Sequence[str], folder: Path) -> tuple[list[Slice], np.ndarray]:
    """The headers of a series along its normal, and that. Raises `DataError`."""
    slices = [_read_header(Path(file)) for file in files]
    for parent in sorted({one.file.parent for one in slices}):
        _check_unread([one for one in slices if one.file.parent == parent], parent)
    check_alike(slices, folder)
    _check_rescale(slices, folder)
    normal = np.cross(slices[0].cosines[:3], slices[0].cosines[3:])
    slices.sort(key=lambda one: float(one.position @ normal))
    return slices, normal


def _place(
    slices: Sequence[Slice], normal: np.ndarray, folder: Path
) -> tuple[Grid, tuple[str, ...]]:
    """The grid of sorted slices, and notes. Raises `IrregularError` where they have none."""
    step, notes = check_positions(slices, normal, folder)
    grid = _grid(slices, normal, step)
    return grid, (*notes, *check_grid(grid, folder), *_tag_notes(slices))


def _series_of(slices: Sequence[Slice]) -> tuple[str, ...]:
    """The UIDs of the frame of reference and of the series; "" where there is none."""
    return tuple(slices[0].tags.get(tag, "") for tag in (FRAME_OF_REFERENCE, SERIES))


def _read_planes(slices: Sequence[Slice]) -> tuple[np.ndarray, list[str]]:
    """(z, y, x) in the order of the slices, and what ITK said."""
    shape = (len(slices), *slices[0].size[::-1])
    array = np.empty(shape, np.int16 if all(one.is_whole for one in slices) else np.float32)
    notes: dict[str, None] = {}
    for place, one in enumerate(slices):
        plane, said = _read_pixels(one)
        if plane.shape != shape[1:]:
            raise DataError(f"{one.file}: is {plane.shape} pixels, its header says {shape[1:]}")
        if array.dtype == np.int16 and not _fits_int16(plane):
            array = array.astype(np.int32)
        array[place] = plane
        notes |= dict.fromkeys(said)
    return array, list(notes)


def _read_repaired(
    slices: Sequence[Slice], normal: np.ndarray, folder: Path, irregular: IrregularError
) -> Volume:
    """The series on a rectangular grid along its slices and their normal. Raises `DataError`."""
    positions = np.array([one.position for one in slices])
    along = positions @ normal
    gaps = np.diff(along)
    if gaps.max() > SPACING_MM[1]:
        raise DataError(
            f"{irregular}; nothing was measured over {gaps.max():.3g} mm, which is too much to be "
            f"filled ({SPACING_MM[1]:g} mm at most)"
        )
    causes = {_cause(irregular, folder)}
    try:
        check_sideways(slices, positions, along, normal, folder)
    except IrregularError as tilted:
        causes.add(_cause(tilted, folder))
    depths = even_depths(along, float(np.median(gaps)))
    first = slices[0]
    column, row = first.cosines[3:], first.cosines[:3]
    moved = positions - positions[0]
    shifts = np.stack([moved @ column, moved @ row], axis=1) / first.spacing_yx
    planes, said = _read_planes(slices)
    array, offset = to_rectangular(planes, along, shifts, depths)
    corner = first.position + np.array([column, row]).T @ (first.spacing_yx * offset)
    grid = _grid([replace(first, position=corner)], normal, float(depths[1] - depths[0]))
    grid = replace(grid, size_xyz=(array.shape[2], array.shape[1], array.shape[0]))
    notes = tuple(f"{REPAIRED}: {cause}" for cause in sorted(causes))
    notes = (*notes, *check_grid(grid, folder), *_tag_notes(slices), *said)
    return Volume(array, grid, notes, acquisition(slices), *_series_of(slices))


def _cause(irregular: IrregularError, folder: Path) -> str:
    """Without the folder and the cure."""
    return str(irregular).removeprefix(f"{folder}: ").rpartition(";")[0]


def _fits_int16(plane: np.ndarray) -> bool:
    return int(plane.min()) >= -32768 and int(plane.max()) <= 32767


def _reader(file: Path) -> sitk.ImageFileReader:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")  # without asking every other format first
    reader.SetFileName(str(file))
    return reader


def _read_header(file: Path) -> Slice:
    import SimpleITK as sitk

    reader = _reader(file)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise DataError(f"{file}: cannot be read ({reason}); copy the series again") from error
    tags = {key: reader.GetMetaData(key).strip() for key in reader.GetMetaDataKeys()}
    size = reader.GetSize()
    frames = max(_number(tags.get(FRAMES, ""), 1), *size[2:], 1)
    if frames > 1:
        raise DataError(
            f"{file}: holds {frames:g} frames in one file (multi-frame DICOM), whose positions are "
            "not read here; convert it to NIfTI, or to one file per slice"
        )
    numbers = [_geometry(tags, tag, file) for tag in (POSITION, ORIENTATION, PIXEL_SPACING)]
    whole = reader.GetPixelID() not in (sitk.sitkFloat32, sitk.sitkFloat64)
    return Slice(file, (size[0], size[1]), whole, tags, *numbers)


def _geometry(tags: dict[str, str], tag: str, file: Path) -> np.ndarray:
    name, count = GEOMETRY[tag]
    text = tags.get(tag, "")
    if not text:
        raise DataError(
            f"{file}: has no {name}, so the slices have no place in space (removed on the way?); "
            "export the series again from the archive"
        )
    try:
        numbers = np.array([float(part) for part in text.split("\\")])
    except ValueError:
        numbers = np.array([])
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise DataError(
            f"{file}: its {name} is {text!r}, not {count} numbers; export the series again"
        )
    return numbers


def _check_unread(slices: list[Slice], folder: Path) -> None:
    """A file that should be a slice and cannot be read is a missing slice.

    It should be one by its suffix, by its first bytes, or where it is no text and has no more of a
    suffix than the slices have (none, or a number).
    """
    used = {one.file.name for one in slices}
    plain = any(_has_no_suffix(one.file) for one in slices)
    for file in sorted(folder.iterdir()):
        if file.name in used or file.name.startswith(".") or not file.is_file():
            continue
        with file.open("rb") as stream:
            head = stream.read(1024)
        named = file.suffix.lower() in SLICE_SUFFIXES
        named |= plain and _has_no_suffix(file) and (not head or b"\0" in head)
        if (
            (not named and head[128:132] != b"DICM")
            or is_no_ct(head)
            or file.name.upper() == "DICOMDIR"
        ):
            continue
        if is_dicom_label(file):
            continue
        reader = _reader(file)
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            what = "is cut short or corrupt" if head else "is empty (0 bytes)"
            raise DataError(
                f"{file}: {what}, so a slice of its series is missing; copy the series again"
            ) from error


def is_no_ct(head: bytes) -> bool:
    """Whether a DICOM file, by its first bytes, is something else than a CT: a report, a plan."""
    return _ANY_CLASS in head and _CT_CLASSES not in head


def _has_no_suffix(file: Path) -> bool:
    return file.suffix == "" or file.suffix[1:].isdigit()


def _grid(slices: Sequence[Slice], normal: np.ndarray, step: float) -> Grid:
    first = slices[0]
    x, y, z = (float(mm) for mm in first.position)
    axes = np.stack([first.cosines[:3], first.cosines[3:], normal], axis=1)
    return Grid(
        size_xyz=(*first.size, len(slices)),
        spacing_xyz=(float(first.spacing_yx[1]), float(first.spacing_yx[0]), step),
        origin_xyz=(x, y, z),
        direction=tuple(float(cosine) for cosine in axes.ravel()),
    )


def _read_pixels(one: Slice) -> tuple[np.ndarray, list[str]]:
    """(y, x) after the slice's own slope and intercept, and what ITK said."""
    import SimpleITK as sitk

    reader = _reader(one.file)
    image, said = read_with_warnings(reader, one.file)
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise DataError(f"{one.file}: has several values per pixel (color?); give a plain CT")
    plane = sitk.GetArrayFromImage(image)[0]
    if one.tags.get(PHOTOMETRIC) == "MONOCHROME1":
        # Only the display is inverted; ITK inverts the stored values before it rescales them.
        bits = int(_number(one.tags.get(BITS_STORED, ""), 16))
        top = -1 if one.tags.get(SIGNED) == "1" else 2**bits - 1
        slope = _number(one.tags.get(SLOPE, ""), 1)
        plane = slope * top + 2 * _number(one.tags.get(INTERCEPT, ""), 0) - plane
    return plane, said


def _lacks_rescale(one: Slice) -> bool:
    return not one.tags.get(SLOPE) or not one.tags.get(INTERCEPT)


def _check_rescale(slices: Sequence[Slice], folder: Path) -> None:
    """All slices say what their values mean, or none does. Raises `DataError`."""
    lacking = [one for one in slices if _lacks_rescale(one)]
    if lacking and len(lacking) < len(slices):
        raise DataError(
            f"{folder}: RescaleSlope or RescaleIntercept is missing in {len(lacking)} of "
            f"{len(slices)} slices ({lacking[0].file.name}), whose values would mean something "
            "else; export the series again"
        )


def _tag_notes(slices: Sequence[Slice]) -> tuple[str, ...]:
    """What is unusual in the tags, one sentence each."""
    first, notes = slices[0].tags, []
    modality = first.get(MODALITY, "")
    if modality not in ("", "CT"):
        notes.append(f"its modality is {modality}, not CT")
    if first.get(PHOTOMETRIC) == "MONOCHROME1":
        notes.append("its gray scale is inverted for display (MONOCHROME1); read as stored")
    if any(_lacks_rescale(one) for one in slices):
        notes.append("RescaleSlope and RescaleIntercept are missing; values are read as stored")
    zero = sum(_number(one.tags.get(SLOPE, ""), 1) == 0 for one in slices)
    if zero:
        notes.append(f"RescaleSlope is 0 in {zero} of {len(slices)} slices; read as 1")
    expected = {int(_number(one.tags.get(IN_ACQUISITION, ""), 0)) for one in slices}
    if len(expected) == 1 and max(expected) > len(slices):
        notes.append(
            f"its acquisition has {max(expected)} images (ImagesInAcquisition), {len(slices)} are "
            f"here: is the end of the series missing? {FETCH_AGAIN.capitalize()} if so"
        )
    return tuple(notes)


def acquisition(slices: Sequence[Slice]) -> dict[str, str]:
    """First value of each tag of `ACQUISITION_TAGS`; of those that vary along a scan, the mean."""
    found = {}
    for name, tag in ACQUISITION_TAGS.items():
        values = [one.tags[tag] for one in slices if one.tags.get(tag)]
        numbers = [_number(value, float("nan")) for value in values]
        numbers = [number for number in numbers if np.isfinite(number)]
        if name in VARYING_TAGS and numbers:
            found[name] = f"{np.mean(numbers):.0f}"
        elif values and name not in VARYING_TAGS:
            found[name] = values[0]
    return found


def _number(text: str, otherwise: float) -> float:
    """A tag's number; some writers use a decimal comma."""
    try:
        return float(text.split("\\")[0].replace(",", "."))
    except ValueError:
        return otherwise
