"""DART: when copies are averaged, what they draw, what predicts, neutral settings, a kill."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from data.dataset import Crop, Sample
from engine.checkpointing import State, build_state, load_checkpoint
from methods import build_method
from methods.dart import Dart, mean_state
from tests._center_pairs import (
    CPU,
    SOURCES,
    MakeConfig,
    Prepared,
    assert_equal_runs,
    assert_near_in_16_bits,
    begin_step,
    cost,
    make_pairs,
    network_after,
    no_dropout,
    train_with_and_without_a_kill,
)
from tests.conftest import read_log, same, take_step, train
from utils.config import Config


@pytest.fixture
def pairs(tiny_prepared: Prepared) -> list[list[Crop]]:
    return make_pairs(tiny_prepared)


def dart(state: State) -> Dart:
    assert isinstance(state.method, Dart)
    return state.method


def states(state: State) -> list[dict[str, torch.Tensor]]:
    """The copies' tensors, as they are now."""
    return [{k: v.clone() for k, v in c.state_dict().items()} for c in dart(state).copies]


def step_counts(state: State) -> list[int]:
    return [int(o.state_dict()["state"][0]["step"]) for o in state.optimizers]


# averages


@pytest.mark.parametrize("copies", [2, 3])
def test_an_average_makes_all_copies_equal_to_their_mean_and_leaves_the_optimizers(
    copies: int, tiny_config: MakeConfig, pairs: list[list[Crop]]
) -> None:
    config = tiny_config("tumor_fine", method="dart", settings={"averages": 1, "copies": copies})
    state = build_state(config, CPU, SOURCES)
    take_step(state, config, pairs[0], steps=2)
    before, moments = states(state), [o.state_dict()["state"] for o in state.optimizers]
    step, _ = begin_step(state, config, pairs[1], steps=2)
    assert (step.number, step.total) == (2, 2)
    state.method.after_step(step)
    after = states(state)
    for name, value in after[0].items():
        expected = torch.stack([copy[name] for copy in before]).double().mean(dim=0)
        torch.testing.assert_close(value.double(), expected, rtol=0, atol=1e-7)
    assert all(same(copy, after[0]) for copy in after)
    assert same(state.method.network.state_dict(), after[0])
    for optimizer, old in zip(state.optimizers, moments, strict=True):
        for number, values in optimizer.state_dict()["state"].items():
            assert same(values, old[number])
    assert step_counts(state) == [1] * copies


@pytest.mark.parametrize(
    ("averages", "steps", "expected"),
    [(3, 6, [2, 4, 6]), (1, 5, [5]), (2, 5, [3, 5]), (4, 3, [1, 2, 3]), (10, 20, range(2, 21, 2))],
)
@pytest.mark.parametrize("mode", ["average", "ensemble"])
def test_averages_are_at_equal_intervals_and_the_last_at_the_end(
    mode: str, averages: int, steps: int, expected: Sequence[int], tiny_config: MakeConfig
) -> None:
    """An ensemble leaves out the last, after which all copies would be one."""
    settings = {"averages": averages, "mode": mode}
    config = tiny_config("tumor_fine", method="dart", settings=settings)
    state = build_state(config, CPU, SOURCES)
    found = []
    for number in range(1, steps + 1):
        with torch.no_grad():
            for shift, network in enumerate(dart(state).copies):
                for parameter in network.parameters():
                    parameter.add_(float(shift + 1))
        step, _ = begin_step(state, config, [], steps)
        state.method.after_step(step)
        state.step += 1
        first, second = states(state)
        if same(first, second):
            found.append(number)
    assert found == [n for n in expected if mode == "average" or n < steps]


