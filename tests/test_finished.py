"""Which results exist: of the settings, the cases and the files of now."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from data.case import Center
from data.centers import load_centers
from engine.case_metrics import Row, write_cases
from engine.evaluation import run_stage
from engine.run_folders import create_run, locked, mark_done, read_run
from engine.split_selection import select_splits, with_contents
from engine.threshold_selection import THRESHOLDS as THRESHOLD_CHOICES
from engine.threshold_selection import sweep_path
from engine.training import fit
from reproduce.experiments.cells import (
    Step,
    lesion_centers,
    make_cell,
    steps_of,
)
from reproduce.experiments.finished import (
    SUPERSEDED,
    Splits,
    find_folders,
    find_run,
    is_done,
    missing_steps,
    read_cell,
    set_aside,
    stale_folders,
)
from reproduce.experiments.plan import Plan
from tests.conftest import Tiny
from utils.config import StoppedError
from utils.files import write_json

pytest_plugins = ["tests._cells_plugin"]


def names(steps: Sequence[Step]) -> list[str]:
    """Each step in two words."""
    return [f"{step.kind} {step.stage}" for step in steps]


def test_what_is_done_is_found_and_not_missing(
    plan: Plan, centers: dict[str, Center], finish: Callable[[Step], None], splits: Splits
) -> None:
    cell = make_cell(centers, "tumor_coarse", "B", threshold="source-val")
    assert find_folders(plan, cell) == []
    assert read_cell(plan, cell) is None
    steps = steps_of(plan, cell)
    for number, step in enumerate(steps):
        assert missing_steps(plan, [cell], splits) == list(steps[number:])
        assert not is_done(step)
        finish(step)
        assert is_done(step, splits)
    assert missing_steps(plan, [cell], splits) == []
    assert stale_folders(steps, splits) == []
    (folder,) = find_folders(plan, cell)
    assert folder.name == "evaluation_B_seg_source-val"
    assert read_cell(plan, cell) == [{"case_id": "B0", "dsc": 50.0, "seconds": 1.0, "center": "B"}]
    for other in (
        replace(cell, seed=1),
        replace(cell, method="bl"),
        replace(cell, roi_source="mask"),
        make_cell(centers, "tumor_coarse", "C", threshold="source-val"),
    ):
        assert read_cell(plan, other) is None
    assert read_cell(replace(plan, options=(*plan.options, "--lr", "0.01")), cell) is None
    assert read_cell(replace(plan, time="20260101-000001"), cell) is None  # another experiment
    (tumor_run,) = plan.checkpoints.glob("*_tumor_coarse_*")
    (tumor_run / "done").unlink()
    assert read_cell(plan, cell) is None


def test_a_result_counts_only_as_long_as_what_it_was_read_from(
    plan: Plan, centers: dict[str, Center], finish: Callable[[Step], None], splits: Splits
) -> None:
    cell = make_cell(centers, "tumor_coarse", "B")
    for step in steps_of(plan, cell):
        finish(step)
    assert missing_steps(plan, [cell], splits) == []
    (coarse,) = plan.checkpoints.glob("*_pancreas_coarse_*/evaluation_B_seg")
    rows: list[Row] = [{"case_id": "B0", "dsc": 60.0, "mask_sha256": "another"}]
    write_cases(coarse / "cases.csv", rows)  # it was evaluated again
    assert find_folders(plan, cell) == []
    missing = missing_steps(plan, [cell], splits)
    assert names(missing) == ["evaluate pancreas_fine", "evaluate tumor_coarse"]
    assert stale_folders(missing, splits) == []  # no training is


def test_a_result_counts_only_with_the_threshold_of_now(
    plan: Plan, centers: dict[str, Center], finish: Callable[[Step], None]
) -> None:
    cell = make_cell(centers, "tumor_coarse", "B", threshold="source-val")
    both = [cell, replace(cell, threshold="target")]
    steps = dict.fromkeys(step for c in both for step in steps_of(plan, c))
    for step in steps:
        finish(step)
    (heldout,) = (step for step in steps if step.name.endswith("A+C_heldout_seg"))
    best = {f"{t:g}": 50.0 + (t == 0.3) for t in THRESHOLD_CHOICES}
    for center, case_id in read_cases_of(heldout):
        place = heldout.folder / f"evaluation_{center}_seg_heldout"
        write_json(sweep_path(place, case_id), best)
    for threshold, value in (("target", 0.7), ("source-val", 0.3)):
        note = heldout.folder / f"evaluation_B_seg_{threshold}" / "origin.json"
        write_json(note, json.loads(note.read_text()) | {"threshold": value})
    seven = Splits(plan.centers)
    seven.centers["B"] = replace(centers["B"], tumor_threshold=0.7)
    assert missing_steps(plan, both, seven) == []
    missing = missing_steps(plan, both, Splits(plan.centers))  # its threshold is another now
    assert [step.name for step in missing] == ["evaluate_tumor_coarse_ours_A+C_on_B_seg_target"]
    for center, case_id in read_cases_of(heldout):
        place = heldout.folder / f"evaluation_{center}_seg_heldout"
        write_json(sweep_path(place, case_id), {**best, "0.5": 99.0})  # evaluated again
    missing = missing_steps(plan, both, seven)
    assert [step.name for step in missing] == ["evaluate_tumor_coarse_ours_A+C_on_B_seg_source-val"]


def read_cases_of(heldout: Step) -> list[tuple[str, str]]:
    """The held-out cases of a step's run."""
    run = read_run(heldout.folder)
    assert run is not None
    return sorted(run.heldout_cases)


