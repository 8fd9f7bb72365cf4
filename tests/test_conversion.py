"""Eq. 6-7: the distance map as a segmentation, and that this trains the regression head."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import ndimage
from torch import Tensor

from losses.conversion import conversion_loss, sdm_to_logits
from losses.segmentation import dice_bce_loss

SHAPE = (1, 1, 2, 3, 5)
MODES = ["sigmoid", "straight_through"]


def line(*values: float) -> Tensor:
    return torch.tensor(values).reshape(1, 1, 1, 1, -1)


def box_mask() -> Tensor:
    mask = torch.zeros(SHAPE)
    mask[..., 1:, 1:3, 1:4] = 1
    return mask


def exact_sdm(mask: Tensor) -> Tensor:
    inside = mask.bool().numpy()[0, 0]
    distance = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
    return torch.from_numpy(distance).float()[None, None]


def test_the_relaxed_map_is_one_half_on_the_boundary_and_eq_6_when_steep() -> None:
    sdm = line(-2.0, -0.1, 0.0, 0.1, 2.0)
    soft = torch.sigmoid(sdm_to_logits(sdm, 3.0))
    expected = [1 / (1 + math.exp(3.0 * m)) for m in (-2.0, -0.1, 0.0, 0.1, 2.0)]
    assert soft.flatten().tolist() == pytest.approx(expected)
    steep = torch.sigmoid(sdm_to_logits(sdm, 1e4))
    assert steep.flatten().tolist() == [1.0, 1.0, 0.5, 0.0, 0.0]


def test_steepness_sets_the_width_of_the_soft_rim() -> None:
    for steepness in (1.0, 10.0, 1500.0):
        rim = torch.sigmoid(sdm_to_logits(line(-2 / steepness, 2 / steepness), steepness))
        assert rim.flatten().tolist() == pytest.approx([0.8808, 0.1192], abs=1e-4)


def test_eq_7_is_the_mean_over_views_of_eq_2() -> None:
    mask = box_mask()
    views = [exact_sdm(mask), -exact_sdm(mask), torch.zeros(SHAPE)]
    expected = sum(dice_bce_loss(-5.0 * m, mask).item() for m in views) / 3
    assert conversion_loss(views, mask, steepness=5.0).item() == pytest.approx(expected)
    swapped = conversion_loss(views[::-1], mask, steepness=5.0)
    assert swapped.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_the_exact_map_costs_nothing_and_its_negative_costs_much(mode: str) -> None:
    mask = box_mask()
    sdm = exact_sdm(mask)
    right = conversion_loss([sdm, sdm], mask, steepness=50.0, mode=mode)
    wrong = conversion_loss([-sdm, -sdm], mask, steepness=50.0, mode=mode)
    assert right.item() == pytest.approx(0.0, abs=1e-6)
    assert wrong.item() > 50.0


@pytest.mark.parametrize("mode", MODES)
def test_every_voxel_of_the_regression_head_receives_a_gradient(mode: str) -> None:
    mask = box_mask()
    sdm_pred = torch.full(SHAPE, 0.1).requires_grad_()
    (grad,) = torch.autograd.grad(
        conversion_loss([sdm_pred], mask, steepness=4.0, mode=mode), sdm_pred
    )
    inside = mask.bool()
    assert bool((grad[inside] > 0).all())  # descent makes m smaller, that is inside
    assert bool((grad[~inside] < 0).all())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("steepness", [1.0, 1500.0])
def test_a_wrong_voxel_far_from_the_boundary_keeps_the_gradient_k_over_n(
    mode: str, steepness: float
) -> None:
    # 40 units on the wrong side; the sigmoid itself is flat there (its slope is below 1e-17).
    sdm_pred = line(40.0, -40.0, -40.0, 40.0).requires_grad_()
    mask = line(1.0, 0.0, 1.0, 0.0)
    loss = conversion_loss([sdm_pred], mask, steepness=steepness, mode=mode)
    (grad,) = torch.autograd.grad(loss, sdm_pred)
    expected = [steepness / 4, -steepness / 4, 0.0, 0.0]
    assert grad.flatten().tolist() == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_a_right_voxel_far_away_feels_a_small_steepness_more_than_a_large_one() -> None:
    mask = line(1.0, 0.0)
    grads = {}
    for steepness in (1.0, 1500.0):
        sdm_pred = line(-1.0, 1.0).requires_grad_()
        loss = conversion_loss([sdm_pred], mask, steepness=steepness)
        grads[steepness] = torch.autograd.grad(loss, sdm_pred)[0].abs().max().item()
    assert grads[1.0] > 0.1
    assert grads[1500.0] == 0.0


def test_straight_through_reads_the_binary_map_with_the_gradient_of_the_soft_one() -> None:
    mask = box_mask()
    # A shift of 0.5 with everything on its right side: the binary Dice is perfect, the soft is not.
    sdm_pred = (exact_sdm(mask) * 0.5).requires_grad_()
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(-2.0 * sdm_pred, mask)
    loss = conversion_loss([sdm_pred], mask, steepness=2.0, mode="straight_through")
    assert loss.item() == pytest.approx(entropy.item(), rel=1e-6)
    (grad,) = torch.autograd.grad(loss - entropy, sdm_pred)  # of the binary map's Dice
    assert bool((grad != 0).all())


def test_a_distance_of_zero_is_inside_as_in_eq_6() -> None:
    mask = torch.ones(SHAPE)
    loss = conversion_loss([torch.zeros(SHAPE)], mask, steepness=7.0, mode="straight_through")
    assert loss.item() == pytest.approx(math.log(2))  # Dice term 0, cross-entropy of one half


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_empty_and_full_masks_train_toward_all_outside_and_all_inside(
    mode: str, value: float
) -> None:
    mask = torch.full(SHAPE, value)
    sdm_pred = torch.zeros(SHAPE, requires_grad=True)
    loss = conversion_loss([sdm_pred], mask, steepness=3.0, mode=mode)
    (grad,) = torch.autograd.grad(loss, sdm_pred)
    assert bool(torch.isfinite(loss))
    assert bool(((grad > 0) if value else (grad < 0)).all())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_four_million_half_precision_voxels_stay_finite(mode: str, dtype: torch.dtype) -> None:
    sdm_pred = torch.full((1, 1, 64, 250, 250), 0.5, dtype=dtype, requires_grad=True)
    mask = torch.zeros(sdm_pred.shape)
    mask[..., :8, :, :] = 1
    loss = conversion_loss([sdm_pred], mask, steepness=1500.0, mode=mode)
    (grad,) = torch.autograd.grad(loss, sdm_pred)
    # One voxel in 8 is wrong by 0.5 with k = 1500: cross-entropy 750 / 8, Dice term 1.
    assert loss.item() == pytest.approx(93.75 + 1.0, rel=1e-5)
    assert bool(torch.isfinite(grad).all())
    assert bool((grad[..., :8, :, :] > 0).all())


def test_a_steepness_of_zero_an_unknown_mode_and_no_views_are_refused() -> None:
    with pytest.raises(ValueError, match="steepness must be positive, not 0"):
        sdm_to_logits(torch.zeros(SHAPE), 0.0)
    with pytest.raises(ValueError, match="choose from sigmoid, straight_through"):
        conversion_loss([torch.zeros(SHAPE)], box_mask(), steepness=1.0, mode="hard")
    with pytest.raises(ValueError, match="at least one view"):
        conversion_loss([], box_mask(), steepness=1.0)
    with pytest.raises(ValueError, match="differ in shape"):
        conversion_loss([torch.zeros(SHAPE)], box_mask()[:, 0], steepness=1.0)
