"""The dual causality loss of SNR (Jin et al., 2021): restitution makes predictions surer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus


def mean_entropy(logits: Tensor) -> Tensor:
    """Entropy of the Bernoulli distributions sigmoid(logits), in nats, averaged over all voxels.

    From the logits, so that it is finite for any: H = softplus(-|l|) + |l| sigmoid(-|l|). Returns
    a float32 scalar in [0, ln 2].
    """
    size = logits.float().abs()
    return (softplus(-size) + size * torch.sigmoid(-size)).mean()


def dual_causality_loss(normalized: Tensor, restored: Tensor, contaminated: Tensor) -> Tensor:
    """L+ + L-: softplus(H(F~+) - H(F~)) + softplus(H(F~) - H(F~-)), H the mean entropy.

    Logits, of one shape, that one head gives for the normalized feature F~, for it with the
    relevant part restored, F~+, and with the irrelevant part, F~-. 2 ln 2 where all three are
    equally sure. Returns a float32 scalar. Raises ValueError for other shapes.
    """
    if not normalized.shape == restored.shape == contaminated.shape:
        shapes = [tuple(x.shape) for x in (normalized, restored, contaminated)]
        raise ValueError(f"logits of one shape are needed, not {shapes}")
    between, surer, less_sure = map(mean_entropy, (normalized, restored, contaminated))
    return softplus(surer - between) + softplus(between - less_sure)
