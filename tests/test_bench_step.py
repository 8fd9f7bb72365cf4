"""`benchmarks/bench_step.py`: launches and waits of a step are counted, and stay below a limit."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.bench_step import METHODS, MOST_LAUNCHES, MOST_WAITS, PARTS, Row, exceeded, to_lines
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
    assert sum(counted["steps"][method]["waits"].values()) == waits <= MOST_WAITS


@pytest.mark.parametrize("method", METHODS)
def test_the_sample_and_its_losses_are_few_launches(method: str, counted: dict[str, Any]) -> None:
    launches = counted["steps"][method]["launches"]
    assert set(launches) <= set(PARTS)  # nothing is outside of a part
    assert min(launches["sample"], launches["losses"], launches["network backward"]) > 0
    assert sum(launches.get(part, 0) for part, is_ours in PARTS.items() if is_ours) <= MOST_LAUNCHES


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
    assert exceeded(rows[:1]) == []
    assert exceeded(rows) == [
        "tumor_fine ours: 5 waits in a step, at most 4 are allowed",
        "tumor_fine ours: 401 launches for the sample and its losses, at most 400 are allowed",
    ]
    assert to_lines(rows)[-2:] == [
        f"{'sample, losses':18}{400:18}{401:18}",
        f"{'waits':18}{4:18}{5:18}",
    ]
