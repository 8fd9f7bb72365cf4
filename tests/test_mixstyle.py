"""MixStyle: when styles are mixed, with whom, and that nothing of it is left in prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.prepare.prepared_case import PreparedCase
from engine.checkpointing import load_checkpoint
from methods import build_method, make_config
from methods.mixstyle import MixStyle, draw_share
from models.style import StyleBank
from tests._baseline import (
    BASELINE_COST,
    SOURCES,
    costs,
    killed_and_resumed,
    make_crops,
    network_weights,
    sample_of,
    train_steps,
)
from tests.conftest import Tiny, same, start_script
from utils.config import Config
from utils.stages import TUMOR_FINE

MakeConfig = Callable[..., Config]
Prepared = dict[str, list[PreparedCase]]
ALWAYS = {"probability": 1.0}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(config: Config, sources: tuple[str, ...] = SOURCES) -> MixStyle:
    torch.manual_seed(0)
    method = build_method(config, sources)
    assert isinstance(method, MixStyle)
    return method


def banks(method: torch.nn.Module) -> list[StyleBank]:
    return [module for module in method.modules() if isinstance(module, StyleBank)]


def losses(method: MixStyle, domains: tuple[int, ...]) -> list[float]:
    """The loss of a sample of each domain, one after the other, as in steps of their own."""
    found = []
    for index, domain in enumerate(domains):
        sample = sample_of(TUMOR_FINE, domain, seed=index)
        torch.manual_seed(0)  # dropout
        found.append(method.loss(sample, generator(index))["seg"].item())
        for bank in banks(method):
            bank.merge()
    return found


def test_without_a_chance_to_mix_steps_are_the_baselines_bit_for_bit(
    tiny_config: MakeConfig, tiny_prepared: Prepared
) -> None:
    crops = make_crops(tiny_prepared)[:3]
    bl, expected = train_steps(tiny_config("tumor_fine", method="bl"), crops)
    settings = {"probability": 0.0, "layers": (0, 1, 2)}
    config = tiny_config("tumor_fine", method="mixstyle", settings=settings)
    neutral, values = train_steps(config, crops)
    assert values == expected
    assert same(network_weights(neutral), network_weights(bl))


def test_at_batch_1_a_step_differs_from_the_baselines_once_a_style_is_known(
    tiny_config: MakeConfig, tiny_prepared: Prepared
) -> None:
    crops = make_crops(tiny_prepared)[:2]
    _, expected = train_steps(tiny_config("tumor_fine", method="bl"), crops)
    mixed = tiny_config("tumor_fine", method="mixstyle", settings=ALWAYS)
    state, values = train_steps(mixed, crops)
    assert values[0] == expected[0]  # nobody to mix with yet
    assert values[1]["seg"] != expected[1]["seg"]
    assert all(bank.filled.sum() == 2 for bank in banks(state.method))


@pytest.mark.parametrize(
    ("sources", "domains", "differ"),
    [
        (SOURCES, (0, 0, 0, 1, 0), [False, False, False, True, True]),  # only others' styles
        (("A",), (0, 0, 0), [False, True, True]),  # of one center, its other cases
    ],
)
def test_partners_are_of_another_center_where_there_is_one(
    sources: tuple[str, ...], domains: tuple[int, ...], differ: list[bool], tiny_config: MakeConfig
) -> None:
    settings = {**ALWAYS, "alpha": 5.0}  # shares near one half
    config = tiny_config("tumor_fine", method="mixstyle", settings=settings)
    off = tiny_config("tumor_fine", method="mixstyle", settings={"probability": 0.0})
    alone = losses(build(off, sources).train(), domains)
    mixed = losses(build(config, sources).train(), domains)
    assert [a != b for a, b in zip(alone, mixed, strict=True)] == differ
    anyone = replace(config, settings=replace(config.settings, partner="random"))
    assert losses(build(anyone, sources).train(), domains)[0] == alone[0]
    assert losses(build(anyone, sources).train(), domains)[1] != alone[1]


def test_the_features_of_a_place_take_the_partners_statistics(tiny_config: MakeConfig) -> None:
    settings = {**ALWAYS, "layers": (0,), "alpha": 5.0}
    method = build(tiny_config("tumor_fine", method="mixstyle", settings=settings)).train()
    (bank,) = banks(method)
    mean, std = torch.full((1, 8), 3.0), torch.full((1, 8), 0.5)
    bank.add((mean, std), 1, 0)
    bank.merge()
    sample = sample_of(TUMOR_FINE)
    stem, stage0 = (method.network.get_submodule(name) for name in ("stem", "stage0"))
    before = stage0(stem(sample.image))
    with method.mixing(sample, generator(2)):
        after = stage0(stem(sample.image))
    rng = generator(2)
    torch.rand(2, generator=rng)
    share = draw_share(5.0, rng)
    expected = share * before.mean((2, 3, 4)) + (1 - share) * mean
    torch.testing.assert_close(after.mean((2, 3, 4)), expected, rtol=1e-4, atol=1e-4)
    expected = share * before.flatten(2).std(2) + (1 - share) * std
    torch.testing.assert_close(after.flatten(2).std(2), expected, rtol=1e-4, atol=1e-4)


def test_each_place_has_a_coin_of_its_own_and_mixes_half_of_the_times(
    tiny_config: MakeConfig,
) -> None:
    method = build(tiny_config("tumor_fine", method="mixstyle")).train()
    for bank in banks(method):
        bank.add((torch.ones(1, bank.styles.shape[3]),) * 2, 1, 0)
        bank.merge()
    features = {n: torch.randn(1, b.styles.shape[3], 2, 2, 2) for n, b in _named(method)}
    sample, rng, mixed = sample_of(TUMOR_FINE), generator(3), []
    for _ in range(400):
        hooks = [method._mixer(bank, sample, rng) for bank in banks(method)]
        mixed.append(
            [
                not torch.equal(hook(method, (), x), x)
                for hook, x in zip(hooks, features.values(), strict=True)
            ]
        )
    counts = torch.tensor(mixed, dtype=torch.float)
    assert counts.mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.09)
    assert torch.corrcoef(counts.T)[0, 1].abs() < 0.15


def _named(method: MixStyle) -> list[tuple[str, StyleBank]]:
    return [(name, bank) for name, bank in method.auxiliary.items() if isinstance(bank, StyleBank)]


def test_shares_are_those_of_the_beta_distribution() -> None:
    rng = generator(4)
    shares = torch.tensor([draw_share(0.1, rng) for _ in range(4000)])
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(shares.var()) == pytest.approx(0.25 / 1.2, rel=0.05)  # 1 / (4 (2 alpha + 1))


def test_nothing_is_mixed_or_noted_outside_training(tiny_config: MakeConfig) -> None:
    method = build(tiny_config("tumor_fine", method="mixstyle", settings=ALWAYS)).train()
    losses(method, (0, 1))
    method.eval()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    plain = build(tiny_config("tumor_fine", method="mixstyle", settings={"probability": 0.0}))
    plain.load_state_dict(method.state_dict())
    assert losses(method, (0, 1)) == losses(plain.eval(), (0, 1))
    assert same(method.state_dict(), before)
    assert not any(module._forward_hooks for module in method.modules())


def test_hooks_are_gone_after_a_failed_pass_too(tiny_config: MakeConfig) -> None:
    method = build(tiny_config("tumor_fine", method="mixstyle")).train()
    sample = sample_of(TUMOR_FINE)
    with pytest.raises(ValueError, match="multiple of 8"):
        method.loss(replace(sample, image=sample.image[..., :5]), generator())
    assert not any(module._forward_hooks for module in method.modules())


def test_the_bank_survives_a_kill_and_never_sees_the_target(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**ALWAYS, "alpha": 5.0}
    config = tiny_config("tumor_fine", method="mixstyle", settings=settings, epochs=2)
    whole, resumed = killed_and_resumed(config, MixStyle, tmp_path, monkeypatch)
    assert same(whole.weights, resumed.weights)
    assert whole.log == resumed.log
    assert whole.weights["auxiliary.stage0.filled"].shape == (2, 32)
    assert whole.weights["auxiliary.stage0.filled"].sum(1).tolist() == [4, 2]  # 2 cases and 1
    assert not any("C/" in row["cases"] for row in whole.log)


@pytest.mark.slow
def test_two_processes_train_as_one_that_accumulates_two(tiny: Tiny, tmp_path: Path) -> None:
    argv = ["--method", "mixstyle", "--probability", "1", "--alpha", "5", "--epochs", "4"]
    found = []
    for processes, more in ((2, ()), (1, ("--accumulate", "2"))):
        folder = tmp_path / str(processes)
        script = "train_tumor/train_sh_tumor_fine.py"
        started = start_script(script, *tiny.args(folder, *argv, *more), processes=processes)
        printed, _ = started.communicate()
        assert started.returncode == 0, printed
        (checkpoint,) = folder.glob("*/last.pt")
        found.append(load_checkpoint(checkpoint)["method"])
    assert same(*found)
    assert found[0]["auxiliary.stage1.filled"].sum() > 2


@pytest.mark.parametrize("layers", [(), (1, 1)])
def test_places_that_mean_nothing_are_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"--layers .*each once"):
        make_config(TUMOR_FINE, "mixstyle", {"layers": layers})


def test_bf16_and_fp32_agree(tiny_config: MakeConfig, tiny_prepared: Prepared) -> None:
    settings = {**ALWAYS, "alpha": 5.0}

    def terms(precision: str) -> list[float]:
        config = tiny_config(
            "tumor_fine", method="mixstyle", settings=settings, precision=precision
        )
        return [values["seg"] for values in train_steps(config, make_crops(tiny_prepared)[:2])[1]]

    assert terms("bf16") == pytest.approx(terms("fp32"), rel=0.02)


def test_it_costs_what_table_vi_prints() -> None:
    assert costs("mixstyle") == BASELINE_COST
