"""Training that meets a fault, and training that resumes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data.dataset import Sample
from data.prepare.prepared_case import PreparedCase
from engine.checkpointing import load_checkpoint, save_checkpoint
from engine.run_folders import Run
from engine.step import NonFiniteLossError
from engine.training import fit
from methods import METHODS
from methods.ours import Ours
from tests.conftest import (
    read_log,
    same,
    train,
    weights,
    write_tiny_centers,
)
from utils.config import Config

CPU = torch.device("cpu")
MakeConfig = Callable[..., Config]
Prepared = dict[str, list[PreparedCase]]


# faults


class Faulty(Ours):
    """Spoils its loss, or its gradient, at case b0; keeps the weights that it saw there."""

    fault = "loss"
    seen: dict[str, Tensor] = {}  # noqa: RUF012 - shared with the test on purpose

    def loss(self, sample: Sample, generator: torch.Generator) -> dict[str, Tensor]:
        terms = super().loss(sample, generator)
        if sample.case_id != "b0" or self.fault == "none":
            return terms
        type(self).seen = {k: v.clone() for k, v in self.state_dict().items()}
        if self.fault == "loss":
            return {**terms, "dis": terms["dis"] * torch.nan}
        if self.fault == "name":
            return {**terms, "extra": terms["dis"]}
        zero = 0 * next(self.parameters()).flatten()[0]
        return {**terms, "dis": terms["dis"] + zero.sqrt()}  # 0, whose derivative is 0 times inf


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> type[Faulty]:
    monkeypatch.setitem(METHODS, "faulty", Faulty)
    monkeypatch.setattr(Faulty, "fault", "loss")
    monkeypatch.setattr(Faulty, "seen", {})
    return Faulty


@pytest.mark.parametrize(("fault", "named"), [("loss", "dis nan"), ("gradient", "grad_norm nan")])
def test_what_is_not_finite_stops_with_the_case_and_keeps_the_last_good_state(
    fault: str,
    named: str,
    tiny_config: MakeConfig,
    faulty: type[Faulty],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny_config(method="faulty", epochs=2, time="t", seed=1)
    monkeypatch.setattr(faulty, "fault", fault)
    with pytest.raises(NonFiniteLossError, match=rf"step \d+: .* at B/b0 \(.*{named}"):
        fit(config)
    run = Run(next(config.checkpoints.iterdir()), "t", ("A", "B"), "C")
    assert not run.done
    content = load_checkpoint(run.checkpoint)
    assert same(content["method"], faulty.seen)
    assert len(read_log(run)) == content["step"]
    monkeypatch.setattr(faulty, "fault", "none")
    fixed = train(config)
    assert fixed.folder == run.folder
    assert fixed.done
    unbroken = train(replace(config, checkpoints=tmp_path / "unbroken"))
    assert same(weights(fixed), weights(unbroken))
    assert read_log(fixed) == read_log(unbroken)


def test_with_fp16_gradients_that_stay_not_finite_stop_too(
    tiny_config: MakeConfig,
    faulty: type[Faulty],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(faulty, "fault", "gradient")
    monkeypatch.setattr("engine.step.MIN_LOSS_SCALE", 2.0**14)  # after two skips
    centers = write_tiny_centers(tmp_path, {"B": 1, "C": 1})
    config = tiny_config(method="faulty", precision="fp16", epochs=9, centers=centers)
    with pytest.raises(NonFiniteLossError, match=r"step 4: .* at B/b0"):
        fit(config)


def test_a_term_that_no_weight_knows_stops_the_run(
    tiny_config: MakeConfig, faulty: type[Faulty], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faulty, "fault", "name")
    with pytest.raises(ValueError, match="loss terms without a weight: extra"):
        fit(tiny_config(method="faulty"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "oures"},
        {"settings": {"augment.x": 1}},
        {"settings": {"weights": {"x": 1.0}}},
        {"device": "tpu"},
    ],
)
def test_a_wrong_setting_ends_before_a_folder_is_made(
    wrong: dict[str, Any], tiny_config: MakeConfig
) -> None:
    with pytest.raises(ValueError, match=r"oures|augment\.x|term 'x'|--device tpu"):
        fit(tiny_config(**wrong))
    assert not tiny_config().checkpoints.exists()


# going on


def test_a_broken_checkpoint_is_refused_with_its_name(tiny_config: MakeConfig) -> None:
    config = tiny_config(time="t")
    run = train(config)
    (run.folder / "done").unlink()
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"last\.pt: not a readable checkpoint"):
        fit(config)


def test_a_run_resumes_only_with_as_many_processes(tiny_config: MakeConfig) -> None:
    config = tiny_config(time="t")
    run = train(config)
    (run.folder / "done").unlink()
    content = load_checkpoint(run.checkpoint)
    save_checkpoint(run.checkpoint, {**content, "processes": 2})
    with pytest.raises(ValueError, match="trained by 2 processes, now there are 1"):
        fit(config)


def test_a_resume_under_other_threads_or_another_torch_says_so(
    tiny_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(time="t")
    run = train(config)
    (run.folder / "done").unlink()
    train(config)
    assert "resumes with" not in capsys.readouterr().out
    (run.folder / "done").unlink()
    content = load_checkpoint(run.checkpoint)
    made = content["environment"]
    changed = {**made, "threads": 77, "packages": {**made["packages"], "torch": "1.0"}}
    save_checkpoint(run.checkpoint, {**content, "environment": changed})
    train(config)
    out = capsys.readouterr().out
    assert f"{run.folder}: resumes with threads 77 -> {made['threads']}, torch 1.0 -> " in out


def test_a_run_that_is_done_is_passed_over(
    tiny_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(time="t")
    run = train(config)
    before = run.checkpoint.stat().st_mtime_ns
    capsys.readouterr()
    assert train(config) == run
    assert run.checkpoint.stat().st_mtime_ns == before
    assert "done already" in capsys.readouterr().out
