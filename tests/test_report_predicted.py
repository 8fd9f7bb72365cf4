"""Predicted scans as a page: the last stage first, the broken ones listed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.case import Case, Grid
from report.page import build_report
from report.predicted import PredictedScan, predicted_contents, scan_images
from tests._report_fixtures import SHAPE, SPACING, make_images, text_of

MEASURES = {
    **{"target": "tumor", "volume_ml": 1.5, "centroid_lps_mm": [1.25, -2.0, 3.0]},
    **{"roi_box": {"start": [0, 0, 0]}, "fallback": "", "seconds": 2.5, "mean_hu": None},
}


def make_case() -> Case:
    grid = Grid(SHAPE[::-1], SPACING[::-1], (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    return Case("scan", "", make_images().image_hu, None, SPACING, grid)


def test_masks_are_layers_in_the_order_of_the_stages() -> None:
    mask = make_images().layers[1].mask
    images = scan_images(make_case(), {"tumor_fine": mask, "pancreas_fine": mask, "x": mask})
    assert [(layer.name, layer.target) for layer in images.layers] == [
        ("pancreas fine", "pancreas"),
        ("tumor fine", "tumor"),
    ]
    assert images.label is None
    label = np.ones(SHAPE, np.uint8)
    assert scan_images(replace(make_case(), label=label), {}).label is label


def test_a_page_of_scans_lists_the_broken_one_with_its_reason(tmp_path: Path) -> None:
    good = PredictedScan("good", make_images, {"pancreas_fine": MEASURES, "tumor_fine": MEASURES})
    broken = PredictedScan("broken", warnings=["is cut short"])
    contents = predicted_contents(
        "Two scans", [broken, good], facts={"command": "c"}, checkpoints={"tumor_fine": "ff"}
    )
    assert [result.name for result in contents.results] == ["tumor fine", "pancreas fine"]
    text = text_of(build_report(tmp_path / "page.html", contents))
    data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])  # type: ignore[index]
    assert data["failed"] == [0]
    assert data["cases"][0]["warnings"] == ["is cut short"]
    result = data["results"][0]
    assert [c["name"] for c in result["columns"]] == ["volume_ml", "centroid_lps_mm", "seconds"]
    assert result["rows"] == [[1, 1.5, "1.2, -2.0, 3.0", 2.5]]


def test_two_scans_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="listed twice"):
        predicted_contents("x", [PredictedScan("a")] * 2, facts={}, checkpoints={})
