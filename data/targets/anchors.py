"""Eq. 8's choice of voxels: where the features of tumor and of normal tissue are read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from data.roi import STRIDE
from data.targets.sdm import BoxSlices, bounding_box, grow_box

# Sides in voxels (z, y, x) of the box that dilates the lesion: 10 to 20 in the protocol.
DILATION = (12, 15, 15)


@torch.no_grad()
def anchor_masks(
    mask: Tensor,
    *,
    dilation: tuple[int, int, int] = DILATION,
    stride: int = STRIDE,
    boxes: Sequence[BoxSlices | None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Candidates of Eq. 8: the lesion's center line, and the normal tissue around the lesion.

    `mask`: bool (1, 1, z, y, x), sides divisible by `stride`. Returns two bool masks (1, 1,
    z/stride, y/stride, x/stride), of which one cell stands for stride^3 voxels; both on the CPU,
    since which cells there are decides how many features are read: one read from a GPU. `boxes`:
    the mask's own `bounding_box`, where it is known; else it is a read more.

    Positive: one cell of each slice of cells that holds lesion. Of the cells that are lesion for
    one half or more, or else hold the slice's most lesion, it is the one nearest the centroid of
    the slice's lesion: the line stays inside a curved lesion, and a lesion smaller than a cell
    has an anchor too. (Released scripts: one skeleton voxel per slice.) Negative: cells without
    any lesion voxel that the lesion, dilated by a box of `dilation` voxels, reaches. Without
    lesion both are empty. ValueError: a shape that does not fit.
    """
    if mask.dim() != 5 or mask.shape[:2] != (1, 1) or any(n % stride for n in mask.shape[2:]):
        raise ValueError(
            f"anchor_masks needs (1, 1, z, y, x) with sides divisible by {stride}, "
            f"not {tuple(mask.shape)}"
        )
    volume = mask[0, 0] if mask.dtype == torch.bool else mask[0, 0] != 0
    shape = [n // stride for n in volume.shape]
    own = bounding_box(volume) if boxes is None else boxes[0]
    if own is None:
        positive, negative = torch.zeros(2, *shape, dtype=torch.bool)
    else:
        box = grow_box(own, max(dilation), volume.shape)
        cells = tuple(slice(s.start // stride, -(-s.stop // stride)) for s in box)
        voxels = tuple(slice(s.start * stride, s.stop * stride) for s in cells)
        lesion = volume[voxels]
        counts, reached = torch.stack(
            [_voxels_per_cell(lesion, stride), _reached_cells(lesion, dilation, stride)]
        ).cpu()
        positive, negative = torch.zeros(2, *shape, dtype=torch.bool)
        positive[cells] = _center_line(counts.long(), stride**3)
        negative[cells] = (reached > 0) & (counts == 0)
    return positive[None, None], negative[None, None]


@torch.no_grad()
def dilate(mask: Tensor, sides: tuple[int, int, int] = DILATION) -> Tensor:
    """Dilation by a box of `sides` voxels (z, y, x): bool (z, y, x) -> the same shape.

    Equals `skimage.morphology.dilation(mask, np.ones(sides))`; an even side reaches one voxel
    further towards index 0. On a CPU only the surroundings of the mask are worked on; a GPU would
    have to be asked where they are.
    """
    if mask.device.type != "cpu":
        return dilate_all(mask, sides)
    dilated = torch.zeros_like(mask)
    box = bounding_box(mask, margin=max(sides))
    if box is not None:
        dilated[box] = dilate_all(mask[box], sides)
    return dilated


@torch.no_grad()
def dilate_all(mask: Tensor, sides: tuple[int, int, int]) -> Tensor:
    """`dilate` of a mask that fills much of its array."""
    for axis, side in enumerate(sides):
        mask = _any_in_window(mask, axis, side)
    return mask


def _any_in_window(mask: Tensor, axis: int, side: int) -> Tensor:
    """Whether `mask` (z, y, x) holds a voxel up to (side - 1) // 2 before, side // 2 after."""
    padding = [0, 0] * (2 - axis) + [(side - 1) // 2, side // 2] + [0, 0] * axis
    found = F.pad(mask, padding)
    width = 1
    while width < side:  # the union of two windows is one of up to twice the width
        step = min(width, side - width)
        kept = found.shape[axis] - step
        found = found.narrow(axis, 0, kept) | found.narrow(axis, step, kept)
        width += step
    return found


def _voxels_per_cell(mask: Tensor, stride: int) -> Tensor:
    """How many voxels of each cell are in the bool mask: (z, y, x) -> int32 (z/s, y/s, x/s)."""
    z, y, x = (n // stride for n in mask.shape)
    parts = mask.view(z, stride, y, stride, x, stride)
    return parts.sum(dim=(1, 3, 5), dtype=torch.int32)


def _reached_cells(mask: Tensor, sides: tuple[int, int, int], stride: int) -> Tensor:
    """1 for each cell that holds a voxel of `dilate(mask, sides)`: (z, y, x) -> int32 of cells.

    Per axis, the windows that the dilation brings to a cell overlap: one view, one reduction.
    """
    padding = [pad for side in sides[::-1] for pad in ((side - 1) // 2, side // 2)]
    found = F.pad(mask, padding).view(torch.uint8)
    for axis, side in enumerate(sides):
        found = found.unfold(axis, stride + side - 1, stride).amax(dim=-1)
    return found.int()


def _center_line(counts: Tensor, voxels: int) -> Tensor:
    """One cell of each slice with lesion: `counts` of lesion voxels (z, y, x) -> bool.

    In whole numbers, and of equals the first: the same line on each device.
    """
    depth, height, width = counts.shape
    total = counts.sum(dim=(1, 2), keepdim=True)  # (z, 1, 1)
    enough = counts.amax(dim=(1, 2), keepdim=True).clamp(max=voxels // 2)
    y = torch.arange(height, device=counts.device)[None, :, None]
    x = torch.arange(width, device=counts.device)[None, None, :]
    from_centroid = (total * y - (counts * y).sum(dim=(1, 2), keepdim=True)) ** 2 + (
        total * x - (counts * x).sum(dim=(1, 2), keepdim=True)
    ) ** 2
    order = from_centroid * (height * width) + y * width + x
    order = order.masked_fill(counts < enough, torch.iinfo(torch.int64).max)
    line = torch.zeros(depth, height * width, dtype=torch.bool, device=counts.device)
    line.scatter_(1, order.flatten(1).argmin(dim=1, keepdim=True), total.flatten(1) > 0)
    return line.view_as(counts)
