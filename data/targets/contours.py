"""The contour of a lesion and the ring around it, slice by slice (SAML's L_smooth)."""

from __future__ import annotations

import torch
from torch import Tensor

from data.targets.sdm import BoxSlices, bounding_box, grow_box

RING_WIDTH = 5


@torch.no_grad()
def contour_and_ring(
    mask: Tensor, ring_width: int = RING_WIDTH, own: BoxSlices | None = None
) -> tuple[Tensor, Tensor]:
    """`mask`, bool (z, y, x) -> two of the same shape: its inner contour, and what surrounds it.

    Contour: voxels of the mask of which one of the four neighbors in the axial slice is not in it.
    Ring: voxels outside that at most `ring_width` steps between such neighbors reach. The array's
    edge is no contour. Without a lesion both are empty. `own`: the mask's `bounding_box`, where it
    is known; else it is read, from a GPU too.
    """
    contour, ring = torch.zeros_like(mask), torch.zeros_like(mask)
    own = bounding_box(mask) if own is None else own
    if own is not None:
        box = grow_box(own, ring_width + 1, mask.shape)
        inside = mask[box]
        contour[box] = inside & _spread(~inside)
        reached = inside
        for _ in range(ring_width):
            reached = _spread(reached)
        ring[box] = reached & ~inside
    return contour, ring


def _spread(mask: Tensor) -> Tensor:
    """The mask and its four neighbors in each slice, (z, y, x)."""
    spread = mask.clone()
    for axis in (1, 2):
        kept = mask.shape[axis] - 1
        spread.narrow(axis, 0, kept).logical_or_(mask.narrow(axis, 1, kept))
        spread.narrow(axis, 1, kept).logical_or_(mask.narrow(axis, 0, kept))
    return spread
