"""From folders of results to a page: evaluations, runs, experiments, exported cases."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from report.build import main
from report.contents import Curve
from report.evaluated import chain_of, name_groups, read_evaluated
from report.page import curves_html
from report.results import epoch_means, paper_tables, read_contents
from reproduce.analysis.rows import Rows
from reproduce.experiments.plan import Plan, note_experiment
from tests._evaluation_fixtures import CASES, Place, read_rows
from tests._rows_fixtures import key, make_cases, make_rows, write_experiment
from utils.commands import ROOT
from utils.stages import STAGE_NAMES

pytest_plugins = ["tests._evaluation_plugin"]


def test_an_evaluation_shows_itself_and_the_stages_before(
    data: Place, finished: dict[str, Path]
) -> None:
    contents = read_contents(finished["tumor_fine"], images=False)
    assert [result.name for result in contents.results] == [
        name.replace("_", " ") for name in reversed(STAGE_NAMES)
    ]
    assert [(case.center, case.case_id) for case in contents.cases] == [("C", n) for n in CASES]
    rows = read_rows(finished["tumor_fine"])
    for row in contents.results[0].rows:
        assert row["dsc"] == float(rows[row["case_id"]]["dsc"])
    assert set(contents.checkpoints) == {path.parent.name for path in finished.values()}
    origin = json.loads((finished["tumor_fine"] / "origin.json").read_text())
    folder = finished["tumor_fine"].parent.name
    assert contents.checkpoints[folder] == origin["checkpoint_sha256"]


def test_the_page_says_of_how_many_trainings_it_shows_curves(
    finished: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    curve = Curve("a run", [1, 2], {"total": [2, 1]})
    monkeypatch.setattr("report.results.run_curves", lambda item: [curve])
    every = read_contents(finished["tumor_fine"], images=False)
    assert "trainings shown" not in curves_html(every)
    monkeypatch.setattr("report.results.MAX_RUNS", 3)
    cut = read_contents(finished["tumor_fine"], images=False)
    assert (len(cut.curves), len(every.curves)) == (3, 4)
    assert "<p>3 of 4 trainings shown.</p>" in curves_html(cut)


def test_a_case_has_its_label_and_the_mask_of_each_stage(
    data: Place, finished: dict[str, Path]
) -> None:
    contents = read_contents(finished["tumor_fine"], data.centers)
    load = contents.cases[1].load
    assert load is not None
    images = load()
    assert [layer.name for layer in images.layers] == [n.replace("_", " ") for n in STAGE_NAMES]
    assert images.label is not None
    rows = read_rows(finished["tumor_fine"])
    tumor, volume = images.layers[-1].mask, float(np.prod(images.spacing)) / 1000
    assert tumor.sum() * volume == pytest.approx(float(rows["case_1"]["pred_ml"]), rel=1e-4)
    assert (images.label == 2).sum() * volume == pytest.approx(
        float(rows["case_1"]["label_ml"]), rel=1e-4
    )
    # The same grid: the image is bright where the label's tumor is.
    assert images.image_hu[images.label == 2].min() > 160


def test_the_tables_are_those_of_the_paper(data: Place, finished: dict[str, Path]) -> None:
    contents = read_contents(finished["tumor_fine"], images=False)
    titles = [table.title.partition(":")[0] for table in contents.tables]
    assert titles == ["Table II", "Table III"]
    rows = read_rows(finished["tumor_fine"])
    mean = np.mean([float(row["dsc"]) for row in rows.values()])
    cells = [line for s in contents.tables[1].sheets for g in s.groups for line in g.lines]
    fine = next(line for line in cells if line[0] == "F-Seg")
    assert fine[1].startswith(f"{mean:.2f}")
    assert "(46.11" in fine[-1]  # the paper's mean


def test_an_experiment_is_all_runs_of_its_time(
    data: Place, finished: dict[str, Path], tmp_path: Path
) -> None:
    time = finished["tumor_fine"].parent.name.split("_")[0]
    plan = Plan(centers=data.centers, checkpoints=data.checkpoints, time=time)
    note_experiment(tmp_path, plan)
    contents = read_contents(tmp_path)
    assert len(contents.results) == 4
    assert all(case.load is not None for case in contents.cases)
    assert all(case.load is None for case in read_contents(tmp_path, images=False).cases)
    note_experiment(other := tmp_path / "other", replace(plan, time="20000101-000000"))
    with pytest.raises(FileNotFoundError, match="no finished evaluation there"):
        read_contents(other)


def test_a_run_is_its_own_evaluations(data: Place, finished: dict[str, Path]) -> None:
    contents = read_contents(finished["pancreas_fine"].parent, images=False)
    assert [r.name for r in contents.results] == ["pancreas fine", "pancreas coarse"]


def test_an_evaluation_that_is_not_finished_is_refused(
    finished: dict[str, Path], evaluated: Place
) -> None:
    folder = next(evaluated.checkpoints.glob("*_tumor_fine_*/evaluation_*"))
    (folder / "done").unlink()
    with pytest.raises(FileNotFoundError, match="it resumes"):
        read_contents(folder)


def test_missing_centers_are_named_with_what_to_do(
    finished: dict[str, Path], tmp_path: Path
) -> None:
    toml = tmp_path / "centers.toml"
    with pytest.raises(ValueError, match="give --centers FILE"):
        read_contents(finished["tumor_fine"], toml)
    toml.write_text('[centers.A]\nreader = "folder"\npath = "A"\n')
    (tmp_path / "A").mkdir()
    with pytest.raises(ValueError, match="has no center C"):
        read_contents(finished["tumor_fine"], toml)


def test_a_missing_image_is_named(data: Place, finished: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(data.centers.parent, tmp_path / "copy", ignore=shutil.ignore_patterns("cache"))
    (tmp_path / "copy" / "C" / "images" / "case_2.nii.gz").unlink()
    (tmp_path / "copy" / "C" / "labels" / "case_2.nii.gz").unlink()
    contents = read_contents(finished["tumor_fine"], tmp_path / "copy" / "centers.toml")
    load = contents.cases[2].load
    assert load is not None
    with pytest.raises(ValueError, match="has no image of case_2, which is evaluated"):
        load()


def test_exported_cases_are_a_page_of_numbers() -> None:
    contents = read_contents(ROOT / "results" / "demo")
    names = [result.name for result in contents.results]
    assert names[0] == "tumor fine"
    assert {"tumor coarse", "pancreas fine", "tumor fine, pancreas given"} <= set(names)
    assert all(case.load is None for case in contents.cases)
    assert [table.title.partition(":")[0] for table in contents.tables] == ["Table II", "Table III"]


def test_a_benchmark_of_the_baseline_shows_table_v(tmp_path: Path) -> None:
    found = {key("tumor_fine", target, "bl"): make_cases([50, 60]) for target in "AB"}
    folder = write_experiment(tmp_path / "mine", make_rows(found, ("A", "B")))
    contents = read_contents(folder)
    assert [table.title.partition(":")[0] for table in contents.tables] == ["Table V"]


def test_no_rows_give_no_tables() -> None:
    assert paper_tables(Rows({})) == []


def test_results_are_named_by_what_tells_them_apart() -> None:
    one = ("tumor_fine", "ours", 2022, "seg", "target", "test")
    assert name_groups([one]) == {one: "tumor fine"}
    others = [
        one,
        ("tumor_fine", "bl", 2022, "seg", "target", "test"),
        ("tumor_fine", "ours", 2023, "mask", "source-val", "heldout"),
    ]
    assert list(name_groups(others).values()) == [
        "tumor fine, Ours, seed 2022",
        "tumor fine, BL, seed 2022",
        "tumor fine, Ours, pancreas given, threshold of the sources, held-out cases, seed 2023",
    ]


def test_a_chain_goes_back_to_the_first_stage(finished: dict[str, Path]) -> None:
    chain = chain_of(read_evaluated(finished["tumor_fine"]))
    assert [item.folder for item in chain] == [finished[name] for name in reversed(STAGE_NAMES)]


def test_a_training_curve_is_the_mean_of_each_epoch(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(
        "step,epoch,lr,total,seg,dis,con,grad_norm,cases\n"
        "1,0,0.1,3,1,2,,5,A/a\n2,0,0.1,5,3,2,,5,A/b\n3,1,0.1,1,0.5,0.5,,5,A/a\n"
    )
    epochs, lines = epoch_means(path)
    assert epochs == [1, 2]
    assert lines == {"total": [4, 1], "seg": [2, 0.5], "dis": [2, 0.5]}  # con was left out
    path.write_text("step,epoch,lr,total,seg,grad_norm,cases\n1,0,0.1,3,3,5,A/a\n")
    assert epoch_means(path) == ([1], {"seg": [3]})  # the total is the one term
    assert epoch_means(tmp_path / "none.csv") == ([], {})


def test_the_script_writes_the_page_beside_the_results(
    evaluated: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = next(evaluated.checkpoints.glob("*_tumor_fine_*/evaluation_*"))
    main([str(folder), "--centers", str(evaluated.centers), "--viewers", "1", "--pictures", "2"])
    path = folder / "report.html"
    assert f"{path} (" in capsys.readouterr().out
    assert path.read_text(encoding="utf-8").count("<template") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["."], "holds no results"),
        ([".", "--viewers", "-1"], "--viewers -1: at least 0"),
    ],
)
def test_what_the_user_can_fix_is_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
