"""Edge features beside the decoder's, and their way back: the module of the LANet-style method."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.layers import NormReLU, SameConv3d, voxel_head


class EdgeFusion(nn.Module):
    """Decoder features f -> y of the same shape and size, (b, channels, z, y, x).

    e = block(f) are edge features (`edge`, which an edge head may read); g = sigmoid(conv(e))
    selects what of them counts; y = block(f + g e). A block is a 1x1x1 convolution without bias,
    group norm and ReLU.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.edge = _block(channels)
        self.select = voxel_head(channels, channels)
        self.merge = _block(channels)

    def forward(self, feature: Tensor) -> Tensor:
        edge = self.edge(feature)
        merged: Tensor = self.merge(feature + torch.sigmoid(self.select(edge)) * edge)
        return merged


def _block(channels: int) -> nn.Sequential:
    """Its output begins as large as the decoder's features, see `head_std`.

    So edges weigh as much as the features that they are added to, and what reads the decoder
    (skip additions, heads) begins as in the baseline.
    """
    norm = NormReLU(channels)
    nn.init.constant_(norm.weight, math.sqrt(27 * channels))
    return nn.Sequential(SameConv3d(channels, channels, bias=False), norm)
