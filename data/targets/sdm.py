"""Eq. 4: the signed distance map of a mask, by an exact Euclidean distance transform in torch.

The transform is separable: the squared distance to the nearest source is the minimum, one axis
after the other, of what is known so far plus the squared step along that axis. A lesion fills a
small box of its crop, so each pass only looks at the sources inside that box. Squared distances
in voxels are whole numbers, which float32 holds exactly: the result is scipy's to the last bit.

A GPU is asked for the box once, and may be told it: a read waits for all that it was given to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import torch
from torch import Tensor

Triple = tuple[float, float, float]
BoxSlices = tuple[slice, slice, slice]

CPU_BLOCK = 1 << 20  # elements of a block of lines that one pass works on, so that caches hold it
GPU_BLOCK = 1 << 26  # sums that one pass holds at once on a GPU: 256 MiB


def bounding_box(mask: Tensor, margin: int = 0) -> BoxSlices | None:
    """Slices of the smallest box that holds all of `mask` (z, y, x); None where it is empty.

    `margin`: voxels added on each side, as far as the array goes. Reads once from a GPU.
    """
    # A maximum of bytes is many times faster on a CPU than any() of bools.
    is_byte = mask.dtype in (torch.bool, torch.uint8)
    filled = (mask if is_byte else mask != 0).view(torch.uint8)
    plane = filled.amax(dim=0)
    profiles = torch.cat([filled.amax(dim=(1, 2)), plane.amax(dim=1), plane.amax(dim=0)]).cpu()
    box = []
    for profile in profiles.split(list(mask.shape)):
        places = profile.nonzero()
        if len(places) == 0:
            return None
        box.append(slice(int(places[0]), int(places[-1]) + 1))
    return grow_box((box[0], box[1], box[2]), margin, mask.shape)


def grow_box(box: BoxSlices, margin: int, shape: Sequence[int]) -> BoxSlices:
    """The box with `margin` voxels more on each side, as far as an array of `shape` goes."""
    z, y, x = (
        slice(max(s.start - margin, 0), min(s.stop + margin, n))
        for s, n in zip(box, shape, strict=True)
    )
    return z, y, x


@torch.no_grad()
def distance_transform(sources: Tensor, spacing: Triple | None = None) -> Tensor:
    """Distance of each voxel to the nearest True voxel of `sources`, bool (z, y, x) -> float32.

    In voxels, exactly `scipy.ndimage.distance_transform_edt(~sources)`, or in mm where a
    `spacing` (z, y, x) is given (to float32's accuracy). Raises ValueError without any source.
    """
    box = bounding_box(sources)
    if box is None:
        raise ValueError("distance_transform needs at least one True voxel")
    return _distances(sources, box, spacing)


@torch.no_grad()
def signed_distance(mask: Tensor, spacing: Triple | None = None) -> Tensor:
    """Eq. 4, M: distance to the boundary of `mask`, bool (z, y, x) -> float32 (z, y, x).

    Outside: plus the distance to the nearest voxel of the mask. Inside: minus the distance to the
    nearest voxel outside. On the inner boundary (voxels of the mask that share a face with one
    outside; the array's edge is no boundary): zero. With scipy's names
    `edt(~mask) - edt(mask)`, then `find_boundaries(mask, mode="inner")` set to zero. In voxels
    (the paper's) or, with `spacing` (z, y, x), in mm. An empty mask is everywhere as far away as
    the array's diagonal is long, a full one minus that.
    """
    parts = _signed_parts(mask, spacing)
    if parts is None:
        return _edgeless(mask, spacing)
    outside, inside, box = parts
    outside[box] -= inside
    return outside


@torch.no_grad()
def signed_distance_map(
    mask: Tensor,
    spacing: Triple | None = None,
    boxes: Sequence[BoxSlices | None] | None = None,
) -> Tensor:
    """Eq. 4, normalized: what the tanh head learns, float32 of the shape of `mask`.

    `mask`: bool (or 0 and not 0), (z, y, x) or (b, 1, z, y, x). Outside, `signed_distance` is
    divided by its largest value, inside by the largest depth, so that each part fills [0, 1] and
    [-1, 0] (released scripts); the inner boundary is 0. An empty mask is 1 everywhere, a full one
    -1. `spacing`: mm (z, y, x), or None for distances in voxels. `boxes`: each mask's own
    `bounding_box`, where it is known.
    """
    if mask.dim() == 5 and mask.shape[1] == 1:
        known = [None] * len(mask) if boxes is None else [[box] for box in boxes]
        maps = [
            signed_distance_map(m[0], spacing, box)[None]
            for m, box in zip(mask, known, strict=True)
        ]
        return torch.stack(maps)
    parts = _signed_parts(mask, spacing, boxes)
    if parts is None:
        return _edgeless(mask, spacing).sign_()
    outside, inside, box = parts
    outside /= outside.max()
    # All of a thin mask is boundary: nothing is inside then, and 0 / 1 is 0.
    depth = inside.max()
    outside[box] -= inside / torch.where(depth > 0, depth, 1.0)
    return outside


def _signed_parts(
    mask: Tensor, spacing: Triple | None, boxes: Sequence[BoxSlices | None] | None = None
) -> tuple[Tensor, Tensor, BoxSlices] | None:
    """Distances outside, depths inside a box, and that box; None where there is no boundary.

    Depth is distance to the nearest voxel outside, and zero on the inner boundary.
    """
    if mask.dim() != 3:
        raise ValueError(f"mask must be (z, y, x) or (b, 1, z, y, x), not {tuple(mask.shape)}")
    mask = mask if mask.dtype == torch.bool else mask != 0
    own = bounding_box(mask) if boxes is None else boxes[0]
    if own is None:
        return None
    touches_all = own == tuple(slice(0, n) for n in mask.shape)
    if touches_all and bool(mask.all()):
        return None
    box = grow_box(own, 1, mask.shape)  # the nearest voxel outside lies no further than this
    inner = mask[box]
    everything = tuple(slice(0, n) for n in inner.shape)
    inside = _distances(~inner, everything, spacing)
    inside.masked_fill_(inner & ~_erode(inner), 0.0)
    return _distances(mask, own, spacing), inside, box


def _distances(sources: Tensor, box: Sequence[slice], spacing: Triple | None) -> Tensor:
    """`distance_transform` of sources, one at least, that all lie in `box`."""
    z, y, x = box
    steps = (1.0, 1.0, 1.0) if spacing is None else spacing
    region = sources[z, y, x]
    squared = torch.full(region.shape, torch.inf, device=sources.device)
    squared.masked_fill_(region, 0.0)
    for axis in _pass_order(squared.shape, sources.shape):
        squared = _pass(squared, axis, box[axis].start, sources.shape[axis], steps[axis])
    return _square_root(squared)


def _edgeless(mask: Tensor, spacing: Triple | None) -> Tensor:
    """The distances of a mask without boundary: the array's diagonal, minus where it is full."""
    steps = (1.0, 1.0, 1.0) if spacing is None else spacing
    diagonal = sum((n * step) ** 2 for n, step in zip(mask.shape, steps, strict=True)) ** 0.5
    return torch.where(mask.bool(), -diagonal, diagonal).float()


def _erode(mask: Tensor) -> Tensor:
    """Voxels whose six neighbors, as far as the array goes, are in the mask too."""
    kept = mask.clone()
    for axis in range(3):
        n = mask.shape[axis] - 1
        kept.narrow(axis, 0, n).logical_and_(mask.narrow(axis, 1, n))
        kept.narrow(axis, 1, n).logical_and_(mask.narrow(axis, 0, n))
    return kept


def _pass_order(box: torch.Size, grid: torch.Size) -> tuple[int, ...]:
    """The order of axes with the fewest sums; the last pass over the grid outweighs the rest."""

    def cost(order: tuple[int, ...]) -> int:
        sizes, total = list(box), 0
        for axis in order:
            others = [n for i, n in enumerate(sizes) if i != axis]
            total += sizes[axis] * grid[axis] * others[0] * others[1]
            sizes[axis] = grid[axis]
        return total

    return min(permutations(range(3)), key=cost)


def _pass(squared: Tensor, axis: int, start: int, length: int, step: float) -> Tensor:
    """One axis: (.., sources, ..) -> (.., length, ..), minimum over sources of squared + step^2.

    Source i lies at place `start` + i of the `length` places, `step` apart.
    """
    count = squared.shape[axis]
    lines = squared.movedim(axis, 0).reshape(count, -1)  # (sources, lines)
    places = torch.arange(length, device=squared.device, dtype=torch.float32)
    apart = (places[:, None] - places[None, start : start + count]).mul_(step).square_()
    found = squared.new_empty(length, lines.shape[1])
    if squared.device.type == "cpu":
        _minimize_by_source(lines, apart, found)
    else:
        _minimize_at_once(lines, apart, found)
    others = [n for i, n in enumerate(squared.shape) if i != axis]
    return found.view(length, *others).movedim(0, axis)


def _minimize_by_source(lines: Tensor, apart: Tensor, found: Tensor) -> None:
    """`found` (length, lines): the minimum over sources of `lines` (sources, lines) + `apart`
    (length, sources). For a CPU: one source after the other, a block that caches hold.
    """
    width = max(CPU_BLOCK // len(found), 1)
    for column in range(0, lines.shape[1], width):
        nearest, part = found[:, column : column + width], lines[:, column : column + width]
        torch.add(part[0], apart[:, :1], out=nearest)
        sums = torch.empty_like(nearest)
        for i in range(1, len(lines)):
            torch.add(part[i], apart[:, i : i + 1], out=sums)
            torch.minimum(nearest, sums, out=nearest)


def _minimize_at_once(lines: Tensor, apart: Tensor, found: Tensor) -> None:
    """The same numbers for a GPU: all sources at once, in as few blocks as memory allows."""
    width = max(GPU_BLOCK // apart.numel(), 1)
    for column in range(0, lines.shape[1], width):
        sums = apart[:, :, None] + lines[None, :, column : column + width]
        torch.amin(sums, dim=1, out=found[:, column : column + width])


def _square_root(squared: Tensor) -> Tensor:
    """Correctly rounded, which float32's own vectorized root on a CPU is not."""
    if squared.device.type != "cpu":
        return squared.double().sqrt_().float()
    root = torch.empty(squared.shape)
    for plane, square in zip(root, squared, strict=True):
        plane.copy_(square.double().sqrt_())
    return root
