"""The evaluation of the four stages: results on disk, fallbacks, centers that lack something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from medpy.metric import binary

import data.readers
import data.readers.label
import data.readers.masks
import engine.case_pipeline
from data.centers import load_centers
from data.prepare.prepare_centers import prepare_centers
from data.prepare.prepared_case import PrepareSettings
from engine.case_metrics import COLUMNS, METRICS
from engine.training import fit
from tests._evaluation_fixtures import (
    CASES,
    LATER,
    NOTHING,
    PANCREAS_CUT,
    PANCREAS_SIZE,
    PREPARED_SPACING,
    SPACING,
    TIME,
    TUMOR_CUT,
    TUMOR_SIZE,
    Place,
    hu_window,
    parsed,
    printed_commands,
    read_rows,
    read_summary,
    run_of,
    small_stage,
    write_four_runs,
    write_run,
)
from utils.config import Config, Evaluation
from utils.stages import STAGE_NAMES

pytest_plugins = ["tests._evaluation_plugin"]


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_every_stage_finds_its_target_through_the_stages_before(
    stage: str, finished: dict[str, Path]
) -> None:
    rows = read_rows(finished[stage])
    assert tuple(rows) == CASES
    for row in rows.values():
        assert float(row["dsc"]) > 80
        assert row["empty"] == row["fallback"] == ""
        assert (row["windows"], row["arithmetic"]) == ("0", "fp32")
        assert float(row["seconds"]) > 0
        assert float(row["peak_memory_mib"]) > 0


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_masks_lie_exactly_on_the_grid_of_their_image_in_every_orientation(
    stage: str, data: Place, finished: dict[str, Path]
) -> None:
    directions = set()
    for case in CASES:
        image = sitk.ReadImage(str(data.centers.parent / "C" / "images" / f"{case}.nii.gz"))
        mask = sitk.ReadImage(str(finished[stage] / "predictions" / f"{case}.nii.gz"))
        assert mask.GetSize() == image.GetSize()
        assert mask.GetSpacing() == image.GetSpacing()
        assert mask.GetOrigin() == image.GetOrigin()
        assert mask.GetDirection() == image.GetDirection()
        assert set(np.unique(sitk.GetArrayFromImage(mask))) == {0, 1}
        directions.add(image.GetDirection())
    assert len(directions) == len(CASES)


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_the_table_of_cases_is_what_medpy_makes_of_the_files(
    stage: str, data: Place, finished: dict[str, Path]
) -> None:
    rows = read_rows(finished[stage])
    assert tuple(next(iter(rows.values()))) == COLUMNS
    for case, row in rows.items():
        label = sitk.ReadImage(str(data.centers.parent / "C" / "labels" / f"{case}.nii.gz"))
        pred = sitk.ReadImage(str(finished[stage] / "predictions" / f"{case}.nii.gz"))
        mask = sitk.GetArrayFromImage(label) >= (2 if stage.startswith("tumor") else 1)
        found = sitk.GetArrayFromImage(pred) > 0
        spacing = label.GetSpacing()[::-1]
        assert float(row["dsc"]) == pytest.approx(100 * binary.dc(found, mask), rel=1e-5)
        assert float(row["asd_mm"]) == pytest.approx(binary.assd(found, mask, spacing), rel=1e-5)
        assert float(row["hd95_mm"]) == pytest.approx(binary.hd95(found, mask, spacing), rel=1e-5)
        assert float(row["recall"]) == pytest.approx(binary.recall(found, mask), rel=1e-5)
        assert float(row["precision"]) == pytest.approx(binary.precision(found, mask), rel=1e-5)
        ml = np.prod(spacing) / 1000
        assert float(row["pred_ml"]) == pytest.approx(found.sum() * ml, rel=1e-5)
        assert float(row["label_ml"]) == pytest.approx(mask.sum() * ml, rel=1e-5)


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_the_summary_is_the_mean_of_the_table(stage: str, finished: dict[str, Path]) -> None:
    rows, summary = read_rows(finished[stage]).values(), read_summary(finished[stage])
    assert summary["cases"] == len(rows) == len(CASES)
    for name in METRICS:
        assert summary[name] == pytest.approx(np.mean([float(row[name]) for row in rows]))
    assert (summary["stage"], summary["target"], summary["time"]) == (stage, "C", TIME)
    assert summary["sources"] == ["A", "B"]


def test_the_coverage_of_the_roi_is_counted_in_voxels_of_the_label(
    data: Place, finished: dict[str, Path]
) -> None:
    center = load_centers(data.centers)["C"]
    settings = PrepareSettings(spacing=PREPARED_SPACING)
    cases = prepare_centers([center], data.cache, settings, 0)["C"]
    rows = read_rows(finished["tumor_coarse"])
    for case in cases:
        label = case.label
        assert label is not None
        assert float(rows[case.case_id]["roi_coverage_margin"]) == 1
        assert float(rows[case.case_id]["roi_coverage"]) > 0.95
    coarse = read_rows(finished["pancreas_coarse"])
    assert all(row["roi_coverage"] == "" for row in coarse.values())  # it has no ROI
    label = cases[0].label
    assert label is not None
    assert engine.case_pipeline.coverage(label == 2, cases[0].boxes["tumor"]) == 1
    whole = cases[0].boxes["pancreas"]
    half = replace(whole, stop=(whole.start[0] + 1, *whole.stop[1:]))
    expected = (label[half.slices] > 0).sum() / (label > 0).sum()
    assert 0 < expected < 0.5
    assert engine.case_pipeline.coverage(label > 0, half) == pytest.approx(expected)


def test_settings_come_from_the_checkpoint(place: Place) -> None:
    weights = hu_window(PANCREAS_CUT, inside=0.6)
    for time, threshold in ((TIME, 0.3), (LATER, 0.7)):
        stage = small_stage("pancreas_coarse", threshold=threshold)
        write_run(place.checkpoints, stage, weights, time=time)
    low = read_rows(place.evaluate("pancreas_coarse", time=(TIME,)))
    high = read_rows(place.evaluate("pancreas_coarse", time=(LATER,)))
    assert {row["threshold"] for row in low.values()} == {"0.3"}
    assert all(float(row["dsc"]) > 80 for row in low.values())
    assert {row["threshold"] for row in high.values()} == {"0.7"}
    assert {row["empty"] for row in high.values()} == {"pred"}


def test_a_centers_threshold_is_for_the_tumor_stages_only(evaluated: Place, tmp_path: Path) -> None:
    folder = evaluated.centers.parent
    toml = tmp_path / "centers.toml"
    text = evaluated.centers.read_text().replace('path = "', f'path = "{folder}/')
    toml.write_text(text.replace("[centers.C]", "[centers.C]\ntumor_threshold = 0.97"))
    rows = {s: read_rows(evaluated.evaluate(s, centers=toml)) for s in STAGE_NAMES}
    for stage in ("pancreas_coarse", "pancreas_fine"):
        assert {row["threshold"] for row in rows[stage].values()} == {"0.5"}
        assert all(float(row["dsc"]) > 80 for row in rows[stage].values())
    for stage in ("tumor_coarse", "tumor_fine"):  # the network says 0.95
        assert {row["threshold"] for row in rows[stage].values()} == {"0.97"}
        assert {row["empty"] for row in rows[stage].values()} == {"pred"}
        assert {(row["dsc"], row["asd_mm"], row["hd95_mm"]) for row in rows[stage].values()} == {
            ("0", "40", "100")
        }
    summary = read_summary(run_of(evaluated, "tumor_coarse").folder / "evaluation_C_seg_target")
    assert (summary["dsc"], summary["asd_mm"], summary["hd95_mm"]) == (0, 40, 100)
    assert summary["empty"] == dict.fromkeys(CASES, "pred")


def four_runs(place: Place, **weights: dict[str, Any]) -> None:
    """`write_four_runs`, some of them with other weights."""
    for name in write_four_runs(place.checkpoints):
        if name in weights:
            write_run(place.checkpoints, small_stage(name), weights[name])


@pytest.mark.parametrize(
    ("empty", "expected"),
    [
        (("tumor_coarse",), {"tumor_coarse": "", "tumor_fine": "pancreas_fine"}),
        (
            ("pancreas_fine", "tumor_coarse"),
            {
                "pancreas_fine": "",
                "tumor_coarse": "pancreas_coarse",
                "tumor_fine": "pancreas_coarse",
            },
        ),
        (
            ("pancreas_coarse",),
            {"pancreas_fine": "whole volume", "tumor_coarse": "", "tumor_fine": ""},
        ),
    ],
)
def test_an_empty_result_falls_back_to_the_roi_before_it(
    empty: tuple[str, ...], expected: dict[str, str], place: Place
) -> None:
    four_runs(place, **dict.fromkeys(empty, NOTHING))
    folders = place.all_stages()
    for stage, fallback in expected.items():
        rows = read_rows(folders[stage])
        assert {row["fallback"] for row in rows.values()} == {fallback}
        summary = read_summary(folders[stage])
        assert summary["fallback"] == (dict.fromkeys(CASES, fallback) if fallback else {})
    # "Even where coarse segmentation fails completely, the fine model can compensate."
    assert all(float(row["dsc"]) > 80 for row in read_rows(folders["tumor_fine"]).values())


def test_with_rois_from_labels_the_tumor_stages_need_no_pancreas_stage(place: Place) -> None:
    for name in ("tumor_coarse", "tumor_fine"):
        write_run(place.checkpoints, small_stage(name), hu_window(TUMOR_CUT))
    with pytest.raises(FileNotFoundError, match="reads the masks of tumor_coarse") as caught:
        place.evaluate("tumor_fine", roi_source="mask")
    (command,) = printed_commands(caught.value)
    request = parsed(command)
    assert isinstance(request, Evaluation)
    assert request.roi_source == "mask"
    for name in ("tumor_coarse", "tumor_fine"):
        folder = place.evaluate(name, roi_source="mask")
        assert folder.name == "evaluation_C_mask_target"
        rows = read_rows(folder)
        assert all(float(row["dsc"]) > 80 for row in rows.values())
        assert {row["fallback"] for row in rows.values()} == {""}
    coarse = read_rows(run_of(place, "tumor_coarse").folder / "evaluation_C_mask_target")
    assert {row["roi_coverage"] for row in coarse.values()} == {"1"}


def test_with_rois_from_labels_an_empty_coarse_result_falls_back_to_the_label(place: Place) -> None:
    for name, weights in (("tumor_coarse", NOTHING), ("tumor_fine", hu_window(TUMOR_CUT))):
        write_run(place.checkpoints, small_stage(name), weights)
        folder = place.evaluate(name, roi_source="mask")
    rows = read_rows(folder)
    assert {row["fallback"] for row in rows.values()} == {"pancreas label"}
    assert all(float(row["dsc"]) > 80 for row in rows.values())


def test_rois_from_labels_are_refused_where_they_make_no_sense(place: Place) -> None:
    write_four_runs(place.checkpoints)
    with pytest.raises(ValueError, match="--roi-source mask is for the tumor stages"):
        place.evaluate("pancreas_fine", roi_source="mask")
    with pytest.raises(ValueError, match="case_0: --roi-source mask needs a pancreas label"):
        place.evaluate("tumor_coarse", roi_source="mask", target="U")


def test_a_center_without_labels_gets_masks_and_volumes(place: Place) -> None:
    write_four_runs(place.checkpoints)
    for stage, folder in place.all_stages(target="U").items():
        rows = read_rows(folder)
        assert tuple(rows) == ("case_0", "case_1")
        for case, row in rows.items():
            mask = sitk.ReadImage(str(folder / "predictions" / f"{case}.nii.gz"))
            ml = sitk.GetArrayFromImage(mask).sum() * np.prod(mask.GetSpacing()) / 1000
            assert float(row["pred_ml"]) == pytest.approx(ml, rel=1e-5)
            size = TUMOR_SIZE if stage.startswith("tumor") else PANCREAS_SIZE
            # every second voxel of so small a box: its ends are seen or not
            rel = 0.4 if stage == "pancreas_coarse" else 0.25
            assert ml == pytest.approx(np.prod(size) * np.prod(SPACING) / 1000, rel=rel)
            assert {row[name] for name in (*METRICS, "label_ml", "roi_coverage_margin")} == {""}
        assert [read_summary(folder)[name] for name in METRICS] == [None] * len(METRICS)


def test_a_center_without_lesions_passes_the_tumor_stages(place: Place) -> None:
    write_four_runs(place.checkpoints)
    folders = place.all_stages(target="N")
    for stage in ("tumor_coarse", "tumor_fine"):
        rows = read_rows(folders[stage])
        assert {row["empty"] for row in rows.values()} == {"pred label"}
        values = {(row["dsc"], row["asd_mm"], row["hd95_mm"]) for row in rows.values()}
        assert values == {("0", "40", "100")}
        assert {row["centroid_mm"] for row in rows.values()} == {""}
        assert read_summary(folders[stage])["centroid_mm"] is None
    assert all(float(row["dsc"]) > 80 for row in read_rows(folders["pancreas_fine"]).values())


def test_an_evaluation_reads_no_image_that_is_prepared(
    evaluated: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    for module in (data.readers, data.readers.label, data.readers.masks):
        read_volume = module.read_volume

        def noted(path: Path, read_volume: Any = read_volume) -> Any:
            read.append(path)
            return read_volume(path)

        monkeypatch.setattr(module, "read_volume", noted)
    write_run(evaluated.checkpoints, small_stage("tumor_fine"), hu_window(TUMOR_CUT + 1))
    evaluated.evaluate("tumor_fine")
    folder = evaluated.centers.parent / "C"
    earlier = run_of(evaluated, "tumor_coarse").folder / "evaluation_C_seg_target" / "predictions"
    pancreas = run_of(evaluated, "pancreas_fine").folder / "evaluation_C_seg" / "predictions"
    paths = (earlier, pancreas, folder / "labels")  # the second for the score of the pancreas
    expected = [path / f"{case}.nii.gz" for case in CASES for path in paths]
    assert read == expected


def test_windows_that_are_asked_for_and_the_arithmetic_are_in_every_row(
    evaluated: Place, predicted: list[str]
) -> None:
    whole = evaluated.evaluate("pancreas_fine")
    assert predicted == []
    assert (read_summary(whole)["arithmetic"], read_summary(whole)["window_voxels"]) == (
        "fp32", None,
    )  # fmt: skip
    cut = evaluated.evaluate("pancreas_fine", window_voxels=1024)
    assert cut == whole
    assert tuple(predicted) == CASES  # another way to predict is another result
    assert all(int(row["windows"]) > 1 for row in read_rows(cut).values())
    assert read_summary(cut)["window_voxels"] == 1024
    coarser = evaluated.evaluate("pancreas_fine", precision="bf16")
    assert {row["arithmetic"] for row in read_rows(coarser).values()} == {"bf16"}
    assert {row["windows"] for row in read_rows(coarser).values()} == {"0"}


def test_a_checkpoint_of_another_stage_in_a_run_folder_is_refused(place: Place) -> None:
    run = write_run(place.checkpoints, small_stage("pancreas_coarse"), hu_window(PANCREAS_CUT))
    other = write_run(place.checkpoints, small_stage("tumor_fine"), hu_window(PANCREAS_CUT))
    run.checkpoint.write_bytes(other.checkpoint.read_bytes())
    with pytest.raises(ValueError, match=r"trained as tumor_fine, not as pancreas_coarse; give"):
        place.evaluate("pancreas_coarse")


@pytest.mark.slow
def test_four_stages_trained_for_an_epoch_are_evaluated_end_to_end(
    tiny_config: Callable[..., Config],
) -> None:
    configs = {name: tiny_config(name, time=TIME) for name in STAGE_NAMES}
    for config in configs.values():
        fit(config)
    config = configs["tumor_fine"]
    place = Place(config.centers, config.checkpoints, config.cache)
    folders = list(place.all_stages().values())
    folders += [place.evaluate(s, roi_source="mask") for s in ("tumor_coarse", "tumor_fine")]
    for folder in folders:
        summary = read_summary(folder)
        assert summary["cases"] == len(read_rows(folder)) == 2
        assert 0 <= summary["dsc"] <= 100
        assert len(list((folder / "predictions").glob("*.nii.gz"))) == 2
        assert (folder / "done").is_file()
    assert "A+B+N" in folders[0].parent.name
    assert folders[2].parent.name.endswith("A+B")
