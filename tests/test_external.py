"""The engine and a system that is not ours, here one of HU windows: training to tables."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.centers import load_centers
from data.prepare.prepared_case import PreparedCase
from data.readers import list_cases, load_case, read_mask, write_mask
from data.readers.volume import read_volume
from data.roi import expand_box
from data.splits import Split
from engine.case_metrics import append_case, read_cases, write_cases
from engine.checkpointing import load_checkpoint
from engine.command_line import config_arguments, parse_config, parse_evaluation
from engine.evaluation import run_stage
from engine.external import finish_pancreas, read_cost
from engine.run_folders import Run, create_run, mark_done
from engine.training import fit
from engine.verification import verify_folder
from methods import EXTERNAL, make_config, without_unused
from methods.external.base import Scan
from models.complexity import Complexity
from reproduce.analysis.collect import cell_of, collect_rows, with_earlier
from reproduce.analysis.rows import Network, ResultKey
from reproduce.experiments.cells import make_cell, steps_of
from reproduce.experiments.estimate import known_speeds
from reproduce.experiments.finished import Splits, missing_steps
from reproduce.experiments.plan import Plan
from reproduce.experiments.workload import loads_of
from tests._external_windows import Crops, Windows, WindowSettings, found_by_windows
from tests.conftest import SPACING, Tiny
from utils.config import Config, Evaluation
from utils.files import sha256_of
from utils.metrics import dsc
from utils.stages import STAGES

MARGIN = (1, 2, 2)


@pytest.fixture(autouse=True)
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTERNAL, "windows", Windows)
    monkeypatch.setitem(EXTERNAL, "crops", Crops)
    Windows.seen.clear()
    Windows.asked.clear()


@pytest.fixture
def config(tiny: Tiny, tmp_path: Path) -> Callable[..., Config]:
    def make(method: str = "windows", **values: Any) -> Config:
        values = {"target": "C", "centers": tiny.centers, "cache": tiny.cache, **values}
        values |= {"spacing": SPACING, "checkpoints": tmp_path / "checkpoints", "workers": 0}
        made = make_config(STAGES["tumor_fine"], method, device="cpu", **values)
        return replace(made, stage=replace(made.stage, margin_voxels=MARGIN))

    return make


def evaluation(config: Config, **values: Any) -> Evaluation:
    paths = {name: getattr(config, name) for name in ("centers", "checkpoints", "cache")}
    values = {"method": config.method, "device": "cpu", "workers": 0, **values}
    return Evaluation("tumor_fine", **paths, **values)


def test_it_trains_on_whole_source_images_and_on_nothing_of_the_target(
    config: Callable[..., Config], tiny: Tiny
) -> None:
    (run,) = fit(config(sources=("A", "B")))
    assert [name for name, _ in Windows.seen] == [("A", "a0"), ("A", "a1"), ("B", "b0")]
    centers = load_centers(tiny.centers)
    for name, scan in Windows.seen:
        (files,) = (f for f in list_cases(centers[name[0]]) if f.case_id == name[1])
        case = load_case(centers[name[0]], files)
        np.testing.assert_array_equal(scan.image_hu, case.image_hu)
        np.testing.assert_array_equal(scan.label, case.label)
        assert scan.spacing == case.spacing
    assert run.done
    assert run.folder.name.endswith("_tumor_fine_windows_A+B")
    content = load_checkpoint(run.checkpoint)
    assert content["split"]["train_cases"] == [["A", "a0"], ["A", "a1"], ["B", "b0"]]
    assert "windows.json" in (run.folder / "done").read_text()  # with its digest
    Windows.seen.clear()
    fit(config(sources=("A", "B"), time=run.time))  # done already
    assert Windows.seen == []


def test_held_out_cases_do_not_train(config: Callable[..., Config]) -> None:
    (run,) = fit(config(sources=("A",), holdout=0.5))
    (heldout,) = run.heldout_cases
    assert [name for name, _ in Windows.seen] == [("A", {"a0": "a1", "a1": "a0"}[heldout[1]])]


def test_the_tumor_and_the_pancreas_are_measured_apart(
    config: Callable[..., Config], tiny: Tiny
) -> None:
    (run,) = fit(config(sources=("A", "B")))
    (folder,) = run_stage(evaluation(config(), target="C"))
    assert folder == run.folder / "evaluation_C_seg"  # of no threshold
    rows, organ = read_cases(folder / "cases.csv"), read_cases(folder / "pancreas.csv")
    assert [row["case_id"] for row in rows] == [row["case_id"] for row in organ] == ["c0", "c1"]
    center = load_centers(tiny.centers)["C"]
    for files, row, of_organ in zip(list_cases(center), rows, organ, strict=True):
        case = load_case(center, files)
        assert case.label is not None
        labels = found_by_windows(case.image_hu)
        assert row["dsc"] == pytest.approx(dsc(labels == 2, case.label == 2), rel=1e-4)
        assert of_organ["dsc"] == pytest.approx(dsc(labels > 0, case.label > 0), rel=1e-4)
        assert row["dsc"] != of_organ["dsc"]
        assert "threshold" not in row
        assert "roi_coverage" not in row  # it sees everything
        mask = read_mask(folder / "predictions" / f"{row['case_id']}.nii.gz", case.grid)
        np.testing.assert_array_equal(mask, labels == 2)
        written = read_volume(folder / "label_maps" / f"{row['case_id']}.nii.gz")
        assert written.grid == case.grid
        np.testing.assert_array_equal(np.sort(written.array.ravel()), np.sort(labels.ravel()))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["pancreas"]["dsc"] == pytest.approx(np.mean([row["dsc"] for row in organ]))
    assert summary["dsc"] == pytest.approx(np.mean([row["dsc"] for row in rows]))


def test_a_killed_evaluation_goes_on_behind_the_cases_that_are_there(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(config(sources=("A", "B")))
    predict = Windows.predict

    def killed(self: Windows, case: Scan, folder: Path, device: str = "auto") -> np.ndarray:
        if len(Windows.asked) == 1:
            raise KeyboardInterrupt
        return predict(self, case, folder, device)

    with monkeypatch.context() as patch:
        patch.setattr(Windows, "predict", killed)
        with pytest.raises(KeyboardInterrupt):
            run_stage(evaluation(config(), target="C"))
    (folder,) = run_stage(evaluation(config(), target="C"))
    assert len(Windows.asked) == 2  # one each
    assert len(read_cases(folder / "pancreas.csv")) == 2


def test_rows_of_the_pancreas_are_added_and_at_the_end_sorted_without_older_ones(
    tmp_path: Path,
) -> None:
    path = tmp_path / "pancreas.csv"
    assert finish_pancreas(tmp_path, []) == {}
    assert not path.exists()
    for name, value in (("b", 10.0), ("a", 20.0), ("b", 30.0), ("z", 40.0)):
        append_case(path, {"case_id": name, "dsc": value})
    assert len(path.read_text().splitlines()) == 5
    with path.open("a") as stream:
        stream.write("c,99")  # a killed evaluation of a case that is not asked for any more
    summary = finish_pancreas(tmp_path, [{"case_id": "a"}, {"case_id": "b"}])
    assert (summary["pancreas"]["cases"], summary["pancreas"]["dsc"]) == (2, 25.0)
    assert [(row["case_id"], row["dsc"]) for row in read_cases(path)] == [
        ("a", 20.0), ("b", 30.0), ("z", 40.0)
    ]  # fmt: skip
    path.write_text("case_id,dsc\na,20\n")  # of a version with fewer columns
    append_case(path, {"case_id": "b", "dsc": 30.0})
    assert [row["case_id"] for row in read_cases(path)] == ["a", "b"]


def test_a_changed_file_of_the_system_is_refused(config: Callable[..., Config]) -> None:
    (run,) = fit(config(sources=("A", "B")))
    (run.folder / "windows.json").write_text("[0, 1]")
    with pytest.raises(ValueError, match=r"windows\.json changed since the training ended"):
        run_stage(evaluation(config(), target="C"))


def test_a_center_that_has_trained_it_is_no_test(config: Callable[..., Config]) -> None:
    (run,) = fit(config(sources=("A", "B")))
    with pytest.raises(FileNotFoundError):
        run_stage(evaluation(config(), target="A"))
    assert run.done


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"threshold": "source-val"}, "--threshold source-val: it gives labels"),
        ({"roi_source": "mask"}, "--roi-source mask: the whole image is seen"),
        ({"precision": "fp16"}, "--precision fp16"),
        ({"window_voxels": 1000}, "--window-voxels"),
    ],
)
def test_what_it_does_not_have_is_refused(
    config: Callable[..., Config], given: dict[str, Any], message: str
) -> None:
    fit(config(sources=("A", "B")))
    with pytest.raises(ValueError, match=message):
        run_stage(evaluation(config(), target="C", **given))


def test_several_processes_are_refused(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="trains in one process, not 2"):
        fit(config(sources=("A", "B")))


def test_sigterm_ends_its_training_with_status_143(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: Any) -> list[Path]:
        signal.raise_signal(signal.SIGTERM)
        return []

    monkeypatch.setattr(Windows, "train", killed)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        fit(config(sources=("A", "B")))
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_crops_are_around_the_labels_pancreas_in_training(
    config: Callable[..., Config], tiny_prepared: dict[str, list[PreparedCase]]
) -> None:
    fit(config("crops", sources=("A", "B")))
    cases = {(c.center, c.case_id): c for of in tiny_prepared.values() for c in of}
    assert len(Windows.seen) == 3
    for name, scan in Windows.seen:
        case = cases[name]
        box = expand_box(case.boxes["pancreas"], MARGIN, case.shape)
        np.testing.assert_array_equal(scan.image_hu, case.image_hu[box.slices])
        assert case.label is not None
        np.testing.assert_array_equal(scan.label, case.label[box.slices])
        assert scan.spacing == SPACING
        assert scan.image_hu.shape != case.shape


def pancreas_run(config: Config, tiny: Tiny) -> Run:
    """A finished pancreas_fine with masks of C that fill a part of each label's pancreas."""
    values = {name: getattr(config, name) for name in ("centers", "cache", "checkpoints")}
    fine = make_config(
        STAGES["pancreas_fine"], spacing=SPACING, sources=("A", "B"), target="C", **values
    )
    run = create_run(fine, "20250101-000000", Split(("A", "B"), "C", (), ()))
    mark_done(run.folder)
    folder = run.folder / "evaluation_C_seg"
    center = load_centers(tiny.centers)["C"]
    rows = []
    for files in list_cases(center):
        case = load_case(center, files)
        assert case.label is not None
        mask = case.label > 0
        mask[: int(np.flatnonzero(mask.any(axis=(1, 2)))[0]) + 3] = False
        path = folder / "predictions" / f"{files.case_id}.nii.gz"
        write_mask(path, mask, case.grid)
        rows.append({"case_id": files.case_id, "mask_sha256": sha256_of(path)})
    note = {"stage": "pancreas_fine", "target": "C", "previous": None}
    for name in ("summary.json", "origin.json"):
        (folder / name).write_text(json.dumps(note))
    write_cases(folder / "cases.csv", rows)
    mark_done(folder)
    return run


