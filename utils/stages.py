"""The four stages of Fig. 4: every number of the protocol, once; nothing of a method."""

from __future__ import annotations

from dataclasses import dataclass

from utils.settings import (
    AT_LEAST_1,
    NOT_NEGATIVE,
    POSITIVE,
    PROBABILITY,
    Range,
    later,
    setting,
)

STAGE_NAMES = ("pancreas_coarse", "pancreas_fine", "tumor_coarse", "tumor_fine")
N_FOLDS = 4  # Table IV
FOLDS = (*(str(k) for k in range(N_FOLDS)), "all")
MARGIN, FIXED = "margin", "fixed"  # ways to crop
LABELS, PREDICTIONS = "labels", "predictions"  # what training crops around
ANYWHERE, PANCREAS = "anywhere", "pancreas"  # where a crop's middle may lie
NONE, COARSE = "none", "coarse"  # what a second input channel shows


@dataclass(frozen=True)
class Stage:
    """What one stage trains on, and how it predicts."""

    name: str
    target: str  # "pancreas" (lesion included) or "tumor"
    roi: str  # what the input is cropped around: "volume", "pancreas" or "tumor"
    previous: str | None  # the stage whose result this one reads
    epochs: int = setting(
        800,
        "passes over the training cases",
        "Sec. IV-C",
        allowed=Range(least=1, most=1_000_000),
    )
    stride: int = setting(
        1,
        "subsampling of the input in each axis",
        "released scripts",
        allowed=Range(least=1, most=8),
    )
    window_voxels: tuple[int, int] = setting(
        (320, 368),
        "central (y, x) window where the input is the whole volume",
        "released scripts",
        allowed=Range(least=8, most=4096),
    )
    max_voxels: int = setting(
        4_000_000,
        "larger crops are resized in training",
        "released scripts",
        allowed=Range(least=8**3),  # the network's smallest input
    )
    jitter_z_fraction: tuple[float, float] = setting(
        (0.01, 0.10),
        "training margin per side in z, as a part of the slices",
        "released scripts",
        allowed=Range(least=0, most=1, rising=True),
    )
    jitter_voxels: tuple[int, int] = setting(
        (0, 30),
        "training margin per side in y and x, voxels",
        "released scripts",
        allowed=Range(least=-20, most=1000, rising=True),  # lower ones can cut the target out
    )
    mirror_axes: tuple[int, ...] = setting(
        (0, 1, 2),
        "axes (z, y, x) mirrored in training, and averaged over in inference",
        "Sec. IV-C",
        allowed=Range(least=0, most=2),
    )
    rescale_probability: float = setting(
        0.25, "how often a crop is rescaled", "released scripts", allowed=PROBABILITY
    )
    rescale_range: tuple[float, float] = setting(
        (0.8, 1.2),
        "range of the factor of its number of voxels",
        "released scripts",
        allowed=Range(above=0, rising=True),
    )
    margin_voxels: tuple[int, int, int] = setting(
        (5, 25, 25),
        "inference margin per side (z, y, x), before rounding up to 8",
        "Sec. III-D",
        allowed=NOT_NEGATIVE,
    )
    threshold: float = setting(
        0.5,
        "probability above which a voxel is foreground, where centers.toml gives none",
        "Sec. 4",
        allowed=Range(above=0, below=1),
    )
    rounds: int = setting(
        1,
        "recurrent rounds of inference at most",
        "Sec. III-D, its ref. [23]",
        allowed=AT_LEAST_1,
    )
    agreement_dice: float = setting(
        0.92,
        "two rounds that agree at this Dice end the recurrence",
        "released scripts",
        allowed=PROBABILITY,
    )
    min_round_voxels: int = setting(
        80,
        "a round with fewer voxels keeps the crop of the one before",
        "released scripts",
        allowed=NOT_NEGATIVE,
    )
    crop: str = later(
        setting(
            MARGIN,
            "what is seen around a box: it and a margin, or one size (--crop-mm) around its middle",
            "Sec. III-D",
            (MARGIN, FIXED),
        )
    )
    crop_mm: tuple[float, float, float] = later(
        setting(
            (56.0, 88.0, 88.0),
            "size of a fixed crop (z, y, x), mm, before rounding up to 8 voxels; a larger box is "
            "held whole",
            "docs/method.md",
            allowed=POSITIVE,
        )
    )
    shift_mm: tuple[float, float, float] = later(
        setting(
            (8.0, 16.0, 16.0),
            "training shifts the middle of a fixed crop by up to this (z, y, x), mm, either way",
            "docs/method.md",
            allowed=NOT_NEGATIVE,
        )
    )
    crops_from: str = later(
        setting(
            LABELS,
            "what training crops around: the labels, or what the coarse stage finds in sources "
            "that it was not trained on",
            "released scripts",
            (LABELS, PREDICTIONS),
        )
    )
    second_channel: str = later(
        setting(
            NONE,
            "a second input channel: the mask that the coarse stage found, smoothed; in training "
            "the label, spoiled at random",
            "docs/method.md",
            (NONE, COARSE),
        )
    )
    settled_slices: float = later(
        setting(
            0.0,
            "rounds end where no side of what is cropped around moves by so many slices; 0: "
            "where the crop is the same",
            "docs/method.md",
            allowed=NOT_NEGATIVE,
        )
    )
    crop_middle: str = later(
        setting(
            ANYWHERE,
            "where the middle of a crop may lie: anywhere, or in the pancreas and its margin",
            "docs/method.md",
            (ANYWHERE, PANCREAS),
        )
    )

    @property
    def repeats(self) -> bool:
        """Whether the stage before it looks for the same: then this one is the fine stage."""
        return self.previous is not None and self.name.endswith("_fine")


PANCREAS_COARSE = Stage(
    "pancreas_coarse",
    target="pancreas",
    roi="volume",
    previous=None,
    epochs=150,
    stride=2,
    max_voxels=8_000_000,
)
PANCREAS_FINE = Stage(
    "pancreas_fine",
    target="pancreas",
    roi="pancreas",
    previous="pancreas_coarse",
    epochs=150,
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
    max_voxels=6_000_000,
    jitter_z_fraction=(0.01, 0.08),
    jitter_voxels=(-5, 40),
    rounds=4,
)
STAGES = {s.name: s for s in (PANCREAS_COARSE, PANCREAS_FINE, TUMOR_COARSE, TUMOR_FINE)}


def stage_named(name: str) -> Stage:
    """The stage of that name; a ValueError names the choices."""
    if name not in STAGES:
        raise ValueError(f"unknown stage {name!r}; choose from {', '.join(STAGES)}")
    return STAGES[name]
