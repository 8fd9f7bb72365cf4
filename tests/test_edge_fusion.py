"""Edge features, their gate, and their way back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.capture import captured
from models.edge_fusion import EdgeFusion


def make_feature(channels: int) -> Tensor:
    """Of the size that the decoder's features have at the start."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, channels, 4, 6, 8, generator=generator) * (27 * channels / 2) ** 0.5


def make_fusion(channels: int = 16) -> EdgeFusion:
    torch.manual_seed(0)
    return EdgeFusion(channels)


def force_gate(fusion: EdgeFusion, value: float) -> None:
    nn.init.zeros_(fusion.select.weight)
    assert fusion.select.bias is not None
    nn.init.constant_(fusion.select.bias, value)


def test_with_the_gate_closed_the_features_do_not_depend_on_the_edges() -> None:
    fusion, feature = make_fusion(), make_feature(16)
    open_ = fusion(feature)
    force_gate(fusion, -1e4)
    closed = fusion(feature)
    torch.testing.assert_close(closed, fusion.merge(feature))
    for parameter in fusion.edge.parameters():
        nn.init.normal_(parameter)
    assert torch.equal(fusion(feature), closed)
    assert not torch.allclose(open_, closed)


def test_it_is_the_printed_formula() -> None:
    fusion, feature = make_fusion(), make_feature(16)
    with captured(fusion.edge) as calls:
        merged = fusion(feature)
    edge = calls[fusion.edge].output
    assert calls[fusion.edge].input is feature
    torch.testing.assert_close(merged, fusion.merge(feature + fusion.select(edge).sigmoid() * edge))


@pytest.mark.parametrize("channels", [8, 32])
def test_features_keep_their_size_so_that_nothing_behind_begins_elsewhere(channels: int) -> None:
    fusion, feature = make_fusion(channels), make_feature(channels)
    with captured(fusion.edge) as calls:
        merged = fusion(feature)
    assert merged.shape == feature.shape
    for found in (merged, calls[fusion.edge].output):
        ratio = found.square().mean().sqrt() / feature.square().mean().sqrt()
        assert float(ratio.detach()) == pytest.approx(1, rel=0.1)


def test_at_width_32_it_has_the_parameters_that_table_vi_leaves_for_it() -> None:
    assert sum(p.numel() for p in EdgeFusion(32).parameters()) == 3 * 32 * 32 + 32 + 2 * 64
