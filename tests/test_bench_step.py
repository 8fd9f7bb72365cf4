"""`benchmarks/bench_step.py`: launches and waits of a step are counted, and stay below a limit."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.bench_step import (
    LAUNCHES,
    METHODS,
    MOST_LAUNCHES,
    MOST_WAITS,
    PARTS,
    Row,
    configure,
    exceeded,
    to_lines,
)
from benchmarks.counted_device import Counts
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def counted() -> dict[str, Any]:
    """What `_counted_steps` prints."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests._counted_steps"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def row(counted: dict[str, Any], name: str, accumulate: int = 1) -> Row:
    counts = Counts()
    counts.launches.update(counted["steps"][name]["launches"])
    counts.waits.update(counted["steps"][name]["waits"])
    return Row("tumor_fine", name, counts, accumulate)


def test_operations_of_a_known_kind_are_counted_as_what_they_are(counted: dict[str, Any]) -> None:
    assert counted["known"] == {
        "a sum": [1, 0],
        "a view": [0, 0],
        "two in place": [2, 0],
        "a number": [1, 1],
        "a list": [1, 1],
        "a decision": [2, 1],
        "places": [1, 1],
        "a mask": [2, 1],
        "a histogram": [2, 2],
        "a tensor of numbers": [1, 1],
        "a fill": [2, 0],
        "a made tensor": [1, 0],
        "a tensor from the host": [1, 1],
        "the same, not waited for": [1, 0],
        "an index from the host": [1, 1],
    }


@pytest.mark.parametrize(("method", "waits"), [("bl", 1), ("ours", 3)])
def test_a_step_waits_for_the_box_the_anchors_and_the_log_alone(
    method: str, waits: int, counted: dict[str, Any]
) -> None:
    assert row(counted, method).waits == waits <= MOST_WAITS


@pytest.mark.parametrize("method", METHODS)
def test_every_method_waits_and_launches_within_its_limits(
    method: str, counted: dict[str, Any]
) -> None:
    launches = counted["steps"][method]["launches"]
    assert set(launches) <= set(PARTS)  # nothing is outside of a part
    assert min(launches["sample"], launches["losses"], launches["network backward"]) > 0
    assert exceeded([row(counted, method)]) == []


def test_only_ours_has_another_step_in_the_coarse_tumor_stage(counted: dict[str, Any]) -> None:
    fine, coarse = (
        {method: configure(stage, method).settings for method in METHODS}
        for stage in ("tumor_fine", "tumor_coarse")
    )
    assert [method for method in METHODS if fine[method] != coarse[method]] == ["ours"]
    assert exceeded([row(counted, "coarse")]) == []


def test_counts_do_not_depend_on_the_crops_size(counted: dict[str, Any]) -> None:
    assert counted["steps"]["larger"] == counted["steps"]["ours"]


def test_a_step_of_two_samples_waits_twice_for_each_and_once_for_the_log(
    counted: dict[str, Any],
) -> None:
    assert row(counted, "two samples", 2).waits == 5
    assert exceeded([row(counted, "two samples", 2)]) == []


def test_the_second_channel_asks_for_one_box_more(counted: dict[str, Any]) -> None:
    assert row(counted, "two channels").waits == row(counted, "ours").waits + 1 <= MOST_WAITS


def test_no_operation_that_may_be_drawn_waits(counted: dict[str, Any]) -> None:
    assert {waits for _, waits in counted["operations"].values()} == {0}
    most = max(launches for launches, _ in counted["operations"].values())
    assert row(counted, "dam").launches + 2 * most <= MOST_LAUNCHES  # whichever two are drawn


def test_a_method_with_a_limit_of_its_own_needs_more_than_the_usual_and_has_a_reason(
    counted: dict[str, Any],
) -> None:
    for method, (most, reason) in LAUNCHES.items():
        assert MOST_LAUNCHES < row(counted, method).launches <= most
        assert reason
    assert "ours" not in LAUNCHES


def test_a_device_that_is_no_cpu_makes_the_same_sample_to_the_bit_and_the_same_losses(
    counted: dict[str, Any],
) -> None:
    assert counted["other"] == []
    assert counted["apart"] < 1e-4


def test_what_is_above_a_limit_is_named_with_its_number() -> None:
    within, above = Counts(), Counts()
    within.launches.update({"sample": MOST_LAUNCHES, "network forward": 9999})
    within.waits.update({"sample": MOST_WAITS})
    above.launches.update({"losses": MOST_LAUNCHES, "losses backward": 1})
    above.waits.update({"optimizer": MOST_WAITS + 1})
    rows = [Row("tumor_fine", "bl", within), Row("tumor_fine", "ours", above)]
    saml = Row("tumor_fine", "saml", above)  # more launches are allowed to it
    assert exceeded([saml]) == ["tumor_fine saml: 5 waits in a step, at most 4 are allowed"]
    assert exceeded(rows[:1]) == []
    assert exceeded(rows) == [
        "tumor_fine ours: 5 waits in a step, at most 4 are allowed",
        "tumor_fine ours: 401 launches for the sample and its losses, at most 400 are allowed",
    ]
    lines = [line.split() for line in to_lines(rows)]
    assert lines[0][:4] == ["launches/waits", "waits", "sample,", "losses"]
    assert lines[1][:5] == ["tumor_fine", "bl", "4", "400", "400/4"]
    assert lines[2][:4] == ["tumor_fine", "ours", "5", "401"]
