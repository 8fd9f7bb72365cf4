"""Small centers, and runs whose network is a window of HU, for the tests of the evaluation."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage
from torch import Tensor, nn

from data.case import HU_RANGE
from data.intensity import HU_WINDOW
from data.splits import Split
from engine.checkpointing import save_checkpoint
from engine.command_line import parse_config, parse_evaluation
from engine.evaluation import run_stage
from engine.run_folders import Run, create_run, mark_done
from methods import make_config
from methods.ours import Ours
from utils.config import Config, Evaluation
from utils.files import write_text
from utils.settings import to_plain
from utils.stages import STAGE_NAMES, STAGES, Stage

SPACING = (2.5, 2.0, 2.0)  # mm of the files, (z, y, x)
PREPARED_SPACING = (3.0, 2.4, 2.4)
PANCREAS_HU, TUMOR_HU = 100, 180
PANCREAS_CUT, TUMOR_CUT = 30.0, 140.0  # HU between the tissues
PANCREAS_SIZE, TUMOR_SIZE = (9, 16, 20), (6, 9, 9)  # voxels
ORIENTATIONS = ("LPS", "RAI", "PIR", "ASL")
TIME, LATER = "20250101-000000", "20250202-000000"
CASES = ("case_0", "case_1", "case_2", "case_3")  # of center C
NOTHING = {"numbers": torch.tensor([1000.0, 3000.0, 1.0, 0.0])}  # a network that finds nothing


class HuWindow(nn.Module):
    """`inside` where low < HU < high, `outside` elsewhere: four numbers instead of weights."""

    numbers: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("numbers", torch.zeros(4))

    def forward(self, image: Tensor) -> Tensor:
        low, high, inside, outside = self.numbers
        hu = image * (HU_WINDOW[1] - HU_WINDOW[0]) + HU_WINDOW[0]
        return torch.where((hu > low) & (hu < high), inside, outside)


class WindowMethod(Ours):
    """A method whose network is a `HuWindow`."""

    def build_network(self) -> nn.Module:
        return HuWindow()

    def predict(self, image: Tensor) -> Tensor:
        prob: Tensor = self.network(image)
        return prob


def hu_window(
    low: float, high: float = HU_RANGE[1], inside: float = 0.95, outside: float = 0.02
) -> dict[str, Tensor]:
    """The state dict of a `HuWindow`."""
    return {"numbers": torch.tensor([low, high, inside, outside])}


def small_stage(name: str, **changes: Any) -> Stage:
    """A stage with margins and a window that fit the small volumes."""
    sizes: dict[str, Any] = {"margin_voxels": (1, 2, 2), "window_voxels": (40, 40)}
    return replace(STAGES[name], **{**sizes, **changes})


def write_run(
    checkpoints: Path,
    stage: Stage,
    weights: dict[str, Tensor],
    *,
    time: str = TIME,
    done: bool = True,
    cases: Mapping[str, Any] = MappingProxyType({}),
    **settings: Any,
) -> Run:
    """A run folder as `fit` leaves it, with these weights; by default trained on A and B for C.

    `cases`: fields of its `Split`, as train_cases or fold.
    """
    values: dict[str, Any] = {"spacing": PREPARED_SPACING, "target": "C"}
    values |= {"sources": ("A", "B"), **settings}
    config = make_config(stage, checkpoints=checkpoints, **values)
    target = str(config.target)
    split = Split(config.sources, target, **{"train_cases": (), "test_cases": (), **cases})
    run = create_run(config, time, split)
    own = {f"network.{name}": value for name, value in weights.items()}
    content = {"method": own, "config": to_plain(config), "step": 1}
    content |= {"split": to_plain(split), "split_hash": split.hash, "signatures": {}}
    save_checkpoint(run.checkpoint, content)
    if done:
        mark_done(run.folder)
    return run


def write_four_runs(checkpoints: Path, **settings: Any) -> dict[str, Run]:
    """All four stages: the pancreas ones find the pancreas, the tumor ones the tumor."""
    cuts = {"pancreas": PANCREAS_CUT, "tumor": TUMOR_CUT}
    return {
        name: write_run(checkpoints, small_stage(name), hu_window(cuts[s.target]), **settings)
        for name, s in STAGES.items()
    }


def make_volumes(seed: int, lesions: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """int16 HU and uint8 label, canonical (z, y, x): a box of pancreas with a box of tumor."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers((18, 44, 40), (22, 52, 48)).tolist())
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), 4)
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    image = -115 + 30 * smooth  # fat: without it these would be no Hounsfield units
    label = np.zeros(shape, np.uint8)
    corner = rng.integers(2, np.subtract(shape, PANCREAS_SIZE) - 2)
    parts = [(corner, PANCREAS_SIZE, PANCREAS_HU, 1)]
    if lesions:
        inside = rng.integers(0, np.subtract(PANCREAS_SIZE, TUMOR_SIZE) + 1)
        parts.append((corner + inside, TUMOR_SIZE, TUMOR_HU, 2))
    for start, size, hu, value in parts:
        box = tuple(slice(int(a), int(a) + n) for a, n in zip(start, size, strict=True))
        image[box], label[box] = hu, value
    image = image + rng.integers(-4, 5, shape)
    return image.astype(np.int16), label


