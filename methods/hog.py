"""HOG (Bhattarai et al., Medical Image Analysis 85:102747, 2023, arXiv 2204.01712).

Row "HOG" of Table VI. Against BL: a head that only trains regresses, from the decoder's features,
the histogram of oriented gradients of the image itself, a descriptor of texture and shape that
needs no label.

Sure: the second task, weight 1 of its mean squared error, 9 orientations, L2-Hys, the target from
the augmented image, no part of it at test. Deviations: (1) Its descriptor is one vector of the
image resized to 64 x 128, from a fully connected layer of fixed size; ours is dense, one histogram
per axial slice and cell of 8 x 8 voxels, each normalized by itself, for crops differ in size.
(2) Its branch leaves the bottleneck; Table VI's cost allows only a small one at full resolution,
whose form is not stated: ours reads the last features of the decoder, by two 3x3x3 convolutions
beside one of 1x1x1. (3) Cells of the rim are left out (`losses/descriptor`). (4) Its released code
truncates the target to integers, which are 0 everywhere; ours does not. (5) Cells are 8 voxels
whatever these measure: it resizes each image to one grid, so a cell has no length in mm there.

Cost: the network is BL's, 945.23; with the head 962.85, Table VI's figure, by the choice of the
head. One forward and one backward pass a step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.dataset import Sample
from data.roi import STRIDE
from data.targets.hog import hog_target
from losses.descriptor import descriptor_loss
from methods.base import Method, MethodSettings, Terms
from models.backbone import ResidualEncoderDecoder
from models.capture import captured
from models.layers import SameConv3d, draw_weights, head_std, voxel_head
from utils.settings import NOT_NEGATIVE, Range, setting

HIDDEN = 4  # channels between the head's convolutions


@dataclass(frozen=True)
class HogSettings(MethodSettings):
    """The descriptor, and where it counts."""

    cell_voxels: int = setting(
        8,
        "side of a cell, voxels within a slice",
        "its released code: 8 or 16",
        allowed=Range(least=2, most=STRIDE),
    )
    orientations: int = setting(
        9, "bins of 180 degrees", "its released code", allowed=Range(least=2)
    )
    rim: int = setting(
        1, "cells at a slice's border that do not count", "own choice", allowed=NOT_NEGATIVE
    )


class DescriptorHead(nn.Module):
    """Features (b, channels, z, y, x) -> descriptors (b, orientations, z, y // cell, x // cell)."""

    def __init__(self, channels: int, orientations: int, cell_voxels: int) -> None:
        super().__init__()
        self.cell = (1, cell_voxels, cell_voxels)
        self.conv1 = SameConv3d(channels, HIDDEN, 3)
        self.conv2 = SameConv3d(HIDDEN, orientations, 3)
        self.shortcut = voxel_head(channels, orientations)
        draw_weights(self.conv1.weight, head_std(channels) / math.sqrt(27))

    def forward(self, feature: Tensor) -> Tensor:
        dense = self.conv2(self.conv1(feature).relu()) + self.shortcut(feature)
        return F.avg_pool3d(dense, self.cell)


class HOG(Method):
    """Row HOG of Table VI: the baseline, and a head that regresses the image's descriptor."""

    Settings = HogSettings
    terms: ClassVar[Mapping[str, float]] = {"seg": 1.0, "hog": 1.0}
    table6: ClassVar[str | None] = "HOG"
    table6_note: ClassVar[str] = (
        "945.23 is what predicts; with the descriptor's head, which only trains, it is the printed "
        "962.85, by construction"
    )
    settings: HogSettings
    network: ResidualEncoderDecoder

    def build_auxiliary(self) -> nn.Module | None:
        """The head of the descriptor."""
        if not self.uses("hog"):
            return None
        settings = self.settings
        return DescriptorHead(self.config.width, settings.orientations, settings.cell_voxels)

    def loss(self, sample: Sample, generator: torch.Generator) -> Terms:
        """Eq. 2, and the error of the descriptor."""
        if self.auxiliary is None:
            return super().loss(sample, generator)
        settings, last = self.settings, self.network.decoder1
        with captured(last) as calls:
            terms = super().loss(sample, generator)
        pred = self.auxiliary(calls[last].output)
        target = hog_target(sample.image, settings.cell_voxels, settings.orientations)
        return {**terms, "hog": descriptor_loss(pred, target, settings.rim)}