def test_copies_begin_alike_and_diverge_between_averages(
    tiny_config: MakeConfig, pairs: list[list[Crop]]
) -> None:
    config = tiny_config("tumor_fine", method="dart", settings={"averages": 1})
    state = build_state(config, CPU, SOURCES)
    first, second = states(state)
    assert same(first, second)
    baseline = build_state(tiny_config("tumor_fine", method="bl"), CPU, SOURCES)
    assert same(first, baseline.method.network.state_dict())
    for pair in pairs:
        take_step(state, config, pair)
    first, second = states(state)
    assert not same(first, second)
    assert same(state.method.network.state_dict(), baseline.method.network.state_dict())
    state.method.after_epoch(1)  # what held-out cases are measured with
    assert same(state.method.network.state_dict(), mean_state(dart(state).copies))
    assert all(same(a, b) for a, b in zip(states(state), (first, second), strict=True))


def test_whole_numbers_are_copied_and_not_averaged() -> None:
    networks = [nn.BatchNorm1d(2), nn.BatchNorm1d(2)]
    for number, network in enumerate(networks):
        assert network.num_batches_tracked is not None
        network.num_batches_tracked.fill_(4 + number)
        assert network.running_mean is not None
        network.running_mean.fill_(number)
    mean = mean_state(networks)
    assert mean["num_batches_tracked"] == 4
    assert mean["num_batches_tracked"].dtype == torch.long
    assert mean["running_mean"].tolist() == [0.5, 0.5]


# draws


def sample_of(domain: int) -> Sample:
    image = torch.zeros(1, 1, 8, 8, 8)
    return Sample(image, image, image, (1.0, 1.0, 1.0), domain, "case", SOURCES[domain % 2], 0)


@pytest.mark.parametrize("domains", [(0, 1), (0, 1, 0, 1), (0, 1, 2)])
def test_a_copy_draws_its_own_center_twice_as_often_as_each_other(
    domains: tuple[int, ...], tiny_config: MakeConfig
) -> None:
    method = build_method(
        tiny_config("tumor_fine", method="dart"), ("A", "B", "C")[: max(domains) + 1]
    )
    assert isinstance(method, Dart)
    rng = torch.Generator().manual_seed(0)
    samples = [sample_of(domain) for domain in domains]
    sources = max(domains) + 1
    for number in range(sources):
        total = [0.0] * sources
        for _ in range(4000):
            shares = method.draw_shares(number, samples, rng)
            assert sum(shares) == pytest.approx(1)
            for domain, share in zip(domains, shares, strict=True):
                total[domain] += share / 4000
        others = [2 / (sources + 1) if d == number else 1 / (sources + 1) for d in range(sources)]
        assert total == pytest.approx(others, abs=0.02)


def test_the_copy_on_all_centers_sees_each_sample_once(tiny_config: MakeConfig) -> None:
    method = build_method(
        tiny_config("tumor_fine", method="dart", settings={"mixture": True}), SOURCES
    )
    assert isinstance(method, Dart)
    assert method.copy_count == len(method.copies) == 3
    samples = [sample_of(0), sample_of(1)]
    assert method.draw_shares(2, samples, torch.Generator()) == [0.5, 0.5]


@pytest.mark.parametrize(
    ("settings", "sources", "count"),
    [
        ({}, (), 2),
        ({}, SOURCES, 2),
        ({}, ("A",), 1),
        ({}, ("A", "B", "N"), 3),
        ({"copies": 4}, SOURCES, 4),
    ],
)
def test_there_is_a_copy_for_each_source(
    settings: dict[str, object], sources: tuple[str, ...], count: int, tiny_config: MakeConfig
) -> None:
    method = build_method(tiny_config("tumor_fine", method="dart", settings=settings), sources)
    assert isinstance(method, Dart)
    assert len(method.copies) == len(method.build_optimizers()) == count


# neutral settings


@pytest.mark.parametrize("mode", ["average", "ensemble"])
def test_a_single_copy_is_the_baseline_to_the_bit(
    mode: str, tiny_config: MakeConfig, pairs: list[list[Crop]]
) -> None:
    config = tiny_config("tumor_fine", method="dart", settings={"copies": 1, "mode": mode})
    found = network_after(config, pairs[0])
    expected = network_after(tiny_config("tumor_fine", method="bl"), pairs[0])
    prefix = "0." if mode == "ensemble" else ""
    assert same(found, {prefix + name: value for name, value in expected.items()})


