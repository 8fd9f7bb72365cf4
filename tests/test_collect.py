"""Checkpoints -> rows, and their export: every finished evaluation, once, with its center."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.bench_complexity import ROWS
from data.centers import load_centers
from engine.case_metrics import write_cases
from engine.run_folders import mark_done
from reproduce import export_results as script
from reproduce.analysis import export
from reproduce.analysis.collect import collect_rows, with_earlier
from reproduce.analysis.export import (
    ARGUMENTS,
    SETTINGS,
    checked_out,
    export_keys,
    export_results,
    name_not_run,
    without_folders,
)
from reproduce.analysis.paper_tables import TABLE5
from reproduce.analysis.rows import Network, read_results
from reproduce.analysis.run_table import report_results
from reproduce.experiments.plan import Plan, note_experiment
from reproduce.experiments.request import Request, parse_request
from tests._rows_fixtures import key
from tests._table_fixtures import cell, csv_lines, fill, make_plan, make_rows

NAMES = ("A", "B", "C")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(tmp_path, NAMES)


def test_rows_are_those_of_cases_csv_with_their_center_and_fold(plan: Plan) -> None:
    whole = key("tumor_fine", "A", "bl")
    folds = key("tumor_fine", "B", folds=True)
    fill(plan, cell(plan, "tumor_fine", "A", method="bl"), make_rows([10.0, 20.0]))
    folders = fill(plan, cell(plan, "tumor_fine", "B", folds=True), make_rows([1.0, 2, 3, 4, 5]))
    centers = load_centers(plan.centers)
    rows = collect_rows(plan, centers, [whole, folds, key("tumor_fine", "C")])
    assert set(rows.evaluations) == {whole, folds}
    assert rows.centers == NAMES
    first, _ = rows.evaluations[whole]
    assert (first["case_id"], first["center"], first["dsc"]) == ("a", "A", 10)
    assert first["threshold_value"] == 0.5
    assert "threshold" not in first
    assert "fold" not in first
    of_folds = sorted((row["fold"], row["dsc"]) for row in rows.evaluations[folds])
    assert of_folds == [(0, 1), (0, 5), (1, 2), (2, 3), (3, 4)]
    (folders[2] / "done").unlink()  # one fold of four is missing
    assert set(collect_rows(plan, centers, [whole, folds]).evaluations) == {whole}


def test_heldout_cases_are_of_the_source_center(plan: Plan) -> None:
    (folder,) = fill(plan, cell(plan, "tumor_fine", "A"), make_rows([10.0]))
    heldout = folder.parent / "evaluation_B_seg_heldout"
    write_cases(heldout / "cases.csv", make_rows([70.0, 80.0]))
    of = key("tumor_fine", "A", heldout="B")
    centers = load_centers(plan.centers)
    assert collect_rows(plan, centers, [of]).evaluations == {}
    mark_done(heldout)
    rows = collect_rows(plan, centers, [of, key("tumor_fine", "A", heldout="C")])
    assert [(row["center"], row["dsc"]) for row in rows.evaluations[of]] == [("B", 70), ("B", 80)]
    assert list(rows.evaluations) == [of]


def test_a_networks_cost_is_counted_once_at_the_papers_size(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, NAMES, options=("--upsample", "nearest"))
    for target in ("A", "B"):
        fill(plan, cell(plan, "tumor_fine", target, method="bl"), make_rows([10.0]))
    keys = [key("tumor_fine", target, "bl") for target in ("A", "B")]
    rows = collect_rows(plan, load_centers(plan.centers), keys, networks=True)
    assert list(rows.networks) == [("bl", "tumor_fine")]
    assert rows.networks["bl", "tumor_fine"].parameters == ROWS[0].parameters
    assert collect_rows(plan, load_centers(plan.centers), keys).networks == {}


def test_a_fine_stage_is_read_with_the_coarse_one_before_it() -> None:
    fine = key("tumor_fine", "A", "bl", 7, roi_source="mask")
    assert with_earlier([fine, key("pancreas_fine", "A")]) == [
        key("tumor_coarse", "A", "bl", 7, roi_source="mask"),
        fine,
        key("pancreas_fine", "A"),
    ]


# The exporter


@pytest.fixture
def uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that cost nothing to count."""
    monkeypatch.setattr("reproduce.analysis.collect.count_network", lambda *_: Network(1, 2))


def words_of(plan: Plan) -> list[str]:
    """What asks `reproduce/run.py` for Table V of the plan's experiment."""
    out = plan.checkpoints.parent / "out"
    note_experiment(out, plan)
    places = ["--centers", str(plan.centers), "--checkpoints", str(plan.checkpoints)]
    return ["--what", "table5", "--preset", "paper", "--out", str(out), *places]


def request_of(plan: Plan, *words: str) -> Request:
    return parse_request(None, [*words_of(plan), *words])


def fill_row(plan: Plan, target: str, dscs: list[float], method: str = "bl") -> None:
    for stage in ("tumor_coarse", "tumor_fine"):
        fill(plan, cell(plan, stage, target, method=method), make_rows(dscs))


