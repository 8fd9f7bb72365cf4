"""Compactness of a soft mask: how much boundary it has for its size (SAML's L_compact).

The isoperimetric quotient is 1 for a disc (a ball) and larger for every other shape; it does not
change with size. The boundary's length is the total variation of the probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, prod

import torch
from torch import Tensor

MIN_GRADIENT = 1e-8  # added to the squared gradient under the root, whose slope at 0 is infinite
MIN_SIZE = 1e-6  # added to the area or volume, which is 0 where nothing is predicted


def slice_compactness(
    prob: Tensor,
    spacing: tuple[float, float],
    held: Tensor | None = None,
    *,
    boundary_scale: float = 1.0,
) -> Tensor:
    """Mean of L^2 / (4 pi A) over the slices of `prob`, (n, y, x); L and A in mm, by `spacing`.

    `held`, bool (n,): the slices that count (a mask, since choosing them would make a GPU wait);
    all if None. `boundary_scale` multiplies L. Without slices it is zero, connected to the graph.
    Returns a float32 scalar.
    """
    if len(prob) == 0:
        return prob.float().sum()
    length = boundary_scale * _total_variation(prob, spacing)
    area = prod(spacing) * prob.float().sum(dim=(1, 2)) + MIN_SIZE
    quotients = length**2 / (4 * pi * area)
    if held is None:
        return quotients.mean()
    return torch.where(held, quotients, 0.0).sum() / held.sum().clamp_min(1)


def volume_compactness(
    prob: Tensor, spacing: tuple[float, float, float], *, boundary_scale: float = 1.0
) -> Tensor:
    """S^3 / (36 pi V^2) of `prob`, (z, y, x), the form in space; S and V in mm, by `spacing`.

    `boundary_scale` multiplies S. Returns a float32 scalar.
    """
    surface = boundary_scale * _total_variation(prob[None], spacing)[0]
    volume = prod(spacing) * prob.float().sum() + MIN_SIZE
    return surface**3 / (36 * pi * volume**2)


def _total_variation(prob: Tensor, spacing: Sequence[float]) -> Tensor:
    """Integral of the gradient's length over the last axes: (n, ...) -> (n,), in mm."""
    prob = prob.float()
    axes = range(1, prob.ndim)
    common = [n - 1 for n in prob.shape[1:]]  # forward differences exist but on the last voxel

    def inside(values: Tensor) -> Tensor:
        for axis, size in zip(axes, common, strict=True):
            values = values.narrow(axis, 0, size)
        return values

    squares = [
        (inside(prob.diff(dim=axis)) / step) ** 2 for axis, step in zip(axes, spacing, strict=True)
    ]
    density = (torch.stack(squares).sum(dim=0) + MIN_GRADIENT).sqrt()
    return prod(spacing) * density.flatten(1).sum(dim=1)
