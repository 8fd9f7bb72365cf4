"""Eq. 2-3: soft Dice and cross-entropy on voxels and slices."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from losses.segmentation import (
    dice_bce_loss,
    segmentation_loss,
    soft_dice_loss,
)

SHAPE = (1, 1, 2, 3, 5)
LN2 = math.log(2)


def some_logits(seed: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def corner_mask() -> Tensor:
    mask = torch.zeros(SHAPE)
    mask[0, 0, 0, 0, :3] = 1
    return mask


def test_a_prediction_of_one_half_scores_what_eq_2_says_by_hand() -> None:
    # 30 voxels of 0.5, 3 of them target: 1 - 2 * 1.5 / (15 + 3), and ln 2 for each voxel.
    loss = dice_bce_loss(torch.zeros(SHAPE), corner_mask())
    assert loss.item() == pytest.approx(1 - 3 / 18 + LN2, rel=1e-6)
    assert loss.dtype == torch.float32


def test_the_loss_equals_eq_2_written_voxel_by_voxel() -> None:
    logits, mask = some_logits(0), corner_mask()
    p = [1 / (1 + math.exp(-v)) for v in logits.flatten().tolist()]
    y = mask.flatten().tolist()
    overlap = sum(a * b for a, b in zip(p, y, strict=True))
    entropy = [math.log(a) if b else math.log(1 - a) for a, b in zip(p, y, strict=True)]
    expected = 1 - 2 * overlap / (sum(p) + sum(y)) - sum(entropy) / len(p)
    assert dice_bce_loss(logits, mask).item() == pytest.approx(expected, rel=1e-6)


def test_dice_is_per_sample_and_then_averaged() -> None:
    logits = some_logits(1, (3, *SHAPE[1:]))
    mask = (some_logits(2, (3, *SHAPE[1:])) > 0.5).float()
    alone = [dice_bce_loss(logits[i : i + 1], mask[i : i + 1]).item() for i in range(3)]
    assert dice_bce_loss(logits, mask).item() == pytest.approx(sum(alone) / 3, rel=1e-6)


def test_a_perfect_prediction_scores_zero_also_on_a_full_mask() -> None:
    for mask in (corner_mask(), torch.ones(SHAPE)):
        loss = dice_bce_loss(200 * (mask - 0.5), mask)
        assert loss.item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("value", [-200.0, -3.0, 0.0, 3.0])
def test_an_empty_mask_has_a_dice_term_of_one_and_only_cross_entropy_trains(value: float) -> None:
    logits = torch.full(SHAPE, value, requires_grad=True)
    empty = torch.zeros(SHAPE)
    assert soft_dice_loss(torch.sigmoid(logits), empty).item() == 1.0
    (grad,) = torch.autograd.grad(dice_bce_loss(logits, empty), logits)
    expected = torch.sigmoid(logits.detach()) / logits.numel()
    torch.testing.assert_close(grad, expected, rtol=1e-5, atol=0)


def test_every_voxel_is_pulled_toward_its_own_class() -> None:
    logits = some_logits(3).requires_grad_()
    (grad,) = torch.autograd.grad(dice_bce_loss(logits, corner_mask()), logits)
    inside = corner_mask().bool()
    assert bool((grad[inside] < 0).all())
    assert bool((grad[~inside] > 0).all())


def test_the_gradient_is_that_of_finite_differences() -> None:
    logits = some_logits(4).requires_grad_()
    mask = corner_mask()
    (grad,) = torch.autograd.grad(dice_bce_loss(logits, mask), logits)
    step = torch.zeros(SHAPE, dtype=torch.float64)
    step[0, 0, 0, 0, 2] = 1e-2
    numeric = (dice_bce_loss(logits + step, mask) - dice_bce_loss(logits - step, mask)) / 2e-2
    assert grad[0, 0, 0, 0, 2].item() == pytest.approx(numeric.item(), rel=1e-3)


def test_logits_of_a_million_give_a_finite_loss_and_gradient() -> None:
    logits = torch.tensor([1e6, -1e6, 1e6, -1e6]).reshape(1, 1, 1, 2, 2).requires_grad_()
    mask = torch.tensor([1.0, 0.0, 0.0, 1.0]).reshape(1, 1, 1, 2, 2)
    loss = dice_bce_loss(logits, mask)
    (grad,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(0.5 + 5e5)
    assert bool(torch.isfinite(grad).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_four_million_half_precision_voxels_give_the_float32_loss(dtype: torch.dtype) -> None:
    logits = torch.zeros((1, 1, 64, 250, 250), dtype=dtype, requires_grad=True)
    mask = torch.zeros(logits.shape)
    mask[..., :32, :, :] = 1
    loss = dice_bce_loss(logits, mask)
    (grad,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(0.5 + LN2, rel=1e-5)
    assert grad.dtype == dtype
    assert bool(torch.isfinite(grad).all())


def test_a_mask_without_the_channel_axis_is_refused_not_broadcast() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        dice_bce_loss(torch.zeros(SHAPE), torch.zeros(SHAPE)[:, 0])
    with pytest.raises(ValueError, match="differ in shape"):
        soft_dice_loss(torch.zeros(SHAPE), torch.zeros(SHAPE)[:, 0])


def test_eq_3_sums_over_views_and_slice_terms() -> None:
    views = [some_logits(5), some_logits(6), some_logits(7)]
    slices = [torch.zeros((1, 2)), torch.ones((1, 2)), -torch.ones((1, 2))]
    mask, labels = corner_mask(), torch.tensor([[1.0, 0.0]])
    voxels = sum(dice_bce_loss(v, mask).item() for v in views)
    both = voxels + sum(dice_bce_loss(s, labels).item() for s in slices)
    assert segmentation_loss(views, mask).item() == pytest.approx(voxels, rel=1e-6)
    assert segmentation_loss(views, mask, slices, labels).item() == pytest.approx(both, rel=1e-6)
    # Slice logits of 0 for one slice with and one without lesion: 1 - 2 (1/2) / 2, and ln 2.
    one = segmentation_loss(views[:1], mask, slices[:1], labels).item()
    assert one - dice_bce_loss(views[0], mask).item() == pytest.approx(0.5 + LN2, rel=1e-6)


def test_eq_3_does_not_know_which_view_is_first() -> None:
    phi, psi, mask = some_logits(8), some_logits(9), corner_mask()
    forward = segmentation_loss([phi, psi], mask)
    assert segmentation_loss([psi, phi], mask).item() == pytest.approx(forward.item(), rel=1e-7)


def test_each_view_and_each_slice_head_receives_a_gradient() -> None:
    views = [some_logits(seed).requires_grad_() for seed in (10, 11)]
    slices = [torch.zeros((1, 2), requires_grad=True) for _ in views]
    segmentation_loss(views, corner_mask(), slices, torch.tensor([[1.0, 0.0]])).backward()
    for leaf in [*views, *slices]:
        assert leaf.grad is not None
        assert bool((leaf.grad != 0).all())


def test_eq_3_refuses_no_views_and_half_a_slice_term() -> None:
    with pytest.raises(ValueError, match="at least one view"):
        segmentation_loss([], corner_mask())
    with pytest.raises(ValueError, match="together"):
        segmentation_loss([some_logits(0)], corner_mask(), [torch.zeros((1, 2))])
    with pytest.raises(ValueError, match="1 slice_logits for 2 views"):
        segmentation_loss(
            [some_logits(0)] * 2, corner_mask(), [torch.zeros((1, 2))], torch.zeros((1, 2))
        )


def test_a_positive_weight_counts_the_voxels_of_the_mask_in_the_cross_entropy_only() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 3, 4, 5, generator=generator)
    mask = (torch.rand(2, 1, 3, 4, 5, generator=generator) > 0.7).float()
    assert torch.equal(dice_bce_loss(logits, mask, 1.0), dice_bce_loss(logits, mask))
    more = dice_bce_loss(logits, mask, 10.0) - dice_bce_loss(logits, mask)
    expected = 9 * (mask * torch.nn.functional.softplus(-logits)).mean()
    torch.testing.assert_close(more, expected)


@pytest.mark.parametrize("count", [1, 2])
def test_the_sum_over_views_is_that_of_torchs_own_losses_to_the_bit(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(1, 1, 3, 40, 50, generator=generator) for _ in range(count)]
    mask = (torch.rand(1, 1, 3, 40, 50, generator=generator) > 0.7).float()
    for view in views:
        view.requires_grad_()
    prob = [torch.sigmoid(view).flatten() for view in views]
    alone = [
        1.0
        - 2.0 * (p * mask.flatten()).sum() / (p.sum() + mask.sum())
        + functional.binary_cross_entropy_with_logits(view, mask)
        for p, view in zip(prob, views, strict=True)
    ]
    loss = segmentation_loss(views, mask)
    total = torch.stack(alone).sum()
    torch.testing.assert_close(loss, total, rtol=0, atol=0)
    for ours, usual in zip(
        torch.autograd.grad(loss, views), torch.autograd.grad(total, views), strict=True
    ):
        torch.testing.assert_close(ours, usual, rtol=0, atol=0)
