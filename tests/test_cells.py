"""Cells of the tables: known by name, filled by steps with typed requests, true or not."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from data.case import Center
from data.centers import load_centers
from engine.case_metrics import Row, write_cases, write_summary
from engine.command_line import parse_config, parse_evaluation
from engine.evaluation import run_stage
from engine.provenance import digest_result
from engine.results import result_folder
from engine.run_folders import create_run, locked, mark_done, read_run
from engine.split_selection import select_splits
from engine.threshold_selection import THRESHOLDS as THRESHOLD_CHOICES
from engine.threshold_selection import sweep_path
from engine.training import fit
from methods import METHODS, config_from_plain
from reproduce.experiments.cells import (
    Cell,
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
from utils.config import THRESHOLDS, Evaluation, StoppedError
from utils.files import write_json
from utils.settings import from_plain, to_plain
from utils.stages import STAGES

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
def finish(centers: dict[str, Center]) -> Callable[[Step], None]:
    """Leave on disk what a step would, without computing it."""

    def do(step: Step) -> None:
        if step.kind == "train":
            (split,) = select_splits(step.config, centers)
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


def names(steps: Sequence[Step]) -> list[str]:
    """Each step in a word or two."""
    shown = []
    for step in steps:
        asked = step.evaluation if step.kind == "evaluate" else None
        which = [] if asked is None else [asked.threshold, asked.cases]
        kept = [word for word in which if word in ("source-val", "heldout")]
        shown.append(" ".join([step.kind, step.stage, *kept]))
    return shown


def test_a_cell_needs_four_trainings_and_four_evaluations(
    plan: Plan, centers: dict[str, Center]
) -> None:
    cell = make_cell(centers, "tumor_fine", "C")
    assert cell == Cell("tumor_fine", "C", ("A", "B"))
    kinds = names(steps_of(plan, cell))
    assert sorted(kinds) == sorted(f"{k} {s}" for s in STAGES for k in ("train", "evaluate"))
    for stage in STAGES.values():
        assert kinds.index(f"train {stage.name}") < kinds.index(f"evaluate {stage.name}")
        if stage.previous:
            before = kinds.index(f"evaluate {stage.previous}")
            assert before < kinds.index(f"evaluate {stage.name}")


def test_a_steps_command_says_what_its_request_holds(
    plan: Plan, centers: dict[str, Center]
) -> None:
    cell = make_cell(centers, "tumor_fine", "B", method="bl_dsl", threshold="source-val", seed=7)
    for step in steps_of(plan, cell):
        python, script, *words = shlex.split(step.command)
        assert python == "python"
        assert Path(script).resolve().is_file()
        stage = STAGES[step.stage]
        if step.kind == "train":
            config = step.config
            assert parse_config(stage, words) == config
            assert config_from_plain(json.loads(json.dumps(to_plain(config)))) == config
            of_tumor = config.stage.target == "tumor"
            assert config.method == ("bl_dsl" if of_tumor else "ours")
            assert config.sources == (("A", "C") if of_tumor else ("A", "C", "N"))
            assert (config.target, config.seed, config.holdout) == ("B", 7, 0.4)
            assert (config.time, config.width) == (TIME, 8)
            with pytest.raises(TypeError, match="is no evaluation"):
                _ = step.evaluation
        else:
            asked = step.evaluation
            assert parse_evaluation(stage, words) == asked
            assert from_plain(Evaluation, json.loads(json.dumps(to_plain(asked)))) == asked
            assert (asked.target, asked.seed, asked.time) == ("B", 7, (TIME,))
            with pytest.raises(TypeError, match="is no training"):
                _ = step.config


def test_the_names_of_steps_and_of_run_folders_are_known_beforehand(
    plan: Plan, centers: dict[str, Center]
) -> None:
    cell = make_cell(centers, "tumor_coarse", "C", threshold="source-val", seed=7, method="bl")
    shown = [step.name for step in steps_of(plan, cell)]
    assert shown[0] == "train_tumor_coarse_bl_A+B_seed7"
    assert "evaluate_tumor_coarse_bl_A+B_seed7_on_C_seg_source-val" in shown
    assert "evaluate_tumor_coarse_bl_A+B_seed7_heldout_seg" in shown
    assert "evaluate_pancreas_fine_ours_A+B+N_seed7_heldout" in shown
    assert len(shown) == len(set(shown))
    step = steps_of(plan, cell)[0]
    assert step.folder == plan.checkpoints / f"{TIME}_tumor_coarse_bl_A+B_seed7"


def test_cells_share_their_steps(plan: Plan, centers: dict[str, Center]) -> None:
    table_5 = [make_cell(centers, "tumor_fine", "C", method=method) for method in METHODS]
    assert make_cell(centers, "tumor_fine", "C") in table_5  # Table III's F-Seg is Table V's Ours
    kinds = names(missing_steps(plan, table_5))
    assert kinds.count("train pancreas_fine") == kinds.count("evaluate pancreas_fine") == 1
    assert kinds.count("train tumor_fine") == len(METHODS)
    both = [replace(table_5[-1], threshold=threshold) for threshold in THRESHOLDS]
    kinds = names(missing_steps(plan, both))
    assert len(kinds) == len(set(kinds)) == 4 + 4 + 2 + 4  # train, target, source-val, held out
    pancreas = [
        make_cell(centers, "pancreas_fine", "C", method=m, threshold=t)
        for m in METHODS
        for t in THRESHOLDS
    ]
    assert len(set(pancreas)) == 1


def test_with_rois_from_labels_the_coarse_tumor_stage_needs_no_other(
    plan: Plan, centers: dict[str, Center]
) -> None:
    cell = make_cell(centers, "tumor_coarse", "C", roi_source="mask")
    assert names(steps_of(plan, cell)) == ["train tumor_coarse", "evaluate tumor_coarse"]


def test_four_folds_are_one_cell(plan: Plan, centers: dict[str, Center]) -> None:
    cell = make_cell(centers, "pancreas_coarse", "C", folds=True)
    assert cell.sources == ("C",)
    steps = steps_of(plan, cell)
    assert len(steps) == len({step.name for step in steps}) == 8
    for fold in range(4):
        config = steps[2 * fold].config
        assert (config.target, config.fold, config.sources) == ("C", str(fold), ())
        assert steps[2 * fold].folder.name == f"{TIME}_pancreas_coarse_ours_C_fold{fold}"


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
    assert read_cell(replace(plan, options=(*SMALL, "--lr", "0.01")), cell) is None
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
    rows: list[Row] = [{"case_id": "B0", "dsc": 60.0, "seconds": 1.0}]
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
    assert stale.name == f"{TIME}_pancreas_coarse_ours_A+C+N"
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
    dropped = split.train_cases[:1]
    kept = replace(split, train_cases=split.train_cases[1:])
    create_run(step.config, TIME, replace(kept, dropped_cases=dropped))
    assert find_run(step, splits) is not None  # its center drops a copy: the plan's own cases
    assert stale_folders([step], splits) == []
    create_run(step.config, TIME, kept)
    assert find_run(step) is not None  # without looking at the cases
    assert find_run(step, splits) is None
    assert stale_folders([step], splits) == [step.folder]


def test_precision_auto_is_what_the_run_has_made_of_it(
    plan: Plan, centers: dict[str, Center], splits: Splits
) -> None:
    (step,) = steps_of(plan, make_cell(centers, "pancreas_coarse", "B"))[:1]
    (split,) = select_splits(step.config, centers)
    create_run(replace(step.config, precision="bf16"), TIME, split)
    assert find_run(step, splits) is not None
    asked = replace(plan, options=(*SMALL, "--precision", "fp32"))
    (other,) = steps_of(asked, make_cell(centers, "pancreas_coarse", "B"))[:1]
    assert find_run(other, splits) is None


def test_a_folder_in_which_a_process_works_is_not_moved(
    plan: Plan, centers: dict[str, Center]
) -> None:
    (step,) = steps_of(plan, make_cell(centers, "pancreas_coarse", "B"))[:1]
    (split,) = select_splits(step.config, centers)
    create_run(step.config, TIME, split)
    with locked(step.folder), pytest.raises(StoppedError, match="another process works here"):
        set_aside(step.folder)
    assert step.folder.is_dir()


@pytest.mark.slow
def test_the_steps_of_a_cell_fill_it(tmp_path: Path, tiny: Tiny, splits: Splits) -> None:
    small = ("--epochs", "1", "--jitter-voxels", "0", "4", "--window-voxels", "32", "32")
    options = (*SMALL, *small, "--device", "cpu", "--precision", "fp32")
    plan = Plan(tiny.centers, tmp_path / "checkpoints", tiny.cache, 0.4, options, time=TIME)
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
