"""Labels: values and geometry that are right are read, all others refused with a cure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from data.case import DataError
from tests.volumes import (
    load_pair,
    make_image_hu,
    make_label,
    to_image,
)


def test_float_labels_that_hold_integers_are_accepted(tmp_path: Path) -> None:
    label = make_label().astype(np.float32) + np.float32(1e-6)
    case = load_pair(tmp_path, make_image_hu(), label)
    assert case.label is not None
    assert case.label.dtype == np.uint8
    np.testing.assert_array_equal(case.label, make_label())


@pytest.mark.parametrize("bad", [0.5, np.nan])
def test_labels_that_hold_no_integers_are_refused(tmp_path: Path, bad: float) -> None:
    label = make_label().astype(np.float32)
    label[0, 0, 0] = bad
    with pytest.raises(DataError, match=r"C/a: .*must hold integers, but 1 voxels .*nearest"):
        load_pair(tmp_path, make_image_hu(), label)


def test_unknown_label_values_are_named_with_case_and_map(tmp_path: Path) -> None:
    label = make_label()
    label[4, 5, 5:] = 7
    with pytest.raises(DataError) as error:
        load_pair(tmp_path, make_image_hu(), label)
    text = str(error.value)
    assert text.startswith("C/a: ")
    assert "unknown label value 7 (2 voxels)" in text
    assert "pancreas = [1], tumor = [2]" in text


def test_a_label_map_joins_values_and_the_tumor_wins(tmp_path: Path) -> None:
    label = make_label()
    label[0, 0, 0] = 5
    label[0, 0, 1] = 9
    label_map = {"background": (0, 9), "pancreas": (1, 2, 5), "tumor": (2,)}
    case = load_pair(tmp_path, make_image_hu(), label, label_map=label_map)
    expected = make_label()
    expected[0, 0, 0] = 1
    np.testing.assert_array_equal(case.label, expected)


def test_an_empty_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'C/a: .*is empty.*"a" under exclude'):
        load_pair(tmp_path, make_image_hu(), np.zeros((5, 6, 7), np.uint8))


def test_a_tumor_in_a_center_without_lesions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has_lesions = false"):
        load_pair(tmp_path, make_image_hu(), make_label(), has_lesions=False)


def shifted_label(mm: float) -> sitk.Image:
    label = to_image(make_label())
    label.SetOrigin([coordinate + mm for coordinate in label.GetOrigin()])
    return label


def test_a_label_header_rounded_within_a_quarter_voxel_is_accepted(tmp_path: Path) -> None:
    case = load_pair(tmp_path, make_image_hu(), shifted_label(0.1))
    np.testing.assert_array_equal(case.label, make_label())


def test_a_label_that_lies_elsewhere_is_refused_and_both_cures_work(tmp_path: Path) -> None:
    moved = to_image(make_label())
    moved.SetOrigin((moved.GetOrigin()[0] + 0.7, *moved.GetOrigin()[1:]))  # one voxel to the left
    with pytest.raises(DataError, match=r"0\.7 mm off.*origin_xyz.*label_geometry") as error:
        load_pair(tmp_path, make_image_hu(), moved)
    assert "C/a: " in str(error.value)
    by_image = load_pair(tmp_path, make_image_hu(), moved, label_geometry="image")
    np.testing.assert_array_equal(by_image.label, make_label())
    resampled = load_pair(tmp_path, make_image_hu(), moved, label_geometry="resample")
    expected = np.roll(make_label(), 1, axis=2)
    np.testing.assert_array_equal(resampled.label, expected)


def test_a_label_of_another_size_is_refused_or_resampled(tmp_path: Path) -> None:
    cropped = to_image(make_label())[1:, 1:, 1:]  # keeps its place in the world
    with pytest.raises(DataError, match=r"size_xyz \(6, 5, 4\) instead of \(7, 6, 5\)"):
        load_pair(tmp_path, make_image_hu(), cropped)
    with pytest.raises(DataError, match=r"has \(4, 5, 6\) voxels"):
        load_pair(tmp_path, make_image_hu(), cropped, label_geometry="image")
    for orientation in ("LPS", "RAI", "SLP"):
        turned = to_image(make_image_hu(), orientation=orientation)
        case = load_pair(tmp_path, turned, cropped, label_geometry="resample")
        np.testing.assert_array_equal(case.label, make_label())


def test_a_mirrored_label_is_refused(tmp_path: Path) -> None:
    label = to_image(make_label())
    mirrored = sitk.GetImageFromArray(make_label())
    mirrored.SetSpacing(label.GetSpacing())
    mirrored.SetOrigin(label.GetOrigin())
    mirrored.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
    with pytest.raises(DataError, match="direction"):
        load_pair(tmp_path, make_image_hu(), mirrored)
