"""The second input channel of a fine stage: what the coarse stage found, or in training its like.

An evaluation reads the masks of earlier stages, so the channel is the mask, smoothed, and not the
probability. Training needs a coarse result that is as wrong as on an unseen center; that of the
coarse network on its own training cases is not. So the label is spoiled at random (`spoil_mask`),
which costs no further training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from data.targets.sdm import bounding_box

MISSED = 0.15  # how often the coarse stage finds nothing
ELSEWHERE = 0.15  # how often it finds something else, of the lesion's shape, in place of it
STRETCH = 1.35  # largest factor of each side, and its inverse the smallest: 0.41 to 2.5 in volume
SHIFT_MM = 5.0  # standard deviation of the shift on each axis
PASSES = 2  # of a mean over 3 x 3 x 3 voxels


def smooth_mask(mask: Tensor) -> Tensor:
    """Mask or probability (1, 1, z, y, x) -> float32 in [0, 1], same shape, its border softened."""
    smooth = mask.float()
    for _ in range(PASSES):
        smooth = F.avg_pool3d(smooth, 3, stride=1, padding=1, count_include_pad=False)
    return smooth


def spoil_mask(
    mask: Tensor, spacing: tuple[float, float, float], generator: torch.Generator
) -> Tensor:
    """The label as a coarse stage might have found it, float32 (1, 1, z, y, x) in [0, 1].

    `mask`: (1, 1, z, y, x), of voxels of `spacing` mm. It is missed, or moved and stretched, or
    found elsewhere in the crop (this file's constants). An empty one stays empty.
    """
    drawn = torch.rand(8, generator=generator, dtype=torch.float64).tolist()
    shifts = torch.randn(3, generator=generator, dtype=torch.float64).tolist()
    chance, elsewhere, place, stretch = drawn[0], drawn[1] < ELSEWHERE, drawn[2:5], drawn[5:]
    box = None if chance < MISSED else bounding_box(mask[0, 0])
    if box is None:
        return torch.zeros_like(mask, dtype=torch.float32)
    middle = [(part.start + part.stop - 1) / 2 for part in box]
    rows = []
    for axis, length in enumerate(mask.shape[2:]):
        factor = STRETCH ** (2 * stretch[axis] - 1)
        to = middle[axis] + SHIFT_MM * shifts[axis] / spacing[axis]
        to = place[axis] * (length - 1) if elsewhere else to
        # In affine_grid's coordinates voxel i of n lies at (2 i + 1) / n - 1; an output voxel at
        # `to` shows the input's middle.
        origin = (2 * middle[axis] + 1) / length - 1
        moved = (2 * to + 1) / length - 1
        row = [0.0, 0.0, 0.0, origin - moved / factor]
        row[2 - axis] = 1 / factor  # affine_grid's order is x, y, z
        rows.append(row)
    theta = torch.tensor([rows[::-1]], dtype=torch.float32).to(mask.device, non_blocking=True)
    grid = F.affine_grid(theta, list(mask.shape), align_corners=False)
    return F.grid_sample(mask.float(), grid, align_corners=False).clamp(0, 1)
