"""The paper's method (Li et al., 2025, Sec. III): dual-task learning and dual self-supervision.

Against the baseline: random-convolution views of each sample (Eq. 1), distance regression (Eq. 5),
task conversion (Eq. 6-7), contrast of features (Eq. 8-9) and consistency of outputs (Eq. 10).
Row "Ours" of Table VI; Table V's rows between BL and Ours are this method with terms of Eq. 11
left out (`ABLATIONS`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor, nn

from data.dataset import Sample
from data.views import ViewSettings, random_views
from losses.consistency import consistency_loss, cosine_consistency_loss
from losses.contrast import DENOMINATORS, contrast_loss
from losses.conversion import CONVERSION_MODES, conversion_loss
from losses.distance import distance_loss
from losses.segmentation import segmentation_loss
from methods.base import Method, MethodSettings, Terms
from models.backbone import ResidualEncoderDecoder, forward_views
from utils.settings import AT_LEAST_1, POSITIVE, setting
from utils.stages import Stage


@dataclass(frozen=True)
class OursSettings(MethodSettings):
    """Settings of the views (Eq. 1) and of the terms of Eq. 11."""

    views: ViewSettings = ViewSettings(mode="as_run")
    view_count: int = setting(
        2,
        "views of a sample per step; 1 leaves Eq. 1 out",
        "Eq. 1; Sec. V-B",
        allowed=AT_LEAST_1,
    )
    slices: bool = setting(False, "slice classification head and its loss", "Eq. 3")
    consistency: str = setting(
        "squared",
        "Eq. 10, or 1 - cosine similarity of the probabilities (released pancreas-coarse script)",
        "Eq. 10",
        ("squared", "cosine"),
    )
    steepness: float = setting(
        50.0,
        "k of sigmoid(-k m), which stands for Eq. 6's step so that it has a gradient",
        "Eq. 6",
        allowed=POSITIVE,
    )
    conversion: str = setting(
        "sigmoid", "how Eq. 6's step is made differentiable", "Eq. 6", CONVERSION_MODES
    )
    temperature: float = setting(
        0.05, "temperature of InfoNCE", "Eq. 9; released scripts", allowed=POSITIVE
    )
    denominator: str = setting(
        "negatives",
        "Eq. 9's denominator as printed, or with the pair itself, as InfoNCE usually has it",
        "Eq. 9",
        DENOMINATORS,
    )


# What differs between the stages (spec of Fig. 4): terms that a stage leaves out, and more.
STAGE_SETTINGS: Mapping[str, Mapping[str, object]] = {
    "pancreas_coarse": {"weights": {"dis": 0.0, "tran": 0.0}},
    "pancreas_fine": {"weights": {"dis": 0.0, "tran": 0.0, "cos": 0.0}, "view_count": 1},
    "tumor_coarse": {},
    "tumor_fine": {"slices": True},
}


class Ours(Method):
    """Eq. 11 on `settings.view_count` views; terms of weight 0 are not computed."""

    Settings = OursSettings
    terms: ClassVar[Mapping[str, float]] = {
        "seg": 1.0,
        "dis": 1.0,
        "tran": 1.0,
        "con": 1.0,
        "cos": 1.0,
    }
    table5: ClassVar[str | None] = "Ours"
    table6: ClassVar[str | None] = "Ours"
    table6_note: ClassVar[str] = (
        "945.44 has the slice head in both stages; the coarse one trains without it"
    )
    takes_second_channel: ClassVar[bool] = True
    settings: OursSettings

    @classmethod
    def default_settings(cls, stage: Stage) -> OursSettings:
        """The paper's terms and heads of a stage, as far as this row of Table V keeps them.

        Rows without the self-supervised terms see one view (no Eq. 1); the slice head belongs to
        the whole method alone, as Table VI counts the parameters.
        """
        values = dict(STAGE_SETTINGS[stage.name])
        changed = values.pop("weights", {})
        assert isinstance(changed, Mapping)
        weights = {name: changed.get(name, weight) for name, weight in cls.terms.items()}
        if "cos" not in cls.terms:
            values["view_count"] = 1
        if cls is not Ours:
            values["slices"] = False
        return OursSettings(weights=weights, **values)  # type: ignore[arg-type]

    def needed_targets(self) -> tuple[str, ...]:
        """The targets of the terms in use. Raises ValueError for consistency of a single view."""
        if self.uses("cos") and self.settings.view_count < 2:
            raise ValueError(
                "--view-count 1: the term cos compares two views; leave it out by --weights cos=0"
            )
        wanted = {
            "sdm": self.uses("dis"),
            "slices": self.settings.slices,
            "anchors": self.uses("con"),
        }
        return tuple(name for name, is_wanted in wanted.items() if is_wanted)

    def build_network(self) -> nn.Module:
        """The shared backbone with the heads that the terms in use need."""
        return ResidualEncoderDecoder(
            width=self.config.width,
            distance=self.uses("dis") or self.uses("tran"),
            slices=self.settings.slices,
            projection=self.uses("con"),
            upsample=self.config.upsample,
        ).take_channels(self.channels)

    def loss(self, sample: Sample, generator: torch.Generator) -> Terms:
        """The terms of Eq. 11 that are in use."""
        settings, views = self.settings, self.make_views(sample.image, generator)
        views = self.add_channel(views, sample, generator)
        outputs = forward_views(self.network, views)
        logits = [view.logits for view in outputs]
        sdm_pred = [view.sdm for view in outputs if view.sdm is not None]
        features = [view.features for view in outputs if view.features is not None]

        terms: Terms = {}
        if self.uses("seg"):
            slice_logits = [v.slice_logits for v in outputs if v.slice_logits is not None] or None
            slice_labels = sample.need("slice_labels") if slice_logits else None
            terms["seg"] = segmentation_loss(logits, sample.mask, slice_logits, slice_labels)
        if self.uses("dis"):
            terms["dis"] = distance_loss(sdm_pred, sample.need("sdm"))
        if self.uses("tran"):
            terms["tran"] = conversion_loss(
                sdm_pred, sample.mask, steepness=settings.steepness, mode=settings.conversion
            )
        if self.uses("con"):
            terms["con"] = contrast_loss(
                features,
                sample.need("positive"),
                sample.need("negative"),
                temperature=settings.temperature,
                generator=generator,
                denominator=settings.denominator,
            )
        if self.uses("cos"):
            terms["cos"] = self._consistency([torch.sigmoid(x.float()) for x in logits], sdm_pred)
        return terms

    def make_views(self, image: Tensor, generator: torch.Generator) -> list[Tensor]:
        """Eq. 1, `settings.view_count` times; a single view is the image itself."""
        if self.settings.view_count == 1:
            return [image]
        return random_views(image, generator, self.settings.views, self.settings.view_count)

    def _consistency(self, prob: Sequence[Tensor], sdm_pred: Sequence[Tensor]) -> Tensor:
        cosine = self.settings.consistency == "cosine"
        loss = mean_over_pairs(cosine_consistency_loss if cosine else consistency_loss, prob)
        if sdm_pred:
            loss = loss + mean_over_pairs(consistency_loss, sdm_pred)
        return loss


class IndependentRegression(Ours):
    """Row BL+IDR of Table V: the baseline and Eq. 5."""

    terms: ClassVar[Mapping[str, float]] = {"seg": 1.0, "dis": 1.0}
    table5 = "BL+IDR"
    table6 = None


class DualTaskLearning(Ours):
    """Row BL+DTL of Table V: the baseline, Eq. 5 and Eq. 6-7."""

    terms: ClassVar[Mapping[str, float]] = {"seg": 1.0, "dis": 1.0, "tran": 1.0}
    table5 = "BL+DTL"
    table6 = None


class DualSelfSupervision(Ours):
    """Row BL+DSL of Table V: the baseline, Eq. 1 and Eq. 8-10."""

    terms: ClassVar[Mapping[str, float]] = {"seg": 1.0, "con": 1.0, "cos": 1.0}
    table5 = "BL+DSL"
    table6 = None


ABLATIONS: Mapping[str, type[Ours]] = {
    "bl_idr": IndependentRegression,
    "bl_dtl": DualTaskLearning,
    "bl_dsl": DualSelfSupervision,
}


def mean_over_pairs(loss: Callable[[Tensor, Tensor], Tensor], views: Sequence[Tensor]) -> Tensor:
    """The pairwise `loss`, averaged over all pairs of views; for two views, the loss itself."""
    pairs = list(combinations(views, 2))
    return torch.stack([loss(phi, psi) for phi, psi in pairs]).mean()
