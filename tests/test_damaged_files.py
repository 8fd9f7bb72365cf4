"""Own files that are damaged are named with what to do; leftovers of killed processes go away."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.case import DataError, Grid
from data.phantom.make_centers import make_centers
from data.prepare.prepare_centers import prepare_centers
from data.prepare.prepared_case import PreparedCase, PrepareSettings
from data.readers.masks import read_mask, write_mask
from engine.case_metrics import read_cases
from engine.checkpointing import load_checkpoint, save_checkpoint
from engine.inference import load_predictor
from engine.results import result_folder
from engine.run_folders import DONE, create_run, find_runs, mark_done, open_runs, read_run
from engine.run_log import keep_rows
from engine.split_selection import select_splits
from methods import read_config
from reproduce.experiments.plan import read_experiment
from reproduce.workflow.plan_file import read_plan, read_status
from tests._evaluation_fixtures import CASES, Place, read_rows, run_of
from tests.conftest import read_log, same, train, weights
from tests.test_outside_errors import files_of_at_most
from utils.config import Config
from utils.files import read_csv, read_json
from utils.leftovers import remove_leftovers, unfinished_path

pytest_plugins = ["tests._evaluation_plugin"]

MakeConfig = Callable[..., Config]
DAMAGES = {
    "empty": b"",
    "garbage": b"\x80\x00\xff{",
    "cut": b'{"a": ',
    "a list": b"[]",
    "another version": b'{"other": 1}',
}
damaged = pytest.mark.parametrize("content", DAMAGES.values(), ids=list(DAMAGES))


@damaged
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("config.json", read_config),
        ("plan.json", read_plan),
        ("experiment.json", lambda path: read_experiment(path.parent)),
        ("phantom.json", lambda path: make_centers(path.parent, ["SYN-C"], 1)),
        ("last.pt", load_predictor),
    ],
)
def test_what_must_be_read_is_refused_with_its_name_and_a_cure(
    name: str, read: Callable[[Path], Any], content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: ") as raised:
        read(path)
    assert "; " in str(raised.value)  # what is wrong; what to do
    assert os.listdir(tmp_path) == [name]


@damaged
def test_a_run_that_is_passed_over_is_said_once(
    content: bytes, tiny_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config()
    folder = config.checkpoints / "20260101-000000_tumor_coarse_ours_A+B"
    folder.mkdir(parents=True)
    (folder / "run.json").write_bytes(content)
    for _ in range(3):
        assert find_runs(config.checkpoints, "tumor_coarse") == []
        assert read_run(folder) is None
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert f"warning: {folder / 'run.json'}: is damaged " in text
    assert "this run is passed over" in text


@damaged
def test_a_damaged_status_of_a_step_is_run_again(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "a.json").write_bytes(content)
    assert read_status(tmp_path, "a") == {}
    assert "a.json" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"other\n1\n", b"case_id,dsc\nx,word\n", b"case_id,dsc\nx\n", b"\0\0"],
)
def test_a_damaged_table_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cases\.csv.*; delete .* and evaluate again"):
        read_cases(path)


def test_a_file_that_is_missing_is_not_damaged(tmp_path: Path) -> None:
    for read in (read_json, read_csv):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none", "restore it")


def test_a_log_keeps_the_rows_that_are_whole_and_counts_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"step,epoch\n1,0\n\xff\x00\n3,1\n4,1\n")
    keep_rows(path, 3, ("step", "epoch"))
    assert path.read_text() == "step,epoch\n1,0\n3,1\n"
    assert "the rows of 1 steps are missing" in capsys.readouterr().out


# runs


def test_a_bad_block_in_the_last_checkpoint_costs_the_steps_since_the_one_before(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(method="bl", epochs=4, time="t", checkpoint_seconds=0.0)
    run = train(config)
    whole, log = weights(run), read_log(run)
    (run.folder / "done").unlink()
    content = bytearray(run.checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    run.checkpoint.write_bytes(content)
    before = load_checkpoint(run.previous_checkpoint)["step"]
    capsys.readouterr()
    resumed = train(config)
    text = capsys.readouterr().out
    assert f"warning: {run.checkpoint}: not a readable checkpoint" in text
    assert f"resumes from step {before}" in text
    assert same(weights(resumed), whole)
    assert read_log(resumed) == log
    assert (run.folder / "last.damaged").read_bytes() == content


def test_a_checkpoint_of_other_content_is_named(tiny_config: MakeConfig) -> None:
    config = tiny_config(method="bl", time="t")
    run = train(config)
    (run.folder / "done").unlink()
    run.previous_checkpoint.unlink(missing_ok=True)
    content = load_checkpoint(run.checkpoint)
    save_checkpoint(run.checkpoint, {k: v for k, v in content.items() if k != "optimizers"})
    with pytest.raises(ValueError, match=r"last\.pt: not a state of these settings .*optimizers"):
        train(config)


def test_a_half_made_run_folder_is_made_anew_and_a_foreign_one_is_refused(
    tiny_config: MakeConfig,
) -> None:
    config = tiny_config(time="t")
    split = select_splits(config, _centers(config))[0]
    folder = config.checkpoints / "t_tumor_coarse_ours_A+B"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{")
    left = unfinished_path(folder)
    left.mkdir()
    os.utime(left, (0, 0))
    (run,) = open_runs(config, [split])
    assert run.folder == folder
    assert json.loads((folder / "config.json").read_text())["time"] == "t"
    assert os.listdir(config.checkpoints) == [folder.name]
    (folder / "run.json").unlink()
    (folder / "last.pt").write_bytes(b"precious")
    with pytest.raises(ValueError, match="B: is no run of this version"):
        create_run(config, "t", split)
    assert (folder / "last.pt").read_bytes() == b"precious"


def _centers(config: Config) -> Any:
    from data.centers import load_centers

    return load_centers(config.centers)


# evaluations


def test_leftovers_of_a_killed_evaluation_go_and_damaged_notes_begin_it_anew(
    evaluated: Place, predicted: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(evaluated, "pancreas_coarse")
    asked = evaluated.request("pancreas_coarse")
    folder = result_folder(run, "pancreas_coarse", "C", asked)
    left = [
        unfinished_path(folder / "cases.csv"),
        unfinished_path(folder / "predictions" / "case_0.nii.gz", ".nii.gz"),
    ]
    for path in left:
        path.write_bytes(b"half")
    evaluated.evaluate("pancreas_coarse")
    assert not any(path.exists() for path in left)
    assert predicted == []
    before = read_rows(folder)
    for name in ("origin.json", "cases.csv"):
        (folder / name).write_bytes(b"\xff")
        evaluated.evaluate("pancreas_coarse")
        assert predicted == list(CASES)
        assert f"{folder / name}" in capsys.readouterr().out
        assert read_rows(folder).keys() == before.keys()
        predicted.clear()


def test_a_row_that_a_kill_cut_off_costs_its_case_alone(
    evaluated: Place, predicted: list[str]
) -> None:
    run = run_of(evaluated, "pancreas_coarse")
    folder = result_folder(run, "pancreas_coarse", "C", evaluated.request("pancreas_coarse"))
    whole = read_rows(folder)
    text = (folder / "cases.csv").read_bytes()
    (folder / DONE).unlink()
    (folder / "cases.csv").write_bytes(text[:-5])
    evaluated.evaluate("pancreas_coarse")
    assert predicted == [CASES[-1]]
    found = read_rows(folder)
    assert list(found) == list(whole)
    for name in CASES:
        assert found[name]["mask_sha256"] == whole[name]["mask_sha256"]


def test_a_damaged_summary_of_the_stage_before_is_named(evaluated: Place) -> None:
    run = run_of(evaluated, "pancreas_coarse")
    asked = evaluated.request("pancreas_coarse")
    summary = result_folder(run, "pancreas_coarse", "C", asked) / "summary.json"
    summary.write_text("{}")
    mark_done(summary.parent)  # else its digest tells
    with pytest.raises(ValueError, match=r"summary\.json: has no 'previous'.*evaluate that stage"):
        evaluated.evaluate("pancreas_fine")


GRID = Grid((60, 50, 40), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_mask_that_does_not_fit_on_the_disk_is_an_error_and_the_old_one_stays(
    suffix: str, tmp_path: Path
) -> None:
    """ITK itself writes half a NIfTI file without a word."""
    path = tmp_path / f"case{suffix}"
    old = np.zeros((40, 50, 60), bool)
    old[3, 4, 5] = True
    write_mask(path, old, GRID)
    noise = np.random.default_rng(0).random(old.shape) > 0.5
    with files_of_at_most(3000), pytest.raises(OSError, match="File too large") as raised:
        write_mask(path, noise, GRID)
    assert raised.value.errno == errno.EFBIG
    assert raised.value.filename == str(path)
    np.testing.assert_array_equal(read_mask(path, GRID), old)
    assert os.listdir(tmp_path) == [path.name]


# the cache


def test_a_cache_that_is_deleted_in_use_is_said(tiny: Any, tmp_path: Path) -> None:
    from data.centers import load_centers

    center = load_centers(tiny.centers)["B"]
    settings = PrepareSettings(spacing=(3.0, 1.5, 1.5))
    (case,) = prepare_centers([center], tmp_path, settings)["B"]
    assert isinstance(case, PreparedCase)
    assert case.folder is not None
    (case.folder / "label.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"label\.npy: is gone or damaged .*the same command"):
        assert case.label is not None
    shutil.rmtree(tmp_path)
    with pytest.raises(DataError, match=r"image\.npy: is gone or damaged .*the same command"):
        assert case.image_hu.any()


def test_what_another_process_writes_is_not_a_leftover(tmp_path: Path) -> None:
    mine = unfinished_path(tmp_path / "a.json")
    mine.write_text("")
    remove_leftovers(tmp_path)
    assert mine.exists()
    remove_leftovers(tmp_path, alone=True)
    assert not mine.exists()
