"""Separable linear resampling between grids that share their middle: no half-voxel shifts.

A grid of n voxels of s mm covers n * s mm; both grids are centered on the same point, so voxel j of
the output lies at ((j + 0.5) * s_out - n_out * s_out / 2) mm from it. Where the output is coarser,
the kernel is widened to its spacing, so that thin slices are averaged and noise does not alias.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from data.case import Triple
from data.roi import bounding_box
from utils.threads import one_blas_thread

if TYPE_CHECKING:
    from scipy import sparse

Weights = tuple["sparse.csr_matrix", "sparse.csr_matrix", "sparse.csr_matrix"]
Shape = tuple[int, int, int]

Part = tuple[tuple[slice, slice, slice], np.ndarray]  # a place in the result, and what is there

_VOXELS_AT_ONCE = 8_000_000  # bounds the float32 memory: some slices at a time


def output_shape(shape: Sequence[int], spacing: Triple, new_spacing: Triple) -> Shape:
    """Voxels (z, y, x) of `new_spacing` that cover what `shape` voxels of `spacing` cover."""
    z, y, x = (
        max(1, round(n * old / new))
        for n, old, new in zip(shape, spacing, new_spacing, strict=True)
    )
    return z, y, x


def axis_weights(n_in: int, spacing_in: float, n_out: int, spacing_out: float) -> sparse.csr_matrix:
    """(n_out, n_in) float32: each output voxel as a weighted mean of input voxels."""
    from scipy import sparse

    step = spacing_out / spacing_in
    width = max(step, 1.0)  # input voxels from the kernel's middle to its end
    middle = (np.arange(n_out) + 0.5 - n_out / 2) * step + n_in / 2 - 0.5
    taps = int(np.ceil(2 * width)) + 1
    index = np.floor(middle - width).astype(int)[:, None] + 1 + np.arange(taps)
    weight = np.clip(1 - np.abs(index - middle[:, None]) / width, 0, None)
    weight[np.abs(weight) < 1e-7] = 0  # an aligned grid stays exactly what it is
    outside = (index < 0) | (index >= n_in)
    cut = ((weight > 0) & outside).any(axis=1)
    weight[outside] = 0
    weight /= weight.sum(axis=1, keepdims=True)
    weight[~cut] = _center(weight[~cut], (index - middle[:, None])[~cut])
    rows = np.repeat(np.arange(n_out), taps)
    columns = np.clip(index, 0, n_in - 1).ravel()
    matrix = sparse.csr_matrix(
        (weight.ravel().astype(np.float32), (rows, columns)), shape=(n_out, n_in)
    )
    matrix.eliminate_zeros()
    return matrix


def _center(weight: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Tilt each row so little that its weighted mean `offset` is 0: then a ramp stays a ramp.

    A widened kernel, sampled at whole voxels, would otherwise lie a few hundredths of a voxel off.
    Rows cut by the volume's border are left alone, since centering them would extrapolate; so are
    those of a single voxel, whose offset is rounding.
    """
    several = np.count_nonzero(weight, axis=1, keepdims=True) > 1
    first = (weight * offset).sum(axis=1, keepdims=True)
    second = (weight * offset**2).sum(axis=1, keepdims=True)
    tilt = np.divide(-first, second, out=np.zeros_like(first), where=several)
    tilted = np.clip(weight * (1 + tilt * offset), 0, None)
    return tilted / tilted.sum(axis=1, keepdims=True)


def grid_weights(
    shape_in: Sequence[int], spacing_in: Triple, shape_out: Sequence[int], spacing_out: Triple
) -> Weights:
    """`axis_weights` of each axis, (z, y, x)."""
    z, y, x = (
        axis_weights(*axis)
        for axis in zip(shape_in, spacing_in, shape_out, spacing_out, strict=True)
    )
    return z, y, x


def resample_image(image_hu: np.ndarray, weights: Weights) -> np.ndarray:
    """int16 HU (z, y, x) -> int16 HU of the new shape, rounded."""
    image = np.empty(_shape_of(weights), np.int16)
    for place, part in _resampled_parts(image_hu, weights):
        image[place] = np.rint(part, out=part)
    return image


def resample_float(volume: np.ndarray, weights: Weights) -> np.ndarray:
    """Any array (z, y, x) >= 0 -> float32 of the new shape."""
    result = np.zeros(_shape_of(weights), np.float32)
    for place, part in resample_parts(volume, weights):
        result[place] = part
    return result


def resample_mask(mask: np.ndarray, weights: Weights) -> np.ndarray:
    """bool (z, y, x) -> bool: voxels that are covered by half at least.

    A mask too thin to cover half of any voxel keeps the voxel that it covers most: a lesion must
    not vanish on the way.
    """
    covered = np.zeros(_shape_of(weights), bool)
    most, fullest = 0.0, (0, 0, 0)
    for place, part in resample_parts(mask, weights):
        covered[place] = part >= 0.5 - 1e-6
        if part.max() > most:
            most = float(part.max())
            z, y, x = np.unravel_index(part.argmax(), part.shape)
            fullest = (place[0].start + z, place[1].start + y, place[2].start + x)
    if most > 0 and not covered.any():
        covered[fullest] = True
    return covered


def resample_parts(volume: np.ndarray, weights: Weights) -> Iterator[Part]:
    """Any array (z, y, x) >= 0 -> the result's parts that are not all 0, float32, from the first
    slice on. Zeros around the content cost nothing, and no more than some slices are in memory.
    """
    box = bounding_box(volume)
    if box is None:
        return
    parts = [axis[:, inside] for axis, inside in zip(weights, box.slices, strict=True)]
    touched = [np.flatnonzero(part.getnnz(axis=1)) for part in parts]
    if any(rows.size == 0 for rows in touched):
        return
    out = [slice(int(rows[0]), int(rows[-1]) + 1) for rows in touched]
    z, y, x = (part[rows] for part, rows in zip(parts, out, strict=True))
    for (along_z, _, _), part in _resampled_parts(volume[box.slices], (z, y, x)):
        first = out[0].start + along_z.start
        yield (slice(first, first + len(part)), out[1], out[2]), part


def _shape_of(weights: Weights) -> Shape:
    z, y, x = (axis.shape[0] for axis in weights)
    return z, y, x


def _resampled_parts(volume: np.ndarray, weights: Weights) -> Iterator[Part]:
    """The whole result, some slices at a time."""
    along_z, along_y, _ = weights
    along_x = weights[2].T.toarray()  # dense: BLAS beats sparse columns
    shape = _shape_of(weights)
    slices_in = max(volume.shape[0] / shape[0], 1)  # for each one of the result
    step = max(1, int(_VOXELS_AT_ONCE / (shape[1] * shape[2] * slices_in)))
    planes: dict[int, np.ndarray] = {}  # resampled in the plane; neighboring parts share some
    for start in range(0, shape[0], step):
        rows = along_z[start : start + step]
        touched = rows.indices if rows.nnz else np.zeros(1, int)
        first, stop = int(touched.min()), int(touched.max()) + 1
        with one_blas_thread():
            planes = {
                z: planes[z] if z in planes else along_y @ (volume[z].astype(np.float32) @ along_x)
                for z in range(first, stop)
            }
        stack = np.stack(list(planes.values())).reshape(stop - first, -1)
        part = (rows[:, first:stop] @ stack).reshape(-1, *shape[1:])
        yield (slice(start, start + len(part)), slice(0, shape[1]), slice(0, shape[2])), part
