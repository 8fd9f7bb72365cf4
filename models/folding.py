"""A network for export: weights standardized already, and PyTorch's own convolution alone."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import WSConv3d, standardize_weight


class FoldedConv3d(nn.Module):
    """A `WSConv3d` whose weight is standardized already and never changes; the same output."""

    weight: Tensor

    def __init__(self, conv: WSConv3d) -> None:
        super().__init__()
        self.register_buffer("weight", standardize_weight(conv.weight.detach()))
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation

    def forward(self, x: Tensor) -> Tensor:
        return F.conv3d(x, self.weight, None, self.stride, self.padding, self.dilation)


@torch.no_grad()
def fold_weights(network: nn.Module) -> nn.Module:
    """A copy of a network in evaluation mode with every `WSConv3d` folded.

    For float32 prediction: what it holds cannot be trained on.
    """
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    for module in list(folded.modules()):
        for name, child in module.named_children():
            if isinstance(child, WSConv3d):
                setattr(module, name, FoldedConv3d(child))
    return folded
