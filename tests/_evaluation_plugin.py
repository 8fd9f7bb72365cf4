"""Fixtures of the evaluation; for `pytest_plugins = ["tests._evaluation_plugin"]` in a module."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import engine.case_pipeline
from methods import METHODS
from tests._evaluation_fixtures import (
    CASES,
    Place,
    WindowMethod,
    write_center,
    write_four_runs,
    write_toml,
)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A, B and C have lesions, N none, U no labels."""
    folder = tmp_path_factory.mktemp("data sets")  # with a space, as folders have
    write_center(folder / "C", len(CASES), seed=1)
    write_center(folder / "A", 2, seed=31)
    write_center(folder / "B", 2, seed=41)
    write_center(folder / "N", 2, seed=11, lesions=False)
    write_center(folder / "U", 2, seed=21, labels=False)
    tables = {"A": {}, "B": {}, "C": {}, "N": {"has_lesions": "false"}, "U": {}}
    toml = write_toml(folder / "centers.toml", tables)
    return Place(toml, folder / "checkpoints", folder / "cache")


@pytest.fixture(scope="session")
def finished(data: Place) -> dict[str, Path]:
    """The results of all four stages on C; a test must not change them."""
    write_four_runs(data.checkpoints)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "ours", WindowMethod)
        return data.all_stages()


@pytest.fixture
def place(data: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The same centers and cache, with a folder of runs of its own."""
    monkeypatch.setitem(METHODS, "ours", WindowMethod)
    return replace(data, checkpoints=tmp_path / "some runs")


@pytest.fixture
def evaluated(data: Place, finished: dict[str, Path], place: Place) -> Place:
    """A copy of the finished results, to be changed."""
    shutil.copytree(data.checkpoints, place.checkpoints)
    return place


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cases that are predicted from here on."""
    names: list[str] = []
    predict_case = engine.case_pipeline.predict_case

    def noted(*args: Any) -> Any:
        names.append(args[1].item.case_id)
        return predict_case(*args)

    monkeypatch.setattr(engine.case_pipeline, "predict_case", noted)
    return names
