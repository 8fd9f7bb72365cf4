"""LANet-style: edges that are learned beside the mask and merged into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.prepare.prepared_case import PreparedCase
from data.targets.edges import edge_mask
from engine.checkpointing import build_state
from engine.command_line import parse_config
from losses.segmentation import dice_bce_loss
from methods import build_method, make_config
from methods.lanet_style import LanetStyle
from models.backbone import ResidualEncoderDecoder
from models.capture import captured
from tests._baseline import CPU, SOURCES, costs, make_crops, network_weights, sample_of, train_steps
from tests._counting import count_once
from tests._gradients import has_gradient
from tests.conftest import gradient_of, same
from utils.config import Config
from utils.stages import TUMOR_FINE

MakeConfig = Callable[..., Config]
Prepared = dict[str, list[PreparedCase]]
NEUTRAL = {"scales": 0, "weights": {"aux": 0.0, "edge": 0.0}}
NAME = "lanet_style"


def make_lanet(config: Config) -> LanetStyle:
    torch.manual_seed(0)
    method = build_method(config)
    assert isinstance(method, LanetStyle)
    return method


def heads(method: LanetStyle) -> tuple[nn.ModuleList, nn.Module]:
    """The edge heads, and the head of the auxiliary mask."""
    assert isinstance(method.auxiliary, nn.ModuleDict)
    edge, aux = method.auxiliary["edge"], method.auxiliary["aux"]
    assert isinstance(edge, nn.ModuleList)
    return edge, aux


def test_at_no_scale_it_is_the_baseline_to_the_bit(
    tiny_config: MakeConfig, tiny_prepared: Prepared
) -> None:
    crops = make_crops(tiny_prepared)[:1]
    neutral, values = train_steps(tiny_config(method=NAME, settings=NEUTRAL), crops)
    baseline, expected = train_steps(tiny_config(method="bl"), crops)
    assert neutral.method.auxiliary is None
    assert same(network_weights(neutral), network_weights(baseline))
    assert values == expected


def test_the_edges_loss_reaches_the_encoder_and_not_what_reads_the_mask(
    tiny_config: MakeConfig,
) -> None:
    method = make_lanet(tiny_config(method=NAME))
    (fusion,), network = method.fusions(), method.network
    assert isinstance(network, ResidualEncoderDecoder)
    method.loss(sample_of(method.stage), torch.Generator())["edge"].backward()
    edge_heads, aux = heads(method)
    reached = (network.stem, network.stage4, fusion.edge, edge_heads)
    assert all(has_gradient(part) for part in reached)
    others = (fusion.select, fusion.merge, network.segmentation_head, aux)
    assert not any(has_gradient(part) for part in others)


def test_the_mask_reaches_edge_features_and_gate_and_no_head_that_only_trains(
    tiny_config: MakeConfig,
) -> None:
    method = make_lanet(tiny_config(method=NAME))
    (fusion,) = method.fusions()
    method.loss(sample_of(method.stage), torch.Generator())["seg"].backward()
    for part in (fusion.edge, fusion.select, fusion.merge):
        assert has_gradient(part)
    for head in heads(method):
        assert not has_gradient(head)


def test_the_auxiliary_mask_is_read_before_the_edges_are_merged(tiny_config: MakeConfig) -> None:
    method = make_lanet(tiny_config(method=NAME))
    (fusion,) = method.fusions()
    method.loss(sample_of(method.stage), torch.Generator())["aux"].backward()
    assert not has_gradient(fusion)
    assert has_gradient(heads(method)[1])
    network = method.network
    assert isinstance(network, ResidualEncoderDecoder)
    assert has_gradient(network.decoder1)


@pytest.mark.parametrize(("thickness", "within_slices"), [(4.4, False), (4.6, True)])
def test_edges_are_those_of_the_sample_within_slices_where_these_are_thick(
    thickness: float, within_slices: bool, tiny_config: MakeConfig
) -> None:
    method = make_lanet(tiny_config(method=NAME))
    sample = replace(sample_of(method.stage), spacing=(thickness, 1.5, 1.2))
    (head,), _ = heads(method)
    with captured(head) as calls:
        found = method.loss(sample, torch.Generator())["edge"]
    edge = edge_mask(sample.mask, within_slices=within_slices).float()
    assert edge.sum() > 0
    torch.testing.assert_close(found, dice_bce_loss(calls[head].output, edge, 10.0))


def test_at_three_scales_each_has_the_edge_of_its_own_mask_and_all_is_trained(
    tiny_config: MakeConfig, tiny_prepared: Prepared
) -> None:
    config = tiny_config(method=NAME, settings={"scales": 3})
    state = build_state(config, CPU, SOURCES)
    gradient_of(state, config, make_crops(tiny_prepared)[:2])
    for name, parameter in state.method.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.count_nonzero() > 0, name
    method = make_lanet(config)
    assert [fusion.select.in_channels for fusion in method.fusions()] == [8, 8, 16]
    sample = sample_of(method.stage)
    edge_heads, _ = heads(method)
    with captured(*edge_heads) as calls:
        found = method.loss(sample, torch.Generator())["edge"]
    losses = []
    for scale, head in zip((1, 2, 4), edge_heads, strict=True):
        edge = edge_mask(F.max_pool3d(sample.mask, scale)).float()
        losses.append(dice_bce_loss(calls[head].output, edge, 10.0))
    torch.testing.assert_close(found, torch.stack(losses).mean())


def test_a_sample_without_lesion_gives_finite_terms_and_a_gradient(tiny_config: MakeConfig) -> None:
    method = make_lanet(tiny_config(method=NAME))
    sample = sample_of(method.stage)
    terms = method.loss(replace(sample, mask=torch.zeros_like(sample.mask)), torch.Generator())
    torch.stack(list(terms.values())).sum().backward()
    for parameter in method.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_a_prediction_runs_no_head_that_only_trains(tiny_config: MakeConfig) -> None:
    method = make_lanet(tiny_config(method=NAME)).eval()
    edge_heads, aux = heads(method)
    with captured(*edge_heads, aux) as calls, torch.no_grad():
        method.predict(torch.rand(1, 1, 8, 16, 24))
    assert not calls


def test_bf16_and_fp32_agree(tiny_config: MakeConfig, tiny_prepared: Prepared) -> None:
    crops = make_crops(tiny_prepared)[:2]
    _, full = train_steps(tiny_config(method=NAME), crops)
    _, half = train_steps(tiny_config(method=NAME, precision="bf16"), crops)
    for a, b in zip(half, full, strict=True):
        for name in ("seg", "aux", "edge"):
            assert a[name] == pytest.approx(b[name], rel=0.02)


class WithHeads(nn.Module):
    """What a training runs, for the count."""

    def __init__(self, method: LanetStyle) -> None:
        super().__init__()
        self.network, (self.fusion,) = method.network, method.fusions()
        (self.edge,), self.aux = heads(method)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        with captured(self.fusion, self.fusion.edge) as calls:
            logits = self.network(image).logits
        edge, feature = calls[self.fusion.edge].output, calls[self.fusion].input
        return logits, self.edge(edge), self.aux(feature)


@pytest.mark.slow
def test_its_cost_and_table_vis_which_counts_the_heads_that_only_train() -> None:
    assert costs(NAME) == {(18_957_825 + 3_232, "957.91")}
    with torch.device("meta"):
        method = make_lanet(make_config(TUMOR_FINE, NAME, upsample="nearest"))
        counted = count_once(WithHeads(method))
    assert (counted.parameters, counted.gmacs) == (18_957_825 + 3_298, "958.14")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scales", "4"], "--scales 4: at most 3"),
        (["--positive-weight", "0.5"], "--positive-weight 0.5: at least 1"),
        (["--anisotropy", "0"], "--anisotropy 0.0: at least 1"),
    ],
)
def test_a_setting_out_of_range_is_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_config(TUMOR_FINE, ["--method", NAME, *options])
    assert message in capsys.readouterr().err


def test_terms_without_edge_features_are_refused(tiny_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match="--scales 0: the terms aux and edge have no features"):
        make_lanet(tiny_config(method=NAME, settings={"scales": 0}))
