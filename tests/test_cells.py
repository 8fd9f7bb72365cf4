"""Cells of the tables: found by what they are, filled by commands that the scripts understand."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from data.case import Center
from data.centers import load_centers
from engine.case_metrics import Row, write_cases, write_summary
from engine.command_line import parse_config, parse_evaluation
from engine.evaluation import digest_result, run_stage
from engine.results import result_folder
from engine.run_folders import Run, create_run, mark_done
from engine.split_selection import select_splits
from engine.training import fit
from reproduce.experiments.cells import (
    Cell,
    Plan,
    Step,
    evaluation_before,
    lesion_centers,
    make_cell,
    steps_of,
)
from reproduce.experiments.finished import (
    exact_command,
    find_folders,
    is_done,
    missing_steps,
    read_cell,
)
from tests.conftest import Tiny
from utils.config import Evaluation
from utils.files import write_json
from utils.stages import STAGES, VARIANTS

SMALL = ("--width", "8", "--spacing", "3", "1.5", "1.5", "--workers", "0", "--no-tensorboard")


@pytest.fixture
def centers(tiny: Tiny) -> dict[str, Center]:
    return load_centers(tiny.centers)


@pytest.fixture
def plan(tiny: Tiny, tmp_path: Path) -> Plan:
    return Plan(tiny.centers, tmp_path / "checkpoints", tiny.cache, holdout=0.4, options=SMALL)


@pytest.fixture
def finish(plan: Plan, centers: dict[str, Center]) -> Callable[[Step], None]:
    """Leave on disk what a step would, without computing it."""

    def train(step: Step) -> Run:
        config = parse_config(STAGES[step.stage], step.argv)
        (split,) = select_splits(config, centers)
        time = f"20260101-{len(list(plan.checkpoints.glob('*'))):06d}"
        run = create_run(config, time, split)
        mark_done(run.folder)
        return run

    runs: dict[Step, Run] = {}

    def do(step: Step) -> None:
        if step.kind == "train":
            runs[step] = train(step)
            return
        asked = parse_evaluation(STAGES[step.stage], step.argv)
        run = runs[step.needs[0]]
        found = [str(asked.target)]
        if asked.protocol == "heldout":
            found = sorted({center for center, _ in run.heldout_cases})
        for name in found:
            place = result_folder(run, step.stage, name, asked.roi_source, asked.protocol)
            rows: list[Row] = [{"case_id": f"{name}0", "dsc": 50.0, "seconds": 1.0}]
            place.mkdir()
            write_cases(place / "cases.csv", rows)
            write_summary(place / "summary.json", rows, {"target": name})
            write_json(place / "origin.json", origin(step, name))
            mark_done(place)

    def origin(step: Step, center: str) -> dict[str, str | None]:
        before = evaluation_before(step)
        if before is None:
            return {"previous": None, "previous_sha256": None}
        asked = parse_evaluation(STAGES[before.stage], before.argv)
        run = runs[before.needs[0]]
        folder = result_folder(run, before.stage, center, asked.roi_source, asked.protocol)
        return {
            "previous": str(folder.relative_to(plan.checkpoints)),
            "previous_sha256": digest_result(folder),
        }

    return do


def names(steps: Sequence[Step]) -> list[str]:
    """Each step in a word or two."""
    shown = []
    for step in steps:
        protocol = step.argv[step.argv.index("--protocol") + 1] if "--protocol" in step.argv else ""
        shown.append(f"{step.kind} {step.stage} {protocol}".strip())
    return shown


def test_a_paper_cell_needs_four_trainings_and_four_evaluations(
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


def test_every_command_is_what_its_script_understands(
    plan: Plan, centers: dict[str, Center]
) -> None:
    cell = make_cell(centers, "tumor_fine", "B", variant="BL+DSL", protocol="honest", seed=7)
    for step in steps_of(plan, cell):
        assert Path(step.command.split()[1]).resolve().is_file() or step.script in step.command
        if step.kind == "train":
            config = parse_config(STAGES[step.stage], step.argv)
            of_tumor = config.stage.target == "tumor"
            assert config.stage.variant == ("BL+DSL" if of_tumor else "Ours")
            assert config.sources == (("A", "C") if of_tumor else ("A", "C", "N"))
            assert (config.target, config.seed, config.holdout) == ("B", 7, 0.4)
        else:
            asked = parse_evaluation(STAGES[step.stage], step.argv)
            assert (asked.target, asked.seed) == ("B", 7)


def test_cells_share_their_steps(plan: Plan, centers: dict[str, Center]) -> None:
    table_5 = [make_cell(centers, "tumor_fine", "C", variant=variant) for variant in VARIANTS]
    assert make_cell(centers, "tumor_fine", "C") in table_5  # Table III's F-Seg is Table V's Ours
    kinds = names(missing_steps(plan, table_5))
    assert kinds.count("train pancreas_fine") == kinds.count("evaluate pancreas_fine") == 1
    assert kinds.count("train tumor_fine") == 5
    both = [replace(table_5[-1], protocol=protocol) for protocol in ("paper", "honest")]
    kinds = names(missing_steps(plan, both))
    assert len(kinds) == len(set(kinds)) == 4 + 4 + 2 + 4  # train, paper, honest, held out
    pancreas = [
        make_cell(centers, "pancreas_fine", "C", variant=v, protocol=p)
        for v in VARIANTS
        for p in ("paper", "honest")
    ]
    assert len(set(pancreas)) == 1


def test_with_rois_from_labels_the_coarse_tumor_stage_stands_alone(
    plan: Plan, centers: dict[str, Center]
) -> None:
    cell = make_cell(centers, "tumor_coarse", "C", roi_source="mask")
    assert names(steps_of(plan, cell)) == ["train tumor_coarse", "evaluate tumor_coarse"]


def test_four_folds_are_one_cell(
    plan: Plan, centers: dict[str, Center], finish: Callable[[Step], None]
) -> None:
    four = {**centers, "D": replace(centers["C"], name="D")}
    cell = make_cell(four, "pancreas_coarse", "C", folds=True)
    assert cell.sources == ("C",)
    steps = steps_of(plan, cell)
    assert len(steps) == 8
    for fold in range(4):
        config = parse_config(STAGES["pancreas_coarse"], steps[2 * fold].argv)
        assert (config.target, config.fold, config.sources) == ("C", str(fold), ())


def test_what_is_done_is_found_and_not_missing(
    plan: Plan, centers: dict[str, Center], finish: Callable[[Step], None]
) -> None:
    cell = make_cell(centers, "tumor_coarse", "B", protocol="honest")
    assert find_folders(plan, cell) == []
    assert read_cell(plan, cell) is None
    steps = steps_of(plan, cell)
    for number, step in enumerate(steps):
        assert missing_steps(plan, [cell]) == list(steps[number:])
        assert not is_done(step)
        finish(step)
        assert is_done(step)
    assert missing_steps(plan, [cell]) == []
    (folder,) = find_folders(plan, cell)
    assert folder.name == "evaluation_B_seg_honest"
    assert read_cell(plan, cell) == [{"case_id": "B0", "dsc": 50.0, "seconds": 1.0, "center": "B"}]
    for other in (
        replace(cell, seed=1),
        replace(cell, variant="BL"),
        replace(cell, roi_source="mask"),
        make_cell(centers, "tumor_coarse", "C", protocol="honest"),
    ):
        assert read_cell(plan, other) is None
    assert read_cell(replace(plan, options=(*SMALL, "--lr", "0.01")), cell) is None
    (tumor_run,) = plan.checkpoints.glob("*_tumor_coarse_*")
    (tumor_run / "done").unlink()
    assert read_cell(plan, cell) is None


def test_a_paper_cell_is_true_whatever_was_held_out(
    plan: Plan, centers: dict[str, Center], finish: Callable[[Step], None]
) -> None:
    whole = replace(plan, holdout=0.0)
    cell = make_cell(centers, "tumor_coarse", "C")
    for step in steps_of(whole, cell):
        finish(step)
    assert missing_steps(plan, [cell]) == []
    assert read_cell(plan, cell) is not None
    missing = names(missing_steps(plan, [replace(cell, protocol="honest")]))
    assert "train tumor_coarse" in missing  # no held-out case to choose a threshold on


def test_a_result_counts_only_as_long_as_what_it_was_read_from(
    plan: Plan, centers: dict[str, Center], finish: Callable[[Step], None]
) -> None:
    cell = make_cell(centers, "tumor_coarse", "B")
    steps = steps_of(plan, cell)
    for step in steps:
        finish(step)
    assert missing_steps(plan, [cell]) == []
    (coarse,) = plan.checkpoints.glob("*_pancreas_coarse_*/evaluation_B_seg")
    rows: list[Row] = [{"case_id": "B0", "dsc": 60.0, "seconds": 1.0}]
    write_cases(coarse / "cases.csv", rows)  # it was evaluated again
    assert find_folders(plan, cell) == []
    assert names(missing_steps(plan, [cell])) == ["evaluate pancreas_fine", "evaluate tumor_coarse"]


def test_another_setting_of_an_earlier_stage_asks_for_all_that_stands_on_it(
    plan: Plan, centers: dict[str, Center], finish: Callable[[Step], None]
) -> None:
    cell = make_cell(centers, "tumor_coarse", "B")
    for step in steps_of(plan, cell):
        finish(step)
    other = replace(plan, stage_options={"pancreas_coarse": ("--lr", "0.01")})
    missing = missing_steps(other, [cell])
    assert names(missing) == [
        "train pancreas_coarse",
        "evaluate pancreas_coarse",
        "evaluate pancreas_fine",
        "evaluate tumor_coarse",
    ]
    assert read_cell(other, cell) is None
    assert read_cell(plan, cell) is not None


def test_an_evaluation_names_its_runs_where_others_lie_beside_them(
    plan: Plan, centers: dict[str, Center], finish: Callable[[Step], None]
) -> None:
    cell = make_cell(centers, "pancreas_fine", "B")
    fine, coarse, of_coarse, of_fine = steps_of(plan, cell)
    assert (exact_command(of_fine), exact_command(coarse)) == (of_fine.command, coarse.command)
    for step in (coarse, of_coarse):
        finish(step)
    assert exact_command(of_fine) == of_fine.command  # its own is not there yet
    finish(fine)
    other = replace(plan, options=(*SMALL, "--lr", "0.01"))
    for step in steps_of(other, cell):
        if step.kind == "train":
            finish(step)
    times = " --time 20260101-000001 20260101-000000"
    assert exact_command(of_fine) == of_fine.command + times
    assert exact_command(of_coarse) == of_coarse.command + " --time 20260101-000000"
    asked = parse_evaluation(STAGES["pancreas_fine"], shlex.split(exact_command(of_fine))[2:])
    assert asked.time == ("20260101-000001", "20260101-000000")


@pytest.mark.slow
def test_the_commands_of_an_honest_cell_fill_it(tmp_path: Path, tiny: Tiny) -> None:
    small = ("--epochs", "1", "--jitter-voxels", "0", "4", "--window-voxels", "32", "32")
    options = (*SMALL, *small, "--device", "cpu", "--precision", "fp32")
    plan = Plan(tiny.centers, tmp_path / "checkpoints", tiny.cache, 0.4, options)
    centers = load_centers(tiny.centers)
    # B has one patient, who cannot be held out: train on A and C.
    cell = make_cell(centers, "tumor_coarse", "B", protocol="honest", variant="BL")
    assert lesion_centers(centers) == ["A", "B", "C"]
    for step in missing_steps(plan, [cell]):
        if step.kind == "train":
            fit(parse_config(STAGES[step.stage], step.argv))
        else:
            request = parse_evaluation(STAGES[step.stage], step.argv)
            assert isinstance(request, Evaluation)
            run_stage(replace(request, device="cpu", precision="fp32", workers=0))
        assert is_done(step)
    rows = read_cell(plan, cell)
    assert rows is not None
    assert [(row["center"], row["case_id"]) for row in rows] == [("B", "b0")]
    assert missing_steps(plan, [cell]) == []
