"""Driving nnU-Net: its data set, its folds, its commands; none of these tests needs nnU-Net."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from data.case import Center
from data.readers.nnunet_raw import list_center
from data.splits import CaseName, Split
from methods import make_config
from methods.external import EXTERNAL, nnunet
from methods.external.base import Scan, TrainingCase
from methods.external.data_set import DATA_SET, make_folds, name_cases, write_data_set
from utils.config import StoppedError
from utils.stages import STAGES

SPACING = (3.0, 1.5, 1.25)
STUB = Path(__file__).with_name("_stub_launcher.py")


def scan(number: int) -> Scan:
    rng = np.random.default_rng(number)
    image_hu = rng.integers(-1000, 1000, (4, 5, 6)).astype(np.int16)
    return Scan(image_hu, SPACING, rng.integers(0, 3, (4, 5, 6)).astype(np.uint8))


def training_case(center: str, case_id: str, patient: str | None = None) -> TrainingCase:
    number = sum(map(ord, center + case_id))
    return TrainingCase((center, case_id), patient or case_id, lambda: scan(number))


CASES = [
    training_case("A", "a 1", "P1"),
    training_case("A", "a 2", "P1"),
    training_case("A", "a 3", "P2"),
    training_case("B b", "x", "P1"),
    training_case("B b", "y", "P2"),
]


def split_of(cases: Sequence[TrainingCase], *heldout: CaseName) -> Split:
    names = tuple(case.name for case in cases)
    return Split(("A", "B b"), "C", names, (("C", "c1"),), heldout_cases=heldout)


def system(name: str = "nnunet_3d_cascade", **settings: Any) -> nnunet.Nnunet:
    config = make_config(STAGES["tumor_fine"], name, settings, workers=0)
    built = EXTERNAL[name](config)
    assert isinstance(built, nnunet.Nnunet)
    return built


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net counts as installed, and its launcher is the stub."""
    monkeypatch.setattr(nnunet, "LAUNCHER", STUB)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


