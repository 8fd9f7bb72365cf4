"""The backbone with a memory of the source centers' features (DoFE)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.backbone import Outputs, ResidualEncoderDecoder
from models.convolution import conv3d
from models.layers import NormReLU

MIN_SIZE = 1e-6  # of a feature map that is zero everywhere


class DomainPool(nn.Module):
    """One prototype per source of a feature map; a mixture of them is added through a gate.

    With h the map over its root mean square: h + tanh(W h) * sum_k w_k M_k, at the map's old size.
    `prototypes`, M, (sources, channels), is a buffer that the method moves. W begins at 0, where
    the map stays as it is.
    """

    prototypes: Tensor

    def __init__(self, sources: int, channels: int) -> None:
        super().__init__()
        self.gate = nn.Conv3d(channels, channels, 1, bias=False)
        nn.init.zeros_(self.gate.weight)
        self.register_buffer("prototypes", torch.zeros(sources, channels))

    def forward(self, x: Tensor, similarity: Tensor) -> tuple[Tensor, Tensor]:
        """`x` (b, c, z, y, x) and w (b, sources) -> the enriched map, and h's mean, (b, c).

        The mean is float32, without gradient.
        """
        with torch.no_grad():
            size = x.float().square().mean(dim=(1, 2, 3, 4), keepdim=True).sqrt()
            size = size.clamp_min(MIN_SIZE)  # (b, 1, 1, 1, 1)
            mean = x.float().mean(dim=(2, 3, 4)) / size.flatten(1)
        gate = torch.tanh(conv3d(x, self.gate.weight) / size)
        mixture = (similarity[:, :, None] * self.prototypes).sum(dim=1)  # (b, c)
        return x + (gate * (size * mixture[:, :, None, None, None])).to(x.dtype), mean


class DomainPoolNetwork(ResidualEncoderDecoder):
    """The plain backbone with a pool on its deepest features and one on the decoder's first level.

    Both read with one similarity to the sources, softmax of a code from the deepest features.
    `active`, 0 or 1: whether anything is read yet.
    """

    active: Tensor

    def __init__(self, sources: int, *, width: int, upsample: str) -> None:
        super().__init__(
            width=width, upsample=upsample, distance=False, slices=False, projection=False
        )
        self.code = nn.Sequential(NormReLU(8 * width), nn.Linear(8 * width, sources))
        self.deep_pool = DomainPool(sources, 8 * width)
        self.level_pool = DomainPool(sources, 2 * width)
        self.register_buffer("active", torch.zeros(()))

    @property
    def pools(self) -> tuple[DomainPool, DomainPool]:
        """The two memories."""
        return self.deep_pool, self.level_pool

    def forward(self, image: Tensor) -> Outputs:
        """Logits and domain logits; `image` as the backbone needs it."""
        return self.read(image)[0]

    def read(self, image: Tensor) -> tuple[Outputs, tuple[Tensor, Tensor]]:
        """The outputs, and the mean features that the two pools may remember, (b, c) each."""
        *skips, _, deep = self.encode(image)
        domain_logits = self.code(deep.amax(dim=(2, 3, 4))).float()
        similarity = self.active * domain_logits.softmax(dim=1)
        deep, deep_mean = self.deep_pool(deep, similarity)
        level3 = self.rise(self.decoder3, self.bottleneck(deep), skips[2])
        level3, level_mean = self.level_pool(level3, similarity)
        level2 = self.rise(self.decoder2, level3, skips[1])
        level1 = self.rise(self.decoder1, level2, skips[0])
        logits, _ = self._voxel_heads(level1)
        return Outputs(logits, None, None, None, domain_logits), (deep_mean, level_mean)
