"""Masks: from the canonical orientation back onto the input file's own grid, and read again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from data.case import DataError, Grid
from data.readers.files import VOLUME_SUFFIXES, volume_stem
from data.readers.geometry import EXACTLY_ORTHONORMAL, nearest_rotation, non_orthonormal
from data.readers.nifti import read_nifti
from data.readers.stored import check_stored
from data.readers.volume import grid_axis_map, grid_matrix, read_volume
from utils.leftovers import unfinished_path

DESCRIP = "descrip"  # of a NIfTI header, and the name that ITK has for it
ITK_DESCRIP = "ITK_FileNotes"
NOTHING: Mapping[str, str] = MappingProxyType({})


def write_mask(
    path: Path, mask: np.ndarray, grid: Grid, about: Mapping[str, str] = NOTHING
) -> None:
    """Write a mask (bool or uint8, (z, y, x) canonical, original spacing) on `grid`, atomically.

    As `write_volume` does, in one byte a voxel.
    """
    write_volume(path, mask, grid, about, np.dtype(np.uint8))


def write_volume(
    path: Path,
    array: np.ndarray,
    grid: Grid,
    about: Mapping[str, str] = NOTHING,
    dtype: np.dtype | None = None,
) -> None:
    """Write an array ((z, y, x) canonical, original spacing) on `grid`, atomically.

    The file has the orientation, size, spacing, origin and direction of the image that `grid` was
    read from; its suffix chooses the format. `about`: texts by key, for the header; a NIfTI file
    has room for that of "descrip" alone, 79 characters. `dtype`: of the file; None: the array's.
    A reader sees the old file or the whole new one. Raises `ValueError` where the array is not of
    the grid's size or the suffix is unknown, and `OSError` where the disk cannot take it.
    """
    on_disk = to_file_order(array, grid, path)
    stem = volume_stem(path)
    if stem is None:
        raise ValueError(f"{path}: unknown format; choose from {', '.join(VOLUME_SUFFIXES)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.name[len(stem) :]
    unfinished = unfinished_path(path, suffix)
    try:
        on_disk = np.ascontiguousarray(on_disk, dtype)
        write_whole(unfinished, lambda: _write(unfinished, on_disk, grid, about))
        os.replace(unfinished, path)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def to_file_order(array: np.ndarray, grid: Grid, name: str | Path) -> np.ndarray:
    """(z, y, x) canonical -> (z, y, x) in the order of the file with this grid; a view.

    Raises `ValueError`, beginning with `name`, where the array is not of the grid's size.
    """
    on_disk = grid_axis_map(grid).to_file(array)
    if on_disk.shape != grid.size_xyz[::-1]:
        raise ValueError(
            f"{name}: mask is {on_disk.shape} in the file's order, its image "
            f"{grid.size_xyz[::-1]}; restore it to the original grid first"
        )
    return on_disk


def write_whole(path: Path, write: Callable[[], None]) -> None:
    """Have a library write an image file, and see to it that it is there and whole.

    ITK writes a NIfTI file to a full disk without a word, and says nothing of the cause elsewhere.
    Raises OSError.
    """
    try:
        write()
        if path.name.endswith((".nii", ".nii.gz")):
            read_nifti(path)  # to its last byte
        else:
            check_stored(path)
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    except (RuntimeError, DataError) as error:
        with path.open("ab") as stream:  # on the same disk: it says what is wrong
            stream.write(bytes(1 << 16))
            stream.flush()
            os.fsync(stream.fileno())
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path)) from error


def _write(path: Path, array: np.ndarray, grid: Grid, about: Mapping[str, str]) -> None:
    import SimpleITK as sitk

    is_nifti = path.name.endswith((".nii", ".nii.gz"))
    if is_nifti and non_orthonormal(grid) > EXACTLY_ORTHONORMAL:
        _write_sheared_nifti(path, array, grid, about)
        return
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(grid.spacing_xyz)
    image.SetOrigin(grid.origin_xyz)
    image.SetDirection(grid.direction)
    texts = {ITK_DESCRIP: about[DESCRIP]} if is_nifti and DESCRIP in about else about
    for key, text in texts.items():
        image.SetMetaData(key, text)
    sitk.WriteImage(image, str(path), useCompression=True)


def _write_sheared_nifti(
    path: Path, array: np.ndarray, grid: Grid, about: Mapping[str, str]
) -> None:
    """The image's own axes as sform; the nearest ones at right angles as qform, around the same
    middle. ITK (3D Slicer, ITK-SNAP) refuses a file without the latter and takes it; others take
    the former.
    """
    import nibabel as nib

    exact = grid_matrix(grid)
    rectangular = grid_matrix(replace(grid, direction=nearest_rotation(grid.direction)))
    middle = np.append(np.subtract(grid.size_xyz, 1) / 2, 1)
    rectangular[:3, 3] += (exact @ middle - rectangular @ middle)[:3]
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    file = nib.Nifti1Image(array.T, to_ras @ exact)
    file.header.set_xyzt_units("mm")
    file.header["descrip"] = about.get(DESCRIP, "")
    file.set_qform(to_ras @ rectangular, 1)
    file.set_sform(to_ras @ exact, 1)
    nib.save(file, path)


def read_mask(path: Path, grid: Grid) -> np.ndarray:
    """A mask that `write_mask` wrote for an image on `grid` -> bool (z, y, x), canonical.

    Raises `DataError` where the file is missing or broken or is not of the grid's size.
    """
    volume = read_volume(path)
    if volume.grid.size_xyz != grid.size_xyz:
        raise DataError(
            f"{path}: is {volume.grid.size_xyz} (x, y, z), its image {grid.size_xyz}; "
            "delete the folder of predictions and evaluate that stage again"
        )
    return np.ascontiguousarray(grid_axis_map(grid).to_canonical(volume.array)) > 0
