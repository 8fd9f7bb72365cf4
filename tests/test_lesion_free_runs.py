"""Lesion-free scans: predicted as an evaluation does, resumed, read by detection alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.case import Case
from data.centers import load_centers
from data.phantom.generate import plan_case
from data.phantom.redraw import DrawnCenters
from data.readers import list_cases, load_case
from reproduce import detection
from reproduce.analysis.detection_table import NO_FREE, make_detection_report
from reproduce.analysis.lesion_free import LESION_FREE, LesionFreeScan, read_lesion_free
from reproduce.analysis.paper_tables import EVERY_ROW
from reproduce.analysis.rows import Rows, read_results
from reproduce.analysis.tables import table_keys
from reproduce.experiments import lesion_free_runs
from reproduce.experiments.lesion_free_runs import (
    LesionFreeRequest,
    measure_lesion_free,
    name_scans,
)
from reproduce.experiments.plan import Plan, note_experiment
from reproduce.experiments.trained import find_trained
from tests._evaluation_fixtures import CASES, Place, read_rows
from tests._rows_fixtures import key, make_case, make_rows, make_scan, write_experiment
from tests._table_fixtures import markdown_cells
from tests._trained_fixtures import train

pytest_plugins = ["tests._evaluation_plugin", "tests._trained_plugin"]
PANCREAS_CALLED_TUMOR = 90.0  # HU


class DrawnAlready(DrawnCenters):
    """Draws the cases of C; `names` were asked for."""

    def __init__(self, centers: Path) -> None:
        super().__init__("demo", 1)
        center = load_centers(centers)["C"]
        cases = [load_case(center, files) for files in list_cases(center)]
        object.__setattr__(self, "cases", cases)
        object.__setattr__(self, "names", [])

    def without_lesion(self, name: str, case_id: str) -> Case:
        self.names.append(case_id)  # type: ignore[attr-defined]
        cases = self.cases  # type: ignore[attr-defined]
        return replace(cases[int(case_id[-3:]) % len(cases)], case_id=case_id, label=None)


def test_a_scan_is_measured_as_an_evaluation_does(plan: Plan, place: Place, tmp_path: Path) -> None:
    train(plan, "ours", PANCREAS_CALLED_TUMOR)
    centers = load_centers(plan.centers)
    trained, _ = find_trained(plan, centers, {"Ours": "ours"}, ["C"], [2022])
    drawn = DrawnAlready(plan.centers)
    request = LesionFreeRequest(plan, tmp_path / "mine", 2, drawn, "cpu")
    assert measure_lesion_free(request, trained) == []
    path = LESION_FREE.path(tmp_path / "mine", "ours", "C", 2022)
    scans = LESION_FREE.read(path)
    assert [scan.case_id for scan in scans] == name_scans(centers["C"], 2)
    evaluated = read_rows(place.all_stages()["tumor_fine"])
    for scan in scans:
        own = evaluated[f"case_{int(scan.case_id[-3:]) % len(CASES)}"]
        assert scan.pred_ml > 0
        assert f"{scan.roi_max_prob:.6g}" == own["roi_max_prob"]
        assert f"{scan.pred_ml:.6g}" == own["pred_ml"]
        assert (scan.false_prob, scan.fallback) == (own["lesion_prob"], own["fallback"])
        assert (scan.threshold, scan.threshold_value) == ("target", 0.5)
    # again: nothing; more scans: these alone; another threshold or other weights: all of them
    before = path.read_bytes()
    measure_lesion_free(request, trained)
    assert len(drawn.names) == 2  # type: ignore[attr-defined]
    measure_lesion_free(replace(request, scans=3), trained)
    assert len(drawn.names) == 3  # type: ignore[attr-defined]
    for changed in ({"weights": "0123"}, {"threshold_value": 0.7}):
        LESION_FREE.write(path, [replace(scan, **changed) for scan in scans])
        measure_lesion_free(request, trained)
        assert path.read_bytes() == before


def test_they_are_new_bodies_on_the_centers_scanner_without_a_lesion(
    monkeypatch: pytest.MonkeyPatch, place: Place
) -> None:
    monkeypatch.setattr(
        lesion_free_runs, "list_cases",
        lambda center: [type("F", (), {"case_id": f"pancreas_{n:03d}"}) for n in (1, 2, 48)],
    )  # fmt: skip
    center = load_centers(place.centers)["C"]
    assert name_scans(center, 2) == ["free_049", "free_050"]
    drawn = DrawnCenters("demo", 2022)
    with_lesion = plan_case("SYN-D", 48, "demo", 2022)
    case = drawn.without_lesion("SYN-D", "free_049")
    assert case.label is not None
    assert np.unique(case.label).tolist() == [0, 1]
    assert with_lesion.lesion is not None
    assert (case.center, case.spacing) == ("SYN-D", with_lesion.spacing)
    assert case.image_hu.shape == with_lesion.shape


@pytest.mark.slow
def test_the_script_predicts_notes_and_shows_them(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(plan, "bl", PANCREAS_CALLED_TUMOR)
    note_experiment(tmp_path / "experiment", plan)
    case = make_case("case_0", 50.0) | {"empty": "", "roi_max_prob": 0.99}
    case |= {"lesion_mm": "30", "lesion_iou": "0.5", "lesion_prob": "0.99", "false_prob": ""}
    rows = make_rows({key("tumor_fine", "C", "bl"): [case]}, ("A", "B", "C"))
    results = write_experiment(tmp_path / "mine", rows)
    words = ["--experiment", str(tmp_path / "experiment"), "--results", str(results)]
    words += ["--targets", "C", "--device", "cpu", "--lesion-free", "2"]
    with pytest.raises(SystemExit) as ended:
        detection.main(words)
    assert ended.value.code == 2
    assert "are not all synthetic" in capsys.readouterr().err
    monkeypatch.setattr(detection, "drawn_centers", lambda *_: DrawnAlready(plan.centers))
    detection.main([*words, "--seeds", "2022"])
    text = capsys.readouterr().out
    assert "not trained, so left out: BL+IDR, C, seed 2022; " in text
    assert "- C: 2 lesion-free scans." in text
    (cells,) = markdown_cells(text)
    assert cells["C / BL"]["specificity, lesion-free"] == "0.00 [0.00, 0.00] (2)"
    assert cells["C / BL"]["AUROC"] == "1.00 (3)"  # 0.99 above the window's 0.95
    assert cells["C / BL"]["sensitivity, patients"] == "1.00 (1)"
    note = json.loads((results / "lesion_free" / "experiment.json").read_text())
    assert "--lesion-free 2" in note["exports"][0]["command"]
    assert str(tmp_path) not in note["exports"][0]["command"]
    assert list(note["files"]) == ["bl_C_seed2022.csv"]
    assert read_results(results).evaluations.keys() == rows.evaluations.keys()
    path = results / "lesion_free" / "bl_C_seed2022.csv"
    path.write_text(path.read_text().replace("0.95", "0.05"))
    with pytest.raises(ValueError, match=r"bl_C_seed2022.csv changed since experiment.json"):
        LESION_FREE.read_all(results)


def patients(seeds: tuple[int, ...] = (1, 2)) -> Rows:
    """BL on A: two patients with a lesion, whose scores are 0.9 and 0.3."""
    cases = [
        make_case(name, 50.0) | {
            "empty": "", "roi_max_prob": prob, "lesion_mm": "30", "lesion_iou": "0.5",
            "lesion_prob": f"{prob}", "false_prob": "",
        }
        for name, prob in (("a", 0.9), ("b", 0.3))
    ]  # fmt: skip
    return make_rows({key("tumor_fine", "A", "bl", seed): cases for seed in seeds}, ("A",))


def report(folder: Path, scans: list[LesionFreeScan]) -> tuple[dict[str, str], str]:
    """What BL's line of the table says, and the notes."""
    for seed in (1, 2):
        of_seed = [s for s in scans if s.seed == seed]
        LESION_FREE.write(LESION_FREE.path(folder, "bl", "A", seed), of_seed)
    rows, keys = patients(), table_keys(EVERY_ROW, ("A",), (1, 2), ("target",))
    made = make_detection_report(rows, keys, "", read_lesion_free(folder, rows, keys))
    (cells,) = markdown_cells(made.markdown)
    return cells["A / BL"], "\n".join(made.notes)


