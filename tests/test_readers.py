"""Readers: each layout on disk gives the same cases."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data.case import Center, DataError
from data.readers import READERS, list_cases, load_case
from tests.volumes import (
    folder_center,
    make_image_hu,
    make_label,
    write_volume,
)


def test_msd_pairs_by_name_and_ignores_junk(tmp_path: Path) -> None:
    for case_id in ("pancreas_004", "pancreas_001"):
        write_volume(tmp_path / "imagesTr" / f"{case_id}.nii.gz", make_image_hu())
        write_volume(tmp_path / "labelsTr" / f"{case_id}.nii.gz", make_label())
        (tmp_path / "imagesTr" / f"._{case_id}.nii.gz").write_bytes(b"Mac OS X")
    (tmp_path / "labelsTr" / ".DS_Store").write_bytes(b"")
    center = Center("MSD", "msd", tmp_path)
    assert [files.case_id for files in list_cases(center)] == ["pancreas_001", "pancreas_004"]
    case = load_case(center, list_cases(center)[0])
    np.testing.assert_array_equal(case.label, make_label())
    assert list_cases(Center("MSD", "msd", tmp_path, exclude=("pancreas_001",)))[0].case_id == (
        "pancreas_004"
    )


def test_an_excluded_name_that_is_no_case_is_reported(tmp_path: Path) -> None:
    write_volume(tmp_path / "images" / "a.nii.gz", make_image_hu())
    with pytest.raises(DataError, match="C: exclude names aa, which is no case"):
        list_cases(folder_center(tmp_path, exclude=("aa",)))


def test_a_label_without_its_image_is_named(tmp_path: Path) -> None:
    write_volume(tmp_path / "imagesTr" / "a.nii.gz", make_image_hu())
    for case_id in ("a", "b"):
        write_volume(tmp_path / "labelsTr" / f"{case_id}.nii.gz", make_label())
    center = Center("MSD", "msd", tmp_path)
    fine, orphan = list_cases(center)
    assert load_case(center, fine).label is not None
    with pytest.raises(DataError, match=r"MSD/b: label .*has no image of the same name"):
        load_case(center, orphan)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for suffix in (".nii.gz", ".nrrd"):
        write_volume(tmp_path / "images" / f"a{suffix}", make_image_hu())
    center = folder_center(tmp_path)
    with pytest.raises(DataError, match=r"C/a: 2 files of one name \(a\.nii\.gz, a\.nrrd\)"):
        load_case(center, list_cases(center)[0])


def test_a_missing_or_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"imagesTr: no such folder"):
        list_cases(Center("MSD", "msd", tmp_path))
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="C: no case under"):
        list_cases(folder_center(tmp_path))
    with pytest.raises(DataError, match="segmentations: no such folder"):
        list_cases(folder_center(tmp_path, labels="segmentations"))


def test_a_folder_without_labels_is_for_prediction(tmp_path: Path) -> None:
    write_volume(tmp_path / "images" / "a.mha", make_image_hu())
    center = folder_center(tmp_path)
    assert load_case(center, list_cases(center)[0]).label is None


def test_folder_names_may_differ_by_given_suffixes_and_name_the_patient(tmp_path: Path) -> None:
    for case_id in ("P1_a", "P1_b", "P2_a"):
        write_volume(tmp_path / "ct" / f"{case_id}_ct.nrrd", make_image_hu())
        write_volume(tmp_path / "seg" / f"{case_id}-seg.nii.gz", make_label())
    center = folder_center(
        tmp_path,
        images="ct",
        labels="seg",
        image_suffix="_ct",
        label_suffix="-seg",
        patient_pattern=r"^(P\d+)_",
    )
    files = list_cases(center)
    assert [f.case_id for f in files] == ["P1_a", "P1_b", "P2_a"]
    assert [f.patient_id for f in files] == ["P1", "P1", "P2"]
    np.testing.assert_array_equal(load_case(center, files[1]).label, make_label())


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "pancreas": 1, "tumor": 2},
        {"0": "background", "1": "pancreas", "2": "cancer"},
        {"background": 0, "Pancreas": [1, 2], "Lesion": 2},
    ],
)
def test_nnunet_raw_takes_its_label_map_from_dataset_json(
    tmp_path: Path, labels: dict[str, object]
) -> None:
    write_volume(tmp_path / "imagesTr" / "case_7_0000.nii.gz", make_image_hu())
    write_volume(tmp_path / "labelsTr" / "case_7.nii.gz", make_label())
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    center = Center("N", "nnunet_raw", tmp_path)
    (files,) = list_cases(center)
    assert files.case_id == "case_7"
    np.testing.assert_array_equal(load_case(center, files).label, make_label())


def test_an_unknown_label_name_in_dataset_json_asks_for_a_label_map(tmp_path: Path) -> None:
    write_volume(tmp_path / "imagesTr" / "a_0000.nii.gz", make_image_hu())
    write_volume(tmp_path / "labelsTr" / "a.nii.gz", make_label())
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "organ": 1, "tumor": 2}}')
    center = Center("N", "nnunet_raw", tmp_path)
    with pytest.raises(DataError, match=r"N/a: .*label name 'organ' is unknown.*label_map"):
        load_case(center, list_cases(center)[0])
    mapped = Center("N", "nnunet_raw", tmp_path, label_map={"pancreas": (1,), "tumor": (2,)})
    np.testing.assert_array_equal(load_case(mapped, list_cases(mapped)[0]).label, make_label())


def test_panorama_joins_parenchyma_duct_and_lesion_and_prefers_manual_labels(
    tmp_path: Path,
) -> None:
    write_volume(tmp_path / "batch_1" / "100001_00002_0000.nii.gz", make_image_hu())
    write_volume(tmp_path / "batch_2" / "100001_00001_0000.nii.gz", make_image_hu(1))
    write_volume(tmp_path / "batch_2" / "100009_00001_0000.nii.gz", make_image_hu(2))
    label = np.zeros((5, 6, 7), np.uint8)
    label[2, 2, :7] = (0, 1, 2, 3, 4, 5, 6)
    write_volume(tmp_path / "labels/manual_labels/100001_00002.nii.gz", label)
    write_volume(tmp_path / "labels/automatic_labels/100001_00002.nii.gz", make_label())
    write_volume(tmp_path / "labels/automatic_labels/100001_00001.nii.gz", label)
    center = Center("P", "panorama", tmp_path, patient_pattern=READERS["panorama"].patient_pattern)
    files = list_cases(center)
    assert [f.case_id for f in files] == ["100001_00001", "100001_00002"]
    assert {f.patient_id for f in files} == {"100001"}
    found = load_case(center, files[1]).label
    assert found is not None
    assert found[2, 2].tolist() == [0, 2, 0, 0, 1, 1, 0]
    assert np.count_nonzero(found) == 3
