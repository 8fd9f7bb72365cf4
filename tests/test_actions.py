"""What a worker does with a task."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from data.centers import load_centers
from engine.run_folders import find_runs
from reproduce.experiments.cells import Plan, make_cell
from reproduce.experiments.finished import find_folders, missing_steps, read_cell
from reproduce.experiments.workload import loads_of, tasks_of
from reproduce.workflow.actions import run_step
from reproduce.workflow.tasks import Task
from tests._evaluation_fixtures import read_summary
from tests.conftest import Tiny

SMALL = (
    *("--width", "8", "--spacing", "3", "1.5", "1.5", "--workers", "0", "--no-tensorboard"),
    *("--jitter-voxels", "0", "4", "--window-voxels", "32", "32", "--epochs", "1"),
    *("--precision", "fp32"),
)


def test_an_unknown_kind_of_task_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown kind of task 'dream'"):
        run_step(Task("t", "dream", "tumor_fine", (), "x.py"), "cpu")


@pytest.mark.slow
def test_settings_that_share_a_folder_do_not_mix(
    tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A, then B (another coarse stage, the same fine one), then A again: each has its own."""
    monkeypatch.setattr(sys, "argv", [*sys.argv])  # which a step replaces
    centers = load_centers(tiny.centers)
    checkpoints = tmp_path / "checkpoints"
    other = {"pancreas_coarse": ("--lr", "0.01")}
    plans = {
        "a": Plan(tiny.centers, checkpoints, tiny.cache, holdout=0, options=SMALL),
        "b": Plan(
            tiny.centers, checkpoints, tiny.cache, holdout=0, options=SMALL, stage_options=other
        ),
    }
    cell = make_cell(centers, "pancreas_fine", "B")
    read: list[str] = []
    for name in "aba":
        plan = plans[name]
        assert read_cell(plan, cell) is None
        for task in tasks_of(plan, loads_of(plan, missing_steps(plan, [cell]), "cpu")):
            run_step(task, "cpu")
        (folder,) = find_folders(plan, cell)
        read.append(read_summary(folder)["previous"])
    assert read[0] == read[2] != read[1]
    assert len(find_runs(checkpoints, "pancreas_coarse")) == 2
    assert len(find_runs(checkpoints, "pancreas_fine")) == 1
