"""Detection from rows: by hand, as scikit-learn and picai_eval have it; what is not measured."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from picai_eval import Metrics
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    average_precision_score,
    roc_auc_score,
)

from engine.case_metrics import Row, to_list
from reproduce import detection as script
from reproduce.analysis.detection import (
    Patients,
    auroc,
    average_precision,
    calibration_error,
    lesion_average_precision,
    lesion_sensitivity,
    measure_patients,
    sensitivity,
    specificity,
)
from reproduce.analysis.detection_table import NOT_MEASURED, make_detection_report
from reproduce.analysis.paper_tables import EVERY_ROW
from reproduce.analysis.rows import read_results
from reproduce.analysis.tables import table_keys
from tests._rows_fixtures import key, make_case, make_rows, write_experiment
from tests._table_fixtures import markdown_cells

Lesions = Sequence[tuple[float, float, float]]  # longest axis, IoU, probability


def patient(
    case_id: str,
    score: float,
    lesions: Lesions = (),
    false: Sequence[float] = (),
    found: bool = True,
) -> Row:
    """A case of `Rows`; `found`: the result holds anything."""
    empty = ["pred"] * (not found) + ["label"] * (not lesions)
    columns = dict(
        zip(("lesion_mm", "lesion_iou", "lesion_prob"), np.transpose(lesions), strict=False)
    )
    return {
        **make_case(case_id, 50.0 if lesions else 0.0),
        "empty": " ".join(empty),
        "roi_max_prob": score,
        **{name: to_list(numbers) for name, numbers in columns.items()},
        "false_prob": to_list(false),
    }


def few() -> list[Row]:
    """Four patients with five lesions, two without any."""
    return [
        patient("a", 0.9, [(15.0, 0.5, 0.9)]),
        patient("b", 0.8, [(19.9, 0.09, 0.0), (20.0, 0.1, 0.8)], [0.6]),
        patient("c", 0.3, [(40.0, 0.0, 0.0)], found=False),
        patient("d", 0.7, [(40.1, 0.0, 0.0)], [0.7]),
        patient("e", 0.75, false=[0.75]),
        patient("f", 0.1, found=False),
    ]


def measured(*seeds: Sequence[Row]) -> Patients:
    found = measure_patients(seeds)
    assert found is not None
    return found


def test_a_few_patients_by_hand() -> None:
    center = [measured(few())]
    assert (sensitivity(center).value, sensitivity(center).count) == (0.75, 4)
    assert (specificity(center).value, specificity(center).count) == (0.5, 2)
    assert (lesion_sensitivity(center).value, lesion_sensitivity(center).count) == (0.4, 5)
    small = lesion_sensitivity(center, below_mm=20.0)
    assert (small.value, small.count) == (0.5, 2)
    large = lesion_sensitivity(center, np.nextafter(40.0, np.inf))
    assert (large.value, large.count) == (0.0, 1)
    # 0.9 and 0.8 lie above 0.75 and 0.1; 0.7 and 0.3 above 0.1
    assert auroc(center).value == pytest.approx((2 + 2 + 1 + 1) / 8)


def many(seed: int, cases: int = 40) -> list[Row]:
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(cases):
        lesions = [
            (rng.uniform(5, 60), 0.5, rng.uniform(0.3, 1)) if rng.random() < 0.7 else (9.0, 0, 0)
            for _ in range(rng.integers(0, 3))
        ]
        false = rng.uniform(0.1, 0.9, rng.integers(0, 3)).tolist()
        score = round(max([*(one[2] for one in lesions), *false, 0.05]), 2)
        rows.append(patient(f"case_{number:02d}", score, lesions, false))
    return rows


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_judged_as_scikit_learn_does(seed: int) -> None:
    rows = many(seed)
    center = measured(rows)
    target, score = center.has_lesion, center.scores[0]
    assert auroc([center]).value == pytest.approx(roc_auc_score(target, score))
    expected = average_precision_score(target, score)
    assert average_precision([center]).value == pytest.approx(expected)
    positive, mean_score = calibration_curve(target, score, n_bins=10)
    sizes = np.bincount(np.searchsorted(np.linspace(0, 1, 11)[1:-1], score), minlength=10)
    gaps = np.abs(positive - mean_score) * sizes[sizes > 0] / len(score)
    assert calibration_error([center]).value == pytest.approx(gaps.sum())


@pytest.mark.parametrize("seed", range(3))
def test_findings_are_judged_as_picai_eval_does(seed: int) -> None:
    rows = many(seed)
    center = measured(rows)
    results = {
        row["case_id"]: [
            *((1, lesion.probs[0], float(lesion.hits[0])) for lesion in of_patient),
            *((0, float(prob), 0.0) for prob in row["false_prob"].split()),
        ]
        for row, of_patient in zip(rows, center.lesions, strict=True)
    }
    scores = {row["case_id"]: row["roi_max_prob"] for row in rows}
    reference = Metrics(results, case_pred=scores)
    assert lesion_average_precision([center]).value == pytest.approx(reference.AP, abs=1e-6)
    assert auroc([center]).value == pytest.approx(reference.auroc)


def test_seeds_are_averaged_and_centers_have_equal_weight() -> None:
    other = [row | {"empty": row["empty"].replace("pred", "").strip()} for row in few()]
    both = measured(few(), other)
    assert sensitivity([both]).value == pytest.approx((0.75 + 1) / 2)
    assert specificity([both]).value == pytest.approx((0.5 + 0) / 2)
    assert sensitivity([measured(few()), measured(other[:2])]).value == pytest.approx(0.875)
    with pytest.raises(ValueError, match="different cases"):
        measure_patients([few(), few()[1:]])


def test_an_interval_holds_the_value_and_narrows_with_more_patients() -> None:
    widths = []
    for cases in (20, 200):
        value = auroc([measured(many(5, cases))])
        assert value.interval is not None
        assert value.value is not None
        assert value.interval.low <= value.value <= value.interval.high
        widths.append(value.interval.high - value.interval.low)
    assert widths[1] < widths[0] / 2


def test_without_lesion_free_scans_only_sensitivity_can_be_told() -> None:
    center = [measured(few()[:4])]
    assert sensitivity(center).value == 0.75
    for measure in (specificity, auroc, average_precision, calibration_error):
        assert measure(center).value is None
    assert lesion_average_precision(center).value is not None
    free = [measured(few()[4:])]
    assert (specificity(free).value, sensitivity(free).value) == (0.5, None)
    assert lesion_average_precision(free).value is None


def test_results_of_before_there_were_these_columns_are_not_measured() -> None:
    old = [make_case("a", 50.0)]
    assert measure_patients([old]) is None
    assert measure_patients([[*few(), make_case("z", 50.0)]]) is None  # of one evaluation, all
    assert measure_patients([[{"case_id": "a", "pred_ml": 1.0}]]) is None  # no label


def test_the_table_shows_what_is_there_and_names_the_rest() -> None:
    found = {
        key("tumor_fine", "A", "bl"): few(),
        key("tumor_fine", "A", "snr"): few()[:4],
        key("tumor_fine", "B", "bl"): few(),
        key("tumor_fine", "B", "dam"): [make_case("a", 50.0)],
    }
    keys = table_keys(EVERY_ROW, ("A", "B"), [2022], ("target",))
    report = make_detection_report(make_rows(found, ("A", "B")), keys, "from here")
    (cells,) = markdown_cells(report.markdown)
    shown = cells["A / BL"]
    assert shown["sensitivity, patients"].startswith("0.75 [")
    assert shown["sensitivity, patients"].endswith("(4)")
    assert shown["above 4 cm"] == "0.00 (1)"
    assert cells["A / SNR"]["AUROC"] == "-"
    assert cells["B / SNR"]["sensitivity, patients"] == "-"
    assert cells["mean / BL"]["AUROC"].startswith("0.75")
    assert set(cells) == {f"{c} / {row}" for c in ("A", "B", "mean") for row in ("BL", "SNR")}
    notes = "\n".join(report.notes)
    assert f"{NOT_MEASURED[1:]}: DAM (B, threshold target)" in notes
    assert "SNR (B, threshold target)" in notes
    assert "A: no lesion-free scan" not in notes or "SNR" in notes
    assert "from here" in notes
    lines = list(csv.DictReader(io.StringIO(report.csv)))
    (line,) = (x for x in lines if (x["row"], x["center"], x["metric"]) == ("BL", "A", "auroc"))
    assert (float(line["value"]), line["count"], line["seeds"]) == (0.75, "6", "1")


def test_the_columns_survive_the_export_and_the_script_reads_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {key("tumor_fine", "A", "bl"): few()}
    folder = write_experiment(tmp_path / "mine", make_rows(found, ("A",)))
    (back,) = read_results(folder).evaluations.values()
    again, before = measured(back), measured(few())
    assert lesion_sensitivity([again]) == lesion_sensitivity([before])
    assert lesion_average_precision([again]) == lesion_average_precision([before])
    script.main(["--results", str(folder), "--out", str(tmp_path / "out")])
    out = capsys.readouterr().out
    assert "## Detection" in out
    assert "Read were the exported cases in mine/" in out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "detection.csv", "detection.md", "detection.tex",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        script.main(["--results", str(folder), "--targets", "NOWHERE"])
    assert ended.value.code == 2