def test_crops_are_around_the_pancreas_that_was_found_in_evaluation(
    config: Callable[..., Config], tiny: Tiny, tiny_prepared: dict[str, list[PreparedCase]]
) -> None:
    made = config("crops", sources=("A", "B"))
    fit(made)
    with pytest.raises(FileNotFoundError, match="needs pancreas_fine"):
        run_stage(evaluation(made, target="C"))
    pancreas_run(made, tiny)
    (folder,) = run_stage(evaluation(made, target="C"))
    rows = read_cases(folder / "cases.csv")
    for case, row, (scan, _) in zip(tiny_prepared["C"], rows, Windows.asked, strict=True):
        assert scan.image_hu.shape != case.shape
        whole = expand_box(case.boxes["pancreas"], MARGIN, case.shape)
        assert scan.image_hu.shape[0] <= whole.shape[0]
        assert 0 < row["roi_coverage_margin"] <= 1
        labels = read_volume(folder / "label_maps" / f"{row['case_id']}.nii.gz").array
        assert set(np.unique(labels)) == {0, 1, 2}
        inside = np.count_nonzero(labels)  # nothing beyond the crop
        assert 0 < inside <= scan.image_hu.size
    (by_label,) = run_stage(evaluation(made, target="C", roi_source="mask"))
    assert all(row["roi_coverage"] == 1 for row in read_cases(by_label / "cases.csv"))


