"""The contour of a lesion and the ring around it, slice by slice (SAML's L_smooth)."""

from __future__ import annotations

import torch
from torch import Tensor

from data.targets.anchors import dilate_all
from data.targets.sdm import bounding_box


@torch.no_grad()
def contour_and_ring(mask: Tensor, ring_width: int = 5) -> tuple[Tensor, Tensor]:
    """`mask`, bool (z, y, x) -> two of the same shape: its inner contour, and what surrounds it.

    Contour: voxels of the mask of which one of the four neighbors in the axial slice is not in it.
    Ring: voxels outside that at most `ring_width` steps between such neighbors reach. The array's
    edge is no contour. Without a lesion both are empty.
    """
    contour, ring = torch.zeros_like(mask), torch.zeros_like(mask)
    box = bounding_box(mask, margin=ring_width + 1)
    if box is not None:
        inside = mask[box]
        contour[box] = inside & _spread(~inside)
        reached = inside
        for _ in range(ring_width):
            reached = _spread(reached)
        ring[box] = reached & ~inside
    return contour, ring


def _spread(mask: Tensor) -> Tensor:
    """The mask and its four neighbors in each slice, (z, y, x)."""
    return dilate_all(mask, (1, 3, 1)) | dilate_all(mask, (1, 1, 3))
