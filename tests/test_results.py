"""The strict order of the stages: which run and which earlier result an evaluation takes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.evaluation import run_stage
from engine.results import result_folder
from methods import METHODS
from tests._evaluation_fixtures import (
    LATER,
    NOTHING,
    PANCREAS_CUT,
    TIME,
    TUMOR_CUT,
    Place,
    WindowMethod,
    hu_window,
    parsed,
    printed_commands,
    read_summary,
    run_of,
    small_stage,
    write_four_runs,
    write_run,
)
from utils.config import Config, Evaluation
from utils.stages import STAGE_NAMES, STAGES

pytest_plugins = ["tests._evaluation_plugin"]

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("folder", [ROOT, ROOT / "evaluate_tumor"])
@pytest.mark.parametrize("stage", STAGE_NAMES[1:])
def test_a_missing_earlier_training_is_named_with_the_commands_that_make_it(
    stage: str, folder: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    previous = STAGES[stage].previous
    write_run(place.checkpoints, small_stage(stage), hu_window(PANCREAS_CUT))
    with pytest.raises(FileNotFoundError, match=f"needs {previous}, whose .* missing") as caught:
        place.evaluate(stage)
    train, evaluate = (parsed(command) for command in printed_commands(caught.value))
    assert isinstance(train, Config)
    assert isinstance(evaluate, Evaluation)
    assert train.stage.name == evaluate.stage == previous
    # The pancreas stages learn from the center without lesions too.
    sources = ("A", "B") if stage == "tumor_fine" else ("A", "B", "N")
    assert train.sources == evaluate.sources == sources
    assert train.target == evaluate.target == "C"
    for command in (train, evaluate):
        assert command.centers == place.centers
        assert command.checkpoints == place.checkpoints
        assert command.cache == place.cache


def test_an_unfinished_earlier_training_is_named_with_the_command_that_began_it(
    place: Place,
) -> None:
    write_run(place.checkpoints, small_stage("pancreas_fine"), hu_window(PANCREAS_CUT))
    run = write_run(place.checkpoints, small_stage("pancreas_coarse"), NOTHING, done=False)
    began = ["train_pancreas/train_sh_pancreas_coarse.py", "--width", "8", "--target", "C"]
    (run.folder / "environment.json").write_text(json.dumps({"command": began}))
    with pytest.raises(FileNotFoundError, match="unfinished in") as caught:
        place.evaluate("pancreas_fine")
    assert str(run.folder) in str(caught.value)
    assert printed_commands(caught.value)[0] == began
    assert parsed(printed_commands(caught.value)[1]) == Evaluation(
        "pancreas_coarse",
        place.centers,
        ("A", "B"),
        "C",
        place.checkpoints,
        place.cache,
    )


@pytest.mark.parametrize("stage", STAGE_NAMES[1:])
def test_a_missing_earlier_evaluation_is_named_and_its_command_makes_it(
    stage: str, place: Place
) -> None:
    runs = write_four_runs(place.checkpoints)
    previous = STAGES[stage].previous
    with pytest.raises(FileNotFoundError, match="missing or unfinished in") as caught:
        place.evaluate(stage)
    folder = result_folder(runs[str(previous)], str(previous), "C", Evaluation(stage))
    assert str(folder) in str(caught.value)
    (command,) = printed_commands(caught.value)
    request = parsed(command)
    assert isinstance(request, Evaluation)
    assert (request.stage, request.time, request.sources) == (previous, (TIME,), ("A", "B"))
    if previous == "pancreas_coarse":  # what it says is enough
        run_stage(replace(request, device="cpu", precision="fp32", workers=0))
        assert place.evaluate(stage).is_dir()


def test_an_earlier_evaluation_that_was_broken_off_is_not_read(evaluated: Place) -> None:
    (run_of(evaluated, "pancreas_fine").folder / "evaluation_C_seg" / "done").unlink()
    with pytest.raises(FileNotFoundError, match="reads the masks of pancreas_fine on C"):
        evaluated.evaluate("tumor_coarse")


def test_without_any_run_the_command_that_trains_one_is_given(place: Place) -> None:
    with pytest.raises(FileNotFoundError, match="no trained tumor_fine") as caught:
        place.evaluate("tumor_fine")
    (command,) = printed_commands(caught.value)
    request = parsed(command)
    assert isinstance(request, Config)
    assert (request.stage.name, request.target) == ("tumor_fine", "C")


def test_an_unfinished_run_is_not_evaluated(place: Place) -> None:
    run = write_run(place.checkpoints, small_stage("pancreas_coarse"), NOTHING, done=False)
    with pytest.raises(FileNotFoundError, match="is not finished; it resumes with") as caught:
        place.evaluate("pancreas_coarse")
    assert str(run.folder) in str(caught.value)


def test_the_newest_finished_run_is_evaluated_or_the_one_of_the_given_time(place: Place) -> None:
    stage, weights = small_stage("pancreas_coarse"), hu_window(PANCREAS_CUT)
    newest = "20250303-000000"
    for time, done in ((TIME, True), (LATER, True), (newest, False)):
        write_run(place.checkpoints, stage, weights, time=time, done=done)
    assert place.evaluate("pancreas_coarse").parent.name.startswith(LATER)
    assert place.evaluate("pancreas_coarse", time=(TIME,)).parent.name.startswith(TIME)
    with pytest.raises(FileNotFoundError, match="not finished"):
        place.evaluate("pancreas_coarse", time=(newest,))
    with pytest.raises(FileNotFoundError, match=f"finished are: {LATER} .*{TIME} ") as caught:
        place.evaluate("pancreas_coarse", time=("20240101-000000",))
    assert len(printed_commands(caught.value)) == 1


def test_a_stage_reads_the_earlier_result_of_its_own_time(evaluated: Place) -> None:
    write_four_runs(evaluated.checkpoints, time=LATER)
    for name in ("pancreas_coarse", "pancreas_fine"):
        evaluated.evaluate(name)
    assert read_summary(evaluated.evaluate("pancreas_fine"))["previous"].startswith(LATER)
    old = evaluated.evaluate("tumor_coarse", time=(TIME,))
    assert read_summary(old)["previous"].startswith(TIME)


def test_a_stage_reads_the_earlier_result_of_the_time_that_was_asked_for(evaluated: Place) -> None:
    """Its own has none of its time: without asking it would be the newest, of another setting."""
    own = "20250404-000000"
    write_run(evaluated.checkpoints, small_stage("tumor_coarse"), hu_window(TUMOR_CUT), time=own)
    write_four_runs(evaluated.checkpoints, time=LATER)
    for name in ("pancreas_coarse", "pancreas_fine"):
        evaluated.evaluate(name)
    newest = read_summary(evaluated.evaluate("tumor_coarse", time=(own,)))
    assert newest["previous"].startswith(LATER)
    asked = read_summary(evaluated.evaluate("tumor_coarse", time=(own, TIME)))
    assert asked["previous"].startswith(TIME)


def test_a_stage_without_a_partner_of_its_time_reads_the_newest_and_no_older_one(
    evaluated: Place,
) -> None:
    tumor = small_stage("tumor_coarse")
    write_run(evaluated.checkpoints, tumor, hu_window(TUMOR_CUT), time="20250404-000000")
    assert read_summary(evaluated.evaluate("tumor_coarse"))["previous"].startswith(TIME)
    fine = small_stage("pancreas_fine")
    write_run(evaluated.checkpoints, fine, hu_window(PANCREAS_CUT), time=LATER)
    with pytest.raises(FileNotFoundError, match=rf"missing or unfinished in .*{LATER}"):
        evaluated.evaluate("tumor_coarse")


def test_a_stage_never_reads_a_result_whose_training_saw_the_center(place: Place) -> None:
    coarse, fine = small_stage("pancreas_coarse"), small_stage("pancreas_fine")
    weights = hu_window(PANCREAS_CUT)
    write_run(place.checkpoints, coarse, weights, sources=("A", "B", "C"), target="U")
    write_run(place.checkpoints, fine, weights)
    with pytest.raises(FileNotFoundError, match="training is missing"):
        place.evaluate("pancreas_fine")
    with pytest.raises(FileNotFoundError, match="no trained pancreas_coarse"):
        place.evaluate("pancreas_coarse")


def test_a_pancreas_result_with_more_sources_serves_a_tumor_stage(place: Place) -> None:
    write_four_runs(place.checkpoints)
    weights = hu_window(PANCREAS_CUT)
    for name in ("pancreas_coarse", "pancreas_fine"):
        shutil.rmtree(run_of(place, name).folder)
        write_run(place.checkpoints, small_stage(name), weights, sources=("A", "B", "N"))
    folders = place.all_stages()
    assert "A+B+N" in read_summary(folders["tumor_coarse"])["previous"]
    assert "A+B+N" not in read_summary(folders["tumor_fine"])["previous"]


def test_where_several_runs_fit_the_sources_are_asked_for(place: Place) -> None:
    stage, weights = small_stage("pancreas_coarse"), hu_window(PANCREAS_CUT)
    for sources, target in ((("A", "B"), "C"), (("B", "C"), "A")):
        write_run(place.checkpoints, stage, weights, sources=sources, target=target)
    assert place.evaluate("pancreas_coarse").parent.name.endswith("A+B")  # its own target
    with pytest.raises(ValueError, match="add one of: --sources B C --seed 2022; --sources A B"):
        place.evaluate("pancreas_coarse", target="U")
    folder = place.evaluate("pancreas_coarse", target="U", sources=("C", "B"))
    assert folder.parent.name.endswith("B+C")


def test_without_a_target_every_run_of_the_newest_time_meets_its_own(place: Place) -> None:
    stage, weights = small_stage("pancreas_coarse"), hu_window(PANCREAS_CUT)
    for sources, target in ((("A", "B"), "C"), (("A", "C"), "N")):
        write_run(place.checkpoints, stage, weights, sources=sources, target=target)
    folders = run_stage(place.request("pancreas_coarse", target=None))
    assert sorted(folder.name for folder in folders) == ["evaluation_C_seg", "evaluation_N_seg"]


def test_an_unknown_center_is_refused_with_the_choices(place: Place) -> None:
    with pytest.raises(ValueError, match=r"--target X: not in .*, which has A, B, C, N, U"):
        place.evaluate("pancreas_coarse", target="X")


def test_every_tumor_method_reads_the_pancreas_stages_of_the_default_one(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "bl", WindowMethod)
    write_four_runs(place.checkpoints)
    weights = hu_window(PANCREAS_CUT)
    for name in ("pancreas_fine", "tumor_coarse", "tumor_fine"):
        write_run(place.checkpoints, small_stage(name), weights, time=LATER, method="bl")
    folders = place.all_stages()
    folder = place.evaluate("tumor_coarse", method="bl")
    assert folder.parent.name == f"{LATER}_tumor_coarse_bl_A+B"
    previous = str(folders["pancreas_fine"].relative_to(place.checkpoints))
    assert read_summary(folder)["previous"] == previous
    fine = place.evaluate("tumor_fine", method="bl")
    assert read_summary(fine)["previous"] == str(folder.relative_to(place.checkpoints))
    # A pancreas stage of another method reads its own, and the message names that.
    with pytest.raises(FileNotFoundError, match="needs pancreas_coarse") as caught:
        place.evaluate("pancreas_fine", method="bl")
    train, evaluate = (parsed(command) for command in printed_commands(caught.value))
    assert (train.method, evaluate.method) == ("bl", "bl")


def test_a_result_is_named_by_what_makes_it_another(place: Place) -> None:
    run = write_run(place.checkpoints, small_stage("tumor_fine"), hu_window(PANCREAS_CUT))

    def name(stage: str, **asked: Any) -> str:
        return result_folder(run, stage, "C", Evaluation("tumor_fine", **asked)).name

    assert name("tumor_fine") == "evaluation_C_seg_target"
    assert name("tumor_coarse", roi_source="mask") == "evaluation_C_mask_target"
    assert name("tumor_fine", threshold="source-val") == "evaluation_C_seg_source-val"
    assert name("pancreas_fine", threshold="source-val") == "evaluation_C_seg"  # it has only one
    assert name("pancreas_fine") == "evaluation_C_seg"
    for stage in ("pancreas_fine", "tumor_fine"):
        assert name(stage, cases="heldout") == "evaluation_C_seg_heldout"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": "best"}, "--threshold best: target or source-val"),
        ({"cases": "all"}, "--cases all: test or heldout"),
        ({"cases": "heldout", "threshold": "source-val"}, "is chosen on the cases of --cases hel"),
        ({"window_voxels": 511}, "--window-voxels 511: at least 512"),
    ],
)
def test_a_request_that_has_no_meaning_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Evaluation("tumor_fine", **values)
