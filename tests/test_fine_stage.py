"""The fine stage's settings beside the paper's: cascade, evaluation, training, older runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.centers import load_centers
from data.dataset import StageDataset, make_sample, training_box
from data.prepare.prepare_centers import prepare_centers
from data.prepare.prepared_case import PreparedCase, PrepareSettings
from data.readers import list_cases, load_image, read_mask
from data.roi import Box
from data.splits import make_split
from engine.cascade import mask_box, segment
from engine.command_line import parse_config
from engine.inference import load_predictor
from engine.predicted_crops import find_predictions, note_predictions, predicted_boxes
from engine.run_folders import config_hash
from methods import METHODS, build_method, make_config
from tests._evaluation_fixtures import (
    PANCREAS_CUT,
    TUMOR_CUT,
    Place,
    WindowMethod,
    hu_window,
    parsed,
    printed_commands,
    read_rows,
    small_stage,
    write_run,
)
from tests.conftest import train
from utils.config import Config
from utils.settings import weights_part
from utils.stages import STAGE_NAMES, STAGES, TUMOR_FINE

pytest_plugins = ["tests._evaluation_plugin"]
CUTS = {"pancreas": PANCREAS_CUT, "tumor": TUMOR_CUT}
EVERY: dict[str, Any] = {
    "crop": "fixed",
    "crop_mm": (24.0, 30.0, 30.0),
    "shift_mm": (2.0, 3.0, 3.0),
    "second_channel": "coarse",
    "settled_slices": 1.0,
    "crop_middle": "pancreas",
}


class TwoChannels(WindowMethod):
    """Finds what its window of HU shows, and what the second channel shows."""

    def predict(self, image: Tensor) -> Tensor:
        prob: Tensor = self.network(image[:, :1])
        return torch.maximum(prob, image[:, 1:]) if image.shape[1] == 2 else prob


def test_with_every_setting_the_cascade_gives_the_masks_that_the_evaluation_writes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "ours", TwoChannels)
    runs = {}
    for name, stage in STAGES.items():
        more = EVERY if name == "tumor_fine" else {}
        runs[name] = write_run(
            place.checkpoints, small_stage(name, **more), hu_window(CUTS[stage.target])
        )
    folders = place.all_stages()
    predictors = {s: load_predictor(run.checkpoint, "cpu", stage=s) for s, run in runs.items()}
    files = list_cases(load_centers(place.centers)["C"])[1]
    image = load_image(files.image, files.case_id)
    found = segment(image, predictors)
    assert tuple(found) == STAGE_NAMES
    written = read_mask(
        folders["tumor_fine"] / "predictions" / f"{files.case_id}.nii.gz", image.grid
    )
    np.testing.assert_array_equal(found["tumor_fine"].mask, written)
    assert written.any()
    row = read_rows(folders["tumor_fine"])[files.case_id]
    assert float(row["rounds"]) == found["tumor_fine"].rounds
    assert found["tumor_fine"].box.shape == (8, 16, 16)  # 24 mm of 3, 30 mm of 2.4


def test_a_run_of_before_these_settings_is_still_the_same_run() -> None:
    plain = weights_part(TUMOR_FINE)
    assert not set(EVERY) & set(plain)
    assert "margin_voxels" in plain
    usual = make_config(TUMOR_FINE)
    for name, value in EVERY.items():
        changed = replace(TUMOR_FINE, **{name: value})
        assert name in weights_part(changed)
        assert config_hash(replace(usual, stage=changed)) != config_hash(usual)


@pytest.mark.parametrize(
    ("stage", "argv", "message"),
    [
        ("pancreas_coarse", ["--crop", "fixed"], "sees the whole volume"),
        ("tumor_coarse", ["--second-channel", "coarse"], "no coarse one before it"),
        ("tumor_coarse", ["--crops-from", "predictions"], "for tumor_fine"),
        ("pancreas_fine", ["--crop-middle", "pancreas"], "for tumor_fine"),
        ("tumor_fine", ["--shift-mm", "8", "44", "8"], "below half of --crop-mm"),
        ("tumor_fine", ["--crop-mm", "0", "88", "88"], "--crop-mm"),
        (
            "tumor_fine",
            ["--method", "snr", "--second-channel", "coarse"],
            "snr takes the image alone",
        ),
    ],
)
def test_a_setting_without_a_meaning_is_refused(
    stage: str, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_config(STAGES[stage], argv)
    assert message in " ".join(capsys.readouterr().err.split())


def test_training_crops_of_one_size_are_shifted_and_hold_the_middle(
    tiny_prepared: dict[str, list[PreparedCase]],
) -> None:
    case = tiny_prepared["A"][0]
    stage = replace(TUMOR_FINE, crop="fixed", crop_mm=(20.0, 20.0, 20.0), shift_mm=(3.0, 6.0, 6.0))
    rng = np.random.default_rng(0)
    around = case.boxes["tumor"]
    boxes = [training_box(stage, around, case, rng) for _ in range(40)]
    assert {box.shape for box in boxes} == {(8, 16, 16)}  # voxels of 3 x 1.5 x 1.5 mm
    assert len({box.start for box in boxes}) > 10
    middle = [(a + b) // 2 for a, b in zip(around.start, around.stop, strict=True)]
    for box in boxes:
        assert all(a <= m < b for a, m, b in zip(box.start, middle, box.stop, strict=True))


def test_crops_are_taken_around_what_is_given(
    tiny_prepared: dict[str, list[PreparedCase]],
) -> None:
    case = tiny_prepared["A"][0]
    stage = replace(
        TUMOR_FINE,
        jitter_z_fraction=(0.0, 0.0),
        jitter_voxels=(0, 0),
        rescale_probability=0.0,
    )
    box = Box((0, 0, 0), (8, 16, 8))
    dataset = StageDataset([case], stage, 0, around={(case.center, case.case_id): box})
    expected = np.array(case.image_hu[box.slices])
    np.testing.assert_array_equal(dataset[0].image_hu.numpy(), expected)
    assert dataset[0].image_hu.shape != StageDataset([case], stage, 0)[0].image_hu.shape


def test_the_second_channel_trains_and_changes_what_is_predicted(
    tiny_config: Callable[..., Config],
) -> None:
    config = tiny_config(
        *("tumor_fine",),
        method="bl",
        second_channel="coarse",
        sources=("A",),
        holdout=0.5,
        validate_epochs=1,
    )
    run = train(config)
    assert (run.folder / "heldout.csv").is_file()
    predictor = load_predictor(run.checkpoint, "cpu", "fp32")
    image = torch.rand(1, 2, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    empty = torch.cat([image[:, :1], torch.zeros_like(image[:, 1:])], 1)
    with torch.inference_mode():
        assert not torch.equal(predictor.predict(image), predictor.predict(empty))
        with pytest.raises(ValueError, match="the image and the coarse result"):
            predictor.predict(image[:, :1])


def test_the_views_of_a_sample_share_the_second_channel_and_it_has_a_gradient(
    tiny_prepared: dict[str, list[PreparedCase]],
) -> None:
    stage = replace(TUMOR_FINE, second_channel="coarse")
    method = build_method(make_config(stage, "ours", width=8))
    crop_ = StageDataset(tiny_prepared["A"], stage, 0)[0]
    image = torch.rand(1, 1, *crop_.label.shape)
    sample = make_sample(image, crop_.label[None, None], crop_, stage, method.targets)
    views = method.add_channel([image, image + 1], sample, torch.Generator().manual_seed(4))
    assert [view.shape[1] for view in views] == [2, 2]
    assert torch.equal(views[0][:, 1], views[1][:, 1])
    assert torch.equal(views[1][:, :1], image + 1)
    method.loss(sample, torch.Generator().manual_seed(1))["seg"].backward()
    gradient = next(p.grad for n, p in method.network.named_parameters() if n.startswith("stem"))
    assert gradient is not None
    assert (gradient[:, 1] != 0).any()


@pytest.fixture
def others(place: Place) -> Place:
    """A coarse network of A that has predicted B, and one of B that has predicted A."""
    for source, target in (("A", "B"), ("B", "A")):
        write_run(
            place.checkpoints,
            small_stage("tumor_coarse"),
            hu_window(TUMOR_CUT),
            sources=(source,),
            target=target,
        )
        place.evaluate("tumor_coarse", sources=(source,), target=target, roi_source="mask")
    return place


def fine_config(place: Place, **values: Any) -> Config:
    stage = small_stage("tumor_fine", crops_from="predictions")
    values = {"sources": ("A", "B"), "target": "C", **values}
    return make_config(
        stage, centers=place.centers, checkpoints=place.checkpoints, cache=place.cache, **values
    )


def test_crops_from_predictions_are_those_of_a_network_that_did_not_see_the_center(
    others: Place, tmp_path: Path
) -> None:
    config = fine_config(others)
    centers = load_centers(others.centers)
    split = make_split(centers, ("A", "B"), "C")
    results = find_predictions(config, split)
    assert {name: result.folder.parent.name for name, result in results.items()} == {
        "A": "20250101-000000_tumor_coarse_ours_B",
        "B": "20250101-000000_tumor_coarse_ours_A",
    }
    settings = PrepareSettings(spacing=(3.0, 2.4, 2.4))
    prepared = prepare_centers([centers["A"], centers["B"]], others.cache, settings, 0)
    cases = [*prepared["A"], *prepared["B"]]
    boxes = predicted_boxes(results, cases)
    assert boxes is not None
    for case in cases:
        mask = read_mask(results[case.center].mask_path(case.case_id), case.grid)
        assert boxes[case.center, case.case_id] == mask_box(mask, case)
    run = write_run(tmp_path, config.stage, hu_window(TUMOR_CUT), done=False)
    note_predictions(run, results)
    note_predictions(run, results)  # a run that resumes
    others.evaluate("tumor_coarse", sources=("A",), target="B", roi_source="mask")  # as it was
    note_predictions(run, find_predictions(config, split))
    results["A"].mask_path("case_0").unlink()
    with pytest.raises(ValueError, match="missing, or changed since the evaluation"):
        predicted_boxes(results, cases)


def test_missing_predictions_are_refused_with_the_commands_to_give(place: Place) -> None:
    split = make_split(load_centers(place.centers), ("A", "B"), "C")
    config = fine_config(place, width=16, seed=7)
    with pytest.raises(FileNotFoundError, match="needs what coarse networks find") as error:
        find_predictions(config, split)
    train_b, evaluate_b, train_a, evaluate_a = map(parsed, printed_commands(error.value))
    assert isinstance(train_b, Config)
    assert (train_b.stage.name, train_b.sources, train_b.target) == ("tumor_coarse", ("B",), "A")
    assert (train_b.width, train_b.seed, train_b.checkpoints) == (16, 7, place.checkpoints)
    assert evaluate_b == place.request(
        *("tumor_coarse",), sources=("B",), target="A", roi_source="mask", device="auto",
        precision="auto", workers=2,
    )  # fmt: skip
    assert (train_a.sources, evaluate_a.target) == (("A",), "B")
    one = make_split(load_centers(place.centers), ("A",), "C")
    with pytest.raises(ValueError, match="two or more --sources"):
        find_predictions(config, one)
    usual = replace(config, stage=replace(config.stage, crops_from="labels"))
    assert find_predictions(usual, one) == {}