def write_center(
    folder: Path, cases: int = 3, *, seed: int = 0, lesions: bool = True, labels: bool = True
) -> None:
    """A folder of NIfTI images, each in another orientation, and one of labels."""
    for number in range(cases):
        arrays = dict(zip(("images", "labels"), make_volumes(seed + number, lesions), strict=True))
        for kind, array in arrays.items():
            if kind == "labels" and not labels:
                continue
            image = sitk.GetImageFromArray(array)
            image.SetSpacing(SPACING[::-1])
            image.SetOrigin((-31.5 + number, 12.25, -404.75))
            image = sitk.DICOMOrient(image, ORIENTATIONS[number % len(ORIENTATIONS)])
            (folder / kind).mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(image, str(folder / kind / f"case_{number}.nii.gz"))


def write_toml(path: Path, centers: dict[str, dict[str, Any]]) -> Path:
    """centers.toml with a folder beside it for each center; values are written as they are."""
    lines = []
    for name, keys in centers.items():
        lines += [f"[centers.{name}]", 'reader = "folder"', f'path = "{name}"']
        lines += [f"{key} = {value}" for key, value in keys.items()]
    write_text(path, "\n".join(lines) + "\n")
    return path


@dataclass(frozen=True)
class Place:
    """Centers, runs and cache of a test."""

    centers: Path
    checkpoints: Path
    cache: Path

    def request(self, stage: str, **changes: Any) -> Evaluation:
        """An evaluation on center C, on a CPU."""
        values: dict[str, Any] = {"target": "C", "device": "cpu", "precision": "fp32", "workers": 0}
        values |= {"centers": self.centers, "checkpoints": self.checkpoints, "cache": self.cache}
        return Evaluation(stage, **{**values, **changes})

    def evaluate(self, stage: str, **changes: Any) -> Path:
        """The folder of the one result of `run_stage`."""
        (folder,) = run_stage(self.request(stage, **changes))
        return folder

    def all_stages(self, **changes: Any) -> dict[str, Path]:
        return {stage: self.evaluate(stage, **changes) for stage in STAGE_NAMES}


def read_rows(folder: Path) -> dict[str, dict[str, str]]:
    """cases.csv as text, by case."""
    with (folder / "cases.csv").open(newline="") as handle:
        return {row["case_id"]: row for row in csv.DictReader(handle)}


def read_summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def run_of(place: Place, stage: str) -> Run:
    return Run(next(place.checkpoints.glob(f"{TIME}_{stage}_*")), TIME, ("A", "B"), "C")


def printed_commands(error: BaseException) -> list[list[str]]:
    """The commands of a message, as a shell would split them."""
    lines = [line.strip() for line in str(error).splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("python ")]


def parsed(command: list[str]) -> Config | Evaluation:
    """What the script that a command names makes of its arguments."""
    script = Path(command[0])
    found = re.fullmatch(r"(train|evaluate)_sh_(\w+)\.py", script.name)
    assert script.is_file()  # from here
    assert found is not None
    parse = parse_config if found[1] == "train" else parse_evaluation
    return parse(STAGES[found[2]], command[1:])
