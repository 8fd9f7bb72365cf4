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

from data.centers import load_centers
from reproduce.analysis.compare import PAPER, read_paper, wrong_means
from reproduce.analysis.paper_tables import TABLE2, TABLE3, TABLE4, TABLE5, TABLE6
from reproduce.analysis.run_table import report_table, run_table
from reproduce.analysis.tables import Table, make_report, table_cells
from tests._table_fixtures import (
    PAPER_CENTERS,
    cell,
    csv_lines,
    empty_row,
    fill,
    make_plan,
    make_row,
    make_rows,
    markdown_cells,
    random_rows,
)

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
def test_the_papers_rows_and_means_stand_there_without_any_result(
    table: Table, tmp_path: Path
) -> None:
    report = report_table(table, make_plan(tmp_path))
    assert [row.name for row in table.rows] == list(read_paper(table.paper))
    found = csv_lines(report)
    for name, means in PAPER_MEANS[table.name].items():
        lines = [found["paper", name, "mean", m] for m in ("dsc", "asd_mm", "hd95_mm")]
        assert tuple(float(line["paper"]) for line in lines) == means
        assert {line["ours"] for line in lines} == {""}
        shown = markdown_cells(report.markdown)[0][f"DSC (%) / {name}"]
        assert shown["mean [95 % interval]"] == f"- ({means[0]:.2f})"
    assert f"{PAPER_CENTERS[0]} (seed 2022)" in report.markdown


def test_the_papers_means_are_those_of_its_centers_but_for_one() -> None:
    found = {table.name: wrong_means(read_paper(table.paper)) for table in TABLES}
    (sentence,) = found.pop("table3")
    assert sentence == (
        "The paper prints 42.73 as the mean DSC (%) of C-Mask; its centers give 42.19."
    )
    assert set(map(tuple, found.values())) == {()}


