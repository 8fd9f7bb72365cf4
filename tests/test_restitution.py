"""The module of SNR: what instance normalization removes, and what the gate lets back in."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.capture import captured
from models.restitution import Restitution, contaminated


def make_feature(channels: int = 32, seed: int = 0) -> Tensor:
    """(2, channels, 4, 6, 8), each channel with a mean and a deviation of its own."""
    generator = torch.Generator().manual_seed(seed)
    scale = 1 + 3 * torch.rand(2, channels, 1, 1, 1, generator=generator)
    shift = 5 * torch.randn(2, channels, 1, 1, 1, generator=generator)
    return scale * torch.randn(2, channels, 4, 6, 8, generator=generator) + shift


def make_module(channels: int = 32) -> Restitution:
    """With weights everywhere, as a trained one has."""
    torch.manual_seed(0)
    module = Restitution(channels)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def force_gate(module: Restitution, value: float) -> None:
    nn.init.zeros_(module.excite.weight)
    nn.init.constant_(module.excite.bias, value)


def test_restitution_loses_nothing() -> None:
    module, feature = make_module(), make_feature()
    with captured(module.norm) as calls:
        restored = module(feature)
    normalized = calls[module.norm].output
    gate = module.gate(feature, normalized)
    rest = contaminated(feature, normalized, restored)
    torch.testing.assert_close(rest, normalized + (1 - gate) * (feature - normalized))
    torch.testing.assert_close(restored + rest - normalized, feature)
    assert gate.std() > 0.05  # it is not one constant


def test_an_open_gate_is_the_identity_and_a_closed_one_instance_normalization() -> None:
    module, feature = make_module(), make_feature()
    force_gate(module, 1e4)
    assert torch.equal(module(feature), feature)
    force_gate(module, -1e4)
    expected = F.instance_norm(feature, weight=module.norm.weight, bias=module.norm.bias)
    torch.testing.assert_close(module(feature), expected)


def test_a_closed_gate_does_not_see_scale_and_shift_of_a_channel() -> None:
    module, feature = make_module(), make_feature()
    force_gate(module, -1e4)
    generator = torch.Generator().manual_seed(1)
    scale, shift = (torch.rand(1, 32, 1, 1, 1, generator=generator) + 0.5 for _ in range(2))
    other = scale * feature + 9 * shift
    torch.testing.assert_close(module(other), module(feature), rtol=1e-3, atol=1e-4)


def test_the_gate_looks_at_the_mean_of_what_was_removed() -> None:
    module, feature = make_module(), make_feature()
    normalized = module.norm(feature)
    pooled = (feature - normalized).mean(dim=(2, 3, 4))
    expected = module.excite(module.squeeze(pooled).relu()).sigmoid()
    torch.testing.assert_close(module.gate(feature, normalized).flatten(1), expected)


def test_samples_do_not_mix() -> None:
    module, feature = make_module(), make_feature()
    torch.testing.assert_close(module(feature)[1:], module(feature[1:]))


@pytest.mark.parametrize(("channels", "hidden"), [(8, 1), (32, 2), (128, 8)])
def test_a_fresh_gate_has_no_dead_unit_and_differs_by_channel(channels: int, hidden: int) -> None:
    torch.manual_seed(0)
    module, feature = Restitution(channels), make_feature(channels)
    assert module.squeeze.out_features == hidden
    gate = module.gate(feature, module.norm(feature))
    assert 0.1 < gate.min() < gate.max() < 0.9
    module(feature).square().mean().backward()
    for parameter in module.parameters():
        assert parameter.grad is not None
        assert parameter.grad.flatten(1 if parameter.dim() > 1 else 0).count_nonzero() > 0


def test_three_modules_have_the_parameters_of_table_vi() -> None:
    count = sum(p.numel() for c in (32, 64, 128) for p in Restitution(c).parameters())
    assert count == 3374


def test_in_bf16_the_statistics_are_summed_in_float32() -> None:
    """Over 200,000 voxels: a sum in 8 bits would stop growing after some hundred of them."""
    module = Restitution(8)
    feature = 20 + 3 * torch.randn(1, 8, 50, 50, 80, generator=torch.Generator().manual_seed(0))
    feature = feature.bfloat16()
    force_gate(module, 1e4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(feature), feature)
    force_gate(module, -1e4)
    with torch.autocast("cpu", torch.bfloat16):
        normalized = module(feature)
    assert normalized.dtype == torch.bfloat16
    expected = F.instance_norm(feature.double())
    torch.testing.assert_close(normalized.double(), expected, rtol=0.01, atol=0.01)
