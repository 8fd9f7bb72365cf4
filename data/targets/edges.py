"""The edge of a mask: where its surface runs."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def edge_mask(mask: Tensor, *, within_slices: bool = False) -> Tensor:
    """Dilation minus erosion by a cross of 3 voxels: those with a face neighbor on the other side.

    `mask`: (b, 1, z, y, x), bool or 0 and 1; returns bool, two voxels wide. What lies outside the
    array makes no edge: a full volume has none, as an empty one. `within_slices`: without the
    neighbors along z.
    """
    inside = mask > 0.5
    edge = torch.zeros_like(inside)
    for axis in (3, 4) if within_slices else (2, 3, 4):
        length = inside.shape[axis] - 1
        before, after = inside.narrow(axis, 0, length), inside.narrow(axis, 1, length)
        differs = before != after
        edge.narrow(axis, 0, length).logical_or_(differs)
        edge.narrow(axis, 1, length).logical_or_(differs)
    return edge
