"""Volume files to arrays: one canonical orientation inside, the file's own grid kept beside."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.case import DataError, Grid, Triple
from data.readers.content import FETCH_AGAIN, check_content
from data.readers.geometry import check_grid
from data.readers.nifti import read_nifti
from data.readers.stored import check_stored

if TYPE_CHECKING:
    import SimpleITK as sitk


@dataclass(frozen=True)
class AxisMap:
    """How a file's axes are permuted and mirrored to become canonical: exact, and exactly undone.

    `axes`: for each canonical numpy axis the file's numpy axis. `flips`: canonical axes to mirror.
    """

    axes: tuple[int, int, int]
    flips: tuple[int, ...]

    def to_canonical(self, array: np.ndarray) -> np.ndarray:
        """(z, y, x) as on disk -> (z, y, x) canonical; a view."""
        return np.flip(array.transpose(self.axes), self.flips)

    def to_file(self, array: np.ndarray) -> np.ndarray:
        """(z, y, x) canonical -> (z, y, x) as on disk; a view."""
        inverse = tuple(int(axis) for axis in np.argsort(self.axes))
        return np.flip(array, self.flips).transpose(inverse)


@dataclass(frozen=True)
class Volume:
    """An image file as stored: `array` (z, y, x) in the file's own order, with its geometry.

    `frame_of_reference`, `series`: UIDs of a DICOM series, by which a label is known to be its own.
    """

    array: np.ndarray
    grid: Grid
    notes: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    frame_of_reference: str = ""
    series: str = ""


def axis_map(matrix: np.ndarray) -> AxisMap:
    """The signed permutation nearest to a 3 x 3 matrix whose columns are the file's x, y, z axes.

    Its rows are the canonical axes (x left, y back, z head, or another image's axes).
    """
    best = max(
        itertools.permutations(range(3)),
        key=lambda order: sum(abs(matrix[row, order[row]]) for row in range(3)),
    )
    axes = (2 - best[2], 2 - best[1], 2 - best[0])
    flips = tuple(2 - row for row in range(3) if matrix[row, best[row]] < 0)
    return AxisMap(axes, flips)


def grid_matrix(grid: Grid) -> np.ndarray:
    """4 x 4: (x, y, z, 1) voxel indices of the file -> world, mm, LPS."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(grid.direction, (3, 3)) * np.asarray(grid.spacing_xyz)
    matrix[:3, 3] = grid.origin_xyz
    return matrix


def grid_axis_map(grid: Grid) -> AxisMap:
    """The file's axes to the canonical ones; depends on the direction cosines alone."""
    return axis_map(np.reshape(grid.direction, (3, 3)))


def canonical_spacing(grid: Grid) -> Triple:
    """Spacing in mm of the canonical array, (z, y, x)."""
    on_disk = grid.spacing_xyz[::-1]
    z, y, x = (float(on_disk[axis]) for axis in grid_axis_map(grid).axes)
    return z, y, x


def canonical_matrix(grid: Grid, mapping: AxisMap | None = None) -> np.ndarray:
    """4 x 4: (x, y, z, 1) indices of the array that `mapping` makes -> world, mm, LPS.

    Without `mapping`: of the canonical array.
    """
    mapping = grid_axis_map(grid) if mapping is None else mapping
    index = np.zeros((4, 4))
    index[3, 3] = 1
    for canonical, on_disk in enumerate(mapping.axes):
        row, column = 2 - on_disk, 2 - canonical
        flipped = canonical in mapping.flips
        index[row, column] = -1 if flipped else 1
        index[row, 3] = grid.size_xyz[row] - 1 if flipped else 0
    return grid_matrix(grid) @ index


def canonical_grid(grid: Grid) -> Grid:
    """The grid of the canonical array itself: a file on it needs no permuting and no mirroring."""
    matrix = canonical_matrix(grid)
    axes = matrix[:3, :3]
    size, spacing = np.empty(3, int), np.linalg.norm(axes, axis=0)
    size[::-1] = np.asarray(grid.size_xyz[::-1])[list(grid_axis_map(grid).axes)]
    return Grid(
        size_xyz=(int(size[0]), int(size[1]), int(size[2])),
        spacing_xyz=_triple(tuple(spacing)),
        origin_xyz=_triple(tuple(matrix[:3, 3])),
        direction=tuple(float(cosine) for cosine in (axes / spacing).ravel()),
    )


def read_volume(path: Path) -> Volume:
    """A 3-D image file of one of `VOLUME_SUFFIXES`; trailing axes of length 1 are dropped.

    Read to its last byte. Raises `DataError` where it is missing, damaged, holds something else,
    has channels or time points, or a geometry that no CT has.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; correct the path or restore the file")
    check_content(path)
    if path.name.lower().endswith((".nii", ".nii.gz")):
        array, grid, notes = read_nifti(path)
        return Volume(array, grid, (*notes, *check_grid(grid, path)))
    import SimpleITK as sitk

    notes = check_stored(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    if _is_float64(reader):
        reader.SetOutputPixelType(sitk.sitkFloat32)  # half the memory; HU and labels fit
    image, warned = read_with_warnings(reader, path)
    volume = volume_from_image(image, path)
    return replace(volume, notes=(*notes, *warned, *volume.notes))


def _is_float64(reader: sitk.ImageFileReader) -> bool:
    import SimpleITK as sitk

    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return False  # reading it says why
    return bool(reader.GetPixelID() == sitk.sitkFloat64)


def read_with_warnings(reader: sitk.ImageFileReader, path: Path) -> tuple[sitk.Image, list[str]]:
    """What a reader reads and what ITK said while it did. Raises `DataError`.

    A warning that data are missing or damaged is an error: ITK fills the rest with zeros.
    """
    from data.readers.itk_warnings import ItkWarnings

    said = ItkWarnings()
    before = said.SetAsGlobalITKLogger()
    try:
        image = reader.Execute()
    except RuntimeError as error:
        reason = itk_reason(error)
        raise DataError(
            f"{path}: cannot be read ({reason}); it is cut short or no image: {FETCH_AGAIN}"
        ) from error
    finally:
        before.SetAsGlobalITKLogger()
    for text in said.texts:
        if re.search(_INCOMPLETE, text, re.IGNORECASE):
            raise DataError(f"{path}: is incomplete ({text}); {FETCH_AGAIN}")
    return image, said.texts


def itk_reason(error: RuntimeError) -> str:
    """The line of an ITK exception that says what is wrong: matrices may follow it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "ERROR" in line]
    return (named or lines or ["no reason given"])[-1]


