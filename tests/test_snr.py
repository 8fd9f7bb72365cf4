"""SNR: where its modules are, what its loss trains, and what it costs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from data.prepare.prepared_case import PreparedCase
from engine.command_line import parse_config
from methods import build_method
from methods.snr import SNR
from models.backbone import ResidualEncoderDecoder
from models.capture import captured
from models.restitution import Restitution
from tests._baseline import costs, make_crops, network_weights, sample_of, train_steps
from tests._gradients import has_gradient
from tests.conftest import same
from utils.config import Config
from utils.stages import TUMOR_FINE

MakeConfig = Callable[..., Config]
Prepared = dict[str, list[PreparedCase]]
NEUTRAL = {"modules": 0, "weights": {"cau": 0.0}}


def make_snr(config: Config) -> SNR:
    torch.manual_seed(0)
    method = build_method(config)
    assert isinstance(method, SNR)
    return method


def backbone(method: SNR) -> ResidualEncoderDecoder:
    assert isinstance(method.network, ResidualEncoderDecoder)
    return method.network


def test_without_modules_it_is_the_baseline_to_the_bit(
    tiny_config: MakeConfig, tiny_prepared: Prepared
) -> None:
    crops = make_crops(tiny_prepared)[:1]
    neutral, values = train_steps(tiny_config(method="snr", settings=NEUTRAL), crops)
    baseline, expected = train_steps(tiny_config(method="bl"), crops)
    assert same(network_weights(neutral), network_weights(baseline))
    assert values == expected
    released, _ = train_steps(tiny_config(method="snr", settings={"weights": {"cau": 0.0}}), crops)
    assert released.method.auxiliary is None
    shared = network_weights(baseline)
    moved = {name: network_weights(released)[name] for name in shared}
    assert not same(moved, shared)


def test_its_modules_end_the_first_three_stages_skip_connections_included(
    tiny_config: MakeConfig,
) -> None:
    method = make_snr(tiny_config(method="snr"))
    network, modules = backbone(method), method.restitutions()
    assert [module.norm.num_features for module in modules] == [8, 16, 32]
    parts = (network.down1, network.stage0, *modules, network.decoder1, network.upsample)
    with captured(*parts) as calls:
        network(torch.rand(1, 1, 8, 16, 24))
    assert network.stage0[-1] is modules[0]
    assert network.stage1[-1] is modules[1]
    assert network.stage2[-1] is modules[2]
    assert calls[network.down1].input is calls[modules[0]].output
    skip = calls[network.decoder1].input - calls[network.upsample].output  # the last upsampling
    torch.testing.assert_close(skip, calls[modules[0]].output, rtol=1e-4, atol=1e-4)


def test_the_causality_loss_trains_encoder_modules_and_heads_and_nothing_behind(
    tiny_config: MakeConfig,
) -> None:
    method = make_snr(tiny_config(method="snr"))
    method.loss(sample_of(method.stage), torch.Generator())["cau"].backward()
    network = backbone(method)
    assert has_gradient(network.stem)
    assert all(has_gradient(module) for module in method.restitutions())
    assert isinstance(method.auxiliary, nn.ModuleList)
    assert all(has_gradient(head) for head in method.auxiliary)
    behind = (network.stage3, network.decoder3, network.decoder1, network.segmentation_head)
    assert not any(has_gradient(module) for module in behind)


def test_eq_2_does_not_reach_the_heads(tiny_config: MakeConfig) -> None:
    method = make_snr(tiny_config(method="snr"))
    method.loss(sample_of(method.stage), torch.Generator())["seg"].backward()
    assert method.auxiliary is not None
    assert not has_gradient(method.auxiliary)
    assert all(has_gradient(module) for module in method.restitutions())


def test_a_prediction_runs_no_head(tiny_config: MakeConfig) -> None:
    method = make_snr(tiny_config(method="snr")).eval()
    assert isinstance(method.auxiliary, nn.ModuleList)
    with captured(*method.auxiliary) as calls, torch.no_grad():
        method.predict(torch.rand(1, 1, 8, 16, 24))
    assert not calls


def test_bf16_and_fp32_agree(tiny_config: MakeConfig, tiny_prepared: Prepared) -> None:
    crops = make_crops(tiny_prepared)[:2]
    _, full = train_steps(tiny_config(method="snr"), crops)
    _, half = train_steps(tiny_config(method="snr", precision="bf16"), crops)
    for a, b in zip(half, full, strict=True):
        assert a["seg"] == pytest.approx(b["seg"], rel=0.02)
        assert a["cau"] == pytest.approx(b["cau"], rel=0.02)


@pytest.mark.slow
def test_it_costs_what_table_vi_prints() -> None:
    assert costs("snr") == {(18_957_825 + 3_374, "946.02")}


def test_the_heads_have_227_parameters() -> None:
    with torch.device("meta"):
        method = build_method(parse_config(TUMOR_FINE, ["--method", "snr"]))
    assert method.auxiliary is not None
    assert sum(p.numel() for p in method.auxiliary.parameters()) == 227
    assert not any(isinstance(m, Restitution) for m in method.auxiliary.modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--modules", "4"], "--modules 4: at most 3"),
        (["--reduction", "0"], "--reduction 0: at least 1"),
    ],
)
def test_a_setting_out_of_range_is_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_config(TUMOR_FINE, ["--method", "snr", *options])
    assert message in capsys.readouterr().err


def test_a_causality_loss_without_a_module_is_refused(tiny_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match=r"--modules 0: the term cau has no module; give --weigh"):
        make_snr(tiny_config(method="snr", settings={"modules": 0}))
