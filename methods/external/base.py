"""`ExternalMethod`: the contract of systems that are not ours: they train and predict themselves.

Such a system brings its own loop, network and files; the engine gives it cases, asks it for label
maps and measures these as it measures any other method. It knows one stage and no cascade.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from data.case import Triple
from data.splits import CaseName, Split
from models.complexity import Complexity
from utils.commands import script
from utils.config import Config
from utils.stages import Stage

WHOLE, PANCREAS = "volume", "pancreas"  # what an input is cropped around, as `Stage.roi` says it
# Settings of `Config` that belong to our loop and our network; an external system has its own.
NOT_USED = (
    *("width", "upsample", "lr", "lr_power", "weight_decay", "validate_epochs", "patience"),
    *("accumulate", "precision", "checkpointing", "checkpoint_seconds", "tensorboard"),
    *("average_epochs", "snapshot_epochs", "sorted_steps"),
)


@dataclass(frozen=True)
class Scan:
    """What an external system sees of a case: the whole image, or a crop of it.

    `image_hu`: int16 (z, y, x), HU, in the canonical orientation; `spacing` mm, (z, y, x).
    `label`: uint8 of the same shape, 0 background, 1 pancreas, 2 tumor; None to predict.
    """

    image_hu: np.ndarray
    spacing: Triple
    label: np.ndarray | None = None


@dataclass(frozen=True)
class TrainingCase:
    """A case to train on; it is read when `read` is called, since not all fit into memory."""

    name: CaseName
    patient: str
    read: Callable[[], Scan]


class ExternalMethod:
    """A system that is not ours. A subclass overrides `train`, `predict` and `networks`.

    - `stages`: the stages that it can stand for. `cascade`: none reads a stage before it.
    - `roi`: what it sees: the whole image, or a crop around the pancreas that our pancreas stages
      found (in training: the label's), on the prepared grid.
    - `table6`: the row of Table VI that it is; None: a row beyond the paper. `row`: as it is shown.
    """

    Settings: ClassVar[type[Any]]
    stages: ClassVar[tuple[str, ...]] = ("tumor_fine",)
    cascade: ClassVar[bool] = False
    roi: ClassVar[str] = WHOLE
    table6: ClassVar[str | None] = None
    row: ClassVar[str]

    def __init__(self, config: Config) -> None:
        """Raises ValueError for a stage that it does not have, or settings of another method."""
        check_stage(config.method, type(self), config.stage.name)
        if type(config.settings) is not self.Settings:
            raise ValueError(
                f"method {config.method} needs its own settings ({self.Settings.__name__}), not "
                f"{type(config.settings).__name__}; make the configuration by methods.make_config"
            )
        self.config = config
        self.settings: Any = config.settings

    @classmethod
    def default_settings(cls, stage: Stage) -> Any:
        """The settings of a stage before the user changes any."""
        return cls.Settings()

    @classmethod
    def stage(cls, stage: Stage) -> Stage:
        """The stage as this system has it: what it reads, and what its input is cropped around."""
        if cls.roi == WHOLE:
            return replace(stage, roi=WHOLE, previous=None, rounds=1)
        return replace(stage, roi=PANCREAS, previous="pancreas_fine", rounds=1)

    def check_installed(self) -> None:
        """Raise ValueError, with the command to give, where its package is missing."""

    def train(
        self, split: Split, cases: Sequence[TrainingCase], folder: Path, device: str
    ) -> list[Path]:
        """Train on `cases`, which are those of `split`; return the files that predicting reads.

        Everything that it writes is in `folder`; called again there, it resumes.
        """
        raise NotImplementedError

    def predict(self, case: Scan, folder: Path, device: str = "auto") -> np.ndarray:
        """The label map of a case, uint8 of its image's shape, by what was trained in `folder`."""
        raise NotImplementedError

    def networks(self, folder: Path) -> list[Complexity]:
        """What each network costs that predicts a case, at the size of its own input."""
        raise NotImplementedError

    def budget(self) -> tuple[int, int]:
        """Training iterations of each of its networks as set, and as its authors have them."""
        raise NotImplementedError


def check_stage(name: str, method: type[ExternalMethod], stage: str) -> None:
    """Raise ValueError, saying what to do, where an external method does not have a stage."""
    if stage not in method.stages:
        only = method.stages[0]
        raise ValueError(
            f"--method {name}: has no {stage}; it is one system without stages before, and stands "
            f"for {only}: python {script('train', only)} --method {name}"
        )


def check_cases(split: Split, cases: Sequence[TrainingCase]) -> None:
    """Raise ValueError where a case is not one of those that the split trains on."""
    strange = sorted({case.name for case in cases} - set(split.train_cases))
    if strange:
        names = ", ".join("/".join(name) for name in strange)
        raise ValueError(f"split for {split.target}: {names} must not train")
