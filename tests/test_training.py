"""The training loop, inside one process: steps, learning rate, precision, faults, splits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.dataset import Crop, StageDataset
from data.prepare.prepared_case import PreparedCase
from engine.checkpointing import build_state, load_checkpoint
from methods import METHODS, config_from_plain, read_config
from methods.ours import Ours
from tests.conftest import gradient_of, read_log, same, train, weights
from utils.config import Config
from utils.stages import STAGES

CPU = torch.device("cpu")
MakeConfig = Callable[..., Config]
Prepared = dict[str, list[PreparedCase]]


# a run


@pytest.mark.parametrize(
    ("stage", "cases"),
    [
        ("pancreas_coarse", {"A/a0", "A/a1", "B/b0", "N/n0"}),
        ("pancreas_fine", {"A/a0", "A/a1", "B/b0", "N/n0"}),
        ("tumor_coarse", {"A/a0", "A/a1", "B/b0"}),
        ("tumor_fine", {"A/a0", "A/a1", "B/b0"}),
    ],
)
def test_each_stage_trains_an_epoch_on_the_cases_of_its_sources(
    stage: str, cases: set[str], tiny_config: MakeConfig
) -> None:
    run = train(tiny_config(stage, tensorboard=True))
    assert run.done
    assert run.target == "C"
    rows = read_log(run)
    assert {row["cases"] for row in rows} == cases
    assert [int(row["step"]) for row in rows] == list(range(1, len(cases) + 1))
    assert [row["epoch"] for row in rows] == ["0"] * (len(cases) - 1) + ["1"]
    assert all(float(row["total"]) > 0 for row in rows)
    assert all(tensor.isfinite().all() for tensor in weights(run).values())
    names = {path.name for path in run.folder.iterdir()}
    assert names == {
        *("config.json", "environment.json", "run.json", "log.csv", "last.pt", "done"),
        *("lock", "events"),
    }


def test_the_total_is_the_weighted_sum_of_the_terms(tiny_config: MakeConfig) -> None:
    factors = {"seg": 1.0, "dis": 2.0, "tran": 0.5, "con": 0.1, "cos": 3.0}
    rows = read_log(train(tiny_config("tumor_fine", settings={"weights": factors})))
    for row in rows:
        expected = sum(weight * float(row[name]) for name, weight in factors.items())
        assert float(row["total"]) == pytest.approx(expected, rel=1e-4)


def test_a_checkpoint_carries_configuration_split_versions_and_random_state(
    tiny_config: MakeConfig,
) -> None:
    run = train(tiny_config())
    content = load_checkpoint(run.checkpoint)
    assert config_from_plain(content["config"]) == read_config(run.folder / "config.json")
    split = content["split"]
    assert split["train_cases"] == [["A", "a0"], ["A", "a1"], ["B", "b0"]]
    assert split["test_cases"] == [["C", "c0"], ["C", "c1"]]
    facts = json.loads((run.folder / "run.json").read_text())
    assert content["split_hash"] == facts["split_hash"]
    assert content["environment"]["packages"]["torch"] == torch.__version__
    assert content["seed"] == 2022
    assert content["step"] == 3
    assert content["optimizers"][0]["state"][0]["step"] == 3


def test_the_learning_rate_decays_by_the_poly_rule(tiny_config: MakeConfig) -> None:
    run = train(tiny_config(epochs=2, lr=0.01, lr_power=0.9))
    logged = [float(row["lr"]) for row in read_log(run)]
    expected = [0.01 * (1 - step / 6) ** 0.9 for step in range(6)]
    assert logged == [float(f"{value:.6g}") for value in expected]
    group = load_checkpoint(run.checkpoint)["optimizers"][0]["param_groups"][0]
    assert group["lr"] == expected[-1]
    assert group["weight_decay"] == 5e-4


def test_training_lowers_the_loss(tiny_config: MakeConfig) -> None:
    rows = read_log(train(tiny_config("pancreas_fine", epochs=12, lr=3e-3)))
    totals = [float(row["seg"]) for row in rows]
    assert sum(totals[-4:]) < 0.8 * sum(totals[:4])


# repeatable


def test_the_seed_makes_a_run_repeatable(tiny_config: MakeConfig, tmp_path: Path) -> None:
    first = weights(train(tiny_config(checkpoints=tmp_path / "1")))
    torch.manual_seed(5)
    assert same(first, weights(train(tiny_config(checkpoints=tmp_path / "2"))))
    assert not same(first, weights(train(tiny_config(seed=0))))


def test_the_number_of_workers_does_not_change_the_weights(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    none, two = (
        train(tiny_config(workers=n, epochs=2, checkpoints=tmp_path / str(n))) for n in (0, 2)
    )
    assert same(weights(none), weights(two))
    assert read_log(none) == read_log(two)


def crops_of(config: Config, prepared: Prepared) -> list[Crop]:
    dataset = StageDataset(prepared["A"] + prepared["B"], config.stage, config.seed)
    return [dataset[index] for index in range(4)]


def test_accumulated_gradients_are_the_mean_of_the_samples(
    tiny_config: MakeConfig, tiny_prepared: Prepared
) -> None:
    gradients = []
    crops = crops_of(tiny_config(), tiny_prepared)[:2]
    for count, batches in ((1, [[crop] for crop in crops]), (2, [crops])):
        config = tiny_config(accumulate=count)
        for batch in batches:
            state = build_state(config, CPU)
            terms = gradient_of(state, config, batch)
            grads = [p.grad for p in state.method.parameters() if p.grad is not None]
            gradients.append((torch.cat([g.flatten() for g in grads]), terms))
    (one, terms_one), (two, terms_two), (both, terms_both) = gradients
    torch.testing.assert_close(both, (one + two) / 2, rtol=1e-5, atol=1e-7)
    for name, term in terms_both.items():
        torch.testing.assert_close(term, (terms_one[name] + terms_two[name]) / 2)


@pytest.mark.parametrize("sorted_steps", [1, 16])
def test_accumulating_two_samples_halves_the_steps(
    sorted_steps: int, tiny_config: MakeConfig
) -> None:
    rows = read_log(train(tiny_config(epochs=3, accumulate=2, sorted_steps=sorted_steps)))
    assert len(rows) == 5  # 9 samples, two a step
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "2", "3"]
    seen = " ".join(row["cases"] for row in rows).split()
    names = ["A/a0", "A/a1", "B/b0"]
    assert sorted(seen.count(name) for name in names) == [3, 3, 4]
    if sorted_steps == 1:  # else a sample can come before its epoch
        assert [sorted(seen[i : i + 3]) for i in (0, 3, 6)] == [names] * 3


class Counting(Ours):
    """Notes the epochs whose end it is told."""

    epochs: list[int] = []  # noqa: RUF012 - shared with the test on purpose

    def after_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_method_is_told_the_end_of_each_epoch_once(
    accumulate: int, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "counting", Counting)
    monkeypatch.setattr(Counting, "epochs", [])
    train(tiny_config(method="counting", epochs=4, accumulate=accumulate))
    assert Counting.epochs == [1, 2, 3, 4]


# precision


def first_gradient(config: Config, crop: Crop) -> tuple[dict[str, Tensor], Tensor]:
    """The terms of one sample at the first weights, and the gradient, flat."""
    state = build_state(config, CPU)
    terms = gradient_of(state, config, [crop])
    gradients = [p.grad.flatten() for p in state.method.parameters() if p.grad is not None]
    return terms, torch.cat(gradients)


@pytest.mark.parametrize("stage", list(STAGES))
def test_bf16_and_fp32_agree(stage: str, tiny_config: MakeConfig, tiny_prepared: Prepared) -> None:
    """Terms within 2 %, the contrast within 0.4: a cosine errs by some 2^-6, over the temperature.

    That temperature makes the contrast's gradient coarse in bf16; the other terms' has the same
    direction within 11 degrees (cosine 0.98) and the same length within 5 %.
    """
    crop = crops_of(tiny_config(stage), tiny_prepared)[0]
    full, _ = first_gradient(tiny_config(stage, precision="fp32"), crop)
    half, _ = first_gradient(tiny_config(stage, precision="bf16"), crop)
    for name in set(full) - {"total"}:
        atol = 0.4 if name == "con" else 0.0
        torch.testing.assert_close(half[name], full[name], rtol=0.02, atol=atol)
    others = {"weights": {"con": 0.0}}
    _, full_gradient = first_gradient(tiny_config(stage, settings=others), crop)
    _, half_gradient = first_gradient(tiny_config(stage, settings=others, precision="bf16"), crop)
    assert torch.cosine_similarity(full_gradient, half_gradient, dim=0) > 0.98
    assert half_gradient.norm() == pytest.approx(float(full_gradient.norm()), rel=0.05)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_in_16_bits_ends_near_the_one_in_32(
    precision: str, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    full = read_log(train(tiny_config(checkpoints=tmp_path / "fp32")))
    half_run = train(tiny_config(precision=precision))
    for a, b in zip(read_log(half_run), full, strict=True):
        assert float(a["total"]) == pytest.approx(float(b["total"]), rel=0.05)
    content = load_checkpoint(half_run.checkpoint)
    assert all(tensor.dtype == torch.float32 for tensor in content["method"].values())
    assert (content["scaler"] != {}) == (precision == "fp16")
