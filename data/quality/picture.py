"""The picture of the check: what the centers' scans and lesions look like next to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.quality.survey import TINY_LESION_MM3, CaseFacts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = "osD^vP*X"


def draw_check(facts: Mapping[str, Sequence[CaseFacts]], path: Path) -> None:
    """Four panels: spacing and thickness, slices, lesion volumes, lesion places; PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8.5), layout="constrained")
    axes = figure.subplots(2, 2)
    styles = {
        name: (f"C{number % 10}", MARKERS[number % len(MARKERS)])
        for number, name in enumerate(facts)
    }
    for name, cases in facts.items():
        color, marker = styles[name]
        style = {"color": color, "marker": marker, "alpha": 0.6, "linewidths": 0, "s": 28}
        axes[0, 0].scatter(
            [case.spacing[2] for case in cases],
            [case.spacing[0] for case in cases],
            label=f"{name} ({len(cases)})",
            **style,
        )
        lesions = [lesion for case in cases for lesion in case.lesions]
        axes[1, 1].scatter(
            [lesion.place[2] for lesion in lesions],
            [lesion.place[0] for lesion in lesions],
            **style,
        )
    axes[0, 0].set(
        xlabel="spacing in plane (mm)", ylabel="thickness (mm)", title="Voxels of each case"
    )
    figure.legend(loc="outside upper center", ncols=6, frameon=False)
    _draw_strips(axes[0, 1], {n: [c.shape[0] for c in cases] for n, cases in facts.items()}, styles)
    axes[0, 1].set(ylabel="slices", title="Slices of each case")
    volumes = {
        name: [lesion.volume_mm3 for case in cases for lesion in case.lesions]
        for name, cases in facts.items()
    }
    _draw_strips(axes[1, 0], volumes, styles)
    axes[1, 0].set(
        ylabel="volume (mm$^3$)",
        title=f"Lesions (bar: median; dotted: {TINY_LESION_MM3:.0f} mm$^3$)",
    )
    if any(volumes.values()):
        axes[1, 0].set_yscale("log")
    axes[1, 0].axhline(TINY_LESION_MM3, color="0.5", linestyle=":", linewidth=1)
    axes[1, 1].set(
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel="right (pancreatic head)  -  left (tail)",
        ylabel="caudal  -  cranial",
        title="Lesions in the pancreas's bounding box",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _draw_strips(
    axis: Axes,
    values: Mapping[str, Sequence[float]],
    styles: Mapping[str, tuple[str, str]],
) -> None:
    """One strip of points per center, spread sideways, with a bar at the median."""
    rng = np.random.default_rng(0)
    for place, (name, numbers) in enumerate(values.items()):
        color, marker = styles[name]
        spread = place + rng.uniform(-0.25, 0.25, len(numbers))
        axis.scatter(spread, numbers, color=color, marker=marker, alpha=0.6, linewidths=0, s=22)
        if numbers:
            axis.hlines(
                float(np.median(numbers)), place - 0.3, place + 0.3, color="k", linewidth=1.5
            )
    axis.set_xticks(range(len(values)), list(values))
    axis.set_xlim(-0.6, len(values) - 0.4)
