"""Semi-hard triplet loss (Schroff et al., 2015): each embedding near its class, far from others."""

from __future__ import annotations

import torch
from torch import Tensor


def semi_hard_triplet_loss(
    embeddings: Tensor, labels: Tensor, margin: float, present: Tensor | None = None
) -> Tensor:
    """Mean of max(d(a, p) - d(a, n) + margin, 0) over all ordered pairs a, p of one label.

    d is the squared Euclidean distance. n is the nearest of another label that is further from a
    than p is; where none is further, the furthest. `embeddings` (n, c), `labels` (n,). `present`,
    bool (n,): which of them there are; the others are in no pair and are no negative. Without a
    pair, or without another label, the loss is zero, connected to the graph. Nothing is read from a
    GPU: all n^3 triplets are computed, for the few embeddings of a step. Returns a float32 scalar.
    Raises ValueError for other shapes.
    """
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            "embeddings must be (n, c) and labels (n,), "
            f"not {tuple(embeddings.shape)} and {tuple(labels.shape)}"
        )
    embeddings = embeddings.float()
    distances = (embeddings[:, None] - embeddings[None]).square().sum(dim=2)  # (n, n)
    if len(labels) == 0:
        return embeddings.sum()
    same = labels[:, None] == labels[None]
    other = ~same
    pairs = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    if present is not None:
        pairs = pairs & present[:, None] & present
        other = other & present
    pairs = pairs & other.any(dim=1, keepdim=True)
    # (anchor, positive, negative); the furthest does not depend on the positive
    is_further = other[:, None] & (distances[:, None] > distances[:, :, None])
    further = distances[:, None].masked_fill(~is_further, torch.inf).amin(dim=2)
    furthest = distances.masked_fill(~other, -torch.inf).amax(dim=1, keepdim=True)
    to_negative = torch.where(further.isfinite(), further, furthest)
    losses = (distances - to_negative + margin).clamp_min(0)
    return torch.where(pairs, losses, 0.0).sum() / pairs.sum().clamp_min(1)
