"""Eq. 6-7: the predicted distance map, turned into a segmentation and supervised as one.

Eq. 6 as printed, y~ = [m <= 0], has no gradient anywhere: the term would train nothing. Its
relaxation y~ = sigmoid(-k m) equals it in the limit of a large steepness k and is 1/2 on the
predicted boundary. k sets how wide the soft rim is: y~ goes from 0.88 to 0.12 over 4 / k units of
m. On a voxel of the wrong sign, the cross-entropy's gradient with respect to m approaches the
constant k / N with the distance from the boundary, so an error far away is still corrected; on a
voxel of the right sign it dies out as exp(-k |m|), so that a small k pushes distances outward
even where the sign is right already, and a large k leaves them to Eq. 5.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from losses.segmentation import check_logits, mean_dice_bce, soft_dice_loss
from losses.views import mean_over_views

CONVERSION_MODES = ("sigmoid", "straight_through")


def sdm_to_logits(sdm_pred: Tensor, steepness: float) -> Tensor:
    """Eq. 6, relaxed: logits -k m, so that sigmoid(logits) is near 1 inside, near 0 outside.

    `sdm_pred`: any shape, negative inside; `steepness`: k > 0, per unit of the distance map.
    Returns float32 of the same shape. Raises ValueError for k <= 0.
    """
    if not steepness > 0:
        raise ValueError(f"steepness must be positive, not {steepness}")
    return -steepness * sdm_pred.float()


def conversion_loss(
    sdm_pred: Sequence[Tensor], mask: Tensor, *, steepness: float, mode: str = "sigmoid"
) -> Tensor:
    """Eq. 7, L_tran: Eq. 2 between the converted distance maps and the mask, mean over the views.

    `sdm_pred`: one (b, 1, z, y, x) per view; `mask`: the same shape. `mode`:
    - "sigmoid": Eq. 2 on y~ = sigmoid(-k m).
    - "straight_through": the Dice term reads Eq. 6's binary map, and its gradient is that of
      sigmoid(-k m). The cross-entropy keeps the sigmoid, for on a binary map it is 0 or infinite.

    Returns a float32 scalar.
    """
    if mode not in CONVERSION_MODES:
        raise ValueError(
            f"unknown conversion mode {mode!r}; choose from {', '.join(CONVERSION_MODES)}"
        )
    if not sdm_pred:
        raise ValueError("conversion_loss needs the distance map of at least one view")
    check_logits(sdm_pred, mask)
    if mode == "sigmoid":
        return mean_over_views(
            lambda views: mean_dice_bce(sdm_to_logits(views, steepness), mask), sdm_pred
        )
    logits = [sdm_to_logits(view, steepness) for view in sdm_pred]
    terms = [_straight_through_dice(view, mask) + _cross_entropy(view, mask) for view in logits]
    return torch.stack(terms).mean()


def _straight_through_dice(logits: Tensor, mask: Tensor) -> Tensor:
    """Dice loss of [logits >= 0], with the gradient of sigmoid(logits)."""
    prob = torch.sigmoid(logits)
    binary = (logits >= 0).float()
    return soft_dice_loss(binary + (prob - prob.detach()), mask)


def _cross_entropy(logits: Tensor, mask: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, mask.float())
