"""`reproduce/experiments/request.py`: what the command line of run.py and demo.py asks for."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from demo import parse_demo
from reproduce.experiments.cells import Cell, steps_of
from reproduce.experiments.finished import missing_steps
from reproduce.experiments.plan import Plan, note_experiment, read_experiment
from reproduce.experiments.plan_arguments import (
    add_experiment_argument,
    add_plan_arguments,
    plan_of,
)
from reproduce.experiments.presets import PRESETS
from reproduce.experiments.request import TABLES, Request, collect_cells, parse_request
from tests.conftest import Tiny
from utils.config import StoppedError


def request(*words: str) -> Request:
    return parse_request("text", words)


@pytest.fixture(autouse=True)
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, where the default experiment would be."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_table_is_reproduced_by_the_papers_protocol_where_all_scripts_look(out: Path) -> None:
    asked = request("--what", "table5", "--centers", "my.toml")
    assert (asked.plan.preset, asked.plan.options) == ("paper", ())
    assert (asked.plan.checkpoints, asked.plan.cache) == (Path("checkpoints"), Path("cache"))
    assert asked.plan.centers == Path("my.toml").absolute()
    assert asked.seeds == (2022,)
    assert (asked.devices, asked.executor) == (("auto",), "local")
    assert asked.phantoms is None


def test_the_benchmark_keeps_all_that_is_its_own_in_one_folder(out: Path) -> None:
    asked = request("--what", "benchmark", "--out", "o")
    assert asked.plan.preset == "small"
    assert asked.plan.centers == Path("o/centers/centers.toml")
    assert (asked.plan.checkpoints, asked.plan.cache) == (Path("o/checkpoints"), Path("o/cache"))
    assert len(asked.seeds) == 3
    assert asked.plan.holdout == PRESETS["small"].holdout
    assert [table.name for table in asked.tables] == ["table5"]
    other = request("--what", "benchmark", "--phantom-seed", "5")
    assert other.phantoms is not None
    assert PRESETS["small"].phantoms is not None
    assert other.phantoms == replace(PRESETS["small"].phantoms, seed=5)


def test_the_demo_is_two_tables_on_one_target_without_the_threshold_that_needs_held_out_cases(
    tmp_path: Path,
) -> None:
    asked = parse_demo(["--seed", "5", "--out", str(tmp_path), "--devices", "cpu"])
    assert asked.command == f"python demo.py --seed 5 --out {tmp_path} --devices cpu"
    assert [table.name for table in asked.tables] == ["table2", "table3"]
    assert asked.phantoms is not None
    assert (asked.phantoms.seed, asked.seeds, asked.targets) == (5, (5,), ("SYN-C",))
    few = replace(asked.phantoms, cases=1)
    assert not few.drawn(tmp_path / "centers")
    toml = few.draw(tmp_path / "centers")
    assert toml == asked.plan.centers
    assert few.drawn(tmp_path / "centers")
    assert not asked.phantoms.drawn(tmp_path / "centers")  # they are more
    assert not replace(few, seed=6).drawn(tmp_path / "centers")
    cells = collect_cells(asked)
    assert {cell.threshold for cell in cells} == {"target"}
    assert len(cells) == 2 + 4
    steps = missing_steps(asked.plan, cells)
    assert next(step.stage for step in steps if step.kind == "train") == "tumor_coarse"
    assert len(steps) == 4 + 6
    assert all(step.training.config.holdout == 0 for step in steps)


def test_without_held_out_cases_no_table_asks_for_the_threshold_source_val(
    tiny: Tiny, out: Path
) -> None:
    words = ["--what", "table5", "--centers", str(tiny.centers), "--holdout"]
    thresholds = [
        {cell.threshold for cell in collect_cells(request(*words, part))} for part in ("0", "0.5")
    ]
    assert thresholds == [{"target"}, {"target", "source-val"}]


# Settings


def test_the_users_options_count_before_those_of_the_preset(out: Path) -> None:
    words = ["--preset", "quick", "--options", "--width 16 --lr 1e-4", "--stage-options"]
    asked = request("--what", "table2", *words, "pancreas_fine=--epochs 9")
    fine = asked.plan.config("pancreas_fine", "ours")
    coarse = asked.plan.config("pancreas_coarse", "ours")
    assert (fine.width, fine.lr, fine.stage.epochs) == (16, 1e-4, 9)  # 1e-4 is the paper's
    assert (coarse.width, coarse.stage.epochs) == (16, 1)
    assert fine.spacing == coarse.spacing == PRESETS["quick"].values["spacing"]


def test_an_option_of_one_method_is_given_to_that_method(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--what", "table5", "--method-options", "ours=--view-count 3"]
    plan = request(*words).plan
    assert plan.config("tumor_fine", "ours").settings.view_count == 3
    plan.config("tumor_fine", "bl")
    everywhere = request("--what", "table5", "--options", "--view-count 3").plan
    with pytest.raises(SystemExit):
        everywhere.config("tumor_fine", "bl")
    named = request("--what", "table5", "--options", "--method bl").plan
    with pytest.raises(SystemExit):
        named.config("tumor_fine", "ours")
    assert "--method bl: ours is trained here" in capsys.readouterr().err


def test_an_experiment_is_one_timestamp_and_its_settings_hold_until_others_are_given(
    tmp_path: Path,
) -> None:
    words = ["--what", "table2", "--out", str(tmp_path)]
    first = request(*words, "--preset", "small", "--options", "--width 8", "--checkpoints", "c")
    assert read_experiment(tmp_path) is None  # asked for, not begun
    note_experiment(tmp_path, first.plan)
    assert read_experiment(tmp_path) == first.plan
    again = request(*words)
    assert again.plan == first.plan
    assert again.seeds == PRESETS["small"].seeds
    changed = request(*words, "--options=", "--preset", "demo")
    assert (changed.plan.time, changed.plan.options) == (first.plan.time, ())
    assert changed.plan.holdout == PRESETS["demo"].holdout
    with pytest.raises(StoppedError, match="another call has begun an experiment"):
        note_experiment(tmp_path, replace(first.plan, time="20260101-000000"))


def test_the_scripts_of_tables_read_an_experiment(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_experiment_argument(parser)
    add_plan_arguments(parser)
    begun = plan_of(parser.parse_args(["--experiment", str(tmp_path / "new")]))
    assert read_experiment(tmp_path / "new") == begun  # its commands name its runs
    plan = Plan(preset="small", holdout=0.2, options=("--width", "8"), time="20260101-000000")
    note_experiment(tmp_path, plan)
    assert plan_of(parser.parse_args(["--experiment", str(tmp_path)])) == plan
    of_time = ["--experiment", str(tmp_path / "none"), "--time", "20250101-000000"]
    assert plan_of(parser.parse_args(of_time)).time == "20250101-000000"
    assert not (tmp_path / "none").exists()
    (tmp_path / "experiment.json").write_text("{")
    with pytest.raises(SystemExit, match="not the note of an experiment"):
        plan_of(parser.parse_args(["--experiment", str(tmp_path)]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--what", "table9"], "invalid choice: 'table9'"),
        (["--what", "benchmark", "--preset", "paper"], "has no synthetic centers"),
        (["--what", "table2", "--minutes", "0"], "--minutes 0: above 0"),
        (["--what", "table2", "--phantom-seed", "5"], "only for benchmark, demo, trial"),
        (["--what", "table3", "--rows", "BL"], "--rows: only for table5, table6, benchmark, trial"),
        (["--what", "table5", "--stage", "tumor_fine"], "--stage: only for benchmark, trial"),
        (["--what", "trial", "--stage", "pancreas_fine"], "invalid choice: 'pancreas_fine'"),
        (["--what", "table5", "--rows", "IDR"], "invalid choice: 'IDR'"),
        (["--what", "table2", "--jobs", "4"], "--jobs: only with --executor"),
        (["--what", "table2", "--executor", "slurm", "--jobs", "0"], "--jobs 0: at least 1"),
        (
            ["--what", "table2", "--executor", "slurm", "--devices", "cuda", "cpu"],
            "--devices cuda cpu: one for each job of --executor slurm",
        ),
        ([], "the following arguments are required: --what"),
    ],
)
def test_a_wrong_request_is_named(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        request(*words)
    assert message in capsys.readouterr().err


def test_under_torchrun_it_says_that_it_starts_its_own_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        request("--what", "table2")
    assert "start it without torchrun" in capsys.readouterr().err


def test_tables_share_cells_and_all_of_them_are_asked_for_once(tiny: Tiny) -> None:
    words = ["--centers", str(tiny.centers)]
    cells = {what: collect_cells(request("--what", what, *words)) for what in (*TABLES, "figures")}
    everything = collect_cells(request("--what", "all", *words))
    assert len(everything) == len(set(everything))
    assert set(everything) == {cell for of_table in cells.values() for cell in of_table}
    shared = set(cells["table5"]) & set(cells["table3"])  # Ours is F-Seg, with both thresholds
    assert {(c.stage, c.method, c.roi_source) for c in shared} == {("tumor_fine", "ours", "seg")}
    assert len(shared) == 2 * 3
    shared = set(cells["table6"]) & set(cells["table5"])  # BigAug's row is BL
    assert {cell.method for cell in shared} == {"bl", "ours"}


def test_a_seed_is_finished_before_the_next_begins(tiny: Tiny) -> None:
    words = ["--centers", str(tiny.centers), "--what", "all", "--seeds"]
    one, two = (collect_cells(request(*words, *seeds)) for seeds in (["7"], ["7", "5"]))
    assert two[: len(one)] == one
    assert {cell.seed for cell in two[len(one) :]} == {5}


def test_only_the_named_targets_are_asked_for(tiny: Tiny) -> None:
    words = ["--centers", str(tiny.centers), "--targets"]
    cells = collect_cells(request("--what", "all", *words, "C"))
    assert {cell.target for cell in cells} == {"C"}
    with pytest.raises(ValueError, match="--targets N: choose from the centers with lesions"):
        collect_cells(request("--what", "table2", *words, "N"))


def test_a_trial_is_of_the_coarse_tumor_stage_or_the_fine_one_in_the_labels_pancreas(
    tiny: Tiny,
) -> None:
    for words, stage in (([], "tumor_coarse"), (["--stage", "tumor_fine"], "tumor_fine")):
        trial = request("--what", "trial", "--seeds", "2022", "--rows", "BL", *words)
        cells = collect_cells(replace(trial, plan=replace(trial.plan, centers=tiny.centers)))
        assert {(cell.stage, cell.roi_source) for cell in cells} == {(stage, "mask")}
        assert {cell.threshold for cell in cells} == {"target", "source-val"}  # held-out cases too


def test_only_the_named_rows_of_table_v_are_asked_for(tiny: Tiny) -> None:
    words = ["--centers", str(tiny.centers), "--what", "table5"]
    every = collect_cells(request(*words))
    cells = collect_cells(request(*words, "--rows", "Ours", "BL"))
    assert cells == [cell for cell in every if cell.method in ("bl", "ours")]
    assert len(cells) == len(every) * 2 // 5


def test_the_benchmark_takes_rows_of_table_vi_and_beside_it(tiny: Tiny) -> None:
    plain = request("--what", "benchmark", "--rows", "BL", "Ours")
    assert [table.name for table in plain.tables] == ["table5"]
    more = request("--what", "benchmark", "--seeds", "2022", "--rows", "BL", "SNR", "GIN")
    assert [table.name for table in more.tables] == ["table5", "table6"]
    words = ["--centers", str(tiny.centers), "--what", "table6"]
    cells = collect_cells(request(*words, "--rows", "BigAug", "SNR", "GIN"))
    assert {cell.method for cell in cells} == {"bl", "snr", "gin"}
    of_benchmark = replace(more, plan=replace(more.plan, centers=tiny.centers))
    assert set(collect_cells(of_benchmark)) == set(cells)


def test_a_benchmark_can_end_at_the_coarse_stage(tiny: Tiny) -> None:
    words = ["--what", "benchmark", "--seeds", "2022", "--rows", "BL", "Ours", "SNR"]

    plan = replace(request(*words).plan, centers=tiny.centers)

    def cells(*more: str) -> list[Cell]:
        return collect_cells(replace(request(*words, *more), plan=plan))

    fine = cells()
    assert cells("--stage", "tumor_fine") == fine
    coarse = cells("--stage", "tumor_coarse")
    assert {cell.stage for cell in coarse} == {"tumor_coarse"}
    assert {replace(cell, stage="tumor_fine") for cell in coarse} == set(fine)
    needed = {step.stage for cell in coarse for step in steps_of(plan, cell)}
    assert needed == {"pancreas_coarse", "pancreas_fine", "tumor_coarse"}
