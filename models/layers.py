"""Building blocks of the network (Sec. III-D): weight-standardized convolution, residual block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_GROUPS = 8
WS_EPS = 1e-12  # added to the variance, under the root
# On a CPU the bf16 weight gradient of a 3x3x3 convolution over 2 slices holds uninitialized memory
# (oneDNN in PyTorch 2.13); inputs this thin cost nothing in float32.
SMALL_SIDE = 2


def standardize_weight(weight: Tensor) -> Tensor:
    """Each filter of `weight` (out, in, kz, ky, kx) minus its mean, over its standard deviation.

    The variance is the unbiased one, plus 1e-12 under the root. Computed and returned in float32,
    whatever the dtype of `weight`; the convolution casts the result to its own dtype.
    """
    var, mean = torch.var_mean(weight.float(), dim=(1, 2, 3, 4), keepdim=True, correction=1)
    return (weight.float() - mean) * torch.rsqrt(var + WS_EPS)


class WSConv3d(nn.Conv3d):
    """Bias-free 3D convolution with weight standardization and "same" padding.

    `(b, channels_in, z, y, x)` to `(b, channels_out, z/stride, y/stride, x/stride)`.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        padding = dilation * (kernel_size // 2)
        super().__init__(
            channels_in, channels_out, kernel_size, stride, padding, dilation, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        weight = standardize_weight(self.weight)
        if x.device.type == "cpu" and min(x.shape[2:]) <= SMALL_SIDE:
            with torch.autocast("cpu", enabled=False):
                return self._convolve(x.float(), weight)
        return self._convolve(x, weight.to(x.dtype))

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv3d(x, weight, None, self.stride, self.padding, self.dilation)


class NormReLU(nn.GroupNorm):
    """GroupNorm with 8 groups, then ReLU: the pre-activation of every convolution but the stem."""

    def __init__(self, channels: int) -> None:
        super().__init__(NORM_GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x), inplace=True)


class ResidualBlock(nn.Module):
    """GN-ReLU-WSconv-GN-ReLU-WSconv + shortcut: (b, channels_in, ...) to (b, channels_out, ...).

    The shortcut is the identity, or GN-ReLU-WSconv 1x1x1 where the number of channels changes.
    """

    def __init__(self, channels_in: int, channels_out: int, *, dilation: int = 1) -> None:
        super().__init__()
        self.norm1 = NormReLU(channels_in)
        self.conv1 = WSConv3d(channels_in, channels_out, dilation=dilation)
        self.norm2 = NormReLU(channels_out)
        self.conv2 = WSConv3d(channels_out, channels_out, dilation=dilation)
        self.shortcut: nn.Module = nn.Identity()
        if channels_in != channels_out:
            self.shortcut = nn.Sequential(
                NormReLU(channels_in), WSConv3d(channels_in, channels_out, kernel_size=1)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        return residual + self.shortcut(x)