def test_another_setting_of_an_earlier_stage_asks_for_all_that_depends_on_it(
    plan: Plan, centers: dict[str, Center], finish: Callable[[Step], None], splits: Splits
) -> None:
    cell = make_cell(centers, "tumor_coarse", "B")
    for step in steps_of(plan, cell):
        finish(step)
    other = replace(plan, stage_options={"pancreas_coarse": ("--lr", "0.01")})
    missing = missing_steps(other, [cell], splits)
    assert names(missing) == [
        "train pancreas_coarse",
        "evaluate pancreas_coarse",
        "evaluate pancreas_fine",
        "evaluate tumor_coarse",
    ]
    assert read_cell(other, cell) is None
    assert read_cell(plan, cell) is not None
    (stale,) = stale_folders(missing, splits)
    assert stale.name == f"{plan.time}_pancreas_coarse_ours_A+C+N"
    moved = set_aside(stale)
    assert moved == plan.checkpoints / SUPERSEDED / f"{stale.name}-1"
    assert (moved / "evaluation_B_seg" / "cases.csv").is_file()  # nothing computed is lost
    assert read_cell(plan, cell) is None
    for step in missing:
        finish(step)
    assert read_cell(other, cell) is not None
    assert set_aside(stale).name == f"{stale.name}-2"


def test_a_run_of_other_cases_is_stale_and_one_without_duplicates_is_not(
    plan: Plan, centers: dict[str, Center], splits: Splits
) -> None:
    (step,) = steps_of(plan, make_cell(centers, "pancreas_coarse", "B"))[:1]
    (split,) = select_splits(step.config, centers)
    keys = splits.contents(step.config)
    dropped = split.train_cases[:1]
    kept = with_contents(replace(split, train_cases=split.train_cases[1:]), keys)
    create_run(step.config, plan.time, replace(kept, dropped_cases=dropped))
    assert find_run(step, splits) is not None  # its center drops a copy: the plan's own cases
    assert stale_folders([step], splits) == []
    create_run(step.config, plan.time, kept)
    assert find_run(step) is not None  # without looking at the cases
    assert find_run(step, splits) is None
    assert stale_folders([step], splits) == [step.folder]


