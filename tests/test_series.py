"""DICOM folders: slices of any name at any depth, and one series of several."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.case import Center, DataError
from data.readers import list_cases, load_case, load_image
from data.readers.header import estimate_voxels
from data.readers.series import choose_series, slice_folders
from tests.volumes import folder_center, make_image_hu, make_label, write_dicom, write_volume

UID, DESCRIPTION, IMAGE_TYPE = "0020|000e", "0008|103e", "0008|0008"


def two_phases(folder: Path) -> None:
    """An arterial and a portal venous series, next to each other."""
    for number, phase in enumerate(("arterial", "portal venous"), start=1):
        tags = {UID: f"1.2.3.{number}", DESCRIPTION: phase}
        write_dicom(folder / f"s{number}", make_image_hu(number), changed=tags)


@pytest.mark.parametrize("ending", ["", ".IMA", ".ima", ".DCM"])
def test_slices_are_known_by_their_content(tmp_path: Path, ending: str) -> None:
    folder = tmp_path / "images" / "a"
    write_dicom(folder, make_image_hu())
    for path in list(folder.iterdir()):
        path.rename(folder / f"IM{path.stem}{ending}")
    (folder / "DICOMDIR").write_bytes(bytes(200))
    (folder / "notes").write_text("no slice")
    write_volume(tmp_path / "labels" / "a.nii.gz", make_label())
    center = folder_center(tmp_path)
    (files,) = list_cases(center)
    assert files.image == folder
    np.testing.assert_array_equal(load_image(folder, "a").image_hu, make_image_hu())
    assert estimate_voxels(folder, None) == make_image_hu().size


def test_a_series_below_study_folders_is_a_case(tmp_path: Path) -> None:
    series = tmp_path / "images" / "a" / "study" / "1.2.3" / "s"
    write_dicom(series, make_image_hu())
    center = folder_center(tmp_path)
    (files,) = list_cases(center)
    assert (files.case_id, files.image) == ("a", series)
    np.testing.assert_array_equal(load_case(center, files).image_hu, make_image_hu())


def test_loose_slices_among_the_images_are_named(tmp_path: Path) -> None:
    write_dicom(tmp_path / "images", make_image_hu())
    with pytest.raises(DataError, match="holds 5 DICOM slices directly in it; put each series"):
        list_cases(folder_center(tmp_path))


def test_several_series_are_listed_and_one_is_chosen(tmp_path: Path) -> None:
    two_phases(tmp_path / "images" / "a")
    center = folder_center(tmp_path)
    with pytest.raises(DataError) as error:
        load_case(center, list_cases(center)[0])
    text = str(error.value)
    assert text.startswith("C/a: ")
    assert '#1 1.2.3.1 "arterial" (5 slices) in s1; #2 1.2.3.2 "portal venous" (5' in text
    assert "series in centers.toml" in text
    for series in ("PORTAL", "1.2.3.2", {"a": "venous"}):
        center = folder_center(tmp_path, series=series)
        case = load_case(center, list_cases(center)[0])
        np.testing.assert_array_equal(case.image_hu, make_image_hu(2))


def test_series_of_one_folder_are_told_apart(tmp_path: Path) -> None:
    two_phases(tmp_path / "x")
    folder = tmp_path / "images" / "a"
    folder.mkdir(parents=True)
    for number in (1, 2):
        for path in (tmp_path / "x" / f"s{number}").iterdir():
            path.rename(folder / f"{number}-{path.name}")
    with pytest.raises(DataError, match="holds 2 DICOM series"):
        load_image(folder, "a")
    case = load_image(folder, "a", series="arterial")
    np.testing.assert_array_equal(case.image_hu, make_image_hu(1))
    assert "is read, not 1.2.3.2" in case.notes[0]
    with pytest.raises(DataError, match=r"series = 'delayed' fits 0 of its 2 DICOM series"):
        load_image(folder, "a", series="delayed")


def test_a_scout_next_to_the_series_is_left_out_with_a_note(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a", make_image_hu())
    tags = {UID: "1.2.9", IMAGE_TYPE: "ORIGINAL\\PRIMARY\\LOCALIZER"}
    write_dicom(tmp_path / "a" / "scout", make_image_hu(1)[:1], changed=tags)
    case = load_image(tmp_path / "a", "a")
    np.testing.assert_array_equal(case.image_hu, make_image_hu())
    assert "not 1.2.9 (1 slices, scout)" in case.notes[0]


def test_nih_takes_the_series_that_is_named(tmp_path: Path) -> None:
    two_phases(tmp_path / "PANCREAS_0001")
    center = Center("NIH", "nih", tmp_path, has_lesions=False, series={"PANCREAS_0001": "portal"})
    (files,) = list_cases(center)
    assert files.problem is None
    assert files.image == tmp_path / "PANCREAS_0001" / "s2"


def test_a_folder_without_slices_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    assert slice_folders(tmp_path) == []
    with pytest.raises(DataError, match="holds 0 DICOM series"):
        choose_series(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        choose_series(tmp_path / "b")
