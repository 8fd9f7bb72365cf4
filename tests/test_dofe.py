"""DoFE: what moves the memory and what does not, its label, neutral settings, a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.dataset import Crop
from engine.checkpointing import State, build_state, load_checkpoint
from engine.inference import load_predictor
from engine.run_folders import find_runs
from methods import build_method
from methods.dofe import Dofe, soft_label
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
    train_with_and_without_a_kill,
)
from tests.conftest import Tiny, read_log, start_script, take_step, train, weights


@pytest.fixture
def pairs(tiny_prepared: Prepared) -> list[list[Crop]]:
    return make_pairs(tiny_prepared)


def dofe(state: State) -> Dofe:
    assert isinstance(state.method, Dofe)
    return state.method


def memories(state: State) -> list[Tensor]:
    return [pool.prototypes.clone() for pool in dofe(state).network.pools]


# the memory


@pytest.mark.parametrize("momentum", [0.9, 0.5])
def test_a_step_moves_the_memory_of_its_centers_by_the_mean_of_their_features(
    momentum: float, tiny_config: MakeConfig, pairs: list[list[Crop]]
) -> None:
    config = tiny_config("tumor_fine", method="dofe", settings={"momentum": momentum})
    state = build_state(config, CPU, SOURCES)
    dofe(state).remembered.fill_(1000)  # long past the plain mean
    for pool in dofe(state).network.pools:
        pool.prototypes.normal_()
    before = memories(state)
    step, samples = begin_step(state, config, [pairs[0][1], pairs[1][1]])  # two of B
    assert [sample.domain for sample in samples] == [1, 1]
    means = []

    def note(sample, generator):  # type: ignore[no-untyped-def]
        means.append(dofe(state).network.read(sample.image)[1])
        return {}

    for sample in samples:
        step.forward(note, sample)
    step, samples = begin_step(state, config, [pairs[0][1], pairs[1][1]])
    state.method.training_step(samples, step)
    assert all(torch.equal(a, b) for a, b in zip(memories(state), before, strict=True))
    state.method.after_step(step)
    for level, (old, new) in enumerate(zip(before, memories(state), strict=True)):
        mean = torch.cat([pair[level] for pair in means]).mean(dim=0)
        torch.testing.assert_close(new[1], momentum * old[1] + (1 - momentum) * mean)
        assert torch.equal(new[0], old[0])
    assert dofe(state).remembered.tolist() == [1000, 1001]


def test_the_first_steps_are_a_plain_mean(tiny_config: MakeConfig, pairs: list[list[Crop]]) -> None:
    config = tiny_config("tumor_fine", method="dofe", settings={"momentum": 0.6})
    state = build_state(config, CPU, SOURCES)
    step, _ = begin_step(state, config, [])
    values = [1.0, 3.0, 5.0, 10.0]
    expected = [1.0, 2.0, 0.6 * 2 + 0.4 * 5, 0.6 * (0.6 * 2 + 0.4 * 5) + 0.4 * 10]
    for value, mean in zip(values, expected, strict=True):
        means = torch.full((1, 64), value), torch.full((1, 16), -value)
        dofe(state)._seen.append((0, means))
        state.method.after_step(step)
        deep, level = memories(state)
        torch.testing.assert_close(deep[0], torch.full((64,), mean))
        torch.testing.assert_close(level[0], torch.full((16,), -mean))
        assert not deep[1].any()


def test_only_training_moves_it(tiny_config: MakeConfig, pairs: list[list[Crop]]) -> None:
    config = tiny_config("tumor_fine", method="dofe")
    state = build_state(config, CPU, SOURCES)
    for pair in pairs:
        take_step(state, config, pair)
    before = {name: value.clone() for name, value in state.method.state_dict().items()}
    assert all(memory.count_nonzero(dim=1).all() for memory in memories(state))
    step, (sample, _) = begin_step(state, config, pairs[0])
    state.method.eval()
    with torch.no_grad():
        state.method.predict(sample.image)
        step.forward(state.method.loss, sample)
    state.method.train()
    with torch.no_grad():
        state.method.predict(sample.image)
    state.method.after_step(step)
    assert all(torch.equal(before[name], v) for name, v in state.method.state_dict().items())


def test_it_is_saved_has_no_gradient_and_an_entry_for_each_source(
    tiny_config: MakeConfig, pairs: list[list[Crop]]
) -> None:
    config = tiny_config("tumor_fine", method="dofe")
    state = build_state(config, CPU, SOURCES)
    for pair in pairs:
        take_step(state, config, pair, steps=2)
    for name in ("network.deep_pool.prototypes", "network.level_pool.prototypes"):
        assert state.method.state_dict()[name].shape[0] == len(SOURCES)
        assert not state.method.state_dict()[name].requires_grad
        assert name not in dict(state.method.named_parameters())


def test_the_memory_is_read_after_the_warm_up_only(
    tiny_config: MakeConfig, pairs: list[list[Crop]]
) -> None:
    config = tiny_config("tumor_fine", method="dofe", settings={"warmup": 0.5})
    state = build_state(config, CPU, SOURCES)
    active, moved = [], []
    for pair in (*pairs, *pairs):
        take_step(state, config, pair, steps=4)
        active.append(float(dofe(state).network.active))
        moved.append(bool(dofe(state).network.deep_pool.gate.weight.any()))
    assert active == [0, 0, 1, 1]
    assert moved == [False, False, True, True]


# the domain code


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_label_sums_to_1_and_favors_the_true_center(count: int) -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.stack([soft_label(1, count, 0.8, rng) for _ in range(500)])
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(500))
    true = labels[:, 1]
    assert 0.8 <= true.min() < 0.81
    assert 0.99 < true.max() <= 1
    assert float(true.mean()) == pytest.approx(0.9, abs=0.01)
    assert (labels >= 0).all()
    if count > 2:
        assert labels[:, 0].std() > 0.01  # the rest is shared at random
        assert float(labels[:, 0].mean()) == pytest.approx(0.1 / (count - 1), abs=0.01)


def test_the_code_learns_the_center(tiny_config: MakeConfig, pairs: list[list[Crop]]) -> None:
    config = tiny_config("tumor_fine", method="dofe", lr=1e-3, settings={"weights": {"domain": 1}})
    state = build_state(config, CPU, SOURCES)
    errors = []
    for number in range(12):
        step = take_step(state, config, pairs[number % 2], steps=100)
        errors.append(step.values["domain"])  # type: ignore[attr-defined]
    assert sum(errors[-4:]) < 0.5 * sum(errors[:4])


# neutral settings and cost


def test_without_a_memory_and_code_a_step_is_the_baselines_to_the_bit(
    tiny_config: MakeConfig, pairs: list[list[Crop]]
) -> None:
    expected = network_after(tiny_config("tumor_fine", method="bl"), pairs[0])
    for settings in ({"weights": {"domain": 0.0}}, {"weights": {"domain": 0.0}, "warmup": 0.0}):
        found = network_after(tiny_config("tumor_fine", method="dofe", settings=settings), pairs[0])
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    found = network_after(tiny_config("tumor_fine", method="dofe"), pairs[0])
    assert not all(torch.equal(found[name], value) for name, value in expected.items())


def test_its_cost_is_that_of_table_vi() -> None:
    parameters, gmacs = cost("dofe")
    assert (parameters, gmacs) == (19_028_483, "945.95")
    assert f"{2 * parameters / 1e7:.2f}" == "3.81"


def test_one_source_is_refused(tiny_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match="method dofe needs 2 source centers or more, not 1"):
        build_method(tiny_config("tumor_fine", method="dofe"), ("A",))


# runs


def test_a_killed_run_resumes_to_the_same_memory(tiny_config: MakeConfig, tmp_path: Path) -> None:
    whole, resumed = train_with_and_without_a_kill("dofe", tiny_config, tmp_path, {"momentum": 0.7})
    assert_equal_runs(whole, resumed)
    tensors = weights(whole)
    assert tensors["remembered"].tolist() == [6, 6]
    assert tensors["network.active"] == 1
    assert tensors["network.deep_pool.prototypes"].count_nonzero(dim=1).all()
    seen = {case.split("/")[0] for row in read_log(whole) for case in row["cases"].split()}
    assert seen == {"A", "B"}  # never the target's


def test_a_checkpoint_predicts_with_its_memory(tiny_config: MakeConfig, tmp_path: Path) -> None:
    run = train(tiny_config(method="dofe", epochs=4, settings={"warmup": 0.0}))
    predictor = load_predictor(run.checkpoint, "cpu")
    image = torch.rand(1, 1, 8, 16, 16)
    with torch.no_grad():
        prob = predictor.predict(image)
        predictor.method.network.active.zero_()  # type: ignore[operator]
        assert not torch.equal(predictor.predict(image), prob)


def test_16_bits_are_near_32(tiny_config: MakeConfig, tmp_path: Path) -> None:
    assert_near_in_16_bits("dofe", tiny_config, tmp_path)


@pytest.mark.slow
def test_two_processes_share_one_memory(
    tiny: Tiny, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    """It is that of one process with twice the samples a step; the weights agree to 1e-6."""
    args = tiny.args(tmp_path / "pair", "--method", "dofe", "--epochs", "4")
    process = start_script("train_tumor/train_sh_tumor_coarse.py", *args, processes=2)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    (pair,) = find_runs(tmp_path / "pair", "tumor_coarse")
    alone = tiny_config(method="dofe", epochs=4, accumulate=2, checkpoints=tmp_path / "alone")
    expected = weights(train(replace(alone, seed=load_checkpoint(pair.checkpoint)["seed"])))
    found = weights(pair)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6)
