"""DICOM segmentation objects (SEG): their frames, placed on the image by position.

A frame lies where its own position says; frames that are not stored are empty. Neither the order of
the frames nor the names of the slices they refer to matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.case import DataError, Grid
from data.readers.content import FETCH_AGAIN
from data.readers.dicom_label import choose_segments, numbered
from data.readers.files import SegmentChoice
from data.readers.geometry import check_grid
from data.readers.slices import MAX_TILT
from data.readers.volume import Volume, grid_matrix

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_OFFSET_VOXELS = 0.25  # in plane, anywhere in a frame, as of any label
MAX_OFFSET_SLICES = 0.45  # distances of an image's own slices differ by up to a tenth
MAX_STEP = 0.1  # distance of frames, of that of the image's slices
SAME_PLACE_MM = 1e-3
CURE = (
    "write the segmentation on this series; or, if its place is right, set "
    'label_geometry = "resample" for the center'
)


@dataclass(frozen=True)
class Frame:
    """One stored frame: class, bool (row, column), position of its first pixel in mm."""

    value: int
    plane: np.ndarray
    position: np.ndarray


@dataclass(frozen=True)
class Segments:
    """The wanted frames of an object. `cosines`: of a row, then of a column.

    `spacing_yx`: mm between rows, and between columns. `step`: mm between frames, where it is said.
    """

    frames: tuple[Frame, ...]
    size_yx: tuple[int, int]
    cosines: np.ndarray
    spacing_yx: np.ndarray
    step: float | None
    notes: tuple[str, ...]

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.cosines[:3], self.cosines[3:])

    def places(self) -> np.ndarray:
        """Where the frames lie along the normal, mm, each place once, sorted."""
        places = np.sort([float(frame.position @ self.normal) for frame in self.frames])
        return places[np.append(True, np.diff(places) > SAME_PLACE_MM)]

    def distance(self) -> float | None:
        """mm between neighboring planes; None where one plane alone says nothing."""
        if self.step is not None:
            return self.step
        places = self.places()
        return float(np.diff(places).min()) if len(places) > 1 else None

    def to_volume(self, path: Path) -> Volume:
        """All frames as a volume with its own grid. Raises `DataError` where they lie unevenly."""
        places, step = self.places(), self.distance() or 1.0
        count = round((places[-1] - places[0]) / step) + 1
        first = min(self.frames, key=lambda frame: float(frame.position @ self.normal)).position
        values = np.zeros((count, *self.size_yx), np.uint8)
        for frame in self.frames:
            offset = frame.position - first
            place = float(offset @ self.normal) / step
            sideways = offset - (offset @ self.normal) * self.normal
            if abs(place - round(place)) > MAX_STEP or np.abs(sideways).max() > SAME_PLACE_MM:
                raise DataError(
                    f"{path}: its frames lie unevenly, not as slices of one volume; convert it to "
                    "a volume on its image's grid"
                )
            plane = values[round(place)]
            np.maximum(plane, frame.plane * np.uint8(frame.value), out=plane)
        axes = np.stack([self.cosines[:3], self.cosines[3:], self.normal], axis=1)
        x, y, z = (float(mm) for mm in first)
        grid = Grid(
            size_xyz=(self.size_yx[1], self.size_yx[0], count),
            spacing_xyz=(float(self.spacing_yx[1]), float(self.spacing_yx[0]), step),
            origin_xyz=(x, y, z),
            direction=tuple(float(cosine) for cosine in axes.ravel()),
        )
        return Volume(values, grid, check_grid(grid, path))


def read_segments(dataset: Dataset, choice: SegmentChoice, path: Path) -> Segments:
    """The frames of pancreas and tumor. Raises `DataError`."""
    items = list(dataset.get("SegmentSequence") or [])
    names = numbered(items, "SegmentNumber", "SegmentLabel")
    codes = {
        int(item.SegmentNumber): str(kind[0].get("CodeValue") or "")
        for item in items
        if (kind := item.get("SegmentedPropertyTypeCodeSequence"))
    }
    names.pop(0, None)  # the background of a label map
    classes = choose_segments(names, choice, path, codes)
    shared = dataset.get("SharedFunctionalGroupsSequence") or [None]
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    orientations, frames = set(), []
    for group, plane, numbers in _planes(dataset, list(groups), shared[0], classes, path):
        orientation = _of(group, shared[0], "PlaneOrientationSequence", path)
        orientations.add(tuple(map(float, orientation.ImageOrientationPatient)))
        place = _of(group, shared[0], "PlanePositionSequence", path)
        position = np.array([float(mm) for mm in place.ImagePositionPatient])
        for number in numbers:
            own = plane == number if len(numbers) > 1 or plane.dtype != bool else plane
            if own.any():
                frames.append(Frame(classes[number], own, position))
    if not frames:
        raise DataError(f"{path}: is empty, no voxel is pancreas or tumor; correct the label")
    if len(orientations) > 1:
        raise DataError(f"{path}: its frames lie in {len(orientations)} directions; {CURE}")
    measures = _of(groups[0], shared[0], "PixelMeasuresSequence", path)
    step = measures.get("SpacingBetweenSlices")
    notes: tuple[str, ...] = ()
    if dataset.get("SegmentationType") == "FRACTIONAL":
        notes = ("its segmentation is fractional; voxels of a half and more are read",)
    return Segments(
        tuple(frames),
        (int(dataset.Rows), int(dataset.Columns)),
        np.array(orientations.pop()),
        np.array([float(mm) for mm in measures.PixelSpacing]),
        abs(float(step)) if step else None,
        notes,
    )


def _planes(
    dataset: Dataset, groups: Sequence[Any], shared: Any, classes: dict[int, int], path: Path
) -> Iterator[tuple[Any, np.ndarray, list[int]]]:
    """Group, pixels and possible segments of each frame that may hold a wanted segment.

    Pixels are bool for a frame of one segment, segment numbers for a frame of a label map.
    """
    from pydicom.pixels import iter_pixels

    is_label_map = dataset.get("SegmentationType") == "LABELMAP"
    wanted, owners = [], []
    for number, group in enumerate(groups):
        own = list(classes)
        if not is_label_map:
            item = _of(group, shared, "SegmentIdentificationSequence", path)
            own = [int(item.ReferencedSegmentNumber)]
        if own[0] in classes:
            wanted.append(number)
            owners.append(own)
    half = (int(dataset.get("MaximumFractionalValue") or 1) + 1) // 2
    try:
        for place, (number, own) in enumerate(zip(wanted, owners, strict=True)):
            if place == 0:
                pixels = iter_pixels(dataset, indices=wanted, raw=True)
            plane = np.asarray(next(pixels))
            yield groups[number], plane if is_label_map else plane >= half, own
    except (StopIteration, ValueError, RuntimeError, AttributeError) as error:
        raise DataError(f"{path}: its pixels cannot be read ({error}); {FETCH_AGAIN}") from error


def _of(group: Any, shared: Any, sequence: str, path: Path) -> Any:
    """The one item of a functional group, of a frame or of all. Raises `DataError`."""
    for part in (group, shared):
        items = part.get(sequence) if part is not None else None
        if items:
            return items[0]
    raise DataError(
        f"{path}: has no {sequence}, so its frames have no place in space; convert it to a volume "
        "on its image's grid"
    )


def place_segments(segments: Segments, image: Volume, path: Path) -> np.ndarray:
    """uint8 (z, y, x) in the image file's order; every frame on the slice where it lies.

    Raises `DataError` where the frames are not of the image's grid, in any orientation of it.
    """
    to_index = np.linalg.inv(grid_matrix(image.grid))
    row, column = _steps(segments, to_index, path)
    normal = 3 - row.axis - column.axis
    spacing = image.grid.spacing_xyz[normal]
    distance = segments.distance()
    if distance is not None and abs(distance / spacing - 1) > MAX_STEP:
        raise DataError(
            f"{path}: its frames are {distance:.4g} mm apart, the image's slices {spacing:.4g} mm; "
            f"{CURE}"
        )
    values = np.zeros(image.array.shape, np.uint8)
    view: np.ndarray = values.transpose(2 - normal, 2 - row.axis, 2 - column.axis)
    for frame in segments.frames:
        start = (to_index @ np.append(frame.position, 1))[:3]
        number = round(start[normal])
        drift_mm = MAX_TILT * abs(number) * spacing  # what the image's reader takes for straight
        first = [
            _first(start[step.axis], step, there, drift_mm / image.grid.spacing_xyz[step.axis])
            for step, there in ((row, view.shape[1]), (column, view.shape[2]))
        ]
        if abs(start[normal] - number) > MAX_OFFSET_SLICES or first[0] is None or first[1] is None:
            off = ", ".join(f"{value:.2f}" for value in start)
            raise DataError(
                f"{path}: a frame lies between the image's voxels (its first is at {off}); {CURE}"
            )
        rows, columns = np.nonzero(frame.plane)
        rows, columns = first[0] + row.sign * rows, first[1] + column.sign * columns
        lowest = min(number, int(rows.min()), int(columns.min()))
        over = (number, int(rows.max()), int(columns.max())) >= np.array(view.shape)
        if lowest < 0 or over.any():
            raise DataError(
                f"{path}: lies partly outside its image; give the right label, or {CURE}"
            )
        plane = view[number]
        plane[rows, columns] = np.maximum(plane[rows, columns], frame.value)
    return values


@dataclass(frozen=True)
class _Step:
    """What one pixel further in a frame is in the image: along `axis` (0 x, 1 y, 2 z) by `sign`.

    `size`: the frame's pixels in that direction.
    """

    axis: int
    sign: int
    size: int


def _steps(segments: Segments, to_index: np.ndarray, path: Path) -> tuple[_Step, _Step]:
    """From row to row, and from column to column. Raises `DataError` where these are no voxels."""
    steps = []
    for direction, spacing, size in (
        (segments.cosines[3:], segments.spacing_yx[0], segments.size_yx[0]),
        (segments.cosines[:3], segments.spacing_yx[1], segments.size_yx[1]),
    ):
        step = to_index[:3, :3] @ (direction * spacing)
        axis = int(np.abs(step).argmax())
        sign = 1 if step[axis] > 0 else -1
        off = np.abs(step - sign * np.eye(3)[axis]).max() * size
        if off > MAX_OFFSET_VOXELS:
            raise DataError(
                f"{path}: its frames are turned against the image or have pixels of another size "
                f"({segments.spacing_yx[0]:.5g} x {segments.spacing_yx[1]:.5g} mm); {CURE}"
            )
        steps.append(_Step(axis, sign, size))
    return steps[0], steps[1]


def _first(start: float, step: _Step, there: int, drift: float) -> int | None:
    """The image's voxel of a frame's first pixel; None where it lies between two."""
    whole = 0 if step.sign > 0 else there - 1
    if step.size == there and abs(start - whole) <= MAX_OFFSET_VOXELS + drift:
        return whole
    return round(start) if abs(start - round(start)) <= MAX_OFFSET_VOXELS else None
