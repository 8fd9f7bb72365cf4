"""What a stage sees beside the paper's crops: settled rounds, middles, the second channel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from torch import Tensor

from data.roi import Box
from engine.crops import Found, input_box
from engine.inference import predict_prepared
from tests._inference_models import make_predictor
from utils.stages import TUMOR_FINE

FIRST = Box((8, 0, 16), (16, 8, 24))


def test_rounds_end_where_what_is_cropped_around_moves_by_less_than_a_slice() -> None:
    stage = replace(TUMOR_FINE, margin_voxels=(0, 8, 0), agreement_dice=1.0, rounds=20)
    image_hu = np.zeros((24, 320, 40), np.int16)
    image_hu[8:16, :25, 16:24] = 200  # the rounds find 24, 25 and 25 rows
    boxes = []
    for slices in (0.0, 1.0, 9.0):
        one = replace(stage, settled_slices=slices)
        predictor = make_predictor(lambda image: (image > 0.6).float(), one)[0]
        found = predict_prepared(predictor, image_hu, FIRST, 0.5)
        boxes.append((found.rounds, found.box.stop[1]))
    # The end moves by 16 rows of 0.8 mm, by 1, then not at all; slices are 1.5 mm thick.
    assert boxes == [(3, 48), (2, 40), (1, 24)]


def test_the_middle_of_a_crop_stays_in_the_pancreas_and_its_margin() -> None:
    stage = replace(TUMOR_FINE, margin_voxels=(2, 4, 4), crop_middle="pancreas")
    pancreas, away = Box((8, 40, 40), (16, 60, 60)), Box((8, 90, 40), (16, 98, 48))
    shape, spacing = (40, 120, 120), (1.5, 0.8, 0.8)
    free = input_box(replace(stage, crop_middle="anywhere"), shape, away, spacing, pancreas)
    kept = input_box(stage, shape, away, spacing, pancreas)
    assert kept.shape == free.shape
    assert (free.start[1] + free.stop[1]) // 2 == 94
    assert (kept.start[1] + kept.stop[1]) // 2 == 65  # 60 + 4, rounded up to 32 rows: to 66
    assert input_box(stage, shape, away, spacing) == free  # no pancreas was found


def test_the_second_channel_is_the_smoothed_mask_of_the_crop() -> None:
    stage = replace(TUMOR_FINE, second_channel="coarse", margin_voxels=(1, 1, 1), rounds=1)
    seen: list[Tensor] = []

    def keep(image: Tensor) -> Tensor:
        seen.append(image)
        return image[:, 1:]

    predictor, _ = make_predictor(keep, stage)
    image_hu, mask = np.zeros((20, 24, 40), np.int16), np.zeros((20, 24, 40), bool)
    mask[6:12, 8:14, 10:18] = True
    found = predict_prepared(
        predictor, image_hu, Box((6, 8, 10), (12, 14, 18)), 0.5, Found(mask=mask)
    )
    assert seen[0].shape == (1, 2, 8, 8, 16)
    assert len(seen) == 8  # mirrors, of both channels
    expected = ndimage.uniform_filter(mask[found.box.slices].astype(np.float64), 3)
    inside = (slice(2, -2),) * 3
    expected = ndimage.uniform_filter(expected, 3)[inside]
    np.testing.assert_allclose(found.crop_prob[inside], expected, atol=1e-6)
    with pytest.raises(ValueError, match="give the mask of tumor_coarse"):
        predict_prepared(predictor, image_hu, FIRST, 0.5)
