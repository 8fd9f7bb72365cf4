"""What comparison methods are held against: a step of the baseline, and its cost."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.dataset import Crop, Sample, StageDataset, load_on_device, make_sample
from data.prepare.prepared_case import PreparedCase
from engine.checkpointing import State, build_state, load_checkpoint
from methods import METHODS, Method, build_method, make_config
from methods.base import Step
from tests._counting import count_once
from tests.conftest import SPACING, make_tiny_case, read_log, take_step, train, weights
from utils.config import Config
from utils.stages import STAGES, TUMOR_FINE, Stage

CPU = torch.device("cpu")
SOURCES = ("A", "B")
BASELINE_COST = {(18_957_825, "945.23")}


def make_crops(prepared: dict[str, list[PreparedCase]]) -> list[Crop]:
    """Crops with a tumor and normal tissue around it: one of A, one of B, in turn."""
    stage = replace(TUMOR_FINE, jitter_voxels=(8, 8), jitter_z_fraction=(0.3, 0.3))
    dataset = StageDataset([*prepared["A"], *prepared["B"]], stage, 1, "one_per_center", SOURCES)
    return [dataset[index] for index in range(4)]


def sample_of(stage: Stage, domain: int = 0, seed: int = 1) -> Sample:
    """A sample of a tiny case, 24 x 32 x 40 voxels, without augmentation."""
    image_hu, label = (torch.from_numpy(array) for array in make_tiny_case(seed))
    crop = Crop(image_hu, label, SPACING, None, f"case{seed}", SOURCES[domain], seed)
    return make_sample(*load_on_device(crop, CPU), crop, stage, domain=domain)


def train_steps(config: Config, crops: Sequence[Crop]) -> tuple[State, list[dict[str, float]]]:
    """One step on each crop, as `fit` takes them; the state, and each step's logged values."""
    state = build_state(config, CPU, SOURCES)
    values = [take_step(state, config, [crop]).values for crop in crops]  # type: ignore[attr-defined]
    return state, values


def network_weights(state: State) -> dict[str, Tensor]:
    """The tensors of what predicts, by name."""
    return state.method.network.state_dict()


@dataclass(frozen=True)
class Trained:
    """What a run leaves: the checkpoint's tensors of the method, and the rows of log.csv."""

    weights: dict[str, Tensor]
    log: list[dict[str, str]]


def killed_and_resumed(
    config: Config, method: type[Method], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Trained, Trained]:
    """The same training unbroken, and terminated in its third step and resumed."""

    class Killed(method):  # type: ignore[misc, valid-type]
        """Gets SIGTERM in the third step."""

        def after_step(self, step: Step) -> None:
            super().after_step(step)
            if step.number == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    whole = train(replace(config, checkpoints=folder / "whole"))
    config = replace(config, checkpoints=folder / "killed")
    monkeypatch.setitem(METHODS, config.method, Killed)
    with pytest.raises(SystemExit):
        train(config)
    (stopped,) = (folder / "killed").glob("*/last.pt")
    assert load_checkpoint(stopped)["step"] == 3
    monkeypatch.setitem(METHODS, config.method, method)
    resumed = train(config)
    unbroken, again = (Trained(weights(run), read_log(run)) for run in (whole, resumed))
    return unbroken, again


def costs(method: str) -> set[tuple[int, str]]:
    """Parameters and GMACs of a method's network at full width, over the four stages."""
    found = set()
    with torch.device("meta"):
        for stage in STAGES.values():
            counted = count_once(
                build_method(make_config(stage, method, upsample="nearest"), SOURCES).network
            )
            found.add((counted.parameters, counted.gmacs))
    return found
