"""Eq. 4: the signed distance map against scipy's exact transform, and its edge cases."""

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from skimage.segmentation import find_boundaries

import data.targets.sdm
from data.targets.sdm import bounding_box, distance_transform, signed_distance, signed_distance_map

SPACING = (2.5, 0.7, 0.9)


def blob_mask(seed: int, shape: tuple[int, int, int] = (9, 17, 14)) -> np.ndarray:
    """Several components of every size, some at the array's edge."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, bool)
    for _ in range(rng.integers(1, 4)):
        start = [int(rng.integers(0, n)) for n in shape]
        size = [int(rng.integers(1, n // 2 + 2)) for n in shape]
        mask[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))] = True
    return mask & (rng.random(shape) > 0.1 * rng.integers(0, 3))


def scipy_signed_distance(
    mask: np.ndarray, spacing: tuple[float, float, float] | None = None
) -> np.ndarray:
    distance = distance_transform_edt(~mask, sampling=spacing)
    depth = distance_transform_edt(mask, sampling=spacing)
    depth[find_boundaries(mask, mode="inner")] = 0
    return np.asarray(distance - depth)


@pytest.mark.parametrize("seed", range(25))
def test_voxel_distances_equal_scipys_exact_transform_to_the_last_bit(seed: int) -> None:
    mask = blob_mask(seed)
    ours = signed_distance(torch.from_numpy(mask)).numpy()
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, scipy_signed_distance(mask).astype(np.float32))


@pytest.mark.parametrize("seed", range(25))
def test_millimeter_distances_equal_scipys_with_the_spacing_as_sampling(seed: int) -> None:
    mask = blob_mask(seed)
    ours = signed_distance(torch.from_numpy(mask), SPACING).numpy()
    np.testing.assert_allclose(ours, scipy_signed_distance(mask, SPACING), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(3, 200, 41), (64, 5, 7), (1, 30, 1), (1, 1, 2)])
def test_distances_are_exact_on_flat_and_long_arrays(shape: tuple[int, int, int]) -> None:
    sources = np.zeros(shape, bool)
    sources[tuple(n // 3 for n in shape)] = True
    ours = distance_transform(torch.from_numpy(sources)).numpy()
    np.testing.assert_array_equal(ours, distance_transform_edt(~sources).astype(np.float32))


def test_a_full_size_crop_is_exact_in_several_blocks() -> None:
    z, y, x = np.ogrid[:32, :96, :120]
    mask = ((z - 20) / 14) ** 2 + ((y - 30) / 40) ** 2 + ((x - 70) / 33) ** 2 < 1
    ours = signed_distance(torch.from_numpy(mask)).numpy()
    np.testing.assert_array_equal(ours, scipy_signed_distance(mask).astype(np.float32))


def test_a_line_of_five_voxels_has_the_distances_one_counts() -> None:
    mask = torch.zeros(1, 1, 9, dtype=torch.bool)
    mask[..., 2:7] = True
    expected = [2.0, 1.0, 0.0, -2.0, -3.0, -2.0, 0.0, 1.0, 2.0]
    assert signed_distance(mask).flatten().tolist() == expected
    normalized = [1.0, 0.5, 0.0, -2 / 3, -1.0, -2 / 3, 0.0, 0.5, 1.0]
    assert signed_distance_map(mask).flatten().tolist() == pytest.approx(normalized)


def test_a_mask_that_touches_the_edge_has_no_boundary_there() -> None:
    mask = torch.zeros(1, 1, 5, dtype=torch.bool)
    mask[..., :3] = True
    assert signed_distance(mask).flatten().tolist() == [-3.0, -2.0, 0.0, 1.0, 2.0]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("spacing", [None, SPACING])
def test_the_map_fills_minus_one_to_one_and_its_sign_gives_the_mask_back(
    seed: int, spacing: tuple[float, float, float] | None
) -> None:
    mask = blob_mask(seed, (10, 20, 20))
    mask[2:8, 5:15, 5:15] = True
    sdm = signed_distance_map(torch.from_numpy(mask), spacing)
    assert sdm.min() == -1
    assert sdm.max() == 1
    assert torch.equal(sdm <= 0, torch.from_numpy(mask))
    np.testing.assert_array_equal((sdm == 0).numpy(), find_boundaries(mask, mode="inner"))


@pytest.mark.parametrize("spacing", [None, SPACING])
def test_each_part_of_the_map_is_the_distance_over_its_largest(
    spacing: tuple[float, float, float] | None,
) -> None:
    mask = torch.from_numpy(blob_mask(3, (10, 20, 20)))
    mask[2:8, 5:15, 5:15] = True
    distance = signed_distance(mask, spacing)
    expected = torch.where(distance > 0, distance / distance.max(), distance / -distance.min())
    torch.testing.assert_close(signed_distance_map(mask, spacing), expected)


def test_one_voxel_is_all_boundary() -> None:
    mask = torch.zeros(3, 4, 5, dtype=torch.bool)
    mask[1, 1, 1] = True
    sdm = signed_distance_map(mask)
    assert sdm[1, 1, 1] == 0
    assert sdm.max() == 1
    assert torch.isfinite(sdm).all()


def test_empty_is_one_everywhere_and_full_minus_one() -> None:
    empty = torch.zeros(2, 3, 4, dtype=torch.bool)
    assert torch.equal(signed_distance_map(empty), torch.ones(2, 3, 4))
    assert torch.equal(signed_distance_map(~empty), -torch.ones(2, 3, 4))


def test_empty_and_full_are_the_arrays_diagonal_away() -> None:
    empty = torch.zeros(1, 3, 4, dtype=torch.bool)
    assert signed_distance(empty, (1.0, 2.0, 2.0)).unique().item() == pytest.approx(101**0.5)
    assert signed_distance(~empty).unique().item() == pytest.approx(-(26**0.5))


def test_a_batch_is_mapped_sample_by_sample() -> None:
    masks = torch.from_numpy(np.stack([blob_mask(0), blob_mask(1), np.zeros((9, 17, 14), bool)]))
    sdm = signed_distance_map(masks[:, None])
    assert sdm.shape == (3, 1, 9, 17, 14)
    for one, mask in zip(sdm, masks, strict=True):
        assert torch.equal(one[0], signed_distance_map(mask))


def test_a_float_mask_counts_as_a_bool_one_and_stays_unchanged() -> None:
    mask = torch.from_numpy(blob_mask(5)).float()
    before = mask.clone()
    assert torch.equal(signed_distance_map(mask), signed_distance_map(mask.bool()))
    assert torch.equal(mask, before)


def test_the_bounding_box_is_tight_and_its_margin_stops_at_the_edge() -> None:
    mask = torch.zeros(6, 7, 8, dtype=torch.bool)
    assert bounding_box(mask) is None
    mask[1, 2, 3] = mask[4, 3, 7] = True
    assert bounding_box(mask) == (slice(1, 5), slice(2, 4), slice(3, 8))
    assert bounding_box(mask, margin=2) == (slice(0, 6), slice(0, 6), slice(1, 8))


def test_a_wrong_shape_and_a_transform_without_source_are_refused() -> None:
    with pytest.raises(ValueError, match=r"not \(2, 2\)"):
        signed_distance_map(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="at least one"):
        distance_transform(torch.zeros(2, 2, 2, dtype=torch.bool))


def test_a_box_that_is_known_changes_nothing() -> None:
    masks = torch.from_numpy(np.stack([blob_mask(0), np.zeros((9, 17, 14), bool)]))[:, None]
    boxes = [bounding_box(mask[0]) for mask in masks]
    assert torch.equal(signed_distance_map(masks, boxes=boxes), signed_distance_map(masks))


@pytest.mark.parametrize("block", [1, 1 << 10, 1 << 26])
def test_all_sources_of_a_pass_at_once_give_the_same_bits(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = torch.from_numpy(blob_mask(2))
    expected = [signed_distance(mask, spacing) for spacing in (None, SPACING)]
    monkeypatch.setattr(data.targets.sdm, "GPU_BLOCK", block)
    at_once = data.targets.sdm._minimize_at_once
    monkeypatch.setattr(data.targets.sdm, "_minimize_by_source", at_once)
    for spacing, distance in zip((None, SPACING), expected, strict=True):
        assert torch.equal(signed_distance(mask, spacing), distance)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("seed", range(3))
def test_a_gpu_gives_the_same_distances_to_the_last_bit(seed: int) -> None:
    mask = torch.from_numpy(blob_mask(seed, (16, 40, 48)))
    assert torch.equal(signed_distance(mask.cuda()).cpu(), signed_distance(mask))
    torch.testing.assert_close(signed_distance_map(mask.cuda()).cpu(), signed_distance_map(mask))
