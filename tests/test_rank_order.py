"""Ranks beside the paper's, and Spearman's correlation of the two."""

from __future__ import annotations

import numpy as np
import pytest

from reproduce.analysis.rank_order import rank_rows

PAPER = {"a": 30.0, "b": 31.0, "c": 32.0, "d": 33.0, "e": 34.0, "f": 35.0}


def constant(dice: dict[str, float], seeds: int = 1) -> dict[str, list[np.ndarray]]:
    """Two centers, 3 and 4 cases, all with a row's Dice."""
    return {row: [np.full((seeds, n), value) for n in (3, 4)] for row, value in dice.items()}


@pytest.mark.parametrize(
    ("here", "expected"),
    [
        ([1, 2, 3, 4, 5], 1.0),
        ([5, 4, 3, 2, 1], -1.0),
        ([2, 1, 3, 4, 5], 0.9),  # 1 - 6 * 2 / (5 * 24)
    ],
)
def test_the_correlation_is_spearmans(here: list[float], expected: float) -> None:
    order = rank_rows(PAPER, constant(dict(zip("abcde", here, strict=True))))
    assert order is not None
    assert order.correlation == pytest.approx(expected)
    assert order.interval is not None  # cases do not scatter, so the order never changes
    assert (order.interval.low, order.interval.high) == pytest.approx((expected, expected))


def test_ranks_are_among_the_rows_of_both_and_equal_rows_share_theirs() -> None:
    order = rank_rows(PAPER, constant({"a": 9, "x": 99, "c": 8, "d": 8, "e": 7, "f": 1}))
    assert order is not None
    assert order.ranks == {
        "a": (5, 1), "c": (4, 2.5), "d": (3, 2.5), "e": (2, 4), "f": (1, 5)
    }  # fmt: skip


def test_four_rows_have_no_order_and_equal_rows_no_correlation() -> None:
    assert rank_rows(PAPER, constant({"a": 1, "b": 2, "c": 3, "d": 4, "x": 5})) is None
    order = rank_rows(PAPER, constant(dict.fromkeys("abcde", 5.0)))
    assert order is not None
    assert (order.correlation, order.interval) == (None, None)


def test_the_interval_draws_the_same_cases_for_all_rows_and_seeds_by_themselves() -> None:
    rng = np.random.default_rng(0)
    cases = [rng.normal(40, 20, (1, n)) for n in (6, 7)]  # scatter far more than rows differ
    same = {row: [case + number for case in cases] for number, row in enumerate("abcde")}
    order = rank_rows(PAPER, same)
    assert order is not None
    assert order.interval is not None
    assert order.interval.low == pytest.approx(1.0)  # row by row one case has more, in each draw
    seeds = {
        row: [np.stack([c[0] + 30 * s for s in rng.normal(0, 1, 3)]) for c in of_row]
        for row, of_row in same.items()
    }
    scattered = rank_rows(PAPER, seeds)
    assert scattered is not None
    assert scattered.interval is not None
    assert scattered.interval.low < 0.9
