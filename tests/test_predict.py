"""predict.py: a CT in; masks on its grid, measures, a manifest out; a failure ends nothing else."""

from __future__ import annotations

import csv
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

import engine.predict_scans
from engine.pipeline import run_pipeline
from engine.run_folders import Run
from methods import METHODS
from tests._evaluation_fixtures import (
    NOTHING,
    WindowMethod,
    make_volumes,
    small_stage,
    write_four_runs,
    write_run,
)
from tests._predict_fixtures import call_predict, load_nifti, measures_of, overlap, write_scan
from tests.volumes import write_dicom
from utils.about import NOTICE, software
from utils.files import sha256_of
from utils.stages import STAGE_NAMES

TUMOR_STAGES = ("tumor_coarse", "tumor_fine")
Predict = Callable[..., int]


@pytest.fixture(autouse=True)
def _windows_for_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "ours", WindowMethod)


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Run]:
    return write_four_runs(tmp_path / "runs")


@pytest.fixture
def run_predict(tmp_path: Path, runs: dict[str, Run]) -> Predict:
    """Calls the script on a CPU with the four runs; its exit status."""
    return functools.partial(call_predict, tmp_path / "runs")


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("ct.nii.gz", {"orientation": "LPS"}),
        ("ct.nii.gz", {"orientation": "RAS"}),
        ("ct.nii", {"orientation": "PIR"}),
        ("ct.nrrd", {"orientation": "ASL"}),
        ("ct.mha", {"orientation": "LAI"}),
        ("ct.nii.gz", {"degrees": 12}),
    ],
)
@pytest.mark.parametrize("suffix", ["nii.gz", "nrrd"])
def test_masks_lie_on_the_grid_of_the_input_and_on_its_organs(
    tmp_path: Path, run_predict: Predict, name: str, how: dict[str, Any], suffix: str
) -> None:
    label = write_scan(tmp_path / name, **how)
    assert run_predict(tmp_path / name, "-o", tmp_path / "out", "--format", suffix) == 0
    given = sitk.ReadImage(str(tmp_path / name))
    for stage in STAGE_NAMES:
        path = tmp_path / "out" / "ct" / f"{stage}.{suffix}"
        mask = sitk.ReadImage(str(path))
        assert mask.GetSize() == given.GetSize()
        for get in ("GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(mask, get)() == pytest.approx(getattr(given, get)(), abs=1e-5), get
        least = 0.8 if stage == "pancreas_coarse" else 0.86  # it sees every second voxel
        assert overlap(path, label, 2 if stage in TUMOR_STAGES else 1) > least
        if suffix == "nii.gz" and ".nii" in name:
            file, source = load_nifti(path), load_nifti(tmp_path / name)
            np.testing.assert_allclose(file.affine, source.affine, atol=1e-4)
            assert file.shape == source.shape
            assert nib.aff2axcodes(file.affine) == nib.aff2axcodes(source.affine)
            assert file.header["sform_code"] > 0


def test_every_output_says_what_made_it(
    tmp_path: Path, run_predict: Predict, runs: dict[str, Run]
) -> None:
    write_scan(tmp_path / "ct.nii.gz")
    options = ("--probabilities", "--threshold", "0.4", "tumor_fine=0.6")
    assert run_predict(tmp_path / "ct.nii.gz", "-o", tmp_path / "n", *options) == 0
    assert run_predict(tmp_path / "ct.nii.gz", "-o", tmp_path / "r", "--format", "nrrd") == 0
    hashes = {stage: sha256_of(run.checkpoint) for stage, run in runs.items()}
    for stage in STAGE_NAMES:
        for name in (stage, f"{stage}_probability"):
            text = str(load_nifti(tmp_path / "n" / "ct" / f"{name}.nii.gz").header["descrip"])
            assert NOTICE in text
            assert software() in text
            assert hashes[stage][:12] in text
        mask = sitk.ReadImage(str(tmp_path / "r" / "ct" / f"{stage}.nrrd"))
        assert mask.GetMetaData("notice") == NOTICE
        assert mask.GetMetaData("checkpoint_sha256") == hashes[stage]
        assert mask.GetMetaData("software") == software()
    prob = load_nifti(tmp_path / "n" / "ct" / "tumor_fine_probability.nii.gz").get_fdata()
    mask = load_nifti(tmp_path / "n" / "ct" / "tumor_fine.nii.gz").get_fdata() > 0
    assert prob.max() == pytest.approx(0.95, abs=1e-5)
    np.testing.assert_array_equal(mask, prob > 0.6)
    manifest = json.loads((tmp_path / "n" / "ct" / "manifest.json").read_text())
    measures = measures_of(tmp_path / "n" / "ct")
    for content in (manifest, measures):
        assert content["notice"] == NOTICE
        assert content["software"] == software()
        assert content["checkpoints_sha256"] == hashes
    assert "--threshold 0.4 tumor_fine=0.6" in manifest["command"]
    assert [measures["stages"][stage]["threshold"] for stage in STAGE_NAMES] == [0.4] * 3 + [0.6]
    with (tmp_path / "n" / "measures.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["case"], row["stage"]) for row in rows] == [("ct", name) for name in STAGE_NAMES]
    for row in rows:
        assert row["notice"] == NOTICE
        assert row["software"] == software()
        assert row["checkpoint_sha256"] == hashes[row["stage"]]
        own = measures["stages"][row["stage"]]
        assert float(row["volume_ml"]) == pytest.approx(own["volume_ml"], rel=1e-5)
        assert float(row["centroid_z_lps_mm"]) == pytest.approx(own["centroid_lps_mm"][2], rel=1e-5)


def test_measures_are_those_of_the_written_mask(tmp_path: Path, run_predict: Predict) -> None:
    write_scan(tmp_path / "ct.nii.gz", orientation="PIR")
    run_predict(tmp_path / "ct.nii.gz", "-o", tmp_path / "out")
    measures = measures_of(tmp_path / "out" / "ct")
    given = sitk.ReadImage(str(tmp_path / "ct.nii.gz"))
    (warning,) = measures["warnings"]  # of the reader: the phantom has no air
    assert warning.startswith("no voxel is below -200 HU")
    for stage in STAGE_NAMES:
        own = measures["stages"][stage]
        mask = sitk.ReadImage(str(tmp_path / "out" / "ct" / f"{stage}.nii.gz"))
        stats = sitk.LabelIntensityStatisticsImageFilter()
        stats.Execute(mask, given)
        assert own["volume_ml"] == pytest.approx(stats.GetPhysicalSize(1) / 1000, rel=1e-4)
        assert own["centroid_lps_mm"] == pytest.approx(stats.GetCentroid(1), abs=1e-3)
        assert own["mean_hu"] == pytest.approx(stats.GetMean(1), abs=1e-3)
        assert own["highest_probability"] == pytest.approx(0.95, abs=1e-5)
        start, stop = own["roi_box"]["start"], own["roi_box"]["stop"]
        x, y, z, *size = stats.GetBoundingBox(1)
        assert all(a <= b for a, b in zip(start, (x, y, z), strict=True))
        assert all(b + n <= c for b, n, c in zip((x, y, z), size, stop, strict=True))
        assert all(c <= n for c, n in zip(stop, given.GetSize(), strict=True))


def test_a_folder_with_a_broken_scan_gives_the_others_and_says_so(
    tmp_path: Path,
    run_predict: Predict,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def overlapping(*steps: Any, overlap: bool) -> None:
        assert not overlap  # on a CPU
        run_pipeline(*steps, overlap=True)  # as with a GPU

    monkeypatch.setattr(engine.predict_scans, "run_pipeline", overlapping)
    for number in range(4):
        write_scan(tmp_path / "in" / f"ct_{number}.nii.gz", seed=number)
    broken = tmp_path / "in" / "ct_2.nii.gz"
    broken.write_bytes(broken.read_bytes()[:3000])
    (tmp_path / "in" / "notes.txt").write_text("no scan")
    out = tmp_path / "in" / "out"  # inside of the input: no scan either
    assert run_predict(tmp_path / "in", "-o", out) == 1
    printed = capsys.readouterr()
    last = printed.err.splitlines()[-1]
    assert last.startswith("FAILED ct_2: ")
    told = [line for line in printed.out.splitlines() if line.startswith("[")]
    for case in ("ct_0", "ct_1", "ct_3"):  # each scan's lines in their order
        own = [line.split()[2].rstrip(":") for line in told if line.split()[1] == f"{case}:"]
        assert own[-len(STAGE_NAMES) :] == list(STAGE_NAMES)  # behind the notes
    assert [line.split()[2] for line in told if " ct_2:" in line] == ["FAILED:"]
    assert "ct_2.nii.gz: is cut short or corrupt" in last
    assert "3 of 4 scans are in" in printed.out
    done = sorted(path.parent.name for path in out.glob("*/manifest.json"))
    assert done == ["ct_0", "ct_1", "ct_3"]

    write_scan(broken, seed=2)  # restored: the same command does that one
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*.nii.gz")}
    assert run_predict(tmp_path / "in", "-o", out, "--repair") == 0  # none needs it
    assert capsys.readouterr().out.count("is done already") == 3
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with (out / "measures.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 4 * len(STAGE_NAMES)


def test_a_scan_is_done_again_when_input_checkpoint_or_options_change(
    tmp_path: Path, run_predict: Predict, capsys: pytest.CaptureFixture[str], runs: dict[str, Run]
) -> None:
    path, out = tmp_path / "ct.nii.gz", tmp_path / "out"

    def is_kept(*options: str) -> bool:
        assert run_predict(path, "-o", out, *options) == 0
        return "is done already" in capsys.readouterr().out

    write_scan(path)
    assert not is_kept("--probabilities")
    assert is_kept("--probabilities")
    assert (out / "ct" / "tumor_fine_probability.nii.gz").is_file()
    assert not is_kept()
    assert not (out / "ct" / "tumor_fine_probability.nii.gz").exists()
    assert is_kept()
    write_scan(path, seed=9)
    assert not is_kept()
    (out / "ct" / "tumor_fine.nii.gz").unlink()
    assert not is_kept()
    write_run(tmp_path / "runs", small_stage("tumor_fine"), NOTHING)
    assert not is_kept()
    measures = measures_of(out / "ct")["stages"]["tumor_fine"]
    assert (measures["volume_ml"], measures["mean_hu"]) == (0, None)
    path.write_bytes(b"broken")
    assert run_predict(path, "-o", out) == 2
    assert not list((out / "ct").iterdir())  # nothing is left that is not of this input


def test_what_is_wrong_for_every_scan_is_told_once(
    tmp_path: Path,
    run_predict: Predict,
    capsys: pytest.CaptureFixture[str],
    runs: dict[str, Run],
) -> None:
    for number in range(2):
        write_scan(tmp_path / "in" / f"ct_{number}.nii.gz", seed=number)
    assert run_predict(tmp_path / "in", "-o", tmp_path / "out", "--stages", "pancreas_fine") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pancreas_fine crops around what pancreas_coarse finds" in line
    file = runs["tumor_fine"].checkpoint
    file.write_bytes(file.read_bytes()[:-30])
    assert run_predict(tmp_path / "in", "-o", tmp_path / "out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "last.pt: not a readable checkpoint" in line
    assert not list((tmp_path / "out").glob("ct_*"))


def test_a_fallback_is_told(tmp_path: Path, run_predict: Predict) -> None:
    write_scan(tmp_path / "ct.nii.gz")
    write_run(tmp_path / "runs", small_stage("pancreas_fine"), NOTHING)
    assert run_predict(tmp_path / "ct.nii.gz", "-o", tmp_path / "out") == 0
    stages = measures_of(tmp_path / "out" / "ct")["stages"]
    assert stages["tumor_coarse"]["fallback"] == "pancreas_coarse"
    assert stages["tumor_fine"]["fallback"] == ""


def test_dicom_of_another_orientation(tmp_path: Path, run_predict: Predict) -> None:
    image_hu, _ = make_volumes(3)
    turned = {"0020|0037": "0\\1\\0\\0\\0\\-1"}  # sagittal: rows run back, columns down
    write_dicom(tmp_path / "ct", image_hu)
    for number, path in enumerate(sorted((tmp_path / "ct").iterdir())[::-1]):
        image = sitk.ReadImage(str(path))
        for tag, value in (turned | {"0020|0032": f"{-60 + 2.5 * number}\\-20\\80"}).items():
            image.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(path))
        writer.Execute(image)
    assert run_predict(tmp_path / "ct", "-o", tmp_path / "out", "--stages", "pancreas_coarse") == 0
    mask = sitk.ReadImage(str(tmp_path / "out" / "ct" / "pancreas_coarse.nii.gz"))
    assert mask.GetSize() == image_hu.shape[::-1]
    assert mask.GetDirection() == pytest.approx((0, 0, -1, 1, 0, 0, 0, -1, 0), abs=1e-6)
    assert mask.GetSpacing() == pytest.approx((0.7, 0.7, 2.5))


def test_irregular_dicom_is_refused_or_repaired_and_said_so(
    tmp_path: Path, run_predict: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dicom(tmp_path / "ct", make_volumes(3)[0], leave_out=(7,))
    options = ("-o", tmp_path / "out", "--stages", "pancreas_coarse")
    assert run_predict(tmp_path / "ct", *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "5 mm apart, the others 2.5 mm: a slice is missing" in line
    assert "--repair" in line
    assert run_predict(tmp_path / "ct", *options, "--repair") == 0
    assert run_predict(tmp_path / "ct", *options, "--repair") == 0
    assert "is done already" in capsys.readouterr().out
    for name in ("measures.json", "manifest.json"):
        (note,) = json.loads((tmp_path / "out" / "ct" / name).read_text())["repaired"]
        assert note.startswith("resampled onto a rectangular grid: slices 7 and 8 are 5 mm apart")
    mask = sitk.ReadImage(str(tmp_path / "out" / "ct" / "pancreas_coarse.nii.gz"))
    image = sitk.ReadImage(str(tmp_path / "out" / "ct" / "image.nii.gz"))
    assert image.GetSize() == mask.GetSize() == make_volumes(3)[0].shape[::-1]
    assert image.GetOrigin() == mask.GetOrigin()


def test_a_given_pancreas_stands_for_the_pancreas_stages(
    tmp_path: Path, run_predict: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    label = write_scan(tmp_path / "ct.nii.gz")
    organs = sitk.DICOMOrient(sitk.Cast(label > 0, sitk.sitkUInt8) * 7, "RAS")
    sitk.WriteImage(organs, str(tmp_path / "organs.nrrd"))
    options = ("-o", tmp_path / "out", "--pancreas", tmp_path / "organs.nrrd")
    assert run_predict(tmp_path / "ct.nii.gz", *options, "--pancreas-label", 7) == 0
    names = sorted(path.name for path in (tmp_path / "out" / "ct").glob("*.nii.gz"))
    assert names == ["tumor_coarse.nii.gz", "tumor_fine.nii.gz"]
    assert overlap(tmp_path / "out" / "ct" / "tumor_fine.nii.gz", label, 2) > 0.86
    assert run_predict(tmp_path / "ct.nii.gz", *options, "--pancreas-label", 8) == 2
    assert "does not hold the value 8 (it holds 0, 7)" in capsys.readouterr().err


def test_a_table_names_scans_and_masks(tmp_path: Path, run_predict: Predict) -> None:
    for number in (0, 1):
        label = write_scan(tmp_path / "d" / f"s{number}" / "ct.nii.gz", seed=number)
        sitk.WriteImage(label, str(tmp_path / "d" / f"mask{number}.nii.gz"))
    rows = "Case,Path,Pancreas\nfirst,s0/ct.nii.gz,mask0.nii.gz\n,s1/ct.nii.gz,\n"
    (tmp_path / "d" / "scans.csv").write_text(rows)
    assert run_predict(tmp_path / "d" / "scans.csv", "-o", tmp_path / "out") == 0
    assert list(measures_of(tmp_path / "out" / "first")["stages"]) == list(TUMOR_STAGES)
    assert list(measures_of(tmp_path / "out" / "ct")["stages"]) == list(STAGE_NAMES)


def test_explicit_files_and_a_folder_of_files(
    tmp_path: Path, run_predict: Predict, runs: dict[str, Run]
) -> None:
    write_scan(tmp_path / "ct.nii.gz")
    files = [runs[stage].checkpoint for stage in ("pancreas_fine", "pancreas_coarse")]
    options = ("-o", tmp_path / "out", "--checkpoints")
    assert run_predict(tmp_path / "ct.nii.gz", *options, *files) == 0
    stages = list(measures_of(tmp_path / "out" / "ct")["stages"])
    assert stages == ["pancreas_coarse", "pancreas_fine"]
    for stage, run in runs.items():
        (tmp_path / "weights").mkdir(exist_ok=True)
        shutil.copy(run.checkpoint, tmp_path / "weights" / f"{stage}.pt")
    assert run_predict(tmp_path / "ct.nii.gz", *options, tmp_path / "weights") == 0
    assert list(measures_of(tmp_path / "out" / "ct")["stages"]) == list(STAGE_NAMES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.nii.gz", "-o", "out"], "missing.nii.gz: no such file or folder"),
        (["text.txt", "-o", "out"], "text.txt: is no format that is read here"),
        (["empty", "-o", "out"], "empty: holds no CT"),
        (["ct.nii.gz"], "give INPUT and -o OUT"),
        (["ct.nii.gz", "-o", "out", "--threshold", "1.5"], "--threshold 1.5: a number between"),
        (["ct.nii.gz", "-o", "out", "--threshold", "x=0.5"], "--threshold x=0.5: a number"),
        (["ct.nii.gz", "-o", "out", "--device", "cuda:9"], "CUDA devices"),
        (["ct.nii.gz", "-o", "out", "--checkpoints", "nowhere"], "nowhere: no such file"),
        (["ct.nii.gz", "-o", "out", "--checkpoints", "empty"], "neither run folders nor .pt"),
        (["ct.nii.gz", "-o", "out", "--checkpoints", "text.txt"], "not a readable checkpoint"),
        (["ct.nii.gz", "-o", "out", "--stages", "tumor_fine"], "give its predictor too"),
        (["ct.nii.gz", "-o", "out", "--pancreas", "no.nii"], "no.nii: no such file"),
        (["ct.nii.gz", "-o", "out", "--window-voxels", "3"], "--window-voxels 3: at least"),
        (["--info", "missing"], "missing: no such file"),
        (["table.csv", "-o", "out"], "has no column path or image or ct or file"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(
    tmp_path: Path,
    run_predict: Predict,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_scan(tmp_path / "ct.nii.gz")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no image")
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    assert run_predict(*words) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
