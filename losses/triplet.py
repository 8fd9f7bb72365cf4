"""Semi-hard triplet loss (Schroff et al., 2015): each embedding near its class, far from others."""

from __future__ import annotations

import torch
from torch import Tensor


def semi_hard_triplet_loss(embeddings: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean of max(d(a, p) - d(a, n) + margin, 0) over all ordered pairs a, p of one label.

    d is the squared Euclidean distance. n is the nearest of another label that is further from a
    than p is; where none is further, the furthest. `embeddings` (n, c), `labels` (n,). Without a
    pair, or without another label, the loss is zero, connected to the graph. Returns a float32
    scalar. Raises ValueError for other shapes.
    """
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            "embeddings must be (n, c) and labels (n,), "
            f"not {tuple(embeddings.shape)} and {tuple(labels.shape)}"
        )
    embeddings = embeddings.float()
    distances = (embeddings[:, None] - embeddings[None]).square().sum(dim=2)  # (n, n)
    same = labels[:, None] == labels[None]
    pairs = (same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)).nonzero()
    if len(pairs) == 0 or bool(same.all()):
        return embeddings.flatten()[:0].sum()
    anchor, positive = pairs.T
    to_positive = distances[anchor, positive]
    negatives = distances[anchor].masked_fill(same[anchor], torch.inf)  # (pairs, n)
    further = negatives.masked_fill(negatives <= to_positive[:, None], torch.inf).amin(dim=1)
    furthest = negatives.masked_fill(same[anchor], -torch.inf).amax(dim=1)
    to_negative = torch.where(further.isfinite(), further, furthest)
    return (to_positive - to_negative + margin).clamp_min(0).mean()
