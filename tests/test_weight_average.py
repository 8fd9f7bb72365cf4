"""Averaged weights: the formula, what predicts, and a resume to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.checkpointing import load_checkpoint, snapshot_file
from engine.inference import load_predictor
from engine.run_folders import config_hash
from engine.training import fit
from engine.weight_average import WeightAverage
from methods import METHODS, Method, build_method, make_config
from tests.conftest import same, train
from utils.config import Config
from utils.settings import weights_part
from utils.stages import TUMOR_COARSE, TUMOR_FINE


def tiny_method() -> Method:
    torch.manual_seed(0)
    return build_method(make_config(TUMOR_COARSE, "bl", width=8))


def test_the_average_is_the_exponential_one_of_the_steps_weights() -> None:
    method = tiny_method()
    average = WeightAverage(method, epochs=2, per_epoch=3)
    weight = next(method.network.parameters())
    with torch.no_grad():
        for value in (1.0, 4.0, 10.0):
            weight.fill_(value)
            average.update()
    decay = math.exp(-1 / 6)
    expected = (1.0 * decay + 4.0 * (1 - decay)) * decay + 10.0 * (1 - decay)
    with average.predicting():
        mean = next(method.network.parameters())
        torch.testing.assert_close(mean, torch.full_like(mean, expected))
    assert next(method.network.parameters()) is weight, "what trains is in its place again"


@pytest.mark.parametrize("name", METHODS)
def test_of_one_step_the_average_predicts_what_the_method_does(name: str) -> None:
    torch.manual_seed(0)
    method = build_method(make_config(TUMOR_FINE, name, width=8), ["A", "B"]).train()
    average = WeightAverage(method, epochs=1, per_epoch=1)
    average.update()
    image = torch.rand(1, 1, 8, 16, 16)
    with torch.no_grad():
        expected = method.eval().predict(image)
        with average.predicting():
            torch.testing.assert_close(method.eval().predict(image), expected)


def test_the_averaged_weights_predict_and_the_run_trains_as_without(
    tiny_config: Callable[..., Config],
) -> None:
    plain = load_checkpoint(train(tiny_config(method="bl")).checkpoint)
    run = train(tiny_config(method="bl", average_epochs=1.5))
    averaged = load_checkpoint(run.checkpoint)
    assert plain["average"] == {}
    assert same(plain["method"], averaged["method"]), "the average changes no training"
    network = load_predictor(run.checkpoint, "cpu").method.network.state_dict()
    mean = {name.removeprefix("module."): value for name, value in averaged["average"].items()}
    assert all(torch.equal(network[name], mean[name]) for name in network)
    assert any(not torch.equal(network[n], averaged["method"][f"network.{n}"]) for n in network)


def test_a_resumed_run_has_the_same_average_and_snapshots(
    tiny_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(
        method="bl", average_epochs=1.5, epochs=2, snapshot_epochs=1, checkpoint_seconds=0.0
    )
    whole = train(replace(config, checkpoints=tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(WeightAverage, "update", ending_update(steps=5))
        with pytest.raises(KeyboardInterrupt):
            fit(config)
    resumed = train(config)
    first, second = (load_checkpoint(run.checkpoint) for run in (whole, resumed))
    assert first["step"] > 5
    assert same(first["average"], second["average"])
    for epoch in (1, 2):
        one, other = (load_checkpoint(snapshot_file(run.folder, epoch)) for run in (whole, resumed))
        assert same(one["method"], other["method"])
    last = load_predictor(snapshot_file(whole.folder, 2), "cpu").method.state_dict()
    assert same(last, load_predictor(whole.checkpoint, "cpu").method.state_dict())


def ending_update(steps: int) -> Callable[[WeightAverage], None]:
    """`update` that ends the training at its step number `steps`."""
    left, update = [steps], WeightAverage.update

    def counted(self: WeightAverage) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        update(self)

    return counted


def test_without_an_average_a_configuration_is_that_of_earlier_runs() -> None:
    config = make_config(TUMOR_COARSE, "bl")
    assert "average_epochs" not in weights_part(config)
    assert config_hash(config) != config_hash(replace(config, average_epochs=1.0))
