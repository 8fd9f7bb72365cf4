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
    # One voxel away: a face is shared. In mm another voxel may be nearer than one beyond a face.
    boundary = inside <= 1 if spacing is None else inner & ~_erode(inner)
    inside.masked_fill_(boundary, 0.0)
    return _distances(mask, own, spacing), inside, box


def _distances(sources: Tensor, box: Sequence[slice], spacing: Triple | None) -> Tensor:
    """`distance_transform` of sources, one at least, that all lie in `box`."""
    z, y, x = box
    steps = (1.0, 1.0, 1.0) if spacing is None else spacing
    region = sources[z, y, x]
    squared = torch.full(region.shape, torch.inf, device=sources.device)
    squared.masked_fill_(region, 0.0)
    squares = [
        _squares(part.start, part.stop - part.start, length, step)
        for part, length, step in zip(box, sources.shape, steps, strict=True)
    ]
    sizes = [len(along) for along in squares]
    on_device = torch.cat(squares).to(sources.device, non_blocking=True).split(sizes)
    for axis in _pass_order(squared.shape, sources.shape):
        squared = _pass(squared, axis, on_device[axis], sources.shape[axis])
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


def _pass(squared: Tensor, axis: int, squares: Tensor, length: int) -> Tensor:
    """One axis: (.., sources, ..) -> (.., length, ..), minimum over sources of squared + step^2.

    `squares`: see `_squares`.
    """
    lines = squared.movedim(axis, 0)
    minimize = _minimize_by_source if squared.device.type == "cpu" else _minimize_at_once
    found = minimize(lines.reshape(len(lines), -1), squares, length)
    return found.view(length, *lines.shape[1:]).movedim(0, axis)


def _squares(start: int, count: int, length: int, step: float) -> Tensor:
    """Squared lengths of all steps of a pass: at `place` + `count` - 1 - i that to source i.

    Source i of `count` lies at place `start` + i of the `length` places, `step` apart.
    """
    steps = torch.arange(length + count - 1, dtype=torch.float32) - (start + count - 1)
    return steps.mul_(step).square_()


def _minimize_by_source(lines: Tensor, squares: Tensor, length: int) -> Tensor:
    """(sources, lines) -> (length, lines), the minimum over sources with the squared step added.

    For a CPU: one source after the other, in blocks that caches hold.
    """
    count, total = lines.shape
    found = lines.new_empty(length, total)
    width = max(CPU_BLOCK // length, 1)
    for column in range(0, total, width):
        nearest, part = found[:, column : column + width], lines[:, column : column + width]
        sums = torch.empty_like(nearest)
        for i in range(count):
            apart = squares[count - 1 - i :][:length, None]
            torch.add(part[i], apart, out=sums if i else nearest)
            if i:
                torch.minimum(nearest, sums, out=nearest)
    return found


def _minimize_at_once(lines: Tensor, squares: Tensor, length: int) -> Tensor:
    """The same numbers for a GPU: all sources at once, in as few blocks as memory allows."""
    count, total = lines.shape
    found = lines.new_empty(length, total)
    apart = squares.unfold(0, count, 1).flip(1)[:, :, None]  # (length, sources, 1)
    width = max(GPU_BLOCK // (length * count), 1)
    for column in range(0, total, width):
        block = slice(column, column + width)
        torch.amin(apart + lines[:, block], dim=1, out=found[:, block])
    return found


def _square_root(squared: Tensor) -> Tensor:
    """Correctly rounded, which float32's own vectorized root on a CPU is not."""
    if squared.device.type != "cpu":
        return squared.double().sqrt_().float()
    root = torch.empty(squared.shape)
    for plane, square in zip(root, squared, strict=True):
        plane.copy_(square.double().sqrt_())
    return root
