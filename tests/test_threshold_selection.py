"""Thresholds: whose, chosen on which cases; and that the target's never choose it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.evaluation import run_stage
from engine.run_folders import Run
from engine.threshold_selection import THRESHOLDS, best_threshold, write_sweep
from tests._evaluation_fixtures import (
    CASES,
    PANCREAS_CUT,
    TUMOR_CUT,
    Place,
    hu_window,
    parsed,
    printed_commands,
    read_rows,
    read_summary,
    small_stage,
    write_run,
)
from utils.config import Evaluation
from utils.stages import STAGE_NAMES

pytest_plugins = ["tests._evaluation_plugin"]

HELD_OUT = (("A", "case_1"), ("B", "case_0"))
FAINT = {"inside": 0.35, "outside": 0.15}  # found at 0.2 and 0.3, missed at 0.5, all at 0.1


def write_runs(place: Place, *, held_out: bool = True, **cases: Any) -> dict[str, Run]:
    """The four stages; the tumor ones say 0.35 in the tumor and 0.15 elsewhere."""
    cases |= {"heldout_cases": HELD_OUT} if held_out else {}
    runs = {}
    for name in STAGE_NAMES:
        if name.startswith("pancreas"):
            weights = hu_window(PANCREAS_CUT)
        else:
            weights = hu_window(TUMOR_CUT, **FAINT)
        more: dict[str, Any] = {"holdout": 0.1} if held_out else {}
        run = write_run(place.checkpoints, small_stage(name), weights, cases=cases, **more)
        runs[name] = run
    return runs


def heldout(place: Place, stage: str) -> list[Path]:
    return run_stage(place.request(stage, cases="heldout"))


def test_the_best_threshold_is_that_of_the_mean_over_centers() -> None:
    def sweep(**of: float) -> dict[str, float]:
        return {f"{t:g}": of.get(f"t{round(10 * t)}", 0.0) for t in THRESHOLDS}

    one_large = [[sweep(t2=90.0)] * 3, [sweep(t8=100.0)]]  # per center: 45 against 50
    assert best_threshold(one_large) == 0.8
    assert best_threshold([[sweep(t3=60.0, t9=60.0)]]) == 0.3  # equal: nearest to 0.5
    assert best_threshold([[sweep()], []]) == 0.5  # nothing found anywhere
    with pytest.raises(ValueError, match="no held-out case has a label"):
        best_threshold([[], []])


def test_a_sweep_is_the_dice_at_every_threshold(tmp_path: Path) -> None:
    mask = np.zeros((4, 6, 6), bool)
    mask[1:3, 1:4, 1:4] = True
    prob = np.where(mask, 0.65, 0.05).astype(np.float32)
    prob[1:3, 4, 1:4] = 0.35  # six voxels too many, up to 0.3
    write_sweep(tmp_path / "x.json", prob, mask)
    found = json.loads((tmp_path / "x.json").read_text())
    too_many, exact = 100 * 2 * 18 / (18 + 24), 100.0
    for threshold in THRESHOLDS:
        expected = too_many if threshold <= 0.3 else exact if threshold <= 0.6 else 0.0
        assert found[f"{threshold:g}"] == pytest.approx(expected)


def test_source_val_takes_the_threshold_that_the_held_out_source_cases_choose(place: Place) -> None:
    runs = write_runs(place)
    for stage in STAGE_NAMES:
        folders = heldout(place, stage)
        assert [tuple(read_rows(folder)) for folder in folders] == [("case_1",), ("case_0",)]
        assert all(read_summary(folder)["tested_cases"] == "heldout" for folder in folders)
        place.evaluate(stage)
        place.evaluate(stage, threshold="source-val")
    for stage in ("tumor_coarse", "tumor_fine"):
        own = runs[stage].folder
        of_target, source_val = (
            own / f"evaluation_C_seg_{name}" for name in ("target", "source-val")
        )
        assert read_summary(of_target)["threshold"] == 0.5
        assert read_summary(of_target)["dsc"] == 0  # 0.35 is below
        assert 0.15 < read_summary(source_val)["threshold"] < 0.35
        assert read_summary(source_val)["dsc"] > 80
        assert read_summary(source_val)["previous"].endswith(
            "evaluation_C_seg" if stage == "tumor_coarse" else "evaluation_C_seg_source-val"
        )
    pancreas = runs["pancreas_fine"].folder
    assert (pancreas / "evaluation_C_seg").is_dir()  # one result for both thresholds
    assert not (pancreas / "evaluation_C_seg_source-val").exists()


def test_the_targets_own_cases_never_move_the_threshold_of_the_sources(place: Place) -> None:
    """The target's masks are best at 0.3 and the sources' too, unless the sources say otherwise."""
    runs = write_runs(place)
    for stage in STAGE_NAMES:
        heldout(place, stage)
    folder = runs["tumor_coarse"].folder
    for path in folder.glob("evaluation_?_seg_heldout/sweeps/*.json"):
        wish = {f"{t:g}": 100.0 if t == 0.9 else 0.0 for t in THRESHOLDS}
        path.write_text(json.dumps(wish))
    for stage in STAGE_NAMES[:2]:
        place.evaluate(stage)
    result = place.evaluate("tumor_coarse", threshold="source-val")
    assert read_summary(result)["threshold"] == 0.9
    assert read_summary(result)["dsc"] == 0  # as bad as the sources' choice is for it


def test_source_val_without_held_out_cases_says_how_to_train(place: Place) -> None:
    write_runs(place, held_out=False)
    for stage in STAGE_NAMES[:2]:
        place.evaluate(stage)
    for asked in ({"threshold": "source-val"}, {"cases": "heldout"}):
        with pytest.raises(ValueError, match=r"--holdout 0.1, or use --threshold target"):
            run_stage(place.request("tumor_coarse", **asked))


def test_source_val_names_the_command_that_predicts_the_held_out_cases(place: Place) -> None:
    write_runs(place)
    for stage in STAGE_NAMES[:2]:
        place.evaluate(stage)
    with pytest.raises(FileNotFoundError, match="needs the held-out cases of A") as caught:
        place.evaluate("tumor_coarse", threshold="source-val")
    (command,) = printed_commands(caught.value)
    request = parsed(command)
    assert isinstance(request, Evaluation)
    assert (request.stage, request.cases, request.target) == ("tumor_coarse", "heldout", "C")
    with pytest.raises(FileNotFoundError, match="reads the masks of pancreas_fine on A") as caught:
        run_stage(request)
    (command,) = printed_commands(caught.value)
    request = parsed(command)
    assert isinstance(request, Evaluation)
    assert (request.stage, request.cases) == ("pancreas_fine", "heldout")


def test_a_case_that_has_trained_is_never_evaluated(place: Place) -> None:
    """Whatever run.json says: the checkpoint knows what trained."""
    stage, weights = small_stage("pancreas_coarse"), hu_window(PANCREAS_CUT)
    trained = {"train_cases": (("A", "case_0"), ("B", "case_1"))}
    write_run(place.checkpoints, stage, weights, cases=trained)
    with pytest.raises(FileNotFoundError):  # no run may test what it was trained on
        place.evaluate("pancreas_coarse", target="A")
    (run_json,) = place.checkpoints.glob("*_pancreas_coarse_*/run.json")
    facts = json.loads(run_json.read_text())
    run_json.write_text(json.dumps(facts | {"sources": ["B"], "target": "A"}))
    with pytest.raises(ValueError, match=r"run\.json and last\.pt differ in sources, target"):
        place.evaluate("pancreas_coarse", target="A")
    run_json.write_text(json.dumps(facts | {"heldout_cases": [["A", "case_0"]]}))
    with pytest.raises(ValueError, match=r"run\.json and last\.pt differ in heldout_cases"):
        run_stage(place.request("pancreas_coarse", cases="heldout"))
    run_json.write_text(json.dumps(facts))
    assert tuple(read_rows(place.evaluate("pancreas_coarse"))) == CASES


def test_a_fold_is_evaluated_on_its_own_test_cases(place: Place) -> None:
    for fold, case in enumerate(CASES):
        rest = tuple(("C", other) for other in CASES if other != case)
        cases = {"train_cases": rest, "test_cases": (("C", case),), "fold": fold}
        for stage in STAGE_NAMES[:2]:
            weights = hu_window(PANCREAS_CUT)
            write_run(place.checkpoints, small_stage(stage), weights, sources=("C",), cases=cases)
    for stage in STAGE_NAMES[:2]:
        folders = run_stage(place.request(stage, fold="all"))
        assert sorted(tuple(read_rows(folder)) for folder in folders) == [(c,) for c in CASES]
        assert sorted(read_summary(folder)["fold"] for folder in folders) == [0, 1, 2, 3]
    (folder,) = run_stage(place.request("pancreas_fine", fold="2"))
    assert tuple(read_rows(folder)) == ("case_2",)
    assert "_fold2" in read_summary(folder)["previous"]
    with pytest.raises(FileNotFoundError, match="no trained pancreas_fine"):
        place.evaluate("pancreas_fine")  # a fold is no answer to leave-one-center-out
