"""predict.py --dicom-seg and --report: what else it writes, on the same voxels, of every scan."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from data.readers.scans import Scan
from engine.predict_scans import ReadOptions
from engine.run_folders import Run
from methods import METHODS
from report.predicted import read_predicted
from tests._evaluation_fixtures import WindowMethod, make_volumes, write_four_runs
from tests._predict_fixtures import call_predict, measures_of, write_scan
from tests.dicom_files import AXES, SERIES, write_series
from utils.about import NOTICE, VERSION
from utils.files import sha256_of
from utils.stages import STAGE_NAMES

hd = pytest.importorskip("highdicom", reason="highdicom is not installed (requirements-dicom.txt)")

Predict = Callable[..., int]
PANCREAS, TUMOR = "pancreas_fine", "tumor_fine"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Run]:
    monkeypatch.setitem(METHODS, "ours", WindowMethod)
    return write_four_runs(tmp_path / "runs")


@pytest.fixture
def run_predict(tmp_path: Path, runs: dict[str, Run]) -> Predict:
    """Calls the script with the four runs; its exit status."""
    return functools.partial(call_predict, tmp_path / "runs")


def stored_mask(folder: Path, stage: str) -> np.ndarray:
    """bool (slice, row, column), as the file has it."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{stage}.nii.gz"))) > 0


def segments(folder: Path, slices: int) -> np.ndarray:
    """bool (slice, row, column, segment) of segmentation.dcm, by the slices that it names."""
    seg = hd.seg.segread(folder / "segmentation.dcm")
    uids = [f"{SERIES}.{z + 1}" for z in range(slices)]
    pixels = seg.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    return np.asarray(pixels) > 0


def outputs_of(folder: Path) -> list[str]:
    names: list[str] = json.loads((folder / "manifest.json").read_text())["outputs"]
    return names


@pytest.mark.parametrize("name", ["head first, supine", "feet first, prone", "oblique"])
@pytest.mark.parametrize("suffix", ["nii.gz", "nrrd"])
def test_the_segmentation_has_the_voxels_of_the_last_masks(
    tmp_path: Path, run_predict: Predict, runs: dict[str, Run], name: str, suffix: str
) -> None:
    image_hu, label = make_volumes(3)
    write_series(tmp_path / "ct", image_hu, AXES[name], order=range(len(image_hu))[::-1])
    options = ("-o", tmp_path / "out", "--dicom-seg", "--format", suffix)
    assert run_predict(tmp_path / "ct", *options) == 0
    folder = tmp_path / "out" / "ct"
    found = segments(folder, len(image_hu))
    for number, stage in enumerate((PANCREAS, TUMOR)):
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{stage}.{suffix}"))) > 0
        np.testing.assert_array_equal(found[..., number], mask)
        wanted = label > number
        shared = np.count_nonzero(wanted & found[..., number])
        assert 2 * shared > 0.7 * (wanted.sum() + found[..., number].sum())
    assert outputs_of(folder)[-1] == "segmentation.dcm"
    seg = hd.seg.segread(folder / "segmentation.dcm")
    assert (seg.ContentDescription, seg.SoftwareVersions) == (NOTICE, VERSION)
    for item in seg.SegmentSequence:
        assert item.SegmentAlgorithmType == "AUTOMATIC"
        (algorithm,) = item.SegmentationAlgorithmIdentificationSequence
        for run in runs.values():
            assert sha256_of(run.checkpoint) in str(algorithm.AlgorithmParameters)


