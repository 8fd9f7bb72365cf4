"""Prepared cases: right voxels on the right grid, and the way back."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from data.case import Center
from data.prepare.prepare_centers import prepare_centers
from data.prepare.prepared_case import (
    PreparedCase,
    PrepareSettings,
    prepare_case,
    restore_mask,
    restore_prob,
    to_prepared_mask,
)
from data.readers import list_cases, load_case, load_image, write_mask
from data.roi import Box, bounding_box, paste
from tests.volumes import BLOB_SHAPE as SHAPE
from tests.volumes import BLOB_SPACING as SPACING
from tests.volumes import ORIENTATIONS, make_center, make_pair, to_image, write_volume


def prepare(
    center: Center, tmp_path: Path, spacing: tuple[float, float, float] | None = (1.5, 0.8, 0.8)
) -> list[PreparedCase]:
    settings = PrepareSettings(spacing)
    return prepare_centers([center], tmp_path / "cache", settings)[center.name]


def test_a_prepared_case_has_the_spacing_the_types_and_the_boxes(tmp_path: Path) -> None:
    (case,) = prepare(make_center(tmp_path, "A", (1,)), tmp_path)
    assert (case.case_id, case.center, case.spacing) == ("case_1", "A", (1.5, 0.8, 0.8))
    assert case.image_hu.shape == case.shape == (24, 28, 27)
    assert case.image_hu.dtype == np.int16
    assert case.label is not None
    assert case.label.dtype == np.uint8
    assert case.boxes["pancreas"] == bounding_box(case.label > 0)
    assert case.boxes["tumor"] == bounding_box(case.label == 2)
    assert case.original_shape == SHAPE
    assert case.original_spacing == pytest.approx(SPACING)
    assert np.unique(case.label).tolist() == [0, 1, 2]
    inside = case.label == 1
    assert np.asarray(case.image_hu)[inside].mean() > 150
    assert case.files is not None
    assert case.files.case_id == "case_1"


def test_native_spacing_keeps_every_voxel(tmp_path: Path) -> None:
    (case,) = prepare(make_center(tmp_path, "A", (2,)), tmp_path, None)
    image_hu, label = make_pair(2)
    np.testing.assert_array_equal(case.image_hu, image_hu)
    np.testing.assert_array_equal(case.label, label)


def test_results_return_to_the_original_grid_and_onto_the_label(tmp_path: Path) -> None:
    center = make_center(tmp_path, "A", (1,))
    (case,) = prepare(center, tmp_path)
    _, label = make_pair(1)
    assert case.label is not None
    prob = np.where(np.asarray(case.label) > 0, 0.9, 0.0).astype(np.float32)
    restored = restore_prob(prob, case)
    assert restored.shape == SHAPE
    assert restored.dtype == np.float32
    assert 0 <= restored.min() <= restored.max() <= 1
    mask = restored > 0.45
    overlap = 2 * np.count_nonzero(mask & (label > 0))
    assert overlap / (np.count_nonzero(mask) + np.count_nonzero(label)) > 0.93
    np.testing.assert_array_equal(to_prepared_mask(label > 0, case), np.asarray(case.label) > 0)
    box = Box((1, 0, 2), (5, 9, 11))
    crop = np.random.default_rng(0).random(box.shape, np.float32)
    inside = restore_prob(crop, case, box)
    np.testing.assert_array_equal(inside, restore_prob(paste(crop, box, case.shape), case))
    np.testing.assert_array_equal(restore_mask(crop, case, 0.4, box), inside > 0.4)
    with pytest.raises(ValueError, match=r"case_1: array is \(2, 2, 2\), its grid is"):
        restore_prob(np.zeros((2, 2, 2), np.float32), case)
    original = load_case(center, list_cases(center)[0])
    write_mask(tmp_path / "mask.nii.gz", restored > 0.45, case.grid)
    written = sitk.ReadImage(str(tmp_path / "mask.nii.gz"))
    assert written.GetDirection() == original.grid.direction


def test_an_empty_probability_comes_back_empty(tmp_path: Path) -> None:
    (case,) = prepare(make_center(tmp_path, "A", (1,)), tmp_path)
    assert not restore_prob(np.zeros(case.shape, np.float32), case).any()


def test_a_single_ct_is_prepared_in_memory_alike(tmp_path: Path) -> None:
    center = make_center(tmp_path, "A", (1,))
    (cached,) = prepare(center, tmp_path)
    case = prepare_case(load_case(center, list_cases(center)[0]), PrepareSettings())
    np.testing.assert_array_equal(case.image_hu, cached.image_hu)
    assert case.folder is None
    assert len(pickle.dumps(case)) > case.image_hu.nbytes


def test_arrays_are_read_only_memory_maps_that_pickling_does_not_copy(tmp_path: Path) -> None:
    (case,) = prepare(make_center(tmp_path, "A", (1,)), tmp_path)
    image_hu = case.image_hu
    assert isinstance(image_hu, np.memmap)
    assert isinstance(image_hu[2:5, 3:9, 4:8].base, np.memmap)
    assert case.image_hu is image_hu
    with pytest.raises(ValueError, match="read-only"):
        image_hu[0, 0, 0] = 1
    content = pickle.dumps(case)
    assert len(content) < image_hu.nbytes / 2
    np.testing.assert_array_equal(pickle.loads(content).image_hu, image_hu)


def test_a_result_of_any_of_48_orientations_lies_on_its_organ_in_the_file(tmp_path: Path) -> None:
    image_hu, label = make_pair(1)
    for orientation in ORIENTATIONS:
        file = to_image(image_hu, SPACING, orientation)
        path = write_volume(tmp_path / "image.nii.gz", file)
        case = load_image(path, "a")
        for spacing, least in ((None, 1.0), ((1.5, 0.8, 0.8), 0.95)):
            prepared = prepare_case(case, PrepareSettings(spacing))
            mask = to_prepared_mask(label > 0, prepared)
            restored = restore_prob(mask.astype(np.float32), prepared) >= 0.5
            write_mask(tmp_path / "mask.nii.gz", restored, prepared.grid)
            found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "mask.nii.gz"))) > 0
            expected = sitk.GetArrayFromImage(to_image(label, SPACING, orientation)) > 0
            overlap = 2 * np.count_nonzero(found & expected)
            assert overlap / (np.count_nonzero(found) + np.count_nonzero(expected)) >= least


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (1.0, 1.0), (np.nan, 1.0, 1.0)])
def test_a_spacing_that_is_none_is_refused(spacing: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="spacing must be three numbers above 0"):
        PrepareSettings(spacing)
