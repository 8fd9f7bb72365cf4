"""The four stages of Fig. 4 and a run's configuration: every number of the protocol, once.

Each field carries its explanation and its source; `utils/config.py` makes the command line of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

STAGE_NAMES = ("pancreas_coarse", "pancreas_fine", "tumor_coarse", "tumor_fine")
N_FOLDS = 4  # Table IV
FOLDS = (*(str(k) for k in range(N_FOLDS)), "all")
LOSS_TERMS = ("seg", "dis", "tran", "con", "cos")  # Eq. 11, in the paper's order
# Table V: the terms of Eq. 11 that a row keeps. Rows without the self-supervised terms see one view
# (no Eq. 1); the slice head belongs to the whole method alone, as Table VI counts the parameters.
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "BL": ("seg",),
    "BL+IDR": ("seg", "dis"),
    "BL+DTL": ("seg", "dis", "tran"),
    "BL+DSL": ("seg", "con", "cos"),
    "Ours": LOSS_TERMS,
}


def setting(default: Any, text: str, source: str, choices: tuple[str, ...] = ()) -> Any:
    """A dataclass field that knows what it means and where its value comes from."""
    metadata = {"help": text, "source": source, "choices": choices}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Stage:
    """What one stage trains on, with which parts of the method, and how it predicts."""

    name: str
    target: str  # "pancreas" (lesion included) or "tumor"
    roi: str  # what the input is cropped around: "volume", "pancreas" or "tumor"
    previous: str | None  # the stage whose result this one reads
    variant: str = setting("Ours", "row of the ablation", "Table V", tuple(VARIANTS))
    epochs: int = setting(800, "passes over the training cases", "Sec. IV-C")
    views: int = setting(2, "views of a sample per step; 1 leaves Eq. 1 out", "Eq. 1; Sec. V-B")
    weights: Mapping[str, float] = setting(
        {"seg": 1.0, "dis": 1.0, "tran": 1.0, "con": 1.0, "cos": 1.0},
        "weight of each loss term; 0 leaves the term out (the released scripts give con 0.1)",
        "Eq. 11",
    )
    slices: bool = setting(False, "slice classification head and its loss", "Eq. 3")
    consistency: str = setting(
        "squared",
        "Eq. 10, or 1 - cosine similarity of the probabilities (released pancreas-coarse script)",
        "Eq. 10",
        ("squared", "cosine"),
    )
    steepness: float = setting(
        50.0, "k of sigmoid(-k m), which stands for Eq. 6's step so that it has a gradient", "Eq. 6"
    )
    conversion: str = setting(
        "sigmoid",
        "how Eq. 6's step is made differentiable",
        "Eq. 6",
        ("sigmoid", "straight_through"),
    )
    temperature: float = setting(0.05, "temperature of InfoNCE", "Eq. 9; released scripts")
    stride: int = setting(1, "subsampling of the input in each axis", "released scripts")
    window_voxels: tuple[int, int] = setting(
        (320, 368), "central (y, x) window where the input is the whole volume", "released scripts"
    )
    max_voxels: int = setting(
        4_000_000, "larger crops are resized in training, windowed in inference", "released scripts"
    )
    jitter_z_fraction: tuple[float, float] = setting(
        (0.01, 0.10), "training margin per side in z, as a part of the slices", "released scripts"
    )
    jitter_voxels: tuple[int, int] = setting(
        (0, 30), "training margin per side in y and x, voxels", "released scripts"
    )
    mirror_axes: tuple[int, ...] = setting(
        (0, 1, 2),
        "axes (z, y, x) mirrored in training, and averaged over in inference",
        "Sec. IV-C",
    )
    rescale_probability: float = setting(0.25, "how often a crop is rescaled", "released scripts")
    rescale_range: tuple[float, float] = setting(
        (0.8, 1.2), "range of that rescaling", "released scripts"
    )
    margin_voxels: tuple[int, int, int] = setting(
        (5, 25, 25), "inference margin per side (z, y, x), before rounding up to 8", "Sec. III-D"
    )
    threshold: float = setting(
        0.5,
        "probability above which a voxel is foreground, where centers.toml gives none",
        "Sec. 4",
    )
    rounds: int = setting(1, "recurrent rounds of inference at most", "Sec. III-D, its ref. [23]")
    agreement_dice: float = setting(
        0.92, "two rounds that agree at this Dice end the recurrence", "released scripts"
    )
    min_round_voxels: int = setting(
        80, "a round with fewer voxels keeps the crop of the one before", "released scripts"
    )

    @property
    def distance(self) -> bool:
        """Whether the stage has a distance regression head."""
        return self.weights.get("dis", 0.0) > 0 or self.weights.get("tran", 0.0) > 0

    @property
    def projection(self) -> bool:
        """Whether the stage has the contrastive projection."""
        return self.weights.get("con", 0.0) > 0


_PANCREAS_WEIGHTS = {"seg": 1.0, "dis": 0.0, "tran": 0.0, "con": 1.0, "cos": 1.0}

PANCREAS_COARSE = Stage(
    "pancreas_coarse",
    target="pancreas",
    roi="volume",
    previous=None,
    epochs=150,
    weights=_PANCREAS_WEIGHTS,
    stride=2,
    max_voxels=8_000_000,
)
PANCREAS_FINE = Stage(
    "pancreas_fine",
    target="pancreas",
    roi="pancreas",
    previous="pancreas_coarse",
    epochs=150,
    views=1,
    weights={**_PANCREAS_WEIGHTS, "cos": 0.0},
    max_voxels=6_000_000,
)
TUMOR_COARSE = Stage(
    "tumor_coarse",
    target="tumor",
    roi="pancreas",
    previous="pancreas_fine",
    max_voxels=4_000_000,
)
TUMOR_FINE = Stage(
    "tumor_fine",
    target="tumor",
    roi="tumor",
    previous="tumor_coarse",
    slices=True,
    max_voxels=6_000_000,
    jitter_z_fraction=(0.01, 0.08),
    jitter_voxels=(-5, 40),
    rounds=4,
)
STAGES = {s.name: s for s in (PANCREAS_COARSE, PANCREAS_FINE, TUMOR_COARSE, TUMOR_FINE)}


def with_variant(stage: Stage, variant: str) -> Stage:
    """The stage as a row of Table V trains it: the terms that the row leaves out weigh nothing.

    Raises ValueError, with the choices, for an unknown row.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    kept = VARIANTS[variant]
    return replace(
        stage,
        variant=variant,
        weights={name: w if name in kept else 0.0 for name, w in stage.weights.items()},
        views=stage.views if "cos" in kept else 1,
        slices=stage.slices and variant == "Ours",
    )


