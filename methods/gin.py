"""GIN (Ouyang et al., IEEE TMI 2022, arXiv 2111.12525): a row beyond Table VI.

Against BL: two views of each image, each through a small random network of its own (global
intensity non-linear augmentation), carry the loss of BL, and are to agree.

Sure: 4 layers of 2 channels, kernels of 1 or 3, leaky ReLU between, the Frobenius norm restored, a
mixture with the image by a ~ U(0, 1), and consistency of two such views.
From memory, not read again: weights and biases N(0, 1), a slope of 0.01, its consistency a
Kullback-Leibler divergence of weight 10.
Deviations: (1) Consistency is the Jensen-Shannon divergence that RandConv has here, a mean over
voxels, of weight 1, so that the two rows differ in the transform. (2) The norm is restored before
and after mixing, so that a is the network's part whatever its gain. (3) The image is in [0, 1], not
standardized. (4) Its second part, intensities resampled by pseudo-labels of regions (IPA), is not
here. Two forward and backward passes a step; nothing of it is left in prediction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from data.dataset import Sample
from data.random_network import RandomNetworkSettings, random_network_view
from losses.consistency import jensen_shannon_loss
from losses.segmentation import segmentation_loss
from methods.base import Method, MethodSettings, Terms
from models.backbone import forward_views


@dataclass(frozen=True)
class GinSettings(MethodSettings):
    """The random network of a view."""

    network: RandomNetworkSettings = RandomNetworkSettings()


class Gin(Method):
    """The baseline's loss on two views through random networks, and their agreement."""

    Settings = GinSettings
    terms: ClassVar[Mapping[str, float]] = {"seg": 1.0, "js": 1.0}
    extra_row: ClassVar[str | None] = "GIN"
    settings: GinSettings

    def loss(self, sample: Sample, generator: torch.Generator) -> Terms:
        """Eq. 2 as the mean of the views, and their agreement."""
        views = self.make_views(sample.image, generator)
        logits = [outputs.logits for outputs in forward_views(self.network, views)]
        terms = {"seg": segmentation_loss(logits, sample.mask) / len(views)}
        if self.uses("js"):
            terms["js"] = jensen_shannon_loss(logits)
        return terms

    def make_views(self, image: Tensor, generator: torch.Generator) -> list[Tensor]:
        """Two views; one where none has to agree, which leaves a plain augmentation."""
        count = 2 if self.uses("js") else 1
        return [random_network_view(image, generator, self.settings.network) for _ in range(count)]