def test_a_run_whose_cases_have_changed_since_is_stale(
    plan: Plan, centers: dict[str, Center], splits: Splits
) -> None:
    (step,) = steps_of(plan, make_cell(centers, "pancreas_coarse", "B"))[:1]
    split = with_contents(splits.of(step.config), splits.contents(step.config))
    case = next(iter(split.contents))
    assert len(split.contents[case]) == 16
    create_run(step.config, plan.time, split)
    assert find_run(step, splits) is not None
    before = replace(split, contents={**split.contents, case: "0" * 16})
    create_run(step.config, plan.time, before)
    assert find_run(step) is not None  # tables do not read the data
    assert find_run(step, splits) is None
    assert stale_folders([step], splits) == [step.folder]


def test_files_that_changed_since_they_were_finished_count_as_missing_and_are_named(
    plan: Plan,
    centers: dict[str, Center],
    finish: Callable[[Step], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    cell = make_cell(centers, "pancreas_coarse", "B")
    for step in steps_of(plan, cell):
        finish(step)
    (folder,) = find_folders(plan, cell)
    mark_done(folder, [folder / "cases.csv"])
    assert read_cell(plan, cell) is not None
    table = (folder / "cases.csv").read_text()
    (folder / "cases.csv").write_text(table.replace("50", "90"))
    assert read_cell(plan, cell) is None
    assert f"{folder}: cases.csv changed since it was finished" in caplog.text
    (folder / "cases.csv").write_text(table)
    assert read_cell(plan, cell) is not None
    weights = folder.parent / "last.pt"
    weights.write_bytes(b"weights")
    mark_done(folder.parent, [weights])
    assert read_cell(plan, cell) is not None
    weights.unlink()
    assert read_cell(plan, cell) is None
    assert "last.pt changed since it was finished" in caplog.text


def test_precision_auto_is_what_the_run_has_made_of_it(
    plan: Plan, centers: dict[str, Center], splits: Splits
) -> None:
    (step,) = steps_of(plan, make_cell(centers, "pancreas_coarse", "B"))[:1]
    split = with_contents(splits.of(step.config), splits.contents(step.config))
    create_run(replace(step.config, precision="bf16"), plan.time, split)
    assert find_run(step, splits) is not None
    asked = replace(plan, options=(*plan.options, "--precision", "fp32"))
    (other,) = steps_of(asked, make_cell(centers, "pancreas_coarse", "B"))[:1]
    assert find_run(other, splits) is None


def test_a_folder_in_which_a_process_works_is_not_moved(
    plan: Plan, centers: dict[str, Center]
) -> None:
    (step,) = steps_of(plan, make_cell(centers, "pancreas_coarse", "B"))[:1]
    (split,) = select_splits(step.config, centers)
    create_run(step.config, plan.time, split)
    with locked(step.folder), pytest.raises(StoppedError, match="another process works here"):
        set_aside(step.folder)
    assert step.folder.is_dir()


@pytest.mark.slow
def test_the_steps_of_a_cell_fill_it(plan: Plan, tiny: Tiny, splits: Splits) -> None:
    small = ("--epochs", "1", "--jitter-voxels", "0", "4", "--window-voxels", "32", "32")
    options = (*plan.options, *small, "--device", "cpu", "--precision", "fp32")
    plan = replace(plan, options=options)
    centers = load_centers(tiny.centers)
    # B has one patient, who cannot be held out: train on A and C.
    cell = make_cell(centers, "tumor_coarse", "B", threshold="source-val", method="bl")
    assert lesion_centers(centers) == ["A", "B", "C"]
    for step in missing_steps(plan, [cell], splits):
        if step.kind == "train":
            fit(step.config)
        else:
            run_stage(replace(step.evaluation, device="cpu", precision="fp32", workers=0))
        assert is_done(step, splits)
    rows = read_cell(plan, cell)
    assert rows is not None
    assert [(row["center"], row["case_id"]) for row in rows] == [("B", "b0")]
    assert missing_steps(plan, [cell], splits) == []