def test_copies_on_the_same_draws_stay_equal_and_are_plain_training(
    tiny_config: MakeConfig, pairs: list[list[Crop]]
) -> None:
    """Without dropout, which each copy draws again."""

    def train_both(config: Config) -> State:
        state = build_state(config, CPU, SOURCES)
        no_dropout(state.method)
        for pair in pairs:
            state.values = take_step(state, config, pair).values  # type: ignore[attr-defined]
        return state

    alike = {"own_ratio": 1.0, "averages": 1, "copies": 2}
    found = train_both(tiny_config("tumor_fine", method="dart", settings=alike))
    plain = train_both(tiny_config("tumor_fine", method="bl"))
    first, second = states(found)
    assert same(first, second)
    assert same(first, plain.method.network.state_dict())
    for name in ("seg", "total"):  # the log has the copies' mean
        assert found.values[name] == pytest.approx(plain.values[name])  # type: ignore[attr-defined]


# what predicts


def test_an_ensemble_predicts_the_mean_probability_and_an_average_one_network(
    tiny_config: MakeConfig,
) -> None:
    image = torch.rand(1, 1, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    for mode in ("average", "ensemble"):
        config = tiny_config("tumor_fine", method="dart", settings={"mode": mode})
        state = build_state(config, CPU, SOURCES)
        with torch.no_grad():
            for parameter in dart(state).copies[1].parameters():
                parameter.mul_(-1.5)
        state.method.eval()
        each = [torch.sigmoid(copy(image).logits) for copy in dart(state).copies]
        assert not torch.equal(each[0], each[1])
        if mode == "average":
            state.method.after_epoch(1)
            each = [torch.sigmoid(state.method.network(image).logits)]
        with torch.no_grad():
            prob = state.method.predict(image)
        torch.testing.assert_close(prob, torch.stack(each).mean(dim=0).detach())


def test_an_average_costs_one_network_and_an_ensemble_two() -> None:
    assert cost("dart") == (18_957_825, "945.23")
    assert cost("dart", {"mode": "ensemble"}) == (2 * 18_957_825, "1890.47")


# runs


@pytest.mark.parametrize("mode", ["average", "ensemble"])
def test_a_killed_run_resumes_to_the_same_weights(
    mode: str, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    settings = {"averages": 3, "mode": mode}  # killed between the first and the second
    whole, resumed = train_with_and_without_a_kill("dart", tiny_config, tmp_path, settings)
    assert_equal_runs(whole, resumed)
    content = load_checkpoint(whole.checkpoint)
    assert [o["state"][0]["step"] for o in content["optimizers"]] == [6, 6]


def test_a_training_that_ends_early_predicts_with_the_mean(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "engine.early_stopping.EarlyStopping.has_plateaued", lambda _, history: bool(history)
    )
    run = train(
        tiny_config(
            method="dart",
            epochs=8,
            validate_epochs=1,
            patience=1,
            holdout=0.5,
            sources=("A", "C"),
            target="B",
            settings={"averages": 1},
        )
    )
    assert len(read_log(run)) < 8
    tensors = load_checkpoint(run.checkpoint)["method"]
    moved = 0
    for name in [n for n in tensors if n.startswith("network.")]:
        copies = [tensors[name.replace("network.", f"auxiliary.{k}.")] for k in (0, 1)]
        torch.testing.assert_close(tensors[name], (copies[0] + copies[1]) / 2)
        moved += not torch.equal(*copies)
    assert moved


def test_16_bits_are_near_32(tiny_config: MakeConfig, tmp_path: Path) -> None:
    assert_near_in_16_bits("dart", tiny_config, tmp_path)
