"""Fig. 7: distances and medians by hand; empty results are counted beside each name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from reproduce import figure7
from reproduce.analysis.centroids import (
    Distances,
    distance_panels,
    figure_rows,
    pool,
    read_distances,
    rows_not_run,
    summarize,
)
from reproduce.analysis.figures import Request, print_style
from tests._figure_fixtures import (
    NAMES,
    commands,
    read_csv,
    rows_of,
    smallest_font,
    texts,
)
from tests._rows_fixtures import key, make_rows, write_experiment
from tests._table_fixtures import empty_row, fill, make_row

pytest_plugins = ["tests._figure_plugin"]


def test_distances_leave_empty_results_out_and_count_them() -> None:
    no_lesion = make_row("case_8", 100.0) | {"empty": "pred label"}
    rows = [*rows_of([50, 60, 70], [4, 1, 10]), empty_row("case_7"), no_lesion]
    found = read_distances(rows)
    assert (found.cases, found.empty) == (4, 1)  # the case without a lesion does not count
    assert found.values.tolist() == [4, 1, 10]
    summary = summarize("C", "BL", found)
    assert (summary.q1, summary.median, summary.q3) == (2.5, 4, 7)
    assert (summary.mean, summary.largest) == (5, 10)
    nothing = summarize("C", "BL", Distances(2, np.array([])))
    assert (nothing.cases, nothing.empty) == (2, 2)
    assert np.isnan(nothing.median)


def test_all_centers_are_pooled_only_where_none_is_missing() -> None:
    first = Distances(3, np.array([1.0, 2.0]))
    second = Distances(1, np.array([9.0]))
    pooled = pool([first, second])
    assert pooled is not None
    assert (pooled.cases, pooled.empty, pooled.values.tolist()) == (4, 1, [1, 2, 9])
    assert pool([first, None]) is None


def test_figure_7_prints_medians_and_how_many_results_are_empty(
    asked: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    for center, distances in zip(NAMES, ([1, 2, 9], [4, 5, 6], [7, 8, 30]), strict=True):
        rows = [*rows_of([50, 60, 70], distances), empty_row("case_3")]
        fill(asked.plan, asked.cell("tumor_fine", center, method="bl"), rows)
    fill(asked.plan, asked.cell("tumor_fine", "B"), rows_of([80, 90], [3, 4]))
    paths = figure7.run(asked)
    assert [path.name for path in paths] == ["figure7.png", "figure7.pdf"]
    medians = {
        (row["center"], row["row"]): (float(row["median"]), int(row["empty"]), int(row["cases"]))
        for row in read_csv(asked.out / "figure7.csv")
    }
    assert medians == {
        ("A", "BL"): (2, 1, 4),
        ("B", "BL"): (5, 1, 4),
        ("B", "Ours"): (3.5, 0, 2),
        ("C", "BL"): (8, 1, 4),
        ("all centers", "BL"): (6, 3, 12),  # of 1 2 4 5 6 7 8 9 30
    }
    out = capsys.readouterr().out
    assert "all centers, BL: median 6.0 mm, 3 of 12 empty" in out
    assert any("--method bl_idr" in command for command in commands(out))
    assert not any("--method bl " in command for command in commands(out))


def test_the_numbers_of_exported_cases_need_no_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {
        key("tumor_fine", center, method): rows_of([50, 60], mm)
        for center, mm in (("A", [1, 2]), ("B", [4, 7]))
        for method in ("bl", "snr")
    }
    folder = write_experiment(tmp_path / "mine", make_rows(found, ("A", "B")))
    figure7.main(["--results", str(folder), "--out", str(tmp_path / "out")])
    out = capsys.readouterr().out
    assert "all centers, BL: median 3.0 mm, 0 of 4 empty" in out
    assert "B, SNR: median 5.5 mm, 0 of 2 empty" in out
    assert {row["row"] for row in read_csv(tmp_path / "out" / "figure7.csv")} == {"BL", "SNR"}
    (not_run,) = (line for line in out.splitlines() if line.startswith("not run: "))
    names = not_run.removeprefix("not run: ").split(", ")
    assert {"DART", "GIN", "SAML"} <= set(names)
    assert not {"BL", "Ours", "SNR"} & set(names)
    with pytest.raises(SystemExit):
        figure7.main(["--results", str(folder), "--seed", "7", "--out", str(tmp_path / "out")])
    assert "no tumor_fine of seed 7 on A B; it has seeds 2022 and A B" in capsys.readouterr().err


def test_a_method_without_results_has_no_line_but_a_row_of_table_v_has() -> None:
    rows = make_rows({key("tumor_fine", "A", "ours"): rows_of([50], [3])}, ("A",))
    methods = {**figure_rows(rows), "SNR": "snr"}
    keys = figure7.figure_keys(methods, ["A"], "tumor_fine", 2022, "target")
    panels = distance_panels(rows, keys)
    assert list(panels) == ["A"]
    assert list(panels["A"]) == ["BL", "BL+IDR", "BL+DTL", "BL+DSL", "Ours"]
    assert panels["A"]["BL"] is None
    assert "SNR" in rows_not_run(panels, keys)
    assert "BL" not in rows_not_run(panels, keys)


def test_what_was_not_run_stands_below_the_panels() -> None:
    with print_style():
        figure = figure7.draw_figure({"A": {"BL": None}}, "tumor_fine", ["SNR", "GIN"])
    try:
        assert "not run: SNR, GIN" in " ".join(texts(figure))
    finally:
        plt.close(figure)


Panels = Mapping[str, Mapping[str, Distances | None]]


def distances_figure(panels: Panels) -> Figure:
    with print_style():
        figure = figure7.draw_figure(panels, "tumor_fine")
        figure.canvas.draw()
    return figure


def test_the_number_of_empty_results_stands_beside_each_name_and_every_case_is_drawn() -> None:
    some = Distances(4, np.array([3.0, 5.0, 40.0]))
    panels: Panels = {
        "A": {"BL": some, "Ours": None},
        "B": {"BL": Distances(2, np.array([])), "Ours": some},
    }
    figure = distances_figure(panels)
    try:
        labels = [[t.get_text() for t in axis.get_yticklabels()] for axis in figure.axes]
        assert labels == [
            ["BL: 1 of 4 empty", "Ours: not evaluated"],
            ["BL: 2 of 2 empty", "Ours: 1 of 4 empty"],
        ]
        assert smallest_font(figure) >= 7
        for axis in figure.axes:
            dots = np.concatenate([np.asarray(c.get_offsets()) for c in axis.collections])
            assert sorted(dots[:, 0].tolist()) == [3, 5, 40]
            assert axis.get_xlim()[0] == 0
            assert axis.get_xlim()[1] > 40
        height = [np.asarray(c.get_offsets())[:, 1] for c in figure.axes[1].collections]
        assert (np.abs(np.concatenate(height) - 1) < 0.5).all()  # beside "Ours", the second
    finally:
        plt.close(figure)


def test_a_figure_of_nothing_but_empty_results_can_be_drawn() -> None:
    nothing = Distances(2, np.array([]))
    plt.close(distances_figure({"A": {"BL": nothing}}))
