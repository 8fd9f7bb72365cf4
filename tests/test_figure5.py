"""Fig. 5: which cases, a panel per stage, contours in their colors, what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from matplotlib import image as mpl_image
from matplotlib import pyplot as plt

from data.readers.masks import write_mask
from reproduce import figure5
from reproduce.analysis.figures import (
    PAGE_IN,
    CellResult,
    Request,
    find_case,
    find_result,
    print_style,
)
from reproduce.analysis.overlays import PANCREAS_LABEL, PANCREAS_PRED, TUMOR_LABEL, TUMOR_PRED
from tests._figure_fixtures import (
    commands,
    count_pixels,
    digest,
    evaluate,
    rows_of,
    smallest_font,
    texts,
)
from tests._table_fixtures import empty_row

pytest_plugins = ["tests._figure_plugin"]


def evaluate_all(request: Request, center: str) -> None:
    """Every column of Fig. 5."""
    for cell in figure5.cells_of(request, center).values():
        evaluate(request, cell, rows_of([50, 60, 70, 80]))


def samples(request: Request, **dscs: Sequence[float]) -> list[tuple[str, str]]:
    """What is chosen where the stages coarse and fine have these DSC."""
    results: dict[str, CellResult | None] = dict.fromkeys(figure5.RESULTS)
    for stage, values in dscs.items():
        rows = {row["case_id"]: row for row in rows_of(values)}
        results[f"Tumor {stage.title()}"] = CellResult((), rows)
    return [(s.case_id, s.why) for s in figure5.choose_samples("C", results)]


def test_a_center_is_shown_by_its_median_case_and_the_one_that_coarse_finds_worst(
    asked: Request,
) -> None:
    fine, coarse = [90, 20, 50, 70], [30, 40, 10, 20]
    # The lower of the two in the middle of the fine stage is case_2, also coarse's lowest.
    assert samples(asked, fine=fine, coarse=coarse) == [
        ("case_2", "median"),
        ("case_3", "lowest coarse"),
    ]
    assert samples(asked, fine=fine) == [("case_2", "median"), ("case_1", "lowest fine")]
    assert samples(asked, coarse=coarse[:1]) == [("case_0", "median")]
    assert samples(asked) == []


def test_figure_5_has_seven_panels_a_case_with_all_four_colors(asked: Request) -> None:
    for center in ("A", "C"):
        evaluate_all(asked, center)
    before = digest(asked.plan.checkpoints)
    png, pdf = figure5.run(replace(asked, targets=("A", "C")))
    assert (png.name, pdf.name) == ("figure5.png", "figure5.pdf")
    for color in (PANCREAS_LABEL, PANCREAS_PRED, TUMOR_LABEL, TUMOR_PRED):
        assert count_pixels(png, color) > 300
    assert mpl_image.imread(png).shape[1] <= PAGE_IN * 300
    assert digest(asked.plan.checkpoints) == before


def test_every_panel_shows_its_own_stage_and_a_missing_one_says_so(asked: Request) -> None:
    cells = figure5.cells_of(asked, "C")
    evaluate(asked, cells["Tumor Fine"], [*rows_of([40, 50, 60]), empty_row("case_3")])
    results = {name: find_result(asked.plan, cell) for name, cell in cells.items()}
    chosen = [figure5.Sample("C", "case_0", "median"), figure5.Sample("C", "case_3")]
    with print_style():
        figure = figure5.draw_figure(asked, chosen, {"C": results})
    try:
        assert len(figure.axes) == 2 * 7
        found = texts(figure)
        assert found.count("not evaluated") == 2 * 3  # pancreas, coarse, four-fold
        assert "DSC 40.0" in found
        assert "DSC 0.0\nfound nothing" in found
        assert "C\ncase_0\nmedian" in found
        assert [axis.get_title() for axis in figure.axes[:7]] == [*figure5.INPUTS, *figure5.RESULTS]
        assert smallest_font(figure) >= 7
        lines = [len(axis.lines) for axis in figure.axes[:7]]
        # Nothing; nothing; both labels; pancreas; tumor; tumor and result; tumor.
        assert lines == [0, 0, 2, 1, 1, 2, 1]
        assert len(figure.axes[0].patches) == 1  # the zoom's frame
    finally:
        plt.close(figure)


def test_named_cases_are_drawn_even_where_nothing_is_evaluated(
    asked: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    (png, _) = figure5.run(asked, ["B/case_1"])
    assert count_pixels(png, TUMOR_LABEL) > 100
    assert count_pixels(png, TUMOR_PRED) == 0
    told = commands(capsys.readouterr().out)
    assert len(told) == 8 + 4 * 8  # the round robin's stages, and those of four folds
    assert all("--target B" in command for command in told)
    with pytest.raises(ValueError, match="--cases case_1: expected CENTER/CASE"):
        figure5.run(asked, ["case_1"])
    with pytest.raises(ValueError, match="B has no case case_7"):
        figure5.run(asked, ["B/case_7"])


def test_a_result_elsewhere_is_said_to_be_elsewhere(asked: Request) -> None:
    cell = figure5.cells_of(asked, "C")["Tumor Fine"]
    (folder,) = evaluate(asked, cell, rows_of([0]))
    case = find_case(asked.centers["C"], "case_0")
    corner = np.zeros(case.image_hu.shape, bool)
    corner[0, :2, :2] = True
    write_mask(folder / "predictions" / "case_0.nii.gz", corner, case.grid)
    result = find_result(asked.plan, cell)
    figure = figure5.draw_figure(
        asked,
        [figure5.Sample("C", "case_0")],
        {"C": {name: result if name == "Tumor Fine" else None for name in figure5.RESULTS}},
    )
    assert "DSC 0.0\nnot in this view" in texts(figure)
    plt.close(figure)
