"""How large a reproduction is: every number in which `reproduce/run.py` leaves the paper.

A preset is the same for every row of a table, so that rows differ by what the paper compares and by
nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.phantom.centers import APART, LIKE_TABLE_I
from data.phantom.make_centers import VERSION, Job, make_centers
from methods import method_class
from utils.config import Config
from utils.files import read_json
from utils.settings import flatten, override
from utils.stages import STAGE_NAMES


@dataclass(frozen=True)
class Phantoms:
    """Synthetic centers: which, cases of each, grid size, seed of the generator.

    `lesion_free`: share of the cases of centers with lesions that have none.
    """

    cases: int
    size: str  # "demo" or "full", see data/phantom/centers.py
    seed: int = 2022
    centers: tuple[str, ...] = LIKE_TABLE_I
    lesion_free: float = field(default=0.0, repr=False)

    def __str__(self) -> str:
        """As experiment.json of exported results has it; the share where it is not 0."""
        text = repr(self)
        return f"{text[:-1]}, lesion_free={self.lesion_free:g})" if self.lesion_free else text

    def draw(self, out: Path, workers: int = 0) -> Path:
        """Draw in `out` the cases that are not there yet; returns their centers.toml.

        Raises ValueError where `out` holds others.
        """
        return make_centers(
            out, self.centers, self.cases, self.size, self.seed, workers, self.lesion_free
        )

    def drawn(self, out: Path) -> bool:
        """Whether `out` holds all of these cases, and its centers.toml."""
        if not (out / "centers.toml").is_file():
            return False
        cure = f"remove {out}, or give another --out"
        settings = read_json(out / "phantom.json", cure, ("settings",))["settings"]
        jobs = [
            Job(out, name, number, self.size, self.seed)
            for name in self.centers
            for number in range(self.cases)
        ]
        same = (settings["size"], settings["seed"]) == (self.size, self.seed)
        same = same and settings.get("lesion_free", 0.0) == self.lesion_free
        return same and settings["version"] == VERSION and all(job.done for job in jobs)


@dataclass(frozen=True)
class Preset:
    """Settings of every training, and more of one stage's; seeds; synthetic centers.

    Keys are fields of `Config` or `Stage`, or settings of the method: of that, what it has.
    `holdout`: part of each source center's patients that is held out, unless `--holdout` says.
    """

    text: str
    values: Mapping[str, Any] = field(default_factory=dict)
    stage_values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    method_values: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (2022,)
    holdout: float = 0.1
    phantoms: Phantoms | None = None  # None: only for centers that are there

    def apply(self, config: Config) -> Config:
        """The configuration with the preset's values. Raises ValueError for an unknown name."""
        values = {**self.values, **self.stage_values.get(config.stage.name, {})}
        own = {name: values.pop(name) for name in (*values,) if hasattr(config, name)}
        return replace(
            override(config, own),
            stage=override(config.stage, values),
            settings=override(config.settings, self.values_of(config)),
        )

    def values_of(self, config: Config) -> dict[str, Any]:
        """Those of `method_values` that are settings, or weights of terms, of its method."""
        known = {name for name, _, _ in flatten(config.settings)}
        values = {name: value for name, value in self.method_values.items() if name in known}
        if "weights" in values:
            terms = method_class(config.method).terms
            values["weights"] = {k: v for k, v in values["weights"].items() if k in terms}
        return values


def epochs(*counts: int) -> dict[str, dict[str, Any]]:
    """Epochs of the four stages, in order."""
    return {name: {"epochs": count} for name, count in zip(STAGE_NAMES, counts, strict=True)}


