"""Eq. 10: the views' outputs agree."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from torch import Tensor

from losses.consistency import (
    consistency_loss,
    cosine_consistency_loss,
    jensen_shannon_loss,
)

SHAPE = (1, 1, 2, 3, 5)
LOSSES = [consistency_loss, cosine_consistency_loss]
Loss = Callable[[Tensor, Tensor], Tensor]


def some_prob(seed: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_eq_10_is_the_mean_squared_difference() -> None:
    phi = torch.zeros(SHAPE)
    psi = torch.zeros(SHAPE)
    psi[0, 0, 1, 2, 3] = -3.0
    assert consistency_loss(phi, psi).item() == pytest.approx(9 / 30)


def test_the_cosine_of_two_directions_is_that_of_plane_geometry() -> None:
    phi = torch.zeros(SHAPE)
    psi = torch.zeros(SHAPE)
    phi[0, 0, 0, 0, 0] = 1.0
    psi[0, 0, 0, 0, 0] = 0.3
    psi[0, 0, 1, 2, 4] = 0.4
    assert cosine_consistency_loss(phi, psi).item() == pytest.approx(1 - 0.6)
    assert cosine_consistency_loss(phi, 0.01 * phi).item() == pytest.approx(0.0, abs=1e-6)


def test_the_cosine_is_per_sample_and_then_averaged() -> None:
    phi, psi = some_prob(0, (3, 1, 2, 3, 5)), some_prob(1, (3, 1, 2, 3, 5))
    alone = [cosine_consistency_loss(phi[i : i + 1], psi[i : i + 1]).item() for i in range(3)]
    assert cosine_consistency_loss(phi, psi).item() == pytest.approx(sum(alone) / 3, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_equal_views_cost_nothing_whether_empty_full_or_between(loss: Loss) -> None:
    for view in (torch.zeros(SHAPE), torch.ones(SHAPE), some_prob(2)):
        assert loss(view, view).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_views_are_interchangeable(loss: Loss) -> None:
    phi, psi = some_prob(3), some_prob(4)
    assert loss(phi, psi).item() == pytest.approx(loss(psi, phi).item(), rel=1e-6)


def test_the_gradient_of_eq_10_pulls_both_views_together() -> None:
    phi = some_prob(5).requires_grad_()
    psi = some_prob(6).requires_grad_()
    consistency_loss(phi, psi).backward()
    assert phi.grad is not None
    assert psi.grad is not None
    torch.testing.assert_close(phi.grad, (2 * (phi - psi) / 30).detach())
    torch.testing.assert_close(psi.grad, -phi.grad)


def test_the_cosine_gradient_reaches_both_views_and_no_length() -> None:
    phi = some_prob(7).requires_grad_()
    psi = some_prob(8).requires_grad_()
    cosine_consistency_loss(phi, psi).backward()
    for view in (phi, psi):
        assert view.grad is not None
        assert bool((view.grad != 0).all())
        assert (view.grad * view.detach()).sum().item() == pytest.approx(0.0, abs=1e-6)


def test_an_empty_view_against_a_full_one_costs_one_and_stays_finite() -> None:
    phi = torch.zeros(SHAPE, requires_grad=True)
    psi = torch.ones(SHAPE, requires_grad=True)
    for loss in LOSSES:
        value = loss(phi, psi)
        assert value.item() == 1.0
        for grad in torch.autograd.grad(value, [phi, psi]):
            assert bool(torch.isfinite(grad).all())
    both = cosine_consistency_loss(phi, phi)
    assert both.item() == 0.0
    assert bool(torch.isfinite(torch.autograd.grad(both, phi)[0]).all())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_four_million_half_precision_voxels_give_the_float32_value(
    loss: Loss, dtype: torch.dtype
) -> None:
    phi = torch.full((1, 1, 64, 250, 250), 0.5, dtype=dtype, requires_grad=True)
    half = torch.zeros(phi.shape, dtype=dtype)
    half[..., :32, :, :] = 0.5
    value = loss(phi, half)
    (grad,) = torch.autograd.grad(value, phi)
    # Half the voxels differ by 0.5; the cosine between them is sqrt(1 / 2).
    expected = 0.125 if loss is consistency_loss else 1 - 0.5**0.5
    assert value.item() == pytest.approx(expected, rel=1e-4)
    assert value.dtype == torch.float32
    assert bool(torch.isfinite(grad).all())


@pytest.mark.parametrize("loss", LOSSES)
def test_views_of_different_shapes_are_refused(loss: Loss) -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        loss(torch.zeros(SHAPE), torch.zeros(SHAPE)[:, 0])


# Jensen-Shannon


def logit(prob: float) -> Tensor:
    return torch.logit(torch.full((1, 1, 1, 1, 1), prob))


@pytest.mark.parametrize(("phi", "psi"), [(0.2, 0.9), (0.5, 0.5), (1e-6, 0.3)])
def test_jensen_shannon_of_two_voxels_is_scipys(phi: float, psi: float) -> None:
    expected = jensenshannon([phi, 1 - phi], [psi, 1 - psi]) ** 2
    found = jensen_shannon_loss([logit(phi), logit(psi)])
    assert found.item() == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_jensen_shannon_of_three_views_is_the_entropy_of_the_mean_minus_the_mean_entropy() -> None:
    probs = (0.1, 0.6, 0.95)
    mean = sum(probs) / 3
    expected = entropy([mean, 1 - mean]) - sum(entropy([p, 1 - p]) for p in probs) / 3
    found = jensen_shannon_loss([logit(p) for p in probs])
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_jensen_shannon_is_zero_for_equal_views_and_at_most_the_logarithm_of_2() -> None:
    view = 4 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    assert jensen_shannon_loss([view, view, view]).abs() < 1e-6
    opposite = [torch.full(SHAPE, 200.0), torch.full(SHAPE, -200.0)]
    assert jensen_shannon_loss(opposite).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_jensen_shannon_is_a_mean_over_voxels_with_a_finite_gradient(dtype: torch.dtype) -> None:
    phi = torch.zeros(SHAPE, dtype=dtype, requires_grad=True)
    psi = torch.zeros(SHAPE, dtype=dtype)
    psi[..., 0], psi[..., 1] = 300.0, -300.0
    value = jensen_shannon_loss([phi, psi])
    one = jensen_shannon_loss([logit(0.5), torch.full((1, 1, 1, 1, 1), 300.0)])
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(0.4 * one.item())
    (gradient,) = torch.autograd.grad(value, phi)
    assert gradient.isfinite().all()
    assert gradient[..., :2].count_nonzero() == gradient[..., :2].numel()
    with pytest.raises(ValueError, match="differ in shape"):
        jensen_shannon_loss([phi, psi[:, 0]])