def test_a_crop_comes_back_to_where_it_was_cut(
    config: Callable[..., Config], tiny_prepared: dict[str, list[PreparedCase]]
) -> None:
    """The files' voxels are the prepared ones here, so that the label map is exact."""
    made = config("crops", sources=("A", "B"))
    fit(made)
    (folder,) = run_stage(evaluation(made, target="C", roi_source="mask"))
    for case in tiny_prepared["C"]:
        box = expand_box(case.boxes["pancreas"], MARGIN, case.shape)
        expected = np.zeros(case.shape, np.uint8)
        expected[box.slices] = found_by_windows(case.image_hu[box.slices])
        mask = read_mask(folder / "predictions" / f"{case.case_id}.nii.gz", case.grid)
        np.testing.assert_array_equal(mask, expected == 2)


def test_a_stage_that_it_does_not_have_is_refused_with_the_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, stage in STAGES.items():
        if name == "tumor_fine":
            continue
        for parse in (parse_config, parse_evaluation):
            with pytest.raises(SystemExit):
                parse(stage, ["--method", "windows"])
            error = capsys.readouterr().err
            assert f"--method windows: has no {name}" in error
            assert "python train_tumor/train_sh_tumor_fine.py --method windows" in error


def test_settings_of_our_loop_are_refused_and_those_of_a_plan_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stage = STAGES["tumor_fine"]
    with pytest.raises(SystemExit):
        parse_config(stage, ["--method", "windows", "--width", "8", "--epochs", "3"])
    assert "--width --epochs: method windows has its own training" in capsys.readouterr().err
    with pytest.raises(SystemExit):  # the whole image has no margin
        parse_config(stage, ["--method", "windows", "--margin-voxels", "1", "1", "1"])
    crops = parse_config(stage, ["--method", "crops", "--margin-voxels", "1", "1", "1"])
    assert crops.stage.margin_voxels == (1, 1, 1)
    capsys.readouterr()
    plan = Plan(preset="small", options=("--lr", "1e-2", "--seed", "3"))
    config = plan.config("tumor_fine", "windows")
    assert (config.width, config.lr, config.seed, config.spacing) == (32, 1e-4, 3, (3.5, 2.8, 2.8))
    assert config == without_unused(config)
    words = config_arguments(config)
    assert parse_config(stage, words) == config
    assert plan.config("tumor_fine", "crops").stage.margin_voxels == (2, 7, 7)


