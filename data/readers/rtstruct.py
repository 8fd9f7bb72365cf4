"""DICOM structure sets (RTSTRUCT): contours in mm, filled on the image's own voxels.

A voxel belongs to a region if its center is inside. Contours of the type CLOSEDPLANAR_XOR are
combined by exclusive or (PS3.3 C.8.8.6.3). Of CLOSED_PLANAR contours in one plane those that lie
apart are joined; one inside another is a hole, as treatment planning systems write it, with a note.
A hole as a keyhole (one contour, with a slit) is filled rightly by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.case import DataError
from data.readers.dicom_label import choose_segments, numbered
from data.readers.files import SegmentChoice
from data.readers.volume import Volume, grid_matrix

if TYPE_CHECKING:
    from pydicom import Dataset

CLOSED, CLOSED_XOR = "CLOSED_PLANAR", "CLOSEDPLANAR_XOR"
MAX_OFFSET_SLICES = 0.45  # of a contour from the slice that it is drawn on
MAX_WAVE_SLICES = 0.1  # of its points from its own plane


@dataclass(frozen=True)
class Contour:
    """A closed contour: (n, 3) points as (x, y, z) voxel indices of the image file."""

    points: np.ndarray
    is_xor: bool


def draw_contours(
    dataset: Dataset, image: Volume, choice: SegmentChoice, path: Path
) -> tuple[np.ndarray, tuple[str, ...]]:
    """uint8 (z, y, x) in the image file's order, 0, 1 and 2; and notes. Raises `DataError`."""
    names = numbered(dataset.get("StructureSetROISequence") or [], "ROINumber", "ROIName")
    classes = choose_segments(names, choice, path)
    drawn = {
        int(item.ReferencedROINumber): list(item.get("ContourSequence") or [])
        for item in dataset.get("ROIContourSequence") or []
    }
    values, notes = np.zeros(image.array.shape, np.uint8), []
    for number, value in classes.items():
        name = f"region {number} {names[number]!r}"
        contours = _contours(drawn.get(number, []), image, f"{path}: {name}")
        mask, said = _fill(contours, image, f"{path}: {name}")
        notes += [f"{name}: {text}" for text in said]
        np.maximum(values, mask * np.uint8(value), out=values)
    return values, tuple(notes)


def _contours(items: Sequence[Dataset], image: Volume, name: str) -> list[Contour]:
    to_index = np.linalg.inv(grid_matrix(image.grid))
    contours, others = [], set()
    for item in items:
        kind = str(item.get("ContourGeometricType") or "")
        if kind not in (CLOSED, CLOSED_XOR):
            others.add(kind)
            continue
        numbers = np.array([float(number) for number in item.get("ContourData") or []])
        if len(numbers) % 3 or not np.isfinite(numbers).all():
            raise DataError(f"{name} has a contour that is no list of points; export it again")
        points = numbers.reshape(-1, 3)
        if len(points) > 2:  # fewer enclose nothing
            indices = (np.column_stack([points, np.ones(len(points))]) @ to_index.T)[:, :3]
            contours.append(Contour(indices, kind == CLOSED_XOR))
    if not contours:
        told = f", but {', '.join(sorted(others))}" if others else ""
        raise DataError(
            f"{name} has no closed contour{told}; correct the structure set, or name other regions "
            "by structures"
        )
    return contours


def _fill(contours: Sequence[Contour], image: Volume, name: str) -> tuple[np.ndarray, list[str]]:
    """bool (z, y, x) in the file's order, and what is worth a note."""
    normal = _normal(contours, name)
    mask = np.zeros(image.array.shape, bool)
    view = np.moveaxis(mask, 2 - normal, 0)  # plane, row, column
    columns, rows = (axis for axis in range(3) if axis != normal)
    planes: dict[int, list[Contour]] = {}
    for contour in contours:
        place = float(contour.points[:, normal].mean())
        number = round(place)
        if abs(place - number) > MAX_OFFSET_SLICES:
            raise DataError(
                f"{name} has a contour between two slices of the image (at slice {place + 1:.2f}), "
                "so it was drawn on another series; give the structure set of this one"
            )
        inside = (contour.points >= -0.5).all() and (
            contour.points <= np.subtract(image.grid.size_xyz, 0.5)
        ).all()
        if not inside:
            raise DataError(f"{name} lies partly outside its image; give the right label")
        planes.setdefault(number, []).append(contour)
    holes = 0
    for number, own in planes.items():
        holes += _fill_plane(view[number], own, [rows, columns])
    return mask, _notes(planes, holes)


def _fill_plane(plane: np.ndarray, contours: Sequence[Contour], axes: list[int]) -> int:
    """Fill the contours of one plane in place; how many of them were taken for holes."""
    shapes = [fill_polygon(contour.points[:, axes], plane.shape) for contour in contours]
    if any(contour.is_xor for contour in contours):
        plane ^= np.logical_xor.reduce(shapes)
        return 0
    holes = 0
    seen: list[np.ndarray] = []
    for shape in sorted(shapes, key=np.count_nonzero, reverse=True):  # the outer ones first
        if not shape.any() or any(np.array_equal(shape, other) for other in seen):
            continue  # smaller than a voxel, or drawn twice
        seen.append(shape)
        is_hole = bool(plane[shape].all())
        holes += is_hole
        plane[shape] = not is_hole
    return holes


def _notes(planes: Mapping[int, object], holes: int) -> list[str]:
    notes = []
    if holes:
        notes.append(f"{holes} contours lie inside another one, read as holes")
    gaps = np.diff(sorted(planes)) - 1
    if gaps.size and gaps.min() >= 1:
        notes.append(
            f"no two neighboring slices have contours (every {int(gaps.min()) + 1}. slice); those "
            "between are empty: interpolate the contours before export"
        )
    return notes


def _normal(contours: Sequence[Contour], name: str) -> int:
    """The image's axis (0 x, 1 y, 2 z) across which all contours lie. Raises `DataError`."""
    waves = np.max([np.ptp(contour.points, axis=0) for contour in contours], axis=0)
    if waves.min() > 2 * MAX_WAVE_SLICES:
        raise DataError(
            f"{name} has contours that do not lie in the image's slices (oblique, or drawn on "
            "another series); give the structure set of this series"
        )
    return int(waves.argmin())


def fill_polygon(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """bool (row, column): the pixels whose center lies inside a closed polygon, even-odd.

    `points`: (n, 2), (row, column), a pixel's center at its index. Of centers on the border itself
    the upper and left ones count as inside, the lower and right ones not.
    """
    crossed = np.zeros((shape[0], shape[1] + 1), bool)
    for (row_a, column_a), (row_b, column_b) in zip(points, np.roll(points, -1, 0), strict=True):
        low, high = sorted((row_a, row_b))
        rows = np.arange(max(0, int(np.ceil(low))), min(shape[0], int(np.ceil(high))))
        if not len(rows):
            continue
        columns = column_a + (rows - row_a) * (column_b - column_a) / (row_b - row_a)
        crossed[rows, np.clip(np.ceil(columns).astype(int), 0, shape[1])] ^= True
    return np.logical_xor.accumulate(crossed, axis=1)[:, :-1]
