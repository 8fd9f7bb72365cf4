"""An evaluation resumes, and gives up what is no longer true."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

import engine.case_pipeline
import engine.evaluation
from data.prepare.prepared_case import PreparedCase
from engine.case_pipeline import Predicted
from engine.results import result_folder
from engine.run_folders import locked
from tests import _killed_evaluation
from tests._evaluation_fixtures import (
    CASES,
    PANCREAS_CUT,
    Place,
    hu_window,
    read_rows,
    read_summary,
    run_of,
    small_stage,
    write_run,
    write_toml,
)
from utils.config import Evaluation, StoppedError
from utils.stages import STAGE_NAMES, STAGES

pytest_plugins = ["tests._evaluation_plugin"]

UNSTABLE = ("seconds", "peak_memory_mib")


def stable(folder: Path) -> tuple[Any, Any]:
    """The rows and the summary without what differs from run to run."""
    rows = read_rows(folder)
    for row in rows.values():
        for name in UNSTABLE:
            del row[name]
    summary = read_summary(folder)
    for name in ("seconds_per_case", "previous_sha256"):
        del summary[name]
    return rows, summary


def test_an_evaluation_killed_again_and_again_ends_as_an_unbroken_one(place: Place) -> None:
    write_run(place.checkpoints, small_stage("pancreas_coarse"), hu_window(PANCREAS_CUT))
    unbroken = replace(place, checkpoints=place.checkpoints.with_name("unbroken"))
    shutil.copytree(place.checkpoints, unbroken.checkpoints)
    log = place.checkpoints.with_name("log.txt")
    points = (
        "segment_stage:2:before",  # the first case is found, and may be written
        "write_mask:1:after",  # a mask is there, its row is not
        "write_text:2:after",  # the row of one more case is there
        "write_summary:1:before",
        "mark_done:1:before",
    )
    paths = [place.centers, place.checkpoints, place.cache, log]
    words = [*map(str, paths), "pancreas_coarse", *points]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, _killed_evaluation.__file__, *words], env=environment, check=True
    )
    before: list[str] = []
    for line, point in zip(log.read_text().splitlines(), [*points, ""], strict=True):
        predicted, status, there = (part.split() for part in line.split(";"))
        assert status == ["-9" if point else "0"]
        assert not set(predicted) & set(before)  # what is in the table is not predicted again
        assert there[: len(before)] == before
        before = there
    assert before == list(CASES)
    folder, whole = run_of(place, "pancreas_coarse").folder, unbroken.evaluate("pancreas_coarse")
    broken = folder / whole.name
    assert (broken / "done").is_file()
    assert stable(broken) == stable(whole)
    for case in CASES:
        paths = [f / "predictions" / f"{case}.nii.gz" for f in (broken, whole)]
        first, second = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in paths)
        np.testing.assert_array_equal(first, second)


def test_a_finished_evaluation_is_not_done_again(evaluated: Place, predicted: list[str]) -> None:
    before = {
        stage: stable(result_folder(run_of(evaluated, stage), stage, "C", Evaluation(stage)))
        for stage in STAGES
    }
    folders = evaluated.all_stages()
    assert predicted == []
    assert {stage: stable(folder) for stage, folder in folders.items()} == before
    assert all((folder / "done").is_file() for folder in folders.values())


def test_an_evaluation_that_is_made_again_is_not_done_while_it_works(
    evaluated: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run_of(evaluated, "tumor_coarse").folder / "evaluation_C_seg_target"
    (folder / "predictions" / "case_2.nii.gz").unlink()
    there: list[bool] = []
    predict = engine.case_pipeline.segment_stage

    def note(*words: Any) -> Any:
        there.append((folder / "done").is_file())
        return predict(*words)

    monkeypatch.setattr(engine.case_pipeline, "segment_stage", note)
    evaluated.evaluate("tumor_coarse")
    assert there == [False]
    assert (folder / "done").is_file()


def test_a_missing_mask_is_predicted_again_and_no_other(
    evaluated: Place, predicted: list[str]
) -> None:
    folder = run_of(evaluated, "tumor_coarse").folder / "evaluation_C_seg_target"
    (folder / "predictions" / "case_2.nii.gz").unlink()
    evaluated.evaluate("tumor_coarse")
    assert predicted == ["case_2"]
    assert tuple(read_rows(folder)) == CASES


def test_another_checkpoint_makes_its_results_and_the_later_ones_invalid(
    evaluated: Place, predicted: list[str]
) -> None:
    write_run(evaluated.checkpoints, small_stage("pancreas_fine"), hu_window(PANCREAS_CUT + 5))
    evaluated.evaluate("pancreas_coarse")
    assert predicted == []
    for stage in STAGE_NAMES[1:]:
        predicted.clear()
        evaluated.evaluate(stage)
        assert tuple(predicted) == CASES


def test_a_label_that_was_corrected_is_measured_again(
    evaluated: Place, predicted: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(evaluated.centers.parent / "C", folder / "C")
    toml = write_toml(folder / "centers.toml", {"C": {}})
    place = replace(evaluated, centers=toml)
    path = folder / "C" / "labels" / "case_1.nii.gz"
    label = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(label)
    array[array == 2] = 1
    index = np.argwhere(array == 1)[0]
    array[tuple(index)] = 2
    corrected = sitk.GetImageFromArray(array)
    corrected.CopyInformation(label)
    place.evaluate("tumor_fine")
    assert predicted == []  # the same bytes in another place
    sitk.WriteImage(corrected, str(path))
    place.evaluate("tumor_fine")
    assert predicted == ["case_1"]


def test_a_case_that_was_excluded_leaves_the_table_and_the_means(
    evaluated: Place, predicted: list[str], tmp_path: Path
) -> None:
    toml = tmp_path / "centers.toml"
    text = evaluated.centers.read_text().replace('path = "', f'path = "{evaluated.centers.parent}/')
    toml.write_text(text.replace("[centers.C]", '[centers.C]\nexclude = ["case_1"]'))
    folder = evaluated.evaluate("pancreas_coarse", centers=toml)
    assert predicted == []
    rows = read_rows(folder)
    assert tuple(rows) == ("case_0", "case_2", "case_3")
    summary = read_summary(folder)
    assert summary["cases"] == 3
    assert summary["dsc"] == pytest.approx(np.mean([float(row["dsc"]) for row in rows.values()]))


def test_two_evaluations_of_one_result_at_a_time_are_refused(evaluated: Place) -> None:
    run = run_of(evaluated, "pancreas_coarse")
    held = run.folder / "evaluation_C_seg"
    with locked(held), pytest.raises(StoppedError, match="another process"):
        evaluated.evaluate("pancreas_coarse")
    assert (held / "done").is_file()


def test_duplicates_that_the_split_dropped_are_not_tested(place: Place) -> None:
    dropped = {"dropped_cases": (("C", CASES[0]), ("A", CASES[1]))}
    stage, weights = small_stage("pancreas_coarse"), hu_window(PANCREAS_CUT)
    write_run(place.checkpoints, stage, weights, cases=dropped)
    assert tuple(read_rows(place.evaluate("pancreas_coarse"))) == CASES[1:]


@pytest.mark.parametrize("step", ["read", "write"])
def test_a_case_that_fails_is_named_and_the_others_are_kept(
    step: str, place: Place, predicted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(place.checkpoints, small_stage("pancreas_coarse"), hu_window(PANCREAS_CUT))
    real = getattr(engine.case_pipeline, f"{step}_case")

    def failing(work: Any, of: PreparedCase | Predicted) -> Any:
        item = of.inputs.item if isinstance(of, Predicted) else of
        if item.case_id == "case_1":
            raise OSError(errno.EIO, "simulated", "label.nii.gz")
        return real(work, of)

    with monkeypatch.context() as patch:
        patch.setattr(engine.case_pipeline, "overlaps", lambda device: True)
        patch.setattr(engine.case_pipeline, f"{step}_case", failing)
        with pytest.raises(OSError, match="simulated") as caught:
            place.evaluate("pancreas_coarse")
    (note,) = caught.value.__notes__
    assert "it was C/case_1; " in note
    folder = run_of(place, "pancreas_coarse").folder / "evaluation_C_seg"
    kept = set(read_rows(folder))
    assert kept == set(predicted) - {"case_1"}
    assert kept >= {"case_0"}
    predicted.clear()
    place.evaluate("pancreas_coarse")
    assert set(predicted) == set(CASES) - kept


def test_steps_that_overlap_change_no_result_and_hold_no_case_open(
    evaluated: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases: list[PreparedCase] = []
    evaluate = engine.evaluation.evaluate_cases

    def noted(work: Any, of: list[PreparedCase]) -> None:
        cases.extend(of)
        evaluate(work, of)

    monkeypatch.setattr(engine.evaluation, "evaluate_cases", noted)
    results = []
    for overlap in (False, True):
        monkeypatch.setattr(engine.case_pipeline, "overlaps", lambda device, o=overlap: o)
        folder = run_of(evaluated, "tumor_fine").folder / "evaluation_C_seg_target"
        shutil.rmtree(folder)
        assert evaluated.evaluate("tumor_fine") == folder
        results.append(stable(folder))
    assert results[0] == results[1]  # with the masks' hashes
    assert len(cases) == 2 * len(CASES)
    assert all(case.arrays == {} for case in cases)
