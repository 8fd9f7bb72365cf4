"""`reproduce/experiments/request.py`: what the command line of run.py and demo.py asks for."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from demo import parse_demo
from reproduce.analysis.publish import plan_arguments
from reproduce.analysis.run_table import add_plan_arguments, plan_of
from reproduce.experiments.finished import missing_steps
from reproduce.experiments.presets import PRESETS
from reproduce.experiments.request import TABLES, Request, collect_cells, parse_request
from tests.conftest import Tiny


def request(*words: str) -> Request:
    return parse_request("text", words)


def test_a_table_is_reproduced_by_the_papers_protocol_where_all_scripts_look() -> None:
    asked = request("--what", "table5", "--centers", "my.toml")
    assert asked.preset is PRESETS["paper"]
    assert asked.plan.options == ()
    assert (asked.plan.checkpoints, asked.plan.cache) == (Path("checkpoints"), Path("cache"))
    assert asked.plan.centers == Path("my.toml")
    assert asked.seeds == (2022,)
    assert asked.devices == ("auto",)


def test_the_benchmark_keeps_all_that_is_its_own_in_one_folder() -> None:
    asked = request("--what", "benchmark", "--out", "o")
    assert asked.preset is PRESETS["small"]
    assert asked.plan.centers == Path("o/centers/centers.toml")
    assert (asked.plan.checkpoints, asked.plan.cache) == (Path("o/checkpoints"), Path("o/cache"))
    assert len(asked.seeds) == 3
    assert asked.plan.holdout == PRESETS["small"].holdout
    assert [table.name for table in asked.tables] == ["table5"]


def test_the_demo_is_two_tables_on_one_target_without_the_protocol_that_needs_held_out_cases(
    tmp_path: Path,
) -> None:
    asked = parse_demo(["--seed", "5", "--out", str(tmp_path), "--devices", "cpu"])
    assert asked.command == f"python demo.py --seed 5 --out {tmp_path} --devices cpu"
    assert [table.name for table in asked.tables] == ["table2", "table3"]
    assert asked.phantoms is not None
    assert (asked.phantoms.seed, asked.seeds, asked.targets) == (5, (5,), ("SYN-C",))
    toml = replace(asked.phantoms, cases=1).draw(tmp_path / "centers")
    assert toml == asked.plan.centers
    cells = collect_cells(asked)
    assert {cell.protocol for cell in cells} == {"paper"}
    assert len(cells) == 2 + 4
    steps = missing_steps(asked.plan, cells)
    assert next(step.stage for step in steps if step.kind == "train") == "tumor_coarse"
    assert len(steps) == 4 + 6
    assert not any("--holdout" in step.argv for step in steps)


def test_without_held_out_cases_no_table_asks_for_the_protocol_honest(tiny: Tiny) -> None:
    words = ["--what", "table5", "--centers", str(tiny.centers), "--holdout"]
    protocols = [
        {cell.protocol for cell in collect_cells(request(*words, part))} for part in ("0", "0.5")
    ]
    assert protocols == [{"paper"}, {"paper", "honest"}]


def test_arguments_of_the_user_stand_behind_those_of_the_preset_and_win() -> None:
    words = ["--preset", "quick", "--options", "--width 16", "--stage-options"]
    asked = request("--what", "table2", *words, "pancreas_fine=--epochs 9")
    assert asked.plan.options == (*PRESETS["quick"].options, "--width", "16")
    assert asked.plan.stage_options["pancreas_fine"] == ("--epochs", "1", "--epochs", "9")
    assert asked.plan.stage_options["pancreas_coarse"] == ("--epochs", "1")


def test_a_plan_survives_the_way_through_a_command_line() -> None:
    asked = request("--what", "table2", "--preset", "small", "--holdout", "0.2")
    parser = argparse.ArgumentParser()
    add_plan_arguments(parser)
    assert plan_of(parser.parse_args(plan_arguments(asked.plan))) == asked.plan


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--what", "table9"], "invalid choice: 'table9'"),
        (["--what", "benchmark", "--preset", "paper"], "has no synthetic centers"),
        (["--what", "table2", "--minutes", "0"], "--minutes 0: above 0"),
        (["--what", "table2", "--phantom-seed", "5"], "only for benchmark and demo"),
        (["--what", "table3", "--rows", "BL"], "--rows: only for table5 and benchmark"),
        (["--what", "table5", "--rows", "IDR"], "invalid choice: 'IDR'"),
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
    shared = set(cells["table5"]) & set(cells["table3"])  # Ours is F-Seg, in both protocols
    assert {(c.stage, c.variant, c.roi_source) for c in shared} == {("tumor_fine", "Ours", "seg")}
    assert len(shared) == 2 * 3
    assert set(cells["table6"]) <= set(cells["table5"])


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


def test_only_the_named_rows_of_table_v_are_asked_for(tiny: Tiny) -> None:
    words = ["--centers", str(tiny.centers), "--what", "table5"]
    every = collect_cells(request(*words))
    cells = collect_cells(request(*words, "--rows", "Ours", "BL"))
    assert cells == [cell for cell in every if cell.variant in ("BL", "Ours")]
    assert len(cells) == len(every) * 2 // 5
