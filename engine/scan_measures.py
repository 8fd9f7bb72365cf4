"""What a predicted mask measures: volume, longest axis, place, density. No label is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from data.case import Case, Grid
from data.prepare.duplicates import find_leaks
from data.prepare.prepared_case import PreparedCase
from data.prepare.signature import Signature
from data.readers.volume import canonical_matrix, grid_matrix
from data.roi import Box, bounding_box, crop
from engine.cascade import Prediction

Measures = dict[str, Any]
MAX_HULL_POINTS = 2000  # of a mask that is no solid body, as a flat one: enough for an exact pdist


def measure_stage(case: Case, found: Prediction) -> Measures:
    """The measures of one stage's mask, as numbers and plain lists; None what an empty one lacks.

    `centroid_lps_mm`: world, mm, x to the left, y to the back, z to the head. `roi_box`: what the
    network saw last, in voxels (x, y, z) of the input file, stop excluded. `longest_axis_mm`: see
    `longest_axis`. `fallback`: what gave the crop where the stage before found nothing.
    """
    box = bounding_box(found.mask)
    measures: Measures = {
        "target": found.target,
        "volume_ml": float(np.count_nonzero(found.mask) * np.prod(case.spacing) / 1000),
        "longest_axis_mm": None,
        "centroid_lps_mm": None,
        "mean_hu": None,
        "highest_probability": float(found.on_prepared.crop_prob.max()),
        "threshold": found.threshold,
        "roi_box": file_box(found.box, found.prepared),
        "fallback": found.roi.fallback,
        "rounds": found.rounds,
        "windows": found.windows,
        "arithmetic": found.precision,
        "seconds": round(found.seconds, 3),
    }
    if box is None:
        return measures
    mask = crop(found.mask, box)
    middle = np.array([_mean_index(mask, axis) for axis in range(3)]) + box.start
    measures["longest_axis_mm"] = longest_axis(mask, case.spacing)
    measures["centroid_lps_mm"] = _to_world(middle[None], case.grid)[0].tolist()
    measures["mean_hu"] = float(crop(case.image_hu, box)[mask].mean(dtype=np.float64))
    return measures


def _mean_index(mask: np.ndarray, axis: int) -> float:
    counts = np.count_nonzero(mask, axis=tuple(a for a in range(3) if a != axis))
    return float(np.average(np.arange(mask.shape[axis]), weights=counts))


def longest_axis(mask: np.ndarray, spacing: Sequence[float]) -> float:
    """The longest distance between the centers of two voxels of a mask, mm; 0 for one voxel.

    `mask`: bool (z, y, x), not empty; `spacing`: mm, (z, y, x). Both ends are corners of the convex
    hull, so they are the first or the last voxel of a row.
    """
    from scipy.spatial import ConvexHull, QhullError
    from scipy.spatial.distance import pdist

    rows = np.argwhere(mask.any(axis=2))
    lines = mask[rows[:, 0], rows[:, 1]]
    first, last = lines.argmax(axis=1), lines.shape[1] - 1 - lines[:, ::-1].argmax(axis=1)
    ends = np.concatenate([np.column_stack([rows, first]), np.column_stack([rows, last])])
    points = np.unique(ends, axis=0) * np.asarray(spacing, float)
    if len(points) > MAX_HULL_POINTS:
        try:
            points = points[ConvexHull(points).vertices]
        except QhullError:  # flat: a plane's own hull
            flat = points[:, np.ptp(points, axis=0) > 0]
            points = points[ConvexHull(flat).vertices]
    return float(pdist(points).max()) if len(points) > 1 else 0.0


def file_box(box: Box, prepared: PreparedCase) -> dict[str, list[int]]:
    """A box of the prepared grid as whole voxels (x, y, z) of the input file that hold it."""
    low, high = [], []
    for axis in range(3):  # both grids have one middle
        ratio = prepared.spacing[axis] / prepared.original_spacing[axis]
        shape, original = prepared.shape[axis], prepared.original_shape[axis]
        start = (box.start[axis] - shape / 2) * ratio + original / 2
        stop = (box.stop[axis] - shape / 2) * ratio + original / 2
        low.append(int(np.clip(np.floor(start + 1e-6), 0, original - 1)))
        high.append(int(np.clip(np.ceil(stop - 1e-6), 1, original)) - 1)
    corners = _to_world(np.array([low, high], float), prepared.grid)
    onto = np.linalg.inv(grid_matrix(prepared.grid))
    voxels = np.rint(np.column_stack([corners, [1, 1]]) @ onto.T)[:, :3].astype(int)
    return {
        "start": voxels.min(axis=0).tolist(),
        "stop": (voxels.max(axis=0) + 1).tolist(),
    }


def _to_world(zyx: np.ndarray, grid: Grid) -> np.ndarray:
    """(n, 3) canonical indices -> world, mm, LPS."""
    indices = np.column_stack([zyx[:, ::-1], np.ones(len(zyx))])
    world: np.ndarray = (indices @ canonical_matrix(grid).T)[:, :3]
    return world


def trained_before(prepared: PreparedCase, stage: str, trained: Sequence[Signature]) -> list[str]:
    """A warning where the scan, or a copy of it, has trained the stage: it is no new CT then."""
    return [
        f"the scan is {name}, which trained {stage}: this is no result on an unseen scan"
        for _, name in find_leaks(trained, [prepared])
    ]
