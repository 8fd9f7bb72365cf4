"""Tables II to VI: ours beside the paper's, recomputed by hand from cases.csv."""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.bench_complexity import ROWS
from data.centers import load_centers
from reproduce import table2, table3, table4, table5, table6
from reproduce.cells import Cell, Plan, make_cell, missing_steps
from reproduce.compare import PAPER, read_paper, wrong_means
from reproduce.run_table import report_table, run_table
from reproduce.tables import Report, Table, table_cells
from tests._table_fixtures import (
    PAPER_CENTERS,
    empty_row,
    fill,
    make_plan,
    make_row,
    make_rows,
    markdown_cells,
    random_rows,
)
from utils.evaluation import Row

ROOT = Path(__file__).resolve().parents[1]
TABLES = [module.TABLE for module in (table2, table3, table4, table5, table6)]
PAPER_MEANS = {  # copied from the paper's pages: DSC, ASD, HD
    "table2": {"Coarse": (78.20, 2.49, 8.79), "Fine": (84.07, 1.83, 6.95)},
    "table3": {"C-Seg": (40.69, 12.58, 25.76), "F-Mask": (47.33, 10.81, 21.29)},
    "table4": {"F-Seg": (49.91, 11.50, 22.88)},
    "table5": {"BL": (36.60, 15.30, 29.71), "Ours": (46.11, 11.88, 22.79)},
    "table6": {"DART": (40.76, 16.00, 27.56), "nnUNet_3d_cascade": (37.19, 17.01, 45.54)},
}


def cell(plan: Plan, stage: str, target: str, **more: object) -> Cell:
    return make_cell(load_centers(plan.centers), stage, target, **more)


def csv_lines(report: Report) -> dict[tuple[str, str, str, str], dict[str, str]]:
    """(protocol, row, center, metric) -> the line of the table's CSV."""
    rows = csv.DictReader(io.StringIO(report.csv))
    return {(r["protocol"], r["row"], r["center"], r["metric"]): r for r in rows}


def shifted(rows: Sequence[Row], amounts: Sequence[float]) -> list[Row]:
    return [row | {"dsc": row["dsc"] + by} for row, by in zip(rows, amounts, strict=True)]


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
    for number, (place, (one,)) in enumerate(table_cells(table3.TABLE, centers).items()):
        (folders[place],) = fill(plan, one, random_rows(sizes[one.target], 30 + number, number))
    report = report_table(table3.TABLE, plan)
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
    (shown,) = markdown_cells(report_table(table2.TABLE, plan).markdown)
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
    report = report_table(table2.TABLE, plan)
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
    full = report_table(table2.TABLE, plan).markdown
    assert "Missing" not in full
    assert "python" not in full


def test_results_of_other_options_do_not_fill_a_cell(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, options=("--width", "8"))
    fill(plan, cell(plan, "pancreas_fine", "MSD"), make_rows([50.0, 60.0]))
    ours = csv_lines(report_table(table2.TABLE, plan))["paper", "Fine", "MSD", "dsc"]["ours"]
    assert float(ours) == 55
    other = report_table(table2.TABLE, replace(plan, options=()))
    assert csv_lines(other)["paper", "Fine", "MSD", "dsc"]["ours"] == ""
    assert "holdout 0.1 and the default options" in other.markdown


