"""Volume files to arrays: one canonical orientation inside, the file's own grid kept beside."""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from data.case import DataError, Grid, Triple

# Direction cosines that fit less well than this are sheared (a tilted gantry), not rounded.
MAX_NON_ORTHONORMAL = 1e-2
EXACTLY_ORTHONORMAL = 1e-5  # the rounding of float32 headers; not worth a note
MAX_HEADER_CONFLICT_MM = 0.1
FETCH_AGAIN = "copy or download the file again"


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
    """An image file as stored: `array` (z, y, x) in the file's own order, with its geometry."""

    array: np.ndarray
    grid: Grid
    notes: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)


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


def read_volume(path: Path) -> Volume:
    """Any file that SimpleITK reads as a 3-D image; trailing axes of length 1 are dropped.

    Raises `DataError` where it is missing, cut short, has channels or time points, or is sheared.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; correct the path or restore the file")
    is_nifti = path.name.lower().endswith((".nii", ".nii.gz"))
    notes = check_nifti(path) if is_nifti else ()
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        if is_nifti and "orthonormal" in str(error):
            image = _read_sheared_nifti(path)
        else:
            reason = str(error).strip().splitlines()[-1]
            raise DataError(
                f"{path}: cannot be read ({reason}); it is cut short or no image: {FETCH_AGAIN}"
            ) from error
    volume = volume_from_image(image, path)
    return replace(volume, notes=(*notes, *volume.notes))


def volume_from_image(image: sitk.Image, path: Path) -> Volume:
    """A SimpleITK image with 3 axes longer than 1 at most -> `Volume`. Raises `DataError`."""
    size = image.GetSize()
    if image.GetNumberOfComponentsPerPixel() > 1:
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


def check_grid(grid: Grid, path: Path) -> tuple[str, ...]:
    """Notes on a geometry that is usable; `DataError` on one that is not."""
    numbers = (*grid.spacing_xyz, *grid.origin_xyz, *grid.direction)
    if not np.isfinite(numbers).all() or min(grid.spacing_xyz) <= 0:
        raise DataError(f"{path}: spacing or position is not a number; correct the header")
    direction = np.reshape(grid.direction, (3, 3))
    error = float(np.abs(direction.T @ direction - np.eye(3)).max())
    if error > MAX_NON_ORTHONORMAL:
        raise DataError(
            f"{path}: axes are not at right angles (off by {error:.3g}; sheared, as with a tilted "
            "gantry); resample it onto a rectangular grid and give that"
        )
    if error > EXACTLY_ORTHONORMAL:
        return (f"axes are {error:.1g} off right angles; read as if they were exact",)
    return ()


def check_nifti(path: Path) -> tuple[str, ...]:
    """Refuse a NIfTI cut short or corrupt, which ITK fills without a word; notes on its header."""
    try:
        file: Any = nib.load(path)
        header = file.header
        needed = int(file.dataobj.offset)
        needed += int(np.prod(header.get_data_shape())) * header.get_data_dtype().itemsize
        found = _unzipped_size(path) if path.name.lower().endswith(".gz") else path.stat().st_size
    except (OSError, EOFError, zlib.error, nib.filebasedimages.ImageFileError) as error:
        raise DataError(f"{path}: is cut short or corrupt ({error}); {FETCH_AGAIN}") from error
    if found < needed:
        raise DataError(f"{path}: is cut short ({found} of {needed} bytes); {FETCH_AGAIN}")
    qform, sform = header.get_qform(coded=True)[0], header.get_sform(coded=True)[0]
    if qform is None or sform is None:
        return ()
    last = np.append(np.subtract(header.get_data_shape()[:3], 1), 1)
    offset_mm = max(np.linalg.norm((qform - sform) @ corner) for corner in (last, (0, 0, 0, 1)))
    if offset_mm <= MAX_HEADER_CONFLICT_MM:
        return ()
    return (
        f"its header has two positions, {offset_mm:.3g} mm apart (qform and sform); read as "
        "SimpleITK does, other tools may take the other one: write it again with one of them",
    )


def _unzipped_size(path: Path) -> int:
    """Bytes after decompression; reads all of it, so the checksum at its end is compared too."""
    total = 0
    with gzip.open(path) as stream:
        while chunk := stream.read(1 << 22):
            total += len(chunk)
    return total


def _read_sheared_nifti(path: Path) -> sitk.Image:
    """A NIfTI whose axes ITK finds too far from right angles; `check_grid` decides what it is."""
    file: Any = nib.load(path)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ file.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    array = np.asanyarray(file.dataobj)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.reshape(array.shape[:3]).T))
    image.SetSpacing([float(step) for step in spacing])
    image.SetOrigin([float(mm) for mm in affine[:3, 3]])
    image.SetDirection([float(cosine) for cosine in (affine[:3, :3] / spacing).ravel()])
    return image


def _triple(values: tuple[float, ...]) -> Triple:
    return float(values[0]), float(values[1]), float(values[2])
