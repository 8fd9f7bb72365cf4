"""The outputs of views of one sample agree: Eq. 10, and what other methods use instead."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_NORM = 1e-6  # below it a probability map counts as empty


def consistency_loss(phi: Tensor, psi: Tensor) -> Tensor:
    """Eq. 10, one of its two sums: mean squared difference of two views' outputs.

    `phi`, `psi`: (b, 1, z, y, x), both probabilities or both signed distance maps. L_cos is this
    function of the one plus this function of the other. Returns a float32 scalar.
    """
    _check_shapes(phi, psi)
    return (phi.float() - psi.float()).square().mean()


def cosine_consistency_loss(prob_phi: Tensor, prob_psi: Tensor) -> Tensor:
    """1 - cosine similarity of two views' probabilities, per sample, then mean over samples.

    The released scripts' consistency in the coarse pancreas stage; both (b, 1, z, y, x). Two
    empty maps (all zero) agree: 0. An empty and a non-empty one do not: 1, without a gradient,
    for an empty map has no direction. Returns a float32 scalar in [0, 1] for probabilities.
    """
    _check_shapes(prob_phi, prob_psi)
    phi, psi = prob_phi.float().flatten(1), prob_psi.float().flatten(1)  # (b, z y x)
    norm_phi = torch.linalg.vector_norm(phi, dim=1)
    norm_psi = torch.linalg.vector_norm(psi, dim=1)
    empty_phi, empty_psi = norm_phi <= MIN_NORM, norm_psi <= MIN_NORM
    cosine = (phi * psi).sum(dim=1) / norm_phi.clamp_min(MIN_NORM) / norm_psi.clamp_min(MIN_NORM)
    agreement = (empty_phi & empty_psi).float()
    return (1.0 - torch.where(empty_phi | empty_psi, agreement, cosine)).mean()


def jensen_shannon_loss(logits: Sequence[Tensor]) -> Tensor:
    """Jensen-Shannon divergence of views' Bernoulli maps: mean over views of KL(p_i, mean p).

    RandConv's consistency (Xu et al., 2021), from AugMix (Hendrycks et al., 2020), for one class.
    `logits`: of each view, one shape; p = sigmoid(logits). Mean over voxels; a float32 scalar, 0
    where all agree and at most ln 2. Its gradient is finite for any logit.
    """
    for other in logits:
        _check_shapes(logits[0], other)
    views = torch.stack([view.float() for view in logits])
    divergence = torch.zeros((), device=views.device)
    for sign in (1, -1):  # the target, and all that is not
        log_prob = F.logsigmoid(sign * views)
        log_mean = log_prob.logsumexp(dim=0) - math.log(len(logits))
        divergence = divergence + (log_prob.exp() * (log_prob - log_mean)).mean()
    return divergence


def _check_shapes(phi: Tensor, psi: Tensor) -> None:
    if phi.shape != psi.shape:
        raise ValueError(f"views of {tuple(phi.shape)} and {tuple(psi.shape)} differ in shape")
