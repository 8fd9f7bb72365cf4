"""How far a row is from the baseline, by a linear mixed-effects model of per-case Dice."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reproduce.analysis.stats import LEVEL

if TYPE_CHECKING:
    from statsmodels.regression.mixed_linear_model import VCSpec

# Powell's method needs no gradient, which misleads where a component is at zero; the other is for
# the few data in which Powell's steps meet a singular matrix.
METHODS = ("powell", "lbfgs")
MAX_ITERATIONS = 50
NEGLIGIBLE = 1e-6  # of the total variance: such a component is at its boundary, zero
CASE, ROW_CASE, TRAINING = "cases", "a row's own cases", "trainings"


@dataclass(frozen=True)
class MixedEstimate:
    """The row's effect, its 95 % interval and p. None where there is none, and `note` says why."""

    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    note: str = ""


def mixed_estimate(row: Sequence[np.ndarray], baseline: Sequence[np.ndarray]) -> MixedEstimate:
    """Row minus baseline, mean over centers; (seeds, cases) for each center, the same in both.

    Fixed effects: each center, and the row in each center, of which the mean is estimated (so that
    centers have equal weight and the estimate is the plain mean difference). Random intercepts, all
    within their center: each case; each case in each row (a case that suits one row does so with
    every seed, so its seeds are not independent evidence); each training (a row, a target, a seed).
    With one seed a training cannot be told from its row, so there are cases only. Interval and p
    are Student's t with the trainings minus the fixed effects as degrees of freedom (with one seed:
    the cases), because a normal distribution would forget how few trainings there are.
    """
    pairs = list(zip(row, baseline, strict=True))
    if any(one.shape != other.shape for one, other in pairs):
        raise ValueError("row and baseline differ in seeds or cases")
    seeds = row[0].shape[0]
    free = sum(len(one) * 2 if seeds > 1 else one.shape[1] for one, _ in pairs)
    free -= 2 * len(pairs) if seeds > 1 else len(pairs)
    if free < 1:
        return MixedEstimate(note="no mixed model: too few trainings or cases")
    if not _has_scatter(pairs):
        return MixedEstimate(note="no mixed model: no scatter to estimate an error from")
    found, why = None, ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of components at zero; what is at zero is said below
        for method in METHODS:
            try:
                found = _fit(pairs, method)
                break
            except (np.linalg.LinAlgError, ValueError) as error:
                why = str(error)
    if found is None:
        return MixedEstimate(note=f"no mixed model: it cannot be fitted ({why})")
    estimate, standard_error, at_zero = found
    from scipy import stats  # here, as statsmodels below: imports that take a second

    half = float(stats.t.ppf((1 + LEVEL) / 2, free)) * standard_error
    p = 2 * float(stats.t.sf(abs(estimate) / standard_error, free))
    note = "" if TRAINING not in at_zero else "no scatter between trainings found"
    return MixedEstimate(estimate, estimate - half, estimate + half, p, note)


def _has_scatter(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> bool:
    """Whether a center's differences differ; with several seeds, by more than case and training.

    Else nothing is left to estimate a residual variance from, and a fit would end anywhere.
    """
    smallest = NEGLIGIBLE * max(float(np.abs(values).max()) for pair in pairs for values in pair)
    differ = any(float(np.ptp(one - other)) > smallest for one, other in pairs)
    if pairs[0][0].shape[0] == 1:
        return differ
    rests = [
        values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
        for pair in pairs
        for values in pair
    ]
    return differ and any(float(np.abs(rest).max()) > smallest for rest in rests)


def _fit(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], method: str
) -> tuple[float, float, tuple[str, ...]]:
    """Estimate, its standard error, components at zero. Raises ValueError where there is none."""
    from statsmodels.regression.mixed_linear_model import MixedLM

    values = np.concatenate([np.stack([other, one]).ravel() for one, other in pairs])
    scale = float(values.std())
    groups = np.repeat(np.arange(len(pairs)), [2 * one.size for one, _ in pairs])
    model = MixedLM(values / scale, _fixed_effects(pairs), groups, exog_vc=_components(pairs))
    result = model.fit(reml=True, method=method, maxiter=MAX_ITERATIONS)
    if not result.converged:
        raise ValueError(f"{method} did not converge")
    fixed = 2 * len(pairs)
    contrast = np.repeat([0.0, 1 / len(pairs)], len(pairs))
    covariance = np.asarray(result.cov_params())[:fixed, :fixed]
    error = math.sqrt(max(float(contrast @ covariance @ contrast), 0.0)) * scale
    if not (math.isfinite(error) and error > 0):
        raise ValueError("the error of its estimate is not a number above zero")
    total = float(np.sum(result.vcomp)) + float(result.scale)
    at_zero = tuple(
        name
        for name, variance in zip(model.exog_vc.names, result.vcomp, strict=True)
        if variance < NEGLIGIBLE * total
    )
    return float(contrast @ np.asarray(result.fe_params)) * scale, error, at_zero


def _fixed_effects(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """(values, 2 x centers): a column for each center, then one for the row in each center."""
    count = len(pairs)
    blocks = []
    for number, (one, _) in enumerate(pairs):
        block = np.zeros((2, one.size, 2 * count))  # baseline, row
        block[:, :, number] = 1
        block[1, :, count + number] = 1
        blocks.append(block.reshape(-1, 2 * count))
    return np.concatenate(blocks)


def _components(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> VCSpec:
    """The random intercepts: for each center (values, levels), 1 where a value is of a level."""
    from statsmodels.regression.mixed_linear_model import VCSpec

    several = pairs[0][0].shape[0] > 1
    names = [CASE, ROW_CASE, TRAINING] if several else [CASE]
    matrices: list[list[np.ndarray]] = [[] for _ in names]
    for one, _ in pairs:
        seeds, cases = one.shape
        row, seed, case = (index.ravel() for index in np.indices((2, seeds, cases)))
        for number, level in enumerate(
            (case, row * cases + case, row * seeds + seed)[: len(names)]
        ):
            matrices[number].append(np.eye(level.max() + 1)[level])
    labels = [[list(map(str, range(m.shape[1]))) for m in of_name] for of_name in matrices]
    return VCSpec(names, labels, matrices)
