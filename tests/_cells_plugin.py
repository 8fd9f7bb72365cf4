"""An experiment of tiny centers, and its steps as if they had been done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from data.case import Center
from data.centers import load_centers
from engine.case_metrics import Row, write_cases, write_summary
from engine.results import digest_result, result_folder
from engine.run_folders import create_run, mark_done, read_run
from engine.split_selection import with_contents
from reproduce.experiments.cells import (
    Step,
)
from reproduce.experiments.finished import (
    Splits,
)
from reproduce.experiments.plan import Plan
from tests.conftest import Tiny
from utils.files import write_json

SMALL = ("--width", "8", "--spacing", "3", "1.5", "1.5", "--workers", "0", "--no-tensorboard")
TIME = "20260101-000000"


@pytest.fixture
def centers(tiny: Tiny) -> dict[str, Center]:
    return load_centers(tiny.centers)


@pytest.fixture
def splits(tiny: Tiny) -> Splits:
    return Splits(tiny.centers)


@pytest.fixture
def plan(tiny: Tiny, tmp_path: Path) -> Plan:
    return Plan(
        tiny.centers, tmp_path / "checkpoints", tiny.cache, holdout=0.4, options=SMALL, time=TIME
    )


@pytest.fixture
def finish(splits: Splits) -> Callable[[Step], None]:
    """Leave on disk what a step would, without computing it."""

    def do(step: Step) -> None:
        if step.kind == "train":
            split = splits.of(step.config)
            split = with_contents(split, splits.contents(step.config))
            run = create_run(step.config, str(step.config.time), split)
            mark_done(run.folder)
            return
        run_ = read_run(step.folder)
        assert run_ is not None
        asked = step.evaluation
        found = [str(asked.target)]
        if asked.cases == "heldout":
            found = sorted({center for center, _ in run_.heldout_cases})
        for name in found:
            place = result_folder(run_, step.stage, name, asked)
            rows: list[Row] = [{"case_id": f"{name}0", "dsc": 50.0, "seconds": 1.0}]
            place.mkdir(exist_ok=True)
            write_cases(place / "cases.csv", rows)
            write_summary(place / "summary.json", rows, {"target": name})
            write_json(place / "origin.json", origin(step, name))
            mark_done(place)

    def origin(step: Step, center: str) -> dict[str, str | None]:
        if step.before is None:
            return {"previous": None, "previous_sha256": None}
        asked, run = step.before.evaluation, read_run(step.before.folder)
        assert run is not None
        folder = result_folder(run, step.before.stage, center, asked)
        return {
            "previous": str(folder.relative_to(asked.checkpoints)),
            "previous_sha256": digest_result(folder),
        }

    return do
