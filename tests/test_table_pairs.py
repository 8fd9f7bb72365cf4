"""What tables compare: seeds, rows case by case, cells of several tables, other systems."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.bench_complexity import ROWS
from data.centers import load_centers
from reproduce.analysis.paper_tables import TABLE3, TABLE5, TABLE6
from reproduce.analysis.run_table import report_table
from reproduce.analysis.tables import table_cells
from reproduce.experiments.finished import missing_steps
from tests._table_fixtures import (
    PAPER_CENTERS,
    cell,
    csv_lines,
    empty_row,
    fill,
    make_plan,
    make_rows,
    markdown_cells,
    random_rows,
    shifted,
)


def test_a_case_is_averaged_over_the_seeds_first(tmp_path: Path) -> None:
    plan, seeds = make_plan(tmp_path), (1, 2, 3)
    for seed, dscs in zip(seeds, ([10.0, 50.0], [20.0, 50.0], [60.0, 80.0]), strict=True):
        rows = make_rows(dscs) if seed < 3 else [make_rows(dscs)[0], empty_row("b")]
        fill(plan, cell(plan, "tumor_fine", "MSD", seed=seed), rows)
    line = csv_lines(report_table(TABLE3, plan, seeds=seeds))["paper", "F-Seg", "MSD", "dsc"]
    assert float(line["ours"]) == pytest.approx((30 + 100 / 3) / 2)
    assert (line["cases"], line["seeds"], line["results"], line["empty"]) == ("2", "3", "6", "1")
    # Draws of the two cases' means: the interval goes from one to the other.
    assert (float(line["low"]), float(line["high"])) == pytest.approx((30, 100 / 3))
    four = report_table(TABLE3, plan, seeds=(*seeds, 4))
    assert csv_lines(four)["paper", "F-Seg", "MSD", "dsc"]["ours"] == ""
    assert "F-Seg, protocol paper: RMYY (seed 1, 2, 3, 4), MSD (seed 4)" in four.markdown


def test_seeds_of_different_cases_are_not_averaged(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    for seed, cases in ((1, [50.0, 60.0]), (2, [50.0])):
        fill(plan, cell(plan, "tumor_fine", "MSD", seed=seed), make_rows(cases))
    report = report_table(TABLE3, plan, seeds=(1, 2))
    assert csv_lines(report)["paper", "F-Seg", "MSD", "dsc"]["ours"] == ""
    assert any("only the first seed has b" in note for note in report.notes)


def test_table_fives_p_values_and_gains_are_those_of_the_paired_cases(tmp_path: Path) -> None:
    plan, rng = make_plan(tmp_path), np.random.default_rng(5)
    gains = {}
    for number, target in enumerate(PAPER_CENTERS):
        before = random_rows(12 + number, 40, number)[1:]
        gains[target] = np.round(rng.normal(4, 5, len(before)), 3)
        fill(plan, cell(plan, "tumor_fine", target, method="bl"), before)
        # In another order: cases are paired by name.
        fill(plan, cell(plan, "tumor_fine", target), shifted(before, gains[target].tolist())[::-1])
    report = report_table(TABLE5, plan)
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
    fill(plan, cell(plan, "tumor_fine", "MSD", method="bl"), rows[:-1])
    fill(plan, cell(plan, "tumor_fine", "MSD"), shifted(rows[1:], [1, 2, 3, 4, 5, 6, 7]))
    report = report_table(TABLE5, plan, targets=["MSD"])
    line = csv_lines(report)["paper", "Ours", "MSD", "dsc"]
    assert line["ours"] != ""
    assert (line["p"], line["gain"]) == ("", "")
    assert "only the baseline has a; only this row has h" in line["note"]
    assert any("only the baseline has a; only this row has h" in note for note in report.notes)


def test_too_few_cases_are_not_tested_and_it_is_said(tmp_path: Path) -> None:
    plan, rows = make_plan(tmp_path), make_rows([10.0, 20.0, 30.0])
    fill(plan, cell(plan, "tumor_fine", "MSD", method="bl"), rows)
    fill(plan, cell(plan, "tumor_fine", "MSD"), shifted(rows, [5.0, 6.0, 0.0]))
    line = csv_lines(report_table(TABLE5, plan))["paper", "Ours", "MSD", "dsc"]
    assert (line["p"], line["pairs"], line["ties"]) == ("", "3", "1")
    assert float(line["gain"]) == pytest.approx(11 / 3)
    assert "only 2 cases differ" in line["note"]


def test_tables_share_their_cells(tmp_path: Path) -> None:
    centers = load_centers(make_plan(tmp_path).centers)
    three, five, six = (table_cells(m, centers) for m in (TABLE3, TABLE5, TABLE6))
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
            fill(plan, cell(plan, stage, target, method="bl"), make_rows([40.0, 50.0]))
    report = report_table(TABLE6, plan)
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
