"""`benchmarks/bench_scanner.py`: the changes, by known answers, and the table."""

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
    iodine,
    kernel,
    measure,
    noise,
    offset,
    to_markdown,
)
from data.centers import load_centers
from data.prepare.prepared_case import PreparedCase
from data.readers import list_cases, load_case
from tests.conftest import Tiny
from utils.config import Evaluation

RNG = np.random.default_rng(0)
HU = np.array([[[-1000.0, 0.0, 40.0, 140.0]]], np.float32)


def test_iodine_scales_what_is_brighter_than_soft_tissue_and_nothing_else() -> None:
    np.testing.assert_allclose(iodine(1.6)(HU, 1.0, RNG), [[[-1000, 0, 40, 200]]])
    np.testing.assert_allclose(iodine(0.6)(HU, 1.0, RNG), [[[-1000, 0, 40, 100]]])


def test_an_offset_moves_everything_and_noise_has_the_deviation_that_it_says() -> None:
    np.testing.assert_array_equal(offset(-30)(HU, 1.0, RNG), HU - 30)
    noisy = noise(30)(np.zeros((20, 50, 50), np.float32), 1.0, RNG)
    assert noisy.std() == pytest.approx(30, rel=0.02)
    assert abs(noisy.mean()) < 1


def test_a_kernel_keeps_what_is_flat_and_softens_or_sharpens_an_edge_in_plane() -> None:
    flat = np.full((4, 9, 9), 77.0, np.float32)
    edge = np.zeros((4, 9, 9), np.float32)
    edge[:, :, 5:] = 100
    for gain in (-1.0, 1.5):
        np.testing.assert_allclose(kernel(2.0, gain)(flat, 1.0, RNG), flat, rtol=1e-5)
    soft, sharp = kernel(2.0, -1)(edge, 1.0, RNG), kernel(2.0, 1.5)(edge, 1.0, RNG)
    assert soft[0, 4, 5] - soft[0, 4, 4] < 100 < sharp[0, 4, 5] - sharp[0, 4, 4]
    np.testing.assert_array_equal(soft[0], soft[3])  # nothing along z
    wide = kernel(2.0, -1)(edge, 4.0, RNG)  # the same width in mm: fewer of larger pixels
    assert wide[0, 4, 5] - wide[0, 4, 4] > soft[0, 4, 5] - soft[0, 4, 4]


def test_a_changed_case_is_rounded_and_stays_within_what_ct_can_hold(tiny: Tiny) -> None:
    center = load_centers(tiny.centers)["C"]
    case = load_case(center, list_cases(center)[0])
    same = change_case(case, CHANGES[UNCHANGED])
    np.testing.assert_array_equal(same.image_hu, case.image_hu)
    changed = change_case(case, offset(1e6))
    assert changed.image_hu.dtype == case.image_hu.dtype
    assert (changed.image_hu == 3071).all()
    noisy, again = (change_case(case, noise(30)).image_hu for _ in range(2))
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
