"""The pool of domain features: what is added, when nothing is, what it costs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.backbone import ResidualEncoderDecoder
from models.domain_pool import DomainPool, DomainPoolNetwork
from tests.conftest import same

CHANNELS, SOURCES = 8, 3


def filled_pool(seed: int = 0) -> DomainPool:
    pool = DomainPool(SOURCES, CHANNELS)
    rng = torch.Generator().manual_seed(seed)
    pool.prototypes.copy_(torch.randn(SOURCES, CHANNELS, generator=rng))
    return pool


def features(scale: float = 1.0, batch: int = 1) -> Tensor:
    return scale * torch.randn(batch, CHANNELS, 4, 6, 8, generator=torch.Generator().manual_seed(1))


def one_hot(index: int) -> Tensor:
    return torch.eye(SOURCES)[index : index + 1]


@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_with_a_gate_of_1_a_sure_code_adds_its_prototype(scale: float) -> None:
    """h + M_k, where h is the map at a root mean square of 1; the map's own size returns."""
    pool, x = filled_pool(), features(scale)
    torch.nn.init.constant_(pool.gate.weight, 0.0)
    pool.gate.weight.data.diagonal().fill_(1e4)  # tanh is 1 where h is positive, -1 elsewhere
    size = float(x.square().mean().sqrt())
    found, mean = pool(x, one_hot(2))
    expected = x / size + x.sign() * pool.prototypes[2][None, :, None, None, None]
    torch.testing.assert_close(found / size, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(mean, x.mean(dim=(2, 3, 4)) / size)


def test_a_code_in_between_adds_a_mixture_through_the_gate() -> None:
    pool, x = filled_pool(), features()
    torch.nn.init.normal_(pool.gate.weight, std=0.3)
    weights = torch.tensor([[0.2, 0.5, 0.3]])
    found, _ = pool(x, weights)
    size = x.square().mean().sqrt()
    gate = torch.tanh(torch.einsum("oc,bczyx->bozyx", pool.gate.weight[:, :, 0, 0, 0], x / size))
    mixture = (weights[0, :, None] * pool.prototypes).sum(dim=0)
    expected = x + size * gate * mixture[None, :, None, None, None]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_gate_of_zero_or_an_empty_memory_leaves_the_map_as_it_is() -> None:
    x, pool = features(), filled_pool()
    assert torch.equal(pool(x, one_hot(0))[0], x)  # the gate as it is made
    torch.nn.init.normal_(pool.gate.weight)
    assert not torch.equal(pool(x, one_hot(0))[0], x)
    assert torch.equal(pool(x, torch.zeros(1, SOURCES))[0], x)
    pool.prototypes.zero_()
    assert torch.equal(pool(x, one_hot(0))[0], x)


def test_samples_do_not_mix_and_a_map_of_zeros_is_finite() -> None:
    pool, x = filled_pool(), features(batch=2)
    torch.nn.init.normal_(pool.gate.weight)
    code = torch.cat([one_hot(0), one_hot(1)])
    both = pool(x, code)
    alone = pool(x[1:], code[1:])
    for a, b in zip(both, alone, strict=True):
        torch.testing.assert_close(a[1:], b)
    assert all(value.isfinite().all() for value in pool(torch.zeros_like(x), code))


def test_prototypes_are_saved_and_have_no_gradient() -> None:
    pool = filled_pool()
    assert "prototypes" in pool.state_dict()
    assert [name for name, _ in pool.named_parameters()] == ["gate.weight"]
    x = features().requires_grad_()
    out, mean = pool(x, one_hot(0).requires_grad_())
    assert not mean.requires_grad
    out.sum().backward()
    assert pool.prototypes.grad is None
    assert pool.gate.weight.grad is not None
    assert pool.gate.weight.grad.count_nonzero() > 0  # it leaves zero


def test_the_network_begins_as_the_plain_one_and_reads_only_when_active() -> None:
    plain = {"distance": False, "slices": False, "projection": False}
    torch.manual_seed(0)
    backbone = ResidualEncoderDecoder(width=8, **plain).eval()  # type: ignore[arg-type]
    torch.manual_seed(0)
    network = DomainPoolNetwork(2, width=8, upsample="trilinear").eval()
    shared = {n: v for n, v in network.state_dict().items() if n in backbone.state_dict()}
    assert same(shared, backbone.state_dict())
    image = torch.rand(1, 1, 8, 16, 16)
    with torch.no_grad():
        expected = backbone(image).logits
        assert torch.equal(network(image).logits, expected)
        for pool in network.pools:
            pool.prototypes.normal_()
            pool.gate.weight.normal_(std=0.1)
        assert torch.equal(network(image).logits, expected)
        network.active.fill_(1.0)
        outputs = network(image)
    assert not torch.equal(outputs.logits, expected)
    assert outputs.domain_logits.shape == (1, 2)


def test_the_pools_add_70658_parameters_at_full_width() -> None:
    with torch.device("meta"):
        network = DomainPoolNetwork(2, width=32, upsample="nearest")
    added = sum(p.numel() for p in network.parameters()) - 18_957_825
    assert added == 256 * 256 + 64 * 64 + 2 * 256 + 256 * 2 + 2 == 70_658
