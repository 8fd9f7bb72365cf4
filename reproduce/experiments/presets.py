"""How large a reproduction is: every number in which `reproduce/run.py` leaves the paper.

A preset is arguments of the train scripts, the same for every row of a table, so that rows differ
by what the paper compares and by nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data.phantom.centers import APART, LIKE_TABLE_I
from data.phantom.make_centers import make_centers
from reproduce.experiments.cells import Plan
from utils.commands import to_arguments


@dataclass(frozen=True)
class Phantoms:
    """Synthetic centers: which, cases of each, grid size, seed of the generator."""

    cases: int
    size: str  # "demo" or "full", see data/phantom/centers.py
    seed: int = 2022
    centers: tuple[str, ...] = LIKE_TABLE_I

    def draw(self, out: Path, workers: int = 0, seconds: float | None = None) -> Path:
        """Draw in `out` the cases that are not there yet; returns their centers.toml.

        Raises TimeoutError where cases are left after `seconds` (None: no limit).
        """
        return make_centers(out, self.centers, self.cases, self.size, self.seed, workers, seconds)


@dataclass(frozen=True)
class Preset:
    """Arguments of every train script, and more of one stage's; seeds; synthetic centers.

    `holdout`: part of each source center's patients that is held out, unless `--holdout` says.
    """

    text: str
    options: tuple[str, ...] = ()
    stage_options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (2022,)
    holdout: float = Plan.holdout
    phantoms: Phantoms | None = None  # None: only for centers that are there


def stage_arguments(
    epochs: tuple[int, int, int, int], **tumor_fine: object
) -> dict[str, tuple[str, ...]]:
    """Epochs of the four stages, in order; `tumor_fine`: more options of the last."""
    names = ("pancreas_coarse", "pancreas_fine", "tumor_coarse", "tumor_fine")
    stages = {n: to_arguments({"epochs": e}) for n, e in zip(names, epochs, strict=True)}
    stages["tumor_fine"] += to_arguments(tumor_fine)
    return stages


# The paper's lengths in voxels of 3.5 x 2.8 x 2.8 mm, for two CPU cores: margins of 7.5 and 20 mm,
# jitter of 0-24 mm (fine tumor stage: -4 to 32 mm), random convolutions that reach 2.8 mm (the
# paper's largest kernel, 7 voxels of 0.8 mm, reaches 2.4 mm; here it would be as wide as a lesion).
# In few steps a network does not learn eight mirrored anatomies, nor to look through 34 HU of noise
# on top of the scanner's own; the paper's learning rate is for some hundred times as many steps.
_COARSE_GRID = (
    *to_arguments({"spacing": (3.5, 2.8, 2.8), "width": 8, "lr": 3e-3, "workers": 0}),
    *to_arguments({"margin_voxels": (2, 7, 7), "jitter_voxels": (0, 9)}),
    *to_arguments({"window_voxels": (80, 112), "weights": "con=0.1"}),
    *("--set", "augment.noise_std=0.05", "views.kernel_sizes=[1,3]"),
    *("--mirror-axes", "--no-tensorboard"),
)
_FINE_JITTER = (-1, 11)

PRESETS: Mapping[str, Preset] = {
    "paper": Preset("the paper's protocol, nothing changed"),
    "full": Preset(
        "a GPU: the paper's network and voxel size, until held-out Dice stops rising",
        options=to_arguments(
            {"lr": 1e-3, "weights": "con=0.1", "validate_epochs": 5, "patience": 6}
        ),
        stage_options=stage_arguments((100, 100, 300, 300)),
        seeds=(2022, 2023, 2024),
        phantoms=Phantoms(cases=40, size="full", centers=APART),
    ),
    "small": Preset(
        "two CPU cores: width 8, voxels of 3.5 x 2.8 x 2.8 mm",
        options=_COARSE_GRID,
        stage_options=stage_arguments(
            (4, 6, 15, 20),
            jitter_voxels=_FINE_JITTER,
            slices=False,  # a slice logit covers 28 mm here, as much as a lesion: nothing to learn
        ),
        seeds=(2022, 2023, 2024),
        holdout=0.25,  # twelve cases of each seen center to measure the shift on
        phantoms=Phantoms(cases=48, size="demo", centers=APART),
    ),
    "demo": Preset(
        "two CPU cores, one target, below ten minutes",
        options=_COARSE_GRID,
        stage_options=stage_arguments((7, 12, 30, 48), jitter_voxels=_FINE_JITTER),
        holdout=0.0,
        phantoms=Phantoms(cases=24, size="demo"),
    ),
    "quick": Preset(
        "a test: does it run? One epoch of few cases, nothing is learnt",
        options=_COARSE_GRID,
        stage_options=stage_arguments((1, 1, 1, 1), jitter_voxels=_FINE_JITTER),
        seeds=(2022,),
        phantoms=Phantoms(cases=4, size="demo"),  # four folds need four
    ),
}
