"""Compactness: known shapes, order of shapes, units, empty cases, gradient."""

from __future__ import annotations

from math import pi

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from losses.compactness import slice_compactness, volume_compactness

N = 64


def soft_ball(radius: float, axes: int, size: int = N) -> Tensor:
    grid = torch.meshgrid(*[torch.arange(size) - size / 2 + 0.3] * axes, indexing="ij")
    distance = torch.stack(grid).square().sum(dim=0).sqrt()
    return torch.sigmoid(radius - distance)


def box(*sides: slice) -> Tensor:
    mask = torch.zeros([N] * len(sides))
    mask[sides] = 1
    return mask


def slices(*probs: Tensor) -> float:
    return float(slice_compactness(torch.stack(probs), (1.0, 1.0)))


def test_a_disc_has_1_and_a_square_4_over_pi() -> None:
    assert slices(soft_ball(20, 2)) == pytest.approx(1, rel=0.01)
    # the corner pixel counts its two sides as a diagonal; four sides of 40
    assert slices(box(slice(10, 50), slice(10, 50))) == pytest.approx(4 / pi, rel=0.02)


def test_a_ball_has_1_and_a_cube_6_over_pi() -> None:
    ball, cube = soft_ball(20, 3), box(*[slice(12, 52)] * 3)
    assert float(volume_compactness(ball, (1, 1, 1))) == pytest.approx(1, rel=0.01)
    assert float(volume_compactness(cube, (1, 1, 1))) == pytest.approx(6 / pi, rel=0.03)


def test_of_the_same_area_a_disc_is_more_compact_than_a_square_and_that_than_two_blobs() -> None:
    side = 24
    disc = soft_ball(side / pi**0.5, 2)
    square = box(slice(8, 8 + side), slice(8, 8 + side))
    blobs = box(slice(4, 28), slice(4, 16)) + box(slice(4, 28), slice(40, 52))
    areas = [float(prob.sum()) for prob in (disc, square, blobs)]
    assert areas == pytest.approx([side**2] * 3, rel=0.02)
    assert slices(disc) < slices(square) < slices(blobs)


def test_slices_are_averaged() -> None:
    disc, square = soft_ball(20, 2), box(slice(10, 50), slice(10, 50))
    assert slices(disc, square) == pytest.approx((slices(disc) + slices(square)) / 2)


def test_lengths_are_in_mm() -> None:
    """12 x 6 voxels of 0.5 x 1 mm are a square of 6 mm; a volume of 6 x 12 x 6 likewise."""
    flat = box(slice(10, 22), slice(10, 16))
    as_square = float(slice_compactness(flat[None], (0.5, 1.0)))
    assert as_square == pytest.approx(4 / pi, rel=0.05)
    assert as_square < slices(flat)
    solid = box(slice(10, 16), slice(10, 22), slice(10, 16))
    as_cube = float(volume_compactness(solid, (1.0, 0.5, 1.0)))
    assert as_cube == pytest.approx(6 / pi, rel=0.1)
    assert as_cube < float(volume_compactness(solid, (1.0, 1.0, 1.0)))


def test_the_boundary_scale_counts_squared_or_cubed() -> None:
    disc, ball = soft_ball(20, 2)[None], soft_ball(20, 3)
    scaled = slice_compactness(disc, (1, 1), boundary_scale=0.01)
    torch.testing.assert_close(scaled, slice_compactness(disc, (1, 1)) * 1e-4)
    scaled = volume_compactness(ball, (1, 1, 1), boundary_scale=0.1)
    torch.testing.assert_close(scaled, volume_compactness(ball, (1, 1, 1)) * 1e-3)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_even_probability_is_finite_with_a_finite_gradient(value: float) -> None:
    prob = torch.full((2, 8, 8), value, requires_grad=True)
    loss = slice_compactness(prob, (1.0, 1.0), boundary_scale=0.01) + volume_compactness(
        prob, (1.0, 1.0, 1.0), boundary_scale=0.01
    )
    loss.backward()
    assert loss.isfinite()
    assert prob.grad is not None
    assert prob.grad.isfinite().all()


def by_definition(prob: NDArray[np.float64], spacing: tuple[float, float]) -> float:
    """L^2 / (4 pi A) of one slice (y, x), of the values and formula in words."""
    along_y = np.diff(prob, axis=0)[:, :-1] / spacing[0]
    along_x = np.diff(prob, axis=1)[:-1] / spacing[1]
    pixel = spacing[0] * spacing[1]
    length = pixel * np.sqrt(along_y**2 + along_x**2 + 1e-8).sum()
    return float(length**2 / (4 * pi * (pixel * prob.sum() + 1e-6)))


def test_only_the_slices_that_are_held_count() -> None:
    rng = torch.Generator().manual_seed(0)
    prob = torch.rand(5, 6, 9, generator=rng, requires_grad=True)
    held = torch.tensor([True, False, True, True, False])
    loss = slice_compactness(prob, (1.5, 0.8), held)
    loss.backward()
    expected = [by_definition(each.detach().double().numpy(), (1.5, 0.8)) for each in prob[held]]
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-5)
    torch.testing.assert_close(loss, slice_compactness(prob[held], (1.5, 0.8)))
    assert prob.grad is not None
    assert prob.grad[held].count_nonzero() > 0
    assert prob.grad[~held].count_nonzero() == 0
    assert slice_compactness(prob, (1.5, 0.8), torch.zeros(5, dtype=torch.bool)) == 0


def test_without_slices_it_is_zero_in_the_graph() -> None:
    prob = torch.rand(0, 8, 8, requires_grad=True)
    loss = slice_compactness(prob, (1.0, 1.0))
    loss.backward()
    assert loss == 0


def test_a_step_against_the_gradient_rounds_a_shape() -> None:
    square = (0.9 * box(slice(10, 50), slice(10, 50)) + 0.05).requires_grad_()
    before = slice_compactness(square[None], (1.0, 1.0))
    before.backward()
    assert square.grad is not None
    assert square.grad.count_nonzero() > 0
    moved = (square - 2.0 * square.grad / square.grad.norm()).detach()
    assert slice_compactness(moved[None], (1.0, 1.0)) < before


def test_it_is_float32_in_16_bits_too() -> None:
    disc = soft_ball(20, 2)[None]
    half = slice_compactness(disc.half(), (1.0, 1.0))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, slice_compactness(disc, (1.0, 1.0)), rtol=1e-2, atol=0)
