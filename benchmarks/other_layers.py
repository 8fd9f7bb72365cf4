"""The network with other layers in place of its own, for the benchmarks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch.nn.functional as F
from torch import Tensor

from models import backbone, convolution, layers


def plain_conv3d(x: Tensor, weight: Tensor, bias: Tensor | None = None, **geometry: Any) -> Tensor:
    """PyTorch's convolution in its default memory order."""
    return F.conv3d(x, weight.to(x.dtype), bias, **geometry)


def channels_last_conv3d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, **geometry: Any
) -> Tensor:
    """Every convolution channels-last, its input and gradient brought there and back."""
    x = convolution._ChannelsLast.apply(x)
    return F.conv3d(x, weight.to(x.dtype), bias, **geometry).contiguous()


def plain_upsample(self: layers.Upsample, x: Tensor) -> Tensor:
    """PyTorch's trilinear interpolation."""
    return F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)


CONVOLUTIONS = {
    "channels-last": channels_last_conv3d,
    "contiguous": plain_conv3d,
    "plain": plain_conv3d,
}


@contextmanager
def replaced(by: str) -> Iterator[None]:
    """The network with other convolutions; "plain": with PyTorch's interpolation, too.

    "direct": those of the network, but none by Winograd's sums.
    """
    if by in ("", "direct"):
        least = math.inf if by else convolution.WINOGRAD_PRODUCTS
        with mock.patch.object(convolution, "WINOGRAD_PRODUCTS", least):
            yield
        return
    conv3d = CONVOLUTIONS[by]
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(layers, "conv3d", conv3d))
        stack.enter_context(mock.patch.object(backbone, "conv3d", conv3d))
        if by == "plain":
            stack.enter_context(mock.patch.object(layers.Upsample, "forward", plain_upsample))
        yield
