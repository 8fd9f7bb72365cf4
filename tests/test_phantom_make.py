"""Synthetic centers on the disk: layouts, bytes, resuming."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from data.centers import load_centers
from data.phantom import make, make_centers
from data.phantom.centers import CENTERS, LIKE_TABLE_I
from data.phantom.generate import make_phantom
from data.readers import load_case
from data.splits import list_all_cases
from utils.leftovers import unfinished_path

SEED = 3
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantoms")
    return make.make_centers(out, None, 1, "demo", SEED)


def _hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_center_reads_back_to_the_voxels_that_were_drawn(made: Path) -> None:
    centers = load_centers(made)
    assert list(centers) == list(LIKE_TABLE_I)
    for name, files in list_all_cases(centers).items():
        case = load_case(centers[name], files[0])
        phantom = make_phantom(name, 0, "demo", SEED)
        np.testing.assert_array_equal(case.image_hu, phantom.image_hu)
        assert case.label is not None
        np.testing.assert_array_equal(case.label, phantom.label)
        assert case.spacing == pytest.approx(phantom.spacing, abs=1e-4)


def test_the_layouts_are_those_of_msd_nnunet_and_folders(made: Path) -> None:
    out = made.parent
    files = [
        "SYN-A/dataset.json",
        "SYN-A/imagesTr/pancreas_001.nii.gz",
        "SYN-A/labelsTr/pancreas_001.nii.gz",
        "SYN-B/Dataset901_SYNB/dataset.json",
        "SYN-B/Dataset901_SYNB/imagesTr/SYN-B_001_0000.nii.gz",
        "SYN-B/Dataset901_SYNB/labelsTr/SYN-B_001.nii.gz",
        "SYN-C/images/SYN-C_001.nrrd",
        "SYN-C/labels/SYN-C_001.nrrd",
        "SYN-N/images/SYN-N_001.nii.gz",
        "SYN-N/labels/SYN-N_001.nii.gz",
        "cases.csv",
        "centers.toml",
        "phantom.json",
    ]
    assert sorted(_hashes(out)) == sorted(files)
    msd = json.loads((out / "SYN-A/dataset.json").read_text())
    assert msd["labels"] == {"0": "background", "1": "pancreas", "2": "cancer"}
    assert msd["training"] == [
        {"image": "./imagesTr/pancreas_001.nii.gz", "label": "./labelsTr/pancreas_001.nii.gz"}
    ]
    raw = json.loads((out / "SYN-B/Dataset901_SYNB/dataset.json").read_text())
    assert raw["labels"] == {"background": 0, "pancreas": 1, "lesion": 2}
    assert raw["numTraining"] == 1


def test_centers_are_stored_in_different_orientations_as_int16_and_uint8(made: Path) -> None:
    codes = {}
    for name, files in list_all_cases(load_centers(made)).items():
        image = sitk.ReadImage(str(files[0].image))
        filter_ = sitk.DICOMOrientImageFilter()
        codes[name] = filter_.GetOrientationFromDirectionCosines(image.GetDirection())
        assert image.GetPixelID() == sitk.sitkInt16
        assert files[0].label is not None
        assert sitk.ReadImage(str(files[0].label)).GetPixelID() == sitk.sitkUInt8
    assert codes == {name: CENTERS[name].orientation for name in LIKE_TABLE_I}
    assert len(set(codes.values())) == 4


def test_nibabel_and_simpleitk_agree_where_a_voxel_lies(made: Path) -> None:
    path = made.parent / "SYN-A/imagesTr/pancreas_001.nii.gz"
    image = sitk.ReadImage(str(path))
    world = np.array(image.TransformContinuousIndexToPhysicalPoint((5.0, 7.0, 11.0)))
    affine = nib.Nifti1Image.from_filename(path).affine
    np.testing.assert_allclose((affine @ [5, 7, 11, 1])[:3], world * (-1, -1, 1), atol=1e-3)


def test_the_same_seed_gives_the_same_bytes_whatever_else_is_made(
    made: Path, tmp_path: Path
) -> None:
    make.make_centers(tmp_path, ["SYN-C", "SYN-B"], {"SYN-B": 1, "SYN-C": 2}, "demo", SEED)
    whole, part = _hashes(made.parent), _hashes(tmp_path)
    volumes = [name for name in part if name.endswith(("_001.nrrd", ".nii.gz"))]
    assert len(volumes) == 4
    for name in volumes:
        assert part[name] == whole[name]


def test_a_complete_case_is_kept_and_a_missing_file_is_made_again(tmp_path: Path) -> None:
    make.make_centers(tmp_path, ["SYN-C"], 1, "demo", SEED)
    image, label = (
        tmp_path / "SYN-C/images/SYN-C_001.nrrd",
        tmp_path / "SYN-C/labels/SYN-C_001.nrrd",
    )
    before, stamp = _hashes(tmp_path), label.stat().st_mtime_ns
    make.make_centers(tmp_path, ["SYN-C"], 1, "demo", SEED)
    assert label.stat().st_mtime_ns == stamp
    image.unlink()
    make.make_centers(tmp_path, ["SYN-C"], 1, "demo", SEED)
    assert _hashes(tmp_path) == before


def test_adding_a_center_keeps_the_others_listed(tmp_path: Path) -> None:
    make.make_centers(tmp_path, ["SYN-C"], 1, "demo", SEED)
    path = make.make_centers(tmp_path, ["SYN-N"], 1, "demo", SEED)
    table = tomllib.loads(path.read_text())["centers"]
    assert list(table) == ["SYN-C", "SYN-N"]
    assert "tumor_threshold" not in table["SYN-C"]  # the paper's are for its own hospitals
    assert table["SYN-N"]["has_lesions"] is False
    with (tmp_path / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["center"], r["case_id"], r["lesion"]) for r in rows] == [
        ("SYN-C", "SYN-C_001", "PDA"),
        ("SYN-N", "SYN-N_001", "none"),
    ]


def test_a_folder_of_other_phantoms_is_refused(tmp_path: Path) -> None:
    make.make_centers(tmp_path, ["SYN-C"], 1, "demo", SEED)
    with pytest.raises(ValueError, match="choose another folder"):
        make.make_centers(tmp_path, ["SYN-C"], 1, "demo", SEED + 1)


def test_cases_left_by_an_error_are_drawn_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(job: make_centers.Job) -> None:
        if job.index == 1:
            raise OSError("No space left on device")
        draw(job)

    draw = make_centers.make_case
    monkeypatch.setattr(make_centers, "make_case", full)
    with pytest.raises(OSError, match="No space left"):
        make.make_centers(tmp_path, ["SYN-C"], 2, "demo", SEED)
    files = list_all_cases(load_centers(tmp_path / "centers.toml"))["SYN-C"]
    assert [case.case_id for case in files] == ["SYN-C_001"]
    monkeypatch.undo()
    make.make_centers(tmp_path, ["SYN-C"], 2, "demo", SEED)
    files = list_all_cases(load_centers(tmp_path / "centers.toml"))["SYN-C"]
    assert [case.case_id for case in files] == ["SYN-C_001", "SYN-C_002"]
    assert len((tmp_path / "cases.csv").read_text().splitlines()) == 3


def test_what_a_killed_run_left_behind_is_removed(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    folder = tmp_path / "SYN-C/images"
    folder.mkdir(parents=True)
    writing = unfinished_path(folder / "SYN-C_009.nrrd", ".nrrd")
    left = folder / writing.name.replace(f"-{os.getpid()}-", f"-{process.pid}-")
    left.write_bytes(b"half")
    writing.write_bytes(b"half")
    make.make_centers(tmp_path, ["SYN-C"], 1, "demo", SEED)
    assert sorted(folder.iterdir()) == [writing, folder / "SYN-C_001.nrrd"]


def test_a_new_center_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = replace(CENTERS["SYN-C"], layout="folder_nifti", orientation="PIR", tumor_threshold=0.3)
    monkeypatch.setitem(CENTERS, "MINE", mine)
    centers = load_centers(make.make_centers(tmp_path, ["MINE"], 1, "demo", SEED))
    assert centers["MINE"].tumor_threshold == 0.3
    files = list_all_cases(centers)["MINE"]
    case = load_case(centers["MINE"], files[0])
    assert case.label is not None
    assert np.unique(case.label).tolist() == [0, 1, 2]
    np.testing.assert_array_equal(case.image_hu, make_phantom("MINE", 0, "demo", SEED).image_hu)


def test_no_cases_and_unknown_centers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one at least"):
        make.make_centers(tmp_path, ["SYN-C"], 0)
    with pytest.raises(ValueError, match="unknown center"):
        make.make_centers(tmp_path, ["SYN-X"], 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_script_runs_from_another_folder_with_worker_processes(
    made: Path, tmp_path: Path
) -> None:
    script = ROOT / "data/phantom/make.py"
    options = ["--centers", "SYN-B", "SYN-N", "--cases", "1", "--seed", str(SEED), "--workers", "2"]
    command = [sys.executable, str(script), "out", *options]
    subprocess.run(command, cwd=tmp_path, check=True)
    for name, digest in _hashes(tmp_path / "out").items():
        if name.endswith(".nii.gz"):
            assert digest == _hashes(made.parent)[name]
