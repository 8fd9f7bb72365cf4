"""Case -> sample: crops, sizes, order, and the targets of each stage."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from data.case import Case, Grid
from data.dataset import (
    STRIDE,
    TARGETS,
    Crop,
    StageDataset,
    _new_shape,
    load_on_device,
    make_sample,
    sample_seed,
    target_mask,
)
from data.intensity import PAD_HU, window_hu
from data.prepare.prepared_case import PreparedCase, PrepareSettings, prepare_case
from data.targets.anchors import anchor_masks
from utils.stages import PANCREAS_COARSE, PANCREAS_FINE, STAGES, TUMOR_COARSE, TUMOR_FINE, Stage

CPU = torch.device("cpu")
SPACING = (3.0, 1.0, 0.5)
Prepared = dict[str, list[PreparedCase]]


def in_memory(image_hu: np.ndarray, label: np.ndarray | None, name: str = "x") -> PreparedCase:
    """A prepared case of these very arrays."""
    size = (image_hu.shape[2], image_hu.shape[1], image_hu.shape[0])
    grid = Grid(size, SPACING[::-1], (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    case = Case(name, "C", image_hu, label, SPACING, grid)
    return prepare_case(case, PrepareSettings(spacing=None))


def ramp(shape: tuple[int, int, int]) -> np.ndarray:
    """int16 HU, every neighbor another value, within 0 to 999."""
    return (np.arange(np.prod(shape)).reshape(shape) % 1000).astype(np.int16)


def boxed_case(
    shape: tuple[int, int, int], pancreas: tuple[slice, ...], tumor: tuple[slice, ...] | None
) -> PreparedCase:
    label = np.zeros(shape, np.uint8)
    label[pancreas] = 1
    if tumor is not None:
        label[tumor] = 2
    return in_memory(ramp(shape), label)


def lesion_case(shape: tuple[int, int, int] = (40, 64, 72)) -> PreparedCase:
    pancreas = (slice(10, 21), slice(20, 41), slice(30, 53))
    return boxed_case(shape, pancreas, (slice(12, 16), slice(25, 31), slice(33, 38)))


def tight(stage: Stage, **changes: object) -> Stage:
    """The stage without any margin or rescaling: its crops are known."""
    none = {"jitter_z_fraction": (0.0, 0.0), "jitter_voxels": (0, 0), "rescale_probability": 0.0}
    return replace(stage, **{**none, **changes})  # type: ignore[arg-type]


def same(a: Crop, b: Crop) -> bool:
    equal = torch.equal(a.image_hu, b.image_hu) and torch.equal(a.label, b.label)
    return equal and (a.spacing, a.resize_to, a.case_id) == (b.spacing, b.resize_to, b.case_id)


def shape_of(crop: Crop) -> tuple[int, ...]:
    """Sizes that the network sees."""
    image, label = load_on_device(crop, CPU)
    assert image.shape == label.shape
    return tuple(image.shape[2:])


# order and randomness


def test_a_sample_is_a_function_of_seed_and_index_alone(tiny_prepared: Prepared) -> None:
    cases = tiny_prepared["A"] + tiny_prepared["B"]
    stage = replace(TUMOR_COARSE, rescale_probability=0.5)
    forward = StageDataset(cases, stage, seed=3)
    first = [forward[index] for index in range(7)]
    backward = pickle.loads(pickle.dumps(StageDataset(cases, stage, seed=3)))
    for index in (6, 2, 6, 0, 3, 1, 5, 4):
        np.random.default_rng().random()
        torch.rand(1)
        assert same(backward[index], first[index])


def test_another_seed_or_epoch_gives_other_crops_of_the_same_case() -> None:
    case = lesion_case()
    crops = [StageDataset([case], TUMOR_COARSE, seed)[index] for seed in (0, 1) for index in (0, 1)]
    pairs = [(a, b) for i, a in enumerate(crops) for b in crops[:i]]
    assert not any(same(a, b) for a, b in pairs)


def test_each_case_comes_once_an_epoch_and_the_order_changes(tiny_prepared: Prepared) -> None:
    cases = [case for name in ("A", "B", "C") for case in tiny_prepared[name]]
    dataset = StageDataset(cases, TUMOR_COARSE, seed=0)
    n = len(dataset)
    assert n == 5
    epochs = [tuple(dataset.case_of(e * n + i).case_id for i in range(n)) for e in range(20)]
    assert {tuple(sorted(epoch)) for epoch in epochs} == {("a0", "a1", "b0", "c0", "c1")}
    assert len(set(epochs)) > 10


def test_seeds_of_samples_and_purposes_differ() -> None:
    seeds = {sample_seed(s, i, p) for s in range(3) for i in range(300) for p in range(3)}
    assert len(seeds) == 3 * 300 * 3


def test_a_dataset_travels_to_a_worker_without_its_volumes(tiny_prepared: Prepared) -> None:
    dataset = StageDataset(tiny_prepared["A"], TUMOR_COARSE, seed=0)
    dataset[0]
    assert len(pickle.dumps(dataset)) < dataset.cases[0].image_hu.nbytes


def test_a_crop_may_be_changed_without_touching_the_cache(tiny_prepared: Prepared) -> None:
    stage = tight(PANCREAS_COARSE, stride=1, window_voxels=(64, 64))
    dataset = StageDataset(tiny_prepared["A"], stage, seed=0)
    case = dataset.case_of(0)
    before = case.image_hu.copy()
    dataset[0].image_hu.zero_()
    assert np.array_equal(case.image_hu, before)


# which cases


def test_cases_without_the_target_are_left_out_and_named(tiny_prepared: Prepared) -> None:
    cases = tiny_prepared["A"] + tiny_prepared["N"]
    assert len(StageDataset(cases, PANCREAS_FINE, 0)) == 3
    tumor = StageDataset(cases, TUMOR_COARSE, 0)
    assert [case.case_id for case in tumor.cases] == ["a0", "a1"]
    assert tumor.left_out == ["n0"]
    unlabeled = in_memory(ramp((8, 8, 8)), None, name="blind")
    assert StageDataset([*cases, unlabeled], PANCREAS_FINE, 0).left_out == ["blind"]


def test_nothing_to_learn_is_an_error_that_names_the_stage(tiny_prepared: Prepared) -> None:
    with pytest.raises(ValueError, match="tumor_coarse: none of 1 training cases has a tumor"):
        StageDataset(tiny_prepared["N"], TUMOR_COARSE, 0)


# where the crop is


def test_without_margins_a_crop_is_the_organs_box_rounded_up_to_eights() -> None:
    case = lesion_case()
    crop = StageDataset([case], tight(TUMOR_COARSE), 0)[0]
    assert tuple(crop.image_hu.shape) == (16, 24, 24)  # of 11 x 21 x 23
    assert torch.count_nonzero(crop.label) == 11 * 21 * 23
    assert torch.count_nonzero(crop.label == 2) == 4 * 6 * 5
    steps = crop.image_hu[0, 0].diff() % 1000
    assert steps.tolist() == [1] * 23  # the volume's own voxels, side by side


def test_the_tumor_fine_stage_crops_around_the_tumor() -> None:
    crop = StageDataset([lesion_case()], tight(TUMOR_FINE), 0)[0]
    assert tuple(crop.image_hu.shape) == (8, 8, 8)
    assert torch.count_nonzero(crop.label == 2) == 4 * 6 * 5


def test_a_margin_keeps_the_whole_target_inside() -> None:
    dataset = StageDataset([lesion_case()], replace(PANCREAS_FINE, jitter_voxels=(0, 9)), 0)
    shapes = set()
    for index in range(30):
        crop = dataset[index]
        assert torch.count_nonzero(crop.label) == 11 * 21 * 23
        shapes.add(tuple(crop.image_hu.shape))
    assert len(shapes) > 3


def test_the_volume_stage_sees_the_central_window_at_every_second_voxel() -> None:
    shape = (32, 400, 390)
    label = np.zeros(shape, np.uint8)
    label[10:14, 200:220, 200:230] = 1
    case = in_memory(ramp(shape), label)
    crop = StageDataset([case], PANCREAS_COARSE, 0)[0]
    window = (slice(None, None, 2), slice(40, 360, 2), slice(10, 378, 2))  # 320 x 368, begins even
    assert np.array_equal(crop.image_hu.numpy(), case.image_hu[window])
    assert np.array_equal(crop.label.numpy(), label[window])
    assert tuple(crop.image_hu.shape) == (16, 160, 184)
    assert crop.spacing == (6.0, 2.0, 1.0)
    assert crop.resize_to is None


def test_what_a_small_volume_lacks_is_padded_with_air_and_background() -> None:
    shape = (10, 20, 12)
    label = np.ones(shape, np.uint8)
    case = in_memory(np.full(shape, 70, np.int16), label)
    crop = StageDataset([case], tight(PANCREAS_FINE), 0)[0]
    assert tuple(crop.image_hu.shape) == (16, 24, 16)
    inside = np.zeros((16, 24, 16), bool)
    inside[3:13, 2:22, 2:14] = True
    assert np.array_equal(crop.image_hu.numpy(), np.where(inside, 70, PAD_HU))
    assert np.array_equal(crop.label.numpy(), inside)
    image, _ = load_on_device(crop, CPU)
    assert torch.equal(image[0, 0], torch.from_numpy(inside) * 0.5)


# sizes


@pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))
def test_every_size_is_a_multiple_of_eight_and_within_the_cap(stage: Stage) -> None:
    case = lesion_case()
    for cap in (512, 5_000, 20_000, stage.max_voxels):
        small = replace(stage, max_voxels=cap, rescale_probability=0.5)
        dataset = StageDataset([case], small, seed=1)
        for index in range(12):
            shape = shape_of(dataset[index])
            assert all(size % STRIDE == 0 and size > 0 for size in shape)
            assert np.prod(shape) <= cap


def test_a_flat_crop_above_the_cap_shrinks_in_its_plane() -> None:
    shape = (8, 64, 64)
    case = boxed_case(shape, (slice(None),) * 3, None)
    crop = StageDataset([case], tight(PANCREAS_FINE, max_voxels=8 * 40 * 40), 0)[0]
    assert crop.resize_to == (8, 40, 40)


def test_a_crop_within_the_cap_is_resized_only_as_often_as_asked() -> None:
    case = lesion_case()
    for probability, often in ((0.0, 0), (1.0, 40)):
        stage = tight(TUMOR_COARSE, rescale_probability=probability, rescale_range=(1.3, 1.4))
        dataset = StageDataset([case], stage, 0)
        assert sum(dataset[i].resize_to is not None for i in range(40)) == often
    dataset = StageDataset([case], tight(TUMOR_COARSE, rescale_probability=0.25), 0)
    assert 60 < sum(dataset[i].resize_to is not None for i in range(400)) < 140


def test_rescaling_multiplies_the_number_of_voxels_by_the_drawn_factor() -> None:
    shape = (800, 1600, 2400)  # so large that rounding to multiples of 8 changes little
    stage = replace(TUMOR_COARSE, rescale_probability=1.0, max_voxels=10**12)
    for factor in (0.8, 1.0, 1.2):
        fixed = replace(stage, rescale_range=(factor, factor))
        sides = _new_shape(shape, fixed, np.random.default_rng(0))
        assert sides is not None
        assert np.prod(sides) / np.prod(shape) == pytest.approx(factor, rel=0.01)
        assert [b / a for a, b in zip(shape, sides, strict=True)] == pytest.approx(
            [factor ** (1 / 3)] * 3, rel=0.006
        )
    rng = np.random.default_rng(1)
    drawn = [np.prod(_new_shape(shape, stage, rng) or shape) / np.prod(shape) for _ in range(400)]
    assert (min(drawn), max(drawn)) == pytest.approx((0.8, 1.2), abs=0.01)
    assert np.mean(drawn) == pytest.approx(1.0, abs=0.03)  # uniform in voxels, not in sides
    assert np.std(drawn) == pytest.approx(0.4 / 12**0.5, abs=0.01)


def test_a_rescaled_size_is_the_multiple_of_eight_nearest_to_the_factor() -> None:
    case = boxed_case((64, 80, 96), (slice(0, 40), slice(0, 64), slice(0, 72)), None)
    for side, shape in ((1.0, (40, 64, 72)), (1.2, (48, 80, 88)), (0.8, (32, 48, 56))):
        factor = side**3
        stage = tight(PANCREAS_FINE, rescale_probability=1.0, rescale_range=(factor, factor))
        crop = StageDataset([case], stage, 0)[0]
        assert shape_of(crop) == crop.resize_to == shape


def test_a_resized_crop_keeps_its_extent_in_mm() -> None:
    stage = tight(TUMOR_COARSE, rescale_probability=1.0, rescale_range=(2.2, 2.2))
    crop = StageDataset([lesion_case()], stage, 0)[0]
    assert crop.resize_to == (24, 32, 32)
    extent = [n * mm for n, mm in zip(crop.resize_to, crop.spacing, strict=True)]
    assert extent == pytest.approx([16 * 3.0, 24 * 1.0, 24 * 0.5])


def test_the_volume_stage_is_never_rescaled_at_random() -> None:
    stage = replace(PANCREAS_COARSE, rescale_probability=1.0)
    dataset = StageDataset([lesion_case()], stage, 0)
    assert [dataset[i].resize_to for i in range(5)] == [None] * 5


# values


def test_the_window_maps_minus_100_hu_to_0_and_240_hu_to_1() -> None:
    hu = torch.tensor([-1024, -101, -100, 70, 240, 241, 3071], dtype=torch.int16)
    image = window_hu(hu)
    assert image.dtype == torch.float32
    assert image.tolist() == [0, 0, 0, 0.5, 1, 1, 1]


def test_the_pancreas_includes_the_lesion_and_the_tumor_excludes_the_pancreas() -> None:
    label = np.array([0, 1, 2], np.uint8)
    assert target_mask(label, "pancreas").tolist() == [False, True, True]
    assert target_mask(label, "tumor").tolist() == [False, False, True]
    assert target_mask(torch.from_numpy(label), "tumor").tolist() == [False, False, True]


# targets


def sample_arrays() -> tuple[Tensor, Tensor, Crop]:
    crop = StageDataset([lesion_case()], tight(TUMOR_COARSE, jitter_voxels=(9, 9)), 0)[0]
    image, label = load_on_device(crop, CPU)
    return image, label, crop


@pytest.mark.parametrize("target", list(TARGETS))
def test_a_sample_has_the_targets_that_are_asked_for_and_no_others(target: str) -> None:
    image, label, crop = sample_arrays()
    sample = make_sample(image, label, crop, TUMOR_FINE, (target,), domain=1)
    for name, fields in TARGETS.items():
        for field in fields:
            assert (getattr(sample, field) is not None) == (name == target)
            if name == target:
                assert sample.need(field) is getattr(sample, field)
            else:
                with pytest.raises(
                    ValueError, match=rf"C/x: {field} was not prepared; add '{name}'"
                ):
                    sample.need(field)
    assert (sample.case_id, sample.center, sample.domain, sample.index) == ("x", "C", 1, 0)
    assert sample.spacing == crop.spacing
    assert torch.equal(sample.label, label)


def test_the_mask_is_the_target_as_float() -> None:
    image, label, crop = sample_arrays()
    for stage, count in ((PANCREAS_FINE, 11 * 21 * 23), (TUMOR_COARSE, 4 * 6 * 5)):
        mask = make_sample(image, label, crop, stage).mask
        assert mask.dtype == torch.float32
        assert mask.shape == image.shape
        assert mask.unique().tolist() == [0, 1]
        assert mask.sum() == count


def test_the_distance_map_is_scipys_negative_inside_and_normalized() -> None:
    image, label, crop = sample_arrays()
    sdm = make_sample(image, label, crop, TUMOR_FINE, ("sdm",)).sdm
    assert sdm is not None
    mask = (label == 2)[0, 0].numpy()
    outside = ndimage.distance_transform_edt(~mask)
    inside = ndimage.distance_transform_edt(mask)
    assert isinstance(outside, np.ndarray)
    assert isinstance(inside, np.ndarray)
    expected = outside / outside.max() - inside / inside.max()
    expected[mask & ~ndimage.binary_erosion(mask, border_value=1)] = 0
    np.testing.assert_allclose(sdm[0, 0].numpy(), expected, atol=1e-6)


def test_a_slice_is_labeled_1_where_it_holds_lesion() -> None:
    image, label, crop = sample_arrays()
    slices = make_sample(image, label, crop, TUMOR_FINE, ("slices",)).slice_labels
    assert slices is not None
    assert slices.shape == (1, image.shape[2])
    lesion = (label == 2).flatten(3).any(dim=3)[0, 0]
    assert slices[0].tolist() == lesion.float().tolist()
    assert slices.sum() == 4


def test_the_anchors_are_those_of_the_stages_target() -> None:
    image, label, crop = sample_arrays()
    for stage in (PANCREAS_FINE, TUMOR_COARSE):
        sample = make_sample(image, label, crop, stage, ("anchors",))
        positive, negative = anchor_masks(target_mask(label, stage.target))
        assert sample.positive is not None
        assert sample.negative is not None
        assert torch.equal(sample.positive, positive)
        assert torch.equal(sample.negative, negative)
        assert sample.positive.shape[2:] == tuple(n // 8 for n in image.shape[2:])
        assert sample.positive.any()
