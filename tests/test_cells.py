"""Cells of the tables: known by name, filled by steps with typed requests, true or not."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from data.case import Center
from engine.command_line import parse_config, parse_evaluation
from methods import METHODS, config_from_plain
from reproduce.experiments.cells import (
    Cell,
    Step,
    make_cell,
    steps_of,
)
from reproduce.experiments.finished import (
    missing_steps,
)
from reproduce.experiments.plan import Plan
from utils.config import THRESHOLDS, Evaluation
from utils.settings import from_plain, to_plain
from utils.stages import STAGES

pytest_plugins = ["tests._cells_plugin"]


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
            assert (config.time, config.width) == (plan.time, 8)
            with pytest.raises(TypeError, match="is no evaluation"):
                _ = step.evaluation
        else:
            asked = step.evaluation
            assert parse_evaluation(stage, words) == asked
            assert from_plain(Evaluation, json.loads(json.dumps(to_plain(asked)))) == asked
            assert (asked.target, asked.seed, asked.time) == ("B", 7, (plan.time,))
            with pytest.raises(TypeError, match="is no training"):
                _ = step.config


def test_crops_from_predictions_need_each_source_predicted_by_the_others(
    plan: Plan, centers: dict[str, Center]
) -> None:
    around = replace(plan, stage_options={"tumor_fine": ("--crops-from", "predictions")})
    own = {step.name for step in steps_of(plan, make_cell(centers, "tumor_fine", "C"))}
    steps = steps_of(around, make_cell(centers, "tumor_fine", "C"))
    more = [step for step in steps if step.name not in own]
    assert sorted(step.name for step in more) == [
        "evaluate_tumor_coarse_ours_A_on_B_mask_target",
        "evaluate_tumor_coarse_ours_B_on_A_mask_target",
        "train_tumor_coarse_ours_A",
        "train_tumor_coarse_ours_B",
    ]
    for step in more:
        request = step.request
        assert set(request.sources) < {"A", "B"}
        assert request.target not in request.sources
    fine = next(step for step in steps if step.kind == "train" and step.stage == "tumor_fine")
    assert {step.kind for step in fine.needs} == {"evaluate"}
    others = steps_of(around, make_cell(centers, "tumor_fine", "B"))  # a training has one request
    by_name = {step.name: step.request for step in (*steps, *others)}
    assert all(by_name[step.name] == step.request for step in steps)


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
    assert step.folder == plan.checkpoints / f"{plan.time}_tumor_coarse_bl_A+B_seed7"


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
        assert steps[2 * fold].folder.name == f"{plan.time}_pancreas_coarse_ours_C_fold{fold}"
