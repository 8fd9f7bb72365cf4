"""Fig. 8: best and worst cases, kinds of lesions, contours in their colors."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib import pyplot as plt

from reproduce import figure8
from reproduce.analysis.figures import Request, find_result, print_style
from reproduce.analysis.overlays import PANCREAS_LABEL, TUMOR_LABEL, TUMOR_PRED
from tests._figure_fixtures import (
    commands,
    count_pixels,
    evaluate,
    rows_of,
    smallest_font,
    texts,
)
from tests._table_fixtures import empty_row, make_row

pytest_plugins = ["tests._figure_plugin"]


def test_best_and_worst_cases_are_ranked_and_none_is_both() -> None:
    rows = [
        *rows_of([50, 0, 80, 0], [5, 20, 2, 60]),
        empty_row("case_4"),
        make_row("case_5", 90.0),
        make_row("case_6", 100.0) | {"empty": "pred label"},  # no lesion: nothing to find
    ]
    best, worst = figure8.choose_cases(rows, 2)
    assert [row["case_id"] for row in best] == ["case_5", "case_2"]
    assert [row["case_id"] for row in worst] == ["case_4", "case_3"]  # nothing, then farthest
    best, worst = figure8.choose_cases(rows, 9)
    assert [row["case_id"] for row in best] == ["case_5", "case_2", "case_0"]
    assert [row["case_id"] for row in worst] == ["case_4", "case_3", "case_1"]
    best, worst = figure8.choose_cases(rows[:3], 9)
    assert [row["case_id"] for row in best + worst] == ["case_2", "case_0", "case_1"]
    assert figure8.choose_cases(rows[6:], 3) == ([], [])


def test_kinds_of_lesions_come_from_a_table_or_from_beside_the_centers(tmp_path: Path) -> None:
    toml, table = tmp_path / "centers.toml", tmp_path / "mine.csv"
    assert figure8.read_lesions(None, toml) == {}
    (tmp_path / "cases.csv").write_text(
        "center,case_id,lesion,stent\nA,x,PDA,true\nA,y,IPMN,false\n", encoding="utf-8"
    )
    found = {("A", "x"): "PDA, stent", ("A", "y"): "IPMN"}
    assert figure8.read_lesions(None, toml) == found
    table.write_text("center,case_id,lesion\nA,x,PNET\n", encoding="utf-8")
    assert figure8.read_lesions(table, toml) == {("A", "x"): "PNET"}
    table.write_text("center,case_id\nA,x\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.csv: has no column lesion"):
        figure8.read_lesions(table, toml)
    with pytest.raises(FileNotFoundError, match="--lesions"):
        figure8.read_lesions(tmp_path / "none.csv", toml)


def test_figure_8_shows_label_and_result_and_tells_dsc_and_kind(asked: Request) -> None:
    rows = [*rows_of([50, 60, 10]), empty_row("case_3")]
    cell = asked.cell("tumor_fine", "C")
    evaluate(asked, cell, rows)
    result = find_result(asked.plan, cell)
    assert result is not None
    with print_style():
        figure = figure8.draw_figure(asked, "C", result, 1, {("C", "case_1"): "PNET"})
    try:
        assert [axis.get_title() for axis in figure.axes] == [
            "case_1\nPNET, DSC 60.0",
            "case_3\nDSC 0.0",
        ]
        assert [len(axis.lines) for axis in figure.axes] == [2, 1]
        assert {"best", "worst", "found nothing"} < set(texts(figure))
        assert smallest_font(figure) >= 7
    finally:
        plt.close(figure)


def test_figure_8_is_drawn_for_each_center_that_is_evaluated(
    asked: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    for center in ("A", "C"):
        evaluate(asked, asked.cell("tumor_fine", center), rows_of([50, 60, 10, 20]))
    paths = figure8.run(asked)
    assert [path.name for path in paths] == [
        *("figure8_A.png", "figure8_A.pdf", "figure8_C.png", "figure8_C.pdf")
    ]
    for color in (TUMOR_LABEL, TUMOR_PRED):
        assert count_pixels(paths[0], color) > 200
    assert count_pixels(paths[0], PANCREAS_LABEL) == 0
    told = commands(capsys.readouterr().out)
    assert told
    assert all("--target B" in command for command in told)
    with pytest.raises(ValueError, match="--count 0: 1 or more"):
        figure8.run(asked, count=0)