def test_every_number_is_the_one_computed_by_hand_from_cases_csv(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    centers = load_centers(plan.centers)
    sizes = dict(zip(PAPER_CENTERS, (9, 14, 5), strict=True))
    folders = {}
    for number, (place, (one,)) in enumerate(table_cells(TABLE3, centers).items()):
        (folders[place],) = fill(plan, one, random_rows(sizes[one.target], 30 + number, number))
    report = report_table(TABLE3, plan)
    found = csv_lines(report)
    with (PAPER / "table3_tumor_generalized.csv").open(newline="") as stream:
        paper = {row["roi"]: row for row in csv.DictReader(stream)}
    assert len(folders) == 2 * 4 * 3
    for protocol in ("paper", "honest"):
        for row in ("C-Seg", "F-Seg", "C-Mask", "F-Mask"):
            for metric, name in (("dsc", "dsc"), ("asd_mm", "asd"), ("hd95_mm", "hd")):
                means = []
                for center in PAPER_CENTERS:
                    with (folders[protocol, row, center] / "cases.csv").open() as stream:
                        cases = list(csv.DictReader(stream))
                    means.append(sum(float(case[metric]) for case in cases) / len(cases))
                    line = found[protocol, row, center, metric]
                    printed = float(paper[row][f"{center.lower()}_{name}"])
                    assert float(line["ours"]) == pytest.approx(means[-1])
                    assert float(line["difference"]) == pytest.approx(means[-1] - printed)
                    assert (line["cases"], line["empty"]) == (str(sizes[center]), "1")
                line = found[protocol, row, "mean", metric]
                assert float(line["ours"]) == pytest.approx(sum(means) / 3)
                assert float(line["low"]) < sum(means) / 3 < float(line["high"])
    assert report.missing == {}
    assert report.commands == ()
    shown, line = markdown_cells(report.markdown)[1], found["honest", "F-Seg", "MSD", "dsc"]
    assert shown["DSC (%) / F-Seg"]["MSD"] == (
        f"{float(line['ours']):.2f} (36.85, {float(line['ours']) - 36.85:+.2f})"
    )


def test_the_mean_weighs_centers_alike_and_is_a_dash_where_one_is_missing(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    for target, dscs in (("RMYY", [10.0]), ("MSD", [40.0, 50.0, 60.0]), ("RENJI", [90.0, 92.0])):
        fill(plan, cell(plan, "pancreas_coarse", target), make_rows(dscs))
    fill(plan, cell(plan, "pancreas_fine", "MSD"), make_rows([70.0, 80.0]))
    (shown,) = markdown_cells(report_table(TABLE2, plan).markdown)
    coarse, fine = shown["DSC (%) / Coarse"], shown["DSC (%) / Fine"]
    # No interval: a center of one case has none. (10 + 50 + 91) / 3 = 50.33
    assert coarse["mean [95 % interval]"] == "50.33 (78.20, -27.87)"
    assert fine["MSD"] == "75.00 (82.23, -7.23)"
    assert fine["RMYY"] == "- (85.99)"
    assert fine["mean [95 % interval]"] == "- (84.07)"


def test_missing_cells_are_named_with_the_commands_that_fill_them_in_order_and_once(
    tmp_path: Path,
) -> None:
    plan = make_plan(tmp_path)
    fill(plan, cell(plan, "pancreas_coarse", "RMYY"), make_rows([50.0, 60.0]))
    report = report_table(TABLE2, plan)
    assert "- Coarse, protocol paper: MSD (seed 2022), RENJI (seed 2022)" in report.markdown
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
            fill(plan, cell(plan, stage, target), make_rows([50.0, 60.0]))
    full = report_table(TABLE2, plan).markdown
    assert "Missing" not in full
    assert "python" not in full


def test_results_of_other_options_do_not_fill_a_cell(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, options=("--width", "8"))
    fill(plan, cell(plan, "pancreas_fine", "MSD"), make_rows([50.0, 60.0]))
    ours = csv_lines(report_table(TABLE2, plan))["paper", "Fine", "MSD", "dsc"]["ours"]
    assert float(ours) == 55
    other = report_table(TABLE2, replace(plan, options=()))
    assert csv_lines(other)["paper", "Fine", "MSD", "dsc"]["ours"] == ""
    assert "holdout 0.1 and the default options" in other.markdown


def test_empty_predictions_are_counted_and_stay_in_the_mean(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    rows = [make_row("a", 60.0, 2.0, 10.0), empty_row("b"), empty_row("c")]
    rows[2]["empty"] = "pred label"
    fill(plan, cell(plan, "tumor_fine", "MSD"), rows)
    report = report_table(TABLE3, plan)
    line = csv_lines(report)["paper", "F-Seg", "MSD", "hd95_mm"]
    assert (float(line["ours"]), line["empty"], line["results"]) == (70.0, "2", "3")
    shown = markdown_cells(report.markdown)[0]
    assert shown["empty predictions / results / F-Seg"]["MSD"] == "2 / 3"
    assert "F-Seg, MSD, protocol paper: the label is empty in c; counted as a miss." in report.notes


def test_cases_without_a_label_are_said_and_not_counted(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    fill(plan, cell(plan, "pancreas_fine", "MSD"), [*make_rows([50.0]), {"case_id": "z"}])
    fill(plan, cell(plan, "pancreas_fine", "RMYY"), [{"case_id": "z"}])
    report = report_table(TABLE2, plan)
    assert csv_lines(report)["paper", "Fine", "MSD", "dsc"]["cases"] == "1"
    assert "Fine, MSD, protocol paper: 1 cases have no label, not counted." in report.notes
    assert "Fine, RMYY, protocol paper is left out: no case has a label." in report.notes


def test_the_four_folds_are_read_together_and_three_are_missing(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    whole = cell(plan, "tumor_fine", "MSD", folds=True)
    folders = fill(plan, whole, make_rows([10.0, 20.0, 30.0, 40.0, 50.0]))
    assert len(folders) == 4
    line = csv_lines(report_table(TABLE4, plan))["paper", "F-Seg", "MSD", "dsc"]
    assert (float(line["ours"]), line["cases"]) == (30.0, "5")
    assert float(line["difference"]) == pytest.approx(30 - 43.86)
    (folders[2] / "done").unlink()
    assert csv_lines(report_table(TABLE4, plan))["paper", "F-Seg", "MSD", "dsc"]["ours"] == ""


def test_other_centers_stand_beside_the_papers_means_only(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, ("SYN-A", "msd", "SYN-C"))
    for target in ("SYN-A", "msd", "SYN-C"):
        fill(plan, cell(plan, "pancreas_fine", target), make_rows([70.0, 80.0]))
    report = report_table(TABLE2, plan)
    shown = markdown_cells(report.markdown)[0]["DSC (%) / Fine"]
    assert shown["SYN-A"] == "75.00"
    assert shown["msd"] == "75.00 (82.23, -7.23)"
    assert shown["mean [95 % interval]"].endswith("(84.07, -9.07)")
    assert "not the paper's three" in report.markdown
    alone = report_table(TABLE2, plan, targets=["SYN-C"])
    assert list(markdown_cells(alone.markdown)[0]["DSC (%) / Fine"]) == [
        "",
        "SYN-C",
        "mean [95 % interval]",
    ]


def test_both_protocols_have_their_own_numbers_and_thresholds(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    for protocol, dsc, threshold in (("paper", 40.0, 0.7), ("honest", 30.0, 0.35)):
        rows = [row | {"threshold": threshold} for row in make_rows([dsc, dsc + 10])]
        fill(plan, cell(plan, "tumor_fine", "MSD", protocol=protocol), rows)
    report = report_table(TABLE3, plan)
    paper, honest = markdown_cells(report.markdown)
    assert paper["DSC (%) / F-Seg"]["MSD"].startswith("45.00 ")
    assert honest["DSC (%) / F-Seg"]["MSD"].startswith("35.00 ")
    assert paper["threshold / F-Seg"]["MSD"] == "0.7"
    assert honest["threshold / F-Seg"]["MSD"] == "0.35"
    assert "### Protocol paper: " in report.markdown
    assert "### Protocol honest: " in report.markdown


def test_a_table_reads_and_changes_nothing_but_its_own_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(tmp_path)
    fill(plan, cell(plan, "pancreas_fine", "MSD"), make_rows([70.0, 80.0]))
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    arguments = ["--centers", str(plan.centers), "--checkpoints", str(plan.checkpoints)]
    run_table(TABLE2, [*arguments, "--out", str(tmp_path / "new")])
    after = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if "new" not in p.parts}
    assert {p: t for p, t in after.items() if p != tmp_path} == {
        p: t for p, t in before.items() if p != tmp_path
    }
    written = {p.name: p.read_text() for p in (tmp_path / "new").iterdir()}
    assert sorted(written) == ["table2.csv", "table2.md", "table2.tex"]
    assert capsys.readouterr().out.strip() == written["table2.md"].strip()
    assert "% missing: Coarse, protocol paper: RMYY (seed 2022)" in written["table2.tex"]


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
    with pytest.raises(SystemExit) as ended:
        run_table(TABLE2, ["--centers", str(plan.centers), *arguments])
    assert message in capsys.readouterr().err + str(ended.value)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_every_table_compiles(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, ("A_1", "B", "C"))
    fill(plan, cell(plan, "tumor_fine", "A_1"), make_rows([1.0, 2.0]))
    for table in TABLES:
        report_table(table, plan).write(tmp_path)
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
    fill(plan, cell(plan, "tumor_fine", "MSD"), make_rows([70.0, 80.0]))
    script = ROOT / "reproduce" / f"table{number}.py"
    command = [sys.executable, str(script), "--centers", "centers.toml", "--seeds", "2022"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(p.suffix for p in (tmp_path / "reproduced").iterdir()) == [".csv", ".md", ".tex"]
    assert done.stdout.startswith(f"## {TABLES[number - 2].title}")


def test_a_table_script_says_what_and_not_how() -> None:
    for table in TABLES:
        text = (ROOT / "reproduce" / f"{table.name}.py").read_text()
        assert len(text.splitlines()) < 60
        assert not any(word in text for word in ("def ", "argparse", "while "))


def test_a_report_is_made_of_any_rows_that_a_function_reads(tmp_path: Path) -> None:
    centers = load_centers(make_plan(tmp_path, ("SYN-A", "SYN-B", "SYN-C")).centers)
    cells = table_cells(TABLE3, centers, ["SYN-C"], (7,), ("paper",))
    assert {one.seed for (one,) in cells.values()} == {7}
    dscs = {"tumor_coarse": 30.0, "tumor_fine": 40.0}
    report = make_report(
        TABLE3,
        cells,
        lambda one: make_rows([dscs[one.stage]] * 2) if one.roi_source == "seg" else None,
    )
    (shown,) = markdown_cells(report.markdown)
    assert shown["DSC (%) / F-Seg"]["SYN-C"] == "40.00"
    assert shown["DSC (%) / F-Seg"]["mean [95 % interval]"] == "40.00 [40.00, 40.00] (46.11, -6.11)"
    assert shown["DSC (%) / C-Mask"]["SYN-C"] == "-"
    assert "C-Mask, protocol paper: SYN-C (seed 7)" in report.markdown
    assert "honest" not in report.markdown
