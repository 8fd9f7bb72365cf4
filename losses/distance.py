"""Eq. 5: regression of the signed distance map of Eq. 4."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from losses.views import mean_over_views


def distance_loss(sdm_pred: Sequence[Tensor], sdm: Tensor) -> Tensor:
    """Eq. 5, L_dis: mean absolute error over all voxels and views.

    `sdm_pred`: one (b, 1, z, y, x) per view; `sdm`: the same shape, shared by the views, in the
    unit of the prediction (negative inside). Returns a float32 scalar.
    """
    if not sdm_pred:
        raise ValueError("distance_loss needs the distance map of at least one view")
    for view in sdm_pred:
        if view.shape != sdm.shape:
            raise ValueError(
                f"sdm_pred {tuple(view.shape)} and sdm {tuple(sdm.shape)} differ in shape"
            )
    sdm = sdm.float()
    return mean_over_views(lambda views: (views.float() - sdm).abs().mean(), sdm_pred)
