"""Style normalization and restitution: the module of SNR (Jin et al., 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Restitution(nn.Module):
    """Instance normalization, and of what it removed the part that a channel gate lets back in.

    F -> F~+ = F~ + a (F - F~), (b, channels, z, y, x) each, with F~ = IN(F) and the gate
    a = sigmoid(W2 ReLU(W1 GAP(F - F~))) per sample and channel. `reduction`: channels per hidden
    unit of the gate, which has one at least.

    The gate starts at a constant between 0 and 1 that differs by channel: W1 starts at zero with
    biases of 1, so that none of its few hidden units begins dead. (Own choice.)
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm3d(channels, affine=True)
        hidden = max(channels // reduction, 1)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)
        nn.init.zeros_(self.squeeze.weight)
        nn.init.ones_(self.squeeze.bias)

    def forward(self, feature: Tensor) -> Tensor:
        normalized = self.norm(feature)
        gate = self.gate(feature, normalized).to(feature.dtype)
        return torch.lerp(normalized, feature, gate)  # exactly one of both where the gate is 0 or 1

    def gate(self, feature: Tensor, normalized: Tensor) -> Tensor:
        """The gate a: float32 (b, channels, 1, 1, 1) in [0, 1], from the mean of what IN removed.

        The mean of the difference is taken as the difference of the means, summed in float32.
        """
        means = [x.mean(dim=(2, 3, 4), dtype=torch.float32) for x in (feature, normalized)]
        hidden = self.squeeze(means[0] - means[1]).relu()
        return torch.sigmoid(self.excite(hidden).float())[:, :, None, None, None]


def contaminated(feature: Tensor, normalized: Tensor, restored: Tensor) -> Tensor:
    """F~- = F~ + (1 - a) (F - F~), the other part let back in, from F, F~ and F~+.

    Since a + (1 - a) = 1 it is F + F~ - F~+; the same holds for any affine map of the three.
    """
    return feature + normalized - restored
