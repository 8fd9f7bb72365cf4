"""Charts of a page: marks at the right places, names escaped, ticks round."""

from __future__ import annotations

import math
import re

import pytest

from report.charts import draw_curve, draw_distribution, log_ticks, nice_ticks, thin_out
from report.columns import COLUMNS, columns_of, is_comparable, rank
from report.contents import Curve
from tests._report_fixtures import HOSTILE


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (0, 7.3, [0, 2, 4, 6, 8]),
        (-0.2, 0.9, [-0.2, 0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (1, 21, [0, 5, 10, 15, 20, 25]),
    ],
)
def test_ticks_are_round_and_reach_around(low: float, high: float, expected: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(expected)


def test_logarithmic_ticks_are_powers_of_ten() -> None:
    assert log_ticks(0.03, 40) == pytest.approx([0.01, 0.1, 1, 10, 100])
    assert log_ticks(1, 1) == pytest.approx([1, 10])


def test_a_dot_lies_at_its_value_and_knows_its_case() -> None:
    text = draw_distribution(COLUMNS["dsc"], {"fine": [(3, 0.0), (1, 50.0), (0, 100.0)]}, "abcd")
    dots = re.findall(r'data-case="(\d+)" cx="([\d.]+)"', text)
    assert [case for case, _ in dots] == ["3", "1", "0"]
    left, middle, right = (float(x) for _, x in dots)
    assert middle - left == pytest.approx(right - middle, abs=0.2)
    assert right - left == pytest.approx(640 - 190 - 16, abs=0.2)  # percent: the whole width
    assert "<title>b: 50.0</title>" in text
    assert "median 50.0, quartiles 25.0 and 75.0, mean 50.0, 3 values" in text


def test_names_are_text() -> None:
    text = draw_distribution(COLUMNS["asd_mm"], {HOSTILE: [(0, 1.0)]}, [HOSTILE])
    text += draw_curve(Curve(HOSTILE, [1, 2], {HOSTILE: [1, 2]}))
    assert "<img" not in text
    assert "<script" not in text


def test_many_points_are_thinned_out_and_keep_their_ends() -> None:
    kept = thin_out([(n, float(n * 7 % 1000)) for n in range(1000)], most=10)
    values = [value for _, value in kept]
    assert len(kept) == 10
    assert (values[0], values[-1]) == (0, 999)
    assert values == sorted(values)


def test_a_curve_leaves_out_what_is_no_number_and_on_a_logarithm_what_is_not_above_0() -> None:
    values = [1.0, math.nan, 10.0, 0.0]
    text = draw_curve(Curve("run", [1, 2, 3, 4], {"a": values, "b": [math.nan] * 4}, log=True))
    (points,) = re.findall(r'points="([^"]+)"', text)
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in points.split())
    assert x0 < x1
    assert (y0, y1) == (192, 10)  # from the lowest tick to the highest
    assert draw_curve(Curve("run", [1], {"a": [math.nan]})) == ""


def test_known_measures_come_first_and_what_says_nothing_is_left_out() -> None:
    rows = [
        {"case_id": "a", "volume ml": 3.0, "hd95_mm": 1.0, "dsc": 5.0, "empty": "", "rounds": 2}
    ]
    assert columns_of(rows) == ["dsc", "hd95_mm", "volume ml"]


def test_worst_is_the_lowest_dice_and_then_the_largest_distance() -> None:
    rows = [{"dsc": 0, "asd_mm": 9}, {"dsc": 50, "asd_mm": 2}, {"dsc": 0, "asd_mm": 40}]
    assert sorted(rows, key=rank) == [rows[2], rows[0], rows[1]]
    assert not is_comparable({"dsc": 0.0, "empty": "pred label"})
    assert not is_comparable({"pred_ml": 1.0})
    assert is_comparable({"dsc": 0.0, "empty": "pred"})
