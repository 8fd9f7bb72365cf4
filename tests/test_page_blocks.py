"""The page's tables with a line for each row, of small results with known numbers."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from engine.case_metrics import Row
from reproduce.analysis.lesion_free import LESION_FREE
from reproduce.analysis.page import Page
from reproduce.analysis.paper_tables import ROW_METHODS, TABLE6
from reproduce.analysis.results_page import render_page
from reproduce.analysis.rows import Network, Rows
from reproduce.analysis.shift_cases import SHIFTS, ShiftedCase
from tests._rows_fixtures import key, make_case, make_cases, make_rows, make_scan, write_experiment
from tests._table_fixtures import markdown_cells

Cells = dict[str, dict[str, str]]


def block(name: str, tmp_path: Path) -> tuple[Cells, str]:
    """The table of a block, by row, and its whole text."""
    text = render_page(f"{{{{{name} mine}}}}", Page(tmp_path))
    return markdown_cells(text)[0], text


def comparison_rows() -> Rows:
    """BL with seeds 1 and 2; MixStyle 4 above it with seed 1; SAML on one of two centers."""
    found = {}
    for target, dsc in (("A", 30.0), ("B", 50.0)):
        for threshold, more in (("target", 0.0), ("source-val", 1.0)):
            for seed, by in ((1, 0.0), (2, 8.0)):
                of = key("tumor_fine", target, "bl", seed, threshold=threshold)
                found[of] = make_cases([dsc + by + more, dsc + by + more + 10])
            of = key("tumor_fine", target, "mixstyle", 1, threshold=threshold)
            found[of] = make_cases([dsc + 4 + more, dsc + 14 + more])
        found[key("tumor_fine", target, "nnunet_3d_fullres", 1)] = make_cases([dsc, dsc])
    found[key("tumor_fine", "A", "saml", 1)] = make_cases([9.0, 9.0])
    rows = make_rows(found, ("A", "B"))
    short = Network(30_000_000, 10**12, iterations=2, own_iterations=250_000)
    return Rows(rows.evaluations, {("nnunet_3d_fullres", "tumor_fine"): short}, rows.centers)


def test_table_6_in_short_compares_each_row_with_the_trainings_of_its_seeds(tmp_path: Path) -> None:
    write_experiment(tmp_path / "mine", comparison_rows())
    cells, text = block("comparison", tmp_path)
    assert list(cells) == [
        "nnUNet_3d_fullres (budget not comparable)", "BL (printed as BigAug)", "MixStyle",
    ]  # fmt: skip
    base, mixed = cells["BL (printed as BigAug)"], cells["MixStyle"]
    assert base["DSC [95 %]"].startswith("49.00 [")  # both seeds
    assert (base["paper's DSC"], base["seeds"], base["p, Wilcoxon"]) == ("36.60", "2", "")
    assert mixed["DSC [95 %]"] == "49.00 [44.00, 54.00]"
    assert mixed["minus BL [95 %, cases]"] == "+4.00 [4.00, 4.00]"  # of seed 1, not of both
    assert mixed["[95 %, trainings and cases]"] == "one training"
    assert (mixed["source-val: DSC"], mixed["seeds"]) == ("50.00", "1")
    assert mixed["source-val: minus BL"] == "+4.00 [4.00, 4.00]"
    assert (mixed["ASD (mm)"], mixed["HD (mm)"]) == ("20.40", "51.00")
    assert "Not measured: SNR, nnUNet_3d_lowres, DCAC," in text
    assert ", SAML, " in text
    why = "each network has trained 2 iterations, its authors' 250000."
    assert f"nnUNet_3d_fullres: budget not comparable: {why}" in text
    assert "not shown below 5 comparable rows" in text
    assert not any(heading.startswith("rank") for heading in mixed)
    for threshold in ("target", "source-val"):
        assert f"\n- threshold {threshold}: above BL: MixStyle; below BL: no row\n" in text
    costs, text = block("costs", tmp_path)
    assert len(costs) == len(TABLE6.rows)  # a method's cost is known before its results
    assert costs["MixStyle"]["GMACs"] == "945.23 (945.23, +0.00)"
    assert costs["MixStyle"]["forwards / backwards per sample"] == "1 / 1"
    explained = re.findall(r"^- (.+?): ", text, re.MULTILINE)
    assert explained == ["DCAC", "LANet", "HOG", "DAM", "DART", "RandConv", "Ours"]


def test_rows_are_ranked_beside_the_paper_by_the_seeds_that_all_have(tmp_path: Path) -> None:
    # In the paper's order SNR, DCAC, BL, HOG, Cutout, SAML; here the first two change places.
    dice = {"snr": 31.0, "dcac": 30.0, "bl": 32.0, "hog": 33.0, "cutout": 34.0}
    found = {
        key("tumor_fine", target, method, 1): make_cases([dsc, dsc + 20])
        for method, dsc in dice.items()
        for target in "AB"
    }
    found |= {key("tumor_fine", t, "snr", 2): make_cases([90.0, 90.0]) for t in "AB"}
    found |= {key("tumor_fine", t, "bl", 2): make_cases([0.0, 0.0]) for t in "AB"}
    found |= {key("tumor_fine", t, "saml", 1): make_cases([99.0]) for t in "AB"}  # other cases
    found |= {key("tumor_fine", t, "nnunet_3d_fullres", 7): make_cases([1.0, 1.0]) for t in "AB"}
    rows = make_rows(found, ("A", "B"))
    short = {("nnunet_3d_fullres", "tumor_fine"): Network(1, 1, iterations=2, own_iterations=9)}
    write_experiment(tmp_path / "mine", Rows(rows.evaluations, short, rows.centers))
    cells, text = block("comparison", tmp_path)
    ranks = {row: of_row["rank: paper's / here"] for row, of_row in cells.items()}
    assert ranks == {
        "SNR": "5 / 4", "nnUNet_3d_fullres (budget not comparable)": "-", "DCAC": "4 / 5",
        "BL (printed as BigAug)": "3 / 3", "HOG": "2 / 2", "Cutout": "1 / 1", "SAML": "-",
    }  # fmt: skip
    assert "n = 5 rows by mean DSC (seed 1)" in text
    assert "correlation of the two orders is 0.90 [" in text  # 1 - 6 * (1 + 1) / (5 * 24)


def patients() -> list[Row]:
    """Two with a lesion: one that is hit, one in whom nothing is found."""
    hit = {"lesion_mm": "30", "lesion_iou": "0.5", "lesion_prob": "0.9", "false_prob": ""}
    missed = hit | {"lesion_iou": "0", "lesion_prob": "0"}
    return [
        make_case("a", 50.0) | hit | {"empty": "", "roi_max_prob": 0.9},
        make_case("b", 0.0) | missed | {"empty": "pred", "roi_max_prob": 0.3},
    ]


def test_detection_in_short_has_the_lesion_free_scans(tmp_path: Path) -> None:
    found = {key("tumor_fine", target, "bl", 1): patients() for target in "AB"}
    found |= {key("tumor_fine", "A", "snr", 1): patients()}
    found |= {key("tumor_fine", t, "dam", 1): [make_case("a", 50.0)] for t in "AB"}
    folder = write_experiment(tmp_path / "mine", make_rows(found, ("A", "B")))
    cells, text = block("detection", tmp_path)
    assert cells["BL"]["specificity, lesion-free"] == "-"
    assert "A: no lesion-free scan, so no specificity" in text
    for target in "AB":
        scans = [
            make_scan("free_1", target),
            make_scan("free_2", target, pred_ml=3.0, prob=0.6),
        ]
        LESION_FREE.write(LESION_FREE.path(folder, "bl", target, 1), scans)
    cells, text = block("detection", tmp_path)
    assert list(cells) == ["BL"]
    shown = {name: text.split(" [")[0] for name, text in cells["BL"].items()}
    assert shown["sensitivity, patients"] == "0.50"
    assert shown["sensitivity, lesions"] == "0.50"
    assert shown["specificity, lesion-free"] == "0.50"
    assert shown["AUROC"] == "0.75"  # 0.9 above 0.2 and 0.6, 0.3 above 0.2
    assert shown["average precision, patients"] == "0.83"  # 1/2 (1 + 2/3)
    assert shown["calibration error"] == "0.40"  # 0.1, 0.7, 0.2 and 0.6, a quarter of each
    assert "A (BL): 2 lesion-free scans. B: 2 lesion-free scans." in text
    assert "SNR (B, threshold target)" in text  # not run
    assert "evaluated before there were these columns: evaluate them again: DAM." in text


def test_changes_in_short_are_those_of_the_middle_strength(tmp_path: Path) -> None:
    folder = write_experiment(tmp_path / "mine", make_rows({}, ("A", "B")))
    assert "not measured" in render_page("{{changes mine}}", Page(tmp_path))
    dice = {("unchanged", ""): 60.0, ("white noise", "10"): 59.0, ("white noise", "20"): 50.0}
    dice |= {("lesion", "PDA"): 60.0, ("lesion", "IPMN"): 54.0, ("lesion", "PNET"): 57.0}
    for target, by in (("A", 0.0), ("B", 2.0)):
        lines = [
            ShiftedCase("bl", "BL", target, 1, stage, change, strength, "a",
                        dsc + by * (change == "white noise"), "0")
            for (change, strength), dsc in dice.items()
            for stage in ("tumor_coarse", "tumor_fine")
        ]  # fmt: skip
        SHIFTS.write(SHIFTS.path(folder, "bl", target, 1), lines)
        for seed in (2,) if target == "A" else (2, 3):  # a third training for one center alone
            again = [replace(case, seed=seed) for case in lines]
            SHIFTS.write(SHIFTS.path(folder, "bl", target, seed), again)
    lines = [
        ShiftedCase("snr", "SNR", "A", 1, "tumor_fine", *c, "a", d, "0") for c, d in dice.items()
    ]
    SHIFTS.write(SHIFTS.path(folder, "snr", "A", 1), lines)
    cells, text = block("changes", tmp_path)
    assert cells["BL"] == {
        "row": "BL", "unchanged": "60.00", "white noise 20 HU": "+9.0",
        "lesion (PDA, IPMN, PNET)": "+3.0", "seeds": "2",
    }  # fmt: skip
    assert list(cells) == ["BL", "SNR"]  # in the order of the tables
    # A center is missing.
    assert (cells["SNR"]["unchanged"], cells["SNR"]["seeds"]) == ("-", "0")
    assert "Not measured: BL+IDR, " in text
    assert "shift_matrix.csv" not in text
    for kind in ("csv", "png"):
        (folder / "tables").mkdir(exist_ok=True)
        (folder / "tables" / f"shift_matrix.{kind}").write_text("")
    assert "(../results/mine/tables/shift_matrix.png)" in block("changes", tmp_path)[1]


def test_table_5_shows_rows_of_fewer_seeds_beside_the_baselines_of_the_same(tmp_path: Path) -> None:
    found = {}
    for seed, by in ((1, 0.0), (2, 8.0)):
        found[key("tumor_fine", "A", "bl", seed)] = make_cases([30 + by, 40 + by])
    found[key("tumor_fine", "A", ROW_METHODS["BL+IDR"], 2)] = make_cases([39, 49])
    write_experiment(tmp_path / "mine", make_rows(found, ("A",)))
    lines = render_page("{{rows mine}}", Page(tmp_path)).splitlines()
    assert lines[2].startswith("| fine, target | BL | 39.00 | 39.00 [")
    assert lines[2].endswith("| 2 |")
    assert "| BL+IDR | 44.00 | 44.00 [39.00, 49.00] | +1.00 [1.00, 1.00] |" in lines[3]
    assert lines[3].endswith("| 1 |")


def test_a_row_is_compared_by_the_seeds_that_the_baseline_has_too(tmp_path: Path) -> None:
    found = {key("tumor_fine", "A", "bl", 1): make_cases([30, 40])}
    for seed, dsc in ((1, 32.0), (2, 90.0)):
        found[key("tumor_fine", "A", "ours", seed)] = make_cases([dsc, dsc + 10])
    write_experiment(tmp_path / "mine", make_rows(found, ("A",)))
    (ours,) = [of_row for row, of_row in block("comparison", tmp_path)[0].items() if row == "Ours"]
    assert ours["DSC [95 %]"].startswith("37.00 [")
    assert ours["minus BL [95 %, cases]"] == "+2.00 [2.00, 2.00]"
    assert ours["seeds"] == "1"
    lines = render_page("{{rows mine}}", Page(tmp_path)).splitlines()
    assert "| Ours | 37.00 | 37.00 [32.00, 42.00] | +2.00 [2.00, 2.00] |" in lines[3]


@pytest.mark.parametrize("name", ["comparison", "costs", "detection", "changes"])
def test_an_experiment_without_results_says_so(name: str, tmp_path: Path) -> None:
    write_experiment(tmp_path / "mine", make_rows({}, ("A",)))
    assert "ot measured" in render_page(f"{{{{{name} mine}}}}", Page(tmp_path))
