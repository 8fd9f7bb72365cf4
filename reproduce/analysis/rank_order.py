"""Are the rows of Table VI in the paper's order? Ranks by mean DSC, and Spearman's correlation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reproduce.analysis.stats import (
    LEVEL,
    RESAMPLES,
    SEED,
    Interval,
    draw_shares,
    mean_over_centers,
)

MIN_ROWS = 5  # with four rows no order has p < 0.05: 2 / 4! = 0.083


@dataclass(frozen=True)
class RankOrder:
    """Rows with their ranks among each other: 1 is the highest DSC, equal ones share their mean.

    `correlation`: Spearman's; None where all are equal. `interval`: its 95 % bootstrap interval.
    """

    ranks: Mapping[str, tuple[float, float]]  # row -> in the paper, here
    correlation: float | None
    interval: Interval | None


def rank_rows(
    paper: Mapping[str, float],
    here: Mapping[str, Sequence[np.ndarray]],
    seed: int = SEED,
    resamples: int = RESAMPLES,
) -> RankOrder | None:
    """The order of the rows of `here` that `paper` has too; None where these are fewer than five.

    `paper`: row -> mean DSC. `here`: row -> DSC (seeds, cases) of each center, the same cases in
    the same order in all rows. The interval draws each center's cases, the same for all rows, and,
    where a row has several seeds, its seeds as `bootstrap_trainings` does.
    """
    rows = [row for row in here if row in paper]
    if len(rows) < MIN_ROWS:
        return None
    from scipy import stats  # here: its import takes half a second

    printed = stats.rankdata([-paper[row] for row in rows])
    ours = stats.rankdata([-mean_over_centers(here[row]) for row in rows])
    ranks = {row: (float(a), float(b)) for row, a, b in zip(rows, printed, ours, strict=True)}
    if np.ptp(printed) == 0 or np.ptp(ours) == 0:
        return RankOrder(ranks, None, None)
    drawn = _draw_means([here[row] for row in rows], np.random.default_rng(seed), resamples)
    varied = stats.rankdata(drawn[np.ptp(drawn, axis=1) > 0], axis=1)
    interval = None
    if len(varied):
        found = _correlate(varied, stats.rankdata([paper[row] for row in rows]))
        low, high = np.quantile(found, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        interval = Interval(float(low), float(high))
    return RankOrder(ranks, float(stats.spearmanr(printed, ours).statistic), interval)


def _draw_means(
    rows: Sequence[Sequence[np.ndarray]], rng: np.random.Generator, resamples: int
) -> np.ndarray:
    """Each row's mean over the centers in each resample: (resamples, rows)."""
    means = np.zeros((resamples, len(rows)))
    centers = len(rows[0])
    for center in range(centers):
        cases = rows[0][center].shape[1]
        drawn_cases = draw_shares(rng, cases, resamples)
        for number, row in enumerate(rows):
            sample = row[center]
            seeds = len(sample)
            if seeds > 1:
                of_cases = draw_shares(rng, seeds, resamples, seeds - 1) @ sample
            else:
                of_cases = sample
            means[:, number] += (of_cases * drawn_cases).sum(axis=1) / centers
    return means


def _correlate(drawn: np.ndarray, printed: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each line of ranks (resamples, rows) with `printed` (rows,)."""
    lines = drawn - drawn.mean(axis=1, keepdims=True)
    other = printed - printed.mean()
    return lines @ other / np.sqrt((lines**2).sum(axis=1) * (other**2).sum())
