"""PaNSegNet (Zhang et al., Medical Image Analysis 2025; arXiv 2405.12367): the network. Table VI.

A U-Net as nnU-Net's first version plans it, and at its bottleneck a transformer encoder with linear
attention, so that every voxel of the patch is seen from every other at a cost that grows with their
number and not with its square. Planning, preprocessing, loss and inference are nnU-Net's: this
network is trained by its second version (`methods/external/trainers.py`), for 600 epochs.

Certain, by Table VI: 43,711,168 parameters and 560.29 GMACs for a patch of 56 x 192 x 160 voxels
and three classes. What makes it the first version's form: the two convolutions of a decoder level
have the kernel of the encoder level below it, and transposed convolutions and heads have no bias.
Deviations: where dropout is applied in the transformer is our choice (behind attention, in the
feed-forward part and behind it); the second version plans patch, strides and channels, so that an
own plan has other numbers than Table VI's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

Triple = tuple[int, int, int]

EMBEDDING, HEADS, LAYERS, DROPOUT = 512, 8, 8, 0.3
EPOCHS = 600


@dataclass(frozen=True)
class Plan:
    """What nnU-Net plans of a U-Net; all (z, y, x), one entry a level, the finest first.

    `strides`: from the level above, (1, 1, 1) for the finest. Raises ValueError where a side of the
    patch is no multiple of its strides, or the lists differ in length.
    """

    patch: Triple
    features: tuple[int, ...]
    kernels: tuple[Triple, ...]
    strides: tuple[Triple, ...]
    classes: int = 3
    channels: int = 1

    def __post_init__(self) -> None:
        if not len(self.features) == len(self.kernels) == len(self.strides) >= 2:
            raise ValueError(
                f"PaNSegNet: {len(self.features)} features, {len(self.kernels)} kernels and "
                f"{len(self.strides)} strides; a plan has one of each for each of its levels"
            )
        if any(side % step for side, step in zip(self.patch, self.total_stride, strict=True)):
            raise ValueError(
                f"PaNSegNet: a patch of {self.patch} is no multiple of the strides together "
                f"{self.total_stride}; plan again"
            )

    @property
    def total_stride(self) -> Triple:
        """From the patch to the bottleneck."""
        z, y, x = (math.prod(stride[axis] for stride in self.strides) for axis in range(3))
        return z, y, x

    @property
    def tokens(self) -> int:
        """Voxels at the bottleneck, which are what the attention sees."""
        return math.prod(self.patch) // math.prod(self.total_stride)


# The plan whose parameters and GMACs Table VI prints.
TABLE6_PLAN = Plan(
    patch=(56, 192, 160),
    features=(32, 64, 128, 256, 320, 320),
    kernels=((1, 3, 3), *((3, 3, 3),) * 5),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2)),
)


class PaNSegNet(nn.Module):
    """U-Net with linear attention at its bottleneck.

    `deep_supervision`: give the logits of every decoder level in training, the finest first, as
    nnU-Net's loss wants them; else those of the finest alone.
    """

    def __init__(self, plan: Plan, deep_supervision: bool = False) -> None:
        super().__init__()
        self.plan = plan
        inputs = (plan.channels, *plan.features[:-1])
        levels = zip(inputs, plan.features, plan.kernels, plan.strides, strict=True)
        self.encoder = nn.ModuleList(_two_convolutions(*level) for level in levels)
        self.attention = LinearTransformer(plan.features[-1], plan.tokens)
        self.decoder = Decoder(plan, deep_supervision)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """Image (b, channels, *patch) -> logits (b, classes, *patch), or a list of them.

        Raises ValueError for an input whose bottleneck has another number of voxels.
        """
        skips = []
        x = image
        for level in self.encoder:
            x = level(x)
            skips.append(x)
        skips[-1] = self.attention(x)
        return self.decoder(skips)


class Decoder(nn.Module):
    """The way up, and a head at each level. nnU-Net switches `deep_supervision`."""

    def __init__(self, plan: Plan, deep_supervision: bool) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        up, levels, heads = [], [], []
        # from the coarsest pair of levels to the finest
        for (fine, coarse), kernel, stride in reversed(
            [*zip(pairwise(plan.features), plan.kernels[1:], plan.strides[1:], strict=True)]
        ):
            up.append(nn.ConvTranspose3d(coarse, fine, stride, stride, bias=False))
            levels.append(_two_convolutions(2 * fine, fine, kernel))
            heads.append(nn.Conv3d(fine, plan.classes, 1, bias=False))
        self.up, self.levels = nn.ModuleList(up), nn.ModuleList(levels)
        self.heads = nn.ModuleList(heads)

    def forward(self, skips: Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Outputs of the encoder's levels, the finest first -> logits."""
        x = skips[-1]
        logits = []
        steps = zip(self.up, self.levels, self.heads, reversed(skips[:-1]), strict=True)
        for up, level, head, skip in steps:
            x = level(torch.cat([up(x), skip], dim=1))
            if self.deep_supervision or head is self.heads[-1]:
                logits.append(head(x))
        return logits[::-1] if self.deep_supervision else logits[-1]


