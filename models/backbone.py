"""The 3D residual encoder-decoder of Sec. III-D and its heads; knows no method's name.

The encoder-decoder is ConResNet's backbone (the paper's ref. [41]) without its context branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.layers import (
    NORM_GROUPS,
    NormReLU,
    ResidualBlock,
    Upsample,
    WSConv3d,
    conv3d,
    draw_weights,
    head_std,
)
from models.recompute import TOGETHER, Recompute, has_hooks, run_level

STRIDE = 8  # input voxels per voxel of the deepest features, on each axis

Stages = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # of the encoder, strides 1, 2, 4, 8, 8
Levels = tuple[Tensor, Tensor, Tensor]  # of the decoder, strides 4, 2, 1


@dataclass(frozen=True)
class Outputs:
    """What the network returns for an image (b, 1, z, y, x); absent heads are None."""

    logits: Tensor  # (b, 1, z, y, x)
    sdm: Tensor | None  # (b, 1, z, y, x), tanh: in [-1, 1]
    slice_logits: Tensor | None  # (b, z)
    features: Tensor | None  # (b, width, z/8, y/8, x/8): the projection of Eq. 8
    domain_logits: Tensor | None = None  # (b, sources): which source center the image looks like

    def sample(self, index: int) -> Outputs:
        """The outputs of one sample of the batch, as a batch of one."""
        one = slice(index, index + 1)
        return Outputs(
            self.logits[one],
            None if self.sdm is None else self.sdm[one],
            None if self.slice_logits is None else self.slice_logits[one],
            None if self.features is None else self.features[one],
            None if self.domain_logits is None else self.domain_logits[one],
        )


class SliceHead(nn.Module):
    """One logit per input slice from the deepest features: GN-ReLU, mean over y and x, two layers.

    Each feature slice stands for the 8 input slices that it covers, so they share their logit.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = NormReLU(channels)
        self.fc1 = nn.Linear(channels, channels // 2)
        self.fc2 = nn.Linear(channels // 2, 1)

    def forward(self, deep: Tensor) -> Tensor:
        """(b, channels, z/8, y/8, x/8) to (b, z)."""
        x = self.norm(deep).repeat_interleave(STRIDE, dim=2)  # (b, channels, z, y/8, x/8)
        means = F.adaptive_avg_pool2d(x.flatten(1, 2), 1).view(x.shape[:3])
        return self.fc2(F.relu(self.fc1(means.transpose(1, 2)))).squeeze(2)


class ResidualEncoderDecoder(nn.Module):
    """Pre-activation residual encoder-decoder with up to four outputs.

    `width`: channels of the first stage, a multiple of 8; 32 in the paper, and every other count
    scales with it. `distance`, `slices`, `projection`: the heads for the signed distance map
    (Eq. 5), the slice logits (Eq. 2) and the contrastive features (Eq. 8). `upsample`: "trilinear"
    as in the paper, or "nearest" as in the released scripts. `dropout`: probability with which the
    bottleneck drops a channel while training.
    """

    def __init__(
        self,
        *,
        width: int = 32,
        distance: bool = True,
        slices: bool = True,
        projection: bool = True,
        upsample: str = "trilinear",
        dropout: float = 0.1,
    ) -> None:
        if width < NORM_GROUPS or width % NORM_GROUPS:
            raise ValueError(f"width is {width}; give a positive multiple of {NORM_GROUPS}")
        super().__init__()
        self.width = width
        self.recompute = Recompute()
        self._levels_again = False
        self.upsample = Upsample(upsample)
        w1, w2, w3, w4 = width, 2 * width, 4 * width, 8 * width
        self.channels = 1
        self.stem = WSConv3d(1, w1)
        self.stage0 = nn.Sequential(ResidualBlock(w1, w1))
        self.down1 = nn.Sequential(NormReLU(w1), WSConv3d(w1, w2, stride=2))
        self.stage1 = nn.Sequential(ResidualBlock(w2, w2), ResidualBlock(w2, w2))
        self.down2 = nn.Sequential(NormReLU(w2), WSConv3d(w2, w3, stride=2))
        self.stage2 = nn.Sequential(ResidualBlock(w3, w3), ResidualBlock(w3, w3))
        self.down3 = nn.Sequential(NormReLU(w3), WSConv3d(w3, w4, stride=2))
        self.stage3 = nn.Sequential(ResidualBlock(w4, w4), ResidualBlock(w4, w4))
        self.stage4 = nn.Sequential(
            ResidualBlock(w4, w4, dilation=2), ResidualBlock(w4, w4, dilation=2)
        )
        self.bottleneck = nn.Sequential(NormReLU(w4), nn.Dropout3d(dropout), WSConv3d(w4, w3))
        self.decoder3 = ResidualBlock(w3, w2)
        self.decoder2 = ResidualBlock(w2, w1)
        self.decoder1 = ResidualBlock(w1, w1)
        self.segmentation_head = nn.Conv3d(w1, 1, 1)
        self.distance_head = nn.Conv3d(w1, 1, 1) if distance else None
        self.projection_head = nn.Conv3d(w4, w1, 1) if projection else None
        self.slice_head = SliceHead(w4) if slices else None
        self._initialize_heads()

    def _initialize_heads(self) -> None:
        """Start the voxel heads with outputs of about unit size, so that no tanh is saturated."""
        for head in (self.segmentation_head, self.distance_head):
            if head is not None:
                draw_weights(head.weight, head_std(self.width))

    def take_channels(self, channels: int) -> ResidualEncoderDecoder:
        """The network with so many input channels, its first convolution new; itself for 1."""
        if channels != self.channels:
            self.channels, self.stem = channels, WSConv3d(channels, self.width)
        return self

    def forward(self, image: Tensor) -> Outputs:
        """`image` (b, channels, z, y, x), its three sizes multiples of 8.

        Raises ValueError for any other shape.
        """
        stages = self.encode(image)
        return self.read_out(stages, self.decode(stages))

    def encode(self, image: Tensor) -> Stages:
        """What stages 0 to 4 give; ValueError where the image is not as `forward` needs it."""
        self._check(image)
        if self.training:
            self._levels_again = self.recompute.levels_again(self, image)
        skip1 = self._descend(self.stem, self.stage0, image)  # (b, width, z, y, x)
        skip2 = self._descend(self.down1, self.stage1, skip1)  # (b, 2 width, z/2, y/2, x/2)
        skip3 = self._descend(self.down2, self.stage2, skip2)  # (b, 4 width, z/4, y/4, x/4)
        middle = self.stage3(self.down3(skip3))  # (b, 8 width, z/8, y/8, x/8)
        return skip1, skip2, skip3, middle, self.stage4(middle)  # the deepest: as the middle

    def decode(self, stages: Stages) -> Levels:
        """What the three decoders give: (b, 2 width, z/4, y/4, x/4), then width at /2 and /1."""
        skip1, skip2, skip3, _, deep = stages
        level3 = self.rise(self.decoder3, self.bottleneck(deep), skip3)
        level2 = self.rise(self.decoder2, level3, skip2)
        return level3, level2, self.rise(self.decoder1, level2, skip1)

    def rise(self, decoder: nn.Module, below: Tensor, skip: Tensor) -> Tensor:
        """`decoder` on the features from below at twice their size, plus those of the encoder."""
        again = self.training and self._levels_again and not has_hooks(decoder)
        return run_level(again, lambda x, kept: decoder(self.upsample(x) + kept), below, skip)

    def _descend(self, down: nn.Module, stage: nn.Module, x: Tensor) -> Tensor:
        again = self.training and self._levels_again and not has_hooks(down, stage)
        return run_level(again, lambda features: stage(down(features)), x)

    def read_out(self, stages: Stages, levels: Levels) -> Outputs:
        """The heads on the deepest and on the finest features."""
        deep = stages[-1]
        logits, sdm = self._voxel_heads(levels[-1])
        return Outputs(
            logits=logits,
            sdm=sdm,
            slice_logits=None if self.slice_head is None else self.slice_head(deep),
            features=None if self.projection_head is None else F.relu(self.projection_head(deep)),
        )

    def _voxel_heads(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Both 1x1x1 heads as one convolution: the largest features are read once."""
        heads = [h for h in (self.segmentation_head, self.distance_head) if h is not None]
        weight = torch.cat([head.weight for head in heads])
        bias = torch.cat([head.bias for head in heads if head.bias is not None])
        voxels = conv3d(x, weight, bias).contiguous()
        return voxels[:, :1], voxels[:, 1:].tanh() if len(heads) == 2 else None

    def _check(self, image: Tensor) -> None:
        if image.ndim != 5 or image.shape[1] != self.channels:
            raise ValueError(
                f"the image has shape {tuple(image.shape)}; give (batch, {self.channels}, z, y, "
                f"x), {'one channel' if self.channels == 1 else 'the image and the coarse result'}"
            )
        if any(size == 0 or size % STRIDE for size in image.shape[2:]):
            raise ValueError(
                f"the image's sizes (z, y, x) are {tuple(image.shape[2:])}; "
                f"pad or crop each to a multiple of {STRIDE}"
            )


def forward_views(network: nn.Module, views: Sequence[Tensor]) -> list[Outputs]:
    """The outputs of a `ResidualEncoderDecoder` for each view, (1, 1, z, y, x).

    Up to two views go through as one batch, as the paper trains. Of more, each goes through alone;
    where it is computed again as a whole, it keeps its outputs only, so that memory does not grow
    with the number of views but for the outputs. Every pair still meets in the losses, and the
    gradient is that of one batch.
    """
    assert isinstance(network, ResidualEncoderDecoder)
    rule = network.recompute
    plan = rule.plan(network, views[0], len(views))

    def forward(images: Tensor) -> Outputs:
        with rule.fixed(plan.levels):
            outputs: Outputs = network(images)
            return outputs

    if len(views) <= TOGETHER:
        batch = forward(torch.cat(tuple(views)))
        return [batch.sample(index) for index in range(len(views))]
    if not plan.views:
        return [forward(view) for view in views]
    return [checkpoint(forward, view, use_reentrant=False) for view in views]
