"""Sizes from headers alone, for what must be known before anything is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from data.case import DataError, Triple
from data.readers.listing import is_slice
from data.readers.nifti import nifti_size
from data.readers.stored import read_stored

MOST_VOXELS_PER_BYTE = 1040  # of gzip, which no image reaches


def estimate_voxels(image: Path, spacing: Triple | None) -> int:
    """Voxels of an image on a grid of `spacing` (mm, (z, y, x); None: its own); 0 if unreadable.

    Only an estimate, for the disk that preparing will need: oblique axes count as straight.
    """
    try:
        if image.is_dir():
            voxels, steps, files = _size_of_series(image)
        elif image.name.lower().endswith((".nii", ".nii.gz")):
            size, steps = nifti_size(image)
            voxels, files = math.prod(size), [image]
        else:
            voxels, steps = _size_of_file(image)
            files = list(read_stored(image).files)
        held = sum(file.stat().st_size for file in files)
    except (DataError, RuntimeError, OSError):
        return 0
    if voxels > MOST_VOXELS_PER_BYTE * held:
        return 0  # reading the case says that its header is wrong
    return _on_grid(voxels, steps, spacing)


def _size_of_file(image: Path) -> tuple[int, Sequence[float]]:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(image))
    reader.ReadImageInformation()
    return math.prod(reader.GetSize()[:3]), reader.GetSpacing()[:3]


def _size_of_series(folder: Path) -> tuple[int, Sequence[float], list[Path]]:
    """As its middle slice says."""
    files = sorted(filter(is_slice, folder.iterdir()))
    if not files:
        return 0, (1.0, 1.0, 1.0), []
    voxels, steps = _size_of_file(files[len(files) // 2])
    return voxels * len(files), steps, files


def _on_grid(voxels: int, steps: Sequence[float], spacing: Triple | None) -> int:
    if spacing is None:
        return voxels
    return round(voxels * math.prod(steps) / math.prod(spacing))
