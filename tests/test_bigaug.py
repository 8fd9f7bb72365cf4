"""BigAug's nine transforms: identities, scipy's answers, statistics; and the method beside BL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from math import log, pi, sqrt

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from data.augment import apply_affine, rotation_matrix
from data.bigaug import (
    StackSettings,
    apply_stack,
    change_intensity,
    deformation,
    draw_stack,
    gaussian_blur,
)
from data.prepare.prepared_case import PreparedCase
from methods import METHODS, build_method, make_config
from methods.bigaug import BigAug
from tests._baseline import BASELINE_COST, costs, make_crops, network_weights, train_steps
from tests.conftest import same
from utils.config import Config, check_config
from utils.stages import TUMOR_FINE

MakeConfig = Callable[..., Config]
SPACING = (2.5, 0.7, 0.9)
NAMES = (
    "blur", "sharpen", "noise", "brightness", "gamma", "perturbation",
    "rotation", "scale", "deformation",
)  # fmt: skip
NEUTRAL = StackSettings(
    probability=1.0,
    blur_sigma=(0.0, 0.0),
    sharpen_sigma=(0.0, 0.0),
    sharpen_alpha=(0.0, 0.0),
    noise_std=(0.0, 0.0),
    brightness=0.0,
    gamma_range=(1.0, 1.0),
    perturbation=0.0,
    rotation_degrees=0.0,
    scale_range=(1.0, 1.0),
    deformation_factor=(0.0, 0.0),
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(1, 1, 8, 20, 15, generator=generator(1))


@pytest.fixture
def label() -> torch.Tensor:
    label = torch.zeros(1, 1, 8, 20, 15, dtype=torch.uint8)
    label[..., 2:7, 4:17, 3:12] = 1
    label[..., 3:5, 6:11, 5:9] = 2
    return label


def test_with_probability_0_image_and_label_are_what_they_were(
    image: torch.Tensor, label: torch.Tensor
) -> None:
    for seed in range(5):
        out = apply_stack(image, label, SPACING, StackSettings(probability=0.0), generator(seed))
        assert torch.equal(out[0], image)
        assert torch.equal(out[1], label)


def test_with_neutral_magnitudes_all_nine_change_nothing(
    image: torch.Tensor, label: torch.Tensor
) -> None:
    assert tuple(draw_stack(NEUTRAL, generator())) == NAMES
    out, out_label = apply_stack(image, label, SPACING, NEUTRAL, generator())
    torch.testing.assert_close(out, image, atol=1e-5, rtol=0)
    assert torch.equal(out_label, label)


def test_each_transform_is_drawn_in_half_of_the_images_independently() -> None:
    rng, counts, pairs, draws = generator(2), Counter[str](), Counter[tuple[str, str]](), 10_000
    for _ in range(draws):
        names = tuple(draw_stack(StackSettings(), rng))
        assert names == tuple(name for name in NAMES if name in names)
        counts.update(names)
        pairs.update((a, b) for a in names for b in names if a < b)
    assert set(counts) == set(NAMES)
    for number in counts.values():
        assert number / draws == pytest.approx(0.5, abs=0.02)
    assert len(pairs) == 36
    for number in pairs.values():
        assert number / draws == pytest.approx(0.25, abs=0.02)


def test_magnitudes_are_uniform_in_their_ranges_and_gamma_is_in_its_logarithm() -> None:
    settings, rng = StackSettings(probability=1.0), generator(3)
    drawn = [draw_stack(settings, rng) for _ in range(4000)]
    limits: dict[str, list[tuple[float, float]]] = {
        "blur": [(0.25, 1.5)],
        "sharpen": [(0.25, 1.5), (0.25, 1.5), (10, 30)],
        "noise": [(0.1, 1.0)],
        "brightness": [(-0.1, 0.1)],
        "gamma": [(log(0.5), log(4.5))],
        "perturbation": [(-0.1, 0.1)] * 2,
        "rotation": [(-20, 20)] * 3,
        "scale": [(0.8, 1.25)],
        "deformation": [(10, 13), (0, 1000)],
    }
    for name, ranges in limits.items():
        values = torch.tensor([one[name] for one in drawn])
        assert values.shape[1] == len(ranges)
        for (low, high), column in zip(ranges, values.unbind(1), strict=True):
            assert low <= column.min()
            assert column.max() <= high
            width = high - low
            assert float(column.mean()) == pytest.approx((low + high) / 2, abs=0.02 * width)
            assert float(column.std()) == pytest.approx(width / sqrt(12), rel=0.03)


def test_a_transform_that_is_left_out_does_not_change_the_others() -> None:
    every = draw_stack(StackSettings(probability=1.0), generator(4))
    some = draw_stack(StackSettings(probability=0.5), generator(4))
    assert 0 < len(some) < 9
    assert all(every[name] == values for name, values in some.items())


@pytest.mark.parametrize("sigma", [0.0, 0.25, 1.0, 3.0])
def test_the_blur_is_scipys_and_its_deviation_is_in_mm(sigma: float, image: torch.Tensor) -> None:
    voxels = [sigma / length for length in SPACING]
    # scipy rounds the reach to the nearest voxel, here it is rounded up
    radius = [int(np.ceil(4 * v)) for v in voxels]
    expected = gaussian_filter(image[0, 0].numpy(), voxels, mode="nearest", radius=radius)
    found = gaussian_blur(image, sigma, SPACING)
    np.testing.assert_allclose(found[0, 0].numpy(), expected, atol=2e-6)


def test_changes_of_intensity_are_those_of_their_formulas(image: torch.Tensor) -> None:
    def changed(name: str, *values: float) -> torch.Tensor:
        return change_intensity(image, (name, values), SPACING, generator(5))

    blurred = gaussian_blur(image, 0.5, SPACING)
    expected = blurred + 20 * (blurred - gaussian_blur(blurred, 1.5, SPACING))
    assert torch.equal(changed("blur", 0.5), blurred)
    torch.testing.assert_close(changed("sharpen", 0.5, 1.5, 20.0), expected)
    assert torch.equal(changed("brightness", -0.07), image - 0.07)
    torch.testing.assert_close(changed("gamma", log(2.0)), image**2)
    torch.testing.assert_close(changed("perturbation", 0.1, -0.05), 1.1 * image - 0.05)
    noise = (changed("noise", 0.5) - image) / image.std()
    assert float(noise.mean()) == pytest.approx(0, abs=0.03)
    assert float(noise.std()) == pytest.approx(0.5, rel=0.05)


def test_a_deformation_is_smooth_and_has_the_published_size_in_mm() -> None:
    sigma, spacing, rng = 10.0, (2.0, 1.0, 1.5), generator(6)
    volume = torch.zeros(1, 1, 24, 40, 32)
    mm = torch.tensor(spacing)[:, None, None, None]
    fields = torch.stack([deformation(volume, spacing, sigma, rng) * mm for _ in range(120)])
    assert fields.shape == (120, 3, 24, 40, 32)
    # uniform noise of +-1 in voxels of 1 mm, smoothed by scipy
    noise = np.random.default_rng(0).uniform(-1, 1, (96, 96, 96))
    expected = float(gaussian_filter(noise, sigma, mode="wrap").std())
    assert expected == pytest.approx(sqrt(1 / 3) / ((4 * pi) ** 0.75 * sigma**1.5), rel=0.15)
    for component in range(3):
        assert float(fields[:, component].std()) == pytest.approx(2.735e-3, rel=0.1)
    assert fields.mean().abs() < 3e-4
    # correlation exp(-d^2 / 4 sigma^2) at d = sigma, along y and along z
    for here, there in (
        (fields[:, :, :, :-10], fields[:, :, :, 10:]),
        (fields[:, :, :-5], fields[:, :, 5:]),
    ):
        correlation = float((here * there).mean() / fields.square().mean())
        assert correlation == pytest.approx(np.exp(-0.25), abs=0.08)


def test_a_displaced_map_is_scipys(image: torch.Tensor, label: torch.Tensor) -> None:
    matrix = rotation_matrix((14.0, -9.0, 5.0))
    displacement = torch.randn(3, 8, 20, 15, generator=generator(7))
    mapped, mapped_label = apply_affine(image, label, matrix, displacement)
    center = (np.array(image.shape[2:]) - 1) / 2
    offsets = np.indices(image.shape[2:]).reshape(3, -1) - center[:, None]
    places = matrix.numpy() @ offsets + center[:, None] + displacement.reshape(3, -1).numpy()
    for ours, volume, order in ((mapped, image, 1), (mapped_label, label, 0)):
        theirs = map_coordinates(
            volume[0, 0].numpy(), places, order=order, mode="grid-constant"
        ).reshape(image.shape[2:])
        np.testing.assert_allclose(ours[0, 0].numpy(), theirs, atol=2e-5)


def test_image_and_label_move_together() -> None:
    label = torch.zeros(1, 1, 24, 40, 40, dtype=torch.uint8)
    label[..., 6:18, 8:30, 12:34] = 1
    shape = {"rotation_degrees": 20.0, "scale_range": (0.8, 1.25)}
    settings = replace(NEUTRAL, **shape, deformation_factor=(1000.0, 1000.0))  # type: ignore[arg-type]
    for seed in range(5):
        out, moved = apply_stack(label.float(), label, (1.5, 1.0, 1.0), settings, generator(seed))
        assert not torch.equal(moved, label)
        assert set(moved.unique().tolist()) == {0, 1}
        disagree = (out[moved == 1] < 0.2).sum() + (out[moved == 0] > 0.8).sum()
        assert disagree == 0


def test_the_result_stays_in_0_to_1_with_the_labels_values_and_the_seed_decides_it(
    image: torch.Tensor, label: torch.Tensor
) -> None:
    before, before_label = image.clone(), label.clone()
    for seed in range(10):
        first, again, other = (
            apply_stack(image, label, SPACING, StackSettings(probability=1.0), generator(s))
            for s in (seed, seed, seed + 100)
        )
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])
        assert not torch.equal(first[0], other[0])
        assert first[0].isfinite().all()
        assert first[0].min() >= 0
        assert first[0].max() <= 1
        assert first[1].dtype == torch.uint8
        assert set(first[1].unique().tolist()) <= {0, 1, 2}
    assert torch.equal(image, before)
    assert torch.equal(label, before_label)


# the method


def test_it_takes_the_place_of_the_baselines_rotation_and_noise_and_leaves_its_mirroring() -> None:
    own = make_config(TUMOR_FINE, "bigaug").settings.augment
    base = make_config(TUMOR_FINE, "bl").settings.augment
    differ = {f.name for f in fields(base) if getattr(own, f.name) != getattr(base, f.name)}
    assert differ == {"rotation_probability", "noise_probability"}
    assert (own.rotation_probability, own.noise_probability) == (0.0, 0.0)


def test_without_the_stack_a_step_is_the_baselines_bit_for_bit(
    tiny_config: MakeConfig, tiny_prepared: dict[str, list[PreparedCase]]
) -> None:
    crops = make_crops(tiny_prepared)[:2]
    bl, expected = train_steps(tiny_config("tumor_fine", method="bl"), crops)
    as_base = {"augment.rotation_probability": 0.5, "augment.noise_probability": 0.5}
    settings = {**as_base, "stack.probability": 0.0}
    none = tiny_config("tumor_fine", method="bigaug", settings=settings)
    neutral, values = train_steps(none, crops)
    assert values == expected
    assert same(network_weights(neutral), network_weights(bl))
    config = tiny_config("tumor_fine", method="bigaug", settings=as_base)
    stacked, _ = train_steps(config, crops[:1])
    assert not same(network_weights(stacked), network_weights(bl))


def test_the_printed_row_is_the_baselines_run_and_this_method_stands_for_none() -> None:
    assert BigAug.table6 is None
    assert BigAug.table5 is None
    assert [name for name, method in METHODS.items() if method.table6 == "BigAug"] == ["bl"]
    rows = [method.table6 for method in METHODS.values() if method.table6 is not None]
    assert len(rows) == len(set(rows))


def test_it_costs_what_table_vi_prints() -> None:
    assert costs("bigaug") == BASELINE_COST


def test_a_magnitude_that_means_nothing_is_refused() -> None:
    config = make_config(TUMOR_FINE, "bigaug", {"stack.scale_range": (1.5, 0.5)})
    with pytest.raises(ValueError, match=r"--stack.scale-range .*lower number first"):
        check_config(config)
    build_method(make_config(TUMOR_FINE, "bigaug", {"stack.scale_range": (0.4, 1.6)}))
