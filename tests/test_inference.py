"""Inference: mirroring, places of voxels, crops, the recurrent fine stage."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from data.roi import Box
from engine.crops import input_box
from engine.inference import (
    Predictor,
    load_predictor,
    mirror_combinations,
    predict_box,
    predict_mirrored,
    predict_prepared,
    upsample_axis,
)
from methods import METHODS, build_method, make_config
from tests._evaluation_fixtures import WindowMethod, hu_window, small_stage, write_run
from tests._export_fixtures import write_checkpoint
from tests._inference_models import identity, make_predictor
from utils.device import select_precision
from utils.metrics import centroid_distance, dsc
from utils.postprocess import keep_components
from utils.stages import PANCREAS_COARSE, STAGES, TUMOR_COARSE, TUMOR_FINE


def by_position(image: Tensor) -> Tensor:
    """A probability that grows along each axis, plus the image: no mirror leaves it as it is."""
    z, y, x = torch.meshgrid(*(torch.arange(n) for n in image.shape[2:]), indexing="ij")
    return (z + 10 * y + 100 * x) / 1e5 + 0.5 * image


def test_the_mirrors_are_all_8_and_each_is_there_once() -> None:
    mirrors = mirror_combinations((0, 1, 2))
    assert len(mirrors) == len(set(mirrors)) == 8
    assert all(set(axes) <= {2, 3, 4} for axes in mirrors)
    assert {len(mirror_combinations(stage.mirror_axes)) for stage in STAGES.values()} == {8}


def test_only_the_axes_of_the_stage_are_mirrored() -> None:
    assert mirror_combinations((0, 2)) == [(), (2,), (4,), (2, 4)]
    assert mirror_combinations(()) == [()]
    predictor, network = make_predictor(identity, replace(TUMOR_FINE, mirror_axes=(1, 2)))
    predict_mirrored(predictor, torch.zeros(1, 1, 8, 8, 8))
    assert len(network.shapes) == 4


def test_a_probability_is_the_mean_over_8_mirrored_inputs() -> None:
    predictor, network = make_predictor(by_position)
    image = torch.rand(1, 1, 8, 16, 24, generator=torch.Generator().manual_seed(0))
    total = np.zeros((8, 16, 24))
    for flips in itertools.product((False, True), repeat=3):
        axes = tuple(axis for axis in range(3) if flips[axis])
        mirrored = torch.from_numpy(np.flip(image[0, 0].numpy(), axes).copy())[None, None]
        total += np.flip(by_position(mirrored)[0, 0].numpy(), axes) / 8
    prob, _ = predict_mirrored(predictor, image)
    np.testing.assert_allclose(prob[0, 0].numpy(), total, atol=1e-6)
    assert len(network.shapes) == 8


def test_a_network_that_sees_position_gives_a_mirror_symmetric_probability() -> None:
    predictor, _ = make_predictor(by_position)
    image = torch.zeros(1, 1, 8, 16, 24)
    prob, _ = predict_mirrored(predictor, image)
    assert by_position(image).std() > 1e-3
    for axis in (2, 3, 4):
        torch.testing.assert_close(prob.flip(axis), prob)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_loaded_stage_standardizes_its_weights_once(tmp_path: Path, precision: str) -> None:
    predictor = load_predictor(write_checkpoint(tmp_path), "cpu", precision)
    image = torch.rand(1, 1, 8, 16, 24)
    with mock.patch("models.layers.standardize_weight", side_effect=KeyError):
        found, _ = predict_mirrored(predictor, image)
    predictor.method.load_state_dict(predictor.method.state_dict())  # from now on in each pass
    with (
        mock.patch("models.layers.standardize_weight", side_effect=KeyError),
        pytest.raises(KeyError),
    ):
        predict_mirrored(predictor, image)
    torch.testing.assert_close(predict_mirrored(predictor, image)[0], found, rtol=0, atol=0)


@pytest.mark.parametrize("axis", [2, 3, 4])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_upsampling_undoes_subsampling_of_a_ramp(axis: int, factor: int) -> None:
    shape = [1, 1, 6, 6, 6]
    shape[axis] = 6 * factor
    ramp = torch.linspace(-1.0, 2.0, 6 * factor).view([-1 if a == axis else 1 for a in range(5)])
    ramp = ramp.expand(shape)
    index = torch.arange(0, 6 * factor, factor)
    back = upsample_axis(ramp.index_select(axis, index), axis, factor)
    known = 5 * factor + 1  # up to the last voxel that was kept
    torch.testing.assert_close(back.narrow(axis, 0, known), ramp.narrow(axis, 0, known))
    last = back.narrow(axis, 5 * factor, factor)
    torch.testing.assert_close(last, last.narrow(axis, 0, 1).expand_as(last))


def test_upsampling_keeps_every_voxel_that_there_was() -> None:
    prob = torch.rand(1, 1, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    up = prob
    for axis in (2, 3, 4):
        up = upsample_axis(up, axis, 2)
    assert up.shape == (1, 1, 6, 8, 10)
    assert torch.equal(up[:, :, ::2, ::2, ::2], prob)
    assert up.min() >= prob.min()
    assert up.max() <= prob.max()


def ramp_hu(shape: tuple[int, int, int]) -> np.ndarray:
    """HU from -100 to below 240, linear along each axis."""
    z, y, x = np.indices(shape)
    return (-100 + 3 * z + 2 * y + x).astype(np.int16)


def test_the_subsampled_stage_puts_each_voxel_back_in_its_place() -> None:
    predictor, network = make_predictor(identity, PANCREAS_COARSE)
    image_hu = ramp_hu((21, 37, 50))
    box = Box((0, 2, 1), (21, 37, 48))  # 21 x 35 x 47, padded to 32 x 48 x 48
    prob, _ = predict_box(predictor, image_hu, box)
    assert prob.dtype == np.float32
    assert network.shapes[0] == (16, 24, 24)
    expected = ((image_hu.astype(float) + 100) / 340)[box.slices]
    inside = slice(1, -2)  # beside the border the padding is interpolated
    np.testing.assert_allclose(
        prob[inside, inside, inside], expected[inside, inside, inside], atol=1e-6
    )


@pytest.mark.parametrize("shape", [(30, 70, 80), (31, 71, 77), (29, 62, 63), (33, 59, 74)])
def test_a_mask_that_is_predicted_through_stride_2_is_not_shifted(
    shape: tuple[int, int, int],
) -> None:
    """A smooth blob, cut out of the central window at odd and even places, stays where it is."""
    stage = replace(PANCREAS_COARSE, window_voxels=(48, 51))
    predictor, _ = make_predictor(identity, stage)
    middle = (14.3, 30.6, 34.2)
    squares = [
        ((axis - center) / radius) ** 2
        for axis, center, radius in zip(np.indices(shape), middle, (7, 12, 10), strict=True)
    ]
    image_hu = np.rint(-100 + 300 * np.exp(-sum(squares))).astype(np.int16)
    found = predict_prepared(predictor, image_hu, None, 0.5)
    pred, mask = found.prob > 0.5, (image_hu + 100) / 340 > 0.5
    assert dsc(pred, mask) > 97
    assert centroid_distance(pred, mask, (1.0, 1.0, 1.0)) < 0.1


def test_a_crop_of_any_size_comes_back_in_its_own_shape() -> None:
    predictor, network = make_predictor(identity)
    image_hu = ramp_hu((21, 37, 50))
    box = Box((3, 2, 1), (20, 31, 50))
    prob, _ = predict_box(predictor, image_hu, box)
    np.testing.assert_allclose(prob, ((image_hu + 100.0) / 340)[box.slices], atol=1e-6)
    assert network.shapes[0] == (24, 32, 56)


def test_a_read_only_volume_is_predicted_without_a_warning() -> None:
    predictor, _ = make_predictor(identity)
    image_hu = ramp_hu((8, 16, 16))
    image_hu.flags.writeable = False  # as a memory map of the cache
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict_box(predictor, image_hu, Box((0, 0, 0), (8, 16, 16)))


def test_a_probability_that_is_not_finite_is_refused_with_what_to_do() -> None:
    predictor, _ = make_predictor(lambda image: image / 0)
    image_hu = np.full((8, 16, 16), -2000, np.int16)  # 0 in the window: 0 / 0
    with pytest.raises(ValueError, match=r"tumor_fine: .* not finite in fp32; give --precision"):
        predict_box(predictor, image_hu, Box((0, 0, 0), (8, 16, 16)))


def test_the_margin_is_5_slices_and_25_voxels_rounded_up_to_multiples_of_8() -> None:
    around = Box((40, 150, 160), (61, 190, 203))
    # z: 21 + 10 = 31 -> 32; y: 40 + 50 = 90 -> 96; x: 43 + 50 = 93 -> 96.
    for name in ("pancreas_fine", "tumor_coarse", "tumor_fine"):
        box = input_box(STAGES[name], (120, 400, 400), around, (1.5, 0.8, 0.8))
        assert box == Box((35, 122, 134), (67, 218, 230))


def test_the_coarse_pancreas_stage_sees_the_central_window_whatever_was_found() -> None:
    around = Box((1, 1, 1), (2, 2, 2))
    box = input_box(PANCREAS_COARSE, (90, 400, 400), around, (1.5, 0.8, 0.8))
    assert box == Box((0, 40, 16), (90, 360, 384))


def test_without_a_box_a_stage_sees_the_central_window() -> None:
    box = input_box(TUMOR_COARSE, (90, 300, 400), None, (1.5, 0.8, 0.8))
    assert box == Box((0, 0, 16), (90, 300, 384))


def column(length: int, shape: tuple[int, int, int]) -> np.ndarray:
    """HU: 200 in a column of 8 x `length` x 8 voxels that begins at y = 0, else 0."""
    image_hu = np.zeros(shape, np.int16)
    image_hu[8:16, :length, 16:24] = 200
    return image_hu


def recurrent(rounds: int) -> Predictor:
    """A stage with a margin of 8 in y alone, whose network finds what is bright."""
    stage = replace(TUMOR_FINE, margin_voxels=(0, 8, 0), rounds=rounds)
    return make_predictor(lambda image: (image > 0.6).float(), stage)[0]


FIRST = Box((8, 0, 16), (16, 8, 24))


def test_the_recurrence_ends_after_its_rounds() -> None:
    # Each round finds the column up to its crop's end, so the crop grows by 16: 24, 40, 56, 72.
    found = predict_prepared(recurrent(rounds=4), column(300, (24, 320, 40)), FIRST, 0.5)
    assert found.rounds == 4
    assert found.box == Box((8, 0, 16), (16, 72, 24))
    assert np.count_nonzero(found.prob > 0.5) == 8 * 72 * 8


def test_the_recurrence_ends_where_two_rounds_agree_at_0_92() -> None:
    # 88 and 104 rows: Dice 0.917; 104 and 120 rows, in the seventh round: 0.929.
    found = predict_prepared(recurrent(rounds=20), column(300, (24, 320, 40)), FIRST, 0.5)
    assert found.rounds == 7
    assert found.box == Box((8, 0, 16), (16, 120, 24))


def test_the_recurrence_ends_where_the_crop_stays() -> None:
    found = predict_prepared(recurrent(rounds=20), column(20, (24, 320, 40)), FIRST, 0.5)
    # 24, then 20 found + 16 -> 40, again 20 found: the same crop would follow, and they agree.
    assert found.rounds == 2
    assert np.count_nonzero(found.prob > 0.5) == 8 * 20 * 8


@pytest.mark.parametrize(("voxels", "rounds"), [(79, 1), (80, 2)])
def test_a_round_below_80_voxels_keeps_its_crop(voxels: int, rounds: int) -> None:
    image_hu = np.zeros((24, 96, 96), np.int16)
    image_hu[8:18, 20:28, 20] = 200
    image_hu[17, 27, 20] -= 200 * (80 - voxels)
    stage = replace(TUMOR_FINE, margin_voxels=(2, 2, 2), rounds=4)
    predictor = make_predictor(lambda image: (image > 0.6).float(), stage)[0]
    found = predict_prepared(predictor, image_hu, Box((4, 10, 10), (20, 60, 60)), 0.5)
    first = input_box(stage, image_hu.shape, Box((4, 10, 10), (20, 60, 60)), (1.5, 0.8, 0.8))
    assert found.rounds == rounds
    assert (found.box == first) == (voxels < 80)
    assert np.count_nonzero(found.prob > 0.5) == voxels


def test_a_round_that_finds_nothing_ends_the_recurrence_with_an_empty_result() -> None:
    found = predict_prepared(recurrent(rounds=4), np.zeros((24, 96, 40), np.int16), FIRST, 0.5)
    assert found.rounds == 1
    assert not found.prob.any()


def test_outside_the_crop_the_probability_is_zero() -> None:
    predictor, _ = make_predictor(lambda image: image + 1, TUMOR_COARSE)
    found = predict_prepared(
        predictor, np.zeros((40, 120, 120), np.int16), Box((4, 50, 50), (9, 60, 60)), 0.5
    )
    assert found.box == Box((0, 23, 23), (16, 87, 87))
    assert (found.prob[found.box.slices] > 0).all()
    assert np.count_nonzero(found.prob) == np.prod(found.box.shape)


def test_a_predictor_is_what_its_checkpoint_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "ours", WindowMethod)
    stage = small_stage("tumor_fine", threshold=0.3, max_voxels=12_345, rounds=7)
    run = write_run(tmp_path, stage, hu_window(10.0), spacing=(2.0, 1.0, 1.0))
    predictor = load_predictor(run.checkpoint, "cpu", "fp32")
    assert predictor.stage == stage
    assert (predictor.stage.threshold, predictor.window_voxels) == (0.3, None)
    assert predictor.config.spacing == (2.0, 1.0, 1.0)
    assert isinstance(predictor.method, WindowMethod)


@pytest.mark.parametrize("name", list(STAGES))
def test_a_trained_network_predicts_the_mean_of_its_mirrored_forward_passes(
    name: str, tmp_path: Path
) -> None:
    stage = small_stage(name)
    torch.manual_seed(0)
    weights = build_method(make_config(stage, width=8)).network.state_dict()
    run = write_run(tmp_path, stage, weights, width=8)
    predictor = load_predictor(run.checkpoint, "cpu", "fp32")
    assert not predictor.method.training
    image = torch.rand(1, 1, 16, 16, 24)
    with torch.no_grad():
        probs = [
            torch.sigmoid(predictor.method.network(image.flip(axes)).logits).flip(axes)
            for n in range(4)
            for axes in itertools.combinations((2, 3, 4), n)
        ]
    expected = torch.stack(probs).mean(0)
    prob, windows = predict_mirrored(predictor, image)
    assert windows == 0
    torch.testing.assert_close(prob, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(probs[0], expected, atol=1e-3)


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_a_whole_crop_in_fp32_is_what_a_direct_computation_gives(precision: str) -> None:
    """Mirror mean, threshold and components of a small network, computed here a second time."""
    torch.manual_seed(2)
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 1, 3, padding=1))
    stage = replace(TUMOR_COARSE, margin_voxels=(1, 2, 3), max_voxels=8**3)  # far above the cap
    predictor = make_predictor(lambda image: torch.sigmoid(30 * network(image)), stage)[0]
    predictor = replace(
        predictor, precision=select_precision(precision, predictor.device, training=False)
    )
    rng = np.random.default_rng(0)
    image_hu = rng.integers(-200, 300, (20, 40, 44)).astype(np.int16)
    around = Box((4, 10, 9), (13, 27, 29))  # with its margin 11 x 21 x 26
    found = predict_prepared(predictor, image_hu, around, 0.5)
    box = Box((1, 7, 3), (17, 31, 35))  # 16 x 24 x 32
    assert (found.box, found.windows, found.rounds) == (box, 0, 1)
    image = np.clip((image_hu[box.slices].astype(np.float32) + 100) / 340, 0, 1)
    total = np.zeros(image.shape)
    with torch.no_grad():
        for flips in itertools.product((False, True), repeat=3):
            axes = tuple(axis for axis in range(3) if flips[axis])
            mirrored = torch.from_numpy(np.flip(image, axes).copy())[None, None]
            total += np.flip(torch.sigmoid(30 * network(mirrored))[0, 0].numpy(), axes) / 8
    np.testing.assert_allclose(found.crop_prob, total, atol=1e-5)
    expected = np.zeros(image_hu.shape, bool)
    expected[box.slices] = total > 0.5
    labels, count = ndimage.label(expected, np.ones((3, 3, 3)))
    assert count > 1
    sizes = np.bincount(labels.ravel())[1:]
    kept = np.isin(labels, 1 + np.flatnonzero(sizes > sizes.max() / 2))
    borderline = np.abs(total - 0.5) < 1e-5
    assert not borderline.any()
    np.testing.assert_array_equal(keep_components(found.prob > 0.5), kept)


def test_a_checkpoint_of_another_stage_is_refused_by_name(tmp_path: Path) -> None:
    run = write_run(tmp_path, small_stage("tumor_fine"), hu_window(10.0))
    with pytest.raises(ValueError, match=r"last\.pt: trained as tumor_fine, not as tumor_coarse"):
        load_predictor(run.checkpoint, "cpu", stage="tumor_coarse")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(number: float, tmp_path: Path) -> None:
    weights = hu_window(10.0)
    weights["numbers"][2] = number
    run = write_run(tmp_path, small_stage("tumor_fine"), weights)
    with pytest.raises(ValueError, match=r"last\.pt: network.numbers holds .* not finite; train"):
        load_predictor(run.checkpoint, "cpu", stage="tumor_fine")


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    run = write_run(tmp_path, small_stage("tumor_fine"), {"stem.weight": torch.ones(1)}, width=8)
    with pytest.raises(ValueError, match=r"last\.pt: its weights are not those of method ours"):
        load_predictor(run.checkpoint, "cpu")


def test_nothing_in_a_predictor_can_be_changed() -> None:
    predictor, _ = make_predictor(identity)
    for name in ("window_voxels", "precision", "device"):
        with pytest.raises(FrozenInstanceError):
            setattr(predictor, name, None)


def test_a_checkpoint_that_is_missing_or_cut_short_is_an_error_with_its_name(
    tmp_path: Path,
) -> None:
    run = write_run(tmp_path, small_stage("tumor_fine"), hu_window(10.0))
    content = run.checkpoint.read_bytes()
    run.checkpoint.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"last\.pt: not a readable checkpoint"):
        load_predictor(run.checkpoint, "cpu")
    run.checkpoint.unlink()
    with pytest.raises(FileNotFoundError, match=r"last\.pt: no checkpoint there"):
        load_predictor(run.checkpoint, "cpu")
