"""Fig. 8, best and worst cases of a center: python reproduce/figure8.py --targets MSD

Upper row: the cases of highest Dice, lower row: those of lowest, with the kind of lesion where a
table tells it: --lesions FILE.csv (columns center, case_id, lesion), or the cases.csv that the
synthetic centers have beside their centers.toml. Writes figure8_<center>.png and .pdf.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from data.case import Case
from engine.case_metrics import Row
from reproduce.analysis.figures import (
    PAGE_IN,
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
    absence_note,
    choose_cut,
    draw_panel,
    focus_mask,
    label_outlines,
    result_outline,
    write_in_panel,
)
from reproduce.analysis.rows import is_measured
from utils.arguments import Count
from utils.files import read_csv
from utils.scripts import run_script

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LARGEST_PANEL_IN = 2.2
Lesions = Mapping[tuple[str, str], str]  # (center, case_id) -> kind of lesion


def read_lesions(path: Path | None, centers: Path) -> Lesions:
    """Kinds of lesions, from `path` or from cases.csv beside centers.toml; {} without either.

    A column `stent` that is true is told too. Raises FileNotFoundError where `path` is missing,
    ValueError where it lacks a column.
    """
    if path is None:
        path = centers.parent / "cases.csv"
        if not path.is_file():
            return {}
    if not path.is_file():
        raise FileNotFoundError(f"--lesions {path}: no such file")
    rows = read_csv(path, "correct the table", ("center", "case_id", "lesion"))
    return {
        (row["center"], row["case_id"]): row["lesion"]
        + (", stent" if str(row.get("stent", "")).lower() == "true" else "")
        for row in rows
    }


def choose_cases(rows: Sequence[Row], count: int) -> tuple[list[Row], list[Row]]:
    """The best and the worst `count` cases by Dice, the most extreme first; none is in both.

    Of equal ones the farther centroid (none at all is farthest) is worse, then the case id.
    """

    def goodness(row: Row) -> tuple[float, float, str]:
        return row["dsc"], -row.get("centroid_mm", float("inf")), row["case_id"]

    ranked = sorted((row for row in rows if is_measured(row)), key=goodness)
    count = min(count, (len(ranked) + 1) // 2)
    return ranked[::-1][:count], ranked[: min(count, len(ranked) - count)]


def draw_figure(
    request: Request, center: str, result: CellResult, count: int, lesions: Lesions
) -> Figure:
    """Two rows: best, worst."""
    chosen = choose_cases(list(result.rows.values()), count)
    columns = len(chosen[0])
    panel_in = min((PAGE_IN - 0.6) / columns, LARGEST_PANEL_IN)
    figure, axes = image_grid(2, columns, panel_in, above_in=0.36, between_in=0.36)
    for axes_of_row, name, rows in zip(axes, ("best", "worst"), chosen, strict=True):
        for axis, row in zip(axes_of_row, rows, strict=False):
            draw_case(axis, find_case(request.centers[center], row["case_id"]), result, row)
            lesion = lesions.get((center, row["case_id"]), "")
            kind = f"{lesion}, " if lesion else ""
            axis.set_title(f"{row['case_id']}\n{kind}DSC {row['dsc']:.1f}", pad=3)
        name_row(axes_of_row[0], [name])
    write_below(figure, f"{center}: label red, result blue (dashed)")
    return figure


def draw_case(axis: Axes, case: Case, result: CellResult, row: Row) -> None:
    """The slice of the largest lesion; where the result is elsewhere, how far."""
    pred = result.mask(case)
    cut = choose_cut(case, focus_mask(case, []), "axial", square=True)
    outlines = label_outlines(case, ["tumor"])
    if pred is not None:
        outlines.append(result_outline("tumor", pred))
    draw_panel(axis, case, cut, outlines, square=True)
    note = absence_note(pred, cut)
    if note.startswith("not in") and "centroid_mm" in row:
        note = f"result is {row['centroid_mm']:.0f} mm away"
    write_in_panel(axis, note)


def run(
    request: Request, stage: str = "tumor_fine", count: int = 3, lesions: Path | None = None
) -> list[Path]:
    """Draw a figure for each target that is evaluated; prints the commands of what is missing.

    Raises FileNotFoundError, with the commands, where none is.
    """
    if count < 1:
        raise ValueError(f"--count {count}: 1 or more")
    kinds = read_lesions(lesions, request.plan.centers)
    cells = {target: request.cell(stage, target) for target in request.targets}
    results = {target: find_result(request.plan, cell) for target, cell in cells.items()}
    if not any(results.values()):
        report_missing(request.plan, cells.values(), fatal=f"no {stage} is evaluated")
    paths = []
    with print_style():
        for center, result in results.items():
            if result is None or not any(is_measured(row) for row in result.rows.values()):
                continue
            figure = draw_figure(request, center, result, count, kinds)
            paths += save_figure(figure, request.out, f"figure8_{center}")
    report_missing(request.plan, cells.values())
    return paths


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(str(__doc__))
    add = parser.add_argument
    add("--stage", choices=("tumor_coarse", "tumor_fine"), default="tumor_fine")
    add("--count", type=Count, default=3, help="cases in each row")
    add("--lesions", type=Path, help="table of the kinds of lesions")
    args = parser.parse_args(argv)
    run_script(lambda given: run(request_of(given), given.stage, given.count, given.lesions), args)


if __name__ == "__main__":
    main()
