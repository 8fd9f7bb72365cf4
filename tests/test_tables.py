"""Tables II to VI: ours beside the paper's, recomputed by hand from cases.csv."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from reproduce.analysis.compare import PAPER, read_paper, wrong_means
from reproduce.analysis.paper_tables import TABLE2, TABLE3, TABLE4, TABLE5, TABLE6
from reproduce.analysis.run_table import report_table, run_table
from reproduce.analysis.tables import Table, table_keys
from tests._rows_fixtures import (
    PAPER_CENTERS,
    SEED,
    empty_case,
    key,
    make_case,
    make_cases,
    make_rows,
    random_cases,
    report_of,
    write_experiment,
)
from tests._table_fixtures import cell, csv_lines, fill, make_plan, markdown_cells
from tests._table_fixtures import make_rows as make_lines

ROOT = Path(__file__).resolve().parents[1]
TABLES = [TABLE2, TABLE3, TABLE4, TABLE5, TABLE6]
PAPER_MEANS = {  # copied from the paper's pages: DSC, ASD, HD
    "table2": {"Coarse": (78.20, 2.49, 8.79), "Fine": (84.07, 1.83, 6.95)},
    "table3": {"C-Seg": (40.69, 12.58, 25.76), "F-Mask": (47.33, 10.81, 21.29)},
    "table4": {"F-Seg": (49.91, 11.50, 22.88)},
    "table5": {"BL": (36.60, 15.30, 29.71), "Ours": (46.11, 11.88, 22.79)},
    "table6": {"DART": (40.76, 16.00, 27.56), "nnUNet_3d_cascade": (37.19, 17.01, 45.54)},
}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_the_papers_rows_and_means_are_there_without_any_result(table: Table) -> None:
    report = report_of(table, make_rows({}))
    rows = [row.name for row in table.rows]
    assert rows[: len(read_paper(table.paper))] == list(read_paper(table.paper))
    beyond = ["nnUNet_3d_fullres on pancreas crops"] if table is TABLE6 else []
    assert rows[len(read_paper(table.paper)) :] == beyond
    found = csv_lines(report)
    for name, means in PAPER_MEANS[table.name].items():
        lines = [found["target", name, "mean", m] for m in ("dsc", "asd_mm", "hd95_mm")]
        assert tuple(float(line["paper"]) for line in lines) == means
        assert {line["ours"] for line in lines} == {""}
        shown = markdown_cells(report.markdown)[0][f"DSC (%) / {name}"]
        assert shown["mean [95 % interval]"] == f"- ({means[0]:.2f})"
    assert f"{PAPER_CENTERS[0]} (seed 2022)" in report.markdown


def test_the_papers_mixstyle_costs_what_its_table_prints() -> None:
    assert read_paper("table6_comparison")["MixStyle"]["gflops"] == 945.23  # Table VI of the paper


def test_the_papers_means_are_those_of_its_centers_but_for_one() -> None:
    found = {table.name: wrong_means(read_paper(table.paper)) for table in TABLES}
    (sentence,) = found.pop("table3")
    assert sentence == (
        "The paper prints 42.73 as the mean DSC (%) of C-Mask; its centers give 42.19."
    )
    assert set(map(tuple, found.values())) == {()}


def test_every_number_is_the_one_computed_by_hand_from_the_cases() -> None:
    sizes = dict(zip(PAPER_CENTERS, (9, 14, 5), strict=True))
    keys = table_keys(TABLE3, PAPER_CENTERS, [SEED], TABLE3.thresholds)
    cases = {
        place: random_cases(sizes[one.target], 30 + number, number)
        for number, (place, (one,)) in enumerate(keys.items())
    }
    report = report_of(TABLE3, make_rows({keys[p][0]: rows for p, rows in cases.items()}))
    found = csv_lines(report)
    with (PAPER / "table3_tumor_generalized.csv").open(newline="") as stream:
        paper = {row["roi"]: row for row in csv.DictReader(stream)}
    assert len(cases) == 2 * 4 * 3
    for threshold in ("target", "source-val"):
        for row in ("C-Seg", "F-Seg", "C-Mask", "F-Mask"):
            for metric, name in (("dsc", "dsc"), ("asd_mm", "asd"), ("hd95_mm", "hd")):
                means = []
                for center in PAPER_CENTERS:
                    of_center = cases[threshold, row, center]
                    means.append(sum(case[metric] for case in of_center) / len(of_center))
                    line = found[threshold, row, center, metric]
                    printed = float(paper[row][f"{center.lower()}_{name}"])
                    assert float(line["ours"]) == pytest.approx(means[-1])
                    assert float(line["difference"]) == pytest.approx(means[-1] - printed)
                    assert (line["cases"], line["empty"]) == (str(sizes[center]), "1")
                line = found[threshold, row, "mean", metric]
                assert float(line["ours"]) == pytest.approx(sum(means) / 3)
                assert float(line["low"]) < sum(means) / 3 < float(line["high"])
    assert report.missing == {}
    shown, line = markdown_cells(report.markdown)[1], found["source-val", "F-Seg", "MSD", "dsc"]
    assert shown["DSC (%) / F-Seg"]["MSD"] == (
        f"{float(line['ours']):.2f} (36.85, {float(line['ours']) - 36.85:+.2f})"
    )
    assert any(
        "One training per row: the interval holds the scatter of cases only" in note
        for note in report.notes
    )


def test_the_mean_weighs_centers_alike_and_is_a_dash_where_one_is_missing() -> None:
    dscs = {"RMYY": [10.0], "MSD": [40.0, 50.0, 60.0], "RENJI": [90.0, 92.0]}
    found = {key("pancreas_coarse", name): make_cases(values) for name, values in dscs.items()}
    found[key("pancreas_fine", "MSD")] = make_cases([70.0, 80.0])
    (shown,) = markdown_cells(report_of(TABLE2, make_rows(found)).markdown)
    coarse, fine = shown["DSC (%) / Coarse"], shown["DSC (%) / Fine"]
    # No interval: a center of one case has none. (10 + 50 + 91) / 3 = 50.33
    assert coarse["mean [95 % interval]"] == "50.33 (78.20, -27.87)"
    assert fine["MSD"] == "75.00 (82.23, -7.23)"
    assert fine["RMYY"] == "- (85.99)"
    assert fine["mean [95 % interval]"] == "- (84.07)"


def test_missing_results_are_named_with_the_commands_that_fill_them_in_order_and_once(
    tmp_path: Path,
) -> None:
    plan = make_plan(tmp_path)
    fill(plan, cell(plan, "pancreas_coarse", "RMYY"), make_lines([50.0, 60.0]))
    report = report_table(TABLE2, plan)
    assert "- Coarse, threshold target: MSD (seed 2022), RENJI (seed 2022)" in report.markdown
    assert len(set(report.commands)) == len(report.commands) == 10
    kinds = [command.split()[1].split("/")[1] for command in report.commands]
    of_msd = [k for k, c in zip(kinds, report.commands, strict=True) if "--target MSD" in c]
    assert sorted(of_msd) == [
        "evaluate_sh_pancreas_coarse.py",
        "evaluate_sh_pancreas_fine.py",
        "train_sh_pancreas_coarse.py",
        "train_sh_pancreas_fine.py",
    ]
    place = of_msd.index
    assert place("train_sh_pancreas_coarse.py") < place("evaluate_sh_pancreas_coarse.py")
    assert place("train_sh_pancreas_fine.py") < place("evaluate_sh_pancreas_fine.py")
    assert place("evaluate_sh_pancreas_coarse.py") < place("evaluate_sh_pancreas_fine.py")
    for command in report.commands:
        assert report.markdown.count(command + "\n") == 1
        assert (ROOT / command.split()[1]).is_file() or os.path.exists(command.split()[1])
    for target in PAPER_CENTERS:
        for stage in ("pancreas_coarse", "pancreas_fine"):
            fill(plan, cell(plan, stage, target), make_lines([50.0, 60.0]))
    full = report_table(TABLE2, plan).markdown
    assert "Missing" not in full
    assert "python" not in full


def test_results_of_other_options_do_not_fill_a_cell(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, options=("--width", "8"))
    fill(plan, cell(plan, "pancreas_fine", "MSD"), make_lines([50.0, 60.0]))
    ours = csv_lines(report_table(TABLE2, plan))["target", "Fine", "MSD", "dsc"]["ours"]
    assert float(ours) == 55
    other = report_table(TABLE2, replace(plan, options=()))
    assert csv_lines(other)["target", "Fine", "MSD", "dsc"]["ours"] == ""
    assert "holdout 0.1 and no further options" in other.markdown


def test_empty_predictions_and_missed_lesions_are_counted_and_stay_in_the_mean() -> None:
    cases = [make_case("a", 60.0, 2.0, 10.0), empty_case("b"), empty_case("c"), make_case("d", 0.9)]
    cases[2]["empty"] = "pred label"
    report = report_of(TABLE3, make_rows({key("tumor_fine", "MSD"): cases}))
    line = csv_lines(report)["target", "F-Seg", "MSD", "hd95_mm"]
    assert (float(line["ours"]), line["empty"], line["results"]) == (54.5, "2", "4")
    shown = markdown_cells(report.markdown)[0]
    assert shown["empty predictions / results / F-Seg"]["MSD"] == "2 / 4"
    assert shown["missed (DSC below 1) / results / F-Seg"]["MSD"] == "3 / 4"
    said = "F-Seg, MSD, threshold target: the label is empty in c; counted as a miss."
    assert said in report.notes


def test_cases_without_a_label_are_said_and_not_counted() -> None:
    found = {
        key("pancreas_fine", "MSD"): [*make_cases([50.0]), {"case_id": "z"}],
        key("pancreas_fine", "RMYY"): [{"case_id": "z"}],
    }
    report = report_of(TABLE2, make_rows(found))
    assert csv_lines(report)["target", "Fine", "MSD", "dsc"]["cases"] == "1"
    assert "Fine, MSD, threshold target: 1 cases have no label, not counted." in report.notes
    assert "Fine, RMYY, threshold target is left out: no case has a label." in report.notes


def test_a_case_without_a_metric_is_named() -> None:
    cases = make_cases([50.0, 60.0])
    del cases[1]["asd_mm"]
    report = report_of(TABLE2, make_rows({key("pancreas_fine", "MSD"): cases}))
    said = "Fine, MSD, threshold target is left out: case b has no asd_mm."
    assert said in report.notes


def test_the_four_folds_are_one_result() -> None:
    whole = key("tumor_fine", "MSD", folds=True)
    cases = [row | {"fold": i % 4} for i, row in enumerate(make_cases([10, 20, 30, 40, 50]))]
    line = csv_lines(report_of(TABLE4, make_rows({whole: cases})))["target", "F-Seg", "MSD", "dsc"]
    assert (float(line["ours"]), line["cases"]) == (30.0, "5")
    assert float(line["difference"]) == pytest.approx(30 - 43.86)


def test_other_centers_have_the_papers_means_for_reference_only() -> None:
    names = ("SYN-A", "msd", "SYN-C")
    found = {key("pancreas_fine", name): make_cases([70.0, 80.0]) for name in names}
    report = report_of(TABLE2, make_rows(found, names))
    shown = markdown_cells(report.markdown)[0]["DSC (%) / Fine"]
    assert shown["SYN-A"] == "75.00"
    assert shown["msd"] == "75.00 (82.23, -7.23)"
    assert shown["mean [95 % interval]"].endswith("(84.07, -9.07)")
    assert "not the paper's three" in report.markdown
    alone = report_of(TABLE2, make_rows(found, names), targets=["SYN-C"])
    assert list(markdown_cells(alone.markdown)[0]["DSC (%) / Fine"]) == [
        "",
        "SYN-C",
        "mean [95 % interval]",
    ]


def test_both_thresholds_have_their_own_numbers() -> None:
    found = {}
    for threshold, dsc, value in (("target", 40.0, 0.7), ("source-val", 30.0, 0.35)):
        cases = [row | {"threshold_value": value} for row in make_cases([dsc, dsc + 10])]
        found[key("tumor_fine", "MSD", threshold=threshold)] = cases
    report = report_of(TABLE3, make_rows(found))
    target, source_val = markdown_cells(report.markdown)
    assert target["DSC (%) / F-Seg"]["MSD"].startswith("45.00 ")
    assert source_val["DSC (%) / F-Seg"]["MSD"].startswith("35.00 ")
    assert target["threshold / F-Seg"]["MSD"] == "0.7"
    assert source_val["threshold / F-Seg"]["MSD"] == "0.35"
    assert "### Threshold target: " in report.markdown
    assert "### Threshold source-val: " in report.markdown


def test_a_table_reads_and_changes_nothing_but_its_own_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(tmp_path)
    fill(plan, cell(plan, "pancreas_fine", "MSD"), make_lines([70.0, 80.0]))
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    arguments = ["--centers", str(plan.centers), "--checkpoints", str(plan.checkpoints)]
    run_table(TABLE2, [*arguments, "--experiment", str(tmp_path / "new")])
    after = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if "new" not in p.parts}
    assert {p: t for p, t in after.items() if p != tmp_path} == {
        p: t for p, t in before.items() if p != tmp_path
    }
    written = {p.name: p.read_text() for p in (tmp_path / "new").iterdir()}
    assert sorted(written) == ["experiment.json", "table2.csv", "table2.md", "table2.tex"]
    assert capsys.readouterr().out.strip() == written["table2.md"].strip()
    assert "% missing: Coarse, threshold target: RMYY (seed 2022)" in written["table2.tex"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--targets", "NOWHERE"], "NOWHERE: not in"),
        (["--stage-options", "tumor=--width 8"], "expected STAGE='ARGUMENTS'"),
    ],
)
def test_what_cannot_be_shown_ends_with_a_message(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(tmp_path)
    place = ["--experiment", str(tmp_path / "new"), "--centers", str(plan.centers)]
    with pytest.raises(SystemExit) as ended:
        run_table(TABLE2, [*place, *arguments])
    assert message in capsys.readouterr().err + str(ended.value)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_every_table_compiles(tmp_path: Path) -> None:
    rows = make_rows({key("tumor_fine", "A_1"): make_cases([1.0, 2.0])}, ("A_1", "B", "C"))
    for table in TABLES:
        report_of(table, rows).write(tmp_path)
    inputs = "".join(f"\\input{{{table.name}}}\\clearpage\n" for table in TABLES)
    (tmp_path / "a.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,graphicx}\n"
        f"\\begin{{document}}\n{inputs}\\end{{document}}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 6])
def test_a_script_runs_from_any_folder(number: int, tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    fill(plan, cell(plan, "tumor_fine", "MSD"), make_lines([70.0, 80.0]))
    script = ROOT / "reproduce" / f"table{number}.py"
    command = [sys.executable, str(script), "--centers", "centers.toml", "--seeds", "2022"]
    command += ["--experiment", "reproduced", "--checkpoints", "checkpoints", "--time", plan.time]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(p.suffix for p in (tmp_path / "reproduced").iterdir()) == [".csv", ".md", ".tex"]
    assert done.stdout.startswith(f"## {TABLES[number - 2].title}")


def test_a_table_script_says_what_and_not_how() -> None:
    for table in TABLES:
        text = (ROOT / "reproduce" / f"{table.name}.py").read_text()
        assert len(text.splitlines()) < 60
        assert not any(word in text for word in ("def ", "argparse", "while "))


def test_a_seed_and_a_threshold_can_be_shown_alone() -> None:
    dscs = {"tumor_coarse": 30.0, "tumor_fine": 40.0}
    found = {key(stage, "SYN-C", seed=7): make_cases([dsc] * 2) for stage, dsc in dscs.items()}
    rows = make_rows(found, ("SYN-A", "SYN-B", "SYN-C"))
    report = report_of(TABLE3, rows, ["SYN-C"], (7,), ("target",))
    (shown,) = markdown_cells(report.markdown)
    assert shown["DSC (%) / F-Seg"]["SYN-C"] == "40.00"
    assert shown["DSC (%) / F-Seg"]["mean [95 % interval]"] == "40.00 [40.00, 40.00] (46.11, -6.11)"
    assert shown["DSC (%) / C-Mask"]["SYN-C"] == "-"
    assert "C-Mask, threshold target: SYN-C (seed 7)" in report.markdown
    assert "source-val" not in report.markdown


def test_a_table_of_exported_cases_needs_no_checkpoint_and_no_centers_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {
        key("pancreas_fine", "A", seed=seed): make_cases([70.0 + seed, 80.0 + seed])
        for seed in (1, 3)
    }
    folder = write_experiment(tmp_path / "results" / "mine", make_rows(found, ("A", "B")))
    monkeypatch.chdir(tmp_path)
    run_table(TABLE2, ["--results", str(folder), "--targets", "A", "--out", "out"])
    out = capsys.readouterr().out
    (shown,) = markdown_cells(out)
    assert shown["DSC (%) / Fine"]["A"] == "77.00"  # of all seeds that were exported
    assert "Read were the exported cases in mine/" in out
    run_table(TABLE2, ["--results", str(folder), "--seeds", "3", "--out", "out"])
    assert markdown_cells(capsys.readouterr().out)[0]["DSC (%) / Fine"]["A"] == "78.00"
    for words in (["--targets", "C"], ["--seeds", "2"], ["--results", str(tmp_path)]):
        with pytest.raises(SystemExit):
            run_table(TABLE2, ["--results", str(folder), *words])
    assert "C: not in" in (err := capsys.readouterr().err)
    assert "2: not in" in err
    assert "no experiment.json there" in err
