"""Eq. 5: regression of the signed distance map."""

from __future__ import annotations

import pytest
import torch

from losses.distance import distance_loss

SHAPE = (1, 1, 2, 3, 5)


def test_eq_5_is_the_mean_absolute_error_over_voxels_and_views() -> None:
    sdm = torch.linspace(-1, 1, 30).reshape(SHAPE)
    phi = sdm + 0.25
    psi = sdm.clone()
    psi[0, 0, 1, 2, 4] -= 3.0
    # 0.25 on all 30 voxels of one view, 3 on one voxel of the other: (0.25 + 3 / 30) / 2
    assert distance_loss([phi, psi], sdm).item() == pytest.approx(0.175, rel=1e-5)
    assert distance_loss([psi, phi], sdm).item() == pytest.approx(0.175, rel=1e-5)
    assert distance_loss([phi, phi, phi], sdm).item() == pytest.approx(0.25, rel=1e-5)


def test_a_perfect_map_costs_nothing_inside_outside_or_everywhere_one_sign() -> None:
    for sdm in (torch.full(SHAPE, 1.0), torch.full(SHAPE, -1.0), torch.zeros(SHAPE)):
        assert distance_loss([sdm, sdm], sdm).item() == 0.0


def test_the_gradient_is_one_sign_per_voxel_over_voxels_and_views() -> None:
    sdm = torch.zeros(SHAPE)
    phi = torch.full(SHAPE, 0.5, requires_grad=True)
    psi = torch.full(SHAPE, -2.0, requires_grad=True)
    distance_loss([phi, psi], sdm).backward()
    assert phi.grad is not None
    assert psi.grad is not None
    torch.testing.assert_close(phi.grad, torch.full(SHAPE, 1 / 60))
    torch.testing.assert_close(psi.grad, torch.full(SHAPE, -1 / 60))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_four_million_half_precision_voxels_give_the_float32_mean(dtype: torch.dtype) -> None:
    view = torch.full((1, 1, 64, 250, 250), 0.5, dtype=dtype, requires_grad=True)
    loss = distance_loss([view, view], torch.full(view.shape, -0.5))
    (grad,) = torch.autograd.grad(loss, view)
    assert loss.item() == pytest.approx(1.0, rel=1e-5)
    assert loss.dtype == torch.float32
    assert bool(torch.isfinite(grad).all())


def test_other_shapes_and_no_views_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        distance_loss([torch.zeros(SHAPE)], torch.zeros(SHAPE)[:, 0])
    with pytest.raises(ValueError, match="at least one view"):
        distance_loss([], torch.zeros(SHAPE))
