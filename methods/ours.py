"""The paper's method (Li et al., 2025, Sec. III): dual-task learning and dual self-supervision.

Against the baseline: random-convolution views of each sample (Eq. 1), distance regression (Eq. 5),
task conversion (Eq. 6-7), contrast of features (Eq. 8-9) and consistency of outputs (Eq. 10).
Row "Ours" of Table VI; Table V's rows are this method with terms of Eq. 11 left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from data.dataset import Sample
from data.views import ViewSettings, random_views
from losses.consistency import consistency_loss, cosine_consistency_loss
from losses.contrast import contrast_loss
from losses.conversion import conversion_loss
from losses.distance import distance_loss
from losses.segmentation import segmentation_loss
from methods.base import Method, MethodSettings
from models.backbone import Outputs


@dataclass(frozen=True)
class OursSettings(MethodSettings):
    """Settings of the views (Eq. 1), beside those of every method."""

    views: ViewSettings = ViewSettings()


class Ours(Method):
    """Eq. 11 on `stage.views` views; terms of weight 0 are not computed."""

    Settings = OursSettings

    def loss(
        self, network: nn.Module, sample: Sample, generator: torch.Generator
    ) -> dict[str, Tensor]:
        stage, views = self.stage, self.make_views(sample.image, generator)
        outputs = forward_views(network, views)
        logits = [view.logits for view in outputs]
        slice_logits = [v.slice_logits for v in outputs if v.slice_logits is not None] or None
        sdm_pred = [view.sdm for view in outputs if view.sdm is not None]
        features = [view.features for view in outputs if view.features is not None]

        terms: dict[str, Tensor] = {}
        if self._uses("seg"):
            terms["seg"] = segmentation_loss(logits, sample.mask, slice_logits, sample.slice_labels)
        if self._uses("dis") and sample.sdm is not None:
            terms["dis"] = distance_loss(sdm_pred, sample.sdm)
        if self._uses("tran"):
            terms["tran"] = conversion_loss(
                sdm_pred, sample.mask, steepness=stage.steepness, mode=stage.conversion
            )
        if self._uses("con") and sample.positive is not None and sample.negative is not None:
            terms["con"] = contrast_loss(
                features,
                sample.positive,
                sample.negative,
                temperature=stage.temperature,
                generator=generator,
            )
        if self._uses("cos") and len(views) > 1:
            terms["cos"] = self._consistency([torch.sigmoid(x.float()) for x in logits], sdm_pred)
        return terms

    def make_views(self, image: Tensor, generator: torch.Generator) -> list[Tensor]:
        """Eq. 1, `stage.views` times; a single view is the image itself."""
        if self.stage.views == 1:
            return [image]
        return random_views(image, generator, self.settings.views, self.stage.views)

    def _uses(self, term: str) -> bool:
        return self.stage.weights.get(term, 0.0) > 0

    def _consistency(self, prob: Sequence[Tensor], sdm_pred: Sequence[Tensor]) -> Tensor:
        cosine = self.stage.consistency == "cosine"
        loss = mean_over_pairs(cosine_consistency_loss if cosine else consistency_loss, prob)
        if sdm_pred:
            loss = loss + mean_over_pairs(consistency_loss, sdm_pred)
        return loss


def forward_views(network: nn.Module, views: Sequence[Tensor]) -> list[Outputs]:
    """The network's outputs for each view, (1, 1, z, y, x).

    Up to two views go through as one batch, as the paper trains. Of more, each goes through alone
    and keeps its outputs only; its activations are computed again when its gradient is
    accumulated. So memory does not grow with the number of views but for the outputs, every pair
    still meets in the losses, and the gradient is that of one batch.
    """
    if len(views) <= 2:
        batch = network(torch.cat(tuple(views)))
        return [batch.sample(index) for index in range(len(views))]
    return [checkpoint(network, view, use_reentrant=False) for view in views]


def mean_over_pairs(loss: Callable[[Tensor, Tensor], Tensor], views: Sequence[Tensor]) -> Tensor:
    """The pairwise `loss`, averaged over all pairs of views; for two views, the loss itself."""
    pairs = list(combinations(views, 2))
    return torch.stack([loss(phi, psi) for phi, psi in pairs]).mean()
