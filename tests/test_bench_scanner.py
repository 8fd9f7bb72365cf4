"""`benchmarks/bench_scanner.py`: every change of every case, and the table."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import bench_scanner
from benchmarks.bench_scanner import (
    CHANGES,
    UNCHANGED,
    change_case,
    measure,
    to_markdown,
)
from data.centers import load_centers
from data.prepare.prepared_case import PreparedCase
from data.readers import list_cases, load_case
from tests.conftest import Tiny
from utils.config import Evaluation


def test_a_changed_case_is_that_of_its_line(tiny: Tiny) -> None:
    center = load_centers(tiny.centers)["C"]
    case = load_case(center, list_cases(center)[0])
    np.testing.assert_array_equal(change_case(case, UNCHANGED).image_hu, case.image_hu)
    lower = change_case(case, "30 HU lower").image_hu
    assert set((case.image_hu - lower).ravel().tolist()) == {30}  # all of it is body
    for name in CHANGES:
        assert change_case(case, name).image_hu.dtype == np.int16
    noisy, again = (change_case(case, "noise of 30 HU").image_hu for _ in range(2))
    np.testing.assert_array_equal(noisy, again)  # each row of the table sees the same noise


def test_every_row_sees_every_change_of_every_case(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(request: Evaluation, variant: str) -> tuple[Any, Any]:
        return SimpleNamespace(config=SimpleNamespace(spacing=(3, 2, 2))), variant

    def dice(coarse: Any, fine: Any, prepared: PreparedCase) -> float:
        level = float(np.mean(prepared.image_hu))
        return level if fine == "BL" else -level

    monkeypatch.setattr(bench_scanner, "load_models", load)
    monkeypatch.setattr(bench_scanner, "fine_dice", dice)
    request = Evaluation("tumor_coarse", centers=tiny.centers, target="C")
    found = measure(request, ("BL", "Ours"))
    cases = len(list_cases(load_centers(tiny.centers)["C"]))
    assert {len(d) for of in found.values() for d in of.values()} == {cases}
    lost = found["BL"][UNCHANGED] - found["BL"]["30 HU lower"]
    np.testing.assert_allclose(lost, 30, atol=1)
    np.testing.assert_array_equal(found["BL"]["noise of 30 HU"], -found["Ours"]["noise of 30 HU"])


def test_the_table_gives_the_loss_against_the_unchanged_image() -> None:
    dice = {name: np.array([50.0, 60.0]) for name in CHANGES} | {UNCHANGED: np.array([60.0, 70.0])}
    text = to_markdown({"BL": dice})
    assert f"| {UNCHANGED} | 65.0 |  |" in text
    assert "| noise of 30 HU | 55.0 | +10.0 [10.0, 10.0] |" in text
