"""Which grids a CT can have: refused, or used with a note, before anything is computed on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.case import DataError, Grid

# Direction cosines that fit less well than this are sheared (a tilted gantry), not rounded.
MAX_NON_ORTHONORMAL = 1e-2
EXACTLY_ORTHONORMAL = 1e-5  # the rounding of float32 headers; not worth a note
SPACING_MM = (0.1, 20.0)  # finer than any detector, thicker than any slice for diagnosis


MIN_VOXELS = 10_000  # fewer are a test's or a sample's; not judged
USUAL_MM = (0.2, 12.0)  # what lies outside is read with a note
SMALLEST_MM = 80.0  # the longest side of a CT that has a whole pancreas in it, with room to spare
WIDEST_MM = 1000.0  # two sides of a CT are its field of view


def is_ct_spacing(spacing: Sequence[float] | np.ndarray) -> bool:
    """Whether all steps, mm, are ones that a CT can have."""
    return bool(np.all(np.greater_equal(spacing, SPACING_MM[0])) and max(spacing) <= SPACING_MM[1])


def non_orthonormal(grid: Grid) -> float:
    """How far the axes are off right angles: the largest cosine between two of them."""
    direction = np.reshape(grid.direction, (3, 3))
    return float(np.abs(direction.T @ direction - np.eye(3)).max())


def check_grid(grid: Grid, path: Path) -> tuple[str, ...]:
    """Notes on a geometry that is usable; `DataError` on one that is not."""
    numbers = (*grid.spacing_xyz, *grid.origin_xyz, *grid.direction)
    if not np.isfinite(numbers).all() or min(grid.spacing_xyz) <= 0:
        raise DataError(f"{path}: spacing or position is not a number; correct the header")
    if not is_ct_spacing(grid.spacing_xyz):
        steps = " x ".join(f"{step:.4g}" for step in grid.spacing_xyz)
        raise DataError(
            f"{path}: voxels of {steps} mm are no CT ({SPACING_MM[0]:g} to {SPACING_MM[1]:g} mm); "
            "the unit or the header is wrong: correct it, or convert the image again from DICOM"
        )
    notes = _unusual(grid)
    error = non_orthonormal(grid)
    if error > MAX_NON_ORTHONORMAL:
        raise DataError(
            f"{path}: axes are not at right angles (off by {error:.3g}; sheared, as with a tilted "
            "gantry); resample it onto a rectangular grid and give that"
        )
    if error > EXACTLY_ORTHONORMAL:
        notes += (f"axes are {error:.1g} off right angles; read as if they were exact",)
    return notes


def _unusual(grid: Grid) -> tuple[str, ...]:
    """A note where voxels or the whole are of a size that hints at a wrong unit."""
    notes: tuple[str, ...] = ()
    if min(grid.spacing_xyz) < USUAL_MM[0] or max(grid.spacing_xyz) > USUAL_MM[1]:
        steps = " x ".join(f"{step:.3g}" for step in grid.spacing_xyz)
        notes += (f"voxels of {steps} mm are unusual; look at the header",)
    sides = [n * step for n, step in zip(grid.size_xyz, grid.spacing_xyz, strict=True)]
    many = np.prod(grid.size_xyz) >= MIN_VOXELS
    if many and (max(sides) < SMALLEST_MM or sorted(sides)[1] > WIDEST_MM):
        whole = " x ".join(f"{side:.0f}" for side in sides)
        notes += (f"the whole image has {whole} mm, which no body has; is the unit right?",)
    return notes


def nearest_rotation(direction: Sequence[float]) -> tuple[float, ...]:
    """The direction cosines at exact right angles that are nearest to 9 given ones, row by row."""
    left, _, right = np.linalg.svd(np.reshape(direction, (3, 3)))
    return tuple(float(cosine) for cosine in (left @ right).ravel())
