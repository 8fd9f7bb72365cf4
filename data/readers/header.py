"""Sizes from headers alone, for what must be known before anything is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import SimpleITK as sitk

from data.case import DataError, Triple
from data.readers.listing import is_slice
from data.readers.nifti import nifti_size


def estimate_voxels(image: Path, spacing: Triple | None) -> int:
    """Voxels of an image on a grid of `spacing` (mm, (z, y, x); None: its own); 0 if unreadable.

    Only an estimate, for the disk that preparing will need: oblique axes count as straight.
    """
    if image.name.lower().endswith((".nii", ".nii.gz")):
        return _estimate_nifti(image, spacing)
    reader = sitk.ImageFileReader()
    slices = 1
    if image.is_dir():
        names = sorted(filter(is_slice, image.iterdir()))
        if not names:
            return 0
        image, slices = names[len(names) // 2], len(names)
    reader.SetFileName(str(image))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return 0
    return _on_grid(math.prod(reader.GetSize()[:3]) * slices, reader.GetSpacing()[:3], spacing)


def _estimate_nifti(image: Path, spacing: Triple | None) -> int:
    try:
        size, steps = nifti_size(image)
    except DataError:
        return 0
    return _on_grid(math.prod(size), steps, spacing)


def _on_grid(voxels: int, steps: Sequence[float], spacing: Triple | None) -> int:
    if spacing is None:
        return voxels
    return round(voxels * math.prod(steps) / math.prod(spacing))
