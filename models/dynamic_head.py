"""The backbone with a head whose weights are made for each image (DCAC)."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbone import Outputs, ResidualEncoderDecoder
from models.convolution import conv3d

CLASSES = 2  # background and target; the paper's head has this many channels for each source
SLOPE = 0.01  # of the leaky ReLU


class DynamicHead(nn.Module):
    """One logit per voxel by 1x1x1 convolutions, of which all but the first are made by the image.

    `sources` * 2 = k channels come from a fixed convolution. Domain-adaptive: k -> k, with weights
    made from a code of the sources, its normalized result is subtracted. Content-adaptive: k -> k
    -> k -> 1, with weights made from the image's deepest features.
    """

    def __init__(self, channels: int, content: int, sources: int) -> None:
        super().__init__()
        k = sources * CLASSES
        self.widths = (k, k, k, 1)
        made = sum(before * after + after for before, after in pairwise(self.widths))
        self.reduce = nn.Conv3d(channels, k, 1)
        self.norm = nn.InstanceNorm3d(k, affine=True)
        self.domain_controller = nn.Linear(sources, k * k + k)
        self.content_controller = nn.Linear(content, made)

    def forward(self, x: Tensor, code: Tensor, content: Tensor) -> Tensor:
        """`x` (b, channels, z, y, x), `code` (b, sources), `content` (b, c) -> (b, 1, z, y, x)."""
        k = self.widths[0]
        x = F.leaky_relu(self.norm(conv3d(x, self.reduce.weight, self.reduce.bias)), SLOPE)
        weight, bias = self.domain_controller(code).split((k * k, k), dim=1)
        x = F.leaky_relu(x - _normalize(dynamic_conv(x, weight, bias)), SLOPE)
        steps = list(pairwise(self.widths))
        parts = self.content_controller(content).split([n for a, b in steps for n in (a * b, b)], 1)
        for number in range(len(steps)):
            x = dynamic_conv(x, parts[2 * number], parts[2 * number + 1])
            if number < len(steps) - 1:
                x = F.leaky_relu(_normalize(x), SLOPE)
        return x


def dynamic_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 1x1x1 convolution of each sample with weights of its own.

    `x` (b, in, z, y, x), `weight` (b, out * in), `bias` (b, out) -> (b, out, z, y, x).
    """
    per_sample = weight.unflatten(1, (bias.shape[1], x.shape[1]))  # (b, out, in)
    result = torch.bmm(per_sample, x.flatten(2)) + bias[:, :, None]
    return result.reshape(*bias.shape, *x.shape[2:])


def _normalize(x: Tensor) -> Tensor:
    """Each sample by its mean and variance over all channels and voxels."""
    return F.group_norm(x, 1)


class DynamicHeadNetwork(ResidualEncoderDecoder):
    """The backbone with a `DynamicHead` in place of its own, and a classifier of the sources."""

    def __init__(self, sources: int, *, width: int, upsample: str) -> None:
        super().__init__(
            width=width, upsample=upsample, distance=False, slices=False, projection=False
        )
        del self.segmentation_head
        self.sources = sources
        self.classifier = nn.Linear((1 + 2 + 4 + 8 + 8) * width, sources)
        self.head = DynamicHead(width, 8 * width, sources)

    def forward(self, image: Tensor, domains: Tensor | None = None) -> Outputs:
        """Logits and domain logits.

        `domains`, (b,) int: the true sources, known in training only; else what the classifier
        says takes their place. The classifier's gradient ends at its own weights.
        """
        stages = self.encode(image)
        finest = self.decode(stages)[-1]
        pooled = [_describe(stage) for stage in stages]
        domain_logits = self.classifier(torch.cat(pooled, dim=1).detach()).float()
        code = domain_logits.softmax(dim=1)
        if domains is not None:
            code = F.one_hot(domains, self.sources).float()
        logits = self.head(finest, code, pooled[-1])
        return Outputs(logits, None, None, None, domain_logits)


def _describe(stage: Tensor) -> Tensor:
    """A stage's mean over space, (b, c), at zero mean and unit variance over its channels."""
    mean = stage.float().mean(dim=(2, 3, 4))
    return F.layer_norm(mean, mean.shape[1:])
