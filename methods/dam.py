"""DAM: data augmentation as a second task (Zhang and Ma, IEEE TCSVT 2022).

"A good data augmentation policy is not all you need", row "DAM" of Table VI. Against BL: a hard
augmentation of each training image goes through the same network to a head of its own, so that the
features profit and the primary head never sees the distorted distribution.

Sure: one network with two heads, the loss of both added 1 to 1, each view in a pass of its own, the
totally random policy of two operations (a variant has three), only the primary head at test.
Deviations: (1) Operations are those of CT, 5 geometric within slices and 11 on intensity; the label
follows the geometric ones (`data/random_policy`, whose ranges are AutoAugment's where it has the
operation; DAM's own were not read). (2) The hard view is made from the sample of BL's recipe, not
from the raw image. (3) Group norm has no statistics of a batch to keep apart. (4) Adam and the
schedule of BL instead of SGD. (5) Sharpening and blur are by the mean of 3 x 3 x 3 voxels, whatever
these measure.

Cost: 945.23, as BL. Table VI prints 945.12, which is BL without its head: its heads seem to have
been outside of what was counted. Two forward and two backward passes a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from data.dataset import Sample, target_mask
from data.random_policy import random_policy
from losses.segmentation import segmentation_loss
from methods.base import Method, MethodSettings, Terms
from models.backbone import ResidualEncoderDecoder
from models.capture import captured
from models.layers import voxel_head
from utils.settings import NOT_NEGATIVE, setting


@dataclass(frozen=True)
class DamSettings(MethodSettings):
    """How hard the second view is."""

    operations: int = setting(
        2,
        "operations of the random policy; 0 leaves the second view as the first",
        "its released code: 2 or 3",
        allowed=NOT_NEGATIVE,
    )


class DAM(Method):
    """Row DAM of Table VI: the baseline, and a second head for a hard augmentation."""

    Settings = DamSettings
    terms: ClassVar[Mapping[str, float]] = {"seg": 1.0, "strong": 1.0}
    table6: ClassVar[str | None] = "DAM"
    table6_note: ClassVar[str] = (
        "945.12 is the network without its head, which the authors seem not to have counted"
    )
    settings: DamSettings
    network: ResidualEncoderDecoder

    def build_auxiliary(self) -> nn.Module | None:
        """The head of the hard view."""
        return voxel_head(self.config.width) if self.uses("strong") else None

    def loss(self, sample: Sample, generator: torch.Generator) -> Terms:
        """Eq. 2 on the sample by the primary head, and on its hard view by the second."""
        terms = super().loss(sample, generator)
        if self.auxiliary is None:
            return terms
        image, label = random_policy(
            sample.image, sample.label, sample.spacing, generator, self.settings.operations
        )
        last = self.network.decoder1
        with captured(last) as calls:
            self.network(image)
        logits = self.auxiliary(calls[last].output)
        mask = target_mask(label, self.stage.target).float()
        return {**terms, "strong": segmentation_loss([logits], mask)}
