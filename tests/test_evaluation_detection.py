"""What an evaluation tells of detection: the score, which lesions are hit, false findings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.case import Grid
from data.prepare.prepared_case import PreparedCase
from data.prepare.signature import sign_image
from data.roi import Box
from engine.cascade import Prediction, Roi
from engine.case_metrics import measure_findings, read_cases, read_list
from engine.inference import PreparedPrediction
from tests._evaluation_fixtures import (
    CASES,
    SPACING,
    TUMOR_CUT,
    TUMOR_SIZE,
    Place,
    hu_window,
    read_rows,
    small_stage,
    write_four_runs,
    write_run,
)

pytest_plugins = ["tests._evaluation_plugin"]


def test_a_tumor_stage_tells_its_score_and_its_hits(finished: dict[str, Path]) -> None:
    edges = (np.array(TUMOR_SIZE) - 1) * SPACING
    for stage in ("tumor_coarse", "tumor_fine"):
        for row in read_cases(finished[stage] / "cases.csv"):
            assert row["roi_max_prob"] == pytest.approx(0.95, abs=1e-3)
            (longest,), (iou,) = read_list(row, "lesion_mm"), read_list(row, "lesion_iou")
            assert longest == pytest.approx(np.linalg.norm(edges), rel=1e-5)
            assert iou == pytest.approx(row["dsc"] / (200 - row["dsc"]), rel=1e-4)
            assert read_list(row, "lesion_prob") == pytest.approx([0.95], abs=1e-3)
            assert "false_prob" not in row
            assert "threads" in row["device"] or "cuda" in row["device"].lower()


def test_a_pancreas_stage_has_no_such_columns(finished: dict[str, Path]) -> None:
    for row in read_rows(finished["pancreas_fine"]).values():
        assert row["roi_max_prob"] == row["lesion_mm"] == row["false_prob"] == ""


def test_a_missed_lesion_keeps_its_size_and_the_score_is_what_the_network_gave(
    place: Place,
) -> None:
    write_four_runs(place.checkpoints)
    weak = hu_window(TUMOR_CUT, inside=0.4, outside=0.02)  # below the threshold everywhere
    for stage in ("tumor_coarse", "tumor_fine"):
        write_run(place.checkpoints, small_stage(stage), weak)
    folders = place.all_stages()
    rows = read_cases(folders["tumor_fine"] / "cases.csv")
    assert [row["case_id"] for row in rows] == list(CASES)
    for row in rows:
        assert row["empty"] == "pred"
        assert row["roi_max_prob"] == pytest.approx(0.4, abs=1e-3)
        assert (row["lesion_iou"], row["lesion_prob"]) == ("0", "0")
        assert len(read_list(row, "lesion_mm")) == 1


def prediction_of(prob: np.ndarray, box: Box, shape: tuple[int, int, int]) -> Prediction:
    """A prediction on a prepared grid of `shape`, half as fine as the case's own."""
    own = (2 * shape[0], 2 * shape[1], 2 * shape[2])
    grid = Grid(own[::-1], (1, 1, 1), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    image = np.zeros(own, np.int16)
    item = PreparedCase(
        "a", "A", (2, 2, 2), shape, own, (1, 1, 1), grid, {},
        sign_image("A", "a", image, (1, 1, 1)), (), None, False,
    )  # fmt: skip
    found = PreparedPrediction(prob, box, shape, 1, 0)
    mask = np.zeros(own, bool)
    return Prediction(
        "tumor_fine", "tumor", mask, Roi(None), box, 1, 0, "fp32", 0.5, 1.0, item, found
    )


def test_the_highest_probability_is_that_of_the_asked_place() -> None:
    prob = np.random.default_rng(0).uniform(0, 1, (3, 4, 5)).astype(np.float32)
    found = prediction_of(prob, Box((2, 1, 3), (5, 5, 8)), (8, 8, 10))
    assert found.highest_in(Box((0, 0, 0), (8, 8, 10))) == prob.max()
    assert found.highest_in(Box((3, 2, 0), (4, 8, 5))) == prob[1:2, 1:, :2].max()
    assert found.highest_in(Box((0, 0, 0), (2, 8, 10))) == 0  # beside the crop
    for place in ((4, 2, 6), (5, 3, 7)):  # both in the first voxel of the crop
        assert found.highest_at(tuple(np.array([n]) for n in place)) == prob[0, 0, 0]
    many = np.nonzero(np.ones((16, 16, 20), bool))
    assert found.highest_at(many) == prob.max()


def test_findings_are_told_apart_by_their_own_probabilities() -> None:
    mask, pred = np.zeros((2, 4, 10, 12), bool)
    mask[1, 1:5, 1:5] = mask[3, 8, 8:11] = True
    pred[1, 1:5, 1:4] = pred[0, 8, 0:2] = True
    row = measure_findings(pred, mask, (5.0, 1.0, 2.0), lambda places: 0.1 * len(places[0]))
    assert read_list(row, "lesion_mm") == pytest.approx([np.hypot(3, 6), 4])
    assert read_list(row, "lesion_iou") == pytest.approx([12 / 16, 0])
    assert read_list(row, "lesion_prob") == pytest.approx([1.2, 0])
    assert read_list(row, "false_prob") == pytest.approx([0.2])
    assert measure_findings(pred, None, (1, 1, 1), lambda places: 0.0) == {}
    free = measure_findings(pred, np.zeros_like(mask), (1, 1, 1), lambda places: 0.5)
    assert (free["lesion_mm"], free["false_prob"]) == ("", "0.5 0.5")
