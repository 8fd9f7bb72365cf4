"""cases.csv and summary.json: every metric equals a library's, no case leaves a mean."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from medpy.metric import binary
from scipy import ndimage

from engine.case_metrics import (
    COLUMNS,
    METRICS,
    measure_case,
    measure_findings,
    read_cases,
    read_list,
    summarize,
    write_cases,
    write_summary,
)

SPACING = (2.5, 0.9, 0.7)
EMPTY = np.zeros((5, 6, 7), bool)


def blob(seed: int, shape: tuple[int, int, int] = (14, 30, 33)) -> np.ndarray:
    """A ragged mask of about a fifth of the volume."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    return noise > np.quantile(noise, 0.8)


@pytest.mark.parametrize("seed", [0, 2, 4])
def test_every_metric_equals_that_of_a_library(seed: int) -> None:
    pred, mask = blob(seed), blob(seed + 1) | blob(seed)
    row = measure_case(pred, mask, SPACING)
    assert row["dsc"] == pytest.approx(100 * binary.dc(pred, mask), abs=1e-9)
    assert row["recall"] == pytest.approx(binary.recall(pred, mask), abs=1e-9)
    assert row["precision"] == pytest.approx(binary.precision(pred, mask), abs=1e-9)
    assert row["asd_mm"] == pytest.approx(binary.assd(pred, mask, SPACING), abs=1e-5)
    assert row["hd95_mm"] == pytest.approx(binary.hd95(pred, mask, SPACING), abs=1e-5)
    directed = [binary.__surface_distances(*pair, SPACING) for pair in ((pred, mask), (mask, pred))]
    largest = max(np.percentile(distances, 95) for distances in directed)
    assert row["hd95_max_mm"] == pytest.approx(largest, abs=1e-5)
    centers = [np.array(ndimage.center_of_mass(m)) * SPACING for m in (pred, mask)]
    assert row["centroid_mm"] == pytest.approx(np.linalg.norm(centers[0] - centers[1]), abs=1e-9)
    assert row["empty"] == ""


def test_volumes_are_in_milliliters() -> None:
    pred, mask = np.zeros((2, 10, 10, 10), bool)
    pred[:5], mask[:, :2] = True, True
    row = measure_case(pred, mask, (2.0, 1.0, 1.0))
    assert row["pred_ml"] == pytest.approx(1.0)
    assert row["label_ml"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("pred", "mask", "empty"),
    [(EMPTY, ~EMPTY, "pred"), (~EMPTY, EMPTY, "label"), (EMPTY, EMPTY, "pred label")],
)
def test_an_empty_mask_gets_the_protocols_constants_and_is_named(
    pred: np.ndarray, mask: np.ndarray, empty: str
) -> None:
    row = measure_case(pred, mask, SPACING)
    assert row["empty"] == empty
    assert (row["dsc"], row["asd_mm"], row["hd95_mm"], row["hd95_max_mm"]) == (0, 40, 100, 100)
    assert (row["recall"], row["precision"]) == (0, 0)


def test_without_a_label_there_are_volumes_and_no_metrics() -> None:
    row = measure_case(~EMPTY, None, SPACING)
    assert set(row) == {"pred_ml", "empty"}
    assert not set(row) & set(METRICS)
    assert row["pred_ml"] == pytest.approx(5 * 6 * 7 * 2.5 * 0.9 * 0.7 / 1000)
    assert measure_case(EMPTY, None, SPACING)["empty"] == "pred"


def full_row(case_id: str, pred: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
    own = {"case_id": case_id, "fallback": "", "rounds": 1, "threshold": 0.5, "seconds": 2.0}
    own |= {"windows": 0, "arithmetic": "fp32"}
    return {**measure_case(pred, mask, SPACING), **own}


def test_cases_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [full_row("007", blob(0), blob(1)), full_row("b", EMPTY, ~EMPTY)]
    rows[1]["fallback"] = "pancreas_fine"
    path = tmp_path / "cases.csv"
    write_cases(path, rows)
    with path.open(newline="") as handle:
        plain = list(csv.DictReader(handle))
    assert tuple(plain[0]) == COLUMNS
    assert plain[1]["centroid_mm"] == plain[1]["roi_coverage"] == ""  # unknown, and not 0
    back = read_cases(path)
    assert [row["case_id"] for row in back] == ["007", "b"]
    assert back[1]["fallback"] == "pancreas_fine"
    assert (back[0]["windows"], back[0]["arithmetic"]) == (0, "fp32")
    for row, own in zip(rows, back, strict=True):
        for name in METRICS:
            if np.isfinite(row[name]):
                assert own[name] == pytest.approx(row[name], rel=1e-5)
    write_cases(tmp_path / "again.csv", back)
    assert (tmp_path / "again.csv").read_bytes() == path.read_bytes()


def test_before_the_first_case_there_are_no_rows(tmp_path: Path) -> None:
    assert read_cases(tmp_path / "cases.csv") == []


def test_a_mean_is_over_all_cases_and_the_empty_ones_are_listed() -> None:
    mask = blob(1)
    rows = [
        full_row("a", blob(0), mask),
        full_row("b", np.zeros_like(mask), mask),
        full_row("c", mask, mask),
    ]
    rows[1]["fallback"] = "whole volume"
    summary = summarize(rows)
    assert summary["cases"] == 3
    assert summary["dsc"] == pytest.approx((rows[0]["dsc"] + 0 + 100) / 3)
    assert summary["asd_mm"] == pytest.approx((rows[0]["asd_mm"] + 40 + 0) / 3)
    assert summary["hd95_mm"] == pytest.approx((rows[0]["hd95_mm"] + 100 + 0) / 3)
    assert summary["seconds_per_case"] == 2.0
    assert summary["empty"] == {"b": "pred"}
    assert summary["fallback"] == {"b": "whole volume"}
    # An empty mask has no centroid: the only mean with fewer cases.
    assert summary["centroid_mm"] == pytest.approx(rows[0]["centroid_mm"] / 2)


def test_a_summary_without_labels_has_no_means(tmp_path: Path) -> None:
    row = {**measure_case(~EMPTY, None, SPACING), "case_id": "a", "seconds": 1.0}
    write_summary(tmp_path / "summary.json", [row], {"target": "X"})
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [summary[name] for name in METRICS] == [None] * len(METRICS)
    assert (summary["cases"], summary["target"]) == (1, "X")


def test_a_lesion_has_the_probability_of_the_finding_that_hits_it_and_none_where_it_is_missed() -> (
    None
):
    pred, mask = np.zeros((2, 12, 12, 12), bool)
    prob = np.zeros((12, 12, 12), np.float32)
    mask[1:4, 1:4, 1:4] = pred[1:4, 1:4, 1:4] = True  # hit
    mask[7:9, 7:9, 7:9] = True  # missed
    pred[10, 1:3, 10] = True  # of no lesion
    prob[2, 2, 2], prob[10, 1, 10] = 0.75, 0.625
    row = measure_findings(pred, mask, (1.0, 1.0, 1.0), lambda places: float(prob[places].max()))
    of_size = sorted(
        zip(
            *(read_list(row, name) for name in ("lesion_mm", "lesion_iou", "lesion_prob")),
            strict=True,
        )
    )
    assert [(iou, found) for _, iou, found in of_size] == [(0.0, 0.0), (1.0, 0.75)]
    assert list(read_list(row, "false_prob")) == [0.625]
