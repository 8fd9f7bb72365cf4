"""Sizes from headers alone, for what must be known before anything is read."""

from __future__ import annotations

import math
from pathlib import Path

import SimpleITK as sitk

from data.case import Triple
from data.readers.listing import is_slice


def estimate_voxels(image: Path, spacing: Triple | None) -> int:
    """Voxels of an image on a grid of `spacing` (mm, (z, y, x); None: its own); 0 if unreadable.

    Only an estimate, for the disk that preparing will need: oblique axes count as straight.
    """
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
    size, steps = list(reader.GetSize()[:3]), list(reader.GetSpacing()[:3])
    size[2] *= slices
    voxels = math.prod(size)
    if spacing is None:
        return voxels
    return round(voxels * math.prod(steps) / math.prod(spacing))