def test_a_missing_segmentation_is_made_of_the_masks_that_are_there(
    tmp_path: Path, run_predict: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    image_hu, _ = make_volumes(3)
    write_series(tmp_path / "ct", image_hu)
    folder, options = tmp_path / "out" / "ct", (tmp_path / "ct", "-o", tmp_path / "out")
    assert run_predict(*options) == 0
    assert not (folder / "segmentation.dcm").exists()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.nii.gz")}
    for _ in range(2):
        capsys.readouterr()
        assert run_predict(*options, "--dicom-seg") == 0
        assert "is made of the masks" in capsys.readouterr().out
        assert {path: path.stat().st_mtime_ns for path in before} == before
        found = segments(folder, len(image_hu))
        np.testing.assert_array_equal(found[..., 1], stored_mask(folder, TUMOR))
        assert outputs_of(folder).count("segmentation.dcm") == 1
        for words in (("--dicom-seg",), ()):
            assert run_predict(*options, *words) == 0
            assert "is done already" in capsys.readouterr().out
        (folder / "segmentation.dcm").unlink()
    assert run_predict(*options, "--dicom-seg") == 0
    assert run_predict(*options, "--threshold", "0.4") == 0
    assert not (folder / "segmentation.dcm").exists()  # it was of the old masks


def test_masks_of_a_repaired_series_have_a_geometry_of_their_own(
    tmp_path: Path, run_predict: Predict
) -> None:
    image_hu, _ = make_volumes(3)
    write_series(tmp_path / "ct", image_hu, tilt_mm=0.5)
    options = ("-o", tmp_path / "out", "--dicom-seg", "--report")
    assert run_predict(tmp_path / "ct", *options) == 2
    assert run_predict(tmp_path / "ct", *options, "--repair") == 0
    folder = tmp_path / "out" / "ct"
    volume = hd.seg.segread(folder / "segmentation.dcm").get_volume()
    mask = sitk.ReadImage(str(folder / "tumor_fine.nii.gz"))
    wanted = np.argwhere(sitk.GetArrayFromImage(mask) > 0)
    places = [mask.TransformIndexToPhysicalPoint(zyx[::-1].tolist()) for zyx in wanted]
    indices = np.argwhere(volume.array[..., 1] > 0)
    own = (np.column_stack([indices, np.ones(len(indices))]) @ volume.affine.T)[:, :3]
    assert len(own) == len(places) > 0
    expected = np.asarray(places)
    for points in (own, expected):
        points[:] = points[np.lexsort(points.round(2).T)]
    np.testing.assert_allclose(own, expected, atol=2e-3)
    assert "resampled onto a rectangular grid" in (tmp_path / "out" / "report.html").read_text(
        encoding="utf-8"
    )


def test_a_given_pancreas_is_a_segment_that_no_algorithm_claims(
    tmp_path: Path, run_predict: Predict
) -> None:
    image_hu, label = make_volumes(3)
    write_series(tmp_path / "ct", image_hu)
    assert run_predict(tmp_path / "ct", "-o", tmp_path / "first") == 0
    image = sitk.ReadImage(str(tmp_path / "first" / "ct" / "pancreas_fine.nii.gz"))
    given = sitk.GetImageFromArray((label > 0).astype(np.uint8))
    given.CopyInformation(image)
    sitk.WriteImage(given, str(tmp_path / "organ.nrrd"))
    options = ("-o", tmp_path / "out", "--pancreas", tmp_path / "organ.nrrd", "--dicom-seg")
    assert run_predict(tmp_path / "ct", *options) == 0
    found = segments(tmp_path / "out" / "ct", len(image_hu))
    np.testing.assert_array_equal(found[..., 0], label > 0)
    np.testing.assert_array_equal(found[..., 1], stored_mask(tmp_path / "out" / "ct", TUMOR))
    seg = hd.seg.segread(tmp_path / "out" / "ct" / "segmentation.dcm")
    pancreas, tumor = seg.SegmentSequence
    assert (pancreas.SegmentAlgorithmType, tumor.SegmentAlgorithmType) == ("MANUAL", "AUTOMATIC")
    assert "SegmentationAlgorithmIdentificationSequence" not in pancreas


def test_of_a_mixed_folder_the_others_get_their_masks_and_a_warning(
    tmp_path: Path, run_predict: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    write_series(tmp_path / "in" / "a", make_volumes(3)[0])
    write_scan(tmp_path / "in" / "b.nii.gz")
    options = (tmp_path / "in", "-o", tmp_path / "out", "--dicom-seg", "--stages", STAGE_NAMES[0])
    for _ in range(2):
        assert run_predict(*options) == 0
        assert "[2/2] b: no segmentation.dcm: the scan is no DICOM" in capsys.readouterr().out
    assert (tmp_path / "out" / "a" / "segmentation.dcm").is_file()
    assert outputs_of(tmp_path / "out" / "b") == ["pancreas_coarse.nii.gz", "measures.json"]
    assert measures_of(tmp_path / "out" / "b")["warnings"][-1].startswith("no segmentation.dcm")


def test_what_makes_every_segmentation_impossible_is_told_before_the_prediction(
    tmp_path: Path,
    run_predict: Predict,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_scan(tmp_path / "ct.nii.gz")
    write_series(tmp_path / "series", make_volumes(3)[0])
    assert run_predict(tmp_path / "ct.nii.gz", "-o", tmp_path / "out", "--dicom-seg") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "ct.nii.gz: a DICOM SEG refers to the slices of a DICOM series" in line
    assert "leave out --dicom-seg" in line
    monkeypatch.setitem(sys.modules, "highdicom", None)
    assert run_predict(tmp_path / "series", "-o", tmp_path / "out", "--dicom-seg") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "needs highdicom: pip install -r requirements-dicom.txt" in line
    assert not (tmp_path / "out").exists()
    options = ("-o", tmp_path / "out", "--stages", STAGE_NAMES[0])
    assert run_predict(tmp_path / "series", *options) == 0  # nothing else needs it


def test_a_series_to_which_nothing_can_refer_keeps_its_masks_and_fails(
    tmp_path: Path, run_predict: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    write_series(tmp_path / "ct", make_volumes(3)[0], changed={"FrameOfReferenceUID": None})
    options = (tmp_path / "ct", "-o", tmp_path / "out", "--stages", STAGE_NAMES[0])
    for _ in range(2):  # the second makes nothing anew, and fails alike
        assert run_predict(*options, "--dicom-seg") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "lacks FrameOfReferenceUID" in line
        assert f"its masks are in {tmp_path / 'out' / 'ct'}" in line
    assert outputs_of(tmp_path / "out" / "ct") == ["pancreas_coarse.nii.gz", "measures.json"]
    assert run_predict(*options) == 0
    assert "is done already" in capsys.readouterr().out


def page_data(path: Path) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"))
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_report_is_one_file_with_every_scan_of_the_call(
    tmp_path: Path, run_predict: Predict, runs: dict[str, Run]
) -> None:
    write_scan(tmp_path / "in" / "first.nii.gz", seed=1)
    out, page = tmp_path / "out", tmp_path / "out" / "report.html"
    assert run_predict(tmp_path / "in", "-o", out) == 0
    assert not page.exists()
    write_series(tmp_path / "in" / "<b>second", make_volumes(3)[0])
    (tmp_path / "in" / "third.nii.gz").write_bytes(b"broken")
    assert run_predict(tmp_path / "in", "-o", out, "--report") == 1
    assert [path.name for path in out.iterdir() if path.is_file()].count("report.html") == 1
    text = page.read_text(encoding="utf-8")
    assert NOTICE in text
    assert VERSION in text
    assert "--report" in text
    assert not re.search(r"""(src|href)=["']?(https?:|//)""", text)
    assert "<b>second" not in text
    for run in runs.values():
        assert sha256_of(run.checkpoint) in text
    data = page_data(page)
    cases = {case["id"]: case for case in data["cases"]}
    assert list(cases) == ["_b_second", "first", "third"]
    assert [cases[name]["pictures"] for name in cases] == [True, True, False]
    assert "third.nii.gz: " in cases["third"]["warnings"][0]
    assert data["failed"] == [2]
    assert data["results"][0]["name"] == "tumor fine"
    columns = [column["name"] for column in data["results"][0]["columns"]]
    for row in data["results"][0]["rows"]:
        case_id = data["cases"][row[0]]["id"]
        own = measures_of(out / case_id)["stages"][TUMOR]
        assert row[1 + columns.index("volume_ml")] == pytest.approx(own["volume_ml"], rel=1e-4)


def test_one_broken_scan_has_a_page_with_its_cause(
    tmp_path: Path, run_predict: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ct.nii.gz").write_bytes(b"broken")
    assert run_predict(tmp_path / "ct.nii.gz", "-o", tmp_path / "out", "--report") == 2
    (line,) = capsys.readouterr().err.splitlines()
    (case,) = page_data(tmp_path / "out" / "report.html")["cases"]
    assert case["warnings"][0] in line


def test_images_are_read_when_the_page_asks_for_them(tmp_path: Path, run_predict: Predict) -> None:
    write_scan(tmp_path / "ct.nii.gz", orientation="PIR")
    assert run_predict(tmp_path / "ct.nii.gz", "-o", tmp_path / "out") == 0
    scans = [Scan("ct", tmp_path / "ct.nii.gz"), Scan("other", tmp_path / "other.nii.gz")]
    ct, other = read_predicted(tmp_path / "out", scans, {}, ReadOptions())
    assert (other.load, other.warnings) == (None, ["was not predicted"])
    assert ct.load is not None
    images = ct.load()
    assert [layer.name for layer in images.layers] == [
        name.replace("_", " ") for name in STAGE_NAMES
    ]
    image_hu, label = make_volumes(3)
    np.testing.assert_array_equal(images.image_hu, image_hu)
    tumor = images.layers[-1].mask
    assert 2 * np.count_nonzero(tumor & (label == 2)) > 0.86 * (tumor.sum() + (label == 2).sum())
    (tmp_path / "ct.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"ct\.nii\.gz"):
        ct.load()
    (failed, _) = read_predicted(tmp_path / "out", scans, {"ct": "a cause"}, ReadOptions())
    assert (failed.load, failed.measures, failed.warnings) == (None, {}, ["a cause"])
