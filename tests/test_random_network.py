"""GIN's random network: against `F.conv3d`, its norm, its mixture, and its randomness."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from data.random_network import (
    RandomNetworkSettings,
    convolve,
    convolve_at_once,
    random_network,
    random_network_view,
    with_norm_of,
)

NETWORK = RandomNetworkSettings()
NOTHING = replace(NETWORK, mix_range=(0.0, 0.0))
ALL = replace(NETWORK, mix_range=(1.0, 1.0))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(1, 1, 6, 10, 14, generator=generator(1))


@pytest.mark.parametrize("size", [1, 3, 5])
def test_convolutions_of_several_channels_equal_conv3d(size: int) -> None:
    channels = torch.rand(2, 6, 10, 14, generator=generator(2))
    weight = torch.randn(3, 2, size, size, size, generator=generator(3))
    bias = torch.randn(3, generator=generator(4))
    expected = F.conv3d(channels[None], weight, bias, padding=size // 2)[0]
    for way in (convolve, convolve_at_once):  # the second is a GPU's
        torch.testing.assert_close(way(channels, weight, bias), expected, rtol=1e-4, atol=1e-4)


def test_the_network_has_four_layers_of_two_channels_and_a_leaky_relu_between(
    image: torch.Tensor,
) -> None:
    sizes = set()
    for seed in range(6):
        rng, channels = generator(seed), image
        widths = (1, 2, 2, 2, 1)
        for before, after in pairwise(widths):
            size = (1, 3)[int(torch.randint(2, (), generator=rng))]
            sizes.add(size)
            weight = torch.randn(after, before, size, size, size, generator=rng)
            bias = torch.randn(after, generator=rng)
            channels = channels if channels is image else F.leaky_relu(channels, 0.01)
            channels = F.conv3d(channels, weight, bias, padding=size // 2)
        found = random_network(image[0], generator(seed), NETWORK)
        scale = float(channels.abs().max())
        torch.testing.assert_close(found, channels[0], rtol=1e-4, atol=1e-5 * scale)
    assert sizes == {1, 3}


@pytest.mark.parametrize("seed", range(8))
def test_a_view_has_the_norm_of_its_image_and_no_gradient(image: torch.Tensor, seed: int) -> None:
    before = image.clone()
    view = random_network_view(image.requires_grad_(), generator(seed), NETWORK)
    assert view.shape == image.shape
    assert not view.requires_grad
    torch.testing.assert_close(view.norm(), before.norm())
    assert torch.equal(image, before)


def test_the_mixture_goes_from_the_image_itself_to_the_network_alone(image: torch.Tensor) -> None:
    assert torch.equal(random_network_view(image, generator(), NOTHING), image)
    network = random_network(image[0], generator(), ALL)[None]
    view = random_network_view(image, generator(), ALL)
    torch.testing.assert_close(view, with_norm_of(network, image))
    half = random_network_view(image, generator(), replace(NETWORK, mix_range=(0.5, 0.5)))
    torch.testing.assert_close(half, with_norm_of(view + image, image), rtol=1e-4, atol=1e-5)


def test_the_network_is_no_affine_map_of_the_image(image: torch.Tensor) -> None:
    # as a convolution with a bias is: f(2 x) + f(0) = 2 f(x)
    bends = []
    for seed in range(8):
        zero, one, two = (
            random_network(image[0] * k, generator(seed), NETWORK) for k in (0.0, 1.0, 2.0)
        )
        bends.append(float((two + zero - 2 * one).abs().max() / one.abs().max()))
    assert sorted(bends)[4] > 0.05


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_constant_image_has_a_finite_view(value: float) -> None:
    for seed in range(5):
        view = random_network_view(torch.full((1, 1, 4, 5, 6), value), generator(seed), NETWORK)
        assert view.isfinite().all()


def test_the_same_seed_gives_the_same_view_and_what_is_drawn_does_not_depend_on_the_image(
    image: torch.Tensor,
) -> None:
    rng, other = generator(5), generator(5)
    first = random_network_view(image, rng, NETWORK)
    assert torch.equal(first, random_network_view(image, generator(5), NETWORK))
    assert not torch.equal(first, random_network_view(image, rng, NETWORK))
    for _ in range(2):
        random_network_view(torch.zeros(1, 1, 3, 3, 3), other, NOTHING)
    assert torch.equal(rng.get_state(), other.get_state())


def test_the_view_stays_in_float32_under_autocast(image: torch.Tensor) -> None:
    expected = random_network_view(image, generator(6), NETWORK)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        view = random_network_view(image, generator(6), NETWORK)
    assert view.dtype == torch.float32
    assert torch.equal(view, expected)


def test_a_setting_or_shape_that_means_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--network.kernel-sizes 2: odd and positive"):
        RandomNetworkSettings(kernel_sizes=(2,))
    with pytest.raises(ValueError, match="must be"):
        random_network_view(torch.zeros(2, 1, 3, 4, 5), generator(), NETWORK)
