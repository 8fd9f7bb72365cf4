"""Eq. 8-9: InfoNCE between features of tumor and of normal tissue, across the views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TEMPERATURE = 0.05  # tau of Eq. 9 (protocol)
MAX_ANCHORS = 50  # B at most: with two views, 200 features and their 200 x 200 similarities
MIN_NORM = 1e-6  # a shorter feature vector has no direction: it is similar to nothing
DENOMINATORS = ("negatives", "with_positive")


def info_nce_loss(
    anchors: Tensor,
    classes: Tensor,
    temperature: float = TEMPERATURE,
    *,
    denominator: str = "negatives",
    both_orders: bool = False,
) -> Tensor:
    """Eq. 8-9, L_con of the features given: sum over pairs i < j of one class, over 2 N_C.

    `anchors`: (n, c) features; `classes`: (n,) bool or int. N_C is the number of pairs of one
    class. F of Eq. 8-9 is 1 between classes: 1 - F selects the pairs, F the denominator's terms.
    `denominator`: "negatives" is Eq. 9 as printed, the sum over the other class only; since the
    cosine is bounded the loss is too, by -1 / temperature from below, and may be negative.
    "with_positive" adds the pair itself, as InfoNCE usually does (never negative). Eq. 8 is half of
    the usual mean over pairs: the released scripts' weight of 0.1 on the usual loss is 0.2 here.

    As printed, feature i of a pair i < j is the one compared with the negatives, so the order of
    the features matters; `both_orders`: the mean of the loss of this order and of the reverse one.
    Without a pair, or with one class only, the loss is zero, connected to the graph. Returns a
    float32 scalar. Classes on the CPU spare a GPU's read.
    """
    _check_info_nce(anchors, classes, temperature, denominator)
    counts = torch.unique(classes.cpu(), return_counts=True)[1]
    count = int((counts * (counts - 1) // 2).sum())
    if count == 0 or len(counts) == 1:
        return _connected_zero([anchors])
    classes = classes.to(anchors.device, non_blocking=True)
    # Under autocast the product would be taken in 16 bits, too coarse for a division by 0.05.
    with torch.autocast(anchors.device.type, enabled=False):
        directions = _normalize(anchors.float())
        logits = directions @ directions.T / temperature  # (n, n)
    same = classes[:, None] == classes[None, :]
    pairs = same.clone().fill_diagonal_(False) if both_orders else torch.triu(same, diagonal=1)
    negatives = torch.logsumexp(logits.masked_fill(same, -torch.inf), dim=1, keepdim=True)
    if denominator == "with_positive":
        negatives = torch.logaddexp(negatives, logits)
    total = torch.where(pairs, negatives - logits, 0.0).sum()
    return total / ((4 if both_orders else 2) * count)


def contrast_loss(  # noqa: PLR0913 - Eq. 8's three inputs and its four settings, all by name
    features: Sequence[Tensor],
    positive: Tensor,
    negative: Tensor,
    *,
    temperature: float = TEMPERATURE,
    generator: torch.Generator | None = None,
    max_anchors: int = MAX_ANCHORS,
    denominator: str = "negatives",
) -> Tensor:
    """Eq. 8-9, L_con: B tumor and B normal voxels of each view, 2B per view, contrasted.

    `features`: one (b, c, z, y, x) per view, at stride 8; `positive`, `negative`: bool
    (b, 1, z, y, x), the candidate voxels. B is the smaller of the two counts, `max_anchors` at
    most; all views are read at the same voxels. Of more candidates than B, `generator` chooses;
    without one they are taken evenly spaced. Eq. 8 is averaged over both orders of the features,
    so that no view comes first. Without a positive or without a negative (no tumor in the crop)
    the loss is zero, finite, and connected to the graph. Returns a float32 scalar. Candidates on
    the CPU, as `data.targets.anchors` gives them, spare two reads from a GPU.
    """
    _check_contrast(features, positive, negative, max_anchors)
    candidates = [torch.nonzero(c.flatten().cpu()).squeeze(1) for c in (positive, negative)]
    size = min(len(candidates[0]), len(candidates[1]), max_anchors)
    if size == 0:
        return _connected_zero(features)
    voxels = torch.cat([_choose(c, size, generator) for c in candidates])
    classes = (torch.arange(len(voxels)) < size).repeat(len(features))
    voxels = voxels.to(features[0].device, non_blocking=True)
    # (b, c, z, y, x) -> (b z y x, c), then the chosen rows only
    rows = [view.movedim(1, -1).flatten(0, -2)[voxels] for view in features]
    anchors = torch.cat(rows)  # (2 B views, c)
    return info_nce_loss(anchors, classes, temperature, denominator=denominator, both_orders=True)


def _check_info_nce(anchors: Tensor, classes: Tensor, temperature: float, denominator: str) -> None:
    if denominator not in DENOMINATORS:
        raise ValueError(
            f"unknown denominator {denominator!r}; choose from {', '.join(DENOMINATORS)}"
        )
    if anchors.dim() != 2 or classes.shape != anchors.shape[:1]:
        raise ValueError(
            "anchors must be (n, c) and classes (n,), "
            f"not {tuple(anchors.shape)} and {tuple(classes.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")


def _check_contrast(
    features: Sequence[Tensor], positive: Tensor, negative: Tensor, max_anchors: int
) -> None:
    if not features:
        raise ValueError("contrast_loss needs the features of at least one view")
    if max_anchors < 1:
        raise ValueError(f"max_anchors must be at least 1, not {max_anchors}")
    for view in features:
        expected = (view.shape[0], 1, *view.shape[2:])
        if positive.shape != expected or negative.shape != expected:
            raise ValueError(
                f"features {tuple(view.shape)} need candidates of shape {tuple(expected)}, "
                f"not {tuple(positive.shape)} and {tuple(negative.shape)}"
            )


def _choose(candidates: Tensor, size: int, generator: torch.Generator | None) -> Tensor:
    """`size` of the candidates, in random order, or evenly spaced without a generator."""
    count = len(candidates)
    if generator is None:
        keep = torch.arange(size) * count // size
    else:
        keep = torch.randperm(count, generator=generator, device=generator.device)[:size].cpu()
    return candidates[keep]


def _normalize(anchors: Tensor) -> Tensor:
    """Unit vectors; a zero vector stays zero, with zero gradient (ReLU makes such features)."""
    norm = torch.linalg.vector_norm(anchors, dim=1, keepdim=True)
    return torch.where(norm > MIN_NORM, anchors / norm.clamp_min(MIN_NORM), 0.0)


def _connected_zero(features: Sequence[Tensor]) -> Tensor:
    """Zero in the graph of all features: the sum of none of their values."""
    return torch.stack([view.flatten()[:0].float().sum() for view in features]).sum()
