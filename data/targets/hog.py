"""Histograms of oriented gradients (Dalal and Triggs, 2005) of axial slices: HOG's target."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CLIP, EPS = 0.2, 1e-5  # of the norm "L2-Hys"


@torch.no_grad()
def hog_target(image: Tensor, cell_voxels: int = 8, orientations: int = 9) -> Tensor:
    """Per slice and cell of `cell_voxels` x `cell_voxels`, a histogram of gradient directions.

    `image`: (b, 1, z, y, x). Returns float32 (b, orientations, z, y // cell, x // cell): central
    differences (zero at the slice's border), their magnitude summed by unsigned angle in equal
    bins of 180 degrees, from x towards y, and each cell normalized by itself ("L2-Hys": to length
    1, clipped at 0.2, to length 1 again). A cell without gradient is 0. Equal to
    `skimage.feature.hog` with `cells_per_block=(1, 1)`. Raises ValueError for another shape, or a
    slice smaller than a cell.
    """
    if image.dim() != 5 or image.shape[1] != 1 or min(image.shape[3:]) < cell_voxels:
        raise ValueError(
            f"the image has shape {tuple(image.shape)}; give (b, 1, z, y, x) with slices of one "
            f"cell ({cell_voxels} voxels) at least, or a smaller --cell-voxels"
        )
    image = image.float()
    along_y, along_x = torch.zeros_like(image), torch.zeros_like(image)
    along_y[..., 1:-1, :] = image[..., 2:, :] - image[..., :-2, :]
    along_x[..., 1:-1] = image[..., 2:] - image[..., :-2]
    magnitude = torch.hypot(along_y, along_x)
    degrees = torch.rad2deg(torch.atan2(along_y, along_x)).remainder(180)
    # Rounding can give 180 itself for an angle just below 0.
    bins = (degrees * (orientations / 180)).long().clamp_(max=orientations - 1)
    cell = (1, cell_voxels, cell_voxels)
    votes = [F.avg_pool3d(magnitude * (bins == index), cell) for index in range(orientations)]
    return _l2_hys(torch.cat(votes, dim=1))


def _l2_hys(histogram: Tensor) -> Tensor:
    """Normalize each cell's histogram, (b, orientations, ...), clip it and normalize again."""
    for limit in (CLIP, 1.0):
        norm = (histogram.square().sum(dim=1, keepdim=True) + EPS**2).sqrt()
        histogram = (histogram / norm).clamp(max=limit)
    return histogram
