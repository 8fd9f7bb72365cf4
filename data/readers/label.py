"""Label files to 0 background, 1 pancreas, 2 tumor on the image's own voxels."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.case import LABEL_BACKGROUND, LABEL_PANCREAS, LABEL_TUMOR, DataError, Grid, LabelMap
from data.readers.dicom_label import is_structure_set, read_dicom_label, reference_notes
from data.readers.dicom_segments import place_segments, read_segments
from data.readers.files import CaseFiles, SegmentChoice
from data.readers.narrow import narrowed
from data.readers.rtstruct import draw_contours
from data.readers.volume import (
    AxisMap,
    Volume,
    axis_map,
    canonical_matrix,
    grid_axis_map,
    grid_matrix,
    read_volume,
)

if TYPE_CHECKING:
    import SimpleITK as sitk

CLASSES = {"background": LABEL_BACKGROUND, "pancreas": LABEL_PANCREAS, "tumor": LABEL_TUMOR}
LABEL_GEOMETRIES = ("strict", "image", "resample")
MAX_OFFSET_VOXELS = 0.25  # a label may lie this far off its image, from rounded headers
MASK_VALUES = (1, 255)  # of one structure's mask
MANY_VALUES = 10  # unknown ones: no label, but an image
MAX_OUTSIDE = 0.01  # of a resampled label's voxels may lie outside the image
MAX_NON_INTEGER = 1e-3  # float labels hold 1.0000001 after a detour over a scale factor


def read_label(
    files: CaseFiles, image: Volume, label_map: LabelMap, geometry: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """uint8 (z, y, x) in the image's canonical orientation, and notes. Raises `DataError`.

    `geometry`: "strict" wants the label on the image's grid (any orientation of it); "image"
    ignores the label's header, voxel n is the image's voxel n; "resample" takes the nearest label
    voxel; "flip_y" is NIH's (see `data.readers.nih`). Where the label is a folder of masks, or the
    segments of a DICOM object, they are joined, and the tumor wins over the pancreas.
    """
    assert files.label is not None
    if files.segments is not None:
        return _read_dicom(files.label, image, files.segments, geometry)
    if not files.masks:
        return _read_file(files.label, image, label_map, geometry)
    joined, notes = np.zeros((), np.uint8), dict[str, None]()
    for name, path in files.masks:
        whole = {"background": (0,), name: MASK_VALUES}
        mask, told = _read_file(path, image, whole, geometry)
        joined = np.maximum(joined, mask)
        notes |= dict.fromkeys(told)
    return joined, tuple(notes)


def _read_file(
    path: Path, image: Volume, label_map: LabelMap, geometry: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    label = read_narrow(path)
    values = map_values(label.array, label_map, path)
    label = replace(label, array=values)  # the voxels as stored are not needed any more
    mapping, offset_mm = relate(label, image)
    canonical = grid_axis_map(image.grid)
    on_image = offset_mm <= tolerance_mm(image)
    notes: tuple[str, ...] = ()
    if geometry == "flip_y" and not (on_image and label.grid.direction != image.grid.direction):
        placed = canonical.to_canonical(np.flip(_same_shape(values, image, path), 1))
    elif geometry == "image":
        placed = canonical.to_canonical(_same_shape(values, image, path))
    elif on_image:
        placed = mapping.to_canonical(values)
    elif geometry == "resample":
        notes = _check_overlap(label, image, path)
        placed = canonical.to_canonical(resample_label(values, label, image))
    else:
        raise DataError(f"{path}: {_describe_difference(label, image, offset_mm)}")
    return np.ascontiguousarray(placed), notes


def _read_dicom(
    path: Path, image: Volume, choice: SegmentChoice, geometry: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The label of a DICOM segmentation or structure set, which know their place themselves."""
    if geometry not in ("strict", "resample"):
        raise DataError(
            f"{path}: is DICOM, whose place is in the object itself; take label_geometry = "
            f'"{geometry}" out of the center'
        )
    dataset = read_dicom_label(path, image)
    if is_structure_set(dataset):
        values, notes = draw_contours(dataset, image, choice, path)
    else:
        segments = read_segments(dataset, choice, path)
        notes = segments.notes
        if geometry == "strict":
            values = place_segments(segments, image, path)
        else:
            label = segments.to_volume(path)
            notes = (*notes, *_check_overlap(label, image, path))
            values = resample_label(label.array, label, image)
    placed = grid_axis_map(image.grid).to_canonical(values)
    return np.ascontiguousarray(placed), (*reference_notes(dataset, image), *notes)


def read_narrow(path: Path) -> Volume:
    """A label file, whose voxels take two bytes each in memory where that is possible."""
    with narrowed(path) as small:
        try:
            return read_volume(small)
        except DataError as error:
            raise DataError([p.replace(str(small), str(path)) for p in error.problems]) from error


def _same_shape(values: np.ndarray, image: Volume, path: Path) -> np.ndarray:
    if values.shape != image.array.shape:
        raise DataError(
            f"{path}: has {values.shape} voxels (z, y, x), its image {image.array.shape}; "
            "give the label that belongs to this image"
        )
    return values


