"""Hard augmentation: what is drawn, and what each operation does."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from data.random_policy import GEOMETRIC, INTENSITY, Draw, draw_operations, random_policy

SPACING = (3.0, 2.0, 1.0)
SHAPE = (1, 1, 6, 20, 40)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_image(seed: int = 0) -> Tensor:
    return torch.rand(SHAPE, generator=generator(seed))


def block() -> tuple[Tensor, Tensor]:
    """An image that is 1 where the label is 2, a block off the center; and the label."""
    label = torch.zeros(SHAPE, dtype=torch.uint8)
    label[..., 2:5, 6:16, 12:30] = 2
    return (label > 0).float(), label


def one(name: str, strength: float, sign: int = 1) -> Draw:
    return Draw(name, strength, 1.0, sign, True)


def change(image: Tensor, name: str, strength: float = 0.5, sign: int = 1) -> Tensor:
    """One operation on intensity."""
    return INTENSITY[name](image, one(name, strength, sign), generator())


# what is drawn


def test_operations_strengths_probabilities_and_signs_are_drawn_evenly() -> None:
    draws = draw_operations(generator(), 16_000)
    names = Counter(draw.name for draw in draws)
    assert set(names) == {*GEOMETRIC, *INTENSITY}
    assert len(names) == 16
    assert all(abs(count - 1000) < 130 for count in names.values())  # 4 deviations
    strengths = Counter(draw.strength for draw in draws)
    assert sorted(strengths) == [level / 10 for level in range(1, 10)]
    probabilities = Counter(draw.probability for draw in draws)
    assert sorted(probabilities) == [tenths / 10 for tenths in range(1, 11)]
    assert np.mean([draw.applied for draw in draws]) == pytest.approx(0.55, abs=0.016)
    assert all(draw.applied for draw in draws if draw.probability == 1)
    assert np.mean([draw.sign for draw in draws]) == pytest.approx(0, abs=0.032)


def test_a_policy_is_a_function_of_the_generator() -> None:
    (image, label), image_kept = block(), random_image()
    image = image_kept.clone()
    first, again = (random_policy(image, label, SPACING, generator(3), 4) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(image, image_kept)
    assert torch.equal(label, block()[1])
    others = [random_policy(image, label, SPACING, generator(seed), 4)[0] for seed in range(8)]
    assert len({float(other.sum()) for other in others}) > 4


def test_without_operations_the_sample_is_returned_as_it_is() -> None:
    image, label = block()
    found = random_policy(image, label, SPACING, generator(), 0)
    assert found[0] is image
    assert found[1] is label


def test_images_stay_in_0_to_1_and_labels_keep_their_classes() -> None:
    _, label = block()
    for seed in range(60):
        image, moved = random_policy(random_image(seed), label, SPACING, generator(seed), 3)
        assert image.shape == label.shape == moved.shape
        assert image.dtype == torch.float32
        assert 0 <= image.min() <= image.max() <= 1
        assert moved.dtype == torch.uint8
        assert set(moved.unique().tolist()) <= {0, 2}


# geometric operations


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", list(GEOMETRIC))
def test_the_label_follows_geometry(name: str, sign: int) -> None:
    image, label = block()
    moved, moved_label = GEOMETRIC[name](image, label, SPACING, one(name, 0.9, sign))
    apart = ((moved > 0.5) != (moved_label > 0)).sum()
    way = ((moved_label > 0) != (label > 0)).sum()
    assert way > 40
    assert apart < 0.1 * way
    assert torch.equal(moved_label.sum(dim=(3, 4)) > 0, label.sum(dim=(3, 4)) > 0)  # in its slice


@pytest.mark.parametrize("sign", [1, -1])
def test_a_translation_is_by_whole_voxels(sign: int) -> None:
    """Strength 0.5 is 0.225 of a side: 4 of 20 voxels, 9 of 40."""
    image, label = block()
    for name, axis, step in (("translate_y", 3, 4), ("translate_x", 4, 9)):
        moved, moved_label = GEOMETRIC[name](image, label, SPACING, one(name, 0.5, sign))
        rolled = torch.roll(label, sign * step, dims=axis)  # the block does not reach the border
        assert torch.equal(moved_label, rolled)
        assert torch.equal(moved, (rolled > 0).float())


def test_what_leaves_the_image_does_not_come_back_in() -> None:
    ones = torch.ones(SHAPE)
    label = ones.to(torch.uint8)
    moved, moved_label = GEOMETRIC["translate_x"](ones, label, SPACING, one("translate_x", 0.9))
    assert moved[..., :16].sum() == moved_label[..., :16].sum() == 0
    assert moved[..., 16:].mean() == 1


def test_rotation_and_shear_are_in_mm() -> None:
    """Against SciPy, on voxels twice as long in y as in x: 15 degrees, and a shear of 0.15."""
    image, label = block()
    smooth = torch.from_numpy(ndimage.gaussian_filter(image.numpy(), (0, 0, 0, 2, 3)))
    center = (np.array(SHAPE[2:]) - 1) / 2
    c, s = np.cos(np.pi / 12), np.sin(np.pi / 12)
    cases = {
        "rotate": np.array([[1, 0, 0], [0, c, -s / 2], [0, 2 * s, c]]),
        "shear_x": np.array([[1, 0, 0], [0, 1, 0], [0, 0.15 * 2, 1]]),
        "shear_y": np.array([[1, 0, 0], [0, 1, 0.15 / 2], [0, 0, 1]]),
    }
    for name, matrix in cases.items():
        moved, _ = GEOMETRIC[name](smooth, label, SPACING, one(name, 0.5))
        offset = center - matrix @ center
        expected = ndimage.affine_transform(
            smooth[0, 0].numpy(), matrix, offset, order=1, mode="grid-constant"
        )
        np.testing.assert_allclose(moved[0, 0], expected, atol=1e-4, err_msg=name)


# operations on intensity


@pytest.mark.parametrize("name", list(INTENSITY))
def test_an_operation_on_intensity_changes_the_image_and_not_the_one_it_was_given(
    name: str,
) -> None:
    image = random_image() * 0.8 + 0.1
    before = image.clone()
    changed = change(image, name)
    assert changed.dtype == torch.float32
    assert changed.shape == image.shape
    assert not torch.allclose(changed, image)
    assert torch.equal(image, before)


def test_known_answers_of_single_voxels() -> None:
    image = torch.tensor([0.0, 0.2, 0.6, 0.9]).view(1, 1, 1, 1, 4)
    expected = {
        ("brightness", 0.5, 1): [0.0, 0.3, 0.9, 1.35],
        ("brightness", 0.5, -1): [0.0, 0.1, 0.3, 0.45],
        ("contrast", 0.5, -1): [0.2125, 0.3125, 0.5125, 0.6625],  # half way to the mean
        ("gamma", 0.5, 1): [x ** (2**0.5) for x in (0.0, 0.2, 0.6, 0.9)],
        ("solarize", 0.4, 1): [0.0, 0.2, 0.4, 0.1],
        ("invert", 0.1, 1): [1.0, 0.8, 0.4, 0.1],
        ("posterize", 0.9, 1): [0.0, 3 / 15, 9 / 15, 14 / 15],
        ("posterize", 0.1, 1): [0.0, 25 / 127, 76 / 127, 115 / 127],
        ("autocontrast", 0.1, 1): [0.0, 0.2 / 0.9, 0.6 / 0.9, 1.0],
        ("equalize", 0.1, 1): [0.0, 1 / 3, 2 / 3, 1.0],
    }
    for (name, strength, sign), values in expected.items():
        found = change(image, name, strength, sign).flatten()
        torch.testing.assert_close(found, torch.tensor(values), msg=name, rtol=1e-5, atol=1e-6)


def test_blur_and_sharpen_go_opposite_ways() -> None:
    image = random_image()
    mean = ndimage.uniform_filter(image[0, 0].numpy(), 3)
    blurred, sharper = (change(image, name)[0, 0] for name in ("blur", "sharpen"))
    inside = (slice(1, -1),) * 3
    x = image[0, 0].numpy()
    np.testing.assert_allclose(blurred[inside], ((x + mean) / 2)[inside], atol=1e-6)
    np.testing.assert_allclose(sharper[inside], (1.5 * x - 0.5 * mean)[inside], atol=1e-6)


def test_noise_has_the_deviation_of_its_strength() -> None:
    image = torch.full(SHAPE, 0.5)
    assert float((change(image, "noise", 0.5) - image).std()) == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("name", ["equalize", "autocontrast"])
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_constant_image_has_no_contrast_to_stretch(name: str, value: float) -> None:
    image = torch.full(SHAPE, value)
    assert torch.equal(change(image, name), image)


def test_equalization_is_by_the_histogram_to_the_bit() -> None:
    image = random_image(3).clamp(0.2, 0.9)
    bins = np.rint(image.numpy() * np.float32(255)).astype(int)
    below = np.bincount(bins.ravel(), minlength=256).cumsum()
    lowest = below[bins.min()]
    expected = (below - lowest).astype(np.float32) / np.float32(below[-1] - lowest)
    assert np.array_equal(change(image, "equalize").numpy(), expected[bins])


def test_an_equalized_image_has_a_flat_histogram() -> None:
    values = change(0.2 + 0.5 * random_image() ** 1.5, "equalize").flatten()
    counts = torch.histc(values, bins=4, min=0, max=1) / len(values)
    torch.testing.assert_close(counts, torch.full((4,), 0.25), atol=0.02, rtol=0)
