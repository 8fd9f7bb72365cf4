"""Checkpoints of tiny networks, as a training leaves them, for the tests of exports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.splits import Split
from engine.checkpointing import save_checkpoint
from methods import build_method, make_config
from tests._evaluation_fixtures import PREPARED_SPACING, small_stage
from utils.settings import to_plain
from utils.stages import STAGE_NAMES

SOURCES = ("A", "B")
PATIENT = "patient-4711"  # trained on: no export may name it
SECRET_FOLDER = "somebody's secret folder"


def write_checkpoint(
    folder: Path,
    stage: str = "tumor_fine",
    method: str = "ours",
    settings: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    **stage_changes: Any,
) -> Path:
    """last.pt of a network of width 8 whose every weight and buffer differs from its start."""
    torch.manual_seed(seed)
    config = make_config(
        small_stage(stage, **stage_changes),
        method,
        settings,
        width=8,
        spacing=PREPARED_SPACING,
        sources=SOURCES,
        target="C",
        cache=Path("/") / SECRET_FOLDER / "cache",
    )
    built = build_method(config, SOURCES)
    weights = {
        name: value + 0.1 * torch.randn(value.shape) if value.is_floating_point() else value
        for name, value in built.state_dict().items()
    }
    split = Split(SOURCES, "C", train_cases=(("A", PATIENT),), test_cases=())
    content = {"method": weights, "config": to_plain(config), "step": 1}
    content |= {"split": to_plain(split), "split_hash": split.hash, "signatures": {}}
    content |= {"optimizers": [{"momentum": torch.zeros(3)}], "environment": {"command": [PATIENT]}}
    save_checkpoint(folder / "last.pt", content)
    return folder / "last.pt"


def write_stages(folder: Path, stages: tuple[str, ...] = STAGE_NAMES) -> dict[str, Path]:
    """A checkpoint of each stage, each with weights of its own; mirrored along x alone."""
    return {
        stage: write_checkpoint(folder / stage, stage, seed=number, mirror_axes=(2,))
        for number, stage in enumerate(stages)
    }


def random_hu(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """int16 HU on both sides of the window's ends, (z, y, x)."""
    return np.random.default_rng(seed).integers(-400, 500, shape).astype(np.int16)