def test_scans_that_all_seeds_have_count_and_another_threshold_does_not(tmp_path: Path) -> None:
    scans = [
        make_scan("free_1", seed=1),
        make_scan("free_2", seed=1, pred_ml=2.5, prob=0.6),
        make_scan("free_3", seed=1),
    ]
    scans += [
        make_scan("free_1", seed=2, pred_ml=2.5, prob=0.6),
        make_scan("free_2", seed=2, pred_ml=2.5, prob=0.6),
    ]
    cells, notes = report(tmp_path, scans)
    assert cells["specificity, lesion-free"].startswith("0.25 [")
    assert cells["specificity, lesion-free"].endswith("(2)")
    # pairs won: seed 1: 0.9 both, 0.3 above 0.2 alone: 3 of 4; seed 2: 2 of 4
    assert cells["AUROC"].startswith("0.62 [")
    assert cells["sensitivity, patients"].endswith("(2)")
    assert "A: 2 lesion-free scans." in notes
    scans[-2:] = [replace(s, threshold_value=0.7) for s in scans[-2:]]
    cells, notes = report(tmp_path, scans)
    assert cells["specificity, lesion-free"] == "-"
    assert f"A: {NO_FREE}." in notes
    assert "seed 2: its lesion-free scans were predicted with a threshold of 0.7, its" in notes


def test_without_any_the_table_is_what_it_was(tmp_path: Path) -> None:
    rows, keys = patients(), table_keys(EVERY_ROW, ("A",), (1, 2), ("target",))
    free = read_lesion_free(tmp_path, rows, keys)
    assert make_detection_report(rows, keys, "", free) == make_detection_report(rows, keys)
