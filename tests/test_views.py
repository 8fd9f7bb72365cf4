"""Eq. 1: the random convolution against `F.conv3d`, the mixing, and both modes."""

import pytest
import torch
import torch.nn.functional as F

from data.views import Convolver, ViewSettings, random_views

AS_RUN = ViewSettings(mode="as_run", kernel_sizes=(3, 5, 7))
RESCALED = ViewSettings(mode="rescaled")


def random_view(
    image: torch.Tensor, rng: torch.Generator, settings: ViewSettings = ViewSettings()
) -> torch.Tensor:
    """The next view of the generator."""
    return random_views(image, rng, settings, count=1)[0]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(1, 1, 6, 17, 22, generator=generator(1))


@pytest.mark.parametrize("shape", [(6, 17, 22), (16, 40, 60), (1, 1, 1), (2, 3, 130)])
@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_each_kernel_size_equals_conv3d_with_zero_padding(
    size: int, shape: tuple[int, int, int]
) -> None:
    volume = torch.rand(shape, generator=generator())
    weight = torch.randn(size, size, size, generator=generator(2))
    expected = F.conv3d(
        volume[None, None].double(), weight[None, None].double(), padding=size // 2
    )[0, 0]
    error = (Convolver(volume).convolve(weight) - expected).abs().max()
    assert error <= 1e-6 * weight.abs().sum()


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_the_convolution_stays_in_float32_under_autocast(size: int) -> None:
    volume = torch.rand(6, 17, 22, generator=generator())
    weight = torch.randn(size, size, size, generator=generator(2))
    expected = Convolver(volume).convolve(weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = Convolver(volume).convolve(weight)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_with_a_kernel_of_one_voxel_a_view_is_a_multiple_of_the_image(image: torch.Tensor) -> None:
    view = random_view(image, generator(), ViewSettings(kernel_sizes=(1,)))
    ratio = view / image
    assert ratio.std() < 1e-6
    assert abs(ratio.mean() - 1) > 1e-3


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_the_mix_and_the_weights_are_distributed_as_randconv_says(size: int) -> None:
    # F of an impulse shows every weight: variance 1 / fan_in; the mix a is uniform.
    impulse = torch.zeros(1, 1, 7, 7, 7)
    impulse[..., 3, 3, 3] = 1
    settings = ViewSettings(kernel_sizes=(size,))
    rng, reach = generator(3), size // 2
    views = torch.cat([random_view(impulse, rng, settings) for _ in range(1500)])[:, 0]
    middle = slice(3 - reach, 4 + reach)
    added = (views - impulse[0])[:, middle, middle, middle].flatten(1)
    fan_in = size**3
    # At the center: a (w - 1), of mean -1/2. E[a^2 (w - 1)^2] = (1 / fan_in + 1) / 3.
    center = added[:, fan_in // 2]
    assert center.mean().item() == pytest.approx(-0.5, abs=0.05)
    assert center.square().mean().item() == pytest.approx((1 / fan_in + 1) / 3, rel=0.12)
    if size > 1:  # Elsewhere a w, of variance 1 / (3 fan_in).
        others = torch.cat([added[:, : fan_in // 2], added[:, fan_in // 2 + 1 :]], dim=1)
        assert others.square().mean().item() == pytest.approx(1 / (3 * fan_in), rel=0.1)


def test_as_run_is_eq_1_with_a_bias_then_clamped_then_rescaled(image: torch.Tensor) -> None:
    # The scripts' kaiming_normal_(nonlinearity="conv3d"): variance gain^2 / fan_in, RandConv's.
    assert torch.nn.init.calculate_gain("conv3d") == 1
    for seed, size in enumerate((1, 3, 5, 7)):
        rng = generator(seed)
        torch.randint(1, (), generator=rng)  # the choice among one kernel size
        weight = torch.randn(size, size, size, generator=rng) / size**1.5
        bias, a = torch.rand(2, generator=rng)
        convolved = F.conv3d(image, weight[None, None], padding=size // 2)
        convolved += (2 * bias - 1) / size**1.5
        mixed = (a * convolved + (1 - a) * image).clamp(0, 1)
        expected = (mixed - mixed.min()) / (mixed.max() - mixed.min())
        view = random_view(image, generator(seed), ViewSettings("as_run", (size,)))
        torch.testing.assert_close(view, expected, atol=2e-5, rtol=0)


def test_all_modes_draw_the_same_convolution_and_mix(image: torch.Tensor) -> None:
    printed, rescaled, as_run = generator(4), generator(4), generator(4)
    for _ in range(3):
        view = random_view(image, printed, ViewSettings())
        expected = (view - view.min()) / (view.max() - view.min())
        torch.testing.assert_close(random_view(image, rescaled, RESCALED), expected)
        random_view(image, as_run, ViewSettings(mode="as_run"))
    assert torch.equal(printed.get_state(), as_run.get_state())
    assert torch.equal(printed.get_state(), rescaled.get_state())


@pytest.mark.parametrize("size", [1, 3, 7])
def test_the_mix_goes_from_the_image_itself_to_the_convolution_alone(
    size: int, image: torch.Tensor
) -> None:
    for seed in range(3):
        none, full = (
            random_view(image, generator(seed), ViewSettings("printed", (size,), (a, a)))
            for a in (0.0, 1.0)
        )
        assert torch.equal(none, image)
        rng = generator(seed)
        torch.randint(1, (), generator=rng)
        weight = torch.randn(size, size, size, generator=rng) / size**1.5
        expected = F.conv3d(image, weight[None, None], padding=size // 2)
        torch.testing.assert_close(full, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("settings", [AS_RUN, RESCALED])
@pytest.mark.parametrize("seed", range(12))
def test_a_rescaled_view_fills_zero_to_one(
    image: torch.Tensor, seed: int, settings: ViewSettings
) -> None:
    view = random_view(image, generator(seed), settings)
    assert view.min() == 0
    assert view.max() == 1


@pytest.mark.parametrize("settings", [ViewSettings(), RESCALED, AS_RUN])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_view_of_a_constant_image_is_finite(settings: ViewSettings, value: float) -> None:
    image = torch.full((1, 1, 5, 6, 7), value)
    for seed in range(12):
        assert torch.isfinite(random_view(image, generator(seed), settings)).all()


def test_a_constant_view_is_not_rescaled() -> None:
    settings = ViewSettings("as_run", kernel_sizes=(1,))
    views = [
        random_view(torch.full((1, 1, 3, 3, 3), 0.5), generator(s), settings) for s in range(9)
    ]
    assert all(view.unique().numel() == 1 and 0 <= view.max() <= 1 for view in views)
    assert len({float(view.max()) for view in views}) > 1


def test_the_same_seed_gives_the_same_view_and_the_next_draw_another(image: torch.Tensor) -> None:
    rng = generator(5)
    phi, psi = random_view(image, rng), random_view(image, rng)
    assert torch.equal(phi, random_view(image, generator(5)))
    assert not torch.equal(phi, psi)


@pytest.mark.parametrize("settings", [ViewSettings(), AS_RUN, ViewSettings(kernel_sizes=(7,))])
def test_views_made_together_are_those_made_one_by_one(
    image: torch.Tensor, settings: ViewSettings
) -> None:
    batch, rng = torch.cat([image, image.flip(2)]), generator(6)
    together = random_views(batch, generator(6), settings, count=3)
    for view in together:
        assert torch.equal(view, random_view(batch, rng, settings))
    assert not torch.equal(together[0][0], together[0][1].flip(1))


def test_a_view_has_no_gradient_and_leaves_the_image_as_it_was(image: torch.Tensor) -> None:
    before = image.clone()
    for seed in range(6):
        view = random_view(image.requires_grad_(), generator(seed), AS_RUN)
        assert not view.requires_grad
        assert view.shape == image.shape
    assert torch.equal(image, before)


def test_a_setting_or_shape_that_means_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--views.mode he: choose from printed, rescaled, as_run"):
        ViewSettings(mode="he")
    with pytest.raises(ValueError, match="odd and positive"):
        ViewSettings(kernel_sizes=(3, 4))
    with pytest.raises(ValueError, match="must be"):
        random_view(torch.zeros(1, 2, 3, 4, 5), generator())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("settings", [ViewSettings(), AS_RUN])
def test_a_gpu_makes_the_same_views(image: torch.Tensor, settings: ViewSettings) -> None:
    for seed in range(12):
        ours = random_view(image, generator(seed), settings)
        theirs = random_view(image.cuda(), generator(seed), settings)
        torch.testing.assert_close(theirs.cpu(), ours, atol=1e-5, rtol=1e-5)
