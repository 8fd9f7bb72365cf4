"""Which checkpoints are taken, and that one network at a time is on the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engine.cascade import segment
from engine.run_folders import Run
from engine.stage_predictors import StagePredictors, find_checkpoints
from methods import METHODS
from tests._evaluation_fixtures import (
    LATER,
    NOTHING,
    TIME,
    WindowMethod,
    hu_window,
    small_stage,
    write_four_runs,
    write_run,
)
from tests.test_cascade import case  # noqa: F401
from utils.stages import STAGE_NAMES

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _windows_for_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "ours", WindowMethod)


def add(folder: Path, stage: str, **how: Any) -> Run:
    return write_run(folder, small_stage(stage), NOTHING, **how)


def test_the_newest_finished_runs_that_belong_together_are_taken(tmp_path: Path) -> None:
    old = write_four_runs(tmp_path)
    assert find_checkpoints([tmp_path]) == {name: old[name].checkpoint for name in STAGE_NAMES}
    add(tmp_path, "tumor_fine", time=LATER, done=False)
    add(tmp_path, "tumor_fine", time=LATER, target="A", cases={"fold": 1}, sources=("A",))
    assert find_checkpoints([tmp_path])["tumor_fine"] == old["tumor_fine"].checkpoint
    wide = add(tmp_path, "pancreas_fine", time=LATER, sources=("A", "B", "N"))
    coarse = add(tmp_path, "pancreas_coarse", time="20240101-000000", sources=("A", "B", "N"))
    found = find_checkpoints([tmp_path])
    assert found["pancreas_fine"] == old["pancreas_fine"].checkpoint  # of the same experiment
    assert wide.checkpoint not in found.values()
    new = {
        stage: add(tmp_path, stage, time=LATER, seed=7) for stage in ("tumor_coarse", "tumor_fine")
    }
    found = find_checkpoints([tmp_path])
    assert [found[stage] for stage in new] == [run.checkpoint for run in new.values()]
    assert found["pancreas_fine"] == wide.checkpoint  # of its time, with more patients
    assert found["pancreas_coarse"] == coarse.checkpoint


def test_a_stage_trained_on_the_unseen_center_does_not_belong(tmp_path: Path) -> None:
    add(tmp_path, "tumor_coarse")
    add(tmp_path, "tumor_fine")
    add(tmp_path, "pancreas_fine", sources=("A", "B", "C"), target="N")
    with pytest.raises(FileNotFoundError, match="no finished training of pancreas_fine that belo"):
        find_checkpoints([tmp_path])
    chosen = find_checkpoints([tmp_path], pancreas_given=True)
    assert list(chosen) == ["tumor_coarse", "tumor_fine"]


def test_runs_that_are_as_good_are_listed(tmp_path: Path) -> None:
    for target, sources in (("C", ("A", "B")), ("A", ("B", "C"))):
        add(tmp_path, "pancreas_coarse", sources=sources, target=target)
    with pytest.raises(ValueError, match=r"as good; give --checkpoints one file .*B\+C.*A\+B"):
        find_checkpoints([tmp_path], ["pancreas_coarse"])


def test_files_are_told_by_their_stage(tmp_path: Path) -> None:
    runs = write_four_runs(tmp_path)
    folder, file = runs["tumor_fine"].folder, runs["tumor_coarse"].checkpoint
    assert list(find_checkpoints([folder, file])) == ["tumor_coarse", "tumor_fine"]
    with pytest.raises(FileNotFoundError, match="no checkpoint of pancreas_fine is given, only of"):
        find_checkpoints([folder, file], ["pancreas_fine", "tumor_fine"])
    again = add(tmp_path, "tumor_fine", time=LATER)
    with pytest.raises(ValueError, match="are both tumor_fine; give one"):
        find_checkpoints([folder, again.folder])
    with pytest.raises(ValueError, match="unknown stage 'tumour'"):
        find_checkpoints([tmp_path], ["tumour"])


def test_one_network_at_a_time_is_on_the_device(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: Any,  # noqa: F811
) -> None:
    runs = write_four_runs(tmp_path)
    places: dict[int, str] = {}
    most: list[int] = []

    def to(self: nn.Module, device: Any) -> nn.Module:  # without such a device
        places[id(self)] = str(device)
        most.append(sum(place == "meta" for place in places.values()))
        return self

    predictors = StagePredictors(find_checkpoints([tmp_path]), CPU)
    for name in STAGE_NAMES:
        predictors.on_host(name)
    monkeypatch.setattr(WindowMethod, "to", to)
    predictors.device = torch.device("meta")
    for name in (*STAGE_NAMES, *STAGE_NAMES):
        assert predictors[name].device == predictors.device
        assert places[id(predictors[name].method)] == "meta"
    assert max(most) == 1
    predictors.device = CPU
    found = segment(case, predictors)
    assert all(one.mask.any() for one in found.values())
    assert TIME in str(runs["tumor_fine"].folder)


def test_a_cpu_bounds_what_goes_through_at_once(tmp_path: Path) -> None:
    for width, name in ((8, "pancreas_coarse"), (32, "tumor_fine")):
        write_run(tmp_path, small_stage(name), hu_window(0), width=width)
    files = {
        name: path / "last.pt"
        for name in ("pancreas_coarse", "tumor_fine")
        for path in tmp_path.glob(f"*{name}*")
    }
    predictors = StagePredictors(files, CPU)
    assert predictors["tumor_fine"].window_voxels == 3 * 2**20
    assert predictors["pancreas_coarse"].window_voxels == 12 * 2**20
    assert StagePredictors(files, CPU, window_voxels=5000)["tumor_fine"].window_voxels == 5000
    gpu = StagePredictors(files, torch.device("meta"), "fp32")
    gpu.on_host("tumor_fine")
    assert gpu._window("tumor_fine") is None
