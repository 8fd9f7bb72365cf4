"""What a result was made of: whatever is changed afterwards is refused, and named by a check."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import SimpleITK as sitk

from data.centers import load_centers
from engine.checkpointing import load_checkpoint, save_checkpoint
from engine.evaluation import run_stage
from engine.run_folders import changed_files, mark_done, written_by_training
from engine.verification import verify_folder
from reproduce import verify
from tests._evaluation_fixtures import (
    CASES,
    TUMOR_CUT,
    Place,
    hu_window,
    read_rows,
    run_of,
    small_stage,
    write_run,
)

pytest_plugins = ["tests._evaluation_plugin"]

Change = Callable[[Path], None]


def problems_of(place: Place) -> list[str]:
    """What `verify_folder` says of every run."""
    centers = load_centers(place.centers)
    return [
        problem
        for note in sorted(place.checkpoints.glob("*/run.json"))
        for problem in verify_folder(note.parent, place.checkpoints, centers, place.cache)
    ]


def result_of(place: Place, stage: str) -> Path:
    name = "evaluation_C_seg" + ("_target" if stage.startswith("tumor") else "")
    return run_of(place, stage).folder / name


def empty_mask(folder: Path) -> None:
    path = folder / "predictions" / f"{CASES[1]}.nii.gz"
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(image * 0, str(path))


def delete_row(folder: Path) -> None:
    path = folder / "cases.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")


def edit_dice(folder: Path) -> None:
    path = folder / "cases.csv"
    dice = read_rows(folder)[CASES[0]]["dsc"]
    path.write_text(path.read_text().replace(dice, "99.9999", 1))


def forge_origin(folder: Path) -> None:
    path = folder / "origin.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "threshold": 0.5001}))


def test_nothing_is_said_of_what_holds(evaluated: Place, tmp_path: Path) -> None:
    assert problems_of(evaluated) == []
    words = ["--centers", str(evaluated.centers), "--cache", str(evaluated.cache)]
    assert verify.main([str(evaluated.checkpoints), *words]) == 0
    with pytest.raises(SystemExit, match="2"):
        verify.main([str(tmp_path / "nothing"), *words])


@pytest.mark.parametrize("change", [delete_row, edit_dice, forge_origin])
def test_an_edited_result_is_named_not_read_and_made_again(
    evaluated: Place, predicted: list[str], change: Change
) -> None:
    fine = result_of(evaluated, "pancreas_fine")
    before = read_rows(fine)
    change(fine)
    (name,) = changed_files(fine)
    assert any(
        f"{name} in {fine} changed since the evaluation" in p for p in problems_of(evaluated)
    )
    with pytest.raises(ValueError, match=re.escape(f"reads {fine}, and {name} in")) as caught:
        evaluated.evaluate("tumor_coarse")
    assert "evaluate_sh_pancreas_fine.py" in str(caught.value)
    assert predicted == []
    evaluated.evaluate("pancreas_fine")
    assert tuple(predicted) == CASES
    assert {c: row["dsc"] for c, row in read_rows(fine).items()} == {
        c: row["dsc"] for c, row in before.items()
    }
    assert problems_of(evaluated) == []  # the same masks: the later results still hold


def test_a_mask_that_was_changed_is_named_not_read_and_predicted_again(
    evaluated: Place, predicted: list[str]
) -> None:
    fine = result_of(evaluated, "pancreas_fine")
    empty_mask(fine)
    assert problems_of(evaluated) == [
        f"{fine}: the masks of {CASES[1]} are missing or changed; evaluate again"
    ]
    (result_of(evaluated, "tumor_coarse") / "done").unlink()
    shutil.rmtree(result_of(evaluated, "tumor_coarse"))
    with pytest.raises(ValueError, match=rf"{CASES[1]}\.nii\.gz: missing, or changed since"):
        evaluated.evaluate("tumor_coarse")
    predicted.clear()
    evaluated.evaluate("pancreas_fine")
    assert predicted == [CASES[1]]


def test_an_earlier_stage_that_gave_other_masks_is_refused_by_the_stage_after_the_next(
    evaluated: Place,
) -> None:
    write_run(evaluated.checkpoints, small_stage("pancreas_coarse"), hu_window(60.0))
    evaluated.evaluate("pancreas_coarse")
    with pytest.raises(ValueError, match="was evaluated again since") as caught:
        evaluated.evaluate("tumor_coarse")
    assert "evaluate_sh_pancreas_fine.py" in str(caught.value)
    assert len([p for p in problems_of(evaluated) if "was evaluated again since" in p]) == 3


def test_a_checkpoint_of_another_training_is_refused_under_this_ones_name(
    evaluated: Place, tmp_path: Path
) -> None:
    run = run_of(evaluated, "tumor_fine")
    other = write_run(tmp_path, small_stage("tumor_fine"), hu_window(TUMOR_CUT), seed=7)
    shutil.copy(other.checkpoint, run.checkpoint)
    expected = "run.json and last.pt differ in seed, config_hash"
    with pytest.raises(ValueError, match=re.escape(expected)):
        evaluated.evaluate("tumor_fine")
    assert any(expected in problem for problem in problems_of(evaluated))
    coarse = run_of(evaluated, "tumor_coarse")
    shutil.copy(coarse.checkpoint, run.checkpoint)
    assert any("tumor_fine" in problem for problem in problems_of(evaluated))


@pytest.mark.parametrize(
    ("key", "value"),
    [("target", None), ("dropped_cases", [["C", CASES[0]]]), ("holdout", None), ("seed", 3)],
)
def test_a_forged_run_json_is_refused(place: Place, key: str, value: object) -> None:
    run = write_run(place.checkpoints, small_stage("pancreas_coarse"), hu_window(30.0))
    note = run.folder / "run.json"
    facts = json.loads(note.read_text())
    note.write_text(json.dumps({**facts, key: value}))
    if key == "holdout":  # used by no evaluation; its digest tells
        mark = note.with_name("done")
        note.write_text(json.dumps(facts))
        mark_done(run.folder, [run.checkpoint, note])
        note.write_text(json.dumps({**facts, key: value}))
        assert mark.is_file()
    with pytest.raises(ValueError, match=r"run\.json and last\.pt differ|run\.json changed since"):
        run_stage(place.request("pancreas_coarse", seed=None))


def test_weights_that_are_not_numbers_are_named(evaluated: Place) -> None:
    run = run_of(evaluated, "tumor_fine")
    content = load_checkpoint(run.checkpoint)
    content.pop("format")
    content["method"]["network.numbers"][0] = float("nan")
    save_checkpoint(run.checkpoint, content)
    assert any("numbers that are not finite" in problem for problem in problems_of(evaluated))


def test_files_of_a_finished_training_that_changed_are_named(evaluated: Place) -> None:
    run = run_of(evaluated, "pancreas_coarse")
    (run.folder / "log.csv").write_text("step\n1\n")
    mark_done(run.folder, written_by_training(run))
    assert problems_of(evaluated) == []
    (run.folder / "log.csv").write_text("step\n2\n")
    assert problems_of(evaluated) == [f"{run.folder}: log.csv changed since the training ended"]
    with pytest.raises(ValueError, match=r"log\.csv changed since the training ended; restore"):
        evaluated.evaluate("pancreas_coarse")


def test_a_label_that_was_changed_after_the_evaluation_is_named(
    evaluated: Place, tmp_path: Path
) -> None:
    copied = tmp_path / "data"
    shutil.copytree(evaluated.centers.parent, copied)
    moved = replace(evaluated, centers=copied / "centers.toml", cache=copied / "cache")
    assert problems_of(moved) == []
    path = copied / "C" / "labels" / f"{CASES[2]}.nii.gz"
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(image * 0, str(path))
    found = problems_of(moved)
    assert len(found) == 4  # each stage's result
    assert all(f"{CASES[2]} of C changed since" in problem for problem in found)
