"""Intervals and tests: bootstrap over cases, and over trainings and cases; paired Wilcoxon test.

What is averaged is (seeds, cases) for each center: centers are fixed and have equal weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.95
RESAMPLES = 20_000  # two draws of so many differ by about 0.02 Dice points at either end
SEED = 2022
_AT_ONCE = 2**24  # drawn cases: bounds the memory of many cases
MIN_PAIRS = 6  # with five differences no outcome has p < 0.05: 2 / 2**5 = 0.0625
ROUND_OFF_DECIMALS = 9  # cases.csv has six digits; a mean over seeds adds noise far below them


@dataclass(frozen=True)
class Interval:
    """The bounds of a confidence interval, in the unit of what was averaged."""

    low: float
    high: float


@dataclass(frozen=True)
class PairedTest:
    """A Wilcoxon signed-rank test, two-sided. `p` None: not tested, and `note` says why."""

    p: float | None
    pairs: int
    ties: int  # pairs without a difference; they leave the test
    note: str = ""


def mean_over_centers(samples: Sequence[np.ndarray]) -> float:
    """The mean of the centers' means; `samples`: (cases,) or (seeds, cases) for each center."""
    return float(np.mean([np.mean(sample) for sample in samples]))


def bootstrap_mean(
    samples: Sequence[np.ndarray], seed: int = SEED, resamples: int = RESAMPLES
) -> Interval | None:
    """The percentile bootstrap interval (95 %) of `mean_over_centers`, over cases (cases,).

    Each center's cases are drawn with replacement from that center, as many as it has, so that the
    centers keep their weight. None where a center has fewer than two cases.
    """
    if not samples or min(len(sample) for sample in samples) < 2:
        return None

    def statistic(*drawn: np.ndarray, axis: int) -> np.ndarray:
        return np.mean([sample.mean(axis=axis) for sample in drawn], axis=0)

    from scipy import stats  # here: its import takes half a second

    found: Any = stats.bootstrap(  # several samples, not paired: each is drawn by itself
        samples,
        statistic,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, _AT_ONCE // max(map(len, samples))),
        confidence_level=LEVEL,
        method="percentile",  # BCa is undefined where all cases are equal, as empty ones are
        rng=np.random.default_rng(seed),
    )
    low, high = found.confidence_interval
    return Interval(float(low), float(high))


def bootstrap_trainings(
    samples: Sequence[np.ndarray], seed: int = SEED, resamples: int = RESAMPLES
) -> Interval | None:
    """The percentile interval (95 %) of `mean_over_centers`, over trainings and over cases.

    `samples`: (seeds, cases) for each center; for a difference of two rows, that of the same seed
    and case, so that both rows have the same drawn cases. A training is one seed of one center:
    each center's seeds are drawn with replacement, then its cases, the same for all drawn seeds
    (both levels cross: Owen, "The pigeonhole bootstrap", Ann. Appl. Stat. 2007). Of n seeds n - 1
    are drawn, which makes the variance of their mean unbiased (Rao and Wu, JASA 1988); n draws of
    three would lose a third of it. None where a center has one seed, which says nothing of how
    trainings scatter, or fewer than two cases.
    """
    if not samples or min(min(sample.shape) for sample in samples) < 2:
        return None
    rng = np.random.default_rng(seed)
    means = np.zeros(resamples)
    for sample in samples:
        seeds, cases = sample.shape
        for some in np.array_split(means, math.ceil(resamples * cases / _AT_ONCE)):
            of_cases = draw_shares(rng, seeds, len(some), seeds - 1) @ sample
            some += (of_cases * draw_shares(rng, cases, len(some))).sum(axis=1) / len(samples)
    low, high = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(float(low), float(high))


def draw_shares(
    rng: np.random.Generator, count: int, resamples: int, draws: int | None = None
) -> np.ndarray:
    """The share that each of `count` has of `draws` draws with replacement: (resamples, count).

    `draws`: None for as many as there are. A row sums to 1: weights of a resample's mean.
    """
    draws = count if draws is None else draws
    drawn = rng.integers(count, size=(resamples, draws))
    drawn += count * np.arange(resamples)[:, None]  # each resample counts in places of its own
    counts = np.bincount(drawn.ravel(), minlength=resamples * count)
    return counts.reshape(resamples, count) / draws


def compare_pairs(differences: np.ndarray) -> PairedTest:
    """Wilcoxon's signed-rank test of per-case differences (cases,), two-sided.

    Zero differences are left out (Wilcoxon's own rule) and counted. The p value is exact for few
    cases (scipy's rule); with fewer than six differences it is not computed.
    """
    rounded = np.round(differences, ROUND_OFF_DECIMALS)
    left = rounded[rounded != 0]
    ties = len(rounded) - len(left)
    if len(left) == 0:
        return PairedTest(None, len(rounded), ties, "no case differs")
    if len(left) < MIN_PAIRS:
        note = f"only {len(left)} cases differ, and fewer than {MIN_PAIRS} cannot give p < 0.05"
        return PairedTest(None, len(rounded), ties, note)
    from scipy import stats

    return PairedTest(float(stats.wilcoxon(left).pvalue), len(rounded), ties)