# The paper's lengths in voxels of 3.5 x 2.8 x 2.8 mm, for two CPU cores: margins of 7.5 and 20 mm,
# jitter of 0-24 mm (fine tumor stage: -4 to 32 mm), random convolutions that reach 2.8 mm (the
# paper's largest kernel, 7 voxels of 0.8 mm, reaches 2.4 mm; here it would be as wide as a lesion).
# The same rule holds for every row's kernels: the reach of each in mm, rounded to voxels. It leaves
# GIN the single voxel; its four layers of 3 voxels reach 3.2 mm there and would reach 11 mm here.
# In few steps a network does not learn eight mirrored anatomies, nor to look through 34 HU of noise
# on top of the scanner's own (BL's is halved, and so is BigAug's); the paper's learning rate is for
# some hundred times as many steps.
_COARSE_GRID: Mapping[str, Any] = {
    "spacing": (3.5, 2.8, 2.8),
    "width": 8,
    "lr": 3e-3,
    "workers": 0,
    "margin_voxels": (2, 7, 7),
    "jitter_voxels": (0, 9),
    "window_voxels": (80, 112),
    "mirror_axes": (),
    "tensorboard": False,
}
_FINE_JITTER = {"jitter_voxels": (-1, 11)}
_WEIGHTS = {"con": 0.1}
# nnU-Net's own budget is weeks of a CPU: there its rows show that it runs, and say so. With this
# memory its planner finds the images of any two of these centers large enough for 3d_lowres; with
# 0.3 it does not for SYN-D and SYN-F.
_EXTERNAL_SMOKE: Mapping[str, Any] = {
    "gpu_memory_gb": 0.25,
    "num_epochs": 1,
    "iterations": 2,
    "validation_iterations": 1,
    "folds": 2,
    "mirroring": False,
    "tile_step": 1.0,
}
_COARSE_METHOD: Mapping[str, Any] = {
    "weights": _WEIGHTS,
    "augment.noise_std": 0.05,
    "views.kernel_sizes": (1, 3),
    "network.kernel_sizes": (1,),
    "stack.noise_std": (0.05, 0.5),
    **_EXTERNAL_SMOKE,
}


def on_coarse_grid(*counts: int) -> dict[str, Mapping[str, Any]]:
    """What the stages have of their own on that grid: their epochs, the fine one its jitter."""
    own = epochs(*counts)
    return {**own, "tumor_fine": {**own["tumor_fine"], **_FINE_JITTER}}


# The same lengths in voxels of 2.5 x 1.6 x 1.6 mm: margins of 7.5 and 19 mm, jitter of 0-24 mm
# (fine tumor stage: -3 to 32 mm), random convolutions that reach 3.2 mm; GIN's again the voxel.
_MEDIUM_GRID: Mapping[str, Any] = {
    **_COARSE_GRID,
    "spacing": (2.5, 1.6, 1.6),
    "margin_voxels": (3, 12, 12),
    "jitter_voxels": (0, 15),
    "window_voxels": (144, 200),
}


PRESETS: Mapping[str, Preset] = {
    "paper": Preset("the paper's protocol, nothing changed"),
    "full": Preset(
        "a GPU: the paper's network and voxel size, until held-out Dice stops rising",
        values={"lr": 1e-3, "validate_epochs": 5, "patience": 6},
        stage_values=epochs(100, 100, 300, 300),
        method_values={"weights": _WEIGHTS},
        seeds=(2022, 2023, 2024),
        phantoms=Phantoms(cases=40, size="full", centers=APART),
    ),
    "small": Preset(
        "two CPU cores: width 8, voxels of 3.5 x 2.8 x 2.8 mm",
        values=_COARSE_GRID,
        stage_values=on_coarse_grid(4, 6, 15, 20),
        # a slice logit covers 28 mm here, as much as a lesion: nothing to learn
        method_values={**_COARSE_METHOD, "slices": False},
        seeds=(2022, 2023, 2024),
        holdout=0.25,  # twelve cases of each seen center to measure the shift on
        phantoms=Phantoms(cases=48, size="demo", centers=APART),
    ),
    "medium": Preset(
        "two CPU cores, hours: width 8, voxels of 2.5 x 1.6 x 1.6 mm, full-size phantoms",
        values=_MEDIUM_GRID,
        stage_values={
            **epochs(6, 9, 20, 30),
            "tumor_fine": {"epochs": 30, "jitter_voxels": (-2, 20)},
        },
        method_values={**_COARSE_METHOD, "views.kernel_sizes": (1, 3, 5)},
        holdout=0.25,
        phantoms=Phantoms(cases=24, size="full", centers=APART),
    ),
    "demo": Preset(
        "two CPU cores, one target, below ten minutes",
        values=_COARSE_GRID,
        stage_values=on_coarse_grid(7, 12, 30, 48),
        method_values=_COARSE_METHOD,
        holdout=0.0,
        phantoms=Phantoms(cases=24, size="demo"),
    ),
    "quick": Preset(
        "a test: does it run? One epoch of few cases, nothing is learnt",
        values=_COARSE_GRID,
        stage_values=on_coarse_grid(1, 1, 1, 1),
        method_values=_COARSE_METHOD,
        phantoms=Phantoms(cases=4, size="demo"),  # four folds need four
    ),
}
