"""reproduce/shift_matrix.py: predicted end to end, resumed, and the losses by hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt

from reproduce import shift_matrix
from reproduce.analysis.figures import print_style
from reproduce.analysis.shift_cases import SHIFTS, ShiftedCase
from reproduce.analysis.shift_losses import best_rows, draw_heat_map, make_matrix, matrix_markdown
from reproduce.experiments import shift_runs
from reproduce.experiments.trained import Trained
from tests._table_fixtures import markdown_cells

pytest_plugins = ["tests._evaluation_plugin", "tests._trained_plugin"]


def run(experiment: Path, out: Path, *words: str) -> None:
    """The script on two cases of C."""
    place = ["--experiment", str(experiment), "--out", str(out), "--targets", "C"]
    shift_matrix.main([*place, "--cases", "2", "--device", "cpu", "--seeds", "2022", *words])


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cases that the pancreas stages, or a row's tumor stages, are given from here on."""
    names: list[str] = []
    find_pancreas, find_tumor = shift_runs.find_pancreas, shift_runs.find_tumor

    def noted_pancreas(case, predictors):  # type: ignore[no-untyped-def]
        names.append(case.case_id)
        return find_pancreas(case, predictors)

    def noted_tumor(organ, *args):  # type: ignore[no-untyped-def]
        names.append(organ.case.case_id)
        return find_tumor(organ, *args)

    monkeypatch.setattr(shift_runs, "find_pancreas", noted_pancreas)
    monkeypatch.setattr(shift_runs, "find_tumor", noted_tumor)
    return names


