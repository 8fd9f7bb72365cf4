"""Styles of features: their exchange, and the bank that keeps those of recent samples."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from models.style import StyleBank, mix_styles, style_of, with_style

SHAPE = (2, 3, 4, 5, 6)


def some_features(seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    scale = torch.tensor([0.5, 2.0, 7.0])[:, None, None, None]
    return torch.randn(SHAPE, generator=rng) * scale + scale.flip(0)


def test_a_style_is_mean_and_deviation_of_each_channel_of_each_sample() -> None:
    features = some_features()
    mean, std = style_of(features)
    flat = features.flatten(2)
    torch.testing.assert_close(mean, flat.mean(2))
    torch.testing.assert_close(std, flat.std(2), rtol=1e-5, atol=1e-5)
    constant = style_of(torch.full(SHAPE, 3.0))
    torch.testing.assert_close(constant[1], torch.full((2, 3), 1e-3))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixed_features_have_the_mixed_statistics(share: float) -> None:
    features, other = some_features(), style_of(some_features(1) * 3 - 5)
    mixed = with_style(features, mix_styles(style_of(features), other, share))
    mean, std = style_of(mixed)
    own_mean, own_std = style_of(features)
    expected = share * own_mean + (1 - share) * other[0]
    torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-4)
    expected = share * own_std + (1 - share) * other[1]
    torch.testing.assert_close(std, expected, rtol=1e-4, atol=1e-4)


def test_with_their_own_style_features_are_what_they_were() -> None:
    features = some_features()
    own = style_of(features)
    assert torch.equal(with_style(features, mix_styles(own, style_of(-features), 1.0)), features)


def test_the_content_stays() -> None:
    features = some_features()
    mixed = with_style(features, style_of(some_features(1)))
    torch.testing.assert_close(
        F.instance_norm(mixed, eps=0), F.instance_norm(features, eps=0), rtol=1e-3, atol=1e-3
    )


def test_no_gradient_reaches_the_partner_or_the_statistics() -> None:
    features, partner = (some_features(seed).requires_grad_() for seed in (0, 1))
    style = mix_styles(style_of(features), style_of(partner), 0.25)
    own, other = torch.autograd.grad(
        with_style(features, style).sum(), [features, partner], allow_unused=True
    )
    assert other is None
    expected = style[1] / style_of(features)[1]  # the scale alone
    torch.testing.assert_close(own, expected[:, :, None, None, None].expand(SHAPE))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_keep_their_dtype_and_are_measured_in_float32(
    dtype: torch.dtype,
) -> None:
    features = (some_features() + 200).to(dtype)
    mean, std = style_of(features)
    assert mean.dtype == std.dtype == torch.float32
    torch.testing.assert_close(std, features.float().flatten(2).std(2), rtol=1e-4, atol=1e-4)
    assert with_style(features, (mean, std)).dtype == dtype


# the bank


def entry(value: float) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((1, 2), value), torch.full((1, 2), 10 * value)


def drawn(bank: StyleBank, without: int | None = None) -> list[float]:
    """The means that the bank gives over the whole range of places."""
    return [float(bank.draw(place / 60, without)[0][0][0, 0]) for place in range(60)]


def test_an_empty_bank_has_no_partner() -> None:
    bank = StyleBank(2, 4, 2)
    (mean, std), found = bank.draw(0.7)
    assert not found
    assert not mean.any()
    assert not std.any()
    bank.add(entry(1.0), 0, 0)
    assert not bank.draw(0.7)[1]  # what a step adds counts from the next one on
    bank.merge()
    assert bank.draw(0.7)[1]
    assert not bank.draw(0.7, without=0)[1]


def test_each_entry_of_the_other_domains_is_drawn_alike() -> None:
    bank = StyleBank(3, 8, 2)
    for index, domain in enumerate((0, 1, 2, 1, 0)):
        bank.add(entry(index + 1.0), domain, index)
    bank.merge()
    assert drawn(bank) == sorted(drawn(bank), key=[1.0, 5.0, 2.0, 4.0, 3.0].index)
    assert {drawn(bank).count(value) for value in (1.0, 2.0, 3.0, 4.0, 5.0)} == {12}
    assert {drawn(bank, without=1).count(value) for value in (1.0, 3.0, 5.0)} == {20}
    mean, std = bank.draw(0.0)[0]
    assert torch.equal(10 * mean, std)
    assert mean.shape == (1, 2)


def test_the_last_samples_replace_those_before() -> None:
    bank = StyleBank(1, 3, 2)
    for index in range(8):
        bank.add(entry(index), 0, index)
        bank.merge()
    assert set(drawn(bank)) == {5.0, 6.0, 7.0}


def test_averaged_over_processes_each_has_the_styles_of_all() -> None:
    one, two = StyleBank(2, 4, 2), StyleBank(2, 4, 2)
    both = copy.deepcopy(one)
    for step in range(3):
        for rank, bank in enumerate((one, two)):
            index = 2 * step + rank
            for owner in (bank, both):
                owner.add(entry(1.0 + index), index % 2, index)
        for a, b in zip(one.buffers(), two.buffers(), strict=True):
            mean = (a + b) / 2  # as Distributed.average_buffers does
            a.copy_(mean)
            b.copy_(mean)
        for owner in (one, two, both):
            owner.merge()
    for name, value in both.state_dict().items():
        assert torch.equal(one.state_dict()[name], value)
        assert torch.equal(two.state_dict()[name], value)
