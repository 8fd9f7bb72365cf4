"""What a user names: files, DICOM folders, folders of both, tables; each scan by its own id."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.case import DataError
from data.readers.scans import Scan, give_masks, list_scans, load_scan
from tests.test_dicom_slices import write_series
from tests.volumes import make_image_hu, write_volume


def write(path: Path) -> Path:
    return write_volume(path, make_image_hu())


def test_a_file_is_one_scan_named_as_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a b.v2.nii.gz")
    assert list_scans(path) == ([Scan("a b.v2", path)], [])


def test_a_folder_holds_files_folders_and_dicom(tmp_path: Path) -> None:
    one = write(tmp_path / "one.nii.gz")
    two = write(tmp_path / "two" / "deep" / "ct.nrrd")
    write_series(tmp_path / "three", series="1.1")
    for name in ("x.nii", "y.nii"):
        write(tmp_path / "four" / name)
    (tmp_path / "five").mkdir()
    (tmp_path / "scan.jpg").write_bytes(b"x")
    (tmp_path / "results" / "one").mkdir(parents=True)
    write(tmp_path / "results" / "one" / "mask.nii.gz")
    scans, left_out = list_scans(tmp_path, ignored=[tmp_path / "results"])
    found = {scan.case_id: scan for scan in scans}
    assert list(found) == ["four", "one", "three", "two"]
    assert (found["one"].image, found["two"].image) == (one, two)
    assert found["three"].image == tmp_path / "three"
    assert "holds 2 volumes (x.nii, y.nii)" in str(found["four"].problem)
    assert {Path(path).name for path, _ in left_out} == {"five", "scan.jpg"}
    with pytest.raises(DataError, match="holds 2 volumes"):
        load_scan(found["four"])


def test_names_are_told_apart_and_can_name_folders(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "a.nrrd", "A.mha"):
        write(tmp_path / name)
    scans, _ = list_scans(tmp_path)
    assert [scan.case_id for scan in scans] == ["A.mha", "a.nii.gz", "a.nrrd"]
    rows = "path,case\na.nrrd,../up\na.nrrd,x\na.nrrd,x\n"
    (tmp_path / "t.csv").write_text(rows)
    names = [scan.case_id for scan in list_scans(tmp_path / "t.csv")[0]]
    assert names == ["_up", "a.nrrd", "a.nrrd_2"]


def test_a_study_is_one_scan_and_patients_are_several(tmp_path: Path) -> None:
    for study, name in enumerate(("p1", "p2")):
        for number in (1, 2):
            folder = tmp_path / name / f"s{number}"
            write_series(folder, series=f"1.2.{study}.{number}")
    scans, _ = list_scans(tmp_path / "p1")
    assert scans == [Scan("p1", tmp_path / "p1")]  # one study: series to choose from
    with pytest.raises(DataError, match=r"holds 2 DICOM series \(#1 1\.2\.0\.1 .*; #2 1\.2\.0\.2"):
        load_scan(scans[0])
    assert load_scan(scans[0], series="#2").image_hu.shape == (9, 6, 7)
    assert load_scan(scans[0], series="1.2.0.1").image_hu.shape == (9, 6, 7)


def test_a_report_is_no_case_but_what_is_broken_is_one(tmp_path: Path) -> None:
    write_series(tmp_path / "p" / "ct", series="1.2.3")
    other = tmp_path / "p" / "x" / "1.dcm"
    other.parent.mkdir()
    other.write_bytes(bytes(128) + b"DICM" + b"1.2.840.10008.5.1.4.1.1.88.22")
    assert [scan.case_id for scan in list_scans(tmp_path / "p")[0]] == ["p"]
    other.write_bytes(bytes(128) + b"DICM")
    assert [scan.case_id for scan in list_scans(tmp_path / "p")[0]] == ["ct", "x"]


def test_folders_of_one_series_uid_are_cases(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_series(tmp_path / name)  # a careless writer: all UIDs the same
    assert [scan.case_id for scan in list_scans(tmp_path)[0]] == ["a", "b"]


def test_one_slice_is_no_scan(tmp_path: Path) -> None:
    files = write_series(tmp_path / "a")
    with pytest.raises(DataError, match="is one DICOM file; give the folder"):
        list_scans(files[0])


def test_a_table_may_name_what_is_not_there(tmp_path: Path) -> None:
    write(tmp_path / "a.nii.gz")
    (tmp_path / "t.csv").write_text("\ufeffFile;ID\na.nii.gz;one\nb.nii.gz;two\n", encoding="utf-8")
    one, two = list_scans(tmp_path / "t.csv")[0]
    assert (one.case_id, one.problem) == ("one", None)
    assert "b.nii.gz: no such file or folder; correct line 3" in str(two.problem)
    (tmp_path / "t.csv").write_text("path\n\n,\n")
    with pytest.raises(DataError, match="line 2 has no path"):
        list_scans(tmp_path / "t.csv")


def test_masks_are_found_by_the_names_of_the_scans(tmp_path: Path) -> None:
    scans = [Scan(name, tmp_path / f"{name}.nii.gz") for name in ("a", "b", "c")]
    masks = tmp_path / "masks"
    first, second = write(masks / "a.nrrd"), write(masks / "b" / "pancreas.nii.gz")
    write(masks / "b" / "liver.nii.gz")
    given = give_masks(scans, masks)
    assert [scan.pancreas for scan in given] == [first, second, None]
    assert "has no mask of c" in str(given[2].problem)
    alone = write(tmp_path / "segmentations" / "pancreas.nii.gz")
    assert give_masks(scans[:1], alone.parent)[0].pancreas == alone
    assert give_masks(scans[:1], first)[0].pancreas == first
    with pytest.raises(DataError, match="is one mask for 3 scans"):
        give_masks(scans, first)
