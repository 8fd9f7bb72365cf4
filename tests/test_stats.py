"""The bootstrap of a mean over centers and the paired test: exact answers and properties."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from reproduce.analysis.stats import Interval, bootstrap_mean, compare_pairs, mean_over_centers


def test_the_mean_is_over_centers_however_many_cases_each_has() -> None:
    assert mean_over_centers([np.array([0.0]), np.array([6.0, 12.0, 9.0])]) == 4.5


def test_two_cases_give_the_interval_from_one_to_the_other() -> None:
    # Draws of (0, 1) have mean 0, 1/2, 1 with probability 1/4, 1/2, 1/4.
    assert bootstrap_mean([np.array([0.0, 1.0])]) == Interval(0.0, 1.0)


def test_equal_cases_give_an_interval_without_width_and_no_warning() -> None:
    assert bootstrap_mean([np.full(7, 40.0)]) == Interval(40.0, 40.0)


def test_each_center_keeps_its_weight_in_every_draw() -> None:
    # Were the cases of both drawn from one pot, the mean would vary.
    assert bootstrap_mean([np.zeros(5), np.full(300, 10.0)]) == Interval(5.0, 5.0)


def test_one_case_has_no_interval() -> None:
    assert bootstrap_mean([np.array([50.0])]) is None
    assert bootstrap_mean([np.array([50.0, 60.0]), np.array([50.0])]) is None


def test_the_interval_of_many_cases_is_that_of_the_normal_approximation() -> None:
    rng = np.random.default_rng(0)
    centers = [rng.normal(40, 10, 300), rng.normal(60, 20, 150), rng.normal(50, 5, 200)]
    error = np.sqrt(sum(c.var(ddof=1) / len(c) for c in centers)) / 3
    interval = bootstrap_mean(centers)
    assert interval is not None
    low, high = stats.norm.interval(0.95, mean_over_centers(centers), error)
    assert interval.low == pytest.approx(low, abs=0.15 * error)
    assert interval.high == pytest.approx(high, abs=0.15 * error)


def test_the_interval_is_that_of_drawing_by_hand_within_each_center() -> None:
    rng = np.random.default_rng(1)
    centers = [rng.exponential(10, 12), rng.exponential(30, 30)]
    means = [
        np.mean([rng.choice(center, len(center)).mean() for center in centers])
        for _ in range(20_000)
    ]
    interval = bootstrap_mean(centers)
    assert interval is not None
    low, high = np.quantile(means, (0.025, 0.975))
    assert interval.low == pytest.approx(low, rel=0.03)
    assert interval.high == pytest.approx(high, rel=0.03)


def test_the_interval_follows_scale_and_shift_and_is_the_same_each_time() -> None:
    sample = np.random.default_rng(2).normal(size=25)
    one, two = bootstrap_mean([sample]), bootstrap_mean([3 * sample + 7])
    assert one is not None
    assert two is not None
    assert (two.low, two.high) == pytest.approx((3 * one.low + 7, 3 * one.high + 7))
    assert bootstrap_mean([sample]) == one
    assert bootstrap_mean([sample], seed=1) != one


def test_about_95_of_100_intervals_hold_the_true_mean() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(300):
        interval = bootstrap_mean([rng.normal(5, 2, 60)], resamples=400)
        assert interval is not None
        hits += interval.low <= 5 <= interval.high
    assert 0.90 <= hits / 300 <= 0.98


def exact_p(differences: list[float]) -> float:
    """Wilcoxon's two-sided p by going through every choice of signs; no ties, no zeros."""
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    observed = min(ranks[np.array(differences) > 0].sum(), ranks[np.array(differences) < 0].sum())
    sums = [np.dot(signs, ranks) for signs in product((0, 1), repeat=len(ranks))]
    return min(2 * float(np.mean([s <= observed for s in sums])), 1.0)


@pytest.mark.parametrize(
    "differences",
    [
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        [0.5, 1.0, 3.0, -2.0, 8.0, 13.0, -4.0],
        [-1.0, 2.0, -3.5, 4.5, -5.5, 6.0, 7.5, -9.0],
    ],
)
def test_p_is_the_exact_one_for_few_cases(differences: list[float]) -> None:
    assert compare_pairs(np.array(differences)).p == pytest.approx(exact_p(differences))


def test_six_gains_of_six_have_p_one_in_32() -> None:
    assert compare_pairs(np.arange(1.0, 7.0)).p == 1 / 32


def test_cases_without_a_difference_leave_the_test_and_are_counted() -> None:
    differences = np.array([3.0, -1.0, 4.0, 1.5, 5.0, 9.0, 2.0])
    alone = compare_pairs(differences)
    with_zeros = compare_pairs(np.concatenate([differences, np.zeros(4)]))
    assert with_zeros.p == alone.p
    assert (alone.pairs, alone.ties) == (7, 0)
    assert (with_zeros.pairs, with_zeros.ties) == (11, 4)


def test_the_noise_of_averaging_is_no_difference() -> None:
    test = compare_pairs(np.array([1e-13, -1e-14, 0.0]))
    assert (test.p, test.ties, test.note) == (None, 3, "no case differs")


def test_five_differences_are_too_few_and_the_note_says_so() -> None:
    test = compare_pairs(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 0.0]))
    assert (test.p, test.pairs, test.ties) == (None, 6, 1)
    assert "only 5 cases differ" in test.note


def test_the_test_is_two_sided() -> None:
    differences = np.random.default_rng(4).normal(0.3, 1, 80)
    found = compare_pairs(differences)
    assert found.p == compare_pairs(-differences).p
    assert found.p == stats.wilcoxon(differences).pvalue
