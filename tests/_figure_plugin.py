"""Fixtures of the figures; for `pytest_plugins = ["tests._figure_plugin"]` in a module."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.centers import load_centers
from reproduce.analysis.figures import Request
from reproduce.experiments.plan import Plan
from tests._evaluation_fixtures import write_center, write_toml
from tests._figure_fixtures import CASES, NAMES, OPTIONS
from tests._table_fixtures import TIME


@pytest.fixture(scope="session")
def picture_centers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Centers A, B and C with four cases each, and N without lesions; not to be changed."""
    folder = tmp_path_factory.mktemp("centers")
    for number, name in enumerate((*NAMES, "N")):
        write_center(folder / name, CASES, seed=10 * number, lesions=name != "N")
    keys = {"images": '"images"', "labels": '"labels"'}
    tables = {name: dict(keys) for name in NAMES} | {"N": {**keys, "has_lesions": "false"}}
    return write_toml(folder / "centers.toml", tables)


@pytest.fixture
def asked(picture_centers: Path, tmp_path: Path) -> Request:
    """A request whose checkpoints are empty."""
    plan = Plan(
        picture_centers, tmp_path / "checkpoints", tmp_path / "cache", options=OPTIONS, time=TIME
    )
    return Request(plan, load_centers(picture_centers), NAMES, tmp_path / "out", "target", 2022)
