"""PaNSegNet's network: Table VI's parameters and GMACs, and what linear attention is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from methods.external.pansegnet import (
    EMBEDDING,
    TABLE6_PLAN,
    AttentionLayer,
    LinearTransformer,
    PaNSegNet,
    Plan,
    linear_attention,
    sinusoids,
)
from models.complexity import count_complexity

SMALL = Plan(
    patch=(4, 16, 16),
    features=(4, 8, 12),
    kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
)


def test_parameters_and_multiply_accumulates_are_table_6s() -> None:
    with torch.device("meta"):
        network = PaNSegNet(TABLE6_PLAN, deep_supervision=True)
    attention = sum(p.numel() for p in network.attention.parameters())
    counted = count_complexity(network, [TABLE6_PLAN.patch])
    assert (counted.parameters, attention) == (43_711_168, 12_952_384)
    assert counted.gmacs == "560.29"
    network.decoder.deep_supervision = False  # the finest head alone
    assert count_complexity(network, [TABLE6_PLAN.patch]).gmacs == "560.18"


def test_the_bottleneck_of_table_6s_plan_has_210_tokens() -> None:
    assert TABLE6_PLAN.total_stride == (8, 32, 32)
    assert TABLE6_PLAN.tokens == 7 * 6 * 5 == 210


def test_linear_attention_is_the_explicit_product_over_all_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 50, 8, generator=generator)
    pairs = query.softmax(-1) @ key.softmax(-2).transpose(-2, -1)  # n x n
    torch.testing.assert_close(
        linear_attention(query, key, value), pairs @ value / 8**0.5, rtol=1e-5, atol=1e-5
    )


def test_attention_of_permuted_tokens_is_the_permuted_attention() -> None:
    torch.manual_seed(0)
    layer = AttentionLayer().eval()
    tokens = torch.randn(1, 12, EMBEDDING)
    order = torch.randperm(12)
    torch.testing.assert_close(layer(tokens[:, order]), layer(tokens)[:, order])


def test_positions_tell_tokens_apart() -> None:
    torch.manual_seed(0)
    transformer = LinearTransformer(6, 8).eval()
    alike = torch.ones(1, 6, 2, 2, 2)
    out = transformer(alike).flatten(2)[0]
    assert (out[:, :1] - out[:, 1:]).abs().min(dim=1).values.max() > 1e-4
    positions = sinusoids(3, 4)
    torch.testing.assert_close(positions[0], torch.tensor([0.0, 1.0, 0.0, 1.0]))
    two = torch.tensor(2.0)
    torch.testing.assert_close(positions[2, :2], torch.stack([two.sin(), two.cos()]))


def test_another_patch_is_refused_with_both_numbers() -> None:
    network = PaNSegNet(SMALL)
    with pytest.raises(ValueError, match=r"64 voxels \(2, 4, 8\).*planned are 32"):
        network(torch.zeros(1, 1, 4, 16, 32))


def test_a_plan_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="no multiple of the strides"):
        Plan((4, 18, 16), SMALL.features, SMALL.kernels, SMALL.strides)
    with pytest.raises(ValueError, match="2 kernels"):
        Plan(SMALL.patch, SMALL.features, SMALL.kernels[1:], SMALL.strides)


def test_every_decoder_level_has_logits_and_every_parameter_a_gradient() -> None:
    torch.manual_seed(0)
    network = PaNSegNet(SMALL, deep_supervision=True)
    logits = network(torch.randn(2, 1, 4, 16, 16))
    assert [tuple(part.shape) for part in logits] == [(2, 3, 4, 16, 16), (2, 3, 4, 8, 8)]
    sum((part**2).sum() for part in logits).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
    network.decoder.deep_supervision = False
    assert network(torch.randn(1, 1, 4, 16, 16)).shape == (1, 3, 4, 16, 16)


def test_a_decoder_level_has_the_kernel_of_the_encoder_level_below() -> None:
    network = PaNSegNet(SMALL)
    kernels = [
        next(part.kernel_size for part in level.modules() if isinstance(part, nn.Conv3d))
        for level in (network.encoder[0], network.decoder.levels[-1])
    ]
    assert kernels == [(1, 3, 3), (3, 3, 3)]
    assert all(head.bias is None for head in network.decoder.heads)
    assert all(up.bias is None for up in network.decoder.up)