@pytest.mark.slow
def test_what_each_row_loses_is_predicted_once_shown_and_kept(
    experiment: Path,
    tmp_path: Path,
    predicted: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "results" / "mine"
    run(experiment, out, "--changes", "lower HU")
    text = capsys.readouterr().out
    assert "not trained, so left out: BL+IDR, C, seed 2022; " in text
    rows = SHIFTS.read(SHIFTS.path(out, "bl", "C", 2022))
    assert {(r.change, r.strength) for r in rows} == {
        ("unchanged", ""), ("lower HU", "-10"), ("lower HU", "-20"), ("lower HU", "-40"),
    }  # fmt: skip
    assert {r.case_id for r in rows} == {"case_0", "case_1"}
    assert {r.stage for r in rows} == {"pancreas_fine", "tumor_coarse", "tumor_fine"}
    assert len(rows) == 4 * 2 * 3
    (cells, best) = markdown_cells(text)
    # tumor 180 HU: of 165 or more until it is 20 lower, of 140 or more until it is 40 lower
    assert min(float(cells["Dice (%), unchanged"][row]) for row in ("BL", "Ours")) > 70
    lost = {row: float(cells["loses / lower HU -20 HU"][row].split()[0]) for row in ("BL", "Ours")}
    assert lost["BL"] > 60 > abs(lost["Ours"])
    assert best["lower HU"]["smallest loss"].startswith("Ours")
    written = sorted(path.name for path in experiment.iterdir() if "shift" in path.name)
    assert written == [f"shift_matrix.{kind}" for kind in ("csv", "md", "pdf", "png")]
    note = json.loads((out / "shifts" / "experiment.json").read_text())
    assert "--changes 'lower HU'" in note["exports"][0]["command"]
    assert str(tmp_path) not in note["exports"][0]["command"]
    monkeypatch.setattr(shift_matrix, "save_figure", lambda *_: None)  # drawn once is enough
    # again: nothing; another change: that alone; one file lost: its row alone
    before = len(predicted)
    run(experiment, out, "--changes", "lower HU")
    assert len(predicted) == before
    assert "C, seed 2022: done already" in capsys.readouterr().out
    run(experiment, out, "--changes", "higher HU", "--rows", "BL")
    assert len(predicted) == before + 3 * 2 * 2  # pancreas, then one row
    SHIFTS.path(out, "ours", "C", 2022).unlink()
    run(experiment, out, "--changes", "lower HU", "--rows", "Ours", "BL")
    assert len(predicted) == before + 3 * 2 * 2 + 4 * 2 * 2
    assert {r.change for r in SHIFTS.read(SHIFTS.path(out, "bl", "C", 2022))} == {
        "unchanged", "lower HU", "higher HU",
    }  # fmt: skip
    capsys.readouterr()
    shift_matrix.main(["--results", str(out), "--tables", str(tmp_path / "tables")])
    assert "Missing: Ours, higher HU 10 HU: C." in capsys.readouterr().out


def test_of_other_weights_nothing_is_kept(tmp_path: Path) -> None:
    checkpoint = tmp_path / "last.pt"
    checkpoint.write_bytes(b"weights")
    item = Trained("BL", "bl", "A", 1, {"tumor_fine": checkpoint})
    cases = made("BL", "A", 1, ("unchanged", ""), [60.0])
    path = SHIFTS.path(tmp_path, "bl", "A", 1)
    for weights, kept in ((item.weights, 1), ("0123", 0)):
        SHIFTS.write(path, [replace(case, weights=weights) for case in cases])
        assert len(shift_runs._open_record(tmp_path, item).cases) == kept


def test_what_cannot_be_asked_ends_with_one_line(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, message in (
        (["--changes", "darker"], "--changes darker: choose from softer kernel"),
        (["--changes", "lesion"], "need synthetic centers"),
        (["--rows", "SNR"], "no row of the experiment"),
    ):
        with pytest.raises(SystemExit) as ended:
            run(experiment, tmp_path / "out", *words)
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
    for argv in ([], ["--out", "a", "--results", "b"], ["--out", "a", "--cases", "0"]):
        with pytest.raises(SystemExit):
            shift_matrix.main(argv)
    with pytest.raises(SystemExit):
        shift_matrix.main(["--results", str(tmp_path)])
    assert "nothing is there; reproduce/shift_matrix.py --experiment" in capsys.readouterr().err


# the losses


def made(
    row: str, target: str, seed: int, change: tuple[str, str], dscs: Sequence[float]
) -> list[ShiftedCase]:
    return [
        ShiftedCase(row.lower(), row, target, seed, "tumor_fine", *change, f"case_{n}", dsc, "0")
        for n, dsc in enumerate(dscs)
    ]


def some() -> list[ShiftedCase]:
    """BL on A and B with two seeds, Ours on A with one; white noise of 10 and 40 HU."""
    cases = []
    for seed, more in ((1, 0.0), (2, 2.0)):
        cases += made("BL", "A", seed, ("unchanged", ""), [60 + more, 70, 80])
        cases += made("BL", "A", seed, ("white noise", "40"), [50, 60, 64])
        cases += made("BL", "A", seed, ("white noise", "10"), [59 + more, 69, 79])
        cases += made("BL", "B", seed, ("unchanged", ""), [40, 50])
        cases += made("BL", "B", seed, ("white noise", "40"), [20, 40])
    cases += made("Ours", "A", 1, ("unchanged", ""), [80, 90, 70])
    cases += made("Ours", "A", 1, ("white noise", "40"), [80, 90, 76])
    return cases


def test_losses_are_paired_by_case_and_seed_and_averaged_over_centers() -> None:
    matrix = make_matrix(some())
    assert matrix.rows == ("BL", "Ours")
    other_order = make_matrix([replace(some()[0], row="SNR"), *reversed(some())])
    assert other_order.rows == ("BL", "Ours", "SNR")  # that of Tables V and VI
    assert matrix.keys == (("white noise", "10"), ("white noise", "40"))  # by strength
    found = {(x.row, x.strength, x.center): x for x in matrix.losses}
    of_a, of_b = found["BL", "40", "A"], found["BL", "40", "B"]
    assert of_a.loss == pytest.approx(np.mean([11, 10, 16]))
    assert (of_a.cases, of_a.seeds) == (3, 2)
    assert (of_a.unchanged, of_a.changed) == (pytest.approx(422 / 6), pytest.approx(58))
    mean = matrix.mean("BL", ("white noise", "40"))
    assert mean is not None
    assert mean.loss == pytest.approx((of_a.loss + of_b.loss) / 2)
    assert mean.low is not None
    assert mean.high is not None
    assert mean.low <= mean.loss <= mean.high
    assert of_b.loss == 15
    ours = found["Ours", "40", "A"]
    assert (ours.loss, ours.low_trainings) == (-2, None)  # it gains; one training
    assert of_a.low_trainings is not None
    assert matrix.mean("Ours", ("white noise", "40")) is None
    assert "Ours, white noise 40 HU: B" in matrix.missing
    assert "BL, white noise 10 HU: B" in matrix.missing


def test_the_table_tells_the_interval_and_who_stands_it_best() -> None:
    matrix = make_matrix(some(), targets=["A"])
    cells, best = markdown_cells(matrix_markdown(matrix, ["a note"]))
    assert cells["Dice (%), unchanged"] == {
        "": "Dice (%), unchanged",
        "BL": "70.33",
        "Ours": "80.00",
    }
    assert cells["loses / white noise 40 HU"]["BL"].startswith("+12.33 [")
    assert cells["loses / white noise 40 HU"]["Ours"].startswith("-2.00 [")
    assert cells["loses / white noise 40 HU"]["Ours"].endswith("]*")
    assert cells["loses / white noise 10 HU"]["Ours"] == "-"
    assert best["white noise"]["smallest loss"] == "BL (+6.67)"  # Ours lacks a strength
    assert best_rows(make_matrix(some(), targets=["B"])) == [
        ("white noise", "BL (30.00)", "BL (+15.00)")
    ]
    lines = list(csv.DictReader(matrix.csv.splitlines()))
    assert {line["center"] for line in lines} == {"A", "mean"}
    with pytest.raises(ValueError, match="no tumor_coarse of A is there"):
        make_matrix(some(), "tumor_coarse", ["A"])


def test_cases_and_seeds_that_only_one_image_has_do_not_count() -> None:
    cases = [c for c in some() if (c.seed, c.case_id, c.change) != (2, "case_0", "white noise")]
    (of_a,) = (
        x for x in make_matrix(cases).losses if (x.row, x.strength, x.center) == ("BL", "40", "A")
    )
    assert (of_a.loss, of_a.cases) == (13, 2)


def test_every_row_and_change_has_a_cell_and_a_loss_is_red() -> None:
    matrix = make_matrix(some(), targets=["A"])
    with print_style():
        figure = draw_heat_map(matrix)
        figure.canvas.draw()
    try:
        axis = figure.axes[0]
        assert [t.get_text() for t in axis.get_yticklabels()] == ["BL", "Ours"]
        assert [t.get_text() for t in axis.get_xticklabels()] == [
            "white noise 10 HU", "white noise 40 HU",
        ]  # fmt: skip
        (image,) = axis.get_images()
        values = image.get_array()
        assert values is not None
        np.testing.assert_allclose(np.ma.filled(values, np.nan), [[1, 37 / 3], [np.nan, -2]])
        red, _, blue, _ = np.ravel(image.cmap(image.norm(np.array([12.0]))))
        assert red > blue
    finally:
        plt.close(figure)


def test_cases_come_back_as_they_were_written_and_a_broken_file_is_named(tmp_path: Path) -> None:
    path = SHIFTS.path(tmp_path, "bl", "A", 1)
    cases = [c for c in some() if (c.row, c.target, c.seed) == ("BL", "A", 1)]
    SHIFTS.write(path, cases)
    assert SHIFTS.read_all(tmp_path) == cases
    SHIFTS.write(path.with_name("copy.csv"), cases[:1])
    with pytest.raises(ValueError, match="twice"):
        SHIFTS.read_all(tmp_path)
    path.with_name("copy.csv").write_text("method,row\nbl,BL\n")
    with pytest.raises(ValueError, match=r"copy.csv, line 2: cannot be read"):
        SHIFTS.read_all(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nothing is there; reproduce/shift_matrix\.py"):
        SHIFTS.read_all(tmp_path / "nowhere")
