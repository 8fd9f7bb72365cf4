"""Label files to 0 background, 1 pancreas, 2 tumor on the image's own voxels."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from data.case import LABEL_BACKGROUND, LABEL_PANCREAS, LABEL_TUMOR, DataError, Grid, LabelMap
from data.readers.volume import (
    AxisMap,
    Volume,
    axis_map,
    canonical_matrix,
    grid_axis_map,
    read_volume,
)

CLASSES = {"background": LABEL_BACKGROUND, "pancreas": LABEL_PANCREAS, "tumor": LABEL_TUMOR}
LABEL_GEOMETRIES = ("strict", "image", "resample")
MAX_OFFSET_VOXELS = 0.25  # a label may lie this far off its image, from rounded headers
MAX_NON_INTEGER = 1e-3  # float labels hold 1.0000001 after a detour over a scale factor


def read_label(path: Path, image: Volume, label_map: LabelMap, geometry: str) -> np.ndarray:
    """uint8 (z, y, x) in the image's canonical orientation.

    `geometry`: "strict" wants the label on the image's grid (any orientation of it); "image"
    ignores the label's header, voxel n is the image's voxel n; "resample" takes the nearest label
    voxel; "flip_y" is NIH's (see `data.readers.nih`). Raises `DataError`.
    """
    label = read_volume(path)
    values = map_values(label.array, label_map, path)
    mapping, offset_mm = relate(label, image)
    canonical = grid_axis_map(image.grid)
    on_image = offset_mm <= tolerance_mm(image)
    if geometry == "flip_y" and not (on_image and label.grid.direction != image.grid.direction):
        return canonical.to_canonical(np.flip(_same_shape(values, image, path), 1))
    if geometry == "image":
        return canonical.to_canonical(_same_shape(values, image, path))
    if not on_image and geometry == "resample":
        return canonical.to_canonical(_resample(values, label, image))
    if not on_image:
        raise DataError(f"{path}: {_describe_difference(label, image, offset_mm)}")
    return mapping.to_canonical(values)


def _same_shape(values: np.ndarray, image: Volume, path: Path) -> np.ndarray:
    if values.shape != image.array.shape:
        raise DataError(
            f"{path}: has {values.shape} voxels (z, y, x), its image {image.array.shape}; "
            "give the label that belongs to this image"
        )
    return values


def map_values(array: np.ndarray, label_map: LabelMap, path: Path) -> np.ndarray:
    """Values on disk -> uint8 classes. Tumor wins over pancreas where a value stands in both.

    Raises `DataError` for values that are no integers or not in the map.
    """
    if np.issubdtype(array.dtype, np.floating):
        rounded = np.rint(array)
        with np.errstate(invalid="ignore"):
            wrong = ~(np.abs(array - rounded) <= MAX_NON_INTEGER)
        if wrong.any():
            raise DataError(
                f"{path}: a label must hold integers, but {int(wrong.sum())} voxels do not "
                f"(for example {float(array[wrong][0]):.6g}); it was resampled with "
                "interpolation: resample it with nearest neighbor instead"
            )
        array = rounded.astype(np.int64)
    values: dict[int, int] = {0: LABEL_BACKGROUND}
    for name in ("background", "pancreas", "tumor"):
        values.update(dict.fromkeys(label_map.get(name, ()), CLASSES[name]))
    classes = np.zeros(array.shape, np.uint8)
    present = [int(value) for value in np.unique(array)]
    unknown = [value for value in present if value not in values]
    if unknown:
        counts = ", ".join(f"{v} ({int((array == v).sum())} voxels)" for v in unknown)
        known = ", ".join(f"{name} = {list(label_map[name])}" for name in label_map)
        raise DataError(
            f"{path}: unknown label value {counts}; the label map is {known}: add the value to "
            "the center's label_map, or correct the label"
        )
    for value in present:
        if values[value]:
            classes[array == value] = values[value]
    return classes


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


def _resample(values: np.ndarray, label: Volume, image: Volume) -> np.ndarray:
    """Nearest label voxel for each voxel of the image file, 0 outside; (z, y, x) on disk."""
    moving = _as_image(values, label.grid)
    fixed = _as_image(np.zeros(image.array.shape, np.uint8), image.grid)
    resampled = sitk.Resample(moving, fixed, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return sitk.GetArrayFromImage(resampled)


def _as_image(array: np.ndarray, grid: Grid) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(grid.spacing_xyz)
    image.SetOrigin(grid.origin_xyz)
    image.SetDirection(grid.direction)
    return image