class LinearTransformer(nn.Module):
    """Bottleneck (b, channels, z, y, x) -> the same shape, through `LAYERS` of attention.

    There is no connection around it. Its positions are fixed, one for each token, so it takes
    inputs of `tokens` voxels only.
    """

    positions: Tensor

    def __init__(self, channels: int, tokens: int) -> None:
        super().__init__()
        self.embed = nn.Linear(channels, EMBEDDING)
        self.register_buffer("positions", sinusoids(tokens, EMBEDDING), persistent=False)
        self.layers = nn.Sequential(*(AttentionLayer() for _ in range(LAYERS)))
        self.restore = nn.Linear(EMBEDDING, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Raises ValueError for another number of voxels than the plan's."""
        tokens = x.flatten(2).transpose(1, 2)
        if tokens.shape[1] != len(self.positions):
            raise ValueError(
                f"PaNSegNet: {tokens.shape[1]} voxels {tuple(x.shape[2:])} at the bottleneck, but "
                f"planned are {len(self.positions)}; its input must be a patch of the planned size"
            )
        tokens = self.restore(self.layers(self.embed(tokens) + self.positions))
        return tokens.transpose(1, 2).reshape(x.shape)


class AttentionLayer(nn.Module):
    """Linear attention and a feed-forward part, each added to its input and then normalized."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.join = (
            nn.Linear(EMBEDDING, EMBEDDING) for _ in range(4)
        )
        self.feed_forward = nn.Sequential(
            nn.Linear(EMBEDDING, EMBEDDING),
            nn.GELU(),
            nn.Dropout(DROPOUT),
            nn.Linear(EMBEDDING, EMBEDDING),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(EMBEDDING, eps=1e-6) for _ in range(2))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (b, n, EMBEDDING) -> the same shape."""
        heads = [
            part(tokens).unflatten(2, (HEADS, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        ]
        attended = linear_attention(*heads).transpose(1, 2).flatten(2)
        tokens = self.norms[0](tokens + self.dropout(self.join(attended)))
        return self.norms[1](tokens + self.dropout(self.feed_forward(tokens)))


def linear_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax over features of Q, over tokens of K: Q (K^T V) / sqrt(features), all (..., n, d).

    The (d, d) product of keys and values comes first, so that the cost is linear in n.
    """
    query = query.softmax(dim=-1) / math.sqrt(query.shape[-1])
    context = key.softmax(dim=-2).transpose(-2, -1) @ value
    return query @ context


def sinusoids(count: int, size: int) -> Tensor:
    """Positions (count, size): sines in the even columns, cosines in the odd ones.

    Their wavelengths rise from 2 pi to 10000 * 2 pi (Vaswani et al., 2017).
    """
    position = torch.arange(count, dtype=torch.float32)[:, None]
    rates = torch.exp(torch.arange(0, size, 2) * (-math.log(10000.0) / size))
    angles = position * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


def _two_convolutions(
    inputs: int, outputs: int, kernel: Triple, stride: Triple = (1, 1, 1)
) -> nn.Sequential:
    """Convolution (the first with the stride), instance norm, leaky ReLU, twice."""
    z, y, x = (side // 2 for side in kernel)
    parts: list[nn.Module] = []
    for channels, step in ((inputs, stride), (outputs, (1, 1, 1))):
        parts += [
            nn.Conv3d(channels, outputs, kernel, step, (z, y, x)),
            nn.InstanceNorm3d(outputs, affine=True),
            nn.LeakyReLU(inplace=True),
        ]
    return nn.Sequential(*parts)
