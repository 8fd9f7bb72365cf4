"""Data sets in other tools' layouts: read back voxel by voxel, complete or not there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from data.case import Center, DataError
from data.centers import load_centers
from data.export import main
from data.prepare import export_dataset
from data.prepare.export_centers import dataset_folder, export_centers
from data.prepare.export_dataset import Item, write_cases, write_nnunet_dataset
from data.readers import list_cases, load_case
from tests.volumes import BLOB_SPACING, make_center, make_pair, to_image, write_dicom, write_volume

READER = {"nnunet": "nnunet_raw", "msd": "msd"}


def items_of(center: Center) -> list[Item]:
    return [Item(files.case_id, center, files) for files in list_cases(center)]


@pytest.mark.parametrize("layout", ["nnunet", "msd"])
def test_a_center_is_read_back_voxel_by_voxel(tmp_path: Path, layout: str) -> None:
    center = make_center(tmp_path, "C", (0, 1, 2, 3))  # files in four orientations
    folder = tmp_path / "out" / "Dataset501_C"
    exported = export_centers({"C": center}, folder, layout)
    assert exported.problems == ()
    assert (folder / "imagesTs").is_dir()
    copy = Center("C", READER[layout], folder)
    cases, copies = list_cases(center), list_cases(copy)
    assert [files.case_id for files in copies] == [files.case_id for files in cases]
    for files, other in zip(cases, copies, strict=True):
        was, now = load_case(center, files), load_case(copy, other)
        assert was.label is not None
        assert now.label is not None
        np.testing.assert_array_equal(now.image_hu, was.image_hu)
        np.testing.assert_array_equal(now.label, was.label)
        assert now.spacing == pytest.approx(was.spacing, abs=1e-5)
        np.testing.assert_allclose(now.grid.direction, np.eye(3).ravel(), atol=1e-6)


def test_image_and_label_have_one_header_and_every_voxel_its_place(tmp_path: Path) -> None:
    center = make_center(tmp_path, "C", (2,))  # its file runs S, P, L
    write_cases(items_of(center), tmp_path / "D", "nnunet")
    image = sitk.ReadImage(str(tmp_path / "D" / "imagesTr" / "case_2_0000.nii.gz"))
    label = sitk.ReadImage(str(tmp_path / "D" / "labelsTr" / "case_2.nii.gz"))
    for name in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(image, name)() == getattr(label, name)()
    assert image.GetPixelID() == sitk.sitkInt16
    assert label.GetPixelID() == sitk.sitkUInt8
    original = sitk.ReadImage(str(center.path / "images" / "case_2.nii.gz"))
    for index in ((0, 0, 0), (3, 5, 2), (23, 19, 11)):
        point = image.TransformIndexToPhysicalPoint(index)
        assert original[original.TransformPhysicalPointToIndex(point)] == image[index]


def test_label_values_become_0_1_2_and_a_series_becomes_a_file(tmp_path: Path) -> None:
    image_hu, label = make_pair(0)
    write_dicom(tmp_path / "C" / "images" / "P1", image_hu)
    other = np.choose(label, [0, 7, 4]).astype(np.uint8)
    image = sitk.GetImageFromArray(other)
    image.SetSpacing((0.7, 0.7, 2.5))
    image.SetOrigin((-10, -20, -300))
    write_volume(tmp_path / "C" / "labels" / "P1.nrrd", image)
    label_map = {"background": (0,), "pancreas": (7,), "tumor": (4,)}
    center = Center("C", "folder", tmp_path / "C", label_map=label_map)
    write_cases(items_of(center), tmp_path / "D", "msd")
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "D" / "labelsTr/P1.nii.gz")))
    np.testing.assert_array_equal(written, label)
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "D" / "imagesTr/P1.nii.gz")))
    np.testing.assert_array_equal(stored, image_hu)


def test_the_round_robin_tests_each_center_once_and_never_trains_on_it(tmp_path: Path) -> None:
    centers = {
        "A": make_center(tmp_path, "A", (0, 1)),
        "N": make_center(tmp_path, "N", (2,), has_lesions=False, label_map={"pancreas": (1, 2)}),
        "B": make_center(tmp_path, "B", (3,)),
    }
    exported = export_centers(centers, tmp_path / "Dataset501_X", "nnunet")
    assert exported.folds == ("A", "B")
    splits = json.loads((tmp_path / "Dataset501_X" / "splits_final.json").read_text())
    assert splits == [
        {"train": ["B_case_3", "N_case_2"], "val": ["A_case_0", "A_case_1"]},
        {"train": ["A_case_0", "A_case_1", "N_case_2"], "val": ["B_case_3"]},
    ]
    description = json.loads((tmp_path / "Dataset501_X" / "dataset.json").read_text())
    assert description["numTraining"] == 4
    assert description["labels"] == {"background": 0, "pancreas": 1, "tumor": 2}


def test_one_center_has_its_folds_and_without_patients_enough_none(tmp_path: Path) -> None:
    center = make_center(tmp_path, "C", tuple(range(5)))
    assert len(export_centers({"C": center}, tmp_path / "D_4", "nnunet").folds) == 4
    splits = json.loads((tmp_path / "D_4" / "splits_final.json").read_text())
    assert splits[0]["val"] == ["case_0", "case_4"]
    assert sorted(case for split in splits for case in split["val"]) == [
        f"case_{k}" for k in range(5)
    ]
    one = make_center(tmp_path, "E", (7,))
    assert export_centers({"E": one}, tmp_path / "D_1", "nnunet").folds == ()
    assert not (tmp_path / "D_1" / "splits_final.json").exists()


def test_a_scan_of_two_centers_is_in_one_fold_only(tmp_path: Path) -> None:
    a, b = make_center(tmp_path, "A", (0, 1)), make_center(tmp_path, "B", (1, 2))
    exported = export_centers({"A": a, "B": b}, tmp_path / "D", "nnunet")
    assert len(exported.problems) == 1
    assert "A/case_1 and B/case_1 are the same scan" in exported.problems[0]
    assert sorted(p.name for p in (tmp_path / "D" / "labelsTr").iterdir()) == [
        "A_case_0.nii.gz",
        "A_case_1.nii.gz",
        "B_case_2.nii.gz",
    ]
    dropping = {
        "A": make_center(tmp_path, "A", (), drop_duplicates=True),
        "B": make_center(tmp_path, "B", ()),
    }
    exported = export_centers(dropping, tmp_path / "D", "nnunet")
    assert exported.problems == ()
    assert exported.dropped == ("A/case_1 is left out: it is the same scan as B/case_1",)
    assert [case.item.name for case in exported.cases] == ["A_case_0", "B_case_1", "B_case_2"]


def test_cases_without_a_label_are_for_prediction(tmp_path: Path) -> None:
    center = make_center(tmp_path, "C", (0, 1))
    (center.path / "labels" / "case_1.nii.gz").unlink()
    export_centers({"C": center}, tmp_path / "Task01_C", "msd")
    description = json.loads((tmp_path / "Task01_C" / "dataset.json").read_text())
    assert description["training"] == [
        {"image": "./imagesTr/case_0.nii.gz", "label": "./labelsTr/case_0.nii.gz"}
    ]
    assert description["test"] == ["./imagesTs/case_1.nii.gz"]
    assert (tmp_path / "Task01_C" / "imagesTs" / "case_1.nii.gz").is_file()
    shutil.rmtree(center.path / "labels")
    with pytest.raises(DataError, match="no case with a label"):
        export_centers({"C": center}, tmp_path / "Task02_C", "msd")


def written_at(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.nii.gz")}


def test_an_export_resumes_and_writes_again_what_changed(tmp_path: Path) -> None:
    center, folder = make_center(tmp_path, "C", (0, 1, 2)), tmp_path / "D"
    write_nnunet_dataset(items_of(center), folder)
    before = written_at(folder)
    (folder / "labelsTr" / "case_0.nii.gz").unlink()
    leftover = folder / "imagesTr" / ".case_1_0000.17.abc.nii.gz"
    leftover.write_bytes(b"half")
    _, label = make_pair(2)
    label[0, 0, 0] = 1
    write_volume(center.path / "labels" / "case_2.nii.gz", to_image(label, BLOB_SPACING))
    write_nnunet_dataset(items_of(center), folder)
    after = written_at(folder)
    assert before.keys() == after.keys()
    assert {name for name in after if after[name] == before[name]} == {
        "case_1_0000.nii.gz",
        "case_1.nii.gz",
    }
    (center.path / "images" / "case_1.nii.gz").unlink()
    (center.path / "labels" / "case_1.nii.gz").unlink()
    write_nnunet_dataset(items_of(center), folder)
    assert not any("case_1" in name for name in written_at(folder))


def test_an_export_that_was_stopped_is_no_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    center, folder = make_center(tmp_path, "C", (0, 1)), tmp_path / "D"
    write_nnunet_dataset(items_of(center), folder)
    count = iter(range(1))

    def stop(*given: object) -> None:
        if next(count, None) is None:
            raise KeyboardInterrupt
        raise DataError("cannot be read")

    monkeypatch.setattr(export_dataset, "write_volume", stop)
    for seed in (0, 1):
        image_hu, _ = make_pair(seed + 5)
        path = center.path / "images" / f"case_{seed}.nii.gz"
        write_volume(path, to_image(image_hu, BLOB_SPACING))
    with pytest.raises(KeyboardInterrupt):
        write_nnunet_dataset(items_of(center), folder)
    assert not (folder / "dataset.json").exists()
    monkeypatch.undo()
    write_nnunet_dataset(items_of(center), folder)
    assert (folder / "dataset.json").exists()


def write_centers(tmp_path: Path) -> Path:
    make_center(tmp_path, "A", (0, 1))
    make_center(tmp_path, "B", (2,))
    path = tmp_path / "centers.toml"
    path.write_text(
        '[centers.A]\nreader = "folder"\npath = "A"\n[centers.B]\nreader = "folder"\npath = "B"\n'
    )
    return path


def test_one_bad_case_is_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write_centers(tmp_path), tmp_path / "raw"
    arguments = [str(path), "--out", str(out), "--together", "X"]
    assert main(arguments) == 0
    broken = tmp_path / "A" / "images" / "case_1.nii.gz"
    broken.write_bytes(broken.read_bytes()[:300])
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("left out: A/case_1: ")
    assert "cut short" in captured.err
    assert "2 folds, tested: A, B" in captured.out
    splits = json.loads((out / "Dataset501_X" / "splits_final.json").read_text())
    assert splits[0] == {"train": ["B_case_2"], "val": ["A_case_0"]}
    assert sorted(written_at(out)) == [
        "A_case_0.nii.gz",
        "A_case_0_0000.nii.gz",
        "B_case_2.nii.gz",
        "B_case_2_0000.nii.gz",
    ]


def test_where_no_case_is_left_the_reasons_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write_centers(tmp_path), tmp_path / "raw"
    (tmp_path / "B" / "images" / "case_2.nii.gz").write_bytes(b"")
    assert main([str(path), "--out", str(out)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert told[0].startswith("B/case_2: ")
    assert told[0].endswith("copy or download the file again")
    assert told[1].startswith(f"{out / 'Dataset502_B'}: no case with a label could be written")
    assert (out / "Dataset501_A" / "dataset.json").is_file()


def test_each_center_alone_has_a_number_of_its_own(tmp_path: Path) -> None:
    path = write_centers(tmp_path)
    assert main([str(path), "--out", str(tmp_path / "raw"), "--id", "7", "--center", "B", "A"]) == 0
    assert sorted(p.name for p in (tmp_path / "raw").iterdir()) == ["Dataset007_B", "Dataset008_A"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--center", "Q"], "unknown center Q; choose from A, B"),
        (["--center", "A", "--id", "9"], "number 9 is taken by Dataset009_OLD"),
        (["--id", "0"], "--id 0: at least 1"),
        (["--workers", "0"], "--workers 0: at least 1"),
        (["--together", "a/b"], "a name has letters, digits, _ and - only"),
        (["--layout", "nifti"], "invalid choice"),
    ],
)
def test_wrong_input_has_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    path = write_centers(tmp_path)
    (tmp_path / "raw" / "Dataset009_OLD").mkdir(parents=True)
    try:
        status = main([str(path), "--out", str(tmp_path / "raw"), *arguments])
    except SystemExit as stopped:
        status = int(str(stopped.code))
    assert status == 2
    assert says in capsys.readouterr().err


def test_a_folder_with_other_images_is_not_touched(tmp_path: Path) -> None:
    center, folder = make_center(tmp_path, "C", (0,)), tmp_path / "D"
    foreign = write_volume(folder / "imagesTr" / "mine_0000.nii.gz", make_pair(3)[0])
    with pytest.raises(DataError, match=r"holds imagesTr/mine_0000.nii.gz, which no export wrote"):
        write_nnunet_dataset(items_of(center), folder)
    assert foreign.is_file()
    with pytest.raises(DataError, match="two cases would be called case_0"):
        write_nnunet_dataset(items_of(center) * 2, tmp_path / "E")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_nnunet_dataset(items_of(center), tmp_path / "file" / "D")
    assert dataset_folder(tmp_path, "msd", 7, "C").name == "Task07_C"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("nnunetv2") is None, reason="nnunetv2 is not installed")
def test_nnunet_accepts_the_data_set(tmp_path: Path) -> None:
    write_centers(tmp_path)
    centers = load_centers(tmp_path / "centers.toml")
    export_centers(centers, tmp_path / "raw" / "Dataset501_X", "nnunet")
    folders = {
        f"nnUNet_{name}": str(tmp_path / name) for name in ("raw", "preprocessed", "results")
    }
    command = [Path(sys.executable).with_name("nnUNetv2_plan_and_preprocess"), "-d", "501"]
    options = ["--verify_dataset_integrity", "--no_pp", "-npfp", "1"]
    done = subprocess.run(
        [*map(str, command), *options],
        env={**os.environ, **folders},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "verify_dataset_integrity Done" in done.stdout
