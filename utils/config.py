"""What a run is asked to do: `Config` for a training, `Evaluation` for an evaluation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.commands import default_path
from utils.settings import (
    AT_LEAST_1,
    NOT_NEGATIVE,
    SEEDS,
    Range,
    check_settings,
    later,
    separate,
    setting,
)
from utils.stages import ANYWHERE, FOLDS, LABELS, MARGIN, NONE, Stage

ROI_SOURCES = ("seg", "mask")
THRESHOLDS = ("target", "source-val")
CASES = ("test", "heldout")
MAX_WORKERS = 512
TIME_RULE = "letters, digits, _, . and -, 64 at most, a . not first; it names a folder"
SMALLEST_INPUT = 8**3  # voxels: the network halves each side three times
PRECISIONS = ("auto", "bf16", "fp16", "fp32")
CHECKPOINTING = ("auto", "on", "off")
DEFAULT_METHOD = "ours"


class StoppedError(RuntimeError):
    """Work that cannot continue though no setting is wrong; the message says why and what to do."""


@dataclass(frozen=True)
class Config:
    """One training run: a stage, a method, its data and how it is computed; config.json.

    `settings`: an instance of the method's own `Settings` (see `methods.make_config`).
    `target`, `sources`, `fold` and `holdout` choose the cases; a run's split holds the outcome.
    """

    stage: Stage = separate()
    settings: Any = separate()
    method: str = setting(DEFAULT_METHOD, "which method is trained", "Tables V and VI")
    centers: Path = setting(
        default_path("centers.toml"),
        "the file that lists the centers",
        "docs/data.md",
        affects_weights=False,
    )
    sources: tuple[str, ...] = setting(
        (),
        "centers to train on; none given: every leave-one-center-out fold in turn",
        "Sec. IV-C",
        affects_weights=False,
    )
    target: str | None = setting(
        None, "the center that no training may see", "Sec. IV-C", affects_weights=False
    )
    fold: str | None = setting(
        None,
        "cross-validation inside --target (none: each center): train on the other three of its "
        "four folds",
        "Table IV",
        FOLDS,
        affects_weights=False,
    )
    holdout: float = setting(
        0.0,
        "part of each source center's patients that is not trained on, to choose the threshold "
        "`source-val` on",
        "docs/method.md",
        allowed=Range(least=0, below=1),
        affects_weights=False,
    )
    checkpoints: Path = setting(
        default_path("checkpoints"), "where run folders are made", "-", affects_weights=False
    )
    cache: Path = setting(
        default_path("cache"), "where prepared cases are kept", "-", affects_weights=False
    )
    time: str | None = setting(
        None, "timestamp of the run; none: now, in UTC", "-", affects_weights=False
    )
    resume: bool = setting(
        True, "resume an unfinished run of the same configuration", "-", affects_weights=False
    )
    spacing: tuple[float, float, float] = setting(
        (1.5, 0.8, 0.8),
        "voxel size of prepared cases, mm (z, y, x)",
        "Sec. IV-A",
        allowed=Range(least=0.1, most=20),  # as `data.readers.geometry` takes of a CT
    )
    width: int = setting(
        32,
        "channels of the first level, a multiple of 8",
        "Sec. III-D",
        allowed=Range(least=1, most=1024),
    )
    upsample: str = setting(
        "trilinear", "decoder upsampling", "Sec. III-D", ("trilinear", "nearest")
    )
    lr: float = setting(
        1e-4,
        "initial learning rate of Adam",
        "Sec. IV-C",
        allowed=Range(above=0, most=1e20),  # a test needs one that diverges
    )
    lr_power: float = setting(
        0.9, "lr = lr0 (1 - step / steps) ** power", "Sec. IV-C", allowed=NOT_NEGATIVE
    )
    weight_decay: float = setting(
        5e-4, "weight decay of Adam", "released scripts", allowed=NOT_NEGATIVE
    )
    validate_epochs: int = setting(
        0,
        "measure Dice on held-out source cases every so many epochs; 0: never",
        "-",
        allowed=NOT_NEGATIVE,
    )
    patience: int = setting(
        0,
        "end training when so many measures brought no rise; 0: train to the last epoch",
        "-",
        allowed=NOT_NEGATIVE,
    )
    average_epochs: float = later(
        setting(
            0.0,
            "average the weights that predict over the steps: e times less for each so many epochs "
            "that a step is older; 0: the last weights predict",
            "-",
            allowed=NOT_NEGATIVE,
        )
    )
    snapshot_epochs: int = setting(
        0,
        "keep what predicts after every so many epochs, for reproduce/curves.py; 0: never",
        "-",
        allowed=NOT_NEGATIVE,
        affects_weights=False,
    )
    accumulate: int = setting(
        1,
        "samples per step and process (of each source, for a method that takes one of each)",
        "Sec. IV-C",
        allowed=AT_LEAST_1,
    )
    sorted_steps: int = later(  # where a step takes one sample, as every run in results/ did
        setting(
            16,
            "of the samples of so many steps, those of like size share a step, so that no process "
            "waits long for a larger crop; 1: as drawn. Only where a step takes several",
            "docs/method.md",
            allowed=AT_LEAST_1,
        )
    )
    seed: int = setting(
        2022,
        "seed of everything random",
        "released scripts",
        allowed=SEEDS,
    )
    device: str = setting(
        "auto", "cpu, cuda, cuda:1, or auto: a GPU if there is one", "-", affects_weights=False
    )
    precision: str = setting(
        "auto", "auto: bf16 where the device computes it fast, else fp32", "-", PRECISIONS
    )
    checkpointing: str = setting(
        "auto",
        "compute activations again in the backward pass instead of keeping them; auto: where a GPU "
        "has too little memory free, and those of more than two views on a CPU",
        "-",
        CHECKPOINTING,
        affects_weights=False,
    )
    workers: int = setting(
        2,
        "processes that read and prepare cases; 0: none",
        "-",
        allowed=Range(least=0, most=MAX_WORKERS),
        affects_weights=False,
    )
    checkpoint_seconds: float = setting(
        60.0,
        "save at most this often, at epoch ends",
        "-",
        allowed=NOT_NEGATIVE,
        affects_weights=False,
    )
    tensorboard: bool = setting(True, "write TensorBoard events too", "-", affects_weights=False)


@dataclass(frozen=True)
class Evaluation:
    """What an evaluate script was asked to do; every other setting comes from the checkpoint.

    `threshold`: where the tumor's comes from: "target", the target center's in centers.toml, or
    "source-val", the best on held-out source cases. `cases`: "test", all of the target (or a
    fold's), or "heldout", those of the sources that were not trained on. `window_voxels`: the
    largest input that goes through the network at once; None: any. `released`: a state dict of the
    authors' network, in place of a run. `drop_leaked`: leave out scans that trained the run, where
    they would else be refused. Raises ValueError where these do not fit together.
    """

    stage: str
    centers: Path = default_path("centers.toml")
    sources: tuple[str, ...] = ()
    target: str | None = None
    checkpoints: Path = default_path("checkpoints")
    cache: Path = default_path("cache")
    time: tuple[str, ...] = ()
    roi_source: str = "seg"
    threshold: str = "target"
    cases: str = "test"
    method: str = DEFAULT_METHOD
    seed: int | None = None
    fold: str | None = None
    released: Path | None = None
    device: str = "auto"
    precision: str = "auto"
    window_voxels: int | None = None
    workers: int = 2
    drop_leaked: bool = False

    def __post_init__(self) -> None:
        smallest = SMALLEST_INPUT
        needs_run = {
            "--cases heldout": self.cases != "test",
            "--threshold source-val": self.threshold != "target",
            "--fold": self.fold is not None,
            "--seed": self.seed is not None,
            "--method": self.method != DEFAULT_METHOD,
        }
        of_run = [option for option, given in needs_run.items() if given]
        rules = (
            (
                self.threshold in THRESHOLDS,
                f"--threshold {self.threshold}: {' or '.join(THRESHOLDS)}",
            ),
            (self.cases in CASES, f"--cases {self.cases}: {' or '.join(CASES)}"),
            (
                self.cases == "test" or self.threshold == "target",
                "--threshold source-val: is chosen on the cases of --cases heldout; leave one out",
            ),
            (
                self.window_voxels is None or self.window_voxels >= smallest,
                f"--window-voxels {self.window_voxels}: at least {smallest}",
            ),
            (
                self.released is None or self.target is not None,
                "--released: needs --target, the center to evaluate on",
            ),
            (
                self.released is None or not of_run,
                f"{', '.join(of_run)}: not with --released, which is no run of this project",
            ),
        )
        for holds, message in rules:
            if not holds:
                raise ValueError(message)


def _crop_rules(stage: Stage) -> tuple[tuple[bool, str], ...]:
    """What the settings of crops need of their stage and of each other."""
    shifts = zip(stage.shift_mm, stage.crop_mm, strict=True)
    return (
        (
            stage.crop == MARGIN or stage.roi != "volume",
            f"--crop {stage.crop}: {stage.name} sees the whole volume",
        ),
        (
            all(2 * shift < side for shift, side in shifts),
            f"--shift-mm {' '.join(f'{shift:g}' for shift in stage.shift_mm)}: below half of "
            f"--crop-mm ({' '.join(f'{side:g}' for side in stage.crop_mm)}), so that the middle "
            "stays in the crop",
        ),
        (
            stage.second_channel == NONE or stage.repeats,
            f"--second-channel {stage.second_channel}: for a fine stage; {stage.name} has no "
            "coarse one before it",
        ),
        (
            stage.crops_from == LABELS or stage.name == "tumor_fine",
            f"--crops-from {stage.crops_from}: for tumor_fine, not {stage.name}",
        ),
        (
            stage.crop_middle == ANYWHERE or stage.roi == "tumor",
            f"--crop-middle {stage.crop_middle}: for tumor_fine, not {stage.name}",
        ),
    )


def is_time(text: str) -> bool:
    """Whether a text can be the timestamp in a run folder's name."""
    return re.fullmatch(r"[\w-][\w.-]{0,63}", text, re.ASCII) is not None


def check_config(config: Config) -> None:
    """Raise ValueError, naming the setting and what it may be, where a value cannot work."""
    for owner in (config, config.stage, config.settings):
        check_settings(owner)
    twice = sorted({name for name in config.sources if config.sources.count(name) > 1})
    axes = config.stage.mirror_axes
    rules = (
        *_crop_rules(config.stage),
        (config.width % 8 == 0, f"--width {config.width}: a multiple of 8"),
        (
            min(config.stage.window_voxels) >= 8 * config.stage.stride,
            f"--window-voxels {' '.join(map(str, config.stage.window_voxels))}: at least "
            f"{8 * config.stage.stride}, 8 times the stride: the network halves each side three "
            "times",
        ),
        (len(set(axes)) == len(axes), f"--mirror-axes {axes}: an axis is listed twice"),
        (
            config.patience == 0 or config.validate_epochs > 0,
            f"--patience {config.patience}: needs --validate-epochs",
        ),
        (not twice, f"--sources: {', '.join(twice)} is listed twice"),
        (
            config.target not in config.sources,
            f"--target {config.target}: a center of --sources cannot be the unseen one",
        ),
        (
            config.time is None or is_time(config.time),
            f"--time {str(config.time)[:64]}: {TIME_RULE}",
        ),
    )
    for holds, message in rules:
        if not holds:
            raise ValueError(message)