@pytest.mark.usefixtures("uncounted")
def test_what_is_finished_is_exported_and_can_be_shown_without_checkpoints(
    plan: Plan, tmp_path: Path
) -> None:
    fill_row(plan, "A", [10.0, 20.0])
    fill_row(plan, "A", [14.0, 24.0], method="ours")
    folder = tmp_path / "results" / "mine"
    exported = export_results(request_of(plan), folder, commit="abc1234")
    assert exported.evaluations == 4
    assert folder / "bl_tumor_fine.csv" in exported.paths
    assert any("BL+IDR, tumor_fine, ROI seg, threshold target: A" in x for x in exported.not_run)
    report = report_results(TABLE5, folder, ["A"])
    line = csv_lines(report)["target", "Ours", "mean", "dsc"]
    assert (float(line["ours"]), float(line["gain"])) == (19, 4)
    facts = json.loads((folder / "experiment.json").read_text())
    assert set(facts) == {"experiment", *SETTINGS, *ARGUMENTS, "files", "exports"}
    assert (facts["preset"], facts["centers"]) == ("paper", list(NAMES))
    (export,) = facts["exports"]
    assert export["commit"] == "abc1234"
    assert export["command"].startswith("python reproduce/run.py --what table5")
    assert str(tmp_path) not in (folder / "experiment.json").read_text()
    assert export["not_run"] == list(exported.not_run)
    assert set(export) >= {"date", "machine", "packages", "system"}


@pytest.mark.usefixtures("uncounted")
def test_later_cells_are_added_and_an_evaluation_that_is_there_is_replaced(
    plan: Plan, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    fill_row(plan, "A", [10.0])
    export_results(request_of(plan), folder, commit="one")
    fill_row(plan, "A", [30.0])
    fill_row(plan, "B", [50.0])
    export_results(request_of(plan), folder, commit="two")
    (plan.checkpoints).rename(tmp_path / "elsewhere")
    make_plan(tmp_path, NAMES)
    fill_row(plan, "C", [70.0])
    exported = export_results(request_of(plan), folder, commit="two")
    rows = read_results(folder)
    dscs = {of.target: rows.evaluations[of][0]["dsc"] for of in rows.evaluations}
    assert dscs == {"A": 30, "B": 50, "C": 70}
    assert not any("BL, tumor_fine, ROI seg, threshold target" in x for x in exported.not_run)
    facts = json.loads((folder / "experiment.json").read_text())
    (export,) = facts["exports"]  # the first one's cases are there no more
    assert export["commit"] == "two"
    assert export["trainings"] == {"bl": [f"{name}, seed 2022" for name in "ABC"]}


@pytest.mark.usefixtures("uncounted")
def test_cases_of_other_settings_do_not_go_into_one_experiment(plan: Plan, tmp_path: Path) -> None:
    fill_row(plan, "A", [10.0])
    folder = tmp_path / "mine"
    export_results(request_of(plan), folder)
    other = request_of(plan)
    other = replace(other, plan=replace(other.plan, options=("--width", "8")))
    fill_row(other.plan, "A", [10.0])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=r"other settings \(arguments: , now --width 8\)"):
        export_results(other, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_nothing_finished_is_an_error_with_the_command(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing of this request is finished there; python rep"):
        export_results(request_of(plan), tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_the_rows_that_are_asked_for_are_exported_with_their_heldout_cases(plan: Plan) -> None:
    request = request_of(plan, "--rows", "BL", "--targets", "A", "--seeds", "1", "2")
    keys = export_keys(request, NAMES, ("A",))
    assert {of.method for of in keys} == {"bl"}
    assert {of.seed for of in keys} == {1, 2}
    assert {of.heldout for of in keys if of.stage == "tumor_fine"} == {"", "B", "C"}
    assert {of.threshold for of in keys if of.heldout} == {"target"}
    assert {of.stage for of in keys} == {"tumor_coarse", "tumor_fine"}
    without = replace(request, plan=replace(request.plan, holdout=0.0))
    assert not any(
        of.heldout or of.threshold == "source-val" for of in export_keys(without, NAMES, ("A",))
    )


def test_what_is_not_run_is_said_by_row_with_its_places() -> None:
    keys = [key("tumor_fine", target, "bl", seed) for target in "AB" for seed in (1, 2)]
    more = [key("tumor_fine", "A", "bl", 1, heldout="B"), key("tumor_fine", "A", folds=True)]
    assert name_not_run([*keys, *more]) == [
        "BL, tumor_fine, ROI seg, threshold target: A seed 1, A seed 2, B seed 1, B seed 2",
        "Ours, tumor_fine, ROI seg, threshold target, four folds: A seed 2022",
    ]


def test_a_command_keeps_no_folder_of_this_machine() -> None:
    command = "python reproduce/run.py --what table5 --out '/data/me/my runs' --centers a/b.toml"
    assert without_folders(command) == (
        "python reproduce/run.py --what table5 --out 'my runs' --centers a/b.toml"
    )


def test_the_commit_is_that_of_the_checkout() -> None:
    assert checked_out() == "unknown" or len(checked_out().removesuffix("-dirty")) == 7


def test_a_commit_is_dirty_by_changed_code_and_not_by_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setattr(export, "ROOT", tmp_path)
    code, result = tmp_path / "code.py", tmp_path / "results" / "benchmark" / "cases.csv"
    result.parent.mkdir(parents=True)
    for path in (code, result):
        path.write_text("before")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    clean = checked_out()
    assert len(clean) == 7
    result.write_text("after")
    assert checked_out() == clean
    code.write_text("after")
    assert checked_out() == f"{clean}-dirty"


@pytest.mark.usefixtures("uncounted")
def test_the_script_takes_the_arguments_of_run_py(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill_row(plan, "A", [10.0])
    words = [*words_of(plan), "--rows", "BL", "--targets", "A"]
    script.main(["--results", str(tmp_path / "mine"), "--commit", "abc", *words])
    out = capsys.readouterr().out
    assert "2 evaluations written; not finished: 2" in out  # those of threshold source-val
    assert "BL, tumor_fine, ROI seg, threshold source-val: A seed 2022" in out
    with pytest.raises(SystemExit):
        script.main(["--results", str(tmp_path / "mine"), *words, "--rows", "Ours"])
    assert "nothing of this request is finished" in capsys.readouterr().err
