"""Fig. 5, visual samples: python reproduce/figure5.py --centers centers.toml --cases A/case_1

A row per case: the slice, its zoom, the label, the results of the pancreas, of the coarse and the
fine tumor stage, and of the fine stage in four-fold cross-validation. Writes figure5.png and .pdf.
Without --cases, of each center: the case of median Dice, and the one whose coarse Dice is lowest.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from data.case import Case
from reproduce.analysis.figures import (
    CellResult,
    Request,
    find_case,
    find_result,
    image_grid,
    make_parser,
    name_row,
    print_style,
    report_missing,
    request_of,
    save_figure,
    write_below,
)
from reproduce.analysis.overlays import (
    COLORS_SAID,
    Cut,
    absence_note,
    choose_cut,
    draw_panel,
    focus_mask,
    label_outlines,
    result_outline,
    write_in_panel,
)
from reproduce.analysis.rows import is_measured
from reproduce.experiments.cells import Cell
from utils.scripts import run_script

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

INPUTS = ("Input", "Zoom", "Label")
RESULTS = {  # column -> stage, four-fold cross-validation
    "Pancreas": ("pancreas_fine", False),
    "Tumor Coarse": ("tumor_coarse", False),
    "Tumor Fine": ("tumor_fine", False),
    "Tumor in 4CV": ("tumor_fine", True),
}
PANEL_IN = 0.92  # seven fill the paper's two columns
CenterResults = Mapping[str, CellResult | None]  # by column


@dataclass(frozen=True)
class Sample:
    """One row of the figure."""

    center: str
    case_id: str
    why: str = ""


def cells_of(request: Request, center: str) -> dict[str, Cell]:
    """The cells behind the columns of a center's rows."""
    return {
        column: request.cell(stage, center, folds=folds)
        for column, (stage, folds) in RESULTS.items()
    }


def choose_samples(center: str, results: CenterResults) -> list[Sample]:
    """Two cases of a center that nobody picked by hand; none where no tumor stage is evaluated.

    The median of the fine stage's Dice (of the coarse stage's where it is missing; the lower of
    two in the middle), and the case of the coarse stage's lowest Dice (or the fine stage's).
    """
    columns = [c for c in ("Tumor Fine", "Tumor Coarse") if results[c] is not None]
    ranked = {}
    for column in columns:
        rows = [row for row in results[column].rows.values() if is_measured(row)]  # type: ignore[union-attr]
        ranked[column] = [
            r["case_id"] for r in sorted(rows, key=lambda r: (r["dsc"], r["case_id"]))
        ]
    if not columns or not ranked[columns[0]]:
        return []
    middle = ranked[columns[0]][(len(ranked[columns[0]]) - 1) // 2]
    stage = columns[-1].split()[1].lower()
    lowest = next((name for name in ranked[columns[-1]] if name != middle), None)
    samples = [Sample(center, middle, "median")]
    return samples if lowest is None else [*samples, Sample(center, lowest, f"lowest {stage}")]


def draw_figure(
    request: Request, samples: Sequence[Sample], results: Mapping[str, CenterResults]
) -> Figure:
    """The figure: a row per sample, a column per stage."""
    columns = [*INPUTS, *RESULTS]
    figure, axes = image_grid(len(samples), len(columns), PANEL_IN, above_in=0.2)
    for row, sample in zip(axes, samples, strict=True):
        case = find_case(request.centers[sample.center], sample.case_id)
        draw_row(dict(zip(columns, row, strict=True)), case, results[sample.center])
        name_row(row[0], [sample.center, sample.case_id, sample.why])
    for axis, column in zip(axes[0], columns, strict=True):
        axis.set_title(column, pad=3)
    write_below(figure, COLORS_SAID)
    return figure


def draw_row(axes: Mapping[str, Axes], case: Case, results: CenterResults) -> None:
    """The panels of one case, by column."""
    preds = {column: r.mask(case) for column, r in results.items() if r is not None}
    focus = focus_mask(case, [pred for pred in preds.values() if pred is not None])
    whole = choose_cut(case, focus, "axial", zoom=False)
    cut = choose_cut(case, focus, "axial", square=True)
    draw_panel(axes["Input"], case, whole, [], square=True)
    axes["Input"].add_patch(zoom_frame(whole, cut))
    draw_panel(axes["Zoom"], case, cut, [], square=True)
    draw_panel(axes["Label"], case, cut, label_outlines(case), square=True)
    for column, (stage, _) in RESULTS.items():
        pred = preds.get(column)
        outlines = label_outlines(case, [stage.partition("_")[0]])
        if pred is not None:
            outlines.append(result_outline(stage, pred))
        draw_panel(axes[column], case, cut, outlines, square=True)
        note, result = absence_note(pred, cut), results[column]
        row = {} if pred is None or result is None else result.rows[case.case_id]
        dsc = f"DSC {row['dsc']:.1f}" if "dsc" in row else ""
        write_in_panel(axes[column], "\n".join(filter(None, (dsc, note))))


def zoom_frame(whole: Cut, cut: Cut) -> Rectangle:
    """Where the zoom lies in the whole slice."""
    from matplotlib.patches import Rectangle

    width, height = whole.size
    rows, columns = (part.stop for part in whole.window)
    y, x = (part.start for part in cut.window)
    sides = [part.stop - part.start for part in cut.window]
    return Rectangle(
        (x * width / columns - 0.5, y * height / rows - 0.5),
        sides[1] * width / columns,
        sides[0] * height / rows,
        fill=False,
        edgecolor="white",
        linewidth=0.8,
        linestyle=(0, (2, 1)),
    )


def run(request: Request, named: Sequence[str] = ()) -> list[Path]:
    """Draw the figure; `named`: cases as CENTER/CASE. Prints the commands of what is missing.

    Raises FileNotFoundError, with the commands, where no case is named and nothing is evaluated.
    """
    samples = [parse_sample(request, name) for name in named]
    shown = list(dict.fromkeys(s.center for s in samples)) or list(request.targets)
    cells = {center: cells_of(request, center) for center in shown}
    results = {
        center: {column: find_result(request.plan, cell) for column, cell in columns.items()}
        for center, columns in cells.items()
    }
    if not samples:
        samples = [s for center in shown for s in choose_samples(center, results[center])]
    needed = [cell for columns in cells.values() for cell in columns.values()]
    if not samples:
        report_missing(request.plan, needed, fatal="no tumor stage is evaluated")
    with print_style():
        paths = save_figure(draw_figure(request, samples, results), request.out, "figure5")
    report_missing(request.plan, needed)
    return paths


def parse_sample(request: Request, name: str) -> Sample:
    """CENTER/CASE as the command line gives it."""
    center, slash, case_id = name.partition("/")
    if not slash or center not in request.targets:
        choices = ", ".join(request.targets)
        raise ValueError(f"--cases {name}: expected CENTER/CASE, with a center of {choices}")
    return Sample(center, case_id)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(str(__doc__))
    parser.add_argument("--cases", nargs="+", default=[], metavar="CENTER/CASE")
    args = parser.parse_args(argv)
    run_script(lambda given: run(request_of(given), given.cases), args)


if __name__ == "__main__":
    main()
