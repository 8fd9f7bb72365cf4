"""A mask that a user has of a CT, of any tool: any non-zero voxel, or those of one value."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.case import DataError, Grid
from data.readers.label import (
    MANY_VALUES,
    MAX_NON_INTEGER,
    distinct_values,
    read_narrow,
    relate,
    resample_label,
    tolerance_mm,
)
from data.readers.volume import Volume, grid_axis_map


def read_given_mask(
    path: Path, grid: Grid, value: int | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """bool (z, y, x), canonical, on the voxels of the image that lies on `grid`; notes.

    `value`: the label that counts; None: any but 0. A mask on another grid is brought onto the
    image's by its nearest voxels, and a note says so. Raises `DataError` where the file is no
    mask, does not hold the value, or lies outside the image.
    """
    mask = read_narrow(path)
    chosen = Volume(_choose(mask.array, path, value), mask.grid, mask.notes)
    image = Volume(np.broadcast_to(np.int16(0), grid.size_xyz[::-1]), grid)  # no memory
    mapping, offset_mm = relate(chosen, image)
    notes = tuple(f"the given pancreas: {note}" for note in mask.notes)
    if offset_mm <= tolerance_mm(image):
        return np.ascontiguousarray(mapping.to_canonical(chosen.array)).astype(bool), notes
    on_file = resample_label(chosen.array, chosen, image)
    if not on_file.any():
        raise DataError(
            f"{path}: lies wholly outside its image, by the two headers; give the mask of this scan"
        )
    notes += ("the given pancreas lies on another grid; its nearest voxels are taken",)
    return np.ascontiguousarray(grid_axis_map(grid).to_canonical(on_file)) > 0, notes


def _choose(array: np.ndarray, path: Path, value: int | None) -> np.ndarray:
    """uint8: 1 where the mask is. Raises `DataError`."""
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            broken = sum(
                int(np.count_nonzero(~(np.abs(part - np.rint(part)) <= MAX_NON_INTEGER)))
                for part in array
            )
        if broken:
            raise DataError(
                f"{path}: a mask must hold integers, but {broken} voxels do not (a probability?); "
                "give the thresholded mask"
            )
    values = sorted({int(n) for part in array for n in distinct_values(np.rint(part))})
    inside = [n for n in values if n != 0]
    if value is None and (len(inside) > MANY_VALUES or min(values) < 0):
        raise DataError(
            f"{path}: holds {len(values)} values from {values[0]} to {values[-1]}: is it an image, "
            "or a label map of many organs? Say which value is the pancreas (--pancreas-label)"
        )
    if not inside or (value is not None and value not in values):
        what = "is empty" if not inside else f"does not hold the value {value}"
        held = ", ".join(map(str, values[:MANY_VALUES]))
        raise DataError(f"{path}: {what} (it holds {held}); give the mask of the pancreas")
    chosen = np.empty(array.shape, np.uint8)
    for part, result in zip(array, chosen, strict=True):
        np.copyto(result, part != 0 if value is None else np.rint(part) == value)
    return chosen
