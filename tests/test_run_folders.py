"""Run folders: named, found, resumed, locked, marked done last."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from data.splits import Split
from engine import run_folders as module
from engine.run_folders import (
    Run,
    changed_files,
    config_hash,
    create_run,
    environment,
    find_runs,
    locked,
    mark_done,
    name_differences,
    open_runs,
)
from methods import make_config, read_config
from tests.conftest import ROOT
from utils.config import Config, StoppedError
from utils.stages import PANCREAS_COARSE, TUMOR_COARSE

AB_C = Split(("A", "B"), "C", (("A", "1"), ("B", "2")), (("C", "3"),))
BC_A = Split(("B", "C"), "A", (("B", "2"), ("C", "3")), (("A", "1"),))
FOLD = Split(("A",), "A", (("A", "1"),), (("A", "2"),), fold=2)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_config(TUMOR_COARSE, checkpoints=tmp_path / "checkpoints")


def other_method(config: Config, name: str) -> Config:
    return make_config(config.stage, name, checkpoints=config.checkpoints)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call of `new_time` is a second later."""
    seconds = iter(range(60))
    monkeypatch.setattr(module, "new_time", lambda: f"20260102-0304{next(seconds):02d}")


def test_a_run_folder_is_named_by_time_stage_method_and_sources(config: Config) -> None:
    run = create_run(config, "20260102-030405", AB_C)
    assert run.folder == config.checkpoints / "20260102-030405_tumor_coarse_ours_A+B"
    assert run.checkpoint == run.folder / "last.pt"
    assert not run.done
    fold = create_run(config, "20260102-030405", FOLD)
    assert fold.folder.name == "20260102-030405_tumor_coarse_ours_A_fold2"
    other = replace(other_method(config, "bl_idr"), seed=7)
    assert create_run(other, "20260102-030405", AB_C).folder.name == (
        "20260102-030405_tumor_coarse_bl_idr_A+B_seed7"
    )


def test_a_run_folder_tells_what_it_was_made_from(config: Config) -> None:
    run = create_run(config, "20260102-030405", AB_C)
    assert read_config(run.folder / "config.json") == config
    facts = json.loads((run.folder / "run.json").read_text())
    assert (facts["split_hash"], facts["target"]) == (AB_C.hash, "C")
    versions = json.loads((run.folder / "environment.json").read_text())["packages"]
    assert versions["torch"].startswith("2.")


def test_runs_are_found_newest_first_by_what_is_wanted(config: Config) -> None:
    for time, split in (("20260101-000000", AB_C), ("20260103-000000", BC_A)):
        create_run(config, time, split)
    create_run(replace(config, stage=PANCREAS_COARSE), "20260104-000000", AB_C)
    runs = find_runs(config.checkpoints, "tumor_coarse")
    assert [run.time for run in runs] == ["20260103-000000", "20260101-000000"]
    (run,) = find_runs(config.checkpoints, "tumor_coarse", sources=("A", "B"))
    assert (run.sources, run.target) == (("A", "B"), "C")
    assert find_runs(config.checkpoints, "tumor_coarse", target="B") == []
    assert find_runs(config.checkpoints / "none", "tumor_coarse") == []


@pytest.mark.parametrize("content", [None, "", "{", '{"stage": "pancreas_fine"}'])
def test_a_folder_without_its_run_file_is_no_run(config: Config, content: str | None) -> None:
    run = create_run(config, "20260101-000000", AB_C)
    (run.folder / "run.json").unlink()
    if content is not None:
        (run.folder / "run.json").write_text(content)
    assert find_runs(config.checkpoints, "tumor_coarse") == []


def test_an_unfinished_run_of_the_same_settings_and_cases_is_resumed(config: Config) -> None:
    first = open_runs(config, [AB_C, BC_A])
    assert open_runs(config, [AB_C, BC_A]) == first
    assert open_runs(config, [BC_A]) == first[1:]


def test_a_run_whose_cases_have_changed_since_is_not_resumed(config: Config) -> None:
    began = replace(AB_C, contents={"A/1": "x", "B/1": "y", "B/2": "z"})
    (run,) = open_runs(config, [began])
    assert open_runs(config, [began]) == [run]
    changed = replace(began, contents={"A/1": "x", "B/1": "other", "B/2": "another"})
    for given in (config, replace(config, time=run.time)):
        with pytest.raises(ValueError, match=r"B/1, B/2 changed since it began .*--no-resume"):
            open_runs(given, [changed])
    (fresh,) = open_runs(replace(config, resume=False), [changed])
    assert fresh.folder != run.folder
    assert fresh.split_hash == changed.hash != run.split_hash


def test_what_a_finished_folder_wrote_is_compared_with_what_is_there(tmp_path: Path) -> None:
    for name in ("a.csv", "b c.json"):
        (tmp_path / name).write_text(name)
    mark_done(tmp_path, [tmp_path / "a.csv", tmp_path / "b c.json"])
    assert changed_files(tmp_path) == []
    listed = (tmp_path / "done").read_text().split("\n", 1)[1]
    checked = subprocess.run(
        ["sha256sum", "--check", "-"], cwd=tmp_path, input=listed, text=True, check=False
    )
    assert checked.returncode == 0
    (tmp_path / "a.csv").write_text("A.csv")
    (tmp_path / "b c.json").unlink()
    assert changed_files(tmp_path) == ["a.csv", "b c.json"]
    mark_done(tmp_path)
    assert changed_files(tmp_path) == []
    assert changed_files(tmp_path / "nothing") == []


