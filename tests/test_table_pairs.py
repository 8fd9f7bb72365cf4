"""What tables compare: seeds, rows case by case, cells of several tables, other systems."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from data.centers import load_centers
from reproduce.analysis.collect import table_cells
from reproduce.analysis.paper_tables import TABLE3, TABLE5, TABLE6
from reproduce.analysis.tables import table_keys
from reproduce.experiments.finished import missing_steps
from tests._rows_fixtures import (
    NETWORKS,
    PAPER_CENTERS,
    SEED,
    empty_case,
    key,
    make_cases,
    make_rows,
    random_cases,
    report_of,
    shifted,
)
from tests._table_fixtures import csv_lines, make_plan, markdown_cells


def test_a_case_is_averaged_over_the_seeds_first() -> None:
    seeds = (1, 2, 3)
    found = {
        key("tumor_fine", "MSD", seed=seed): make_cases(dscs)
        for seed, dscs in zip(seeds, ([10.0, 50.0], [20.0, 50.0], [60.0, 80.0]), strict=True)
    }
    found[key("tumor_fine", "MSD", seed=3)][1] = empty_case("b")
    rows = make_rows(found)
    line = csv_lines(report_of(TABLE3, rows, seeds=seeds))["target", "F-Seg", "MSD", "dsc"]
    assert float(line["ours"]) == pytest.approx((30 + 100 / 3) / 2)
    assert (line["cases"], line["seeds"], line["results"], line["empty"]) == ("2", "3", "6", "1")
    # Draws of the two cases' means: the interval goes from one to the other.
    assert (float(line["low"]), float(line["high"])) == pytest.approx((30, 100 / 3))
    # Over trainings too: from the lowest case and seeds to the highest.
    assert float(line["low_trainings"]) < 30
    assert float(line["high_trainings"]) > 100 / 3
    four = report_of(TABLE3, rows, seeds=(*seeds, 4))
    assert csv_lines(four)["target", "F-Seg", "MSD", "dsc"]["ours"] == ""
    assert "F-Seg, threshold target: RMYY (seed 1, 2, 3, 4), MSD (seed 4)" in four.markdown


def test_seeds_of_different_cases_are_not_averaged() -> None:
    found = {
        key("tumor_fine", "MSD", seed=seed): make_cases(dscs)
        for seed, dscs in ((1, [50.0, 60.0]), (2, [50.0]))
    }
    report = report_of(TABLE3, make_rows(found), seeds=(1, 2))
    assert csv_lines(report)["target", "F-Seg", "MSD", "dsc"]["ours"] == ""
    assert any("only the first seed has b" in note for note in report.notes)


def test_table_fives_p_values_and_gains_are_those_of_the_paired_cases() -> None:
    rng, found, gains = np.random.default_rng(5), {}, {}
    for number, target in enumerate(PAPER_CENTERS):
        before = random_cases(12 + number, 40, number)[1:]
        gains[target] = np.round(rng.normal(4, 5, len(before)), 3)
        found[key("tumor_fine", target, "bl")] = before
        # In another order: cases are paired by name.
        found[key("tumor_fine", target)] = shifted(before, gains[target].tolist())[::-1]
    report = report_of(TABLE5, make_rows(found))
    lines = csv_lines(report)
    for target in PAPER_CENTERS:
        line = lines["target", "Ours", target, "dsc"]
        assert float(line["gain"]) == pytest.approx(gains[target].mean())
        p = stats.wilcoxon(gains[target], method="exact").pvalue
        assert float(line["p"]) == pytest.approx(p)
        assert lines["target", "BL", target, "dsc"]["p"] == ""
    mean = lines["target", "Ours", "mean", "dsc"]
    wanted = np.mean([g.mean() for g in gains.values()])
    assert float(mean["gain"]) == pytest.approx(wanted)
    assert float(mean["gain_low"]) < float(mean["gain"]) < float(mean["gain_high"])
    assert (mean["gain_low_trainings"], mean["gain_high_trainings"]) == ("", "")  # one seed
    pooled = stats.wilcoxon(np.concatenate(list(gains.values()))).pvalue
    assert float(mean["p"]) == pytest.approx(pooled)
    assert float(mean["mixed"]) == pytest.approx(wanted)
    assert float(mean["mixed_low"]) < wanted < float(mean["mixed_high"])
    # ASD is the same in every case: no test, no crash, and it is said once.
    asd = lines["target", "Ours", "mean", "asd_mm"]
    assert (asd["p"], asd["ties"], float(asd["gain"])) == ("", asd["pairs"], 0.0)
    said = "Ours, RMYY, MSD, RENJI, mean, threshold target, ASD, HD: not tested: no case differs."
    assert said in report.notes
    shown = markdown_cells(report.markdown)[0]
    assert shown["DSC (%) / Ours"]["p, Wilcoxon"] in ("< 0.001", f"{pooled:.3f}")
    assert shown["DSC (%) / Ours"]["[95 %, trainings and cases]"] == "one training"
    assert shown["DSC (%) / Ours"]["mixed model [95 %]"].startswith(f"{wanted:+.2f} [")
    assert shown["ASD (mm) / Ours"]["p, Wilcoxon"] == "-"
    assert shown["ASD (mm) / Ours"]["mixed model [95 %]"] == ""
    assert shown["p (Wilcoxon) against BL, DSC / Ours"]["MSD"] != "-"


def test_where_trainings_scatter_only_the_wider_interval_reaches_zero() -> None:
    """A row whose gain is +10, +2 and -3 in three seeds, the same in every case."""
    found = {}
    before = random_cases(13, 50, 1)[1:]
    for target in PAPER_CENTERS:
        for seed, gain in ((1, 10.0), (2, 2.0), (3, -3.0)):
            found[key("tumor_fine", target, "bl", seed)] = before
            found[key("tumor_fine", target, "ours", seed)] = shifted(before, [gain] * len(before))
    report = report_of(TABLE5, make_rows(found), seeds=(1, 2, 3))
    line = csv_lines(report)["target", "Ours", "mean", "dsc"]
    assert (float(line["gain_low"]), float(line["gain_high"])) == pytest.approx((3, 3))
    assert float(line["p"]) < 0.001
    assert float(line["gain_low_trainings"]) < 0 < float(line["gain_high_trainings"])
    shown = markdown_cells(report.markdown)[0]["DSC (%) / Ours"]
    assert shown["minus BL [95 %, cases]"] == "+3.00 [3.00, 3.00]"
    assert shown["[95 %, trainings and cases]"].startswith("[-")
    assert any("the interval holds the scatter of trainings" in note for note in report.notes)
    assert not any("One training per row" in note for note in report.notes)


def test_rows_of_different_cases_are_not_compared_and_the_cases_are_named() -> None:
    cases = make_cases([10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0])
    found = {
        key("tumor_fine", "MSD", "bl"): cases[:-1],
        key("tumor_fine", "MSD"): shifted(cases[1:], [1, 2, 3, 4, 5, 6, 7]),
    }
    report = report_of(TABLE5, make_rows(found), targets=["MSD"])
    line = csv_lines(report)["target", "Ours", "MSD", "dsc"]
    assert line["ours"] != ""
    assert (line["p"], line["gain"]) == ("", "")
    assert "only the baseline has a; only this row has h" in line["note"]
    assert any("only the baseline has a; only this row has h" in note for note in report.notes)


def test_too_few_cases_are_not_tested_and_it_is_said() -> None:
    cases = make_cases([10.0, 20.0, 30.0])
    found = {
        key("tumor_fine", "MSD", "bl"): cases,
        key("tumor_fine", "MSD"): shifted(cases, [5.0, 6.0, 0.0]),
    }
    line = csv_lines(report_of(TABLE5, make_rows(found)))["target", "Ours", "MSD", "dsc"]
    assert (line["p"], line["pairs"], line["ties"]) == ("", "3", "1")
    assert float(line["gain"]) == pytest.approx(11 / 3)
    assert "only 2 cases differ" in line["note"]


def test_tables_share_their_results(tmp_path: Path) -> None:
    three, five, six = (
        table_keys(table, PAPER_CENTERS, [SEED], table.thresholds)
        for table in (TABLE3, TABLE5, TABLE6)
    )
    for threshold in ("target", "source-val"):
        for target in PAPER_CENTERS:
            ours = five[threshold, "Ours", target]
            assert ours == three[threshold, "F-Seg", target] == six[threshold, "Ours", target]
            assert six[threshold, "BigAug", target] == five[threshold, "BL", target] != ours
    plan = make_plan(tmp_path)
    centers = load_centers(plan.centers)
    of_tables = [table_cells(table, centers) for table in (TABLE3, TABLE5)]
    every = [c for table in of_tables for cells in table.values() for c in cells]
    alone = {s for c in every for s in missing_steps(plan, [c])}
    assert len(missing_steps(plan, every)) == len(alone)


def test_table_six_has_every_system_and_what_ours_costs() -> None:
    found = {
        key(stage, target, "bl"): [row | {"device": "an H100"} for row in make_cases([40.0, 50.0])]
        for target in PAPER_CENTERS
        for stage in ("tumor_coarse", "tumor_fine")
    }
    report = report_of(TABLE6, make_rows(found))
    paper, _, cost = markdown_cells(report.markdown)
    beyond = 3 + 1  # of ours, and nnU-Net on our crops
    assert len([name for name in paper if name.startswith("DSC")]) == len(cost) == 17 + beyond
    macs = sum(NETWORKS["bl", stage].macs for stage in ("tumor_coarse", "tumor_fine"))
    seconds = "the paper's seconds per case (NVIDIA A30)"
    assert cost["BigAug"] == {
        "": "BigAug",
        "parameters (1e7)": "3.79 (3.79, +0.00)",
        "GMACs": "945.23 (945.23, +0.00)",
        "forwards / backwards per sample": "1 / 1",
        "as run: parameters (1e7)": "3.79",
        "as run: GMACs": f"{macs / 1e9:.2f}",
        "seconds per case": "6.00",  # 3 s in each of the two stages
        "device": "an H100",
        seconds: "9.44",
    }
    assert cost["RandConv"]["GMACs"] == "945.23 (945.41, -0.18)"
    assert cost["RandConv"]["forwards / backwards per sample"] == "6 / 3"
    assert (cost["Ours"]["seconds per case"], cost["Ours"][seconds]) == ("-", "10.52")
    assert cost["GIN"]["GMACs"] == "945.23"
    assert cost["nnUNet_3d_lowres"]["forwards / backwards per sample"] == "- / -"
    assert paper["DSC (%) / GIN"]["MSD"] == "-"
    assert paper["DSC (%) / BigAug"]["MSD"] == "45.00 (24.68, +20.32)"
    assert any("identical in all 12 numbers in the paper" in note for note in report.notes)
    assert not any(note.startswith("Not built yet") for note in report.notes)
    exact = csv_lines(report)["", "BigAug", "", "params_1e7"]["ours"]
    assert float(exact) * 1e7 == pytest.approx(2 * NETWORKS["bl", "tumor_fine"].parameters)
