"""Fig. 6, t-SNE of features of lesion and normal tissue: python reproduce/figure6.py

A row per center, seen by models that never trained on it; a column for BL and one for Ours. Each
voxel is shown in two views (Eq. 1, drawn as in the training of Ours), joined by a line. Writes
figure6.png and .pdf, figure6.csv (silhouette, distance between views, mode of the views) and
figure6_points.csv (every point).
Shown is the coarse tumor stage, whose crop is the pancreas: the fine stage's crop lies around the
lesion, so that a voxel's place in it gives its class away (--stage tumor_fine).
Ours shows Eq. 8's projection, BL, which has none, stage 4's output; figure6.csv has the latter of
both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

import utils.script_start  # noqa: F401 - a signal ends it in one line
from data.prepare.prepare_centers import prepare_centers
from data.prepare.prepared_case import PrepareSettings
from data.views import ViewSettings
from engine.inference import load_predictor
from engine.run_folders import Run, find_runs
from methods import make_config, read_config
from methods.ours import OursSettings
from reproduce.analysis.embedding import (
    LAYERS,
    PERPLEXITY,
    VIEWS,
    VOXELS_PER_CASE,
    Measures,
    NothingToShowError,
    Points,
    case_points,
    embed,
    join_points,
    measure_points,
)
from reproduce.analysis.figures import (
    Request,
    make_parser,
    print_style,
    report_missing,
    request_of,
    save_figure,
    write_numbers,
)
from reproduce.analysis.pyplot import import_pyplot
from reproduce.experiments.cells import Cell
from reproduce.experiments.finished import find_folders
from utils.arguments import Count
from utils.scripts import run_script
from utils.stages import stage_named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROWS = {"bl": "BL", "ours": "Ours"}  # method -> row of Table V
# Apart in color, in gray, and by their rim.
LESION, NORMAL = "#b2182b", "#92c5de"
MARKERS = ("o", "^")  # by view


@dataclass(frozen=True)
class Panel:
    """The points of one model on one center, and where t-SNE puts those of the shown layer."""

    target: str
    row: str
    layer: str
    points: Points
    views: ViewSettings
    measures: Mapping[str, Measures]  # by layer
    places: np.ndarray  # (n, 2)
    perplexity: float


def run_of(request: Request, cell: Cell) -> Run | None:
    """The training behind an evaluated cell; None where it is missing."""
    folders = find_folders(request.plan, cell)
    if not folders:
        return None
    runs = find_runs(request.plan.checkpoints, cell.stage)
    return next(run for run in runs if run.folder == folders[0].parent)


def trained_views(stage: str, ours: Run | None) -> ViewSettings:
    """Eq. 1 as Ours has trained with it, else its default: BL, which has no views, is shown these.

    So both models of a center are asked about the same views.
    """
    if ours is None:
        config = make_config(stage_named(stage), "ours")
    else:
        config = read_config(ours.folder / "config.json")
    assert isinstance(config.settings, OursSettings)
    return config.settings.views


def make_panel(
    request: Request, cell: Cell, run: Run, views: ViewSettings, per_case: int, device: str
) -> Panel:
    """Read the features of a model on its unseen center in two `views`, and embed them."""
    model = load_predictor(run.checkpoint, device)
    settings = PrepareSettings(spacing=model.config.spacing)
    center = request.centers[cell.target]
    cases = prepare_centers([center], request.plan.cache, settings)[cell.target]
    parts = [
        case_points(model, item, index, views=views, seed=request.seed, per_case=per_case)
        for index, item in enumerate(cases)
    ]
    points = join_points([part for part in parts if part is not None])
    layer = next(name for name in LAYERS if name in points.features)
    measures = {name: measure_points(points, name) for name in points.features}
    places, perplexity = embed(points.features[layer], request.seed)
    row = ROWS[cell.method]
    if perplexity < PERPLEXITY:
        count = len(points.view)
        print(f"{cell.target}, {row}: perplexity {perplexity:.1f}, for {count} points")
    return Panel(cell.target, row, layer, points, views, measures, places, perplexity)


def draw_figure(
    targets: Sequence[str],
    panels: Mapping[tuple[str, str], Panel],
    notes: Mapping[tuple[str, str], str] = MappingProxyType({}),
) -> Figure:
    """A row per center and a column per model; `notes`: why a panel is missing."""
    from matplotlib.lines import Line2D

    figure, axes = import_pyplot().subplots(
        *(len(targets), len(ROWS)),
        figsize=(5.4, 2.5 * len(targets) + 0.3),
        squeeze=False,
        layout="constrained",
    )
    for row, target in zip(axes, targets, strict=True):
        for axis, name in zip(row, ROWS.values(), strict=True):
            panel = panels.get((target, name))
            axis.set(xticks=[], yticks=[])
            axis.set_title(f"{name}, unseen center {target}")
            axis.spines[:].set_visible(True)
            if panel is None:
                note = notes.get((target, name), "not evaluated")
                axis.text(0.5, 0.5, note, transform=axis.transAxes, ha="center", wrap=True)
            else:
                draw_panel(axis, panel)
    handles = [
        Line2D(
            [], [], linestyle="", marker=marker, **_look(is_lesion), label=f"{name}, view {view}"
        )
        for is_lesion, name in ((True, "lesion"), (False, "normal tissue"))
        for marker, view in zip(MARKERS, VIEWS, strict=True)
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=4,
        frameon=False,
        columnspacing=1.0,
        handletextpad=0.1,
    )
    return figure


def draw_panel(axis: Axes, panel: Panel) -> None:
    """The points, a line between the two views of a voxel, and the numbers below."""
    points, places = panel.points, panel.places
    order = np.lexsort((points.view, points.voxel)).reshape(-1, len(VIEWS))
    axis.plot(*places[order].transpose(2, 1, 0), color="0.75", linewidth=0.4, zorder=1)
    for is_lesion in (False, True):
        for view, marker in enumerate(MARKERS):
            of = (points.is_lesion == is_lesion) & (points.view == view)
            look = _look(is_lesion)
            axis.plot(*places[of].T, linestyle="", marker=marker, zorder=2 + is_lesion, **look)
    found = panel.measures[panel.layer]
    axis.set_xlabel(
        f"silhouette {found.silhouette:.2f}, views / classes {found.view_over_class:.2f}"
    )


def _look(is_lesion: bool) -> dict[str, Any]:
    color, rim = (LESION, "black") if is_lesion else (NORMAL, "0.4")
    return {
        "markerfacecolor": color,
        "markeredgecolor": rim,
        "markeredgewidth": 0.4,
        "markersize": 3.5,
    }


def number_rows(panels: Sequence[Panel]) -> list[dict[str, object]]:
    """The lines of figure6.csv: every layer of every model, the shown one marked."""
    return [
        {
            "center": panel.target,
            "model": panel.row,
            "layer": layer,
            "view_mode": panel.views.mode,
            "shown": "yes" if layer == panel.layer else "no",
            "cases": len(set(panel.points.case_ids)),
            **asdict(measures),
            "perplexity": panel.perplexity if layer == panel.layer else None,
        }
        for panel in panels
        for layer, measures in panel.measures.items()
    ]


def point_rows(panels: Sequence[Panel]) -> list[dict[str, object]]:
    """The lines of figure6_points.csv."""
    return [
        {
            "center": panel.target,
            "model": panel.row,
            "case_id": points.case_ids[i],
            "voxel": points.voxel[i],
            "class": "lesion" if points.is_lesion[i] else "normal",
            "view": VIEWS[points.view[i]],
            "x": panel.places[i, 0],
            "y": panel.places[i, 1],
        }
        for panel in panels
        for points in [panel.points]
        for i in range(len(points.view))
    ]


def run(
    request: Request,
    stage: str = "tumor_coarse",
    per_case: int = VOXELS_PER_CASE,
    device: str = "auto",
) -> list[Path]:
    """Draw the figure; prints the commands of what is missing.

    Raises FileNotFoundError, with the commands, where neither model is evaluated on any center,
    and NothingToShowError where no center has points enough.
    """
    if per_case < 1:
        raise ValueError(f"--per-case {per_case}: 1 or more")
    cells = [request.cell(stage, t, method=m) for t in request.targets for m in ROWS]
    runs = {cell: run_of(request, cell) for cell in cells}
    if not any(runs.values()):
        report_missing(request.plan, cells, fatal=f"no {stage} of BL or Ours is evaluated")
    ours = {cell.target: found for cell, found in runs.items() if cell.method == "ours"}
    panels, notes = {}, {}
    for cell, found in runs.items():
        if found is None:
            continue
        row = ROWS[cell.method]
        try:
            views = trained_views(stage, ours[cell.target])
            panels[cell.target, row] = make_panel(request, cell, found, views, per_case, device)
        except NothingToShowError as error:
            notes[cell.target, row] = f"not shown: {error}"
            print(f"{cell.target}, {row}: {error}")
    if not panels:
        raise NothingToShowError(f"no panel to draw: {'; '.join(sorted(set(notes.values())))}")
    targets = [t for t in request.targets if any((t, row) in panels for row in ROWS.values())]
    with print_style():
        paths = save_figure(draw_figure(targets, panels, notes), request.out, "figure6")
    write_numbers(request.out / "figure6.csv", number_rows(list(panels.values())))
    write_numbers(request.out / "figure6_points.csv", point_rows(list(panels.values())))
    report_missing(request.plan, cells)
    return paths


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(str(__doc__))
    add = parser.add_argument
    add("--stage", choices=("tumor_coarse", "tumor_fine"), default="tumor_coarse")
    add("--device", default="auto", help="cpu, cuda, cuda:1, or auto")
    add(
        "--per-case",
        type=Count,
        default=VOXELS_PER_CASE,
        help="voxels of each class in a case",
    )
    args = parser.parse_args(argv)
    run_script(run_asked, args)


def run_asked(args: argparse.Namespace) -> None:
    """What the command line asks for."""
    run(request_of(args), args.stage, args.per_case, args.device)


if __name__ == "__main__":
    main()