def test_an_unfinished_run_of_another_precision_is_named(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = open_runs(replace(config, precision="bf16"), [AB_C])
    open_runs(replace(config, precision="fp32"), [AB_C])
    out = capsys.readouterr().out
    assert f"{run.folder} is unfinished and was begun in bf16; here it is fp32" in out
    open_runs(replace(config, precision="fp32"), [AB_C])  # its own is there now
    assert capsys.readouterr().out == ""


def test_what_can_change_the_last_bits_is_named_and_nothing_else() -> None:
    now = environment()
    assert name_differences(now, now) == []
    before = {**now, "threads": 64, "command": ["other"], "packages": {**now["packages"]}}
    before["packages"]["torch"] = "1.0"
    assert name_differences(before, now) == [
        f"threads 64 -> {now['threads']}",
        f"torch 1.0 -> {now['packages']['torch']}",
    ]


def test_what_does_not_change_the_weights_does_not_hinder_a_resume(config: Config) -> None:
    first = open_runs(config, [AB_C])
    other = replace(config, workers=7, device="cpu", tensorboard=False, checkpoint_seconds=1.0)
    assert open_runs(other, [AB_C]) == first


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 1e-3},
        {"width": 8},
        {"precision": "fp32"},
        {"accumulate": 2},
        {"spacing": (3.0, 1.0, 1.0)},
        {"settings": make_config(TUMOR_COARSE, settings={"steepness": 3.0}).settings},
        {"stage": replace(TUMOR_COARSE, epochs=3)},
        {"settings": make_config(TUMOR_COARSE, settings={"weights": {"con": 0.1}}).settings},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_settings_start_a_new_run(config: Config, change: dict[str, object]) -> None:
    (first,) = open_runs(config, [AB_C])
    other = replace(config, **change)  # type: ignore[arg-type]
    assert config_hash(other) != config_hash(config)
    (second,) = open_runs(other, [AB_C])
    assert second.folder != first.folder
    with pytest.raises(ValueError, match=r"other settings.*another --time"):
        open_runs(replace(other, time=first.time), [AB_C])


def test_seeds_and_methods_train_side_by_side_at_one_time(config: Config) -> None:
    others = [
        replace(config, seed=7),
        other_method(config, "bl"),
        replace(other_method(config, "bl"), seed=7),
    ]
    found = [open_runs(replace(c, time="mine"), [AB_C])[0] for c in (config, *others)]
    assert len({run.folder for run in found}) == 4
    assert [(run.method, run.seed) for run in found] == [
        ("ours", 2022), ("ours", 7), ("bl", 2022), ("bl", 7),
    ]  # fmt: skip
    assert set(find_runs(config.checkpoints, "tumor_coarse", method="bl")) == set(found[2:])


def test_other_cases_start_a_new_run_and_are_refused_under_the_old_time(config: Config) -> None:
    (first,) = open_runs(config, [AB_C])
    grown = replace(AB_C, train_cases=(*AB_C.train_cases, ("B", "9")))
    (second,) = open_runs(config, [grown])
    assert second.folder != first.folder
    with pytest.raises(ValueError, match=r"other cases.*another --time"):
        open_runs(replace(config, time=first.time), [grown])


def test_no_resume_or_a_finished_run_starts_a_new_one(config: Config) -> None:
    (first,) = open_runs(config, [AB_C])
    (second,) = open_runs(replace(config, resume=False), [AB_C])
    assert second.time > first.time
    for run in (first, second):
        mark_done(run.folder)
    (third,) = open_runs(config, [AB_C])
    assert third.time > second.time


def test_the_folds_of_an_experiment_share_a_time_though_one_is_done(config: Config) -> None:
    first = open_runs(config, [AB_C, BC_A])
    assert first[0].time == first[1].time
    mark_done(first[0].folder)
    again = open_runs(config, [AB_C, BC_A])
    assert again == first
    assert [run.done for run in again] == [True, False]


def test_an_experiment_killed_while_it_made_its_folders_gets_the_rest_of_them(
    config: Config,
) -> None:
    (first,) = open_runs(config, [AB_C])
    both = open_runs(config, [AB_C, BC_A])
    assert both[0] == first
    assert both[1].time == first.time


def test_two_runs_begun_in_one_second_do_not_meet(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(["20260102-000000"] * 3 + ["20260102-000001"])
    monkeypatch.setattr(module, "new_time", lambda: next(times))
    (first,) = open_runs(config, [AB_C])
    (second,) = open_runs(replace(config, seed=1), [AB_C])
    assert (first.time, second.time) == ("20260102-000000", "20260102-000001")


def test_a_time_that_is_given_names_the_folder(config: Config) -> None:
    (run,) = open_runs(replace(config, time="mine"), [AB_C])
    assert run.folder.name == "mine_tumor_coarse_ours_A+B"
    assert open_runs(replace(config, time="mine"), [AB_C]) == [run]


def test_done_is_a_file(config: Config) -> None:
    run = create_run(config, "20260101-000000", AB_C)
    mark_done(run.folder)
    assert run.done
    assert (run.folder / "done").read_text().startswith("20260102-")


@dataclass
class Holder:
    """Another process that holds a run folder."""

    process: subprocess.Popen[str]

    def leave(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def hold() -> Callable[[Run], Holder]:
    def start(run: Run) -> Holder:
        code = (
            "import sys, time; from pathlib import Path\n"
            "from engine.run_folders import Run, locked\n"
            "with locked(Path(sys.argv[1])):\n"
            "    print('held', flush=True); time.sleep(60)"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(run.folder)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return Holder(process)

    return start


def test_a_second_process_is_kept_out_until_the_first_is_gone(
    config: Config, hold: Callable[[Run], Holder]
) -> None:
    run = create_run(config, "20260101-000000", AB_C)
    holder = hold(run)
    try:
        with (
            pytest.raises(StoppedError, match=r"tumor_coarse.*another process"),
            locked(run.folder),
        ):
            pass
    finally:
        holder.leave()
    with locked(run.folder):
        pass
