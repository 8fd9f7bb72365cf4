"""An experiment with trained rows; for `pytest_plugins`, beside `tests._evaluation_plugin`."""

from __future__ import annotations

from pathlib import Path

import pytest

from methods import METHODS
from reproduce.experiments.plan import Plan, note_experiment
from tests._evaluation_fixtures import PREPARED_SPACING, TIME, TUMOR_CUT, Place
from tests._trained_fixtures import NARROW_CUT, WindowBaseline, train


@pytest.fixture
def plan(place: Place, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Of small centers, nothing trained; BL's network is a window too."""
    monkeypatch.setitem(METHODS, "bl", WindowBaseline)
    spacing = [str(length) for length in PREPARED_SPACING]
    options = ("--spacing", *spacing, "--margin-voxels", "1", "2", "2", "--mirror-axes")
    options = (*options, "--window-voxels", "40", "40")
    return Plan(place.centers, place.checkpoints, place.cache, 0.0, options, time=TIME)


@pytest.fixture
def experiment(plan: Plan, tmp_path: Path) -> Path:
    """An experiment's folder: Ours and BL trained for the target C; BL's window is narrower."""
    train(plan, "ours", TUMOR_CUT)
    train(plan, "bl", NARROW_CUT)
    note_experiment(tmp_path / "experiment", plan)
    return tmp_path / "experiment"
