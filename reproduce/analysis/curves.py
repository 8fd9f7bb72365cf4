"""Dice of held-out source cases and of the unseen center's over a training: table and figure.

Whether more steps help where the network is used, and whether the sources would tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reproduce.analysis.figures import PAGE_IN
from reproduce.analysis.line_files import LineFiles
from reproduce.analysis.pyplot import import_pyplot
from reproduce.analysis.render import Group, Sheet, to_markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS: Mapping[str, str] = {"heldout": "held-out, sources", "test": "unseen center"}
LEGEND = (
    "Dice in percent, one prediction in a crop around the label, without mirroring; mean over a "
    "center's cases, then over centers, then over trainings. Best: the epoch whose held-out Dice "
    "of the sources is highest, and the unseen center's Dice there."
)


@dataclass(frozen=True)
class CurvePoint:
    """Dice (%) of one case after one epoch. `cases`: heldout or test; `weights`: a digest."""

    method: str
    row: str
    stage: str
    target: str
    seed: int
    epoch: int
    cases: str
    center: str
    case_id: str
    dsc: float
    weights: str


CURVES = LineFiles(
    "curves",
    CurvePoint,
    values=("row", "dsc", "weights"),
    script="reproduce/curves.py --experiment FOLDER --out, of trainings with --snapshot-epochs,",
)


def curve_path(folder: Path, method: str, stage: str, target: str, seed: int) -> Path:
    """The file of a training, in `results/<experiment>`."""
    return CURVES.path(folder, f"{method}_{stage}", target, seed)


def curve(points: Iterable[CurvePoint], kind: str) -> dict[int, float]:
    """Epoch -> Dice of one row's cases of a kind, in order; of epochs that all trainings have."""
    by: dict[int, dict[tuple[str, int], dict[str, list[float]]]] = {}
    for p in points:
        if p.cases == kind:
            training = by.setdefault(p.epoch, {}).setdefault((p.target, p.seed), {})
            training.setdefault(p.center, []).append(p.dsc)
    every = {training for trainings in by.values() for training in trainings}
    return {
        epoch: float(
            np.mean([np.mean([np.mean(v) for v in of.values()]) for of in trainings.values()])
        )
        for epoch, trainings in sorted(by.items())
        if set(trainings) == every
    }


def curves_by_row(points: Sequence[CurvePoint]) -> dict[str, dict[str, dict[int, float]]]:
    """Row -> kind of cases -> curve."""
    rows = dict.fromkeys(point.row for point in points)
    return {
        row: {kind: curve([p for p in points if p.row == row], kind) for kind in KINDS}
        for row in rows
    }


def curves_markdown(points: Sequence[CurvePoint], stage: str) -> str:
    """A line for each row: the last epoch, and the one that the sources would choose."""
    lines = []
    for row, kinds in curves_by_row(points).items():
        sources, target = kinds["heldout"], kinds["test"]
        both = sorted(set(sources) & set(target))
        if not both:
            lines.append((row, *["-"] * 7))
            continue
        last, best = both[-1], max(both, key=lambda epoch: (sources[epoch], -epoch))
        numbers = [f"{at[e]:.2f}" for e in (last, best) for at in (sources, target)]
        trainings = len({(p.target, p.seed) for p in points if p.row == row})
        lines.append((row, str(trainings), str(last), *numbers[:2], str(best), *numbers[2:]))
    header = (
        *("row", "trainings", "last epoch", "sources", "unseen"),
        *("best epoch", "sources there", "unseen there"),
    )
    sheet = Sheet(f"Over a training: {stage}", header, (Group("", tuple(lines)),))
    return to_markdown(sheet) + "\n" + LEGEND + "\n"


def draw_curves(points: Sequence[CurvePoint]) -> Figure:
    """Two panels, held-out sources and unseen centers; a line for each row over epochs."""
    plt = import_pyplot()
    figure, axes = plt.subplots(
        1, len(KINDS), figsize=(PAGE_IN, PAGE_IN * 0.42), sharey=True, layout="constrained"
    )
    rows = curves_by_row(points)
    for axis, (kind, title) in zip(axes, KINDS.items(), strict=True):
        for row, kinds in rows.items():
            axis.plot(list(kinds[kind]), list(kinds[kind].values()), label=row, marker=".")
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel("DSC (%)")
    axes[-1].legend(frameon=False)
    return figure
