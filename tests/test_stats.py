"""The bootstraps over cases and over trainings, the paired test: exact answers and properties."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from reproduce.analysis.stats import (
    Interval,
    bootstrap_mean,
    bootstrap_trainings,
    compare_pairs,
    draw_shares,
    mean_over_centers,
)


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


# Over trainings and cases: (seeds, cases) for each center


def width(interval: Interval | None) -> float:
    assert interval is not None
    return interval.high - interval.low


def test_trainings_that_agree_leave_the_interval_over_cases() -> None:
    rng = np.random.default_rng(5)
    centers = [rng.normal(40, 10, 30), rng.normal(60, 20, 50)]
    both = bootstrap_trainings([np.tile(center, (3, 1)) for center in centers], resamples=20_000)
    cases = bootstrap_mean(centers, resamples=20_000)
    assert both is not None
    assert cases is not None
    assert (both.low, both.high) == pytest.approx((cases.low, cases.high), abs=0.1)


def test_where_only_trainings_differ_the_width_is_that_of_their_mean() -> None:
    # Many seeds: the interval of a mean of n values, with the unbiased variance.
    seeds = np.random.default_rng(6).normal(0, 4, 40)
    wanted = 2 * stats.norm.ppf(0.975) * seeds.std(ddof=1) / np.sqrt(len(seeds))
    found = bootstrap_trainings([np.repeat(seeds[:, None], 7, axis=1)], resamples=20_000)
    assert width(found) == pytest.approx(wanted, rel=0.04)
    # Three seeds: two are drawn, so each bound is the mean of one seed twice (probability 1 / 9).
    three = np.repeat(np.array([[1.0], [2.0], [6.0]]), 4, axis=1)
    assert bootstrap_trainings([three]) == Interval(1.0, 6.0)


def test_every_draw_has_the_unbiased_variance_of_three_trainings() -> None:
    # Two of three drawn with replacement: the variance of their mean is s^2 / 3, not 2/3 of it.
    values = np.array([1.0, 2.0, 6.0])
    draws = [np.mean(pair) for pair in product(values, repeat=2)]
    assert np.var(draws) == pytest.approx(values.var(ddof=1) / 3)


def test_both_rows_have_the_same_drawn_cases_so_what_all_cases_gain_has_no_width() -> None:
    row = np.random.default_rng(7).normal(50, 20, (3, 12))
    found = bootstrap_trainings([row + 4 - row])
    assert found is not None
    assert (found.low, found.high) == pytest.approx((4, 4))


def test_each_center_draws_its_own_trainings_and_keeps_its_weight() -> None:
    steady, apart = np.full((2, 5), 10.0), np.repeat([[0.0], [8.0]], 5, axis=1)
    assert bootstrap_trainings([steady, apart]) == Interval(5.0, 9.0)
    # Drawn alone, both of two such centers are at a bound in one draw of four.
    assert bootstrap_trainings([apart, apart]) == Interval(0.0, 8.0)
    four = [apart] * 12
    found = bootstrap_trainings(four)
    assert found is not None
    assert found.low > 0  # drawn together they would be at the bound in every other draw


def test_one_training_or_one_case_has_no_such_interval() -> None:
    assert bootstrap_trainings([np.ones((1, 30))]) is None
    assert bootstrap_trainings([np.ones((3, 30)), np.ones((3, 1))]) is None
    assert bootstrap_trainings([]) is None


def test_the_interval_over_trainings_is_the_same_each_time() -> None:
    sample = np.random.default_rng(8).normal(size=(3, 20))
    one = bootstrap_trainings([sample])
    assert bootstrap_trainings([sample]) == one
    assert bootstrap_trainings([sample], seed=1) != one


def test_shares_are_those_of_draws_with_replacement() -> None:
    rng = np.random.default_rng(4)
    shares = draw_shares(rng, 5, 40_000)
    assert shares.sum(axis=1) == pytest.approx(1)
    assert set(np.round(shares.ravel() * 5, 9)) <= {0, 1, 2, 3, 4, 5}
    assert shares.mean(axis=0) == pytest.approx(1 / 5, abs=0.003)
    # A multinomial's: n p (1 - p) and -n p p, over n squared; here n = 5 and p = 1 / 5.
    wanted = (np.eye(5) / 5 - 1 / 25) / 5
    assert np.cov(shares.T) == pytest.approx(wanted, abs=0.001)
    assert set(draw_shares(rng, 3, 100, draws=1).ravel()) == {0.0, 1.0}


def test_what_is_drawn_at_once_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [np.random.default_rng(3).normal(0, 9, (3, 20))] * 2
    whole = bootstrap_trainings(samples), bootstrap_mean([s[0] for s in samples])
    monkeypatch.setattr("reproduce.analysis.stats._AT_ONCE", 999)
    sizes: list[int] = []

    def note(rng: np.random.Generator, count: int, resamples: int, draws: int = 20) -> np.ndarray:
        sizes.append(count * resamples)
        return draw_shares(rng, count, resamples, draws)

    monkeypatch.setattr("reproduce.analysis.stats.draw_shares", note)
    parts = bootstrap_trainings(samples), bootstrap_mean([s[0] for s in samples])
    assert max(sizes) < 999 + 20  # parts differ by one resample
    for one, other in zip(whole, parts, strict=True):
        assert one is not None
        assert other is not None
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.2)


@pytest.mark.parametrize(("trainings", "of_cases"), [(0.0, 0.9), (4.0, 0.8)])
def test_it_holds_the_true_difference_where_the_interval_over_cases_misses_it(
    trainings: float, of_cases: float
) -> None:
    """Three centers, three seeds, 24 cases; a case gains 3, and trainings scatter."""
    rng, hits = np.random.default_rng(9), np.zeros(2)
    for _ in range(200):
        gains = [
            3 + rng.normal(0, 7, 24) + rng.normal(0, trainings, (3, 1)) + rng.normal(0, 8, (3, 24))
            for _ in range(3)
        ]
        over_cases = bootstrap_mean([gain.mean(axis=0) for gain in gains], resamples=300)
        both = bootstrap_trainings(gains, resamples=300)
        for number, found in enumerate((over_cases, both)):
            assert found is not None
            hits[number] += found.low <= 3 <= found.high
    assert hits[1] / 200 >= 0.9
    assert (hits[0] / 200 >= of_cases) == (trainings == 0)


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