def test_a_cell_of_it_needs_no_stage_before_and_knows_one_threshold(tiny: Tiny) -> None:
    centers = load_centers(tiny.centers)
    plan = Plan(centers=tiny.centers, time="20250101-000000")
    cells = {
        make_cell(centers, "tumor_fine", "C", method="windows", threshold=threshold)
        for threshold in ("target", "source-val")
    }
    (cell,) = cells
    kinds = [(step.kind, step.stage, step.training.config.method) for step in steps_of(plan, cell)]
    assert kinds == [("train", "tumor_fine", "windows"), ("evaluate", "tumor_fine", "windows")]
    crops = make_cell(centers, "tumor_fine", "C", method="crops")
    stages = [step.stage for step in steps_of(plan, crops) if step.kind == "evaluate"]
    assert stages == ["pancreas_coarse", "pancreas_fine", "tumor_fine"]


def test_the_cost_and_the_budget_are_noted(config: Callable[..., Config]) -> None:
    made = config(sources=("A", "B"))
    (run,) = fit(replace(made, settings=WindowSettings(1)))
    cost = read_cost(run.checkpoint)
    assert cost.complexity == Complexity(5, 30)
    assert cost.budget == (1, 3)


def test_the_steps_of_its_cell_fill_it_for_both_thresholds_and_verify(
    tiny: Tiny, tmp_path: Path
) -> None:
    words = ("--device", "cpu", "--workers", "0", "--spacing", *map(str, SPACING))
    paths: dict[str, Any] = {"centers": tiny.centers, "cache": tiny.cache, "checkpoints": tmp_path}
    plan = Plan(**paths, holdout=0.0, time="20250101-000000", options=words)
    centers = load_centers(tiny.centers)
    key = ResultKey("tumor_fine", "C", "windows", 2022)
    keys = [key, replace(key, threshold="source-val")]
    steps = missing_steps(plan, [cell_of(centers, key)])
    loads = loads_of(steps, Splits(tiny.centers))
    assert [load.count for load in loads.values()] == [3, 2]  # its iterations, C's cases
    configs = [step.training.config for step in steps]
    assert known_speeds(configs, "cpu", "cpu 1", tmp_path) == {}  # our loop cannot measure it
    for step in steps_of(plan, cell_of(centers, key)):
        if step.kind == "train":
            fit(step.config)
        else:
            run_stage(replace(step.evaluation, device="cpu"))
    assert missing_steps(plan, [cell_of(centers, key)], Splits(tiny.centers)) == []
    rows = collect_rows(plan, centers, with_earlier(keys), networks=True)
    assert set(rows.evaluations) == set(keys)
    assert rows.networks == {("windows", "tumor_fine"): Network(5, 30, 3, 3)}
    (folder,) = tmp_path.glob("*_tumor_fine_windows_*")
    assert list(verify_folder(folder, tmp_path, centers, tiny.cache)) == []
    (folder / "evaluation_C_seg" / "pancreas.csv").write_text("case_id\n")
    assert any(
        "pancreas.csv" in text for text in verify_folder(folder, tmp_path, centers, tiny.cache)
    )