def test_empty_predictions_are_counted_and_stay_in_the_mean(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    rows = [make_row("a", 60.0, 2.0, 10.0), empty_row("b"), empty_row("c")]
    rows[2]["empty"] = "pred label"
    fill(plan, cell(plan, "tumor_fine", "MSD"), rows)
    report = report_table(table3.TABLE, plan)
    line = csv_lines(report)["paper", "F-Seg", "MSD", "hd95_mm"]
    assert (float(line["ours"]), line["empty"], line["results"]) == (70.0, "2", "3")
    shown = markdown_cells(report.markdown)[0]
    assert shown["empty predictions / results / F-Seg"]["MSD"] == "2 / 3"
    assert "F-Seg, MSD, protocol paper: the label is empty in c; counted as a miss." in report.notes


def test_cases_without_a_label_are_said_and_not_counted(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    fill(plan, cell(plan, "pancreas_fine", "MSD"), [*make_rows([50.0]), {"case_id": "z"}])
    fill(plan, cell(plan, "pancreas_fine", "RMYY"), [{"case_id": "z"}])
    report = report_table(table2.TABLE, plan)
    assert csv_lines(report)["paper", "Fine", "MSD", "dsc"]["cases"] == "1"
    assert "Fine, MSD, protocol paper: 1 cases have no label, not counted." in report.notes
    assert "Fine, RMYY, protocol paper is left out: no case has a label." in report.notes


def test_a_case_is_averaged_over_the_seeds_first(tmp_path: Path) -> None:
    plan, seeds = make_plan(tmp_path), (1, 2, 3)
    for seed, dscs in zip(seeds, ([10.0, 50.0], [20.0, 50.0], [60.0, 80.0]), strict=True):
        rows = make_rows(dscs) if seed < 3 else [make_rows(dscs)[0], empty_row("b")]
        fill(plan, cell(plan, "tumor_fine", "MSD", seed=seed), rows)
    line = csv_lines(report_table(table3.TABLE, plan, seeds=seeds))["paper", "F-Seg", "MSD", "dsc"]
    assert float(line["ours"]) == pytest.approx((30 + 100 / 3) / 2)
    assert (line["cases"], line["seeds"], line["results"], line["empty"]) == ("2", "3", "6", "1")
    # Draws of the two cases' means: the interval goes from one to the other.
    assert (float(line["low"]), float(line["high"])) == pytest.approx((30, 100 / 3))
    four = report_table(table3.TABLE, plan, seeds=(*seeds, 4))
    assert csv_lines(four)["paper", "F-Seg", "MSD", "dsc"]["ours"] == ""
    assert "F-Seg, protocol paper: RMYY (seed 1, 2, 3, 4), MSD (seed 4)" in four.markdown


def test_seeds_of_different_cases_are_not_averaged(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    for seed, cases in ((1, [50.0, 60.0]), (2, [50.0])):
        fill(plan, cell(plan, "tumor_fine", "MSD", seed=seed), make_rows(cases))
    report = report_table(table3.TABLE, plan, seeds=(1, 2))
    assert csv_lines(report)["paper", "F-Seg", "MSD", "dsc"]["ours"] == ""
    assert any("only the first seed has b" in note for note in report.notes)


def test_the_four_folds_are_read_together_and_three_are_missing(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    whole = cell(plan, "tumor_fine", "MSD", folds=True)
    folders = fill(plan, whole, make_rows([10.0, 20.0, 30.0, 40.0, 50.0]))
    assert len(folders) == 4
    line = csv_lines(report_table(table4.TABLE, plan))["paper", "F-Seg", "MSD", "dsc"]
    assert (float(line["ours"]), line["cases"]) == (30.0, "5")
    assert float(line["difference"]) == pytest.approx(30 - 43.86)
    (folders[2] / "done").unlink()
    assert csv_lines(report_table(table4.TABLE, plan))["paper", "F-Seg", "MSD", "dsc"]["ours"] == ""


def test_table_fives_p_values_and_gains_are_those_of_the_paired_cases(tmp_path: Path) -> None:
    plan, rng = make_plan(tmp_path), np.random.default_rng(5)
    gains = {}
    for number, target in enumerate(PAPER_CENTERS):
        before = random_rows(12 + number, 40, number)[1:]
        gains[target] = np.round(rng.normal(4, 5, len(before)), 3)
        fill(plan, cell(plan, "tumor_fine", target, variant="BL"), before)
        # In another order: cases are paired by name.
        fill(plan, cell(plan, "tumor_fine", target), shifted(before, gains[target].tolist())[::-1])
    report = report_table(table5.TABLE, plan)
    found = csv_lines(report)
    for target in PAPER_CENTERS:
        line = found["paper", "Ours", target, "dsc"]
        assert float(line["gain"]) == pytest.approx(gains[target].mean(), abs=1e-3)
        p = stats.wilcoxon(gains[target], method="exact").pvalue
        assert float(line["p"]) == pytest.approx(p)
        assert found["paper", "BL", target, "dsc"]["p"] == ""
    mean = found["paper", "Ours", "mean", "dsc"]
    assert float(mean["gain"]) == pytest.approx(
        np.mean([g.mean() for g in gains.values()]), abs=1e-3
    )
    assert float(mean["gain_low"]) < float(mean["gain"]) < float(mean["gain_high"])
    pooled = stats.wilcoxon(np.concatenate(list(gains.values()))).pvalue
    assert float(mean["p"]) == pytest.approx(pooled)
    # ASD is the same in every case: no test, no crash, and it is said once.
    asd = found["paper", "Ours", "mean", "asd_mm"]
    assert (asd["p"], asd["ties"], float(asd["gain"])) == ("", asd["pairs"], 0.0)
    said = "Ours, RMYY, MSD, RENJI, mean, protocol paper, ASD, HD: not tested: no case differs."
    assert said in report.notes
    shown = markdown_cells(report.markdown)[0]
    assert shown["DSC (%) / Ours"]["p, all cases"] in ("< 0.001", f"{pooled:.3f}")
    assert shown["ASD (mm) / Ours"]["p, all cases"] == "-"
    assert shown["p against BL, DSC / Ours"]["MSD"] != "-"


def test_variants_of_different_cases_are_not_compared_and_the_cases_are_named(
    tmp_path: Path,
) -> None:
    plan = make_plan(tmp_path)
    rows = make_rows([10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0])
    fill(plan, cell(plan, "tumor_fine", "MSD", variant="BL"), rows[:-1])
    fill(plan, cell(plan, "tumor_fine", "MSD"), shifted(rows[1:], [1, 2, 3, 4, 5, 6, 7]))
    report = report_table(table5.TABLE, plan, targets=["MSD"])
    line = csv_lines(report)["paper", "Ours", "MSD", "dsc"]
    assert line["ours"] != ""
    assert (line["p"], line["gain"]) == ("", "")
    assert "only the baseline has a; only this row has h" in line["note"]
    assert any("only the baseline has a; only this row has h" in note for note in report.notes)


def test_too_few_cases_are_not_tested_and_it_is_said(tmp_path: Path) -> None:
    plan, rows = make_plan(tmp_path), make_rows([10.0, 20.0, 30.0])
    fill(plan, cell(plan, "tumor_fine", "MSD", variant="BL"), rows)
    fill(plan, cell(plan, "tumor_fine", "MSD"), shifted(rows, [5.0, 6.0, 0.0]))
    line = csv_lines(report_table(table5.TABLE, plan))["paper", "Ours", "MSD", "dsc"]
    assert (line["p"], line["pairs"], line["ties"]) == ("", "3", "1")
    assert float(line["gain"]) == pytest.approx(11 / 3)
    assert "only 2 cases differ" in line["note"]


def test_tables_share_their_cells(tmp_path: Path) -> None:
    centers = load_centers(make_plan(tmp_path).centers)
    three, five, six = (table_cells(m.TABLE, centers) for m in (table3, table5, table6))
    for protocol in ("paper", "honest"):
        for target in PAPER_CENTERS:
            ours = five[protocol, "Ours", target]
            assert ours == three[protocol, "F-Seg", target] == six[protocol, "Ours", target]
            assert six[protocol, "BigAug", target] == five[protocol, "BL", target] != ours
    plan = make_plan(tmp_path)
    every = [c for table in (three, five) for cells in table.values() for c in cells]
    alone = {s for c in every for s in missing_steps(plan, [c])}
    assert len(missing_steps(plan, every)) == len(alone)


def test_table_six_has_every_system_and_what_ours_costs(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, options=("--upsample", "nearest"))
    for target in PAPER_CENTERS:
        for stage in ("tumor_coarse", "tumor_fine"):
            fill(plan, cell(plan, stage, target, variant="BL"), make_rows([40.0, 50.0]))
    report = report_table(table6.TABLE, plan)
    paper, _, cost = markdown_cells(report.markdown)
    assert len([name for name in paper if name.startswith("DSC")]) == len(cost) == 17
    assert cost["BigAug"] == {
        "": "BigAug",
        "parameters (1e7)": "3.79 (3.79, +0.00)",
        "GMACs": "945.23 (945.23, +0.00)",
        "seconds per case": "6.00 (9.44, -3.44)",  # 3 s in each of the two stages
    }
    assert cost["RandConv"]["GMACs"] == "- (945.41)"
    assert cost["Ours"]["seconds per case"] == "- (10.52)"
    assert paper["DSC (%) / BigAug"]["MSD"] == "45.00 (24.68, +20.32)"
    assert any("identical in all 12 numbers in the paper" in note for note in report.notes)
    assert any(note.startswith("Not built yet") and "SNR" in note for note in report.notes)
    exact = csv_lines(report)["", "BigAug", "", "params_1e7"]["ours"]
    assert float(exact) * 1e7 == pytest.approx(2 * ROWS[0].parameters)


def test_other_centers_stand_beside_the_papers_means_only(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, ("SYN-A", "msd", "SYN-C"))
    for target in ("SYN-A", "msd", "SYN-C"):
        fill(plan, cell(plan, "pancreas_fine", target), make_rows([70.0, 80.0]))
    report = report_table(table2.TABLE, plan)
    shown = markdown_cells(report.markdown)[0]["DSC (%) / Fine"]
    assert shown["SYN-A"] == "75.00"
    assert shown["msd"] == "75.00 (82.23, -7.23)"
    assert shown["mean [95 % interval]"].endswith("(84.07, -9.07)")
    assert "not the paper's three" in report.markdown
    alone = report_table(table2.TABLE, plan, targets=["SYN-C"])
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
    report = report_table(table3.TABLE, plan)
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
    run_table(table2.TABLE, [*arguments, "--out", str(tmp_path / "new")])
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
        run_table(table2.TABLE, ["--centers", str(plan.centers), *arguments])
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
