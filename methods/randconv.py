"""RandConv (Xu et al., ICLR 2021, arXiv 2007.13003): row "RandConv" of Table VI.

Against BL: each image is mixed with a random convolution of itself, drawn in every step; three such
views go through the network, the first carries the loss of BL, and all three are to agree.

Sure (its paper and released scripts): RC_mix, a F(x) + (1 - a) x with a ~ U(0, 1), kernel sizes
drawn from 1, 3, 5, 7, weights N(0, 1 / fan_in), no bias, zero padding; the mean of KL(p_i, mean p)
over three views. RC_img_p is `--views.mix-range 1 1 --identity-probability 0.5`.
Deviations: (1) Each view is rescaled to fill [0, 1], its optional normalization; `--views.mode
printed` leaves that out. Of one channel, convolution is nearly a change of gain, which weight
standardization and group norm undo. (2) F is drawn for each view of each sample, not of a batch.
(3) Its weight of consistency, 10, is for a divergence per image; ours is a mean over voxels, of
weight 1 (`--weights js=10`). (4) Its released loop convolves the first view again for the others;
its text does not: `--chained` does.
Table VI prints 945.41 GMACs: those of the network with the projection and distance heads of "Ours".
This method trains neither; its network is BL's, 945.23. Three forward and backward passes a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from data.dataset import Sample
from data.views import ViewSettings, random_views
from losses.consistency import jensen_shannon_loss
from losses.segmentation import segmentation_loss
from methods.base import Method, MethodSettings, Terms
from models.backbone import forward_views
from utils.config import Config
from utils.settings import AT_LEAST_1, PROBABILITY, setting


@dataclass(frozen=True)
class RandConvSettings(MethodSettings):
    """How the views are made, and how many."""

    views: ViewSettings = ViewSettings(mode="rescaled")
    view_count: int = setting(
        3, "views of a sample that are to agree", "its released scripts", allowed=AT_LEAST_1
    )
    identity_probability: float = setting(
        0.0,
        "how often a view is the image itself; 0.5 in RC_img",
        "its RC_mix",
        allowed=PROBABILITY,
    )
    chained: bool = setting(
        False, "later views are convolutions of the first view", "its text; on in its scripts"
    )


class RandConv(Method):
    """Row RandConv of Table VI: random convolutions, and their agreement."""

    Settings = RandConvSettings
    terms: ClassVar[Mapping[str, float]] = {"seg": 1.0, "js": 1.0}
    table6: ClassVar[str | None] = "RandConv"
    table6_note: ClassVar[str] = (
        "945.41 is the network with the projection and distance heads of Ours, which this method "
        "does not train; its three views are computed again for their gradients, hence 6 forwards"
    )
    settings: RandConvSettings

    def __init__(self, config: Config, sources: Sequence[str] = ()) -> None:
        """Raise ValueError where a single view should agree."""
        super().__init__(config, sources)
        if self.uses("js") and self.settings.view_count < 2:
            raise ValueError(
                "--view-count 1: the term js compares views; leave it out by --weights js=0"
            )

    def loss(self, sample: Sample, generator: torch.Generator) -> Terms:
        """Eq. 2 on the first view, and the agreement of all."""
        views = self.make_views(sample.image, generator)
        logits = [outputs.logits for outputs in forward_views(self.network, views)]
        terms = {"seg": segmentation_loss(logits[:1], sample.mask)}
        if self.uses("js"):
            terms["js"] = jensen_shannon_loss(logits)
        return terms

    def make_views(self, image: Tensor, generator: torch.Generator) -> list[Tensor]:
        """Random convolutions of the image; one alone where none has to agree."""
        settings = self.settings
        count = settings.view_count if self.uses("js") else 1
        if settings.chained:
            views = random_views(image, generator, settings.views, count=1)
            views += random_views(views[0], generator, settings.views, count - 1)
        else:
            views = random_views(image, generator, settings.views, count)
        coins = torch.rand(count, generator=generator).tolist()
        return [
            image if coin < settings.identity_probability else view
            for coin, view in zip(coins, views, strict=True)
        ]
