"""The second channel: a mask smoothed, a label spoiled as a coarse stage might."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

import data.prior
from data.prior import smooth_mask, spoil_mask

SPACING = (3.5, 2.8, 2.8)


def lesion() -> torch.Tensor:
    mask = torch.zeros(1, 1, 16, 32, 32, dtype=torch.bool)
    mask[..., 5:11, 12:20, 10:18] = True
    return mask


def spoiled(seed: int) -> torch.Tensor:
    return spoil_mask(lesion(), SPACING, torch.Generator().manual_seed(seed))


def test_a_smoothed_mask_is_twice_the_mean_of_27_voxels() -> None:
    mask = lesion()
    expected = mask[0, 0].numpy().astype(np.float64)
    for _ in range(2):
        expected = ndimage.uniform_filter(expected, 3)
    np.testing.assert_allclose(smooth_mask(mask)[0, 0].numpy(), expected, atol=1e-6)
    assert torch.equal(smooth_mask(torch.ones(1, 1, 8, 8, 8)), torch.ones(1, 1, 8, 8, 8))


def test_without_a_move_and_a_stretch_the_label_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MISSED": 0, "ELSEWHERE": 0, "STRETCH": 1, "SHIFT_MM": 0}.items():
        monkeypatch.setattr(data.prior, name, float(value))
    torch.testing.assert_close(spoiled(0), lesion().float(), atol=1e-4, rtol=0)


def test_a_shift_is_in_mm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MISSED": 0, "ELSEWHERE": 0, "STRETCH": 1, "SHIFT_MM": 3}.items():
        monkeypatch.setattr(data.prior, name, float(value))
    moves = []
    for seed in range(200):
        places = np.array(ndimage.center_of_mass(spoiled(seed)[0, 0].numpy()))
        moves.append((places - (7.5, 15.5, 13.5)) * SPACING)
    assert np.std(moves, axis=0) == pytest.approx([3, 3, 3], rel=0.15)
    assert np.mean(moves, axis=0) == pytest.approx([0, 0, 0], abs=0.6)


def test_a_label_is_missed_or_elsewhere_as_often_as_the_file_says() -> None:
    made = [spoiled(seed)[0, 0].numpy() for seed in range(400)]
    missed = np.mean([not one.any() for one in made])
    assert missed == pytest.approx(data.prior.MISSED, abs=0.05)
    volumes = [one.sum() / lesion().sum().item() for one in made if one.any()]
    assert max(volumes) < 1.35**3 * 1.05  # 2.5; less where it sticks out of the crop
    assert all(one.min() >= 0 and one.max() <= 1 for one in made)


def test_the_same_generator_gives_the_same_and_an_empty_label_stays_empty() -> None:
    assert torch.equal(spoiled(3), spoiled(3))
    empty = torch.zeros(1, 1, 8, 8, 8)
    for seed in range(5):
        assert not spoil_mask(empty, SPACING, torch.Generator().manual_seed(seed)).any()
