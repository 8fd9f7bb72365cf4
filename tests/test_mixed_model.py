"""The mixed-effects estimate: a textbook's answers where there are any, known effects elsewhere."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import stats

from reproduce.analysis.mixed_model import mixed_estimate
from reproduce.analysis.stats import mean_over_centers

EFFECT = 3.0
Samples = list[np.ndarray]


def simulate(
    rng: np.random.Generator, shape: tuple[int, int, int], trainings: float, own: float = 4.0
) -> tuple[Samples, Samples]:
    """Row and baseline of (centers, seeds, cases): the row has 3 more, a training scatters so."""
    centers, seeds, cases = shape
    row: Samples = []
    baseline: Samples = []
    for center in range(centers):
        case = rng.normal(40 + 5 * center, 12, cases)
        for into, effect in ((baseline, 0.0), (row, EFFECT)):
            of_row = (
                case + effect + rng.normal(0, own, cases) + rng.normal(0, trainings, (seeds, 1))
            )
            into.append(of_row + rng.normal(0, 6, (seeds, cases)))
    return row, baseline


def test_one_training_of_one_center_is_students_paired_test() -> None:
    row, baseline = simulate(np.random.default_rng(0), (1, 1, 20), 0)
    found = mixed_estimate(row, baseline)
    wanted = stats.ttest_rel(row[0][0], baseline[0][0])
    low, high = wanted.confidence_interval(0.95)
    assert found.p == pytest.approx(wanted.pvalue, rel=1e-3)
    assert (found.estimate, found.low, found.high) == pytest.approx(
        ((row[0] - baseline[0]).mean(), low, high), rel=1e-3
    )


def test_the_error_is_that_of_the_analysis_of_variance_where_the_design_is_balanced() -> None:
    """Var(row - baseline) = (MS(trainings) + MS(rows x cases) - MS(residual)) * 2 / (seeds cases).

    The expected mean squares of the design seeds within rows, crossed with cases.
    """
    seeds, cases = 4, 30
    row, baseline = simulate(np.random.default_rng(3), (1, seeds, cases), trainings=5)
    table = np.stack([baseline[0], row[0]])  # (rows, seeds, cases)
    rows, of_seed, of_case = table.mean((1, 2)), table.mean(2), table.mean(1)
    between = cases * ((of_seed - rows[:, None]) ** 2).sum() / (2 * (seeds - 1))
    rest = table - of_seed[:, :, None] - of_case[:, None, :] + rows[:, None, None]
    residual = (rest**2).sum() / (2 * (seeds - 1) * (cases - 1))
    own = of_case - rows[:, None] - (of_case.mean(0) - rows.mean())
    interaction = seeds * (own**2).sum() / (cases - 1)
    assert min(between, interaction) > residual  # no component at zero: both answers are the same
    error = np.sqrt((between + interaction - residual) * 2 / (seeds * cases))
    half = stats.t.ppf(0.975, 2 * seeds - 2) * error
    found = mixed_estimate(row, baseline)
    assert found.low is not None
    assert found.high is not None
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.01)
    assert found.p == pytest.approx(
        2 * stats.t.sf(abs((rows[1] - rows[0]) / error), 2 * seeds - 2), rel=0.05
    )


def test_the_estimate_is_the_plain_difference_with_equal_weight_of_centers() -> None:
    rng = np.random.default_rng(4)
    row, baseline = simulate(rng, (2, 2, 10), 3)
    more_row, more_baseline = simulate(rng, (1, 2, 25), 3)
    row, baseline = row + more_row, baseline + more_baseline
    found = mixed_estimate(row, baseline)
    wanted = mean_over_centers([one - other for one, other in zip(row, baseline, strict=True)])
    assert found.estimate == pytest.approx(wanted)
    again = mixed_estimate([1000 + 2 * r for r in row], [1000 + 2 * b for b in baseline])
    assert again.estimate == pytest.approx(2 * wanted)
    assert again.p == pytest.approx(found.p, rel=0.02)


def test_a_scatter_of_trainings_widens_the_interval() -> None:
    widths = []
    for trainings in (0.0, 8.0):
        found = mixed_estimate(*simulate(np.random.default_rng(5), (3, 3, 12), trainings))
        assert found.low is not None
        assert found.high is not None
        widths.append(found.high - found.low)
    assert widths[1] > 2 * widths[0]


@pytest.mark.slow
@pytest.mark.parametrize("trainings", [0.0, 4.0])
def test_about_95_of_100_intervals_hold_the_true_effect(trainings: float) -> None:
    rng, hits, found = np.random.default_rng(6), 0, 0
    for _ in range(60):
        one = mixed_estimate(*simulate(rng, (3, 3, 10), trainings))
        if one.low is not None and one.high is not None:
            found += 1
            hits += one.low <= EFFECT <= one.high
    assert found >= 58
    assert hits / found >= 0.88


def test_what_cannot_be_fitted_is_said_and_nothing_is_raised_or_warned() -> None:
    base = np.random.default_rng(7).normal(40, 10, (3, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = mixed_estimate([base], [base])
        moved = mixed_estimate([base + 2, base + 2], [base, base])
        empty = mixed_estimate([np.zeros((3, 5))], [np.zeros((3, 5))])
        alone = mixed_estimate([np.array([[50.0]])], [np.array([[40.0]])])
        exact = mixed_estimate(
            [base[:1].repeat(3, 0) + np.array([[10], [2], [-3]])], [base[:1].repeat(3, 0)]
        )
    for found in (same, moved, empty, exact):
        assert (found.estimate, found.low, found.high, found.p) == (None, None, None, None)
        assert found.note == "no mixed model: no scatter to estimate an error from"
    assert alone.note == "no mixed model: too few trainings or cases"


def test_a_fit_that_fails_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise np.linalg.LinAlgError("Singular matrix")

    monkeypatch.setattr("reproduce.analysis.mixed_model._fit", fail)
    found = mixed_estimate(*simulate(np.random.default_rng(8), (1, 2, 6), 1))
    assert found.estimate is None
    assert found.note == "no mixed model: it cannot be fitted (Singular matrix)"


def test_trainings_without_any_scatter_are_said() -> None:
    row, baseline = simulate(np.random.default_rng(9), (1, 3, 12), 0)
    flat = [sample - sample.mean(axis=1, keepdims=True) for sample in (*row, *baseline)]
    found = mixed_estimate([flat[0] + 5], [flat[1]])
    assert found.estimate == pytest.approx(5)
    assert found.note == "no scatter between trainings found"


def test_row_and_baseline_have_to_have_the_same_cases() -> None:
    with pytest.raises(ValueError, match="differ in seeds or cases"):
        mixed_estimate([np.zeros((2, 4))], [np.zeros((2, 5))])
