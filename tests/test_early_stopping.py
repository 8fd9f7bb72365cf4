"""Held-out Dice while training: measured on the sources, without a trace in the weights."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data.prepare.prepared_case import PreparedCase
from engine.case_metrics import read_cases
from engine.checkpointing import load_checkpoint
from engine.early_stopping import EarlyStopping
from engine.evaluation import run_stage
from methods.base import Method
from tests.conftest import same, train, weights
from utils.config import Config, Evaluation, check_config

MakeConfig = Callable[..., Config]
Prepared = dict[str, list[PreparedCase]]


class Sees(Method):
    """Finds what is brighter than `cut` of the window."""

    cut = 0.5

    def build_network(self) -> nn.Module:
        return nn.Conv3d(1, 1, 1)

    def predict(self, image: Tensor) -> Tensor:
        assert not self.training
        return (image > self.cut).float()


def test_training_ends_when_so_many_measures_bring_no_rise(tiny_config: MakeConfig) -> None:
    stopping = EarlyStopping(tiny_config(patience=2), [])
    ended = [
        stopping.has_plateaued(h) for h in ([], [5.0], [5, 4], [5, 4, 5], [5, 4, 6], [5, 6, 6])
    ]
    assert ended == [False, False, False, True, False, False]
    assert not EarlyStopping(tiny_config(patience=0), []).has_plateaued([5.0] * 100)


def test_the_measure_is_the_mean_over_centers_of_the_dice_in_the_crop(
    tiny_config: MakeConfig, tiny_prepared: Prepared
) -> None:
    config = tiny_config(
        "pancreas_fine", method="bl", validate_epochs=1, margin_voxels=(50, 50, 50)
    )
    cases = [*tiny_prepared["A"], *tiny_prepared["B"]]
    method = Sees(config)
    found = EarlyStopping(config, cases).measure(method)
    assert method.training

    def dice(case: PreparedCase) -> float:
        label = case.label
        assert label is not None
        image = (np.clip(case.image_hu, -100, 240) + 100.0) / 340
        shape, whole = label.shape, np.ones_like(label, bool)
        assert min(shape) > 8
        pred, mask = (image > 0.5) & whole, label > 0
        from utils.postprocess import keep_components

        pred = keep_components(pred)
        return 200.0 * np.count_nonzero(pred & mask) / (pred.sum() + mask.sum())

    a = np.mean([dice(case) for case in tiny_prepared["A"]])
    b = np.mean([dice(case) for case in tiny_prepared["B"]])
    assert found == pytest.approx((a + b) / 2)


def test_measuring_leaves_no_trace_in_the_weights(tiny_config: MakeConfig) -> None:
    more = {"target": "B", "holdout": 0.4, "epochs": 2}
    measured = train(tiny_config(**more, validate_epochs=1))
    plain = train(tiny_config(**more))
    assert same(weights(measured), weights(plain))
    history = load_checkpoint(measured.checkpoint)["heldout_dsc"]
    with (measured.folder / "heldout.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [float(row["dsc"]) for row in rows] == pytest.approx(history, abs=1e-3)
    assert not (plain.folder / "heldout.csv").exists()


def test_a_network_that_learns_nothing_more_ends_early_and_is_done(
    tiny_config: MakeConfig,
) -> None:
    config = tiny_config(target="B", holdout=0.4, epochs=9, lr=1e-12, validate_epochs=1, patience=2)
    run = train(config)
    content = load_checkpoint(run.checkpoint)
    assert run.done
    assert len(content["heldout_dsc"]) == 3  # one, and two without a rise
    assert content["step"] == 3 * 2  # epochs of the two cases that train
    assert train(replace(config, time=run.time)).folder == run.folder  # nothing is left to do


def test_without_held_out_cases_there_is_nothing_to_measure(tiny_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match=r"--validate-epochs 1 needs held-out.*--holdout 0\.1"):
        train(tiny_config(validate_epochs=1))
    with pytest.raises(ValueError, match="--patience 2: needs --validate-epochs"):
        check_config(tiny_config(patience=2))


def test_the_held_out_protocol_agrees_with_what_training_saw(tiny_config: MakeConfig) -> None:
    """The same network on the same cases, with label ROIs and no mirroring: the same Dice."""
    config = tiny_config(
        "tumor_coarse", target="B", holdout=0.4, epochs=3, lr=1e-2, validate_epochs=3,
        mirror_axes=(), method="bl",
    )  # fmt: skip
    run = train(config)
    request = Evaluation(
        "tumor_coarse", centers=config.centers, checkpoints=config.checkpoints, cache=config.cache,
        target="B", roi_source="mask", cases="heldout", method="bl",
        device="cpu", precision="fp32", workers=0,
    )  # fmt: skip
    folders = run_stage(request)
    means = [np.mean([row["dsc"] for row in read_cases(f / "cases.csv")]) for f in folders]
    (seen,) = load_checkpoint(run.checkpoint)["heldout_dsc"]
    assert len(means) == 2
    assert seen == pytest.approx(float(np.mean(means)), abs=0.5)  # there on the original grid
    assert torch.isfinite(torch.tensor(seen))
