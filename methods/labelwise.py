"""Label-wise random convolution (Thaler et al., 2025, arXiv 2512.01510): a row beyond Table VI.

Against BL: background, pancreas and tumor of each training image are mixed with a random
convolution each, another for each of the three.

Known from the abstract alone: regions of a training image are augmented differently by random
convolution, by their labels ("semantic-aware random convolution"). How its convolutions are drawn
is not stated there; here they are those of RandConv's row (kernels of 1, 3, 5, 7, a ~ U(0, 1), each
view rescaled to [0, 1]). Its second part, which maps a test image's intensities to the sources'
("source matching"), is not here: prediction is BL's. At a label's border the image gets an edge
that no scanner makes; a network can learn to read it, which is the risk of this row.
One forward and backward pass a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from data.views import ViewSettings, label_wise_view
from methods.base import Method, MethodSettings


@dataclass(frozen=True)
class LabelWiseSettings(MethodSettings):
    """How the convolution of each label is drawn."""

    views: ViewSettings = ViewSettings(mode="rescaled")


class LabelWise(Method):
    """The baseline on images whose labels have a random convolution each."""

    Settings = LabelWiseSettings
    extra_row: ClassVar[str | None] = "Label-wise RandConv"
    settings: LabelWiseSettings

    def augment(
        self,
        image: Tensor,
        label: Tensor,
        spacing: tuple[float, float, float],
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """The baseline's augmentation, then the convolutions."""
        image, label = super().augment(image, label, spacing, generator)
        return label_wise_view(image, label, generator, self.settings.views), label
