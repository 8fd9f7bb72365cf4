"""Where DICOM labels may lie, how they are matched with images, and what chooses their segments."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from data.case import Center, DataError
from data.centers import load_centers
from data.prepare.cache import reading_rule
from data.readers import list_cases, list_center, load_image
from data.readers.series import slice_folders
from tests.dicom_files import box, stored_values, write_series, write_structure_set
from tests.dicom_labels import (
    SHAPE,
    case_of,
    halves,
    label_of,
    pydicom,
    write_pair,
    write_seg,
)
from tests.volumes import folder_center


def test_images_and_labels_may_share_a_patients_folder(tmp_path: Path) -> None:
    write_pair(tmp_path)
    patient = tmp_path / "data" / "P1"
    shutil.copytree(tmp_path / "images" / "P1", patient / "study" / "ct")
    (patient / "study" / "seg").mkdir()
    shutil.copy(tmp_path / "labels" / "P1.dcm", patient / "study" / "seg" / "1-1.dcm")
    center = Center("C", "folder", tmp_path / "data", images=".", labels=".")
    case = case_of(center)
    assert case.label is not None
    np.testing.assert_array_equal(case.label, label_of(case))
    shutil.move(patient / "study" / "seg" / "1-1.dcm", patient / "study" / "ct" / "seg.dcm")
    (patient / "study" / "seg").rmdir()
    beside = case_of(center)  # among the slices
    assert beside.label is not None
    np.testing.assert_array_equal(beside.label, case.label)
    assert len(load_image(patient, "P1").image_hu) == SHAPE[0]
    write_structure_set(patient / "study" / "ct" / "rt.dcm", {"Other": [box(1, (1, 3), (1, 3))]})
    assert load_image(patient, "P1").notes == ()


def test_folders_with_labels_alone_hold_no_slices(tmp_path: Path) -> None:
    write_pair(tmp_path)
    assert slice_folders(tmp_path) == [tmp_path / "images" / "P1"]
    shutil.copy(tmp_path / "labels" / "P1.dcm", tmp_path / "images" / "P2.dcm")
    listing = list_center(folder_center(tmp_path, label_suffix="_seg"))
    assert [case.label for case in listing.cases] == [None]
    assert dict(listing.left_out) == {
        str(
            tmp_path / "images" / "P2.dcm"
        ): "is a DICOM label among the images; give its folder by labels, or move it",
        str(tmp_path / "labels" / "P1.dcm"): "has a name that does not end in '_seg'",
    }


def test_names_with_dots_and_suffixes_are_matched(tmp_path: Path) -> None:
    write_pair(tmp_path)
    (tmp_path / "images" / "P1").rename(tmp_path / "images" / "1.2.3")
    (tmp_path / "labels" / "P1.dcm").rename(tmp_path / "labels" / "1.2.3_seg")
    case = case_of(folder_center(tmp_path, label_suffix="_seg"))
    assert case.case_id == "1.2.3"
    assert case.label is not None


def test_two_labels_of_a_case_are_refused(tmp_path: Path) -> None:
    center = write_pair(tmp_path)
    (tmp_path / "labels" / "P1").mkdir()
    for name in ("a.dcm", "b.dcm"):
        shutil.copy(tmp_path / "labels" / "P1.dcm", tmp_path / "labels" / "P1" / name)
    (tmp_path / "labels" / "P1.dcm").unlink()
    with pytest.raises(DataError, match=r"holds 2 labels \(a.dcm, b.dcm\); keep one"):
        case_of(center)


def test_the_keys_of_a_center_choose_segments(tmp_path: Path) -> None:
    files = write_series(tmp_path / "C" / "images" / "P1", stored_values())
    write_seg(tmp_path / "C" / "labels" / "P1.dcm", halves(), files)
    path = tmp_path / "centers.toml"
    text = '[centers.C]\nreader = "folder"\npath = "C"\n'
    path.write_text(text + 'structures = { pancreas = "Organ", tumor = "Mass" }\n')
    center = load_centers(path)["C"]
    case = case_of(center)
    assert case.label is not None
    np.testing.assert_array_equal(case.label, label_of(case))
    (listed,) = list_cases(center)
    assert ("structures", center.structures) in reading_rule(center, listed)
    (tmp_path / "C" / "labels" / "P1.dcm").unlink()
    with pytest.raises(DataError, match="structures names the segments of DICOM labels, and there"):
        list_center(center)


def test_a_damaged_object_is_refused_by_name(tmp_path: Path) -> None:
    center = write_pair(tmp_path)
    path = tmp_path / "labels" / "P1.dcm"
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    with pytest.raises(DataError, match=r"C/P1: .*P1.dcm: .*cannot be read"):
        case_of(center)
    dataset = pydicom.dcmread(tmp_path / "images" / "P1" / "IM0000")
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    dataset.save_as(path)
    with pytest.raises(DataError, match="neither a segmentation nor a structure set"):
        case_of(center)