def map_values(array: np.ndarray, label_map: LabelMap, path: Path) -> np.ndarray:
    """Values on disk -> uint8 classes. Tumor wins over pancreas where a value is in both.

    Works slice by slice: one byte a voxel more than the array. Raises `DataError` for values that
    are no integers or not in the map.
    """
    values: dict[int, int] = {0: LABEL_BACKGROUND}
    for name in ("background", "pancreas", "tumor"):
        values.update(dict.fromkeys(label_map.get(name, ()), CLASSES[name]))
    classes = np.zeros(array.shape, np.uint8)
    unknown: Counter[int] = Counter()
    broken: Counter[float] = Counter()
    for number, part in enumerate(array):
        rounded = part
        if np.issubdtype(array.dtype, np.floating):
            rounded = np.rint(part)
            with np.errstate(invalid="ignore"):
                wrong = ~(np.abs(part - rounded) <= MAX_NON_INTEGER)
            if wrong.any():
                broken[float(part[wrong][0])] += int(np.count_nonzero(wrong))
                continue
        for value in distinct_values(rounded):
            if value not in values:
                unknown[value] += int(np.count_nonzero(rounded == value))
            elif values[value]:
                classes[number][rounded == value] = values[value]
    if broken:
        raise DataError(
            f"{path}: a label must hold integers, but {broken.total()} voxels do not "
            f"(for example {next(iter(broken)):.6g}); it was resampled with "
            "interpolation: resample it with nearest neighbor instead"
        )
    if unknown:
        raise DataError(f"{path}: {_describe_unknown(unknown, label_map)}")
    return classes


def _describe_unknown(unknown: Counter[int], label_map: LabelMap) -> str:
    known = ", ".join(f"{name} = {list(label_map[name])}" for name in label_map)
    if len(unknown) > MANY_VALUES:
        return (
            f"has {len(unknown)} unknown label values from {min(unknown)} to {max(unknown)}: is it "
            f"an image? The label map is {known}; give the label of this case"
        )
    counts = ", ".join(f"{value} ({count} voxels)" for value, count in sorted(unknown.items()))
    return (
        f"unknown label value {counts}; the label map is {known}: add the value to the center's "
        "label_map (a mask of one structure holds 0 and 1), or correct the label"
    )


def distinct_values(slice_: np.ndarray) -> list[int]:
    """The values of a slice; most are all background, and sorting that is slow."""
    low, high = slice_.min(), slice_.max()
    if low == high:
        return [int(low)]
    return [int(value) for value in np.unique(slice_)]


def relate(label: Volume, image: Volume) -> tuple[AxisMap, float]:
    """How the label's axes become the image's canonical ones, and how far off it then lies, mm.

    The distance is the largest one between matching corner voxels; infinite where sizes differ.
    """
    target = canonical_matrix(image.grid)
    cosines = target[:3, :3] / np.linalg.norm(target[:3, :3], axis=0)
    mapping = axis_map(np.linalg.inv(cosines) @ np.reshape(label.grid.direction, (3, 3)))
    shape = mapping.to_canonical(label.array).shape
    if shape != grid_axis_map(image.grid).to_canonical(image.array).shape:
        return mapping, float("inf")
    corners = np.array([(*c, 1) for c in itertools.product(*((0, n - 1) for n in shape[::-1]))])
    offset = corners @ (canonical_matrix(label.grid, mapping) - target).T
    return mapping, float(np.linalg.norm(offset[:, :3], axis=1).max())


def tolerance_mm(image: Volume) -> float:
    """How far a label's corners may lie off the image's, in mm."""
    return MAX_OFFSET_VOXELS * min(image.grid.spacing_xyz)


def _describe_difference(label: Volume, image: Volume, offset_mm: float) -> str:
    """What differs between two grids, with the cure."""
    own, other = label.grid, image.grid
    parts = [f"{offset_mm:.3g} mm off at a corner"] if np.isfinite(offset_mm) else []
    for name in ("size_xyz", "spacing_xyz", "origin_xyz", "direction"):
        mine, theirs = getattr(own, name), getattr(other, name)
        if not np.allclose(mine, theirs, rtol=0, atol=1e-4):
            parts.append(f"{name} {_short(mine)} instead of {_short(theirs)}")
    return (
        f"label does not lie on its image ({'; '.join(parts)}). Write the label on the image's "
        'grid; or look at both and set label_geometry = "image" (the header is wrong, voxels '
        'match) or "resample" (the header is right) for the center'
    )


def _short(numbers: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{number:.5g}" for number in numbers) + ")"


def _check_overlap(label: Volume, image: Volume, path: Path) -> tuple[str, ...]:
    """A note where a part of the label lies outside its image. Raises `DataError` where all does.

    `label` holds classes.
    """
    zyx = np.argwhere(label.array)
    if not len(zyx):
        return ()
    indices = np.column_stack([zyx[:, ::-1], np.ones(len(zyx))])
    onto = np.linalg.inv(grid_matrix(image.grid)) @ grid_matrix(label.grid)
    there = (indices @ onto.T)[:, :3]
    inside = ((there >= -0.5) & (there <= np.subtract(image.grid.size_xyz, 0.5))).all(axis=1)
    outside = 1 - float(inside.mean())
    if outside == 1:
        raise DataError(
            f"{path}: lies wholly outside its image, by the two headers; with a wrong header and "
            'voxels that match, set label_geometry = "image"; otherwise give the right label'
        )
    if outside > MAX_OUTSIDE:
        return (
            f"{100 * outside:.0f} % of its label lie outside the image and are lost (by the "
            "headers, label_geometry is resample): is it another case's?",
        )
    return ()


def resample_label(values: np.ndarray, label: Volume, image: Volume) -> np.ndarray:
    """Nearest label voxel for each voxel of the image file, 0 outside; (z, y, x) on disk."""
    import SimpleITK as sitk

    moving = _as_image(values, label.grid)
    fixed = _as_image(np.zeros(image.array.shape, np.uint8), image.grid)
    resampled = sitk.Resample(moving, fixed, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return sitk.GetArrayFromImage(resampled)


def _as_image(array: np.ndarray, grid: Grid) -> sitk.Image:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array)
    image.SetSpacing(grid.spacing_xyz)
    image.SetOrigin(grid.origin_xyz)
    image.SetDirection(grid.direction)
    return image
