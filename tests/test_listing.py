"""Listings: every file that could be an image or a label is a case, or is named with a reason."""

from __future__ import annotations

import json
import shutil
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest

from data.case import Center, DataError
from data.readers import list_cases, list_center, load_case
from data.readers.listing import EXCLUDED, walk
from tests.volumes import folder_center, make_image_hu, make_label, write_dicom, write_volume


def write_pair(
    root: Path, name: str, seed: int = 0, folders: tuple[str, str] | None = None
) -> None:
    images, labels = folders or ("images", "labels")
    write_volume(root / images / f"{name}.nii.gz", make_image_hu(seed))
    write_volume(root / labels / f"{name}.nii.gz", make_label())


def problem_of(center: Center, case_id: str) -> str:
    files = {files.case_id: files for files in list_cases(center)}[case_id]
    with pytest.raises(DataError) as error:
        load_case(center, files)
    assert str(error.value).startswith(f"{center.name}/{case_id}: ")
    return str(error.value)


def test_images_labels_and_pairs_are_counted(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    write_pair(tmp_path, "b", 1)
    write_volume(tmp_path / "images" / "c.nrrd", make_image_hu(2))
    (tmp_path / "images" / "readme.txt").write_text("x")
    (tmp_path / "images" / "d.zip").write_bytes(b"PK")
    listing = list_center(folder_center(tmp_path, exclude=("b",)))
    assert (listing.images, listing.labels, listing.paired) == (3, 2, 1)
    assert [case.case_id for case in listing.cases] == ["a", "c"]
    archive = str(tmp_path / "images" / "d.zip")
    assert dict(listing.left_out).keys() == {"b", archive}
    assert ("b", EXCLUDED) in listing.left_out
    assert "no format that is read here" in dict(listing.left_out)[archive]


def test_what_is_left_out_is_one_warning_wherever_cases_are_listed(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    (tmp_path / "images" / "b.npz").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"C: 1 files or folders are left out.*b\.npz.*check\.py"):
        list_cases(folder_center(tmp_path))


@pytest.mark.parametrize("ending", [".hdr", ".img"])
def test_a_pair_of_header_and_image_is_refused_with_a_cure(tmp_path: Path, ending: str) -> None:
    write_pair(tmp_path, "a")
    (tmp_path / "images" / f"b{ending}").write_bytes(bytes(348))
    assert "convert it to .nii.gz" in problem_of(folder_center(tmp_path), "b")


def test_a_broken_link_is_named_with_what_it_points_to(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    (tmp_path / "images" / "b.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    text = problem_of(folder_center(tmp_path), "b")
    assert f"is a link to {tmp_path / 'gone.nii.gz'}, which does not exist" in text


@pytest.mark.parametrize("forms", [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_in_two_unicode_forms_are_one_case(tmp_path: Path, forms: tuple[str, str]) -> None:
    image, label = (unicodedata.normalize(form, "M\u00fcller") for form in forms)  # type: ignore[arg-type]
    write_volume(tmp_path / "images" / f"{image}.nii.gz", make_image_hu())
    write_volume(tmp_path / "labels" / f"{label}.nii.gz", make_label())
    (files,) = list_cases(folder_center(tmp_path))
    assert files.case_id == image
    assert files.label is not None
    assert list_center(folder_center(tmp_path)).paired == 1
    write_pair(tmp_path, "b")
    (files,) = list_cases(folder_center(tmp_path, exclude=(label,)))
    assert files.case_id == "b"


def test_a_folder_for_each_patient_holds_its_volume(tmp_path: Path) -> None:
    for number, name in enumerate(("P1", "P2")):
        write_volume(tmp_path / "images" / name / "scan" / "ct.nii.gz", make_image_hu(number))
        write_volume(tmp_path / "labels" / name / "seg.nii.gz", make_label())
    center = folder_center(tmp_path)
    assert [files.case_id for files in list_cases(center)] == ["P1", "P2"]
    case = load_case(center, list_cases(center)[1])
    np.testing.assert_array_equal(case.image_hu, make_image_hu(1))
    np.testing.assert_array_equal(case.label, make_label())


def test_image_and_label_in_one_folder_are_told_apart_by_their_ends(tmp_path: Path) -> None:
    for name in ("P1", "P2"):
        write_volume(tmp_path / name / "image.nii.gz", make_image_hu())
        write_volume(tmp_path / name / "label.nii.gz", make_label())
    both = {"images": ".", "labels": "."}
    text = problem_of(folder_center(tmp_path, **both), "P1")
    assert "holds 2 volumes (image.nii.gz, label.nii.gz)" in text
    assert "image_suffix" in text
    center = folder_center(tmp_path, image_suffix="image", label_suffix="label", **both)
    listing = list_center(center)
    assert (listing.images, listing.labels, listing.paired) == (2, 2, 2)
    assert listing.left_out == ()
    np.testing.assert_array_equal(load_case(center, listing.cases[0]).label, make_label())


def test_an_empty_folder_is_refused_where_it_has_a_label_and_named_elsewhere(
    tmp_path: Path,
) -> None:
    write_pair(tmp_path, "a")
    write_volume(tmp_path / "labels" / "b.nii.gz", make_label())
    for name in ("b", "c"):
        (tmp_path / "images" / name).mkdir()
    center = folder_center(tmp_path)
    assert "holds neither a volume nor DICOM slices; fetch" in problem_of(center, "b")
    ((path, reason),) = list_center(center).left_out
    assert path == str(tmp_path / "images" / "c")
    assert "holds neither" in reason


def test_dicom_labels_are_named_with_the_cure(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    write_volume(tmp_path / "images" / "b.nii.gz", make_image_hu(1))
    write_dicom(tmp_path / "labels" / "b", make_image_hu())
    write_dicom(tmp_path / "more", make_image_hu())
    (tmp_path / "more" / "000001.dcm").rename(tmp_path / "labels" / "c.dcm")
    center = folder_center(tmp_path)
    assert "convert labels to .nii.gz" in problem_of(center, "b")
    ((path, reason),) = list_center(center).left_out
    assert path == str(tmp_path / "labels")
    assert "holds 1 files, each of which is a DICOM image" in reason


def test_links_are_followed_once_and_loops_are_not(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert list(walk(tmp_path)) == [tmp_path / "a" / "file"]


def panorama(root: Path, name: str, folder: str = "batch_1", seed: int = 0) -> None:
    write_volume(root / folder / f"{name}_0000.nii.gz", make_image_hu(seed))


def panorama_label(root: Path, name: str, kind: str = "automatic_labels", value: int = 4) -> None:
    label = np.where(make_label() > 0, value, 0).astype(np.uint8)
    write_volume(root / "panorama_labels" / kind / f"{name}.nii.gz", label)


def test_panorama_follows_links_and_names_what_has_no_partner(tmp_path: Path) -> None:
    root = tmp_path / "P"
    for number in (1, 2, 3):
        panorama(root, f"10000{number}_00001", f"batch_{number}", number)
    (root / "batch_2").rename(tmp_path / "disk")
    (root / "batch_2").symlink_to(tmp_path / "disk")
    for number in (2, 3, 4):
        panorama_label(root, f"10000{number}_00001")
    listing = list_center(Center("P", "panorama", root))
    assert [case.case_id for case in listing.cases] == ["100002_00001", "100003_00001"]
    assert (listing.images, listing.labels, listing.paired) == (3, 3, 2)
    left_out = {Path(path).name: reason for path, reason in listing.left_out}
    assert "has no label" in left_out["100001_00001_0000.nii.gz"]
    assert "image 100004_00001_0000 that is not there" in left_out["100004_00001.nii.gz"]
    assert len(left_out) == 2


def test_what_is_expected_to_be_left_out_is_no_warning(tmp_path: Path) -> None:
    for number in (1, 2):
        panorama(tmp_path, f"10000{number}_00001", seed=number)
    panorama_label(tmp_path, "100001_00001")
    center = Center("P", "panorama", tmp_path, exclude=("100002_00001",))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [files.case_id for files in list_cases(center)] == ["100001_00001"]
    assert list_center(center).left_out == (("100002_00001", EXCLUDED),)


def test_a_folder_called_manual_above_panorama_decides_nothing(tmp_path: Path) -> None:
    root = tmp_path / "manual_download" / "P"
    panorama(root, "100001_00001")
    panorama_label(root, "100001_00001", "automatic_labels")
    panorama_label(root, "100001_00001", "manual_labels", 1)
    center = Center("P", "panorama", root)
    label = load_case(center, list_cases(center)[0]).label
    assert label is not None
    assert label.max() == 2  # the manual label's lesion
    shutil.rmtree(root / "panorama_labels" / "manual_labels")
    panorama_label(root, "100001_00001", "second_automatic")
    assert "2 files of one name" in problem_of(center, "100001_00001")


def test_an_nih_label_without_its_series_is_refused(tmp_path: Path) -> None:
    write_dicom(tmp_path / "PANCREAS_0001" / "study" / "series", make_image_hu())
    for number in (1, 2):
        write_volume(tmp_path / "labels" / f"label000{number}.nii.gz", make_label())
    (tmp_path / "PANCREAS_0003").mkdir()
    center = Center("NIH", "nih", tmp_path, has_lesions=False)
    assert "label0002.nii.gz has no image" in problem_of(center, "PANCREAS_0002")
    listing = list_center(center)
    assert (listing.images, listing.labels) == (1, 2)
    assert listing.left_out == (
        (str(tmp_path / "PANCREAS_0003"), "holds no DICOM slices; fetch the series again"),
    )


def test_a_linked_nih_patient_is_found(tmp_path: Path) -> None:
    write_dicom(tmp_path / "disk" / "series", make_image_hu())
    root = tmp_path / "NIH"
    root.mkdir()
    (root / "PANCREAS_0002").symlink_to(tmp_path / "disk")
    center = Center("NIH", "nih", root, has_lesions=False)
    assert [files.case_id for files in list_cases(center)] == ["PANCREAS_0002"]


NNUNET_LABELS = {"background": 0, "pancreas": 1, "tumor": 2}


def nnunet(root: Path, labels: object = None) -> Center:
    write_volume(root / "imagesTr" / "a_0000.nii.gz", make_image_hu())
    write_volume(root / "labelsTr" / "a.nii.gz", make_label())
    content = {"labels": NNUNET_LABELS if labels is None else labels}
    (root / "dataset.json").write_text(json.dumps(content))
    return Center("N", "nnunet_raw", root)


def test_a_second_nnunet_channel_is_refused(tmp_path: Path) -> None:
    center = nnunet(tmp_path)
    write_volume(tmp_path / "imagesTr" / "a_0001.nii.gz", make_image_hu(1))
    assert "has further channels (a_0001.nii.gz)" in problem_of(center, "a")


def test_nnunet_names_with_a_channel_too_few_or_too_many_are_refused(tmp_path: Path) -> None:
    center = nnunet(tmp_path)
    write_volume(tmp_path / "imagesTr" / "b.nii.gz", make_image_hu(1))
    (tmp_path / "labelsTr" / "a.nii.gz").rename(tmp_path / "labelsTr" / "a_0000.nii.gz")
    assert "a_0000.nii.gz: a label has no channel number" in problem_of(center, "a")
    assert "lacks nnU-Net's channel number" in problem_of(center, "b")


def test_an_nnunet_ignore_label_is_reported(tmp_path: Path) -> None:
    center = nnunet(tmp_path, {**NNUNET_LABELS, "ignore": 3})
    ((path, reason),) = list_center(center).left_out
    assert path == str(tmp_path / "dataset.json")
    assert "label ignore (3) is not known here" in reason
    with pytest.warns(UserWarning, match="ignore"):
        case = load_case(center, list_cases(center)[0])
    np.testing.assert_array_equal(case.label, make_label())


@pytest.mark.parametrize(
    "labels",
    [
        *(None, [], {}, "x", {"background": None}, {"pancreas": {"value": 1}}),
        *({"pancreas": [1, None]}, {"pancreas": []}, {"1": None}, {"1": ["pancreas"]}),
        *({"pancreas": True}, {"pancreas": 1.5}, {"pancreas": "one"}),
    ],
)
def test_a_broken_table_in_dataset_json_is_named(tmp_path: Path, labels: object) -> None:
    center = nnunet(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    text = problem_of(center, "a")
    assert f'{tmp_path / "dataset.json"}: its key "labels"' in text
    assert "label_map to the center" in text


def test_a_folder_in_place_of_files_is_named(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", folders=("imagesTr", "labelsTr"))
    write_pair(tmp_path, "b", folders=("imagesTr/more", "labelsTr"))
    listing = list_center(Center("M", "msd", tmp_path))
    ((path, reason),) = listing.left_out
    assert path == str(tmp_path / "imagesTr" / "more")
    assert "folder with 1 image files" in reason


def test_a_center_without_cases_says_what_was_left_out(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.npz").write_bytes(b"")
    with pytest.raises(DataError, match=r"C: no case under .*a\.npz is no format"):
        list_center(folder_center(tmp_path))


def test_every_problem_of_a_listing_names_its_center(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^M: .*imagesTr: no such folder"):
        list_cases(Center("M", "msd", tmp_path))


def test_an_image_without_a_suffix_does_not_vanish(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    (tmp_path / "images" / "LICENSE").write_text("text is no image")
    lost = tmp_path / "images" / "b"
    lost.write_bytes((tmp_path / "images" / "a.nii.gz").read_bytes())
    ((path, reason),) = list_center(folder_center(tmp_path)).left_out
    assert path == str(lost)
    assert "no format that is read here" in reason
