"""What the figures share: command line, results of a cell, style for print, PNG and PDF."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.case import Case, Center
from data.centers import load_centers
from data.readers import list_cases, load_case
from data.readers.masks import read_mask
from engine.case_metrics import Row, read_cases
from reproduce.analysis.pyplot import import_pyplot
from reproduce.experiments.cells import SEED, Cell, choose_targets, make_cell
from reproduce.experiments.finished import find_folders, missing_steps
from reproduce.experiments.plan import Plan
from reproduce.experiments.plan_arguments import (
    add_experiment_argument,
    add_plan_arguments,
    plan_of,
)
from utils.arguments import Seed
from utils.config import THRESHOLDS
from utils.scripts import ArgumentParser

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE_IN = 7.16  # width of the paper's two columns: pictures are drawn at their printed size
SMALL_PT = 7.0  # smallest font
ROW_LETTERS = 18  # that fit beside a panel
STYLE: Any = {
    "font.size": 7.5,
    "font.family": "sans-serif",
    "axes.titlesize": 8.0,
    "axes.labelsize": 7.5,
    "xtick.labelsize": SMALL_PT,
    "ytick.labelsize": SMALL_PT,
    "legend.fontsize": SMALL_PT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # text stays text
}


@dataclass(frozen=True)
class Request:
    """What a figure's script was asked for."""

    plan: Plan
    centers: Mapping[str, Center]
    targets: tuple[str, ...]  # centers with lesions that are shown
    out: Path
    threshold: str
    seed: int

    def cell(self, stage: str, target: str, **more: Any) -> Cell:
        """The cell of a stage on a center, of this request's threshold and seed."""
        more = {"threshold": self.threshold, "seed": self.seed, **more}
        return make_cell(self.centers, stage, target, **more)


@dataclass(frozen=True)
class CellResult:
    """The finished folders of a cell, and the rows of their cases by case id."""

    folders: tuple[Path, ...]
    rows: Mapping[str, Row]

    def mask(self, case: Case) -> np.ndarray | None:
        """The mask of a case, bool (z, y, x), canonical; None where the cell has none."""
        for folder in self.folders:
            path = folder / "predictions" / f"{case.case_id}.nii.gz"
            if case.case_id in self.rows and path.is_file():
                return read_mask(path, case.grid)
        return None


def make_parser(description: str) -> argparse.ArgumentParser:
    """The arguments of every figure: those of the tables, and what is drawn."""
    parser = ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_experiment_argument(parser)
    add_plan_arguments(parser)
    add = parser.add_argument
    add("--out", type=Path, help="folder of the pictures (default: the experiment's)")
    add("--targets", nargs="+", metavar="CENTER", help="default: every center with lesions")
    add("--threshold", choices=THRESHOLDS, default=THRESHOLDS[0], help="where the tumor's is from")
    add(
        "--seed",
        type=Seed,
        default=SEED,
        help="of the trainings, and of what is drawn at random",
    )
    return parser


def request_of(args: argparse.Namespace) -> Request:
    """The request that parsed arguments make; ValueError for an unknown center."""
    plan = plan_of(args)
    centers = load_centers(plan.centers)
    targets = choose_targets(centers, args.targets, plan.centers)
    out = args.out or args.experiment
    return Request(plan, centers, targets, out, args.threshold, args.seed)


def find_result(plan: Plan, cell: Cell) -> CellResult | None:
    """The result of a cell; None where it (or a fold of it) is missing."""
    folders = find_folders(plan, cell)
    if not folders:
        return None
    rows = {row["case_id"]: row for f in folders for row in read_cases(f / "cases.csv")}
    return CellResult(tuple(folders), rows)


def report_missing(plan: Plan, cells: Iterable[Cell], *, fatal: str | None = None) -> list[str]:
    """Print the commands that fill the cells that are missing, each behind what it needs.

    `fatal`: with this sentence they are raised as FileNotFoundError instead.
    """
    commands = [step.command for step in missing_steps(plan, cells)]
    if fatal is not None:
        raise FileNotFoundError("\n  ".join([f"{fatal}; give", *commands]))
    if commands:
        print(f"{len(commands)} steps are missing; these commands fill what the figure lacks:")
        print("\n".join(f"  {command}" for command in commands))
    return commands


def find_case(center: Center, case_id: str) -> Case:
    """Load one case of a center; ValueError where it has none of that name."""
    files = {files.case_id: files for files in list_cases(center)}
    if case_id not in files:
        shown = ", ".join([*list(files)[:5], "..."] if len(files) > 5 else files)
        raise ValueError(f"{center.name} has no case {case_id}; it has {shown}")
    return load_case(center, files[case_id])


@contextmanager
def print_style() -> Iterator[None]:
    """Fonts of 7 points and more at the printed size, thin lines, text as text in the PDF."""
    with import_pyplot().rc_context(STYLE):
        yield


def image_grid(
    rows: int, columns: int, panel_in: float, *, above_in: float, between_in: float = 0.04
) -> tuple[Figure, np.ndarray]:
    """Square panels of `panel_in` inches, with room for a row's name left and a line below.

    `above_in`: room above the first row; `between_in`: between rows. Returns figure and (rows,
    columns) axes. Placed by hand: a layout engine leaves gaps around pictures.
    """
    left, below, gap = 0.5, 0.2, 0.03
    width = left + columns * (panel_in + gap)
    height = above_in + rows * panel_in + (rows - 1) * between_in + below
    figure = import_pyplot().figure(figsize=(width, height))
    axes = np.empty((rows, columns), object)
    for row in range(rows):
        for column in range(columns):
            x = left + column * (panel_in + gap)
            y = height - above_in - (row + 1) * panel_in - row * between_in
            place = (x / width, y / height, panel_in / width, panel_in / height)
            axes[row, column] = figure.add_axes(place)
            axes[row, column].set_axis_off()
    return figure, axes


def name_row(axis: Axes, lines: Sequence[str]) -> None:
    """Write a row's name on the left of its first panel, upwards; long names lose their middle."""
    fitting = [
        line if len(line) <= ROW_LETTERS else f"{line[: ROW_LETTERS // 2]}\u2026{line[-7:]}"
        for line in lines
        if line
    ]
    axis.text(
        *(-0.03, 0.5, "\n".join(fitting)),
        transform=axis.transAxes,
        rotation=90,
        ha="right",
        va="center",
        fontsize=SMALL_PT,
    )


def write_below(figure: Figure, text: str) -> None:
    """A line at the lower edge of a figure."""
    height_in = float(figure.get_size_inches()[1])
    figure.text(0.5, 0.04 / height_in, text, ha="center", va="bottom", fontsize=SMALL_PT)


def save_figure(figure: Figure, out: Path, name: str) -> list[Path]:
    """Write `name`.png (300 dpi) and `name`.pdf into `out`, close the figure, print the paths."""
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{name}.png", out / f"{name}.pdf"]
    figure.savefig(paths[0], dpi=300)
    # Without a date the same results give the same bytes.
    figure.savefig(paths[1], metadata={"CreationDate": None})
    import_pyplot().close(figure)
    print(*paths, sep="\n")
    return paths


def write_numbers(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV of the numbers under a figure; floats with 6 digits, None and NaN left empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _shown(value) for name, value in row.items()})
    print(path)


def _shown(value: Any) -> Any:
    if isinstance(value, (float, np.floating)):
        return f"{value:.6g}" if np.isfinite(value) else ""
    return value
