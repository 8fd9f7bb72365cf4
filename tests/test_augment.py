"""The augmentations: identities, known turns, scipy's answer, and the statistics of the noise."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import affine_transform

from data.augment import (
    AugmentSettings,
    apply_affine,
    augment,
    brighten_tumor,
    resize,
    rotation_matrix,
)
from utils.settings import check_settings

SPACING = (2.5, 0.7, 0.9)
EVERYTHING = AugmentSettings(
    scale_probability=0.5, gamma_probability=0.5, brightness_probability=0.5
)
NOTHING = AugmentSettings(rotation_probability=0, mirror_probability=0, noise_probability=0)


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


def test_without_any_step_image_and_label_are_what_they_were(
    image: torch.Tensor, label: torch.Tensor
) -> None:
    same_image, same_label = augment(image, label, SPACING, NOTHING, generator())
    assert torch.equal(same_image, image)
    assert torch.equal(same_label, label)


def test_a_rotation_by_zero_degrees_is_the_identity(
    image: torch.Tensor, label: torch.Tensor
) -> None:
    still = replace(NOTHING, rotation_degrees=0.0, rotation_probability=1)
    assert torch.equal(augment(image, label, SPACING, still, generator())[0], image)
    mapped, mapped_label = apply_affine(image, label, rotation_matrix((0, 0, 0)))
    torch.testing.assert_close(mapped, image, atol=1e-5, rtol=0)
    assert torch.equal(mapped_label, label)


def test_a_mirror_of_a_mirror_is_the_identity_and_mirrors_both_alike(
    image: torch.Tensor, label: torch.Tensor
) -> None:
    mirror = replace(NOTHING, mirror_probability=1)
    once = augment(image, label, SPACING, mirror, generator())
    assert torch.equal(once[0], image.flip(2, 3, 4))
    assert torch.equal(once[1], label.flip(2, 3, 4))
    twice = augment(*once, SPACING, mirror, generator())
    assert torch.equal(twice[0], image)
    assert torch.equal(twice[1], label)


def test_each_axis_is_mirrored_in_half_of_the_samples(
    image: torch.Tensor, label: torch.Tensor
) -> None:
    mirror, rng, seen = replace(NOTHING, mirror_probability=0.5), generator(2), []
    choices = [axes for n in range(4) for axes in combinations((2, 3, 4), n)]
    for _ in range(200):
        out = augment(image, label, SPACING, mirror, rng)[0]
        (axes,) = (axes for axes in choices if torch.equal(out, image.flip(axes)))
        seen.append(axes)
    for axis in (2, 3, 4):
        assert sum(axis in axes for axes in seen) == pytest.approx(100, abs=25)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_quarter_turn_moves_voxels_without_interpolating(axis: int) -> None:
    image = torch.rand(1, 1, 6, 6, 6, generator=generator(3))
    label = (image * 3).to(torch.uint8)
    degrees = [0.0, 0.0, 0.0]
    degrees[axis] = 90.0
    turned, turned_label = apply_affine(
        image, label, rotation_matrix((degrees[0], degrees[1], degrees[2]))
    )
    plane = [(4, 3), (2, 4), (3, 2)][axis]
    torch.testing.assert_close(turned, image.rot90(1, plane), atol=1e-5, rtol=0)
    assert torch.equal(turned_label, label.rot90(1, plane))


def test_the_rotation_matrix_is_a_rotation() -> None:
    matrix = rotation_matrix((14.0, -9.0, 5.0))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(3, dtype=torch.float64))
    assert float(torch.linalg.det(matrix)) == pytest.approx(1)


def test_an_oblique_map_equals_scipys_affine_transform(
    image: torch.Tensor, label: torch.Tensor
) -> None:
    mm = torch.tensor(SPACING, dtype=torch.float64)
    matrix = rotation_matrix((14.0, -9.0, 5.0)) * mm / mm[:, None] / 1.1
    matrix[1] *= -1
    mapped, mapped_label = apply_affine(image, label, matrix)
    center = (np.array(image.shape[2:]) - 1) / 2
    offset = center - matrix.numpy() @ center
    for ours, volume, order in ((mapped, image, 1), (mapped_label, label, 0)):
        theirs = affine_transform(
            volume[0, 0].numpy(), matrix.numpy(), offset, order=order, mode="grid-constant"
        )
        np.testing.assert_allclose(ours[0, 0].numpy(), theirs, atol=2e-5)


def test_a_rotation_is_rigid_in_millimeters(monkeypatch: pytest.MonkeyPatch) -> None:
    # A rod along y, 30 mm long, turned by 90 degrees about z: it lies along x, 30 mm long.
    label = torch.zeros(1, 1, 3, 61, 61, dtype=torch.uint8)
    label[..., 1, 15:46, 30] = 2
    monkeypatch.setattr("data.augment.rotation_matrix", lambda _: rotation_matrix((90, 0, 0)))
    turn = replace(NOTHING, rotation_probability=1)
    _, turned = augment(label.float(), label, (5.0, 1.0, 2.0), turn, generator())
    assert turned[0, 0, 1, 30].nonzero().flatten().tolist() == list(range(23, 38))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("settings", [AugmentSettings(), EVERYTHING])
def test_the_label_stays_a_label_and_the_image_in_zero_to_one(
    image: torch.Tensor, label: torch.Tensor, seed: int, settings: AugmentSettings
) -> None:
    out, out_label = augment(image, label, SPACING, settings, generator(seed))
    assert out.shape == image.shape
    assert out_label.shape == label.shape
    assert out_label.dtype == torch.uint8
    assert set(out_label.unique().tolist()) == {0, 1, 2}
    assert out.min() >= 0
    assert out.max() <= 1


def test_image_and_label_turn_together() -> None:
    label = torch.zeros(1, 1, 16, 24, 32, dtype=torch.uint8)
    label[..., 3:8, 5:14, 20:29] = 1
    settings = replace(
        AugmentSettings(), rotation_probability=1, scale_probability=1, noise_probability=0
    )
    for seed in range(5):
        out, out_label = augment(label.float(), label, SPACING, settings, generator(seed))
        disagree = (out[out_label == 1] < 0.2).sum() + (out[out_label == 0] > 0.8).sum()
        assert disagree == 0
        assert out_label.any()


def test_the_input_is_not_changed(image: torch.Tensor, label: torch.Tensor) -> None:
    before, before_label = image.clone(), label.clone()
    for seed in range(5):
        augment(image, label, SPACING, EVERYTHING, generator(seed))
    assert torch.equal(image, before)
    assert torch.equal(label, before_label)


def test_the_same_seed_gives_the_same_sample(image: torch.Tensor, label: torch.Tensor) -> None:
    first, again, other = (
        augment(image, label, SPACING, EVERYTHING, generator(s)) for s in (4, 4, 5)
    )
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_noise_has_zero_mean_and_a_deviation_uniform_up_to_the_setting() -> None:
    gray = torch.full((1, 1, 16, 32, 32), 0.5)
    label = torch.zeros_like(gray, dtype=torch.uint8)
    noisy, rng = replace(NOTHING, noise_probability=1, noise_std=0.1), generator(6)
    added = torch.cat([augment(gray, label, SPACING, noisy, rng)[0] - 0.5 for _ in range(60)])
    deviations = added.flatten(1).std(1)
    assert added.mean().abs() < 1e-3
    assert deviations.max() < 0.102
    assert deviations.mean().item() == pytest.approx(0.05, abs=0.012)


def test_rotations_are_uniform_within_the_angle_about_each_axis(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def record(degrees: tuple[float, float, float]) -> torch.Tensor:
        seen.append(degrees)
        return rotation_matrix((0, 0, 0))

    monkeypatch.setattr("data.augment.rotation_matrix", record)
    image, rng = torch.zeros(1, 1, 2, 2, 2), generator(7)
    settings = replace(NOTHING, rotation_probability=0.5)
    for _ in range(800):
        augment(image, image.to(torch.uint8), SPACING, settings, rng)
    angles = torch.tensor(seen)
    assert len(seen) == pytest.approx(400, abs=60)
    assert angles.abs().max() <= 15
    assert angles.mean(0).tolist() == pytest.approx([0] * 3, abs=1.5)
    assert angles.std(0).tolist() == pytest.approx([15 / 3**0.5] * 3, abs=0.8)


def test_brightness_changes_around_the_tumor_only(image: torch.Tensor) -> None:
    label = torch.zeros(1, 1, 8, 60, 60, dtype=torch.uint8)
    label[..., 4, 10, 10], label[..., 4, 40, 40] = 2, 1
    change = brighten_tumor(torch.zeros(1, 1, 8, 60, 60), label, -0.25)
    assert change.unique().tolist() == [-0.25, 0.0]
    assert change[0, 0, 4, 10, 10] == -0.25
    assert change[..., 25:, 25:].abs().max() == 0


def test_gamma_and_scale_follow_their_ranges(image: torch.Tensor, label: torch.Tensor) -> None:
    gamma = replace(NOTHING, gamma_probability=1, gamma_range=(2.0, 2.0))
    out, _ = augment(image, label, SPACING, gamma, generator())
    torch.testing.assert_close(out, image**2)
    double = replace(NOTHING, scale_probability=1, scale_range=(2.0, 2.0))
    _, larger = augment(image, torch.ones_like(label), SPACING, double, generator())
    assert larger.all()
    half = replace(double, scale_range=(0.5, 0.5))
    _, smaller = augment(image, torch.ones_like(label), SPACING, half, generator())
    assert smaller.sum().item() == 4 * 10 * 7  # the center of 15 voxels is a voxel


def test_resizing_keeps_image_and_label_aligned() -> None:
    ramp = torch.arange(12.0).view(1, 1, 1, 1, 12).expand(1, 1, 4, 6, 12) / 12
    label = (ramp >= 0.5).to(torch.uint8)
    image, small = resize(ramp, label, (2, 3, 6))
    assert image.shape == small.shape == (1, 1, 2, 3, 6)
    assert image[0, 0, 0, 0].tolist() == pytest.approx([(2 * i + 0.5) / 12 for i in range(6)])
    assert small[0, 0, 0, 0].tolist() == [0, 0, 0, 1, 1, 1]


def test_resizing_to_the_same_shape_is_the_identity_and_doubling_repeats_labels(
    image: torch.Tensor, label: torch.Tensor
) -> None:
    same_image, same_label = resize(image, label, (8, 20, 15))
    torch.testing.assert_close(same_image, image)
    assert torch.equal(same_label, label)
    _, doubled = resize(image, label, (16, 40, 30))
    expected = label
    for axis in (2, 3, 4):
        expected = expected.repeat_interleave(2, axis)
    assert torch.equal(doubled, expected)


@pytest.mark.parametrize("new", [(4, 10, 8), (3, 8, 5), (12, 9, 20), (5, 11, 7), (1, 1, 1)])
@pytest.mark.parametrize("old", [(8, 20, 16), (6, 16, 10), (7, 15, 9)])
def test_resizing_a_flipped_sample_is_flipping_the_resized_one(
    old: tuple[int, int, int], new: tuple[int, int, int]
) -> None:
    image = torch.rand(1, 1, *old, generator=generator(8))
    label = torch.randint(3, (1, 1, *old), generator=generator(9), dtype=torch.uint8)
    before = label.clone()
    small_image, small = resize(image, label, new)
    assert small.dtype == torch.uint8
    assert torch.equal(label, before)
    for axes in ((2,), (3,), (4,), (2, 3, 4)):
        flipped_image, flipped = resize(image.flip(axes), label.flip(axes), new)
        assert torch.equal(flipped.flip(axes), small)
        torch.testing.assert_close(flipped_image.flip(axes), small_image)


def test_a_label_is_the_voxel_under_the_new_center_where_there_is_one() -> None:
    # torch's "nearest-exact" answers wherever no center falls between two voxels.
    label = torch.randint(3, (1, 1, 9, 15, 7), generator=generator(10), dtype=torch.uint8)
    for shape in ((4, 10, 6), (18, 11, 21), (5, 20, 8)):
        _, ours = resize(label.float(), label, shape)
        theirs = F.interpolate(label.float(), size=shape, mode="nearest-exact")
        assert torch.equal(ours.float(), theirs)


@pytest.mark.parametrize(("old", "new"), [(64, 32), (48, 40), (32, 48), (240, 40)])
def test_nowhere_are_labels_read_from_one_side_of_their_centers(old: int, new: int) -> None:
    # At each of these sizes some, or all, new centers fall between two voxels.
    numbered = torch.arange(old, dtype=torch.uint8).view(1, 1, 1, 1, old)
    read = resize(numbered.float(), numbered, (1, 1, new))[1].flatten().double() + 0.5
    offsets = read - (torch.arange(new) + 0.5) * old / new
    assert offsets.abs().max() == 0.5
    assert offsets.cumsum(0).abs().max() < 1.5  # one-sided, they would add up to 4 to 20


def test_at_half_the_size_centers_take_the_lower_and_the_higher_voxel_in_turn() -> None:
    def halve(values: list[int]) -> list[int]:
        label = torch.tensor(values, dtype=torch.uint8).view(1, 1, 1, 1, -1)
        return resize(label.float(), label, (1, 1, len(values) // 2))[1].flatten().tolist()

    assert halve([0, 1, 2, 3, 4, 5, 6, 7]) == [0, 3, 4, 7]
    assert halve([0, 1, 2, 1, 0, 1]) == [0, 2, 1]  # in the middle the higher class
    assert halve([0, 1, 1, 2, 0, 1]) == [0, 2, 1]


def test_shapes_that_differ_are_refused(image: torch.Tensor, label: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="of one shape"):
        augment(image, label[..., :10], SPACING, AugmentSettings(), generator())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("mirror_probability", 1.5, "at most 1"),
        ("noise_probability", float("nan"), "a finite number"),
        ("gamma_range", (1.5, 0.7), "the lower number first"),
        ("scale_range", (0.0, 1.0), "above 0"),
        ("noise_std", -0.1, "at least 0"),
        ("rotation_degrees", float("inf"), "a finite number"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(name: str, value: object, words: str) -> None:
    settings = replace(AugmentSettings(), **{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"--{name.replace('_', '-')} .*{words}"):
        check_settings(settings)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("seed", range(6))
def test_a_gpu_makes_the_same_sample(image: torch.Tensor, label: torch.Tensor, seed: int) -> None:
    settings = replace(EVERYTHING, rotation_probability=1)
    ours = augment(image, label, SPACING, settings, generator(seed))
    theirs = augment(image.cuda(), label.cuda(), SPACING, settings, generator(seed))
    torch.testing.assert_close(theirs[0].cpu(), ours[0], atol=1e-4, rtol=0)
    assert (theirs[1].cpu() != ours[1]).sum() <= 2  # voxels read from halfway between two
