"""reproduce/curves.py: snapshots measured end to end, resumed, and the curves by hand."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib import pyplot as plt

from data.centers import load_centers
from data.readers import list_cases, load_case
from data.splits import Split
from engine.checkpointing import save_checkpoint, snapshot_file
from engine.run_folders import create_run, mark_done
from reproduce import curves as script
from reproduce.analysis.curves import (
    CURVES,
    CurvePoint,
    curve,
    curve_path,
    curves_markdown,
    draw_curves,
)
from reproduce.experiments.cells import TRAIN, make_cell, steps_of
from reproduce.experiments.plan import Plan, note_experiment
from tests._evaluation_fixtures import PREPARED_SPACING, TIME, TUMOR_CUT, Place, hu_window
from utils.settings import to_plain

pytest_plugins = ["tests._evaluation_plugin"]
POINT = CurvePoint("bl", "BL", "tumor_coarse", "C", 1, 1, "test", "C", "a", 50.0, "w")


def points(*values: tuple[int, int, str, str, str, float]) -> list[CurvePoint]:
    """Seed, epoch, kind of cases, center, case, Dice."""
    return [
        replace(POINT, seed=seed, epoch=epoch, cases=kind, center=center, case_id=case, dsc=dice)
        for seed, epoch, kind, center, case, dice in values
    ]


def test_a_curve_is_the_mean_over_cases_then_centers_then_trainings() -> None:
    found = points(
        (1, 1, "heldout", "A", "a", 10.0),
        (1, 1, "heldout", "A", "b", 30.0),
        (1, 1, "heldout", "B", "a", 60.0),  # mean of A 20, of B 60: 40
        (2, 1, "heldout", "A", "a", 80.0),
        (1, 2, "heldout", "A", "a", 99.0),  # the second training lacks this epoch
        (1, 1, "test", "C", "a", 5.0),
    )
    assert curve(found, "heldout") == {1: 60.0}
    assert curve(found, "test") == {1: 5.0}


def test_the_epoch_is_chosen_by_the_sources_alone() -> None:
    found = points(
        *((1, epoch, "heldout", "A", "a", dice) for epoch, dice in ((1, 40.0), (2, 70.0), (3, 60))),
        *((1, epoch, "test", "C", "a", dice) for epoch, dice in ((1, 90.0), (2, 20.0), (3, 30))),
    )
    (line,) = [x for x in curves_markdown(found, "tumor_coarse").splitlines() if "| BL |" in x]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["BL", "1", "3", "60.00", "30.00", "2", "70.00", "20.00"]
    figure = draw_curves(found)
    drawn = [axis.lines[0].get_ydata().tolist() for axis in figure.axes]  # type: ignore[union-attr]
    assert drawn == [[40.0, 70.0, 60.0], [90.0, 20.0, 30.0]]
    plt.close(figure)


def test_lines_come_back_as_they_were_written_and_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    CURVES.write(path, [POINT])
    assert CURVES.read(path) == [POINT]
    path.write_text(path.read_text().replace("50", "half"))
    with pytest.raises(ValueError, match=r"x\.csv, line 2: cannot be read"):
        CURVES.read(path)
    with pytest.raises(FileNotFoundError, match=r"curves: nothing is there; reproduce/curves\.py"):
        CURVES.read_all(tmp_path)


def test_snapshots_are_measured_once_and_shown(place: Place, tmp_path: Path) -> None:
    spacing = [str(length) for length in PREPARED_SPACING]
    options = ("--spacing", *spacing, "--margin-voxels", "1", "2", "2", "--mirror-axes")
    plan = Plan(
        place.centers, place.checkpoints, place.cache, 0.0,
        (*options, "--window-voxels", "40", "40"), time=TIME,
    )  # fmt: skip
    centers = load_centers(plan.centers)
    cell = make_cell(centers, "tumor_coarse", "C", method="ours", seed=2022)
    (step,) = [
        s for s in steps_of(plan, cell) if s.kind == TRAIN and s.stage == "tumor_coarse"
    ]  # fmt: skip
    held = place_cases(place, "A")[:1]
    split = Split(
        step.config.sources, "C", (), tuple(place_cases(place, "C")), heldout_cases=tuple(held)
    )
    run = create_run(step.config, TIME, split)
    (run.folder / "snapshots").mkdir()
    for epoch, cut in ((1, 1000.0), (2, TUMOR_CUT)):  # the first finds nothing
        weights = {f"network.{name}": value for name, value in hu_window(cut).items()}
        content = {"method": weights, "config": to_plain(step.config), "signatures": {}}
        content |= {"split": to_plain(split), "split_hash": split.hash}
        save_checkpoint(snapshot_file(run.folder, epoch), content)
    save_checkpoint(run.checkpoint, content)
    mark_done(run.folder)
    experiment, out = tmp_path / "experiment", tmp_path / "results"
    note_experiment(experiment, plan)
    words = ["--experiment", str(experiment), "--targets", "C", "--seeds", "2022"]
    ask = [*words, "--out", str(out), "--rows", "Ours", "--device", "cpu"]
    script.main(ask)
    path = curve_path(out, "ours", "tumor_coarse", "C", 2022)
    found = CURVES.read(path)
    assert {(p.epoch, p.cases) for p in found} == {
        (epoch, kind) for epoch in (1, 2) for kind in ("heldout", "test")
    }
    assert all(p.dsc == 0 for p in found if p.epoch == 1)
    assert all(p.dsc > 50 for p in found if p.epoch == 2)
    marked = [replace(p, dsc=1.0) for p in found]  # a second call keeps what is there
    CURVES.write(path, marked)
    script.main(ask)
    assert CURVES.read(path) == marked
    assert (experiment / "curves.png").is_file()


def place_cases(place: Place, center: str) -> list[tuple[str, str]]:
    """The cases of a center with a tumor in their label."""
    found = load_centers(place.centers)[center]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of these phantoms' HU
        labels = {f.case_id: load_case(found, f).label for f in list_cases(found)}
    return [(center, name) for name, x in labels.items() if x is not None and (x == 2).any()]
