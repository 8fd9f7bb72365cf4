"""Eq. 2-3: soft Dice plus cross-entropy, on voxels and on slices, from logits.

The Dice term is the paper's, without a smoothing constant. A sample without target therefore has
a Dice term of exactly 1 whatever is predicted, and no gradient from it: the cross-entropy alone
teaches the network that nothing is there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from losses.views import mean_over_views

MIN_DENOMINATOR = 1e-12  # only where every probability of a sample is 0.0 and its mask is empty


def soft_dice_loss(prob: Tensor, mask: Tensor) -> Tensor:
    """First term of Eq. 2: 1 - 2 sum(pY) / (sum p + sum Y), per sample, then mean over samples.

    `prob` and `mask`: (b, ...) of one shape. Returns a float32 scalar in [0, 1]; an empty mask
    gives exactly 1 for any prediction, a full mask with a full prediction gives 0.
    """
    if prob.shape != mask.shape:
        raise ValueError(f"prob {tuple(prob.shape)} and mask {tuple(mask.shape)} differ in shape")
    return _soft_dice(prob.float().flatten(1)[None], mask.float().flatten(1))


def dice_bce_loss(logits: Tensor, mask: Tensor, positive_weight: float = 1.0) -> Tensor:
    """Eq. 2, L(p, Y): soft Dice loss plus binary cross-entropy, p = sigmoid(logits).

    `logits`: (b, 1, z, y, x), or any (b, ...); `mask`: the same shape, 0 or 1. The cross-entropy is
    computed from the logits (finite for any logit) and averaged over all voxels; the Dice term
    is per sample, then averaged. `positive_weight`: what a voxel of the mask counts in the
    cross-entropy. Returns a float32 scalar. Raises ValueError on other shapes.
    """
    check_logits([logits], mask)
    return mean_dice_bce(logits[None], mask, positive_weight)


def mean_dice_bce(logits: Tensor, mask: Tensor, positive_weight: float = 1.0) -> Tensor:
    """`dice_bce_loss`, the mean over views: `logits` (v, b, ...), `mask` (b, ...) of them all."""
    logits, mask = logits.float().flatten(2), mask.float().flatten(1)  # (v, b, n), (b, n)
    weight = None if positive_weight == 1 else logits.new_full((), positive_weight)
    cross_entropy = functional.binary_cross_entropy_with_logits(
        logits, mask.expand_as(logits), pos_weight=weight
    )
    return _soft_dice(torch.sigmoid(logits), mask) + cross_entropy


def _soft_dice(prob: Tensor, mask: Tensor) -> Tensor:
    """`soft_dice_loss`, the mean over views: float32 prob (v, b, n), mask (b, n)."""
    overlap = (prob * mask).sum(dim=2)
    total = prob.sum(dim=2) + mask.sum(dim=1)
    return (1.0 - 2.0 * overlap / total.clamp_min(MIN_DENOMINATOR)).mean()


def segmentation_loss(
    logits: Sequence[Tensor],
    mask: Tensor,
    slice_logits: Sequence[Tensor] | None = None,
    slice_labels: Tensor | None = None,
) -> Tensor:
    """Eq. 3, L_seg: Eq. 2 summed over the views, plus the slice term of each view where given.

    The slice term L(c, C) is Eq. 2's formula on slices instead of voxels.

    `logits`: one (b, 1, z, y, x) per view; `mask`: the same shape, shared by the views;
    `slice_logits`: one (b, z) per view, with `slice_labels` (b, z), or both None.
    A sum as printed, not a mean: two views weigh twice one view. Returns a float32 scalar.
    """
    if not logits:
        raise ValueError("segmentation_loss needs the logits of at least one view")
    if (slice_logits is None) != (slice_labels is None):
        raise ValueError("give slice_logits and slice_labels together, or neither")
    loss = _mean_over_views(logits, mask)
    if slice_logits is not None and slice_labels is not None:
        if len(slice_logits) != len(logits):
            raise ValueError(f"{len(slice_logits)} slice_logits for {len(logits)} views")
        loss = loss + _mean_over_views(slice_logits, slice_labels)
    return len(logits) * loss


def check_logits(logits: Sequence[Tensor], mask: Tensor) -> None:
    """Raise ValueError where the shape of a view's logits is not the mask's."""
    for view in logits:
        if view.shape != mask.shape:
            raise ValueError(
                f"logits {tuple(view.shape)} and mask {tuple(mask.shape)} differ in shape"
            )


def _mean_over_views(logits: Sequence[Tensor], mask: Tensor) -> Tensor:
    check_logits(logits, mask)
    return mean_over_views(lambda views: mean_dice_bce(views, mask), logits)
