"""Steps of one sample of each source, and what methods that take them are held against."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data.dataset import Crop, Sample, StageDataset
from data.prepare.prepared_case import PreparedCase
from engine.checkpointing import State, build_state, load_checkpoint
from engine.run_folders import Run
from engine.step import TrainingStep
from methods import METHODS, build_method, make_config
from methods.base import Step
from tests._counting import count_once
from tests.conftest import NoFile, read_log, same, take_step, train, weights
from utils.config import Config
from utils.stages import STAGES, TUMOR_FINE

CPU = torch.device("cpu")
SOURCES = ("A", "B")
MakeConfig = Callable[..., Config]
Prepared = Mapping[str, Sequence[PreparedCase]]


def make_pairs(prepared: Prepared) -> list[list[Crop]]:
    """Two pairs of crops with a tumor and normal tissue around it, one of A and one of B each."""
    stage = replace(TUMOR_FINE, jitter_voxels=(8, 8), jitter_z_fraction=(0.3, 0.3))
    cases = [*prepared["A"], *prepared["B"]]
    dataset = StageDataset(cases, stage, 1, "one_per_center", SOURCES)
    return [[dataset[index], dataset[index + 1]] for index in (0, 2)]


def begin_step(
    state: State, config: Config, crops: Sequence[Crop], steps: int = 10
) -> tuple[TrainingStep, list[Sample]]:
    """A step that was not taken yet, and its samples."""
    step = TrainingStep(config, state, NoFile(), steps)  # type: ignore[arg-type]
    state.method.train()
    return step, step.take(iter(crops), len(crops))


def network_after(config: Config, crops: Sequence[Crop], steps: int = 10) -> dict[str, Tensor]:
    """The tensors of what predicts, after one step from the seed's weights."""
    state = build_state(config, CPU, SOURCES)
    take_step(state, config, crops, steps)
    return state.method.network.state_dict()


def no_dropout(module: nn.Module) -> None:
    """Switch dropout off, of which each forward pass draws another."""
    for part in module.modules():
        if isinstance(part, nn.Dropout3d):
            part.p = 0.0


def cost(method: str, settings: Mapping[str, Any] | None = None) -> tuple[int, str]:
    """Parameters and GMACs of what predicts, at the paper's width and patches; two sources."""
    with torch.device("meta"):
        config = make_config(STAGES["tumor_fine"], method, settings, upsample="nearest")
        counted = count_once(build_method(config, SOURCES).network)
    return counted.parameters, counted.gmacs


def train_with_and_without_a_kill(
    method: str, make_config_: MakeConfig, folder: Path, settings: Mapping[str, Any]
) -> tuple[Run, Run]:
    """Two runs of six steps of one configuration; the second was terminated after its third."""

    def configure(name: str) -> Config:
        checkpoints = folder / name
        return make_config_(method=method, epochs=4, checkpoints=checkpoints, settings=settings)

    own = METHODS[method]

    def killed_after_step(self: Any, step: Step) -> None:
        own.after_step(self, step)
        if step.number == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    whole = train(configure("whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            METHODS, method, type(own.__name__, (own,), {"after_step": killed_after_step})
        )
        with pytest.raises(SystemExit) as exit_:
            train(configure("killed"))
    assert exit_.value.code == 143
    (stopped,) = (folder / "killed").glob("*/last.pt")
    assert load_checkpoint(stopped)["step"] == 3
    return whole, train(configure("killed"))


def assert_equal_runs(whole: Run, resumed: Run) -> None:
    """Weights, memories, optimizers and log are the same to the last bit."""
    assert same(weights(whole), weights(resumed))
    assert read_log(whole) == read_log(resumed)
    assert len(read_log(whole)) == 6
    optimizers = [load_checkpoint(run.checkpoint)["optimizers"] for run in (whole, resumed)]
    for a, b in zip(*optimizers, strict=True):
        for number, moments in a["state"].items():
            assert same(moments, b["state"][number])


def assert_near_in_16_bits(method: str, make_config_: MakeConfig, folder: Path) -> None:
    """Terms of a run in bf16 within 5 % (or 0.02) of those in fp32; in fp16 of the first step.

    After it the loss scale of fp16 may have skipped updates: one epoch of that is enough.
    """
    logs = {}
    for precision, epochs in {"fp32": 2, "bf16": 2, "fp16": 1}.items():
        config = make_config_(
            method=method, precision=precision, epochs=epochs, checkpoints=folder / precision
        )
        logs[precision] = read_log(train(config))
    for precision, rows in (("bf16", logs["bf16"]), ("fp16", logs["fp16"][:1])):
        for row, full in zip(rows, logs["fp32"], strict=precision == "bf16"):
            for term in METHODS[method].terms:
                expected = pytest.approx(float(full[term]), rel=0.05, abs=0.02)
                assert float(row[term]) == expected, (precision, term)