@dataclass(frozen=True)
class Config:
    """One training run: a stage, its data and how it is computed. Written as config.json."""

    stage: Stage
    method: str = setting("ours", "which method is trained", "Table VI")
    centers: Path = setting(Path("centers.toml"), "the file that lists the centers", "docs/data.md")
    sources: tuple[str, ...] = setting(
        (), "centers to train on; none given: every leave-one-center-out fold in turn", "Sec. IV-C"
    )
    target: str | None = setting(None, "the center that no training may see", "Sec. IV-C")
    fold: str | None = setting(
        None,
        "cross-validation inside --target (none: each center): train on the other three of its "
        "four folds",
        "Table IV",
        FOLDS,
    )
    holdout: float = setting(
        0.0,
        "part of each source center's patients that is not trained on, to choose the threshold of "
        "the protocol `honest`",
        "docs/method.md",
    )
    checkpoints: Path = setting(Path("checkpoints"), "where run folders are made", "-")
    cache: Path = setting(Path("cache"), "where prepared cases are kept", "-")
    time: str | None = setting(None, "timestamp of the run; none: now, in UTC", "-")
    resume: bool = setting(True, "go on with an unfinished run of the same configuration", "-")
    spacing: tuple[float, float, float] = setting(
        (1.5, 0.8, 0.8), "voxel size of prepared cases, mm (z, y, x)", "Sec. IV-A"
    )
    width: int = setting(32, "channels of the first level, a multiple of 8", "Sec. III-D")
    upsample: str = setting(
        "trilinear", "decoder upsampling", "Sec. III-D", ("trilinear", "nearest")
    )
    lr: float = setting(1e-4, "initial learning rate of Adam", "Sec. IV-C")
    lr_power: float = setting(0.9, "lr = lr0 (1 - step / steps) ** power", "Sec. IV-C")
    weight_decay: float = setting(5e-4, "weight decay of Adam", "released scripts")
    validate_epochs: int = setting(
        0, "measure Dice on held-out source cases every so many epochs; 0: never", "-"
    )
    patience: int = setting(
        0, "end training when so many measures brought no rise; 0: train to the last epoch", "-"
    )
    accumulate: int = setting(1, "samples per step and process", "Sec. IV-C")
    seed: int = setting(2022, "seed of everything random", "released scripts")
    device: str = setting("auto", "cpu, cuda, cuda:1, or auto: a GPU if there is one", "-")
    precision: str = setting(
        "auto",
        "auto: bf16 where the device computes it fast, else fp32",
        "-",
        ("auto", "bf16", "fp16", "fp32"),
    )
    workers: int = setting(2, "processes that read and prepare cases; 0: none", "-")
    checkpoint_seconds: float = setting(60.0, "save at most this often, at epoch ends", "-")
    tensorboard: bool = setting(True, "write TensorBoard events too", "-")
    settings: Mapping[str, Any] = setting({}, "settings of the method, as KEY=VALUE", "methods/")


def setting_names(cls: type) -> tuple[str, ...]:
    """Names of the fields of `cls` that a user may set."""
    return tuple(f.name for f in fields(cls) if "help" in f.metadata)
