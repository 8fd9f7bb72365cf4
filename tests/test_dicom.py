"""DICOM series and NIH's labels, which run against them in y."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from data.case import Center, DataError
from data.readers import list_cases, load_case, load_image
from tests.volumes import (
    folder_center,
    make_image_hu,
    make_label,
    write_dicom,
    write_volume,
)


def nih_center(tmp_path: Path, label: sitk.Image) -> Center:
    series = tmp_path / "Pancreas-CT" / "PANCREAS_0001" / "11-24-2015" / "Pancreas-18957"
    write_dicom(series, make_image_hu())
    (series / "._000001.dcm").write_bytes(b"Mac OS X")
    write_volume(tmp_path / "labels" / "label0001.nii.gz", label)
    return Center("NIH", "nih", tmp_path, has_lesions=False)


def nih_label(array: np.ndarray, direction: tuple[int, ...], origin: tuple[int, ...]) -> sitk.Image:
    label = sitk.GetImageFromArray(array)
    label.SetSpacing((0.7, 0.7, 2.5))
    label.SetDirection(direction)
    label.SetOrigin(origin)
    return label


IDENTITY = (1, 0, 0, 0, 1, 0, 0, 0, 1)
Y_MIRRORED = (1, 0, 0, 0, -1, 0, 0, 0, 1)
NIFTI_DEFAULT = (-1, 0, 0, 0, -1, 0, 0, 0, 1)


@pytest.mark.parametrize(
    ("direction", "origin"),
    [
        (IDENTITY, (-10, -20, -300)),  # claims the image's own grid, as if it were not mirrored
        (IDENTITY, (0, 0, 0)),
        (NIFTI_DEFAULT, (0, 0, 0)),
        (Y_MIRRORED, (-10, -17, -300)),
    ],
)
def test_nih_labels_run_against_y_of_their_dicom_series(
    tmp_path: Path, direction: tuple[int, ...], origin: tuple[int, ...]
) -> None:
    label = (make_label() > 0).astype(np.uint8)
    center = nih_center(tmp_path, nih_label(label[:, ::-1].copy(), direction, origin))
    (files,) = list_cases(center)
    case = load_case(center, files)
    assert files.case_id == "PANCREAS_0001"
    np.testing.assert_array_equal(case.image_hu, make_image_hu())
    np.testing.assert_array_equal(case.label, label)
    assert case.spacing == pytest.approx((2.5, 0.7, 0.7))
    assert case.acquisition["manufacturer"] == "SIEMENS"
    assert case.acquisition["tube_current_ma"] == "220"


def test_nih_labels_resaved_in_another_orientation_are_placed_by_their_header(
    tmp_path: Path,
) -> None:
    label = (make_label() > 0).astype(np.uint8)
    right = nih_label(label, IDENTITY, (-10, -20, -300))
    for orientation in ("RAS", "SPL", "LAS"):
        shutil.rmtree(tmp_path / "Pancreas-CT", ignore_errors=True)
        center = nih_center(tmp_path, sitk.DICOMOrient(right, orientation))
        np.testing.assert_array_equal(load_case(center, list_cases(center)[0]).label, label)


def test_withdrawn_nih_cases_are_left_out(tmp_path: Path) -> None:
    for number in (24, 25, 70):
        write_dicom(tmp_path / f"PANCREAS_{number:04d}", make_image_hu(number))
    center = Center("NIH", "nih", tmp_path, has_lesions=False)
    assert [files.case_id for files in list_cases(center)] == ["PANCREAS_0024"]


def test_a_missing_dicom_slice_is_refused(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a", make_image_hu(), leave_out=(2,))
    with pytest.raises(DataError, match=r"slices 2 and 3 are 5 mm apart, the others 2\.5 mm"):
        load_image(tmp_path / "a", "a")


def test_a_series_is_found_below_its_study(tmp_path: Path) -> None:
    write_dicom(tmp_path / "patient" / "study" / "series", make_image_hu())
    case = load_image(tmp_path / "patient", "a")
    np.testing.assert_array_equal(case.image_hu, make_image_hu())
    other = {"0020|000e": "1.2.3.5"}
    write_dicom(tmp_path / "patient" / "study" / "other", make_image_hu(1), changed=other)
    with pytest.raises(
        DataError, match=r"patient: holds 2 DICOM series .*in study/other.*series in centers\.toml"
    ):
        load_image(tmp_path / "patient", "a")


def test_a_series_in_several_folders_is_one_volume(tmp_path: Path) -> None:
    study = tmp_path / "patient" / "study"
    write_dicom(study / "1", make_image_hu())
    (study / "2").mkdir()
    for file in sorted((study / "1").iterdir())[::2]:
        file.rename(study / "2" / file.name)
    case = load_image(tmp_path / "patient", "a")
    np.testing.assert_array_equal(case.image_hu, make_image_hu())
    (study / "2" / "000003.dcm").write_bytes(b"")
    with pytest.raises(DataError, match=r"study/2/000003\.dcm: is empty .* a slice of its series"):
        load_image(tmp_path / "patient", "a")


def test_a_series_that_was_copied_is_no_second_phase(tmp_path: Path) -> None:
    for name in ("1", "2"):
        write_dicom(tmp_path / "patient" / name, make_image_hu())
    with pytest.raises(DataError, match=r"are one image, copied, as are 5 of 10; take out the cop"):
        load_image(tmp_path / "patient", "a")


def test_a_folder_of_dicom_folders_is_a_center(tmp_path: Path) -> None:
    write_dicom(tmp_path / "images" / "a", make_image_hu())
    center = folder_center(tmp_path)
    case = load_case(center, list_cases(center)[0])
    np.testing.assert_array_equal(case.image_hu, make_image_hu())
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds 0 DICOM series"):
        load_image(tmp_path / "empty", "b")