def calls(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "nnunet" / "calls.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_data_set_holds_the_source_cases_as_they_are_and_no_other(tmp_path: Path) -> None:
    named = name_cases(CASES[::-1])
    write_data_set(tmp_path, named)
    folder = tmp_path / "raw" / DATA_SET
    names = ["A_0001", "A_0002", "A_0003", "B-b_0001", "B-b_0002"]
    images = sorted(path.name for path in (folder / "imagesTr").iterdir())
    assert images == [f"{name}_0000.nii.gz" for name in names]
    assert sorted(p.name for p in (folder / "labelsTr").iterdir()) == [
        f"{name}.nii.gz" for name in names
    ]
    assert {p.name for p in folder.iterdir()} == {"dataset.json", "imagesTr", "labelsTr"}
    for name, case in zip(names, CASES, strict=True):
        expected = case.read()
        for path, array in (
            (folder / "imagesTr" / f"{name}_0000.nii.gz", expected.image_hu),
            (folder / "labelsTr" / f"{name}.nii.gz", expected.label),
        ):
            image = sitk.ReadImage(str(path))
            np.testing.assert_array_equal(sitk.GetArrayFromImage(image), array)
            assert image.GetSpacing() == pytest.approx(SPACING[::-1])
    facts = json.loads((folder / "dataset.json").read_text())
    assert facts["channel_names"] == {"0": "CT"}  # which chooses the normalization of CT
    assert facts["labels"] == {"background": 0, "pancreas": 1, "tumor": 2}
    assert facts["numTraining"] == 5
    listed = json.loads((tmp_path / "cases.json").read_text())
    assert listed == {name: list(c.name) for name, c in zip(names, CASES, strict=True)}


def test_our_reader_of_nnunets_layout_takes_the_data_set(tmp_path: Path) -> None:
    write_data_set(tmp_path, name_cases(CASES))
    listing = list_center(Center("N", "nnunet_raw", tmp_path / "raw" / DATA_SET))
    assert [case.case_id for case in listing.cases] == sorted(name_cases(CASES))


def test_what_a_killed_call_has_written_is_not_read_again(tmp_path: Path) -> None:
    write_data_set(tmp_path, name_cases(CASES[:2]))

    def unread() -> Scan:
        raise AssertionError("read again")

    partial = tmp_path / "raw" / DATA_SET / "imagesTr" / ".A_0003_0000.17.ab.nii.gz"
    partial.write_bytes(b"half of an image")  # nnU-Net takes a hidden file for an image too
    known = [replace(case, read=unread) for case in CASES[:2]]
    write_data_set(tmp_path, name_cases([*known, CASES[2]]))
    assert len(list((tmp_path / "raw" / DATA_SET / "imagesTr").iterdir())) == 3


def test_a_case_without_a_label_is_refused_by_its_name(tmp_path: Path) -> None:
    bare = TrainingCase(("A", "a"), "a", lambda: replace(scan(1), label=None))
    with pytest.raises(ValueError, match="A/a: has no label"):
        write_data_set(tmp_path, name_cases([bare]))


def test_each_case_validates_once_and_a_patient_stays_together() -> None:
    named = name_cases(CASES)
    folds = make_folds(named, 2)
    for fold in folds:
        assert not set(fold["train"]) & set(fold["val"])
        assert set(fold["train"]) | set(fold["val"]) == set(named)
        assert {name[0] for name in fold["val"]} == {"A", "B"}  # of each center
    assert sorted(name for fold in folds for name in fold["val"]) == sorted(named)
    (place,) = [k for k, fold in enumerate(folds) if "A_0001" in fold["val"]]
    assert "A_0002" in folds[place]["val"]  # P1's other scan


def test_more_folds_than_patients_are_refused() -> None:
    with pytest.raises(ValueError, match="--folds 5: the source centers have 4 patients"):
        make_folds(name_cases(CASES), 5)


@pytest.mark.usefixtures("stubbed")
def test_the_cascade_trains_lowres_on_every_fold_then_itself(tmp_path: Path) -> None:
    method = system(folds=2, num_epochs=1)
    files = method.train(split_of(CASES), CASES, tmp_path, "cpu")
    made = [(call["task"], *call["words"]) for call in calls(tmp_path)]
    assert made == [
        ("plan",),
        ("train", "3d_lowres", "0", "1"),
        ("train", "3d_cascade_fullres", "0"),
    ]
    home = tmp_path / "nnunet"
    assert calls(tmp_path)[0]["nnUNet_raw"] == str(home / "raw")
    assert calls(tmp_path)[0]["nnUNet_compile"] == "f"
    settings = json.loads((home / "settings.json").read_text())
    assert settings["validated"] == ["3d_lowres"]  # whose label maps the cascade trains on
    assert settings["configurations"] == ["3d_lowres", "3d_cascade_fullres", "3d_fullres"]
    assert settings["budget"] == {
        "epochs": 1,
        "iterations": 250,
        "validation_iterations": 50,
        "mirroring": True,
        "seed": 2022,
        "tile_step": 0.5,
    }
    assert sorted(path.parent.name for path in files if path.suffix == ".pth") == ["fold_0"] * 2
    assert all(path.is_file() for path in files)
    # no copy of an image is left among the checkpoints
    assert not (home / "raw").exists()
    assert not (home / "preprocessed").exists()


@pytest.mark.usefixtures("stubbed")
def test_neither_the_target_nor_a_held_out_case_reaches_nnunet(tmp_path: Path) -> None:
    method = system("nnunet_3d_fullres", folds=2)
    train, heldout = CASES[1:], CASES[0].name
    method.train(split_of(train, heldout), train, tmp_path, "cpu")
    (plan, _) = calls(tmp_path)
    names = ["A_0001", "A_0002", "B-b_0001", "B-b_0002"]
    images = [f"{name}_0000.nii.gz" for name in names]
    assert plan["there"] == sorted([*images, *(f"{name}.nii.gz" for name in names)])
    seen = json.loads((tmp_path / "nnunet" / "cases.json").read_text()).values()
    assert [tuple(name) for name in seen] == [case.name for case in train]


@pytest.mark.usefixtures("stubbed")
@pytest.mark.parametrize("name", [("C", "c1"), ("A", "a 1")])
def test_a_case_that_must_not_train_stops_it(tmp_path: Path, name: CaseName) -> None:
    train = CASES[1:]
    leaked = TrainingCase(name, "P9", lambda: scan(9))
    with pytest.raises(ValueError, match=f"split for C: {'/'.join(name)} must not train"):
        system("nnunet_3d_fullres").train(
            split_of(train, ("A", "a 1")), [*train, leaked], tmp_path, "cpu"
        )
    assert not (tmp_path / "nnunet").exists()


@pytest.mark.usefixtures("stubbed")
def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    method = system(folds=2)
    home = tmp_path / "nnunet"
    home.mkdir()
    (home / "stub.json").write_text(json.dumps({"task": "train", "status": 1, "say": "no luck"}))
    with pytest.raises(
        StoppedError, match=r"train 3d_lowres 0 1 ended with status 1.*(?s:.)*no luck"
    ):
        method.train(split_of(CASES), CASES, tmp_path, "cpu")
    assert (home / "raw").is_dir()  # still needed
    assert "no luck" in (home / "nnunet.log").read_text()
    (home / "stub.json").unlink()
    (home / "3d_lowres_fold0.done").write_text("")
    method.train(split_of(CASES), CASES, tmp_path, "cpu")
    assert [(call["task"], *call["words"]) for call in calls(tmp_path)[2:]] == [
        ("train", "3d_lowres", "1"),
        ("train", "3d_cascade_fullres", "0"),
    ]


def test_nnunet_and_its_workers_end_with_what_started_them(tmp_path: Path) -> None:
    worker = "import subprocess, sys, time; p = subprocess.Popen(['sleep', '60']); print(p.pid)"
    command = [sys.executable, "-c", f"{worker}; sys.stdout.flush(); time.sleep(60)"]
    with nnunet._started(command, dict(os.environ)) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
    assert process.returncode == -signal.SIGTERM
    state = Path(f"/proc/{child}/stat")
    end = time.monotonic() + 10
    while state.is_file() and state.read_text().split()[2] != "Z" and time.monotonic() < end:
        time.sleep(0.05)
    assert not state.is_file() or state.read_text().split()[2] == "Z"


@pytest.mark.usefixtures("stubbed")
def test_a_configuration_that_the_planner_drops_is_reported(tmp_path: Path) -> None:
    home = tmp_path / "nnunet"
    home.mkdir()
    note = {"task": "plan", "status": nnunet.DROPPED, "say": "the planner has dropped 3d_lowres"}
    (home / "stub.json").write_text(json.dumps(note))
    with pytest.raises(ValueError, match="--method nnunet_3d_lowres: the planner has dropped"):
        system("nnunet_3d_lowres", folds=2).train(split_of(CASES), CASES, tmp_path, "cpu")


def test_a_missing_nnunet_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install -r requirements-nnunet\.txt"):
        system().train(split_of(CASES), CASES, tmp_path, "cpu")


def test_more_networks_than_folds_are_refused() -> None:
    with pytest.raises(ValueError, match="--networks 3: there are 2 folds"):
        system(networks=3, folds=2)


def test_several_networks_predict_together() -> None:
    method = system(networks=3, folds=4)
    assert list(method._trained_folds("3d_lowres")) == [0, 1, 2, 3]
    assert list(method._trained_folds("3d_cascade_fullres")) == [0, 1, 2]


def test_the_budget_is_the_authors_unless_set() -> None:
    assert system().budget() == (250_000, 250_000)
    assert system(num_epochs=1, iterations=2).budget() == (2, 250_000)
    assert system("pansegnet").budget() == (150_000, 150_000)


@pytest.mark.parametrize(("visible", "expected"), [("", "1"), ("4,7", "7")])
def test_nnunet_sees_the_gpu_that_was_chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, visible: str, expected: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(nnunet, "select_device", torch.device)
    found = nnunet.environment(tmp_path, "cuda:1", 3)
    assert found["CUDA_VISIBLE_DEVICES"] == expected
    assert (found["nnUNet_n_proc_DA"], found["nnUNet_def_n_proc"]) == ("3", "3")
    assert found["PATH"] == os.environ["PATH"]


def test_the_resenc_planner_and_the_memory_go_to_the_planner() -> None:
    method = system("nnunet_3d_fullres", planner="nnUNetPlannerResEncM", gpu_memory_gb=0.3)
    settings = method._launcher_settings("cpu")
    assert (settings["planner"], settings["gpu_memory_gb"]) == ("nnUNetPlannerResEncM", 0.3)
    assert settings["validated"] == []


def test_mirroring_and_the_distance_of_windows_go_to_its_predictor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("nnunetv2", reason="pip install -r requirements-nnunet.txt")
    made = Mock()
    monkeypatch.setattr("methods.external.trainers.nnUNetPredictor", made)
    system()._predictor(tmp_path, "3d_lowres", "cpu")
    system(mirroring=False, tile_step=1.0)._predictor(tmp_path, "3d_lowres", "cpu")
    settings = [
        (call.kwargs["use_mirroring"], call.kwargs["tile_step_size"])
        for call in made.mock_calls
        if call.kwargs
    ]
    assert settings == [(True, 0.5), (False, 1.0)]


@pytest.mark.parametrize("trainer", ["NnunetTrainer", "PaNSegNetTrainer"])
def test_the_validation_has_the_windows_and_the_maps_that_are_wanted(
    trainer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nnunetv2", reason="pip install -r requirements-nnunet.txt")
    from methods.external import trainers

    made = Mock()
    theirs = trainers.module_of_trainer
    monkeypatch.setattr(trainers, "nnUNetPredictor", made)
    monkeypatch.setattr(theirs, "nnUNetPredictor", theirs.nnUNetPredictor)  # put back behind us
    monkeypatch.setattr(
        theirs.nnUNetTrainer,
        "perform_actual_validation",
        lambda self, save_probabilities: theirs.nnUNetPredictor(tile_step_size=0.5, verbose=True),
    )
    kind = trainers.TRAINERS[trainer]
    for name in ("budget", "validated"):
        monkeypatch.setattr(kind, name, getattr(kind, name))
    trainers.begin(
        trainer, system(tile_step=1.0)._launcher_settings("cpu")["budget"], ["3d_lowres"]
    )
    for configuration in ("3d_lowres", "3d_fullres"):
        network = kind.__new__(kind)
        network.configuration_name = configuration
        network.perform_actual_validation()
    made.assert_called_once_with(tile_step_size=1.0, verbose=True)