_INCOMPLETE = r"incomplete|truncat|premature|corrupt|missing|not read|unexpected end|too short"


def volume_from_image(image: sitk.Image, path: Path) -> Volume:
    """A SimpleITK image with 3 axes longer than 1 at most -> `Volume`. Raises `DataError`."""
    import SimpleITK as sitk

    size = image.GetSize()
    if image.GetNumberOfComponentsPerPixel() > 1:
        if path.name.lower().endswith((".seg.nrrd", ".seg.nhdr")) or any(
            key.startswith("Segment0_") for key in image.GetMetaDataKeys()
        ):
            raise DataError(
                f"{path}: is a segmentation of {image.GetNumberOfComponentsPerPixel()} layers "
                "(overlapping segments of 3D Slicer); export it there as one label map"
            )
        raise DataError(f"{path}: has several values per voxel (color?); give a plain CT volume")
    if len(size) < 3 or any(n > 1 for n in size[3:]):
        raise DataError(f"{path}: has size {size}, not one 3-D volume; write one time point alone")
    dimension = len(size)
    matrix = np.reshape(image.GetDirection(), (dimension, dimension))[:3, :3]
    grid = Grid(
        size_xyz=(int(size[0]), int(size[1]), int(size[2])),
        spacing_xyz=_triple(image.GetSpacing()),
        origin_xyz=_triple(image.GetOrigin()),
        direction=tuple(float(cosine) for cosine in matrix.ravel()),
    )
    array = sitk.GetArrayFromImage(image).reshape(grid.size_xyz[::-1])
    return Volume(array, grid, check_grid(grid, path))


def _triple(values: tuple[float, ...]) -> Triple:
    return float(values[0]), float(values[1]), float(values[2])
