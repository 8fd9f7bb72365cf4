"""`benchmarks/bench_crops.py`: a known answer for two networks, one of which only sees its crop."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import bench_crops, bench_scanner
from benchmarks.bench_crops import MARGINS, Found, measure, to_markdown
from data.centers import load_centers
from data.prepare.prepared_case import PreparedCase
from data.readers import list_cases, load_case
from data.roi import Box
from tests.conftest import Tiny
from utils.config import Evaluation
from utils.stages import TUMOR_FINE


def fake_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """bl answers with the whole crop, ours with bright voxels: the planted image is the label."""

    def load(checkpoint: Any) -> Any:
        config = SimpleNamespace(spacing=(3.0, 2.0, 2.0))
        return SimpleNamespace(name=checkpoint, config=config, stage=TUMOR_FINE)

    def pick(asked: Evaluation, centers: Any) -> Any:
        return [(SimpleNamespace(checkpoint=asked.method), None)]

    def prepare(case: Any, settings: Any) -> PreparedCase:
        prepared = real_prepare(case, settings)
        image = np.where(prepared.label == 2, 100, 0).astype(np.int16)
        return SimpleNamespace(image_hu=image, label=prepared.label, boxes=prepared.boxes)  # type: ignore[return-value]

    def predict(model: Any, image_hu: np.ndarray, box: Box) -> tuple[np.ndarray, int]:
        seen = image_hu[box.slices] > 50
        return (np.ones(box.shape) if model.name == "bl" else seen.astype(float)), 0

    real_prepare = bench_crops.prepare_case
    monkeypatch.setattr(bench_crops, "prepare_case", prepare)
    monkeypatch.setattr(bench_crops, "load_predictor", load)
    monkeypatch.setattr(bench_crops, "pick_runs", pick)
    monkeypatch.setattr(bench_crops, "predict_box", predict)


def test_what_sees_the_lesion_finds_it_in_each_crop_and_what_sees_the_crop_does_not(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_models(monkeypatch)
    found = measure(Evaluation("tumor_fine", centers=tiny.centers, target="C"), ("bl", "ours"))
    assert tuple(found) == MARGINS
    center = load_centers(tiny.centers)["C"]
    labels = [load_case(center, files).label for files in list_cases(center)]
    lesions = sum(label is not None and (label == 2).any() for label in labels)
    for of in found.values():
        assert len(of["bl"]) == len(of["ours"]) == lesions > 0
        assert [(case.dsc, case.volume) for case in of["ours"]] == [(100, 1)] * lesions
    volumes = np.array([[case.volume for case in of["bl"]] for of in found.values()])
    assert (np.diff(volumes, axis=0) >= 0).all()
    assert (volumes[-1] > volumes[0]).all()
    for of in found.values():  # a whole crop's Dice follows from its volume: 2 / (1 + volume)
        np.testing.assert_allclose(
            [c.dsc for c in of["bl"]], [200 / (1 + c.volume) for c in of["bl"]]
        )


def test_the_table_gives_mean_dice_and_median_volume() -> None:
    cases = [Found((8, 16, 24), 50, 1), Found((8, 24, 24), 60, 3), Found((8, 8, 24), 70, 1)]
    text = to_markdown({0.5: {"BL": cases, "Ours": cases[:1]}})
    assert "BL, Dice | BL, volume | Ours, Dice" in text
    assert text.splitlines()[-1] == "| x 0.5 | 8 x 16 x 24 | 60.0 | 1.00 | 50.0 | 1.00 |"


@pytest.mark.parametrize("module", [bench_crops, bench_scanner])
def test_a_target_that_is_no_center_is_refused_with_the_centers_to_choose_from(
    tiny: Tiny, module: ModuleType
) -> None:
    request = Evaluation("tumor_fine", centers=tiny.centers, target="X")
    with pytest.raises(ValueError, match=r"X: choose from the centers with lesions of .*: A, B, C"):
        module.measure(request, ("bl",))
