"""An external system that learns nothing: HU windows. For the tests of the engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.splits import CaseName, Split
from methods.external.base import PANCREAS, ExternalMethod, Scan, TrainingCase
from models.complexity import Complexity
from utils.settings import setting

PANCREAS_HU, SMALLEST_HU = 90, 20  # what the system calls tumor (darker) and pancreas


def found_by_windows(image_hu: np.ndarray) -> np.ndarray:
    labels = (image_hu > SMALLEST_HU).astype(np.uint8)
    return labels + ((labels > 0) & (image_hu < PANCREAS_HU))


@dataclass(frozen=True)
class WindowSettings:
    """`rounds_of_training`: as an external system's budget."""

    rounds_of_training: int = setting(3, "how long it trains", "test")


class Windows(ExternalMethod):
    """It learns nothing: HU above one number is pancreas, the darker part of it tumor."""

    Settings = WindowSettings
    row = "Windows"
    seen: list[tuple[CaseName, Scan]] = []  # noqa: RUF012  emptied by each test
    asked: list[tuple[Scan, str]] = []  # noqa: RUF012

    def train(
        self, split: Split, cases: Sequence[TrainingCase], folder: Path, device: str
    ) -> list[Path]:
        for case in cases:
            self.seen.append((case.name, case.read()))
        path = folder / "windows.json"
        path.write_text(json.dumps([SMALLEST_HU, PANCREAS_HU]))
        return [path]

    def predict(self, case: Scan, folder: Path, device: str = "auto") -> np.ndarray:
        self.asked.append((case, device))
        low, high = json.loads((folder / "windows.json").read_text())
        assert (low, high) == (SMALLEST_HU, PANCREAS_HU)
        return found_by_windows(case.image_hu)

    def networks(self, folder: Path) -> list[Complexity]:
        return [Complexity(2, 10), Complexity(3, 20)]

    def budget(self) -> tuple[int, int]:
        return self.settings.rounds_of_training, 3


class Crops(Windows):
    """The same on crops around the pancreas."""

    roi = PANCREAS
