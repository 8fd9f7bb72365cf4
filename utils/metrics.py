"""Metrics of the protocol (Sec. IV-B), per case, on the original image's grid, in mm.

Masks are bool (z, y, x), spacings mm (z, y, x), and no argument is ever resampled. ASD and HD are
medpy's `assd` and `hd95`: a surface is the mask's voxels with a background 6-neighbor (the
volume's edge counts as background), and the two directed sets of distances between surface
voxels are pooled. The protocol always scores a case; where a mask is empty these numbers stand:

| prediction | label | DSC | ASD    | HD      | recall | precision |
|------------|-------|-----|--------|---------|--------|-----------|
| empty      | some  | 0   | 40 mm  | 100 mm  | 0      | 0         |
| some       | empty | 0   | 40 mm  | 100 mm  | 0      | 0         |
| empty      | empty | 100 | 0 mm   | 0 mm    | 100    | 100       |

An empty prediction for an empty label is right (a scan without a lesion); the paper's cases all
hold their target, so that its tables never meet this row.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from scipy.spatial import cKDTree

EMPTY_ASD_MM = 40.0  # Sec. IV-B, where a surface is empty
EMPTY_HD95_MM = 100.0
PERCENTILE = 95.0

Spacing = tuple[float, float, float]

NEAR_OFFSETS = 250  # offsets tried around a surface voxel before a search
"""About: the offsets fill the largest ball that their box holds whole."""


@dataclass(frozen=True)
class SurfaceMetrics:
    """Distances between two surfaces, mm. `hd95` pools both directions, `hd95_max` does not."""

    asd_mm: float
    hd95_mm: float
    hd95_max_mm: float
